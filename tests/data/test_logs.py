"Logs in the wild: what a format may say is read, honoured or refused by name; what comes in goes out the same."

import gzip
import json
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from agentkit.core.actions import ToolCall
from agentkit.core.errors import AgentkitError
from agentkit.data.cards import load_dataset, save_dataset
from agentkit.data.entries import parse_json
from agentkit.data.filters import filter_records, learnable
from agentkit.data.formats import export, load_export
from agentkit.data.logs import from_log
from agentkit.data.messages import as_text, reasoning
from agentkit.data.pairs import export_pairs, load_pairs
from agentkit.data.records import collect, read_records
from agentkit.data.rows import call_rows, check_row, episode_rows, read_rows, write_rows

ASKED, ANSWER = dict(role='user', content='Is it raining?'), dict(role='assistant', content='No.')
TOOLS = [dict(type='function', function=dict(name='rain', parameters=dict(type='object', properties={})))]
few = hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


def call(arguments='{"day": 1}', id='c1', name='rain'):
    return dict(id=id, type='function', function=dict(name=name, arguments=arguments))


def result(id='c1', content='dry'):
    return dict(role='tool', tool_call_id=id, content=content)


def calling(*calls, content=None, **message):
    return dict(role='assistant', content=content, tool_calls=list(calls or [call()]), **message)


def lines(path, *objects):
    path.write_text(''.join(json.dumps(x) + '\n' for x in objects))
    return path


def log(folder, *messages, format='openai', **entry):
    "The records of a chat."
    return from_log(lines(folder / 'x.jsonl', dict(messages=list(messages), **entry)), format)


def refused(folder, *messages, **entry):
    "Why a chat is not read."
    with pytest.raises(AgentkitError) as e:
        log(folder, *messages, **entry)
    bad = []
    assert from_log(folder / 'x.jsonl', entry.get('format', 'openai'), malformed=bad) == [] and bad == [str(e.value)]
    assert 'x.jsonl line 1' in bad[0]
    return bad[0]


# round trips

text = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=8).filter(str.strip)
weights = st.sampled_from([{}, dict(weight=0), dict(weight=1), dict(weight=0.25), dict(weight=0.5)])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda x: st.lists(x, max_size=2) | st.dictionaries(text, x, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(text, values, max_size=3)
parts = st.lists(st.builds(dict, type=st.just('text'), text=text), min_size=1, max_size=3)
thoughts = st.sampled_from([{}, dict(reasoning_content='Hm.'), dict(reasoning='So.'), dict(thinking='Well.')])


@st.composite
def turn(draw, ids=True, texts=True):
    "What a user says and what follows until an answer in words."
    message = dict(role='user', content=draw(text | parts))
    message |= draw(st.sampled_from([{}, dict(name='ann')]))
    messages = [message]
    kind = draw(st.sampled_from(['words', 'words', 'calls', 'old', 'refusal']))
    as_written = json.dumps if texts else (lambda x: x)
    if kind == 'calls':
        calls = [
            dict(type='function', function=dict(name=draw(text), arguments=as_written(draw(arguments))))
            for _ in range(draw(st.integers(1, 3)))
        ]
        calls = [dict(id=f'c{i}', **c) if ids else c for i, c in enumerate(calls)]
        said = draw(st.none() | text)
        messages.append(dict(role='assistant', content=said, tool_calls=calls, **draw(weights), **draw(thoughts)))
        messages += [
            dict(role='tool', content=draw(text), **(dict(tool_call_id=c['id']) if ids else {})) for c in calls
        ]
    if kind == 'old':
        name, given = draw(text), as_written(draw(arguments))
        messages.append(
            dict(role='assistant', content=None, function_call=dict(name=name, arguments=given), **draw(weights))
        )
        messages.append(dict(role='function', name=name, content=draw(text)))
    if kind == 'refusal':
        return messages + [dict(role='assistant', content=None, refusal=draw(text), **draw(weights))]
    return messages + [dict(role='assistant', content=draw(text), **draw(weights), **draw(thoughts))]


@st.composite
def chat(draw, **kind):
    "A chat with something to learn at its end."
    messages = draw(
        st.sampled_from([[], [dict(role='system', content='Play.')], [dict(role='developer', content='Go.')]])
    )
    for _ in range(draw(st.integers(1, 3))):
        messages = [*messages, *draw(turn(**kind))]
    messages[-1] |= draw(st.sampled_from([dict(weight=1), dict(weight=0.5)]))
    beside = draw(
        st.sampled_from(
            [{}, dict(tools=TOOLS), dict(tools=TOOLS, parallel_tool_calls=False), dict(functions=[dict(name='f')])]
        )
    )
    return dict(messages=messages, **beside)


def normal(entry):
    "The documented normal form: arguments are objects, each answer has its weight, what says nothing is not there."

    def one(m):
        m = {k: v for k, v in m.items() if v not in (None, '')}
        m.setdefault('content', None)
        if m['role'] == 'assistant':
            m.setdefault('weight', 0 if 'refusal' in m else 1)
        if 'function_call' in m:
            m['function_call'] = function(m['function_call'])
        if 'tool_calls' in m:
            m['tool_calls'] = [dict(c, function=function(c['function'])) for c in m['tool_calls']]
        return m

    def function(f):
        return dict(f, arguments=json.loads(f['arguments']) if isinstance(f['arguments'], str) else f['arguments'])

    return dict(entry, messages=[one(m) for m in entry['messages']])


@given(st.lists(chat(), min_size=1, max_size=3))
@few
def test_a_chat_goes_out_as_it_came_in(tmp_path, entries):
    path, again = lines(tmp_path / 'in.jsonl', *entries), tmp_path / 'out.jsonl'
    rows = load_export(path, 'openai')
    export(rows, again, 'openai')
    written = [json.loads(line) for line in again.read_text().split('\n') if line]
    assert list(map(normal, written)) == list(map(normal, entries))
    assert [r['messages'] for r in load_export(again, 'openai')] == [r['messages'] for r in rows]


@given(chat())
@few
def test_a_chat_goes_out_of_records_as_it_came_in(tmp_path, entry):
    "By the way of collect and filter, with rows and a data set on disk between."
    path, journal = lines(tmp_path / 'in.jsonl', entry), tmp_path / 'records.jsonl'
    journal.unlink(missing_ok=True)
    collect(from_log(path, 'openai'), journal)
    write_rows(tmp_path / 'rows.jsonl', [r.row() for r in read_records(journal)])
    export(read_rows(tmp_path / 'rows.jsonl'), tmp_path / 'out.jsonl', 'openai')
    assert normal(json.loads((tmp_path / 'out.jsonl').read_text())) == normal(entry)


@given(
    st.lists(chat(texts=False), min_size=1, max_size=2),
    st.sampled_from(['openai', 'trl', 'trl-completion', 'sharegpt', 'alpaca']),
)
@few
def test_rows_come_back_from_every_format_that_takes_them(tmp_path, entries, format):
    path = tmp_path / 'x.jsonl'
    rows = [
        dict(r, provenance=dict(task=str(i)))
        for i, r in enumerate(load_export(lines(tmp_path / 'in', *entries), 'openai'))
    ]
    try:
        export(rows, path, format)
    except AgentkitError as e:
        assert format not in ('openai',) and (
            'cannot' in str(e) or 'no weights' in str(e) or 'no turn' in str(e) or 'holds' in str(e)
        )
        return
    again = load_export(path, format)
    whole = rows if format != 'trl-completion' else call_rows(rows)
    assert [_words(r) for r in again] == [_words(r) for r in whole]


def _words(row):
    "What may not change in any format: who says what, with which tools, how much it counts, and why."
    messages = [(m['role'], m['content'], m.get('loss'), reasoning(m)) for m in row['messages']]
    return messages, row.get('request', {}), row['provenance']


@st.composite
def conversation(draw):
    "As LLaMA-Factory has it."
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({'from': 'human', 'value': draw(text)})
        if draw(st.booleans()):
            calls = [dict(name=draw(text), arguments=draw(arguments)) for _ in range(draw(st.integers(1, 2)))]
            turns.append({'from': 'function_call', 'value': json.dumps(calls if len(calls) > 1 else calls[0])})
            turns.append({'from': 'observation', 'value': draw(text)})
        turns.append({'from': 'gpt', 'value': draw(text), **draw(weights)})
    turns[-1].pop('weight', None)
    beside = draw(st.sampled_from([{}, dict(tools=json.dumps(TOOLS)), dict(system='Play.')]))
    return dict(conversations=turns, **beside)


@given(conversation())
@few
def test_a_conversation_of_sharegpt_goes_out_as_it_came_in(tmp_path, entry):
    def normal(d):
        turns = [{'from': 'system', 'value': d['system']}] if 'system' in d else []
        turns += [{k: v for k, v in t.items() if (k, v) != ('weight', 1)} for t in d['conversations']]
        turns = [dict(t, value=json.loads(t['value'])) if t['from'] == 'function_call' else t for t in turns]
        return turns, json.loads(d.get('tools', '[]'))

    export(load_export(lines(tmp_path / 'x', entry), 'sharegpt'), tmp_path / 'y', 'sharegpt')
    assert normal(json.loads((tmp_path / 'y').read_text())) == normal(entry)


@given(text, text, st.lists(st.tuples(text, text), max_size=2), st.sampled_from(['', 'Play.']))
@few
def test_an_alpaca_entry_goes_out_as_it_came_in(tmp_path, question, answer, history, system):
    entry = dict(system=system, instruction=question, input='', output=answer, history=list(map(list, history)))
    export(load_export(lines(tmp_path / 'x', entry), 'alpaca'), tmp_path / 'y', 'alpaca')
    assert json.loads((tmp_path / 'y').read_text()) == entry


@given(chat(texts=False), text, text, st.sampled_from(['trl', 'openai']))
@few
def test_preferences_go_out_as_they_came_in(tmp_path, entry, good, bad, format):
    prompt = [{k: v for k, v in m.items() if k != 'weight'} for m in entry['messages'][:-1]]
    pair = dict(
        prompt=prompt, chosen=[dict(role='assistant', content=good)], rejected=[dict(role='assistant', content=bad)]
    )
    beside = {k: v for k, v in entry.items() if k != 'messages'}
    pairs = load_pairs(lines(tmp_path / 'x', pair | beside), 'trl')
    export_pairs(pairs, tmp_path / 'y', format)
    assert load_pairs(tmp_path / 'y', format) == pairs
    if format == 'trl':
        again = json.loads((tmp_path / 'y').read_text())
        unweighed = lambda d: [{k: v for k, v in m.items() if k != 'weight'} for m in normal(d)['messages']]
        assert unweighed(dict(messages=again['prompt'])) == unweighed(dict(messages=prompt))


# weights


@pytest.mark.parametrize('weight', [-1, '1', True, None, 1.5, float('nan'), float('inf'), [1], {}])
def test_a_weight_that_is_none_is_refused_by_name(tmp_path, weight):
    if weight in (None, {}):  # says nothing
        assert log(tmp_path, ASKED, {**ANSWER, 'weight': weight})[0].answer == {}
    else:
        assert 'weight' in (reason := refused(tmp_path, ASKED, {**ANSWER, 'weight': weight})) or 'no number' in reason


def test_a_weight_is_what_an_answer_counts(tmp_path):
    first, last = dict(ANSWER, weight=0.25), dict(ANSWER, content='Yes.', weight=0.5)
    row = log(tmp_path, ASKED, first, ASKED, last)[0].row()
    assert [m['loss'] for m in row['messages'] if m['role'] == 'assistant'] == [0.25, 0.5]
    assert (
        len({r.id for w in (0, 0.25, 0.5, 1) for r in log(tmp_path, ASKED, {**first, 'weight': w}, ASKED, last)}) == 4
    )
    turns = [
        {'from': 'human', 'value': 'a'},
        {'from': 'gpt', 'value': 'b', 'train': False},
        {'from': 'human', 'value': 'c'},
        {'from': 'gpt', 'value': 'd', 'train': True},
    ]
    row = from_log(lines(tmp_path / 'x', dict(conversations=turns)), 'sharegpt')[0].row()
    assert [m['loss'] for m in row['messages'] if m['role'] == 'assistant'] == [False, True]


@pytest.mark.parametrize(
    'message, name',
    [
        (dict(ANSWER, train='yes'), '"train"'),
        (dict(ANSWER, train=1), '"train"'),
        (dict(ANSWER, weight=1, train=False), '"train"'),
        (dict(ANSWER, train_detail=[dict(begin_offset=0, end_offset=1, train=False)]), "'train_detail'"),
        (dict(ANSWER, masked=True), "'masked'"),
        (dict(ANSWER, loss=False), "'loss'"),
        (dict(ANSWER, audio=dict(id='a')), "'audio'"),
        (dict(ANSWER, reasoning_details=[dict(type='x')]), "'reasoning_details'"),
        (dict(ANSWER, reasoning_content=dict(a=1)), 'reasoning'),
        (dict(role='user', content='x', weight=1), "'weight'"),
        (dict(role='user', content='x', train=True), "'train'"),
        (dict(role='user', content='x', tool_calls=[call()]), "'tool_calls'"),
        (dict(role='user', content='x', tool_call_id='c'), '"tool_call_id"'),
        (dict(role='user'), 'no content'),
        (dict(role='user', content=None), 'no content'),
        (dict(role='user', content=3), 'a content is'),
        (dict(role='user', content='x', value='y'), "'value' and 'content'"),
        (dict(role='user', content=[dict(type='input_audio', input_audio={})]), 'input_audio'),
        (dict(role='user', content=[dict(type='text')]), "under 'text'"),
        (dict(role='user', content=[dict(type='tool_result', content='x')]), 'tool_result'),
        ('hello', 'a message is an object'),
        (dict(role='ipython', content='x'), "'ipython'"),
    ],
)
def test_what_a_message_says_is_read_or_refused_by_name(tmp_path, message, name):
    assert name in refused(tmp_path, ASKED, message, ANSWER)


@pytest.mark.parametrize(
    'name', ['images', 'chosen', 'preferred_output', 'conversations', 'completion', 'weight', 'system', 'input']
)
def test_what_an_entry_says_is_read_or_refused_by_name(tmp_path, name):
    assert repr(name) in refused(tmp_path, ASKED, ANSWER, **{name: ['x']})


def test_what_changes_nothing_is_kept(tmp_path):
    r = log(
        tmp_path,
        {**ASKED, 'name': 'ann', 'timestamp': 3},
        ANSWER,
        topic='rain',
        tags=['a'],
        source='web',
        file='y',
        metadata=dict(a=1),
    )[0]
    assert r.messages[0]['original'] == dict(name='ann', timestamp=3)
    assert {k: r.provenance[k] for k in ('topic', 'tags', 'metadata')} == dict(
        topic='rain', tags=['a'], metadata=dict(a=1)
    )
    assert r.provenance['log'] == dict(source='web', file='y') and r.provenance['file'] == 'x.jsonl'
    assert (
        log(tmp_path, ASKED, {**ANSWER, 'refusal': None, 'annotations': [], 'tool_calls': None, 'audio': None})[
            0
        ].answer
        == {}
    )


def test_a_refusal_is_learned_where_it_has_a_weight(tmp_path):
    no = dict(role='assistant', content=None, refusal='I will not say.')
    assert [m['content'] for m in log(tmp_path, ASKED, no, ASKED, ANSWER)[0].messages][1] == 'I will not say.'
    assert 'or refuses' in refused(tmp_path, ASKED, no)
    assert log(tmp_path, ASKED, {**no, 'weight': 1})[0].output == 'I will not say.'


# tools


def test_arguments_are_learned_as_one_object(tmp_path):
    day = dict(properties=dict(day=dict(type='integer')), required=['day'])
    for arguments in ('{"day": 1}', dict(day=1), ' {"day":1}\n', '{"day": 1}'):
        r = log(tmp_path, ASKED, calling(call(arguments)))[0]
        assert r.output == '{"tool": "rain", "arguments": {"day": 1}}' and ToolCall(dict(rain=day)).allows(r.output)
        assert r.answer['original']['tool_calls'] == [call(dict(day=1))]
    several = log(tmp_path, ASKED, calling(call(), call('{"day": 2}', 'c2'), content='Let me see.'))[0].output
    assert [line[:5] for line in several.splitlines()] == ['Let m', '{"too', '{"too']
    huge = log(tmp_path, ASKED, calling(call('{"n": 123456789012345678901234567890, "é": "\\u00e9\\ud83d\\ude00"}')))[0]
    assert json.loads(huge.output)['arguments'] == {'n': 123456789012345678901234567890, 'é': 'é😀'}


@pytest.mark.parametrize(
    'arguments, reason',
    [
        ('{"city": Oslo', 'the arguments of rain are not JSON: {"city": Oslo'),
        ('{"a": 1} {"a": 2}', 'are not JSON'),
        ("{'a': 1}", 'are not JSON'),
        ('"{\\"a\\": 1}"', 'are no object'),
        ('[]', 'are no object'),
        ('null', ''),
        ([], 'are no object'),
        (0, 'are no object'),
        (False, 'are no object'),
        ('{"a": 1, "a": 2}', "'a' stands twice in one object"),
        ('{"a": NaN}', 'NaN'),
        ('{"a": 1e999}', 'more than a number'),
        ('{"a": "\\ud800"}', 'half a letter'),
        ('{"a": ' + '1' * 5000 + '}', 'are not JSON'),
        ('[' * 100_000, 'brackets'),
    ],
)
def test_arguments_that_are_no_object_are_named(tmp_path, arguments, reason):
    if not reason:
        assert log(tmp_path, ASKED, calling(call(arguments)))[0].output == '{"tool": "rain", "arguments": {}}'
        return
    for message in (
        calling(call(arguments)),
        dict(role='assistant', content=None, function_call=call(arguments)['function']),
    ):
        why = refused(tmp_path, ASKED, message)
        assert reason in why and 'rain' in why and '\n' not in why


@pytest.mark.parametrize(
    'messages, reason',
    [
        ([result(), ANSWER], "the id 'c1' belongs to no call before it"),
        ([calling(), result('c2'), ANSWER], "the id 'c2' belongs to no call"),
        ([calling(), ANSWER], 'the call of rain before it has no result'),
        ([calling(), result(), result(), ANSWER], 'belongs to no call'),
        ([calling(call(), call(id='c2')), result(), ANSWER], 'has no result'),
        ([calling(call(), call()), result(), ANSWER], "two calls have the id 'c1'"),
        ([calling(call(name='')), result(), ANSWER], 'has no name'),
        ([calling(dict(type='custom', custom=dict(name='a', input='b'))), ANSWER], 'not of type function'),
        ([calling('rain'), ANSWER], 'not of type function'),
        ([dict(role='assistant', content=None, tool_calls=dict(a=1)), ANSWER], '"tool_calls" is a list'),
        ([dict(role='assistant', content='', function_call='rain'), ANSWER], 'not of type function'),
        ([dict(role='function', name='rain', content='3'), ANSWER], "the name 'rain' belongs to no call"),
    ],
)
def test_calls_and_results_belong_together(tmp_path, messages, reason):
    assert reason in refused(tmp_path, ASKED, *messages)


def test_ids_may_come_again_and_be_missing(tmp_path):
    again = log(tmp_path, ASKED, calling(), result(), calling(), result(), ANSWER)
    crossed = log(tmp_path, ASKED, calling(call(), call(id='c2')), result('c2', 'b'), result('c1', 'a'), ANSWER)
    bare = dict(function=dict(name='rain', arguments={}))
    without = log(tmp_path, ASKED, calling(bare), dict(role='tool', name='rain', content='3'), ANSWER, format='trl')
    assert [len(r[0].messages) for r in (again, crossed, without)] == [5, 4, 3]


def test_tools_are_kept_and_trained_on_as_text(tmp_path):
    r = log(tmp_path, ASKED, calling(), result(), {**ANSWER, 'reasoning_content': 'It is dry.'}, tools=TOOLS)[0]
    assert r.request == dict(tools=TOOLS) and r.row()['request'] == r.request
    words = as_text(r.row())
    assert (
        'rain: a tool {"type": "object", "properties": {}}' in words['messages'][0]['content']
        and 'request' not in words
    )
    assert words['messages'][-1]['content'] == '<think>\nIt is dry.\n</think>\n\nNo.' and as_text(words) is words
    for name in ('tools', 'functions'):
        assert f'"{name}"' in refused(tmp_path, ASKED, ANSWER, **{name: ['rain']})
    assert read_records_of(tmp_path, r) == [r]


def read_records_of(folder, *records):
    collect(records, folder / 'records.jsonl')
    return read_records(folder / 'records.jsonl')


def test_folding_and_data_sets_keep_what_rows_say(tmp_path):
    pytest.importorskip('datasets')
    row = log(tmp_path, ASKED, calling(weight=0.5), result(), ANSWER, tools=TOOLS)[0].row()
    assert [r['request'] for r in call_rows([row])] == [row['request']] * 2
    other = {k: v for k, v in row.items() if k != 'request'}
    assert (
        len(
            episode_rows(
                [
                    {**r, 'messages': [dict(m, loss=True) if m['role'] == 'assistant' else m for m in r['messages']]}
                    for r in (row, other)
                ]
            )
        )
        == 2
    )
    save_dataset(tmp_path / 'd', dict(train=[row]))
    assert load_dataset(tmp_path / 'd') == dict(train=[row])


# formats


def test_trl_prompts_completions_and_labels(tmp_path):
    path = tmp_path / 'x'
    texts = from_log(lines(path, dict(prompt='a', completion='b')), 'trl')[0]
    assert (texts.input, texts.output) == ('a', 'b')
    chats = from_log(
        lines(
            path,
            dict(prompt=[ASKED, ANSWER, ASKED], completion=[ANSWER], chat_template_kwargs=dict(enable_thinking=False)),
        ),
        'trl',
    )[0]
    assert [m.get('loss') for m in chats.messages] == [None, False, None] and chats.request == dict(
        chat_template_kwargs=dict(enable_thinking=False)
    )
    with pytest.raises(AgentkitError, match="'chosen' makes this a preference"):
        from_log(lines(path, dict(prompt='a', chosen='b', rejected='c')), 'trl')
    good, bad = from_log(lines(path, *(dict(prompt='a', completion=c, label=c == 'b') for c in 'bc')), 'trl')
    assert (good.score, bad.score) == (1, 0)
    assert not any(m.get('loss') for m in bad.row()['messages'] if m['role'] == 'assistant'), (
        'what nobody wants is not learned'
    )
    assert filter_records([good, bad], learnable())[0] == [good]


def test_sharegpt_as_others_write_it(tmp_path):
    path = tmp_path / 'x'
    roles = [dict(role='user', content='a'), dict(role='assistant', content='b')]
    assert from_log(lines(path, dict(conversations=roles)), 'sharegpt')[0].output == 'b'
    for beside, name in ((dict(images=['a.png']), 'images'), (dict(chosen={'from': 'gpt', 'value': 'x'}), 'chosen')):
        with pytest.raises(AgentkitError, match=f'line 1: {name!r}'):
            from_log(lines(path, dict(conversations=roles, **beside)), 'sharegpt')
    with pytest.raises(AgentkitError, match='line 1: "tools" is not JSON'):
        from_log(lines(path, dict(conversations=roles, tools='rain(')), 'sharegpt')
    with pytest.raises(AgentkitError, match='both a system message'):
        from_log(lines(path, dict(conversations=[dict(role='system', content='a'), *roles], system='b')), 'sharegpt')
    assert not from_log(lines(path, dict(conversations=roles, kto_tag=False)), 'sharegpt')[0].score


def test_preferences_of_every_kind(tmp_path):
    yes, no = ([dict(role='assistant', content=c)] for c in ('Yes.', 'No.'))
    pair = dict(prompt=[ASKED], chosen=yes, rejected=no, provenance={})
    human = {'from': 'human', 'value': ASKED['content']}
    written = [
        ('trl', dict(prompt=[ASKED], chosen=yes, rejected=no)),
        ('trl', dict(chosen=[ASKED, *yes], rejected=[ASKED, *no])),
        ('trl', dict(prompt=ASKED['content'], chosen='Yes.', rejected='No.')),
        ('openai', dict(input=dict(messages=[ASKED]), preferred_output=yes, non_preferred_output=no)),
        (
            'sharegpt',
            dict(
                conversations=[human], chosen={'from': 'gpt', 'value': 'Yes.'}, rejected={'from': 'gpt', 'value': 'No.'}
            ),
        ),
        ('alpaca', dict(instruction=ASKED['content'], input='', chosen='Yes.', rejected='No.')),
    ]
    for format, entry in written:
        assert load_pairs(lines(tmp_path / 'x', entry), format) == [pair]
    given = dict(
        input=dict(messages=[ASKED], tools=TOOLS, parallel_tool_calls=True),
        preferred_output=yes,
        non_preferred_output=no,
    )
    tools = load_pairs(lines(tmp_path / 'x', given), 'openai')
    export_pairs(tools, tmp_path / 'y', 'openai')
    assert json.loads((tmp_path / 'y').read_text()) == given
    for entry, reason in (
        (dict(prompt='a', chosen='b', rejected=''), 'begin with an answer|rejected'),
        (dict(prompt='a', chosen=[ASKED], rejected=no), "'chosen' does not begin with an answer"),
        (dict(prompt='a', chosen=[dict(ANSWER, weight=0.5)], rejected=no), "'chosen' has a weight"),
        (dict(prompt='a', chosen=yes), 'rejected'),
        (dict(prompt='a', chosen=yes, rejected=no, images=['x']), "'images'"),
    ):
        if entry.get('rejected') != '':
            with pytest.raises(AgentkitError, match=f'line 1 is not a pair of format trl: .*{reason}'):
                load_pairs(lines(tmp_path / 'x', entry), 'trl')


def test_a_request_and_every_answer_to_it(tmp_path):
    choices = [
        dict(index=i, message=dict(role='assistant', content=c), finish_reason='stop') for i, c in enumerate('ab')
    ]
    request = dict(model='tiny', messages=[ASKED], temperature=0.5, tools=TOOLS)
    a, b = from_log(lines(tmp_path / 'x', dict(request=request, response=dict(id='r', choices=choices))), 'openai')
    assert (a.output, b.output, a.provenance['asked']['temperature']) == ('a', 'b', 0.5) and a.request == dict(
        tools=TOOLS
    )
    for response in (dict(error='overloaded'), [], dict(choices=[dict(delta=dict(content='x'))])):
        with pytest.raises(AgentkitError, match='line 1'):
            from_log(
                lines(tmp_path / 'x', dict(request=dict(messages=[ASKED, ANSWER, ASKED]), response=response)), 'openai'
            )
    thought = dict(text='No.', reasoning_content='Dry.')
    assert (
        reasoning(from_log(lines(tmp_path / 'x', dict(messages=[ASKED], outputs=[thought])), 'dspy')[0].answer)
        == 'Dry.'
    )


SAMPLE = dict(
    id=7,
    epoch=2,
    input='Is it raining?',
    target='No',
    messages=[
        dict(id='m1', role='user', content='Is it raining?', source='input'),
        dict(
            id='m2',
            role='assistant',
            content=[dict(type='reasoning', reasoning='Look.'), dict(type='text', text='')],
            tool_calls=[dict(id='c1', function='rain', arguments=dict(day=1), type='function')],
            source='generate',
            model='tiny',
        ),
        dict(id='m3', role='tool', content='attachment://ab', tool_call_id='c1', function='rain'),
        dict(id='m4', role='assistant', content='No.', source='generate', model='tiny'),
    ],
    output=dict(model='tiny', choices=[]),
    scores=dict(match=dict(value='C', answer='No.')),
    metadata=dict(level=1),
    attachments=dict(ab='dry'),
    events=[
        dict(
            event='model',
            tools=[dict(name='rain', description='Look out.', parameters=dict(type='object'), options=None)],
        )
    ],
)


def inspect_log(folder, *samples, zipped=False):
    head = dict(version=2, eval=dict(task='weather', model='openai/tiny'))
    if not zipped:
        (folder / 'x.json').write_text(json.dumps(dict(head, status='success', samples=samples)))
        return folder / 'x.json'
    with zipfile.ZipFile(folder / 'x.eval', 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('header.json', json.dumps(head))
        for s in samples:
            z.writestr(f'samples/{s["id"]}_epoch_{s["epoch"]}.json', json.dumps(s))
        z.writestr('summaries.json', '[]')
    return folder / 'x.eval'


@pytest.mark.parametrize('zipped', [False, True])
def test_logs_of_inspect_ai(tmp_path, zipped):
    bad = dict(
        SAMPLE,
        id=9,
        messages=[
            dict(
                role='assistant',
                content='',
                tool_calls=[dict(id='c', function='rain', arguments={}, parse_error='no JSON')],
            )
        ],
    )
    path = inspect_log(
        tmp_path, SAMPLE, dict(SAMPLE, epoch=1, scores=dict(match=dict(value=float('nan')))), bad, zipped=zipped
    )
    with pytest.raises(AgentkitError, match='sample 9 epoch 2: the arguments of rain are not JSON'):
        from_log(path, 'inspect')
    left = []
    first, second = from_log(path, 'inspect', malformed=left)
    assert len(left) == 1 and (first.score, second.score) == (None, 1) and first.id != second.id
    assert (
        second.messages[1]['content'] == '{"tool": "rain", "arguments": {"day": 1}}'
        and second.messages[2]['content'] == 'dry'
    )
    assert (
        reasoning(second.messages[1]) == 'Look.'
        and second.request['tools'][0]['function']['description'] == 'Look out.'
    )
    about = second.provenance
    assert (about['task'], about['seed'], about['model'], about['target'], about['metadata']) == (
        'weather/7',
        2,
        'openai/tiny',
        'No',
        dict(level=1),
    )


@pytest.mark.parametrize(
    'value, score',
    [('C', 1), ('I', 0), ('P', 0.5), ('N', 0), (True, 1), (0.25, 0.25), (7, None), ('maybe', None), (dict(a=1), None)],
)
def test_scores_of_inspect_ai(tmp_path, value, score):
    r = from_log(inspect_log(tmp_path, dict(SAMPLE, scores=dict(match=dict(value=value)))), 'inspect')[0]
    assert r.score == score and r.provenance['scores']['match']['value'] == value
    both = dict(match=dict(value=value), other=dict(value='C'))
    assert from_log(inspect_log(tmp_path, dict(SAMPLE, scores=both)), 'inspect')[0].score is None, 'which of them?'


def test_a_zip_that_is_no_log(tmp_path):
    (tmp_path / 'x.eval').write_bytes(b'PK\x03\x04' + b'\0' * 40)
    with pytest.raises(AgentkitError, match='damaged zip'):
        from_log(tmp_path / 'x.eval', 'inspect')
    (tmp_path / 'x.json').write_text('{"eval": {}}')
    with pytest.raises(AgentkitError, match='has no samples of inspect_ai'):
        from_log(tmp_path / 'x.json', 'inspect')
    missing = dict(SAMPLE, attachments={})
    with pytest.raises(AgentkitError, match='attachment ab is missing'):
        from_log(inspect_log(tmp_path, missing), 'inspect')


# files

CHAT = json.dumps(dict(messages=[ASKED, ANSWER]))
WRITTEN = {
    'a mark at the beginning': '\ufeff'.encode() + CHAT.encode(),
    'lines of Windows': f'{CHAT}\r\n\r\n{CHAT}\r\n'.encode(),
    'empty lines': f'\n{CHAT}\n\n  \n{CHAT}'.encode(),
    'an array': f'[{CHAT},\n{CHAT}]'.encode(),
    'gzip': gzip.compress(f'{CHAT}\n'.encode()),
    'an array in gzip': gzip.compress(f'[{CHAT}]'.encode()),
}


@pytest.mark.parametrize('name', WRITTEN)
@pytest.mark.parametrize('suffix', ['.jsonl', '.json', '.jsonl.gz', '.txt'])
def test_files_however_they_are_written(tmp_path, name, suffix):
    path = tmp_path / f'x{suffix}'
    path.write_bytes(WRITTEN[name])
    assert {r.output for r in from_log(path, 'openai')} == {'No.'}
    assert {r['messages'][-1]['content'] for r in load_export(path, 'openai')} == {'No.'}


def test_tables_and_data_sets(tmp_path):
    datasets = pytest.importorskip('datasets')
    rows = [
        dict(messages=[ASKED, dict(ANSWER, weight=w, name=n)], tools=None)
        for w, n in ((1.0, None), (None, 'x'), (0.5, None))
    ]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / 'x.parquet')
    table.save_to_disk(tmp_path / 'one')
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / 'two')
    weights = [[m.get('loss') for m in r.row()['messages']][1] for r in from_log(tmp_path / 'x.parquet', 'openai')]
    assert weights == [True, True, 0.5]
    assert len(from_log(tmp_path / 'one', 'openai')) == 3 and len(from_log(tmp_path / 'two', 'openai')) == 6
    (tmp_path / 'y.parquet').write_bytes(b'PAR1' + b'\0' * 20)
    with pytest.raises(AgentkitError, match='damaged parquet'):
        from_log(tmp_path / 'y.parquet', 'openai')
    (tmp_path / 'three').mkdir()
    with pytest.raises(AgentkitError, match='name a file in it'):
        from_log(tmp_path / 'three', 'openai')


@pytest.mark.parametrize(
    'line, reason',
    [
        ('{"messages": [], "messages": []}', "'messages' stands twice"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', 'half a letter'),
        ('{"conversations": []}', 'it looks like sharegpt'),
        ('{"instruction": "a", "output": "b"}', 'it looks like alpaca'),
        ('{"prompt": "a", "completion": "b"}', "'completion'"),
        ('3', 'an entry is an object'),
        (CHAT[:-5], 'JSONDecodeError'),
    ],
)
def test_a_line_of_another_kind_is_named(tmp_path, line, reason):
    (tmp_path / 'x.jsonl').write_text(f'{CHAT}\n{line}\n{CHAT}\n')
    with pytest.raises(AgentkitError) as e:
        from_log(tmp_path / 'x.jsonl', 'openai')
    bad = []
    assert 'x.jsonl line 2' in str(e.value) and reason in str(e.value)
    assert len(from_log(tmp_path / 'x.jsonl', 'openai', malformed=bad)) == 2 and bad == [str(e.value)]


def test_damaged_files(tmp_path):
    path = tmp_path / 'x.jsonl'
    for data, reason in ((gzip.compress(CHAT.encode())[:-9], 'damaged gzip'), (CHAT.encode('utf-16'), 'not UTF-8')):
        path.write_bytes(data)
        with pytest.raises(AgentkitError, match=reason):
            from_log(path, 'openai')
    path.write_text('a,a\n1,2\n')
    with pytest.raises(AgentkitError, match="two columns 'a'"):
        from_log(path, 'csv', dict(input='a', output='a'))
    path.write_text('input,output\n' + 'x' * 200_000 + ',y\n')
    assert len(from_log(path, 'csv')[0].input) == 200_000
    for data, reason in (
        (b'', 'is empty: nothing to read'),
        (b'PK\x05\x06' + b'\0' * 18, 'not an entry|damaged|samples|not UTF-8'),
    ):
        path.write_bytes(data)
        with pytest.raises(AgentkitError, match=reason):
            from_log(path, 'openai')
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr('a.txt', 'x')
    with pytest.raises(AgentkitError, match='has no samples of inspect_ai'):
        from_log(path, 'openai')
    with pytest.raises(AgentkitError, match='columns are for csv'):
        from_log(path, 'openai', dict(input='a'))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=12,
    )
)
@few
def test_json_is_read_as_it_was_written_or_not_at_all(value):
    written = json.dumps(value)
    try:
        assert parse_json(written) == value
    except AgentkitError as e:
        odd = 'NaN' in written or 'Infinity' in written
        assert odd if 'no number' in str(e) else 'half a letter' in str(e)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(['', 'x', 'user', 'assistant', 'tool']),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        'messages',
                        'role',
                        'content',
                        'tool_calls',
                        'function',
                        'name',
                        'arguments',
                        'weight',
                        'conversations',
                        'from',
                        'value',
                        'tools',
                        'prompt',
                        'completion',
                        'instruction',
                        'output',
                        'history',
                        'label',
                        'type',
                        'text',
                        'request',
                        'response',
                        'choices',
                        'message',
                        'samples',
                        'data',
                        'spans',
                    ]
                ),
                x,
                max_size=4,
            )
        ),
        max_leaves=15,
    ),
    st.sampled_from(['openai', 'dspy', 'sharegpt', 'alpaca', 'trl', 'completion', 'mlflow', 'inspect']),
)
@hypothesis_settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
def test_no_entry_is_a_traceback(tmp_path, entry, format):
    path = tmp_path / ('x.json' if format == 'inspect' else 'x.jsonl')
    path.write_text(json.dumps(dict(samples=[entry]) if format == 'inspect' else entry) + '\n')
    try:
        records = from_log(path, format)
    except AgentkitError as e:
        assert str(e).count('\n') == 0 or '\n' in json.dumps(entry)
    else:
        for r in records:
            check_row(r.row())


def test_labels_responses_and_weights_of_tables(tmp_path):
    path = tmp_path / 'x'
    for entry, format in (
        (dict(messages=[ASKED, ANSWER], label=False), 'openai'),
        (dict(instruction='a', output='b', kto_tag=False), 'alpaca'),
        (
            dict(conversations=[{'from': 'human', 'value': 'a'}, {'from': 'gpt', 'value': 'b'}], kto_tag=False),
            'sharegpt',
        ),
    ):
        (r,) = from_log(lines(path, entry), format)
        assert r.score == 0 and r.answer['loss'] is False
    for label in ('good', 1):
        with pytest.raises(AgentkitError, match='label of a completion is true or false'):
            from_log(lines(path, dict(prompt='a', completion='b', label=label)), 'trl')
    failed = dict(messages=[ASKED, ANSWER, ASKED], outputs=None, response=None)
    with pytest.raises(AgentkitError, match='line 1: the response has no answer: None'):
        from_log(lines(path, failed), 'dspy')
    path.write_text('q,a,w\nHow?,So.,0.5\nWhy?,Because.,\n')
    half, whole = from_log(path, 'csv', dict(input='q', output='a', weight='w'))
    assert half.row()['messages'][-1]['loss'] == 0.5 and whole.row()['messages'][-1]['loss'] is True
    path.write_text('q,a,w\nHow?,So.,-1\n')
    with pytest.raises(AgentkitError, match='line 2: an answer has the weight -1'):
        from_log(path, 'csv', dict(input='q', output='a', weight='w'))


# who reads the files

EXPORTED = [
    dict(messages=[ASKED, calling(), result(), ANSWER], tools=TOOLS),
    dict(messages=[dict(role='system', content='Play.'), ASKED, {**ANSWER, 'reasoning_content': 'It is dry.'}]),
]
TEMPLATE = (
    '{% for m in messages %}<{{ m.role }}>{{ m.content or "" }}'
    '{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}'
    '{% if tools %}{{ tools | tojson }}{% endif %}'
)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    rows = load_export(lines(folder / 'in', *EXPORTED), 'openai')
    for format in ('openai', 'trl', 'trl-completion', 'sharegpt'):
        export(rows, folder / f'{format}.jsonl', format)
    yes, no = ([dict(role='assistant', content=c)] for c in ('Yes.', 'No.'))
    for format in ('trl', 'openai', 'sharegpt', 'alpaca'):
        export_pairs([dict(prompt=[ASKED], chosen=yes, rejected=no)], folder / f'{format}.pairs.jsonl', format)
    return folder


@pytest.mark.parametrize(
    'name',
    ['openai', 'trl', 'trl-completion', 'sharegpt', *(f'{f}.pairs' for f in ('trl', 'openai', 'sharegpt', 'alpaca'))],
)
def test_hugging_face_datasets_reads_it(exported, tmp_path, name):
    datasets = pytest.importorskip('datasets')
    file = str(exported / f'{name}.jsonl')
    table = datasets.load_dataset('json', data_files=file, split='train', cache_dir=str(tmp_path))
    assert len(table) == len(open(file).readlines())


def test_trl_reads_what_is_written_for_it(exported):
    pytest.importorskip('trl', reason='trl is not installed')
    from transformers import PreTrainedTokenizerFast
    from tokenizers import Tokenizer, models
    from trl.data_utils import apply_chat_template, extract_prompt, is_conversational

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=TEMPLATE)
    chats, completions, pairs = (
        [json.loads(line) for line in open(exported / f'{name}.jsonl')]
        for name in ('trl', 'trl-completion', 'trl.pairs')
    )
    assert all(map(is_conversational, [*chats, *completions, *pairs]))
    assert '<assistant>rain {"day": 1}<tool>dry' in tokenizer.apply_chat_template(chats[0]['messages'], tokenize=False)
    written = apply_chat_template(chats[0], tokenizer, tools=chats[0]['tools'])['text']
    assert 'rain {"day": 1}' in written and json.dumps(TOOLS) in written
    assert apply_chat_template(completions[-1], tokenizer)['completion'].endswith('No.')
    whole = dict(
        chosen=[*pairs[0]['prompt'], *pairs[0]['chosen']], rejected=[*pairs[0]['prompt'], *pairs[0]['rejected']]
    )
    assert {k: extract_prompt(whole)[k] for k in pairs[0]} == pairs[0]


def test_openai_finds_what_it_demands(exported):
    "Field by field, as its guide to fine-tuning says: arguments are texts, each call has its answer."
    chat = json.loads(open(exported / 'openai.jsonl').readline())
    asked = chat['messages'][1]
    assert asked['content'] is None and asked['weight'] == 1 and chat['tools'] == TOOLS
    assert json.loads(asked['tool_calls'][0]['function']['arguments']) == dict(day=1)
    assert asked['tool_calls'][0]['id'] == chat['messages'][2]['tool_call_id'] and 'weight' not in chat['messages'][2]


# the command line


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    from agentkit.cli import main

    monkeypatch.chdir(tmp_path)
    bad = dict(messages=[ASKED, calling(call('{"city": Oslo'))])
    lines(
        tmp_path / 'log.jsonl', dict(messages=[ASKED, calling(), result(), dict(ANSWER, weight=0.5)], tools=TOOLS), bad
    )
    asked = ['collect', 'log.jsonl', '--format', 'openai', '--out', 'records.jsonl']
    assert main(asked) == 2 and not (tmp_path / 'records.jsonl').exists()
    error = capsys.readouterr().err
    assert error == 'agentkit: log.jsonl line 2: the arguments of rain are not JSON: {"city": Oslo\n'
    assert main([*asked, '--skip-malformed']) == 0 and 'log.jsonl line 2' in capsys.readouterr().out
    assert main(['filter', 'records.jsonl', '--out', 'rows.jsonl']) == 0
    assert main(['export', 'rows.jsonl', '--format', 'openai', '--out', 'again.jsonl']) == 0
    assert 'answers are learned by their weights' in capsys.readouterr().out
    assert normal(json.loads((tmp_path / 'again.jsonl').read_text())) == normal(
        json.loads((tmp_path / 'log.jsonl').read_text().split('\n')[0])
    )
    for format, reason in (('trl', 'no weights'), ('alpaca', 'no weights')):
        assert (
            main(['export', 'rows.jsonl', '--format', format, '--out', 'x']) == 2 and reason in capsys.readouterr().err
        )
    lines(tmp_path / 'kto.jsonl', *(dict(prompt='a', completion=c, label=c == 'b') for c in 'bc'))
    assert main(['collect', 'kto.jsonl', '--format', 'trl', '--out', 'kto.records.jsonl']) == 0
    assert main(['filter', 'kto.records.jsonl', '--out', 'kto.rows.jsonl']) == 0
    assert [r['messages'][-1]['content'] for r in read_rows('kto.rows.jsonl')] == ['b']
