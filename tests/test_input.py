"""Wrong input, walked through: each command, each option, each file that is read and each place that is written to.

All of it costs one line and exit code 2 before anybody plays, and nothing of anybody is written over."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest

from agentkit.cli import COMMANDS, main
from agentkit.evals import COLUMNS

ROW = dict(messages=[dict(role='user', content='Go.'), dict(role='assistant', content='forward', loss=True)])
RIGHT = {
    'clean': '',  # command → arguments with which it would begin
    'env list': '',
    'env check': 'corridor',
    'tasks': '',
    'play': '--policy expert',
    'evaluate': '--policy expert',
    'distill': '--student nano --teacher expert --tasks 3',
    'optimize': '--teacher openai/x@http://127.0.0.1:9/v1 --tasks 3 --held-out 3',
    'promote': 'a b --out c',
    'quantize': '--model nano-x',
    'export': 'rows.jsonl --format openai',
    'collect': 'rows.jsonl --format openai --out new.jsonl',
    'filter': 'records.jsonl --out new.jsonl',
    'sweep': 'plan.yaml',
    'report': 'plan.yaml',
    'mlflow': '--copy-only',
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A project folder of one's own with a little of everything; somebody who plays fails the test."
    from agentkit.data.records import make_record
    from agentkit.rollouts import Runner

    (tmp_path / 'project').mkdir()
    monkeypatch.chdir(tmp_path / 'project')
    for name in ('results', 'data', 'figures'):
        monkeypatch.setenv(f'AGENTKIT_PATHS_{name.upper()}', str(tmp_path / name))
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path / 'project'))
    monkeypatch.setenv('AGENTKIT_ENVIRONMENTS_DEFAULT', 'corridor')
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    monkeypatch.setattr(Runner, '__call__', lambda *a, **k: pytest.fail('somebody plays'))
    monkeypatch.setattr(Runner, 'play', lambda *a, **k: pytest.fail('somebody plays'))
    Path('rows.jsonl').write_text(json.dumps(ROW) + '\n')
    Path('records.jsonl').write_text(
        json.dumps(make_record(dict(input='Go.', output='forward'), 'log').to_dict()) + '\n'
    )
    Path('file').write_text('mine\n')
    Path('folder').mkdir()
    Path('broken').symlink_to('nowhere/at/all')
    return Path.cwd()


def one_line(capsys, *argv):
    "What wrong input costs."
    before = {p: p.read_bytes() for p in Path.cwd().rglob('*') if p.is_file()}
    code = main([*map(str, argv)])
    captured = capsys.readouterr()
    assert code == 2 and captured.out == '', argv
    assert captured.err.startswith('agentkit: ') and captured.err.count('\n') == 1, captured.err[-2000:]
    lost = [p for p, content in before.items() if not p.is_file() or p.read_bytes() != content]
    assert lost == [], f'{argv} has written over {lost}'
    return captured.err


def kinds(annotation):
    inner = get_args(annotation)[:1] if hasattr(annotation, '__metadata__') else get_args(annotation)
    return {annotation, get_origin(annotation)}.union(*map(kinds, inner))


def walked():
    "Each command with each option and what is wrong for its kind."
    for words, right in RIGHT.items():
        for p in COMMANDS[words].__signature__.parameters.values():
            kind, shown = kinds(p.annotation), f'--{p.name.replace("_", "-")}'
            about = next(m for m in p.annotation.__metadata__ if hasattr(m, 'choices'))
            wrong = []
            if int in kind:
                wrong = ['x', '', '1.5', '1e3', 'nan', *(['0', '-1'] if 'Must be' in str(p.annotation) else [])]
            elif float in kind:
                wrong = ['x', '']
            elif about.choices:
                wrong = ['nothing-of-this-name', '']
            elif Path in kind or str in kind:
                wrong = ['']
            if p.kind is p.KEYWORD_ONLY and wrong:
                yield words, right, shown, wrong


@pytest.mark.parametrize('words, right, option, wrong', [pytest.param(*w, id=f'{w[0]} {w[2]}') for w in walked()])
def test_each_option_of_each_command(words, right, option, wrong, capsys, place):
    left = right.split()
    if option in left:
        at = left.index(option)
        del left[at : at + 2]
    for value in wrong:
        message = one_line(capsys, *words.split(), *left, option, value)
        assert option in message or 'an argument is empty' in message, message


@pytest.mark.parametrize('words', COMMANDS)
def test_each_command_knows_its_options(words, capsys, place):
    assert 'Unknown option' in one_line(capsys, *words.split(), *RIGHT[words].split(), '--no-such-option')
    assert 'tokens' in one_line(capsys, *words.split(), *RIGHT[words].split(), 'more', 'and', 'more').lower()


NO_NUMBER = ('-1', '7', 'nan', 'inf')


def each(commands, endings):
    "The first command with all that is wrong, the others with one of it."
    first, *others = commands
    return [(f'{first} {end}', message) for end, message in endings.items()] + [
        (f'{command} {end}', message) for command in others for end, message in [next(iter(endings.items()))]
    ]


ENVIRONMENTS = {
    '--env corridr': "did you mean 'corridor'?",
    '--env nowhere:Env': 'nowhere:Env cannot be found',
    '--env :': 'cannot be found',
    '--env broken_module:Env': 'ZeroDivisionError: division by zero',
    '--env os.path:join': 'is not an environment',
    '--env taken:Env': "has an option called 'folder', which means something else",
}
OPTIONS = {
    '--option start=x': "start is 'x'; it has to be a whole number",
    '--option start': 'start: write name=value',
    '--option start=[': 'start=[: write name=value',
    '--option =3': '=3: write name=value',
    '--option start=': 'start is None; it has to be a whole number',
    '--option start=1.5': 'start is 1.5',
    '--option start=yes': 'start is True',
    '--option strt=1': "did you mean 'start'?",
    '--option seed=1': "unexpected keyword argument 'seed'",
    '--option workers=1': "unexpected keyword argument 'workers'",
    '--option start=1 --option start=2': 'start is given twice: start=1 and start=2',
}
QUESTIONS = {
    '--option data=3': 'data is 3; it has to be a text',
    '--option data=[a]': 'it has to be a text',
    '--option data=': 'has to be a text',
    '--option data=nothing.jsonl': 'nothing.jsonl does not exist',
    '--option data=file': 'file is neither .jsonl nor .csv',
    '--option data=folder': 'cannot be read as a data set',
    '--option data=rows.jsonl': 'rows.jsonl line 1: no question in',
    '--option question=[a]': 'it has to be a text',
    '--option share=x': 'share is',
    '--option share=.nan': 'share is nan',
    '--option share=1': 'share is 1',
    '--option scoring=exat': 'unknown scoring',
    '--option attempts=0': 'attempts is 0',
    '--option attempts=x': 'attempts is',
    '--option tolerance=x': 'tolerance is',
    '--option split_seed=x': 'split_seed is',
    '--tasks 99999999': 'there are 800',
}
POLICIES = {
    'exprt': "did you mean 'expert'?",
    'opnai/gpt-4o': "'opnai' is not a known provider",
    'openai/': 'not a model name',
    '/gpt': 'not a model name',
    'local/': 'not a model name',
    'local/nothing': "no model 'nothing'",
    'openai/gpt-4o': 'OPENAI_API_KEY is not set',
    'openai/x@http://': 'is not an address',
    'openai/x@http://[': 'is not an address',
    'openai/x@http://a:b': 'is not an address',
    'nothing.json': 'nothing.json does not exist',
    'list.json': 'is not an agent',
    'damaged.json': 'damaged.json is damaged',
    'bytes.json': 'bytes.json is not JSON',
    'nothing.pkl': 'pickled',
    'folder': 'is not a policy',
    'judge': 'settings.ini names no judge',
}
STUDENTS = {
    'nanno': "did you mean 'nano'?",
    'folder': 'folder is no model of agentkit',
    'expert': "no model 'expert'",
    'openai/gpt-4o-mini-2024-07-18': 'OPENAI_API_KEY',
    'list.json': 'is not an agent',
    'bytes.json': 'bytes.json is not JSON',
    'file': "'file' is not a policy",
    'random.json': 'has no weights to train',
}
MODELS = {
    'nothing': "no model 'nothing'",
    'folder': 'folder is no model of agentkit',
    'nano': 'a nano learns its vocabulary from your rows',
    'card-list': 'not a model card',
    'card-bytes': 'card.json is not JSON',
    'card-empty': 'not a model card',
}
METHODS = {
    'miprov2 --set auto=lite': "auto='lite'",
    'miprov2 --set aut=light': "did you mean 'auto'?",
    'miprov2 --set x': 'write name=value',
    **{
        f'miprov2 --set minibatch_size={value}': 'minibatch_size is' for value in ('x', '0', '-1', '1.5', 'yes', '.nan')
    },
    **{f'miprov2 --set threshold={value}': 'threshold is' for value in ('x', '7', '-1', '.nan', 'yes')},
    'miprov2 --set num_candidates=0': 'num_candidates is 0',
    'miprov2 --set num_trials=-3 --set num_candidates=3': 'num_trials is -3',
    'miprov2 --set num_trials=3': 'num_trials needs num_candidates',
    'miprov2 --set validation=0': 'validation is 0',
    'miprov2 --set validation=1': 'validation is 1',
    'miprov2 --set validation=x': "validation is 'x'",
    'miprov2 --set max_bootstrapped_demos=-1': 'whole number from 0',
    'gepa --set max_metric_calls=0': 'max_metric_calls is 0',
    'gepa --set reflection_minibatch_size=0': 'reflection_minibatch_size is 0',
    'simba --set bsize=0': 'bsize is 0',
    'simba --set max_steps=-1': 'max_steps is -1',
    'bootstrap --set max_rounds=0': 'max_rounds is 0',
    'bootstrap_search --set num_candidate_programs=0': 'num_candidate_programs is 0',
}
ROWS = {
    'nothing.jsonl': 'nothing.jsonl does not exist',
    'folder': 'folder cannot be read: Is a directory',
    'empty.jsonl': 'no rows',
    'file': 'file line 1 is not JSON',
    'broken': 'broken does not exist',
    'bytes.json': 'UTF-8',
    'utf16.jsonl': 'UTF-16',
    'five.jsonl': 'five.jsonl line 1',
    'torn.jsonl': 'torn.jsonl line 2 is not JSON',
    'loss.jsonl': 'loss.jsonl line 1',
}
LOGS = {
    'nothing': 'nothing does not exist',
    'folder': 'folder is a folder that `save_to_disk` did not write',
    'empty.jsonl': 'empty.jsonl is empty: nothing to read',
    'file': 'file line 1',
    'bytes.json': 'UTF-8',
    'utf16.jsonl': 'UTF-16',
    'five.jsonl': 'five.jsonl line 1',
    'rows.jsonl --format csv': 'rows.jsonl is empty: nothing to read',
    'rows.jsonl --column input=x': '--column input=…: with --format csv',
    'rows.jsonl --format csv --column inptu=x': '--column inptu=…',
}
RECORDS = {
    'nothing.jsonl': 'nothing.jsonl does not exist',
    'folder': 'folder is not a file',
    'rows.jsonl': 'rows.jsonl line 1: not a record',
    'empty.jsonl': '0 records to filter',
    'utf16.jsonl': 'UTF-16',
    **{f'records.jsonl --score {n}': 'write a number from 0 to 1' for n in NO_NUMBER},
    **{f'records.jsonl --rating {n}': 'write a number from 1 to 5' for n in NO_NUMBER},
    **{f'records.jsonl --near {n}': 'near is a similarity' for n in NO_NUMBER},
    'records.jsonl --ended wno': 'nothing is left',
}
BESIDE = {
    'nothing.jsonl': 'nothing.jsonl does not exist',
    'folder': 'folder is a folder that `save_to_disk` did not write',
    'utf16.jsonl': 'UTF-16',
    'file': 'file line 1',
    'five.jsonl': 'five.jsonl line 1',
    'bytes.json': 'UTF-8',
}
REPORTS = {
    'nothing good --out c': 'nothing/report.json does not exist',
    'file good --out c': 'file/report.json cannot be read',
    'good listed --out c': 'not a report',
    'good untabled --out c': 'is not a table of episodes',
    'good good --out decided': 'not a decision',
    **{f'good good --out c --margin {n}': 'margin is a loss of success' for n in NO_NUMBER},
}
PLANS = {name: name for name in ('nothing.yaml', 'folder', 'file', 'empty.jsonl', 'list.json')}
PLAY, EVALUATE, DISTILL, OPTIMIZE = 'play --policy expert', 'evaluate --policy expert', 'distill', 'optimize'
DRY = 'optimize --teacher openai/x --dry-run'
WRONG = [
    *each(['tasks', PLAY, EVALUATE, DISTILL, OPTIMIZE], ENVIRONMENTS),
    *each(['tasks', 'env check corridor', PLAY, EVALUATE, DISTILL, OPTIMIZE], OPTIONS),
    *each(['tasks --env questions'], QUESTIONS),
    *each(['tasks', PLAY, EVALUATE, DISTILL], {'--split trian': "did you mean 'train'?"}),
    *each(['evaluate --policy', 'play --policy', 'distill --teacher', 'optimize --teacher'], POLICIES),
    *each(['distill --student'], STUDENTS),
    *each(['quantize --model'], MODELS),
    *each([PLAY], {'--task 9999': 'there are tasks 0 to 4', '--task -1': 'there are tasks 0 to 4'}),
    *each([DISTILL], {f'--threshold {n}': 'write a number from 0 to 1' for n in NO_NUMBER}),
    *each([DISTILL], {'--rounds 3 --tasks 3': 'more tasks than rounds', '--max-dollars 3': 'max_dollars'}),
    *each([f'{DRY} --method'], METHODS),
    *each([DRY], {'--tasks 1': 'there must be at least 2', '--prompt-model x': 'not a model name'}),
    *each(['optimize --teacher'], {'expert': 'expert is a program', 'gpt-4o --dry-run': 'not a model name'}),
    *each(['export --format openai'], ROWS),
    *each(['collect --out new.jsonl --format openai'], {k: v for k, v in LOGS.items() if '--format' not in k}),
    *each(['collect --out new.jsonl'], {k: v for k, v in LOGS.items() if '--format' in k}),
    *each(['filter'], RECORDS),
    *each(['filter records.jsonl --ratings', 'filter records.jsonl --against'], BESIDE),
    *each(['promote'], REPORTS),
    *each(['sweep', 'report'], PLANS),
    *each(['mlflow'], {'--experiment nothing --copy-only': 'has no run that has ended', '--port 99999': '--port'}),
]


@pytest.fixture
def malformed(place, tmp_path, monkeypatch):
    "Files of each kind that are not what they should be."
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'broken_module.py').write_text('1 / 0\n')
    (tmp_path / 'taken.py').write_text(
        'from agentkit.testing.corridor import Corridor\n\n'
        'class Env(Corridor):\n    def __init__(self, folder: str = ""):\n        super().__init__()\n'
    )
    texts = dict(
        list='[]', damaged='{"format": "agentkit-agent", "version": 2}', five='5\n', empty='',
        random='{"format": "agentkit-agent", "version": 2, "program": {"spec": "random"}}',
        torn=json.dumps(ROW) + '\n' + json.dumps(ROW)[:-9],
        loss=json.dumps(dict(messages=[dict(role='assistant', content='x', loss='much')])) + '\n',
    )  # fmt: skip
    for name, text in texts.items():
        end = '.jsonl' if name in ('five', 'empty', 'torn', 'loss') else '.json'
        Path(name + end).write_text(text)
    Path('bytes.json').write_bytes(b'{"a": \xff}')
    Path('utf16.jsonl').write_text(json.dumps(ROW) + '\n', 'utf-16')
    for name, content in {'card-list': b'[]', 'card-bytes': b'\xff', 'card-empty': b'{}'}.items():
        folder = tmp_path / 'data/models' / name
        folder.mkdir(parents=True)
        (folder / 'card.json').write_bytes(content)
    for name in ('good', 'untabled', 'listed', 'decided'):
        Path(name).mkdir()
        report = dict(format='agentkit-report', version=2, summary=dict(policy='p'), info={})
        Path(name, 'report.json').write_text('[]' if name == 'listed' else json.dumps(report))
        row = dict.fromkeys(COLUMNS, 0) | dict(task='t', kind='k', split='', policy='p', success=1, termination='won')
        columns = '\n'.join([','.join(row), ','.join(map(str, row.values())), ''])
        Path(name, 'episodes.csv').write_bytes(b'\xff\x00' if name == 'untabled' else columns.encode())
    Path('decided/decision.json').write_text('[]')


@pytest.mark.parametrize('line, message', WRONG, ids=[line for line, _ in WRONG])
def test_what_only_the_library_can_know(line, message, capsys, malformed):
    assert message in one_line(capsys, *line.split())


# --- places to write to ---

TO_FILES = {
    'export': 'export rows.jsonl --format openai',
    'collect': 'collect rows.jsonl --format openai',
    'filter': 'filter records.jsonl',
}
TO_FOLDERS = {
    'evaluate': 'evaluate --policy expert',
    'distill': 'distill --teacher expert --student nano',
    'optimize': 'optimize --teacher openai/x@http://127.0.0.1:9',
}
NOWHERE = ('file/x', 'file/x/y', '/proc/nothing/x', '/dev/null/x', 'broken/x', 'n' * 300, 'n/' * 3000 + 'n')


@pytest.mark.parametrize('out', NOWHERE, ids=lambda out: out[:20])
@pytest.mark.parametrize('command', {**TO_FILES, **TO_FOLDERS}.values(), ids={**TO_FILES, **TO_FOLDERS})
def test_where_nothing_can_be_written(command, out, capsys, place):
    assert 'name another place' in one_line(capsys, *command.split(), '--out', out)


@pytest.mark.parametrize('out', ['folder', '/dev/full', '/dev/null', '/proc/self/fd/1'])
@pytest.mark.parametrize('command', TO_FILES.values(), ids=TO_FILES)
def test_a_file_is_no_folder_and_no_device(command, out, capsys, place):
    one_line(capsys, *command.split(), '--out', out)
    assert Path('/dev/full').is_char_device() and Path('/dev/null').is_char_device()


@pytest.mark.parametrize('out', ['file', 'broken', '/dev/null'])
@pytest.mark.parametrize('command', TO_FOLDERS.values(), ids=TO_FOLDERS)
def test_a_folder_is_no_file(command, out, capsys, place):
    assert 'name another place' in one_line(capsys, *command.split(), '--out', out)


@pytest.mark.parametrize('out', ['file', 'rows.jsonl', 'records.jsonl'])
@pytest.mark.parametrize('command', TO_FILES.values(), ids=TO_FILES)
def test_a_file_of_somebody_else_is_not_written_over(command, out, capsys, place):
    if (command, out) != (TO_FILES['collect'], 'records.jsonl'):  # which is added to
        one_line(capsys, *command.split(), '--out', out)


def test_what_a_command_wrote_is_written_anew_until_somebody_changes_it(capsys, place):
    for command, out in (TO_FILES['export'], 'rows.openai.jsonl'), (TO_FILES['filter'], 'records.rows.jsonl'):
        assert main(command.split()) == main(command.split()) == 0
        Path(out).write_text(Path(out).read_text().replace('forward', 'back'))
        capsys.readouterr()
        assert f'{out} exists, and holds something else' in one_line(capsys, *command.split())


@pytest.mark.parametrize(
    'command, name',
    [
        ('evaluate', 'report.json'), ('evaluate', 'episodes.csv'), ('evaluate', 'by_kind.csv'),
        ('distill', 'rows.jsonl'), ('distill', 'agent.json'), ('distill', 'card.json'),
        ('optimize', 'program.json'), ('optimize', 'optimised.json'),
    ],
)  # fmt: skip
def test_a_folder_of_somebody_else_is_not_written_into(command, name, capsys, place):
    Path('folder', name).write_text('mine\n')
    message = one_line(capsys, *TO_FOLDERS[command].split(), '--out', 'folder')
    assert f'folder/{name} exists, and was not written by this command' in message


def test_a_folder_with_other_things_is_fine(capsys, place, monkeypatch):
    monkeypatch.undo()
    Path(place, 'folder/notes.txt').write_text('mine\n')
    command = ('evaluate', '--env', 'corridor', '--policy', 'expert', '--tasks', '1', '--out', str(place / 'folder'))
    assert main([*command]) == main([*command]) == 0
    assert Path(place, 'folder/notes.txt').read_text() == 'mine\n'


# --- what is not installed, and who does not answer ---


@pytest.mark.parametrize(
    'command, module, extra',
    [
        ('distill --teacher expert --student nano', 'torch', 'train'),
        ('distill --teacher expert --student nano', 'transformers', 'train'),
        ('distill --teacher expert --student nano', 'gguf', 'train'),
        ('distill --teacher expert --student nano', 'xllamacpp', 'serve'),
        ('optimize --teacher openai/x@http://127.0.0.1:9', 'optuna', 'optimize'),
        ('optimize --teacher openai/x --dry-run', 'optuna', 'optimize'),
        ('tasks --env questions --option data=folder', 'datasets', 'hub'),
        ('mlflow', 'mlflow', 'lab'),
    ],
)
def test_a_missing_extra_is_named_first(command, module, extra, capsys, place, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert f'{module} is not installed: run `pip install "agentkit[{extra}]"`' in one_line(capsys, *command.split())


def test_an_address_where_nobody_answers(capsys, results, tmp_path):
    "The workers may start; an episode does not."
    command = ('evaluate', '--env', 'corridor', '--policy', 'openai/x@http://127.0.0.1:9', '--out', tmp_path / 'e')
    assert main([*map(str, command)]) == 2
    assert 'nobody answers at its address' in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / 'e').rglob('*.jsonl')) == []


# --- the terminal ---


def process(*argv, **options):
    env = {**os.environ, 'AGENTKIT_ENVIRONMENTS_DEFAULT': 'corridor', **options.pop('variables', {})}
    return subprocess.run([sys.executable, '-m', 'agentkit.cli', *argv], env=env, stderr=subprocess.PIPE, **options)


def test_a_keyboard_that_is_not_there(results):
    closed = process('play', stdin=None, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(0))
    empty = process('play', input=b'', stdout=subprocess.DEVNULL)
    assert closed.returncode == empty.returncode == 2
    assert closed.stderr == empty.stderr == b'agentkit: the input ended before the task did\n'


def test_a_terminal_that_is_full_and_one_that_knows_no_letters(results):
    with open('/dev/full', 'w') as full:
        run = process('tasks', stdout=full)
    assert run.returncode == 2 and run.stderr.startswith(b'agentkit: ') and run.stderr.count(b'\n') == 1
    command = ('evaluate', '--policy', 'expert', '--tasks', '1')
    for more in ([], ['--json']):
        run = process(*command, *more, stdout=subprocess.PIPE, variables=dict(PYTHONIOENCODING='ascii'))
        assert run.returncode == 0 and run.stdout.isascii() and b'Traceback' not in run.stderr
    assert json.loads(run.stdout)['summary']['wins'] == 1
