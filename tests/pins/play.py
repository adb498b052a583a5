"Episodes as they are played: built games, real games, and every program that plays."

import hashlib
import os

import pytest

from . import parts, pin

POLICIES = ('expert', 'random', 'random_seed', 'reader', 'explorer', 'explorer_seed', 'guided')
MAX_STEPS = 14


# --- the kit ---


def corridors():
    from agentkit.envs.find import list_tasks

    return list_tasks('corridor', 'valid_unseen', 4, 0)


def built_games(split='valid_unseen', n=3, seed=0):
    from agentkit.envs.find import list_tasks

    return list_tasks('household', split, n, seed)


def real_games(n=2):
    from agentkit.envs.find import list_tasks

    return list_tasks('alfworld', 'valid_seen', n, 0)


def policy_of(name, env):
    from agentkit.agents.programs import Chance, Expert, Explorer, Guided

    known = {
        'expert': Expert(),
        'random': Chance(0),
        'random_seed': Chance(3),
        'reader': Chance(0, 'student'),
        'explorer': Explorer(Expert(), seed=0),
        'explorer_seed': Explorer(Expert(), rate=0.5, seed=2),
        'guided': Guided(Chance(0), Expert(), departures=3),
    }
    return known[name]


def played(policy, tasks, max_steps):
    "An episode of each task."
    from agentkit.envs.find import make_env
    from agentkit.rollouts import Limits, run_episode

    env = make_env(tasks[0].env)
    try:
        return [run_episode(policy, env, t, 0, limits=Limits(max_steps=max_steps)) for t in tasks]
    finally:
        env.close()


def game_file(task):
    from agentkit.envs.alfworld.environment import game_path

    return game_path(task)


def progress(t):
    "How far the environment says that each part of the episode got."
    from agentkit.core.types import transcript
    from agentkit.envs.alfworld.expert import progress

    return [progress(t.first.text, transcript(t.turns[:k])) for k in range(len(t.steps) + 1)]


def told(t):
    "Of each step: what was possible, what was done, what was observed, and whether it was possible."
    from agentkit.core.types import said

    return [
        (t.state(k).now.actions.options, said(s.decision), s.observation.text, s.valid) for k, s in enumerate(t.steps)
    ]


# --- what is pinned ---


def digests(named):
    "Of texts that are not ours to give away: a digest each."
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in named}


def episode(t):
    "Task, policy and every step as text."
    steps = [f'> {action}{"" if valid else "    (not admissible)"}\n{seen}' for _, action, seen, valid in told(t)]
    end = f'{t.policy}: {t.termination} after {len(t.steps)} steps, score {t.score:g}'
    return '\n'.join([t.first.text, *steps, end])


def whole(t):
    "The episode with what was admissible at each step, and its progress."
    progressed = progress(t)
    steps = [
        '\n'.join([*(f'  {a}' for a in possible), f'progress {p:.4f}', f'> {action}', seen])
        for (possible, action, seen, _), p in zip(told(t), progressed)
    ]
    end = [f'progress {progressed[-1]:.4f}', f'{t.termination}, score {t.score:g}']
    return '\n'.join([t.first.text, *steps, *end])


@pin('corridor', *POLICIES)
def _(folder, name):
    return parts((t.task.id, episode(t)) for t in played(policy_of(name, 'corridor'), corridors(), MAX_STEPS))


@pin('household', *POLICIES)
def _(folder, name):
    return parts((t.task.id, episode(t)) for t in played(policy_of(name, 'household'), built_games(), MAX_STEPS))


@pin('built_games')
def _(folder):
    return parts((t.task.id, whole(t)) for t in played(policy_of('expert', 'household'), built_games(), 50))


@pin('built_kinds')
def _(folder):
    "One game of each kind, won by the expert."
    tasks = built_games('train', 6, 1)
    won = played(policy_of('expert', 'household'), tasks, 50)
    return parts((f'{t.task.kind} {t.task.split} {t.task.id}', episode(t)) for t in won)


@pin('game_digests')
def _(folder):
    tasks = [*built_games(), *built_games('train', 3, 0), *built_games('train', 2, 7)]
    files = [game_file(t).with_name(name) for t in tasks for name in ('game.tw-pddl', 'traj_data.json')]
    return {'/'.join(f.parts[-4:]): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pin('real_games')
def _(folder):
    if not os.environ.get('ALFWORLD_DATA'):
        pytest.skip('ALFWORLD_DATA is not set: no real games')
    return digests((t.task.id, whole(t)) for t in played(policy_of('expert', 'alfworld'), real_games(), 50))


@pin('real_reader')
def _(folder):
    if not os.environ.get('ALFWORLD_DATA'):
        pytest.skip('ALFWORLD_DATA is not set: no real games')
    return digests((t.task.id, episode(t)) for t in played(policy_of('reader', 'alfworld'), real_games(), MAX_STEPS))
