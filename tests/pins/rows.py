"Fine-tuning rows: from episodes, from the path that distillation takes, renamed, and exported."

import random

from . import digest, pin
from .prompts import agent_of, read

EPISODES = ('corridor', 'household', 'household_expert')
FORMATS = ('openai', 'trl', 'trl-completion', 'sharegpt', 'alpaca', 'instruction', 'completion')
GROUPS = (('mug', 'cup', 'pan'), ('cabinet', 'drawer', 'shelf'), ('countertop', 'desk'))


# --- the kit ---


def row_of(t, name):
    "The row of a whole episode as an agent reads it."
    from agentkit.data.rows import episode_row

    agent = agent_of(name, None)
    return episode_row(t, agent.adapter, agent.react.signature, agent.react.demos)


def distilled(student, episodes, correct=None, threshold=1.0):
    "The rows that `distill_from` would train on: DSPy's traces of the recorded episodes, folded."
    from agentkit.data.rows import keep
    from agentkit.training.dspy_bridge import BootstrapFinetune, Replay
    from agentkit.tuning.distill import _quiet
    from agentkit.judges.base import success
    from dspy.teleprompt.bootstrap_trace import bootstrap_trace_data

    shown = [t for t in episodes if correct is None or t.policy == correct.name]
    used = keep(shown, threshold) + [t for t in episodes if t not in shown]
    teacher, optimizer = Replay(used, student, correct), BootstrapFinetune(threshold=-1.0, adapter=student.adapter)
    with _quiet():
        traces = bootstrap_trace_data(program=teacher, dataset=teacher.examples(), metric=success, num_threads=1)
    return optimizer._prepare_finetune_data(traces, lm=None)[0]


def corrector():
    from agentkit.agents.programs import expert_agent

    return expert_agent('household')


def renamed(row, seed):
    from agentkit.data.rows import rename

    return rename(row, GROUPS, random.Random(seed), rate=0.7)


def single(rows):
    "A row for each learned answer, and the rows that these fold into."
    from agentkit.data.rows import call_rows, episode_rows

    calls = call_rows(rows)
    return calls, episode_rows(calls)


def exported(rows, path, format, steps):
    "The text of the file, and the facts about it."
    from agentkit.data.formats import export

    facts = export(rows, path, format, steps)
    return path.read_text(), facts


def pairs(rows, path, format):
    from agentkit.data.pairs import correction_pairs, export_pairs

    export_pairs(correction_pairs(rows), path, format)
    return path.read_text()


def table(rows):
    from agentkit.data.rows import describe

    return describe(rows).to_string()


# --- what is pinned ---


def with_digest(rows):
    "The conversations of the rows and their digest; where they come from is pinned apart."
    messages = [r['messages'] for r in rows]
    return dict(digest=digest(messages), rows=messages)


def plain_rows():
    return [row_of(read(n), 'student') for n in ('corridor', 'household_expert')]


def short_corrected():
    return distilled(agent_of('student', None), [read('household_expert'), read('household_lost')], corrector())


def corrected(student='student'):
    "An expert's episode, and two of others that the expert corrects."
    episodes = [read(n) for n in ('household_expert', 'household', 'household_lost')]
    return distilled(agent_of(student, None), episodes, corrector())


@pin('rows_episode', *EPISODES)
def _(folder, name):
    t = read(name)
    return {agent: with_digest([row_of(t, agent)]) for agent in ('student', 'instructions', 'student_demonstration')}


@pin('rows_distilled')
def _(folder):
    return with_digest(distilled(agent_of('student', None), [read(n) for n in EPISODES]))


@pin('rows_distilled-demonstration')
def _(folder):
    return with_digest(distilled(agent_of('student_demonstration', None), [read('household')]))


@pin('rows_distilled-window')
def _(folder):
    "An agent that sees the last steps only learns from single calls."
    return with_digest(distilled(agent_of('student_window', None), [read('corridor')]))


@pin('rows_distilled-listed')
def _(folder):
    "An agent that is shown the possible actions learns from single calls."
    return with_digest(distilled(agent_of('no_thoughts', None), [read('corridor')]))


@pin('rows_corrected')
def _(folder):
    rows = corrected()
    return dict(with_digest(rows), table=table(rows).splitlines())


@pin('rows_calls')
def _(folder):
    "What the corrected rows are as single calls, by digest, and that these fold into the same targets."
    calls, folded = single(corrected())
    return dict(
        calls=len(calls), digest=digest([r['messages'] for r in calls]), folded=digest([r['messages'] for r in folded])
    )


@pin('rows_renamed')
def _(folder):
    rows = [row_of(read('household'), 'student'), corrected()[0]]
    return {f'row {i}, seed {seed}': renamed(r, seed)['messages'] for i, r in enumerate(rows) for seed in (0, 1)}


@pin('rows_provenance')
def _(folder):
    return [r['provenance'] for r in [*corrected(), *plain_rows()]]


@pin('export', *FORMATS)
def _(folder, format):
    return exported(plain_rows(), folder / 'rows.jsonl', format, False)[0]


@pin('export_steps', *(f for f in FORMATS if f != 'trl'))
def _(folder, format):
    return exported(plain_rows()[:1], folder / 'rows.jsonl', format, True)[0]


@pin('export_corrected', 'openai', 'sharegpt', 'trl-completion')
def _(folder, format):
    return exported(short_corrected(), folder / 'rows.jsonl', format, False)[0]


@pin('export_facts')
def _(folder):
    return {f: exported(plain_rows(), folder / f'{f}.jsonl', f, False)[1] for f in FORMATS}


@pin('export_pairs', 'trl', 'openai')
def _(folder, format):
    return pairs(short_corrected(), folder / 'pairs.jsonl', format)
