"What was asked and what it cost: a server that does not count, counts wrongly, or counts only sometimes."

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import dspy
import pytest
from flaky import Handler
from hypothesis import given, strategies as st

from agentkit.agents.policy import Agent
from agentkit.envs.find import list_tasks
from agentkit.evals import evaluate, read_report
from agentkit.judges.calibration import calibrate
from agentkit.judges.language import AIFeedback, Pairwise
from agentkit.models.find import make_lm
from agentkit.models.names import TOKENS, add_usage, all_tokens, cost, count_calls, usage
from agentkit.rollouts import Runner
from agentkit.tuning.prompts import optimize

COUNTED = dict(prompt_tokens=10, completion_tokens=2, total_tokens=12)
TASKS = list_tasks('corridor', 'train', 9)
UNKNOWN = dict.fromkeys(TOKENS)


class Counting(ThreadingHTTPServer):
    "An OpenAI-compatible server; `usages` says what it tells of tokens, one answer after the other."

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.usages, self.text, self.asked = [COUNTED], 'forward', 0
        self.url = f'http://127.0.0.1:{self.server_port}/v1'


class Answer(Handler):
    def do_GET(self):
        self.send(200, dict(object='list', data=[dict(id=m, object='model') for m in ('m', 'gpt-4o-mini')]))

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        said = self.server.usages[self.server.asked % len(self.server.usages)]
        self.server.asked += 1
        message = dict(role='assistant', content=self.server.text)
        choices = [dict(index=0, finish_reason='stop', message=message)]
        body = dict(id='x', object='chat.completion', created=0, model='m', choices=choices)
        self.send(200, body if said == 'nothing' else {**body, 'usage': said})


@pytest.fixture
def server():
    with Counting() as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield http
        http.shutdown()


@pytest.fixture(scope='module')
def run():
    with Runner('corridor', workers=1, progress=False) as runner:
        yield runner


def agent_of(server, model='gpt-4o-mini'):
    return Agent(make_lm(f'openai/{model}@{server.url}'), think=False)


def priced(monkeypatch, tmp_path, **prices):
    "With a price for these models."
    (tmp_path / 'settings.ini').touch()
    table = {f'openai/{m}': dict(input=p, output=p) for m, p in prices.items()}
    (tmp_path / 'prices.json').write_text(json.dumps(table))
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))


def test_a_server_that_does_not_count_was_not_free(server, run, tmp_path, monkeypatch):
    priced(monkeypatch, tmp_path, m=1.0)
    server.usages = ['nothing']
    report = evaluate(agent_of(server, 'm'), TASKS[:3], run)
    s = report.summary
    assert report.episodes['calls'].sum() == server.asked == 6 and s['wins'] == 3
    assert [s[k] for k in ('tokens_in', 'tokens_out', 'tokens_per_success', 'dollars', 'dollars_per_success')] == [
        None
    ] * 5
    assert 'unknown number of tokens' in str(report) and '$' not in str(report)
    report.save(tmp_path / 'r')
    again = read_report(tmp_path / 'r')
    assert again.summary == s and str(again) == str(report)
    assert json.loads((tmp_path / 'r/report.json').read_text())['summary']['dollars'] is None


def test_half_of_the_tokens_is_not_their_number(server, run, tmp_path, monkeypatch):
    priced(monkeypatch, tmp_path, m=1.0)
    server.usages = [COUNTED, COUNTED, 'nothing', COUNTED, COUNTED, COUNTED]
    report = evaluate(agent_of(server, 'm'), TASKS[:3], run)
    assert report.episodes['tokens_in'].isna().tolist() == [False, True, False] and report.summary['wins'] == 3
    assert report.summary['tokens_per_success'] is report.summary['dollars'] is report.summary['tokens_in'] is None
    server.usages = [COUNTED]
    whole = evaluate(agent_of(server, 'm'), TASKS[:3], run).summary
    assert whole['tokens_per_success'] == 24 and whole['dollars_per_success'] == 24e-6


ODD = [
    *('none', 5, [1], [{}], {}, None, True, 'nothing'),
    dict(prompt_tokens=-5, completion_tokens=2),
    dict(prompt_tokens=10, completion_tokens=-2),
    dict(prompt_tokens=1.5, completion_tokens=2),
    dict(prompt_tokens='12', completion_tokens=2),
    dict(prompt_tokens=True, completion_tokens=2),
    dict(prompt_tokens=10**30, completion_tokens=2),
    dict(prompt_tokens=1e400, completion_tokens=2),
    dict(prompt_tokens=float('nan'), completion_tokens=2),
    dict(prompt_tokens={}, completion_tokens=2),
    dict(prompt_tokens=0, completion_tokens=0),
    dict(prompt_tokens=10),
    dict(completion_tokens=2),
    {**COUNTED, 'total_tokens': 'many'},
    {**COUNTED, 'prompt_tokens_details': 7},
    {**COUNTED, 'prompt_tokens_details': dict(cached_tokens='x')},
    {**COUNTED, 'prompt_tokens_details': dict(cached_tokens=11)},
    {**COUNTED, 'prompt_tokens_details': dict(cached_tokens=-1)},
    {**COUNTED, 'completion_tokens_details': dict(reasoning_tokens=-1)},
]


@pytest.mark.parametrize('said', ODD, ids=str)
def test_what_cannot_be_is_unknown_and_costs_no_episode(said, server):
    server.usages = [said]
    lm = make_lm(f'openai/gpt-4o-mini@{server.url}')
    with count_calls() as used:
        assert lm('go') == ['forward']
    assert usage(used) == dict(calls=1, **UNKNOWN) and server.asked == 1


FINE = [
    COUNTED,
    {**COUNTED, 'prompt_tokens': 10.0},
    {**COUNTED, 'cost': 0.0012, 'is_byok': False, 'queue_time': 0.5, 'service_tier': 'default'},
    {**COUNTED, 'prompt_tokens_details': None, 'completion_tokens_details': dict(reasoning_tokens=1)},
    {**COUNTED, 'prompt_tokens_details': dict(cached_tokens=None)},
]


@pytest.mark.parametrize('said', FINE, ids=str)
def test_what_else_a_server_says_is_no_matter(said, server):
    server.usages = [said]
    with count_calls() as used:
        make_lm(f'openai/gpt-4o-mini@{server.url}')('go')
    assert usage(used) == dict(calls=1, tokens_in=10, tokens_cached=0, tokens_out=2)


def test_counting_inside_of_counting(server):
    "As with a judge in an episode, or MLflow around all: the outer one counts everything, too."
    server.usages, lm = ['nothing', COUNTED], make_lm(f'openai/gpt-4o-mini@{server.url}')
    with count_calls() as outer:
        with count_calls() as first:
            lm('go')
        with dspy.track_usage() as second:
            lm('go')
    assert [usage(u)['tokens_in'] for u in (outer, first, second)] == [None, None, 10] and usage(outer)['calls'] == 2


counts = st.dictionaries(st.sampled_from(TOKENS), st.none() | st.integers(0, 99), max_size=3)


@given(st.lists(counts, max_size=4))
def test_unknown_and_anything_is_unknown(usages):
    total = add_usage(usages)
    assert total.keys() == {k for u in usages for k in u}
    for k, n in total.items():
        said = [u[k] for u in usages if k in u]
        assert n is None if None in said else n == sum(said)
    assert add_usage([add_usage(usages[:2]), add_usage(usages[2:])]) == total, 'in any order'
    halves = total.get('tokens_in', 0), total.get('tokens_out', 0)
    assert all_tokens(total) == (None if None in halves else sum(halves))


def test_what_runs_here_is_free_and_what_has_no_price_is_not():
    assert cost('local/nano-1', 5, 0, 5) == cost('local/nano-1', *UNKNOWN.values()) == cost('expert', 0, 0, 0) == 0
    assert cost('openai/my-own@http://127.0.0.1:9/v1', 5, 0, 5) is None
    assert cost('openai/gpt-4o-mini', *UNKNOWN.values()) is None and cost('openai/gpt-4o-mini', 5, 0, 5) > 0
    assert cost('local/nano-1 guided by expert', 5, 0, 5) == 0
    assert cost('local/nano-1 guided by openai/gpt-4o', 5, 0, 5) is None, 'the teacher is paid'


def test_free_unknown_and_paid_read_differently(server, run, tmp_path, monkeypatch):
    def text(model):
        return str(evaluate(agent_of(server, model), TASKS[:1], run)).split('\n')[0]

    priced(monkeypatch, tmp_path, m=1000.0)
    assert '12 tokens and $0.012 a success' in text('m')
    priced(monkeypatch, tmp_path, m=0.0)
    assert '12 tokens a success' in text('m')
    priced(monkeypatch, tmp_path)
    assert '12 tokens at an unknown price a success' in text('m')


def test_a_judge_that_nobody_counts(server):
    server.usages, server.text = ['nothing'], '{"explanation": "good", "verdict": "yes", "better": "first"}'
    lm = make_lm(f'openai/gpt-4o-mini@{server.url}')
    v = Pairwise(lm).verdict('a', 'b', 'c')
    assert v.status != 'failed' and v.usage == dict(calls=server.asked, **UNKNOWN)
    server.asked = 0
    items = [(dspy.Example(task='t', action='a').with_inputs('task'), dspy.Prediction(action='b'))]
    c = calibrate(AIFeedback(lm), items, [True], progress=False)
    assert c.info['calls'] == server.asked > 0 and c.info['tokens_in'] is c.info['dollars'] is None
    assert 'unknown tokens in' in repr(c)


def test_a_search_that_nobody_counts(server, run, tmp_path):
    server.usages = ['nothing']
    options = dict(max_bootstrapped_demos=1)
    found = optimize(agent_of(server), TASKS[:2], TASKS[2:4], run.replace(folder=tmp_path), 'bootstrap', **options)
    assert found.spent['calls'] and found.spent['tokens_in'] is found.spent['dollars'] is None
    assert found.budget['basis'] == 'assumed' and '| dollars | unknown |' in str(found)


def test_two_searches_at_once_in_a_folder_are_one(server, run, tmp_path):
    def search(_):
        return optimize(agent_of(server), TASKS[:2], TASKS[2:4], run.replace(folder=tmp_path), 'bootstrap')

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(search, range(2))
    assert first.spent == second.spent and first.prompts == second.prompts
    rows = [json.loads(line)['asked'] for line in next(tmp_path.glob('search-*.jsonl')).read_text().splitlines()]
    assert len(rows) == len(set(rows)) == first.spent['episodes']
