"The engine says what stock ALFWorld says, opens only known files, keeps its memory, and repairs its cache."

import json, os, random, subprocess, sys, zlib
from pathlib import Path

import psutil, pytest

from agentkit.core.errors import AgentkitError
from agentkit.envs.alfworld import engine
from agentkit.envs.alfworld.engine import Game, is_known, read_game, shipped, translate
from agentkit.envs.alfworld.games import build_game

GOAL = 'put some mug on cabinet'
ROOM = """
(define (problem room) (:domain alfred)
(:objects agent1 - agent  l_0 l_1 l_2 l_3 l_4 - location
    cabinet_bar_2 cabinet_bar_1 sink_bar_1_bar_sinkbasin desk_bar_1 - receptacle
    mug_bar_1 mug_bar_2 desklamp_bar_1 bowl_bar_1 - object  MugType DeskLampType BowlType - otype
    CabinetType SinkBasinType DeskType FridgeType MicrowaveType KnifeType ButterKnifeType - rtype)
(:init (= (total-cost) 0) (atLocation agent1 l_0)
    (receptacleType cabinet_bar_1 CabinetType) (receptacleType cabinet_bar_2 CabinetType)
    (receptacleType sink_bar_1_bar_sinkbasin SinkBasinType) (receptacleType desk_bar_1 DeskType)
    (canContain CabinetType MugType) (canContain SinkBasinType MugType) (canContain DeskType MugType)
    (canContain DeskType BowlType)
    (receptacleAtLocation cabinet_bar_1 l_1) (receptacleAtLocation cabinet_bar_2 l_2)
    (receptacleAtLocation sink_bar_1_bar_sinkbasin l_3)
    (receptacleAtLocation desk_bar_1 l_4) (openable cabinet_bar_1) (openable cabinet_bar_2) (opened cabinet_bar_2)
    (objectType mug_bar_1 MugType) (objectType mug_bar_2 MugType) (pickupable mug_bar_1) (pickupable mug_bar_2)
    (cleanable mug_bar_1)
    (objectAtLocation mug_bar_1 l_4) (objectAtLocation mug_bar_2 l_4)
    (inReceptacle mug_bar_1 desk_bar_1) (inReceptacle mug_bar_2 desk_bar_1)
    (objectType bowl_bar_1 BowlType) (isReceptacleObject bowl_bar_1) (pickupable bowl_bar_1)
    (objectAtLocation bowl_bar_1 l_4) (inReceptacle bowl_bar_1 desk_bar_1)
    (objectType desklamp_bar_1 DeskLampType) (toggleable desklamp_bar_1) (objectAtLocation desklamp_bar_1 l_4)
    (inReceptacle desklamp_bar_1 desk_bar_1))
(:goal (exists (?r - receptacle) (exists (?o - object)
    (and (inReceptacle ?o ?r) (objectType ?o MugType) (receptacleType ?r CabinetType))))))
"""
PLAN = ['go to desk 1', 'take mug 1 from desk 1', 'go to cabinet 1', 'open cabinet 1', 'move mug 1 to cabinet 1']


def made(**changed):
    return (
        dict(
            grammar=shipped('alfred.twl2').replace('UNKNOWN GOAL', GOAL),
            pddl_domain=shipped('alfred.pddl'),
            pddl_problem=ROOM,
            walkthrough=PLAN,
            solvable=True,
        )
        | changed
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path))
    monkeypatch.setenv(
        'ALFWORLD_DATA', os.environ.get('ALFWORLD_DATA', str(tmp_path))
    )  # stock alfworld makes this folder when it is imported
    translate.cache_clear()
    yield tmp_path
    translate.cache_clear()


def stock(path):
    "The game as `alfworld` itself plays it."
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    return textworld.start(
        str(path), textworld.EnvInfos(won=True, admissible_commands=True), wrappers=[AlfredDemangler()]
    )


def compare(game, theirs, plan, steps, seed=0):
    "Play the plan and a random walk in both; every word has to be the same."
    state, mine, rng = theirs.reset(), game.reset(), random.Random(seed)
    assert (mine.text, list(mine.actions.options)) == (state.feedback, state.admissible_commands)
    for i in range(len(plan) + steps):
        action = plan[i] if i < len(plan) else rng.choice([*mine.actions.options, 'eat mug 1', ' look '])
        state, score, done = theirs.step(action)
        mine = game.step(action)
        assert (mine.text, list(mine.actions.options), mine.score == 1, mine.done, mine.reward) == (
            state.feedback,
            state.admissible_commands,
            state.won,
            done,
            score,
        ), action
        if i == len(plan) - 1:
            assert mine.score == 1


def test_a_room_is_told_as_stock_alfworld_tells_it(tmp_path):
    path = tmp_path / 'game.tw-pddl'
    path.write_text(json.dumps(made()))
    theirs, game = stock(path), Game(path)
    for seed in range(4):
        compare(game, theirs, PLAN if seed else [], 60, seed)
    theirs.close()
    assert game.walkthrough == PLAN


def test_stock_and_engine_do_not_share_an_engine(tmp_path):
    one, two = Game(made()), Game(made())
    one.reset(), two.reset()
    one.step('go to desk 1')
    assert not two.step('look').actions.allows('examine desk 1')


REAL = Path(os.environ.get('ALFWORLD_DATA') or '/absent') / 'json_2.1.1' / 'valid_seen'


@pytest.fixture
def real_games():
    files = sorted(REAL.glob('*/*/game.tw-pddl'))
    if not files:
        pytest.skip('ALFWORLD_DATA has no valid_seen games')
    return files


def compare_all(paths, steps):
    game = Game(paths[0])
    for path in paths:
        game.load(path)
        theirs = stock(path)
        compare(game, theirs, game.walkthrough, steps)
        theirs.close()
    game.close()


def test_real_games_are_told_as_stock_alfworld_tells_them(real_games):
    compare_all(real_games[:: len(real_games) // 10], 25)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_real_games_are_told_as_stock_alfworld_tells_them(real_games):
    assert len(real_games) == 140
    compare_all(real_games, 50)


def test_all_real_games_are_known(real_games):
    assert all(is_known(read_game(p)) for p in real_games)


@pytest.mark.parametrize(
    'key, old, new',
    [
        ('grammar', GOAL, '{__import__("os").system("touch hacked")}'),
        ('grammar', GOAL, '#look.feedback#'),
        ('grammar', GOAL, '[{r.name | x(r:receptacle)}]'),
        ('grammar', GOAL, r'a.\n{r}'),
        ('grammar', GOAL, 'a."}], "x": [{"rhs": "b'),
        ('grammar', '{o.name}', '{o.id}'),
        ('grammar', '"Nothing', '"nothing'),
        ('pddl_domain', 'alfred', 'alfred2'),
    ],
)
def test_what_is_not_alfworlds_own_is_refused(key, old, new):
    game = made()
    if key == 'grammar' and old not in game[key]:
        old = 'You open'
    game[key] = game[key].replace(old, new, 1)
    with pytest.raises(AgentkitError, match='can run code.*trusted=True'):
        Game(game)


def test_a_second_goal_sentence_is_refused():
    grammar = made()['grammar']
    extra = '"task2": [{"rhs": "Your task is to: {exit()}."}], "task": ['
    with pytest.raises(AgentkitError, match='can run code'):
        Game(made(grammar=grammar.replace('"task": [', extra, 1)))


def test_a_foreign_grammar_plays_when_trusted(tmp_path):
    grammar = made()['grammar'].replace('You pick up the {o.name}', 'You grab the {o.name.upper()}', 1)
    game = Game(made(grammar=grammar), trusted=True)
    path = tmp_path / 'game.tw-pddl'
    path.write_text(json.dumps(made(grammar=grammar)))
    theirs = stock(path)
    compare(game, theirs, PLAN, 20)
    theirs.close()
    game.reset()
    game.step('go to desk 1')
    assert 'You grab the MUG 1' in game.step('take mug 1 from desk 1').text


@pytest.mark.parametrize(
    'old, new, plan',
    [
        (
            'template :: "look"',
            'template :: "look at {o.name | holds(a:agent, o:object)}{a.name | not_holdsany(a:agent)}."',
            PLAN,
        ),  # changes with the state
        (
            '[{r.name | receptacleatlocation(r:receptacle, lend:location)}]',
            '{r.name | receptacleatlocation(r:receptacle, x:location)}',
            [],
        ),
    ],
)  # x is neither lend nor lstart, which are not named
def test_the_commands_of_a_foreign_grammar_are_told_anew(tmp_path, old, new, plan):
    grammar = made()['grammar']
    assert old in grammar
    path = tmp_path / 'game.tw-pddl'
    path.write_text(json.dumps(made(grammar=grammar.replace(old, new))))
    theirs, game = stock(path), Game(path, trusted=True)
    compare(game, theirs, plan, 10)
    theirs.close()


@pytest.mark.parametrize(
    'content, message',
    [
        ('{"grammar": ', 'is not JSON'),
        ('[]', 'no text under pddl_domain, grammar, pddl_problem'),
        (json.dumps(made(pddl_problem=7)), 'no text under pddl_problem'),
        (json.dumps(made(pddl_problem='(define (problem')), 'cannot be translated'),
        (json.dumps(made(pddl_problem=ROOM.replace('(:goal', '(:aim'))), 'cannot be translated'),
        (
            json.dumps(made(pddl_problem=ROOM.replace('bowl_bar_1', 'bowl_bar_' + 'x' * 5000))),
            'more than 150 characters: bowl_bar_xxx',
        ),
        ('', 'is not JSON'),
    ],
)
def test_malformed_files_cost_one_line(tmp_path, content, message, monkeypatch):
    path = tmp_path / 'game.tw-pddl'
    path.write_text(content)
    monkeypatch.setattr(sys, 'argv', ['mine'])
    with pytest.raises(AgentkitError, match=message) as e:
        Game(path)
    assert '\n' not in str(e.value)
    assert sys.argv == ['mine']
    with pytest.raises(AgentkitError, match='does not exist'):
        Game(tmp_path / 'absent')


def test_a_bad_game_does_not_spoil_the_next():
    game = Game(made())
    with pytest.raises(AgentkitError):
        game.load(made(pddl_problem='('))
    game.load(made())
    game.reset()
    assert [game.step(a) for a in PLAN][-1].score == 1


def test_step_needs_a_reset():
    game = Game(made())
    with pytest.raises(AgentkitError, match='reset'):
        game.step('look')
    game.reset()
    game.close()
    with pytest.raises(AgentkitError, match='reset'):
        game.step('look')


def test_a_translation_is_made_once_and_repaired(own_folder, monkeypatch):
    first = Game(made()).reset()
    (stored,) = (own_folder / 'translations').iterdir()
    good = stored.read_bytes()
    monkeypatch.setattr(engine, '_translate', lambda *_: pytest.fail('translated again'))
    translate.cache_clear()
    assert Game(made()).reset() == first
    monkeypatch.undo()
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(own_folder))
    for damage in (b'', good[: len(good) // 2], b'7', good.replace(good[40:60], b'A' * 20), b'\xff\xfe'):
        stored.write_bytes(damage)
        translate.cache_clear()
        assert Game(made()).reset() == first
        assert stored.read_bytes() == good


def test_a_translation_of_another_format_is_made_again(own_folder):
    first = Game(made()).reset()
    (stored,) = (own_folder / 'translations').iterdir()
    good = stored.read_bytes()
    for other in (b'no line', b'no JSON\nsas', b'{"facts": []'):
        stored.write_bytes(zlib.compress(other))
        translate.cache_clear()
        assert Game(made()).reset() == first
        assert stored.read_bytes() == good


def test_derived_predicates_are_refused():
    domain = (
        '(define (domain d) (:requirements :adl) (:types room) (:predicates (at ?r - room) (seen ?r - room)) '
        '(:derived (seen ?r - room) (at ?r)))'
    )
    problem = '(define (problem p) (:domain d) (:objects hall - room) (:init (at hall)) (:goal (seen hall)))'
    with pytest.raises(AgentkitError, match='derived predicates.*seen'):
        translate(domain, problem)


TYPES = dict(thing=[], box=['thing'], cup=['thing'], mug=['cup', 'box'])
QUERIES = [
    'on(o:thing, b:box)',
    'on(o:cup, b:box) & on(b:box, o2:thing)',
    'on(o:thing, o:thing)',
    'on(o:mug, b:thing) & open(b:thing)',
    'open(b:box)',
    'on(x:thing, y:thing) & on(x:thing, z:thing)',
]


@pytest.mark.parametrize('seed', range(20))
def test_facts_are_found_as_textworld_finds_them(seed):
    "Random facts come and go; each query finds the same mappings in the same order, bound placeholder or not."
    from textworld import logic

    r, theirs = random.Random(seed), logic.State(logic.GameLogic())
    for name, parents in TYPES.items():
        theirs._logic.types.add(logic.Type(name, parents))
    objects = {f'{t}{i}': t for t in TYPES for i in range(4)}
    facts = engine.Facts(objects, theirs._logic.types)
    for _ in range(60):
        predicate, true = r.choice(['on', 'open']), r.random() < 0.8
        arguments = tuple(r.choices([*objects], k=2 if predicate == 'on' else 1))
        facts.set(predicate, arguments, true)
        fact = logic.Proposition(predicate, [logic.Variable(a, objects[a]) for a in arguments])
        if true != theirs.is_fact(fact):
            (theirs.add_fact if true else theirs.remove_fact)(fact)
        query, bound = r.choice(QUERIES), r.choice([*objects])
        for mapping in ({}, {('b', 'box'): bound}, {('a', 'thing'): bound}):
            asked = {logic.Placeholder(*p): logic.Variable(a, objects[a]) for p, a in mapping.items()}
            expected = [
                {(p.name, p.type): v.name for p, v in m.items()}
                for m in theirs.all_assignments(logic.Rule.parse_conjunctive_query(query), asked)
            ]
            assert facts.matches(engine._query(query), mapping) == expected


def test_memory_stays_flat():
    process, sizes = psutil.Process(), []
    game = Game(made())
    for _ in range(4):
        for _ in range(60):
            game.load(made())
            game.reset()
            game.step('go to desk 1')
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[0] < 8 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_memory_stays_flat_over_a_thousand_episodes():
    process, sizes, games = (
        psutil.Process(),
        [],
        [json.loads(build_game('train', i)['files']['game.tw-pddl']) for i in range(5)],
    )
    game, r = Game(games[0]), random.Random(0)
    for i in range(1000):
        game.load(games[i % len(games)])
        now = game.reset()
        for _ in range(30):
            now = game.step(now.actions.sample(r))
        if i + 1 in (100, 1000):
            sizes.append(process.memory_info().rss)
    assert sizes[1] - sizes[0] < 20 * 2**20


def test_engines_are_used_again():
    Game(made()).close()
    idle = len(engine._IDLE)
    assert idle
    for _ in range(5):
        game = Game(made())
        game.reset()
        assert len(engine._IDLE) == idle - 1
        game.close()
        del game
    assert len(engine._IDLE) == idle


def test_the_process_ends_well():
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_engine import Game, made
games = [Game(made()) for _ in range(3)]
for game in games: game.reset()
games[0].close()
del games[1]
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stderr) == (0, '')
