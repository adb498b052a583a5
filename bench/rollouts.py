"""Rollouts: the same won episodes, played in DSPy's usual way and in the kit's, on the same server.

What is not measured is skill: the weights are an untrained nano, and both ways play the expert's action whatever the
model says. So only the cost differs. The plain reply is held to exactly the right form, which favours the plain way."""

import contextlib
import os
import time

import dspy
import pandas as pd
import psutil

from agentkit.agents.policy import Agent
from agentkit.agents.reply import read_reply
from agentkit.agents.saving import student_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Task, Trajectory
from agentkit.envs.alfworld.environment import AlfWorld
from agentkit.envs.pool import EnvPool
from agentkit.models.serving import LocalEngine, LocalLM, choice, server_speed, stop_servers
from agentkit.rollouts import Player, Runner, examples
from bench.compared import Compared
from bench.training import demonstrate


def decisions(trajectories: list[Trajectory]) -> dict[tuple[str, str], str]:
    "(what was seen first, what happened) → the action that was taken."
    return {
        (t.first.text, state.transcript): s.action
        for t in trajectories
        for state, s in ((t.state(i), s) for i, s in enumerate(t.steps))
    }


class PlainAgent(Agent):
    "The tutorial's way to ask; the reply is held to the form that says the known action."

    def __init__(self, lm, known: dict):
        super().__init__(lm, AlfWorld.instructions, think=True, adapter=dspy.ChatAdapter())
        self.known = known

    def forward(self, state):
        right = dict(action=self.known[state.first.text, state.transcript])
        reply = self.adapter.format_assistant_message_content(self.react.signature, right)
        with dspy.context(adapter=self.adapter):
            answer = self.react(**self.inputs(state), config=choice([reply]))
        return dspy.Prediction(decision=read_reply(answer.action, state.now.actions))


class GuidedAgent(Agent):
    "A student that is asked at each step; the known action is played instead of its answer."

    def __init__(self, lm, known: dict):
        super().__init__(lm)
        self.student, self.known = student_agent(lm), known

    def forward(self, state):
        self.student.act(state)
        return dspy.Prediction(decision=Decision(self.known[state.first.text, state.transcript]))


class CountingEngine(LocalEngine):
    "A local engine that keeps what the server says about each answer."

    def __init__(self, **options):
        super().__init__(**options)
        self.timings = []

    def server(self, model):
        return _Counted(super().server(model), self.timings)

    def total(self, key: str) -> float:
        return sum(t[key] for t in self.timings)


class _Counted:
    def __init__(self, server, timings):
        self._server, self._timings = server, timings

    def __getattr__(self, name):
        return getattr(self._server, name)

    def post(self, path, body):
        reply = self._server.post(path, body)
        self._timings.append(reply['timings'])
        return reply


def cpu_seconds() -> dict:
    "Processor seconds so far of this process, of the environment workers and of the servers it started."
    spent = dict(client=time.process_time(), environments=0.0, server=0.0)
    for child in psutil.Process().children():
        times = child.cpu_times()
        spent['server' if 'agentkit.models.llama_server' in child.cmdline() else 'environments'] += (
            times.user + times.system
        )
    return spent


def warm(pool: EnvPool, task: Task):
    "Start all workers of a pool."
    with contextlib.ExitStack() as stack:
        for env in [stack.enter_context(pool.session()) for _ in range(pool.n)]:
            env.reset(task)


def measure(
    base: str,  # the model's id
    run: Runner,  # closed at the end
    task: Task,  # to warm up with
    play,  # function of a language model and the runner that gives the episodes
) -> dict:
    "What it takes to play."
    engine = CountingEngine()
    lm = LocalLM(f'local/{base}', engine=engine)
    with run:
        warm(run.pool, task)
        lm('go', **choice(['go']))
        engine.timings.clear()
        before, start = cpu_seconds(), time.perf_counter()
        episodes = play(lm, run)
        seconds, after = time.perf_counter() - start, cpu_seconds()
    stop_servers(base)
    return figures(episodes, seconds, engine, {k: round(after[k] - before[k], 2) for k in after})


def figures(episodes: list[Trajectory], seconds: float, engine: CountingEngine, cpu: dict) -> dict:
    "The figures of a way to play."
    lost = [t for t in episodes if not t.won]
    if lost:
        raise AgentkitError(
            f'{len(lost)} of {len(episodes)} episodes were not won, so the two ways did not do the same; first: '
            f'{lost[0].task.id}, {lost[0].termination} {lost[0].error}'
        )
    computed, cached = engine.total('prompt_n'), engine.total('cache_n')
    counted = [sum(t.usage[k] for t in episodes) for k in ('calls', 'tokens_in', 'tokens_cached')]
    if counted != [len(engine.timings), computed + cached, cached]:
        raise AgentkitError(
            f'DSPy counted {counted} calls, prompt tokens and cached tokens, the server '
            f'{[len(engine.timings), computed + cached, cached]}'
        )
    n = len(episodes)
    return dict(
        n=n,
        won=n,
        seconds=round(seconds, 2),
        episodes_a_minute=round(60 * n / seconds, 1),
        calls=len(engine.timings),
        tokens_sent=computed + cached,
        tokens_computed=computed,
        cache_hit_rate=round(cached / (computed + cached), 3),
        tokens_generated=engine.total('predicted_n'),
        server_seconds=dict(
            reading=round(engine.total('prompt_ms') / 1000, 2), writing=round(engine.total('predicted_ms') / 1000, 2)
        ),
        cpu_seconds=cpu,
    )


def replay(trajectories: list[Trajectory]) -> float:
    "Processor seconds of the environment alone in these episodes."
    env, start = AlfWorld(), time.process_time()
    for t in trajectories:
        env.reset(t.task)
        for s in t.steps:
            env.step(s.action)
    env.close()
    return time.process_time() - start


def limit(way: dict, environment: float, speed: dict) -> dict:
    "The seconds that the work itself takes, and where they go."
    parts = dict(
        environments=environment / os.cpu_count(),
        reading=way['tokens_computed'] / speed['reading'],
        writing=way['tokens_generated'] / speed['writing'],
    )
    return dict(
        seconds=round(sum(parts.values()), 2),
        **{k: round(v, 2) for k, v in parts.items()},
        times=round(way['seconds'] / sum(parts.values()), 2),
    )


WORKERS, IN_FLIGHT = 2, 4  # environments of the kit's way, and its episodes at the same time


def bench_rollouts(tasks: list[Task]) -> tuple[dict, dict]:
    "The same episodes in three ways."
    demos, rows, base = demonstrate(tasks)
    tasks, known = [t.task for t in demos], decisions(demos)

    def plain(lm, run):
        score = lambda example, prediction, trace=None: prediction.success
        evaluate = dspy.Evaluate(devset=examples(tasks), metric=score, num_threads=8)
        return [p.episode for _, p, _ in evaluate(Player(PlainAgent(lm, known), tasks, run)).results]

    def ours(lm, run):
        return run(GuidedAgent(lm, known), tasks)

    options = dict(timeout=600, progress=False)
    eight, few = dict(workers=8, **options), dict(workers=WORKERS, parallel=IN_FLIGHT, **options)
    ways = dict(
        plain=measure(base, Runner('bench.environment:StockEnv', **eight), tasks[0], plain),
        plain_same_env=measure(base, Runner('alfworld', **eight), tasks[0], plain),
        ours=measure(base, Runner('alfworld', **few), tasks[0], ours),
    )
    speed = server_speed(base, ['\n'.join(m['content'] for m in r['messages']) for r in rows['full_episodes']])
    cost = {name: way['seconds'] / way['n'] for name, way in ways.items()}
    compared = {'rollout_speedup': 'plain', 'rollout_speedup_same_env': 'plain_same_env'}
    return (
        {k: Compared(cost[way], cost['ours'], 's an episode', len(tasks)) for k, way in compared.items()},
        dict(n=len(tasks), ways=ways, server_tokens_a_second=speed, limit=limit(ways['ours'], replay(demos), speed)),
    )


def rollout_table(summary: dict) -> pd.DataFrame:
    "A row a way to play the same episodes; `times_limit` is its time over that of the work alone (`limit`)."
    if 'rollouts' not in summary['parts']:
        raise AgentkitError('rollouts have not been measured yet: run `make bench`')
    part, columns = (
        summary['parts']['rollouts'],
        ['won', 'seconds', 'episodes_a_minute', 'tokens_sent', 'tokens_computed', 'cache_hit_rate'],
    )
    return pd.DataFrame(
        [
            dict(
                way=name,
                **{c: way[c] for c in columns},
                times_limit=round(way['seconds'] / part['limit']['seconds'], 1),
            )
            for name, way in part['ways'].items()
        ]
    )
