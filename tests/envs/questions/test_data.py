"Files of questions: what is read, what is refused and where it stands, and splits that share nothing."

import json

import pytest
from hypothesis import given, strategies as st

from agentkit.core.errors import AgentkitError
from agentkit.envs.questions.data import Question, divided, read_questions
from agentkit.envs.questions.generated import generated_rows
from agentkit.envs.questions.scoring import normal


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path, *rows):
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def texts(questions):
    return [q.text for q in questions]


# reading


def test_jsonl_with_columns_of_its_own(folder):
    path = lines(folder / 'own.jsonl', dict(Q=' One? ', A=[1, 'uno'], topic='n'), '', dict(Q='Two?', A=2.5, part='dev'))
    one, two = read_questions(path, question='Q', answer='A', kind='topic', split='part')
    assert (one.text, one.answers, one.kind, one.split) == ('One?', ('1', 'uno'), 'n', '')
    assert (two.answers, two.split, two.where) == (('2.5',), 'dev', f'{path} line 3')


def test_csv_with_a_mark_quotes_and_lines(folder):
    path = folder / 'a.csv'
    path.write_text('\ufeffquestion,answer,scoring\r\n"What is\r\n1,000 + 1?","1,001",numeric\r\nB?,b,\r\n')
    a, b = read_questions(str(path))
    assert a.text == 'What is\n1,000 + 1?' and a.answers == ('1,001',) and a.scoring == 'numeric'
    assert (b.text, b.scoring, b.where) == ('B?', '', f'{path} line 4')


@pytest.mark.parametrize(
    'name, text, error',
    [
        ('a.jsonl', '{"question": "A?", "answer": "a"}\n{"question": "B?"', 'a.jsonl line 2 is not JSON'),
        ('a.jsonl', '[' * 100_000, 'a.jsonl line 1 is not JSON'),
        ('a.jsonl', '[1, 2]', 'a.jsonl line 1 is not an object'),
        ('a.jsonl', '{"question": "", "answer": "a"}', "a.jsonl line 1: no question in 'question'; its columns are: q"),
        ('a.jsonl', '{"q": "A?"}', "a.jsonl line 1: no question in 'question'; its columns are: q"),
        ('a.jsonl', '{"question": "A?", "answer": [{}]}', 'a.jsonl line 1: an answer is a text or a number'),
        ('a.jsonl', '\n', 'a.jsonl: no questions'),
        ('a.csv', 'question,answer\nA?,a\nB?\n', 'a.csv line 3 has more or fewer cells than the 2 columns'),
        ('a.csv', 'question,answer\nA?,a,b\n', 'a.csv line 2 has more or fewer cells'),
        ('a.csv', 'question,answer\n"A?,a\n', 'a.csv after line 1 is not CSV'),
        ('a.txt', 'A?', 'a.txt is neither .jsonl nor .csv'),
    ],
)
def test_what_is_wrong_is_named_by_its_line(folder, name, text, error):
    (folder / name).write_text(text)
    with pytest.raises(AgentkitError, match=error):
        read_questions(name)


def test_no_file_and_no_text(folder):
    with pytest.raises(AgentkitError, match='none.jsonl does not exist'):
        read_questions('none.jsonl')
    (folder / 'latin.csv').write_bytes('question,answer\nWo?,Zürich\n'.encode('latin-1'))
    with pytest.raises(AgentkitError, match='latin.csv is not UTF-8'):
        read_questions('latin.csv')


@pytest.mark.parametrize(
    'question, scoring, error',
    [
        (Question('A?', where='f line 1'), 'exact', 'f line 1: no answer; only scoring="judged" can do without'),
        (Question('A?', ('a',), where='f line 1'), 'numeric', "f line 1: no number in the answer 'a'"),
        (Question('A?', ('a',), scoring='fuzzy', where='f line 1'), 'exact', "f line 1: unknown scoring 'fuzzy'"),
        (Question('A?', ('a',), scoring='numeric', where='f line 1'), 'exact', "no number in the answer 'a'"),
    ],
)
def test_what_cannot_be_scored_is_named_too(question, scoring, error):
    with pytest.raises(AgentkitError, match=error):
        question.check(scoring)


def test_what_can_be_scored():
    open_question = Question('A?')
    assert open_question.check('judged') is open_question
    assert Question('A?', ('a',), scoring='exact').check('numeric')


# data sets of Hugging Face


@pytest.fixture
def datasets(folder, monkeypatch):
    datasets, hub = pytest.importorskip('datasets'), pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(hub, 'HF_HUB_OFFLINE', True)
    return datasets


def test_a_folder_as_the_hub_lays_it_out(datasets, folder):
    for split in ('train', 'test'):
        (folder / 'shop').mkdir(exist_ok=True)
        lines(folder / f'shop/{split}.jsonl', *[dict(question=f'{split} {i}?', answer=str(i)) for i in range(3)])
    parts = divided(read_questions(str(folder / 'shop')))
    assert texts(parts['train']) == ['train 0?', 'train 1?', 'train 2?']
    assert [q.where for q in parts['valid']][:1] == [f'{folder}/shop test row 1'] and len(parts['valid']) == 3


def test_a_saved_data_set_with_and_without_splits(datasets, folder):
    rows = datasets.Dataset.from_list([dict(question=f'{i}?', answer=i) for i in range(10)])
    rows.save_to_disk(folder / 'one')
    assert {q.split for q in read_questions(str(folder / 'one'))} == {''}
    rows.train_test_split(0.5, seed=0).save_to_disk(folder / 'two')
    assert {q.split for q in read_questions(str(folder / 'two'))} == {'train', 'test'}


def test_a_data_set_that_is_not_there(datasets, folder):
    with pytest.raises(AgentkitError, match='nobody/nothing cannot be read as a data set: '):
        read_questions('nobody/nothing')


# splits

ROWS = st.lists(
    st.tuples(st.sampled_from(['A?', 'a?', ' A?  ', 'B?', 'C?', 'D?', 'E?']), st.sampled_from('xyz')), min_size=1
)


@given(ROWS, st.floats(0.01, 0.99), st.integers(0, 3))
def test_no_question_is_on_both_sides(rows, share, seed):
    parts = divided([Question(text, ('1',), kind) for text, kind in rows], share=share, seed=seed)
    train, valid = ({normal(q.text) for q in parts[s]} for s in ('train', 'valid'))
    assert valid and not train & valid and train | valid == {normal(text) for text, _ in rows}
    assert len(train) == len(parts['train']) and len(valid) == len(parts['valid'])


def test_a_share_has_all_kinds_in_proportion_whatever_the_order():
    questions = [Question(f'{kind} {i}?', ('1',), kind) for kind, n in dict(a=40, b=20, c=10).items() for i in range(n)]
    valid = divided(questions, share=0.2)['valid']
    assert [sum(q.kind == k for q in valid) for k in 'abc'] == [8, 4, 2]
    assert {q.text for q in divided(questions[::-1], share=0.2)['valid']} == {q.text for q in valid}
    assert {q.text for q in divided(questions, share=0.2, seed=1)['valid']} != {q.text for q in valid}


def test_a_question_that_is_held_out_is_not_for_training():
    rows = [
        ('A?', 'a', 'train'),
        ('B?', 'b', 'train'),
        ('a? ', 'c', 'test'),
        ('B?', 'B', 'train'),
        ('X?', 'x', 'other'),
    ]
    parts = divided([Question(text, (answer,), split=split) for text, answer, split in rows])
    assert texts(parts['train']) == ['B?'] and parts['train'][0].answers == ('b', 'B')
    assert texts(parts['valid']) == ['a? ']


def test_names_of_splits():
    questions = [Question(f'{s}?', ('1',), split=s) for s in ('train', 'test', 'validation')]
    assert texts(divided(questions)['valid']) == ['validation?']
    assert texts(divided(questions, 'test')['valid']) == ['test?']
    assert len(divided(questions[:1])['valid']) == 1, 'a single split is divided'
    assert texts(divided(questions[1:2], 'test')['valid']) == ['test?'], 'or is all for measuring'
    for name, missing in (('final', 'final'), ('', 'valid'), ('train', 'train')):
        with pytest.raises(AgentkitError, match=f"no split '{missing}' to measure with; held_out is one of: extra"):
            divided([Question('A?', split='train'), Question('B?', split='extra')], name)
    with pytest.raises(AgentkitError, match='f line 9: no split, and other rows have one'):
        divided([Question('A?', split='train'), Question('B?', where='f line 9')])
    with pytest.raises(AgentkitError, match='share is 1: a part between 0 and 1'):
        divided(questions, share=1)


def test_the_kits_own_questions():
    rows = generated_rows()
    assert len({normal(row['question']) for row in rows}) == len(rows) == 1000
    for q in read_questions(''):
        assert q.check('exact').answers
    valid = divided(read_questions(''))['valid']
    assert sorted({q.kind for q in valid}) == ['arithmetic', 'general', 'travel', 'weather']
    assert all(sum(q.kind == kind for q in valid) == 50 for kind in {q.kind for q in valid})
