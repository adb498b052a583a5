"Recorded steps as questions: the views, the answers, and what cannot be asked."

import json
from collections import Counter

import pytest

from agentkit.agents.policy import Agent, ConversationAdapter
from agentkit.agents.programs import Chance, Expert
from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Observation, State, Task
from agentkit.envs.babyai.dataset import ENCODINGS, collect, read_dataset, read_demos, steps_of
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.expert import SUBGOALS
from agentkit.envs.babyai.present import ANSWERS, PRESENT, instructions_for
from agentkit.envs.babyai.steps import STEPS, Past, Steps, step_tasks, view_of
from agentkit.envs.babyai.world import ACTIONS
from agentkit.envs.base import views_of
from agentkit.envs.check import check_env
from agentkit.envs.find import list_tasks
from agentkit.evals import evaluate
from agentkit.testing.models import scripted_lm


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    levels, seeds = ('GoToObj', 'PickupLoc'), (1, 2, 3)
    return collect(levels, seeds, output_dir=tmp_path_factory.mktemp('data'), progress=False)


@pytest.fixture(scope='module')
def demos(folder):
    return read_dataset(folder).demos


def test_the_environment_keeps_what_it_promises(folder):
    report = check_env(STEPS, 2, dataset_path=str(folder))
    assert report.ok, report


@pytest.mark.parametrize('hint_type', ANSWERS)
def test_the_hint_wins_and_nothing_else_does(hint_type, demos):
    for task in step_tasks(steps_of(demos), demos, 'tuples', hint_type):
        env = Steps()
        first = env.reset(task)
        right = env.expert().action
        assert first.actions == Choice(ANSWERS[hint_type]) and right == task.kind == task.data['answer']
        for answer in ANSWERS[hint_type]:
            env.reset(task)
            end = env.step(answer)
            assert end.done and end.score == float(answer == right)


def test_the_accuracy_of_a_policy_is_its_success(folder):
    tasks = list_tasks(STEPS, 'train', dataset_path=str(folder), samples_per_category=3)
    assert set(Counter(t.kind for t in tasks).values()) <= {1, 2, 3}
    assert evaluate(Expert(), tasks).summary['success'] == 1
    assert evaluate(Chance(), tasks).summary['success'] < 0.6


@pytest.mark.parametrize('name', ENCODINGS)
def test_the_present_is_shown_and_nothing_before_it(name, demos):
    demo = max(demos, key=lambda d: len(d.steps))
    t, view = demo.replay(), views_of(BabyAI)[f'{name}_now']
    for k in range(len(t.steps)):
        assert view.messages(t.state(k)) == [dict(role='user', content=demo.steps[k].text(name))]
    assert view.instructed and not view.grows


@pytest.mark.parametrize('encoding', ['seen', 'named', 'resolved', 'no_repeat'])
def test_a_view_with_a_memory_is_given_the_episode_so_far(encoding, demos):
    demo = max(demos, key=lambda d: len(d.steps))
    t, tasks = demo.replay(), step_tasks(demo.steps, [demo], encoding)
    plain, own = views_of(BabyAI)[encoding], views_of(Steps)[view_of(encoding)]
    for k, task in enumerate(tasks):
        state = State(task, Steps().reset(task))
        assert own.messages(state) == plain.messages(t.state(k))
        tried = set(t.state(k).now.actions.options) - set(plain.offer(t.state(k)).options)
        assert set(own.offer(state).options) == set(ACTIONS) - tried


def test_an_agent_is_held_to_sub_goals(demos):
    task = step_tasks(demos[0].steps, demos, 'ascii', 'subgoal')[0]
    lm = scripted_lm(['Open'])
    held = []
    lm.hold = lambda actions, think: held.append(actions) or {}
    agent = Agent(
        lm, instructions_for('ascii', 'subgoal'), think=False, adapter=ConversationAdapter('ascii_subgoal', False)
    )
    assert agent.act(State(task, Steps().reset(task), views=views_of(Steps))).action == 'Open'
    assert held == [Choice(SUBGOALS)]


def test_the_views_for_sub_goals_are_not_those_of_the_game():
    assert not [name for name in views_of(BabyAI) if name.endswith('_subgoal')]
    assert {p.name for p in PRESENT} < set(views_of(BabyAI)) < set(views_of(Steps))
    assert all(isinstance(v, Past) for n, v in views_of(Steps).items() if n not in ('full', 'bare'))


@pytest.mark.parametrize(
    'encoding, hint_type, why',
    [
        ('asci', 'action', "did you mean 'ascii'"),
        ('ascii_now', 'action', 'cannot be asked for the action'),
        ('full', 'action', 'cannot be asked'),
        ('no_repeat', 'subgoal', 'cannot be asked for the subgoal'),
        ('ascii', 'goal', "hint_type is 'goal'"),
        (None, 'action', 'encoding_type None'),
    ],
)
def test_what_cannot_be_asked_is_named(encoding, hint_type, why):
    with pytest.raises(AgentkitError, match=why):
        view_of(encoding, hint_type)


def test_a_step_before_a_question_is_an_error():
    with pytest.raises(AgentkitError, match='call reset first'):
        Steps().step('left')


def test_without_a_folder_there_is_nothing_to_ask():
    with pytest.raises(AgentkitError, match='write dataset_path='):
        list_tasks(STEPS, 'train')


def test_a_file_that_has_texts_only_can_be_asked_in_these(tmp_path):
    "As older collectors wrote it: an observation that nobody can read back, and the four texts."
    seen = dict(observation=dict(image=[[1]]), encoded_observations=dict(ascii='#..>', natural='A room.'), action=2)
    record = dict(env_id='BabyAI-GoToObj-v0', seed=1, episodes=[dict(observations=[seen])])
    (tmp_path / 'old.json').write_text(json.dumps([record]))
    old = read_demos(tmp_path / 'old.json')
    (task,) = step_tasks(steps_of(old), old, 'natural')
    assert views_of(Steps)['natural_now'].messages(State(task, Steps().reset(task)))[0]['content'] == 'A room.'
    for encoding in ('tuples', 'resolved'):
        with pytest.raises(AgentkitError, match='step 0 of BabyAI-GoToObj-v0 seed 1'):
            step_tasks(steps_of(old), old, encoding)


def test_the_instruction_names_the_answers():
    assert all(word in instructions_for('relative', 'subgoal') for word in SUBGOALS)
    state = State(Task('t', 'x'), Observation('not a sight'))
    assert views_of(BabyAI)['ascii_now'].messages(state) == [dict(role='user', content='not a sight')]


def test_colours_change_in_what_is_seen_and_not_in_what_is_explained(demos):
    import random

    row = dict(
        messages=[
            dict(role='system', content=instructions_for('ascii')),
            dict(role='user', content=demos[0].steps[0].text('ascii')),
            dict(role='assistant', content='left'),
        ]
    )
    varied = [Steps.vary(row, random.Random(i)) for i in range(5)]
    assert all(v['messages'][0] == row['messages'][0] for v in varied)
    assert any(v['messages'][1] != row['messages'][1] for v in varied)
