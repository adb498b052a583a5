"Walks of chance through some levels, for tests."

import functools
from dataclasses import replace
from random import Random

from agentkit.envs.babyai.sight import Sight, decode
from agentkit.envs.babyai.vary import mirrored
from agentkit.envs.babyai.world import World

TWENTY = (
    'GoToRedBall GoToObjMazeS4R2 GoToLocalS8N7 GoToDoor GoToImpUnlock GoToSeqS5R2 Open OpenDoorLoc OpenDoorsOrderN4 '
    'Pickup PickupLoc UnblockPickup PutNextLocal PutNextS5N2Carrying UnlockPickupDist BlockedUnlockPickup KeyInBox '
    'FindObjS5 SynthS5R2 BossLevel'
).split()
# chance that walks more than it turns, and does something now and then
OFTEN = ('left', 'right', 'forward', 'forward', 'forward', 'toggle', 'pickup', 'drop')


@functools.cache
def walk(level: str, seed: int = 7, steps: int = 40, full: bool = False) -> tuple[Sight, tuple[tuple[str, Sight], ...]]:
    "The first sight, then each action and the sight after it."
    world, r = World(level, seed, full), Random(f'{level}-{seed}')
    first, turns = decode(world.text()), []
    while len(turns) < steps and not world.ended:
        action = r.choice(OFTEN)
        world.act(action)
        turns.append((action, decode(world.text())))
    return first, tuple(turns)


def sights(level: str, **options) -> list[Sight]:
    "All that is seen on such a walk."
    first, turns = walk(level, **options)
    return [first, *(sight for _, sight in turns)]


FAR = 63  # the wall at which a world is mirrored
TURNED = {0: 2, 2: 0, 1: 1, 3: 3}  # a heading in the mirror


def in_mirror(sight: Sight) -> Sight:
    "East is west, and left is right."
    cells = {(FAR - x, y): code for (x, y), code in sight.cells.items()}
    words = mirrored(sight.mission), tuple(map(mirrored, sight.done))
    return replace(sight, mission=words[0], done=words[1], x=FAR - sight.x, heading=TURNED[sight.heading], cells=cells)
