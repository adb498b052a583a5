"The main job end to end in small: notebook, sweep, tables, report, figures."

import json
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from agentkit.core.store import read_json
from agentkit.data.rows import read_rows
from agentkit.research.sweeps import parameters, plan_cells, read_plan, read_table

FOLDER = ROOT / 'notebooks/experiments'
PLANS = sorted(FOLDER.glob('*.yaml'))


def committed(name):
    return yaml.safe_load((FOLDER / f'{name}.yaml').read_text())


def in_small(full, tmp_path, **changes):
    "The command that sweeps the notebooks of a committed plan with other cells."
    plan = dict(
        experiment='small',
        notebook=str(FOLDER / full['notebook']),
        report=str(FOLDER / full['report']),
        report_parameters=full.get('report_parameters', {}),
        **changes,
    )
    (tmp_path / 'small.yaml').write_text(yaml.safe_dump(plan))
    return [sys.executable, '-m', 'agentkit.cli', 'sweep', str(tmp_path / 'small.yaml'), '--json']


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize('path', PLANS, ids=lambda p: p.stem)
def test_every_committed_plan_is_valid(path):
    plan = read_plan(path)
    assert len(plan_cells(plan)) >= 2
    assert 'experiment' in parameters(plan['report'])


def test_the_quickstart_begins_with_chance_the_expert_and_the_student_of_the_fewest_games():
    cells = plan_cells(read_plan(FOLDER / 'quickstart.yaml'))
    assert [(c.params['student'], c.params['tasks']) for c in cells[:3]] == [('random', 0), ('expert', 0), ('nano', 60)]


def test_the_quickstart_in_small(tmp_path, results):
    "The committed notebooks on the smallest world: a program, and a student that is really trained and served."
    command = in_small(
        committed('quickstart'),
        tmp_path,
        fixed=dict(env='corridor', eval_tasks=4, epochs=4),
        cells=[dict(student='random', tasks=0), dict(student='expert', tasks=0)],
        grid=dict(student=['nano'], tasks=[2, 4], seed=[0]),
    )
    out = json.loads(run(command))
    assert [(r['student'], r['phase']) for r in out['rows']] == [('random', 'program'), ('expert', 'program')] + [
        ('nano', p) for _ in range(2) for p in ('before', 'after')
    ]
    summary = read_table('small')
    assert (
        (summary['n'] == 4).all()
        and summary['ci_low'].le(summary['success']).all()
        and summary['success'].le(summary['ci_high']).all()
    )
    tables = {'summary.csv', 'by_kind.csv', 'episodes.csv', 'costs.csv', 'losses.csv'}
    assert tables == {p.name for p in (results / 'small').glob('*.csv')}
    assert len(read_table('small', 'episodes')) == summary['n'].sum() and len(read_table('small', 'timings')) == 6
    figures = {p.name for p in (tmp_path / 'figures').iterdir()}
    assert figures == {
        f'small__{what}.{kind}'
        for what in ('before_after', 'learning_curve', 'by_kind', 'loss')
        for kind in ('svg', 'png')
    }
    trained = next(p.parent for p in results.glob('small/*/rows.jsonl'))
    assert (
        read_json(trained / 'after/report.json')['summary']['policy']
        != read_json(trained / 'before/report.json')['summary']['policy']
    )
    before = {p: p.read_bytes() for p in (tmp_path / 'figures').glob('*.svg')}
    run(command)
    pd.testing.assert_frame_equal(read_table('small'), summary)
    assert {p: p.read_bytes() for p in before} == before, 'the same results give the same figures, to the byte'
    one = json.loads(run([*command, '--only', 'student=random', '--fresh']))
    assert [r['student'] for r in one['rows']] == ['random']
    pd.testing.assert_frame_equal(
        read_table('small'), summary, obj='the table after one cell was run again: it holds all that is finished'
    )


def test_the_study_in_small(tmp_path, results):
    "The committed study on the smallest world, to the table, the figure and the best student's card."
    full = committed('data_efficiency')
    command = in_small(
        full,
        tmp_path,
        fixed=dict(env='corridor', eval_split='valid_unseen', eval_tasks=4, max_epochs=4),
        cells=[dict(student='random-reader', tasks=0)],
        grid=dict(method=['demos', 'dagger'], tasks=[4], seed=[0]),
    )
    run(command)
    summary = read_table('small')
    assert list(summary['policy'].str.split('/').str[0]) == ['random-reader', 'local', 'local']
    won = read_table('small', 'episodes').groupby('run')['success'].agg(['sum', 'size'])
    assert (won.loc[summary['run'], 'sum'].values == summary['wins']).all()
    assert (won.loc[summary['run'], 'size'].values == summary['n']).all()
    costs = read_table('small', 'costs')
    assert list(costs['method']) == ['demos', 'dagger', 'dagger'] and list(costs['round']) == [0, 0, 1]
    assert {p.name for p in (tmp_path / 'figures').iterdir()} == {'small__success.svg', 'small__success.png'}
    card = (results / 'small/MODEL_CARD.md').read_text()
    assert summary['model'].dropna().iloc[-1] in card or summary['model'].dropna().iloc[-2] in card
    assert 'the view `brief`' in card


def test_the_studies_of_the_grid_world_in_small(tmp_path, results):
    "Chance, the planner, Minigrid's bot, and really trained students, with and without the help of their view."
    pytest.importorskip('minigrid')
    curve, encodings = committed('babyai_curve'), committed('encodings')
    assert curve['notebook'] == encodings['notebook']
    cells = [dict(student=p, tasks=0) for p in ('random-reader', 'expert', 'bot')]
    cells.append(dict(student='nano', tasks=5, view='ascii_now_no_repeat'))
    fixed = dict(level='GoToRedBall', passes=300, eval_tasks=6, alone_tasks=4)
    plan = dict(fixed=fixed, cells=cells, grid=dict(tasks=[5]))
    run(in_small(curve, tmp_path, **plan))
    summary = read_table('small')
    assert list(summary['n']) == [6, 6, 6, 4, 6, 4, 6] and (summary['status'] == 'ok').all()
    assert (summary.set_index('student').loc[['expert', 'bot'], 'success'] == 1).all()
    assert list(summary['phase'])[3:] == ['alone', 'after'] * 2
    assert (tmp_path / 'figures/small__success.svg').exists()
    run([a if a != 'sweep' else 'report' for a in in_small(encodings, tmp_path, **plan)])
    assert (tmp_path / 'figures/small__alone.svg').exists()


def test_kept_demonstrations_in_small(tmp_path, results):
    "The committed sweep on the smallest world: no game and four, with and without an episode in the prompt."
    full = committed('kept_demonstrations')
    assert full['grid']['tasks'] == [0, 25, 100, 200, 500] and full['grid']['demos'] == ['reset', 'keep']
    command = in_small(
        full,
        tmp_path,
        fixed=dict(env='corridor', eval_tasks=4, max_epochs=4),
        grid=dict(demos=['reset', 'keep'], tasks=[0, 4]),
    )
    run(command)
    summary = read_table('small').set_index(['demos', 'tasks'])
    assert (
        set(summary.index) == {('reset', 0), ('reset', 4), ('keep', 0), ('keep', 4)}
        and (summary['status'] == 'ok').all()
    )
    assert summary.loc[('reset', 0), 'policy'] == summary.loc[('keep', 0), 'policy'], (
        'before the first game only the prompt differs'
    )
    assert (
        summary.loc['keep', 'tokens_in'] / summary.loc['keep', 'steps']
        > summary.loc['reset', 'tokens_in'] / summary.loc['reset', 'steps']
    ).all(), 'what is kept is read in play'
    rows = {
        d: {
            r['provenance']['task']: [m for m in r['messages'] if m['role'] != 'system']
            for r in read_rows(results / 'small' / summary.loc[(d, 4), 'run'] / 'rows.jsonl')
        }
        for d in ('keep', 'reset')
    }
    assert set(rows['keep']) == set(rows['reset']) and len(rows['keep']) == 4
    for task, reset in rows['reset'].items():
        before, same = rows['keep'][task][: -len(reset)], rows['keep'][task][-len(reset) :]
        assert same == reset and before and not any(m.get('loss') for m in before), (
            'what is kept is read in training, and not learned'
        )
    assert {p.name for p in (tmp_path / 'figures').iterdir()} == {'small__success.svg', 'small__success.png'}


def test_fewer_bits_in_small(tmp_path, results):
    "The committed notebooks on the smallest world: one student in three types, to the table, pairs and figure."
    full = committed('quantised')
    command = in_small(
        full,
        tmp_path,
        fixed=dict(env='corridor', eval_tasks=4, tasks=4, epochs=20, measurements=1),
        grid=dict(stored=full['grid']['stored']),
    )
    run(command)
    summary, timings = read_table('small'), read_table('small', 'timings')
    assert list(summary['stored']) == ['f16', 'q8_0', 'q4_0'] and summary['bytes'].is_monotonic_decreasing
    assert summary['model'].str.replace('-(f16|q8_0|q4_0)$', '', regex=True).nunique() == 1, 'one student'
    assert timings['writing'].gt(0).all() and timings['reading'].gt(0).all()
    assert len(read_table('small', 'episodes')) == 3 * 4
    assert {p.name for p in (tmp_path / 'figures').iterdir()} == {'small__bits.svg', 'small__bits.png'}
    assert len(list(results.glob('quickstart/episodes/expert-*.jsonl'))) == 1, 'played once, for all types'
    assert len(list(results.glob('small/*/result.json'))) == 3


def test_hints_in_small(tmp_path, results):
    "The committed notebooks with few frames: every condition, to the tables and the figures."
    for package, extra in (('minigrid', 'babyai'), ('stable_baselines3', 'rl')):
        pytest.importorskip(package, reason=f'the extra [{extra}] is not installed')
    full = committed('hints')
    assert len(full['grid']['seed']) == 5 and full['fixed']['frequency'] == 5
    command = in_small(
        full,
        tmp_path,
        fixed=dict(frames=2048, test_every=1000, test_worlds=4, eval_worlds=4),
        cells=[dict(hints='action', frequency=1)],
        grid=dict(hints=full['grid']['hints']),
    )
    run(command)
    summary, tests = read_table('small'), read_table('small', 'tests')
    assert (summary['status'] == 'ok').all() and (summary['n'] == 4).all()
    assert list(summary['phase']) == ['without hints', 'with hints'] + ['without hints'] + 3 * [
        'without hints',
        'with hints',
    ]
    assert list(tests['after']) == 5 * [1008, 2000] and len(read_table('small', 'training')) == 5 * 3
    names = ('tested', 'training')
    assert {p.name for p in (tmp_path / 'figures').iterdir()} == {
        f'small__{n}.{k}' for n in names for k in ('svg', 'png')
    }


@pytest.mark.parametrize(
    'name,fixed,cells,phases',
    [
        (
            'baselines',
            dict(eval_tasks=3),
            [dict(policy='random'), dict(policy='expert'), dict(policy='{lm}', prompt='short')],
            None,
        ),
        (
            'teacher_prompts',
            dict(eval_tasks=2, train_tasks=2, max_steps=6),
            [dict(policy='{lm}', method='bootstrap')],
            ['before', 'after'],
        ),
        (
            'distil_from_lm',
            dict(eval_tasks=3, teacher_games=4, epochs=12),
            [dict(tasks=3)],
            ['teacher', 'before', 'after'],
        ),
    ],
)
def test_the_language_model_studies_in_small(name, fixed, cells, phases, tmp_path, results, monkeypatch):
    "The committed notebooks with a real, if ignorant, language model behind a real server."
    from agentkit.models.serving import serve, stop_servers
    from agentkit.training.bases import make_nano

    full = committed(name)
    server = serve(
        make_nano(
            [dict(messages=[dict(role='user', content='A door.'), dict(role='assistant', content='forward')])],
            size='tiny',
            vocabulary=300,
        ),
        slots=4,
        context=4096,
    )
    monkeypatch.setenv('AGENTKIT_API_KEY', server.key)
    cells = [{k: f'openai/{server.model}@{server.url}/v1' if v == '{lm}' else v for k, v in c.items()} for c in cells]
    command = in_small(full, tmp_path, fixed=dict(env='corridor', eval_split='valid_unseen', **fixed), cells=cells)
    try:
        run(command)
    finally:
        stop_servers()
    summary = read_table('small')
    assert (
        len(summary) == len(cells if phases is None else phases)
        and (summary['status'] == 'ok').all()
        and (summary['n'] == fixed['eval_tasks']).all()
    )
    if phases:
        assert list(summary['phase']) == phases
    assert {p.name for p in (tmp_path / 'figures').iterdir()} == {'small__rates.svg', 'small__rates.png'}
    files = [p for p in (results / 'small').rglob('*.*') if p.suffix in ('.csv', '.json', '.ipynb')]
    assert not [p for p in files if server.url in p.read_text()], 'an address is not written down'
    assert not [p for p in files if server.key in p.read_text()], 'nor a key'
