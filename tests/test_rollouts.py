"Episodes in worker processes: killed, resumed, raising; what a journal answers for; and the program that DSPy sees."

import dataclasses
import functools
import importlib
import itertools
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dspy
import psutil
import pytest
from dspy import lm15

from agentkit.agents.policy import Agent, ConversationAdapter
from agentkit.agents.programs import Chance, Expert, Guided, Program
from agentkit.core.actions import Choice, Text, ToolCall
from agentkit.core import store
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal
from agentkit.core.types import Hint, Observation, Task
from agentkit.core.views import View
from agentkit.envs.base import Environment
from agentkit.envs.find import list_tasks
from agentkit.evals import evaluate
from agentkit.judges.base import success
from agentkit.models.remote import backoff
from agentkit.rollouts import Limits, Player, Runner, examples, read_trajectories, run_episode
from agentkit.testing.corridor import Corridor
from agentkit.testing.models import scripted_lm
from agentkit.tuning.prompts import with_prompt

TASKS = list_tasks('corridor', 'train', 6)


@pytest.fixture
def run():
    with Runner('corridor', timeout=20, progress=False) as runner:
        yield runner


def outcome(trajectories):
    return [(t.task.id, t.termination, t.turns) for t in trajectories]


def test_parallel_equals_serial(run):
    with Runner('corridor', workers=1, progress=False) as serial:
        assert outcome(run(Chance(), TASKS)) == outcome(serial(Chance(), TASKS))


def test_a_worker_killed_in_an_episode_is_replaced_and_the_episode_runs_again():
    killed = []

    def killer(state):
        if state.steps and not killed:
            child = psutil.Process().children(recursive=True)[0]
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        return 'forward'

    with Runner('corridor', workers=1, timeout=20, progress=False) as one:
        t = one.play(Program(killer, 'killer'), TASKS[3])
    assert killed and t.won and len(t.steps) == 4


def test_an_interrupted_run_resumes_to_the_same_table(run, tmp_path):
    whole = run(Chance(), TASKS, repeats=2)
    journal = tmp_path / 'j.jsonl'
    run(Chance(), TASKS[:2], repeats=2, journal=journal)
    with open(journal, 'a') as f:
        f.write('{"format": "agentkit-traj')
    played = []
    watch = Program(lambda state: played.append(state.first.text) or Chance().act(state), 'random', Chance().id)
    resumed = run(watch, TASKS, repeats=2, journal=journal)
    assert outcome(resumed) == outcome(whole)
    known = {t.first.text for t in whole if t.task in TASKS[:2]}
    assert not known & set(played), 'what was in the journal was played again'
    assert len(Journal(journal)) == len(whole)


def interrupted_run(run, act, **options):
    "A run whose main thread is interrupted by its policy."
    with pytest.raises(KeyboardInterrupt):
        run(Program(act, 'interrupting'), LONG, **options)
        time.sleep(60)  # the signal may come a moment after the run


LONG = [dataclasses.replace(list_tasks('corridor', 'train', 15)[14], id=f'long-{k}') for k in range(16)]  # 15 steps


def test_what_is_under_way_at_an_interrupt_is_kept(tmp_path):
    acted = []

    def act(state):
        acted.append(state.task.id)
        if len(acted) == 60:
            os.kill(os.getpid(), signal.SIGINT)
        return 'forward'

    with Runner('corridor', workers=4, parallel=8, progress=False) as run:
        interrupted_run(run, act, journal=tmp_path / 'e.jsonl')
        kept = read_trajectories(tmp_path / 'e.jsonl')
        assert sum(len(t.steps) for t in kept) == len(acted), 'an answer was thrown away'
        assert all(t.won for t in kept) and len(kept) < len(LONG)
        played = len(acted)
        assert all(t.won for t in run(Program(act, 'interrupting'), LONG, journal=tmp_path / 'e.jsonl'))
        assert len(acted) - played == 15 * (len(LONG) - len(kept)), 'a kept episode was played again'


def test_an_episode_that_takes_too_long_ends_at_its_next_step(tmp_path, monkeypatch):
    "Nobody waits for 50 slow answers."
    monkeypatch.setattr(store, 'GRACE', 0.0)
    entered, after, real = threading.Barrier(2), [], store._wait_or_stop

    def act(state):
        if len(state.steps) == 5:
            if entered.wait(30) == 0:
                os.kill(os.getpid(), signal.SIGINT)
            while not after:
                time.sleep(0.01)
        assert len(state.steps) < 6, 'it went on'
        return 'forward'

    monkeypatch.setattr(store, '_wait_or_stop', lambda *args: (real(*args), after.append(1)))
    before = threading.active_count()
    with Runner('corridor', workers=2, progress=False) as run:
        interrupted_run(run, act, journal=tmp_path / 'e.jsonl')
        assert threading.active_count() == before and not Journal(tmp_path / 'e.jsonl').rows()


def test_who_waits_for_a_busy_server_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(store, 'GRACE', 0.0)

    def busy():
        os.kill(os.getpid(), signal.SIGINT)
        raise lm15.RateLimitError('tomorrow', retry_after=250.0)

    with Runner('corridor', workers=1, progress=False) as run:
        interrupted_run(run, lambda state: backoff()(busy), journal=tmp_path / 'e.jsonl')


def test_a_journal_of_other_tasks_is_not_taken_for_this_one(run, tmp_path):
    journal = tmp_path / 'j.jsonl'
    run(Expert(), TASKS[:1], journal=journal)
    changed = dataclasses.replace(TASKS[0], data={'doors': 5})
    assert len(run(Expert(), [changed], journal=journal)[0].steps) == 5


# --- a journal never answers for another run ---


def test_other_limits_are_other_episodes(tmp_path):
    with Runner('corridor', tmp_path, Limits(max_steps=2), workers=1, progress=False) as run:
        short = run(Expert(), TASKS)
        long = run.with_limits(max_steps=50)(Expert(), TASKS)
        assert run(Expert(), TASKS) == short
    assert sum(t.won for t in short) == 2 and sum(t.won for t in long) == 6


def test_another_prompt_of_the_same_model_is_another_policy(run, tmp_path):
    journal = tmp_path / 'j.jsonl'
    slow, fast = (Agent(scripted_lm([word]), f'Say {word}.', think=False) for word in ('back', 'forward'))
    assert slow.name == fast.name and slow.id != fast.id
    assert run(slow, TASKS[:1], journal=journal)[0].termination == 'loop'
    with pytest.raises(AgentkitError, match='with another prompt, view, weights or sampling'):
        run(fast, TASKS[:1], journal=journal)
    with Runner('corridor', tmp_path, workers=1, progress=False) as kept:
        assert [kept(a, TASKS[:1])[0].termination for a in (slow, fast)] == ['loop', 'won']


def test_another_option_of_the_environment_is_another_environment(tmp_path):
    steps = []
    for options in ({}, dict(start=3), {}):
        with Runner('corridor', tmp_path, workers=1, progress=False, **options) as run:
            steps.append(len(run(Expert(), TASKS[5:])[0].steps))
    assert steps == [6, 3, 6]
    with Runner('corridor', workers=1, progress=False, start=3) as run:
        run(Expert(), TASKS[5:], journal=tmp_path / 'mine.jsonl')
    with Runner('corridor', workers=1, progress=False) as run:
        with pytest.raises(AgentkitError, match='environment corridor-.* there, corridor here'):
            run(Expert(), TASKS[5:], journal=tmp_path / 'mine.jsonl')


def test_another_version_of_the_environment_is_another_environment(tmp_path, monkeypatch):
    policy = Program(lambda state: 'forward', 'hasty')
    with Runner('corridor', tmp_path, workers=1, progress=False) as run:
        (first,) = run(policy, TASKS[:1], journal=tmp_path / 'mine.jsonl')
    monkeypatch.setattr(Corridor, 'version', classmethod(lambda cls: '2'))
    with Runner('corridor', tmp_path, workers=1, progress=False) as run:
        (again,) = run(policy, TASKS[:1])
        assert (first.environment, first.version, again.environment, again.version) == (
            *('corridor', ''),
            *('corridor@2', '2'),
        )
        assert again.key == run.key(policy, TASKS[0]) != first.key
        with pytest.raises(AgentkitError, match='environment corridor there, corridor@2 here'):
            run(policy, TASKS[:1], journal=tmp_path / 'mine.jsonl')


@pytest.mark.parametrize('play', [lambda run, who: run(who, TASKS[:1]), lambda run, who: run.play(who, TASKS[0])])
def test_who_has_learned_in_another_version_does_not_play(play, run):
    agent = Agent(scripted_lm(['forward']), think=False)
    agent.learned_in = dict(corridor='2', elsewhere='7')
    with pytest.raises(AgentkitError, match='has learned in corridor 2, and here is no version: install') as e:
        play(run, agent.sampling(seed=1))
    assert '\n' not in str(e.value)
    agent.learned_in = dict(elsewhere='7')
    play(run, agent)


def test_an_episode_that_broke_off_is_played_again(tmp_path):
    broken = [True]

    def moody(state):
        return 1 / 0 if broken[0] else 'forward'

    with Runner('corridor', tmp_path, workers=1, progress=False) as run:
        first = run(Program(moody, 'moody'), TASKS[:2])
        broken[0] = False
        second = run(Program(moody, 'moody'), TASKS[:2])
        path = run.journal(Program(moody, 'moody'))
    assert [t.termination for t in first] == ['error'] * 2 and [t.score for t in first] == [None] * 2
    assert [t.termination for t in second] == ['won'] * 2
    assert len(Journal(path)) == 4 and len(read_trajectories(path)) == 2


@pytest.mark.parametrize('order', [*itertools.permutations(('error', 'won', 'error'))])
def test_an_episode_that_was_measured_counts_whatever_came_after(order, tmp_path):
    "Of two runs at once, one had trouble with its server."
    journal = Journal(tmp_path / 'j.jsonl')
    t = run_episode(Expert(), Corridor(), TASKS[0])
    broken = dataclasses.replace(t, termination='error', error='no answer', score=None)
    for end in order:
        journal.append((t if end == 'won' else broken).to_dict())
    assert [t.termination for t in read_trajectories(journal.path)] == ['won']


def test_two_runs_at_once_play_each_episode_once(tmp_path):
    def one(_):
        with Runner('corridor', tmp_path, workers=1, progress=False) as run:
            return run(Chance(), TASKS, repeats=3)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(one, range(2))
    assert first == second, 'the second took what the first had played'
    (path,) = tmp_path.glob('episodes/*.jsonl')
    assert len(Journal(path)) == len(read_trajectories(path)) == len(first) == 18


def test_a_task_named_twice_is_one(run):
    report = evaluate(Chance(), [*TASKS[:2], *TASKS[:2]], run, repeats=2)
    assert report.summary['n'] == 4 and len(run(Chance(), TASKS[:1] * 3)) == 3


LIMITS = dict(max_steps=9, max_invalid=2, loop=3)


@pytest.mark.parametrize('name', LIMITS)
def test_a_journal_under_another_limit_says_which(name, run, tmp_path):
    run(Expert(), TASKS[:1], journal=tmp_path / 'j.jsonl')
    other = run.with_limits(**{name: LIMITS[name]})
    was = getattr(Limits(), name)
    with pytest.raises(AgentkitError, match=f'under other conditions: {name} {was} there, {LIMITS[name]} here; name'):
        evaluate(Expert(), TASKS, other, journal=tmp_path / 'j.jsonl')
    assert len(Journal(tmp_path / 'j.jsonl')) == 1, 'nothing was played before it was said'


class Louder(View):
    "A view whose writer has given it no name of its own."

    def messages(self, state):
        return [{**m, 'content': m['content'].upper()} for m in super().messages(state)]


class Short(ConversationAdapter):
    "An adapter of one's own."


def other_agents():
    "Agents that differ in one thing each."
    lm = scripted_lm(['forward'])
    example = dspy.Example(task='t', trajectory='', possible_actions=['a'], action='a')
    yield 'demonstrations', with_prompt(Agent(lm, think=False), 'Choose the next action.', [example])
    yield 'window', Agent(lm, think=False, adapter=ConversationAdapter(window=1))
    yield 'view', Agent(lm, think=False, adapter=ConversationAdapter('bare'))
    yield 'class of the view', Agent(lm, think=False, adapter=ConversationAdapter(Louder()))
    yield 'window of an own adapter', Agent(lm, think=False, adapter=Short(window=1))
    yield 'an own adapter', Agent(lm, think=False, adapter=Short())
    yield 'thoughts', Agent(lm)
    yield 'temperature', Agent(lm, think=False).sampling(temperature=0.5)
    yield 'a setting of few', Agent(lm.copy(min_p=0.1), think=False)
    yield 'another of few', Agent(lm.copy(min_p=0.2), think=False)
    of_the_predictor = Agent(lm, think=False)
    of_the_predictor.react.config = dict(temperature=0.9)
    yield 'a setting of the predictor', of_the_predictor
    yield 'class of the agent', type('Bold', (Agent,), {})(lm, think=False)


@pytest.mark.parametrize('what, agent', [*other_agents()], ids=lambda x: x if isinstance(x, str) else '')
def test_a_journal_of_another_agent_is_not_taken(what, agent, run, tmp_path):
    plain = Agent(scripted_lm(['forward']), think=False)
    run(plain, TASKS[:1], journal=tmp_path / 'j.jsonl')
    with pytest.raises(AgentkitError, match='with another prompt, view, weights or sampling'):
        run(agent, TASKS[:1], journal=tmp_path / 'j.jsonl')


def test_agents_that_differ_have_different_ids():
    ids = [agent.id for _, agent in other_agents()]
    assert len(set(ids)) == len(ids) and ids == [agent.id for _, agent in other_agents()]


def test_programs_are_told_apart_by_what_they_take_from_outside(run, tmp_path):
    "The same source, closed over another word, bound to another or with another default."

    def closed(word):
        return lambda state: word

    def bound(word, state):
        return word

    words = ('forward', 'back')
    for make in (closed, lambda w: functools.partial(bound, w), lambda w: lambda state, word=w: word):
        one, other = (Program(make(w), 'walker') for w in words)
        assert one.id == Program(make('forward'), 'walker').id != other.id
        run(one, TASKS[:1], journal=tmp_path / f'{one.id}.jsonl')
        with pytest.raises(AgentkitError, match='under other conditions: walker with another'):
            run(other, TASKS[:1], journal=tmp_path / f'{one.id}.jsonl')


LAMP = """
from agentkit.core.actions import Choice
from agentkit.core.types import Observation, Task
from agentkit.envs.base import Environment
from agentkit.envs.find import env_settings


class Lamp(Environment):
    "Switch it on."

    name = 'lamp'
    settings = dict(colour='white', folder='')
    places = ('folder',)

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task('lamp', 'lamp', split=split)]

    def reset(self, task, seed=0):
        return Observation(f'A {env_settings(type(self))["colour"]} lamp.', Choice(('on',)))

    def step(self, action):
        return Observation('It is on.', Choice(('on',)), done=True, score=1.0)
"""


@pytest.fixture
def lamp(tmp_path, monkeypatch):
    "Plays somebody's environment after an edit: what was seen at last, and how many episodes are kept by now."
    name = f'lamp_of_{tmp_path.name}'
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONDONTWRITEBYTECODE', '1')

    def play(*edit):
        (tmp_path / f'{name}.py').write_text(LAMP.replace(*edit) if edit else LAMP)
        with Runner(f'{name}:Lamp', tmp_path / 'kept', workers=1, progress=False) as run:
            (t,) = run(Program(lambda state: 'on', 'switch'), run.tasks('train'))
        episodes = sum(len(Journal(p)) for p in (tmp_path / 'kept' / 'episodes').glob('*.jsonl'))
        return t.first.text, t.steps[-1].observation.text, episodes

    yield play
    sys.modules.pop(name, None)


def test_an_environment_that_was_edited_plays_anew(lamp):
    assert lamp() == ('A white lamp.', 'It is on.', 1)
    assert lamp('is on', 'shines') == ('A white lamp.', 'It shines.', 2)
    assert lamp() == ('A white lamp.', 'It is on.', 2), 'it is known again'
    assert lamp('"Switch it on."', '"Another word."\n    # for people')[2] == 2, 'words change nothing'


def test_settings_that_change_an_episode_are_part_of_its_key(lamp, monkeypatch):
    lamp()
    monkeypatch.setenv('AGENTKIT_LAMP_COLOUR', 'red')
    assert lamp()[::2] == ('A red lamp.', 2)
    monkeypatch.setenv('AGENTKIT_LAMP_FOLDER', '/elsewhere')
    assert lamp()[::2] == ('A red lamp.', 2), 'a place is no condition'


def test_whoever_says_a_version_says_when_to_play_anew(lamp):
    "From then on code does not count."
    first = "name = 'lamp'", "name = 'lamp'\n    version = classmethod(lambda cls: '1')"
    assert lamp(*first)[2] == 1
    assert lamp(first[0], first[1] + '\n    hue = 3')[2] == 1


@pytest.mark.parametrize('place, name', [('agentkit.envs.find', 'RULES'), ('agentkit.testing.corridor', 'version')])
def test_other_rules_of_the_kit_play_anew(place, name, tmp_path, monkeypatch):
    "A number that is raised, of the loop or of an environment of the kit."
    with Runner('corridor', tmp_path, workers=1, progress=False) as run:
        (before,) = run(Expert(), TASKS[:1])
    assert run.id == 'corridor', 'what was played by the first rules is known'
    raised = (Corridor, name, lambda: '2') if name == 'version' else (importlib.import_module(place), name, 2)
    monkeypatch.setattr(*raised)
    with Runner('corridor', tmp_path, workers=1, progress=False) as other:
        (after,) = other(Expert(), TASKS[:1])
        with pytest.raises(AgentkitError, match='environment corridor there, corridor(-[0-9a-f]{12}|@2) here'):
            other(Expert(), TASKS[:1], journal=run.journal(Expert()))
    assert after.key != before.key and outcome([after]) == outcome([before])


def test_hints_that_were_not_recorded_are_asked_for(tmp_path):
    with Runner('corridor', tmp_path, workers=1, progress=False) as run:
        assert run(Expert(), TASKS[:1])[0].steps[0].hint is None
        assert run(Expert(), TASKS[:1], hints=True)[0].steps[0].hint.action == 'forward'


def test_repeats_are_seeds_and_samples_are_draws(run):
    drawn = run(Chance(5), TASKS[2:3], repeats=2, samples=3)
    assert [(t.seed, t.sample) for t in drawn] == [(s, k) for s in (0, 1) for k in range(3)]
    assert len({str(t.turns) for t in drawn[:3]}) > 1, 'all samples are the same draw'
    assert {t.policy for t in drawn} == {'random-5'} and len({t.policy_id for t in drawn}) == 1


def test_guided_keeps_the_episodes_of_a_task_apart():
    "Four episodes of one task in flight: each is handed over after five departures, not after four or seven."
    guide = Guided(Program(lambda state: 'back', 'coward'), Expert(), departures=5)
    with Runner('corridor', workers=2, parallel=4, progress=False) as run:
        episodes = run(guide, TASKS[5:], repeats=8)
    assert [[s.action for s in t.steps] for t in episodes] == [['back'] * 5 + ['forward'] * 6] * 8


# --- whatever may be done ---


class Till(Environment):
    "Add two numbers with a tool, then say the sum; only a judge can say how politely."

    TOOLS = ToolCall({'add': dict(properties=dict(a=dict(type='number'), b=dict(type='number')), required=['a', 'b'])})

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task(f'{split}/sum', 'till', split=split)]

    def reset(self, task, seed=0):
        return Observation('What is 1 + 2?', self.TOOLS)

    def step(self, action):
        if action.startswith('{'):
            return Observation('3', Text(), reward=0.5)
        return Observation('Thank you.', Text(), reward=1.0, done=True)

    def refuse(self, action, why):
        return Observation(f'Use the tool: {why}.', self.TOOLS)

    def expert(self):
        return Hint('3')


def test_tools_free_text_rewards_and_an_end_that_only_a_judge_can_value():
    call = '{"tool": "add",\n "arguments": {"a": 1,  "b": 2}}'
    replies = iter(['add them', call, 'It is  3.\nYou are welcome.'])
    t = run_episode(Program(lambda state: next(replies), 'clerk'), Till(), Till.tasks('train')[0])
    assert [s.valid for s in t.steps] == [False, True, True]
    assert t.steps[0].observation.text == 'Use the tool: it is not possible now.'
    assert [s.action for s in t.steps[1:]] == [call, 'It is  3.\nYou are welcome.']
    assert (t.termination, t.score, t.total_reward) == ('ended', None, 1.5)


def test_chance_and_thinking_agents_play_where_there_is_no_list():
    assert run_episode(Chance(), Till(), Till.tasks('train')[0]).termination == 'ended'
    lm = scripted_lm(['think: a tool', '{"tool": "add", "arguments": {"a": 1, "b": 2}}', 'It is 3.'])
    t = run_episode(Agent(lm), Till(), Till.tasks('train')[0])
    assert t.steps[0].decision.thought == 'a tool' and t.steps[0].valid and t.termination == 'ended'


def test_an_action_that_is_not_possible_never_reaches_the_environment():
    class Glass(Environment):
        def reset(self, task, seed=0):
            return Observation('A glass.', Choice(('look',)), score=0.0)

        def step(self, action):
            assert action == 'look', 'it is broken'
            return Observation('Still there.', Choice(('look',)), done=True, score=1.0)

    answers = iter(['drop it', '', 'look'])
    t = run_episode(Program(lambda state: next(answers), 'child'), Glass(), Task('glass', 'glass'))
    assert t.won and t.invalid == 2 and t.steps[0].observation.text == 'Nothing happens.'


# --- how episodes end ---


def test_nothing_is_left_running():
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with Runner('corridor', progress=False) as run:
        run(Expert(), TASKS)
    now = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not [p for p in now if p.status() != psutil.STATUS_ZOMBIE]


def test_no_tasks_is_an_error(run):
    with pytest.raises(AgentkitError, match='no tasks to play'):
        run(Chance(), [])


@pytest.mark.parametrize(
    'policy, termination',
    [
        (Program(lambda state: '', 'mute'), 'invalid'),
        (Program(lambda state: 'fly', 'bird'), 'invalid'),
        (Agent(scripted_lm(['think: hm'])), 'loop'),
        (Program(lambda state: 'back', 'coward'), 'loop'),
        (Program(lambda state: 1 / 0, 'broken'), 'error'),
        (Agent(scripted_lm([f'think: {i}' for i in range(99)])), 'max_steps'),
        (Program(lambda state: 'forward', 'brave'), 'won'),
    ],
)
def test_every_end_has_its_name(run, policy, termination):
    t = run.play(policy, TASKS[1])
    assert t.termination == termination
    assert t.won == (termination == 'won') == (t.score == 1)


def test_invalid_actions_are_counted(run):
    answers = iter(['fly', 'forward', '', 'forward'])
    t = run.play(Program(lambda state: next(answers), 'clumsy'), TASKS[1])
    assert t.won and t.invalid == 2 and [s.valid for s in t.steps] == [False, True, False, True]


def test_tokens_and_calls_are_counted(run):
    t = run.play(Agent(scripted_lm(['forward'])), TASKS[2])
    assert t.usage['calls'] == 3 and t.usage['tokens_out'] == 3 and t.usage['tokens_in'] > 30


def test_progress_is_recorded(run):
    walked = iter(['forward', 'forward', *['back', 'back'] * 20])
    t = run.play(Program(lambda state: next(walked), 'undecided'), TASKS[3])
    assert t.progress == 0.5 and run.play(Expert(), TASKS[3]).progress == 1


def test_limits_of_steps():
    with Runner('corridor', limits=Limits(max_steps=7, loop=99), workers=1, progress=False) as run:
        assert len(run.play(Chance(), list_tasks('corridor', 'train', 60)[59]).steps) == 7


# --- DSPy ---


def test_the_player_is_a_dspy_program_that_never_raises(run):
    ok = Player(Expert(), TASKS, run)
    options = dict(devset=examples(TASKS), metric=success, display_progress=False)
    assert dspy.Evaluate(num_threads=2, **options)(ok).score == 100
    broken = Player(Program(lambda state: 1 / 0, 'broken'), TASKS, run)
    assert dspy.Evaluate(num_threads=1, max_errors=1, **options)(broken).score == 0
    prediction = broken(task_id=TASKS[0].id)
    assert prediction.termination == 'error' and 'ZeroDivisionError' in prediction.episode.error


def test_an_unknown_task_id_is_named(run):
    with pytest.raises(AgentkitError, match="no task 'x'"):
        Player(Chance(), TASKS, run)(task_id='x')
