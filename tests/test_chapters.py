"Each public function and class occurs in a lesson of the chapter that exports it."

import ast
import json
import re

import pytest
from conftest import ROOT

NO_LESSON = {  # what cannot run in a page, and why
    'research.tracking.open_ui': 'serves pages until somebody interrupts it',
}
EXPORTED = re.compile(r'^#\|\s*(export|exports|exporti|default_exp)\b', re.MULTILINE)
MODULE = re.compile(r'^#\|\s*default_exp (\S+)', re.MULTILINE)


def chapters():
    "Module → the source of its lessons: what is run in its notebook and not exported."
    pages = [p for p in sorted((ROOT / 'notebooks').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
    for page in pages:
        cells = [''.join(c['source']) for c in json.loads(page.read_text())['cells'] if c['cell_type'] == 'code']
        module = MODULE.search('\n'.join(cells))
        if module:
            yield module[1], '\n'.join(c for c in cells if not EXPORTED.search(c))


CHAPTERS = dict(chapters())


def public(module):
    "The functions and classes in the `__all__` of a module."
    body = ast.parse((ROOT / 'agentkit' / f'{module.replace(".", "/")}.py').read_text()).body
    values = [n.value for n in body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__']
    names = {name for value in values for name in ast.literal_eval(value)}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n.name for n in body if isinstance(n, kinds) and n.name in names]


def occurs(name, module, lessons):
    "Is it used? A subcommand is typed: `env_list` as `env list`; to ask for a type shows nothing."
    lessons = re.sub(r'isinstance\([^()]*\)', '', lessons)
    typed = [name.strip('_').replace('_', ' ')] if module == 'cli' else []
    return any(re.search(rf'\b{re.escape(n)}\b', lessons) for n in (name, *typed))


@pytest.mark.parametrize('module', CHAPTERS)
def test_every_public_name_has_a_lesson(module):
    missing = [n for n in public(module) if not occurs(n, module, CHAPTERS[module])]
    assert [n for n in missing if f'{module}.{n}' not in NO_LESSON] == []


def test_what_has_no_lesson_exists_and_has_none():
    named = [full.rpartition('.')[::2] for full in NO_LESSON]
    assert [(m, n) for m, n in named if n not in public(m) or occurs(n, m, CHAPTERS[m])] == []


def test_an_export_is_no_lesson():
    assert not occurs('open_ui', 'research.tracking', CHAPTERS['research.tracking'])
    assert not occurs('Report', 'evals', 'assert isinstance(report, Report)')
    assert occurs('env_list', 'cli', "run('env list')") and not occurs('env_list', 'core.store', "run('env list')")
