"The expert: goals in every wording, one decision of each kind, foreign states, and whole games in the engine."

import importlib.util, json, os, re, runpy
from collections import Counter
from pathlib import Path

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json, rng
from agentkit.core.types import transcript
from agentkit.envs.alfworld.expert import ORDER, WORDINGS, Goal, believe, expert, progress, read_goal, search_order
from agentkit.envs.alfworld.engine import Game
from agentkit.envs.alfworld.games import build_game

PLACES = (
    'cabinet 1, a cabinet 2, a countertop 1, a desk 1, a drawer 1, a drawer 2, a drawer 10, a fridge 1, '
    'a microwave 1, a shelf 1, a sidetable 1, and a sinkbasin 1'
)
ROOM = (
    '-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, '
    f'you see a {PLACES}.\n\nYour task is to: '
)
MOVES = ['help', 'inventory', 'look'] + [f'go to {r}' for r in re.findall(r'[a-z]+ \d+', PLACES)]


def see(place, *things, verb='go to'):
    "What it looks like to go to a receptacle (or to open it)."
    listed = ', '.join(f'a {t}' for t in things) or 'nothing'
    if verb == 'open':
        return (f'open {place}', f'You open the {place}. The {place} is open. In it, you see {listed}.')
    return (f'go to {place}', f'You arrive at {place}. On the {place}, you see {listed}.')


def shut(place):
    return (f'go to {place}', f'You arrive at {place}. The {place} is closed.')


def take(thing, place):
    return (f'take {thing} from {place}', f'You pick up the {thing} from the {place}.')


def move(thing, place):
    return (f'move {thing} to {place}', f'You move the {thing} to the {place}.')


def change(verb, thing, place):
    return (f'{verb} {thing} with {place}', f'You {verb} the {thing} using the {place}.')


def ask(goal, story=(), *here):
    return expert(f'{ROOM}{goal}.', transcript(story), sorted({*MOVES, *here}))


# Goals

LIBRARY = runpy.run_path(str(Path(importlib.util.find_spec('alfworld').origin).parent / 'gen/goal_library.py'))['gdict']


@pytest.mark.parametrize('kind', WORDINGS)
def test_every_wording_of_the_goal_library(kind):
    assert len(LIBRARY[kind]['templates']) == 2
    for words in LIBRARY[kind]['templates']:
        goal = read_goal(f'Your task is to: {words.format(obj="thing", recep="place", toggle="place", mrecep="")}.')
        assert goal == Goal(kind, 'thing', 'place')


def test_other_wordings_are_refused_by_name():
    for kind in set(LIBRARY) - set(WORDINGS):
        for words in LIBRARY[kind]['templates']:
            with pytest.raises(AgentkitError, match='worded like none'):
                read_goal(f'Your task is to: {words.format(obj="egg", recep="pot", toggle="", mrecep="pan")}.')
    with pytest.raises(AgentkitError, match='has no line'):
        read_goal('You see a shelf 1.')


# One decision after the other, for each kind


def test_search_goes_by_type_then_by_number_and_opens_doors():
    story, goal = [], 'put some pen on shelf'
    for expected, here, answer in (
        ('go to desk 1', (), see('desk 1')),
        ('go to countertop 1', (), see('countertop 1')),
        ('go to sidetable 1', (), see('sidetable 1')),
        ('go to drawer 1', (), shut('drawer 1')),
        ('open drawer 1', ('open drawer 1',), see('drawer 1', verb='open')),
        ('go to drawer 2', ('close drawer 1',), shut('drawer 2')),
        ('open drawer 2', ('open drawer 2',), see('drawer 2', verb='open')),
        ('go to drawer 10', (), see('drawer 10', 'pen 3')),
        ('take pen 3 from drawer 10', ('take pen 3 from drawer 10',), take('pen 3', 'drawer 10')),
        ('go to shelf 1', (), see('shelf 1')),
        ('move pen 3 to shelf 1', ('move pen 3 to shelf 1',), move('pen 3', 'shelf 1')),
    ):
        assert ask(goal, story, *here) == expected
        story.append(answer)


def test_look():
    story, goal = [see('desk 1', 'desklamp 1'), see('sidetable 1', 'cd 1')], 'examine the cd with the desklamp'
    assert ask(goal, story, 'take cd 1 from sidetable 1') == 'take cd 1 from sidetable 1'
    story += [take('cd 1', 'sidetable 1')]
    assert ask(goal, story, 'move cd 1 to sidetable 1') == 'go to desk 1'
    assert ask(goal, story + [see('desk 1', 'desklamp 1')], 'move cd 1 to desk 1', 'use desklamp 1') == 'use desklamp 1'


def test_look_searches_the_lamp_with_the_object_in_hand():
    assert (
        ask('look at cd under the desklamp', [see('desk 1', 'cd 1'), take('cd 1', 'desk 1')], 'move cd 1 to desk 1')
        == 'go to sidetable 1'
    )


@pytest.mark.parametrize(
    'verb, place, goal',
    [
        ('clean', 'sinkbasin 1', 'clean some mug and put it in shelf'),
        ('heat', 'microwave 1', 'put a hot mug in shelf'),
        ('cool', 'fridge 1', 'cool some mug and put it in shelf'),
    ],
)
def test_change_without_opening_the_appliance(verb, place, goal):
    story = [see('desk 1', 'mug 2'), take('mug 2', 'desk 1')]
    assert ask(goal, story) == f'go to {place}'
    story += [shut(place)]
    assert ask(goal, story, f'open {place}', f'{verb} mug 2 with {place}') == f'{verb} mug 2 with {place}'
    assert (
        ask(goal, story + [change(verb, 'mug 2', place)], f'open {place}', f'{verb} mug 2 with {place}')
        == 'go to shelf 1'
    )


def test_two_remembers_the_second_and_follows_the_first():
    story = [
        see('desk 1', 'pen 1', 'pen 2'),
        take('pen 1', 'desk 1'),
        shut('drawer 1'),
        see('drawer 1', verb='open'),
        move('pen 1', 'drawer 1'),
    ]
    assert ask('put two pen in drawer', story, 'take pen 1 from drawer 1') == 'go to desk 1'
    assert (
        ask('put two pen in drawer', story + [see('desk 1', 'pen 2'), take('pen 2', 'desk 1')], 'move pen 2 to desk 1')
        == 'go to drawer 1'
    )


# States that somebody else got into


def test_a_wrong_object_is_put_down_here():
    story = [see('desk 1', 'pen 1', 'cd 1'), take('cd 1', 'desk 1')]
    assert ask('put a pen in shelf', story, 'move cd 1 to desk 1') == 'move cd 1 to desk 1'


def test_a_wrong_object_does_not_stop_the_search():
    assert (
        ask('put a pen in shelf', [see('desk 1', 'cd 1'), take('cd 1', 'desk 1'), shut('fridge 1')], 'open fridge 1')
        == 'go to countertop 1'
    )


def test_a_wrong_object_is_put_away_when_the_right_one_is_found_but_not_twice_in_vain():
    story = [see('sidetable 1', 'pen 1'), see('desk 1'), see('shelf 1', 'plate 1'), take('plate 1', 'shelf 1')]
    assert ask('put a pen in shelf', story) == 'go to desk 1', (
        'a look before the plate was taken says nothing about putting it there'
    )
    assert ask('put a pen in shelf', story + [see('desk 1')], 'move plate 1 to desk 1') == 'move plate 1 to desk 1'
    assert ask('put a pen in shelf', story + [see('desk 1')]) == 'go to countertop 1'


def test_what_did_nothing_is_tried_again_only_when_something_has_changed():
    nothing = ('go to desk 1', 'Nothing happens.')
    assert ask('put a pen in shelf', [nothing]) == 'go to countertop 1'
    assert ask('put a pen in shelf', [nothing, ('go to countertop 1', 'Nothing happens.')]) == 'go to sidetable 1'
    assert ask('put a pen in shelf', [nothing, see('countertop 1')]) == 'go to desk 1'


def test_the_second_follows_the_first_wherever_it_was_put():
    story = [
        see('desk 1', 'pen 1', 'pen 2'),
        take('pen 1', 'desk 1'),
        shut('drawer 2'),
        see('drawer 2', verb='open'),
        move('pen 1', 'drawer 2'),
        see('desk 1', 'pen 2'),
        take('pen 2', 'desk 1'),
    ]
    assert ask('find two pen and put them in drawer', story) == 'go to drawer 2'


def test_placed_without_the_change():
    story = [see('desk 1', 'mug 1'), take('mug 1', 'desk 1'), see('shelf 1'), move('mug 1', 'shelf 1')]
    assert ask('put a clean mug in shelf', story, 'take mug 1 from shelf 1') == 'take mug 1 from shelf 1'
    assert (
        ask('put a clean mug in shelf', [*story, take('mug 1', 'shelf 1')], 'move mug 1 to shelf 1')
        == 'go to sinkbasin 1'
    )


def test_heating_undoes_cooling():
    story = [see('desk 1', 'mug 1'), take('mug 1', 'desk 1'), shut('fridge 1'), change('cool', 'mug 1', 'fridge 1')]
    assert ask('put a cool mug in shelf', story) == 'go to shelf 1'
    assert (
        ask('put a cool mug in shelf', [*story, shut('microwave 1'), change('heat', 'mug 1', 'microwave 1')])
        == 'go to fridge 1'
    )


def test_the_changed_object_is_fetched_before_another():
    story = [
        see('desk 1', 'mug 1'),
        see('countertop 1', 'mug 2'),
        take('mug 2', 'countertop 1'),
        see('sinkbasin 1'),
        change('clean', 'mug 2', 'sinkbasin 1'),
        see('countertop 1'),
        move('mug 2', 'countertop 1'),
        see('shelf 1'),
    ]
    assert ask('put a clean mug in shelf', story) == 'go to countertop 1'


def test_an_open_door_is_not_opened_again():
    story = [
        see('desk 1', 'mug 1'),
        shut('microwave 1'),
        see('microwave 1', verb='open'),
        see('desk 1', 'mug 1'),
        take('mug 1', 'desk 1'),
        ('go to microwave 1', 'You arrive at microwave 1. The microwave 1 is open. In it, you see nothing.'),
    ]
    assert (
        ask('put a mug in microwave', story, 'close microwave 1', 'move mug 1 to microwave 1')
        == 'move mug 1 to microwave 1'
    )


def test_a_pair_in_two_places_is_united():
    story = [see('drawer 1', 'pen 1', verb='open'), see('drawer 2', 'pen 2', verb='open')]
    assert ask('put two pen in drawer', story, 'take pen 2 from drawer 2') == 'take pen 2 from drawer 2'
    assert (
        ask('put two pen in drawer', [*story, take('pen 2', 'drawer 2')], 'move pen 2 to drawer 2') == 'go to drawer 1'
    )


def test_an_object_that_wandered_is_believed_where_it_was_seen_last():
    known = believe(
        ROOM, transcript([see('desk 1', 'pen 1'), take('pen 1', 'desk 1'), see('shelf 1'), move('pen 1', 'shelf 1')])
    )
    assert known.where('pen') == [('pen 1', 'shelf 1')] and not known.held
    known = believe(ROOM, transcript([see('desk 1', 'pen 1'), see('desk 1')]))
    assert known.where('pen') == []


def test_thoughts_and_useless_steps_change_nothing():
    story = [see('desk 1', 'pen 1'), take('pen 1', 'desk 1')]
    idle = [
        ('think: where is the shelf?', 'OK.'),
        ('inventory', 'You are carrying: a pen 1.'),
        ('look', 'You are facing the desk 1. Next to it, you see nothing.'),
        ('examine pen 1', "There's nothing special about pen 1."),
        ('move pen 1 to shelf 1', 'Nothing happens.'),
        ('take cd 1 from desk 1', 'Nothing happens.'),
    ]
    before, after = (believe(ROOM, transcript(s)) for s in (story, story + idle))
    assert (before.held, before.inside) == (after.held, after.inside)
    assert ask('put a pen in shelf', story + idle) == 'go to shelf 1'


def test_a_receptacle_at_the_same_spot_is_opened_without_going_there():
    story = [see(p) for p in ('desk 1', 'countertop 1', 'sidetable 1')] + [
        shut('drawer 1'),
        see('drawer 1', verb='open'),
    ]
    actions = [a for a in MOVES if a not in ('go to drawer 1', 'go to drawer 2')] + ['open drawer 2']
    assert expert(ROOM + 'put a pen in shelf.', transcript(story), actions) == 'open drawer 2'


def test_when_everything_was_seen_the_oldest_look_is_repeated():
    order = search_order('pen', re.findall(r'[a-z]+ \d+', PLACES))
    seen = [see(p) for p in order if p != 'shelf 1'] + [see('shelf 1')]
    visits = []
    for _ in range(2 * len(order)):
        action = ask('put a pen in shelf', seen + visits)
        visits.append(see(action.removeprefix('go to ')))
    assert Counter(a for a, _ in visits) == {f'go to {p}': 2 for p in order}


# Progress


def old(step):
    return tuple(re.sub(r'move (.*) to (.*)', r'put \1 in/on \2', t) for t in step)


@pytest.mark.parametrize(
    'goal,story,reached',
    [
        ('put a mug in shelf', [take('mug 1', 'desk 1'), move('mug 1', 'shelf 1')], [0, 1 / 2, 1]),
        ('put a mug in shelf', [take('cup 1', 'desk 1'), move('cup 1', 'shelf 1')], [0, 0, 0]),
        (
            'put a hot mug in shelf',
            [take('mug 1', 'desk 1'), change('heat', 'mug 1', 'microwave 1'), move('mug 1', 'shelf 1')],
            [0, 1 / 3, 2 / 3, 1],
        ),
        (
            'put a hot mug in shelf',
            [
                take('mug 1', 'desk 1'),
                change('heat', 'mug 1', 'microwave 1'),
                change('cool', 'mug 1', 'fridge 1'),
                move('mug 1', 'shelf 1'),
            ],
            [0, 1 / 3, 2 / 3, 2 / 3, 2 / 3],
        ),
        (
            'put two mug in shelf',
            [take('mug 1', 'desk 1'), move('mug 1', 'shelf 1'), take('mug 2', 'desk 1'), move('mug 2', 'shelf 1')],
            [0, 1 / 4, 1 / 2, 3 / 4, 1],
        ),
        (
            'examine the mug with the desklamp',
            [take('mug 1', 'desk 1'), ('use desklamp 1', 'You turn on the desklamp 1.')],
            [0, 1 / 2, 1],
        ),
        ('put a mug in shelf', [('take mug 1 from desk 1', 'Nothing happens.')], [0, 0]),
    ],
)
@pytest.mark.parametrize('wording', [tuple, old])
def test_progress_counts_what_was_reached(goal, story, reached, wording):
    assert [
        progress(f'{ROOM}{goal}.', transcript([wording(s) for s in story[:n]])) for n in range(len(story) + 1)
    ] == pytest.approx(reached)


@pytest.mark.parametrize('seed', range(20))
def test_the_answer_is_always_possible(seed):
    random = rng('possible', seed)
    story = random.sample(
        [
            see('desk 1', 'pen 1', 'mug 1'),
            take('pen 1', 'desk 1'),
            shut('drawer 1'),
            move('pen 1', 'shelf 1'),
            take('mug 1', 'desk 1'),
        ],
        3,
    )
    actions = random.sample(MOVES, random.randrange(1, 5))
    assert expert(ROOM + 'put two pen in drawer.', transcript(story), actions) in actions


# Whole games


def play(game, stray=lambda n: False, seed=0, most=50):
    "Play a game; where `stray(n)`, step n is random. Won, and how many of the steps were the expert's."
    random, seen, story, own = rng('stray', seed), game.reset(), [], 0
    task = seen.text
    while not seen.done and own < most:
        astray = stray(len(story))
        own += not astray
        options = list(seen.actions.options)
        action = random.choice(options) if astray else expert(task, transcript(story), options)
        assert action in options
        seen = game.step(action)
        story.append((action, seen.text))
    return seen.score == 1, own


@pytest.fixture(scope='module', params=range(6))
def built(request):
    game = Game(json.loads(build_game('valid_unseen', request.param)['files']['game.tw-pddl']))
    yield game
    game.close()


def test_built_games_are_won(built):
    assert play(built)[0]


def test_built_games_are_won_after_thirty_random_steps(built):
    assert play(built, stray=lambda n: n < 30)[0]


def test_built_games_are_won_with_a_random_step_in_four(built):
    assert play(built, stray=lambda n: n % 4 == 3)[0]


def real(split):
    "The game files of a split of ALFWorld's download."
    folder = Path(os.environ.get('ALFWORLD_DATA', '')) / 'json_2.1.1' / split
    if not os.environ.get('ALFWORLD_DATA') or not folder.is_dir():
        pytest.skip(f'ALFWORLD_DATA is not set, or holds no json_2.1.1/{split}')
    return sorted(folder.glob('*/*/game.tw-pddl'))


def kind_of(path):
    return path.parts[-3].split('-')[0]


def losses(paths):
    "Play the games; the names of those lost, and the mean number of steps."
    lost, steps, game = [], 0, Game(paths[0])
    for path in paths:
        game.load(path)
        won, n = play(game)
        steps += n
        if not won:
            lost.append(str(path))
    game.close()
    return lost, steps / len(paths)


def test_real_games_of_every_kind():
    by_kind = {}
    for path in real('valid_seen'):
        by_kind.setdefault(kind_of(path), []).append(path)
    assert set(by_kind) == set(WORDINGS)
    assert losses([p for paths in by_kind.values() for p in paths[:2]])[0] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_valid_seen():
    lost, steps = losses(real('valid_seen'))
    assert not lost and steps < 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_train_games():
    lost, steps = losses(rng('expert', 'train').sample(real('train'), 500))
    assert len(lost) <= 5 and steps < 10


@pytest.mark.slow
def test_real_goals_are_understood():
    for path in real('train'):
        said = re.search(r'Your task is to: [^"]*', read_json(path)['grammar'])[0]
        assert read_goal(said).kind == kind_of(path), said


@pytest.mark.slow
def test_the_search_order_is_the_one_counted_in_the_training_games():
    there, holds = Counter(), Counter()
    for path in real('train'):
        facts = [
            f.split()
            for f in re.findall(
                r'\(([^()]+)\)', read_json(path)['pddl_problem'].partition('(:init')[2].partition('(:goal')[0]
            )
        ]
        types = {
            name: kind.lower().removesuffix('type')
            for p, name, kind in (f for f in facts if f[0] in ('objectType', 'receptacleType'))
        }
        places = [f[1] for f in facts if f[0] == 'receptacleAtLocation']
        may = {
            (f[1].lower().removesuffix('type'), f[2].lower().removesuffix('type'))
            for f in facts
            if f[0] == 'canContain'
        }
        movable = {f[1] for f in facts if f[0] == 'pickupable'}
        _, wanted, _, goal, _ = path.parts[-3].lower().split('-')
        lying = [(types[f[1]], f[2]) for f in facts if f[0] == 'inReceptacle' and f[1] in movable]
        for thing in {t for t, _ in lying}:
            where = {place for t, place in lying if t == thing}
            for place in places:
                kind = types[place]
                if (kind, thing) not in may or (thing == wanted and kind == goal and '_then_' not in kind_of(path)):
                    continue
                there[kind] += 1
                holds[kind] += place in where
    doors = ('cabinet', 'drawer', 'fridge', 'microwave', 'safe')
    rate = {kind: holds[kind] / there[kind] / (2 if kind in doors else 1) for kind in there}
    assert sorted(rate, key=lambda k: -rate[k]) == [k for k in ORDER if k in rate]
