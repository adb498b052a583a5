"The house: modules in layers whose arrows point down, and words that belong to one environment stay in its folder."

import ast
import json
import re
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

# A room may import those above it in this list. Rooms on one line do not know each other; nobody imports testing.
LAYERS = (
    ('core',),
    ('models', 'envs'),
    ('agents',),
    ('rollouts',),
    ('evals',),
    ('judges',),
    ('data',),
    ('training',),
    ('tuning',),
    ('research',),
    ('labs',),
    ('cli',),
    ('testing',),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
APART = (('agents', 'envs'),)  # these meet in rollouts only


def name_of(path, root=ROOT):
    "The dotted name of a module or package."
    parts = path.relative_to(root).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def modules():
    "Name → source of every module that somebody wrote; packages are not modules."
    files = [p for p in sorted((ROOT / 'agentkit').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]
    return {name_of(p): p.read_text() for p in files}


MODULES = modules()
PACKAGES = {name_of(p) for p in (ROOT / 'agentkit').rglob('__init__.py')}
DOTTED = re.compile(r'(agentkit(?:\.\w+)+)(?::\w+)?')
SAID = re.compile(r'(?:\bfrom|\bimport|-m)\s+(agentkit(?:\.\w+)+)')


def absolute(name, module, level):
    "The dotted name behind an import with leading dots."
    if not level:
        return name or ''
    base = module.split('.')[:-level]
    return '.'.join([*base, *([name] if name else [])])


def docstrings(tree):
    "The texts that only people read."
    owners = [n for n in ast.walk(tree) if hasattr(n, 'body') and isinstance(n.body, list) and n.body]
    first = [n.body[0] for n in owners]
    return {id(s.value) for s in first if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)}


def names_in(source, module):
    "Every dotted name below agentkit that a module imports, at its top or in a function, or hides in a string."
    tree = ast.parse(source)
    hidden = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module, module, node.level)
            yield from (f'{base}.{a.name}' for a in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            whole = DOTTED.fullmatch(node.value.strip())
            yield from [whole[1]] if whole else SAID.findall(node.value)


def target(name):
    "The module in a dotted name, without what is imported from it; nothing for a package and for other libraries."
    parts = name.split('.')
    known = ('.'.join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((k for k in known if k in MODULES or k in PACKAGES), '')


def arrows():
    "Module → the modules that it imports."
    targets = {module: {target(n) for n in names_in(source, module)} for module, source in MODULES.items()}
    return {module: {t for t in found if t in MODULES} - {module} for module, found in targets.items()}


ARROWS = arrows()


def room(module):
    return module.split('.')[1]


# --- the reader of imports ---

SAMPLE = """
"See agentkit.cli.main and agentkit.tuning."
import json, agentkit.core.errors
from ..core import store
from ..core.types import Task, transcript
from .base import Environment

def find():
    "Like agentkit.research.plots."
    from agentkit.models.names import usage
    importlib.import_module('agentkit.data.rows')
    resolve('agentkit.testing.corridor:Corridor')
    run([sys.executable, '-m', 'agentkit.envs.worker'])
    code = "import sys\\nfrom agentkit.evals import evaluate"
    raise AgentkitError('see WORDINGS in agentkit.judges.base')
"""


def test_imports_are_seen_wherever_they_hide():
    seen = {target(n) for n in names_in(SAMPLE, 'agentkit.envs.find')} & set(MODULES)
    expected = (
        'core.errors core.store core.types envs.base models.names data.rows testing.corridor envs.worker evals'.split()
    )
    assert seen == {f'agentkit.{name}' for name in expected}


# --- the layers ---


def test_every_room_has_a_layer_and_every_layer_has_its_rooms():
    assert {room(m) for m in MODULES} == set(LEVEL)


def test_arrows_point_down():
    wrong = [
        f'{module} imports {other}'
        for module, others in ARROWS.items()
        for other in sorted(others)
        if room(other) != room(module) and LEVEL[room(other)] >= LEVEL[room(module)]
    ]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('one, other', APART)
def test_rooms_that_do_not_know_each_other(one, other):
    pairs = [(m, o) for m, others in ARROWS.items() for o in others if {room(m), room(o)} == {one, other}]
    assert not pairs, pairs


def test_nobody_imports_what_is_for_tests():
    users = [m for m, others in ARROWS.items() if room(m) != 'testing' and any(room(o) == 'testing' for o in others)]
    assert not users, users


def test_there_is_no_circle():
    try:
        tuple(TopologicalSorter(ARROWS).static_order())
    except CycleError as e:
        pytest.fail(' -> '.join(e.args[1]))


def test_every_name_below_a_room_is_a_module():
    "Also one in a string, where nobody notices that the module has moved."
    names = [(module, n) for module, source in MODULES.items() for n in names_in(source, module)]
    below = [(module, n) for module, n in names if n.startswith('agentkit.') and room(n) in LEVEL]
    lost = [f'{module}: {n}' for module, n in below if target(n) not in MODULES and n not in PACKAGES]
    assert below and not lost, lost


def test_packages_import_nothing():
    for path in (ROOT / 'agentkit').rglob('__init__.py'):
        tree = ast.parse(path.read_text())
        assert not [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))], path


def test_the_plan_of_the_house_names_every_room_and_every_guide():
    plan = (ROOT / 'CONTRIBUTING.md').read_text().partition('## Find the room')[2].partition('\n## ')[0]
    assert {r for r in LEVEL if f'`{r}`' not in plan} == set()
    guides = sorted((ROOT / 'notebooks/guides').glob('*.ipynb'))
    assert guides and [g.name for g in guides if f'(notebooks/guides/{g.name})' not in plan] == []


# --- the words of one environment ---

# what only household games say: their names, their things, their commands, the packages that play them
WORDS = re.compile(
    r'\b(alfworld|alfred|household|textworld|fast_downward'
    r'|mugs?|fridges?|microwaves?|sinkbasins?|desklamps?|countertops?|garbagecans?|stoveburners?|sidetables?'
    r'|pick_(?:and|clean|heat|cool|two)_\w+|look_at_obj_in_light|walkthroughs?)\b'
    r'|\b(?:take|move|put) \w+ \d+ (?:from|to|in/on) \w+ \d+',
    re.IGNORECASE,
)
HOME = ('agentkit/envs/alfworld/', 'notebooks/envs/alfworld/')
PAGES = ('notebooks/experiments/', 'notebooks/tutorials/', 'notebooks/index.ipynb')  # they choose what is played


def text_of(path):
    "What a person wrote in a file: of a notebook the cells, and not their outputs."
    if path.suffix != '.ipynb':
        return path.read_text()
    return '\n'.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'])


def household():
    "File → the household words in it, of everything that is not at home there."
    files = [p for folder in ('agentkit', 'notebooks') for p in (ROOT / folder).rglob('*') if p.is_file()]
    written = [p for p in files if p.suffix in ('.py', '.ipynb') and '.ipynb_checkpoints' not in p.parts]
    names = {p.relative_to(ROOT).as_posix(): p for p in written if p.name != '_modidx.py'}
    texts = {n: text_of(p) for n, p in sorted(names.items()) if not n.startswith((*HOME, *PAGES))}
    return {n: words for n, t in texts.items() if (words := sorted({m[0].lower() for m in WORDS.finditer(t)}))}


@pytest.mark.parametrize('line', ['Put a mug in the shelf.', 'take book 1 from desk 2', "env='household'"])
def test_household_words_are_known(line):
    assert WORDS.search(line)
    assert not WORDS.search('go to door 2; take the second turning from there, put it into `data`, and pick one')


def test_only_its_own_folder_speaks_of_the_household():
    assert not household()
