"A conversation is read back as it was told, and the stand-in needs what it is said to need."

import pytest

from agentkit.agents.policy import Agent, demonstration
from agentkit.agents.programs import Expert
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Task
from agentkit.core.views import fields
from agentkit.rollouts import Limits, run_episode
from agentkit.testing.corridor import Corridor
from agentkit.testing.stand_in import episode_of, stand_in_lm

TASKS = [Task(f'demo/{i}', 'corridor', data=dict(doors=4 + i)) for i in range(3)]
RULE = 'Never turn back.'


def expert(task, trajectory, possible_actions):
    return possible_actions[-1]


def walked(agent, task=TASKS[2]):
    return run_episode(agent, Corridor(), task, limits=Limits(max_steps=14))


@pytest.mark.parametrize('think', [True, False])
@pytest.mark.parametrize('shown', [0, 2])
def test_the_last_episode_of_a_conversation_is_read_back(shown, think):
    agent, t = Agent(think=think), walked(Expert())
    agent.react.demos = [demonstration(walked(Expert(), task)) for task in TASKS[:shown]]
    for k in range(len(t.steps)):
        state = t.state(k)
        messages = agent.adapter.at(state).format(agent.react.signature, agent.react.demos, agent.inputs(state))
        assert episode_of(messages) == fields(state)


def test_it_plays_well_with_the_rule_or_a_demonstration_only():
    lm = stand_in_lm(expert, RULE, talent=0)
    shown = Agent(lm)
    shown.react.demos = [demonstration(walked(Expert(), TASKS[0]))]
    assert not walked(Agent(lm)).won
    assert all(len(walked(agent).steps) == 6 for agent in (shown, Agent(lm, f'Walk. {RULE}')))
    assert walked(Agent(stand_in_lm(expert, RULE, talent=1))).won


def test_it_is_another_model_with_another_rule_or_talent():
    agents = [Agent(stand_in_lm(expert, rule, talent)) for rule in ('a', 'b') for talent in (0, 0.5)]
    assert len({a.id for a in agents}) == 4 and len({a.name for a in agents}) == 1


def test_a_conversation_without_actions_is_not_guessed_at():
    with pytest.raises(AgentkitError, match='told in full'):
        episode_of([dict(role='user', content='Your task is to: walk.')])
