"What is learned behind a prompt is what the agent is asked when it plays, in every view; and how much it counts."

import contextlib
import dataclasses
import json
import math
from random import Random

import dspy
import pytest
from conftest import ROOT
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given, settings as hypothesis_settings, strategies as st

from agentkit.agents.policy import Agent, ConversationAdapter, demonstration
from agentkit.agents.programs import Chance, Expert, Program
from agentkit.agents.saving import student_agent
from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Hint, Observation, Step, Task, Trajectory, said, trajectory
from agentkit.core.views import View
from agentkit.data.rows import (
    call_rows,
    episode_rows,
    has_weights,
    keep,
    mask_turns,
    provenance,
    read_rows,
    rows,
    weighted,
    write_rows,
)
from agentkit.envs.alfworld.view import Brief
from agentkit.envs.base import views_of
from agentkit.envs.find import make_env
from agentkit.rollouts import run_episode
from agentkit.testing.corridor import Corridor
from agentkit.testing.models import scripted_lm


class Noted(View):
    "A history, and for a while a note below what is seen now."

    name = 'noted'

    def messages(self, state):
        *before, last = super().messages(state)
        note = '\n(half way)' if len(state.steps) == 2 else ''
        return [*before, {**last, 'content': last['content'] + note}]


class Silent(View):
    "A history without thoughts."

    name = 'silent'

    def messages(self, state):
        acted = [s for s in state.steps if not s.decision.thinks]
        return super().messages(dataclasses.replace(state, steps=acted))


READERS = {
    'listed': lambda: Agent(think=True),
    'full': lambda: Agent(think=False, adapter=ConversationAdapter(show_actions=False)),
    'window': lambda: Agent(adapter=ConversationAdapter(show_actions=False, window=2)),
    'state': lambda: student_agent(None, view='brief'),
    'noted': lambda: student_agent(None, view=Noted()),
    'silent': lambda: student_agent(None, view=Silent()),
    'chat': lambda: Agent(adapter=dspy.ChatAdapter()),
    'json': lambda: Agent(think=False, adapter=dspy.JSONAdapter()),
}
TASKS = Corridor.tasks('train', 6)


def wander(seed, thinks=0.2):
    "An episode with thoughts, detours and impossible actions."
    r = Random(seed)

    def choose(state):
        if r.random() < thinks:
            return Decision(thought='Hm.')
        return r.choice(('forward', 'forward', 'back', 'jump'))

    return run_episode(Program(choose, f'wanderer {seed}'), Corridor(), TASKS[seed % 6], seed, hints=True)


def asked(agent, t, k):
    "The messages that a model gets when the agent decides at a step, and how its answer is written there."
    lm = scripted_lm(['forward'])
    agent = agent.deepcopy()
    agent.react.lm = lm
    with contextlib.suppress(AdapterParseError):  # of DSPy's own adapters, which want their marks in the answer
        agent.act(dataclasses.replace(t.state(k), views=views_of(Corridor)))
    request = lm.script.asked[0]
    system = request.system if isinstance(request.system, str) else ''.join(p.text for p in request.system or ())
    opening = [dict(role='system', content=system)] if system else []
    return opening + [dict(role=m.role, content=m.text or '') for m in request.messages]


@pytest.mark.parametrize('shown', [False, True], ids=['', 'demonstration'])
@pytest.mark.parametrize('reader', READERS)
def test_every_prompt_is_what_is_asked_when_playing(reader, shown):
    agent = READERS[reader]()
    agent.react.demos = [demonstration(wander(99))] * shown
    for t in map(wander, range(4)):
        calls = call_rows(rows([t], agent))
        assert len(calls) == len(t.steps)
        for k, row in enumerate(calls):
            *prompt, answer = [dict(role=m['role'], content=m['content']) for m in row['messages']]
            assert prompt == asked(agent, t, k)
            assert said(t.steps[k].decision) in answer['content'] and answer['role'] == 'assistant'


class Unpromised(Brief):
    "The same view, which does not say that it grows."


@pytest.mark.parametrize('name', ['household', 'household_expert', 'household_lost', 'household_retried', 'corridor'])
def test_a_promise_is_kept(name):
    "Rows of a view that says that its prompts grow are those that comparing all prompts gives."
    t = trajectory(json.loads((ROOT / f'tests/pins/episodes/{name}.json').read_text()))
    promised, compared = (student_agent(None, view=view) for view in (Brief(), Unpromised()))
    assert rows([t], promised) == rows([t], compared) and len(rows([t], promised)) == 1


def test_how_many_rows_an_episode_has():
    t = next(t for t in map(wander, range(99)) if len(t.steps) == 6)
    counts = {name: len(rows([t], make())) for name, make in READERS.items()}
    assert counts == {**dict.fromkeys(READERS, 6), 'full': 1, 'window': 4, 'noted': 2, 'silent': counts['silent']}


@given(st.integers(0, 500))
@hypothesis_settings(deadline=None, max_examples=60)
def test_rows_of_an_episode_are_its_calls_folded(seed):
    t, agent = wander(seed), READERS['full']()
    for correct in (None, 'hints'):
        (row,) = rows([t], agent, correct)
        folded = episode_rows(call_rows([row]))
        assert [r['messages'] for r in folded] == [row['messages']]


# what should have been done


def learned(rows):
    return [m.get('instead', m['content'] if m['loss'] else '') for r in rows for m in r['messages'] if 'loss' in m]


def step(action, hint='forward', seen='Go on.'):
    options = Choice(('forward', 'back'))
    return Step(Decision(action), Observation(seen, options), hint=hint and Hint(hint))


def episode(*steps, **facts):
    first = Observation('Walk to door 4.', Choice(('forward', 'back')))
    known = dict(policy='student', steps=steps, termination='max_steps', score=0.0)
    return Trajectory(Task('t', 'corridor', 'walk'), first=first, **{**known, **facts})


def test_where_the_teacher_differs_its_answer_is_learned_instead():
    agent = READERS['full']()
    wrong, right = step('back'), step('forward')
    row = rows([episode(right, wrong, right)], agent, 'hints')[0]
    answers = [{k: v for k, v in m.items() if k != 'role'} for m in row['messages'] if m['role'] == 'assistant']
    agreed = dict(content='forward', loss=True)
    assert answers == [agreed, dict(content='back', loss=False, instead='forward'), agreed]
    (last,) = rows([episode(right, wrong)], agent, 'hints')
    assert last['messages'][-1] == dict(role='assistant', content='forward', loss=True), 'nothing follows it'


def test_an_expert_that_gives_up_teaches_nothing_there():
    t = episode(step('back', hint=None), step('back'), step('forward', hint=None))
    assert learned(rows([t], READERS['full'](), 'hints')) == ['', 'forward', '']
    assert [r['messages'][-1]['content'] for r in rows([t], READERS['listed'](), 'hints')] == ['forward']


def test_nothing_said_is_nothing_to_learn():
    t = episode(step('forward'), step(''), step('back'))
    assert learned(rows([t], READERS['full']())) == ['forward', '', 'back']
    assert rows([episode(step(''))], READERS['full']()) == [] == rows([episode()], READERS['full']())


def test_hints_a_teacher_and_the_expert_say_the_same():
    agent, wandered = student_agent(None), [wander(s) for s in range(5)]
    teacher = Program(lambda state: state.expert().action, 'teacher')
    by_hint = rows(wandered, agent, 'hints')
    assert rows(wandered, agent, Expert()) == rows(wandered, agent, teacher) == by_hint
    assert any('instead' in m for r in by_hint for m in r['messages'])


def test_a_teachers_own_episodes_are_learned_as_they_are():
    teacher = Program(lambda state: 'forward', 'teacher')
    own = run_episode(Program(lambda state: 'back' if not state.steps else 'forward', 'teacher'), Corridor(), TASKS[1])
    agent = READERS['full']()
    assert 'back' not in learned(rows([own], agent, teacher)), 'the same name, another program'
    mine = dataclasses.replace(own, policy_id=teacher.id)
    old = dataclasses.replace(own, policy_id='')
    assert learned(rows([mine], agent, teacher)) == learned(rows([old], agent, teacher)) == learned(rows([own], agent))


def test_a_teacher_sees_the_views_and_remembers():
    seen = []

    def choose(state):
        seen.append((sorted(state.views), state.memory.setdefault('n', 0)))
        state.memory['n'] += 1
        return state.views['brief'].offer(state).sample(Random(0))

    t = wander(1)
    rows([t, t], READERS['full'](), Program(choose, 'teacher'))
    numbers = list(range(len(t.steps)))
    assert seen == [(['bare', 'brief', 'full', 'student'], n) for n in numbers + numbers], 'one memory an episode'


def test_hints_that_nobody_recorded():
    played = run_episode(Chance(1), Corridor(), TASKS[1])
    for correct in ('hints', Expert()):
        with pytest.raises(AgentkitError, match='train/corridor-1 by random-1 has no hints: play it with hints=True'):
            rows([played], READERS['full'](), correct)


# views and environments


def test_a_view_is_looked_up_in_each_episodes_environment():
    env = make_env('household')
    t, agent = wander(0), student_agent(None)
    household = dataclasses.replace(episode(step('look')), task=Task('h', 'household', 'pick'))
    in_full, in_brief = rows([t, household], agent)
    assert [in_full] == rows([t], student_agent(None, view='bare')) != rows([t], student_agent(None, view='full'))
    assert [in_brief] == rows([household], student_agent(None, view='brief'))
    assert agent.adapter.view == 'student', 'the agent itself is as it was'
    env.close()
    with pytest.raises(AgentkitError, match="no view 'map'"):
        rows([t], student_agent(None, view='map'))
    unknown = dataclasses.replace(t, task=Task('x', 'somewhere'))
    with pytest.raises(AgentkitError, match="data name the environment 'somewhere', which is not registered"):
        rows([unknown], agent)
    assert len(rows([unknown], student_agent(None, view='full'))) == 1, 'who reads everything needs no environment'


def test_where_a_row_comes_from():
    agent, t = READERS['full'](), wander(3)
    p = provenance(t, agent)
    assert (p['sample'], p['policy_id'], p['environment'], p['return']) == (0, t.policy_id, 'corridor', t.total_reward)
    old = provenance(dataclasses.replace(t, policy_id=''), agent)
    assert list(old) == ['task', 'env', 'kind', 'policy', 'seed', 'score', 'steps', 'prompt']
    assert p['prompt'] != provenance(t, Agent(instructions='Hurry.'))['prompt']


# how much an answer counts


def test_weights_multiply_what_was_done():
    (row,) = rows([episode(step('forward'), step('back'), step('forward'))], READERS['full'](), 'hints')
    pushed = weighted(row, -0.5)
    assert [m['loss'] for m in pushed['messages'] if 'loss' in m] == [-0.5, False, -0.5]
    assert [m['loss'] for m in weighted(pushed, 2)['messages'] if 'loss' in m] == [-1, False, -1]
    assert has_weights(pushed) and not has_weights(row) and not has_weights(weighted(row, 0))
    masked = mask_turns(pushed, [1, 0])
    assert [m['loss'] for m in masked['messages'] if 'loss' in m] == [-0.5, False, False], (
        'what passes keeps its weight'
    )
    assert episode_rows([pushed, row, pushed]) == [row, pushed, pushed], 'rows with weights are never one'
    assert [r['messages'][-1]['loss'] for r in call_rows([pushed])] == [-0.5, -0.5, True]


@pytest.mark.parametrize('loss', [math.nan, math.inf, '1', None])
def test_what_is_no_weight(tmp_path, loss):
    (row,) = rows([wander(0)], READERS['full']())
    row['messages'][-1]['loss'] = loss
    with pytest.raises(AgentkitError, match='line 2: the loss of an answer is .*, not true, false or a finite number'):
        write_rows(tmp_path / 'x', [*rows([wander(1)], READERS['full']()), row])
    assert not (tmp_path / 'x').exists()
    (tmp_path / 'x').write_text('{"messages": [{"role": "assistant", "content": "x", "loss": "1"}]}')
    with pytest.raises(AgentkitError, match="x line 1: the loss of an answer is '1'"):
        read_rows(tmp_path / 'x')


@pytest.mark.parametrize(
    'line', ['[]', '3', '{"messages": 3}', '{"messages": ["x"]}', '{"text": "x"}', '{"messages": []}']
)
def test_what_is_no_row_is_named(tmp_path, line):
    (tmp_path / 'x').write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n' + line)
    with pytest.raises(AgentkitError, match='x line 2: a row needs "messages"'):
        read_rows(tmp_path / 'x')


def test_rows_whose_last_line_has_no_newline(tmp_path):
    made = rows([wander(s) for s in range(3)], READERS['full']())
    write_rows(tmp_path / 'x', made)
    (tmp_path / 'x').write_text((tmp_path / 'x').read_text().rstrip('\n'))
    assert read_rows(tmp_path / 'x') == made


def test_errors_and_what_nobody_scored_are_not_kept():
    won, lost = episode(step('forward'), termination='won', score=1.0), episode(step('back'))
    broken, unknown = (dataclasses.replace(won, termination=e, score=s) for e, s in (('error', 1.0), ('ended', None)))
    assert keep([won, lost, broken, unknown]) == [won] and keep([won, lost, unknown], 0.0) == [won, lost]
    with pytest.raises(AgentkitError, match=r'reaches a score of 1.0 \(1 max_steps, 1 ended\)'):
        keep([lost, unknown])
