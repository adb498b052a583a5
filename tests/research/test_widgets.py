"Widgets without a browser: buttons are clicked by a program, and what counts is the file."

import pytest

from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Observation, Step, Task, Trajectory
from agentkit.data.records import from_generator, make_record, rate_records, read_ratings

pytest.importorskip('ipywidgets')
from agentkit.research.widgets import rate, show  # noqa: E402


def sums(r):
    a, b = r.randrange(100), r.randrange(100)
    return dict(input=f"What's {a} + {b}?", output=str(a + b))


RECORDS = from_generator(sums, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'ratings.jsonl'


def test_each_click_is_on_disk_at_once_and_the_next_record_appears(path):
    w = rate(RECORDS, path, 'ana')
    for i, label in enumerate('415'):
        assert RECORDS[i].input in w.text.value.replace('&#x27;', "'") and w.at == i
        w.buttons[label].click()
        assert len(read_ratings(path)) == i + 1 and w.progress.value == i + 1
    assert [r.rating for r in rate_records(RECORDS, read_ratings(path))] == [4, 1, 5]
    assert 'record 3 of 3, 3 rated' in w.status.value and w.next.disabled and not w.previous.disabled


def test_who_comes_back_goes_on_at_the_first_unrated(path):
    rate(RECORDS, path, 'ana').buttons['3'].click()
    assert rate(RECORDS, path, 'ana').at == 1 and rate(RECORDS, path, 'ben').at == 0
    w = rate(RECORDS, path, 'ana')
    w.next.click()
    w.buttons['2'].click()  # the third; the second is left out
    assert rate(RECORDS, path, 'ana').at == 1
    assert rate(RECORDS[::-1], path, 'ana').at == 1, 'another order is no other record'


def test_a_name_is_needed_and_may_be_typed_later(path):
    w = rate(RECORDS, path)
    assert all(b.disabled for b in w.buttons.values()) and 'name' in w.status.value
    w.buttons['5'].click()  # a program can click what is disabled
    assert not path.exists()
    w.rater.value = ' ana '
    w.buttons['5'].click()
    assert [(r['rater'], r['rating']) for r in read_ratings(path)] == [('ana', 5)]


def test_several_raters_in_one_file(path):
    for name, labels in dict(ana='55', ben='15').items():
        w = rate(RECORDS, path, name)
        for label in labels:
            w.buttons[label].click()
    assert [r.provenance.get('ratings') for r in rate_records(RECORDS, read_ratings(path))] == [
        dict(ana=5, ben=1),
        dict(ana=5, ben=5),
        None,
    ]


def test_two_widgets_at_the_same_time_lose_nothing(path):
    one, two = rate(RECORDS, path, 'ana'), rate(RECORDS, path, 'ben')
    for _ in RECORDS:
        one.buttons['4'].click()
        two.buttons['2'].click()
    assert [r.rating for r in rate_records(RECORDS, read_ratings(path))] == [3, 3, 3]


def test_previous_next_and_a_changed_mind(path):
    w = rate(RECORDS, path, 'ana')
    w.comment.value = 'too short'
    w.buttons['2'].click()
    assert w.comment.value == '' and read_ratings(path)[0]['comment'] == 'too short'
    w.previous.click()
    assert w.at == 0 and w.buttons['2'].button_style == 'success' and w.buttons['5'].button_style == ''
    w.buttons['5'].click()
    assert rate_records(RECORDS, read_ratings(path))[0].rating == 5 and w.progress.value == 1
    w.show(99)
    assert w.at == 2
    w.show(-5)
    assert w.at == 0


def test_good_and_bad_are_ratings_too(path):
    w = rate(RECORDS, path, 'ana', scale='0–1')
    assert list(w.buttons) == ['bad', 'good']
    w.buttons['good'].click()
    w.buttons['bad'].click()
    assert [r['rating'] for r in read_ratings(path)] == [5, 1]


def test_the_file_may_have_been_written_by_hand(path):
    path.write_text(f'{{"record": "{RECORDS[0].id}", "rater": "ana", "rating": 3}}\n')
    w = rate(RECORDS, path, 'ana')
    assert w.at == 1
    path.write_text('{"record": "x"}\n')
    with pytest.raises(AgentkitError, match='line 1: a rating needs record, rater and rating'):
        rate(RECORDS, path, 'ana')


def test_what_is_shown_is_text_and_not_a_page(path):
    r = make_record(dict(input='<script>alert(1)</script>', output='<b>bold</b>', system='Be & brief.'), 'log')
    shown = rate([r], path, 'ana').text.value
    assert '<script>' not in shown and '&lt;b&gt;bold&lt;/b&gt;' in shown and 'Be &amp; brief.' in shown


def test_what_cannot_be_rated(path):
    with pytest.raises(AgentkitError, match='0 records'):
        rate([], path)
    with pytest.raises(AgentkitError, match="unknown scale 'stars'; known: 1–5, 0–1"):
        rate(RECORDS, path, scale='stars')
    with pytest.raises(AgentkitError, match='ends with .jsonl'):
        rate(RECORDS, path.with_suffix('.csv'))


def test_it_is_shown_in_jupyter(path):
    for w in (rate(RECORDS, path, 'ana'), show(Trajectory(Task('demo', 'corridor'), 'expert', Observation('Walk.')))):
        assert 'application/vnd.jupyter.widget-view+json' in w._repr_mimebundle_()


def test_an_episode_step_by_step():
    first = Observation('Walk to <door 1>.', Choice(('walk', 'wait')))
    steps = (
        Step(Decision('walk'), Observation('You walk.')),
        Step(Decision('<fly>', 'I am a <bird>.'), Observation(''), valid=False),
    )
    w = show(Trajectory(Task('demo', 'corridor', 'far'), 'expert', first, steps, 'lost', 0.0))
    assert w.slider.max == 2 and 'Walk to &lt;door 1&gt;.' in w.text.value and 'You walk.' not in w.text.value
    w.slider.value = 1
    assert (
        'You walk.' in w.text.value
        and 'could have been done: walk, wait' in w.text.value
        and 'lost' not in w.text.value
    )
    w.slider.value = 2
    assert '(not possible)' in w.text.value and 'lost, score 0' in w.text.value
    assert 'I am a &lt;bird&gt;.' in w.text.value and 'could have been' not in w.text.value


def test_an_episode_that_broke_off_has_no_score():
    w = show(Trajectory(Task('demo', 'corridor'), 'expert', Observation('Walk.'), termination='error'))
    assert '<i>error</i>' in w.text.value
