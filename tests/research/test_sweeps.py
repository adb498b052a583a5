"Sweeps: refused before they start, resumed after a kill, honest about failures."

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from agentkit.core.errors import AgentkitError
from agentkit.core.store import digest, write_json
from agentkit.research.sweeps import check_parameters, parameters, plan_cells, read_plan, read_table, run_cell, sweep


def notebook(path, code, defaults="x = 1  # a number\nout = ''  # the run's folder", tags=('parameters',)):
    cell = lambda source, tags=(): dict(
        cell_type='code',
        id=digest(source, n=8),
        metadata=dict(tags=list(tags)),
        outputs=[],
        execution_count=None,
        source=source,
    )
    return write_json(
        path,
        dict(
            nbformat=4,
            nbformat_minor=5,
            metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')),
            cells=[cell(defaults, tags), cell(code)],
        ),
    )


def plan(folder, code, **changes):
    notebook(folder / 'n.ipynb', code)
    path = folder / 'plan.yaml'
    path.write_text(yaml.safe_dump({'experiment': 'trial', 'notebook': 'n.ipynb', 'grid': {'x': [1, 2, 3]}, **changes}))
    return path


DOUBLE = 'from agentkit.sweeps import finish\nfinish(out, [dict(twice=2 * x)], halves=[dict(half=x / 2)])'


def test_a_sweep_ends_in_tables(tmp_path, results):
    sweep(plan_cells(read_plan(plan(tmp_path, DOUBLE))), progress=False)
    assert list(read_table('trial')['twice']) == [2, 4, 6]
    assert list(read_table('trial', 'halves')['half']) == [0.5, 1.0, 1.5]
    folder = next((results / 'trial').glob('*/'))
    assert {'params.json', 'stamp.json', 'result.json', 'run.ipynb'} <= {p.name for p in folder.iterdir()}


def test_how_far_a_cell_is_comes_out_as_text(tmp_path, results):
    code = (
        'import time\nfrom agentkit.core import progress_bar\n'
        "for _ in progress_bar(range(40), desc='counting'): time.sleep(.02)\n" + DOUBLE
    )
    file = plan(tmp_path, code, grid={'x': [1]})
    done = subprocess.run([sys.executable, '-m', 'agentkit.cli', 'sweep', str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.split('\n') if 'counting' in line]
    assert 'counting: 100%' in said[-1] and len(said) < 5, (
        'not a widget that nobody sees, and not a line for each step where it is not a terminal'
    )
    assert [line for line in done.stderr.split('\n') if line.startswith('[1/1]')][
        -1
    ] == '[1/1] ok' and 'TCP' not in done.stderr


def test_a_second_run_runs_nothing(tmp_path, results):
    cells = plan_cells(read_plan(plan(tmp_path, DOUBLE)))
    first = sweep(cells, progress=False)
    times = {p: p.stat().st_mtime_ns for p in results.rglob('run.ipynb')}
    assert sweep(cells, progress=False).equals(first)
    assert {p: p.stat().st_mtime_ns for p in results.rglob('run.ipynb')} == times
    sweep(cells, fresh=True, progress=False)
    assert {p: p.stat().st_mtime_ns for p in results.rglob('run.ipynb')} != times


def test_cells_in_parallel_give_the_same_table(tmp_path, results):
    cells = plan_cells(read_plan(plan(tmp_path, DOUBLE)))
    serial = sweep(cells, progress=False)
    assert sweep(cells, jobs=3, fresh=True, progress=False).equals(serial)


def test_a_failed_cell_is_a_failed_row_and_exit_code_1(tmp_path, results):
    path = plan(tmp_path, 'assert x != 2, "two is not allowed"\n' + DOUBLE)
    done = subprocess.run(
        [sys.executable, '-m', 'agentkit.cli', 'sweep', str(path), '--json'], capture_output=True, text=True
    )
    assert done.returncode == 1
    rows = json.loads(done.stdout)['rows']
    assert [r['status'] for r in rows] == ['ok', 'failed', 'ok']
    assert rows[1]['error'] == 'AssertionError: two is not allowed'


def test_a_notebook_that_says_nothing_has_failed(tmp_path, results):
    cell = plan_cells(read_plan(plan(tmp_path, 'y = x')))[0]
    assert 'must call finish' in run_cell(cell, progress=False)['error']


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'grid': {'y': [1]}}, r"has no parameter 'y'; it takes: x, out"),
        ({'fixed': {'seeed': 1}}, "has no parameter 'seeed'"),
        ({'cells': [{'z': 1}]}, "has no parameter 'z'"),
        ({'grid': {}}, 'has no cells'),
        ({'grid': {'x': []}}, 'non-empty list for x'),
        ({'grid': {'x': 3}}, 'non-empty list for x'),
        ({'grd': 1}, 'unknown key grd'),
        ({'notebook': 'm.ipynb'}, 'm.ipynb does not exist'),
    ],
)
def test_a_bad_plan_is_refused_before_anything_runs(tmp_path, results, changes, message):
    with pytest.raises(AgentkitError, match=message):
        plan_cells(read_plan(plan(tmp_path, DOUBLE, **changes)))
    assert not list(results.rglob('run.ipynb'))


def test_a_notebook_without_the_tag_is_refused(tmp_path):
    with pytest.raises(AgentkitError, match='has 0 cells tagged "parameters"'):
        parameters(notebook(tmp_path / 'n.ipynb', DOUBLE, tags=()))


def test_parameters_come_with_help(tmp_path):
    assert parameters(notebook(tmp_path / 'n.ipynb', DOUBLE))['x'] == dict(default='1', type='None', help='a number')
    with pytest.raises(AgentkitError):
        check_parameters(tmp_path / 'n.ipynb', {'X': 1})


def test_killed_in_the_middle_ends_with_the_same_table(tmp_path, results, monkeypatch):
    slow = (
        "import time\nfrom pathlib import Path\nif x == 2 and not Path(out, 'been-here').exists():\n"
        "    Path(out, 'been-here').touch()\n    time.sleep(60)\n" + DOUBLE
    )
    path = plan(tmp_path, slow)
    command = [sys.executable, '-m', 'agentkit.cli', 'sweep', str(path)]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 120
    while not list(results.rglob('been-here')) and time.time() < deadline:
        time.sleep(0.1)
    assert list(results.rglob('been-here')), 'the second cell never began'
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert subprocess.run(command, capture_output=True).returncode == 0
    resumed = read_table('trial')
    monkeypatch.setenv('AGENTKIT_PATHS_RESULTS', str(tmp_path / 'undisturbed'))
    undisturbed = sweep(plan_cells(read_plan(plan(tmp_path, DOUBLE))), progress=False)
    pd.testing.assert_frame_equal(resumed.drop(columns='error'), undisturbed.drop(columns='error'), check_dtype=False)


def test_an_address_reaches_the_notebook_and_nothing_else(tmp_path, results):
    notebook(
        tmp_path / 'n.ipynb',
        'from agentkit.sweeps import finish\nfinish(out, [dict(seen=len(x))])',
        defaults="x = ''  # a model\nout = ''  # the run's folder",
    )
    (tmp_path / 'plan.yaml').write_text(
        yaml.safe_dump(
            dict(experiment='trial', notebook='n.ipynb', grid=dict(x=['openai/tiny@http://127.0.0.1:8080/v1']))
        )
    )
    (here,) = plan_cells(read_plan(tmp_path / 'plan.yaml'))
    table = sweep([here], progress=False)
    assert list(table['x']) == ['openai/tiny'] and list(table['seen']) == [len('openai/tiny@http://127.0.0.1:8080/v1')]
    assert (
        '8080'
        not in here.label + (here.folder / 'params.json').read_text() + (results / 'trial/summary.csv').read_text()
    )
    assert dataclasses.replace(here, params=dict(x='openai/tiny@http://127.0.0.1:9090/v1')).run == here.run, (
        'the same model behind another address is the same condition'
    )
