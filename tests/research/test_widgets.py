"Widgets without a browser: buttons are clicked by a program, and what counts is the file."

import base64
import importlib.util
import json
import re
import sys

import pytest

from agentkit.agents.programs import Expert
from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Hint, Observation, State, Step, Task, Trajectory, trajectory
from agentkit.data.records import from_generator, make_record, rate_records, read_ratings
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.find import identity, list_tasks
from agentkit.rollouts import Game, read_trajectories, run_episode
from agentkit.testing.corridor import Corridor

pytest.importorskip('ipywidgets')
from agentkit.research.widgets import GameWidget, picture, play, rate, show  # noqa: E402


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


# --- pictures ---

GRID = list_tasks('babyai', 'test', 1, levels='UnlockPickup')[0]


def image(html):
    "What is in the page's one image: kind and bytes."
    kind, data = re.search(r'<img style="max-width: 100%" src="data:image/([^;]+);base64,([^"]+)">', html).groups()
    return kind, base64.b64decode(data)


def test_each_step_of_a_grid_is_drawn_beside_the_words():
    t = run_episode(Expert(), BabyAI(levels='UnlockPickup'), GRID, hints=True)
    w = show(trajectory(json.loads(json.dumps(t.to_dict()))))  # as it is read from a file
    for n in (0, 3, len(t.steps)):
        w.slider.value = n
        assert image(w.picture.value) == ('png', BabyAI.draw(t.state(n)))
    assert 'hint: pickup, Pickup' in w.text.value
    w.whole.value = True
    assert image(w.picture.value) == ('png', BabyAI.draw(t.state(), whole=True))


def test_the_film_follows_the_slider():
    t = run_episode(Expert(), Corridor(), list_tasks('corridor', n=3)[2])
    film = show(t).box.children[1].children[0]
    assert film.max == 3 and film.value == 0


def test_a_picture_cannot_run_anything():
    "An SVG comes from an environment that may be anybody's: as an image it has no scripts."
    t = run_episode(Expert(), Corridor(), list_tasks('corridor', n=2)[1])
    kind, svg = image(picture(t.state(1)))
    assert kind == 'svg+xml' and svg.decode() == Corridor.draw(t.state(1))
    assert '<svg' not in show(t).picture.value


def test_where_nobody_can_draw_the_words_stay_and_say_why(monkeypatch):
    t = Trajectory(Task('demo', 'elsewhere'), 'expert', Observation('Walk.'), termination='error')
    w = show(t)
    assert 'no picture: data name the environment' in w.picture.value and 'Walk.' in w.text.value
    assert w.whole.layout.display == 'none'
    assert picture(State(Task('q', 'questions'), Observation('Why?'))) == ''
    assert picture(State(Task('q', 'corridor'), Observation('Why?'))).startswith('<small>no picture: IndexError: ')


def test_without_the_extra_of_the_grid_there_are_words(monkeypatch):
    t = run_episode(Expert(), BabyAI(levels='UnlockPickup'), GRID)
    monkeypatch.setitem(sys.modules, 'minigrid', None)
    assert 'agentkit[babyai]' in show(t).picture.value and 'mission:' in show(t).text.value


def test_without_ipywidgets_an_episode_is_text(monkeypatch):
    t = run_episode(Expert(), Corridor(), list_tasks('corridor', n=2)[1])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'ipywidgets' else find(name, *a))
    assert show(t) is t and 'You are at door 2.' in show(t)._repr_markdown_()


# --- playing ---


def test_a_grid_is_played_with_buttons_and_hints(path):
    w = play(GRID, path)
    assert list(w.buttons) == ['left', 'right', 'forward', 'pickup', 'drop', 'toggle']
    before = w.picture.value
    w.hint.click()
    hint = w.game.hint()
    assert w.status.value == f'hint: {hint.action}, {hint.subgoal}' and w.trajectory.steps == ()
    w.buttons[hint.action].click()
    assert w.trajectory.steps[0].hint == hint and w.picture.value != before
    w.buttons['drop'].click()  # without a hint
    assert w.trajectory.steps[1].hint is None and w.status.value == ''
    while not w.game.end:
        w.do(w.game.hint().action)
    assert w.status.value == 'won' and w.buttons == {} and w.hint.disabled
    (kept,) = read_trajectories(path)
    assert kept == w.trajectory and kept.won and kept.policy == 'me' and kept.environment == identity('babyai')
    w.again.click()
    assert len(w.trajectory.steps) == 0 and 'left' in w.buttons and not w.hint.disabled


def test_an_episode_by_hand_is_the_episode_of_a_policy():
    "The same actions in the loop give the same steps."
    t = run_episode(Expert(), BabyAI(levels='UnlockPickup'), GRID)
    w = play(GRID)
    for step in t.steps:
        w.buttons[step.action].click()
    same = ('decision', 'observation', 'valid', 'hint')
    assert [[getattr(s, f) for f in same] for s in w.trajectory.steps] == [
        [getattr(s, f) for f in same] for s in t.steps
    ]
    assert (w.trajectory.termination, w.trajectory.score, w.trajectory.progress) == ('won', 1, 1)


def test_several_episodes_by_hand_are_kept_apart(path):
    task = list_tasks('corridor', n=1)[0]
    for _ in range(2):
        w = play(task, path)
        for _ in range(2):
            w.again.click()
            w.do('forward')
    kept = read_trajectories(path)
    assert [t.sample for t in kept] == [0, 1, 2, 3]


def test_where_there_is_much_to_do_it_is_typed():
    w = play(list_tasks('babyai', 'test', 1, levels='GoTo')[0], options=dict(actions='macro'))
    (line,) = w.actions.children
    assert w.buttons == {} and set(line.options) == set(w.game.state.now.actions.options)
    line.value = 'Turn right!'
    assert w.trajectory.steps[0].action == 'turn right' and w.actions.children[0].value == ''
    w.actions.children[0].value = 'fly away'
    assert not w.trajectory.steps[1].valid and '(not possible)' in w.text.value


def test_what_may_be_said_is_typed_too():
    w = play(list_tasks('questions', n=1)[0])
    w.actions.children[0].value = 'Paris'
    assert w.game.state.steps[0].action == 'Paris'


def test_who_gives_the_hints_can_be_chosen_and_can_fail():
    task = list_tasks('corridor', n=3)[2]
    assert play(task, hint=lambda state: Hint('back')).game.hint() == Hint('back')
    silent = play(task, hint=lambda state: None)
    silent.hint.click()
    assert silent.status.value == 'nobody knows what to do'

    def missing(state):
        raise AgentkitError('a key is <missing>')

    w = play(task, hint=missing)
    w.hint.click()
    assert w.status.value == 'a key is &lt;missing&gt;' and w.buttons


def test_a_task_of_somebody_elses_environment_is_not_played():
    with pytest.raises(AgentkitError, match='which is not registered'):
        play(Task('demo', 'some_module:Class'))
    with pytest.raises(AgentkitError, match='does not take these options'):
        play(GRID, options=dict(colour='red'))


def test_a_game_that_is_over_is_over():
    game = Game(list_tasks('corridor', n=1)[0])
    game.do('forward')
    assert game.end == 'won' and game.hint() is None
    with pytest.raises(AgentkitError, match='this episode is over .won.'):
        game.do('forward')
    w = GameWidget(game)
    w.do('forward')  # a program can do what no button does
    assert len(w.trajectory.steps) == 1
    game.close()
