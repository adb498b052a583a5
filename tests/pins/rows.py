"Fine-tuning rows: from episodes, from the path that distillation takes, renamed, and exported."

import random

from . import digest, pin
from .prompts import agent_of, read

EPISODES = ('corridor', 'household', 'household_expert')
FORMATS = ('openai', 'trl', 'trl-completion', 'sharegpt', 'alpaca', 'instruction', 'completion')
GROUPS = (('mug', 'cup', 'pan'), ('cabinet', 'drawer', 'shelf'), ('countertop', 'desk'))


# --- the kit ---


def row_of(t, name):
    "The row of a whole episode as an agent reads it; what is possible stands at its last question, for who reads that."
    from agentkit.data.rows import rows

    agent = reader(agent_of(name, None))
    listed, agent.adapter.show_actions = agent.adapter.show_actions, False
    (row,) = rows([t], agent)
    if listed:
        possible = '\n'.join(t.state(-1).now.actions.lines())
        row['messages'][-2]['content'] += f'\n\nPossible actions:\n{possible}'
    return row


def reader(agent):
    "The agent with the views of the household: the corridor's episode is read so, too."
    from agentkit.envs.alfworld.environment import AlfWorld
    from agentkit.envs.base import views_of

    return agent.viewed(views_of(AlfWorld))


def distilled(student, episodes, correct=None, threshold=1.0):
    "The rows that a student is trained on, the longest first."
    from agentkit.data.rows import keep, rows

    shown = [t for t in episodes if correct is None or t.policy == correct.name]
    used = keep(shown, threshold) + [t for t in episodes if t not in shown]
    return sorted(rows(used, reader(student), correct), key=lambda r: (-len(r['messages']), chained(r['messages'])))


def chained(messages):
    "The name of a conversation: a digest of its last message and of the name of what stands before it."
    from agentkit.core.store import digest as named

    last = ''
    for m in messages:
        last = named(last, m['role'], m['content'], n=32)
    return last


def corrector():
    "The household's expert; what it says of recorded episodes is what it reads in them."
    from agentkit.agents.programs import Program
    from agentkit.core.views import fields
    from agentkit.envs.alfworld.expert import expert

    return Program(lambda state: expert(**fields(state)), 'expert')


def renamed(row, seed):
    from agentkit.envs.alfworld.names import rename

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
