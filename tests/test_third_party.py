"""An environment in a package of somebody else: found by its entry point, or as module:Class where it is not even
installed, it goes through everything, and no line of the kit knows about it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import session
from conftest import ROOT

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "river-crossing"
version = "1.0"

[project.entry-points."agentkit.envs"]
ferry = "river.ferry:Ferry"

[tool.setuptools]
packages = ["river"]
"""

READING = """
from agentkit.core.views import View, conversation


class Note(View):
    "Only how things stand now, in one line."

    name, instructed = 'note', False

    def messages(self, state):
        return conversation(f'{state.first.text.split(".")[0]}. {state.now.text.splitlines()[-1]}', [])
"""

FERRY = """
from agentkit.core.actions import Choice
from agentkit.core.types import Hint, Observation, Task
from agentkit.envs.base import Environment
from agentkit.envs.find import env_settings
from river.reading import Note

WAY = ('leave', 'board', 'cross')  # what is possible and comes first is right


class Ferry(Environment):
    "Bring everybody over a river."

    name = 'ferry'
    splits = ('calm', 'storm')
    instructions = 'You are the captain.'
    labels = dict(many='A crowd', few='One or two')
    views = dict(note=Note)
    student_view = 'note'
    settings = dict(river='Elbe')

    def __init__(
        self,
        seats: int = 2,  # in the boat
    ):
        self.seats, self.river = seats, env_settings(type(self))['river']

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        kinds = ['few' if i % 4 < 2 else 'many' for i in range(8 if n is None else n)]
        return [Task(f'{split}/{i}', 'ferry', k, split, dict(people=1 + i % 4)) for i, k in enumerate(kinds)]

    def reset(self, task, seed=0):
        self.near, self.aboard, self.over, self.bank = task.data['people'], 0, 0, 'near'
        return self.look(f'The {self.river}. Your task is to: bring {self.near} over.\\n')

    def step(self, action):
        {'leave': self.leave, 'board': self.board, 'cross': self.cross}[action]()
        return self.look('', reward=float(action == 'leave'))

    def leave(self):
        self.aboard, self.over = self.aboard - 1, self.over + 1

    def board(self):
        self.aboard, self.near = self.aboard + 1, self.near - 1

    def cross(self):
        self.bank = 'far' if self.bank == 'near' else 'near'

    def look(self, before, reward=0.0):
        near, done = self.bank == 'near', not self.near + self.aboard
        can = dict(leave=self.aboard and not near, board=self.near and near and self.aboard < self.seats, cross=True)
        text = f'{before}At the {self.bank} bank: {self.near} wait, {self.aboard} aboard, {self.over} over.'
        return Observation(text, Choice(a for a in WAY if can[a]), reward, done, score=self.progress())

    def refuse(self, action, why):
        return self.look('The captain shakes his head.\\n')

    def expert(self):
        return Hint(next(a for a in WAY if a in self.look('').actions.options), f'{self.near} to go')

    def progress(self):
        return self.over / (self.near + self.aboard + self.over)

    @classmethod
    def vary(cls, row, r):
        river = r.choice(('Elbe', 'Rhine', 'Spree'))
        texts = [{**m, 'content': m['content'].replace('The Elbe', f'The {river}')} for m in row['messages']]
        return {**row, 'messages': texts}


class Leaking(Ferry):
    "Goes down at the first step."

    def step(self, action):
        import os

        os._exit(3)
"""


def write(folder):
    "The package as its author has it."
    (folder / 'river').mkdir(parents=True)
    (folder / 'pyproject.toml').write_text(PROJECT)
    (folder / 'river/__init__.py').touch()
    (folder / 'river/reading.py').write_text(READING)
    (folder / 'river/ferry.py').write_text(FERRY)
    return folder


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "The folder into which pip has installed it."
    site = tmp_path_factory.mktemp('site')
    pip = 'install -q --no-deps --no-index --no-build-isolation --disable-pip-version-check --target'.split()
    source = write(tmp_path_factory.mktemp('author') / 'source')
    subprocess.run([sys.executable, '-m', 'pip', *pip, str(site), str(source)], check=True)
    return site


@pytest.fixture(scope='module')
def loose(tmp_path_factory):
    "A folder of files that can be imported: nothing is installed or registered."
    return write(tmp_path_factory.mktemp('loose') / 'source')


def variables(folder, project):
    "Of a process that can import what is in the folder, in a project of its own."
    project.mkdir(exist_ok=True)
    return dict(PYTHONPATH=f'{folder}{os.pathsep}{ROOT}', AGENTKIT_ROOT=project)


@pytest.fixture(params=['ferry', 'river.ferry:Ferry'])
def home(request, tmp_path, results):
    "The name of the environment, and where it is at home."
    folder = request.getfixturevalue('loose' if ':' in request.param else 'installed')
    return request.param, variables(folder, tmp_path / 'project')


def facts(runs):
    "What commands printed for machines; none has failed."
    assert [code for code, _, _ in runs] == [0] * len(runs), runs
    return [json.loads(out) for _, out, _ in runs]


def python(code, home, *args):
    "The JSON that a program prints last."
    env, where = home
    run = subprocess.run(
        [sys.executable, '-c', code, env, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **{k: str(v) for k, v in where.items()}},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_its_entry_point_is_in_the_help(installed, tmp_path):
    where = variables(installed, tmp_path / 'project')
    (where['AGENTKIT_ROOT'] / 'settings.ini').write_text('[environments]\ndefault = ferry\n')
    helped, listed, misspelt = session('evaluate --help', 'env list --json', 'tasks --env fery', **where)
    assert all(text in helped[1] for text in ('ferry', 'calm, storm', '[default: ferry]'))
    card = json.loads(listed[1])['ferry']
    assert card['options'] == dict(seats='2') and card['settings'] == dict(river='Elbe')
    assert card['splits'] == ['calm', 'storm'] and 'note' in card['views'] and card['kinds']['many'] == 'A crowd'
    assert misspelt[0] == 2 and "did you mean 'ferry'?" in misspelt[2]


def test_it_is_checked_played_and_measured(home):
    env, where = home
    (where['AGENTKIT_ROOT'] / 'settings.ini').write_text(f'[{env}]\nriver = Rhine\n')
    listed, checked, played, *measured = session(
        f'tasks --env {env} --tasks 4',
        f'env check {env} --option seats=3',
        f'play --env {env} --policy expert --task 2',
        f'evaluate --env {env} --policy expert --option seats=1 --json',
        f'evaluate --env {env} --policy random-reader --max-steps 12 --json',
        **where,
    )
    assert f'4 tasks in {env}/calm: 2 One or two, 2 A crowd' in listed[1]
    assert checked[0] == 0 and 'keeps what it promises' in checked[1]
    assert 'The Rhine.' in played[1] and 'won after 9 steps' in played[1]  # its own section in settings.ini
    expert, reader = facts(measured)
    assert expert['summary']['wins'] == 8 and expert['summary']['progress'] == 1
    assert {k['kind']: k['steps'] for k in expert['by_kind']} == dict(few=5.0, many=13.0)
    assert reader['summary']['wins'] < 8 and 0 < reader['summary']['progress'] < 1
    assert reader['info']['split'] == 'storm'


def test_a_person_plays_it(home):
    env, where = home
    command = [sys.executable, '-m', 'agentkit.cli', 'play', '--env', env]
    environ = {**os.environ, **{k: str(v) for k, v in where.items()}}
    moves = 'board\nswim\ncross\n0\n'  # a number is that of the list
    run = subprocess.run(command, input=moves, capture_output=True, text=True, env=environ)
    assert run.returncode == 0 and 'won after 4 steps' in run.stdout
    assert run.stdout.count('The captain shakes his head.') == 1  # it refuses in its own words


def test_a_student_learns_it_with_dagger(home, tmp_path):
    pytest.importorskip('torch')
    (env, where), out = home, tmp_path / 'student'
    student, played = facts(
        session(
            f'distill --env {env} --tasks 6 --rounds 1 --epochs 4 --out {out} --json',
            f'evaluate --env {env} --policy {out}/agent.json --tasks 4 --max-steps 20 --json',
            **where,
        )
    )
    first, second = json.loads((out / 'costs.json').read_text())
    assert first['base'] != second['base'] and second['rows'] == student['rows'] > first['rows']
    rows = [json.loads(line) for line in (out / 'round1/rows.jsonl').read_text().splitlines()]
    first_lines = [r['messages'][0]['content'] for r in rows]
    assert 'The Elbe. At the near bank: 1 wait, 0 aboard, 0 over.' in first_lines
    assert not any('Your task' in line for line in first_lines)  # it learns what its view shows
    assert played['summary']['policy'] == student['policy'] and played['summary']['n'] == 4


TEACHING = """
import json, sys
import pandas as pd
from agentkit.agents.policy import Agent
from agentkit.agents.programs import Expert
from agentkit.evals import evaluate
from agentkit.judges.expert import ExpertProgress
from agentkit.research.plots import by_kind
from agentkit.research.sweeps import results_of
from agentkit.rollouts import Limits, Runner
from agentkit.testing.stand_in import stand_in_lm
from agentkit.tuning.distill import distill
from agentkit.tuning.prompts import optimize


def captain(task, trajectory, possible_actions):
    return possible_actions[0]


env, out = sys.argv[1:]
with Runner(env, limits=Limits(max_steps=14), progress=False) as run:
    lm = stand_in_lm(captain, 'Never wait.', talent=0.4)
    tasks = run.tasks(n=8)
    teacher = Agent(lm, run.kind.instructions, think=False)
    found = optimize(teacher, tasks, run.tasks('storm'), run, 'bootstrap', max_bootstrapped_demos=1, folder=out)
    with ExpertProgress(env) as judge:
        verdicts = [judge.verdict(t).score for t in run(Expert(), tasks[:2])]
    varied = distill('local/nano', Expert(), tasks[:2], run, out + '/varied', train=dict(epochs=2, vary=env))
    rows = pd.DataFrame(results_of(dict(after=evaluate(varied.agent, tasks[1:3], run)))['by_kind'])
figure = by_kind(rows.assign(student='nano', tasks=2, seed=0, env=env))
labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
print(json.dumps(dict(optimised=found.to_dict(), verdicts=verdicts, card=varied.card, labels=labels)))
"""


# a registered environment is what the tests of `tuning` use
@pytest.mark.parametrize('home', [pytest.param('ferry', marks=pytest.mark.slow), 'river.ferry:Ferry'], indirect=True)
def test_a_teacher_finds_a_better_prompt_and_a_figure_has_its_labels(home, tmp_path):
    pytest.importorskip('torch')
    result = python(TEACHING, home, tmp_path / 'out')
    optimised = result['optimised']
    assert optimised['kept'] and optimised['after']['success'] == 1
    assert optimised['prompts']['before'] == dict(instructions='You are the captain.', demos=[])
    assert 'The Elbe.' in optimised['prompts']['after']['demos'][0]['task']
    assert result['verdicts'] == [1, 1]
    assert result['card']['config']['vary'] == home[0]  # its rows were told with the names of other rivers
    assert sorted(result['labels']) == ['A crowd', 'One or two']


SWEEP = """
experiment: crossing
notebook: {notebooks}/10_quickstart.ipynb
report: {notebooks}/11_quickstart_report.ipynb
fixed: {{env: "{env}", eval_split: storm, eval_tasks: 4, epochs: 2, max_steps: 20}}
cells:
- {{student: expert, tasks: 0}}
grid: {{student: [nano], tasks: [4], seed: [0]}}
"""


@pytest.mark.slow
def test_the_main_job_can_be_swept_over_it_and_its_report_has_its_labels(home, tmp_path, results):
    pytest.importorskip('papermill')
    env, where = home
    plan = tmp_path / 'plan.yaml'
    plan.write_text(SWEEP.format(env=env, notebooks=ROOT / 'notebooks/experiments'))
    (swept,) = facts(session(f'sweep {plan} --json', **where))
    assert [(r['student'], r['phase'], r['n']) for r in swept['rows']] == [
        ('expert', 'program', 4),
        ('nano', 'before', 4),
        ('nano', 'after', 4),
    ]
    (figure,) = [Path(f) for f in swept['figures'] if f.endswith('__by_kind.svg')]
    assert 'One or two' in figure.read_text() and 'A crowd' in figure.read_text()


def test_a_rate_that_is_not_to_be_trusted_is_exit_code_1(loose, tmp_path, results):
    command = 'evaluate --env river.ferry:Leaking --policy expert --tasks 1 --workers 1'
    machine, person = session(f'{command} --json', command, **variables(loose, tmp_path / 'project'))
    assert machine[0] == 1 and json.loads(machine[1])['trusted'] is False
    assert person[0] == 1 and 'was not measured' in person[1]


def test_a_broken_package_breaks_nothing_else(installed, tmp_path, results):
    site = shutil.copytree(installed, tmp_path / 'site')
    (site / 'river/ferry.py').write_text('import no_such_package')
    where = variables(site, tmp_path / 'project')
    listed, other, own = session('env list --json', 'tasks --env corridor', 'tasks --env ferry', **where)
    assert 'no_such_package' in json.loads(listed[1])['ferry']['error'] and other[0] == 0
    assert own[0] == 2 and 'no_such_package' in own[2]
