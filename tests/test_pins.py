"The kit does today what it did when these values were recorded; `tests/pins/record.py` records them again."

import difflib

import pytest
from pins import PINS, as_text, commands, judging, path_of, play, prompts, recording, reports, rows, training, write  # noqa: F401


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
    lines = difflib.unified_diff(expected.splitlines(), present.splitlines(), path.name, 'now', n=2, lineterm='')
    assert present == expected, '\n' + '\n'.join([*lines][:200])
