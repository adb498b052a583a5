"The numbers of the report notebooks, from the committed results; and a small sweep."

import json
import os
from pathlib import Path

import pytest

from . import parts, pin

ROOT = Path(__file__).parent.parent.parent
PLANS = 'baselines data_efficiency distil_from_lm kept_demonstrations quantised quickstart teacher_prompts'.split()
RATES = {
    'baselines': ['policy', 'prompt'],
    'teacher_prompts': ['policy', 'method', 'phase'],
    'distil_from_lm': ['phase', 'tasks'],
}


# --- the kit ---


def results(experiment, name='summary'):
    "A table of the committed results."
    from agentkit.research.sweeps import read_table

    os.environ['AGENTKIT_PATHS_RESULTS'] = str(ROOT / 'results')
    return read_table(experiment, name)


def shown(kind, *args):
    "A table as people read it."
    from agentkit.research import plots

    shows = dict(table=plots.show_table, curves=plots.show_curves, rates=plots.show_rates, bits=plots.show_bits)
    return shows[kind](*args)


def curves(episodes):
    from agentkit.research.plots import efficiency_curves

    return efficiency_curves(episodes)


def curves_by(rows, by):
    from agentkit.evals import over_seeds

    return over_seeds(rows, by)


def compared(episodes):
    "The first type of weights against each other one."
    import pandas as pd
    from agentkit.evals import Report, compare

    played = {stored: Report(stored, games) for stored, games in episodes.groupby('stored', sort=False)}
    first, *others = played.values()
    return pd.DataFrame([compare(first, other) for other in others])


def cells(plan):
    "The runs of a committed plan: their folders' names and parameters."
    from agentkit.research.sweeps import plan_cells, read_plan

    return [(c.run, c.params) for c in plan_cells(read_plan(ROOT / f'notebooks/experiments/{plan}.yaml'))]


def swept(folder, plan, **changes):
    "The cells of a committed plan's notebooks with other parameters: the table of the sweep, and its companions."
    import yaml
    from agentkit.research.sweeps import plan_cells, read_plan, read_table, sweep

    full = yaml.safe_load((ROOT / f'notebooks/experiments/{plan}.yaml').read_text())
    notebook = str(ROOT / 'notebooks/experiments' / full['notebook'])
    (folder / 'small.yaml').write_text(yaml.safe_dump(dict(experiment='small', notebook=notebook, **changes)))
    sweep(plan_cells(read_plan(folder / 'small.yaml')), progress=False)
    return [read_table('small', name) for name in ('summary', 'by_kind', 'episodes')]


def read_kept(episodes):
    "The episodes of the study with a demonstration, named as its report names them."
    kept = dict(keep='kept', reset='reset')
    names = [f'demonstration {kept[d]}{"" if t else ", no game"}' for d, t in zip(episodes['demos'], episodes['tasks'])]
    return episodes.assign(name=names)


# --- what is pinned ---


def text(table):
    return table.round(6).to_string(max_colwidth=200)


@pin('report_quickstart')
def _(folder):
    return text(shown('table', results('quickstart')))


@pin('report_data_efficiency')
def _(folder):
    summary = results('data_efficiency')
    trained = summary[(summary['status'] == 'ok') & (summary['tasks'] > 0)]
    timings = results('data_efficiency', 'timings')[['run', 'train_seconds', 'play_seconds']]
    spent = ['rows', 'corrections', 'train_tokens', 'train_seconds', 'play_seconds', 'steps']
    costs = trained.merge(timings, on='run').groupby(['method', 'tasks'])[spent].mean().round(1)
    kinds = results('data_efficiency', 'by_kind').pivot_table('success', ['method', 'tasks'], 'kind').round(3)
    found = curves(results('data_efficiency', 'episodes'))
    named = [('shown', shown('curves', found)), ('curves', found), ('costs', costs), ('kinds', kinds)]
    return parts((name, text(table)) for name, table in named)


@pin('report_kept_demonstrations')
def _(folder):
    done = results('kept_demonstrations')
    found = curves_by(read_kept(results('kept_demonstrations', 'episodes')), ['name', 'tasks'])
    columns = ['train_tokens', 'tokens_in', 'tokens_out', 'steps']
    costs = done.groupby(['demos', 'tasks'])[columns].mean().round(1)
    return parts((n, text(t)) for n, t in (('shown', shown('curves', found)), ('curves', found), ('costs', costs)))


@pin('report_quantised')
def _(folder):
    summary, timings, episodes = (results('quantised', t) for t in ('summary', 'timings', 'episodes'))
    return parts([('shown', text(shown('bits', summary, timings))), ('pairs', text(compared(episodes)))])


@pin('report_rates', *RATES)
def _(folder, experiment):
    return text(shown('rates', results(experiment), RATES[experiment]))


@pin('sweep_cells', *PLANS)
def _(folder, plan):
    return '\n'.join(f'{run} {json.dumps(params, sort_keys=True)}' for run, params in cells(plan))


COLUMNS = (
    'student method tasks seed phase kind n wins success ci_low ci_high lost steps progress invalid errors'.split()
)
COLUMNS += 'rows corrections train_steps train_tokens tokens_in tokens_out tokens_per_success dollars status'.split()


def deterministic(table):
    "The columns that are the same in every run, without ids and times."
    return table[[c for c in COLUMNS if c in table]].round(4).to_csv(index=False)


@pin('sweep_programs')
def _(folder):
    pytest.importorskip('papermill')
    programs = [dict(student='random', tasks=0), dict(student='expert', tasks=0)]
    found = swept(folder, 'quickstart', fixed=dict(env='household', eval_tasks=3, max_steps=12), cells=programs)
    return parts(zip(('summary', 'by_kind'), map(deterministic, found[:2])))


@pin('sweep_students', slow=True)
def _(folder):
    pytest.importorskip('papermill')
    fixed, grid = dict(env='corridor', eval_tasks=4, epochs=4), dict(student=['nano'], tasks=[2, 4], seed=[0])
    found, *_ = swept(folder, 'quickstart', fixed=fixed, cells=[dict(student='random', tasks=0)], grid=grid)
    return deterministic(found.drop(columns='corrections'))


@pin('sweep_study', slow=True)
def _(folder):
    "Demonstrations and DAgger in small."
    pytest.importorskip('papermill')
    fixed = dict(env='corridor', eval_split='valid_unseen', eval_tasks=4, max_epochs=4)
    grid = dict(method=['demos', 'dagger'], tasks=[4], seed=[0])
    cells = [dict(student='random-reader', tasks=0)]
    found, _, episodes = swept(folder, 'data_efficiency', fixed=fixed, cells=cells, grid=grid)
    lost = episodes[episodes['success'] == 0].groupby('run')['task'].agg(' '.join)
    trained = found[['rows', 'corrections', 'train_tokens']].fillna(0).astype(int)  # a program has learned from nothing
    return deterministic(found.drop(columns='train_steps').assign(lost=found['run'].map(lost), **trained))
