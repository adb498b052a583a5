"The promotion gate: what is decided at the border, with too few tasks, and against the wrong reference."

import json
import shutil
import subprocess
import sys

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json
from agentkit.core.types import Observation, Task, Trajectory
from agentkit.evals import Report, episode_table, read_report
from agentkit.models.store import fingerprint, write_card
from agentkit.tuning.gate import promote, read_promotion

INFO = dict(env='corridor', split='held out', repeats=1, seed=0, max_steps=9)


def measured(policy, won, n=100, broken=(), **info):
    "A report in which the tasks with these numbers are won, and some episodes broke off."

    def episode(i):
        task, first = Task(f'{i:03d}', 'corridor', 'walk'), Observation('A corridor.')
        if i in broken:
            return Trajectory(task, policy, first, termination='error', error='the model is gone')
        return Trajectory(task, policy, first, termination='won' if i in won else 'lost', score=float(i in won))

    return Report(policy, episode_table([episode(i) for i in range(n)]), {**INFO, **info})


def test_the_same_wins_replace_the_reference_and_the_file_says_so(tmp_path):
    d = promote(measured('small', range(80)), measured('large', range(80)), tmp_path)
    assert d.promoted and d.in_use == 'small' and d.bound == -0.03 and d.numbers['difference'] == 0
    saved = read_json(tmp_path / 'decision.json')
    assert (
        saved['format'] == 'agentkit-decision'
        and saved['in_use'] == 'small'
        and saved['numbers']['tasks'] == 100
        and saved['margin'] == 0.1
    )
    assert read_promotion(tmp_path) == d
    assert [p.name for p in tmp_path.iterdir()] == ['decision.json'], 'written whole, with nothing beside it'


def test_a_refused_student_leaves_the_reference(tmp_path):
    d = promote(measured('small', range(60)), measured('large', range(80)), tmp_path)
    assert (
        not d.promoted
        and d.in_use == 'large' == read_json(tmp_path / 'decision.json')['in_use']
        and 'may be worse by more than 10%' in d.reason
    )


@pytest.mark.parametrize('margin, promoted', [(0.0499, False), (0.05, False), (0.0501, True)])
def test_the_border_is_excluded(tmp_path, margin, promoted):
    "Nobody differs on 60 tasks: the lower end is the rule of three, 3/60 = 0.05, and must lie above the margin."
    reference, student = measured('large', range(40), 60), measured('small', range(40), 60)
    d = promote(student, reference, tmp_path, margin)
    assert (d.bound, d.promoted) == (-0.05, promoted)


def test_too_few_tasks_decide_nothing(tmp_path):
    few = promote(measured('small', range(29), 29), measured('large', range(29), 29), tmp_path, margin=0.5)
    assert not few.promoted and few.reason == '29 tasks are too few, at least 30 are needed' and few.in_use == 'large'
    assert promote(
        measured('small', range(30), 30), measured('large', range(30), 30), tmp_path / 'more', margin=0.5
    ).promoted
    three = promote(measured('small', range(3), 3), measured('large', (), 3), tmp_path / 'three', superior=True)
    assert three.numbers['difference'] == 1 and not three.promoted


def test_not_worse_is_not_better(tmp_path):
    reference, same, better = measured('large', range(50)), measured('same', range(51)), measured('better', range(70))
    assert promote(same, reference, tmp_path / 'a').promoted
    refused = promote(same, reference, tmp_path / 'b', superior=True)
    assert not refused.promoted and refused.reason == 'it is not shown to be better'
    assert promote(better, reference, tmp_path / 'b', superior=True).promoted


def test_no_significant_difference_is_not_enough(tmp_path):
    "Eight of forty lost, four gained: p is far from 0.05, and still it may be worse by more than the margin."
    d = promote(measured('small', [*range(8, 24), *range(30, 34)], 40), measured('large', range(24), 40), tmp_path)
    assert d.numbers['p'] > 0.05 and not d.promoted


def test_a_chain_of_decisions_knows_who_is_in_use(tmp_path):
    a, b, c = measured('a', range(50)), measured('b', range(55)), measured('c', range(20))
    first = promote(b, a, tmp_path)
    assert promote(b, a, tmp_path) == first, 'the same decision may be taken again'
    with pytest.raises(AgentkitError, match='the reference in use is b, not a'):
        promote(c, a, tmp_path)
    assert promote(c, b, tmp_path).in_use == 'b'
    assert promote(measured('d', range(60)), b, tmp_path).in_use == 'd'


@pytest.mark.parametrize(
    'student, message',
    [
        (measured('small', range(50), 90), '10 tasks were played by only one'),
        (measured('small', range(50), max_steps=50), 'max_steps 50 and 9'),
        (measured('small', range(50), split='train'), 'split train and held out'),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(tmp_path, student, message):
    with pytest.raises(AgentkitError, match=message):
        promote(student, measured('large', range(50)), tmp_path)
    assert not (tmp_path / 'decision.json').exists()


def test_a_few_episodes_that_broke_off_are_no_losses(tmp_path):
    d = promote(measured('small', range(80), broken=[3, 4]), measured('large', range(80)), tmp_path)
    assert d.promoted and d.numbers['difference'] == 0 and d.numbers['tasks'] == 98


@pytest.mark.parametrize('who', ['small', 'large'])
def test_nobody_is_promoted_for_breaking_off(who, tmp_path):
    reports = {
        name: measured(name, range(80), broken=range(90, 93) if name == who else ()) for name in ('small', 'large')
    }
    with pytest.raises(AgentkitError, match=f'3 of 100 episodes of {who} are not measured: evaluate it again'):
        promote(reports['small'], reports['large'], tmp_path)
    assert not (tmp_path / 'decision.json').exists()


def test_a_margin_that_makes_no_sense_and_a_file_that_is_no_decision(tmp_path):
    reports = measured('small', range(50)), measured('large', range(50))
    with pytest.raises(AgentkitError, match='margin is a loss'):
        promote(*reports, tmp_path, margin=10)
    (tmp_path / 'decision.json').write_text('{}')
    with pytest.raises(AgentkitError, match='not a decision: format is None'):
        promote(*reports, tmp_path)


def test_a_report_survives_the_disk(tmp_path):
    r = measured('large', range(50))
    r.save(tmp_path)
    assert read_report(tmp_path).to_dict() == r.to_dict()
    (tmp_path / 'report.json').write_text('{"format": "other"}')
    with pytest.raises(AgentkitError, match='not a report'):
        read_report(tmp_path)


def test_on_the_command_line(tmp_path):
    measured('small', range(78)).save(tmp_path / 'small')
    measured('large', range(80)).save(tmp_path / 'large')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'agentkit.cli',
            'promote',
            str(tmp_path / 'small'),
            str(tmp_path / 'large'),
            '--out',
            str(tmp_path / 'gate'),
            '--json',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['in_use'] == read_json(tmp_path / 'gate/decision.json')['in_use'] == 'small'


def test_a_model_that_is_not_the_measured_one_is_not_promoted(tmp_path, monkeypatch):
    "Its files were changed, or it was made again, since."
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path / 'data'))
    folder = tmp_path / 'data/models/small'

    def make(weights):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ('model.gguf', 'model.safetensors', 'tokenizer.json'):
            (folder / name).write_text(f'"{weights}"')
        write_card(folder, id='small', base='', trained=False, steps=0, recipe='')

    make('one')
    student = measured('local/small', range(80), model=fingerprint('small'))
    assert promote(student, measured('large', range(80)), tmp_path / 'a').promoted
    (folder / 'tokenizer.json').write_text('"other"')
    with pytest.raises(AgentkitError, match='tokenizer.json is not the file the card was written for'):
        promote(student, measured('large', range(80)), tmp_path / 'b')
    make('other')
    for pair in ((student, measured('large', range(80))), (measured('large', range(80)), student)):
        with pytest.raises(AgentkitError, match='local/small is no longer the model that was measured: evaluate it'):
            promote(*pair, tmp_path / 'b')
    assert not (tmp_path / 'b').exists()
    shutil.rmtree(folder)
    assert promote(student, measured('large', range(80)), tmp_path / 'c').promoted, 'it was measured elsewhere'


def test_two_agents_of_one_name_are_told_apart(tmp_path):
    "A prompt makes another agent of the same model, and so do other weights under the same name."
    a, b = measured('m', range(50), policy_id='a'), measured('m', range(60), policy_id='b')
    other, old = measured('m', range(60), policy_id='c'), measured('m', range(60))
    d = promote(b, a, tmp_path)
    assert d.promoted and (d.in_use, d.in_use_id) == ('m', 'b') == (read_promotion(tmp_path).in_use, d.student_id)
    assert promote(b, a, tmp_path) == d, 'the same decision may be taken again'
    with pytest.raises(AgentkitError, match='the reference in use is m, not another one with this name'):
        promote(measured('d', range(70), policy_id='d'), other, tmp_path)
    with pytest.raises(AgentkitError, match='not another one with this name'):
        promote(other, a, tmp_path)
    assert promote(other, old, tmp_path).in_use_id == 'c', 'a report from before has no digest: its name counts'


def test_an_evaluation_knows_the_agent_and_not_only_its_name(tmp_path):
    from agentkit.agents.programs import Program
    from agentkit.evals import evaluate
    from agentkit.rollouts import Runner

    with Runner('corridor', progress=False) as run:
        tasks = run.tasks('train', 2)
        policies = [Program(lambda state: action, 'walker', action) for action in ('forward', 'back')]
        reports = [evaluate(policy, tasks, run) for policy in policies]
    assert [(r.policy, r.info['policy_id']) for r in reports] == [('walker', 'forward'), ('walker', 'back')]
    reports[0].save(tmp_path)
    assert read_report(tmp_path).info['policy_id'] == 'forward'


def test_a_decision_from_before_is_read(tmp_path):
    d = promote(measured('small', range(80)), measured('large', range(80)), tmp_path).to_dict()
    (tmp_path / 'decision.json').write_text(json.dumps({k: v for k, v in d.items() if not k.endswith('_id')}))
    assert read_promotion(tmp_path).in_use == 'small' and read_promotion(tmp_path).in_use_id == ''
