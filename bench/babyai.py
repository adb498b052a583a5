"BabyAI: steps of the kit's world beside Minigrid's own observation told in words; both have to say the same."

import contextlib
import io
import time

import pandas as pd

from agentkit.core.errors import AgentkitError, need
from agentkit.core.store import rng, write_text
from agentkit.core.types import Task
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.published import sentences
from agentkit.envs.babyai.sight import MIDDLE, SIZE, decode
from agentkit.envs.babyai.world import ACTIONS, level_id
from bench.compared import Compared, results

LEVELS = ('GoToRedBall', 'GoToLocal', 'PickupLoc', 'PutNextLocal', 'GoTo', 'BossLevel')
SEEDS, STEPS = 8, 200


class Plain:
    "Minigrid as its package plays it, and BabyAI-Text's sentences made from the picture it observes."

    def __init__(self, task: Task):
        gymnasium, _ = need('gymnasium', 'babyai'), need('minigrid', 'babyai')
        with contextlib.redirect_stdout(io.StringIO()):
            self.env = gymnasium.make(task.data['level'], disable_env_checker=True).unwrapped
            self.env.reset(seed=task.data['seed'])

    def step(self, action: str) -> tuple[list[str], float, bool]:
        "Sentences, reward, and is it over?"
        seen, reward, terminated, truncated, _ = self.env.step(ACTIONS.index(action))
        return self.told(seen['image']), float(reward), bool(terminated or truncated)

    def told(self, image) -> list[str]:
        "What the picture shows."
        from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

        held, cells, rows = self.env.carrying, {}, image.tolist()
        for i, column in enumerate(rows):
            for j, (kind, colour, state) in enumerate(column):
                if kind > 1 and (i, j) != (MIDDLE, SIZE - 1):
                    cells[i, j] = IDX_TO_OBJECT[kind], IDX_TO_COLOR[colour], state
        lines = [f'You carry a {held.color} {held.type}'] if held else []
        return lines + _walls(cells) + [_thing(*at, *cell) for at, cell in cells.items() if cell[0] != 'wall']


def _walls(cells):
    lines = dict(
        forward=[(MIDDLE, j) for j in range(SIZE - 2, -1, -1)],
        left=[(i, SIZE - 1) for i in range(MIDDLE - 1, -1, -1)],
        right=[(i, SIZE - 1) for i in range(MIDDLE + 1, SIZE)],
    )
    first = {where: next((n for n, p in enumerate(line) if p in cells), None) for where, line in lines.items()}
    seen = [(where, n + 1) for where, n in first.items() if n is not None and cells[lines[where][n]][0] == 'wall']
    return [f'You see a wall {_steps(n, where)}' for where, n in seen]


def _thing(i, j, kind, colour, state):
    name = f'{("open", "closed", "locked")[state]} {colour} door' if kind == 'door' else f'{colour} {kind}'
    aside, ahead = i - MIDDLE, SIZE - 1 - j
    apart = [_steps(abs(aside), 'right' if aside > 0 else 'left')] * bool(aside) + [_steps(ahead, 'forward')] * (
        ahead > 0
    )
    return f'You see a {name} {" and ".join(apart)}'


def _steps(n, where):
    return f'{n} step{"s" if n > 1 else ""} {where}'


def walk(task: Task, spent: dict, ours_first: bool):
    "The same random actions in both; the seconds of each way are added to `spent`."
    r, answers = rng('bench', task.id), {}
    actions = [r.choice(ACTIONS) for _ in range(STEPS)]
    for name in ('ours', 'plain') if ours_first else ('plain', 'ours'):
        env = dict(plain=Plain, ours=begun)[name](task)
        start = time.process_time()
        answers[name] = list(_played(env, actions))
        spent[name] += time.process_time() - start
    spent['steps'] += len(answers['ours'])
    ours = [(sentences(decode(seen.text)), seen.reward, seen.done) for seen in answers['ours']]
    if ours != answers['plain']:
        k = next(k for k, pair in enumerate(zip(ours, answers['plain'])) if pair[0] != pair[1])
        raise AgentkitError(f'{task.id}, step {k}: {actions[k]} is answered otherwise than by Minigrid')


def begun(task: Task) -> BabyAI:
    "The kit's environment, at the beginning of a task."
    env = BabyAI(done=True)
    env.reset(task)
    return env


def _played(env, actions):
    "The answers until the end."
    for action in actions:
        seen = env.step(action)
        yield seen
        if seen[2] if isinstance(seen, tuple) else seen.done:
            return


def bench_babyai(tasks: list[Task] = ()) -> tuple[dict, dict]:
    "A step in both ways, over some levels; the kit's text tells every cell, the plain one what can be named."
    rows = []
    for name in LEVELS:
        spent = dict(plain=0.0, ours=0.0, steps=0)
        for seed in range(SEEDS + 1):
            if seed == 1:  # the first world pays for imports and caches
                spent = dict.fromkeys(spent, 0)
            walk(Task(f'{name}-{seed}', 'babyai', data=dict(level=level_id(name), seed=seed)), spent, seed % 2)
        rows.append(dict(level=name, **spent))
    table = pd.DataFrame(rows)
    write_text(results() / 'babyai.csv', table.round(4).to_csv(index=False))
    steps = int(table['steps'].sum())
    cost = {way: 1000 * table[way].sum() / steps for way in ('plain', 'ours')}
    compared = Compared(cost['plain'], cost['ours'], 'ms of CPU, step', steps)
    rates = {f'{way}_steps_a_second': round(1000 / cost[way]) for way in cost}
    return dict(babyai_step_speedup=compared), dict(levels=list(LEVELS), n=SEEDS * len(LEVELS), **rates)
