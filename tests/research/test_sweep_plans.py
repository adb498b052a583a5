"Plans of sweeps: every value reaches the notebook as it is, or is refused by name before anything runs."

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from research.test_sweeps import DOUBLE, notebook, plan

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json, write_json
from agentkit.research.sweeps import _filled, parameters, plan_cells, read_plan, read_table, sweep


def planned(folder, value, default='None'):
    "The cells of a plan in which x is this YAML text."
    line = default if '=' in default else f'x = {default}'
    notebook(folder / 'n.ipynb', DOUBLE, defaults=f"{line}\nout = ''")
    (folder / 'plan.yaml').write_text(f'experiment: trial\nnotebook: n.ipynb\ncells:\n- x: {value}\n')
    return plan_cells(read_plan(folder / 'plan.yaml'))


@pytest.mark.parametrize(
    'default, value',
    [
        ("x = 'a=b'", '"c=d # e"'),
        ('x: None | str = None', 'bar'),
        ("x: 'str' = ''  # a = 3", 'bar'),
        ('x = "a # b"', 'bar'),
        ('x = """a\nb"""', '"c\\nd"'),
        ("y = x = ''", 'bar'),
        ("x = (\n    'a',  # one\n    {'b': -1},\n)", '[1]'),
        ('x = -1e-3', '2'),
        ('"""Words."""\nx = None', '{a: [1, null]}'),
    ],
)
def test_a_parameter_is_a_parameter_whatever_stands_in_its_default(tmp_path, default, value):
    (cell,) = planned(tmp_path, value, default)
    assert cell.params == dict(x=yaml.safe_load(value))


@pytest.mark.parametrize(
    'line',
    ['x = 2 * 3', 'x = len("a")', 'x: int', 'x, y = 1, 2', 'x += 1', 'import os', 'x = f"{1}"', 'x = [*range(3)]'],
)
def test_what_is_no_plain_value_does_not_belong_among_the_parameters(tmp_path, line):
    with pytest.raises(AgentkitError, match='does not belong into the cell with the parameters') as e:
        parameters(notebook(tmp_path / 'n.ipynb', DOUBLE, defaults=f'{line}\nout = ""'))
    assert f'`{line}`' in str(e.value) and '\n' not in str(e.value)


def test_two_cells_of_parameters_and_what_is_no_notebook_are_one_line(tmp_path):
    content = read_json(notebook(tmp_path / 'n.ipynb', DOUBLE))
    write_json(tmp_path / 'two.ipynb', {**content, 'cells': content['cells'][:1] * 2})
    with pytest.raises(AgentkitError, match='two.ipynb has 2 cells tagged "parameters"'):
        parameters(tmp_path / 'two.ipynb')
    for text in ('{}', '[]', '{"cells": [1]}', '{"cells": [{"cell_type": "code"}]}', '{"worksheets": []}', ''):
        (tmp_path / 'n.ipynb').write_text(text)
        with pytest.raises(AgentkitError, match='n.ipynb is no'):
            parameters(tmp_path / 'n.ipynb')


REFUSED = {
    '2024-01-01': 'is a date: write it in quotes',
    '{when: [2024-01-01 10:00:00]}': 'is a datetime: write it in quotes',
    '.nan': 'nan is no number that a table can hold',
    '[1, -.inf]': 'inf is no number',
    '010': 'YAML reads 010 as another number',
    '1:30': 'YAML reads 1:30 as another number',
    '9223372036854775808': 'too large for a table',
    '1' + '0' * 5000: 'is not YAML',
    '&a [*a]': 'holds itself',
    '{a: 1, a: 2}': "the key 'a' occurs twice in the map of line 4",
    '{1: 2}': 'are not all texts',
    '!!set {a}': 'is a set',
    '!!binary aGk=': 'is a bytes',
    '!!python/object/apply:os.getcwd []': 'is not YAML',
    '"\\0"': 'is no text that a table can hold',
    '"\\ud800"': 'is no text that a table can hold',
    '*nowhere': 'undefined alias',
    '[' * 5000: 'is not YAML',
}


@pytest.mark.parametrize('value, message', REFUSED.items(), ids=lambda text: text[:40])
def test_a_value_that_cannot_be_swept_is_refused_by_name(tmp_path, value, message):
    with pytest.raises(AgentkitError, match=message) as e:
        planned(tmp_path, value)
    assert ('parameter x' in str(e.value) or 'plan.yaml' in str(e.value)) and '\n' not in str(e.value)


@pytest.mark.parametrize(
    'default, value, message',
    [
        ('60', '"all"', "it takes a number, not 'all'"),
        ('2e-3', '1e-3', '.* one with a power has a point and a sign: 1.0e-3'),
        ('60', 'null', r'it takes a number, not None; .* `x: float \| None = 60`'),
        ("'nano'", 'no', 'it takes a text, not False .a text such as yes, no, on or off needs quotes'),
        ("'nano'", '3', 'it takes a text, not 3'),
        ('False', '1', 'it takes true or false, not 1'),
        ('[1]', '2', 'it takes a list, not 2'),
        ('x: None | str = None', '3', 'it takes a text or null, not 3'),
        ('x: int = 3', '2.5', 'it takes a whole number, not 2.5'),
        ('x: Optional[int] = 3', 'a', 'it takes a whole number or null'),
    ],
)
def test_a_value_of_another_type_than_the_default_is_refused(tmp_path, default, value, message):
    with pytest.raises(AgentkitError, match=f'n.ipynb, parameter x: {message}'):
        planned(tmp_path, value, default)


@pytest.mark.parametrize(
    'default, value',
    [
        ('60', '2.5'),
        ('2e-3', '1'),
        ('x: int | None = 3', 'null'),
        ('x: "Any" = 3', 'a'),
        ('x: list[int] = None', '[1]'),
        ('(1, 2)', '[3]'),
        ('None', 'no'),
        ('None', '0x1F'),
    ],
)
def test_a_value_that_default_or_annotation_admit_is_swept(tmp_path, default, value):
    assert planned(tmp_path, value, default)[0].params == dict(x=yaml.safe_load(value))


TEXTS = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda held: st.lists(held, max_size=3) | st.dictionaries(TEXTS, held, max_size=3),
    max_leaves=5,
)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_any_value_of_a_plan_is_the_same_in_the_notebook(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp('value')
    notebook(folder / 'n.ipynb', DOUBLE, defaults="x = None\nout = ''")
    file = dict(experiment='trial', notebook='n.ipynb', cells=[dict(x=value)])
    (folder / 'plan.yaml').write_text(yaml.safe_dump(file, allow_unicode=True))
    (cell,) = plan_cells(read_plan(folder / 'plan.yaml'))
    names = {}
    exec(_filled(cell.code, cell.params)['cells'][1]['source'], names)
    assert json.dumps(names['x'], sort_keys=True) == json.dumps(value, sort_keys=True), 'same values of same types'


def test_odd_values_arrive(tmp_path, results):
    odd = [None, True, -3, 2.5, '', 'a=b', 'it\'s "so"\n# no comment', '{x}', 'é😀', [], {'a': [1, {'b': None}]}, 2**62]
    code = 'from agentkit.research.sweeps import finish\nfinish(out, [dict(seen=repr(x))])'
    notebook(tmp_path / 'n.ipynb', code, defaults="x = None\nout = ''")
    file = dict(experiment='trial', notebook='n.ipynb', cells=[dict(x=odd)])
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(file))
    cells = plan_cells(read_plan(tmp_path / 'plan.yaml'))
    assert list(sweep(cells, progress=False)['seen']) == [repr(odd)] == list(read_table('trial')['seen'])


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'grid': {'xx': [1]}}, "has no parameter 'xx'; did you mean 'x'"),
        ({'fixed': {'out': 'here'}}, 'parameter out: the sweep sets it'),
        ({'fixed': [1]}, '"fixed" must be a map'),
        ({'cells': {'x': 1}}, '"cells" must be a list'),
        ({'cells': [3]}, 'must be a map such as'),
        ({'experiment': 2024}, '2024 cannot be the name of an experiment'),
        ({'report': 'none.ipynb'}, 'none.ipynb does not exist'),
        ({'report': 'n.ipynb'}, "has no parameter 'experiment'"),
        ({'gird': {}}, "unknown key gird; did you mean 'grid'"),
        ({'3': {}}, 'unknown key 3'),
    ],
)
def test_a_plan_of_another_shape_is_one_line(tmp_path, changes, message):
    with pytest.raises(AgentkitError, match=message):
        plan_cells(read_plan(plan(tmp_path, DOUBLE, **changes)))


def test_a_cell_that_is_named_twice_is_one_cell(tmp_path):
    path = plan(tmp_path, DOUBLE, cells=[dict(x=2), dict(x=2.5)], grid=dict(x=[1, 2, 2]))
    assert [c.params['x'] for c in plan_cells(read_plan(path))] == [2, 2.5, 1]


def test_what_the_cells_differ_in_is_not_fixed_from_outside(tmp_path):
    with pytest.raises(AgentkitError, match='x is not fixed, the cells differ in it'):
        plan_cells(read_plan(plan(tmp_path, DOUBLE)), dict(x=7))
