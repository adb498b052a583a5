"Reports: drawn while a sweep runs, and over what is there."

import pandas as pd
import pytest
from conftest import ROOT
from research.test_sweeps import notebook, plan

from agentkit.cli import main
from agentkit.core.errors import AgentkitError
from agentkit.research.sweeps import draw_now, missing, plan_cells, read_plan, read_table, sweep

REPORT = """
from agentkit.research.plots import rate_bars, show_figure, show_rates
from agentkit.research.sweeps import missing, read_tables
summary, kinds = read_tables(experiment, 'by_kind')
show_rates(summary, ['x']), missing(experiment)
show_figure(experiment, 'rates', rate_bars, summary, ['x'])
"""
MEASURED = (
    'from agentkit.research.sweeps import finish\nassert x != 2, "two is not allowed"\n'
    'finish(out, [dict(success=x / 9, ci_low=0, ci_high=1, wins=x, n=9, steps=1)])'
)


def reported(folder, code=REPORT):
    notebook(folder / 'report.ipynb', code, defaults="experiment = ''")
    return plan(folder, MEASURED, report='report.ipynb')


def test_the_figure_is_drawn_after_each_cell(tmp_path, results):
    file = read_plan(reported(tmp_path))
    cells, seen = plan_cells(file), []
    sweep(cells, progress=False, then=lambda: seen.append((list(read_table('trial')['status']), draw_now(file))))
    figures = [str(tmp_path / f'figures/trial__rates.{kind}') for kind in ('png', 'svg')]
    assert seen == [(s, figures) for s in (['ok'], ['ok', 'failed'], ['ok', 'failed', 'ok'])]
    assert list(missing('trial')['error']) == ['AssertionError: two is not allowed']
    sweep(cells[:1], progress=False, then=lambda: seen.append('again'))
    assert len(seen) == 3, 'what was done before changes no figure'


def test_a_sweep_shows_figures_early_and_a_report_that_fails_does_not_hide_the_table(tmp_path, results, capsys):
    path = reported(tmp_path)
    assert main(['sweep', str(path), '--only', 'x=1']) == 0
    shown = capsys.readouterr()
    assert f'figures so far: {tmp_path}/figures/trial__rates.png' in shown.err and 'trial__rates.svg' in shown.out
    assert list(missing('trial')['status']) == ['not run', 'not run']
    reported(tmp_path, REPORT + "\nraise KeyError('a column')")
    assert main(['sweep', str(path), '--only', 'x=3']) == 1
    shown = capsys.readouterr()
    assert "not to be drawn yet (KeyError: 'a column')" in shown.err
    assert '0.333333' in shown.out and f"no report: {tmp_path}/report.ipynb: KeyError: 'a column'" in shown.out


STUDIES = sorted(p.stem for p in (ROOT / 'notebooks/experiments').glob('*.yaml'))
SOME = dict(first=slice(0, 1), last=slice(-1, None), no=slice(0, 0))


@pytest.mark.parametrize('some', SOME)
@pytest.mark.parametrize('study', STUDIES)
def test_a_report_over_some_cells_shows_what_is_there(results, study, some):
    tables = {
        p: pd.read_csv(p, keep_default_na=False, na_values=['']) for p in (ROOT / 'results' / study).glob('*.csv')
    }
    summary = next(t for p, t in tables.items() if p.stem == 'summary')
    kept = list(dict.fromkeys(summary['run']))[SOME[some]]
    failed = pd.DataFrame([dict(run='f', status='failed', error='ValueError: no')])
    (results / study).mkdir(parents=True)
    for path, table in tables.items():
        table = table[table['run'].isin(kept)].dropna(axis=1, how='all')  # as if the other cells had not run
        table = pd.concat([table, failed]) if path.stem == 'summary' else table
        if len(table):
            table.to_csv(results / study / path.name, index=False)
    figures = draw_now(read_plan(ROOT / f'notebooks/experiments/{study}.yaml'))
    assert bool(figures) == bool(kept) and list(missing(study)['error']) == ['ValueError: no']


@pytest.mark.parametrize('content', [b'', b'a\n"b', b'\xff\xfe\x00', b'a,b\n1,2,3\n4\n5,6,7,8\n'])
def test_a_table_that_is_none_is_one_line(results, content):
    (results / 'trial').mkdir(parents=True)
    (results / 'trial/summary.csv').write_bytes(content)
    with pytest.raises(AgentkitError, match='summary.csv is no table'):
        read_table('trial')
