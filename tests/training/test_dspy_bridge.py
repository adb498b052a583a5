"DSPy's way in: its trace, its optimiser, its jobs; and rows that are the same as those made without it."

import json
import random
import threading

import dspy
import pytest
from dspy.clients.utils_finetune import TrainingStatus
from dspy.utils import DummyLM
from toys import GAMES as ROWS

from agentkit.agents.policy import Agent, ConversationAdapter, demonstration
from agentkit.agents.programs import Chance, Expert, Explorer, Program
from agentkit.agents.saving import student_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision
from agentkit.data.rows import call_rows, episode_rows, read_rows, right_answers, rows
from agentkit.envs.base import views_of
from agentkit.models.find import make_lm
from agentkit.models.serving import local_lm, stop_servers
from agentkit.models.store import model_dir, models, read_card
from agentkit.rollouts import Player, Runner, examples
from agentkit.testing.corridor import Corridor
from agentkit.testing.models import scripted_lm
from agentkit.testing.openai_server import PracticeServer
from agentkit.training.dspy_bridge import BootstrapFinetune, Replay, decided, retrace, with_provider
from agentkit.training.providers import provider_of

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
TASKS = Corridor.tasks('train', 6)


@pytest.fixture(scope='module', autouse=True)
def data(own_data, one_thread):
    pass


@pytest.fixture(scope='module')
def run():
    with Runner('corridor', workers=2, progress=False) as run:
        yield run
    stop_servers()


@pytest.fixture(scope='module')
def shown(run):
    return run(Expert(), TASKS)


def think_twice(state):
    "Thinks before each step."
    return Decision(thought='On I go.') if len(state.steps) % 2 == 0 else Decision('forward')


@pytest.fixture(scope='module')
def strayed(run):
    "Episodes with hints: one that goes astray, one that is lost, one with thoughts."
    policies = Explorer(Expert(), rate=0.5, seed=1), Chance(3), Program(think_twice, 'thinker')
    return [t for p, tasks in zip(policies, (TASKS[2:4], TASKS[4:5], TASKS[5:])) for t in run(p, tasks, hints=True)]


def traced(program):
    "What is in DSPy's trace after a call."
    with dspy.context(trace=[]):
        program()
        return list(dspy.settings.trace)


# --- the trace ---


def test_a_decision_is_traced_as_if_the_predictor_had_taken_it():
    react = Agent(scripted_lm(['[[ ## action ## ]]\nlook\n\n[[ ## completed ## ]]'])).react
    inputs = dict(task='t', trajectory='', possible_actions=['look'])
    ((predictor, asked, prediction),) = traced(lambda: decided(react, 'look', **inputs))
    ((real, seen, answer),) = traced(lambda: react(**inputs))
    assert predictor is real is react and asked == seen == inputs and prediction.action == answer.action == 'look'


def test_a_recorded_episode_is_traced_like_a_played_one(run):
    agent = Agent(scripted_lm(['forward', 'think: on', 'forward', 'back', 'forward', 'forward']))
    (t,) = traced_play = run(agent, TASKS[2:3])
    played = traced(lambda: run.play(agent, TASKS[2]))
    again = traced(lambda: retrace(agent, t))
    script = Agent(scripted_lm(['forward', 'think: on', 'forward', 'back', 'forward', 'forward']))
    fresh = traced(lambda: run.play(script, TASKS[2]))
    assert traced_play and played
    assert [(inputs, p.action) for _, inputs, p in again] == [(inputs, p.action) for _, inputs, p in fresh]
    assert all(predictor is agent.react for predictor, _, _ in again)


def test_other_answers_are_traced_where_somebody_knows_them(shown):
    agent, t = Agent(), shown[3]
    calls = traced(lambda: retrace(agent, t, ['back', '', 'look', '']))
    assert [(c[1]['trajectory'].count('>'), c[2].action) for c in calls] == [(0, 'back'), (2, 'look')]


def test_nothing_is_traced_where_nobody_traces(shown):
    retrace(Agent(), shown[0])
    with dspy.context(trace=None):
        retrace(Agent(), shown[0])


# --- rows are the same both ways ---


def through_dspy(agent, episodes, correct=None, folder=None):
    "The rows that DSPy's optimiser makes of recorded episodes."
    from dspy.teleprompt.bootstrap_trace import bootstrap_trace_data

    teacher, optimiser = Replay(episodes, agent, correct), BootstrapFinetune(threshold=0.0, adapter=agent.adapter)
    traces = bootstrap_trace_data(program=teacher, dataset=teacher.examples(), metric=optimiser.metric, num_threads=1)
    return optimiser._prepare_finetune_data(traces, lm=None)[0]


def comparable(rows):
    "Rows without what follows the last learned answer, in one order."
    cut = []
    for row in rows:
        last = max(i for i, m in enumerate(row['messages']) if m.get('loss') or 'instead' in m)
        cut.append(json.dumps(dict(messages=row['messages'][: last + 1], about=row['provenance']), sort_keys=True))
    return sorted(cut)


def agents():
    full = ConversationAdapter(show_actions=False)
    demos = Agent(instructions='Walk.', think=False, adapter=full)
    demos.react.demos = [dspy.Example(task='t', trajectory='', possible_actions=['forward'], action='forward')]
    return dict(
        student=student_agent(None),
        instructed=Agent(None, 'Walk.', think=False, adapter=full),
        thinking=Agent(None, 'Walk.', adapter=full),
        listed=Agent(None, 'Walk.', think=False),
        window=Agent(None, 'Walk.', think=False, adapter=ConversationAdapter(show_actions=False, window=2)),
        brief=student_agent(None, 'brief'),
        demos=demos,
    )


def learned_calls(rows):
    "Prompt and answer of all that is learned, each once."
    texts = [[(m['role'], m['content']) for m in r['messages']] for r in call_rows(rows)]
    return {json.dumps(t) for t in texts}


@pytest.mark.parametrize('name', ['window', 'brief'])
@pytest.mark.parametrize('correct', [None, 'hints', 'expert'])
def test_short_rows_teach_the_same_with_and_without_dspy(name, correct, shown, strayed):
    "DSPy's way folds calls that are the same in several episodes; without it, each episode keeps its own."
    agent = agents()[name].viewed(views_of(Corridor))
    episodes, correct = (shown if correct is None else strayed), Expert() if correct == 'expert' else correct
    folded, plain = through_dspy(agent, episodes, correct), rows(episodes, agent, correct)
    assert learned_calls(folded) == learned_calls(plain) and len(folded) <= len(plain)


@pytest.mark.parametrize('name', [n for n in agents() if n not in ('window', 'brief')])
@pytest.mark.parametrize('correct', [None, 'hints', 'expert'])
def test_rows_are_the_same_with_and_without_dspy(name, correct, shown, strayed):
    agent = agents()[name].viewed(views_of(Corridor))
    episodes, correct = (shown if correct is None else strayed), Expert() if correct == 'expert' else correct
    assert comparable(through_dspy(agent, episodes, correct)) == comparable(rows(episodes, agent, correct))


def test_a_view_that_is_only_named_is_an_error(shown):
    with pytest.raises(AgentkitError, match="the view 'student' has to be looked up in an environment first"):
        through_dspy(student_agent(None), shown)


def test_the_teachers_own_calls_are_not_in_the_trace(strayed):
    teacher = Agent(scripted_lm(['forward']), think=False)
    replay = Replay(strayed[:1], Agent(think=False), teacher)
    assert len(traced(lambda: replay(episode=0))) == len(strayed[0].steps)


def test_a_replay_says_what_the_episode_was(shown):
    prediction = Replay(shown, Agent())(episode=2)
    assert prediction.episode == shown[2] and prediction.success == 1.0
    assert [e.episode for e in Replay(shown, Agent()).examples()] == list(range(len(shown)))


def test_hints_that_were_not_recorded_are_an_error(shown):
    with pytest.raises(AgentkitError, match='has no hints: play it with hints=True'):
        right_answers(shown[0], 'hints')


# --- the optimiser ---


def compiled(run, agent, teacher, **options):
    optimiser = BootstrapFinetune(adapter=agent.adapter, **options)
    return optimiser.compile(Player(agent, TASKS, run), teacher=teacher, trainset=teacher.examples()).policy


def test_the_optimiser_trains_a_local_student(run, shown, tmp_path):
    agent = student_agent(with_provider(local_lm('nano'))).viewed(views_of(Corridor))
    options = dict(rows_path=tmp_path / 'rows.jsonl', train_kwargs=dict(epochs=30))
    student = compiled(run, agent, Replay(shown, agent), **options)
    card = provider_of(student.lm).card(student.name)
    assert card['rows'] == len(TASKS) == len(read_rows(tmp_path / 'rows.jsonl')) and card['trained']
    assert comparable(read_rows(tmp_path / 'rows.jsonl')) == comparable(rows(shown, agent))
    assert all(t.won for t in run(student, TASKS))


def test_what_dspy_trains_is_what_the_provider_trains(run, shown, tmp_path):
    "The same rows and settings are the same model, whoever asked."
    agent = student_agent(with_provider(local_lm('nano'))).viewed(views_of(Corridor))
    options = dict(rows_path=tmp_path / 'rows.jsonl', train_kwargs=dict(epochs=2))
    student = compiled(run, agent, Replay(shown, agent), **options)
    assert provider_of(local_lm('nano')).train(read_rows(tmp_path / 'rows.jsonl'), epochs=2) == student.name


def test_a_threshold_that_nobody_reaches_is_an_error(run, strayed):
    agent = student_agent(with_provider(local_lm('nano'))).viewed(views_of(Corridor))
    lost = [t for t in strayed if not t.won]
    with pytest.raises(
        AgentkitError, match=f'none of {len(lost)} episodes reaches a score of 1.0: nothing to train on'
    ):
        compiled(run, agent, Replay(lost, agent))


def test_plain_dspy_trains_at_a_provider(run, shown):
    with PracticeServer(0.2) as server:
        lm = with_provider(make_lm(f'openai/gpt-4o-mini-2024-07-18@{server.url}'))
        agent = Agent(lm, think=False)
        optimiser = dspy.BootstrapFinetune(
            metric=lambda gold, pred, trace=None: pred.success,
            adapter=agent.adapter,
            num_threads=2,
            train_kwargs=dict(epochs=2, max_dollars=1.0, poll=0.05),
        )
        teacher = Replay(shown, agent)
        student = optimiser.compile(Player(agent, TASKS, run), teacher=teacher, trainset=teacher.examples())
        assert student.policy.name.startswith('openai/ft:') and len(server.jobs) == 1


def test_examples_are_tasks():
    assert [e.task_id for e in examples(TASKS)] == [t.id for t in TASKS]


# --- a model that DSPy can train ---


@pytest.fixture(scope='module')
def base(data):
    from agentkit.training.bases import make_nano

    return make_nano(ROWS, size='tiny', vocabulary=400)


def calls(row):
    m = row['messages']
    return [dict(messages=m[: i + 1]) for i in range(len(m)) if m[i]['role'] == 'assistant']


def test_a_model_without_a_provider_says_so(base):
    with pytest.raises(dspy.LMError, match='does not support fine-tuning'):
        local_lm(base).finetune(ROWS, None, {})


def test_the_model_itself_stays_as_it_was(base):
    lm = local_lm(base)
    trainable = with_provider(lm)
    assert trainable is not lm and trainable.engine is lm.engine and trainable.provider.finetunable
    assert not lm.provider.finetunable


def test_a_job_runs_and_its_model_can_be_trained_further(base):
    job = with_provider(local_lm(base)).finetune(calls(ROWS[0]), None, dict(epochs=1))
    first = job.result()
    assert job.status() == TrainingStatus.succeeded and not job.cancel()
    second = first.finetune(calls(ROWS[1]), None, dict(epochs=1)).result()
    cards = [read_card(model_dir(lm.model)) for lm in (first, second)]
    assert [c['base'] for c in cards] == [base, first.model.removeprefix('local/')]


def test_a_job_that_fails_says_why(base):
    job = with_provider(local_lm(base)).finetune(calls(ROWS[0]), None, dict(epoch=1))
    with pytest.raises(AgentkitError, match='unknown training settings: epoch; known: epochs, lr'):
        raise job.result()
    assert job.status() == TrainingStatus.failed
    job = with_provider(local_lm(base)).finetune([], None, dict(epochs=1))
    assert '0 calls to train on: no episode passed the metric' in str(job.result())


def test_a_job_at_a_provider_can_be_cancelled():
    with PracticeServer(60) as server:
        lm = with_provider(make_lm(f'openai/gpt-4o-mini-2024-07-18@{server.url}'))
        rows = [
            dict(messages=[dict(role='user', content=w), dict(role='assistant', content=w)]) for w in 'abcdefghijkl'
        ]
        job = lm.finetune(rows, None, dict(epochs=1, max_dollars=1.0, poll=60))
        pending = threading.Event()
        while job.status() != TrainingStatus.pending:
            pending.wait(0.02)
        assert job.cancel() and 'was cancelled' in str(job.result()) and job.status() == TrainingStatus.cancelled
        assert [j['ended'] for j in server.jobs.values()] == ['cancelled']


def test_rows_of_ours_are_not_folded(base):
    "Weights and other answers reach the training as they are."
    weighed = [dict(messages=[{**m, 'loss': -0.5} if m['role'] == 'assistant' else m for m in ROWS[0]['messages']])]
    name = with_provider(local_lm(base)).finetune(weighed, None, dict(epochs=1)).result().model
    assert name == provider_of(local_lm(base)).train(weighed, epochs=1)
    assert read_card(model_dir(name))['losses']['first'] < 0


def test_programs_of_plain_dspy_are_trained(base):
    student, teacher = dspy.Predict('question -> answer'), dspy.Predict('question -> answer')
    student.set_lm(with_provider(local_lm(base)))
    teacher.set_lm(DummyLM([dict(answer='go to desk 1')] * 8))
    questions = [
        dspy.Example(question=f'Where is mug {i}?', answer='go to desk 1').with_inputs('question') for i in range(4)
    ]

    def compile(metric):
        optimiser = dspy.BootstrapFinetune(metric=metric, train_kwargs=dict(epochs=1, dtype='float32'), num_threads=1)
        return optimiser.compile(student.deepcopy(), trainset=questions, teacher=teacher)

    done = compile(lambda gold, pred, trace=None: gold.answer == pred.answer)
    id = done.lm.model.removeprefix('local/')
    assert id in models() and read_card(model_dir(id))['rows'] == 4
    teacher.set_lm(DummyLM([dict(answer='no')] * 8))
    with pytest.raises(AgentkitError, match='0 calls to train on'):
        compile(lambda gold, pred, trace=None: False)


def test_a_demonstration_stays_a_demonstration(shown):
    agent = Agent(think=False, adapter=ConversationAdapter(show_actions=False))
    agent.react.demos = [demonstration(shown[1])]
    (row,) = rows(shown[2:3], agent)
    said = [m['loss'] for m in row['messages'] if m['role'] == 'assistant']
    assert said == [False] * len(shown[1].steps) + [True] * len(shown[2].steps)


# --- folding ---


def test_calls_become_episodes_in_any_order():
    every = [c for r in ROWS for c in calls(r)]
    merged = episode_rows(every)
    assert len(merged) == len(ROWS)
    assert sorted(json.dumps([m['content'] for m in r['messages']]) for r in merged) == sorted(
        json.dumps([m['content'] for m in r['messages']]) for r in ROWS
    )
    assert all(m['loss'] for r in merged for m in r['messages'] if m['role'] == 'assistant')
    for seed in range(3):
        random.Random(seed).shuffle(every)
        assert episode_rows(every) == merged


def test_only_answers_are_learned():
    demo = [dict(role='user', content='demo'), dict(role='assistant', content='demo answer')]
    row = dict(messages=demo + ROWS[0]['messages'][1:])
    (merged,) = episode_rows(calls(row)[1:])
    assert [m['loss'] for m in merged['messages'] if m['role'] == 'assistant'] == [False] + [True] * 3


def test_episodes_that_part_late_keep_both_ends():
    a, b = ROWS[0], dict(messages=ROWS[0]['messages'][:-1] + [dict(role='assistant', content='look')])
    [row] = episode_rows(calls(a) + calls(b))
    assert {row['messages'][-1][k] for k in ('content', 'instead')} == {ROWS[0]['messages'][-1]['content'], 'look'}
    assert len(call_rows([row])) == len(calls(a)) + 1
