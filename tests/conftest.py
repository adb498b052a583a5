import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='session', autouse=True)
def own_folders(tmp_path_factory):
    "Tests write below a temporary folder: never into the project's results, figures or data."
    base = tmp_path_factory.mktemp('agentkit')
    kept = {
        k: os.environ.get(k)
        for k in ('AGENTKIT_ROOT', 'TMPDIR', *(f'AGENTKIT_PATHS_{p}' for p in ('RESULTS', 'FIGURES', 'DATA')))
    }
    os.environ.update(
        AGENTKIT_ROOT=str(ROOT),
        AGENTKIT_PATHS_RESULTS=str(base / 'results'),
        AGENTKIT_PATHS_FIGURES=str(base / 'figures'),
        AGENTKIT_PATHS_DATA=str(base / 'data'),
        TMPDIR=str(base / 'tmp'),
    )
    (base / 'tmp').mkdir()
    tempfile.tempdir = None  # it is looked up again
    yield base
    for k, v in kept.items():
        if v is None:
            os.environ.pop(k, None)
        else:
            os.environ[k] = v


@pytest.fixture(autouse=True)
def own_environment():
    "What a test or a notebook sets in the environment is gone after it; and what a notebook's shell does with Ctrl-C."
    before, pressed = dict(os.environ), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, pressed)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def results(tmp_path, monkeypatch):
    "A results folder of this test's own."
    monkeypatch.setenv('AGENTKIT_PATHS_RESULTS', str(tmp_path / 'results'))
    monkeypatch.setenv('AGENTKIT_PATHS_FIGURES', str(tmp_path / 'figures'))
    return tmp_path / 'results'


@pytest.fixture(scope='module')
def own_data(tmp_path_factory):
    "A data folder of this module's own; the servers that it started end with it."
    with pytest.MonkeyPatch.context() as m:
        m.setenv('AGENTKIT_PATHS_DATA', str(tmp_path_factory.mktemp('data')))
        yield
        if 'agentkit.models.serving' in sys.modules:
            sys.modules['agentkit.models.serving'].stop_servers()


@pytest.fixture(scope='module')
def one_thread():
    "Torch computes with one thread: the same numbers every time, and no quarrel with the servers."
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
