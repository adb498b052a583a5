"The published forms, checked against what Minigrid's own picture shows."

from dataclasses import replace

import pytest

from agentkit.agents.programs import Chance, Expert
from agentkit.core.actions import Choice
from agentkit.core.types import Decision, Observation, State, Step, Task
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.published import (
    AGENTGYM,
    AGENTGYM_LEVELS,
    AGENTGYM_PLAYED,
    ANSWER,
    BALROG_TASKS,
    WORDS,
    AgentGym,
    BabyAIText,
    Balrog,
    agentgym_tasks,
    agentgym_text,
    barrier_ahead,
    sentences,
)
from agentkit.envs.babyai.sight import Sight, decode
from agentkit.envs.babyai.world import World, levels
from agentkit.rollouts import Limits, run_episode
from envs.babyai.walks import OFTEN, TWENTY

SIX = Choice(('turn left', 'turn right', 'go forward', 'pick up', 'drop', 'toggle'))
SIGHT = Sight(
    'go to a red ball, then open the grey door',
    *(1, 1, 0, 'blue key'),
    cells={(1, 1): '..', (2, 1): '..', (3, 1): '##', (3, 0): 'rb', (1, 2): '##', (2, 2): 'eo', (1, 0): 'gx'},
)


def steps(n, where):
    return f'{n} step{"s" if n > 1 else ""} {where}'


def picture(world):
    "Minigrid's picture: (ahead, right) → kind, colour, state, of what is seen."
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
    from minigrid.minigrid_env import MiniGridEnv

    image = MiniGridEnv.gen_obs(world.env)['image']
    cells = {}
    for i in range(7):
        for j in range(7):
            kind, colour, state = map(int, image[i, j])
            if (i, j) != (3, 6) and IDX_TO_OBJECT[kind] not in ('unseen', 'empty'):
                cells[i, j] = IDX_TO_OBJECT[kind], IDX_TO_COLOR[colour], ('open', 'closed', 'locked')[state]
    return cells


def described(world):
    "BabyAI-Text's sentences, from the picture."
    cells, held = picture(world), world.env.carrying
    told = [f'You carry a {held.color} {held.type}'] if held else []
    for where, line in (
        ('forward', [(3, j) for j in range(5, -1, -1)]),
        ('left', [(2, 6), (1, 6), (0, 6)]),
        ('right', [(4, 6), (5, 6), (6, 6)]),
    ):
        hit = next((n for n, p in enumerate(line, 1) if p in cells), 0)
        if hit and cells[line[hit - 1]][0] == 'wall':
            told.append(f'You see a wall {steps(hit, where)}')
    for i in range(7):
        for j in range(7):
            if cells.get((i, j), ('wall',))[0] == 'wall':
                continue
            kind, colour, state = cells[i, j]
            name = f'{state} {colour} door' if kind == 'door' else f'{colour} {kind}'
            apart = [steps(abs(i - 3), 'left' if i < 3 else 'right')] if i != 3 else []
            apart += [steps(6 - j, 'forward')] if j < 6 else []
            told.append(f'You see a {name} {" and ".join(apart)}')
    return told


@pytest.mark.parametrize('level', TWENTY)
def test_the_sentences_are_those_of_the_picture(level):
    from random import Random

    world, r = World(level, 5), Random(level)
    for _ in range(30):
        assert sentences(decode(world.text())) == described(world)
        if world.ended:
            break
        world.act(r.choice(OFTEN))


def state_of(*turns, actions=SIX):
    steps = [Step(Decision(action), Observation(sight.encode(), actions)) for action, sight in turns]
    return State(Task('', ''), Observation(SIGHT.encode(), actions), steps)


def test_babyai_text_word_for_word():
    assert sentences(SIGHT) == [
        'You carry a blue key',
        'You see a wall 2 steps forward',
        'You see a wall 1 step right',
        'You see a red ball 1 step left and 2 steps forward',
        'You see a green box 1 step left',
        'You see a open grey door 1 step right and 1 step forward',
    ]
    dark = replace(SIGHT, cells={(1, 1): '..'}, carrying='')
    state = state_of(('turn left', dark), ('left', SIGHT), ('go forward', dark))
    assert BabyAIText().messages(state) == [
        dict(
            role='user',
            content=(
                'Possible action of the agent: turn left, turn right, go forward, pick up, drop, toggle'
                ' \n Goal of the agent: go to a red ball, then open the grey door'
                ' \n Observation 0: \n Action 0: turn left'
                f' \n Observation 1: {"".join(f"{s}, " for s in sentences(SIGHT))}\n Action 1: go forward'
                ' \n Observation 2: \n Action 2: '
            ),
        )
    ]


def test_balrog_word_for_word():
    state = state_of(('turn left', SIGHT))
    first, action, last = [m['content'] for m in Balrog().messages(state)]
    look = '\n'.join(s.removeprefix('You see ') for s in sentences(SIGHT))
    assert first.startswith('You are an agent playing a simple navigation game. Your goal is to go to a red ball, then')
    assert first.endswith(f'PLAY!\n\nObesrvation:\n{look}') and look.startswith('You carry a blue key\na wall 2 steps')
    assert (action, last) == ('turn left', f'Current Observation:\n\n{look}\n\n{ANSWER}')


def test_balrog_shows_sixteen_turns():
    assert len(Balrog().messages(state_of(*[('turn left', SIGHT)] * 40))) == 31


def test_agentgym_word_for_word():
    assert agentgym_text(SIGHT) == (
        'In front of you in this room, you can see several objects: '
        'There is a green box 1 0 steps in front of you and 1 steps to your left.  '
        'There is a grey open door 1 1 steps in front of you and 1 steps to your right.  '
        'There is a red ball 1 2 steps in front of you and 1 steps to your left.  '
        'The room has walls around you. You are facing a wall 2 steps away. You are carrying a blue key.'
    )
    nothing = replace(SIGHT, cells={(1, 1): '..', (2, 1): '..'}, carrying='')
    assert agentgym_text(nothing) == (
        'You cannot see any objects within sight.The room has walls around you. You are not carrying anything.'
    )
    ball = replace(nothing, cells={(2, 1): 'bb', (3, 1): 'yx'})
    assert 'There is a blue ball 1 right in front of you 1 steps away.  There is a yellow box 1' in agentgym_text(ball)
    assert 'You are facing a box 2 steps away.' in agentgym_text(ball) and barrier_ahead({(1, 0): 'rb'}) is None


def test_agentgym_loses_the_order_and_lists_what_can_be_done():
    state = state_of(('turn left', SIGHT))
    state.steps[0] = replace(state.steps[0], observation=Observation(SIGHT.encode(), SIX, 1.0, True, 1.0))
    instruction, ok, first, action, last = [m['content'] for m in AgentGym().messages(state)]
    assert instruction == AGENTGYM and ok.startswith("OK. I'll follow")
    assert first.startswith('Your goal: go to a red ball, and open the grey door\nIn front of you')
    assert first.endswith('\nAvailable actions: ["turn left", "turn right", "go forward", "pick up", "drop", "toggle"]')
    assert f'{agentgym_text(SIGHT)}\n The task is completed.\nAvailable' in last


def test_the_tasks_of_agentgym():
    train, test = agentgym_tasks('train'), agentgym_tasks('test')
    assert (len(train), len(test), len(AGENTGYM_LEVELS), len(AGENTGYM_PLAYED)) == (814, 90, 40, 18)
    assert set(AGENTGYM_LEVELS.values()) <= set(levels())
    assert not {(level, seed) for _, level, seed in train} & {(level, seed) for _, level, seed in test}
    assert all(seed == i // 40 and level == AGENTGYM_LEVELS[i % 40 + 1] for i, level, seed in train + test)
    tasks = BabyAI.tasks('test', levels='agentgym')
    assert len(tasks) == 90 and tasks[0].data == dict(level='BabyAI-GoToLocalS8N7-v0', seed=45)


def test_the_five_tasks_of_balrog_have_nothing_to_distract():
    tasks = BabyAI.tasks('test', levels='balrog', n=5)
    assert [t.kind for t in tasks] == [f'Balrog-{kind}' for kind in BALROG_TASKS]
    counts = [
        sum(c[1] in 'kbx' for c in decode(World(t.data['level'], 3, full=True).text()).cells.values()) for t in tasks
    ]
    assert counts == [1, 1, 1, 2, 2]


PATIENT = Limits(600, loop=601)


@pytest.mark.parametrize('advisor', ['planner', 'bot'])
@pytest.mark.parametrize('options', [dict(actions='agentgym', above=0.5), dict(actions='macro'), {}])
def test_all_of_agentgyms_test_tasks_are_won_by_both_advisors(options, advisor):
    env = BabyAI(levels='agentgym', advisor=advisor, **options)
    episodes = [run_episode(Expert(), env, t, limits=PATIENT) for t in BabyAI.tasks('test', levels='agentgym')]
    assert [t.won for t in episodes] == [True] * 90 and all(s.valid for t in episodes for s in t.steps)
    assert all(t.total_reward > 0.5 for t in episodes)  # soon enough for AgentGym


@pytest.mark.parametrize('advisor', ['planner', 'bot'])
@pytest.mark.parametrize('actions', ['words', 'macro'])
def test_all_of_balrogs_tasks_are_won_by_both_advisors(actions, advisor):
    env = BabyAI(levels='balrog', actions=actions, advisor=advisor)
    episodes = [run_episode(Expert(), env, t, limits=PATIENT) for t in BabyAI.tasks('test', 100, levels='balrog')]
    assert [t.won for t in episodes] == [True] * 100 and {t.task.data['seed'] for t in episodes} == {*range(20)}


def test_a_published_form_plays_an_episode():
    env = BabyAI(levels='balrog', actions='words')
    for view in ('balrog', 'babyai_text', 'agentgym'):
        t = run_episode(Chance(view=view), env, env.tasks('test', 1, levels='balrog')[0], limits=Limits(max_steps=20))
        assert {s.action for s in t.steps} <= set(WORDS.values()) and all(s.valid for s in t.steps)
