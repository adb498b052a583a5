"Rows with other colours and in the mirror."

from random import Random

import pytest

from agentkit.agents.policy import Agent, ConversationAdapter
from agentkit.agents.programs import Chance
from agentkit.data.rows import rows
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.sight import COLOURS, decode, thing_of
from agentkit.envs.babyai.vary import has_mirror, mirrored, recolour, vary
from agentkit.rollouts import Limits, run_episode
from envs.babyai.walks import sights

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
