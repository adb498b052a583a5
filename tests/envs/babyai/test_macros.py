"Macro actions: they do what they say, or are refused in words."

from random import Random

import pytest

from agentkit.core.types import Task
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.expert import Seen
from agentkit.envs.babyai.macros import macros, refusal
from agentkit.envs.babyai.seen import names_of
from agentkit.envs.babyai.sight import Sight, decode
from agentkit.envs.babyai.world import World, level_id

MANY = ('GoTo', 'Pickup', 'Open', 'PutNextLocal', 'UnlockPickupDist', 'BossLevel')
ROOM = {(x, y): '..' for x in range(4) for y in range(3)}


def task(level, seed=3):
    return Task(f'test/{level}-{seed}', 'babyai', kind=level, data=dict(level=level_id(level), seed=seed))


def kept(action, before, now, place):
    "Did a macro do what it says?"
    if action.startswith('go to'):
        return now.ahead == place
    if action.startswith('pickup'):
        return now.carrying == action.removeprefix('pickup ').rpartition(' ')[0]
    if 'go through' in action:
        return (now.x, now.y) == place and now.cells[place][1] == 'o'
    return True


@pytest.mark.parametrize('level', MANY)
def test_a_macro_does_what_it_says(level):
    env, r, done = BabyAI(actions='macro'), Random(level), set()
    now = env.reset(task(level))
    for _ in range(30):
        walks = [a for a in now.actions.options if a[-1].isdigit()]
        action = r.choice(walks if walks and r.random() < 0.7 else now.actions.options)
        places = {name: place for place, name in names_of(env.known).items()}
        place = next((p for name, p in places.items() if action.endswith(f' {name}')), None)
        before = env.known.now
        now = env.step(action)
        if now.done:
            break
        assert kept(action, before, decode(now.text), place), action
        done.add(action.split()[0])
    assert len(done) >= 3 or now.done


@pytest.mark.parametrize('form', ['macro', 'agentgym'])
@pytest.mark.parametrize('level', MANY)
def test_what_is_impossible_is_refused_and_changes_nothing(level, form):
    one, two = BabyAI(actions=form), BabyAI(actions=form)
    now, r = one.reset(task(level)), Random(level)
    assert now == two.reset(task(level))
    for _ in range(8):
        for action in (
            '',
            'go to the moon',
            'pickup red ball 9',
            'drop',
            'move forward',
            'go through red closed door 1',
        ):
            if not now.actions.allows(action):
                seen = one.refuse(action, '')
                assert seen.text.split('\n')[-1] == refusal(one.known, action)
                assert decode(seen.text) == decode(one.world.text()) and seen.actions == now.actions
        action = r.choice(now.actions.options)
        now = one.step(action)
        assert now == two.step(action)
        if now.done:
            break


def test_a_macro_tells_all_that_was_seen_on_the_way():
    env = BabyAI(actions='macro')
    env.reset(task('GoTo'))
    world = World(level_id('GoTo'), 3)
    seen = Seen(decode(world.text()))
    action = max(env.possible, key=lambda a: len(env.possible[a]))
    shown = decode(env.step(action).text).cells
    on_the_way = {}
    for primitive in macros(seen)[action]:
        world.act(primitive)
        on_the_way |= decode(world.text()).cells
    assert shown == on_the_way and len(shown) > len(decode(world.text()).cells)


def test_the_reasons():
    door = {**ROOM, (3, 1): 'rl', (0, 0): 'bb', (2, 0): '##', (2, 1): '##', (2, 2): '##', (1, 0): 'rc'}

    def why(action, carrying='', **changes):
        return refusal(Seen(Sight('go', 0, 1, 0, carrying, cells={**door, **changes})), action)

    assert why('drop') == 'You cannot drop the object, as you are not carrying anything.'
    assert why('drop', 'red key').endswith('there is already an object in front of you.')
    assert why('move forward') == "There is a barrier in front of you, you can't move forward."
    assert why('go to red locked door 1') == 'You cannot go to red locked door 1, as there is no path leading to it.'
    assert why('toggle and go through red locked door 1').endswith('as you are not carrying a key.')
    assert why('toggle and go through red locked door 1', 'blue key').endswith('does not match the color of door.')
    assert why('toggle and go through red locked door 1', 'red key').endswith('as there is no path leading to it.')
    assert why('go through red closed door 1').endswith('as it is closed. You should toggle it first.')
    assert why('pickup blue ball 1', 'red key') == 'You cannot pickup blue ball 1, as you are carrying a red key.'
    assert why('pickup green ball 1') == 'The action is not recognized. Please check valid actions.'


def test_what_was_not_seen_is_not_walked_over_unless_agentgym_does():
    cells = {(0, 1): '..', (3, 1): 'rb'}
    sight = Sight('go to the red ball', 0, 1, 0, cells=cells)
    assert 'go to red ball 1' not in macros(Seen(sight))
    assert macros(Seen(sight), published=True)['go to red ball 1'] == ['forward', 'forward']


def test_in_agentgym_a_turn_that_shows_the_same_picture_ends_a_macro():
    env = BabyAI()
    env.form = 'agentgym'
    cells = {(x, y): '..' for x in range(-6, 7) for y in range(-6, 7)}
    looks = [Sight('go', 0, 0, h, cells={p: c for p, c in cells.items()}) for h in (0, 1)]
    assert env._idle(looks[0], looks[0]) and env._idle(*looks)
    env.form = 'macro'
    assert not env._idle(*looks)


def test_a_goal_is_walked_onto():
    env = BabyAI(actions='macro')
    env.reset(task('MiniGrid-Empty-5x5'))
    assert env.step('go to green goal 1').score == 1.0
