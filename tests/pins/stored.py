"Files of today's formats, version 1: what is read from them must stay the same after an upgrade."

from . import FOLDER, parts, pin
from .judging import facts
from .play import episode
from .prompts import read

EPISODES = ('corridor', 'household', 'household_expert', 'household_lost', 'household_retried')
FILES = FOLDER / 'formats'


# --- the kit ---


def verdicts():
    from agentkit.judges.run import read_verdicts

    return read_verdicts(FILES / 'verdicts.jsonl')


def records():
    from agentkit.data.records import read_records

    return read_records(FILES / 'records.jsonl')


def report():
    from agentkit.evals import read_report

    return read_report(FILES / 'report')


# --- what is pinned ---


@pin('format_episode', *EPISODES)
def _(folder, name):
    t = read(name)
    about = f'{t.task.env} {t.task.split} {t.task.kind} {t.task.data} seed {t.seed} usage {sorted(t.usage.items())}'
    return '\n'.join([about, episode(t)])


@pin('format_verdicts')
def _(folder):
    return [facts(v) for v in verdicts()]


@pin('format_records')
def _(folder):
    return [dict(id=r.id, **r.row()) for r in records()]


@pin('format_report')
def _(folder):
    found = report()
    table = found.episodes.to_csv(index=False)
    return parts([('report', str(found)), ('episodes', table), ('ends', str(sorted(found.terminations.items())))])
