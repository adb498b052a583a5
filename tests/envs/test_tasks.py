"Tasks from files: what is malformed is named with its place, and a row cannot choose which code runs."

import inspect
import json
import sys
from collections import Counter
from dataclasses import replace

import pytest

from agentkit.agents.programs import Chance, Expert
from agentkit.agents.saving import student_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Task
from agentkit.data.rows import rows
from agentkit.envs.find import (
    TAKEN,
    check_options,
    environments,
    find_env,
    find_known_env,
    list_tasks,
    make_env,
    tasks_of,
)
from agentkit.envs.pool import EnvPool
from agentkit.envs.tasks import check_disjoint, preview, read_tasks, sample, task_from_dict
from agentkit.evals import evaluate
from agentkit.research.responses import ask
from agentkit.rollouts import Runner
from agentkit.testing.corridor import Corridor
from agentkit.testing.models import scripted_lm
from agentkit.tuning.distill import distill


def file(tmp_path, content):
    path = tmp_path / 'tasks.jsonl'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_row_cannot_choose_which_code_runs(tmp_path, monkeypatch):
    touch = 'import pathlib\npathlib.Path({0!r}).touch()\ndef f(): pathlib.Path({0!r}).touch()\n'
    (tmp_path / 'stranger.py').write_text(touch.format(str(tmp_path / 'ran')))
    monkeypatch.syspath_prepend(str(tmp_path))
    path = file(tmp_path, '{"id": "a"}\n\n{"id": "b", "env": "stranger:f"}\n')
    with pytest.raises(
        AgentkitError, match=r"tasks\.jsonl line 3: a row may name 'corridor' or a registered environment"
    ):
        read_tasks(path, 'corridor')
    assert 'stranger' not in sys.modules and not (tmp_path / 'ran').exists()


def test_a_row_may_name_what_it_is_read_for_or_what_is_registered(tmp_path):
    named = 'my_module:Mine'
    rows = [dict(id='a'), dict(id='b', env=named), *(dict(id=n, env=n) for n in environments())]
    tasks = read_tasks(file(tmp_path, '\n'.join(map(json.dumps, rows))), named)
    assert [t.env for t in tasks] == [named, named, *environments()]


@pytest.mark.parametrize(
    'content, message',
    [
        (b'\xff\xfe', r'tasks\.jsonl is not UTF-8, line 1'),
        (b'{"id": "a"}\n\xff\n', r'tasks\.jsonl is not UTF-8, line 2'),
        ('{"id": "a", "data": 5}\n', r'tasks\.jsonl line 1: "data" of a task is a JSON object, not 5'),
        ('{"id": "a", "data": null}\n', r'line 1: "data" of a task is a JSON object, not None'),
        ('{"id": "a", "env": 5}\n', r"line 1: a row may name 'corridor' or a registered environment, not 5"),
        ('[1]\n', r'line 1: a task is a JSON object with an "id", not'),
        ('5\n', r'line 1: a task is a JSON object'),
        ('{"id": "", "x": 1}\n', r'line 1: a task needs an id; this row has only: id, x'),
        ('{}\n', r'line 1: a task needs an id; this row has only: nothing'),
        ('[' * 100_000, r'line 1 is not JSON'),
        ('\n \n', r'tasks\.jsonl: no tasks'),
        ('{"id": "a"}\n{"id": "a"}\n', r"1 ids occur more than once, e\.g\. 'a'"),
    ],
)
def test_malformed_files_cost_one_line(tmp_path, content, message):
    with pytest.raises(AgentkitError, match=message) as e:
        read_tasks(file(tmp_path, content), 'corridor')
    assert '\n' not in str(e.value) and len(str(e.value)) < 400


def test_what_stands_in_a_row(tmp_path):
    row = {'id': 7, 'kind': 'walk', 'split': 'x', 'doors': 2, 'data': {'note': 'a\u2028b'}}
    (task,) = read_tasks(file(tmp_path, json.dumps(row, ensure_ascii=False)), 'corridor', 'y')
    assert task == Task('7', 'corridor', 'walk', 'x', {'note': 'a\u2028b', 'doors': 2})
    assert task_from_dict(dict(id=0), 'corridor', 'y') == Task('0', 'corridor', split='y')
    with pytest.raises(AgentkitError, match='cannot be read: Is a directory'):
        read_tasks(tmp_path, 'corridor')


def test_samples_are_balanced_and_grow():
    tasks = [Task(f't{i:02d}', 'x', kind='abc'[i % 3] if i < 20 else 'a') for i in range(40)]
    few, many = sample(tasks, 9), sample(tasks, 24)
    assert Counter(t.kind for t in few) == dict(a=3, b=3, c=3) and many[:9] == few
    assert sample(tasks[::-1], 9) == few != sample(tasks, 9, seed=1)
    assert len({t.id for t in sample(tasks, 40)}) == 40
    with pytest.raises(AgentkitError, match='41 tasks asked for, but there are 40'):
        sample(tasks, 41)


def test_a_shared_task_is_refused():
    tasks = list_tasks('corridor', n=4)
    check_disjoint(tasks[:2], tasks[2:])
    with pytest.raises(AgentkitError, match="1 tasks are in training and in evaluation, e.g. 'train/corridor-1'"):
        check_disjoint(tasks[:2], tasks[1:])


def test_a_preview_shows_the_task_and_not_what_its_data_calls_so():
    table = preview([Task('a', 'x', 'walk', 'train', dict(id='z', split='y', doors=2))])
    assert table.to_dict('records') == [dict(id='a', kind='walk', split='train', doors='2')]


def test_options_are_checked_before_anything_is_made():
    with pytest.raises(AgentkitError, match=r"corridor does not take these options: .*'stat'; it takes: start=0"):
        make_env('corridor', stat=2)
    with pytest.raises(TypeError, match='at least'):  # the class's own error, not taken for a wrong option
        make_env(f'{__name__}:Broken').reset(Task('a', 'x'))


class Broken(type(make_env('corridor'))):
    def reset(self, task, seed=0):
        raise TypeError('at least one door')


def test_a_journal_cannot_choose_which_code_runs(tmp_path, monkeypatch):
    "The episodes of a stranger name an environment: nothing of it is imported, wherever it is looked up."
    (tmp_path / 'unknown.py').write_text(f'import pathlib\npathlib.Path({str(tmp_path / "ran")!r}).touch()\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with Runner('corridor', workers=1, progress=False) as run:
        (t,) = run(Expert(), list_tasks('corridor', n=1))
    t = replace(t, task=replace(t.task, env='unknown:Unknown'))
    student = student_agent(scripted_lm(['forward']))
    for use in (
        lambda: rows([t], student),
        lambda: rows([t], student, Chance()),
        lambda: evaluate(Expert(), [t.task]),
        lambda: ask(Expert(), [t.task]),
        lambda: distill(student, Expert(), [t.task], run),
    ):
        with pytest.raises(AgentkitError, match="data name the environment 'unknown:Unknown', which is not registered"):
            use()
    assert 'unknown' not in sys.modules and not (tmp_path / 'ran').exists()


def test_what_was_named_in_code_is_known_in_data():
    name = f'{__name__}:Broken'
    find_env(name)
    assert find_known_env(name) is find_env(name)


# --- options that are called like something else ---


class Parts(Corridor):
    "Its options are a column called split, and one that its tasks depend on."

    def __init__(self, split: str = 'all', doors: int = 5):
        super().__init__()
        self.split, self.doors = split, doors

    @classmethod
    def tasks(cls, split, /, n=None, seed=0, **options):
        return super().tasks(split, options.get('doors', n), seed) if options.get('split') != 'none' else []


class Fixed(Parts):
    "Its own option called split is not the one that its tasks are asked for."

    @classmethod
    def tasks(cls, split, n=None, seed=0):
        return Corridor.tasks(split, n, seed)


def test_an_option_may_be_called_split():
    for env, expected in (('Parts', 2), ('Fixed', 3)):
        with Runner(f'{__name__}:{env}', split='some', doors=2, workers=1, progress=False) as run:
            assert [t.split for t in run.tasks('train', 3)] == ['train'] * expected
    assert tasks_of(f'{__name__}:Parts', 'train', 3, 0, dict(split='none')) == []


@pytest.mark.parametrize('name', sorted(TAKEN))
def test_a_name_that_a_runner_takes_is_no_option(name):
    "It would never reach the environment."
    exec(f'class Env(Corridor):\n    def __init__(self, {name}=1):\n        pass', globals())
    for find in (find_env, make_env, Runner, list_tasks):
        with pytest.raises(AgentkitError, match=f'has an option called {name!r}, which means something else'):
            find(f'{__name__}:Env')


def test_all_that_a_runner_takes_is_known():
    named = [inspect.signature(f).parameters.values() for f in (Runner, EnvPool)]
    assert {p.name for ps in named for p in ps if p.kind is not p.VAR_KEYWORD} - {'self'} <= TAKEN


class Typed(Corridor):
    def __init__(self, a: str = '', b: int = 0, c: float = 0.0, d: bool = False, e: list = (), f=None):
        super().__init__()


@pytest.mark.parametrize('option, right, wrong', [
    ('a', ['', 'x'], [1, None, [], True]), ('b', [0, -3], ['1', 1.5, None, True]), ('c', [1, 1.5], ['1', None, True]),
    ('d', [True], [1, 'yes', None]), ('e', [[], 'anything'], []), ('f', [None, 1, 'x'], []),
])  # fmt: skip
def test_options_have_the_kind_that_their_class_says(option, right, wrong):
    for value in right:
        check_options(Typed, {option: value})
    for value in wrong:
        with pytest.raises(AgentkitError, match=f'Typed: {option} is .*; it has to be|corridor: {option} is'):
            check_options(Typed, {option: value})
