"A training that stays open: steps with any weights, weights that reach a running server, and a kill in the middle."

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal
from agentkit.models.serving import local_lm, reload_servers, serve, stop_servers
from agentkit.models.store import file_sha256, gguf_of, model_dir, models, read_card

torch = pytest.importorskip('torch')
pytest.importorskip('xllamacpp')
from agentkit.training import trainer  # noqa: E402
from agentkit.training.bases import make_nano  # noqa: E402
from agentkit.training.encoding import encode  # noqa: E402
from agentkit.training.trainer import TrainConfig, finetune, open_session, plan, unfinished  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
ANSWERS = ('go to desk 1', 'take mug 2')
FAST = TrainConfig.of('nano', lr=1e-2, batch_tokens=512)
LORA = TrainConfig.of('nano', lr=2e-2, batch_tokens=512, lora_rank=8)


def rows(answer, **loss):
    return [
        dict(
            messages=[
                dict(role='system', content='Play.'),
                dict(role='user', content=f'Find the {thing} {n}.'),
                dict(role='assistant', content=answer, **loss),
            ]
        )
        for thing in ('mug', 'book')
        for n in (1, 2)
    ]


ASK = rows('look')[0]['messages'][:2]


@pytest.fixture(scope='module', autouse=True)
def data(own_data, one_thread):
    pass


@pytest.fixture(scope='module')
def base(data):
    return make_nano(rows(ANSWERS[0]) + rows(ANSWERS[1]), size='tiny', vocabulary=400)


@pytest.fixture(autouse=True)
def quiet():
    yield
    stop_servers()


def weights_of(session):
    return torch.cat([p.detach().flatten() for p in session.weights.values()])


def likely(session, row):
    "The log-probability of the answer in a row, in nats a token."
    with torch.no_grad():
        return -trainer.batch_loss(session.model, [session.encode(row)], session.device, session.dtype).item()


def answer_of(lm):
    return lm(messages=ASK, **lm.hold(Choice(ANSWERS)))[0]


# --- steps ---


def test_steps_over_all_rows_are_the_training_that_finetune_does(base):
    config = TrainConfig.of('nano', epochs=4, batch_tokens=512)
    some = rows(ANSWERS[0]) + rows(ANSWERS[1])
    trained = finetune(base, some, config, progress=False)
    with open_session(base, config) as session:
        steps = plan([len(encode(r, session.tokenizer).ids) for r in some], config)
        for i, (_, batch) in enumerate(steps):
            session.step([some[j] for j in batch], lr=config.rate(i, len(steps)))
        saved = session.save('step-by-step')
    assert saved.card['weights_sha256'] == trained.card['weights_sha256']
    assert list(saved.losses.loss) == list(trained.losses.loss)


def test_a_step_that_does_not_fit_into_one_batch_has_the_gradient_of_all_rows(base):
    some = rows(ANSWERS[0]) + rows(ANSWERS[1], loss=-0.5)
    moved = []
    for tokens in (4096, 60):
        with open_session(base, TrainConfig.of('nano', lr=1e-3, batch_tokens=tokens)) as session:
            before = weights_of(session)
            loss = session.step(some)['loss']
            moved.append((loss, weights_of(session) - before))
    assert moved[0][0] == pytest.approx(moved[1][0], abs=1e-5)
    torch.testing.assert_close(moved[0][1], moved[1][1], rtol=0.02, atol=2e-5)


def test_a_positive_weight_makes_an_answer_likelier_and_a_negative_one_less_likely(base):
    good, bad = rows(ANSWERS[0])[0], rows(ANSWERS[1])[0]
    with open_session(base, TrainConfig.of('nano', lr=1e-3)) as session:
        before = [likely(session, r) for r in (good, bad)]
        for _ in range(3):
            session.step(rows(ANSWERS[0], loss=0.5) + rows(ANSWERS[1], loss=-0.5))
        after = [likely(session, r) for r in (good, bad)]
    assert after[0] > before[0] + 0.01 and after[1] < before[1] - 0.01


@pytest.mark.parametrize('none', [[], rows('look', loss=0.0), rows('look', loss=False)], ids=['empty', '0', 'false'])
def test_nothing_to_learn_moves_nothing(base, none):
    "Also not by what the optimizer remembers of earlier steps, or by its decay."
    with open_session(base, FAST) as session:
        session.step(rows(ANSWERS[0]))
        before = weights_of(session)
        assert session.step(none) == dict(step=1, tokens=0, learned=0, loss=0.0, lr=FAST.lr, seconds=0.0)
        assert torch.equal(weights_of(session), before) and session.steps == 1


def test_a_step_says_what_it_learned(base):
    with open_session(base, FAST) as session:
        done = session.step(rows(ANSWERS[0]), lr=1e-3)
        encoded = [session.encode(r) for r in rows(ANSWERS[0])]
    assert done['tokens'] == sum(len(e.ids) for e in encoded) and done['lr'] == 1e-3
    assert done['learned'] == sum(label >= 0 for e in encoded for label in e.labels) and done['loss'] > 0


def test_a_malformed_row_changes_nothing(base):
    with open_session(base, FAST) as session:
        before = weights_of(session)
        for bad, message in (
            (dict(messages=[dict(role='tool', content='x')]), "role 'tool'"),
            (rows('look', loss='1')[0], "the loss of an answer is '1'"),
            ({}, 'a row needs "messages"'),
        ):
            with pytest.raises(AgentkitError, match=message):
                session.step([*rows(ANSWERS[0]), bad])
        assert torch.equal(weights_of(session), before) and session.steps == 0


def test_the_varied_names_of_a_step_are_its_own(base):
    config = TrainConfig.of('nano', vary='agentkit.testing.corridor:Corridor')
    row = dict(messages=[dict(role='user', content='a door'), dict(role='assistant', content='the door')])
    with open_session(base, config) as session:
        texts = {session.tokenizer.decode(session.encode(row, step, 0).ids) for step in range(20)}
        assert len(texts) == 3 and session.encode(row, 4, 0) == session.encode(row, 4, 0)


# --- publish ---


def test_the_running_server_answers_with_the_new_weights(base):
    with open_session(base, FAST) as session:
        lm = local_lm(session.publish(), slots=1, context=256, threads=1)
        server, prints = lm.server, [lm.fingerprint]
        for answer in ANSWERS:
            for _ in range(25):
                session.step(rows(answer))
            assert session.publish() == lm.model
            assert answer_of(lm) == answer and lm.server is server
            prints.append(lm.fingerprint)
        assert len(set(prints)) == 3, 'other weights are another policy'
        assert read_card(model_dir(lm.model))['steps'] == 50


def test_what_is_published_is_what_is_saved(base):
    with open_session(base, FAST) as session:
        for _ in range(5):
            session.step(rows(ANSWERS[0]))
        live, saved = gguf_of(session.publish()), session.save('as-published')
        assert file_sha256(live) == saved.card['gguf_sha256']


def test_an_adapter_is_published_beside_its_base(base):
    "One process serves the base and the adapter that is being trained; the base goes on as it was."
    with open_session(base, LORA) as session:
        lm = local_lm(session.publish(), slots=1, context=256, threads=1)
        below, server = local_lm(base, slots=1, context=256, threads=1), lm.server
        assert server.model == base and server.adapters == [session.live] and below.server is server
        before, folder = answer_of(below), model_dir(lm.model)
        assert not (folder / 'model.gguf').exists() and 'weights_sha256' not in read_card(folder)
        for answer in ANSWERS:
            for _ in range(40):
                session.step(rows(answer))
            session.publish()
            assert (answer_of(lm), answer_of(below)) == (answer, before) and lm.server is server
        saved = session.save('from-an-adapter')
        for _ in range(40):
            session.step(rows(ANSWERS[0]))
    stop_servers()
    assert answer_of(local_lm(saved.id, slots=1, context=256, threads=1)) == ANSWERS[1], 'saved before it went on'


def test_the_merged_model_is_the_adapter_on_its_base(base):
    with open_session(base, LORA) as session:
        for _ in range(10):
            session.step(rows(ANSWERS[0]))
        session.publish()
        saved, ids = session.save('merged'), torch.arange(20)[None]
        with torch.no_grad():
            live = session.model(ids).logits
    hf = pytest.importorskip('transformers')
    merged = hf.AutoModelForCausalLM.from_pretrained(saved.path, dtype=torch.float32)
    torch.testing.assert_close(merged(ids).logits, live, rtol=1e-3, atol=1e-3)


def test_only_the_given_server_loads_the_weights(base):
    with open_session(base, FAST) as session:
        name = session.publish()
        one, other = (serve(name, slots=slots, context=256, threads=1) for slots in (1, 2))
        pids = one._child.pid, other._child.pid
        session.step(rows(ANSWERS[0]))
        session.publish(other)
        assert one._child.pid == pids[0] and other._child.pid != pids[1]


def test_episodes_in_flight_survive_a_publish(base):
    with open_session(base, FAST) as session:
        lm = local_lm(session.publish(), slots=4, context=256, threads=1)
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(answer_of, lm) for _ in range(60)]
            for _ in range(3):
                session.step(rows(ANSWERS[0]))
                session.publish()
            assert {a.result() for a in asked} <= set(ANSWERS)


def test_an_adapter_alone_cannot_be_trained(base):
    with open_session(base, LORA) as session:
        name = session.publish()
        with pytest.raises(AgentkitError, match='is an adapter without its base: save its session'):
            finetune(name, rows(ANSWERS[0]))


# --- save and close ---


def test_a_saved_model_says_what_went_into_it(base):
    with open_session(base, FAST) as session:
        for _ in range(3):
            session.step(rows(ANSWERS[0]))
        saved = session.save()
        assert saved.id == f'nano-{session.recipe}' and session.save().path == saved.path
        session.step(rows(ANSWERS[1]))
        with pytest.raises(AgentkitError, match='exists and was made otherwise'):
            session.save(saved.id)
    card = saved.card
    assert (card['steps'], card['rows'], card['base'], card['trained']) == (3, 12, base, True)
    assert card['tokens'] == saved.losses.tokens.sum() and card['config'] == {**card['config'], 'lr': FAST.lr}
    assert (card['losses']['first'], card['losses']['last']) == tuple(saved.losses.loss.iloc[[0, -1]])


def test_a_closed_session_leaves_nothing(base):
    before = set(os.listdir(model_dir(base).parent))
    with open_session(base, FAST) as session:
        lm = local_lm(session.publish(), slots=1, context=256, threads=1)
        server = lm.server
        assert session.live in models()
    assert not server.alive and session.live not in models()
    assert {n for n in set(os.listdir(model_dir(base).parent)) - before if not n.endswith('.lock')} == set()
    with pytest.raises(AgentkitError, match=f"no model '{session.live}'"):
        answer_of(lm)


def test_a_session_is_open_once(base):
    with open_session(base, FAST, name='mine'):
        with pytest.raises(AgentkitError, match='the session mine is open already'):
            open_session(base, FAST, name='mine')
    with open_session(base, FAST, name='mine') as again:
        assert again.steps == 0, 'closed without an error, it is over'


def test_what_cannot_be_opened(base):
    with pytest.raises(AgentkitError, match='a nano learns its vocabulary from your rows'):
        open_session('nano')
    with pytest.raises(AgentkitError, match="no model 'nanno'"):
        open_session('nanno')


# --- interrupted and killed ---


def test_an_interrupted_session_goes_on_under_its_name(base):
    def steps(session, n):
        return [session.step(rows(ANSWERS[session.steps % 2], loss=-0.5 + session.steps % 3))['loss'] for _ in range(n)]

    with open_session(base, FAST, name='whole') as session:
        losses, whole = steps(session, 6), weights_of(session)
        recipe = session.recipe
    with pytest.raises(KeyboardInterrupt):
        with open_session(base, FAST, name='cut') as session:
            steps(session, 3)
            session.checkpoint()
            steps(session, 2)  # after the checkpoint: they come again
            raise KeyboardInterrupt
    with open_session(base, FAST, name='cut') as session:
        assert session.steps == 3 and steps(session, 3) == losses[3:]
        assert torch.equal(weights_of(session), whole) and session.recipe == recipe
        assert [r['loss'] for r in session.journal.rows()] == losses


def test_other_settings_under_the_same_name_are_refused(base):
    with pytest.raises(KeyboardInterrupt):
        with open_session(base, FAST, name='named') as session:
            session.step(rows(ANSWERS[0]))
            session.checkpoint()
            raise KeyboardInterrupt
    with pytest.raises(AgentkitError, match='belongs to a training of another base or with other settings'):
        open_session(base, LORA, name='named')
    with open_session(base, FAST, name='named') as session:
        assert session.steps == 1


def test_what_broke_off_is_listed(base):
    with pytest.raises(KeyboardInterrupt):
        with open_session(base, FAST, name='left'):
            raise KeyboardInterrupt
    assert unfinished()['left'] == model_dir(base).parent / '.left.session' and unfinished()['left'].is_dir()
    with open_session(base, FAST, name='left'):
        pass
    assert 'left' not in unfinished()


CHILD = """
import json, sys, time
from agentkit.training.trainer import TrainConfig, open_session
base, name, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = json.loads(sys.argv[4])
session = open_session(base, TrainConfig.of('nano', lr=1e-2), name=name)
while session.steps < 8:
    session.step(rows[session.steps % 2])
    session.checkpoint()
    if session.steps == stop: time.sleep(600)
print(session.save(name + '-model').id)
session.close()
"""


def test_a_killed_session_ends_like_an_undisturbed_one(base):
    def child(name, stop=0):
        steps = json.dumps([rows(ANSWERS[0], loss=0.7), rows(ANSWERS[1], loss=-0.2)])
        return subprocess.Popen(
            [sys.executable, '-c', CHILD, base, name, str(stop), steps],
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE,
            text=True,
        )

    killed, folder = child('killed', stop=4), model_dir(base).parent / '.killed.session'
    end = time.monotonic() + 200
    while len(Journal(folder / 'losses.jsonl').rows() if (folder / 'losses.jsonl').exists() else []) < 4:
        assert killed.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    while not (folder / 'checkpoint.pt').exists():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    ids = []
    for name in ('killed', 'undisturbed'):
        out, _ = (process := child(name)).communicate(timeout=240)
        assert process.returncode == 0
        ids.append(out.split()[-1])
    cards = [read_card(model_dir(id)) for id in ids]
    assert cards[0]['weights_sha256'] == cards[1]['weights_sha256'] and cards[0]['steps'] == 8
    assert cards[0]['recipe'] == cards[1]['recipe'] and not folder.exists()


def test_nothing_runs_under_a_name_that_nobody_serves():
    assert reload_servers('nobody') == []
