"The mission's language: every level speaks it, and what is meant is what Minigrid's verifier means."

import random

import pytest

pytest.importorskip('minigrid')

from agentkit.core.errors import AgentkitError
from agentkit.envs.babyai.expert import Seen
from agentkit.envs.babyai.mission import PLACES, Description, parse
from agentkit.envs.babyai.sight import decode
from agentkit.envs.babyai.world import World, levels

BABYAI = [name for name, id in levels().items() if id.startswith('BabyAI-')]
WHERE = {'front': 'in front of you', 'behind': 'behind you', 'left': 'on your left', 'right': 'on your right', None: ''}
VERBS = dict(GoToInstr='go to', OpenInstr='open', PickupInstr='pick up', PutNextInstr='put')


def acts(instruction):
    "The verifier's simple instructions, in the order in which they have to be done."
    if hasattr(instruction, 'instr_a'):
        first, second = instruction.instr_a, instruction.instr_b
        if type(instruction).__name__ == 'AfterInstr':
            first, second = second, first
        return [*acts(first), *acts(second)]
    return [instruction]


def things(act):
    return [getattr(act, name) for name in ('desc', 'desc_move', 'desc_fixed') if hasattr(act, name)]


@pytest.mark.parametrize('level', BABYAI)
def test_every_level_speaks_the_language(level):
    for seed in range(3):
        world = World(level, seed)
        parts, known = parse(world.env.mission).parts, acts(world.env.instrs)
        assert [part.verb for part in parts] == [VERBS[type(act).__name__] for act in known]
        for part, act in zip(parts, known):
            own = [d for d in (part.thing, part.beside) if d]
            assert [(d.kind, d.colour, d.place) for d in own] == [
                (t.type or '', t.color or '', WHERE[t.loc]) for t in things(act)
            ]
        assert {words for words, _ in world.parts} <= {part.words for part in parts}


@pytest.mark.parametrize(
    'level', ['PickupLoc', 'SynthLoc', 'BossLevel', 'MiniBossLevel', 'OpenDoorLoc', 'MoveTwoAcrossS8N9']
)
def test_what_is_meant_is_what_the_verifier_means_wherever_it_is_carried(level):
    for seed in range(6):
        world, r = World(level, seed, full=True), random.Random(seed)
        seen, known = Seen(decode(world.text())), acts(world.env.instrs)
        for _ in range(200):
            for part, act in zip(parse(world.env.mission).parts, known):
                for own, theirs in zip((part.thing, part.beside), things(act)):
                    grid, carried = world.env.grid, world.env.carrying
                    cells = [(x, y) for x in range(grid.width) for y in range(grid.height)]
                    here = {at for at in cells if any(grid.get(*at) is thing for thing in theirs.obj_set)}
                    assert set(seen.meant(own)) == here
                    assert seen.holds(own) == any(carried is thing for thing in theirs.obj_set)
            world.act(r.choice(['left', 'right', 'forward', 'forward', 'pickup', 'drop']))
            seen.add(decode(world.text()))
            if world.ended:
                break


def test_the_part_after_you_comes_first_and_what_is_done_goes():
    mission = parse('open a door and go to the box after you pick up a key and open a door')
    assert [[p.words for p in stage] for stage in mission.stages] == [
        ['pick up a key', 'open a door'],
        ['open a door', 'go to the box'],
    ]
    rest = mission.rest(('open a door',))
    assert [[p.words for p in stage] for stage in rest] == [['pick up a key'], ['open a door', 'go to the box']]
    assert mission.rest(('open a door', 'open a door', 'pick up a key', 'go to the box')) == ()


def test_a_description_fits_what_it_names():
    assert Description('door', 'red').fits('red locked door') and not Description('door', 'red').fits('blue open door')
    assert Description(colour='red').fits('red box') and not Description().fits('') and not Description().fits('wall')
    ahead = {place: Description(place=place).lies(2, 0) for place in PLACES}
    assert ahead == {'in front of you': True, 'behind you': False, 'on your left': False, 'on your right': False}


@pytest.mark.parametrize(
    'words',
    ['get to the goal', 'put the red ball', 'open the door next to the key', 'go to red ball', '', 'open the door,'],
)
def test_other_words_are_an_error_that_names_them(words):
    with pytest.raises(AgentkitError, match="not a mission in BabyAI's language"):
        parse(words)
