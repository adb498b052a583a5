"Pictures: what is known, drawn as Minigrid draws it, and nothing else."

import io

import numpy as np
import pytest
from envs.babyai.walks import OFTEN, TWENTY

from agentkit.core.errors import AgentkitError
from agentkit.core.store import rng
from agentkit.core.types import Decision, Observation, State, Step, Task
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.picture import SIDE, TILE, picture
from agentkit.envs.babyai.seen import walk_of
from agentkit.envs.babyai.sight import Sight, decode

WHITE = 255


def pixels(png):
    import pygame

    return pygame.surfarray.array3d(pygame.image.load(io.BytesIO(png), 'grid.png')).swapaxes(0, 1)


def played(level, seed=3, steps=25, **options):
    "An episode of chance, and the environment that it left behind."
    env = BabyAI(levels=level, **options)
    task = Task(f'test/{level}-{seed}', 'babyai', kind=level, data=dict(level=level, seed=seed))
    state, r = State(task, env.reset(task)), rng('picture', level, seed)
    while len(state.steps) < steps and not state.now.done:
        often = [a for a in OFTEN if state.now.actions.allows(a)]
        action = r.choice(often) if often else state.now.actions.sample(r)
        state.steps.append(Step(Decision(action), env.step(action)))
    return env, state


def minigrids(env, tile):
    "Minigrid's own picture, which does not show what is carried: it is put under the walker here."
    inner = env.world.env
    x, y = env.world.position
    under = inner.grid.get(x, y)
    if inner.carrying:
        inner.grid.set(x, y, inner.carrying)
    image = inner.get_full_render(True, tile)
    inner.grid.set(x, y, under)
    return image


@pytest.mark.parametrize('level', TWENTY)
def test_the_whole_grid_is_minigrids_own_picture(level):
    env, state = played(level)
    image = pixels(BabyAI.draw(state, whole=True))
    tile = min(TILE, SIDE // max(env.world.env.grid.width, env.world.env.grid.height))
    np.testing.assert_array_equal(image, minigrids(env, tile))


@pytest.mark.parametrize('options', [{}, dict(actions='macro'), dict(actions='agentgym'), dict(actions='words')])
def test_only_what_was_seen_is_drawn(options):
    env, state = played('GoTo', **options)
    image, whole = (pixels(BabyAI.draw(state, whole=w)) for w in (False, True))
    grid = env.world.env.grid
    tile = image.shape[0] // grid.height
    known = walk_of(state).cells
    assert 0 < len(known) < grid.width * grid.height
    for x in range(grid.width):
        for y in range(grid.height):
            area = np.s_[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile]
            if (x, y) not in known:
                assert (image[area] == WHITE).all()
            elif known[x, y] == env.world.cells[x, y]:
                np.testing.assert_array_equal(image[area], whole[area])


def test_what_is_behind_a_door_changes_no_picture():
    "Two worlds that look the same to the walker have one picture; the whole ones differ."
    _, state = played('GoToImpUnlock', steps=0)
    other = State(Task('other', 'babyai', data=dict(level='GoToImpUnlock', seed=4)), state.first)
    assert BabyAI.draw(state) == BabyAI.draw(other)
    with pytest.raises(AgentkitError, match='other: its actions lead elsewhere in this version of minigrid'):
        BabyAI.draw(other, whole=True)


def test_what_was_refused_or_only_thought_changes_nothing():
    env, state = played('GoToLocal', steps=6)
    same = Observation('Nothing happens.', state.now.actions)
    extra = [Step(Decision('fly'), same, valid=False), Step(Decision(thought='hm'), Observation('OK.'))]
    longer = State(state.task, state.first, [*state.steps, *extra])
    for whole in (False, True):
        assert BabyAI.draw(state, whole) == BabyAI.draw(longer, whole)


def test_a_full_view_is_drawn_without_light_and_replayed():
    env, state = played('PickupLoc', full=True)
    image, whole = (pixels(BabyAI.draw(state, whole=w)) for w in (False, True))
    np.testing.assert_array_equal(image, whole)
    np.testing.assert_array_equal(image, env.world.env.get_full_render(False, image.shape[0] // 8))


def test_what_is_carried_lies_under_the_walker():
    sight = Sight('wait', 1, 1, 0, cells={(1, 1): '..'})
    empty, full = (picture(sight.cells, s, (3, 3)) for s in (sight, Sight('wait', 1, 1, 0, 'blue ball')))
    assert empty != full and len(full) < 20_000


def test_an_observation_that_is_no_sight_has_no_picture():
    task = BabyAI.tasks('test', 1)[0]
    assert BabyAI.draw(State(task, Observation('You see nothing.'))) is None


def test_the_look_over_the_edge_and_into_the_dark_is_not_drawn():
    sight = Sight('wait', 0, 0, 3, cells={(0, 0): '..', (-1, 0): '##', (0, -1): '##', (1, 1): '??'})
    image = pixels(picture(sight.cells, sight, (2, 2)))
    assert image.shape == (2 * TILE, 2 * TILE, 3) and (image[TILE:, TILE:] == WHITE).all()


def test_pictures_are_small_and_equal_again():
    _, state = played('BossLevel', steps=10)
    one, two = (BabyAI.draw(state, whole=True) for _ in range(2))
    assert one == two and len(one) < 20_000
    assert decode(state.first.text).mission
