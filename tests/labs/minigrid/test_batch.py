"Several fine-tunings from one file: what is found before any work, what goes on, what is not done again."

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json
from agentkit.envs.babyai.dataset import collect
from agentkit.labs.minigrid import batch as module
from agentkit.labs.minigrid.batch import batch, main, read_batch
from agentkit.labs.minigrid.finetune import Finetuned

pytestmark = pytest.mark.usefixtures('own_data', 'one_thread')
SEED = ROOT / 'notebooks/labs/minigrid/batch.yaml'
DEFAULTS = dict(offline=True, encoding_type='no_repeat', samples_per_category=2, eval_steps=2, train=dict(epochs=1))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return collect(('GoToObj',), tuple(range(8)), output_dir=tmp_path_factory.mktemp('collected'), progress=False)


@pytest.fixture
def config(folder, tmp_path):
    "Writes a file of models, with more in its parts."

    def write(models, experiments=None, **more):
        part = dict(
            dataset_path=str(folder), output_dir=str(tmp_path / 'out'), defaults=DEFAULTS, models=models, **more
        )
        part = {k: v for k, v in part.items() if v is not None}
        path = tmp_path / 'batch.yaml'
        path.write_text(yaml.safe_dump(dict(fine_tuning=part) | (dict(experiments=experiments) if experiments else {})))
        return path

    return write


@pytest.fixture
def asked(monkeypatch):
    "Instead of a fine-tuning: what it was asked for. The model `bad` fails."
    calls = []

    def pretend(progress, **options):
        calls.append(options)
        if options.get('student_model') == 'local/bad':
            raise RuntimeError('out of memory\nand more lines')
        name = f'finetuned_{len(calls)}'
        path = Path(options['output_dir']) / f'{name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        info = dict(model_name=name, evaluation=dict(n=4, exact_matches=3))
        for p, content in ((path, {}), (path.with_name(f'{name}_info.json'), info)):
            p.write_text(json.dumps(content))
        return Finetuned(path, info)

    monkeypatch.setattr(module, 'finetune', pretend)
    return calls


def named(*names, **options):
    return [dict(name=n, **options) for n in names]


def test_real_agents_come_out_and_are_not_made_again(config, tmp_path, monkeypatch):
    path = config([dict(name='a'), dict(name='b', hint_type='subgoal', encoding_type='seen')])
    first = batch(path, progress=False)
    assert not first.failed and [e.known for e in first.ended] == [False, False]
    names = [e.info['model_name'] for e in first.ended]
    assert names[0].startswith('finetuned_nano_action_no_repeat_') and 'subgoal_seen' in names[1]
    assert all((tmp_path / 'out' / f'{n}.json').exists() for n in names)
    monkeypatch.setattr(module, 'finetune', None)
    again = batch(path, progress=False)
    assert [e.known for e in again.ended] == [True, True] and [e.info for e in again.ended] == [
        e.info for e in first.ended
    ]
    assert 'ok, done before' in str(again)


def test_a_models_options_go_before_the_defaults(config, asked, folder):
    batch(config([dict(name='a'), dict(name='b', samples_per_category=7, train=dict(epochs=2))]), progress=False)
    assert asked[0] == dict(DEFAULTS, dataset_path=str(folder), output_dir=asked[0]['output_dir'])
    assert asked[1] == dict(asked[0], samples_per_category=7, train=dict(epochs=2))


def test_one_that_fails_does_not_stop_the_rest_and_is_in_the_table(config, asked, capsys):
    models = named('a') + named('b', student_model='local/bad') + named('c', samples_per_category=3)
    path = config(models)
    assert main(f'--config {path} --no-progress'.split()) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')][1:]
    assert [line.split(' | ')[1] for line in lines] == ['ok', 'failed: RuntimeError: out of memory', 'ok']
    assert [line.split(' | ')[2] for line in lines] == ['3/4', '–', '3/4'] and len(asked) == 3
    assert main(f'--config {path} --no-progress --allow-failures'.split()) == 0
    assert len(asked) == 4, 'only what has failed is tried again'


def test_whoever_interrupts_ends_the_batch(config, asked, monkeypatch, capsys):
    def stop(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'finetune', stop)
    assert main(f'--config {config(named("a", "b"))} --no-progress'.split()) == 130


@pytest.mark.parametrize(
    'change', [dict(samples_per_category=9), dict(seed=1), dict(hint_type='subgoal', encoding_type='seen')]
)
def test_other_options_are_another_model(change, config, asked):
    batch(config(named('a')), progress=False)
    batch(config(named('a', **change)), progress=False)
    assert len(asked) == 2


def test_an_agent_that_was_deleted_is_made_again(config, asked, tmp_path):
    path = config(named('a'))
    batch(path, progress=False)
    (tmp_path / 'out/finetuned_1.json').unlink()
    assert not batch(path, progress=False).failed and len(asked) == 2


def test_other_data_are_another_model(config, asked, tmp_path):
    path = config(named('a'))
    batch(path, progress=False)
    other = collect(('GoToObj',), tuple(range(10, 16)), output_dir=tmp_path, progress=False)
    batch(path, dataset_path=other, progress=False)
    assert len(asked) == 2 and asked[1]['dataset_path'] == str(other)


def test_the_command_goes_before_the_file(config, asked, folder, tmp_path):
    path = config([dict(name='a', output_dir='elsewhere')])
    batch(path, dataset_path=folder, output_dir=tmp_path / 'mine', approach='teacher_student', progress=False)
    assert asked[0]['output_dir'] == str(tmp_path / 'mine')


# --- named experiments ---


@pytest.mark.parametrize('experiment, models', [('', 2), ('quick_test', 2), ('production', 4), ('model_comparison', 3)])
def test_the_experiments_of_the_source_can_be_read(experiment, models):
    plans = read_batch(SEED, experiment, dataset_path='x')
    assert len(plans) == models
    assert [p for p in plans if p.options.get('offline')] == (plans if experiment == 'quick_test' else [])


def test_an_experiment_goes_before_what_is_common(config, asked, tmp_path):
    own = dict(output_dir=str(tmp_path / 'own'), defaults=dict(samples_per_category=5), models=named('e'))
    path = config(named('a'), dict(mine=own, theirs=dict(defaults=dict(seed=3))))
    assert [e.name for e in batch(path, experiment='mine', progress=False).ended] == ['e']
    assert asked[0] == dict(
        DEFAULTS, samples_per_category=5, **{k: asked[0][k] for k in ('dataset_path', 'output_dir')}
    )
    assert asked[0]['output_dir'] == str(tmp_path / 'own')
    assert [e.name for e in batch(path, experiment='theirs', progress=False).ended] == ['a'] and asked[1]['seed'] == 3


# --- what is wrong is found before any work ---


def broken(**more):
    return dict(fine_tuning=dict(dataset_path='x', models=[dict(name='a', offline=True)]) | more)


@pytest.mark.parametrize(
    'file, why',
    [
        ({}, 'lists no models to train'),
        (broken(models=[]), 'lists no models to train'),
        (dict(finetuning={}), "unknown option 'finetuning'; did you mean 'fine_tuning'"),
        (broken(model=[]), "fine_tuning: unknown option 'model'; did you mean 'models'"),
        (broken(defaults=dict(hint='action')), "defaults: unknown option 'hint'"),
        (
            broken(models=[dict(name='a'), dict(name='b', encodingtype='ascii')]),
            "model 2: unknown option 'encodingtype'",
        ),
        (broken(models=[dict(name='a', progress=False)]), "model 1: unknown option 'progress'"),
        (broken(models=dict(a={})), 'models is .*, and not a list'),
        (broken(models=['a']), "model 1 is 'a', and not a list of names with values"),
        (broken(models=[dict(offline=True)]), 'model 1 has no name'),
        (broken(models=[dict(name=7)]), 'model 1 has no name'),
        (broken(models=named('a', 'a')), "two models are called 'a'"),
        (broken(defaults=[1]), r'defaults is \[1\], and not'),
        (broken(approach='student_only'), "approach is 'student_only', and not teacher_student"),
        (broken(dataset_path=None), 'a: dataset_path is missing: write it below fine_tuning, or --dataset-path'),
        (broken(models=named('a', encoding_type='asci')), "a: encoding_type 'asci' cannot be asked"),
        (broken(models=named('a', samples_per_category='many')), "a: samples_per_category is 'many'"),
        (broken(models=named('a', teacher_groq='off')), "a: teacher_groq is 'off', and not true or false"),
        (
            broken() | dict(experiments=dict(e=dict(defaults=dict(epochs=1)))),
            "experiments: e: defaults: unknown option 'epo",
        ),
        (broken() | dict(experiments=['e']), "experiments is \\['e'\\]"),
        ([1], 'holds no options'),
    ],
)
def test_a_wrong_file_is_named(file, why, tmp_path, asked):
    path = tmp_path / 'wrong.yaml'
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(AgentkitError, match=why) as e:
        batch(path, progress=False)
    assert str(e.value).startswith(str(path)) and '\n' not in str(e.value) and not asked


@pytest.mark.parametrize(
    'line, why',
    [
        ('', '--config is missing'),
        ('--config /nowhere.yaml', '/nowhere.yaml cannot be read'),
        (f'--config {SEED} --experiment quick_tests', "no experiment 'quick_tests'.*did you mean 'quick_test'"),
        (f'--config {SEED}', 'dataset_path is missing'),
        (f'--config {SEED} --dataset-path x --approach alone', "approach is 'alone'"),
        (f'--config {SEED} --models x', '--models'),
    ],
)
def test_a_wrong_command_is_one_line(line, why, capsys, asked):
    import re

    assert main(line.split()) == 2 and not asked
    error = capsys.readouterr().err
    assert re.search(why, error) and error.count('\n') == 1


def test_the_results_of_a_known_one_are_those_in_its_file(config, asked, tmp_path):
    path = config(named('a'))
    batch(path, progress=False)
    info = read_json(tmp_path / 'out/finetuned_1_info.json')
    assert batch(path, progress=False).ended[0].info == info
