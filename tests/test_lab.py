"The lab for real, end to end in small: the committed tutorial under papermill."

import json

import pandas as pd
import pytest

from conftest import ROOT
from agentkit.data.records import read_records
from agentkit.core.store import read_json
from agentkit.data.rows import read_rows
from agentkit.research.sweeps import check_parameters, parameters

NOTEBOOK = ROOT / 'notebooks/tutorials/02_collect_filter_train_compare.ipynb'
SMALL = dict(size='tiny', collected=120, eval_per_kind=17, epochs=2)


def run(out, **params):
    papermill = pytest.importorskip('papermill')
    given = {**SMALL, **params, 'out': str(out)}
    check_parameters(NOTEBOOK, given)
    return papermill.execute_notebook(
        str(NOTEBOOK), str(out.with_suffix('.ipynb')), given, cwd=str(ROOT), kernel_name='python3', progress_bar=False
    )


def test_the_parameters_have_help():
    assert all(p['help'] for p in parameters(NOTEBOOK).values())


def test_the_lab_in_small(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path / 'data'))
    run(tmp_path / 'lab')
    found = read_json(tmp_path / 'lab/summary.json')
    agents = {a['agent']: a for a in found['agents']}
    assert list(agents) == ['baseline', 'no training', 'shuffled answers', 'student'] and all(
        a['n'] == 51 for a in agents.values()
    )
    assert {'average_confidence', 'task_accuracy', 'response_quality', 'overall_score'} < set(agents['student'])
    assert {k: v for k, v in agents['no training'].items() if k != 'agent'} == {
        k: v for k, v in agents['baseline'].items() if k != 'agent'
    }
    assert (
        found['losses']['student'][-1] < found['losses']['student'][0]
        and len(found['losses']['student']) == SMALL['epochs']
    )
    controls = {(g['agent'], g['of']): g for g in found['gains']}
    assert {'p', 'ci_low', 'ci_high'} < set(controls['student', 'correct'])
    for name in ('no training', 'shuffled answers'):
        assert controls[name, 'correct']['gain'] == 'no'
    assert agents['student']['average_confidence'] > agents['baseline']['average_confidence']
    check_files(tmp_path / 'lab')


def check_files(folder):
    pairs = pd.read_csv(folder / 'paired.csv')
    assert len(pairs) == 51 and pairs['task_type'].value_counts().tolist() == [17, 17, 17]
    data, rows = read_json(folder / 'training_data.json'), read_rows(folder / 'rows.jsonl')
    assert 'general' not in data['metadata']['task_distribution'] and set(data['examples'][0]) == {
        'input',
        'output',
        'task_type',
    }
    assert not set(pairs['input']) & {e['input'] for e in data['examples']}, 'the evaluation is held out'
    records = {r.id: r for r in read_records(folder / 'records.jsonl')}
    assert (
        all(records[r['provenance']['record']].score >= 0.8 for r in rows)
        and len(rows) == data['metadata']['total_examples']
    )
    decision = read_json(folder / 'gate-control/decision.json')
    assert decision['numbers']['tasks'] == 51 and json.dumps(decision)
