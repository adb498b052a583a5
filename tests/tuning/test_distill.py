"Teacher to student: real training, real serving, and the ways it must refuse to pretend."

import json
from dataclasses import replace

import pytest
from flaky import REFUSED, FlakyServer, said

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Expert, Program
from agentkit.agents.saving import load_agent, student_agent
from agentkit.core.errors import AgentkitError, EpisodeError
from agentkit.core.store import read_json
from agentkit.data.rows import call_rows, read_rows
from agentkit.envs.find import list_tasks
from agentkit.evals import evaluate
from agentkit.models.find import make_lm
from agentkit.models.serving import stop_servers
from agentkit.models.store import model_dir, read_card
from agentkit.rollouts import Runner, read_trajectories
from agentkit.tuning.distill import distill, distill_from, model_card

TASKS = list_tasks('corridor', 'train', 6)
TRAIN = dict(epochs=30)
LAZY = Program(lambda state: 'back', 'lazy')


@pytest.fixture(scope='module')
def run():
    with Runner('corridor', progress=False) as r:
        yield r
    stop_servers()


@pytest.fixture(scope='module')
def made(run, tmp_path_factory):
    return distill('local/nano', Expert(), TASKS, run, tmp_path_factory.mktemp('distill'), train=TRAIN)


def played(folder, but='expert'):
    "The episodes in a runner's folder, without those of the teacher."
    journals = sorted((folder / 'episodes').glob('*.jsonl'))
    return [t for path in journals for t in read_trajectories(path) if t.policy != but]


def test_the_student_learns_what_the_expert_does(made, run):
    after = evaluate(made.agent, TASKS, run)
    assert after.summary['wins'] == len(TASKS)
    assert after.summary['tokens_in'] > 0 and after.episodes['invalid'].sum() == 0
    losses = made.losses['loss']
    assert losses.iloc[-1] < losses.iloc[0] / 10, 'it has not learned what to say, only been held to what it may say'


def test_tasks_named_twice_are_learned_once(made, run, tmp_path):
    again = distill('local/nano', Expert(), [*TASKS, *TASKS], run, tmp_path, train=TRAIN)
    assert again.agent.name == made.agent.name, 'the same rows, so the same model'
    assert [len(again.demonstrations), again.costs[0]['episodes'], again.rows] == [len(TASKS)] * 3


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


def test_the_student_keeps_its_view_by_its_own_name(tmp_path, monkeypatch, made):
    from agentkit.testing.corridor import Corridor

    monkeypatch.setattr(Corridor, 'student_view', 'brief')
    student = distill_from('local/nano', made.demonstrations, tmp_path, train=dict(epochs=1)).agent
    assert student.adapter.view.name == 'brief'
    assert read_rows(tmp_path / 'rows.jsonl')[0]['messages'][0]['content'].endswith(' to go')
    from agentkit.agents.saving import save_agent

    save_agent(student, tmp_path / 'agent.json')
    assert load_agent(tmp_path / 'agent.json').adapter.view == 'brief'


def test_the_student_remembers_in_which_version_it_has_learned(tmp_path, made, run):
    episodes = [replace(t, environment=f'corridor@{k}') for k, t in enumerate(made.demonstrations[:2], 1)]
    learn = lambda some: distill_from('local/nano', some, tmp_path, train=dict(epochs=1))
    assert made.agent.learned_in == {} and learn(episodes[1:]).agent.learned_in == dict(corridor='2')
    both = learn(episodes)
    assert both.agent.learned_in == dict(corridor='1 and 2')
    assert '- **learned in**: corridor 1 and 2\n' in model_card(both, evaluate(Expert(), TASKS, run))
    assert 'learned in' not in model_card(made, evaluate(Expert(), TASKS, run))


def test_no_good_episode_is_an_error_and_trains_nothing(run, tmp_path):
    with pytest.raises(AgentkitError, match=r'no trajectory reaches a score of 1.0 \(6 loop\)'):
        distill('local/nano', LAZY, TASKS, run, tmp_path)
    assert not (tmp_path / 'rows.jsonl').exists()


@pytest.mark.parametrize('score, threshold, kept', [(0.5, 1.0, 0), (0.5, 0.5, 2), (0.0, 0.5, 0), (1.0, 1.0, 2)])
def test_the_threshold_is_a_number(made, tmp_path, score, threshold, kept):
    episodes = [replace(t, score=score) for t in made.demonstrations[:2]]
    learn = lambda: distill_from('local/nano', episodes, tmp_path, threshold=threshold, train=dict(epochs=1))
    if kept:
        assert learn().rows == kept
    else:
        with pytest.raises(AgentkitError, match='nothing to train on'):
            learn()


@pytest.mark.parametrize('score', [None, 1.0])
def test_an_episode_that_broke_off_is_no_demonstration_and_not_corrected(made, tmp_path, score):
    whole, broken = made.demonstrations[:2], replace(made.demonstrations[2], termination='error', score=score)
    again = distill_from('local/nano', [*whole, broken], tmp_path, [broken], Expert(), 0.0, train=dict(epochs=1))
    assert again.rows == 2 and {r['provenance']['task'] for r in read_rows(tmp_path / 'rows.jsonl')} == {
        t.task.id for t in whole
    }


@pytest.mark.parametrize('demos, turns', [('keep', 1), ('reset', 0)])
def test_demonstrations_in_the_prompt_are_kept_or_reset(made, tmp_path, demos, turns):
    student = student_agent(make_lm('local/nano'))
    student.react.demos = [dict(task='A corridor.', trajectory='', possible_actions=['forward'], action='forward')]
    again = distill_from(student, made.demonstrations, tmp_path, demos=demos, train=dict(epochs=1))
    assert len(again.agent.react.demos) == turns and len(student.react.demos) == 1
    row = read_rows(tmp_path / 'rows.jsonl')[0]
    unlearned = [m for m in row['messages'] if m['role'] == 'assistant' and not m['loss']]
    assert len(unlearned) == turns, 'a demonstration in the prompt carries no loss'


def asked_and_learned(path):
    "Of each learned answer: the prompt that asks for it, and what is said."
    return {json.dumps(r['messages'][:-1]): r['messages'][-1]['content'] for r in call_rows(read_rows(path))}


def as_asked(student, state):
    "The prompt of a student in a state, as it stands in a row."
    prompt = student.adapter.at(state).format(student.react.signature, [], student.inputs(state))
    return json.dumps([{**m, 'loss': False} if m['role'] == 'assistant' else m for m in prompt])


class Walker(Program):
    "A teacher that is no expert: it has to be asked."

    def __init__(self):
        super().__init__(lambda state: 'forward', 'walker')


@pytest.mark.parametrize('teacher', [Expert(), Walker()], ids=['hints', 'asked'])
def test_dagger_learns_the_teachers_answers_in_the_students_states_and_resumes(teacher, run, tmp_path):
    wrong = run(LAZY, TASKS)
    student = distill_from('local/nano', wrong, tmp_path / 'wrong', threshold=0.0, train=dict(epochs=4)).agent
    again = lambda: distill(student, teacher, TASKS, run, tmp_path, rounds=1, train=dict(epochs=1))
    made = again()
    own = played(tmp_path, teacher.name)
    assert {t.policy for t in own} == {f'{student.name} guided by {teacher.name}'}
    assert all(t.won for t in own), 'the teacher finishes'
    assert all(bool(s.hint) == (teacher.name == 'expert') for t in own for s in t.steps)
    assert all(t.steps[0].action == 'back' for t in own)
    learned = asked_and_learned(tmp_path / 'round1/rows.jsonl')
    for t in own:
        for k in range(len(t.steps)):
            assert learned[as_asked(student, t.state(k))] == 'forward'
    assert made.corrections > 0 and made.costs[0]['rows'] == made.rows
    assert again().agent.name == made.agent.name
    assert len(played(tmp_path, teacher.name)) == len(TASKS), 'the second call plays nothing and trains nothing'


def test_a_new_student_plays_what_it_has_not_learned_yet(run, tmp_path):
    made = distill('local/nano', Expert(), TASKS, run, tmp_path, rounds=1, train=dict(epochs=1))
    assert {t.task.id for t in played(tmp_path)} == {t.id for t in TASKS[3:]} == {t.task.id for t in made.others}
    assert made.costs[0]['rows'] == 3
    assert {r['provenance']['task'] for r in read_rows(tmp_path / 'round1/rows.jsonl')} == {t.id for t in TASKS}


def test_rejection_sampling_keeps_the_shortest_win_of_a_task(run, tmp_path):
    made = distill('local/nano', Expert(), TASKS, run, tmp_path, rounds=1, method='rejection', train=dict(epochs=8))
    own = played(tmp_path)
    assert {t.sample for t in own} == {0, 1, 2, 3} and {t.seed for t in own} == {0} and len(own) == 4 * 3
    rows = [r['provenance'] for r in read_rows(tmp_path / 'round1/rows.jsonl')]
    for p in [p for p in rows if p['policy'] != 'expert']:
        assert p['score'] == 1 and p['steps'] == min(len(t.steps) for t in own if t.task.id == p['task'] and t.won)
    assert made.corrections == 0
    assert made.costs[1]['episodes'] == 3 + len(own), 'what was not kept has been played, too'


def test_exploring_asks_no_student(run, tmp_path):
    made = distill('local/nano', Expert(), TASKS, run, tmp_path, rounds=2, method='explore', train=dict(epochs=1))
    own = played(tmp_path)
    assert {t.policy for t in own} == {'expert+0.25-1', 'expert+0.25-2'} and len(own) == 2 * len(TASKS)
    astray = [s for t in own for s in t.steps if s.action != s.hint.action]
    learned = asked_and_learned(tmp_path / 'rows.jsonl')
    assert astray and made.corrections > 0 and set(learned.values()) == {'forward'}


SHY = """from agentkit.testing.corridor import Corridor
class Shy(Corridor):
    def expert(self): return None if self.doors == 3 else super().expert()
"""


def test_where_the_expert_gives_up_nothing_is_corrected(tmp_path, monkeypatch):
    (tmp_path / 'shy.py').write_text(SHY)
    monkeypatch.syspath_prepend(tmp_path)
    tasks, settings = [replace(t, env='shy:Shy') for t in TASKS], dict(rounds=1, method='explore', train=dict(epochs=1))
    with Runner('shy:Shy', tmp_path, progress=False) as shy:
        made = distill('local/nano', Expert(), tasks, shy, **settings)
    given_up = tasks[2].id
    assert {t.task.id for t in made.others} == {t.id for t in tasks} - {given_up}
    assert given_up not in {r['provenance']['task'] for r in read_rows(tmp_path / 'rows.jsonl')}


def test_a_student_that_has_learned_before_plays_first(made, run, tmp_path):
    again = distill(made.agent, Expert(), TASKS, run, tmp_path, rounds=1, train=dict(epochs=1))
    assert [c['base'] for c in again.costs] == [made.agent.name.removeprefix('local/')]
    assert {t.policy for t in played(tmp_path)} == {f'{made.agent.name} guided by expert'}


def test_what_a_runner_has_kept_is_shared(run, tmp_path):
    keeping = run.replace(folder=tmp_path)
    demonstrations = keeping(Expert(), TASKS)
    made = distill('local/nano', Expert(), TASKS, keeping, tmp_path / 'student', train=dict(epochs=1))
    assert made.demonstrations == demonstrations and not (tmp_path / 'student/episodes').exists()
    assert sorted(p.name for p in (tmp_path / 'student').iterdir()) == ['agent.json', 'rows.jsonl']


def test_a_wrong_student_fails_before_anybody_plays(run, tmp_path):
    with pytest.raises(AgentkitError, match='no-such-model'):
        distill('local/no-such-model', Expert(), TASKS, run, tmp_path)
    with pytest.raises(AgentkitError, match='lazy has no weights to train'):
        distill(LAZY, Expert(), TASKS, run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_training_settings_are_named_before_anybody_plays(made, run, tmp_path):
    with pytest.raises(AgentkitError, match='epoch'):
        distill('local/nano', Expert(), TASKS, run, tmp_path, train=dict(epochz=3))
    with pytest.raises(AgentkitError, match='epoch'):
        distill_from('local/nano', made.demonstrations, tmp_path, train=dict(epochz=3))
    assert not list(tmp_path.iterdir())


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


# --- what was not measured ---


def test_a_demonstration_that_failed_is_no_lost_one_and_is_asked_for_again(run, tmp_path):
    "A teacher behind a server that refuses some games: they are said, and the same call plays only these again."
    well = []

    def answer(number, body):
        far = any(f'door {n}.' in body['messages'][1]['content'] for n in (2, 5))
        return REFUSED if far and not well else said('forward')

    with FlakyServer(answer) as server:
        learn = lambda: distill('local/nano', Agent(server.lm, think=False), TASKS, run, tmp_path, train=dict(epochs=1))
        first = learn()
        asked = len(server.asked)
        well.append(True)
        again = learn()
        assert len(server.asked) - asked == 2 + 5
    assert (first.rows, first.played, first.unmeasured, first.trusted) == (4, 6, 2, False)
    assert first.missing.startswith('not to be trusted: 2 of 6 episodes') and first.costs[0]['broken'] == 2
    assert (again.rows, again.unmeasured, again.trusted, again.missing) == (6, 0, True, '')
    assert 'not to be trusted' in model_card(first, evaluate(Expert(), TASKS, run))


def test_a_teacher_whose_server_is_down_is_not_called_a_bad_one(run, tmp_path):
    with FlakyServer(lambda n, body: said('') if body.get('max_tokens') == 1 else REFUSED) as server:
        with pytest.raises(AgentkitError, match=r'all 6 demonstrations broke off \(EpisodeError: .*I am not well'):
            distill('local/nano', Agent(server.lm, think=False), TASKS, run, tmp_path)
    assert not (tmp_path / 'rows.jsonl').exists()


def test_an_episode_that_could_not_be_corrected_is_counted_and_ends_nothing(made, run, tmp_path):
    "The teacher, asked afterwards what it would have done, fails for one episode of three."

    def moody(state):
        if state.task == TASKS[1]:
            raise EpisodeError('no answer')
        return 'forward'

    others = run(LAZY, TASKS[:3])
    again = distill_from(
        'local/nano', made.demonstrations, tmp_path, others, Program(moody, 'moody'), train=dict(epochs=1)
    )
    assert (again.uncorrected, again.played, again.trusted) == (1, 9, False)
    lazy = {r['provenance']['task'] for r in read_rows(tmp_path / 'rows.jsonl') if r['provenance']['policy'] == 'lazy'}
    assert lazy == {TASKS[0].id, TASKS[2].id}
