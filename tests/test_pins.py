"The kit does today what it did when these values were recorded; `tests/pins/record.py` records them again."

import difflib
import importlib

import pytest
from pins import FOLDER, PINS, as_text, path_of, recording, write

for module in ('prompts', 'play', 'rows', 'training', 'judging', 'reports', 'commands', 'stored'):
    importlib.import_module(f'pins.{module}')


def marked(name):
    return pytest.param(name, marks=[pytest.mark.slow] if PINS[name][2] else [])


@pytest.mark.parametrize('name', [marked(n) for n in PINS])
def test_pin(name, tmp_path, results):
    produce, case, _ = PINS[name]
    value = produce(tmp_path, *case)
    if recording():
        write(name, value)
    path = path_of(name)
    assert path, f'nothing is recorded for {name}: python tests/pins/record.py {name}'
    expected, present = path.read_text(), as_text(value)
    if present != expected:
        lines = difflib.unified_diff(expected.splitlines(), present.splitlines(), path.name, 'now', n=2, lineterm='')
        pytest.fail('\n'.join([f'{name} is not what was recorded', *lines][:200]), pytrace=False)


def test_every_recorded_value_has_its_pin():
    assert {p.stem for p in FOLDER.glob('expected/*')} == set(PINS)
