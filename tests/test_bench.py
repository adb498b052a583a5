"The benchmark compares what it says: a difference is an error, parts are kept. No test looks at a time."

import json, os

import pytest

from agentkit.agents.programs import Expert
from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Observation
from agentkit.data.rows import call_rows
from agentkit.envs.alfworld import engine as alfworld_engine
from agentkit.envs.alfworld.environment import AlfWorld
from agentkit.envs.pool import EnvPool
from agentkit.models.serving import LocalLM
from agentkit.rollouts import Runner
from agentkit.training.trainer import TrainConfig
from bench import __main__ as command
from bench import babyai
from bench.compared import Compared, read_summary, record, table
from bench.environment import Pair, StockEnv, memory, walk
from bench.figure import NAMES, bench_figure
from bench.games import bench_games, empty_data, forget, variable
from bench.rollouts import (
    CountingEngine,
    GuidedAgent,
    PlainAgent,
    cpu_seconds,
    decisions,
    figures,
    limit,
    replay,
    rollout_table,
)
from bench.training import padding, rows_of


@pytest.fixture(autouse=True)
def built(results, monkeypatch, tmp_path):
    "Built games, whatever this machine has."
    monkeypatch.delenv('ALFWORLD_DATA', raising=False)
    monkeypatch.setenv('AGENTKIT_ALFWORLD_DATA', '')


@pytest.fixture(scope='module')
def demos(own_folders):
    with variable('ALFWORLD_DATA', ''), variable('AGENTKIT_ALFWORLD_DATA', ''):
        with Runner('alfworld', workers=1, progress=False) as run:
            return run(Expert(), bench_games(2)[0])


def compared(plain=6.0, ours=2.0):
    return Compared(plain, ours, 's', 3)


def test_ratios_are_those_of_the_figures_beside_them(results):
    record('env', dict(env_step_speedup=compared(66.0, 3.0), env_open_speedup=compared(10.0, 4.0)), {})
    summary = json.loads((results / 'bench/summary.json').read_text())
    assert (summary['env_step_speedup'], summary['env_open_speedup']) == (22.0, 2.5)
    for name, f in summary['figures'].items():
        assert summary[name] == round(f['plain'] / f['ours'], 2)
    assert set(table(summary)['ratio']) == set(summary['figures'])


def test_a_part_replaces_itself_and_keeps_the_others():
    record('env', dict(env_step_speedup=compared(), env_gone=compared()), dict(n=1))
    record('training', dict(train_tokens_ratio=compared()), dict(n=2))
    summary = record('env', dict(env_step_speedup=compared(8.0)), dict(n=3))
    assert summary == read_summary()
    assert 'env_gone' not in summary and 'env_gone' not in summary['figures']
    assert (summary['env_step_speedup'], summary['train_tokens_ratio']) == (4.0, 3.0)
    assert (summary['parts']['env']['n'], summary['parts']['training']['n']) == (3, 2)
    assert bench_figure(summary)


def test_the_summary_names_the_machine_but_not_whose(results):
    text = json.dumps(record('env', dict(env_step_speedup=compared()), {}))
    assert {'cores', 'python', 'versions', 'processor'} <= set(read_summary()['parts']['env']['machine'])
    assert os.uname().nodename not in text and str(results) not in text and os.path.expanduser('~') not in text


def test_nothing_measured_is_said():
    with pytest.raises(AgentkitError, match='run `make bench`'):
        bench_figure()
    with pytest.raises(AgentkitError, match='rollouts have not been measured yet: run `make bench`'):
        rollout_table(record('env', dict(env_step_speedup=compared()), {}))


def test_the_ways_to_play_beside_the_limit():
    way = dict(won=4, episodes_a_minute=1.0, tokens_sent=8, tokens_computed=2, cache_hit_rate=0.75)
    summary = record(
        'rollouts',
        dict(rollout_speedup=compared()),
        dict(ways=dict(plain=dict(way, seconds=30.0), ours=dict(way, seconds=10.0)), limit=dict(seconds=4.0)),
    )
    assert list(rollout_table(summary)['way']) == ['plain', 'ours'] and list(rollout_table(summary)['times_limit']) == [
        7.5,
        2.5,
    ]


@pytest.mark.parametrize(
    'field, value',
    [('text', 'Nothing'), ('actions', Choice(('look',))), ('done', True), ('score', 1.0), ('reward', 1.0)],
)
def test_any_difference_is_an_error(field, value):
    class One:
        def __init__(self, **changed):
            self.seen = Observation(**{**dict(text='A room.', actions=Choice(('go', 'look'))), **changed})

        def step(self, action):
            return self.seen

    pair = Pair(One(), One())
    for _ in range(3):
        assert pair.ask('step', 'step', 'go').text == 'A room.'
    with pytest.raises(AgentkitError, match=f"after step 'go', {field} is"):
        Pair(One(), One(**{field: value})).ask('step', 'step', 'go')
    assert pair.compared('step', 's').n == 3


def test_the_two_are_asked_in_turn():
    order = []

    class Named:
        def __init__(self, name):
            self.name = name

        def step(self, action):
            order.append(self.name)
            return Observation('')

    pair = Pair(Named('plain'), Named('ours'))
    for _ in range(2):
        pair.ask('step', 'step', 'go')
    assert order == ['plain', 'ours', 'ours', 'plain']


def test_a_walk_books_every_opening_and_step():
    with empty_data():
        pair = Pair(StockEnv(), AlfWorld())
        walk(pair, bench_games(1)[0][0], 4)
        pair.close()
    counts = {what: len(spent) for what, spent in pair.spent.items()}
    assert (
        counts['open', 'ours'] == counts['open', 'plain'] == counts['reopen', 'ours'] == counts['reopen', 'plain'] == 1
    )
    assert counts['step', 'ours'] == counts['step', 'plain'] > 4


def test_the_first_opening_is_really_the_first(monkeypatch):
    engine = alfworld_engine
    made, translated = [], engine._translate
    monkeypatch.setattr(engine, '_translate', lambda *a: made.append(1) or translated(*a))
    with empty_data():
        task, env = bench_games(1)[0][0], AlfWorld()
        for n in (1, 2):
            forget()
            env.reset(task)
            assert len(made) == n
        engine.translate.cache_clear()
        env.reset(task)
        assert len(made) == 2, 'a known game is not translated again'


def test_the_data_folder_is_given_back(monkeypatch):
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', 'mine')
    with pytest.raises(ZeroDivisionError):
        with empty_data() as folder:
            1 / 0
    assert os.environ['AGENTKIT_PATHS_DATA'] == 'mine' and not folder.exists()


def test_memory_is_measured_in_another_process():
    held = memory('agentkit.envs.alfworld.environment:AlfWorld', bench_games(1)[0], 3)
    assert list(held) == ['mb_after_1', 'mb_after_3', 'mb_after_6', 'mb_an_episode']
    assert all(held[k] > 1 for k in list(held)[:3])


def test_decisions_replay_the_episodes(demos):
    known = decisions(demos)
    assert len(known) == sum(len(t.steps) for t in demos)
    assert [known[t.first.text, ''] for t in demos] == [t.steps[0].action for t in demos]
    assert replay(demos) > 0


def test_the_forms_of_rows_have_the_same_targets(demos):
    rows, steps = rows_of(demos), sum(len(t.steps) for t in demos)
    assert len(rows['plain']) == len(rows['full_steps']) == len(rows['brief_steps']) == steps
    assert len(rows['full_episodes']) == len(rows['brief_episodes']) == len(demos)
    assert [r['messages'][-1]['content'] for r in call_rows(rows['full_episodes'])] == [
        s.action for t in demos for s in t.steps
    ]
    for r, s in zip(rows['plain'], (s for t in demos for s in t.steps)):
        assert s.action in r['messages'][-1]['content']


class Canned(CountingEngine):
    "Says what it is held to, as a server would."

    def server(self, model):
        "There is none to start."

    def complete(self, request):
        import dspy

        self.asked = request
        (said,) = request.config.response_format['schema']['enum']
        self.timings.append(dict(prompt_n=7, cache_n=3, prompt_ms=1, predicted_n=2, predicted_ms=1))
        usage = dict(
            prompt_tokens=10, completion_tokens=2, total_tokens=12, prompt_tokens_details=dict(cached_tokens=3)
        )
        return dspy.lm15.response_from_openai_chat(
            dict(
                id='1',
                object='chat.completion',
                created=0,
                model='m',
                usage=usage,
                choices=[dict(index=0, finish_reason='stop', message=dict(role='assistant', content=said))],
            ),
            model='m',
        )


class Weightless(LocalLM):
    fingerprint = 'no weights'

    def check(self):
        "Nothing is served."


def played(demos):
    engine = Canned()
    policy = PlainAgent(Weightless('local/none', engine=engine), decisions(demos))
    with Runner('alfworld', workers=1, progress=False) as run:
        return engine, run(policy, [t.task for t in demos])


def test_the_plain_way_plays_the_same_episodes(demos):
    engine, episodes = played(demos)
    assert [[s.action for s in t.steps] for t in episodes] == [[s.action for s in t.steps] for t in demos]
    prompt = engine.asked.messages[-1].text
    assert len(engine.asked.messages) == 1 and '[[ ## trajectory ## ]]' in prompt and 'think: ' in prompt
    way = figures(episodes, 60.0, engine, {})
    assert (way['episodes_a_minute'], way['calls'], way['tokens_sent'], way['cache_hit_rate']) == (
        2.0,
        len(engine.timings),
        10 * len(engine.timings),
        0.3,
    )


def test_counts_that_disagree_and_lost_episodes_are_errors(demos):
    engine, episodes = played(demos)
    engine.timings[0]['cache_n'] += 1
    with pytest.raises(AgentkitError, match='DSPy counted'):
        figures(episodes, 60.0, engine, {})
    known = decisions(demos)
    known.pop((demos[0].first.text, ''))
    policy = GuidedAgent(None, known)
    policy.student = Expert()
    with Runner('alfworld', workers=1, progress=False) as run:
        lost = run(policy, [demos[0].task])
    with pytest.raises(AgentkitError, match='1 of 1 episodes were not won.*KeyError'):
        figures(lost, 60.0, engine, {})


def test_the_limit_is_the_sum_of_its_parts(monkeypatch):
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    way = dict(seconds=10.0, tokens_computed=2000, tokens_generated=300)
    assert limit(way, 4.0, dict(reading=1000, writing=300)) == dict(
        seconds=5.0, environments=2.0, reading=2.0, writing=1.0, times=2.0
    )


def test_processor_seconds_are_booked_on_who_used_them(demos):
    before = cpu_seconds()
    with EnvPool('alfworld', 1) as pool, pool.session() as env:
        env.reset(demos[0].task)
        after = cpu_seconds()
    assert after['environments'] > before['environments'] and after['server'] == before['server']


def test_padding_is_computed_from_the_plan():
    config = TrainConfig(epochs=1, batch_tokens=1000)
    assert padding([100] * 10, config) == 1.0
    assert padding([10, 500], config) == round(1000 / 510, 3)


def test_parts_run_in_a_folder_of_their_own_and_are_recorded(monkeypatch, results):
    folders = []

    def part(tasks):
        folders.append(os.environ['AGENTKIT_PATHS_DATA'])
        return dict(env_step_speedup=compared()), dict(n=len(tasks))

    monkeypatch.setitem(command.RUN, 'env', part)
    record('training', dict(train_tokens_ratio=compared()), {})
    assert command.main(['env', '--games', '2']) == 0
    summary = read_summary()
    assert summary['parts']['env']['games'] == 'built by the kit' and summary['parts']['env']['n'] == 2
    assert summary['train_tokens_ratio'] == 3.0 and not os.path.exists(folders[0])
    assert (results.parent / 'figures/bench__ratios.svg').is_file()


@pytest.fixture
def one_world(monkeypatch):
    pytest.importorskip('minigrid')
    for name, value in dict(LEVELS=('GoToLocal',), SEEDS=1, STEPS=20).items():
        monkeypatch.setattr(babyai, name, value)


def test_babyai_is_measured_beside_minigrid(one_world, results):
    ratios, details = babyai.bench_babyai()
    assert 0 < ratios['babyai_step_speedup'].n <= 20 and details['n'] == 1
    assert (babyai.results() / 'babyai.csv').is_file()


def test_babyai_has_to_answer_as_minigrid_does(one_world, monkeypatch):
    monkeypatch.setattr(babyai.Plain, 'told', lambda self, image: ['You see nothing'])
    with pytest.raises(AgentkitError, match='step 0: .* answered otherwise'):
        babyai.bench_babyai()


def test_wrong_parts_cost_one_line(capsys):
    assert command.main(['speed']) == 2
    assert 'unknown part speed; known: env, rollouts, training, babyai' in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts_on_small_games():
    pytest.importorskip('trl')
    summary = command.bench(games=2)
    assert set(summary['figures']) == set(NAMES)
    ways = summary['parts']['rollouts']['ways']
    assert len({(w['calls'], w['won']) for w in ways.values()}) == 1
