"Replies that nothing can keep: half of a surrogate pair is a text in Python and none in UTF-8."

import json

import pytest

from agentkit.agents.policy import Agent
from agentkit.agents.reply import read_reply
from agentkit.core.actions import Choice, Text, ToolCall
from agentkit.core.types import Decision, said
from agentkit.envs.find import list_tasks
from agentkit.rollouts import Runner, read_trajectories
from agentkit.testing.models import scripted_lm

HALF = json.loads('"\\ud83d"')


@pytest.mark.parametrize(
    'reply, actions, decision',
    [
        (f'think: {HALF} hm', Choice(['go']), Decision(thought='? hm')),
        ('{"action": "think", "thought": "\\ud83d hm"}', Choice(['go']), Decision(thought='? hm')),
        ('{"action": "go", "thought": "\\ud83d"}', Choice(['go']), Decision('go', '?')),
        (f'so {HALF}', Text(), Decision('so ?')),
        ('{"tool": "say", "arguments": {"text": "\\ud83d"}}', ToolCall({'say': {}}), '{"text": "?"}'),
    ],
)
def test_a_reply_that_no_file_can_hold_is_mended(reply, actions, decision):
    result = read_reply(reply, actions)
    assert result == decision or decision in result.action
    said(result).encode()


def test_such_replies_end_neither_an_episode_nor_a_run(tmp_path):
    lm = scripted_lm([f'think: {HALF} where to?', 'forward', 'forward'])
    with Runner('corridor', tmp_path, workers=1, progress=False) as run:
        agent = Agent(lm)
        (t,) = run(agent, list_tasks('corridor', 'train', 1))
        assert t.won and t.turns[0] == ('think: ? where to?', 'OK.')
        assert run(agent, list_tasks('corridor', 'train', 1)) == [t] == read_trajectories(run.journal(agent))
