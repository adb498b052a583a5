"""Serving: what must hold when processes die, answers are strange, or files are not what they say."""

import copy, json, os, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from agentkit import core
from agentkit.core.errors import AgentkitError

pytest.importorskip('torch')
pytest.importorskip('xllamacpp')
import dspy  # noqa: E402
from agentkit import serving, training  # noqa: E402
from agentkit.models.serving import choice_grammar, local_lm, serve, stop_servers  # noqa: E402
from agentkit.models.store import model_dir  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
ROWS = [
    dict(
        messages=[
            dict(role='user', content=f'Find the mug {i}. You see a desk 1.'),
            dict(role='assistant', content='go to desk 1'),
        ]
    )
    for i in range(4)
]
ASK = [dict(role='system', content='Play.'), dict(role='user', content='You see a desk 1 and a shelf 12.')]


@pytest.fixture(scope='module', autouse=True)
def data(own_data):
    pass


@pytest.fixture(scope='module')
def model(data):
    return training.make_nano(ROWS, size='tiny', vocabulary=300)


@pytest.fixture
def lm(model):
    return local_lm(model, slots=4, context=1024, threads=1)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z'


def wait_until(true, seconds=30):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, 'it did not happen'
        time.sleep(0.05)


# --- processes ---


def test_a_server_is_shared_and_started_again_after_its_death(lm, model):
    first = lm.server
    assert serve(model, 4, 1024, 1) is first and serve(f'local/{model}', 4, 1024, 1) is first
    first._child.kill()
    first._child.wait()
    with pytest.raises(AgentkitError, match=f'the server for {model} is gone: exit code -9; its log ends with: .'):
        first.post('/v1/completions', dict(prompt='x'))
    assert lm(messages=ASK, **lm.choice(['look'])) == ['look']
    assert lm.server is not first and lm.server.alive


def test_an_engine_looks_its_server_up_once_while_it_lives(lm, monkeypatch):
    looked_up, real = [], serving.serve
    monkeypatch.setattr(serving, 'serve', lambda *args, **options: looked_up.append(args) or real(*args, **options))
    for one in (lm, lm.copy(), copy.deepcopy(lm)):
        one(messages=ASK, **one.choice(['look']))
    first = lm.server
    assert len(looked_up) == 1 and first is real(lm.model, **lm.engine.options)
    os.kill(first._child.pid, signal.SIGKILL)
    wait_until(lambda: not first.alive)
    assert copy.deepcopy(lm)(messages=ASK, **lm.choice(['look'])) == ['look']
    second = lm.server
    assert second is not first and second.alive and len(looked_up) == 2
    stop_servers(lm.model)
    assert gone(second._child.pid)
    assert lm.server is not second and lm.server.alive and len(looked_up) == 3


def test_an_engine_keeps_the_servers_of_two_models_apart(lm, model, tmp_path):
    other = lm.copy(model=f'local/{model_dir(model) / "model.gguf"}')
    assert other.engine is lm.engine and other.server is lm.server  # one file, one server
    (tmp_path / 'other.gguf').write_bytes((model_dir(model) / 'model.gguf').read_bytes())
    other = lm.copy(model=f'local/{tmp_path / "other.gguf"}')
    assert other.server.model == 'other' and lm.server.model == model and other.server is other.server
    stop_servers('other')
    assert lm.server.alive


def test_stopping_leaves_no_process(lm):
    server = lm.server
    stop_servers(lm.model)
    assert gone(server._child.pid) and not os.path.exists(server.log.name)


def test_a_killed_parent_takes_its_server_along(model):
    script = (
        f'import time, agentkit.serving as s; x = s.serve({model!r}, slots=1, context=256); '
        'print(x._child.pid, flush=True); time.sleep(600)'
    )
    parent = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(pid))


def test_a_server_that_does_not_come_up_is_killed(model, monkeypatch):
    monkeypatch.setattr(serving, 'START_SECONDS', 0.01)
    with pytest.raises(AgentkitError, match='did not start: exit code -9'):
        serving.Server(model_dir(model) / 'model.gguf', 'late')


def test_a_server_that_hangs_is_an_error(lm, monkeypatch):
    monkeypatch.setattr(serving, 'REPLY_SECONDS', 1)
    stop_servers()
    server = lm.server
    os.kill(server._child.pid, signal.SIGSTOP)
    with pytest.raises(AgentkitError, match='did not answer within 1 s'):
        lm(messages=ASK)
    stop_servers()
    assert gone(server._child.pid)


def test_a_file_that_is_not_a_model(tmp_path):
    (tmp_path / 'bad.gguf').write_bytes(b'GGUF and then nothing')
    with pytest.raises(AgentkitError, match='the server for bad did not start'):
        serve(tmp_path / 'bad.gguf')
    with pytest.raises(AgentkitError, match='none.gguf does not exist'):
        serve(tmp_path / 'none.gguf')


def test_without_the_runtime_the_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'xllamacpp', None)
    with pytest.raises(AgentkitError, match=r'agentkit\[serve\]'):
        serve(model)


# --- answers ---


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=('Cs',), exclude_characters='\0'), min_size=1, max_size=20))
def test_any_text_can_be_the_only_choice(lm, action):
    assert lm(messages=ASK, **lm.choice([action])) == [action]


@pytest.mark.parametrize(
    'action',
    [
        'say "hi" \\ | root ::= "x"',
        'a\nb\tc\r',
        '[^a-z]* {2} (x)?',
        '日本語 🙂 é',
        "it's #1 // no comment",
        'go to desk 1 ',
    ],
)
def test_text_that_looks_like_grammar(lm, action):
    assert lm(messages=ASK, **lm.choice([action, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx']))[0] in (
        action,
        'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
    )
    assert lm(messages=ASK, **lm.choice([action])) == [action]


def test_a_choice_that_begins_another_can_be_made(lm):
    seen = {
        lm.copy(temperature=2.0)(messages=ASK, **lm.choice(['go to desk 1', 'go to desk 1 and 2']))[0]
        for _ in range(40)
    }
    assert seen == {'go to desk 1', 'go to desk 1 and 2'}


def test_many_threads_get_admissible_answers(lm):
    actions = [f'go to cabinet {i}' for i in range(1, 30)] + ['look', 'inventory']
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda i: lm(
                    messages=ASK[:1] + [dict(role='user', content=f'Episode {i}. {ASK[1]["content"]}')],
                    **lm.choice(actions),
                )[0],
                range(40),
            )
        )
    assert set(answers) <= set(actions)


def test_a_choice_needs_choices(lm):
    for bad in ([], ['look', '']):
        with pytest.raises(AgentkitError, match='at least one action'):
            lm.choice(bad)


def test_a_schema_is_still_a_schema(lm):
    schema = dict(type='object', properties=dict(ok=dict(type='boolean')), required=['ok'], additionalProperties=False)
    (answer,) = lm(messages=ASK, response_format=dict(type='json_schema', json_schema=dict(name='x', schema=schema)))
    assert isinstance(json.loads(answer)['ok'], bool)


def test_a_growing_conversation_is_not_read_twice(lm):
    first = lm(messages=ASK, **lm.choice(['look', 'go to desk 1']))[0]
    longer = ASK + [dict(role='assistant', content=first), dict(role='user', content='You see nothing.')]
    lm(messages=longer, **lm.choice(['look', 'go to desk 1']))
    used = [h['usage'] for h in lm.history[-2:]]
    assert used[1]['prompt_tokens_details']['cached_tokens'] >= used[0]['prompt_tokens']


def test_a_prompt_that_is_too_long_says_so(lm):
    with pytest.raises(AgentkitError, match=r'refused \(HTTP 400\).*context size \(1024 tokens\)'):
        lm('word ' * 1000)


# --- DSPy ---


def test_usage_is_counted(lm):
    with dspy.track_usage() as tracker:
        for _ in range(2):
            lm(messages=ASK, **lm.choice(['go to desk 1']))
    counts, one = tracker.get_total_tokens()[lm.model], lm.history[-1]['usage']
    assert (
        counts['prompt_tokens'] == 2 * one['prompt_tokens'] > 0
        and counts['completion_tokens'] == 2 * one['completion_tokens'] > 0
    )


def test_a_saved_program_finds_its_model_again(lm, tmp_path):
    program = dspy.Predict('question -> answer')
    program.set_lm(lm)
    program.save(tmp_path / 'program.json')
    other = dspy.Predict('question -> answer')
    other.load(tmp_path / 'program.json', allow_unsafe_lm_state=True)
    assert isinstance(other.lm, serving.LocalLM) and other.lm.server is lm.server and other.lm.kwargs == lm.kwargs
    assert other.lm.provider.finetunable


def test_copies_share_the_server(lm):
    program = dspy.Predict('question -> answer')
    program.set_lm(lm)
    assert program.deepcopy().lm.server is lm.server
    assert lm.copy(model='local/other').model == 'local/other' and lm.copy(model='local/other').engine is lm.engine


# --- cards ---


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(format='x'), 'not a model card'),
        (dict(version=2), 'version 2 is unknown'),
        (dict(trained=True), 'trained is True after 0 steps'),
        (dict(weights_sha256='0' * 64), 'model.safetensors is not the file'),
        (dict(gguf_sha256='0' * 64), 'model.gguf is not the file'),
    ],
)
def test_a_card_that_lies(model, tmp_path, change, message):
    import shutil

    copy = tmp_path / 'm'
    shutil.copytree(model_dir(model), copy)
    core.write_json(copy / 'card.json', {**core.read_json(copy / 'card.json'), **change})
    with pytest.raises(AgentkitError, match=message):
        serve(copy)


def test_a_missing_file_is_named(model, tmp_path):
    import shutil

    shutil.copytree(model_dir(model), tmp_path / 'm')
    (tmp_path / 'm' / 'model.gguf').unlink()
    with pytest.raises(AgentkitError, match='model.gguf is missing'):
        model_dir(tmp_path / 'm')


def test_names_and_folders(model):
    assert model_dir(model) == model_dir(f'local/{model}') == model_dir(model_dir(model))
    with pytest.raises(AgentkitError, match='make_nano'):
        model_dir('nano')
    with pytest.raises(AgentkitError, match=f"no model 'nanu'; there are: {model}"):
        model_dir('nanu')


def test_choices_are_quoted():
    assert choice_grammar(['a"b', 'c\n']) == r'root ::= "a\U00000022b" | "c\U0000000A"'
