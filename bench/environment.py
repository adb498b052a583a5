"The environment: the kit's engine beside the stock one, which has to say the same."

import contextlib
import functools
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict

import pandas as pd
import psutil

from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.store import rng, write_text
from agentkit.core.types import Observation, Task, transcript
from agentkit.envs.alfworld import engine, expert
from agentkit.envs.alfworld.environment import AlfWorld, game_path
from agentkit.envs.base import Environment
from agentkit.envs.find import resolve
from agentkit.envs.pool import Worker
from bench.compared import Compared, results
from bench.games import forget, variable


@functools.cache
def _stock():
    "TextWorld and ALFWorld's wrapper. Importing alfworld makes ALFWORLD_DATA's folder, or one in the home folder."
    import textworld

    with variable('ALFWORLD_DATA', os.environ.get('ALFWORLD_DATA') or tempfile.gettempdir()):
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    return textworld, AlfredDemangler


class StockEnv(Environment):
    "ALFWorld as its own package plays it."

    def __init__(self):
        self._env = None

    def reset(self, task: Task, seed: int = 0) -> Observation:
        textworld, demangler = _stock()
        self.close()
        self._env = textworld.start(
            str(game_path(task)), textworld.EnvInfos(won=True, admissible_commands=True), wrappers=[demangler()]
        )
        return self._seen(self._env.reset(), False)

    def step(self, action: str) -> Observation:
        state, _, done = self._env.step(action)
        return self._seen(state, done)

    def _seen(self, state, done):
        won = bool(state.won)
        return Observation(
            state.feedback, Choice(sorted(state.admissible_commands)), float(won), bool(done), float(won)
        )

    def close(self):
        if self._env:
            self._env.close()
        self._env = None


class Pair:
    "Two environments that are asked the same things; each answer has to be the same."

    def __init__(self, plain, ours):
        self.envs, self.spent = [('plain', plain), ('ours', ours)], defaultdict(list)

    def ask(
        self,
        what: str,  # what the seconds are booked under
        method: str,  # reset or step
        *args,
    ) -> Observation:
        "What both answer."
        seen = {}
        for name, env in self.envs:
            start = time.process_time()
            seen[name] = getattr(env, method)(*args)
            self.spent[what, name].append(time.process_time() - start)
        self.envs.reverse()
        self._agree(seen['plain'], seen['ours'], method, args)
        return seen['ours']

    def _agree(self, plain, ours, method, args):
        for field, theirs in plain.to_dict().items():
            mine = ours.to_dict()[field]
            if mine != theirs:
                raise AgentkitError(
                    f'after {method} {args[0]!r}, {field} is {mine!r}, and {theirs!r} in the stock environment'
                )

    def compared(self, what: str, unit: str, scale: float = 1) -> Compared:
        "The mean cost of something."
        plain, ours = self.spent[what, 'plain'], self.spent[what, 'ours']
        return Compared(scale * sum(plain) / len(plain), scale * sum(ours) / len(ours), unit, len(ours))

    def close(self):
        for _, env in self.envs:
            env.close()


def walk(pair: Pair, task: Task, steps: int):
    "The expert's walk and `steps` random actions, a few of them not possible."
    history, r = [], rng('bench', task.id)
    forget()
    pair.ask('open', 'reset', task)
    engine.translate.cache_clear()  # the translation is read from disk
    first = now = pair.ask('reopen', 'reset', task)
    while not now.done and len(history) < 50:
        action = expert.expert(first.text, transcript(history), list(now.actions.options))
        now = pair.ask('step', 'step', action)
        history.append((action, now.text))
    for _ in range(steps):
        now = pair.ask('step', 'step', r.choice([*now.actions.options, 'eat mug 1']))


class Soak:
    "Short episodes one after another in one process."

    def __init__(self, target, tasks):
        self.env, self.tasks, self.played = resolve(target)(), [Task(**t) for t in tasks], 0

    def play(self, n: int) -> float:
        "The resident megabytes after n more episodes."
        for _ in range(n):
            seen = self.env.reset(self.tasks[self.played % len(self.tasks)])
            for _ in range(5):
                seen = self.env.step(seen.actions.options[-1])
            self.played += 1
        return round(psutil.Process().memory_info().rss / 2**20, 1)


def memory(
    target: str,  # the environment, "module:Class"
    tasks: list[Task],
    k: int,  # episodes
) -> dict:
    "Megabytes after 1, k and 2k episodes, and the growth for each of the last k."
    with Worker('bench.environment:Soak', dict(target=target, tasks=[asdict(t) for t in tasks])) as worker:
        first, middle, last = (worker.call('play', n, timeout=3600) for n in (1, k - 1, k))
    return {
        'mb_after_1': first,
        f'mb_after_{k}': middle,
        f'mb_after_{2 * k}': last,
        'mb_an_episode': round((last - middle) / k, 3),
    }


def bench_env(tasks: list[Task], steps: int = 30) -> tuple[dict, dict]:
    "Both environments on the same games."
    with contextlib.closing(Pair(StockEnv(), AlfWorld())) as pair:
        walk(pair, tasks[0], 1)  # imports, and the loading of the engine
    pair, rows = Pair(StockEnv(), AlfWorld()), []
    for task in tasks:
        before = len(pair.spent['step', 'ours'])
        walk(pair, task, steps)
        rows.append(
            dict(
                game=task.id,
                steps=len(pair.spent['step', 'ours']) - before,
                **{
                    f'{what}_{who}': sum(spent[before:] if what == 'step' else spent[-1:])
                    for (what, who), spent in pair.spent.items()
                },
            )
        )
    pair.close()
    write_text(results() / 'env.csv', pd.DataFrame(rows).round(5).to_csv(index=False))
    held = dict(
        ours=memory('agentkit.envs.alfworld.environment:AlfWorld', tasks, 25 * len(tasks)),
        plain=memory('bench.environment:StockEnv', tasks, max(2, len(tasks) // 2)),
    )
    return {
        f'env_{what}_speedup': pair.compared(what, f'ms of CPU, {what}', 1000) for what in ('step', 'reopen', 'open')
    }, dict(n=len(tasks), memory=held)
