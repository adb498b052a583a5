"The expert as a judge: detours, replays, hints, and any environment that has an expert."

import dataclasses
import json
import os
import signal
from collections import Counter

import pytest
from judges.shared import GOLD, LOOK, broken

from agentkit.agents.programs import Expert, Program
from agentkit.core.actions import ToolCall
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Hint, Observation, Task, turns
from agentkit.envs.base import Environment
from agentkit.envs.find import list_tasks
from agentkit.judges.base import exact_match
from agentkit.judges.expert import ExpertProgress, Replays, decisions, hinted, reasonable
from agentkit.judges.run import judge_all
from agentkit.rollouts import Limits, Runner

HERE = f'{__name__}:'


class Sums(Environment):
    "Add up to a number by calls of a tool; nobody can go back below what was added."

    name = 'sums'

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{split}/{i}', HERE + cls.__name__, data=dict(goal=3 + i)) for i in range(n or 2)]

    def reset(self, task, seed=0):
        self.goal, self.total = task.data['goal'], 0
        return self._seen(f'Reach {self.goal}.')

    def step(self, action):
        self.total += json.loads(action)['arguments']['n']
        return self._seen(f'The sum is {self.total}.')

    def _seen(self, text):
        tool = {'properties': {'n': {'type': 'integer', 'minimum': 1}}, 'required': ['n']}
        score = float(self.total == self.goal)
        return Observation(text, ToolCall(dict(add=tool)), done=self.total >= self.goal, score=score)

    def expert(self):
        return Hint(add(1), f'{self.goal - self.total} more')


class Silent(Sums):
    "An environment without an expert."

    expert = Environment.expert


class Giving(Sums):
    "Its expert gives up when two are left, and kills its worker when one is."

    def expert(self):
        if self.goal - self.total == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return None if self.goal - self.total == 2 else super().expert()


def add(n):
    return json.dumps(dict(tool='add', arguments=dict(n=n)))


def adding(*numbers):
    return Program(lambda state: add(numbers[len(state.steps)]), f'adding {numbers}')


@pytest.fixture(scope='module')
def household():
    with Runner('household', workers=1, progress=False) as run:
        yield run, run(Expert(), list_tasks('household', 'train', 2))


@pytest.fixture(scope='module')
def sums():
    with Runner(HERE + 'Sums', workers=1, progress=False) as run:
        yield run, Sums.tasks('train')


def stray(state):
    "An action that is not possible, a thought, and a look; else like the expert."
    k = len(state.steps)
    detours = {1: 'fly to the moon', 2: Decision(thought='where is it'), 3: 'look'}
    return detours.get(k) or state.expert().action


def test_the_experts_own_steps_lose_nothing(household):
    run, played = household
    v = ExpertProgress('household', run.pool).verdict(played[0])
    assert v.score == 1 and {s['lost'] for s in v.detail['steps']} == {0} and v.detail['steps'][-1]['after'] == 0
    assert v.usage['replays'] == 1, 'the states on the way are remembered'


def test_detours_are_seen_and_cost_what_they_cost(household):
    run, played = household
    (t,) = run(Program(stray, 'stray'), [played[1].task], hints=True)
    judge = ExpertProgress('household', run.pool)
    steps = judge.verdict(t).detail['steps']
    assert [s['reasonable'] for s in steps[:4]] == [True, False, True, True], (
        'an action that is not possible is not reasonable, though it changes nothing'
    )
    assert [s['lost'] for s in steps[:4]] == [0, 1, 1, 1] and all(s['reasonable'] and s['lost'] == 0 for s in steps[4:])
    strict = ExpertProgress('household', run.pool, slack=0).verdict(t).detail['steps']
    assert [s['reasonable'] for s in strict] == [s['lost'] == 0 for s in steps]
    assert [judge.verdict(*d).score for d in decisions(t)] == [float(s['reasonable']) for s in steps]


def test_what_another_would_have_done_is_judged_in_the_same_state(household):
    "A decision that was not taken is tried out: possible, a thought, or not possible."
    run, played = household
    (t,) = run(Program(stray, 'stray'), [played[1].task], hints=True)
    judge = ExpertProgress('household', run.pool)
    gold, _ = decisions(t)[2]
    scores = [judge(gold, type(gold)(action=a)) for a in (gold.action, 'think: hm', 'fly to the moon', '')]
    assert scores == [1.0, 1.0, 0.0, 0.0]


def test_a_step_that_has_to_be_undone_is_not_reasonable(household):
    run, played = household

    def thief(state):
        "Takes the first thing that the expert would not take."
        right = state.expert().action
        taken = any(a.startswith('take ') for a, _ in state.turns)
        wrong = [a for a in state.now.actions.options if a.startswith('take ') and a != right]
        return wrong[0] if wrong and not taken else right

    (t,) = run(Program(thief, 'thief'), [played[0].task])
    stolen = next(k for k, s in enumerate(t.steps) if s.action.startswith('take '))
    step = ExpertProgress('household', run.pool).verdict(t).detail['steps'][stolen]
    assert step['reasonable'] is False and step['lost'] >= 2


def test_where_the_expert_does_not_get_there_nobody_can_tell(household):
    run, played = household
    first = dataclasses.replace(played[0], steps=played[0].steps[:1])
    v = ExpertProgress('household', run.pool, max_steps=0).verdict(first)
    assert v.status == 'unjudged' and v.detail['steps'][0]['reasonable'] is None


@pytest.mark.parametrize(
    'valid, before, after, slack, expected',
    [
        (False, 3, 2, 1, False),
        (True, None, None, 1, None),
        (True, None, 5, 0, True),
        (True, 5, None, 1, False),
        (True, 3, 2, 0, True),
        (True, 3, 3, 0, False),
        (True, 3, 3, 1, True),
        (True, 3, 4, 1, False),
    ],
)
def test_what_is_reasonable(valid, before, after, slack, expected):
    assert reasonable(valid, before, after, slack) is expected


def test_another_game_is_not_mistaken_for_the_one_that_was_played(household):
    run, played = household
    judge, foreign = ExpertProgress('household', run.pool), played[1].task
    with pytest.raises(AgentkitError, match='not the environment or the seed'):
        judge.verdict(dataclasses.replace(played[0], task=foreign))
    with pytest.raises(AgentkitError, match='replayed, .* was answered .* not the environment or the seed'):
        judge.verdict(dataclasses.replace(played[0], task=foreign, first=run.play(Expert(), foreign).first))
    with pytest.raises(AgentkitError, match='make it with `decisions`'):
        judge.verdict(GOLD, LOOK)


def test_hints_are_the_same_whether_recorded_or_asked_later(household):
    run, played = household
    task = played[1].task
    (t,) = run(Program(stray, 'stray'), [task], hints=True)
    (bare,) = run(Program(stray, 'stray'), [task])
    later = hinted(bare, run.pool)
    assert [s.hint for s in later.steps] == [s.hint for s in t.steps] and None not in [s.hint for s in t.steps]
    assert [(g.action, p.action) for g, p in decisions(later)] == [(g.action, p.action) for g, p in decisions(t)]
    assert [exact_match(*d) for d in decisions(t)[:4]] == [1.0, 0.0, 0.0, 0.0]


def test_recorded_hints_spare_replays_and_change_nothing(household):
    run, played = household
    (t,) = run(Expert(), [played[0].task], hints=True)
    v = ExpertProgress('household', run.pool).verdict(t)
    assert v.usage == {} and v.detail == ExpertProgress('household', run.pool).verdict(played[0]).detail
    lost = dataclasses.replace(t, steps=t.steps[:-1])
    unfinished = ExpertProgress('household', run.pool).verdict(lost)
    assert unfinished.usage['replays'] == 1, 'what did not end well is no way to the goal'
    replays, spent = Replays(run.pool, max_steps=2), Counter()
    replays.learn(t)
    n = len(t.steps)
    assert [replays.remaining(t, k, spent) for k in (n - 3, n - 2, n)] == [None, 2, 0] and spent['replays'] == 1


def test_calls_of_tools_are_judged(sums):
    "The expert adds one by one; who adds too much cannot go back."
    run, (three, four) = sums
    (t,) = run(adding(2, 3), [three], hints=True)
    v = ExpertProgress(HERE + 'Sums', run.pool).verdict(t)
    assert [(s['before'], s['after'], s['reasonable']) for s in v.detail['steps']] == [(3, 1, True), (1, None, False)]
    gold, taken = decisions(t)[0]
    judge = ExpertProgress(HERE + 'Sums', run.pool)
    assert (gold.action, taken.action) == (add(1), add(2))
    assert [judge(gold, type(taken)(action=a)) for a in (add(3), add(0), 'add 1')] == [1.0, 0.0, 0.0]


def test_who_gives_up_has_no_reference_and_who_never_speaks_is_named(sums):
    run, _ = sums
    with Runner(HERE + 'Giving', limits=Limits(max_steps=2), workers=1, progress=False) as giving:
        (t,) = giving(adding(1, 3), Giving.tasks('train', 1), hints=True)
    assert [g.origin['step'] for g, _ in decisions(t)] == [0], 'it gives up in the second state'
    (bare,) = run(adding(1, 1, 1), Sums.tasks('train', 1))
    for reference in (None, Expert()):
        with pytest.raises(AgentkitError, match='play it with hints=True, add the hints with `hinted`'):
            decisions(bare, reference)
    assert [g.action for g, _ in decisions(bare, adding(7, 8, 9))] == [add(7), add(8), add(9)]
    assert decisions(dataclasses.replace(bare, steps=())) == []


def test_without_an_expert_nobody_judges():
    with pytest.raises(AgentkitError, match='Silent has no expert who could judge'):
        ExpertProgress(HERE + 'Silent')


def test_a_worker_that_dies_is_a_failure_and_is_asked_again(tmp_path):
    task = Task('train/0', HERE + 'Giving', data=dict(goal=1))
    with Runner(HERE + 'Giving', workers=1, progress=False) as run:
        (t,) = run(adding(1), [task])
        judge = ExpertProgress(HERE + 'Giving', run.pool)
        (v,) = judge_all(judge, [t], tmp_path / 'v.jsonl', progress=False)
        assert v.status == 'failed' and 'SIGKILL' in v.error
        (again,) = judge_all(judge, [hinted_by_hand(t)], tmp_path / 'v.jsonl', progress=False)
    assert again.status == 'judged' and again.score == 1


def hinted_by_hand(t):
    "The episode as if its expert had lived."
    return dataclasses.replace(t, steps=tuple(dataclasses.replace(s, hint=Hint(s.action)) for s in t.steps))


def test_what_broke_off_is_not_replayed():
    with ExpertProgress('household') as judge:
        v = judge.verdict(broken())
    assert v.status == 'unjudged' and v.usage == {} and 'the server is gone' in v.explanation


def test_another_option_is_another_judge():
    with Runner('corridor', workers=1, start=1) as run, ExpertProgress('corridor') as plain:
        assert ExpertProgress('corridor', run.pool).state() != plain.state()


def test_the_transcript_of_a_decision_is_the_episode_so_far(household):
    run, played = household
    gold, _ = decisions(hinted(played[0], run.pool))[-1]
    assert turns(gold.trajectory) == played[0].turns[:-1] and gold.task == played[0].first.text
