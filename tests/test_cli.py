"The command line: helpful, one line for wrong input, JSON for machines."

import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import session
from flaky import REFUSED, FlakyServer, said

from agentkit.cli import COMMANDS, main
from agentkit.core.store import locked, read_json


def lines(path, rows):
    path.write_text(''.join(json.dumps(r) + '\n' for r in rows))
    return path


def agentkit(*argv, input='', **variables):
    "The command in a process of its own."
    env = {**os.environ, 'COLUMNS': '200', **{k: str(v) for k, v in variables.items()}}
    command = [sys.executable, '-m', 'agentkit.cli', *map(str, argv)]
    return subprocess.run(command, input=input, capture_output=True, text=True, env=env)


def typed(capsys, *argv, code=0):
    "What a command prints."
    assert main([*map(str, argv)]) == code
    return capsys.readouterr().out


def answer(capsys, *argv):
    "What it prints for machines."
    return json.loads(typed(capsys, *argv, '--json'))


def error(capsys, *argv):
    "The one line that wrong input costs."
    assert main([*map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err.startswith('agentkit: ') and captured.err.count('\n') == 1
    return captured.err


# --- help ---


def test_the_program_starts_without_what_is_heavy():
    heavy = ('dspy', 'torch', 'pandas', 'numpy', 'matplotlib', 'papermill', 'agentkit.rollouts')
    code = (
        f'import sys; from agentkit.cli import main; main(["--help"]); print([m for m in {heavy} if m in sys.modules])'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == '[]'
    assert all(words.split()[0] in run.stdout for words in COMMANDS)


@pytest.mark.parametrize('words', COMMANDS)
def test_every_command_explains_itself(words, capsys, monkeypatch):
    "Each parameter has a comment, and the comment is its help."
    monkeypatch.setenv('COLUMNS', '300')
    text = typed(capsys, *words.split(), '--help')
    assert COMMANDS[words].__doc__ in text and 'print one JSON object and nothing else' in text
    parameters = [line for line in text.splitlines() if line.startswith('│') and '--help' not in line]
    assert parameters and all(len(line.strip('│* ').split('  ', 1)[1].strip()) > 4 for line in parameters)


@pytest.mark.parametrize(
    'words, names',
    [
        ('evaluate', ('alfworld', 'corridor', 'random-reader', 'valid_unseen', 'module:Class')),
        ('play', ('me', 'expert', 'corridor')),
        ('distill', ('dagger', 'explore', 'rejection', 'nano')),
        ('optimize', ('miprov2', 'gepa', 'simba')),
        ('export', ('trl-completion', 'sharegpt')),
        ('collect', ('alpaca', 'mlflow')),
        ('quantize', ('q4_k_m',)),
        ('env check', ('alfworld', 'module:Class')),
    ],
)
def test_help_holds_the_names_of_the_registries(words, names, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '300')
    text = typed(capsys, *words.split(), '--help')
    assert [n for n in names if n not in text] == []


def test_the_default_environment_is_a_setting(capsys, monkeypatch, results):
    monkeypatch.setenv('AGENTKIT_ENVIRONMENTS_DEFAULT', 'corridor')
    assert '5 tasks in corridor/train' in typed(capsys, 'tasks')
    assert answer(capsys, 'evaluate', '--policy', 'expert')['summary']['n'] == 5
    assert answer(capsys, 'play', '--policy', 'expert')['termination'] == 'won'


# --- wrong input ---

WRONG = dict(
    command=('evalute', 'Did you mean "evaluate"?'),
    subcommand=('env chek', 'Did you mean "check"?'),
    option=('evaluate --policy random --taks 3', 'Did you mean --tasks?'),
    missing_option=('evaluate', '--policy requires an argument'),
    missing_place=('promote a --out b', 'REFERENCE requires an argument'),
    too_much=('tasks more', "['more']"),
    zero=('evaluate --policy random --tasks 0', '--tasks'),
    no_number=('evaluate --policy random --tasks many', '"many"'),
    environment=('evaluate --env corridr --policy random', "did you mean 'corridor'?"),
    module=('evaluate --env nowhere:Env --policy random', 'nowhere:Env cannot be found'),
    no_environment=('evaluate --env pathlib:Path --policy random', 'is not an environment'),
    split=('evaluate --env corridor --split trian --policy random', "did you mean 'train'?"),
    policy=('evaluate --env corridor --policy exprt', "did you mean 'expert'?"),
    model=('evaluate --env corridor --policy local/no-such-model', 'no-such-model'),
    key=('evaluate --env corridor --policy openai/gpt-4o-mini', 'OPENAI_API_KEY'),
    option_of_environment=('tasks --env corridor --option strt=1', "it takes: start=0; did you mean 'start'?"),
    option_of_the_runner=('evaluate --env corridor --policy expert --option env=1', "'env'; it takes: start=0"),
    no_pair=('tasks --env corridor --option start', 'start: write name=value'),
    no_yaml=('tasks --env corridor --option start=[', 'write name=value'),
    task=('play --env corridor --task 99 --policy expert', 'there are tasks 0 to 4'),
    method=('distill --env corridor --method daggr', 'Did you mean "dagger"?'),
    search=('optimize --env corridor --method gepo', 'Did you mean "gepa"?'),
    student=('distill --env corridor --teacher random --student nanno --tasks 3', 'nanno'),
    format=('export rows.jsonl --format opnai', 'Did you mean "openai"?'),
    log=('collect log --format opnai --out x', 'Did you mean "openai"?'),
    type=('quantize --model x --type q4', 'Did you mean "q4_0"?'),
    plan=('sweep nowhere.yaml', 'nowhere.yaml does not exist'),
    report=('report nowhere.yaml', 'nowhere.yaml does not exist'),
    rows=('export nowhere.jsonl --format openai', 'nowhere.jsonl'),
    reports=('promote a b --out c', 'a/report.json does not exist'),
)


@pytest.mark.parametrize('line, message', WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(line, message, capsys, monkeypatch, results, tmp_path):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    monkeypatch.chdir(tmp_path)
    assert message in error(capsys, *line.split())


@pytest.mark.parametrize('argv', [[], ['env']])
def test_nothing_to_do_is_the_help_and_exit_code_2(argv, capsys):
    assert 'Usage: agentkit' in typed(capsys, *argv, code=2)


def test_settings_are_mended_before_anything_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    (tmp_path / 'settings.ini').write_bytes(b'\xef\xbb\xbf[environments]\ndefault = corridor\n')  # a byte-order mark
    assert '5 tasks in corridor/train' in typed(capsys, 'tasks')
    (tmp_path / 'settings.ini').write_text('[environments]\ndefaut = corridor\n')
    assert "did you mean 'default'?" in error(capsys, 'tasks')
    (tmp_path / 'settings.ini').write_text('[environments]\ndefault = corridr\n')
    assert "did you mean 'corridor'?" in error(capsys, 'tasks')
    (tmp_path / 'settings.ini').write_bytes(b'\xff\xfe')
    assert 'settings.ini cannot be read' in error(capsys, 'tasks')


@pytest.mark.parametrize('place', ['file/x', '/proc/nothing/x'])
def test_where_nothing_can_be_written_is_named_before_anybody_plays(place, capsys, tmp_path, monkeypatch):
    from agentkit.rollouts import Runner

    (tmp_path / 'file').touch()
    monkeypatch.setattr(Runner, '__call__', lambda *a, **k: pytest.fail('somebody plays'))
    command = ('evaluate', '--env', 'corridor', '--policy', 'expert', '--out', tmp_path / place)
    assert 'name another place' in error(capsys, *command)


def test_a_missing_extra_is_named_before_anybody_plays(tmp_path):
    blocked = ('torch', 'transformers', 'tokenizers', 'gguf', 'peft', 'safetensors')
    (tmp_path / 'sitecustomize.py').write_text(
        textwrap.dedent(f"""
        import importlib.abc, sys
        class Missing(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] in {blocked}:
                    raise ModuleNotFoundError(f'No module named {{name!r}}', name=name.split('.')[0])
        sys.meta_path.insert(0, Missing())
        """)
    )
    out = tmp_path / 'out'
    command = ('distill', '--env', 'corridor', '--student', 'nano', '--tasks', 4, '--out', out)
    run = agentkit(*command, PYTHONPATH=tmp_path)
    assert run.returncode == 2 and 'agentkit[train]' in run.stderr and run.stderr.count('\n') == 1
    assert list(out.rglob('*.jsonl')) == []


def test_an_interrupt_is_one_line(tmp_path, results):
    "Ctrl-C: what has been played is kept."
    command = [sys.executable, '-m', 'agentkit.cli', 'play', '--env', 'corridor']
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdout.readline()  # it has begun
    run.send_signal(signal.SIGINT)
    out, err = run.communicate()
    assert run.returncode == 130 and err.startswith('agentkit: interrupted') and err.count('\n') == 1


def test_who_reads_may_leave(results):
    command = f'{sys.executable} -m agentkit.cli tasks --env corridor --tasks 9000 --show 9000 | head -1'
    run = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert run.stdout.startswith('9000 tasks') and run.stderr == ''


# --- each command, once ---


def test_env_list(capsys):
    cards = answer(capsys, 'env', 'list')
    assert {'alfworld', 'corridor'} <= set(cards)
    assert cards['corridor']['options'] == dict(start='0') and 'brief' in cards['corridor']['views']
    assert '  splits    train, valid_seen, valid_unseen' in typed(capsys, 'env', 'list')


def test_env_check(capsys):
    report = answer(capsys, 'env', 'check', 'corridor', '--tasks', 1)
    assert report['ok'] and {f['name'] for f in report['findings']} >= {'ids', 'resets', 'expert'}
    broken = json.loads(typed(capsys, 'env', 'check', 'agentkit.envs.base:Environment', '--json', code=1))
    assert not broken['ok']


def test_tasks(capsys):
    assert answer(capsys, 'tasks', '--env', 'corridor', '--tasks', 2)['tasks'] == [
        'train/corridor-0',
        'train/corridor-1',
    ]
    text = typed(capsys, 'tasks', '--env', 'corridor', '--split', 'valid_seen', '--show', 1)
    assert text == '5 tasks in corridor/valid_seen: 5 Walk to a door\nvalid_seen/corridor-0\n'


def test_play_can_be_watched_and_played(capsys, results):
    assert 'won after 2 steps' in typed(capsys, 'play', '--env', 'corridor', '--task', 1, '--policy', 'expert')
    assert len(answer(capsys, 'play', '--env', 'corridor', '--task', 3, '--policy', 'expert')['steps']) == 4
    run = agentkit('play', '--env', 'corridor', '--task', 1, input='?\n7\n1\nforward\n')
    assert run.returncode == 0 and '  1 forward' in run.stdout and '(not possible)' in run.stdout
    assert 'won after 3 steps' in run.stdout
    assert 'hint:' not in run.stdout
    ended = agentkit('play', '--env', 'corridor', '--task', 1, '--policy', 'me')
    assert ended.returncode == 2 and 'the input ended' in ended.stderr


def test_a_person_gets_hints_on_demand_and_the_episode_is_kept(results, tmp_path):
    from agentkit.rollouts import read_trajectories

    out = tmp_path / 'mine.jsonl'
    options = ('--option', 'levels=GoToRedBall', '--out', out)
    run = agentkit('play', '--env', 'babyai', *options, '--policy', 'me', input='??\n1\n?\n??\n2\n' + '3\n' * 20)
    assert run.returncode == 0 and run.stdout.count('hint: ') == 2 and '  2 forward' in run.stdout, run.stderr
    expert = agentkit('play', '--env', 'babyai', *options, '--policy', 'expert')
    assert expert.returncode == 0
    mine, right = read_trajectories(out)
    assert [s.action for s in mine.steps[:3]] == ['right', 'forward', 'pickup'] and mine.policy == 'me'
    assert right.won and right.policy == 'expert'
    where = agentkit('play', '--env', 'corridor', '--policy', 'expert', '--out', tmp_path)
    assert where.returncode == 2 and where.stderr.count('\n') == 1


def test_evaluate(capsys, results, tmp_path):
    out = tmp_path / 'e'
    command = ('evaluate', '--env', 'corridor', '--policy', 'expert', '--tasks', 4, '--out', out)
    report = answer(capsys, *command)
    assert report['summary']['wins'] == report['summary']['n'] == 4 and report['summary']['ci_low'] < 1
    assert {p.name for p in out.iterdir()} == {'report.json', 'episodes.csv', 'by_kind.csv', 'episodes'}
    before = [p.stat().st_mtime_ns for p in out.glob('episodes/*')]
    assert 'wins 4 of 4' in typed(capsys, *command)  # the episodes are not played again
    assert [p.stat().st_mtime_ns for p in out.glob('episodes/*')] == before
    other = answer(capsys, *command, '--option', 'start=1', '--repeats', 2)
    assert other['summary']['n'] == 8 and other['summary']['steps'] < report['summary']['steps']


def test_another_limit_in_the_same_folder_is_another_evaluation(capsys, results, tmp_path):
    command = ('evaluate', '--env', 'corridor', '--policy', 'expert', '--tasks', 20, '--out', tmp_path / 'e')
    wins = [answer(capsys, *command, '--max-steps', n)['summary']['wins'] for n in (5, 50, 5)]
    assert wins == [5, 20, 5]
    assert read_json(tmp_path / 'e/report.json')['info']['max_steps'] == 5


def test_the_same_command_twice_at_once_plays_each_episode_once(results, tmp_path):
    "The second one says that it waits, and reports the same."
    command = ('evaluate', '--env', 'corridor', '--policy', 'random', '--tasks', 30, '--out', tmp_path / 'e', '--json')
    with ThreadPoolExecutor(2) as threads:
        first, second = (json.loads(p.stdout) for p in threads.map(lambda _: agentkit(*command), range(2)))
    assert first == second and first['summary']['n'] == 30
    (journal,) = (tmp_path / 'e/episodes').glob('*.jsonl')
    assert len(journal.read_text().splitlines()) == 30


def test_distill_for_machines_and_then_evaluate(results, tmp_path):
    "Standard output is one JSON object, whatever libraries print; the policy it names plays."
    pytest.importorskip('torch')
    run = agentkit('distill', '--env', 'corridor', '--tasks', 3, '--epochs', 2, '--out', tmp_path / 'student', '--json')
    assert run.returncode == 0, run.stderr[-1000:]
    student = json.loads(run.stdout)
    assert student['rows'] == 3 and student['card']['trained'] and student['out'] == str(tmp_path / 'student')
    played, again, stored = session(
        f'evaluate --env corridor --policy {student["policy"]} --tasks 2 --json',
        f'evaluate --env corridor --policy {tmp_path}/student/agent.json --tasks 2 --json',
        f'quantize --model {student["policy"]} --type q4_0',
    )
    assert json.loads(played[1])['summary']['policy'] == student['policy']
    assert json.loads(again[1])['summary']['wins'] == json.loads(played[1])['summary']['wins']
    assert stored[0] == 0 and 'tensors Q4_0' in stored[1]


def test_distill_at_a_provider_costs_only_what_was_agreed(capsys, results):
    from agentkit.testing.openai_server import PracticeServer

    with PracticeServer(0.1) as server:
        student = f'openai/gpt-4o-mini-2024-07-18@{server.url}'
        command = ('distill', '--env', 'corridor', '--tasks', 6, '--student', student, '--teacher', 'expert')
        assert main([*map(str, command)]) == 2
        assert 'nothing was sent' in capsys.readouterr().err and server.files == {}
        assert f'@{server.url}' in typed(capsys, *command, '--max-dollars', 1, '--epochs', 1)
        assert len(server.jobs) == 1


def test_optimize_says_first_what_it_costs(capsys):
    command = ('optimize', '--env', 'corridor', '--teacher', 'openai/gpt-4o-mini', '--method', 'gepa')
    plan = answer(capsys, *command, '--set', 'auto=light', '--dry-run')
    assert plan['dollars'] > 0 and plan['search'][1] > 0
    assert 'gepa' in typed(capsys, *command, '--dry-run')


def test_promote(capsys, results, tmp_path):
    for policy in ('expert', 'random'):
        command = ('evaluate', '--env', 'corridor', '--policy', policy, '--tasks', 40, '--max-steps', 30)
        typed(capsys, *command, '--out', tmp_path / policy)
    expert, chance = tmp_path / 'expert', tmp_path / 'random'
    assert answer(capsys, 'promote', expert, chance, '--out', tmp_path / 'a')['promoted'] is True
    assert 'does not replace' in typed(capsys, 'promote', chance, expert, '--out', tmp_path / 'b', '--margin', 0.05)


def test_export_writes_rows_for_other_trainers(capsys, tmp_path):
    from agentkit.data.formats import load_export
    from agentkit.data.rows import write_rows

    turns = [dict(role='user', content='Go.'), dict(role='assistant', content='forward', loss=True)]
    left = dict(role='assistant', content='left', loss=True, instead='right')
    longer = [*turns, dict(role='user', content='On.'), left]
    write_rows(tmp_path / 'rows.jsonl', [dict(messages=turns), dict(messages=longer)])
    facts = answer(capsys, 'export', tmp_path / 'rows.jsonl', '--format', 'openai')
    assert facts['rows'] == 3 and facts['learned'] == 'some'
    assert facts['out'] == str(tmp_path / 'rows.openai.jsonl') and len(load_export(facts['out'], 'openai')) == 3
    assert 'use trl-completion or openai' in error(capsys, 'export', tmp_path / 'rows.jsonl', '--format', 'trl')
    last = typed(capsys, 'export', tmp_path / 'rows.jsonl', '--format', 'alpaca', '--steps')
    assert 'the last answer of each row is learned' in last
    assert 'nothing.jsonl' in error(capsys, 'export', tmp_path / 'nothing.jsonl', '--format', 'openai')


def test_collect_and_filter(capsys, tmp_path):
    (tmp_path / 'log.csv').write_text('question,answer,stars\nWho?,Me.,1\nWhat?,That.,0.5\nWho?,Me.,1\nNo answer?,,1\n')
    columns = ('--column', 'input=question', '--column', 'output=answer', '--column', 'score=stars')
    command = ('collect', tmp_path / 'log.csv', '--format', 'csv', *columns, '--out', tmp_path / 'records.jsonl')
    assert 'log.csv' in error(capsys, *command)
    facts = answer(capsys, *command, '--skip-malformed')
    assert (facts['new'], len(facts['malformed'])) == (2, 1)
    kept = answer(capsys, 'filter', tmp_path / 'records.jsonl', '--score', 0.8)
    assert (kept['kept'], kept['of']) == (1, 2) and Path(kept['out']).read_text().count('\n') == 1
    assert '1 of 2' in typed(capsys, 'filter', tmp_path / 'records.jsonl', '--score', 0.8, '--balance')
    assert 'nothing is left' in error(capsys, 'filter', tmp_path / 'records.jsonl', '--rating', 5)


def plan(folder, code):
    cells = [
        dict(
            id='a', tags=['parameters'], source="x = 1  # a number\nmark = 'a=b'  # text\nout = ''  # the run's folder"
        ),
        dict(id='b', tags=[], source=f'from agentkit.research.sweeps import finish\n{code}'),
    ]
    common = dict(cell_type='code', outputs=[], execution_count=None)
    notebook = dict(
        cells=[dict(common, id=c['id'], source=c['source'], metadata=dict(tags=c['tags'])) for c in cells],
        metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')),
        **dict(nbformat=4, nbformat_minor=5),
    )
    (folder / 'n.ipynb').write_text(json.dumps(notebook))
    (folder / 'plan.yaml').write_text('experiment: tiny\nnotebook: n.ipynb\nfixed: {mark: c=d}\ngrid: {x: [1, 2]}\n')
    return folder / 'plan.yaml'


def test_sweep_report_and_mlflow(capsys, results, tmp_path):
    pytest.importorskip('papermill')
    path = plan(tmp_path, "assert x != 2, 'too many'\nfinish(out, [dict(mark_is=mark, twice=2 * x)])")
    assert len(answer(capsys, 'sweep', path, '--dry-run')['cells']) == 2
    assert 'no cell' in error(capsys, 'sweep', path, '--only', 'x=3')
    swept = answer(capsys, 'sweep', path, '--only', 'x=1', '--set', 'mark=e=f')
    assert [r['mark_is'] for r in swept['rows']] == ['e=f'] and swept['failed'] == 0
    text = typed(capsys, 'sweep', path, code=1)
    assert 'too many' in text and '1 failed' in text
    assert 'names no report notebook' in error(capsys, 'report', path)


# --- what was not measured ---


@pytest.fixture
def fickle():
    "A server that refuses the longer games until it is well."
    well = []

    def answer(number, body):
        far = (
            any(f'door {n}.' in body['messages'][1]['content'] for n in (3, 4)) if len(body['messages']) > 1 else False
        )
        return REFUSED if far and not well else said('forward')

    with FlakyServer(answer) as server:
        server.well = well
        yield server


def test_an_evaluation_with_too_much_missing_is_exit_code_1_and_goes_on(fickle, results, capsys):
    command = f'evaluate --env corridor --split train --tasks 4 --policy openai/m@{fickle.url}'.split()
    first = json.loads(typed(capsys, *command, '--json', code=1))
    assert (first['summary']['success'], first['summary']['n'], first['summary']['unmeasured']) == (1.0, 2, 2)
    assert 'not to be trusted: 2 of 4 episodes are not measured' in typed(capsys, *command, code=1)
    assert not json.loads(typed(capsys, *command, '--max-unmeasured', '0.6', '--json'))['summary']['success'] < 1
    assert '0 to 1' in error(capsys, *command, '--max-unmeasured', '2')
    fickle.well.append(True)
    again = answer(capsys, *command)
    assert again['trusted'] and again['summary']['n'] == 4 and again['out'] == first['out']


def test_a_distillation_with_too_much_missing_is_exit_code_1(fickle, results, capsys):
    pytest.importorskip('torch')
    command = f'distill --env corridor --tasks 4 --epochs 1 --teacher openai/m@{fickle.url}'.split()
    first = json.loads(typed(capsys, *command, '--json', code=1))
    assert (first['rows'], first['unmeasured'], first['trusted']) == (2, 2, False)
    assert 'not to be trusted: 2 of 4 episodes broke off' in typed(capsys, *command, code=1)
    fickle.well.append(True)
    assert answer(capsys, *command)['rows'] == 4


def test_an_optimisation_with_too_much_missing_is_exit_code_1(fickle, results, capsys):
    chosen = '--method bootstrap --tasks 4 --held-out 1 --env corridor --split train'.split()
    command = ['optimize', *chosen, '--teacher', f'openai/m@{fickle.url}']
    first = json.loads(typed(capsys, *command, '--json', code=1))
    assert first['trusted'] is False and first['spent']['broken'] == 2 and not first['kept']
    assert 'the search is not to be trusted' in typed(capsys, *command, code=1)
    fickle.well.append(True)
    assert answer(capsys, *command)['spent']['broken'] == 0


CANARY = 'sk-' + 'CANARY1234567890abcdef'
LEAKY = """
from agentkit.core.actions import Choice
from agentkit.core.types import Observation, Task
from agentkit.envs.base import Environment

KEY = 'sk-' + 'CANARY1234567890abcdef'
class Leaky(Environment):
    name, splits = 'leaky', ('train',)
    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return [Task('one', 'leaky:Leaky', split=split)]
    def reset(self, task, seed=0):
        print('printed', KEY)
        return Observation(f'seen {KEY} at http://ann:pass-CANARY-99@host/v1', Choice(['look', f'say {KEY}']))
    def step(self, action):
        return Observation(f'Authorization: Bearer {KEY}', Choice(['look']), done=True, score=1.0)
"""


@pytest.mark.parametrize(
    'line, code',
    [
        ('evaluate --env leaky:Leaky --policy random', 0),
        ('evaluate --env leaky:Leaky --policy random --json', 0),
        ('play --env leaky:Leaky --policy random', 0),
        ('play --env leaky:Leaky --policy random --json', 0),
        ('tasks --env broken:Broken', 2),
        ('evaluate --policy openai/x@http://ann:pass-CANARY-99@', 2),
        ('evaluate --policy http://ann:pass-CANARY-99@host', 2),
        (f'evaluate --policy expert --out-of-place {CANARY}', 2),
        (f'report {CANARY}', 2),
        ('tasks --env corridor --split http://ann:pass-CANARY-99@host', 2),
    ],
)
def test_no_secret_is_printed_or_written(line, code, tmp_path, results, capfd, monkeypatch):
    (tmp_path / 'leaky.py').write_text(LEAKY)
    (tmp_path / 'broken.py').write_text("raise RuntimeError('sk-CAN' + 'ARY1234567890abcdef')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(line.split()) == code
    printed = capfd.readouterr()
    assert printed.out or printed.err
    assert 'CANARY' not in printed.out + printed.err
    assert not [p for p in results.rglob('*') if p.is_file() and b'CANARY' in p.read_bytes()]


def test_what_broke_off_is_named_and_deleted(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path))
    for name in ('.small-1.abcpart', '.busy-2.abcpart', '.walk.session'):
        (tmp_path / 'models' / name).mkdir(parents=True)
    with locked(tmp_path / 'models/.busy-2.lock'):
        assert main(['clean', '--dry-run', '--json']) == 0
        assert json.loads(capsys.readouterr().out) == dict(trainings=['busy-2', 'small-1', 'walk'], deleted=False)
        assert main(['clean']) == 0
    assert capsys.readouterr().out.split() == ['small-1', 'walk']
    assert [p.name for p in (tmp_path / 'models').glob('.*') if p.is_dir()] == ['.busy-2.abcpart']
    assert main(['clean']) == 0 and main(['clean']) == 0
    assert 'no training has broken off' in capsys.readouterr().out
