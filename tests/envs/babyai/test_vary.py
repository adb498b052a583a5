"Rows with other colours and in the mirror."

from random import Random

import pytest

from agentkit.agents.policy import Agent, ConversationAdapter
from agentkit.agents.programs import Chance
from agentkit.data.rows import rows
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.expert import Planner
from agentkit.envs.babyai.seen import Walk
from agentkit.envs.babyai.seen import row as row_of
from agentkit.envs.babyai.sight import COLOURS, decode, thing_of
from agentkit.envs.babyai.vary import has_mirror, mirrored, recolour, vary
from agentkit.envs.babyai.world import World
from agentkit.rollouts import Limits, run_episode
from envs.babyai.walks import in_mirror, sights

NEXT = dict(zip(COLOURS.values(), [*list(COLOURS.values())[1:], 'red']))
TOLD = 'go to red ball | carry nothing | red ball 2 ahead 1 left | ahead free, left wall, right box, behind free'


@pytest.fixture(scope='module')
def episode():
    env = BabyAI(levels='BossLevel')
    return run_episode(
        Chance(view='student'), env, env.tasks('train', 1, levels='BossLevel')[0], limits=Limits(max_steps=12)
    )


def rows_of(episode, view):
    named = episode.task.__class__(**{**episode.task.__dict__, 'env': 'babyai'})
    t = episode.__class__(**{**episode.__dict__, 'task': named})
    return rows([t], Agent(think=False, adapter=ConversationAdapter(view, show_actions=False)))


def test_left_is_right_in_the_mirror():
    assert mirrored(TOLD) == (
        'go to red ball | carry nothing | red ball 2 ahead 1 right | ahead free, left box, right wall, behind free'
    )
    assert mirrored(mirrored(TOLD)) == TOLD
    assert [mirrored(a) for a in ('left', 'turn right', 'forward')] == ['right', 'turn left', 'forward']


def test_other_colours_everywhere():
    assert recolour(TOLD, NEXT) == TOLD.replace('red', 'green')
    assert recolour('go to the red ball next to a grey door', NEXT) == 'go to the green ball next to a red door'


def test_a_map_has_the_colours_of_its_mission():
    for sight in sights('GoToSeqS5R2'):
        other = decode(recolour(sight.encode(), NEXT))
        assert other.mission == recolour(sight.mission, NEXT)
        words = {p: recolour(thing_of(code), NEXT) for p, code in sight.cells.items()}
        assert {p: thing_of(code) for p, code in other.cells.items()} == words


@pytest.mark.parametrize('view', ['seen', 'named', 'student'])
def test_a_row_a_step_is_turned_as_a_whole(episode, view):
    every = rows_of(episode, view)
    assert len(every) == len(episode.steps) and all(has_mirror(row) for row in every)
    turned = set()
    for row in every:
        prompt, answer = [m['content'] for m in row['messages']]
        plain, mirror = (grey(prompt), answer), (grey(mirrored(prompt)), mirrored(answer))
        for seed in range(12):
            told, action = [m['content'] for m in vary(row, Random(seed))['messages']]
            assert (grey(told), action) in (plain, mirror)
            turned.add((grey(told), action) == plain)
    assert turned == {True, False}


def grey(text):
    "Without its colours."
    return recolour(text, dict.fromkeys(COLOURS.values(), 'grey'))


def test_a_map_is_not_mirrored(episode):
    (row,) = rows_of(episode, 'bare')
    assert not has_mirror(row)
    for seed in range(6):
        answers = [m['content'] for m in vary(row, Random(seed))['messages'] if m['role'] == 'assistant']
        assert answers == [s.action for s in episode.steps]


def test_colours_change_places_and_are_not_lost():
    row = dict(messages=[dict(role='user', content=' '.join(COLOURS.values())), dict(role='assistant', content='left')])
    told = vary(row, Random(3))['messages'][0]['content'].split()
    assert sorted(told) == sorted(COLOURS.values()) and vary(row, Random(3)) == vary(row, Random(3))


TEN = (
    'GoToRedBall GoToLocal GoTo GoToSeqS5R2 OpenDoor PickupLoc PutNextLocal '
    'UnlockPickupDist BlockedUnlockPickup BossLevel'
).split()
DRAWS = 8  # of colours and side, for each row


class Varied:
    "A walk and a planner in the world that `vary` tells of when it draws with this seed."

    def __init__(self, seed, sight):
        r, colours = Random(seed), [*COLOURS.values()]
        self.other, self.mirror = dict(zip(colours, r.sample(colours, len(colours)))), r.random() < 0.5
        self.walk, self.planner = Walk(self.told(sight)), Planner(self.told(sight))

    def told(self, sight):
        other = decode(recolour(sight.encode(), self.other))
        return in_mirror(other) if self.mirror else other

    def done(self, action):
        return mirrored(action) if self.mirror else action

    def act(self, action, sight):
        self.walk.act(self.done(action), self.told(sight))
        self.planner.see(self.told(sight), self.done(action))

    def row(self):
        return row_of(self.walk, 3, first=1 if self.mirror else -1)


def led_astray(level, seed, steps=40):
    "World, action and planner of an episode that does not always follow its hints; each before the action is done."
    world, r = World(level, seed), Random(seed)
    planner = Planner(decode(world.text()))
    for _ in range(steps):
        hint = planner.hint()
        action = hint.action if r.random() > 0.2 else r.choice(['left', 'right', 'forward'])
        yield world, action, planner
        world.act(action)
        planner.see(decode(world.text()), action)
        if world.ended:
            return


@pytest.mark.parametrize('level', TEN)
def test_a_varied_row_is_a_row_of_the_varied_world_and_its_answer_what_the_planner_says_there(level):
    same, longer, n = 0, 0, 0
    for seed in range(3):
        others, before = [], ''
        for world, action, planner in led_astray(level, seed):
            sight = decode(world.text())
            if not others:
                walked, others = Walk(sight), [Varied(draw, sight) for draw in range(DRAWS)]
            else:
                for one in (walked, *others):
                    one.act(before, sight)
            before, hint = action, planner.hint()
            content = dict(user=row_of(walked, 3), assistant=hint.action)
            row = dict(messages=[dict(role=role, content=text) for role, text in content.items()])
            for draw, other in enumerate(others):
                told, answer = [m['content'] for m in vary(row, Random(draw))['messages']]
                right = other.planner.hint()
                assert told == other.row() and (right.subgoal == hint.subgoal or other.mirror)
                assert answer == right.action or other.mirror  # of two ways that are as short, the mirror has the other
                same, n = same + (answer == right.action), n + 1
                longer += len(other.planner.plan) != len(planner.plan)
    assert same / n > 0.93 and longer / n < 0.02


def led_on(level, seed, actions, mirror):
    "In how many steps who has done these actions wins, led by the planner from then on; in the mirror, or not."
    tell, turn = (in_mirror, mirrored) if mirror else (lambda sight: sight, lambda action: action)
    world = World(level, seed)
    planner = Planner(tell(decode(world.text())))
    for step in range(200):
        action = actions[step] if step < len(actions) else turn(planner.hint().action)
        world.act(action)
        planner.see(tell(decode(world.text())), turn(action))
        if world.ended:
            break
    assert world.won
    return step + 1


def test_who_takes_the_mirrored_answers_is_led_on_in_the_mirror_and_wins_as_soon():
    steps = {False: 0, True: 0}
    for level in TEN:
        for seed in range(4):
            walked = [(action, planner.hint().action) for _, action, planner in led_astray(level, seed)]
            k = Random(f'{level}-{seed}').randrange(len(walked))
            actions = [action for action, _ in walked[:k]] + [walked[k][1]]
            for mirror in steps:
                steps[mirror] += led_on(level, seed, actions, mirror)
    assert abs(steps[True] / steps[False] - 1) < 0.01
