"Walks of chance through some levels, for tests."

import functools
from random import Random

from agentkit.envs.babyai.sight import Sight, decode
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
