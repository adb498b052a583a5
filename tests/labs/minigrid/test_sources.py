"Who gives hints: one protocol, one question, and the agent's answer is the same wherever it is asked."

import pytest
from flaky import REFUSED, FlakyServer, said

from agentkit.agents.policy import Agent, ConversationAdapter
from agentkit.agents.programs import Program
from agentkit.agents.saving import save_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.store import digest
from agentkit.core.types import Decision, Hint, Observation, State, Step, Task
from agentkit.envs.babyai.dataset import collect, read_dataset, steps_of
from agentkit.envs.babyai.present import ANSWERS, instructions_for
from agentkit.envs.babyai.steps import Steps, step_tasks, view_of
from agentkit.envs.babyai.world import World
from agentkit.labs.minigrid.sources import ALIASES, SOURCES, Asked, ask, hint_agent, reading, source_name, source_of
from agentkit.rollouts import run_episode
from agentkit.testing.models import scripted_lm

READ = [('ascii', 'action'), ('natural', 'subgoal'), ('resolved', 'action'), ('seen', 'subgoal')]


def answering(kind):
    "A server whose model gives an answer that depends on every letter of its prompt."

    def answer(number, body):
        known = ANSWERS[kind]
        return said(known[int(digest(body['messages']), 16) % len(known)])

    return FlakyServer(answer)


def saved(folder, encoding, kind, url):
    "The path of an agent in a file, whose model is at an address."
    agent = Agent(hint_agent(f'openai/m@{url}', kind, encoding).lm, instructions_for(encoding, kind), think=False)
    agent.adapter = ConversationAdapter(view_of(encoding, kind), show_actions=False)
    return save_agent(agent, folder / 'agent.json')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = collect(('GoToObj', 'PickupLoc'), (1, 2), output_dir=tmp_path_factory.mktemp('data'), progress=False)
    return read_dataset(folder)


@pytest.mark.parametrize('encoding, kind', READ)
def test_a_saved_agent_answers_in_an_episode_as_on_recorded_steps(encoding, kind, data, tmp_path):
    "The evaluator asks about each recorded step; who walks the same way is told the same."
    with answering(kind) as server:
        agent = hint_agent(f'{saved(tmp_path, encoding, kind, server.url)}@{server.url}', kind)
        assert agent.adapter.view == view_of(encoding, kind) and agent.react.signature.instructions
        tasks = step_tasks(steps_of(data.demos), data.demos, encoding, kind)
        evaluated = [run_episode(agent, Steps(), task).steps[0].action for task in tasks]
        walked = []
        for demo in data.demos:
            world = World(demo.env_id, demo.episode_seed, full=True)
            source = source_of('agent', world, agent, kind)
            for step in demo.steps:
                walked.append(getattr(source.hint(), kind))
                world.act(step.answer())
                source.acted(step.answer(), world.text())
    assert walked == evaluated and len(set(walked)) > 2
    half = len(server.asked) // 2
    prompts = [[b['messages'] for b in some] for some in (server.asked[:half], server.asked[half:])]
    assert prompts[0] == prompts[1]


def test_the_question_of_a_hint_leaves_the_episode_alone():
    world = World('GoToObj', 1)
    state = State(Task('t', 'babyai'), Observation(world.text()))
    world.act('left')
    state.steps.append(Step(Decision('left'), Observation(world.text())))
    before = state.now.actions
    answer = ask(Program(lambda s: s.now.actions.options[-1], 'last'), state, 'subgoal')
    assert answer.action == 'none' and state.now.actions is before


def test_bot_and_planner_are_the_advisors_under_all_their_names():
    world = World('GoToObj', 1)
    assert set(SOURCES) == {'bot', 'planner', 'agent'}
    assert [type(source_of(name, world)).__name__ for name in ('bot', 'babyai_bot', 'planner')] == [
        'Bot',
        'Bot',
        'Planned',
    ]
    assert [source_name(name) for name in ALIASES] == ['bot', 'agent']


def test_an_agent_is_asked_once_a_step():
    lm, world = scripted_lm(['left', 'right']), World('GoToObj', 1)
    agent = Agent(lm, think=False, adapter=ConversationAdapter('ascii_now'))
    source = Asked(world.text(), agent)
    assert source.hint() == source.hint() == Hint('left') and len(lm.script.asked) == 1
    world.act('left')
    source.acted('left', world.text())
    assert source.call == {} and source.hint() == Hint('right') and source.call['response'] == 'right'


def test_an_answer_that_is_none_is_no_hint_and_says_why():
    world = World('GoToObj', 1)
    for text in ('', 'go somewhere nice', 'Pickup'):
        source = Asked(world.text(), Program(lambda state: text, 'lost'))
        assert source.hint() is None and 'which is no action' in source.why
    assert Asked(world.text(), Program(lambda state: 'Pickup', 'ok'), 'subgoal').hint() == Hint('', 'Pickup')


def test_an_error_in_one_episode_is_no_hint_and_one_that_can_be_put_right_is_raised():
    world = World('GoToObj', 1)
    source = Asked(world.text(), Program(lambda state: 1 / 0, 'broken'))
    assert source.hint() is None and source.why == 'ZeroDivisionError: division by zero'

    def missing(state):
        raise AgentkitError('no key')

    with pytest.raises(AgentkitError, match='no key'):
        Asked(world.text(), Program(missing, 'missing')).hint()
    with FlakyServer(lambda number, body: REFUSED) as server:
        source = Asked(world.text(), hint_agent(f'openai/m@{server.url}'))
        assert source.hint() is None and 'I am not well' in source.why
    with FlakyServer(lambda number, body: (401, dict(error=dict(message='who are you?')))) as server:
        with pytest.raises(AgentkitError, match='who are you|key'):
            Asked(world.text(), hint_agent(f'openai/m@{server.url}')).hint()


def test_what_an_agent_was_taught_and_how_it_reads(tmp_path):
    agent = Agent(think=False, adapter=ConversationAdapter('natural_subgoal', False))
    save_agent(agent, tmp_path / 'agent.json')
    assert hint_agent(tmp_path, 'subgoal').adapter.view == 'natural_subgoal'
    other = hint_agent(tmp_path / 'agent.json', 'subgoal', 'tuples')
    assert other.adapter.view == 'tuples_subgoal' and other.adapter.show_actions is False
    assert reading(other, 'subgoal').name == 'tuples_subgoal' and reading(None).name == 'ascii_now'
    with pytest.raises(AgentkitError, match='was taught to give the subgoal: use the hint type subgoal'):
        hint_agent(tmp_path, 'action')


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: hint_agent('nowhere'), 'nowhere does not exist: give a folder with agent.json'),
        (lambda: hint_agent('./nowhere/agent.json'), 'agent.json'),
        (lambda: hint_agent('expert', 'subgoals'), "hint_type is 'subgoals', and not one of action, subgoal"),
        (lambda: hint_agent('local/nano', 'action', 'asci'), "encoding_type 'asci'"),
        (
            lambda: source_name('oracle'),
            "hint_source is 'oracle', and not one of planner, bot, agent, babyai_bot, dspy",
        ),
        (lambda: source_of('agent', World('GoToObj', 1)), 'hint_source is agent: which one'),
    ],
)
def test_what_cannot_be_is_named(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AgentkitError, match=words) as e:
        call()
    assert '\n' not in str(e.value)
