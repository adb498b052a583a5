"The built games: same bytes everywhere, rooms that never meet, and every one of them winnable."

import json, os, re, signal, subprocess, sys, threading
from collections import Counter
from pathlib import Path

import psutil
import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.settings import path_of
from agentkit.envs.alfworld import games
from agentkit.envs.pool import Worker
from agentkit.envs.alfworld.games import (
    KINDS,
    SIZES,
    SPLITS,
    build_game,
    ensure_games,
    game_id,
    goals,
    layouts,
    prove,
    side,
    signature,
)

MANY = 120


def contents(game):
    return json.loads(game['files']['game.tw-pddl'])


def about(game):
    return json.loads(game['files']['traj_data.json'])


def facts(game):
    "Predicate → argument tuples, read back from the problem's text."
    problem, out = contents(game)['pddl_problem'], {}
    for name, args in re.findall(r'\((\w+) ([^()]*)\)', problem[problem.index('(:init') : problem.index('(:goal')]):
        out.setdefault(name, []).append(tuple(args.split()))
    return out


def receptacle_types(game):
    return {r: t.removesuffix('Type') for r, t in facts(game)['receptacleType']}


@pytest.fixture(scope='module')
def many():
    return [build_game(split, i) for split in SPLITS for i in range(MANY)]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path))
    return tmp_path / 'games'


DIGEST = """
from agentkit.core.store import digest
from agentkit.envs.alfworld.games import build_game
splits = ("train", "valid_unseen")
print(digest([build_game(s, i, seed)["files"] for s in splits for i in range(12) for seed in (0, 5)]))
"""


def test_same_bytes_in_every_process():
    run = lambda seed: (
        subprocess.run(
            [sys.executable, '-c', DIGEST],
            env={**os.environ, 'PYTHONHASHSEED': seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert run('0') == run('1')


def test_no_path_and_no_time_in_the_files(many):
    for game in many[:12]:
        for text in game['files'].values():
            assert (
                str(Path.home()) not in text
                and str(Path(games.__file__).parents[3]) not in text
                and sys.prefix not in text
            )


def test_other_arguments_give_other_games(many):
    texts = [g['files']['game.tw-pddl'] for g in many]
    assert len(set(texts)) == len(texts)
    assert build_game('train', 0, seed=1)['files'] != many[0]['files']


@pytest.mark.parametrize('split', SPLITS)
def test_every_prefix_is_balanced(split):
    kinds = Counter()
    for i in range(50):
        kinds[game_id(split, i).split('-')[-1]] += 1
        assert max(kinds.values()) - min(kinds[k] for k in KINDS) <= 1


def test_kind_is_what_the_files_say(many):
    assert all(about(g)['task_type'] == g['kind'] == g['id'].split('-')[-1] for g in many)


def test_layouts_never_meet():
    for room in SIZES:
        signs = {
            (split, seed): {l.signature for l in layouts(room, split, seed)} for split in SPLITS for seed in range(4)
        }
        for (split, seed), found in signs.items():
            assert len(found) == SPLITS[split]
            assert {side(s) for s in found} == {split}
        train, held_out = (set().union(*(s for (name, _), s in signs.items() if name == split)) for split in SPLITS)
        assert not train & held_out


def test_rooms_in_the_files_never_meet(many):
    "Not the builder's word for it: the furniture is counted in the problem's text."
    seen = {split: set() for split in SPLITS}
    for g in many:
        seen[g['id'].split('/')[0]].add(
            (g['layout'].room, tuple(sorted(Counter(receptacle_types(g).values()).items())))
        )
    assert not seen['train'] & seen['valid_unseen']
    for split, rooms in seen.items():
        assert {side(signature(*room)) for room in rooms} == {split}


def test_sizes(many):
    for g in many:
        low, high = SIZES[g['layout'].room]
        found = facts(g)
        assert low <= len(found['receptacleType']) <= high
        assert 8 <= len(found['inReceptacle']) <= 70
        places = [place for _, place in found['receptacleAtLocation']]
        assert len(set(places)) == len(places)


def test_things_lie_where_they_may(many):
    for g in many:
        kind, types = dict(facts(g)['objectType']), receptacle_types(g)
        for thing, place in facts(g)['inReceptacle']:
            if kind[thing] != 'DeskLampType':
                assert games.may_hold(types[place], kind[thing].removesuffix('Type'))


def test_goal_is_not_reached_at_the_start(many):
    for g in many:
        target, found, types = about(g)['pddl_params'], facts(g), receptacle_types(g)
        wanted = [o for o, t in found['objectType'] if t == target['object_target'] + 'Type']
        assert len(wanted) >= (2 if g['kind'] == 'pick_two_obj_and_place' else 1)
        assert not {'holds', 'isClean', 'isHot', 'isCool', 'isToggled', 'isOn', 'opened'} & set(found)
        if g['kind'] in ('pick_and_place_simple', 'pick_two_obj_and_place'):
            assert target['parent_target'] not in {
                types[place] for thing, place in found['inReceptacle'] if thing in wanted
            }


def test_goals_are_possible():
    for room in SIZES:
        for split in SPLITS:
            for layout in layouts(room, split):
                for kind in (k for k, rooms in KINDS.items() if room in rooms):
                    assert goals(kind, layout)


@pytest.mark.parametrize('split', SPLITS)
def test_games_are_won_by_their_plans(split):
    for i in range(6, 12):
        assert 3 <= prove(build_game(split, i)) <= 12


def spoil(game, **changes):
    return {**game, 'files': {'game.tw-pddl': json.dumps({**contents(game), **changes})}}


def test_a_plan_that_stops_early_is_refused():
    game = build_game('train', 0)
    with pytest.raises(AgentkitError, match=rf'{game["id"]}.*does not win'):
        prove(spoil(game, walkthrough=contents(game)['walkthrough'][:-1]))


def test_an_impossible_step_is_named():
    game = build_game('train', 0)
    plan = contents(game)['walkthrough']
    with pytest.raises(AgentkitError, match=rf"{game['id']}, step 2: 'take moon 1 from sky 1'"):
        prove(spoil(game, walkthrough=[plan[0], 'take moon 1 from sky 1', *plan[1:]]))


def test_a_game_that_is_won_from_the_start_is_refused():
    game = build_game('train', 0)
    target, types = about(game)['pddl_params'], receptacle_types(game)
    thing = next(o for o, t in facts(game)['objectType'] if t == target['object_target'] + 'Type')
    goal = next(r for r, t in types.items() if t == target['parent_target'])
    problem = re.sub(rf'\(inReceptacle {thing} \S+\)', f'(inReceptacle {thing} {goal})', contents(game)['pddl_problem'])
    with pytest.raises(AgentkitError, match='won before the first step'):
        prove(spoil(game, pddl_problem=problem))


def test_bad_arguments():
    with pytest.raises(AgentkitError, match="no built games 'valid_seen'"):
        build_game('valid_seen', 0)
    with pytest.raises(AgentkitError, match='-1 is not'):
        build_game('train', -1)


def test_what_is_stored_is_what_is_built_and_is_not_built_again(shelf, monkeypatch):
    found = ensure_games('train', 3)
    assert [g['id'] for g in found] == [game_id('train', i) for i in range(3)]
    for i, g in enumerate(found):
        for name, text in build_game('train', i)['files'].items():
            assert (shelf / g['path']).with_name(name).read_text() == text

    def no_worker(*_):
        raise AssertionError('built again')

    monkeypatch.setattr(games, 'Worker', no_worker)
    assert ensure_games('train', 3) == found
    assert ensure_games('train', 2) == found[:2]


def test_an_interrupted_build_goes_on(shelf):
    first, second = ensure_games('train', 2)
    (shelf / second['path']).unlink()
    (shelf / second['path']).with_name('.game.tw-pddl.half').write_text('{"pddl_dom')
    before = (shelf / first['path']).stat().st_mtime_ns
    ensure_games('train', 2)
    assert (shelf / first['path']).stat().st_mtime_ns == before
    assert (shelf / second['path']).read_text() == build_game('train', 1)['files']['game.tw-pddl']


def test_only_what_is_proven_is_stored(tmp_path, monkeypatch):
    game = build_game('train', 0)
    monkeypatch.setattr(games, 'build_game', lambda *_: spoil(game, walkthrough=['look']))
    with pytest.raises(AgentkitError, match='does not win'):
        games.Builder(tmp_path).build('train', 0)
    assert not list(tmp_path.rglob('*'))


def test_two_builds_at_once(shelf):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ensure_games('valid_unseen', 3, jobs=1))) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 2 and found[0] == found[1]
    assert (shelf / found[0][2]['path']).read_text() == build_game('valid_unseen', 2)['files']['game.tw-pddl']
    assert not list(shelf.rglob('.*'))


def test_a_build_that_fails_says_so_and_leaves_no_worker(shelf):
    path_of('data', 'games', 'x')
    (shelf / f'{games.VERSION}-seed0').write_text('a file where the folder should be')
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(AgentkitError, match='NotADirectoryError|FileExistsError'):
        ensure_games('train', 1)
    assert set(psutil.Process().children(recursive=True)) <= before


def dying(times):
    "A worker that is killed at its first so many calls."
    calls = []

    class Dying(Worker):
        def call(self, *args, **options):
            calls.append(self.pid)
            if len(calls) <= times:
                os.kill(self.pid, signal.SIGKILL)
            return super().call(*args, **options)

    return Dying, calls


def test_a_builder_that_is_killed_is_replaced_and_its_game_built(shelf, monkeypatch):
    kind, calls = dying(1)
    monkeypatch.setattr(games, 'Worker', kind)
    found = ensure_games('train', 2, jobs=1)
    assert len(calls) == 3 and all((shelf / g['path']).is_file() for g in found)
    assert not [p for p in psutil.Process().children() if p.pid in calls]


@pytest.mark.slow
def test_a_builder_that_always_dies_is_one_error(shelf, monkeypatch):
    kind, calls = dying(99)
    monkeypatch.setattr(games, 'Worker', kind)
    with pytest.raises(AgentkitError, match='the worker was killed by SIGKILL during build'):
        ensure_games('train', 1)
    assert len(calls) == 3 and not [p for p in psutil.Process().children() if p.pid in calls]


def test_an_interrupted_build_keeps_the_games_that_end(shelf, monkeypatch):
    real = games.Worker.call

    def call(self, method, split, index, timeout):
        if index == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, method, split, index, timeout=timeout)

    monkeypatch.setattr(games.Worker, 'call', call)
    with pytest.raises(KeyboardInterrupt):
        ensure_games('train', 40, jobs=1)
    stored = len(list(shelf.rglob('game.tw-pddl')))
    assert 1 <= stored < 40 and not list(shelf.rglob('.game*'))


REAL = sorted(Path(os.environ.get('ALFWORLD_DATA') or '/nowhere').glob('json_2.1.1/valid_seen/*/*/game.tw-pddl'))


@pytest.mark.skipif(not REAL, reason='ALFWORLD_DATA names no folder with the real valid_seen games')
def test_the_files_speak_like_real_ones(many):
    "Same predicates, same wording and same formula of the goals, same properties of a type of object."

    def said(path):
        text, target = json.loads(path.read_text()), json.loads(path.with_name('traj_data.json').read_text())
        return dict(
            kind=target['task_type'], files={'game.tw-pddl': json.dumps(text), 'traj_data.json': json.dumps(target)}
        )

    def words(game):
        goal, target = re.search(r'Your task is to: ([^"]*)"', contents(game)['grammar'])[1], about(game)['pddl_params']
        return game['kind'], re.sub(
            rf'\b({target["object_target"].lower()}|{target["parent_target"].lower() or "no"})\b', 'X', goal
        )

    def formula(game):
        target = about(game)['pddl_params']
        text = (
            contents(game)['pddl_problem']
            .partition('(:goal')[2]
            .replace(f'{target["object_target"]}Type', 'X')
            .replace(f'{target["parent_target"]}Type', 'Y')
        )
        return game['kind'], ' '.join(text.split())

    def nature(game):
        kind = dict(facts(game)['objectType'])
        return {
            (kind[o], p)
            for p in (
                'cleanable',
                'heatable',
                'coolable',
                'sliceable',
                'toggleable',
                'pickupable',
                'isReceptacleObject',
            )
            for (o,) in facts(game).get(p, ())
        }

    real = [said(p) for p in REAL]
    assert set().union(*(facts(g) for g in many)) <= set().union(*(facts(g) for g in real))
    assert {words(g) for g in many} == {words(g) for g in real}
    assert {formula(g) for g in many} == {formula(g) for g in real}
    natures = set().union(*map(nature, real))
    assert {n for n in set().union(*map(nature, many)) - natures if any(n[0] == o for o, _ in natures)} == set()


STOCK = """
import json, os, sys
from alfworld.agents.environment import get_environment
folder = sys.argv[1]
kinds = dict(goal_desc_human_anns_prob=0, task_types=[1, 2, 3, 4, 5, 6])
config = dict(
    env=dict(kinds, domain_randomization=False, expert_type="handcoded"),
    dataset=dict(dict.fromkeys(("data_path", "eval_id_data_path", "eval_ood_data_path"), folder),
        num_train_games=0, num_eval_games=0),
    general=dict(training_method="dagger"), dagger=dict(training=dict(max_nb_steps_per_episode=50)))
world = get_environment("AlfredTWEnv")(config, train_eval="eval_out_of_distribution")
env = world.init_env(batch_size=1)
_, info = env.reset()
for action in json.load(open(info["extra.gamefile"][0]))["walkthrough"]: _, _, _, info = env.step([action])
print("GAMES", len(world.game_files), "WON", info["won"][0])
env.close()
"""


def test_stock_alfworld_plays_the_folder(shelf):
    ensure_games('valid_unseen', 2)
    run = subprocess.run(
        [sys.executable, '-c', STOCK, str(shelf)],
        env={**os.environ, 'ALFWORLD_DATA': str(shelf)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 'GAMES 2 WON True' in run.stdout, run.stderr[-2000:]
