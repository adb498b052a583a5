"Every notebook of the package is a test case: its cells run top to bottom."

import pytest
from conftest import ROOT
from nbdev.test import test_nb as run_notebook

run_notebook.__test__ = False  # the name begins with test_; it is not one
PAGES = (ROOT / 'notebooks').rglob('*.ipynb')
NOTEBOOKS = sorted(p for p in PAGES if p.parent.name != 'experiments' and p.stem != 'index')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'notebooks').with_suffix('').as_posix())
def test_notebook(path):
    passed, _ = run_notebook(path, skip_flags=['slow', 'gpu', 'llm'], cell_timeout=1800)
    assert passed, f'{path.name} failed; the traceback is in the captured stderr'


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 15
