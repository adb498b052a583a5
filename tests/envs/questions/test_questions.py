"Questions as an environment: episodes, options, what the agent sees, and how sure a real server says it was."

import dataclasses
import json

import pytest

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Chance, Expert, Program
from agentkit.agents.saving import student_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Task, said
from agentkit.envs.base import views_of
from agentkit.envs.check import check_env
from agentkit.envs.find import list_tasks
from agentkit.envs.questions.environment import Questions
from agentkit.rollouts import Limits, Runner, run_episode
from agentkit.testing.models import scripted_lm

ENV = 'agentkit.envs.questions.environment:Questions'


def task(question='What is 2 + 2?', answers=('4',), **rules):
    return Task('train/x', 'questions', data=dict(question=question, answers=list(answers), **rules))


def says(*answers):
    return Agent(scripted_lm(list(answers)), Questions.instructions)


# episodes


def test_right_wrong_and_nothing():
    ends = {a: run_episode(says(a), Questions(), task(), limits=Limits(max_invalid=2)) for a in ('4', 'four', '')}
    assert [(t.termination, t.score, t.total_reward, len(t.steps)) for t in ends.values()] == [
        ('won', 1, 1, 1),
        ('lost', 0, 0, 1),
        ('invalid', 0, 0, 2),
    ]
    assert [t.progress for t in ends.values()] == [1, 0, 0]


def test_attempts_end_when_one_is_right_or_none_is_left():
    t = run_episode(says('3', '4', '5'), Questions(attempts=3), task())
    assert [s.observation.text for s in t.steps] == ['That is not right. Try again.', 'That is right.'] and t.won
    t = run_episode(says('3', '5', '4'), Questions(attempts=2), task())
    assert (t.termination, len(t.steps), t.score) == ('lost', 2, 0)


def test_a_judge_has_to_say():
    t = run_episode(says('It rains.'), Questions(scoring='judged'), task(answers=()))
    assert (t.termination, t.score, t.progress, t.total_reward) == ('ended', None, None, 0)
    env = Questions(scoring='judged')
    assert env.reset(task(answers=())).score is None and env.expert() is None


def test_the_expert_knows_and_chance_does_not():
    with Runner(ENV, workers=1, progress=False) as run:
        tasks = run.tasks('valid', 12)
        assert all(t.won for t in run(Expert(), tasks)) and not any(t.won for t in run(Chance(), tasks))
        hints = [t.steps[0].hint.action for t in run(Chance(), tasks, hints=True)]
    assert hints == [t.data['answers'][0] for t in tasks]


def test_an_environment_is_used_again():
    env = Questions(attempts=2)
    for _ in range(2):
        assert env.reset(task()).score == 0
        assert not env.step('3').done and env.step('4').score == 1
    env.close()
    env.close()


def test_it_keeps_what_an_environment_promises(tmp_path):
    (tmp_path / 'a.csv').write_text('q,a,kind\n' + ''.join(f'{i} + 1?,{i + 1},sum\n' for i in range(9)))
    own = dict(data=str(tmp_path / 'a.csv'), question='q', answer='a', share=0.4)
    for options in ({}, dict(attempts=3, scoring='contains'), dict(scoring='judged'), own):
        report = check_env(ENV, **options)
        assert report.ok, str(report)
    assert 'sum' in str(report), 'the tasks are those of the options'


# what is seen


@pytest.mark.parametrize('view', sorted(views_of(Questions)))
def test_the_answer_is_in_no_prompt(view):
    secret = task('Who?', ('Zanzibar',), attempts=3)
    agent = student_agent(scripted_lm(['nobody']), view)
    run_episode(agent, Questions(), secret)
    shown = json.dumps([m for call in agent.lm.history for m in call['messages']])
    assert 'Who?' in shown and len(agent.lm.history) == 3 and 'Zanzibar' not in shown


def test_nor_in_any_observation():
    env, secret = Questions(attempts=2), task('Who?', ('Zanzibar',))
    seen = [env.reset(secret), env.step('a'), env.step('b'), env.reset(secret), env.step('Zanzibar')]
    assert 'Zanzibar' not in json.dumps([o.to_dict() for o in seen])


def test_a_student_reads_the_question_alone():
    agent = student_agent(scripted_lm(['4']))
    run_episode(agent, Questions(), task())
    assert agent.lm.history[0]['messages'] == [dict(role='user', content='What is 2 + 2?')]
    other = says('4')
    run_episode(other, Questions(), task())
    system, user = other.lm.history[0]['messages']
    assert system['content'] == Questions.instructions and user['content'] == 'What is 2 + 2?'


# tasks and options


def test_tasks_are_json_and_have_ids_of_their_own():
    tasks = [t for s in Questions.splits for t in Questions.tasks(s)]
    assert len({t.id for t in tasks}) == len(tasks) == 1000
    assert [Task(**json.loads(json.dumps(dataclasses.asdict(t)))) for t in tasks] == tasks
    assert Questions.tasks('valid', 8) == Questions.tasks('valid', 8) == Questions.tasks('valid', 12)[:8]
    assert Questions.tasks('valid', 8, seed=1) != Questions.tasks('valid', 8)
    with pytest.raises(AgentkitError, match='500 tasks asked for, but there are 200'):
        Questions.tasks('valid', 500)


def test_the_same_question_has_the_same_id_in_any_file(tmp_path):
    (tmp_path / 'a.csv').write_text('question,answer,split\nA?,1,train\nB?,2,test\n')
    (tmp_path / 'b.jsonl').write_text('{"question": "C?", "answer": 3}\n{"question": " a?", "answer": 1}\n')
    a = Questions.tasks('train', data=str(tmp_path / 'a.csv'))
    b = [t for s in Questions.splits for t in Questions.tasks(s, data=str(tmp_path / 'b.jsonl'), share=0.5)]
    assert a[0].id.split('/')[1] in {t.id.split('/')[1] for t in b}


def test_what_decides_the_score_is_in_the_task_or_in_the_environment():
    with_rules = Questions.tasks('valid', 1, scoring='contains')[0]
    assert with_rules.data['scoring'] in ('contains', 'numeric') and 'scoring' not in task().data
    assert run_episode(says('It is 4.'), Questions(), task()).score == 0
    assert run_episode(says('It is 4.'), Questions(scoring='numeric'), task()).score == 1
    assert run_episode(says('It is 4.'), Questions(scoring='exact'), task(scoring='numeric')).score == 1
    assert run_episode(says('It is 4.3'), Questions(scoring='numeric', tolerance=0.5), task()).score == 1


def test_a_runner_lists_the_tasks_of_its_options(tmp_path):
    (tmp_path / 'a.csv').write_text('q,a\n' + ''.join(f'{i} + 1?,{i + 1}\n' for i in range(5)))
    options = dict(data=str(tmp_path / 'a.csv'), question='q', answer='a', scoring='numeric')
    with Runner(ENV, workers=1, progress=False, **options) as run:
        assert run.tasks('train') == list_tasks(ENV, 'train', **options) and len(run.tasks('train')) == 4
        right = Program(lambda state: f'The sum is {int(state.first.text.split()[0]) + 1}.', 'adder')
        (t,) = run(right, run.tasks('valid'))
    assert t.won and t.environment != ENV


@pytest.mark.parametrize(
    'options, error',
    [
        (dict(scoring='fuzzy'), "unknown scoring 'fuzzy'"),
        (dict(attempts=0), 'attempts is 0: at least 1'),
        (dict(scoring='judged', attempts=2), 'so scoring="judged" has one attempt'),
        (dict(colour='red'), 'does not take these options'),
    ],
)
def test_options_that_cannot_be(options, error):
    with pytest.raises(AgentkitError, match=error):
        list_tasks(ENV, 'train', **options)


# a real server


@pytest.fixture(scope='module')
def server_lm(own_data):
    pytest.importorskip('xllamacpp')
    from agentkit.models.serving import local_lm, stop_servers
    from agentkit.training.bases import make_nano

    base = make_nano(['What is 2 + 2? It is four. left right'], size='tiny', vocabulary=300)
    yield lambda **given: local_lm(base, slots=1, context=512, max_tokens=6, temperature=1.0, seed=4, **given)
    stop_servers()


def test_a_decision_holds_the_probabilities_of_its_tokens(server_lm):
    lm = server_lm(logprobs=True)
    t = run_episode(student_agent(lm, 'bare'), Questions(), task())
    request = dict(messages=[dict(role='user', content='What is 2 + 2?')], max_tokens=6, temperature=1, seed=4)
    reply = lm.server.post('/v1/chat/completions', {**request, 'logprobs': True})['choices'][0]
    tokens = [min(0.0, token['logprob']) for token in reply['logprobs']['content']]
    (step,) = t.steps
    assert said(step.decision) == reply['message']['content'].strip() != ''
    assert step.decision.logprobs == pytest.approx(tokens, abs=1e-4) and all(p <= 0 for p in tokens)


def test_only_who_is_asked_for_probabilities_says_them(server_lm):
    plain, sure = (student_agent(server_lm(**given), 'bare') for given in ({}, dict(logprobs=True)))
    a, b = (run_episode(agent, Questions(), task()).steps[0].decision for agent in (plain, sure))
    assert a.action == b.action and a.logprobs == () != b.logprobs
    assert plain.id != sure.id, 'an episode without them does not answer for one with them'
