"A function as a command: options, files of options, and what is refused."

import pytest

from agentkit.core.commands import Command, read_config, run_command
from agentkit.core.errors import AgentkitError


def greet(
    name: str,  # who
    times: int = 1,  # how often
    loud: bool = True,  # with an exclamation mark
    words: tuple[str, ...] = ('Hello',),  # to begin with
):
    "Say hello."
    return ' '.join([*words, *[name] * times]) + '!' * loud


def leave():
    "Stop."
    raise KeyboardInterrupt


def fill():
    "Write somewhere."
    raise OSError(28, 'No space left on device', '/full')


def run(line, function=greet):
    results = []
    return run_command(function, results.append, line.split()), results


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / 'options.yaml'
        path.write_text(text)
        return path

    return write


def test_the_command_goes_before_the_file_and_the_file_before_the_defaults(config):
    path = config('name: Ada\ntimes: 2\nloud: false\n')
    assert run(f'--config {path}') == (0, ['Hello Ada Ada'])
    assert run(f'--config {path} --times 1 --loud') == (0, ['Hello Ada!'])
    assert run('--name Ada --no-loud --words Good day') == (0, ['Good day Ada'])


def test_what_a_result_shows_may_be_a_failure():
    assert run_command(greet, lambda text: 1 if text == 'Hello Ada!' else 0, ['--name', 'Ada']) == 1


def test_several_commands_are_named():
    results = []
    assert run_command([greet, leave], results.append, ['greet', '--name', 'Ada'], 'polite', 'Words.') == 0
    assert results == ['Hello Ada!']


@pytest.mark.parametrize(
    'line, why',
    [
        ('', 'greet: --name is missing: who'),
        ('--nam Ada', '--nam'),
        ('--name Ada --times often', 'often'),
        ('--name Ada --config nowhere.yaml', 'nowhere.yaml cannot be read: No such file or directory'),
        ('Ada', 'Ada'),
    ],
)
def test_a_line_that_cannot_be_is_one_line(line, why, capsys):
    assert run(line) == (2, [])
    error = capsys.readouterr().err
    assert why in error and error.count('\n') == 1


@pytest.mark.parametrize(
    'text, why',
    [
        ('nam: Ada', "unknown option 'nam'; did you mean 'name'"),
        ('[1, 2]', 'holds no options'),
        ('name: [', 'is not YAML'),
        ('1: 2', 'unknown option 1'),
    ],
)
def test_a_file_that_cannot_be_is_named(text, why, config):
    with pytest.raises(AgentkitError, match=why) as e:
        read_config(config(text), ['name'])
    assert str(e.value).startswith(str(config(text)))


def test_a_file_that_is_empty_says_nothing(config):
    assert read_config(config(''), ['name']) == {}


def test_the_help_says_what_stands_behind_the_parameters(capsys):
    assert run('--help') == (0, [])
    help = capsys.readouterr().out
    for words in ('Say hello.', 'how often [default: 1]', '--no-loud', '--config', 'a YAML file'):
        assert words in help, words


@pytest.mark.parametrize('function, code, why', [(leave, 130, 'interrupted'), (fill, 2, '/full: No space left')])
def test_what_comes_from_outside_is_one_line_too(function, code, why, capsys):
    assert run('', function) == (code, [])
    error = capsys.readouterr().err
    assert why in error and error.count('\n') == 1


def test_keys_are_not_shown(capsys):
    assert run('--name Ada --times sk-planted-key-0123456789') == (2, [])
    assert 'sk-planted' not in capsys.readouterr().err


def test_a_function_may_have_a_config_of_its_own():
    def batch(
        config: str,  # which models
    ):
        "Run."
        return config

    assert Command(batch)(config='models.yaml') == 'models.yaml'
    results = []
    assert run_command(batch, results.append, ['--config', 'models.yaml']) == 0 and results == ['models.yaml']
