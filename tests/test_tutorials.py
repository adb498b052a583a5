"The tutorials from top to bottom under papermill: offline, and pointed at a real llama.cpp server."

import json
from collections import defaultdict

import pytest
from conftest import ROOT

from agentkit.agents.saving import load_agent
from agentkit.rollouts import read_trajectories

pytest.importorskip('torch')
pytest.importorskip('xllamacpp')
from agentkit.models.serving import serve, stop_servers  # noqa: E402
from agentkit.research.sweeps import execute  # noqa: E402
from agentkit.training.bases import make_nano  # noqa: E402

FINE_TUNE = ROOT / 'notebooks/tutorials/01_fine_tune_an_agent.ipynb'
SECOND_WORLD = ROOT / 'notebooks/tutorials/03_a_second_world.ipynb'
SMALL = dict(prompt_tasks=4, train_tasks=8, eval_tasks=4, epochs=2)


def outputs(path):
    "What the cells of an executed notebook show."
    cells = json.loads(path.read_text())['cells']
    return '\n'.join(
        ''.join(o.get('text', o.get('data', {}).get('text/markdown', o.get('data', {}).get('text/plain', ''))))
        for c in cells
        for o in c.get('outputs', [])
    )


def played(folder):
    "The episodes that a runner kept, by policy."
    episodes = defaultdict(list)
    for journal in (folder / 'episodes').glob('*.jsonl'):
        for t in read_trajectories(journal):
            episodes[t.policy].append(t)
    return episodes


def test_fine_tune_an_agent_offline(tmp_path, results):
    execute(
        FINE_TUNE,
        tmp_path / 'out.ipynb',
        dict(SMALL, env='corridor', eval_split='valid_unseen', out=str(tmp_path / 'run')),
    )
    shown = outputs(tmp_path / 'out.ipynb')
    assert 'bootstrap_search: ' in shown and 'write provider/model' in shown and 'no tasks to learn from' in shown
    agent = load_agent(tmp_path / 'run/agent.json')
    episodes = played(tmp_path / 'run')
    assert len(episodes[agent.name]) == SMALL['eval_tasks']
    assert any(name.startswith('local/nano-base') for name in episodes), 'the student before it learned'


def test_fine_tune_an_agent_with_a_model_behind_an_address(tmp_path, results, monkeypatch):
    rows = [
        dict(
            messages=[
                dict(role='user', content='You see a door. Your task is to: go on.'),
                dict(role='assistant', content='forward'),
            ]
        )
    ]
    server = serve(make_nano(rows, size='tiny', vocabulary=300), slots=2, context=4096)
    name = f'openai/{server.model}'
    monkeypatch.setenv('AGENTKIT_API_KEY', server.key)
    try:
        execute(
            FINE_TUNE,
            tmp_path / 'out.ipynb',
            dict(
                SMALL,
                teacher=f'{name}@{server.url}/v1',
                method='bootstrap',
                env='corridor',
                eval_split='valid_unseen',
                out=str(tmp_path / 'run'),
            ),
        )
    finally:
        stop_servers()
    zero_shot = played(tmp_path / 'run')[name]
    assert len(zero_shot) >= SMALL['eval_tasks'] and sum(t.usage['tokens_in'] for t in zero_shot) > 0
    assert not [t for t in zero_shot if t.termination == 'error']
    assert load_agent(tmp_path / 'run/agent.json').name.startswith('local/nano-')
    assert not [p for p in (tmp_path / 'run').rglob('*.json*') if server.url in p.read_text()], (
        'an address is not written down'
    )


def test_a_second_world(tmp_path, results):
    pytest.importorskip('minigrid')
    small = dict(tasks=20, passes=500, eval_tasks=10, far_tasks=4, out=str(tmp_path / 'run'))
    execute(SECOND_WORLD, tmp_path / 'out.ipynb', small)
    shown = outputs(tmp_path / 'out.ipynb')
    assert "did you mean 'GoToLocal'?" in shown and "has no view 'reslved'" in shown and 'nothing to train on' in shown
    agent, episodes = load_agent(tmp_path / 'run/agent.json'), played(tmp_path / 'run')
    assert {len(of) for name, of in episodes.items() if name.startswith('local/')} == {2 * (10 + 4)}
    assert all(t.won for name, of in episodes.items() if name.startswith('expert') for t in of)
    assert agent.name in episodes
