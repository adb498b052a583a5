"Collection: what comes in, what must not, what is dropped and why, and a journal that nothing breaks."

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from agentkit.agents.saving import student_agent
from agentkit.data.collector import DataCollector, TrainingExample
from agentkit.data.filters import (
    balanced,
    each,
    ended,
    filter_records,
    length,
    near_twins,
    near_unique,
    rated,
    scored,
    shingles,
    uncontaminated,
    unique,
)
from agentkit.data.logs import from_log, from_plans, plan_prompt
from agentkit.data.records import (
    SOURCES,
    Record,
    agreement,
    collect,
    from_generator,
    from_trajectories,
    judged,
    make_record,
    rate,
    rate_records,
    read_ratings,
    read_records,
    record,
    step_marks,
)
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal
from agentkit.core.types import Decision, Observation, Step, Task, Trajectory
from agentkit.data.pairs import preference_pairs
from agentkit.data.rows import mask_turns, split_by_task, task_of
from agentkit.judges.base import Verdict

STUDENT = student_agent(None, view='full')


def say(input='Where is the mug?', output='On the shelf.', source='log', **facts):
    return make_record(dict(input=input, output=output, **facts), source)


def played(n=0, end='won', actions=('go to shelf 1', 'take mug 1 from shelf 1'), **facts):
    steps = tuple(Step(Decision(a), Observation(f'You did: {a}.'), valid=a != 'fly') for a in actions)
    task, first = Task(f'train/{n}', 'household', 'pick', 'train'), Observation(f'Your task is to: find mug {n}.')
    known = dict(policy='openai/tiny@http://host/v1', steps=steps, termination=end, score=float(end == 'won'))
    return Trajectory(task, first=first, **{**known, **facts})


# records

text = st.text(st.characters(codec='utf-8'), min_size=1, max_size=20).filter(str.strip)
messages = st.lists(
    st.fixed_dictionaries(dict(role=st.sampled_from(['system', 'user', 'assistant']), content=text)), max_size=4
).map(tuple)
records = st.builds(
    Record,
    messages=messages,
    output=text,
    kind=text,
    source=st.sampled_from(SOURCES),
    score=st.none() | st.floats(0, 1),
    rating=st.none() | st.floats(1, 5),
    provenance=st.dictionaries(text, st.one_of(text, st.integers(), st.none()), max_size=3),
)


@given(records)
def test_a_record_survives_json_and_is_the_same_however_it_was_judged(r):
    again = record(json.loads(json.dumps(r.to_dict())))
    assert again == r and again.id == r.id == dataclasses.replace(r, score=None, rating=None).id
    assert r.row()['messages'][-1]['content'] == r.output


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(version=2), 'version 2 is unknown'),
        (dict(format='agentkit-trajectory'), 'not a record'),
        (dict(mood='good'), 'unknown fields in a record: mood'),
    ],
)
def test_what_is_unknown_is_refused_by_name(change, message):
    with pytest.raises(AgentkitError, match=message):
        record({**say().to_dict(), **change})


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(score=1.01), 'a score is a number from 0 to 1'),
        (dict(score=True), 'a score is'),
        (dict(score='0.9'), 'a score is'),
        (dict(score=float('nan')), 'a score is'),
        (dict(rating=0), 'a rating is a number from 1 to 5'),
        (dict(output=' '), 'the answer is empty'),
        (dict(source='rumour'), 'is not one of rollout'),
        (dict(messages=(dict(role='boss', content='x'),)), 'a message needs a role'),
        (dict(messages=(dict(role='user', content=None),)), 'a message needs'),
    ],
)
def test_a_record_that_cannot_be(change, message):
    with pytest.raises(AgentkitError, match=message):
        dataclasses.replace(say(), **change)


def test_origin_tells_records_apart_and_a_file_does_not():
    assert say(task='a').id != say(task='b').id and say(file='x').id == say(file='y').id
    assert say().id != say(source='person').id


# from episodes


def test_episodes_and_steps_have_the_same_targets_and_their_provenance():
    whole, steps = from_trajectories([played(1)], STUDENT), from_trajectories([played(1)], STUDENT, steps=True)
    assert (
        [m['content'] for m in whole[0].row()['messages'] if m.get('loss')]
        == ['go to shelf 1', 'take mug 1 from shelf 1']
        == [r.output for r in steps]
    )
    assert [[m['loss'] for m in r.row()['messages'] if m['role'] == 'assistant'] for r in steps] == [
        [True],
        [False, True],
    ]
    p = steps[1].provenance
    assert (p['task'], p['seed'], p['model'], p['termination'], p['step'], p['judge'], p['score']) == (
        'train/1',
        0,
        'openai/tiny',
        'won',
        1,
        'environment',
        1,
    )
    assert len(p['prompt']) == 12 and p['policy'].startswith('openai/tiny')
    assert from_trajectories([played(steps=())], STUDENT) == []


def test_a_judges_verdict_takes_the_place_of_the_environments():
    yes, cannot = Verdict(0.5, 3, judge='large'), Verdict(None, judge='large', error='no server')
    a, b = from_trajectories([played(1), played(2)], STUDENT, verdicts=[yes, cannot])
    assert (a.score, a.rating, a.provenance['judge']) == (0.5, 3, 'large') and (b.score, b.provenance['unjudged']) == (
        None,
        'no server',
    )
    assert (
        judged([say(score=1.0)], [Verdict(None)])[0].provenance['unjudged'] == 'unjudged'
        and judged([say(score=1.0)], [cannot])[0].score is None
    )
    assert [len(filter_records([a, b], scored(s))[0]) for s in (0, 0.5, 0.51)] == [1, 1, 0], (
        'what could not be judged never passes'
    )
    for wrong in (lambda: from_trajectories([played()], STUDENT, verdicts=[]), lambda: judged([say()], [])):
        with pytest.raises(AgentkitError, match='0 verdicts for 1'):
            wrong()


def test_what_a_judge_thinks_of_each_step():
    rated_steps, reasonable = (
        dict(steps=[dict(task_rating=5, tool_rating=3), dict(task_rating=4, tool_rating=5)]),
        dict(steps=[dict(reasonable=True), dict(reasonable=None)]),
    )
    a = from_trajectories([played(1)], STUDENT, steps=True, verdicts=[Verdict(1.0, 5, detail=rated_steps)])
    assert [r.provenance['step_rating'] for r in a] == [3, 4] and [
        len(filter_records(a, rated(t, of='step_rating'))[0]) for t in (3, 4, 5)
    ] == [2, 1, 0]
    b = from_trajectories([played(1)], STUDENT, steps=True, verdicts=[Verdict(1.0, detail=reasonable)])
    assert [r.provenance['step_score'] for r in b] == [1, None] and [
        r.output for r in filter_records(b, scored(1, of='step_score'))[0]
    ] == ['go to shelf 1']
    row = from_trajectories([played(1)], STUDENT)[0].row()
    masked = mask_turns(row, [m['step_rating'] for m in step_marks(Verdict(1.0, detail=rated_steps), 2)], 4)
    assert [m['loss'] for m in masked['messages'] if m['role'] == 'assistant'] == [False, True]
    with pytest.raises(AgentkitError, match='judged 2 steps, and there were 1'):
        from_trajectories([played(1, actions=('look',))], STUDENT, verdicts=[Verdict(1.0, detail=rated_steps)])


# from planners


def plan(task, tool='search', result='Found.'):
    return dict(
        plan=dict(
            user_request='x',
            context_information_summary='c',
            missing_information_or_action='m',
            thoughts='t',
            task=task,
            selected_tool=tool,
        ),
        result=result,
    )


def test_a_planners_prompt_and_target_to_the_byte():
    r = from_plans('How high is it?', [plan('Look it up.', result='57 m'), plan('Answer.', 'final_answer')])[1]
    assert r.messages[0]['content'] == (
        'User request: \n\n```\nHow high is it?\n```\n\nContext information: \n\n```\nTask: Look it up.\n'
        'Result: 57 m\n```\n\nPlan the next step.'
    )
    assert (
        r.output
        == '{"context_information_summary": "c", "thoughts": "t", "task": "Answer.", "selected_tool": "final_answer"}'
    )
    assert '<no previous steps available>' in plan_prompt('How high is it?', [])
    tools = {'search': 'Useful for facts.', 'final_answer': 'Useful at the end.'}
    listed = from_plans('How high is it?', [plan('Look it up.')], tools=tools)[0].messages[0]['content']
    assert all(f'{k}: {v}' in listed for k, v in tools.items()) and not any(
        v in r.messages[0]['content'] for v in tools.values()
    )


def test_ratings_of_trajectories_and_of_steps():
    def rating(final, *steps):
        return dict(
            final_answer_rating=final,
            steps=[dict(task_rating=s, tool_rating=5, result_rating=5, explanation='') for s in steps],
        )

    steps = [plan('a'), plan('b'), plan('c', 'final_answer')]
    everything = [
        r
        for i, ratings in enumerate([rating(5, 5, 2), rating(4, 4, 4), rating(3, 5, 5), None])
        for r in from_plans(f'request {i}', steps, ratings)
    ]
    kept = {t: {r.id for r in filter_records(everything, rated(t))[0]} for t in (3, 4, 5)}
    assert kept[5] < kept[4] < kept[3] and [len(kept[t]) for t in (3, 4, 5)] == [9, 6, 3]
    good, report = filter_records(everything, rated(4), rated(4, of='step_rating'))
    assert len(good) == 5 and [d['reason'] for d in report.dropped if d['filter'].startswith('step')] == [
        'step_rating below 4'
    ]
    assert Counter(d['reason'] for d in report.dropped)['no rating'] == 3
    train, held = split_by_task([r.row() for r in everything], share=0.25)
    assert len(held) == 3 and not {task_of(r) for r in train} & {task_of(r) for r in held}, (
        'the steps of a request stay together'
    )
    with pytest.raises(AgentkitError, match='has no thoughts in its plan'):
        from_plans('x', [dict(plan=dict(context_information_summary='', task='a', selected_tool='b'), result='')])


# from generators and logs


def test_generators_are_seeded_and_prefixes():
    def make(r):
        return dict(input=f'What is {r.random()}?', output='A number.', kind='odd', method='template')

    five = from_generator(make, 5)
    assert (
        from_generator(make, 3) == five[:3]
        and from_generator(make, 5, seed=1) != five
        and len({r.id for r in five}) == 5
    )
    assert (
        five[2].provenance == dict(generator='make', seed=0, number=2, method='template')
        and five[0].source == 'synthetic'
    )


ASKED, ANSWER = dict(role='user', content='Is it raining?'), dict(role='assistant', content='No.')
CALL = dict(
    role='assistant',
    content=None,
    tool_calls=[dict(id='1', type='function', function=dict(name='rain', arguments='{"day": 1}'))],
)
SPAN = {
    'mlflow.spanType': '"CHAT_MODEL"',
    'mlflow.spanInputs': json.dumps(dict(messages=[ASKED])),
    'mlflow.spanOutputs': '["No."]',
}
LOGS = {
    'openai': [
        dict(messages=[ASKED, ANSWER], model='tiny'),
        dict(messages=[ASKED], choices=[dict(message=ANSWER)]),
        dict(request=dict(messages=[ASKED]), response=dict(body=dict(choices=[dict(message=ANSWER)]))),
        dict(
            messages=[
                dict(role='user', content=[dict(type='text', text='Is it '), dict(type='text', text='raining?')]),
                ANSWER,
                dict(role='user', content='Thanks.'),
            ]
        ),
    ],
    'dspy': [
        dict(prompt=None, messages=[ASKED], outputs=['No.'], model='openai/tiny', timestamp='x'),
        dict(prompt='Is it raining?', messages=None, outputs=[dict(text='No.')]),
    ],
    'sharegpt': [dict(conversations=[{'from': 'human', 'value': 'Is it raining?'}, {'from': 'gpt', 'value': 'No.'}])],
    'alpaca': [dict(instruction='Is it raining?', input='', output='No.')],
    'mlflow': [
        dict(
            info=dict(trace_id='tr-1'),
            data=dict(
                spans=[
                    dict(name='lm', attributes=SPAN),
                    dict(name='agent', attributes={'mlflow.spanType': '"AGENT"'}),
                    dict(name='Predict.forward', attributes={**SPAN, 'mlflow.spanInputs': '{"task": "x"}'}),
                    dict(name='failed', attributes={**SPAN, 'mlflow.spanOutputs': None}),
                ]
            ),
        )
    ],
}


@pytest.mark.parametrize('array', [False, True])
@pytest.mark.parametrize('format', LOGS)
def test_logs_of_other_tools(tmp_path, format, array):
    path = tmp_path / ('x.json' if array else 'x.jsonl')
    path.write_text(json.dumps(LOGS[format], indent=1) if array else '\n'.join(map(json.dumps, LOGS[format])))
    found = from_log(path, format, kind='weather')
    assert len(found) == len(LOGS[format])
    assert {(r.input, r.output, r.kind, r.source, r.score) for r in found} == {
        ('Is it raining?', 'No.', 'weather', 'log', None)
    }
    assert (
        len({r.id for r in found}) == 1
        and found[0].provenance['file'] == path.name
        and found[0].provenance['where'].endswith(' 1')
    )


def test_tools_in_a_log_become_text(tmp_path):
    path = tmp_path / 'x.jsonl'
    path.write_text(
        json.dumps(
            dict(
                messages=[
                    dict(role='developer', content='Be brief.'),
                    ASKED,
                    CALL,
                    dict(role='tool', tool_call_id='1', content='dry'),
                    {**ANSWER, 'weight': 1},
                ]
            )
        )
    )
    r = from_log(path, 'openai')[0]
    assert [m['role'] for m in r.messages] == ['system', 'user', 'assistant', 'user'] and r.output == 'No.'
    assert json.loads(r.messages[2]['content']) == dict(tool='rain', arguments=dict(day=1))
    path.write_text(json.dumps(dict(messages=[ASKED, ANSWER, ASKED, {**ANSWER, 'weight': 0, 'content': 'Perhaps.'}])))
    assert from_log(path, 'openai')[0].output == 'No.', 'an answer of weight 0 is not one to learn'


def call(arguments, **message):
    return dict(role='assistant', content=None, **message, function_call=dict(name='rain', arguments=arguments))


@pytest.mark.parametrize('arguments', ['{"day": 1}', dict(day=1)])
def test_a_call_of_the_old_form_is_an_answer(tmp_path, arguments):
    path = tmp_path / 'x.jsonl'
    result = dict(role='function', name='rain', content='dry')
    path.write_text(json.dumps(dict(messages=[ASKED, call(arguments), result, ANSWER])))
    assert json.loads(from_log(path, 'openai')[0].messages[1]['content']) == dict(tool='rain', arguments=dict(day=1))
    value = json.dumps(dict(name='rain', arguments=arguments))
    path.write_text(json.dumps(dict(conversations=[ASKED, {'from': 'function_call', 'value': value}])))
    assert json.loads(from_log(path, 'sharegpt')[0].output) == dict(tool='rain', arguments=dict(day=1))


def test_a_call_is_an_action_of_those_tools(tmp_path):
    from agentkit.core.actions import ToolCall

    path = tmp_path / 'x.jsonl'
    path.write_text(json.dumps(dict(messages=[ASKED, CALL])))
    day = dict(properties=dict(day=dict(type='integer')), required=['day'])
    assert ToolCall(dict(rain=day)).allows(from_log(path, 'openai')[0].output)


@pytest.mark.parametrize(
    'arguments, reason',
    [
        ('{"day": Monday}', 'the arguments of rain are not JSON: {"day": Monday}'),
        ('[1]', 'the arguments of rain are no object: [1]'),
        ('3', 'the arguments of rain are no object: 3'),
    ],
)
def test_arguments_that_are_no_object_are_named(tmp_path, arguments, reason):
    path, bad = tmp_path / 'x.jsonl', []
    good = dict(messages=[ASKED, ANSWER])
    path.write_text('\n'.join(json.dumps(d) for d in (good, dict(messages=[ASKED, call(arguments)]))))
    with pytest.raises(AgentkitError) as e:
        from_log(path, 'openai')
    assert str(e.value) == f'{path} line 2: {reason}'
    assert len(from_log(path, 'openai', malformed=bad)) == 1 and bad == [str(e.value)]


def test_what_is_empty_is_not_learned(tmp_path):
    path, silent = tmp_path / 'x.jsonl', dict(role='assistant', content=None, refusal='no')
    path.write_text(json.dumps(dict(messages=[ASKED, silent, ASKED, ANSWER])))
    row = from_log(path, 'openai')[0].row()
    assert [m['loss'] for m in row['messages'] if m['role'] == 'assistant'] == [False, True]


def test_the_history_of_a_real_lm(tmp_path):
    from agentkit.testing.models import scripted_lm

    lm = scripted_lm(['No.'])
    lm('Is it raining?')
    (tmp_path / 'x.jsonl').write_text(
        json.dumps({k: v for k, v in lm.history[0].items() if k != 'response'}, default=str)
    )
    found = from_log(tmp_path / 'x.jsonl', 'dspy')[0]
    assert (found.input, found.output) == ('Is it raining?', 'No.')


def test_a_table_with_its_own_columns(tmp_path):
    path = tmp_path / 'x.csv'
    path.write_text(
        '\ufefffrage,antwort,note,thema\n"Regnet es,\nheute?",Nein.,4,Wetter\nUnd morgen?,Ja.,,Wetter\n',
        encoding='utf-8',
    )
    columns = dict(input='frage', output='antwort', rating='note', kind='thema')
    a, b = from_log(path, 'csv', columns)
    assert (a.input, a.output, a.rating, a.kind, b.rating) == ('Regnet es,\nheute?', 'Nein.', 4, 'Wetter', None)
    with pytest.raises(
        AgentkitError, match="x.csv line 3: no column 'stern'.*the columns are: frage, antwort, note, thema"
    ):
        from_log(path, 'csv', {**columns, 'rating': 'stern'})


@pytest.mark.parametrize(
    'format, line, message',
    [
        ('openai', '{"messages": [', 'x.jsonl line 2 is not an entry of format openai: JSONDecodeError'),
        ('openai', '[1]', 'line 2 is not an entry'),
        ('openai', '{"messages": [{"role": "user", "content": "x"}]}', 'line 2: no answer of an assistant'),
        ('openai', '{"messages": [{"role": "boss", "content": "x"}]}', "line 2: the role 'boss' is unknown"),
        ('openai', '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', 'parts that are not text'),
        ('openai', '{"messages": [{"role": "assistant", "content": ""}]}', 'line 2: the answer is empty'),
        ('sharegpt', '{"messages": []}', "KeyError\\('conversations'\\)"),
        ('alpaca', '{"instruction": "x"}', 'KeyError'),
        ('mlflow', '{"data": {}}', 'KeyError'),
    ],
)
def test_a_malformed_line_is_named_and_can_be_left_out(tmp_path, format, line, message):
    path, good = tmp_path / 'x.jsonl', json.dumps(LOGS[format][0])
    path.write_text(f'{good}\n{line}\n{good}\n')
    with pytest.raises(AgentkitError, match=message):
        from_log(path, format)
    bad = []
    assert len(from_log(path, format, malformed=bad)) == 2 and len(bad) == 1 and 'line 2' in bad[0]


def test_wrong_files_and_formats(tmp_path):
    with pytest.raises(AgentkitError, match='known: openai, dspy, sharegpt, alpaca, mlflow, csv'):
        from_log('x', 'parquet')
    with pytest.raises(AgentkitError, match='does not exist'):
        from_log(tmp_path / 'x', 'openai')
    (tmp_path / 'x').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(AgentkitError, match='is not UTF-8'):
        from_log(tmp_path / 'x', 'openai')


# secrets

TAIL = 'aB3' * 12


def test_nothing_secret_reaches_the_journal(tmp_path):
    key = 'sk-' + TAIL
    made = collect(
        [
            Record(
                (dict(role='system', content=key), dict(role='user', content=f'Use {key}')),
                f'I used {key}',
                provenance=dict(policy=f'openai/x@http://me:{TAIL}@host'),
            )
        ],
        tmp_path / 'r.jsonl',
    )
    assert TAIL not in (tmp_path / 'r.jsonl').read_text() and TAIL not in str(made.records)
    assert made.redacted == {'api key': 3, 'password': 1}


# the journal


def test_a_file_of_ratings_that_an_editor_left(tmp_path):
    path = tmp_path / 'r.jsonl'
    path.write_text('{"record": "a", "rater": "ann", "rating": 5}\n{"record": "b", "rater": "ann", "rating": 4}')
    assert [r['record'] for r in read_ratings(path)] == ['a', 'b']
    rate(path, 'c', 'bob', 3)
    assert [r['record'] for r in read_ratings(path)] == ['a', 'b', 'c']


def test_each_record_once_and_again(tmp_path):
    path, rs = tmp_path / 'r.jsonl', [say(output=str(i)) for i in range(5)]
    assert [(c.new, c.known) for c in (collect(rs[:3] + rs[:1], path), collect(rs, path))] == [(3, 1), (2, 3)]
    assert read_records(path) == rs
    Journal(path).append(rs[0].to_dict())  # another writer, at the same moment
    assert read_records(path) == rs
    Journal(path).append(dict(n=1))
    with pytest.raises(AgentkitError, match='r.jsonl line 7: not a record'):
        read_records(path)
    with pytest.raises(AgentkitError, match='does not exist'):
        read_records(tmp_path / 'other.jsonl')


WRITERS = """
import itertools, json, os, sys
from agentkit.data.records import collect, make_record

def write(name, n):
    for i in range(n) if n else itertools.count():
        record = make_record(dict(input=f'{name} {i}', output='x' * 20000, task=name), 'log')
        collect([record], sys.argv[1])
    os._exit(0)

pids = {name: os.fork() or write(name, n) for name, n in (('a', 12), ('b', 12), ('c', 12), ('victim', 0))}
print(json.dumps(pids), flush=True)
print(json.dumps({name: os.waitpid(pid, 0)[1] for name, pid in pids.items()}))
"""


def test_four_writers_and_one_is_killed(tmp_path):
    path, n = tmp_path / 'r.jsonl', 12
    launcher = subprocess.Popen([sys.executable, '-c', WRITERS, str(path)], stdout=subprocess.PIPE, text=True)
    pids = json.loads(launcher.stdout.readline())

    def written():
        return Counter(r.provenance['task'] for r in read_records(path)) if path.exists() else Counter()

    deadline = time.time() + 60
    while written()['victim'] < 3 and time.time() < deadline:
        time.sleep(0.02)
    os.kill(pids['victim'], signal.SIGKILL)
    assert json.loads(launcher.communicate()[0]) == dict(a=0, b=0, c=0, victim=signal.SIGKILL)
    lines = path.read_bytes()
    with open(path, 'ab') as f:
        f.write(lines[:5000].rstrip(b'\n'))  # a line the kill might have torn
    found = read_records(path)
    by = {name: [r.input for r in found if r.provenance['task'] == name] for name in ('a', 'b', 'c', 'victim')}
    for name in 'abc':
        assert by[name] == [f'{name} {i}' for i in range(n)]
    assert len(by['victim']) >= 3 and by['victim'] == [f'victim {i}' for i in range(len(by['victim']))], (
        'whole records, in order'
    )
    again = collect([make_record(dict(input=f'a {n}', output='y', task='a'), 'log')], path)
    assert again.new == 1 and len(read_records(path)) == len(found) + 1 and b'y' in path.read_bytes().splitlines()[-1]


# people


def test_ratings_from_a_file_of_either_kind(tmp_path):
    a, b, c = (say(output=str(i)) for i in range(3))
    rows = [(a.id, 'ana', 5), (a.id, 'ben', 2), (b.id, 'ana', 1), (b.id, 'ana', 4)]
    (tmp_path / 'r.csv').write_text('record,rater,rating\n' + '\n'.join(','.join(map(str, r)) for r in rows))
    for row in rows:
        rate(tmp_path / 'r.jsonl', *row)
    for file in ('r.csv', 'r.jsonl'):
        ratings = read_ratings(tmp_path / file)
        done = rate_records([a, b, c], ratings)
        assert [r.rating for r in done] == [3.5, 4, None] and done[0].provenance['ratings'] == dict(ana=5, ben=2)
        assert [r.id for r in done] == [a.id, b.id, c.id] and [
            len(filter_records(done, rated(t))[0]) for t in (3.5, 4, 4.01)
        ] == [2, 1, 0]
        assert agreement(ratings) == dict(raters=2, records=1, equal=0, within_one=0, alpha=0)
    with pytest.raises(AgentkitError, match='2 rated records are not among these 1'):
        rate_records([c], ratings)


def test_alpha_is_krippendorffs():
    "His example of four observers and twelve units: 0.849 for interval data."
    table = ['1 2 3 3 2 1 4 1 2 . . .', '1 2 3 3 2 2 4 1 2 5 . 3', '. 3 3 3 2 3 4 2 2 5 1 .', '1 2 3 3 2 4 4 1 2 5 1 .']
    ratings = [
        dict(record=str(i), rater=str(k), rating=float(x))
        for k, line in enumerate(table)
        for i, x in enumerate(line.split())
        if x != '.'
    ]
    assert round(agreement(ratings)['alpha'], 3) == 0.849
    assert (
        agreement([])['alpha'] is None
        and agreement([dict(record='a', rater=x, rating=3.0) for x in 'ab'])['alpha'] is None
    )


@pytest.mark.parametrize(
    'line, message',
    [
        ('{"record": "a", "rater": "ana", "rating": 6}', 'line 1: a rating is a number from 1 to 5, not 6'),
        ('{"record": "a", "rating": 3}', 'line 1: .*rater is missing'),
        ('{"record": "a", "rater": "ana", "rating": "good"}', "not 'good'"),
        ('{"record": "a", "rater": "ana", "rating": true}', 'not True'),
        ('{"record"', 'line 1'),
        ('[]', 'line 1'),
    ],
)
def test_a_rating_that_is_none_is_named(tmp_path, line, message):
    (tmp_path / 'r.jsonl').write_text(line)
    if line == '[]':
        line = (tmp_path / 'r.jsonl').write_text('3\n')
    with pytest.raises(AgentkitError, match=message):
        read_ratings(tmp_path / 'r.jsonl')


# filters


def kept(records, *filters):
    return [r.output for r in filter_records(records, *filters)[0]]


def test_bounds_are_included_and_nobody_is_not_somebody():
    rs = [say(output=str(s), score=s) for s in (0, 0.79999, 0.8, 1)] + [say(output='none')]
    assert (
        kept(rs, scored(0.8)) == ['0.8', '1']
        and kept(rs, scored(0)) == ['0', '0.79999', '0.8', '1']
        and kept(rs, scored(1)) == ['1']
    )
    reasons = Counter(d['reason'] for d in filter_records(rs, scored(0.8))[1].dropped)
    assert reasons == {'score below 0.8': 2, 'no score': 1}


def test_how_episodes_ended_and_how_long_they_are():
    rs = from_trajectories(
        [played(1), played(2, 'lost'), played(3, 'error'), played(4, actions=['look'] * 5)], STUDENT
    ) + [say()]
    assert len(filter_records(rs, ended('won'))[0]) == 2 and len(filter_records(rs, ended('won', 'lost'))[0]) == 3
    assert {d['reason'] for d in filter_records(rs, ended('won'))[1].dropped} == {
        'ended: lost',
        'ended: error',
        'ended: not an episode',
    }
    assert [len(filter_records(rs, length(steps=s))[0]) for s in ((2, 5), (3, 5), (None, 2), (5, None), (6, 9))] == [
        4,
        1,
        3,
        1,
        0,
    ]
    assert kept([say(output='a b'), say(output='a b c'), say(output='a b c d')], length(words=(3, 3))) == ['a b c']
    letters = SimpleNamespace(encode=list)
    assert kept([say('ab', 'c'), say('ab', 'cd')], length(tokens=(None, 3), tokenizer=letters)) == ['c']
    with pytest.raises(AgentkitError, match='needs a tokenizer'):
        length(tokens=(1, 2))


def test_of_duplicates_the_best_judged_stays():
    rs = [say(score=0.5, seed=1), say(score=0.9, seed=2), say(score=None, seed=3), say(output='Elsewhere.')]
    assert [r.provenance.get('seed') for r in filter_records(rs, unique())[0]] == [2, None]
    near = [
        say(output=f'I took the red mug from the shelf and put it into the {w} near the window of the kitchen', score=s)
        for w, s in (('sink', 0.2), ('bin', 0.8))
    ]
    assert (
        kept([*near, say()], near_unique(0.6)) == [near[1].output, 'On the shelf.']
        and len(kept([*near, say()], near_unique(0.95))) == 3
    )
    with pytest.raises(AgentkitError, match='above 0'):
        near_unique(0)


words = st.lists(st.sampled_from('mug cup pen shelf desk put take go'.split()), max_size=9).map(' '.join)


@given(st.lists(words, max_size=12), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0]))
@hypothesis_settings(deadline=None, max_examples=200)
def test_the_index_finds_what_comparing_all_pairs_finds(texts, near):
    sets, expected = [shingles(t) for t in texts], []
    for i, x in enumerate(sets):
        expected.append(
            next(
                (j for j in range(i) if expected[j] is None and len(x & sets[j]) / len(x | sets[j]) >= near - 1e-12),
                None,
            )
        )
    assert near_twins(texts, near) == expected


def test_contamination_by_task_by_text_and_nearly():
    question = 'Put the red mug that stands on the shelf into the small sink near the window.'
    seen = {
        'task': say('Hello?', 'Yes.', task='valid/1'),
        'exact': say('put the red MUG that stands on the shelf, into the small sink near the window'),
        'in the answer': say('Say something.', question),
        'near': say(question.replace('window', 'door') + ' Then rest.'),
    }
    fine = [
        say('Put the blue pen into the drawer.'),
        say('Where is the red mug?'),
        say('Hello?', 'Yes.', task='valid/11'),
    ]
    rs = [*seen.values(), *fine]
    left, report = filter_records(rs, uncontaminated([Task('valid/1', 'household')], [question]))
    assert left == fine
    assert {d['record']: d['reason'] for d in report.dropped} == dict(
        zip(
            (r.id for r in seen.values()),
            ['an evaluation task', 'an evaluation text', 'an evaluation text', 'nearly an evaluation text'],
        )
    )
    assert len(filter_records(rs, uncontaminated(['valid/1'], [question], near=1))[0]) == 4
    assert len(filter_records(rs, uncontaminated(['valid/1'], [question], near=None))[0]) == 4, 'word for word only'
    with pytest.raises(AgentkitError, match='with what'):
        uncontaminated()


def test_balance_is_seeded_and_grows():
    rs = [say(output=str(i), kind='a' if i < 9 else 'b') for i in range(12)]
    assert Counter(r.kind for r in filter_records(rs, balanced())[0]) == dict(a=3, b=3)
    few, more = (set(kept(rs, balanced(n))) for n in (2, 5))
    assert few < more and kept(rs, balanced(2)) == kept(rs, balanced(2)) and len(more) == 8
    assert len({tuple(kept(rs, balanced(3, seed=s))) for s in range(8)}) > 1
    assert kept(rs, balanced(5)) == [o for o in map(str, range(12)) if o in more], 'in their order'


def test_the_report_adds_up():
    rs = [say(output=str(i % 7), kind='ab'[i % 2], score=i / 20, task=str(i)) for i in range(20)]
    polite = each('not five', lambda r: 'five' if r.output == '5' else '')
    left, report = filter_records(rs, scored(0.2), polite, unique(), balanced(2))
    assert (
        report.table['all'].iloc[0] == 20
        and report.table['all'].iloc[-1] == len(left) == 20 - len(report.dropped)
        and list(report.table.index) == ['collected', *report.filters]
    )
    for before, after in zip(['collected', *report.filters], report.filters):
        assert report.table.loc[before, 'all'] - report.table.loc[after, 'all'] == sum(
            d['filter'] == after for d in report.dropped
        )
    assert (report.table['a'] + report.table['b'] == report.table['all']).all()
    assert int(report.reasons.to_numpy().sum()) == len(report.dropped) and {d['record'] for d in report.dropped} | {
        r.id for r in left
    } == {r.id for r in rs}
    assert (
        str(report) == f'{len(left)} of 20 records kept by 4 filters'
        and '<table' in report._repr_html_()
        and json.dumps(report.to_dict())
    )
    assert str(filter_records(rs)[1]) == '20 of 20 records kept by 0 filters'
    for wrong, message in (
        (lambda: filter_records([], unique()), '0 records'),
        (lambda: filter_records(rs, unique(), unique()), 'there twice: exact duplicates'),
    ):
        with pytest.raises(AgentkitError, match=message):
            wrong()


def test_the_picture_shows_the_table():
    from agentkit.research.plots import filter_funnel

    _, report = filter_records(
        [say(output=str(i), kind='ab'[i % 3 == 0], score=i / 10) for i in range(10)], scored(0.5), balanced(1)
    )
    axes = filter_funnel(report.table).axes[0]
    assert [t.get_text() for t in axes.texts] == ['10', '5  (−5)', '2  (−3)'] and [
        t.get_text() for t in axes.get_yticklabels()
    ] == ['collected', 'score ≥ 0.5', 'balance: 1 a kind']
    assert sum(p.get_width() for p in axes.patches) == 17


# the lab


def test_the_labs_collector():
    assert [f.name for f in dataclasses.fields(TrainingExample)] == [
        'input_text',
        'expected_output',
        'task_type',
        'quality_score',
    ]
    assert list(inspect.signature(DataCollector.collect_interaction_data).parameters)[1:] == [
        'user_input',
        'agent_output',
        'human_rating',
        'task_type',
    ]
    assert inspect.signature(DataCollector.filter_high_quality).parameters['min_score'].default == 0.8
    c = DataCollector()
    c.generate_synthetic_data()
    assert len(c.examples) == 5 and [e.quality_score for e in c.filter_high_quality()] == [0.9, 0.85, 0.8, 0.9]
    data = c.prepare_training_data()
    assert data['metadata'] == dict(total_examples=4, task_distribution=dict(weather=2, travel=2)) and list(data) == [
        'examples',
        'metadata',
    ]
    assert all(list(e) == ['input', 'output', 'task_type'] for e in data['examples']) and len(data['examples']) == 4
    assert {r.source for r in c.records} == {'synthetic'}


def test_the_labs_collector_with_a_journal(tmp_path):
    c = DataCollector(tmp_path / 'r.jsonl')
    c.collect_interaction_data('My key is sk-' + TAIL, 'Keep it.', 0.8, 'general')
    assert c.examples[0].input_text == 'My key is [api key]' and TAIL not in (tmp_path / 'r.jsonl').read_text()
    again = DataCollector(tmp_path / 'r.jsonl')
    assert again.examples == c.examples and again.prepare_training_data()['metadata']['total_examples'] == 1
    with pytest.raises(AgentkitError, match='from 0 to 1'):
        c.collect_interaction_data('a', 'b', 4, 'general')
    assert len(again.records) == len(read_records(tmp_path / 'r.jsonl')) == 1


def test_won_and_lost_become_pairs():
    rows = [
        r.row()
        for r in from_trajectories(
            [played(1), played(1, 'lost', actions=('go to shelf 1', 'look'), policy='student'), played(2, 'lost')],
            STUDENT,
        )
    ]
    pairs = preference_pairs(rows)
    assert [(p['chosen'][0]['content'], p['rejected'][0]['content']) for p in pairs] == [
        ('take mug 1 from shelf 1', 'look')
    ]
    assert pairs[0]['provenance']['rejected']['policy'] == 'student' and len(pairs[0]['prompt']) == 4


# the command line


def test_collect_and_filter_on_the_command_line(tmp_path, capsys, monkeypatch):
    from agentkit.cli import main
    from agentkit.data.rows import read_rows

    monkeypatch.chdir(tmp_path)
    rows = [dict(question=f'Question number {i}?', answer=f'Answer {i}.', stars=i / 4) for i in range(5)] + [
        dict(question='My key is sk-' + TAIL, answer='Keep it.', stars=1)
    ]
    with open('log.csv', 'w') as f:
        f.write(
            'question,answer,stars\n'
            + ''.join(f'{r["question"]},{r["answer"]},{r["stars"]}\n' for r in rows)
            + 'No answer?,,1\n'
        )
    asked = [
        'collect',
        'log.csv',
        '--format',
        'csv',
        '--out',
        'r.jsonl',
        '--kind',
        'talk',
        '--column',
        'input=question',
        '--column',
        'output=answer',
        '--column',
        'score=stars',
    ]
    assert main(asked) == 2 and 'log.csv line 8' in capsys.readouterr().err and not (tmp_path / 'r.jsonl').exists()
    assert main([*asked, '--skip-malformed', '--json']) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said['new'], said['redacted'], len(said['malformed'])) == (6, {'api key': 1}, 1)
    with open('ratings.csv', 'w') as f:
        f.write(
            'record,rater,rating\n'
            + ''.join(f'{r.id},ana,{5 if r.score == 1 else 2}\n' for r in read_records('r.jsonl'))
        )
    with open('tasks.jsonl', 'w') as f:
        f.write('{"id": "e", "question": "Question number 4?"}\n')
    assert (
        main(
            [
                'filter',
                'r.jsonl',
                '--score',
                '.5',
                '--rating',
                '4',
                '--ratings',
                'ratings.csv',
                '--against',
                'tasks.jsonl',
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert '1 of 6 records kept by 4 filters' in shown and 'an evaluation text' in shown
    assert [r['provenance']['rating'] for r in read_rows('r.rows.jsonl')] == [5] and json.loads(
        (tmp_path / 'r.rows.jsonl.report.json').read_text()
    )['filters'][0] == 'score ≥ 0.5'
    assert (
        main(['filter', 'r.jsonl', '--ended', 'won']) == 2
        and 'nothing is left of 6 records: ended: won dropped 6' in capsys.readouterr().err
    )
    assert main(['filter', 'none.jsonl']) == 2 and 'none.jsonl does not exist' in capsys.readouterr().err


@pytest.mark.slow
def test_traces_that_mlflow_wrote(results, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    from agentkit.agents.policy import Agent
    from agentkit.testing.models import scripted_lm
    from agentkit.research.tracking import traced, tracking_uri

    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    monkeypatch.setenv('AGENTKIT_TRACKING_MLFLOW', 'on')
    agent = Agent(scripted_lm(['knock']))
    with traced('doors', results / 'doors' / 'x') as run_id:
        agent(task='A door.', trajectory='', possible_actions=['knock', 'wait'])
    found = mlflow.MlflowClient(tracking_uri()).search_traces(locations=['1'], run_id=run_id)
    (results / 'traces.jsonl').write_text('\n'.join(t.to_json() for t in found))
    records = from_log(results / 'traces.jsonl', 'mlflow')
    assert (
        [r.output for r in records] == ['knock']
        and 'A door.' in records[0].input
        and records[0].messages[0]['role'] == 'system'
    )
