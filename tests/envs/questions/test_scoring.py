"What counts as right."

import pytest
from hypothesis import given, strategies as st

from agentkit.core.errors import AgentkitError
from agentkit.envs.questions.scoring import contains, last_number, same_number, same_words, score_answer


@pytest.mark.parametrize(
    'expected, answer, same',
    [
        ('Take an umbrella.', 'take  an\numbrella. ', True),
        ('STRASSE', 'Straße', True),
        ('Take an umbrella.', 'Take an umbrella', False),
        ('x', '', False),
    ],
)
def test_exact(expected, answer, same):
    assert same_words(expected, answer) is same


@pytest.mark.parametrize(
    'expected, answer, inside',
    [
        ('Bern', 'It is bern, of course.', True),
        ('Bern', 'In Bernese German', False),
        ('take an umbrella', 'You should take\nan umbrella!', True),
        ('C++', 'c++ or C', True),
        ('a.b', 'axb', False),
        ('x', '', False),
    ],
)
def test_contains(expected, answer, inside):
    assert contains(expected, answer) is inside


@pytest.mark.parametrize(
    'text, number',
    [
        ('It is 42.', 42),
        ('1,234,567.5 kg', 1234567.5),
        ("10'000 $", 10000),
        ('10\u202f000 €', 10000),
        ('1_000', 1000),
        ('−7 °C', -7),
        ('3 - 5', 5),
        ('3-5', 5),
        ('x = -5', -5),
        ('+3', 3),
        ('.5', 0.5),
        ('12 m2', 12),
        ('CO2', None),
        ('1e3', 1000),
        ('6.02E23 of them', 6.02e23),
        ('50%', 50),
        ('1,2', 2),
        ('1,2345', 2345),
        ('3.', 3),
        ('#### 72', 72),
        ('nothing', None),
        ('', None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@given(st.integers(-(10**12), 10**12), st.text('abc .,!', max_size=9))
def test_any_number_is_read_back(n, words):
    assert last_number(f'{words} {n:,}') == last_number(f'{n}') == n
    assert same_number(str(n), f'so it is {n:,}.')


def test_a_tolerance_includes_its_end_and_says_nothing_of_words():
    assert same_number('2', '2.5', 0.5) and not same_number('2', '2.51', 0.5)
    assert same_number('0.3', str(0.1 + 0.2)) and not same_number('0.3', '0.31')
    assert not same_number('2', 'two', 9) and not same_number('two', '2', 9)


@given(st.text(min_size=1).filter(str.strip))
def test_an_answer_is_as_good_as_itself(text):
    assert score_answer(text, [text]) == score_answer(text, ['no', text], 'contains') == 1
    assert score_answer(text, [text], 'judged') is None and score_answer(text, []) == 0


def test_an_unknown_scoring():
    with pytest.raises(AgentkitError, match="unknown scoring 'fuzzy'; known: exact, contains, numeric, judged"):
        score_answer('a', ['a'], 'fuzzy')
