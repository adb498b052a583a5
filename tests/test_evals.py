"What was not measured is no loss: outside the rate, counted beside it, asked for again, and said when it is too much."

import dataclasses
import itertools
import json

import pandas as pd
import pytest
from flaky import REFUSED, FlakyServer, said
from hypothesis import given, settings, strategies as st

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Expert, Program
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal
from agentkit.core.types import Observation, Task, Trajectory
from agentkit.envs.find import list_tasks
from agentkit.evals import Report, compare, episode_table, evaluate, over_seeds, read_report
from agentkit.research.plots import before_after, rate_bars, show_curves, show_rates, show_table
from agentkit.rollouts import Runner, read_trajectories

TASKS = list_tasks('corridor', 'train', 12)
BREAKS = {
    'refused': REFUSED,
    'out of order': (500, dict(error=dict(message='oops'))),
    'no service': (503, {}),
    'empty object': (200, {}),
    'no choices': (200, dict(said('forward')[1], choices=[])),
    'redirect': (307, {}),
}


@pytest.fixture(scope='module')
def run():
    with Runner('corridor', progress=False) as runner:
        yield runner


@pytest.mark.parametrize('kind', BREAKS)
def test_a_failed_call_is_no_lost_game(kind, run, tmp_path):
    "A policy that is always right, with a server that fails at some episodes: it loses none of them."
    well = []

    def answer(number, body):
        far = 'door 7' in body['messages'][1]['content'] and len(body['messages']) > 6
        return BREAKS[kind] if far and not well else said('forward')

    with FlakyServer(answer) as server:
        agent = Agent(server.lm, think=False)
        first = evaluate(agent, TASKS, run, journal=tmp_path / 'j.jsonl')
        well.append(True)
        asked = len(server.asked)
        again = evaluate(agent, TASKS, run, journal=tmp_path / 'j.jsonl')
        assert len(server.asked) - asked == 7, 'only what broke off is asked for again, and nothing is checked anew'
        assert evaluate(agent, TASKS, run, journal=tmp_path / 'j.jsonl').to_dict() == again.to_dict()
        assert len(server.asked) - asked == 7
    s = first.summary
    assert (s['success'], s['n'], s['errors'], s['unmeasured'], first.trusted) == (1.0, 11, 1, 1, False)
    assert 'not to be trusted: 1 of 12 episodes are not measured, more than 2%' in str(first)
    assert (again.summary['success'], again.summary['n'], again.unmeasured, again.trusted) == (1.0, 12, 0, True)
    assert len(Journal(tmp_path / 'j.jsonl')) == 13 and len(read_trajectories(tmp_path / 'j.jsonl')) == 12


def test_a_third_of_all_calls_fails_and_the_rate_stays(run, tmp_path):
    sick = [True]
    with FlakyServer(lambda n, body: REFUSED if sick[0] and n % 3 == 0 else said('forward')) as server:
        agent = Agent(server.lm, think=False)
        first = evaluate(agent, TASKS, run, journal=tmp_path / 'j.jsonl')
        sick[0] = False
        again = evaluate(agent, TASKS, run, journal=tmp_path / 'j.jsonl')
    assert first.summary['success'] == 1 and first.unmeasured > 6 and not first.trusted
    assert again.summary['success'] == 1 and again.trusted and again.summary['n'] == 12


def test_an_outage_measures_nothing_and_says_so(run):
    with FlakyServer(lambda n, body: said('x') if body.get('max_tokens') == 1 else (503, {})) as server:
        report = evaluate(Agent(server.lm, think=False), TASKS[:3], run)
    assert report.summary['success'] is None and not report.trusted and 'was not measured: 3 error' in str(report)


def test_who_writes_last_does_not_undo_what_was_measured(run, tmp_path):
    "Two processes with one journal: the one in which the episode broke off ended later."
    good = run(Expert(), TASKS[:1], journal=tmp_path / 'j.jsonl')
    Journal(tmp_path / 'j.jsonl').append(dataclasses.replace(good[0], termination='error', score=None).to_dict())
    assert read_trajectories(tmp_path / 'j.jsonl') == good
    silent = Program(lambda state: pytest.fail('it was played again'), 'expert', Expert().id)
    assert run(silent, TASKS[:1], journal=tmp_path / 'j.jsonl') == good


# --- reports ---


def played(i, won=True, broken=False, kind='walk', policy='p', **more):
    task, first = Task(f'{i:03d}', 'corridor', kind), Observation('x')
    if broken:
        return Trajectory(task, policy, first, termination='error', error='503', **more)
    return Trajectory(task, policy, first, termination='won' if won else 'max_steps', score=float(won), **more)


def report(*episodes, most=0.02, policy='p'):
    return Report(policy, episode_table(list(episodes)), max_unmeasured=most)


@pytest.mark.parametrize(
    'broken, n, most, trusted',
    [
        (0, 50, 0.02, True),
        (1, 50, 0.02, True),
        (1, 49, 0.02, False),
        (2, 99, 0.02, False),
        (2, 100, 0.02, True),
        (1, 100, 0.0, False),
        (0, 1, 0.0, True),
        (99, 100, 1.0, True),
        (100, 100, 1.0, False),
        (1, 1, 0.02, False),
    ],
)
def test_the_share_that_may_be_missing(broken, n, most, trusted):
    r = report(*(played(i, broken=i < broken) for i in range(n)), most=most)
    assert r.trusted == trusted == r.to_dict()['trusted']
    if broken < n:
        assert r.summary['success'] == 1 and r.summary['n'] == n - broken
        assert ('not to be trusted' in str(r)) != trusted


def test_nothing_is_not_trusted_and_a_share_is_a_share(run):
    assert not report().trusted
    for wrong in (-0.1, 1.5, float('nan')):
        with pytest.raises(AgentkitError, match='write a number from 0 to 1'):
            evaluate(Program(lambda state: pytest.fail('played'), 'eager'), TASKS, run, max_unmeasured=wrong)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(['won', 'lost', 'broken']), min_size=1, max_size=40))
def test_a_rate_is_that_of_the_measured_ones(ends):
    "The same summary as if what broke off had never been played; only its count is another."
    whole = [played(i, e == 'won', e == 'broken', seconds=2.0) for i, e in enumerate(ends)]
    some = report(*whole).summary
    bare = report(*(t for t in whole if t.termination != 'error')).summary
    costs = ('errors', 'unmeasured', 'tokens_per_success', 'dollars', 'dollars_per_success')
    assert {k: v for k, v in some.items() if k not in costs} == {k: v for k, v in bare.items() if k not in costs}
    assert some['errors'] == some['unmeasured'] == ends.count('broken')


def test_an_episode_that_waits_for_a_judge_is_counted_too():
    waiting = dataclasses.replace(played(0), termination='ended', score=None)
    s = report(waiting, played(1)).summary
    assert (s['n'], s['errors'], s['unmeasured']) == (1, 0, 1)


ODD = [
    *('NA', 'nan', 'null', '', 'a,b', 'a"b', 'a\nb', 'a\rb', 'a\r\nb', 'a\0b', '\u202e', '\u2028', '-1', '1.50'),
    *('001', ' x ', json.loads('"\\ud800"'), '#', '\x1b[31m', "'", '=1+1', 'True', 'é', '\x85', 'x' * 100_000),
]


def test_odd_names_survive_the_tables(tmp_path):
    ts = [played(i, i % 3 > 0, i % 5 == 0, kind=odd) for i, odd in enumerate(ODD)]
    ts = [
        dataclasses.replace(t, task=dataclasses.replace(t.task, id=f'{t.task.kind}{i % 2}')) for i, t in enumerate(ts)
    ]
    r = Report('p', episode_table(ts), max_unmeasured=1.0)
    r.save(tmp_path)
    again = read_report(tmp_path)
    assert again.to_dict() == r.to_dict() and len(again.episodes) == len(ODD)
    assert list(again.episodes['task']) == [t.task.id for t in ts] and not str(again).count('\ud800')


# --- comparisons ---


def test_only_what_was_measured_on_both_sides_is_compared():
    "With two seeds a task: where one side's episode broke off, the other's is left out, not the task."
    a = report(*(played(i, won=s == 0, broken=(i, s) == (0, 1), seed=s) for i in range(3) for s in range(2)))
    b = report(*(played(i, won=s == 0, broken=(i, s) == (1, 0), seed=s) for i in range(3) for s in range(2)))
    c = compare(a, b)
    assert (c['difference'], c['gained'], c['lost'], c['tasks'], c['unmeasured']) == (0.0, 0, 0, 3, 2)
    assert c['a_success'] == c['b_success'] == pytest.approx((1 + 0 + 0.5) / 3)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_breaking_is_neither_a_gain_nor_a_loss(data):
    "Two equal policies stay equal, whatever breaks off on either side."
    keys = list(itertools.product(range(6), range(2), range(2)))
    won = {k: data.draw(st.booleans()) for k in keys}
    sides = [
        report(*(played(i, won[i, s, k], data.draw(st.integers(0, 4)) == 0, seed=s, sample=k) for i, s, k in keys))
        for _ in range(2)
    ]
    try:
        c = compare(*sides)
    except AgentkitError as e:
        assert 'no measured task in common' in str(e)
    else:
        assert (c['difference'], c['gained'], c['lost'], c['p']) == (0.0, 0, 0, 1.0)


def test_other_seeds_are_compared_by_task():
    a, b = (report(*(played(i, won=i < n, seed=s) for i in range(4))) for n, s in ((2, 0), (3, 7)))
    assert compare(a, b)['difference'] == 0.25 and compare(a, b)['unmeasured'] == 0


def episodes(**methods):
    rows = [
        dict(method=m, run=f'{m} {run}', task=i, tasks=4, name=m, success=x)
        for m, runs in methods.items()
        for run, results in enumerate(runs)
        for i, x in enumerate(results)
    ]
    return pd.DataFrame(rows)


def test_seeds_with_gaps_and_conditions_without_a_measure_are_in_the_table():
    t = over_seeds(episodes(whole=[[1, 0], [1, 1]], gaps=[[1, None], [None, None]], none=[[None, None]]), ['method'])
    t = t.set_index('method')
    assert t['unmeasured'].to_dict() == dict(whole=0, gaps=3, none=2)
    assert t['success'].to_dict() == pytest.approx(dict(whole=0.75, gaps=1.0, none=float('nan')), nan_ok=True)
    assert t['n'].to_dict() == dict(whole=2, gaps=1, none=0) and t.loc['gaps', 'worst'] == 1
    shown = show_curves(over_seeds(episodes(whole=[[1, 0]], none=[[None, None]]), ['name', 'tasks']))
    assert list(shown['not measured']) == [2, 0] and list(shown['success']) == ['–', '50.0%']
    assert 'not measured' not in show_curves(over_seeds(episodes(whole=[[1, 0]]), ['name', 'tasks']))


def test_tables_and_figures_show_what_is_missing():
    about = dict(status='ok', student='nano', tasks=4, seed=0)
    phases = dict(before=report(*(played(i, broken=True) for i in range(3))), after=report(played(0), played(1, False)))
    summary = pd.DataFrame([dict(about, phase=p, **r.summary) for p, r in phases.items()])
    for shown in (show_table(summary), show_rates(summary, ['student', 'phase'])):
        t = shown.set_index('phase')
        assert t.loc['before', 'success'] == '–' and t.loc['before', '95 % interval'] == '–'
        assert t['not measured'].to_dict() == dict(before=3, after=0)
    assert before_after(summary).axes and rate_bars(summary, ['student', 'phase']).axes
