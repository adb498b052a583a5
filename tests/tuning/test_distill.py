"Teacher to student through DSPy: real training, real serving, and the ways it must refuse to pretend."

import json

import dspy
import pytest

from agentkit.agents.programs import ProgramAgent, expert_agent
from agentkit.agents.saving import student_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json
from agentkit.core.types import transcript
from agentkit.data.rows import call_rows, episode_row, episode_rows, read_rows
from agentkit.training.dspy_bridge import BootstrapFinetune, Replay
from agentkit.tuning.distill import distill, distill_from
from agentkit.envs.find import list_tasks
from agentkit.envs.pool import EnvPool
from agentkit.evals import evaluate
from agentkit.judges.base import success
from agentkit.models.find import make_lm
from agentkit.rollouts import Player, examples, read_trajectories, run_many
from agentkit.models.serving import stop_servers
from agentkit.models.store import model_dir, read_card

TASKS = list_tasks('corridor', 'train', 6)
TRAIN = dict(epochs=30)


@pytest.fixture(scope='module')
def pool():
    with EnvPool('corridor', n=2) as p:
        yield p
    stop_servers()


@pytest.fixture(scope='module')
def made(pool, tmp_path_factory):
    return distill(
        'local/nano',
        expert_agent('corridor'),
        TASKS,
        tmp_path_factory.mktemp('distill'),
        pool,
        train=TRAIN,
        progress=False,
    )


def test_the_student_learns_what_the_expert_does(made, pool):
    after = evaluate(made.agent, TASKS, pool, progress=False)
    assert after.summary['wins'] == len(TASKS)
    assert after.summary['tokens_in'] > 0 and after.episodes['invalid'].sum() == 0
    losses = made.losses['loss']
    assert losses.iloc[-1] < losses.iloc[0] / 10, 'it has not learned what to say, only been held to what it may say'


def test_the_card_tells_the_truth(made):
    card = read_card(model_dir(made.agent.name))
    assert card['trained'] and card['steps'] == len(made.losses) and card['rows'] == len(TASKS)
    assert not read_card(model_dir(made.base))['trained']


def test_rows_have_provenance_and_train_again_without_playing(made, tmp_path_factory):
    rows = read_rows(next(tmp_path_factory.getbasetemp().glob('distill*/rows.jsonl')))
    assert {r['provenance']['task'] for r in rows} == {t.id for t in TASKS}
    assert all(r['provenance']['policy'] == 'expert' and r['provenance']['score'] == 1 for r in rows)
    from agentkit.training.trainer import TrainConfig, finetune

    again = finetune(made.base, rows, TrainConfig.of('nano', **TRAIN), progress=False)
    assert f'local/{again.id}' == made.agent.name, 'the same rows and settings are the same model'


def test_the_folded_rows_are_the_episodes(made):
    agent = student_agent(None)
    direct = [episode_row(t, agent.adapter, agent.react.signature) for t in made.demonstrations]
    calls = [
        dict(messages=[dict(role=m['role'], content=m['content']) for m in r['messages'][: i + 1]])
        for r in direct
        for i, m in enumerate(r['messages'])
        if m.get('loss')
    ]
    strip = lambda rows: sorted(json.dumps(r['messages']) for r in rows)
    assert strip(episode_rows(calls[::-1])) == strip(direct)
    assert len(calls) == sum(len(t.steps) for t in made.demonstrations) > len(direct)


def test_plain_dspy_bootstrap_finetune_works_with_our_provider(pool):
    "No class of ours in between: DSPy plays the teacher, makes a row a call, and hands them to the provider."
    student = Player(student_agent(make_lm('local/nano')), TASKS, pool)
    teacher = Player(expert_agent('corridor'), TASKS, pool)
    optimizer = dspy.BootstrapFinetune(
        metric=success, adapter=student.policy.adapter, num_threads=2, train_kwargs=TRAIN
    )
    trained = optimizer.compile(student, teacher=teacher, trainset=examples(TASKS))
    assert trained is student
    assert evaluate(trained.policy, TASKS, pool, progress=False).summary['wins'] == len(TASKS)


def test_no_good_episode_is_an_error_and_trains_nothing(pool, tmp_path):
    lazy = ProgramAgent(lambda **_: 'back', 'lazy')
    with pytest.raises(AgentkitError, match=r'no trajectory reaches a score of 1.0 \(6 loop\)'):
        distill('local/nano', lazy, TASKS, tmp_path, pool, progress=False)
    assert not (tmp_path / 'rows.jsonl').exists()


def test_zero_rows_are_an_error_in_plain_dspy_too(pool):
    student = Player(student_agent(make_lm('local/nano')), TASKS, pool)
    teacher = Player(ProgramAgent(lambda **_: 'back', 'lazy'), TASKS, pool)
    optimizer = dspy.BootstrapFinetune(metric=success, adapter=student.policy.adapter, num_threads=2)
    with pytest.raises(AgentkitError, match='0 calls to train on'):
        optimizer.compile(student, teacher=teacher, trainset=examples(TASKS))


@pytest.mark.parametrize(
    'score, threshold, kept', [(0.5, 1.0, False), (0.5, 0.5, True), (-1, 0.5, False), (1.0, 1.0, True)]
)
def test_the_threshold_is_a_number(pool, score, threshold, kept):
    import dataclasses

    played = [
        dataclasses.replace(t, score=score) for t in run_many(expert_agent('corridor'), TASKS[:2], pool, progress=False)
    ]
    student = student_agent(make_lm('local/nano'))
    teacher = Replay(played, student)
    optimizer = BootstrapFinetune(threshold=threshold, adapter=student.adapter, train_kwargs=dict(epochs=1))
    compile = lambda: optimizer.compile(Player(student, []), teacher=teacher, trainset=teacher.examples())
    if kept:
        assert compile().policy.name.startswith('local/nano-')
    else:
        with pytest.raises(AgentkitError, match='nothing to train on'):
            compile()


@pytest.mark.parametrize('demos, turns', [('keep', 1), ('reset', 0)])
def test_demonstrations_in_the_prompt_are_kept_or_reset(made, tmp_path, demos, turns):
    student = student_agent(make_lm('local/nano'))
    student.react.demos = [dict(task='A corridor.', trajectory='', possible_actions=['forward'], action='forward')]
    again = distill_from(student, made.demonstrations, tmp_path, demos=demos, train=dict(epochs=1))
    assert len(again.agent.react.demos) == turns
    row = read_rows(tmp_path / 'rows.jsonl')[0]
    unlearned = [m for m in row['messages'] if m['role'] == 'assistant' and not m['loss']]
    assert len(unlearned) == turns, 'a demonstration in the prompt carries no loss'


def test_dagger_learns_the_teachers_answers_in_the_students_states_and_resumes(pool, tmp_path):
    expert = expert_agent('corridor')
    wrong = run_many(ProgramAgent(lambda **_: 'back', 'lazy'), TASKS, pool, progress=False)
    student = distill_from('local/nano', wrong, tmp_path / 'wrong', threshold=0.0, train=dict(epochs=4)).agent
    run = lambda: distill(student, expert, TASKS, tmp_path, pool, rounds=1, train=dict(epochs=1), progress=False)
    made = run()
    own = read_trajectories(tmp_path / 'round1/episodes.jsonl')
    assert {t.policy for t in own} == {f'{student.name} guided by expert'} and all(t.won for t in own), (
        'the teacher finishes'
    )
    wanted = {
        (t.intro, transcript((s.action, s.observation) for s in t.steps[:i])): expert(
            task=t.intro,
            trajectory=transcript((s.action, s.observation) for s in t.steps[:i]),
            possible_actions=list(s.admissible),
        ).action
        for t in own
        for i, s in enumerate(t.steps)
    }
    assert all(t.steps[0].action == 'back' for t in own)
    agent = student_agent(None)
    learned = {
        json.dumps(r['messages'][:-1]): r['messages'][-1]['content']
        for r in call_rows(read_rows(tmp_path / 'round1/rows.jsonl'))
    }
    for (intro, told), action in wanted.items():
        prompt = agent.adapter.format(agent.react.signature, [], dict(task=intro, trajectory=told, possible_actions=[]))
        asked = json.dumps([{**m, 'loss': False} if m['role'] == 'assistant' else m for m in prompt])
        assert learned[asked] == action
    assert made.corrections > 0 and made.costs[0]['rows'] == made.rows
    assert run().agent.name == made.agent.name and len(read_trajectories(tmp_path / 'round1/episodes.jsonl')) == len(
        TASKS
    ), 'the second call plays nothing and trains nothing'


def test_a_new_student_plays_what_it_has_not_learned_yet(pool, tmp_path):
    made = distill(
        'local/nano', expert_agent('corridor'), TASKS, tmp_path, pool, rounds=1, train=dict(epochs=1), progress=False
    )
    assert sorted(t.task.id for t in read_trajectories(tmp_path / 'round1/episodes.jsonl')) == sorted(
        t.id for t in TASKS[3:]
    )
    assert [c['rows'] for c in made.costs][0] == 3 and {
        r['provenance']['task'] for r in read_rows(tmp_path / 'round1/rows.jsonl')
    } == {t.id for t in TASKS}


def test_rejection_sampling_keeps_the_shortest_win_of_a_task(pool, tmp_path):
    made = distill(
        'local/nano',
        expert_agent('corridor'),
        TASKS,
        tmp_path,
        pool,
        rounds=1,
        method='rejection',
        train=dict(epochs=8),
        progress=False,
    )
    own = read_trajectories(tmp_path / 'round1/episodes.jsonl')
    assert {t.seed for t in own} == {0, 1, 2, 3} and len(own) == 4 * 3
    learned = [
        r['provenance'] for r in read_rows(tmp_path / 'round1/rows.jsonl') if r['provenance']['policy'] != 'expert'
    ]
    for p in learned:
        assert p['score'] == 1 and p['steps'] == min(len(t.steps) for t in own if t.task.id == p['task'] and t.won)
    assert made.corrections == 0


def test_a_student_that_has_learned_before_plays_first(made, pool, tmp_path):
    again = distill(
        made.agent, expert_agent('corridor'), TASKS, tmp_path, pool, rounds=1, train=dict(epochs=1), progress=False
    )
    assert [c['base'] for c in again.costs] == [made.agent.name.removeprefix('local/')]
    assert {t.policy for t in read_trajectories(tmp_path / 'round1/episodes.jsonl')} == {
        f'{made.agent.name} guided by expert'
    }


def test_a_wrong_student_fails_before_anybody_plays(pool, tmp_path):
    with pytest.raises(AgentkitError, match='no-such-model'):
        distill('local/no-such-model', expert_agent('corridor'), TASKS, tmp_path, pool)
    assert not (tmp_path / 'demonstrations.jsonl').exists()


def test_wrong_training_settings_are_named(made, tmp_path):
    with pytest.raises(AgentkitError, match='epoch'):
        distill_from('local/nano', made.demonstrations, tmp_path, train=dict(epochz=3))


def test_a_model_cannot_pose_as_trained(made, tmp_path):
    import shutil

    fake = tmp_path / 'nano-fake'
    shutil.copytree(model_dir(made.base), fake)
    card = read_json(fake / 'card.json')
    (fake / 'card.json').write_text(
        json.dumps(
            {
                **card,
                'id': 'nano-fake',
                'trained': True,
                'steps': 100,
                'losses': dict(first=3.0, last=0.1),
                'base': made.base,
                'base_weights_sha256': card['weights_sha256'],
            }
        )
    )
    with pytest.raises(AgentkitError, match='claims to be trained'):
        model_dir(fake)
