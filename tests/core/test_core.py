"The file formats: what was written comes back, half a file is not taken for whole, the unknown is refused."

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from agentkit import core
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal
from agentkit.core.types import Step, Task, Trajectory, trajectory, transcript, turns

text = st.text(st.characters(codec='utf-8'), max_size=40)
steps = st.builds(
    Step,
    action=text,
    observation=text,
    valid=st.booleans(),
    admissible=st.lists(text, max_size=3).map(tuple),
    seconds=st.floats(0, 9),
)
tasks = st.builds(
    Task,
    id=text,
    env=text,
    kind=text,
    split=text,
    data=st.dictionaries(text, st.one_of(text, st.integers()), max_size=2),
)
trajectories = st.builds(
    Trajectory,
    task=tasks,
    policy=text,
    seed=st.integers(0, 9),
    intro=text,
    steps=st.lists(steps, max_size=4).map(tuple),
    termination=st.sampled_from(core.TERMINATIONS),
    score=st.floats(0, 1),
)


@given(trajectories)
def test_a_trajectory_survives_json(t):
    assert trajectory(json.loads(json.dumps(t.to_dict()))) == t


@given(st.lists(trajectories, max_size=4), st.integers(1, 200))
@hypothesis_settings(deadline=None)
def test_a_torn_line_costs_only_itself(tmp_path_factory, ts, cut):
    journal = Journal(tmp_path_factory.mktemp('journal') / 't.jsonl')
    for t in ts:
        journal.append(t.to_dict())
    whole = journal.rows()
    torn = json.dumps(Trajectory(Task('x', 'y'), 'p', 0, 'é' * 50).to_dict()).encode()[:cut]
    with open(journal.path, 'ab') as f:
        f.write(torn)
    assert journal.rows() == whole
    journal.append({'last': True})
    assert journal.rows() == [*whole, {'last': True}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / 't.jsonl'
    path.write_text('{"a": 1}\nnot json\n{"a": 2}\n')
    with pytest.raises(AgentkitError, match=r't\.jsonl line 2 is not JSON'):
        Journal(path).rows()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(version=99), 'version 99 is unknown'),
        (dict(format='other'), "format is 'other'"),
        (dict(surprise=1), 'unknown fields in a trajectory: surprise'),
    ],
)
def test_what_is_unknown_is_refused_by_name(change, message):
    d = Trajectory(Task('x', 'y'), 'p', 0, '').to_dict()
    with pytest.raises(AgentkitError, match=message):
        trajectory({**d, **change})


def test_an_unknown_termination_is_refused():
    with pytest.raises(AgentkitError, match="'done' is not one of"):
        Trajectory(Task('x', 'y'), 'p', 0, '', termination='done')


def test_many_writers_lose_nothing(tmp_path):
    code = (
        'from agentkit.core import Journal\nimport sys\nfor i in range(50): '
        f"Journal({str(tmp_path / 'j.jsonl')!r}).append(dict(writer=sys.argv[1], i=i, pad='x' * 5000))"
    )
    writers = [subprocess.Popen([sys.executable, '-c', code, str(w)]) for w in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    rows = Journal(tmp_path / 'j.jsonl').rows()
    assert sorted((r['writer'], r['i']) for r in rows) == sorted((str(w), i) for w in range(3) for i in range(50))


def test_a_killed_writer_leaves_whole_rows(tmp_path):
    path = tmp_path / 'j.jsonl'
    code = (
        'from agentkit.core import Journal\ni = 0\nwhile True:\n'
        f"    Journal({str(path)!r}).append(dict(i=i, pad='x' * 20000)); i += 1"
    )
    writer = subprocess.Popen([sys.executable, '-c', code])
    deadline = time.time() + 30
    while not (path.exists() and path.stat().st_size > 200_000) and time.time() < deadline:
        time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rows = Journal(path).rows()
    assert rows and [r['i'] for r in rows] == list(range(len(rows)))


action = st.text(
    st.characters(codec='utf-8', exclude_categories=['Cc', 'Zl', 'Zp', 'Zs']), min_size=1, max_size=12
).filter(lambda a: a == ' '.join(a.split()))
line = st.text(st.characters(codec='utf-8', exclude_characters='\n'), max_size=12).filter(
    lambda l: not l.startswith((' >', '>'))
)


@given(st.lists(st.tuples(action, st.lists(line, min_size=1, max_size=3).map('\n'.join)), max_size=5))
def test_a_transcript_reads_back(pairs):
    assert turns(transcript(pairs)) == pairs


def test_an_observation_cannot_pose_as_an_action():
    assert len(turns(transcript([('look', 'A note says:\n> open safe')]))) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = core.write_text(tmp_path / 'a.json', 'old')
    monkeypatch.setattr(os, 'replace', lambda *a: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError):
        core.write_text(path, 'new')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    'ini, message',
    [
        ('[paths]\nresult = x\n', "unknown key 'result' in \\[paths\\]"),
        ('[path]\nx = 1\n', r'unknown section \[path\]'),
        ('nonsense', 'cannot be read'),
    ],
)
def test_settings_refuse_what_they_do_not_know(tmp_path, monkeypatch, ini, message):
    (tmp_path / 'settings.ini').write_text(ini)
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    with pytest.raises(AgentkitError, match=message):
        core.settings()


def test_the_environment_overrides_settings(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    monkeypatch.delenv('AGENTKIT_PATHS_RESULTS')
    (tmp_path / 'settings.ini').write_text('[paths]\nresults = there\n')
    assert core.path_of('results') == tmp_path / 'there'
    monkeypatch.setenv('AGENTKIT_PATHS_RESULTS', 'elsewhere')
    assert core.path_of('results') == tmp_path / 'elsewhere'


def test_seeds_do_not_depend_on_the_process():
    code = "from agentkit.core import rng, digest; print(rng('a', 1).random(), digest({'b': 1, 'a': 2}))"
    outs = {
        subprocess.run(
            [sys.executable, '-c', code],
            env={**os.environ, 'PYTHONHASHSEED': s},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for s in '123'
    }
    assert len(outs) == 1
