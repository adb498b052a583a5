"""Serving: what must hold when processes die, answers are strange, or files are not what they say."""

import copy, json, os, shutil, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from toys import DESKS as ROWS

from agentkit.agents.policy import Agent
from agentkit.core.actions import Choice, ToolCall, json_fields
from agentkit.core.errors import AgentkitError, EpisodeError
from agentkit.core.store import read_json, write_json
from agentkit.envs.find import list_tasks
from agentkit.rollouts import Limits, Runner

pytest.importorskip('torch')
pytest.importorskip('xllamacpp')
import dspy, httpx, psutil  # noqa: E402
from agentkit.models import serving  # noqa: E402
from agentkit.models.serving import choice_grammar, local_lm, reload_servers, serve, stop_servers  # noqa: E402
from agentkit.models.store import file_sha256, model_dir  # noqa: E402
from agentkit.training.bases import make_nano  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
ASK = [dict(role='system', content='Play.'), dict(role='user', content='You see a desk 1 and a shelf 12.')]


@pytest.fixture(scope='module', autouse=True)
def data(own_data):
    pass


@pytest.fixture(scope='module')
def model(data):
    return make_nano(ROWS, size='tiny', vocabulary=300)


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
    with pytest.raises(
        AgentkitError, match=f'the server for {model} is gone: exit code -9; its log ends with: nothing'
    ):
        first.post('/v1/completions', dict(prompt='x'))
    assert lm(messages=ASK, **lm.hold(Choice(['look']))) == ['look']
    assert lm.server is not first and lm.server.alive


def test_an_engine_looks_its_server_up_once_while_it_lives(lm, monkeypatch):
    looked_up, real = [], serving.serve
    monkeypatch.setattr(serving, 'serve', lambda *args, **options: looked_up.append(args) or real(*args, **options))
    for one in (lm, lm.copy(), copy.deepcopy(lm)):
        one(messages=ASK, **one.hold(Choice(['look'])))
    first = lm.server
    assert len(looked_up) == 1 and first is real(lm.model, **lm.engine.options)
    os.kill(first._child.pid, signal.SIGKILL)
    wait_until(lambda: not first.alive)
    assert copy.deepcopy(lm)(messages=ASK, **lm.hold(Choice(['look']))) == ['look']
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
    assert gone(server._child.pid) and server.log.closed


def test_a_killed_parent_takes_its_server_along(model):
    script = (
        f'import time, agentkit.models.serving as s; x = s.serve({model!r}, slots=1, context=256); '
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


def test_a_server_that_stands_still_is_ended_and_another_one_answers(lm, monkeypatch):
    monkeypatch.setattr(serving, 'REPLY_SECONDS', 1)
    monkeypatch.setattr(serving, 'ALIVE_SECONDS', 1)
    stop_servers()
    first = lm.server
    os.kill(first._child.pid, signal.SIGSTOP)
    assert lm(messages=ASK, **lm.hold(Choice(['look']))) == ['look']
    assert gone(first._child.pid) and lm.server is not first
    stop_servers()


def test_a_server_that_works_too_long_costs_its_episode_and_lives_on(lm, monkeypatch):
    monkeypatch.setattr(serving, 'REPLY_SECONDS', 0.01)
    stop_servers()
    server = lm.server
    with pytest.raises(EpisodeError, match='did not answer within 0.01 s; shorter prompts'):
        lm.copy(max_tokens=900)('Hello')
    assert server.alive and lm.server is server
    stop_servers()


def killed_at_start(monkeypatch, times):
    "Servers are killed before they say their address, so many times; the pids of all."
    pids, real = [], subprocess.Popen

    def popen(*args, **options):
        child = real(*args, **options)
        pids.append(child.pid)
        if len(pids) <= times:
            os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(serving.subprocess, 'Popen', popen)
    return pids


def test_a_server_that_is_killed_while_it_starts_is_started_again(model, monkeypatch):
    stop_servers()
    pids = killed_at_start(monkeypatch, 2)
    assert serve(model, slots=1, context=256).alive and len(pids) == 3 and all(map(gone, pids[:2]))
    stop_servers()
    pids = killed_at_start(monkeypatch, 99)
    with pytest.raises(AgentkitError, match='did not start: exit code -9'):
        serve(model, slots=1, context=256)
    assert len(pids) == serving.ATTEMPTS


def test_episodes_in_flight_survive_the_death_of_their_server(lm):
    "Twice killed in a run: no episode breaks off, none is lost."
    acted, lock = [], threading.Lock()

    class Killing(Agent):
        def act(self, state):
            with lock:
                acted.append(1)
                if len(acted) in (10, 30):
                    os.kill(lm.server._child.pid, signal.SIGKILL)
            return super().act(state)

    tasks = list_tasks('corridor', 'train', 16)
    with Runner('corridor', workers=2, parallel=4, limits=Limits(max_steps=6), progress=False) as run:
        played = run(Killing(lm, think=False), tasks)
    assert len(played) == 16 and not [t.error for t in played if t.error] and len(acted) >= 40


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


def left_in(folder):
    return [p.name for p in folder.rglob('*agentkit*')]


def test_a_killed_parent_leaves_nothing_in_the_temporary_folder(model, tmp_path):
    script = (
        f'import time, agentkit.models.serving as s; x = s.serve({model!r}, slots=1, context=256); '
        'print(x._child.pid, flush=True); time.sleep(600)'
    )
    run = dict(stdout=subprocess.PIPE, text=True, env={**os.environ, 'TMPDIR': str(tmp_path)})
    parent = subprocess.Popen([sys.executable, '-c', script], **run)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(pid))
    assert left_in(tmp_path) == []


def test_a_log_does_not_grow_for_ever(lm, monkeypatch):
    monkeypatch.setattr(serving, 'LOG_BYTES', 1000)
    server = lm.server
    os.write(server.log.fileno(), b'x' * 5000)
    lm(messages=ASK, **lm.hold(Choice(['look'])))
    assert os.fstat(server.log.fileno()).st_size < 1000


# --- who may ask ---


def test_only_its_owner_is_answered(lm):
    def status(path, **headers):
        return httpx.post(lm.server.url + path, json=dict(prompt='x', max_tokens=1), headers=headers).status_code

    assert [status(p) for p in ('/v1/completions', '/v1/chat/completions', '/lora-adapters')] == [401] * 3
    assert status('/v1/completions', authorization=f'Bearer {lm.server.key}') == 200
    assert lm.server.key not in ' '.join(psutil.Process(lm.server._child.pid).cmdline())


def test_no_page_in_a_browser_may_ask(lm):
    key, page = f'Bearer {lm.server.key}', 'http://page.example'
    for ask in (httpx.options, httpx.get):
        reply = ask(f'{lm.server.url}/v1/models', headers=dict(origin=page, authorization=key))
        assert reply.headers.get('access-control-allow-origin', '') == ''


def test_a_server_gets_no_key_of_a_provider(model, monkeypatch):
    for name in ('OPENAI_API_KEY', 'HF_TOKEN', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(name, 'planted')
    stop_servers()
    environment = Path(f'/proc/{serve(model, 1, 256)._child.pid}/environ').read_bytes()
    assert b'PATH=' in environment and b'planted' not in environment


# --- death and change ---


def test_a_request_whose_server_dies_is_sent_to_a_new_one(lm):
    "Asked by eight threads, and the server is killed in the middle: every request is answered."
    first = lm.server
    asked, killed = threading.Semaphore(0), threading.Event()

    def ask(i):
        for _ in range(6):
            asked.release()
            answers.append(lm(messages=ASK, **lm.hold(Choice(['look', 'go to desk 1'])))[0])
        assert killed.wait(30)
        answers.append(lm(messages=ASK, **lm.hold(Choice(['look'])))[0])

    answers = []
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(ask, i) for i in range(8)]
        for _ in range(12):
            asked.acquire()
        os.kill(first._child.pid, signal.SIGKILL)
        killed.set()
        for c in calls:
            c.result()
    assert len(answers) == 56 and set(answers) <= {'look', 'go to desk 1'} and lm.server is not first


def test_a_server_that_dies_at_each_request_is_an_error(lm, monkeypatch):
    started, real = [], serving.serve

    def serve_and_kill(*args, **options):
        started.append(real(*args, **options))
        os.kill(started[-1]._child.pid, signal.SIGKILL)
        started[-1]._child.wait()
        return started[-1]

    stop_servers()
    monkeypatch.setattr(serving, 'serve', serve_and_kill)
    with pytest.raises(AgentkitError, match='is gone: exit code -9'):
        lm.copy(engine=serving.LocalEngine(4, 1024, 1))('Hello')
    monkeypatch.undo()
    stop_servers()
    assert len(started) == serving.ATTEMPTS


def answer_of(lm):
    return lm(messages=ASK, **lm.hold(Choice([f'go to shelf {i}' for i in range(20)])))


def test_a_changed_file_is_served_after_a_reload(model, tmp_path):
    one, other = (model_dir(make_nano(ROWS, size='tiny', vocabulary=300, seed=i)) / 'model.gguf' for i in (0, 5))
    path = tmp_path / 'live.gguf'
    path.write_bytes(one.read_bytes())
    lm = local_lm(path, slots=1, context=1024, threads=1)
    server, before, url = lm.server, answer_of(lm), lm.server.url
    (tmp_path / 'new').write_bytes(other.read_bytes())
    os.replace(tmp_path / 'new', path)  # a file that is written over changes under the server
    assert lm.fingerprint == file_sha256(other) and answer_of(lm) == before, 'a running server keeps what it has loaded'
    assert reload_servers('live') == [server] and lm.server is server and server.url != url
    alone = local_lm(other, slots=1, context=1024, threads=1)
    assert answer_of(lm) == answer_of(alone) != before


def test_who_begins_anew_is_served_what_the_files_hold_now(model, tmp_path):
    "A model that was made again under its name, while its server was running."
    one, other = (model_dir(make_nano(ROWS, size='tiny', vocabulary=300, seed=i)) for i in (0, 5))
    shutil.copytree(one, tmp_path / 'again')
    lm = local_lm(tmp_path / 'again', slots=1, context=1024, threads=1)
    before, server = answer_of(lm), lm.server
    shutil.rmtree(tmp_path / 'again')
    shutil.copytree(other, tmp_path / 'again')
    lm.check()  # as at the beginning of a run
    assert lm.server is server and server.alive
    assert answer_of(lm) == answer_of(local_lm(other, slots=1, context=1024, threads=1)) != before


def test_requests_in_flight_survive_a_reload(lm):
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(answer_of, lm) for _ in range(40)]
        for _ in range(3):
            reload_servers(lm.model)
        assert all(c.result()[0].startswith('go to shelf') for c in calls)


# --- answers ---


@pytest.mark.parametrize('think', [False, True])
def test_a_tool_call_is_held_to_its_schema(lm, think):
    tools = ToolCall(
        {
            'add': dict(properties=dict(a=dict(type='integer'), b=dict(type='integer')), required=['a', 'b']),
            'say': dict(properties=dict(word=dict(enum=['yes', 'no'])), required=['word']),
        }
    )
    replies = {lm.copy(temperature=1.5)(messages=ASK, **lm.hold(tools, think))[0] for _ in range(6)}
    assert all(tools.allows(tools.read(r)) for r in replies), replies


def test_a_thought_is_possible_where_it_is_offered(lm):
    held = lm.hold(Choice(['look']), think=True)

    def action(seed):
        try:
            return json_fields(lm.copy(temperature=2.0, seed=seed)(messages=ASK, **held)[0])['action']
        except EpisodeError:
            return 'a thought without end'

    answers = {action(seed) for seed in range(12)}
    assert {'look', 'think'} <= answers <= {'look', 'think', 'a thought without end'}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=('Cs',), exclude_characters='\0'), min_size=1, max_size=20))
def test_any_text_can_be_the_only_choice(lm, action):
    assert lm(messages=ASK, **lm.hold(Choice([action]))) == [action]


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
    assert lm(messages=ASK, **lm.hold(Choice([action, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'])))[0] in (
        action,
        'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
    )
    assert lm(messages=ASK, **lm.hold(Choice([action]))) == [action]


def test_a_choice_that_begins_another_can_be_made(lm):
    seen = {
        lm.copy(temperature=2.0)(messages=ASK, **lm.hold(Choice(['go to desk 1', 'go to desk 1 and 2'])))[0]
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
                    **lm.hold(Choice(actions)),
                )[0],
                range(40),
            )
        )
    assert set(answers) <= set(actions)


def test_a_choice_needs_choices(lm):
    for bad in ([], ['look', '']):
        with pytest.raises(AgentkitError, match='at least one action'):
            lm.hold(Choice(bad))


def test_a_schema_is_still_a_schema(lm):
    schema = dict(type='object', properties=dict(ok=dict(type='boolean')), required=['ok'], additionalProperties=False)
    (answer,) = lm(messages=ASK, response_format=dict(type='json_schema', json_schema=dict(name='x', schema=schema)))
    assert isinstance(json.loads(answer)['ok'], bool)


def test_a_growing_conversation_is_not_read_twice(lm):
    first = lm(messages=ASK, **lm.hold(Choice(['look', 'go to desk 1'])))[0]
    longer = ASK + [dict(role='assistant', content=first), dict(role='user', content='You see nothing.')]
    lm(messages=longer, **lm.hold(Choice(['look', 'go to desk 1'])))
    used = [h['usage'] for h in lm.history[-2:]]
    assert used[1]['prompt_tokens_details']['cached_tokens'] >= used[0]['prompt_tokens']


def test_a_prompt_that_is_too_long_says_so(lm):
    with pytest.raises(AgentkitError, match=r'refused \(HTTP 400\).*context size \(1024 tokens\)'):
        lm('word ' * 1000)


# --- DSPy ---


def test_usage_is_counted(lm):
    with dspy.track_usage() as tracker:
        for _ in range(2):
            lm(messages=ASK, **lm.hold(Choice(['go to desk 1'])))
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
        (dict(tokenizer_sha256='0' * 64), 'tokenizer.json is not the file'),
        (dict(config_sha256='0' * 64), 'config.json is not the file'),
        (dict(template_sha256='0' * 64), 'chat_template.jinja is not the file'),
    ],
)
def test_a_card_that_lies(model, tmp_path, change, message):

    copy = tmp_path / 'm'
    shutil.copytree(model_dir(model), copy)
    write_json(copy / 'card.json', {**read_json(copy / 'card.json'), **change})
    with pytest.raises(AgentkitError, match=message):
        serve(copy)


def test_a_missing_file_is_named(model, tmp_path):

    shutil.copytree(model_dir(model), tmp_path / 'm')
    (tmp_path / 'm' / 'model.gguf').unlink()
    with pytest.raises(AgentkitError, match='model.gguf is missing'):
        model_dir(tmp_path / 'm')


def test_names_and_folders(model):
    assert model_dir(model) == model_dir(f'local/{model}') == model_dir(model_dir(model))
    with pytest.raises(AgentkitError, match='make_nano'):
        model_dir('nano')
    with pytest.raises(AgentkitError, match=f"no model 'nanu'; there are: .*{model}"):
        model_dir('nanu')
    for name in ('smollm2-135m', 'org/model'):
        with pytest.raises(AgentkitError, match=f"{name} has not been fetched yet: `ensure_model\\('{name}'\\)`"):
            model_dir(name)


def test_choices_are_quoted():
    assert choice_grammar(['a"b', 'c\n']) == r'root ::= "a\U00000022b" | "c\U0000000A"'
