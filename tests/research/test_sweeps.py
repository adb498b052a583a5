"Sweeps: refused before they start, resumed after a kill, honest about failures."

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from conftest import ROOT
from flaky import REFUSED, FlakyServer, said

from agentkit.cli import main
from agentkit.core.errors import AgentkitError
from agentkit.core.store import digest, read_json, write_json
from agentkit.research.sweeps import (
    Kernels,
    check_parameters,
    collect,
    ended,
    finish,
    parameters,
    plan_cells,
    read_plan,
    read_result,
    read_table,
    run_cell,
    sweep,
)


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


DOUBLE = 'from agentkit.research.sweeps import finish\nfinish(out, [dict(twice=2 * x)], halves=[dict(half=x / 2)])'


def test_a_sweep_ends_in_tables(tmp_path, results):
    sweep(plan_cells(read_plan(plan(tmp_path, DOUBLE))), progress=False)
    assert list(read_table('trial')['twice']) == [2, 4, 6]
    assert list(read_table('trial', 'halves')['half']) == [0.5, 1.0, 1.5]
    folder = next((results / 'trial').glob('*/'))
    assert {'params.json', 'stamp.json', 'result.json', 'run.ipynb'} <= {p.name for p in folder.iterdir()}


def test_how_far_a_cell_is_comes_out_as_text(tmp_path, results):
    code = (
        'import time\nfrom agentkit.core.errors import progress_bar\n'
        "for _ in progress_bar(range(40), desc='counting'): time.sleep(.02)\n" + DOUBLE
    )
    file = plan(tmp_path, code, grid={'x': [1]})
    done = subprocess.run([sys.executable, '-m', 'agentkit.cli', 'sweep', str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bars = [line for line in done.stderr.split('\n') if 'counting' in line]
    assert 'counting: 100%' in bars[-1] and len(bars) < 5, (
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
    serial, where = sweep(cells, progress=False), os.getcwd()
    assert sweep(cells, jobs=3, fresh=True, progress=False).equals(serial)
    assert os.getcwd() == where, 'whoever calls it stays where they are'


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
        'from agentkit.research.sweeps import finish\nfinish(out, [dict(seen=len(x))])',
        defaults="x = ''  # a model\nout = ''  # the run's folder",
    )
    (tmp_path / 'plan.yaml').write_text(
        yaml.safe_dump(
            dict(experiment='trial', notebook='n.ipynb', grid=dict(x=['openai/tiny@http://127.0.0.1:8080/v1']))
        )
    )
    (cell,) = plan_cells(read_plan(tmp_path / 'plan.yaml'))
    table = sweep([cell], progress=False)
    assert list(table['x']) == ['openai/tiny'] and list(table['seen']) == [len('openai/tiny@http://127.0.0.1:8080/v1')]
    assert (
        '8080'
        not in cell.label + (cell.folder / 'params.json').read_text() + (results / 'trial/summary.csv').read_text()
    )
    assert dataclasses.replace(cell, params=dict(x='openai/tiny@http://127.0.0.1:9090/v1')).run == cell.run, (
        'the same model behind another address is the same condition'
    )


def test_a_run_that_failed_after_its_result_has_failed_again(tmp_path, results):
    cells = plan_cells(read_plan(plan(tmp_path, DOUBLE + "\nraise RuntimeError('a check after the result')")))
    first, second = (sweep(cells[:1], progress=False) for _ in range(2))
    assert list(first['status']) == list(second['status']) == ['failed']
    assert first['error'].iloc[0] == 'RuntimeError: a check after the result'


def test_a_run_that_was_killed_after_its_result_is_not_done(tmp_path, results):
    (cell,) = plan_cells(read_plan(plan(tmp_path, DOUBLE, grid={'x': [1]})))
    finish(cell.folder, [dict(twice=77)])
    assert list(sweep([cell], progress=False)['twice']) == [2]


@pytest.mark.parametrize(
    'change', [dict(version=99), dict(format='something-else'), dict(tables={'../x': []}), dict(tables={'timings': []})]
)
def test_a_result_that_is_none_is_refused(tmp_path, change):
    path = tmp_path / 'result.json'
    write_json(path, {**finish(tmp_path, [dict(twice=2)]), **change})
    with pytest.raises(AgentkitError, match='/result.json: .*; delete it, or sweep with --fresh'):
        read_result(path)


def test_a_result_of_another_version_is_an_error_before_a_cell_runs(tmp_path, results):
    cells = plan_cells(read_plan(plan(tmp_path, DOUBLE, grid={'x': [1, 2]})))
    sweep(cells[1:], progress=False)
    path = cells[1].folder / 'result.json'
    write_json(path, {**read_json(path), 'version': 99, 'rows': [dict(twice=-1)]})
    with pytest.raises(AgentkitError, match=f'{cells[1].run}/result.json'):
        sweep(cells, progress=False)
    assert not cells[0].folder.exists() and list(read_table('trial')['twice']) == [4]
    assert list(sweep(cells, fresh=True, progress=False)['twice']) == [2, 4]


def test_a_notebook_that_was_edited_is_run_again_and_prose_is_not_code(tmp_path, results, capsys):
    path = plan(tmp_path, DOUBLE, grid={'x': [1]})
    sweep(plan_cells(read_plan(path)), progress=False)
    notebook(tmp_path / 'n.ipynb', DOUBLE.replace('2 * x', '3 * x'))
    assert list(sweep(plan_cells(read_plan(path)))['twice']) == [3]
    assert 'n.ipynb has changed: again' in capsys.readouterr().err
    edited = read_json(tmp_path / 'n.ipynb')
    prose = dict(cell_type='markdown', id='0a', metadata={}, source='Why.')
    write_json(tmp_path / 'n.ipynb', {**edited, 'cells': [prose, *edited['cells']]})
    sweep(plan_cells(read_plan(path)))
    assert 'done before' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['../outside', '/tmp/outside', 'a/b', '', '.hidden'])
def test_names_of_experiments_and_tables_are_no_paths(tmp_path, results, name):
    with pytest.raises(AgentkitError, match='cannot be the name of an experiment'):
        read_plan(plan(tmp_path, DOUBLE, experiment=name))
    with pytest.raises(AgentkitError, match='cannot be the name of a table'):
        finish(tmp_path, [dict(a=1)], **{name: []})


def test_a_further_table_has_a_name_of_its_own(tmp_path):
    with pytest.raises(AgentkitError, match='cannot be called summary'):
        finish(tmp_path, [dict(a=1)], summary=[])


def test_the_tables_are_written_after_each_cell(tmp_path, results):
    code = (
        "from agentkit.core.settings import path_of\nsummary = path_of('results', 'trial', 'summary.csv')\n"
        "seen = summary.read_text().count('\\n') if summary.exists() else 0\n"
        'from agentkit.research.sweeps import finish\nfinish(out, [dict(seen=seen)], [dict(seconds=x)])'
    )
    assert list(sweep(plan_cells(read_plan(plan(tmp_path, code))), progress=False)['seen']) == [0, 2, 3]


def test_what_was_measured_in_seconds_is_not_among_the_results(tmp_path, results):
    code = 'from agentkit.research.sweeps import finish\nfinish(out, [dict(twice=2 * x)], [dict(seconds=x / 10)])'
    cells = plan_cells(read_plan(plan(tmp_path, code)))
    sweep(cells, progress=False)
    assert [p.name for p in (results / 'trial').glob('*.csv')] == ['summary.csv']
    assert list(read_table('trial', 'timings')['seconds']) == [0.1, 0.2, 0.3]
    (results / 'published').mkdir()
    (results / 'published/timings.csv').write_text('run,seconds\na,7\n')
    assert list(read_table('published', 'timings')['seconds']) == [7]


def test_collect_reads_what_has_ended(tmp_path, results):
    cells = plan_cells(read_plan(plan(tmp_path, 'assert x != 2, "two is not allowed"\n' + DOUBLE)))
    sweep(cells[:2], progress=False)
    assert list(collect(cells)['status']) == ['ok', 'failed']


BEGUN = """
import os, pathlib, signal, subprocess, time
begun = lambda child: pathlib.Path(out, 'begun').write_text(f'{os.getpid()} {child}')
"""
STARTS = {
    'a program': "begun(subprocess.Popen(['sleep', '600']).pid)\ntime.sleep(600)\n",
    'a worker, and hears nothing': 'signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
    'from agentkit.envs.pool import EnvPool\n'
    "with EnvPool('household', 1).session() as env:\n    begun(env._worker.pid)\n    time.sleep(600)\n",
}


def running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    'starts, number, code',
    [
        ('a program', signal.SIGINT, 130),
        ('a program', signal.SIGTERM, 143),
        ('a program', signal.SIGHUP, 129),
        ('a worker, and hears nothing', signal.SIGINT, 130),
    ],
)
def test_an_interrupt_ends_the_running_notebooks_and_the_sweep(tmp_path, results, starts, number, code):
    path = plan(tmp_path, BEGUN + STARTS[starts] + DOUBLE)
    command = [sys.executable, '-m', 'agentkit.cli', 'sweep', str(path), '--jobs', '2']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    while len(begun := [f for f in results.rglob('begun') if f.read_text()]) < 2 and process.poll() is None:
        time.sleep(0.1)
    started = [int(pid) for file in begun for pid in file.read_text().split()]
    os.killpg(process.pid, number)  # as a terminal does
    if starts != 'a program':
        time.sleep(0.5)
        os.killpg(process.pid, number)  # asked again: at once
    assert process.wait(300) == code  # half of what the cells would have taken
    deadline = time.time() + 120
    while any(map(running, started)) and time.time() < deadline:
        time.sleep(0.1)
    assert len(started) == 4 and not any(map(running, started)), 'nothing is left running'
    assert not list(results.rglob('status.json'))


def test_keys_and_addresses_stay_out_of_all_files(tmp_path, results, monkeypatch):
    key = 'sk-' + 'CANARY1234567890abcdef'
    monkeypatch.setenv('OPENAI_API_KEY', key)
    code = "import os\nraise ValueError('refused: Authorization: Bearer ' + os.environ['OPENAI_API_KEY'] + x[:0])"
    notebook(tmp_path / 'n.ipynb', code, defaults="x = ''  # a model\nout = ''  # the run's folder")
    model = 'openai/tiny@http://ann:pass-CANARY-99@127.0.0.1:9/v1'
    (tmp_path / 'plan.yaml').write_text(
        yaml.safe_dump(dict(experiment='trial', notebook='n.ipynb', grid=dict(x=[model])))
    )
    table = sweep(plan_cells(read_plan(tmp_path / 'plan.yaml')), progress=False)
    assert table['error'].iloc[0].startswith('ValueError: refused: Authorization: Bearer ***')
    files = [p for p in results.rglob('*') if p.is_file()]
    assert len(files) >= 5 and not [p for p in files if b'CANARY' in p.read_bytes() or b'127.0.0.1' in p.read_bytes()]
    run = read_json(next(results.rglob('run.ipynb')))
    assert any("x = 'openai/tiny'" in ''.join(c['source']).replace('"', "'") for c in run['cells'])


SHOWS = """
import sys, time
body = ['CANARY' * 10] * 3
for line in ('-----BEGIN PRIVATE KEY-----', *body, '-----END PRIVATE KEY-----'):
    print(line, flush=True)
    time.sleep(0.3)
print('behind it', '\\n'.join(['-----BEGIN PRIVATE KEY-----', *body]), sep='\\n', file=sys.stderr)
"""


def test_a_key_of_several_lines_is_neither_shown_nor_kept(tmp_path, results, capsys):
    "Printed line by line, as a program that copies a file does; one is not printed to its end."
    cells = plan_cells(read_plan(plan(tmp_path, SHOWS + DOUBLE, grid={'x': [1]})))
    assert list(sweep(cells)['status']) == ['ok']
    files = [p for p in results.rglob('*') if p.is_file()]
    shown = capsys.readouterr()
    assert '***' in shown.err and 'CANARY' not in shown.err + shown.out and 'behind it' in shown.err
    assert not [p for p in files if b'CANARY' * 10 in p.read_bytes().replace(b"'CANARY' * 10", b'')]
    (run,) = results.rglob('run.ipynb')
    assert nbformat.validate(nbformat.read(run, 4)) is None and 'behind it' in run.read_text()


# --- what lies there ---


@pytest.fixture
def project(tmp_path, results, monkeypatch):
    "A project folder with a module of its own."
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    (tmp_path / 'helper.py').write_text('times = lambda x: 2 * x\n')
    return tmp_path


HELPED = 'import helper\nfrom agentkit.research.sweeps import finish\nfinish(out, [dict(times=helper.times(x))])\n'


def test_an_edited_module_makes_results_stale(project, capsys):
    cells = plan_cells(read_plan(plan(project, HELPED, grid={'x': [1, 2]})))
    assert list(sweep(cells, jobs=2, progress=False)['times']) == [2, 4]
    (project / 'helper.py').write_text('times = lambda x: 3 * x\n')
    sweep(cells[:1], plan=cells)
    assert 'helper.py has changed: again' in capsys.readouterr().err
    table = read_table('trial')
    assert list(table['status']) == ['ok', 'stale'] and table['error'][1] == 'helper.py has changed'
    assert table['times'][0] == 3 and pd.isna(table['times'][1]), 'numbers of older code are in no table'


def test_a_module_that_is_edited_under_a_run_spoils_it(project):
    code = HELPED + "import pathlib\npathlib.Path(helper.__file__).write_text('times = lambda x: 3 * x\\n')\n"
    table = sweep(plan_cells(read_plan(plan(project, code, grid={'x': [1]}))), progress=False)
    assert list(table['error']) == ['helper.py was edited while this ran: the same command runs it again']


def test_what_a_result_comes_from_is_known_and_half_a_file_is_never_ok(tmp_path, results):
    (cell,) = plan_cells(read_plan(plan(tmp_path, DOUBLE, grid={'x': [1]})))
    sweep([cell], progress=False)
    assert ended(cell).status == 'ok'
    result, status = (read_json(cell.folder / name) for name in ('result.json', 'status.json'))
    place = next(p for p in status['code'] if p.endswith('agentkit/core/store.py'))
    assert not any('agentkit/research' in p for p in status['code'])
    for changed in (
        dict(code={**status['code'], place: 'other'}),
        dict(run='a copy'),
        dict(result=''),
        dict(notebook=''),
    ):
        write_json(cell.folder / 'status.json', {**status, **changed})
        assert ended(cell).status == 'stale'
    write_json(cell.folder / 'status.json', status)
    write_json(cell.folder / 'result.json', {**result, 'rows': [dict(twice=-1)]})
    assert ended(cell).error == 'its result.json has changed'
    write_json(cell.folder / 'result.json', result)
    for name in ('status.json', 'result.json'):
        whole = (cell.folder / name).read_bytes()
        for cut in range(0, len(whole) - 1, 1 + len(whole) // 200):
            (cell.folder / name).write_bytes(whole[:cut])
            with pytest.raises(AgentkitError, match=f'{name}: .*; delete it, or sweep with --fresh'):
                sweep([cell], progress=False)
        (cell.folder / name).write_bytes(whole)
    (cell.folder / 'status.json').write_text('{}')
    assert list(sweep([cell], fresh=True, progress=False)['twice']) == [2]


def test_a_result_of_another_version_elsewhere_in_the_plan_is_an_error_first(tmp_path, results):
    cells = plan_cells(read_plan(plan(tmp_path, DOUBLE)))
    write_json(cells[2].folder / 'result.json', {**finish('', [dict(twice=-1)]), 'version': 99})
    with pytest.raises(AgentkitError, match=f'{cells[2].run}/result.json'):
        sweep(cells[:1], progress=False, plan=cells)
    assert not (cells[0].folder / 'run.ipynb').exists()


def test_two_sweeps_of_one_plan_share_the_work(tmp_path, results):
    path = plan(tmp_path, f"open('{tmp_path}/count', 'a').write('x')\n" + DOUBLE)
    command = [sys.executable, '-m', 'agentkit.cli', 'sweep', str(path), '--jobs', '2', '--json']
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    for process in both:
        assert [r['twice'] for r in json.loads(process.communicate()[0])['rows']] == [2, 4, 6]
    assert (tmp_path / 'count').read_text() == 'xxx'
    assert list(read_table('trial')['twice']) == [2, 4, 6]


def test_a_killed_kernel_is_a_failed_cell_also_after_its_result(tmp_path, results):
    code = DOUBLE + '\nimport os, signal\nif x == 1: os.kill(os.getpid(), signal.SIGKILL)'
    table = sweep(plan_cells(read_plan(plan(tmp_path, code, grid={'x': [1, 2]}))), jobs=2, progress=False)
    assert list(table['status']) == ['failed', 'ok'] and 'Kernel died' in table['error'][0]


def test_what_is_asked_to_end_does_not_begin(tmp_path, results):
    (cell,) = plan_cells(read_plan(plan(tmp_path, DOUBLE, grid={'x': [1]})))
    kernels = Kernels()
    kernels.signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, progress=False, kernels=kernels)
    assert not (cell.folder / 'status.json').exists()


def test_jobs_that_are_no_number_are_one_line(tmp_path, results, monkeypatch):
    monkeypatch.setenv('AGENTKIT_SWEEPS_JOBS', 'many')
    with pytest.raises(AgentkitError, match='jobs = many: write a number from 1'):
        sweep(plan_cells(read_plan(plan(tmp_path, DOUBLE))), progress=False)


def test_numbers_of_numpy_and_nan_are_results(tmp_path):
    made = finish(tmp_path, [dict(n=np.int64(3), rate=np.float32(0.5), no=float('nan'))], [dict(seconds=np.float64(1))])
    assert read_result(tmp_path / 'result.json') == made
    assert made['rows'] == [dict(n=3, rate=0.5, no=None)] and made['timings'] == [dict(seconds=1.0)]


FICKLE = """
from agentkit.agents.policy import Agent
from agentkit.envs.find import list_tasks
from agentkit.evals import evaluate
from agentkit.models.find import make_lm
from agentkit.research.sweeps import finish, results_of
from agentkit.rollouts import Runner

with Runner('corridor', out, progress=False) as run:
    report = evaluate(Agent(make_lm(policy), think=False), list_tasks('corridor', 'train', doors), run)
finish(out, **results_of(dict(after=report)))
"""


def test_what_broke_off_makes_a_sweep_doubtful_and_is_played_again(tmp_path, results, capsys):
    "A cell misses one episode of three: it is said, exit code 1, and the next sweep asks for that one only."
    well, defaults = [], "doors = 2\npolicy = ''\nout = ''"

    def answer(number, body):
        far = len(body['messages']) > 1 and 'door 3.' in body['messages'][1]['content']
        return REFUSED if far and not well else said('forward')

    with FlakyServer(answer) as server:
        path = plan(tmp_path, FICKLE, fixed=dict(policy=f'openai/m@{server.url}'), grid=dict(doors=[3]))
        notebook(tmp_path / 'n.ipynb', FICKLE, defaults)
        assert main(['sweep', str(path), '--jobs', '1']) == 1
        assert '1 not to be trusted' in capsys.readouterr().out
        (first,) = read_table('trial').to_dict('records')
        assert (first['n'], first['unmeasured'], first['success'], first['trusted']) == (2, 1, 1.0, False)
        well.append(True)
        asked = len(server.asked)
        assert main(['sweep', str(path), '--jobs', '1']) == 0
        assert len(server.asked) - asked == 3
    (again,) = read_table('trial').to_dict('records')
    assert (again['n'], again['unmeasured'], again['success'], again['trusted']) == (3, 0, 1.0, True)


@pytest.mark.parametrize('key', ['notebook', 'report'])
@pytest.mark.parametrize('how', ['above', 'absolute', 'link'])
def test_a_plan_runs_the_notebooks_of_its_own_folder_only(tmp_path, key, how):
    other, folder = notebook(tmp_path / 'other/o.ipynb', DOUBLE), tmp_path / 'plans'
    name = dict(above='../other/o.ipynb', absolute=str(other), link='link.ipynb')[how]
    path = plan(folder, DOUBLE, **{key: name})
    (folder / 'link.ipynb').symlink_to(other)
    with pytest.raises(
        AgentkitError, match=f'the {key} .*/other/o.ipynb is neither beside the plan nor in the project'
    ):
        read_plan(path)


@pytest.mark.parametrize('name', ['Summary', 'TIMINGS'])
def test_names_that_differ_in_case_only_are_one(tmp_path, name):
    with pytest.raises(AgentkitError, match=f'cannot be called {name}'):
        finish(tmp_path, [dict(a=1)], **{name: []})
    with pytest.raises(AgentkitError, match='differ in case only'):
        finish(tmp_path, [dict(a=1)], kinds=[], Kinds=[])
    with pytest.raises(AgentkitError, match='MLflow has this name'):
        read_plan(plan(tmp_path, DOUBLE, experiment='MLflow.db'))


def test_a_result_holds_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-' + 'CANARY1234567890abcdef')
    said = f'Bearer {os.environ["OPENAI_API_KEY"]}'
    rows = [dict(n=1, error=said, where='http://ann:pass-CANARY-99@host/v1', rate=0.5)]
    result = finish(tmp_path, rows, rows, more=rows)
    kept = dict(n=1, error='Bearer ***', where='http://***@host/v1', rate=0.5)
    assert result['rows'] == result['timings'] == result['tables']['more'] == [kept]
    assert 'CANARY' not in (tmp_path / 'result.json').read_text()


def test_a_killed_sweep_leaves_no_password_and_nothing_in_the_temporary_folder(tmp_path, results):
    code = "import sys, time\nsys.stdout.write('up ' + x + '\\n')\nsys.stdout.flush()\ntime.sleep(300)"
    model, temporary = 'openai/tiny@http://ann:pass-CANARY-99@127.0.0.1:9/v1', tmp_path / 'temporary'
    temporary.mkdir()
    notebook(tmp_path / 'plans/n.ipynb', code, defaults="x = ''\nout = ''")
    path = tmp_path / 'plans/plan.yaml'
    path.write_text(yaml.safe_dump(dict(experiment='trial', notebook='n.ipynb', grid=dict(x=[model]))))
    command, env = [sys.executable, '-m', 'agentkit.cli', 'sweep', str(path)], {**os.environ, 'TMPDIR': str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
        shown = next(line for line in process.stderr if line.startswith('up '))
        (kernel,) = [p for p in psutil.Process(process.pid).children() if 'ipykernel' in ' '.join(p.cmdline())]
        process.kill()
        kernel.kill()
        process.wait()
        assert shown == 'up openai/tiny@http://***@127.0.0.1:9/v1\n'
    assert not list(temporary.iterdir())
    files = [p for p in results.rglob('*') if p.is_file()]
    assert len(files) > 2 and not [p for p in files if b'CANARY' in p.read_bytes()]
