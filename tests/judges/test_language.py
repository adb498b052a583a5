"Judges that ask a model: unreadable replies, refusing servers, known numbers."

import dataclasses
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import pytest
from hypothesis import given, settings, strategies as st
from judges.shared import GOLD, LOOK, STATE, YES, answered, broken, played, rated, step

from agentkit.core.actions import ToolCall
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Observation, Step, Task, Trajectory
from agentkit.judges.base import ExactMatch, Verdict, exact_match, passes, success
from agentkit.judges.language import (
    BRIEF,
    AIFeedback,
    Pairwise,
    TrajectoryRating,
    feedback_table,
    good_steps,
    numbered,
    rating_table,
    read_numbered,
    read_sections,
    sections,
)
from agentkit.judges.run import judge_all
from agentkit.models.find import make_lm
from agentkit.rollouts import episode_prediction
from agentkit.testing.judges import stand_in_judge
from agentkit.testing.models import scripted_lm

# what a reply may look like


@pytest.mark.parametrize(
    'reply',
    [
        '{"explanation": "Fine.", "makes_sense": true}',
        'Well.\n```json\n{"makes_sense": "yes", "explanation": "Fine."}\n```',
        '<think>{"draft": 1}</think> {"explanation": "Fine.", "makes_sense": true, "more": 1}',
    ],
)
def test_what_can_be_read_is_read(reply):
    v = AIFeedback(scripted_lm([reply])).verdict(GOLD, LOOK)
    assert v.score == 0.5 and v.explanation == 'Fine.' and v.usage['calls'] == 1


@pytest.mark.parametrize(
    'reply',
    [
        '',
        ' ',
        'null',
        '[]',
        '{}',
        '{"makes_sense": true',
        'yes',
        '{"explanation": "Fine."}',
        '{"explanation": "Fine.", "makes_sense": "perhaps"}',
        '{"explanation": "Fine.", "makes_sense": null}',
        '{"a":' * 5000,
        '{"explanation": 7, "makes_sense": true}',
    ],
)
def test_what_cannot_be_read_is_asked_for_once_more_and_then_unjudged(reply):
    lm = scripted_lm([reply])
    v = AIFeedback(lm).verdict(GOLD, LOOK)
    assert v.status == 'unjudged' and v.score is None and v.error == '' and v.usage['calls'] == 2
    assert len(lm.script.asked) == 2
    mended = AIFeedback(scripted_lm([reply, YES])).verdict(GOLD, LOOK)
    assert mended.score == 0.5 and mended.usage['calls'] == 2


@pytest.mark.parametrize(
    'reply, score',
    [
        ('{"explanation": "no", "makes_sense": false} It wrote {"explanation": "good", "makes_sense": true}.', None),
        ('It wrote {"explanation": "good", "makes_sense": true}. {"explanation": "no", "makes_sense": false}', None),
        ('{"explanation": "no", "makes_sense": false} So: {"explanation": "no, really", "makes_sense": false}', 0.0),
        ('<think>{"explanation": "?", "makes_sense": false}</think>{"explanation": "ok", "makes_sense": true}', 0.5),
        ('{"explanation": "it wrote {\\"makes_sense\\": true}", "makes_sense": false}', 0.0),
    ],
)
def test_a_judge_that_quotes_does_not_agree(reply, score):
    "Of two answers that differ nobody can tell which is the verdict."
    lm = scripted_lm([reply])
    assert AIFeedback(lm)(GOLD, LOOK) == score
    assert len(lm.script.asked) == 1 + (score is None)


HALF = json.loads('"\\ud83d"')  # of a pair: Python has a text for it, UTF-8 has none


def test_half_a_surrogate_pair_ends_nothing(tmp_path):
    "Neither in what is judged, nor in the reply, nor in JSON inside of it, nor in what cannot be read."
    replies = ['Hello!', f'{HALF} no', f'{HALF} no', '{"explanation": "a \\ud83d", "final_answer_rating": 4}']
    with Server([(200, r) for r in replies]) as s:
        judge = TrajectoryRating(s.lm, steps=False)
        items = [dataclasses.replace(played(i), steps=(step(f'say {HALF}', f'{HALF}!'),)) for i in range(2)]
        verdicts = judge_all(judge, items, tmp_path / 'v.jsonl', parallel=1, progress=False)
        again = judge_all(judge, items, tmp_path / 'v.jsonl', progress=False)
    assert [v.explanation for v in verdicts] == ['not readable: ? no', 'a ?']
    assert [v.score for v in again] == [0.75, 0.75], 'what could not be read is asked for again'
    assert len(s.asked) == 6 and '1. say ?\n|    ?!' in s.asked[1]['messages'][1]['content']


@pytest.mark.parametrize(
    'stars, score',
    [(1, 0.0), ('4', 0.75), (5.0, 1.0), (0, None), (6, None), (4.5, None), ('4/5', None), (True, None), (None, None)],
)
def test_a_rating_is_one_to_five(stars, score):
    assert TrajectoryRating(scripted_lm([rated(stars)]), steps=False)(None, played()) == score


@pytest.mark.parametrize('n, status', [(1, 'unjudged'), (2, 'judged'), (3, 'unjudged')])
def test_the_ratings_are_as_many_as_the_steps(n, status):
    one = dict(explanation='', task_rating=4, tool_rating=3, result_rating=5)
    v = TrajectoryRating(
        scripted_lm([json.dumps(dict(steps=[one] * n, explanation='', final_answer_rating=4))])
    ).verdict(played())
    assert v.status == status
    if status == 'judged':
        assert len(v.detail['steps']) == 2 and good_steps(v, 3) == [0, 1] and good_steps(v, 4) == []


def test_an_episode_without_steps_can_be_rated():
    t = dataclasses.replace(played(), steps=())
    assert (
        TrajectoryRating(scripted_lm([json.dumps(dict(steps=[], explanation='', final_answer_rating=1))]))
        .verdict(t)
        .score
        == 0
    )


LINES = st.text(alphabet=st.sampled_from('ab1. #\n{}"\t'), max_size=30)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(LINES, LINES), max_size=5))
def test_nothing_inside_an_episode_looks_like_a_step_or_a_field(pairs):
    shown = sections(dict(task='t', steps=numbered(pairs)))
    assert list(read_sections(shown)) == ['task', 'steps']
    assert read_numbered(numbered(pairs)) == [(' '.join(a.split()), o) for a, o in pairs]


# servers


class Server:
    "Answers one (status, text) after the other, and keeps what it was asked."

    def __init__(self, answers):
        asked = self.asked = []  # the bodies of the requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
                status, text = answers[min(len(asked), len(answers)) - 1]
                usage = dict(prompt_tokens=9, completion_tokens=2, total_tokens=11)
                body = (
                    dict(
                        usage=usage, choices=[dict(finish_reason='stop', message=dict(role='assistant', content=text))]
                    )
                    if status == 200
                    else dict(error=dict(message=text))
                )
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header('Content-Type', 'application/json')
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.lm = make_lm(f'openai/parrot@http://127.0.0.1:{self.http.server_port}')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def test_a_server_is_held_to_the_schema():
    with Server([(200, YES)]) as s:
        v = AIFeedback(s.lm).verdict(GOLD, LOOK)
    schema = s.asked[0]['response_format']['json_schema']['schema']
    assert v.score == 0.5 and v.usage == dict(calls=1, tokens_in=9, tokens_cached=0, tokens_out=2)
    assert schema['required'] == ['explanation', 'makes_sense'] and schema['additionalProperties'] is False


def test_only_a_server_of_our_own_is_held_to_the_length_of_an_explanation():
    "A small model would not stop explaining; OpenAI refuses schemas with lengths."

    def explanation(name):
        lm = scripted_lm([YES], name=name)
        assert AIFeedback(lm)(GOLD, LOOK) == 0.5
        return lm.script.asked[0].config.response_format['schema']['properties']['explanation']

    assert explanation('local/small') == dict(type='string', maxLength=BRIEF) and explanation('openai/large') == dict(
        type='string'
    )


def test_the_judge_of_settings_ini_is_called_judge(monkeypatch):
    monkeypatch.setenv('AGENTKIT_MODELS_JUDGE', 'openai/parrot@http://127.0.0.1:9')
    assert TrajectoryRating('judge').name == 'TrajectoryRating(openai/parrot)'
    monkeypatch.setenv('AGENTKIT_MODELS_JUDGE', '')
    with pytest.raises(AgentkitError, match='names no judge'):
        TrajectoryRating('judge')


def test_a_server_that_refuses_schemas_is_asked_plainly_from_then_on():
    with Server([(400, 'response_format is not supported'), (200, YES)]) as s:
        judge = AIFeedback(s.lm)
        assert [judge(GOLD, LOOK), judge(GOLD, LOOK)] == [0.5, 0.5]
    assert ['response_format' in body for body in s.asked] == [True, False, False]


def test_a_request_that_is_refused_is_a_failure_and_no_score():
    with Server([(400, 'the conversation is too long')]) as s:
        judge = AIFeedback(s.lm)
        v = judge.verdict(GOLD, LOOK)
        assert v.status == 'failed' and v.score is None and 'too long' in v.error
        assert not judge.adapter.plain, 'it was not the schema'
        assert judge(GOLD, LOOK) is None


def test_what_a_person_has_to_put_right_stops_the_run():
    with Server([(401, 'who are you?')]) as s:
        with pytest.raises(AgentkitError, match='does not accept the key'):
            AIFeedback(s.lm).verdict(GOLD, LOOK)
    with pytest.raises(AgentkitError, match='nobody answers'):
        judge_all(TrajectoryRating('openai/parrot@http://127.0.0.1:9'), [played()], progress=False)


def test_an_engine_that_breaks_is_a_failure():
    class Broken:
        def complete(self, request):
            raise RuntimeError('out of order')

        def __deepcopy__(self, memo):
            return self

    v = TrajectoryRating(dspy.LM('broken', engine=Broken(), cache=False, num_retries=0)).verdict(played())
    assert v.status == 'failed' and v.score is None and 'out of order' in v.error


# the numbers of AI feedback


def test_exact_assessor_and_combined_are_three_numbers():
    judge = AIFeedback(stand_in_judge(lambda shown: 'look' in shown['decision'], error=0.0))
    actions = ['go to shelf 1'] * 14 + ['look', 'look 2', 'look 3'] + ['sing', 'dance', '']
    verdicts = judge_all(judge, [(GOLD, dspy.Prediction(action=a)) for a in actions], progress=False)
    t = feedback_table(verdicts).set_index('rate')
    assert t['value'].to_dict() == pytest.approx(
        dict(exact=14 / 20, assessor=3 / 6, combined=15.5 / 20, unjudged=0, failed=0)
    )
    assert t.loc['exact', 'ci_low'] == pytest.approx(0.4810, abs=1e-3) and t.loc['exact', 'ci_high'] == pytest.approx(
        0.8545, abs=1e-3
    )
    assert t.loc['combined', 'ci_low'] < 0.775 < t.loc['combined', 'ci_high']
    assert sum(passes(v.score) for v in verdicts) == 14 and sum(passes(v.score, 0.5) for v in verdicts) == 17


def test_unjudged_decisions_are_neither_right_nor_wrong():
    verdicts = (
        [Verdict(1.0, detail=dict(exact=True, makes_sense=None))] * 5
        + [
            Verdict(0.5, detail=dict(exact=False, makes_sense=True)),
            Verdict(0.0, detail=dict(exact=False, makes_sense=False)),
        ]
        + [Verdict(None, detail=dict(exact=False, makes_sense=None))] * 2
        + [Verdict(None, error='gone', detail=dict(exact=False, makes_sense=None))]
    )
    t = feedback_table(verdicts).set_index('rate')
    assert t['value'].to_dict() == pytest.approx(
        dict(exact=0.5, assessor=0.5, combined=0.5 + 0.5 * 0.5 * 0.5, unjudged=0.2, failed=0.1)
    )
    nobody = feedback_table([verdicts[-1]] * 3).set_index('rate')['value']
    assert nobody['assessor'] != nobody['assessor'] and nobody['combined'] != nobody['combined'], (
        'nothing was judged: not a number'
    )


def test_a_missing_answer_is_wrong_and_a_missing_reference_an_error():
    assert exact_match(GOLD, dspy.Prediction()) == 0
    assert (
        AIFeedback(scripted_lm(['{"explanation": "", "makes_sense": false}']))(GOLD, dspy.Prediction(action=None)) == 0
    )
    with pytest.raises(AgentkitError, match="no 'subgoal' to compare with"):
        AIFeedback(scripted_lm([YES]), field='subgoal')(GOLD, LOOK)
    assert ExactMatch('subgoal')(dspy.Example(subgoal='GoNextTo'), dspy.Prediction(subgoal='GoNextTo')) == 1


def test_the_assessor_does_not_see_the_reference():
    lm = scripted_lm([YES])
    AIFeedback(lm)(dspy.Example(**STATE, action='the secret').with_inputs(*STATE), LOOK)
    assert 'secret' not in str(lm.script.asked[0])


def test_the_judge_is_not_told_how_it_ended():
    lm, t = scripted_lm([rated(1)]), played(won=True)
    TrajectoryRating(lm, steps=False)(None, t)
    shown = lm.script.asked[0].messages[-1].text
    assert 'won' not in shown and shown == sections(dict(task=t.first.text, steps=numbered(t.turns)))


# whatever is played


def test_any_action_space_is_judged():
    "Calls of tools and answers in words are read as they were said."
    tools, lm = ToolCall({'add': {'properties': {'a': {'type': 'integer'}}}}), scripted_lm([rated(5)])
    call = '{"tool": "add", "arguments": {"a": 1}}'
    first = Observation('Add 1 and 1.', tools)
    t = Trajectory(Task('sum', 'tools'), 'pupil', first, (Step(Decision(call, 'easy'), Observation('2')),), 'ended')
    assert TrajectoryRating(lm, steps=False).verdict(t).score == 1
    assert read_sections(lm.script.asked[0].messages[-1].text) == dict(task='Add 1 and 1.', steps=f'1. {call}\n   2')
    words = answered('It is\n42.')
    assert TrajectoryRating(lm, steps=False).verdict(words).score == 1
    assert '1. It is 42.\n|    Thank you.' in lm.script.asked[1].messages[-1].text


def test_what_broke_off_is_not_judged():
    lm = scripted_lm([json.dumps(dict(explanation='', better='first'))])
    for judge, item in ((TrajectoryRating(lm), [broken()]), (Pairwise(lm), [played(), broken()])):
        v = judge.verdict(*item)
        assert v.status == 'unjudged' and 'the server is gone' in v.explanation and v.judge == judge.name
    assert not lm.script.asked


def test_who_cannot_say_who_won_says_so():
    "An episode without a score is no loss; the score that a judge gave counts."
    with pytest.raises(AgentkitError, match='questions does not say how well question-0 was done'):
        success(None, episode_prediction(answered()))
    results = [success(None, episode_prediction(dataclasses.replace(answered(), score=x))) for x in (1.0, 0.75)]
    assert results == [1.0, 0.0]


# thresholds


def test_higher_thresholds_let_through_less_and_the_boundary_belongs_to_them():
    r = random.Random(0)
    stars = [r.randint(1, 5) for _ in range(40)]
    verdicts = [TrajectoryRating(scripted_lm([rated(n)]), steps=False).verdict(played(i)) for i, n in enumerate(stars)]
    kept = {
        n: {
            i
            for i, v in enumerate(verdicts)
            if TrajectoryRating(scripted_lm(['']), rating_threshold=n).rescored(v).score == 1
        }
        for n in (3, 4, 5)
    }
    assert kept[5] < kept[4] < kept[3]
    for n in kept:
        assert kept[n] == {i for i, x in enumerate(stars) if x >= n}
    table = rating_table(verdicts).set_index('rating_threshold')
    assert {n: table.loc[n, 'passed'] for n in kept} == {n: len(k) for n, k in kept.items()}
    with pytest.raises(AgentkitError, match='ratings are 1, 2, 3, 4 or 5'):
        TrajectoryRating(scripted_lm(['']), rating_threshold=0.8)


def test_bad_tasks_are_pooled_over_steps():
    def v(*tasks):
        return Verdict(
            None if not tasks else 0.5, 3 if tasks else None, detail=dict(steps=[dict(task_rating=t) for t in tasks])
        )

    table = rating_table([v(5, 5, 5, 1), v(2), v()]).set_index('rating_threshold')
    assert (
        table.loc[4, 'bad_task_rate'] == pytest.approx(2 / 5)
        and table.loc[2, 'bad_task_rate'] == pytest.approx(1 / 5)
        and table.loc[4, 'unjudged'] == 1
    )
    with pytest.raises(AgentkitError, match='no ratings in 1 verdicts'):
        rating_table([v()])


# pairs


@pytest.mark.parametrize(
    'replies, score, consistent',
    [
        (('first', 'second'), 1.0, True),
        (('second', 'first'), 0.0, True),
        (('tie', 'tie'), 0.5, True),
        (('first', 'first'), 0.5, False),
        (('second', 'second'), 0.5, False),
        (('tie', 'first'), 0.5, False),
    ],
)
def test_only_what_holds_in_both_orders_counts(replies, score, consistent):
    judge = Pairwise(scripted_lm([json.dumps(dict(explanation='', better=b)) for b in replies]))
    v = judge.verdict(played(0), played(0, won=False))
    assert v.score == score and v.detail['consistent'] is consistent and v.usage['calls'] == 2


def test_half_a_comparison_is_none():
    judge = Pairwise(scripted_lm([json.dumps(dict(explanation='', better='first')), 'no']))
    v = judge.verdict('a', 'b', 'q')
    assert v.status == 'unjudged' and v.usage['calls'] == 3
    with pytest.raises(AgentkitError, match='different tasks'):
        judge.verdict(played(0), played(1))


def test_pairs_as_a_metric_compare_with_the_reference():
    judge = Pairwise(stand_in_judge(lambda shown: 'first' if 'on the shelf' in shown['first'] else 'second', error=0.0))
    gold = dspy.Example(task_id='task-0', episode=played(0, won=False)).with_inputs('task_id')
    assert judge(gold, episode_prediction(played(0))) == 1.0
    assert (
        judge(dspy.Example(question='q', answer='on the shelf').with_inputs('question'), dspy.Prediction(answer='no'))
        == 0.0
    )
