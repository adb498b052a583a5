"MLflow: a copy of the results that is complete, made once, by many processes, and without a secret in it."

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dspy
import pytest
from research.test_sweeps import plan

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Chance
from agentkit.cli import main
from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.secrets import Redactor
from agentkit.core.settings import settings
from agentkit.core.store import Journal, read_json, write_json, write_text
from agentkit.core.types import Decision, Observation, State, Step, Task, Trajectory
from agentkit.core.views import fields
from agentkit.models.find import make_lm
from agentkit.testing.models import scripted_lm
from agentkit.research.sweeps import plan_cells, read_plan, sweep
from agentkit.research.tracking import _client, _redactor, load_agent_from, log_agent, to_mlflow, traced, tracking_uri


def at(text='A door. Your task is to: open it.', actions=('knock', 'wait', 'sing', 'leave')):
    "The beginning of an episode."
    return State(Task('door', 'door'), Observation(text, Choice(actions)))


PLANTED = 'planted-Zq81-horse-battery'


@pytest.fixture(scope='session')
def empty_store(tmp_path_factory):
    "Making MLflow's tables takes seconds: once for all tests."
    mlflow = pytest.importorskip('mlflow')
    path = tmp_path_factory.mktemp('mlflow') / 'mlflow.db'
    mlflow.MlflowClient(f'sqlite:///{path}')
    return path


@pytest.fixture
def store(results, empty_store, monkeypatch):
    "A results folder of this test's own, with a store that has its tables; tracking is on."
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    monkeypatch.setenv('AGENTKIT_TRACKING_MLFLOW', 'on')
    results.mkdir()
    (results / 'mlflow.db').write_bytes(empty_store.read_bytes())
    return results


def run_folder(results, name='0a1b2c', success=0.5, experiment='doors', **params):
    "What a sweep leaves behind."
    folder = results / experiment / name
    write_json(folder / 'params.json', dict(student='local/nano', tasks=60, seed=0, **params))
    write_json(folder / 'stamp.json', dict(commit='c0ffee', changed=['a.py', 'b.py'], packages=dict(dspy='3.4.1')))
    rows = [
        dict(phase='before', n=2, success=0.0, ci_low=0.0),
        dict(
            phase='after',
            n=2,
            success=success,
            ci_low=0.1,
            ci_high=0.9,
            steps=1.5,
            tokens_in=12.0,
            dollars=None,
            policy='local/nano',
        ),
    ]
    write_json(
        folder / 'result.json',
        dict(
            rows=rows,
            timings=[dict(phase='after', train_seconds=3.0)],
            tables=dict(by_kind=[dict(kind='wood', n=2)], losses=[]),
        ),
    )
    for phase, ends in (('before', ('lost', 'loop')), ('after', ('won', 'max_steps'))):
        for i in (1, 0):
            Journal(folder / f'{phase}.jsonl').append(
                Trajectory(
                    Task(f'door/{i}', 'door', 'wood'),
                    'local/nano',
                    Observation('A door.'),
                    (Step(Decision('knock'), Observation('It opens.')),) * (i + 1),
                    ends[i],
                    float(ends[i] == 'won'),
                ).to_dict()
            )
    write_text(folder / 'MODEL_CARD.md', '# nano')
    return folder


def runs(experiment='doors'):
    client = _client()
    found = client.get_experiment_by_name(experiment)
    return {r.data.tags['agentkit.run']: r for r in client.search_runs([found.experiment_id])} if found else {}


def artifact(run, name):
    return Path(run.info.artifact_uri.removeprefix('file://'), name)


def test_a_run_is_copied_whole(store):
    run_folder(store, lr=1e-4)
    assert to_mlflow('doors')['copied'] == ['0a1b2c']
    run = runs()['0a1b2c']
    assert run.data.params == dict(student='local/nano', tasks='60', seed='0', lr='0.0001')
    assert run.data.metrics == {
        'before/n': 2,
        'before/success': 0,
        'before/success_rate': 0,
        'before/ci_low': 0,
        'n': 2,
        'success': 0.5,
        'success_rate': 0.5,
        'ci_low': 0.1,
        'ci_high': 0.9,
        'steps': 1.5,
        'tokens_in': 12,
        'train_seconds': 3,
    }
    tags = run.data.tags
    assert (
        tags['policy'] == 'local/nano'
        and tags['stamp.packages.dspy'] == '3.4.1'
        and tags['stamp.changed'] == 'a.py, b.py'
        and tags['mlflow.source.git.commit'] == 'c0ffee'
    )
    assert run.info.status == 'FINISHED'
    table = read_json(artifact(run, 'episodes.json'))
    assert table['columns'][:5] == ['Idx', 'Result', 'Success', 'Steps', 'Termination']
    assert [r[:1] + r[2:6] for r in table['data']] == [[0, 1.0, 1, 'won', 'door/0'], [1, 0.0, 2, 'max_steps', 'door/1']]
    assert table['data'][0][1] == 'A door.\n> knock\nIt opens.'
    assert [r[4] for r in read_json(artifact(run, 'episodes.before.json'))['data']] == ['lost', 'loop']
    assert read_json(artifact(run, 'by_kind.json')) == dict(columns=['kind', 'n'], data=[['wood', 2]])
    assert artifact(run, 'MODEL_CARD.md').read_text() == '# nano'
    assert store in artifact(run, '').parents


def test_the_journals_of_a_runner_are_named_by_phase(store):
    folder = store / 'doors' / '0a1b2c'
    rows = [dict(phase=phase, policy=f'the {phase}', success=0.0) for phase in ('before', 'after')]
    write_json(folder / 'result.json', dict(rows=rows, timings=[], tables=dict(episodes=[dict(task=0, success=0)])))
    for phase, name in (('before', 'b'), ('after', 'a')):
        episode = Trajectory(Task('door/0', 'door'), f'the {phase}', Observation('A door.'), termination='lost')
        for _ in range(2):  # played again: the last one counts
            Journal(folder / f'episodes/the-{name}-0123.jsonl').append(episode.to_dict())
    to_mlflow('doors')
    for name in ('episodes', 'episodes.before'):
        assert len(read_json(artifact(runs()['0a1b2c'], f'{name}.json'))['data']) == 1
    assert to_mlflow('doors')['copied'] == []
    Journal(folder / 'episodes/the-a-0123.jsonl').append({**episode.to_dict(), 'seed': 1})
    assert to_mlflow('doors')['copied'] == ['0a1b2c']


def test_episodes_that_runs_share_are_those_of_the_run(store):
    "Two runs, the same policy's name, other prompts: each shows its own episodes."
    for i, ends in enumerate((('won', 'max_steps'), ('max_steps', 'max_steps'))):
        played = [
            Trajectory(Task(f'door/{k}', 'door'), 'openai/m', Observation(f'Prompt {i}.'), termination=end)
            for k, end in enumerate((*ends, 'won'))  # the third is of another run
        ]
        for t in played:
            Journal(store / f'doors/episodes/openai-m-{i}.jsonl').append(t.to_dict())
        table = [dict(phase='after', task=t.task.id, seed=0, steps=0, termination=t.termination) for t in played[:2]]
        rows = [dict(phase='after', policy='openai/m', success=0.5)]
        result = dict(rows=rows, timings=[], tables=dict(episodes=table))
        write_json(store / f'doors/run{i}/result.json', result)
    to_mlflow('doors')
    for i in range(2):
        table = read_json(artifact(runs()[f'run{i}'], 'episodes.json'))['data']
        assert [row[1].strip() for row in table] == [f'Prompt {i}.'] * 2
    assert to_mlflow('doors')['copied'] == []


def test_two_runs_at_once_and_two_copies_are_one_of_each(store):
    "Journals in which two runs have added everything, one of them with trouble; copied twice at the same time."
    folder = run_folder(store)
    for path in folder.glob('*.jsonl'):
        rows = Journal(path).rows()
        for row in [*rows, {**rows[0], 'termination': 'error', 'error': 'no answer', 'score': None}]:
            Journal(path).append(row)
    with ThreadPoolExecutor(2) as threads:
        copies = [*threads.map(lambda _: to_mlflow('doors')['copied'], range(2))]
    assert sorted(copies) == [[], ['0a1b2c']] and len(runs()) == 1
    for name in ('episodes', 'episodes.before'):
        table = json.loads(artifact(runs()['0a1b2c'], f'{name}.json').read_text())
        assert len(table['data']) == 2 and 'error' not in str(table)


def test_what_is_unknown_is_no_number(store):
    result = read_json(run_folder(store) / 'result.json')
    for k in ('tokens_per_success', 'dollars', 'dollars_per_success', 'tokens_in'):
        result['rows'][-1][k] = None
    write_json(store / 'doors/0a1b2c/result.json', result)
    to_mlflow('doors')
    assert not {k for k in runs()['0a1b2c'].data.metrics if 'dollars' in k or 'tokens' in k}


def test_a_second_copy_changes_nothing_and_a_changed_run_is_replaced(store):
    folder = run_folder(store)
    run_folder(store, '1b2c3d')
    to_mlflow('doors')
    before = {k: r.to_dictionary() for k, r in runs().items()}
    assert to_mlflow('doors')['copied'] == []
    assert {k: r.to_dictionary() for k, r in runs().items()} == before
    Journal(folder / 'after.jsonl').append(
        Trajectory(Task('door/2', 'door'), 'local/nano', Observation('A door.'), termination='lost').to_dict()
    )
    result = read_json(folder / 'result.json')
    result['rows'][-1].update(success=0.25)
    write_json(folder / 'result.json', result)
    assert to_mlflow('doors')['copied'] == ['0a1b2c']
    run = runs()['0a1b2c']
    assert len(runs()) == 2 and run.data.metrics['success'] == 0.25
    assert len(read_json(artifact(run, 'episodes.json'))['data']) == 3  # replaced, not appended
    assert read_json(artifact(run, 'by_kind.json'))['data'] == [['wood', 2]]


def test_a_copy_that_broke_off_is_made_again(store, monkeypatch):
    run_folder(store)
    monkeypatch.setattr('agentkit.research.tracking._put_table', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_mlflow('doors')
    monkeypatch.undo()
    monkeypatch.setenv('AGENTKIT_PATHS_RESULTS', str(store))
    assert to_mlflow('doors')['copied'] == ['0a1b2c']
    assert len(runs()) == 1 and artifact(runs()['0a1b2c'], 'episodes.json').is_file()


def test_a_failed_run_is_shown_as_failed_until_it_is_not(store):
    folder = store / 'doors' / '0a1b2c'
    write_json(folder / 'params.json', dict(tasks=60))
    write_json(folder / 'status.json', dict(status='failed', error='AssertionError: too large'))
    to_mlflow('doors')
    assert (
        runs()['0a1b2c'].info.status == 'FAILED' and runs()['0a1b2c'].data.tags['error'] == 'AssertionError: too large'
    )
    write_json(folder / 'status.json', dict(status='ok', error=''))
    write_json(folder / 'result.json', dict(rows=[dict(success=1.0)], timings=[], tables={}))
    to_mlflow('doors')
    assert runs()['0a1b2c'].info.status == 'FINISHED' and runs()['0a1b2c'].data.metrics['success_rate'] == 1


def test_tables_and_figures_of_the_experiment(store, tmp_path):
    run_folder(store)
    (store / 'doors' / 'summary.csv').write_text('run,success,error\n0a1b2c,0.5,\n')
    (tmp_path / 'figures').mkdir()
    (tmp_path / 'figures' / 'doors__curve.png').write_bytes(b'\x89PNG')
    assert to_mlflow('doors')['copied'] == ['0a1b2c', 'report']
    report = runs()['report']
    assert artifact(report, 'doors__curve.png').read_bytes() == b'\x89PNG'
    assert read_json(artifact(report, 'summary.json'))['data'] == [['0a1b2c', 0.5, None]]
    assert to_mlflow('doors')['copied'] == []


def test_every_call_of_a_run_is_a_trace_of_that_run(store):
    run_folder(store)
    agent = Agent(scripted_lm(['knock', 'wait']))

    def episodes():
        for _ in range(3):
            agent.act(at())

    with (
        dspy.context(lm=scripted_lm(['sing'])),
        traced('doors', store / 'doors' / '0a1b2c') as run_id,
    ):  # a context around it does not hide it
        agent.act(at())
        threads = [threading.Thread(target=episodes) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        run_inside = os.environ['MLFLOW_TRACKING_URI']
    assert run_inside == tracking_uri() and 'MLFLOW_TRACKING_URI' not in os.environ
    agent.act(at())  # outside: no trace
    client = _client()
    traces = client.search_traces(locations=[client.get_experiment_by_name('doors').experiment_id], run_id=run_id)
    assert len(traces) == 7 and all(t.info.state == 'OK' for t in traces)
    call = next(s for s in traces[0].data.spans if s.name == 'LM.__call__')
    assert 'open it' in json.dumps(call.inputs) and call.outputs in (['knock'], ['wait'])
    assert not dspy.settings.callbacks and not dspy.settings.track_usage
    to_mlflow('doors')
    assert (
        len(runs()) == 1 and runs()['0a1b2c'].info.run_id == run_id and runs()['0a1b2c'].data.metrics['success'] == 0.5
    )


def test_a_run_that_raises_is_failed_and_leaves_nothing_behind(store):
    with pytest.raises(ZeroDivisionError), traced('doors', 'broken'):
        1 / 0
    assert runs()['broken'].info.status == 'FAILED'
    assert not dspy.settings.callbacks and 'MLFLOW_TRACKING_URI' not in os.environ
    with traced('doors', 'broken'), pytest.raises(AgentkitError, match='one run at a time'):
        with traced('doors', 'other'):
            pass


def test_off_does_nothing_and_imports_nothing(results):
    code = (
        'import sys; from agentkit.research.tracking import traced, check_tracking\n'
        "with traced('doors', 'x') as run: assert run is None\n"
        "assert not check_tracking(); print(','.join(m for m in ('mlflow', 'dspy', 'pandas') if m in sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'AGENTKIT_TRACKING_MLFLOW': 'off'},
    )
    assert out.stdout.strip() == '' and not list(results.rglob('mlflow*'))


CELLS = """
import os, sys
import mlflow.dspy
from agentkit.agents.policy import Agent
from agentkit.core.actions import Choice
from agentkit.core.types import Observation, State, Task
from agentkit.testing.models import scripted_lm
from agentkit.research.tracking import to_mlflow, traced

def cell(name):
    agent = Agent(scripted_lm(['knock']))
    with traced('doors', name):
        for i in range(20):
            agent.act(State(Task('door', 'door'), Observation(f'{name} {i}', Choice(('knock',)))))
    to_mlflow('doors')

starter, go = os.pipe()
children = {}
for name in sys.argv[1:]: # processes of their own, which share only what they have imported
    children[os.fork()] = name
    if 0 in children:
        os.close(go)
        os.read(starter, 1)
        try:
            cell(name)
            os._exit(0)
        finally: os._exit(1)
os.close(go) # now all at once
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_four_processes_at_once_on_a_store_that_is_not_there_yet(store):
    "Tables, experiment and runs are made once; no trace is lost."
    (store / 'mlflow.db').unlink()
    names = ['a1', 'b2', 'c3', 'd4']
    for n in names:
        run_folder(store, n)
    done = subprocess.run([sys.executable, '-c', CELLS, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    client = _client()
    assert [e.name for e in client.search_experiments(filter_string="name = 'doors'")] == ['doors']
    found = runs()
    assert sorted(found) == names and {r.info.status for r in found.values()} == {'FINISHED'}
    for name, run in found.items():
        traces = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
        assert sorted(json.loads(t.data.request)['state']['first']['text'] for t in traces) == sorted(
            f'{name} {i}' for i in range(20)
        )
        assert len(read_json(artifact(run, 'episodes.json'))['data']) == 2


class Leaky(BaseHTTPRequestHandler):
    "A server that says the key aloud: in an error and, every second time, in an answer."

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.server.asked += 1
        said = f'knock, says {self.headers["Authorization"].removeprefix("Bearer ")}'
        ok = self.server.asked % 2 == 0
        answer = dict(
            id='1',
            object='chat.completion',
            created=0,
            model='leaky',
            usage=dict(prompt_tokens=1, completion_tokens=1, total_tokens=2),
            choices=[dict(index=0, finish_reason='stop', message=dict(role='assistant', content=said))],
        )
        body = json.dumps(
            answer
            if ok
            else dict(
                error=dict(
                    message=f'Incorrect API key provided: {said}', type='invalid_request_error', code='invalid_api_key'
                )
            )
        ).encode()
        self.send_response(200 if ok else 401)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def attempt(ask):
    try:
        return str(ask())
    except Exception as e:
        return f'{type(e).__name__}: {e}'


@pytest.fixture
def leaky_port():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Leaky)
    server.asked = 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_secret_reaches_the_store(store, leaky_port, monkeypatch):
    monkeypatch.setenv('SOME_API_KEY', f'{PLANTED}-env')
    address = f'http://someone:{PLANTED}-url@127.0.0.1:{leaky_port}/v1'
    folder = run_folder(store, teacher=f'openai/tiny@{address}', api_key=f'{PLANTED}-param', note=f'uses {PLANTED}-env')
    result = read_json(folder / 'result.json')
    result['rows'][-1]['judge'] = f'openai/tiny@{address}'
    result['tables']['calls'] = [
        dict(header=f'Authorization: Bearer {PLANTED}-bearer', api_key=f'{PLANTED}-cell', said=f'{PLANTED}-env')
    ]
    write_json(folder / 'result.json', result)
    write_text(folder / 'MODEL_CARD.md', f'made at {address} with {PLANTED}-env')
    Journal(folder / 'after.jsonl').append(
        Trajectory(
            Task('door/9', 'door'),
            f'openai/tiny@{address}',
            Observation(f'{PLANTED}-env'),
            termination='error',
            error=f'refused {PLANTED}-env',
        ).to_dict()
    )
    write_json(
        store / 'doors' / '9f' / 'status.json', dict(status='failed', error=f'LMError: {address} refused {PLANTED}-env')
    )
    plain, lost = (
        dspy.LM('openai/leaky', cache=False, num_retries=0, api_key=f'{PLANTED}-kwarg', api_base=a, max_tokens=20)
        for a in (address.replace(f'someone:{PLANTED}-url@', ''), address)
    )
    ours = make_lm(f'openai/leaky@http://127.0.0.1:{leaky_port}/v1', api_key=f'{PLANTED}-made', max_tokens=20)
    asked = [
        lambda lm=lm: Agent(lm).act(at(f'a door, and {PLANTED}-env, at {address}'))
        for lm in (plain, plain, ours, ours, lost)
    ]
    asked += [lambda: plain(f'hello {PLANTED}-env', api_key=f'{PLANTED}-call')] * 2
    with traced('doors', folder):
        said = [attempt(ask) for ask in asked]  # every second one is refused
    log_agent(Agent(lost), 'doors', folder, allow_pickle=True)
    to_mlflow('doors')
    states = [t.info.state for t in _client().search_traces(locations=[runs()[folder.name].info.experiment_id])]
    assert sorted(states) == ['ERROR'] * 4 + ['OK'] * 3, said
    copy = {f: f.read_bytes() for f in (store / 'mlflow.db', *(store / 'mlflow').rglob('*')) if f.is_file()}
    assert len(copy) > 12 and b'knock, says' in copy[store / 'mlflow.db'] and any(f.suffix == '.pkl' for f in copy)
    leaks = [
        (f.name, content[max(0, i - 150) : i + 60])
        for f, content in copy.items()
        for i in [content.find(PLANTED.encode())]
        if i >= 0
    ]
    assert not leaks


def test_a_span_that_cannot_be_cleaned_is_emptied(store, monkeypatch):
    class Broken(Redactor):
        def __call__(self, value):
            return 1 / 0 if isinstance(value, dict) else super().__call__(value)

    monkeypatch.setattr('agentkit.research.tracking._redactor', Broken)
    with traced('doors', 'x'):
        Agent(scripted_lm(['knock'])).act(at(PLANTED))
    monkeypatch.undo()
    monkeypatch.setenv('AGENTKIT_PATHS_RESULTS', str(store))
    client = _client()
    (trace,) = client.search_traces(locations=[runs()['x'].info.experiment_id])
    assert 'removed: ZeroDivisionError' in json.dumps(trace.to_dict())
    assert not [f for f in store.rglob('*') if f.is_file() and PLANTED.encode() in f.read_bytes()]


@pytest.mark.parametrize(
    'text, left',
    [
        ('go to shelf 1, max_tokens=200', 'go to shelf 1, max_tokens=200'),
        ('my key is glpat-' + 'aB3' * 6, 'my key is ***'),
        ('http://secretword@host/v1', 'http://***@host/v1'),
    ],
    ids=('nothing', 'key', 'word'),
)
def test_what_is_taken_out_leaves_a_mark(text, left):
    "What else is found is tested in core."
    assert _redactor()(text) == left


def test_what_is_secret_by_its_name():
    redact = _redactor()
    assert redact(
        dict(
            api_key='x', Authorization='y', hf_token='z', aws_secret_access_key='w', max_tokens=5, eos=1, password=None
        )
    ) == dict(
        api_key='***',
        Authorization='***',
        hf_token='***',
        aws_secret_access_key='***',
        max_tokens=5,
        eos=1,
        password=None,
    )
    assert redact([dict(a=[dict(client_secret='x')])]) == [dict(a=[dict(client_secret='***')])]


def test_a_saved_agent_chooses_the_same_in_a_fresh_process(store):
    agent, texts = Chance(7), [f'door {i}' for i in range(20)]
    log_agent(agent, 'doors', 'kept')
    chosen = [agent.act(at(text)).action for text in texts]
    code = (
        'import json, sys\nfrom agentkit.core.actions import Choice\n'
        'from agentkit.core.types import Observation, State, Task\n'
        'from agentkit.research.tracking import load_agent_from\n'
        "agent, (texts, actions) = load_agent_from('doors', 'kept'), json.loads(sys.argv[1])\n"
        "states = [State(Task('door', 'door'), Observation(t, Choice(tuple(actions)))) for t in texts]\n"
        'print(json.dumps([agent.act(s).action for s in states]))'
    )
    asked = json.dumps([texts, at().now.actions.options])
    again = subprocess.run([sys.executable, '-c', code, asked], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == chosen and len(set(chosen)) > 1
    with pytest.raises(AgentkitError, match='run other of doors holds no agent'):
        load_agent_from('doors', 'other')


def test_mlflow_s_own_model_holds_no_model_and_needs_leave(store):
    agent = Agent(scripted_lm(['wait']), 'Knock twice.', think=False)
    agent.react.demos = [dspy.Example(**fields(at()), action='knock')]
    with traced('doors', 'x'):
        log_agent(agent, 'doors', 'x', allow_pickle=True)  # inside the run, too
    assert load_agent_from('doors', 'x', lm=scripted_lm(['sing'])).react.signature.instructions == 'Knock twice.'
    again = load_agent_from('doors', 'x', lm=scripted_lm(['sing']), allow_pickle=True)
    assert again.react.demos == agent.react.demos and not again.think and again.act(at()).action == 'sing'
    assert not dspy.settings.callbacks and dspy.settings.lm is None  # as mlflow.dspy.load_model would set
    assert agent.react.lm is not None


def test_settings(monkeypatch):
    assert settings()['tracking'] == dict(mlflow='off')
    monkeypatch.setenv('AGENTKIT_TRACKING_MLFLOW', 'yes')
    with pytest.raises(AgentkitError, match=r'\[tracking\] mlflow = yes: write on or off'), traced('doors'):
        pass


def test_a_dead_server_is_one_line_before_the_first_cell(store, monkeypatch, tmp_path):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'http://me:{PLANTED}@127.0.0.1:9')
    with pytest.raises(AgentkitError, match=r'http://\*\*\*@127.0.0.1:9: nothing answers') as e:
        sweep(plan_cells(read_plan(plan(tmp_path, 'x'))), progress=False)
    assert PLANTED not in str(e.value) and '\n' not in str(e.value)
    assert not list(store.rglob('run.ipynb'))
    assert os.environ['MLFLOW_TRACKING_URI'].endswith(':9')


def test_a_broken_store_is_named(store):
    (store / 'mlflow.db').write_bytes(b'this is no database' * 100)
    run_folder(store)
    with pytest.raises(AgentkitError, match='mlflow.db is no database; delete it'):
        to_mlflow('doors')


def test_any_thread_can_trace_but_one_at_a_time(store):
    "DSPy lets only the first thread change its settings; whoever that was stays it."
    said, module = [], sys.modules['dspy.dsp.utils.settings']

    def elsewhere():
        try:
            with traced('doors', 'x'):
                Agent(scripted_lm(['knock'])).act(at())
            said.append('fine')
        except AgentkitError as e:
            said.append(str(e))

    def in_a_thread():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    owner = module.config_owner_thread_id
    with traced('doors', 'mine'):
        in_a_thread()
    in_a_thread()
    assert 'one run at a time' in said[0] and said[1] == 'fine'
    assert module.config_owner_thread_id == owner
    assert len(_client().search_traces(locations=[runs()['x'].info.experiment_id], run_id=runs()['x'].info.run_id)) == 1


def test_the_command_copies(store, capsys):
    run_folder(store)
    run_folder(store, experiment='windows')
    assert main(['mlflow', '--json']) == 0
    assert [e['experiment'] for e in json.loads(capsys.readouterr().out)['experiments']] == ['doors', 'windows']
    assert main(['mlflow', '--copy-only', '--experiment', 'doors']) == 0
    assert capsys.readouterr().out.strip() == 'doors: 1 runs, 0 copied'
    assert main(['mlflow', '--copy-only', '--experiment', 'gates']) == 2
    assert 'has no run that has ended' in capsys.readouterr().err


@pytest.mark.slow
def test_a_parallel_sweep_with_traces(store, tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_TRACKING_MLFLOW', 'off')
    (store / 'mlflow.db').unlink()
    code = (
        'from agentkit.agents.policy import Agent\nfrom agentkit.core.actions import Choice\n'
        'from agentkit.core.types import Observation, State, Task\nfrom agentkit.research.sweeps import finish\n'
        'from agentkit.research.tracking import traced\nfrom agentkit.testing.models import scripted_lm\n'
        "state = State(Task('door', 'door'), Observation(str(x), Choice(('knock',))))\n"
        "with traced('trial', out):\n    for i in range(5): Agent(scripted_lm(['knock'])).act(state)\n"
        "assert x < 4, 'too large'\nfinish(out, [dict(success=x / 4)])"
    )
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'agentkit.cli',
            'sweep',
            str(plan(tmp_path, code, grid={'x': [1, 2, 3, 4]})),
            '--jobs',
            '4',
            '--mlflow',
            '--json',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    found = runs('trial')
    assert sorted(
        (r.data.params['x'], r.data.metrics.get('success_rate'), r.info.status)
        for k, r in found.items()
        if k != 'report'
    ) == [('1', 0.25, 'FINISHED'), ('2', 0.5, 'FINISHED'), ('3', 0.75, 'FINISHED'), ('4', None, 'FAILED')]
    for k, r in found.items():
        if k != 'report':
            assert len(_client().search_traces(locations=[r.info.experiment_id], run_id=r.info.run_id)) == 5
    assert artifact(found['report'], 'summary.json').is_file()


@pytest.mark.slow
def test_the_pages_open_and_close(store):
    run_folder(store)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    shown = subprocess.Popen(
        [sys.executable, '-m', 'agentkit.cli', 'mlflow', '--port', str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def ask(path, **body):
        request = urllib.request.Request(
            f'http://127.0.0.1:{port}{path}',
            json.dumps(body).encode() if body else None,
            {'Content-Type': 'application/json'},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.read()

    deadline = time.time() + 120
    while time.time() < deadline:
        try:
            ask('/health')
            break
        except OSError:
            time.sleep(0.5)
    try:
        import psutil

        family = psutil.Process(shown.pid).children(recursive=True)
        assert '<html' in ask('/').decode()[:500].lower()
        (run,) = json.loads(ask('/api/2.0/mlflow/runs/search', experiment_ids=['1'], max_results=10))['runs']
        assert {p['key'] for p in run['data']['params']} == {'student', 'tasks', 'seed'}
        assert b'Termination' in ask(f'/get-artifact?path=episodes.json&run_uuid={run["info"]["run_id"]}')
    finally:
        shown.send_signal(signal.SIGINT)
        said = shown.communicate(timeout=60)[0]
    assert shown.returncode == 0 and 'doors: 1 runs, 1 copied' in said and 'Traceback' not in said.split('doors:')[0]
    assert family and not psutil.wait_procs(family, timeout=20)[1], 'processes were left behind'
