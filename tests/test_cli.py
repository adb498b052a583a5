"The command line: helpful, one line for wrong input, JSON for machines."

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.cli import main

COMMANDS = ('games', 'evaluate', 'distill', 'optimize', 'export', 'quantize', 'sweep', 'report', 'mlflow', 'play')


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, '--help'])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert '--json' in said and len(said.splitlines()) > 8


@pytest.mark.parametrize(
    'argv, message',
    [
        (['evaluate', '--env', 'atlantis', '--policy', 'random'], 'atlantis'),
        (['evaluate', '--env', 'corridor', '--policy', 'grandmaster'], "'grandmaster' is not a policy"),
        (['evaluate', '--env', 'corridor', '--policy', 'local/no-such-model'], 'no-such-model'),
        (['evaluate', '--env', 'corridor', '--policy', 'openai/gpt-4o-mini'], 'OPENAI_API_KEY'),
        (['evaluate', '--env', 'household', '--split', 'valid_seen', '--policy', 'random'], 'valid_seen'),
        (['sweep', 'nowhere.yaml'], 'nowhere.yaml does not exist'),
        (['report', 'nowhere.yaml'], 'nowhere.yaml does not exist'),
        (['distill', '--env', 'corridor', '--teacher', 'random', '--student', 'nanno', '--tasks', '3'], 'nanno'),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(argv, message, capsys, monkeypatch, results):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    assert main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and said.startswith('agentkit: ') and '\n' not in said


@pytest.mark.parametrize(
    'argv',
    [
        ['fly'],
        [],
        ['evaluate'],
        ['evaluate', '--policy', 'random', '--tasks', '0'],
        ['evaluate', '--policy', 'random', '--tasks', 'many'],
    ],
)
def test_wrong_arguments_are_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2


def test_evaluate_for_machines(capsys, results, tmp_path):
    assert (
        main(
            [
                'evaluate',
                '--env',
                'corridor',
                '--policy',
                'expert',
                '--tasks',
                '4',
                '--json',
                '--out',
                str(tmp_path / 'e'),
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report['summary']['wins'] == report['summary']['n'] == 4 and report['summary']['ci_low'] < 1
    assert {'report.json', 'episodes.csv', 'by_kind.csv', 'episodes.jsonl'} == {
        p.name for p in (tmp_path / 'e').iterdir()
    }


def test_play_can_be_played(results):
    done = subprocess.run(
        [sys.executable, '-m', 'agentkit.cli', 'play', '--env', 'corridor', '--game', '1'],
        input='?\n1\nforward\n',
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and 'won after 2 steps' in done.stdout
    ended = subprocess.run(
        [sys.executable, '-m', 'agentkit.cli', 'play', '--env', 'corridor', '--game', '1'],
        input='',
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and 'the input ended' in ended.stderr


def test_a_missing_game_is_named(capsys, results):
    assert main(['play', '--env', 'corridor', '--game', '99', '--policy', 'expert']) == 2
    assert 'there are games 0 to' in capsys.readouterr().err


def test_distill_for_machines_and_then_evaluate(results):
    "Standard output is one JSON object, whatever DSPy and tqdm print; the policy it names plays."
    run = lambda *argv: subprocess.run(
        [sys.executable, '-m', 'agentkit.cli', *argv, '--json'], capture_output=True, text=True
    )
    made = run('distill', '--env', 'corridor', '--tasks', '3', '--epochs', '2')
    assert made.returncode == 0, made.stderr[-1000:]
    said = json.loads(made.stdout)
    assert said['rows'] == 3 and said['card']['trained']
    played = run('evaluate', '--env', 'corridor', '--policy', said['policy'], '--tasks', '2')
    assert json.loads(played.stdout)['summary']['policy'] == said['policy']
    again = run('evaluate', '--env', 'corridor', '--policy', str(Path(said['out']) / 'agent.json'), '--tasks', '2')
    assert json.loads(again.stdout)['by_kind'][0]['wins'] == json.loads(played.stdout)['by_kind'][0]['wins']


def test_export_writes_rows_for_other_trainers(capsys, results, tmp_path):
    from agentkit.data.formats import load_export
    from agentkit.data.rows import write_rows

    turns = [dict(role='user', content='Go.'), dict(role='assistant', content='forward', loss=True)]
    write_rows(
        tmp_path / 'rows.jsonl',
        [
            dict(messages=turns),
            dict(
                messages=turns
                + [dict(role='user', content='On.'), dict(role='assistant', content='left', loss=True, instead='right')]
            ),
        ],
    )
    assert main(['export', str(tmp_path / 'rows.jsonl'), '--format', 'openai', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told['rows'] == 3
        and told['learned'] == 'some'
        and told['out'] == str(tmp_path / 'rows.openai.jsonl')
        and len(load_export(told['out'], 'openai')) == 3
    )
    assert (
        main(['export', str(tmp_path / 'rows.jsonl'), '--format', 'trl']) == 2
        and 'use trl-completion or openai' in capsys.readouterr().err
    )
    assert (
        main(['export', str(tmp_path / 'rows.jsonl'), '--format', 'alpaca', '--steps']) == 0
        and 'the last answer of each row is learned' in capsys.readouterr().out
    )
    assert (
        main(['export', str(tmp_path / 'nothing.jsonl'), '--format', 'openai']) == 2
        and 'no rows' in capsys.readouterr().err
    )


def test_distill_at_a_provider_costs_only_what_was_agreed(capsys, results):
    from agentkit.testing.openai_server import PracticeServer

    with PracticeServer(0.1) as server:
        argv = [
            'distill',
            '--env',
            'corridor',
            '--tasks',
            '6',
            '--student',
            f'openai/gpt-4o-mini-2024-07-18@{server.url}',
            '--teacher',
            'expert',
        ]
        assert main(argv) == 2 and 'nothing was sent' in capsys.readouterr().err and server.files == {}
        assert main([*argv, '--max-dollars', '1', '--epochs', '1']) == 0
        assert f'@{server.url}' in capsys.readouterr().out and len(server.jobs) == 1
