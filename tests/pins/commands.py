"The JSON that each command prints, on tiny inputs; what differs from run to run is masked."

import contextlib
import io
import json
import os
import re

import pytest

from . import pin
from .echo import Echo
from .reports import ROOT
from .rows import plain_rows, short_corrected
from .training import one_thread

VOLATILE = ('seconds', 'sha256', 'versions', 'bytes', 'device', 'recipe', 'digest')


# --- the kit ---


def printed(*argv):
    "What a command prints with --json."
    from agentkit.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*map(str, argv), '--json']) == 0
    return json.loads(out.getvalue())


# --- what is pinned ---


def masked(value, folder, key=''):
    "The value without times, machines, models' ids and this folder."
    if any(word in key for word in VOLATILE):
        return '…'
    if isinstance(value, dict):
        return {masked(k, folder): masked(v, folder, k) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(v, folder, key) for v in value]
    if isinstance(value, float):
        return round(value, 4)
    if not isinstance(value, str):
        return value
    value = value.replace(str(folder), '<folder>').replace(str(ROOT), '<project>')
    value = re.sub(r'nano-(base-)?[0-9a-f]{12}', r'nano-\1<id>', value)
    return re.sub(r'127\.0\.0\.1:\d+', '<server>', value)


def lines(path, rows):
    path.write_text(''.join(json.dumps(r) + '\n' for r in rows))
    return path


@pin('cli_games')
def _(folder):
    built = printed('tasks', '--env', 'household', '--split', 'valid_unseen', '--tasks', 3)
    return dict(household=built, corridor=printed('tasks', '--env', 'corridor', '--split', 'train', '--tasks', 4))


@pin('cli_play')
def _(folder):
    corridor = printed('play', '--env', 'corridor', '--task', 1, '--policy', 'expert')
    household = printed('play', '--env', 'household', '--task', 1, '--policy', 'expert')
    return masked(dict(corridor=corridor, household=household), folder)


def evaluated(folder, env, policy, tasks, *more):
    out = folder / f'{env}-{policy}'
    return printed('evaluate', '--env', env, '--policy', policy, '--tasks', tasks, '--out', out, *more)


@pin('cli_evaluate')
def _(folder):
    household = [evaluated(folder, 'household', p, 3, '--max-steps', 10) for p in ('expert', 'random', 'random-reader')]
    corridor = evaluated(folder, 'corridor', 'random', 5, '--repeats', 2, '--seed', 3)
    return masked([*household, corridor], folder)


@pin('cli_promote')
def _(folder):
    for policy in ('expert', 'random'):
        evaluated(folder, 'corridor', policy, 40, '--max-steps', 30)
    expert, chance = folder / 'corridor-expert', folder / 'corridor-random'
    better = printed('promote', expert, chance, '--out', folder / 'better')
    superior = printed('promote', expert, chance, '--out', folder / 'superior', '--superior')
    worse = printed('promote', chance, expert, '--out', folder / 'worse', '--margin', 0.05)
    return masked(dict(better=better, superior=superior, worse=worse), folder)


@pin('cli_distill')
def _(folder):
    "A student is trained, and its weights are stored in fewer bits."
    for package in ('torch', 'transformers', 'gguf'):
        pytest.importorskip(package)
    distil = ('distill', '--env', 'corridor', '--tasks', 3, '--epochs', 1, '--student', 'nano')
    with one_thread():
        made = printed(*distil, '--out', folder / 'distilled')
    stored = printed('quantize', '--model', made['policy'], '--type', 'q4_0')
    costs = json.loads((folder / 'distilled/costs.json').read_text())
    return masked(dict(distill=made, costs=costs, quantize=stored), folder)


@pin('cli_export')
def _(folder):
    rows = lines(folder / 'rows.jsonl', plain_rows())
    corrected = lines(folder / 'corrected.jsonl', short_corrected())
    plain = printed('export', rows, '--format', 'openai')
    steps = printed('export', rows, '--format', 'alpaca', '--steps', '--out', folder / 'steps.jsonl')
    return masked([plain, steps, printed('export', corrected, '--format', 'openai')], folder)


def csv_log(folder):
    key = 'sk-' + 'a1b2c3d4' * 4
    rows = [f'Question number {i}?,Answer {i}.,{i / 4}' for i in range(5)]
    text = '\n'.join(['question,answer,stars', *rows, f'My key is {key},Keep it.,1', 'No answer?,,1'])
    (folder / 'log.csv').write_text(text + '\n')
    return folder / 'log.csv'


def chat_log(folder):
    question, answer = dict(role='user', content='Where is the mug?'), dict(role='assistant', content='On the desk 1.')
    mail = dict(role='user', content='Write to ana@example.org and ana@example.org.')
    chats = [dict(messages=[question, answer]), dict(messages=[mail, answer]), dict(messages=[question, answer])]
    return lines(folder / 'chats.jsonl', chats)


@pin('cli_collect')
def _(folder):
    "Two logs become records, and what is good in them rows."
    columns = ('--column', 'input=question', '--column', 'output=answer', '--column', 'score=stars')
    csv = ('collect', csv_log(folder), '--format', 'csv', '--kind', 'talk', *columns, '--skip-malformed')
    chat = ('collect', chat_log(folder), '--format', 'openai', '--emails')
    records = folder / 'records.jsonl'
    collected = [printed(*c, '--out', records) for c in (csv, chat, csv)]
    tasks = lines(folder / 'tasks.jsonl', [dict(id='e', question='Question number 4?')])
    scored = printed('filter', records, '--score', 0.5, '--against', tasks)
    near = printed('filter', records, '--near', 0.8, '--balance', '--out', folder / 'near.jsonl')
    rows = (folder / 'near.jsonl').read_text().splitlines()
    learned = [json.loads(r)['messages'] for r in rows]
    return masked(dict(collected=collected, filtered=[scored, near], rows=learned), folder)


@pin('cli_optimize')
def _(folder):
    plan = ('optimize', '--env', 'corridor', '--tasks', 4, '--held-out', 2)
    dry = printed(*plan, '--teacher', 'openai/gpt-4o-mini', '--method', 'gepa', '--set', 'auto=medium', '--dry-run')
    with Echo('forward') as server:
        teacher = ('--teacher', f'openai/parrot@{server.url}', '--method', 'bootstrap')
        found = printed(*plan, *teacher, '--set', 'max_bootstrapped_demos=2', '--out', folder / 'found')
    return masked(dict(dry=dry, found=found), folder)


def small_plan(folder):
    "Two programs on the corridor, and the report of the committed study."
    import yaml

    full = yaml.safe_load((ROOT / 'notebooks/experiments/baselines.yaml').read_text())
    places = {k: str(ROOT / 'notebooks/experiments' / full[k]) for k in ('notebook', 'report')}
    fixed, cells = dict(env='corridor', eval_tasks=3), [dict(policy='random'), dict(policy='expert')]
    plan = folder / 'small.yaml'
    about = dict(experiment='small', report_parameters=dict(by='policy'))
    plan.write_text(yaml.safe_dump(dict(about, fixed=fixed, cells=cells, **places)))
    return plan


@pin('cli_sweep')
def _(folder):
    pytest.importorskip('papermill')
    plan = small_plan(folder)
    dry = printed('sweep', plan, '--dry-run', '--set', 'max_steps=5')
    return masked(dict(dry=dry, swept=printed('sweep', plan), report=printed('report', plan)), folder)


@pin('cli_mlflow', slow=True)
def _(folder):
    for package in ('papermill', 'mlflow'):
        pytest.importorskip(package)
    printed('sweep', small_plan(folder))
    os.environ['AGENTKIT_TRACKING_MLFLOW'] = 'on'
    first, again = (printed('mlflow', '--experiment', 'small', '--copy-only') for _ in range(2))
    return masked(dict(first=first, again=again), folder)
