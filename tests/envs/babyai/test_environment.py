"Levels, seeds, options and promises of the environment."

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.types import Task
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.mixed import HELD_OUT
from agentkit.envs.babyai.sight import decode
from agentkit.envs.babyai.world import World, level_id, levels
from agentkit.envs.check import check_env

NAME = 'babyai'


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
        (dict(levels='GoToLocl'), 'unknown level'),
        (dict(levels=' ,'), 'no level'),
        (dict(actions='macros'), 'not one of'),
        (dict(above=2), 'above is 2'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(AgentkitError, match=message):
        BabyAI(**options)


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
