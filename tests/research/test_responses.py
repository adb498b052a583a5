"Assistants: the lab's numbers by hand, known calibration, what a model says of itself, and controls."

import math
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from agentkit.data.filters import filter_records, scored, uncontaminated
from agentkit.data.collector import DataCollector
from agentkit.data.records import from_generator, make_record
from agentkit.core.errors import AgentkitError
from agentkit.evals import compare
from agentkit.testing.models import scripted_lm
from agentkit.research.responses import (
    ASKED,
    KEYWORDS,
    AgentEvaluator,
    AgentResponse,
    ChatAgent,
    MockAgent,
    calibration_error,
    changes,
    chat_request,
    difference,
    fine_tune,
    held_out,
    logged_chat,
    paired,
    reliability,
    report,
    same_words,
    shuffled,
    training_rows,
)
from agentkit.models.serving import stop_servers


def say(input, output, kind='weather'):
    return make_record(dict(input=input, output=output, kind=kind), 'log')


class Says:
    "An agent with prepared answers: (text, confidence) for each request."

    name = 'prepared'

    def __init__(self, answers):
        self.answers = answers

    def generate_response(self, input_text):
        return AgentResponse(*self.answers[input_text], reasoning='')


# the lab's numbers


def test_the_labs_formulas_by_hand():
    examples = [say('a', 'x', 'weather'), say('b', 'x', 'travel'), say('c', 'x', 'general'), say('d', 'x', 'travel')]
    agent = Says(dict(a=('Sunny.', 0.95), b=('A PLAN', 0.5), c=('Nothing.', 0.2), d=('x', 0.0)))
    got = AgentEvaluator(examples).evaluate_agent(agent)
    confidence, accuracy, quality = (0.95 + 0.5 + 0.2 + 0) / 4, 2 / 4, (1 + 0.6 + 0.3 + 0.1) / 4
    assert got == pytest.approx(
        dict(
            average_confidence=confidence,
            task_accuracy=accuracy,
            response_quality=quality,
            overall_score=(confidence + accuracy + quality) / 3,
        )
    )
    assert list(got) == ['average_confidence', 'task_accuracy', 'response_quality', 'overall_score']
    assert AgentEvaluator(examples).answers(agent)['correct'].tolist() == [0, 0, 0, 1]


def test_the_labs_classes():
    a = MockAgent().generate_response('What is the weather like?')
    assert (
        a == MockAgent().generate_response('What is the weather like?')
        and 0 <= a.confidence <= 1
        and a.probability is None
    )
    assert (
        MockAgent().version == 'baseline'
        and MockAgent('fine-tuned').generate_response('Hi').text == MockAgent().generate_response('Hi').text
    )
    assert set(KEYWORDS) == {'weather', 'travel', 'general'}


def test_a_percentage_of_nothing_is_not_a_number():
    table = changes(dict(a=0.0, b=0.5, c=0.5), dict(a=0.3, b=0.25, c=0.5)).set_index('metric')
    assert table['percent'].tolist() == ['n/a', '-50.0%', '+0.0%'] and table.loc['a', 'change'] == 0.3
    with pytest.raises(AgentkitError, match='not the same metrics: b only once'):
        changes(dict(a=1), dict(a=1, b=2))


@pytest.mark.parametrize(
    'a, b, same',
    [
        ('Take  an umbrella.', 'take an\numbrella.', True),
        ('Take an umbrella.', 'Take an umbrella', False),
        ('x', '', False),
    ],
)
def test_what_counts_as_the_same(a, b, same):
    assert same_words(a, b) is same


def test_another_judge_of_what_is_correct():
    "Where a model words things its own way, somebody else decides."
    example = say('a', 'rain')
    assert (
        AgentEvaluator([example], correct=lambda expected, answer: expected in answer)
        .answers(Says(dict(a=('There will be rain.', 0.5))))['correct']
        .item()
        == 1
    )


# the requests


def test_requests_are_seeded_and_each_has_one_right_answer():
    made = from_generator(chat_request, 300, seed=3)
    assert made == from_generator(chat_request, 300, seed=3) and made != from_generator(chat_request, 300, seed=4)
    answers = {}
    for r in made:
        assert answers.setdefault(r.input, r.output) == r.output
    assert {r.kind for r in made} == set(ASKED)
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
    examples = held_out()
    assert len(examples) == 60 and pd.Series([r.kind for r in examples]).value_counts().tolist() == [20, 20, 20]
    assert len({r.input for r in examples}) == 60
    kept, _ = filter_records(
        from_generator(logged_chat, 800), uncontaminated(texts=[r.input for r in examples], near=None)
    )
    assert not {r.input for r in kept} & {r.input for r in examples} and len(kept) < 800


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


def test_pairs_are_of_the_same_example():
    examples = [say(x, 'yes') for x in 'abc']
    before, after = (
        AgentEvaluator(e).answers(Says(dict(a=(a, 0.5), b=(b, 0.5), c=('no', 0.5))))
        for e, a, b in ((examples, 'yes', 'no'), (examples[::-1], 'no', 'yes'))
    )
    assert paired(before, after).set_index('input')['change'].to_dict() == dict(a='lost', b='gained', c='')
    d = difference(before, after)
    assert (d['gained'], d['lost'], d['difference'], d['p']) == (1, 1, 0, 1)
    with pytest.raises(AgentkitError, match='not to the same examples'):
        paired(before, after.head(2))


def test_answers_are_episodes_for_everything_else():
    evaluator = AgentEvaluator(held_out(2))
    right = evaluator.answers(Says({r.input: (r.output, 0.9) for r in evaluator.examples}))
    wrong = evaluator.answers(MockAgent())
    c, d = compare(report(wrong), report(right)), difference(wrong, right)
    assert (
        (c['tasks'], c['difference'], c['gained'], c['p'])
        == (d['n'], d['difference'], d['gained'], d['p'])
        == (6, 1, 6, 2 * 0.5**6)
    )
    assert report(right).by_kind['kind'].tolist() == ['general', 'travel', 'weather']


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


def engine(text, logprobs, finish='stop'):
    reply = SimpleNamespace(
        message=SimpleNamespace(text=text),
        logprobs=logprobs and [SimpleNamespace(token=t, logprob=p) for t, p in logprobs],
        finish_reason=finish,
    )
    asked = []
    return SimpleNamespace(
        model='local/told', engine=SimpleNamespace(complete=lambda request: asked.append(request) or reply), asked=asked
    )


def test_confidence_is_the_geometric_mean_of_the_tokens():
    lm = engine(' rain ', [('ra', math.log(0.5)), ('in', math.log(0.32))], 'length')
    a = ChatAgent(lm, 'Be brief.', max_tokens=7).generate_response('Sun?')
    assert a.text == 'rain' and a.confidence == pytest.approx(0.4) and a.probability == pytest.approx(0.16)
    assert a.reasoning == "2 tokens, least sure of 'in' (32%), cut off"
    (request,) = lm.asked
    assert request.system == 'Be brief.' and (
        request.config.max_tokens,
        request.config.temperature,
        request.config.logprobs,
    ) == (7, 0, 0)


def test_no_answer_and_no_probabilities():
    assert ChatAgent(engine('', None)).generate_response('?').confidence == 0
    with pytest.raises(AgentkitError, match='gives no token probabilities'):
        ChatAgent(scripted_lm(['Yes.'])).generate_response('?')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
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
            evaluator=AgentEvaluator(c.records),
        )
        stop_servers()


TRAIN = dict(lr=1e-2, batch_tokens=128)


def measured(lab, *args, **kwargs):
    stop_servers()
    return lab.evaluator.answers(fine_tune(lab.base, *args, **kwargs))


def test_training_changes_the_weights_and_the_losses_are_its_own(lab):
    before, agent = measured(lab, lab.data, 0), fine_tune(lab.base, lab.data, 20, **TRAIN)
    after, losses = lab.evaluator.answers(agent), agent.lm.provider.losses(agent.name)
    assert losses['epoch'].max() == 20 and losses['loss'].iloc[-1] < losses['loss'].iloc[0] / 4
    card, base = (agent.lm.provider.card(n) for n in (agent.name, lab.base))
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
    told = agent.lm.server.post('/v1/chat/completions', request)['choices'][0]['logprobs']['content']
    answer = agent.generate_response('rain in Oslo')
    assert answer.logprobs == pytest.approx([min(0, t['logprob']) for t in told], abs=1e-4)
    assert all(t['logprob'] == max(x['logprob'] for x in t['top_logprobs']) for t in told), (
        'the most probable token is the one it wrote'
    )
