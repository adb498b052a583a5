"Real and built games as tasks, in this process and in workers."

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.types import Task
from agentkit.envs.alfworld import games
from agentkit.envs.alfworld.environment import KINDS, AlfWorld, Household, data_folder, game_path, real_games
from agentkit.envs.find import list_tasks
from agentkit.envs.pool import EnvPool
from agentkit.envs.alfworld.engine import Game, is_known


def add(folder, trial, kind='pick_and_place_simple', game='{"solvable": true}', trajectory=None):
    path = folder / 'json_2.1.1' / trial
    path.mkdir(parents=True)
    if game is not None:
        (path / 'game.tw-pddl').write_text(game)
    (path / 'traj_data.json').write_text(json.dumps({'task_type': kind}) if trajectory is None else trajectory)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('ALFWORLD_DATA', str(tmp_path))
    return tmp_path


@pytest.fixture
def unconfigured(monkeypatch):
    monkeypatch.delenv('ALFWORLD_DATA', raising=False)
    monkeypatch.setenv('AGENTKIT_ALFWORLD_DATA', '')


def test_what_alfworld_skips_is_skipped(folder):
    add(folder, 'train/b-Mug/trial_2')
    add(folder, 'train/b-Mug/trial_1', kind='look_at_obj_in_light')
    add(folder, 'train/a-AppleSliced/trial_1')
    add(folder, 'train/c-movable/trial_1', kind='pick_and_place_with_movable_recep')
    add(folder, 'train/d/trial_unsolvable', game='{"solvable": false}')
    add(folder, 'train/d/trial_unmarked', game='{"grammar": "\\"solvable\\": true"}')
    add(folder, 'train/d/trial_no_game', game=None)
    add(folder, 'train/e/trial_other_kind', kind='dance')
    tasks = list_tasks('alfworld', 'train')
    assert [t.id for t in tasks] == ['train/b-Mug/trial_1', 'train/b-Mug/trial_2']
    assert tasks[0] == Task(
        'train/b-Mug/trial_1',
        'alfworld',
        'look_at_obj_in_light',
        'train',
        {'game': 'json_2.1.1/train/b-Mug/trial_1/game.tw-pddl'},
    )
    assert game_path(tasks[0]).is_file()


def test_samples(folder):
    for i in range(12):
        add(folder, f'valid_seen/x-{i}/trial')
    everything = real_games(folder, 'valid_seen')
    some = real_games(folder, 'valid_seen', 5, seed=1)
    assert some == real_games(folder, 'valid_seen', 5, seed=1) != real_games(folder, 'valid_seen', 5, seed=2)
    assert some == real_games(folder, 'valid_seen', 8, seed=1)[:5]
    assert sorted(real_games(folder, 'valid_seen', 12), key=lambda t: t.id) == everything
    assert real_games(folder, 'valid_seen', 0) == []
    with pytest.raises(AgentkitError, match='has 12 games, 13 were asked for'):
        real_games(folder, 'valid_seen', 13)


def test_nothing_there_is_an_error_with_a_remedy(folder):
    with pytest.raises(
        AgentkitError, match=f'no ALFWorld games in {folder}/json_2.1.1/train.*alfworld-download.*unset'
    ):
        AlfWorld.tasks('train')
    with pytest.raises(AgentkitError, match='no ALFWorld games'):
        AlfWorld.tasks('train', 5)
    with pytest.raises(AgentkitError, match='known: train, valid_seen, valid_unseen'):
        AlfWorld.tasks('test')
    add(folder, 'train/x/trial', trajectory='{')
    with pytest.raises(AgentkitError, match='traj_data.json is not JSON'):
        AlfWorld.tasks('train')


def test_where_the_data_is(unconfigured, tmp_path, monkeypatch):
    assert data_folder() is None
    monkeypatch.setenv('AGENTKIT_ALFWORLD_DATA', str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setenv('ALFWORLD_DATA', '/other')
    assert data_folder() == Path('/other')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('ALFWORLD_DATA', str(tmp_path / '.cache' / 'alfworld'))
    assert data_folder() is None
    (tmp_path / '.cache' / 'alfworld' / 'json_2.1.1').mkdir(parents=True)
    assert data_folder() == tmp_path / '.cache' / 'alfworld'


@pytest.mark.parametrize(
    'data, message',
    [
        ({}, 'names no game'),
        ({'game': 7}, 'names no game'),
        ({'game': '/etc/passwd'}, 'not below'),
        ({'game': 'json_2.1.1/../../x'}, 'not below'),
        ({'game': '../x'}, 'not below'),
    ],
)
def test_a_task_cannot_leave_the_games_folder(folder, data, message):
    with pytest.raises(AgentkitError, match=message):
        AlfWorld().reset(Task('t', 'alfworld', data=data))


def test_a_task_whose_game_is_gone(folder, unconfigured):
    with pytest.raises(AgentkitError, match='does not exist'):
        Household().reset(Task('t', 'household', data={'game': 'v0/train/0/game.tw-pddl'}))
    with pytest.raises(AgentkitError, match='set ALFWORLD_DATA'):
        AlfWorld().reset(Task('t', 'alfworld', data={'game': 'json_2.1.1/train/x/game.tw-pddl'}))


def test_built_games_without_data(unconfigured):
    mine, home = AlfWorld.tasks('train', 6), Household.tasks('train', 6)
    assert [t.id for t in mine] == [t.id for t in home]
    assert ({t.env for t in mine}, {t.env for t in home}) == ({'alfworld'}, {'household'})
    assert set(Counter(t.kind for t in home)) <= set(KINDS)
    assert all(not Path(t.data['game']).is_absolute() and game_path(t).is_file() for t in home)
    few = Household.tasks('train')
    assert few[:6] == home and Counter(t.kind for t in few) == dict.fromkeys(KINDS, 2), (
        'a few, when nobody says how many'
    )
    with pytest.raises(AgentkitError, match='valid_seen'):
        Household.tasks('valid_seen', 3)


def test_games_of_another_seed_have_other_ids(unconfigured):
    first, other = Household.tasks('train', 2), Household.tasks('train', 2, seed=1)
    assert not {t.id for t in first} & {t.id for t in other}
    assert [t.kind for t in first] == [t.kind for t in other] and first[0].data != other[0].data
    assert Household().reset(other[0]) != Household().reset(first[0])


def test_built_games_with_data(folder):
    assert Household.tasks('train', 1)[0].data['game'].startswith(games.VERSION)


def play(env, task, steps=50):
    "What the expert does in a task."
    seen, turns = env.reset(task), []
    while not seen.done and len(turns) < steps:
        action = env.expert().action
        seen = env.step(action)
        turns.append((action, seen.text))
    assert env.progress() == 1 or seen.score == 0
    return seen.score == 1, turns


def test_the_same_episode_here_and_in_a_worker(unconfigured):
    tasks, here = Household.tasks('train', 3), Household()
    with EnvPool('household', n=1) as pool, pool.session() as there:
        for task in tasks:
            assert here.reset(task) == there.reset(task) == Game(game_path(task)).reset()
            assert play(here, task) == play(there, task)
        assert play(there, tasks[0]) == play(here, tasks[0])
    here.close()
    with pytest.raises(AgentkitError, match='reset first'):
        here.step('look')
    assert here.reset(tasks[0]).text


def test_a_refused_game_is_refused_in_a_worker_too(unconfigured, monkeypatch, tmp_path):
    task = Household.tasks('train', 1)[0]
    game = json.loads(game_path(task).read_text())
    game['grammar'] = game['grammar'].replace('You open', 'You {exit(9)} open', 1)
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path))
    path = game_path(task)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(game))
    with EnvPool('household', n=1) as pool, pool.session() as env:
        with pytest.raises(AgentkitError, match='can run code'):
            env.reset(task)
    with EnvPool('household', n=1, trusted=True) as pool, pool.session() as env:
        assert env.reset(task).actions.options


def test_a_goal_in_other_words_is_played_without_an_expert(unconfigured, monkeypatch, tmp_path):
    task = Household.tasks('train', 1)[0]
    game = json.loads(game_path(task).read_text())
    game['grammar'] = re.sub(r'Your task is to: [^"]*', 'Your task is to: tidy up.', game['grammar'])
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path))
    path = game_path(task)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(game))
    env = Household()
    assert env.reset(task).text.endswith('tidy up.')
    assert env.expert() is None and env.progress() is None
    env.close()


MISSING = """
import sys, importlib.abc
class No(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == sys.argv[1]:
            raise ModuleNotFoundError(f'No module named {name!r}', name=sys.argv[1])
sys.meta_path.insert(0, No())
from agentkit.core.errors import AgentkitError
from agentkit.envs.find import find_env, list_tasks, make_env
kind = find_env('household')
for ask in (lambda: list_tasks('household', n=1), lambda: make_env('household'), lambda: list_tasks('alfworld', n=1)):
    try: ask()
    except AgentkitError as e: print(e)
print(','.join(m for m in ('alfworld', 'textworld', 'fast_downward') if m in sys.modules))
"""


@pytest.mark.parametrize('package', ['alfworld', 'textworld', 'fast_downward'])
def test_a_missing_package_is_one_error_before_any_work(package, unconfigured):
    done = subprocess.run([sys.executable, '-c', MISSING, package], capture_output=True, text=True, check=True)
    *errors, imported = done.stdout.splitlines()
    assert errors == [f'{package} is not installed: run `pip install "agentkit[alfworld]"`'] * 3
    assert imported == ''


def test_finding_the_class_and_listing_real_games_is_cheap(folder):
    add(folder, 'train/x/trial')
    code = (
        "import sys; from agentkit.envs.find import find_env, list_tasks, make_env; list_tasks('alfworld', 'train'); "
        "make_env('alfworld'); print([m for m in ('alfworld', 'textworld', 'fast_downward', 'dspy', 'pandas') "
        'if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('package', ['textworld', 'fast_downward'])
def test_the_engine_without_its_packages(package):
    code = MISSING.partition('from agentkit')[0] + 'import agentkit.envs.alfworld.engine'
    done = subprocess.run([sys.executable, '-c', code, package], capture_output=True, text=True)
    assert re.search(r'AgentkitError: \S+ is not installed: run `pip install "agentkit\[alfworld\]"`', done.stderr)


@pytest.fixture
def real():
    if not data_folder() or not (data_folder() / 'json_2.1.1' / 'valid_seen').is_dir():
        pytest.skip('ALFWORLD_DATA has no valid_seen games')
    return AlfWorld.tasks


def test_real_validation_games(real):
    tasks = real('valid_seen')
    assert len(tasks) == 140 and set(t.kind for t in tasks) == set(KINDS)
    assert len({t.id for t in tasks}) == 140 and all('/' in t.id and t.split == 'valid_seen' for t in tasks)
    env = AlfWorld()
    won = sum(play(env, t)[0] for t in tasks[::20])
    env.close()
    assert won >= 6


PLAY = """
import json
from agentkit.agents.programs import Expert
from agentkit.envs.alfworld.environment import game_path
from agentkit.envs.find import list_tasks
from agentkit.rollouts import Runner
tasks = list_tasks('household', 'valid_unseen', 6)
with Runner('household', progress=False) as run: played = run(Expert(), tasks)
plans = [json.loads(game_path(t).read_text())['walkthrough'] for t in tasks]
steps = [s for t in played for s in t.steps]
print(json.dumps(dict(
    won=[t.won for t in played],
    kinds=sorted({t.task.kind for t in played}),
    said=[s.action for s in steps],
    seen=[s.observation.text for s in steps],
    plans=sum(plans, []),
)))
"""


def play_with(package, tmp_path):
    "Six games, built and played where this alfworld package stands before the installed one."
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(package), os.environ.get('PYTHONPATH', '')]),
        'AGENTKIT_PATHS_DATA': str(tmp_path / 'data'),
    }
    done = subprocess.run([sys.executable, '-c', PLAY], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def earlier_words(found):
    assert found['won'] == [True] * 6 and found['kinds'] == sorted(KINDS)
    for said in (found['said'], found['plans']):
        assert any(re.fullmatch(r'put \w+ \d+ in/on \w+ \d+', a) for a in said) and not any(
            a.startswith('move ') for a in said
        )
    assert any(o.startswith('You put the ') for o in found['seen']) and not any(
        o.startswith('You move the ') for o in found['seen']
    )


def test_games_in_the_words_before_alfworld_04(tmp_path):
    "The installed package with the old words: what was built and played with it says them."
    installed = Path(importlib.util.find_spec('alfworld').origin).parent
    shutil.copytree(installed, tmp_path / 'old/alfworld')
    grammar = tmp_path / 'old/alfworld/data/alfred.twl2'
    text = grammar.read_text()
    for new, old in (
        ('move {o} to {r}', 'put {o} in/on {r}'),
        ('You move the {o.name} to the {r.name}.', 'You put the {o.name} in/on the {r.name}.'),
    ):
        assert new in text
        text = text.replace(new, old)
    grammar.write_text(text)
    earlier_words(play_with(tmp_path / 'old', tmp_path))


@pytest.mark.slow
def test_the_package_of_alfworld_035(tmp_path):
    "The real package: its games are built, known without being trusted, and won."
    got = subprocess.run(
        [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', 'alfworld==0.3.5', '-d', str(tmp_path)],
        capture_output=True,
        text=True,
    )
    if got.returncode:
        pytest.skip('alfworld 0.3.5 cannot be downloaded')
    (wheel,) = tmp_path.glob('*.whl')
    shutil.unpack_archive(wheel, tmp_path / 'old', 'zip')
    earlier_words(play_with(tmp_path / 'old', tmp_path))
    built = next((tmp_path / 'data').rglob('game.tw-pddl'))
    assert is_known(json.loads(built.read_text())), 'also where another version is installed'
