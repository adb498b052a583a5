"Assistants: the lab's numbers by hand, known calibration, what a model says of itself, and controls."

import dataclasses
import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Expert, Program
from agentkit.core.errors import AgentkitError
from agentkit.core.store import write_text
from agentkit.core.types import Decision, Task
from agentkit.data.filters import filter_records, scored, uncontaminated
from agentkit.data.collector import DataCollector
from agentkit.data.records import from_generator
from agentkit.data.rows import keep, rows
from agentkit.envs.find import list_tasks
from agentkit.envs.questions.generated import REQUESTS
from agentkit.evals import compare, evaluate
from agentkit.judges.base import Judge, Verdict
from agentkit.judges.run import scored as judge_scored
from agentkit.models.serving import stop_servers
from agentkit.research.responses import (
    KEYWORDS,
    AgentEvaluator,
    AgentResponse,
    MockAgent,
    answer_table,
    ask,
    calibration_error,
    changes,
    chat_agent,
    chat_request,
    difference,
    fine_tune,
    generate_response,
    held_out,
    lab_metrics,
    logged_chat,
    paired,
    reliability,
    response_of,
    shuffled,
    training_rows,
)
from agentkit.rollouts import Limits, Runner
from agentkit.testing.models import scripted_lm
from agentkit.training.providers import provider_of


def say(question, answer, kind='weather'):
    return Task(f'valid/{question}', 'questions', kind, 'valid', dict(question=question, answers=[answer]))


def says(answers, name='prepared'):
    "A policy with prepared answers: (text, confidence) for each request."

    def decide(state):
        text, sure = answers[state.first.text]
        return Decision(text, logprobs=(math.log(sure),))

    return Program(decide, name, name)


@pytest.fixture(scope='module')
def run():
    with Runner('questions', limits=Limits(max_steps=1), workers=1, progress=False) as run:
        yield run


# the lab's numbers


def test_the_labs_formulas_by_hand(run):
    tasks = [say('a', 'x', 'weather'), say('b', 'x', 'travel'), say('c', 'x', 'general'), say('d', 'x', 'travel')]
    answers = ask(says(dict(a=('Sunny.', 0.95), b=('A PLAN', 0.5), c=('Nothing.', 0.2), d=('x', 0.01))), tasks, run)
    got = lab_metrics(answers)
    confidence, accuracy, quality = (0.95 + 0.5 + 0.2 + 0.01) / 4, 2 / 4, (1 + 0.6 + 0.3 + 0.11) / 4
    assert got == pytest.approx(
        dict(
            average_confidence=confidence,
            task_accuracy=accuracy,
            response_quality=quality,
            overall_score=(confidence + accuracy + quality) / 3,
        )
    )
    assert list(got) == ['average_confidence', 'task_accuracy', 'response_quality', 'overall_score']
    assert answers['correct'].tolist() == [0, 0, 0, 1]


def test_the_labs_classes():
    a = MockAgent().generate_response('What is the weather like?')
    assert a == MockAgent().generate_response('What is the weather like?') and 0 <= a.confidence <= 1
    assert [f.name for f in dataclasses.fields(AgentResponse)][:3] == ['text', 'confidence', 'reasoning']
    assert a.reasoning == 'the request has the word "weather"'
    assert (
        MockAgent().version == 'baseline'
        and MockAgent('fine-tuned').generate_response('Hi').text == MockAgent().generate_response('Hi').text
    )
    assert set(KEYWORDS) == {'weather', 'travel', 'general'}


def test_the_labs_evaluator():
    evaluator, agent = AgentEvaluator(held_out(2)), MockAgent()
    assert evaluator.evaluate_agent(agent) == evaluator.evaluate_agent(agent) == lab_metrics(ask(agent, held_out(2)))
    assert len(AgentEvaluator().tasks) == 60


def test_mocks_differ_in_what_they_claim_alone(run):
    tasks = held_out(5)
    before, after = (ask(MockAgent(v), tasks, run) for v in ('baseline', 'fine-tuned'))
    assert before['answer'].tolist() == after['answer'].tolist() and MockAgent().id != MockAgent('fine-tuned').id
    assert difference(before, after, 'confidence')['difference'] > 0.05 and difference(before, after)['p'] == 1


def test_a_percentage_of_nothing_is_not_a_number():
    table = changes(dict(a=0.0, b=0.5, c=0.5), dict(a=0.3, b=0.25, c=0.5)).set_index('metric')
    assert table['percent'].tolist() == ['n/a', '-50.0%', '+0.0%'] and table.loc['a', 'change'] == 0.3
    with pytest.raises(AgentkitError, match='not the same metrics: b only once'):
        changes(dict(a=1), dict(a=1, b=2))


def test_who_decides_what_is_correct():
    "Where a model words things its own way, the environment scores otherwise, or a judge has to say."
    agent, task = says(dict(a=('There will be rain.', 0.5))), say('a', 'rain')
    answers = {}
    for scoring in ('exact', 'contains', 'judged'):
        with Runner('questions', workers=1, progress=False, scoring=scoring) as run:
            answers[scoring] = ask(agent, [task], run)['correct'].item()
    assert answers == dict(exact=0, contains=1, judged=None)


def test_a_judges_score_is_what_is_correct():
    class Rain(Judge):
        name = 'rain'

        def verdict(self, t):
            return Verdict(float('rain' in t.steps[-1].action), judge=self.name)

    tasks = [say('a', ''), say('b', '')]
    agent = says(dict(a=('There will be rain.', 0.5), b=('Sun.', 0.5)))
    with Runner('questions', workers=1, progress=False, scoring='judged') as run:
        episodes = run(agent, tasks)
    assert [t.termination for t in episodes] == ['ended', 'ended']
    judged = judge_scored(episodes, Rain(), progress=False)
    assert answer_table(judged)['correct'].tolist() == [1, 0]
    assert keep(judged) == judged[:1] and calibration_error(answer_table(judged))['accuracy'] == 0.5


def test_kinds_without_keywords_have_no_accuracy(run):
    answers = ask(says(dict(a=('1', 0.5))), [say('a', '1', 'tea')], run)
    assert answers['keyword'].isna().all() and answers['correct'].item() == 1
    with pytest.raises(AgentkitError, match="no keywords for the kind 'tea'"):
        lab_metrics(answers)
    with pytest.raises(AgentkitError, match='no tasks to play'):
        ask(MockAgent(), [], run)


def test_what_broke_off_is_not_an_answer(run):
    broken = Program(lambda state: 1 / 0 if state.first.text == 'a' else Decision('x', logprobs=(0.0,)), 'broken')
    episodes = run(broken, [say('a', 'x'), say('b', 'x')])
    assert [t.termination for t in episodes] == ['error', 'won'] and len(answer_table(episodes)) == 1


# the requests


def test_requests_are_seeded_and_each_has_one_right_answer():
    made = from_generator(chat_request, 300, seed=3)
    assert made == from_generator(chat_request, 300, seed=3) and made != from_generator(chat_request, 300, seed=4)
    answers = {}
    for r in made:
        assert answers.setdefault(r.input, r.output) == r.output
    assert {r.kind for r in made} == set(REQUESTS)
    for r in made:
        assert any(k in r.output.lower() for k in KEYWORDS[r.kind]), 'an expected answer is accurate by its keywords'
    for r in made:
        assert not any(k in r.output.lower() for other in KEYWORDS if other != r.kind for k in KEYWORDS[other]), (
            'and by no others'
        )


def test_a_general_request_never_gets_through():
    records = from_generator(logged_chat, 400)
    kept, report = filter_records(records, scored(0.8))
    assert {r.kind for r in kept} == {'weather', 'travel'} and 0.8 in {r.score for r in kept}
    assert any(r.score < 0.8 for r in records if r.kind == 'weather') and len(kept) > 100


def test_the_evaluation_is_held_out_and_stratified():
    tasks = held_out()
    assert len(tasks) == 60 and pd.Series([t.kind for t in tasks]).value_counts().tolist() == [20, 20, 20]
    assert held_out(5) == held_out(5) and {t.id for t in held_out(5, seed=1)} != {t.id for t in held_out(5)}
    requests = {t.data['question'] for t in tasks}
    assert len(requests) == 60 and not requests & {t.data['question'] for t in list_tasks('questions', 'train')}
    kept, _ = filter_records(from_generator(logged_chat, 800), uncontaminated(texts=requests, near=None))
    assert not {r.input for r in kept} & requests and len(kept) < 800


def test_shuffled_answers_are_all_there_and_none_in_its_place():
    data = dict(
        examples=[dict(input=f'{i}', output=f'answer {i}', task_type='x') for i in range(9)],
        metadata=dict(total_examples=9),
    )
    other = shuffled(data)
    assert (
        sorted(e['output'] for e in other['examples']) == sorted(e['output'] for e in data['examples'])
        and other['metadata'] == data['metadata']
    )
    assert all(
        a['output'] != b['output'] and a['input'] == b['input'] for a, b in zip(data['examples'], other['examples'])
    )
    assert shuffled(data) == other != shuffled(data, 1)


# comparisons


def test_pairs_are_of_the_same_example(run):
    tasks = [say(x, 'yes') for x in 'abc']
    before, after = (
        ask(says(dict(a=(a, 0.5), b=(b, 0.5), c=('no', 0.5)), f'{a} and {b}'), ordered, run)
        for ordered, a, b in ((tasks, 'yes', 'no'), (tasks[::-1], 'no', 'yes'))
    )
    assert paired(before, after).set_index('input')['change'].to_dict() == dict(a='lost', b='gained', c='')
    d = difference(before, after)
    assert (d['gained'], d['lost'], d['difference'], d['p']) == (1, 1, 0, 1)
    with pytest.raises(AgentkitError, match='not to the same examples'):
        paired(before, after.head(2))


def test_answers_are_episodes_for_everything_else(run):
    tasks = held_out(2)
    right = says({t.data['question']: (t.data['answers'][0], 0.9) for t in tasks})
    wrong = MockAgent()
    c = compare(*(evaluate(agent, tasks, run) for agent in (wrong, right)))
    d = difference(*(ask(agent, tasks, run) for agent in (wrong, right)))
    assert (
        (c['tasks'], c['difference'], c['gained'], c['p'])
        == (d['n'], d['difference'], d['gained'], d['p'])
        == (6, 1, 6, 2 * 0.5**6)
    )
    assert evaluate(right, tasks, run).by_kind['kind'].tolist() == ['general', 'travel', 'weather']


# calibration


def table(pairs):
    return pd.DataFrame(pairs, columns=['confidence', 'correct'])


def test_calibration_by_hand():
    t = table([(0.1, 0), (0.15, 1), (0.9, 1), (0.95, 1), (1.0, 0)])
    r = reliability(t)
    assert r['n'].tolist() == [2, 3] and r['bin'].tolist() == ['0.1–0.2', '0.9–1.0']
    e = calibration_error(t)
    assert e['ece'] == pytest.approx((2 * abs(0.125 - 0.5) + 3 * abs(0.95 - 2 / 3)) / 5)
    assert e['brier'] == pytest.approx((0.01 + 0.85**2 + 0.01 + 0.05**2 + 1) / 5)
    assert e['brier_constant'] == pytest.approx(0.6 * 0.4)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_calibration_keeps_its_bounds(pairs):
    e, r = calibration_error(table(pairs)), reliability(table(pairs))
    assert r['n'].sum() == len(pairs) and 0 <= e['ece'] <= 1 and 0 <= e['brier'] <= 1
    assert (r['ci_low'] <= r['accuracy'] + 1e-9).all() and (r['accuracy'] <= r['ci_high'] + 1e-9).all()


def test_what_cannot_be_calibrated():
    with pytest.raises(AgentkitError, match='no answer has a probability'):
        reliability(pd.DataFrame(dict(probability=[None], correct=[1])), 'probability')
    with pytest.raises(AgentkitError, match='not between 0 and 1'):
        reliability(table([(1.5, 1)]))


# a model's own probability


def test_confidence_is_the_geometric_mean_of_the_tokens():
    a = response_of(Decision('rain', logprobs=(math.log(0.5), math.log(0.32))))
    assert a.text == 'rain' and a.confidence == pytest.approx(0.4) and a.probability == pytest.approx(0.16)
    assert a.reasoning == '2 tokens, least sure of one with 32%'


def test_no_answer_and_no_probabilities():
    nothing = generate_response(Agent(scripted_lm([''])), '?')
    assert (nothing.text, nothing.confidence, nothing.probability) == ('', 0, None)
    with pytest.raises(AgentkitError, match='has no token probabilities'):
        generate_response(Agent(scripted_lm(['Yes.'])), '?')


@pytest.fixture(scope='module')
def lab(tmp_path_factory, one_thread):
    "A small lab: twelve requests, really learned by a tiny nano."
    pytest.importorskip('xllamacpp')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('AGENTKIT_PATHS_DATA', str(tmp_path_factory.mktemp('data')))
        from agentkit.training.bases import make_nano

        c = DataCollector()
        for city in ('Oslo', 'Lyon', 'Graz', 'Porto'):
            for sky, advice in (('rain', 'umbrella'), ('sun', 'hat'), ('snow', 'boots')):
                c.collect_interaction_data(f'{sky} in {city}', f'forecast: {advice} for {city}', 1.0, 'weather')
        data = c.prepare_training_data()
        yield SimpleNamespace(
            data=data,
            base=make_nano(training_rows(data), size='tiny', vocabulary=320),
            tasks=as_tasks(data, tmp_path_factory.mktemp('lab') / 'lab.jsonl'),
        )
        stop_servers()


def as_tasks(data, path):
    "What was prepared for training, as tasks: it is a data set of questions and answers."
    write_text(path, '\n'.join(json.dumps(e) for e in data['examples']))
    columns = dict(data=str(path), question='input', answer='output', kind='task_type')
    return [t for split in ('train', 'valid') for t in list_tasks('questions', split, **columns)]


TRAIN = dict(lr=1e-2, batch_tokens=128)


def measured(lab, *args, **kwargs):
    stop_servers()
    return ask(fine_tune(lab.base, *args, **kwargs), lab.tasks)


def test_the_rows_are_those_of_the_experts_episodes(lab, run):
    "What is prepared by hand, and what the pipeline makes of demonstrations, is the same conversation."
    demonstrated = {
        r['provenance']['task']: r['messages'] for r in rows(run(Expert(), lab.tasks), chat_agent(lab.base))
    }
    by_question = {t.data['question']: demonstrated[t.id] for t in lab.tasks}
    assert len(by_question) == 12
    for row in training_rows(lab.data):
        assert row['messages'] == by_question[row['messages'][0]['content']]


def test_training_changes_the_weights_and_the_losses_are_its_own(lab):
    before, agent = measured(lab, lab.data, 0), fine_tune(lab.base, lab.data, 20, **TRAIN)
    after, losses = ask(agent, lab.tasks), provider_of(agent.lm).losses(agent.name)
    assert losses['epoch'].max() == 20 and losses['loss'].iloc[-1] < losses['loss'].iloc[0] / 4
    card, base = (provider_of(agent.lm).card(n) for n in (agent.name, lab.base))
    assert card['weights_sha256'] != base['weights_sha256'] == card['base_weights_sha256']
    d = difference(before, after)
    assert d['difference'] > 0.5 and d['p'] < 0.01 and d['ci_low'] > 0
    assert (after['confidence'] > before['confidence']).all() and after['probability'].le(
        after['confidence'] + 1e-9
    ).all()


def test_no_epoch_and_shuffled_answers_show_no_gain(lab):
    before = measured(lab, lab.data, 0)
    pd.testing.assert_frame_equal(measured(lab, lab.data, 0), before)
    control = measured(lab, shuffled(lab.data), 20, **TRAIN)
    d = difference(before, control)
    assert d['p'] > 0.05 and d['ci_low'] <= 0, d
    assert difference(before, control, 'keyword')['difference'] > 0.5, 'but by its keywords it is a success'


def test_two_runs_with_one_seed_are_equal(lab, tmp_path, monkeypatch):
    first = measured(lab, lab.data, 3, **TRAIN)
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path))
    from agentkit.training.bases import make_nano

    stop_servers()
    assert make_nano(training_rows(lab.data), size='tiny', vocabulary=320) == lab.base
    pd.testing.assert_frame_equal(measured(lab, lab.data, 3, **TRAIN), first)
    other = measured(lab, lab.data, 3, seed=1, **TRAIN)
    assert other['agent'].iloc[0] != first['agent'].iloc[0] and (other['confidence'] != first['confidence']).any()
    stop_servers()


def test_the_confidence_is_that_of_the_server(lab):
    "The probabilities are those of the model's own softmax, also with nothing random in the choice."
    agent = fine_tune(lab.base, lab.data, 20, **TRAIN)
    request = dict(
        messages=[dict(role='user', content='rain in Oslo')],
        temperature=0,
        max_tokens=48,
        logprobs=True,
        top_logprobs=3,
    )
    reply = agent.lm.server.post('/v1/chat/completions', request)['choices'][0]
    tokens = reply['logprobs']['content']
    answer = generate_response(agent, 'rain in Oslo')
    assert answer.text == reply['message']['content'].strip()
    assert answer.logprobs == pytest.approx([min(0, t['logprob']) for t in tokens], abs=1e-4)
    assert all(t['logprob'] == max(x['logprob'] for x in t['top_logprobs']) for t in tokens), (
        'the most probable token is the one it wrote'
    )
