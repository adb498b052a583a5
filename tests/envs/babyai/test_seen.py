"The map of what was seen so far, its rows, and the levels of help."

from dataclasses import replace

import pytest

from agentkit.agents.programs import Chance
from agentkit.core.actions import Choice
from agentkit.core.types import Decision, Observation, State, Step, Task
from agentkit.core.views import promises_growth
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.seen import (
    NamedNoRepeat,
    Resolved,
    ResolvedNoRepeat,
    SeenNoRepeat,
    SeenSoFar,
    Walk,
    named,
    nearest,
    open_to,
    part_now,
    row,
    walk_of,
)
from agentkit.envs.babyai.sight import Sight
from agentkit.envs.babyai.vary import mirrored
from agentkit.rollouts import Limits, run_episode
from envs.babyai.walks import TWENTY, in_mirror, walk

PRIMITIVES = Choice(('left', 'right', 'forward', 'pickup', 'drop', 'toggle'))


def state_of(first, turns=(), actions=PRIMITIVES):
    steps = [Step(Decision(action), Observation(sight.encode(), actions)) for action, sight in turns]
    return State(Task('', ''), Observation(first.encode(), actions), steps)


def test_the_row_of_the_issue():
    cells = {(1, 1): '..', (2, 1): '..', (1, 0): '##', (1, 2): 'gx', (3, 0): 'rb', (0, 1): '..'}
    walked = Walk(Sight('go to the red ball', 1, 1, 0, cells=cells))
    sides = 'ahead free, left wall, right green box, behind free'
    assert row(walked) == f'go to red ball | carry nothing | green box 1 right, red ball 2 ahead 1 left | {sides}'
    assert row(walked, 2) == (
        'go to red ball | carry nothing | red ball 2 ahead 1 left | ahead free, left wall, right box, behind free'
    )
    walked.act('right', None)
    assert row(walked, 2).endswith(', behind free | last right')


def test_the_third_level_says_what_comes_next():
    corridor = {(x, 1): '..' for x in range(1, 5)} | {(x, y): '##' for x in range(6) for y in (0, 2)} | {(0, 1): '##'}
    mission = 'pick up the blue box on your left after you open the red door'
    at_door = Sight(mission, 1, 1, 0, cells={**corridor, (5, 1): 'rl', (2, 1): 'rk'})
    assert row(Walk(at_door), 3).split(' | ')[:4] == [
        'open red door',
        'carry nothing',
        'red locked door 4 ahead',
        'needs red key 1 ahead',
    ]
    with_key = replace(at_door, carrying='red key', cells={**at_door.cells, (2, 1): '..'})
    assert row(Walk(with_key), 3).split(' | ')[2:4] == [
        'red locked door 4 ahead',
        'ahead free, left wall, right wall, behind wall',
    ]
    opened = replace(with_key, done=('open the red door',), cells={**with_key.cells, (5, 1): 'ro'})
    assert row(Walk(opened), 3).split(' | ')[:4] == [
        'pick up blue box',
        'carry red key',
        'unseen 5 ahead',
        'by red open door 4 ahead',
    ]


def test_what_is_carried_is_put_where_there_is_room():
    room = {(x, y): '..' for x in range(5) for y in range(3)} | {(4, 1): 'gx', (4, 0): '##', (4, 2): '##'}
    hands = Sight('put the red ball next to the green box', 0, 1, 0, 'red ball', cells=room)
    assert row(Walk(hands), 3).split(' | ')[2:4] == ['green box 4 ahead', 'spot 3 ahead']
    empty = replace(hands, carrying='', cells={**room, (1, 2): 'rb'})
    assert row(Walk(empty), 3).split(' | ')[2] == 'red ball 1 ahead 1 right'


def test_a_mission_in_other_words_names_things_too():
    walked = Walk(
        Sight('get to the green goal square', 0, 0, 0, cells={(0, 0): '..', (1, 0): '..', (2, 0): 'gg', (0, 1): 'rk'})
    )
    assert part_now(walked) is None and named(walked, 'green goal') and not named(walked, 'red key')
    assert row(walked, 3).startswith('get to green goal square | carry nothing | green goal 2 ahead')


def test_the_nearest_is_the_nearest_to_walk_to():
    cells = {(x, y): '..' for x in range(4) for y in range(3)} | {
        (1, 0): '##',
        (1, 1): '##',
        (2, 0): 'rb',
        (0, 2): 'bb',
    }
    walked = Walk(Sight('go to a ball', 0, 0, 0, cells=cells))
    place, way = nearest(walked, {(2, 0), (0, 2)}.__contains__, open_to(''))
    assert (place, way) == ((0, 2), [(0, 1)])
    assert nearest(walked, {(9, 9)}.__contains__, open_to('')) is None
    assert open_to('grey key')('el') and not open_to('green key')('el') and not open_to('red ball')('rl')


@pytest.mark.parametrize('level', TWENTY)
def test_a_row_does_not_depend_on_what_is_remembered(level):
    first, turns = walk(level)
    state, views = state_of(first), (SeenSoFar(), Resolved(), ResolvedNoRepeat())
    for k, step in enumerate(state_of(first, turns).steps, 1):
        state.steps.append(step)
        anew = state_of(first, turns[:k])
        assert [v.messages(state) for v in views] == [v.messages(anew) for v in views]
        assert views[2].offer(state) == views[2].offer(anew)
    assert walk_of(state).cells == {p: c for sight in (first, *(s for _, s in turns)) for p, c in sight.cells.items()}


def test_another_episode_in_the_same_memory_is_read_anew():
    first, turns = walk('GoToLocalS8N7')
    state = state_of(first, turns[:5])
    walk_of(state)
    other = replace(state_of(first, turns[:2]), memory=state.memory)
    assert walk_of(other).cells == walk_of(state_of(first, turns[:2])).cells
    other.steps[-1] = Step(Decision('left'), Observation(first.encode()))
    assert walk_of(other).last == 'left'


@pytest.mark.parametrize('numbered', [False, True])
@pytest.mark.parametrize('level', TWENTY)
def test_a_mirrored_row_is_the_row_of_the_mirrored_world(level, numbered):
    first, turns = walk(level)
    plain, other = Walk(first), Walk(in_mirror(first))
    for action, sight in turns:
        plain.act(action, sight)
        other.act(mirrored(action), in_mirror(sight))
        for help in (1, 2, 3):
            told = row(plain, help, numbered)
            assert mirrored(told) == row(other, help, numbered, first=1)
            assert mirrored(mirrored(told)) == told


def test_no_action_twice_while_nothing_changes():
    cells = {(x, y): '..' for x in range(3) for y in range(3)}
    east, north = (Sight('go to the red ball', 1, 1, heading, cells=cells) for heading in (0, 3))
    view, state = ResolvedNoRepeat(), state_of(east)
    assert view.offer(state) == PRIMITIVES
    state = state_of(east, [('left', north), ('right', east), ('toggle', east)])
    assert view.offer(state).options == ('right', 'forward', 'pickup', 'drop')
    state = state_of(east, [(action, east) for action in PRIMITIVES.options])
    assert view.offer(state) == PRIMITIVES  # nothing is left: everything may be tried again
    more = replace(east, cells={**cells, (3, 1): '##'})
    assert view.offer(state_of(east, [('left', north), ('right', more)])) == PRIMITIVES  # something was learned
    full = replace(east, carrying='red key')
    assert view.offer(state_of(east, [('left', east), ('pickup', full)])) == PRIMITIVES  # other hands


def test_every_level_of_help_can_be_had_without_repeats():
    first, turns = walk('Pickup')
    for view, level in ((SeenNoRepeat(), 1), (NamedNoRepeat(), 2), (ResolvedNoRepeat(), 3)):
        state = state_of(first, turns)
        assert view.messages(state)[0]['content'] == row(walk_of(state), level) and not promises_growth(view)
        assert set(view.offer(state).options) < set(PRIMITIVES.options) or not walk_of(state).tried


def test_thoughts_change_nothing():
    first, turns = walk('Pickup')
    state = state_of(first, turns[:3])
    before = ResolvedNoRepeat().messages(state)
    state.steps.append(Step(Decision(thought='left or right?'), Observation('OK.', PRIMITIVES)))
    assert ResolvedNoRepeat().messages(state) == before


def test_chance_plays_under_the_same_help():
    env, limits = BabyAI(levels='GoToLocal'), Limits(max_steps=64, loop=100)
    tasks = env.tasks('test', 25, levels='GoToLocal')
    wins = [sum(run_episode(Chance(view=v), env, t, limits=limits).won for t in tasks) for v in ('full', 'no_repeat')]
    assert wins[0] < wins[1]


def test_a_step_is_one_short_row():
    lengths = {}
    for level in TWENTY:
        first, turns = walk(level)
        told = ResolvedNoRepeat().messages(state_of(first, turns))
        assert len(told) == 1
        lengths[level] = len(told[0]['content'].split())
    assert max(lengths.values()) < 60
