"Episodes in worker processes: killed, resumed, raising; and the program that DSPy sees."

import os
import signal

import dspy
import psutil
import pytest

from agentkit.agents.policy import Agent
from agentkit.agents.programs import ProgramAgent, expert_agent, random_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal
from agentkit.envs.find import list_tasks
from agentkit.envs.pool import EnvPool
from agentkit.judges.base import success
from agentkit.testing.models import scripted_lm
from agentkit.rollouts import Limits, Player, examples, play, run_many

TASKS = list_tasks('corridor', 'train', 6)


@pytest.fixture
def pool():
    with EnvPool('corridor', n=2, timeout=20) as p:
        yield p


def outcome(trajectories):
    return [(t.task.id, t.termination, [(s.action, s.observation) for s in t.steps]) for t in trajectories]


def test_parallel_equals_serial(pool):
    serial = run_many(random_agent(), TASKS, pool, parallel=1, progress=False)
    assert outcome(run_many(random_agent(), TASKS, pool, parallel=4, progress=False)) == outcome(serial)


def test_a_worker_killed_in_an_episode_is_replaced_and_the_episode_runs_again(pool):
    killed = []

    def killer(task, trajectory, possible_actions):
        if trajectory and not killed:
            child = psutil.Process().children(recursive=True)[0]
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        return 'forward'

    with EnvPool('corridor', n=1, timeout=20) as one:
        t = play(ProgramAgent(killer, 'killer'), one, TASKS[3])
    assert killed and t.won and len(t.steps) == 4


def test_an_interrupted_run_resumes_to_the_same_table(pool, tmp_path):
    whole = run_many(random_agent(), TASKS, pool, repeats=2, progress=False)
    journal = tmp_path / 'j.jsonl'
    run_many(random_agent(), TASKS[:2], pool, repeats=2, journal=journal, progress=False)
    with open(journal, 'a') as f:
        f.write('{"format": "agentkit-traj')
    played = []
    watch = ProgramAgent(lambda **k: played.append(k['task']) or random_agent()(**k).action, 'random')
    resumed = run_many(watch, TASKS, pool, repeats=2, journal=journal, progress=False)
    assert outcome(resumed) == outcome(whole)
    assert not {t.intro for t in whole if t.task in TASKS[:2]} & set(played), 'what was in the journal was played again'
    assert len(Journal(journal)) == len(whole)


def test_a_journal_of_other_tasks_is_not_taken_for_this_one(pool, tmp_path):
    import dataclasses

    journal = tmp_path / 'j.jsonl'
    run_many(expert_agent('corridor'), TASKS[:1], pool, journal=journal, progress=False)
    changed = dataclasses.replace(TASKS[0], data={'doors': 5})
    assert len(run_many(expert_agent('corridor'), [changed], pool, journal=journal, progress=False)[0].steps) == 5


def test_nothing_is_left_running():
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    run_many(expert_agent('corridor'), TASKS, progress=False)
    left = [
        p
        for p in psutil.Process().children(recursive=True)
        if p.pid not in before and p.status() != psutil.STATUS_ZOMBIE
    ]
    assert not left


def test_no_tasks_is_an_error(pool):
    with pytest.raises(AgentkitError, match='no tasks to play'):
        run_many(random_agent(), [], pool)


@pytest.mark.parametrize(
    'policy, termination',
    [
        (ProgramAgent(lambda **_: '', 'mute'), 'invalid'),
        (ProgramAgent(lambda **_: 'fly', 'bird'), 'invalid'),
        (ProgramAgent(lambda **_: 'think: hm', 'hamlet'), 'loop'),
        (ProgramAgent(lambda **_: 'back', 'coward'), 'loop'),
        (ProgramAgent(lambda **_: 1 / 0, 'broken'), 'error'),
        (Agent(scripted_lm([f'think: {i}' for i in range(99)])), 'max_steps'),
        (ProgramAgent(lambda **_: 'forward', 'brave'), 'won'),
    ],
)
def test_every_end_has_its_name(pool, policy, termination):
    t = play(policy, pool, TASKS[1])
    assert t.termination == termination
    assert t.won == (termination == 'won') == bool(t.score)


def test_invalid_actions_are_counted(pool):
    answers = iter(['fly', 'forward', '', 'forward'])
    t = play(ProgramAgent(lambda **_: next(answers), 'clumsy'), pool, TASKS[1])
    assert t.won and t.invalid == 2 and [s.valid for s in t.steps] == [False, True, False, True]


def test_tokens_and_calls_are_counted(pool):
    t = play(Agent(scripted_lm(['forward'])), pool, TASKS[2])
    assert t.usage['calls'] == 3 and t.usage['tokens_out'] == 3 and t.usage['tokens_in'] > 30


def test_the_player_is_a_dspy_program_that_never_raises(pool):
    ok = Player(expert_agent('corridor'), TASKS, pool)
    result = dspy.Evaluate(devset=examples(TASKS), metric=success, num_threads=2, display_progress=False)(ok)
    assert result.score == 100
    broken = Player(ProgramAgent(lambda **_: 1 / 0, 'broken'), TASKS, pool)
    assert (
        dspy.Evaluate(devset=examples(TASKS), metric=success, num_threads=1, display_progress=False, max_errors=1)(
            broken
        ).score
        == 0
    )
    prediction = broken(task_id=TASKS[0].id)
    assert prediction.termination == 'error' and 'ZeroDivisionError' in prediction.episode.error


def test_an_unknown_task_id_is_named(pool):
    with pytest.raises(AgentkitError, match="no task 'x'"):
        Player(random_agent(), TASKS, pool)(task_id='x')


def test_limits_of_steps(pool):
    assert (
        len(
            play(
                random_agent(), pool, list_tasks('corridor', 'train', 60)[59], limits=Limits(max_steps=7, loop=99)
            ).steps
        )
        == 7
    )
