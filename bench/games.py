"The same games for both sides, and nothing ready-made: caches and data folder are empty at the start."

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from agentkit.core.settings import path_of
from agentkit.core.types import Task
from agentkit.envs.alfworld import engine
from agentkit.envs.alfworld.environment import data_folder
from agentkit.envs.find import list_tasks


def bench_games(n: int) -> tuple[list[Task], str]:
    "The games, and what they are."
    real = data_folder() is not None
    if real:
        return list_tasks('alfworld', 'valid_seen', n), 'ALFWorld valid_seen'
    return list_tasks('alfworld', 'train', n), 'built by the kit'


@contextlib.contextmanager
def variable(name: str, value: str):
    "An environment variable for a while."
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextlib.contextmanager
def empty_data():
    "An empty, temporary data folder, and nothing of another one remembered."
    with tempfile.TemporaryDirectory() as folder, variable('AGENTKIT_PATHS_DATA', folder):
        forget()
        yield Path(folder)


def forget():
    "Empty the caches that the engine keeps, in memory and on disk."
    for cached in (engine.translate, engine._logic, engine._symbols, engine._query):
        cached.cache_clear()
    shutil.rmtree(path_of('data', 'translations'), ignore_errors=True)
