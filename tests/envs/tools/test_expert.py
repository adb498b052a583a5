"The expert: one meaning for each request, and who follows it gets there, whatever happened before."

import json
import random
import re
import subprocess
import sys

import pytest

from agentkit.agents.programs import Expert, Program
from agentkit.core.errors import AgentkitError
from agentkit.envs.tools.environment import Tools
from agentkit.envs.tools.expert import STEPS, Walk, next_plan, solve
from agentkit.envs.tools.grammar import Grammar
from agentkit.envs.tools.plans import PLAN, step_of
from agentkit.envs.tools.ratings import rate
from agentkit.envs.tools.requests import GRAMMAR, RULES, SHAPES, draw, read, say
from agentkit.envs.tools.splits import SPLITS, ceiling_of, tasks_for, tools_of
from agentkit.envs.tools.tools import Desk, tool_list
from agentkit.envs.tools.world import world
from agentkit.rollouts import Limits, run_episode

LIMITS = Limits(max_steps=STEPS)
EACH = 500


@pytest.mark.parametrize('split', SPLITS)
def test_without_bad_luck_it_passes_everywhere_and_wastes_nothing(split):
    env = Tools(no_answer_prob=0.0, partial_answer_prob=0.0)
    tasks = tasks_for(split, EACH)
    episodes = [run_episode(Expert(), env, t, limits=LIMITS) for t in tasks]
    assert len(episodes) == EACH and [t.task.id for t in episodes if not t.won] == []
    fewest, most = SPLITS[split].steps
    assert {len(t.steps) - 1 for t in episodes} <= set(range(fewest, most + 1))
    assert all(rate(t.task, t.turns).final_answer_rating == 5 for t in episodes[::10])
    assert all(t.progress == 1 for t in episodes)


@pytest.mark.parametrize('split', SPLITS)
def test_with_bad_luck_it_passes_as_often_as_luck_allows(split):
    env, tasks = Tools(), tasks_for(split, EACH)
    episodes = [run_episode(Expert(), env, t, limits=LIMITS) for t in tasks]
    won = sum(t.won for t in episodes) / EACH
    print(f'{split}: {won:.3f}, ceiling {ceiling_of(tasks):.4f}')
    assert won >= 0.98
    assert all(t.termination in ('won', 'lost') for t in episodes), 'each has an answer within ten steps'
    given_up = [t for t in episodes if not t.won]
    assert all('could not' in t.turns[-1][1] for t in given_up), 'what is missing is said'
    retried = [t for t in episodes if any("couldn't find" in seen for _, seen in t.turns) and t.won]
    assert all(rate(t.task, t.turns).final_answer_rating == 5 for t in retried[:20]), 'to ask again is no waste'


def test_each_request_means_one_thing_in_every_wording():
    r = random.Random(1)
    for k in range(30):
        here = world(k, other=k % 3 == 0)
        for shape in SHAPES:
            program = draw(shape, r, here)
            for new in (False, True):
                text = say(program, r, new)
                assert GRAMMAR.read('request', text) == [program], text


def test_there_are_enough_shapes_and_wordings():
    ways = [rule for rule in RULES['request'] if not rule.new]
    assert len(SHAPES) >= 15
    assert all(sum(x.op == op for x in ways) >= 8 for op in ('answer', 'mail', 'note', 'event', 'invite'))
    assert all(any(x.new for x in RULES['request'] if x.op == way.op) for way in ways)
    r, here = random.Random(2), world(0)
    for shape in SHAPES:
        texts = {say(draw(shape, random.Random(3), here), r) for _ in range(60)}
        assert len(texts) >= 8, shape


def test_what_is_no_request_is_refused_in_one_line():
    for text in ('Tell me a joke.', '', 'Tell me the director of the town Port Velor.', 'x' * 3000):
        with pytest.raises(AgentkitError, match='means no programs, and not one'):
            read(text)


def test_two_meanings_are_refused(monkeypatch):
    monkeypatch.setattr('agentkit.envs.tools.requests.GRAMMAR', Grammar({}, {}))
    monkeypatch.setattr(Grammar, 'read', lambda self, symbol, text: [dict(op='a'), dict(op='b')])
    with pytest.raises(AgentkitError, match='means 2 programs'):
        read('Tell me.')


def test_it_goes_on_from_wherever_somebody_left_it():
    "A student that does half of its steps by chance is brought to the end, and nothing it did by chance is believed."

    def student(state):
        r = random.Random(f'{state.task.id} {len(state.steps)}')
        if r.random() < 0.4 and len(state.steps) < 4:
            return state.now.actions.sample(r).replace('final_answer', 'use_bash')
        return state.expert().action

    env, tasks = Tools(no_answer_prob=0.0, partial_answer_prob=0.0), tasks_for('test', 120)
    episodes = [run_episode(Program(student, 'half', 'half'), env, t, limits=Limits(max_steps=12)) for t in tasks]
    assert sum(t.won for t in episodes) >= 0.97 * len(tasks)


def test_calls_are_understood_as_well_as_plans():
    tasks = tasks_for('test', 60)
    for task in tasks:
        plans = run_episode(Expert(), Tools(), task, limits=LIMITS)
        calls = run_episode(Expert(), Tools(actions='call'), task, limits=LIMITS)
        assert [s.observation.text for s in plans.steps] == [s.observation.text for s in calls.steps]
        assert plans.score == calls.score


def test_it_only_knows_what_was_observed():
    "What it writes stands in the request, or in an observation before, or follows from them in the tool's own words."
    for task in tasks_for('test', 150):
        desk = Desk(world(task.data['world'], task.data['other']), task.id)
        turns = solve(task.data['request'], desk)
        known = task.data['request'].lower()
        for action, seen in turns:
            fields = json.loads(action)
            text = f'{fields["context_information_summary"]} {fields["task"]}'
            names = re.findall(r'[A-Z][a-z]+ (?:[A-Z][a-z]+|\d{3})', text)
            for name in names:
                new = (
                    name.split()[0] in ('Search', 'Ask', 'Run', 'Calculate', 'Send', 'Create', 'The', 'Port')
                    or 'Wikipedia' in name
                )
                assert new or name.lower() in known, (name, action)
            known += f' {seen.lower()}'


def test_hints_are_plans_of_the_seed():
    task = tasks_for('test', 1)[0]
    plan = next_plan(task.data['request'], [])
    assert list(json.loads(str(plan))) == list(PLAN)
    fields = [
        json.loads(a) for t in tasks_for('test', 100) for a, _ in solve(t.data['request'], Desk(world(t.data['world'])))
    ]
    assert not any(c in v for f in fields for v in f.values() for c in '"\\\n\t')
    assert max(len(v) for f in fields for v in f.values()) <= 600


def test_a_smaller_set_of_tools_is_one_list():
    names = 'search_wikipedia,calculate_number,final_answer'
    tasks = tasks_for('test', 60, tools=names)
    env = Tools(tools=names)
    episodes = [run_episode(Expert(), env, t, limits=LIMITS) for t in tasks]
    assert sum(t.won for t in episodes) >= 59
    assert {u for t in episodes for u in tools_of(t.turns)} <= set(names.split(','))
    assert env.space.fields['selected_tool']['enum'] == ['calculate_number', 'search_wikipedia', 'final_answer']


def test_a_walk_counts_what_is_missing():
    task = next(t for t in tasks_for('test', 60) if t.kind == 'total')
    turns = solve(task.data['request'], Desk(world(task.data['world'])))
    left = [Walk(task.data['request'], turns[:k]).missing for k in range(len(turns))]
    assert left[-1] == 0 and left == sorted(left, reverse=True)


def test_episodes_are_the_same_in_another_process():
    code = (
        'from agentkit.envs.tools.environment import Tools\n'
        'from agentkit.envs.tools.splits import tasks_for\n'
        'from agentkit.agents.programs import Expert\n'
        'from agentkit.rollouts import run_episode\n'
        'for t in tasks_for("test", 12):\n'
        '    print(t.id, run_episode(Expert(), Tools(), t, seed=3).turns)\n'
    )
    runs = [
        subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            env={**__import__('os').environ, 'PYTHONHASHSEED': k},
        )
        for k in ('1', '2')
    ]
    assert runs[0].stdout == runs[1].stdout and runs[0].stdout.count('test/') == 12, runs[0].stderr[-500:]
    here = ''.join(f'{t.id} {run_episode(Expert(), Tools(), t, seed=3).turns}\n' for t in tasks_for('test', 12))
    assert here == runs[0].stdout


def test_what_others_say_is_read_without_an_error():
    "Whatever stands in a history, the expert has a next step."
    r = random.Random(4)
    pieces = [
        '{',
        '}',
        '"task"',
        'null',
        '{"tool": "use_bash", "arguments": {}}',
        '{"selected_tool": "send_email", "task": 3}',
        'The ',
        '\n',
        '≤',
    ]
    pieces += [json.dumps(dict(tool=t, arguments=dict(query=1, question=2, command=3, date=4))) for t in tool_list()]
    pieces += [json.dumps(dict(selected_tool=t, task='')) for t in tool_list()]
    for task in tasks_for('test', 60):
        turns = [(''.join(r.choices(pieces, k=r.choice((1, 1, 3)))), ''.join(r.choices(pieces, k=3))) for _ in range(4)]
        plan = next_plan(task.data['request'], turns)
        assert step_of(str(plan))[0] in tool_list() and rate(task, turns).final_answer_rating <= 3
