"Four ways to tell a sight: nothing is lost, nothing is mixed up, left is left."

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Observation, State, Step, Task
from agentkit.core.views import promises_growth
from agentkit.envs.babyai.sight import COLOURS, EMPTY, STEPS, THINGS, WALL, Sight, decode
from agentkit.envs.babyai.texts import (
    Ascii,
    Natural,
    Relative,
    Tuples,
    ascii_text,
    from_ascii,
    from_tuples,
    natural,
    relative,
    remarks,
    tuples,
)
from envs.babyai.walks import TWENTY, sights

CODES = [EMPTY, WALL, *(c + t for c in COLOURS for t in THINGS)]
CARRIED = ['', *(f'{c} {t}' for c in COLOURS.values() for t in ('key', 'ball', 'box'))]
PLACE = st.integers(-2, 24)
ANY = st.builds(
    Sight,
    mission=st.sampled_from(['go to the red ball', 'open a door, then pick up a key on your left']),
    x=PLACE,
    y=PLACE,
    heading=st.integers(0, 3),
    carrying=st.sampled_from(CARRIED),
    done=st.sampled_from([(), ('open a door',), ('open a door', 'pick up a key')]),
    cells=st.dictionaries(st.tuples(PLACE, PLACE), st.sampled_from(CODES), min_size=1, max_size=30),
)
ENCODINGS = [natural, ascii_text, tuples, relative]


@given(ANY)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(sight):
    assert from_ascii(ascii_text(sight)) == sight
    assert from_tuples(tuples(sight)) == sight
    assert decode(sight.encode()) == sight


@given(ANY, ANY)
@settings(max_examples=100, deadline=None)
def test_other_sights_have_other_texts(one, two):
    assert all((one == two) == (encode(one) == encode(two)) for encode in ENCODINGS)


@given(ANY, st.data())
@settings(max_examples=150, deadline=None)
def test_one_changed_cell_changes_every_text(sight, data):
    place = data.draw(st.sampled_from(sorted(sight.cells)))
    cells = {**sight.cells, place: data.draw(st.sampled_from([*CODES, None]))}
    other = Sight(**{**sight.__dict__, 'cells': {p: c for p, c in cells.items() if c}})
    assert all((sight == other) == (encode(sight) == encode(other)) for encode in ENCODINGS)


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('encode', ENCODINGS)
def test_distinct_states_of_twenty_levels_have_distinct_texts(encode, full):
    texts = {}
    for level in TWENTY:
        for sight in sights(level, full=full):
            assert texts.setdefault(encode(sight), sight) == sight
    assert len(texts) > 250


@pytest.mark.parametrize('full', [False, True])
def test_states_of_twenty_levels_are_read_back(full):
    for level in TWENTY:
        for sight in sights(level, full=full):
            assert from_ascii(ascii_text(sight)) == from_tuples(tuples(sight)) == sight


@pytest.mark.parametrize('heading', range(4))
def test_left_is_left_whatever_the_heading(heading):
    around = [STEPS[(heading + turn) % 4] for turn in range(4)]
    codes = ('rb', 'gk', 'bx', 'yo')  # ahead, right, behind, left
    told = relative(Sight('go', 5, 5, heading, cells={(5 + dx, 5 + dy): code for (dx, dy), code in zip(around, codes)}))
    assert told.split('\n')[3:] == [
        '1 ahead: red ball straight',
        'beside you: yellow open door 1 left, green key 1 right',
        '1 behind: blue box straight',
    ]


def test_nothing_is_left_out():
    sight = Sight(
        'open the door', 3, 4, 3, 'red key', ('go to it',), {(3, 4): 'bo', (2, 4): '##', (4, 4): '..', (3, 2): 'gl'}
    )
    assert natural(sight).split('\n') == [
        'Your mission: open the door.',
        'Done: go to it.',
        'You are in column 3 of row 4 and face north.',
        'You carry a red key.',
        'Row 2: a green locked door in column 3.',
        'Row 4: wall in column 2, a blue open door in column 3, empty in column 4.',
    ]
    assert ascii_text(sight).split('\n')[2:] == [
        'carrying: red key',
        'standing on: blue open door',
        'first cell: 2,2',
        '?? gl ??',
        '?? ?? ??',
        '## ^^ ..',
    ]
    assert tuples(sight).split('\n')[2:] == [
        "you = (3, 4, 'north', 'red key')",
        "things = [(2, 4, 'wall'), (3, 2, 'green locked door'), (3, 4, 'blue open door')]",
        'empty = [(4, 4)]',
    ]


@pytest.mark.parametrize('read', [from_ascii, from_tuples])
@pytest.mark.parametrize('text', ['', 'a red ball', 'mission: go', 'mission = 1\nthings = ['])
def test_other_texts_are_refused(read, text):
    with pytest.raises(AgentkitError, match='not '):
        read(text)


def test_a_picture_without_a_walker_is_refused():
    text = ascii_text(Sight('go', 1, 1, 0, cells={(1, 1): '..'}))
    with pytest.raises(AgentkitError, match='nobody'):
        from_ascii(text.replace('>>', '..'))


@pytest.mark.parametrize('view', [Natural(), Ascii(), Tuples(), Relative()])
def test_views_tell_every_sight_and_leave_other_words(view):
    seen = sights('GoToLocalS8N7')[:3]
    below = seen[2].encode() + '\nYou cannot do that.'
    state = State(Task('', ''), Observation(seen[0].encode()))
    state.steps = [
        Step(Decision('left'), Observation(seen[1].encode())),
        Step(Decision(thought='hm'), Observation('OK.')),
        Step(Decision('fly'), Observation(below), valid=False),
    ]
    first, *rest = [m['content'] for m in view.messages(state)]
    assert first == f'{view.about}\n\n{view.tell(seen[0])}'
    assert rest == ['left', view.tell(seen[1]), 'think: hm', 'OK.', 'fly', f'{view.tell(seen[2])}\nYou cannot do that.']
    assert promises_growth(view) and remarks(below) == ['You cannot do that.']


def test_a_sight_is_told_once_however_long_the_episode():
    class Counted(Natural):
        count = 0

        def tell(self, sight):
            self.count += 1
            return natural(sight)

    view, seen = Counted(), sights('GoTo')
    state = State(Task('', ''), Observation(seen[0].encode()))
    for sight in seen[1:]:
        state.steps.append(Step(Decision('left'), Observation(sight.encode())))
        assert view.messages(state)[-1]['content'] == natural(sight)
    assert view.count == len({s.encode() for s in seen})
