"The command line: helpful, one line for wrong input, JSON for machines."
import json
import subprocess
import sys

import pytest

from agentkit.cli import main

COMMANDS = ('games', 'evaluate', 'distill', 'sweep', 'report', 'play')


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end: main([command, '--help'])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert '--json' in said and len(said.splitlines()) > 8


@pytest.mark.parametrize('argv, message', [
    (['evaluate', '--env', 'atlantis', '--policy', 'random'], 'atlantis'), (['evaluate', '--env', 'corridor', '--policy', 'grandmaster'], "'grandmaster' is not a policy"),
    (['evaluate', '--env', 'corridor', '--policy', 'local/no-such-model'], 'no-such-model'), (['evaluate', '--env', 'corridor', '--policy', 'openai/gpt-4o-mini'], 'OPENAI_API_KEY'),
    (['evaluate', '--env', 'household', '--split', 'valid_seen', '--policy', 'random'], 'valid_seen'), (['sweep', 'nowhere.yaml'], 'nowhere.yaml does not exist'),
    (['report', 'nowhere.yaml'], 'nowhere.yaml does not exist'), (['distill', '--env', 'corridor', '--teacher', 'random', '--student', 'nanno', '--tasks', '3'], 'nanno')])
def test_wrong_input_is_one_line_and_exit_code_2(argv, message, capsys, monkeypatch, results):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    assert main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and said.startswith('agentkit: ') and '\n' not in said


@pytest.mark.parametrize('argv', [['fly'], [], ['evaluate'], ['evaluate', '--policy', 'random', '--tasks', '0'], ['evaluate', '--policy', 'random', '--tasks', 'many']])
def test_wrong_arguments_are_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end: main(argv)
    assert end.value.code == 2


def test_evaluate_for_machines(capsys, results, tmp_path):
    assert main(['evaluate', '--env', 'corridor', '--policy', 'expert', '--tasks', '4', '--json', '--out', str(tmp_path/'e')]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report['summary']['wins'] == report['summary']['n'] == 4 and report['summary']['ci_low'] < 1
    assert {'report.json', 'episodes.csv', 'by_kind.csv', 'episodes.jsonl'} == {p.name for p in (tmp_path/'e').iterdir()}


def test_play_can_be_played(results):
    done = subprocess.run([sys.executable, '-m', 'agentkit.cli', 'play', '--env', 'corridor', '--game', '1'], input='?\n1\nforward\n', capture_output=True, text=True)
    assert done.returncode == 0 and 'won after 2 steps' in done.stdout
    ended = subprocess.run([sys.executable, '-m', 'agentkit.cli', 'play', '--env', 'corridor', '--game', '1'], input='', capture_output=True, text=True)
    assert ended.returncode == 2 and 'the input ended' in ended.stderr


def test_a_missing_game_is_named(capsys, results):
    assert main(['play', '--env', 'corridor', '--game', '99', '--policy', 'expert']) == 2
    assert 'there are games 0 to' in capsys.readouterr().err


def test_distill_for_machines_and_then_evaluate(results):
    "Standard output is one JSON object, whatever DSPy and tqdm print; the policy it names plays."
    run = lambda *argv: subprocess.run([sys.executable, '-m', 'agentkit.cli', *argv, '--json'], capture_output=True, text=True)
    made = run('distill', '--env', 'corridor', '--tasks', '3', '--epochs', '2')
    assert made.returncode == 0, made.stderr[-1000:]
    said = json.loads(made.stdout)
    assert said['rows'] == 3 and said['card']['trained']
    played = run('evaluate', '--env', 'corridor', '--policy', said['policy'], '--tasks', '2')
    assert json.loads(played.stdout)['summary']['policy'] == said['policy']
