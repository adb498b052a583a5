"Each promise of an environment: broken on purpose it is named, and nothing else is."

import itertools
import os
import random

import numpy as np
import pytest

from agentkit.core.actions import Choice, Text, ToolCall
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Hint, Observation, Task
from agentkit.core.views import View, conversation
from agentkit.envs.base import Environment
from agentkit.envs.check import CHECKS, CheckReport, Finding, check_env

WAYS = Choice(('on', 'back'))


class Stairs(Environment):
    "Go up three steps. It keeps what it promises; the classes below each break one thing."

    def __init__(self, first: int = 0):
        self.first = first

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{split}/{i}', f'{__name__}:{cls.__name__}', 'up', split, dict(top=3)) for i in range(n or 5)]

    def reset(self, task, seed=0):
        self.top, self.at = task.data['top'], self.first
        return self.see('Stairs. Go up.')

    def step(self, action):
        self.at = max(0, self.at + dict(on=1, back=-1)[action])
        return self.see(f'You are at step {self.at}.')

    def see(self, text):
        return Observation(text, WAYS, float(self.at == self.top), self.at == self.top, float(self.at == self.top))

    def expert(self):
        return Hint('on')

    def progress(self):
        return self.at / self.top

    @classmethod
    def draw(cls, state, whole=False):
        return f'<svg xmlns="http://www.w3.org/2000/svg"><text>{len(state.steps)}</text></svg>'


class Silent(Environment):
    "Only what is needed: an expert, progress and a score it has not. Nor is it registered under its name."

    name = 'silent'

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{split}/{i}', 'silent', split=split) for i in range(n or 5)]

    def reset(self, task, seed=0):
        return Observation(f'Question {task.id}?')

    def step(self, action):
        return Observation('Thank you.', done=True)


class Till(Silent):
    "Calls of tools; its expert gives up after one of them."

    TOOLS = ToolCall({'add': dict(properties=dict(price=dict(type='integer')), required=['price']), 'pay': {}})

    def reset(self, task, seed=0):
        self.calls = 0
        return Observation('Add 2 and pay.', self.TOOLS, score=0.0)

    def step(self, action):
        self.calls += 1
        return Observation('Done.', self.TOOLS, done='pay' in action, score=0.5)

    def expert(self):
        return None if self.calls else Hint('{"tool": "add", "arguments": {"price": 2}}')


class Exact(Silent):
    "A tool that chance cannot call: no text that it makes up fits the pattern."

    def reset(self, task, seed=0):
        date = dict(type='string', pattern=r'^\d{4}-\d\d-\d\d$')
        return Observation('When?', ToolCall({'on': dict(properties=dict(date=date), required=['date'])}))


# One fault each


class NoSplit(Stairs):
    splits = ()


class NoInstructions(Stairs):
    instructions = ' '


class AnyOption(Stairs):
    def __init__(self, **options):
        super().__init__()


class SettingsWithoutName(Stairs):
    settings = dict(colour='red')


class SettingsWithNumber(Stairs):
    name, settings = 'stairs', dict(height=3)


class NoStudentView(Stairs):
    student_view = 'short'


class TooManyTasks(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return super().tasks(split, 5, seed)


class OneSplitForAll(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return super().tasks('train', n, seed)


class ForeignTasks(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{split}/{i}', 'corridor', 'up', split, dict(top=3)) for i in range(n)]


class TaskWithASet(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{split}/{i}', 'x', 'up', split, dict(top=3, rooms={1, 2})) for i in range(n)]


class NoData(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        raise AgentkitError('no stairs: download them')


class DuplicateIds(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(str(i), f'{__name__}:DuplicateIds', 'up', split, dict(top=3)) for i in range(n)]


class IdsOfTheMoment(Stairs):
    count = itertools.count()

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{next(cls.count)}', f'{__name__}:IdsOfTheMoment', 'up', split, dict(top=3)) for _ in range(n)]


class SameIdForEverySeed(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        name = f'{__name__}:SameIdForEverySeed'
        return [Task(f'{split}/{i}', name, 'up', split, dict(top=3 + seed)) for i in range(n)]


class UnlabelledKind(Stairs):
    labels = dict(down='Down')


class RaisesWhenPossible(Stairs):
    def step(self, action):
        if action == 'back':
            raise ValueError('the stairs only go up')
        return super().step(action)


class DeadEnd(Stairs):
    def step(self, action):
        return Observation('A wall.', Choice())


class OverAtOnce(Stairs):
    def reset(self, task, seed=0):
        super().reset(task, seed)
        return Observation('You are up.', WAYS, done=True, score=1.0)


class NoObservation(Stairs):
    def step(self, action):
        return 'You are up.'


class DiceWithoutSeed(Stairs):
    def reset(self, task, seed=0):
        super().reset(task, seed)
        return self.see(f'Stairs number {random.random()}.')


class Remembers(Stairs):
    episodes = 0

    def reset(self, task, seed=0):
        self.episodes += 1
        super().reset(task, seed)
        return self.see('Again the stairs.' if self.episodes > 1 else 'The stairs.')


class ImpossibleHint(Stairs):
    def expert(self):
        return Hint('fly')


class HintAsText(Stairs):
    def expert(self):
        return 'on'


class FickleExpert(Stairs):
    hints = itertools.cycle(WAYS.options)

    def expert(self):
        return Hint(next(self.hints))


class EndlessExpert(Stairs):
    def expert(self):
        return Hint('back')


class RaisingExpert(Stairs):
    def expert(self):
        raise KeyError('up')


class WonButGoesOn(Stairs):
    def see(self, text):
        return Observation(text, WAYS, done=self.at == self.top, score=float(self.at >= self.top - 1))


class ScoreIsForgotten(Stairs):
    def see(self, text):
        done = self.at == self.top
        return Observation(text, WAYS, 1.0, done, None if done else 0.0)


class InfiniteReward(Stairs):
    def see(self, text):
        return Observation(text, WAYS, float('inf') if self.at else 0.0, self.at == self.top)


class ProgressOfTwo(Stairs):
    def progress(self):
        return 2.0


class ProgressNowAndThen(Stairs):
    def progress(self):
        return self.at / self.top or None


class RefusalMoves(Stairs):
    def refuse(self, action, why):
        self.at = max(0, self.at - 1)


class RefusalInSecret(Stairs):
    "What it changes is seen two steps later only."

    def reset(self, task, seed=0):
        self.tired = 0
        return super().reset(task, seed)

    def step(self, action):
        seen = super().step(action)
        return Observation(f'{seen.text} You are tired.', WAYS, 0.0, seen.done) if self.tired > 6 else seen

    def see(self, text):
        return Observation(text, WAYS, 0.0, self.at == self.top)

    def refuse(self, action, why):
        self.tired += 1


class RefusalForgetsTheActions(Stairs):
    def refuse(self, action, why):
        return Observation(f'You cannot {action}: {why}.', score=0.0)


class RefusalEnds(Stairs):
    def refuse(self, action, why):
        return Observation('That was wrong.', WAYS, done=True, score=0.0)


class NotJSON(Stairs):
    def see(self, text):
        done = self.at == self.top
        return Observation(text, WAYS, 0.0, done, np.float32(done))


class OtherInAWorker(Stairs):
    first_process = int(os.environ.setdefault('STAIRS_PROCESS', str(os.getpid())))

    def see(self, text):
        seen = super().see(text)
        return Observation(f'{text} {self.first_process == os.getpid()}', *list(vars(seen).values())[1:])


class IdsOfTheProcess(Stairs):
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        name = f'{__name__}:IdsOfTheProcess'
        return [Task(f'{split}/{i}/{os.getpid()}', name, 'up', split, dict(top=3)) for i in range(n)]


class Backwards(View):
    name = 'backwards'

    def messages(self, state):
        return conversation(state.first.text, state.turns)[1:]


class Dreamer(View):
    name = 'dreamer'

    def offer(self, state):
        return Choice(('on', 'fly'))


class Blind(View):
    name = 'blind'

    def offer(self, state):
        return Choice()


class Talker(View):
    name = 'talker'

    def offer(self, state):
        return Text()


class Counter(View):
    "As many words as there were steps: each prompt is another one."

    name = 'counter'

    def messages(self, state):
        return conversation(f'{len(state.steps)} steps', [])


class Forgetful(Counter):
    grows = True


class ViewOfAState(Stairs):
    views = dict(counter=Counter)


class ViewDoesNotGrow(Stairs):
    views = dict(forgetful=Forgetful)


class ViewBeginsLate(Stairs):
    views = dict(backwards=Backwards)


class ViewOffersTooMuch(Stairs):
    views = dict(dreamer=Dreamer)


class ViewOffersNothing(Stairs):
    views = dict(blind=Blind)


class ViewOffersWords(Stairs):
    views = dict(talker=Talker)


class VaryDropsAMessage(Stairs):
    @classmethod
    def vary(cls, row, r):
        return {**row, 'messages': row['messages'][1:]}


class VaryForgetsTheLoss(Stairs):
    @classmethod
    def vary(cls, row, r):
        return {**row, 'messages': [dict(role=m['role'], content=m['content']) for m in row['messages']]}


class VaryInPlace(Stairs):
    @classmethod
    def vary(cls, row, r):
        row['messages'][0]['content'] = 'Steps.'
        return row


class VaryByOtherDice(Stairs):
    @classmethod
    def vary(cls, row, r):
        first, *rest = row['messages']
        return {**row, 'messages': [{**first, 'content': str(random.random())}, *rest]}


class DrawsInWords(Stairs):
    @classmethod
    def draw(cls, state, whole=False):
        return 'three steps'


class DrawsNoise(Stairs):
    @classmethod
    def draw(cls, state, whole=False):
        return b'\x89PNG' + os.urandom(8)


class CannotDraw(Stairs):
    @classmethod
    def draw(cls, state, whole=False):
        raise OSError('no colours are left')


class ClosesOnce(Stairs):
    closed = False

    def close(self):
        assert not self.closed, 'already closed'
        self.closed = True


class CloseNeedsAnEpisode(Stairs):
    def close(self):
        self.top = self.top


class CloseRaises(Stairs):
    def close(self):
        raise OSError('the stairs are in use')


BROKEN = {
    'declared': (NoInstructions, AnyOption, SettingsWithoutName, SettingsWithNumber),
    'tasks': (TooManyTasks, OneSplitForAll, ForeignTasks, TaskWithASet, NoData),
    'ids': (DuplicateIds, IdsOfTheMoment, SameIdForEverySeed),
    'kinds': (UnlabelledKind,),
    'steps': (RaisesWhenPossible, DeadEnd, OverAtOnce, NoObservation),
    'resets': (DiceWithoutSeed, Remembers),
    'expert': (ImpossibleHint, HintAsText, FickleExpert, EndlessExpert, RaisingExpert),
    'scores': (WonButGoesOn, ScoreIsForgotten, InfiniteReward),
    'progress': (ProgressOfTwo, ProgressNowAndThen),
    'refusals': (RefusalMoves, RefusalInSecret, RefusalForgetsTheActions, RefusalEnds),
    'pipe': (NotJSON, OtherInAWorker, IdsOfTheProcess),
    'views': (ViewBeginsLate, ViewOffersTooMuch, ViewOffersNothing, ViewOffersWords, ViewDoesNotGrow),
    'vary': (VaryDropsAMessage, VaryForgetsTheLoss, VaryInPlace, VaryByOtherDice),
    'draw': (DrawsInWords, DrawsNoise, CannotDraw),
    'close': (ClosesOnce, CloseNeedsAnEpisode, CloseRaises),
}


def test_every_check_has_an_environment_that_breaks_it():
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.parametrize('name, kind', [(name, kind) for name, kinds in BROKEN.items() for kind in kinds])
def test_a_broken_promise_is_named_and_no_other(name, kind):
    report = check_env(f'{__name__}:{kind.__name__}')
    assert report.broken == [name] and not report.ok, str(report)
    (finding,) = [f for f in report.findings if f.ok is False]
    assert finding.text and '\n' not in finding.text
    assert f'{kind.__name__} breaks {name}' in str(report)


def test_what_keeps_its_promises():
    report = check_env(f'{__name__}:Stairs', first=1)
    assert report.ok and [f.name for f in report.findings if f.ok is None] == []
    assert {f.name: f.text for f in report.findings}['expert'] == 'won 4 of 4'


def seen(report):
    assert report.ok, str(report)
    return {f.name: (f.ok, f.text) for f in report.findings}


def test_only_what_is_needed_is_enough():
    found = seen(check_env(f'{__name__}:Silent'))
    assert found['expert'] == found['progress'] == found['draw'] == (None, 'it has none')
    assert found['scores'] == (True, 'at the end: a judge has to say')


def test_a_view_may_show_a_state():
    assert seen(check_env(f'{__name__}:ViewOfAState'))['views'] == (True, 'full, bare, counter, student')


def test_tools_and_an_expert_that_gives_up():
    assert seen(check_env(f'{__name__}:Till'))['expert'] == (True, 'gave up in 4 of 4')
    assert seen(check_env(f'{__name__}:Exact'))['steps'][1].startswith('0 steps of chance in 4 tasks')


def test_a_split_that_is_not_on_this_machine_is_reported():
    class Split(Stairs):
        @classmethod
        def tasks(cls, split, n=None, seed=0):
            if split == 'valid':
                raise AgentkitError('valid has to be downloaded')
            return super().tasks(split, n, seed)

    globals()['Split'], Split.__qualname__ = Split, 'Split'
    report = check_env(f'{__name__}:Split')
    assert report.findings[1] == Finding('tasks', True, '2 of train; valid cannot be had: valid has to be downloaded')


def test_what_a_person_can_put_right_is_an_error_and_no_report():
    with pytest.raises(AgentkitError, match="unknown environment 'coridor'"):
        check_env('coridor')
    with pytest.raises(AgentkitError, match="does not take these options: .*'last'"):
        check_env(f'{__name__}:Stairs', last=1)
    with pytest.raises(AgentkitError, match='is not an environment'):
        check_env('json:dumps')


def test_the_report_is_a_table():
    report = CheckReport('x', (Finding('ids', True, 'a|b'), Finding('close', None, 'it has none')))
    assert report._repr_markdown_().splitlines()[2:] == [
        '| promise | | what was seen |',
        '|---|---|---|',
        '| ids | ok | a\\|b |',
        '| close | - | it has none |',
    ]
    assert report.ok and not report.broken


def test_the_corridor():
    seen(check_env('corridor', n=5))
    seen(check_env('corridor', seed=3, start=2))


def test_built_household_games():
    found = seen(check_env('household', n=1))
    assert found['expert'] == (True, 'won 2 of 2')


def test_real_games():
    if not os.environ.get('ALFWORLD_DATA'):
        pytest.skip('ALFWORLD_DATA is not set: no real games')
    assert seen(check_env('alfworld', n=1))['expert'][1].startswith('won ')
