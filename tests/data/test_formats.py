"Rows for other trainers: the same messages and targets after a round trip; no file teaches what it should not."

import json

import pytest
from hypothesis import given, strategies as st

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json
from agentkit.data.cards import load_dataset, preview, save_dataset
from agentkit.data.formats import FORMATS, conversations, export, load_export
from agentkit.data.pairs import (
    PAIR_FORMATS,
    chosen_rows,
    correction_pairs,
    export_pairs,
    judged_pair,
    load_pairs,
    preference,
    preference_pairs,
)
from agentkit.data.rows import call_rows, check_split, episode_rows, mask_turns, split_by_task, task_of, weighted


def row(*answers, system='Play.', **provenance):
    "A conversation with these answers; a pair is (answer, another one to learn instead)."
    messages = [dict(role='system', content=system)] * bool(system) + [dict(role='user', content='Find "it" ★.')]
    for i, a in enumerate(answers):
        answer = dict(role='assistant', content=a, loss=True)
        if not isinstance(a, str):
            answer |= dict(content=a[0], loss=False, **({'instead': a[1]} if a[1] else {}))
        messages += [answer, dict(role='user', content=f'You see\nroom {i}.')]
    return dict(messages=messages[:-1], provenance=provenance)


WON = [row('go to desk 1', 'take mug 1', task='a'), row('look', task='b', system='')]
DEMO = [row(('look', None), 'take pen 1', task='c')]  # a demonstration in the prompt
CORRECTED = [row('go to desk 1', ('take pen 1', 'take mug 1'), 'drop it', task='d')]


PAIR = {k: [dict(role=r, content=k)] for k, r in dict(prompt='user', chosen='assistant', rejected='assistant').items()}


def nano(rows):
    from agentkit.training.bases import make_nano

    return make_nano(rows, size='tiny', vocabulary=400)


def trained(base, rows, **config):
    from agentkit.training.trainer import TrainConfig, finetune

    return finetune(base, rows, TrainConfig.of('nano', **{'epochs': 1, **config}), progress=False)


def targets(rows):
    return sorted(
        json.dumps([[m['content'] for m in r['messages'][:i]], m['content']])
        for r in rows
        for i, m in enumerate(r['messages'])
        if m['role'] == 'assistant' and m['loss']
    )


@pytest.mark.parametrize('steps', [False, True])
@pytest.mark.parametrize(
    'rows', [WON, DEMO, CORRECTED, WON + DEMO + CORRECTED], ids=['won', 'demo', 'corrected', 'all']
)
@pytest.mark.parametrize('format', FORMATS)
def test_what_is_written_is_read_again(tmp_path, format, rows, steps):
    path = tmp_path / 'x.jsonl'
    try:
        facts = export(rows, path, format, steps)
    except AgentkitError as e:
        assert 'cannot say which answers are not to be learned' in str(e) and not path.exists()
        assert (
            format == 'trl'
            and (steps or rows is not WON)
            or format == 'alpaca'
            and not steps
            and rows is not DEMO
            and rows is not WON
        )
        return
    again = load_export(path, format)
    assert again == conversations(rows, steps or FORMATS[format][2] == ('last',)), 'messages, targets and provenance'
    assert targets(again) == targets(call_rows(rows)), 'nothing else is learned, and nothing is lost'
    assert facts['rows'] == len(again) == len(path.read_text().splitlines())
    assert read_json(f'{path}.json')['format'] == format and 'provenance' not in facts


@pytest.mark.parametrize('write', [lambda p: export(WON, p, 'openai'), lambda p: export_pairs([PAIR], p)])
def test_nobodys_file_is_written_over_by_an_export(write, tmp_path):
    "In Python as on the command line; what an export wrote is written anew until somebody changes it."
    path, notes = tmp_path / 'x.jsonl', tmp_path / 'y.jsonl.json'
    for words in ('by hand', 'by another hand'):
        path.write_text(words)
        with pytest.raises(AgentkitError, match=f'{path} exists, and holds something else'):
            write(path)
        assert path.read_text() == words
        path.unlink()
        assert write(path) == write(path)
    notes.write_text('{"mine": 1}')
    with pytest.raises(AgentkitError, match=f'{notes} exists, and holds something else'):
        write(tmp_path / 'y.jsonl')
    assert notes.read_text() == '{"mine": 1}' and not (tmp_path / 'y.jsonl').exists()
    for place in ('/dev/zero', tmp_path):
        with pytest.raises(AgentkitError, match=f'{place} is not a file: name another place'):
            write(place)


@pytest.mark.parametrize('beside', ['[]', '5', 'null', '{', '"x"'])
def test_what_stands_beside_an_export_and_is_none_is_named(beside, tmp_path):
    export(WON, tmp_path / 'x.jsonl', 'openai')
    (tmp_path / 'x.jsonl.json').write_text(beside)
    for read in (lambda p: load_export(p, 'openai'), load_pairs):
        with pytest.raises(AgentkitError, match=r'x\.jsonl\.json (holds|is not JSON)'):
            read(tmp_path / 'x.jsonl')


def test_formats_that_can_say_everything(tmp_path):
    for format in ('openai', 'sharegpt', 'trl-completion', 'instruction', 'completion'):
        export(WON + DEMO + CORRECTED, tmp_path / format, format)


def test_the_wire(tmp_path):
    "Field by field, as the other side documents it."

    def one(format, rows, steps=False):
        export(rows, tmp_path / 'x', format, steps)
        return json.loads((tmp_path / 'x').read_text().splitlines()[0])

    system, first, second = (
        dict(role='system', content='Play.'),
        dict(role='user', content='Find "it" ★.'),
        dict(role='user', content='You see\nroom 0.'),
    )
    assert one('openai', DEMO) == dict(
        messages=[
            system,
            first,
            dict(role='assistant', content='look', weight=0),
            second,
            dict(role='assistant', content='take pen 1', weight=1),
        ]
    )
    assert one('trl', WON) == dict(
        messages=[
            system,
            first,
            dict(role='assistant', content='go to desk 1'),
            second,
            dict(role='assistant', content='take mug 1'),
        ]
    )
    assert one('trl-completion', DEMO) == dict(
        prompt=[system, first, dict(role='assistant', content='look'), second],
        completion=[dict(role='assistant', content='take pen 1')],
    )
    assert one('sharegpt', DEMO)['conversations'][2:] == [
        {'from': 'gpt', 'value': 'look', 'weight': 0},
        {'from': 'human', 'value': 'You see\nroom 0.'},
        {'from': 'gpt', 'value': 'take pen 1'},
    ]
    assert one('alpaca', WON) == dict(
        system='Play.',
        instruction='You see\nroom 0.',
        input='',
        output='take mug 1',
        history=[['Find "it" ★.', 'go to desk 1']],
    )
    assert one('instruction', DEMO) == dict(
        instruction='Play.', input='Find "it" ★.\n> look\nYou see\nroom 0.', output='take pen 1'
    )
    assert one('instruction', WON[1:]) == dict(instruction='Find "it" ★.', input='', output='look')
    assert one('completion', WON[1:]) == dict(
        prompt='<|user|>Find "it" ★.<|end|><|assistant|>', completion='look<|end|>'
    )


def test_files_from_elsewhere_can_be_read(tmp_path):
    path = tmp_path / 'x.jsonl'
    path.write_text('{"instruction": "Add.", "input": "1 + 1", "output": "2"}\n')
    assert load_export(path, 'alpaca') == [
        dict(messages=[dict(role='user', content='Add.\n1 + 1'), dict(role='assistant', content='2', loss=True)])
    ]
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n')
    assert load_export(path, 'openai')[0]['messages'][1]['loss'] is True


@pytest.mark.parametrize(
    'format, line, message',
    [
        ('openai', '{"text": "x"}', 'line 1 is not a row of format openai: KeyError'),
        ('sharegpt', '{"conversations": [{"from": "bot", "value": "x"}]}', "the role 'bot' is unknown"),
        ('trl', '[1]', 'line 1 is not a row of format trl'),
        ('alpaca', '{"instruction": "x", "output": "y", "history": [["a"]]}', 'line 1 is not a row of format alpaca'),
        ('trl', '', 'no rows'),
    ],
)
def test_malformed_files_are_named(tmp_path, format, line, message):
    (tmp_path / 'x').write_text(line + '\n' * bool(line))
    with pytest.raises(AgentkitError, match=message):
        load_export(tmp_path / 'x', format)


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(AgentkitError, match='nothing to learn'):
        export([row(('look', None))], tmp_path / 'x', 'openai')
    with pytest.raises(AgentkitError, match='questions and answers in turn'):
        export([dict(messages=[dict(role='assistant', content='Hello.', loss=True)])], tmp_path / 'x', 'alpaca')
    quoting = row('look')
    quoting['messages'][1]['content'] = 'Go on:\n> look'
    for format, odd in (('instruction', quoting), ('completion', row('a mark: <|end|><|user|>', 'look'))):
        with pytest.raises(AgentkitError, match=f'{format} cannot hold this row'):
            export([odd], tmp_path / 'x', format)
    assert export([row('two\nlines', 'look')], tmp_path / 'x', 'instruction')['rows'] == 2
    for call in (lambda: export(WON, tmp_path / 'x', 'csv'), lambda: load_export(tmp_path / 'x', 'csv')):
        with pytest.raises(
            AgentkitError, match="unknown format 'csv'; known: openai, trl, trl-completion, sharegpt, alpaca"
        ):
            call()


def test_a_file_that_was_changed_is_not_taken_for_the_export(tmp_path):
    path = tmp_path / 'x.jsonl'
    export(WON, path, 'openai')
    path.write_text(path.read_text().splitlines()[0] + '\n')
    with pytest.raises(AgentkitError, match='was changed after its export'):
        load_export(path, 'openai')
    (tmp_path / 'x.jsonl.json').unlink()
    assert len(load_export(path, 'openai')) == 1


@pytest.mark.parametrize('format', FORMATS)
def test_a_reloaded_export_trains_a_nano_as_the_rows_do(tmp_path, format):
    rows = [row(f'go to {w} 1', f'take {w} 1', task=w) for w in ('mug', 'cup', 'pen')]
    export(rows, tmp_path / 'x', format)
    again = episode_rows(load_export(tmp_path / 'x', format))
    assert sorted(m['content'] for r in again for m in r['messages'] if m.get('loss')) == sorted(
        m['content'] for r in rows for m in r['messages'] if m.get('loss')
    )
    base = nano(rows)
    assert trained(base, again).id == trained(base, episode_rows(rows)).id


@pytest.mark.parametrize(
    'format, rows',
    [
        ('openai', WON + DEMO),
        ('trl', WON),
        ('trl-completion', WON + DEMO),
        ('sharegpt', WON + DEMO),
        ('alpaca', WON),
        ('instruction', WON + DEMO),
        ('completion', WON + DEMO),
    ],
)
def test_hugging_face_datasets_reads_every_format(tmp_path, format, rows):
    datasets = pytest.importorskip('datasets', reason='Hugging Face datasets is not installed')
    export(rows, tmp_path / 'x.jsonl', format)
    table = datasets.load_dataset(
        'json', data_files=str(tmp_path / 'x.jsonl'), split='train', cache_dir=str(tmp_path / 'cache')
    )
    assert len(table) == len(load_export(tmp_path / 'x.jsonl', format))


@pytest.mark.slow
@pytest.mark.parametrize('format', ['trl', 'trl-completion'])
def test_trl_trains_on_it(tmp_path, format):
    trl, datasets = pytest.importorskip('trl', reason='trl is not installed'), pytest.importorskip('datasets')
    from agentkit.models.store import model_dir

    rows = [row(f'go to {w} 1', f'take {w} 1') for w in ('mug', 'cup', 'pen', 'pot')]
    export(rows, tmp_path / 'x.jsonl', format)
    table = datasets.load_dataset(
        'json', data_files=str(tmp_path / 'x.jsonl'), split='train', cache_dir=str(tmp_path / 'cache')
    )
    assert trl.data_utils.is_conversational(table[0])
    config = trl.SFTConfig(
        output_dir=str(tmp_path / 'out'),
        max_steps=2,
        use_cpu=True,
        save_strategy='no',
        report_to='none',
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(str(model_dir(nano(rows))), config, train_dataset=table)
    assert trainer.train().training_loss > 0
    if format == 'trl-completion':
        first = trainer.train_dataset[0]
        learned = [i for i, l in zip(first['input_ids'], first['labels']) if l != -100]
        assert 0 < len(learned) < len(first['input_ids']) and trainer.processing_class.decode(
            learned, skip_special_tokens=True
        ).strip() in {'go to mug 1', 'take mug 1'}


@pytest.mark.parametrize('format', FORMATS)
def test_weights_are_written_where_they_can_be(tmp_path, format):
    rows = [*WON, weighted(WON[0], 0.5)]
    if format in ('openai', 'sharegpt'):
        assert export(rows, tmp_path / 'x', format)['learned'] == 'weights'
        assert load_export(tmp_path / 'x', format) == conversations(rows)
    else:
        with pytest.raises(AgentkitError, match=f'{format} knows answers that are learned or not, no weights'):
            export(rows, tmp_path / 'x', format)
        assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('weight', [-0.5, 2.0])
def test_weights_that_no_other_trainer_knows_are_refused(tmp_path, weight):
    with pytest.raises(AgentkitError, match=f'an answer has the weight {weight:g}, and other trainers know 0 to 1'):
        export([weighted(WON[0], weight)], tmp_path / 'x', 'openai')
    assert export([weighted(r, 1.0) for r in WON], tmp_path / 'x', 'openai')['learned'] == 'all'


# only what was done well


def test_the_loss_is_on_the_steps_that_pass():
    whole = row('a', 'b', 'c', ('d', 'e'))

    def left(scores, threshold):
        return [m['content'] for m in mask_turns(whole, scores, threshold)['messages'] if m.get('loss')]

    assert [left([5, 3, 4], t) for t in (3, 4, 5)] == [['a', 'b', 'c'], ['a', 'c'], ['a']] and left(
        [1, None, 0.99], 1
    ) == ['a']
    assert mask_turns(whole, [0, 0, 0])['messages'][-1] == dict(
        role='assistant', content='d', loss=False, instead='e'
    ), 'a correction is still learned'
    assert left([5, 3, 4], 3) == [m['content'] for m in whole['messages'] if m.get('loss')], (
        'the row itself is unchanged'
    )
    with pytest.raises(AgentkitError, match='4 scores for 3 learned'):
        mask_turns(whole, [1] * 4)
    with pytest.raises(AgentkitError, match='a score is a number'):
        mask_turns(whole, ['5', 1, 1])


def test_a_masked_row_trains_on_what_passed():
    from transformers import AutoTokenizer
    from agentkit.models.store import model_dir
    from agentkit.training.encoding import encode

    rows = [row('go to desk 1', 'take mug 1'), row('go to sink 1', 'take pen 1')]
    base, masked = nano(rows), [mask_turns(r, s, 4) for r, s in zip(rows, ([5, 2], [None, 4]))]
    tokenizer = AutoTokenizer.from_pretrained(model_dir(base))
    learned = [tokenizer.decode([i for i in encode(r, tokenizer).labels if i >= 0]) for r in masked]
    assert learned == ['go to desk 1<|end|>', 'take pen 1<|end|>']
    assert trained(base, masked).id != trained(base, rows).id


# splits


@given(
    st.lists(st.tuples(st.sampled_from('abcdefgh'), st.sampled_from(['x', 'y'])), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_no_task_is_on_both_sides(tasks, share, seed):
    rows = [row(f'look {i}', task=t, env=e) for i, (t, e) in enumerate(tasks)]
    if len(set(tasks)) < 2:
        with pytest.raises(AgentkitError, match='two tasks at least'):
            split_by_task(rows, share, seed)
        return
    train, held = split_by_task(rows, share, seed)
    check_split(train=train, held=held)
    assert (
        train
        and held
        and sorted(map(str, train + held)) == sorted(map(str, rows))
        and [r for r in rows if r in train] == train
    )
    assert split_by_task(rows[::-1], share, seed) == (train[::-1], held[::-1]), 'the order of the rows does not matter'


def test_the_share_is_of_tasks_and_the_seed_counts():
    rows = [row(f'look {s}', task=f't{i}', seed=s) for i in range(20) for s in range(i % 3 + 1)]
    held = [{task_of(r) for r in split_by_task(rows, 0.25, s)[1]} for s in range(4)]
    assert [len(h) for h in held] == [5] * 4 and len(set(map(frozenset, held))) > 1
    for share in (0, 1, 1.5):
        with pytest.raises(AgentkitError, match='a part between 0 and 1'):
            split_by_task(rows, share)
    asked = [
        dict(messages=[dict(role='user', content=q), dict(role='assistant', content=a)])
        for q in ('Why?', 'How?')
        for a in 'ab'
    ]
    assert len({task_of(r) for r in asked}) == 2, 'without a task, the question decides'


# preferences


def test_where_two_episodes_part():
    p = preference(row('a', 'b', 'c'), row('a', 'x', 'c'))
    assert ([m['content'] for m in p['prompt']], p['chosen'], p['rejected']) == (
        ['Play.', 'Find "it" ★.', 'a', 'You see\nroom 0.'],
        [dict(role='assistant', content='b')],
        [dict(role='assistant', content='x')],
    )
    assert (
        judged_pair(row('x'), row('a'), 0.0)['chosen'][0]['content'] == 'a'
        and judged_pair(row('x'), row('a'), 1)['chosen'][0]['content'] == 'x'
        and judged_pair(row('x'), row('a'), None) is judged_pair(row('x'), row('a'), 0.5) is None
    )
    assert (
        preference(row('a'), row('a', 'b')) is None
        and preference(row('a', system='Other.'), row('b')) is None
        and preference(row('a'), row('a')) is None
    )


def test_pairs_of_a_task():
    rows = [
        row('a', 'b', task='t', score=1.0),
        row('x', 'b', task='t', score=1.0),
        row('a', 'z', task='t', score=0.0),
        row('a', 'z', task='t', score=0.0, seed=1),
        row('y', task='t', score=None),
        row('q', task='u', score=0.0),
        row('w', task='v', score=1.0),
    ]
    pairs = preference_pairs(rows)
    assert [(p['chosen'][0]['content'], p['rejected'][0]['content'], len(p['prompt'])) for p in pairs] == [
        ('b', 'z', 4)
    ], 'the longest way together, each pair once, nothing from another task, nothing unjudged'
    stars = [row('good', task='t', rating=5), row('fair', task='t', rating=4), row('bad', task='t', rating=2)]
    assert (
        len(preference_pairs(stars, by='rating')) == 2
        and len(preference_pairs(stars, by='rating', margin=2)) == 1
        and preference_pairs(stars) == []
    )


def test_corrections_are_pairs():
    assert [
        (p['chosen'][0]['content'], p['rejected'][0]['content'], len(p['prompt']))
        for p in correction_pairs(CORRECTED + WON + [row(('a', 'a'))])
    ] == [('take mug 1', 'take pen 1', 4)]


PAIRS = correction_pairs(CORRECTED) + preference_pairs(
    [row('go to "★"', task='t', score=1.0), row('wait', task='t', score=0.0)]
)


@pytest.mark.parametrize('format', PAIR_FORMATS)
def test_pairs_on_disk(tmp_path, format):
    path = tmp_path / 'p.jsonl'
    assert export_pairs(PAIRS, path, format)['rows'] == 2 and load_pairs(path, format) == PAIRS
    first = json.loads(path.read_text().splitlines()[0])
    assert (
        list(first)
        == dict(
            trl=['prompt', 'chosen', 'rejected'],
            openai=['input', 'preferred_output', 'non_preferred_output'],
            sharegpt=['conversations', 'chosen', 'rejected'],
            alpaca=['system', 'instruction', 'input', 'history', 'chosen', 'rejected'],
        )[format]
    )
    path.write_text(path.read_text() + '{"prompt": 3}\n')
    with pytest.raises(AgentkitError, match='was changed after its export'):
        load_pairs(path, format)
    (tmp_path / 'p.jsonl.json').unlink()
    with pytest.raises(AgentkitError, match=f'line 3 is not a pair of format {format}'):
        load_pairs(path, format)
    with pytest.raises(AgentkitError, match="pairs 'csv'; known: trl, openai"):
        export_pairs(PAIRS, path, 'csv')
    with pytest.raises(AgentkitError, match='no pairs'):
        load_pairs(tmp_path / 'none', format)


def test_the_chosen_answers_train(tmp_path):
    export_pairs(PAIRS, tmp_path / 'p')
    rows = chosen_rows(load_pairs(tmp_path / 'p'))
    assert [[m['content'] for m in r['messages'] if m.get('loss')] for r in rows] == [['take mug 1'], ['go to "★"']]
    losses = trained(nano(rows), rows, epochs=4, lr=1e-2).losses.loss
    assert losses.iloc[-1] < losses.iloc[0]


@pytest.mark.slow
def test_trls_dpo_learns_the_preference(tmp_path):
    trl, datasets = pytest.importorskip('trl', reason='trl is not installed'), pytest.importorskip('datasets')
    from agentkit.models.store import model_dir

    rows = [
        r
        for w in ('mug', 'cup', 'pen', 'pot')
        for r in (
            row(f'go to {w} 1', f'take {w} 1', task=w, score=1.0),
            row(f'go to {w} 1', f'drop {w} 1', task=w, score=0.0),
        )
    ]
    export_pairs(preference_pairs(rows), tmp_path / 'p.jsonl')
    table = datasets.load_dataset(
        'json', data_files=str(tmp_path / 'p.jsonl'), split='train', cache_dir=str(tmp_path / 'cache')
    )
    config = trl.DPOConfig(
        output_dir=str(tmp_path / 'out'),
        max_steps=12,
        learning_rate=1e-3,
        use_cpu=True,
        save_strategy='no',
        report_to='none',
        disable_tqdm=True,
        logging_steps=1,
    )
    trainer = trl.DPOTrainer(str(model_dir(nano(rows))), args=config, train_dataset=table)
    trainer.train()
    margins = [h['rewards/margins'] for h in trainer.state.log_history if 'rewards/margins' in h]
    assert margins[-1] > max(margins[0], 0) + 0.1


# to be given away


def test_a_data_set_comes_back(tmp_path):
    splits = dict(
        train=json.loads(json.dumps(WON + DEMO)),
        validation=CORRECTED
        + [dict(messages=[dict(role='user', content='Hé\u2028★'), dict(role='assistant', content='x')], provenance={})],
    )
    splits['train'][0]['provenance'] |= dict(kind='pick', score=0.5, ratings=dict(ana=3), policy='expert', judge=None)
    folder = save_dataset(tmp_path / 'set', splits, about='Things are found.', licence='CC0-1.0')
    assert load_dataset(folder) == splits
    card = (folder / 'README.md').read_text()
    for said in (
        '# set',
        'Things are found.',
        '**licence**: CC0-1.0',
        '3 in train, 2 in validation',
        '**learned answers**: 8',
        '| pick | 1 | 0 |',
        '**made by**: expert (1)',
        '0.5 to 0.5, of 1 rows',
    ):
        assert said in card, said
    with pytest.raises(AgentkitError, match='is not written over'):
        save_dataset(folder, splits)


def test_weights_come_back(tmp_path):
    rows = [weighted(CORRECTED[0], w) for w in (0.1, -2, 1, 0)]
    again = load_dataset(save_dataset(tmp_path / 'set', dict(train=rows)))['train']
    assert again == rows and [r['messages'][2]['loss'] for r in again] == [0.1, -2, True, False]
    with pytest.raises(AgentkitError, match='row 2 of train: the loss of an answer is inf'):
        save_dataset(tmp_path / 'other', dict(train=[rows[0], weighted(rows[0], float('inf'))]))


def test_the_card_says_what_was_dropped(tmp_path):
    from agentkit.data.filters import filter_records, scored
    from agentkit.data.records import make_record

    kept, report = filter_records(
        [make_record(dict(input=str(i), output='x', score=i / 4, kind='sum'), 'synthetic') for i in range(5)],
        scored(0.5),
    )
    card = (
        save_dataset(tmp_path / 'set', dict(train=[r.row() for r in kept]), filters=report) / 'README.md'
    ).read_text()
    assert (
        '3 of 5 records kept by 1 filters' in card
        and '| collected | 5 | 5 |\n| score ≥ 0.5 | 3 | 3 |' in card
        and '**sources**: synthetic (3)' in card
        and 'not stated; whoever publishes' in card
    )


def test_a_data_set_that_cannot_be(tmp_path):
    leak = dict(train=[row('a', task='t')], validation=[row('b', task='t')])
    odd, other = row('a', task='t'), {**row('a', task='t'), 'weight': 1}
    odd['messages'][-1]['weight'] = 1
    for splits, message in (
        (leak, 't is in train and in validation'),
        (dict(train=[odd]), "'weight', which would be lost"),
        (dict(train=[other]), "'weight', which would be lost"),
        (dict(train=[]), 'no rows in train'),
        ({}, 'no rows in every split'),
    ):
        with pytest.raises(AgentkitError, match=message):
            save_dataset(tmp_path / 'set', splits)
        assert not (tmp_path / 'set').exists()
    with pytest.raises(AgentkitError, match='is not a data set'):
        load_dataset(tmp_path / 'set')


def test_half_a_data_set_is_none_and_a_changed_one_is_refused(tmp_path, monkeypatch):
    from agentkit.data import cards

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(cards, 'data_card', dies)
        with pytest.raises(KeyboardInterrupt):
            save_dataset(tmp_path / 'set', dict(train=WON))
    assert not (tmp_path / 'set').exists()
    folder = save_dataset(tmp_path / 'set', dict(train=WON))
    assert [p.name for p in tmp_path.iterdir()] == ['set']
    for changed in (dict(train='0' * 32), {}):  # nobody vouches for a split that was added
        (folder / 'digest.json').write_text(json.dumps(changed))
        with pytest.raises(AgentkitError, match='the rows of train are not those'):
            load_dataset(folder)


def test_a_reloaded_data_set_trains_as_the_rows_do(tmp_path):
    rows = [row(f'go to {w} 1', (f'take {w} 2', f'take {w} 1'), task=w) for w in ('mug', 'cup', 'pen')]
    base, again = nano(rows), load_dataset(save_dataset(tmp_path / 'set', dict(train=rows)))['train']
    assert trained(base, again).id == trained(base, rows).id


def test_preview():
    t = preview(WON + CORRECTED, 2)
    assert (
        list(t['learned']) == [2, 1]
        and list(t['task']) == ['a', 'b']
        and t['answer'][0] == 'take mug 1'
        and preview(CORRECTED)['learned'][0] == 3
    )
