"Levels, seeds, options and promises of the environment."

from random import Random

import pytest

pytest.importorskip('minigrid')

from agentkit.core.errors import AgentkitError
from agentkit.core.store import digest
from agentkit.core.types import Decision, State, Step, Task
from agentkit.envs.babyai.environment import APART, FIRST_SEED, ROOM, TEXTS, BabyAI
from agentkit.envs.babyai.expert import solve
from agentkit.envs.babyai.mission import parse
from agentkit.envs.babyai.mixed import HELD_OUT
from agentkit.envs.babyai.published import agentgym_tasks
from agentkit.envs.babyai.sight import decode
from agentkit.envs.babyai.world import World, level_id, levels
from agentkit.envs.base import views_of
from agentkit.envs.check import check_env
from agentkit.envs.find import list_tasks

NAME = 'babyai'
OTHERS = [name for name, id in levels().items() if id.startswith('MiniGrid-')]  # levels that are not BabyAI's


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(levels='UnlockPickup,GoToImpUnlock', actions='macro'),
        dict(levels='balrog', actions='words', done=True),
        dict(levels='agentgym', actions='agentgym', above=0.5),
    ],
)
def test_it_keeps_what_it_promises(options):
    report = check_env(NAME, n=1, steps=15, **options)
    assert report.ok, str(report)


def test_no_world_is_in_two_splits():
    worlds = {
        split: {tuple(t.data.values()) for seed in (0, 1) for t in BabyAI.tasks(split, 400, seed)}
        for split in BabyAI.splits
    }
    assert not worlds['train'] & worlds['test'] and not worlds['valid'] & (worlds['train'] | worlds['test'])
    assert min(seed for _, seed in worlds['train']) >= 1_000_000


def test_no_seed_leaves_the_room_of_its_split():
    first, last = 0, (ROOM - 1) // APART - 1
    for split, start in FIRST_SEED.items():
        for seed in (first, last):
            drawn = {t.data['seed'] for t in BabyAI.tasks(split, 1000, seed, levels='GoToLocal')}
            assert min(drawn) == start + APART * seed and max(drawn) < start + ROOM and len(drawn) == 1000
    starts = sorted(FIRST_SEED.values())
    assert all(b - a > ROOM for a, b in zip(starts, starts[1:])) and FIRST_SEED['train'] == 1_000_000 == starts[-1]


@pytest.mark.parametrize(('n', 'seed'), [(1, 40), (1, -1), (ROOM + 1, 0), (20_000, 39)])
def test_seeds_beyond_a_split_are_an_error(n, seed):
    with pytest.raises(AgentkitError, match=f'seed is {seed}: .* choose other worlds'):
        BabyAI.tasks('test', n, seed, levels='GoToLocal')


def test_learning_by_agentgyms_list_is_measured_by_agentgyms_list():
    worlds = {split: {(level, seed) for _, level, seed in agentgym_tasks(split)} for split in BabyAI.splits}
    assert not worlds['train'] & worlds['test'] and not worlds['valid'] & (worlds['train'] | worlds['test'])
    own = {(t.kind, t.data['seed']) for t in BabyAI.tasks('test', 50, levels='GoToRedBall')}
    assert worlds['train'] & own  # its training seeds are small numbers, and so are our test seeds


def test_a_repeat_is_the_same_world():
    env, task = BabyAI(), BabyAI.tasks('test', 1)[0]
    assert env.reset(task, 0) == env.reset(task, 7)


def test_done_is_offered_when_it_is_asked_for():
    task = BabyAI.tasks('test', 1)[0]
    assert BabyAI().reset(task).actions.options == ('left', 'right', 'forward', 'pickup', 'drop', 'toggle')
    assert BabyAI(done=True).reset(task).actions.options[-1] == 'done'
    words = BabyAI(actions='words')
    assert words.reset(task).actions.options == ('turn left', 'turn right', 'go forward', 'pick up', 'drop', 'toggle')
    assert words.step('turn left') != BabyAI().reset(task)


def test_the_whole_grid_can_be_seen():
    env, task = BabyAI(full=True), BabyAI.tasks('test', 1)[0]
    seen = decode(env.reset(task).text)
    assert len(seen.cells) == env.world.env.grid.width * env.world.env.grid.height


def win(env):
    "Play the first corridor: forward into the goal."
    env.reset(Task('t', 'babyai', data=dict(level='MiniGrid-Empty-5x5-v0', seed=1)))
    for action in ('forward', 'forward', 'right', 'forward'):
        env.step(action)
    return env.step('forward')


def test_a_late_success_may_be_lost():
    last = win(BabyAI())
    assert (last.done, last.score) == (True, 1.0) and 0.9 < last.reward < 1
    strict = BabyAI(above=0.99)
    assert (win(strict).score, strict.progress()) == (0.0, 0.0)


def test_progress_is_the_share_of_parts_that_are_done():
    env = BabyAI()
    env.reset(Task('t', 'babyai', data=dict(level=level_id('SynthSeq'), seed=1)))
    assert env.progress() == 0.0 and len(env.world.parts) > 1
    instruction, flag = env.world.parts[0][1][-1]
    setattr(instruction, flag, 'success')
    assert env.progress() == round(1 / len(env.world.parts), 4)
    win(env)
    assert env.progress() == 1.0


def test_every_level_has_a_label():
    labels = BabyAI.labels
    assert labels['GoToRedBall'] == 'go to red ball' and labels['PutNextLocalS6N4'] == 'put next local S6N4'
    assert labels['Balrog-pick_up_seq_go_to'] == 'balrog pick up seq go to' and 'BossLevel' in labels and dict(labels)


def test_nothing_is_printed(capsys):
    env = BabyAI()
    for seed in range(30):
        env.reset(Task('t', 'babyai', data=dict(level=level_id('UnblockPickup'), seed=seed)))
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(levels='GoToLocl'), "unknown level 'GoToLocl'; did you mean 'GoToLocal'"),
        (dict(levels='GoToLocal,Balrog'), "unknown level 'Balrog'"),
        (dict(levels='GoToLocal,,GoTo-v0'), "unknown level 'GoTo-v0'; did you mean 'GoTo'"),
        (dict(levels='BabyAI-GoToLocal-v9'), "unknown level 'BabyAI-GoToLocal-v9'"),
        (dict(levels='balrog,mixed'), "unknown level 'balrog'"),
        (dict(levels=' ,'), 'no level: write, for example, levels=GoToLocal'),
        (dict(levels=''), 'no level'),
        (dict(actions='macros'), 'not one of'),
        (dict(above=2), 'above is 2'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(AgentkitError, match=message) as e:
        BabyAI(**options)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('split', BabyAI.splits)
def test_a_wrong_level_has_no_tasks(split):
    with pytest.raises(AgentkitError, match="unknown level 'GoToLocl'; did you mean 'GoToLocal'"):
        list_tasks(NAME, split, 2, levels='GoTo,GoToLocl')
    tasks = list_tasks(NAME, split, 4, levels=' GoTo , BabyAI-GoToLocal-v0')
    assert [t.data['level'] for t in tasks] == ['BabyAI-GoTo-v0', 'BabyAI-GoToLocal-v0'] * 2


def test_a_step_before_a_reset_is_an_error():
    with pytest.raises(AgentkitError, match='reset'):
        BabyAI().step('left')


@pytest.mark.parametrize('level', ['MiniGrid-Dynamic-Obstacles-8x8', 'MiniGrid-GoToDoor-6x6', 'MiniGrid-MemoryS7'])
def test_other_levels_of_minigrid_are_seen_as_they_are(level):
    from minigrid.minigrid_env import MiniGridEnv

    world = World(level, 3)
    for action in ('left', 'forward', 'right', 'forward', 'forward', 'left', 'forward'):
        grid, mask = MiniGridEnv.gen_obs_grid(world.env)
        shown = decode(world.text()).cells
        for x in range(world.env.grid.width):
            for y in range(world.env.grid.height):
                seen = world.env.in_view(x, y) and mask[world.env.get_view_coords(x, y)]
                assert ((x, y) in shown) == bool(seen)
        if world.ended:
            break
        world.act(action)
        fresh = list(world.codes)
        world._read_grid()
        assert world.codes == fresh


def test_what_training_names_is_not_what_the_test_names():
    named = {}
    for family in ('MixedTrain', 'MixedTest'):
        missions = [
            World(f'{family}-{kind}', seed).env.mission for kind in ('goto', 'putnext', 'open') for seed in range(8)
        ]
        named[family] = [any(f'{c} {t}' in m for c, t in HELD_OUT) for m in missions]
    assert not any(named['MixedTrain']) and all(named['MixedTest'])


def test_levels_are_found_by_name_and_by_id():
    assert level_id('GoToLocal') == level_id('BabyAI-GoToLocal-v0') == 'BabyAI-GoToLocal-v0'
    assert level_id('GoToObjS6') == 'BabyAI-GoToObjS6-v1' and len([i for i in levels().values() if 'BabyAI' in i]) == 96


@pytest.mark.parametrize('actions', ['primitive', 'macro', 'agentgym'])
def test_a_thing_that_has_to_be_gone_to_twice_is_faced_twice(actions):
    env = BabyAI(actions=actions)
    seen = env.reset(Task('t', 'babyai', data=dict(level=level_id('GoToSeqS5R2'), seed=46)))
    assert 'go to the blue box, then go to the blue box' in seen.text
    for _ in range(60):
        if seen.done:
            break
        seen = env.step(env.expert().action)
    assert seen.score == 1.0


@pytest.mark.parametrize('level', OTHERS)
def test_every_level_of_minigrid_is_played_with_its_mission(level):
    for form in ('primitive', 'macro'):
        env, r = BabyAI(levels=level, actions=form), Random(level)
        task = BabyAI.tasks('test', 1, levels=level)[0]
        try:
            now = env.reset(task)
        except AgentkitError as e:  # levels of wave function collapse need a package more
            assert 'pip install' in str(e) and '\n' not in str(e) and 'WFC' in level
            return
        assert decode(now.text).mission == env.world.env.mission and (task.kind, task.split) == (level, 'test')
        for _ in range(20):
            if now.done:
                break
            now = env.step(r.choice(now.actions.options))
            seen = decode(now.text)
            assert decode(seen.encode()) == seen and now.score == float(now.reward > 0)


def in_babyais_words(level):
    try:
        return bool(parse(World(level, 0).env.mission))
    except AgentkitError:
        return False


def test_the_planner_wins_what_minigrid_says_in_babyais_words():
    understood = [level for level in OTHERS if in_babyais_words(level)]
    assert len(understood) == 23
    assert all(solve(level, seed)[0] for level in understood for seed in range(3))


@pytest.mark.parametrize('level', ['MiniGrid-GoToDoor-6x6', 'MiniGrid-GoToObject-6x6-N2'])
def test_who_has_to_say_done_needs_the_option(level):
    task = Task('t', NAME, data=dict(level=level_id(level), seed=1))
    for done in (False, True):
        env = BabyAI(done=done)
        now = env.reset(task)
        while not now.done:
            now = env.step(env.expert().action)
        assert now.score == float(done)


TOLD = (  # version of the texts, and view → digest of what it tells
    1,
    {
        'full': '8b268e',
        'bare': '8b268e',
        'natural': '1d1b81',
        'ascii': 'e98039',
        'tuples': 'a17095',
        'relative': 'a03b23',
        'babyai_text': 'bb2b1f',
        'balrog': '195b55',
        'agentgym': '4847f7',
        'seen': 'f625a7',
        'named': 'd529ea',
        'resolved': '4fca38',
        'no_repeat': 'bb0502',
        'seen_no_repeat': '0518cd',
        'named_no_repeat': 'bea61f',
        'babyai_text_no_repeat': '942626',
        'natural_now': '376950',
        'ascii_now': '88e535',
        'tuples_now': 'd9f81d',
        'relative_now': 'a803d4',
        'natural_now_no_repeat': '60e17f',
        'ascii_now_no_repeat': '86dcaa',
        'tuples_now_no_repeat': 'f0b32a',
        'relative_now_no_repeat': '7921fb',
        'student': 'bb0502',
    },
)


def test_other_words_are_another_version():
    "When this is red for a view that was there, and its words are meant to be others: count `TEXTS` up."
    views, told = views_of(BabyAI), {}
    for form, level in (
        ('primitive', 'BossLevel'),
        ('words', 'Balrog-putnext'),
        ('macro', 'GoTo'),
        ('agentgym', 'GoTo'),
    ):
        env, r = BabyAI(actions=form), Random(level)
        now = env.reset(Task('t', NAME, data=dict(level=level_id(level), seed=3)))
        state = State(Task('t', NAME), now, views=views)
        for _ in range(12):
            if not now.done:
                action = r.choice(now.actions.options)
                now = env.step(action)
                state.steps.append(Step(Decision(action), now))
            for name, view in views.items():
                told.setdefault(name, []).append([view.messages(state), view.offer(state).to_dict()])
    assert (TEXTS, {name: digest(texts, n=6) for name, texts in told.items()}) == TOLD
    assert BabyAI.version().endswith(f'-texts-{TEXTS}') and BabyAI.version().startswith('minigrid-3.')
