"The reinforcement learner: what it reads, that it learns, the same numbers for the same seed, and what is refused."

import math

import numpy as np
import pandas as pd
import pytest

gymnasium = pytest.importorskip('gymnasium', reason='the extra [babyai] is not installed')
pytest.importorskip('minigrid', reason='the extra [babyai] is not installed')

from gymnasium.utils.env_checker import check_env  # noqa: E402
from minigrid.wrappers import RGBImgPartialObsWrapper  # noqa: E402

from agentkit.core.errors import AgentkitError  # noqa: E402
from agentkit.envs.babyai.dataset import LEVELS  # noqa: E402
from agentkit.envs.babyai.world import ACTIONS, level_id  # noqa: E402
from agentkit.labs.minigrid import learner  # noqa: E402
from agentkit.labs.minigrid.learner import (  # noqa: E402
    CONDITIONS,
    ENVS,
    HINTS,
    NUMBERS,
    WORDS,
    Features,
    frames_to,
    learn,
    learner_env,
    rolling,
    try_out,
    with_intervals,
)

CELLS = 49 * sum(NUMBERS)


@pytest.fixture
def trains():
    pytest.importorskip('stable_baselines3', reason='the extra [rl] is not installed')


def split(features):
    "What is read: cells with a row each, the words that are there, the hint."
    cells = [features[49 * sum(NUMBERS[:i]) : 49 * sum(NUMBERS[: i + 1])].reshape(49, n) for i, n in enumerate(NUMBERS)]
    words = features[CELLS:-HINTS]
    return cells, {w for w, there in zip(WORDS, words) if there}, features[-HINTS:]


# --- what it reads ---


@pytest.mark.parametrize('hints', CONDITIONS)
def test_all_conditions_have_inputs_of_one_size_which_gymnasium_accepts(hints):
    env = learner_env(hints=hints)
    assert env.observation_space.shape == (CELLS + len(WORDS) + HINTS,)
    check_env(env, skip_render_check=True)


def test_the_view_and_the_mission_can_be_read_back():
    "Also the words of harder levels are all known."
    for name in LEVELS:
        env = learner_env(name)
        for seed in range(5):
            features, _ = env.reset(seed=seed)
            seen = env.unwrapped.gen_obs()
            cells, words, hint = split(features)
            picture = np.stack([c.argmax(1) for c in cells], 1).reshape(7, 7, 3)
            assert (picture == seen['image']).all() and all((c.sum(1) == 1).all() for c in cells)
            assert words == set(seen['mission'].replace(',', '').split()) and not hint.any()


def test_two_observations_that_differ_have_other_numbers():
    env, seen = learner_env('Synth'), {}
    for seed in range(20):
        features, _ = env.reset(seed=seed)
        for action in (0, 0, 2, 1, 2, 2):
            key = env.unwrapped.gen_obs()
            key = key['image'].tobytes(), frozenset(key['mission'].replace(',', '').split())
            assert seen.setdefault(features.tobytes(), key) == key
            features, *_ = env.step(action)
    assert len(set(seen.values())) == len(seen) > 50


def test_a_hint_is_read_where_there_is_one():
    env = learner_env(hints='action', hint_frequency=2)
    hints = [split(env.reset(seed=1)[0])[2]] + [split(env.step(0)[0])[2] for _ in range(4)]
    assert [h.sum() for h in hints] == [1, 0, 1, 0, 1]
    env.reset(seed=1)
    assert ACTIONS[hints[0].argmax()] == env.env.advisor.hint().action


def test_hints_of_chance_are_not_the_bots():
    def first(hints):
        env = learner_env(hints=hints)
        return [split(env.reset(seed=s)[0])[2].argmax() for s in range(60)]

    assert first('random') != first('action') and set(first('random')) == set(range(7))
    assert set(first('action')) <= {0, 1, 2, 6}, 'who has to go to something turns or walks'


# --- what it learns ---

QUICK = dict(frames=ENVS * 128, test_every=1000, test_worlds=8)


@pytest.mark.parametrize('hints', CONDITIONS)
def test_the_same_seed_gives_the_same_numbers(trains, hints):
    one, two, other = (learn(hints=hints, seed=s, **QUICK) for s in (3, 3, 4))
    pd.testing.assert_frame_equal(one.episodes, two.episodes)
    pd.testing.assert_frame_equal(one.tests, two.tests)
    assert all(map(np.array_equal, weights(one), weights(two)))
    assert not one.episodes.equals(other.episodes)
    assert list(one.tests['frames']) == [1008, 2000] and (one.tests['n'] == 8).all()
    pd.testing.assert_frame_equal(try_out(one.model, worlds=8), try_out(two.model, worlds=8))


def weights(learned):
    return [p.detach().numpy() for p in learned.model.policy.parameters()]


def test_tests_do_not_change_the_training(trains):
    tested_often, untested = learn(**QUICK), learn(**{**QUICK, 'test_every': 0})
    pd.testing.assert_frame_equal(tested_often.episodes, untested.episodes)
    assert all(map(np.array_equal, weights(tested_often), weights(untested))) and untested.tests.empty


def test_training_worlds_begin_with_the_seeds_of_training(trains, monkeypatch):
    seeds, make = [], learner.learner_env

    def noting(*args, **options):
        env = make(*args, **options)
        reset = env.reset
        env.reset = lambda *, seed=None, options=None: seeds.append(seed) or reset(seed=seed, options=options)
        return env

    monkeypatch.setattr(learner, 'learner_env', noting)
    learn(seed=2, **{**QUICK, 'test_every': 0})
    first = [s for s in seeds if s is not None]
    assert first == list(range(1_002_000, 1_002_000 + ENVS)) and len(seeds) > ENVS


def test_the_training_stops_hints_after_its_share(trains, monkeypatch):
    made, make = [], learner.learner_env
    monkeypatch.setattr(learner, 'learner_env', lambda *a, **o: made.append(make(*a, **o)) or made[-1])
    learn(hints='action', hint_frequency=1, hint_stop_percentage=0.25, **{**QUICK, 'test_every': 0})
    wrappers = [e.env for e in made]
    assert {w.last_step for w in wrappers} == {32} and all(w.counts['shown'] <= 32 + 1 for w in wrappers)


def test_a_few_thousand_frames_teach_a_little(trains):
    learned = learn(frames=16_000, seed=4, test_every=0)
    success = learned.episodes['won'].astype(float)
    assert success[-200:].mean() > success[:200].mean() + 0.1
    assert learned.episodes['frames'].is_monotonic_increasing and learned.episodes['steps'].max() <= 64


# --- tests and curves ---


def test_a_test_plays_each_world_once_and_by_its_seed(trains):
    learned = learn(**{**QUICK, 'test_every': 0})
    games = try_out(learned.model, worlds=20)
    assert list(games['seed']) == list(range(20)) and games['steps'].between(1, 64).all()
    assert list(try_out(learned.model, worlds=3, split='valid')['seed']) == [500_000, 500_001, 500_002]
    assert not try_out(learned.model, worlds=20, seed=1).equals(games), 'actions are drawn'


def test_frames_to_a_share():
    curve = pd.DataFrame(dict(frames=[10, 20, 30, 40], success=[0.1, 0.5, 0.4, 0.8]))
    assert frames_to(curve) == dict(frames_25=20, frames_50=20, frames_75=40, frames_90=None)
    assert frames_to(curve.head(0), (0.5,)) == dict(frames_50=None)


def test_the_rolling_rate_needs_a_full_window():
    episodes = pd.DataFrame(dict(frames=range(1, 7), won=[0, 1, 1, 1, 0, 0], steps=1))
    curve = rolling(episodes, 3)
    assert list(curve['frames']) == [3, 4, 5, 6]
    assert all(map(math.isclose, curve['success'], [2 / 3, 1, 2 / 3, 1 / 3]))


def test_tests_have_intervals():
    t = with_intervals(pd.DataFrame(dict(frames=[1, 2], won=[0, 50], n=[50, 50])))
    assert list(t['success']) == [0, 1] and t['ci_high'][0] > 0 and t['ci_low'][1] < 1


# --- what is refused ---


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(hints='oracle'), "hints is 'oracle', and not one of none, action, subgoal, random"),
        (dict(level='GoToObjekt'), 'unknown level'),
        (dict(frames=0), 'frames is 0'),
        (dict(frames=1e5), 'frames is 100000.0'),
        (dict(test_every=-1), 'test_every is -1'),
        (dict(test_worlds=0), 'test_worlds is 0'),
        (dict(hint_frequency=5), 'hint_frequency: there are no hints'),
        (dict(hints='action', hint_frequency=0), 'hint_frequency is 0'),
    ],
)
def test_what_cannot_be_is_refused(trains, options, words):
    with pytest.raises(AgentkitError) as e:
        learn(**{**QUICK, **options})
    assert words in str(e.value)


def test_a_picture_is_refused():
    env = RGBImgPartialObsWrapper(gymnasium.make(level_id('GoToObj'), disable_env_checker=True))
    with pytest.raises(AgentkitError, match='reads cells, not a picture of 56 by 56'):
        Features(env)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'stable_baselines3', None)
    with pytest.raises(AgentkitError, match=r'agentkit\[rl\]'):
        learn(**QUICK)
