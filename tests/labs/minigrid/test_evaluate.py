"The evaluator's command: its options and files, what goes wrong, and that one failure does not stop the others."

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from agentkit.agents.programs import Chance
from agentkit.agents.saving import save_agent
from agentkit.core.errors import AgentkitError
from agentkit.envs.babyai.dataset import collect, read_dataset, steps_of
from agentkit.envs.babyai.steps import step_tasks
from agentkit.judges.calibration import kappa
from agentkit.labs.minigrid import evaluate as module
from agentkit.labs.minigrid.evaluate import evaluate_model, main, new_worlds, test_sample as sample_of
from agentkit.labs.minigrid.metric import PlanAssessor, other_actions, score_steps
from agentkit.labs.minigrid.sources import predictor
from agentkit.testing.judges import stand_in_judge
from agentkit.testing.models import scripted_lm

LEVELS = ('GoToLocal', 'OpenDoor', 'PickupLoc')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return collect(LEVELS, tuple(range(1, 9)), output_dir=tmp_path_factory.mktemp('data'), progress=False)


@pytest.fixture(scope='module')
def data(folder):
    return read_dataset(folder)


@pytest.fixture
def models(monkeypatch):
    "Models without weights, by their names."
    known = {}
    monkeypatch.setattr(module, 'make_lm', lambda spec: known[spec])
    return known


def results_in(folder):
    (path,) = folder.glob('eval_*/evaluation_results.json')
    return path.parent.name, json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f'{c} is no JSON'))


def fails(capsys, *argv):
    "The line that a command ends with."
    assert main([str(a) for a in argv]) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.count('\n') == 1
    return said.err


# --- the sample ---


@pytest.mark.parametrize('hint_type', ['action', 'subgoal'])
@pytest.mark.parametrize('size', [1, 3, 10, 17, 1000])
def test_a_sample_is_balanced_and_always_the_same(data, hint_type, size):
    steps = steps_of(data.test)
    sample, there = sample_of(steps, size, hint_type), Counter(s.category(hint_type) for s in steps)
    assert sample == sample_of(steps, size, hint_type) and len(sample) == min(size, len(steps))
    assert len({id(s) for s in sample}) == len(sample)
    counts = Counter(s.category(hint_type) for s in sample)
    most = max(counts.values())
    assert all(counts[c] in (most, most - 1) or counts[c] == there[c] for c in there)


def test_another_seed_is_another_sample(data):
    steps = steps_of(data.test)
    assert len({tuple(s.place for s in sample_of(steps, 10, 'action', seed)) for seed in range(6)}) > 1


def test_what_is_played_was_not_learned(data):
    worlds = new_worlds(data, episodes=12)
    seen = {(d.env_id, d.episode_seed) for d in data.train}
    assert Counter(t.kind for t in worlds) == dict.fromkeys(LEVELS, 12)
    assert not seen & {(t.data['level'], t.data['seed']) for t in worlds} and len({t.id for t in worlds}) == 36
    twice = new_worlds(data, ('GoToObj', 'BabyAI-GoToObj-v0'), 2)
    assert [t.id for t in twice] == ['test/GoToObj-0', 'test/GoToObj-1']
    with pytest.raises(AgentkitError, match="unknown level 'GoToLocla'; did you mean 'GoToLocal'"):
        new_worlds(data, ('GoToLocla',))


# --- the files ---


def test_the_files_have_the_known_names_and_fields(folder, tmp_path, capsys):
    argv = f'--dataset-path {folder} --hint-type subgoal --encoding-type ascii --model random --testset-size 10'
    assert main([*argv.split(), '--output-dir', str(tmp_path)]) == 0
    name, results = results_in(tmp_path)
    assert name == 'eval_subgoal_ascii_direct_llm_10samples' and name in capsys.readouterr().out
    known = (
        'accuracy correct_predictions total_predictions testset_size hint_type encoding_type model_path dataset_path'
    )
    assert {*known.split(), 'predictions', 'evaluation_time_seconds', 'timestamp', 'config'} <= results.keys()
    assert results['total_predictions'] == 10 == len(results['predictions'])
    assert {'example_id', 'observation', 'target', 'predicted', 'correct'} <= results['predictions'][0].keys()
    assert results['correct_predictions'] == sum(p['target'] == p['predicted'] for p in results['predictions'])
    assert results['accuracy'] == results['correct_predictions'] / 10 == results['metrics']['agent']['exact']
    (summary,) = tmp_path.glob('evaluation_summary_*.json')
    assert re.fullmatch(r'evaluation_summary_\d{8}_\d{6}\.json', summary.name)
    summary = json.loads(summary.read_text())
    assert summary['total_evaluations'] == 1
    assert {'experiment_name', 'accuracy', 'evaluation_time', 'config'} <= summary['summary'][0].keys()
    assert summary['summary'][0]['accuracy'] == 100 * results['accuracy']


def test_targets_of_actions_are_their_numbers(folder, tmp_path):
    results = evaluate_model(str(folder), 'action', model='expert', output_dir=tmp_path, baselines=False)
    assert {p['target'] for p in results['predictions']} <= set('0123456') and results['accuracy'] == 1.0
    assert all(p['predicted'] == p['target'] for p in results['predictions'])


def test_the_numbers_are_those_of_the_metric(folder, data, tmp_path):
    results = evaluate_model(str(folder), 'action', model='random', testset_size=20, output_dir=tmp_path)
    tasks = step_tasks(sample_of(steps_of(data.test), 20, 'action'), data.test, 'ascii', 'action', 'test')
    report = score_steps(Chance(), tasks, assessor=PlanAssessor(data.test))
    assert results['metrics']['agent'] == results['metrics']['random'] == report.summary
    assert results['metrics']['bot']['exact'] == 1.0 and set(results['metrics']) == {
        *('random', 'majority', 'planner', 'bot', 'agent')
    }
    assert results['assessor'] == 'no longer plan of the bot' and results['closed_loop'] is None


def test_the_agent_plays_beside_the_others(folder, tmp_path):
    o = dict(testset_size=5, output_dir=tmp_path, closed_loop=True, env_ids=('GoToObj',), episodes=4)
    evaluate_model(str(folder), 'action', model='random', **o)
    _, results = results_in(tmp_path)
    plays = results['closed_loop']
    assert set(plays) == {'random', 'majority', 'planner', 'bot', 'agent'}
    assert all(p['n'] == 4 and p['policy'] == name for name, p in plays.items())
    assert plays['bot']['success'] == plays['planner']['success'] == 1.0 and plays['bot']['ci_low'] > 0.5
    assert plays['bot']['mean_return'][0] > 0.8 and plays['bot']['by_level'][0]['kind'] == 'GoToObj'
    assert plays['agent']['success'] == plays['random']['success']


def test_booleans_are_switched_off(folder, tmp_path, capsys):
    argv = f'--dataset-path {folder} --hint-type action --model random --testset-size 5 --output-dir {tmp_path}'
    assert main([*argv.split(), '--no-baselines', '--no-closed-loop', '--assessor', 'none']) == 0
    _, results = results_in(tmp_path)
    assert set(results['metrics']) == {'agent'} and results['assessor'] is None
    assert results['metrics']['agent']['combined'] is None and '–' in capsys.readouterr().out


def test_a_saved_agent_is_measured_and_its_name_stands_in_the_folders(folder, tmp_path, models, monkeypatch):
    path = tmp_path / 'my agent.json'
    save_agent(predictor('action', 'natural'), path)
    monkeypatch.setattr('agentkit.agents.saving.make_lm', lambda spec: scripted_lm(['forward']))
    o = dict(output_dir=tmp_path, baselines=False, model='local/x')
    results = evaluate_model(str(folder), 'action', 'natural', str(path), **o)
    assert results_in(tmp_path)[0] == 'eval_action_natural_my-agent_10samples'
    assert results['correct_predictions'] == sum(p['target'] == '2' for p in results['predictions'])
    assert set(p['predicted'] for p in results['predictions']) == {'2'}


def test_a_model_is_asked_directly_with_the_question_in_its_prompt(folder, tmp_path, models):
    lm = models['local/x'] = scripted_lm(['GoNextTo'])
    results = evaluate_model(str(folder), model='local/x', output_dir=tmp_path, baselines=False)
    assert results['correct_predictions'] == sum(p['target'] == 'GoNextTo' for p in results['predictions']) > 0
    asked = lm.script.asked[0]
    system = asked.system if isinstance(asked.system, str) else ''.join(p.text for p in asked.system)
    assert 'Answer with one word: Close, Open, Drop' in system and len(lm.script.asked) == 10


def test_the_assessor_is_compared_with_the_bot(folder, data, tmp_path, models):
    models['local/judge'] = stand_in_judge(lambda shown: shown['decision'] == 'left', error=0.0)
    o = dict(model='random', output_dir=tmp_path, assessor='local/judge', calibration=8, testset_size=12)
    results = evaluate_model(str(folder), 'action', baselines=False, **o)
    tasks = step_tasks(sample_of(steps_of(data.test), 12, 'action'), data.test)[:8]
    items, scores = other_actions(tasks, PlanAssessor(data.test))
    expected = kappa([s == 0.5 for s in scores], [pred.answer == 'left' for _, pred in items])
    assert results['calibration']['n'] == 40 and results['calibration']['kappa'] == expected
    assert results['assessor'] == 'Assessor(scripted-judge)'
    sense = [p['reasonable'] for p in results['predictions'] if not p['correct']]
    assert sense == [p['predicted'] == '0' for p in results['predictions'] if not p['correct']]


def test_the_same_again_asks_nobody_and_says_the_same(folder, tmp_path, models):
    lm = models['local/x'] = scripted_lm(['GoNextTo'])
    first, second = (evaluate_model(str(folder), model='local/x', output_dir=tmp_path) for _ in range(2))
    assert len(lm.script.asked) == 10 and first['metrics'] == second['metrics']


def test_results_of_other_options_are_not_written_over(folder, tmp_path, capsys):
    evaluate_model(str(folder), model='random', output_dir=tmp_path, baselines=False)
    before = results_in(tmp_path)
    argv = ('--dataset-path', folder, '--model', 'expert', '--no-baselines', '--output-dir', tmp_path)
    assert 'was made with another model: name another --output-dir' in fails(capsys, *argv)
    assert results_in(tmp_path) == before


def test_two_summaries_of_one_second_are_two_files(folder, tmp_path):
    for _ in range(3):
        assert main(f'--dataset-path {folder} --model random --no-baselines --output-dir {tmp_path}'.split()) == 0
    assert len(list(tmp_path.glob('evaluation_summary_*.json'))) == 3


# --- older files ---


@pytest.fixture
def older(folder, tmp_path):
    "The same data as older collectors wrote them: no text of a sight, actions only."
    place = tmp_path / 'older'
    place.mkdir()
    for side in ('train', 'test'):
        records = json.loads((folder / f'{side}.json').read_text())
        for record in records:
            for o in record['episodes'][0]['observations']:
                o['observation'] = dict(mission='go')
        (place / f'{side}.json').write_text(json.dumps(records))
    return place


def test_older_files_are_asked_about_without_those_who_need_a_world(older, tmp_path):
    results = evaluate_model(str(older), 'action', 'relative', model='random', output_dir=tmp_path)
    assert set(results['metrics']) == {'random', 'majority', 'agent'} and results['assessor'] is None
    assert results['total_predictions'] == 10
    with pytest.raises(AgentkitError, match='not told in full'):
        evaluate_model(str(older), 'action', 'ascii', model='random', output_dir=tmp_path, assessor='bot')


# --- what goes wrong ---


@pytest.mark.parametrize(
    'argv, said',
    [
        ('', 'dataset_path is missing: a folder with train.json'),
        ('--dataset-path nowhere --model random', 'nowhere: no such folder'),
        ('--dataset-path {folder}', 'nobody to measure: write --model-path agent.json, or --model'),
        ('--dataset-path {folder} --model random --hint-typ action', 'Unknown option: --hint-typ'),
        ('--dataset-path {folder} --model random --hint-type goal', 'hint-type'),
        ('--dataset-path {folder} --model random --encoding-type braille', 'encoding-type'),
        ('--dataset-path {folder} --model random --testset-size ten', 'testset-size'),
        ('--dataset-path {folder} --model random --testset-size 0', 'testset_size is 0'),
        ('--dataset-path {folder} --model random --testset-size -1', 'testset_size is -1'),
        ('--dataset-path {folder} --model random --closed-loop', 'who names sub-goals does not act'),
        ('--dataset-path {folder} --model random --assessor bot', 'judges actions only'),
        ('--dataset-path {folder} --model random --calibration 3', 'calibration compares a model'),
        ('--dataset-path {folder} --model gpt', "'gpt' is not a model name"),
        ('--dataset-path {folder} --model-path nowhere.json', 'nowhere.json does not exist'),
        ('--dataset-path {folder} --model random --hint-type action --closed-loop --env-ids GoToLocla', 'did you mean'),
        ('--config nowhere.yaml', 'nowhere.yaml cannot be read'),
        ('extra', 'extra'),
    ],
)
def test_what_is_wrong_is_one_line(folder, tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, *argv.format(folder=folder).split())
    assert not list(tmp_path.rglob('*.json'))


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(testset_size=True), 'testset_size is True, and not a whole number'),
        (dict(testset_size=2.5), 'testset_size is 2.5, and not a whole number'),
        (dict(baselines='no'), "baselines is 'no', and not true or false"),
        (dict(env_ids='GoToObj'), "env_ids is 'GoToObj', and not a list of names"),
        (dict(env_ids=[1]), 'not a list of names'),
        (dict(model=3), 'model is 3, and not a text'),
        (dict(hint_type='goal'), "hint_type is 'goal', and not one of"),
        (dict(encoding_type='no_repeat'), "encoding_type is 'no_repeat', and not one of"),
    ],
)
def test_options_from_a_file_are_checked_as_well(folder, tmp_path, capsys, options, said):
    config = tmp_path / 'config.yaml'
    config.write_text(yaml.safe_dump({'dataset_path': str(folder), 'model': 'random', **options}))
    assert said in fails(capsys, '--config', config, '--output-dir', tmp_path)


def test_an_agent_is_asked_as_it_was_made(folder, tmp_path, capsys):
    save_agent(predictor('subgoal', 'tuples'), tmp_path / 'agent.json')
    argv = ('--dataset-path', folder, '--model-path', tmp_path / 'agent.json')
    assert 'write --hint-type subgoal --encoding-type tuples' in fails(capsys, *argv)
    assert 'no model of its own: name one with --model' in fails(capsys, *argv, '--encoding-type', 'tuples')
    from agentkit.agents.saving import student_agent

    save_agent(student_agent(None), tmp_path / 'student.json')
    line = fails(capsys, '--dataset-path', folder, '--model-path', tmp_path / 'student.json')
    assert "reads the view 'student', and does not answer single questions" in line


def test_a_test_file_without_steps_is_named(folder, tmp_path, capsys):
    place = tmp_path / 'empty'
    place.mkdir()
    (place / 'train.json').write_text((folder / 'train.json').read_text())
    (place / 'test.json').write_text('[]')
    line = fails(capsys, '--dataset-path', place, '--model', 'random', '--output-dir', tmp_path)
    assert 'test.json has no steps: collect more seeds' in line


# --- several ---


@pytest.fixture
def several(folder, tmp_path):
    "A file with three evaluations, of which one cannot be."
    own = [
        dict(hint_type='action'),
        dict(hint_type='action', encoding_type='natural', model='gpt'),
        dict(encoding_type='tuples'),
    ]
    shared = dict(dataset_path=str(folder), output_dir=str(tmp_path), baselines=False, model='random', testset_size=5)
    path = tmp_path / 'several.yaml'
    path.write_text(yaml.safe_dump({**shared, 'evaluations': own}))
    return path


def test_one_that_fails_does_not_stop_the_others(several, tmp_path, capsys):
    assert main(['--config', str(several)]) == 1
    out = capsys.readouterr().out
    assert 'eval_action_ascii_direct_llm_5samples | ok' in out and 'eval_subgoal_tuples_direct_llm_5samples | ok' in out
    assert "failed: AgentkitError: 'gpt' is not a model name" in out
    (path,) = tmp_path.glob('evaluation_summary_*.json')
    lines = json.loads(path.read_text())['summary']
    assert [bool(line['error']) for line in lines] == [False, True, False] and lines[1]['accuracy'] is None


def test_what_stands_in_the_command_goes_before_the_file(several, tmp_path):
    assert main(['--config', str(several), '--model', 'expert', '--testset-size', '6']) == 0
    results = [json.loads(p.read_text()) for p in tmp_path.glob('eval_*_6samples/evaluation_results.json')]
    assert len(results) == 3 and {r['accuracy'] for r in results} == {1.0}


@pytest.mark.parametrize(
    'config, said',
    [
        (dict(evaluations=[]), 'evaluations is no list of options'),
        (dict(evaluations='all'), 'evaluations is no list of options'),
        (dict(evaluations=[3]), 'evaluations is no list of options'),
        (dict(evaluations=[dict(hint='action')]), "evaluation 1: unknown option 'hint'"),
        (dict(evaluation=[{}]), "unknown option 'evaluation'"),
    ],
)
def test_a_file_that_lists_nothing_is_named(tmp_path, capsys, config, said):
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump(config))
    assert said in fails(capsys, '--config', path)


def test_a_key_does_not_reach_the_results(folder, tmp_path, monkeypatch):
    key = 'sk-' + 'verysecret' * 2 + '1234'
    monkeypatch.setenv('OPENAI_API_KEY', key)
    monkeypatch.setattr(module, 'make_lm', lambda spec: scripted_lm([key]))
    evaluate_model(str(folder), model='local/x', output_dir=tmp_path, baselines=False)
    assert not [p for p in Path(tmp_path).rglob('*') if p.is_file() and 'verysecret' in p.read_text()]


def test_it_is_a_command_of_python(folder, tmp_path):
    import subprocess
    import sys

    argv = f'--dataset-path {folder} --model random --no-baselines --output-dir {tmp_path}'
    command = [sys.executable, '-m', 'agentkit.labs.minigrid.evaluate', *argv.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and 'eval_subgoal_ascii_direct_llm_10samples' in done.stdout and done.stderr == ''
    shown = subprocess.run([*command[:3], '--help'], capture_output=True, text=True).stdout
    assert '--no-baselines' in shown and '--testset-size' in shown and '[default: 10]' in shown and '--config' in shown
