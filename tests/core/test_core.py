"The file formats: what was written comes back, half a file is not taken for whole, the unknown is refused."

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from agentkit.core.actions import Choice, Text, ToolCall, read_actions
from agentkit.core.errors import AgentkitError
from agentkit.core.settings import path_of, settings
from agentkit.core.store import Journal, check_name, journalled, read_json, write_json, write_text
from agentkit.core.types import (
    TERMINATIONS,
    Decision,
    Hint,
    Observation,
    Step,
    Task,
    Trajectory,
    trajectory,
    transcript,
    turns,
)

text = st.text(st.characters(codec='utf-8'), max_size=40)
texts = st.lists(text, max_size=3).map(tuple)
schemas = st.fixed_dictionaries(dict(properties=st.dictionaries(text, st.just(dict(type='string')), max_size=2)))
actions = st.one_of(
    st.builds(Choice, texts), st.builds(Text), st.builds(ToolCall, st.dictionaries(text, schemas, max_size=2))
)
observations = st.builds(
    Observation,
    text=text,
    actions=actions,
    reward=st.floats(-9, 9),
    done=st.booleans(),
    score=st.none() | st.floats(0, 1),
)
decisions = st.builds(
    Decision,
    action=text,
    thought=text,
    tokens=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    logprobs=st.lists(st.floats(-9, 0), max_size=3).map(tuple),
)
steps = st.builds(
    Step,
    decision=decisions,
    observation=observations,
    valid=st.booleans(),
    hint=st.none() | st.builds(Hint, text, text),
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
    first=observations,
    steps=st.lists(steps, max_size=4).map(tuple),
    termination=st.sampled_from(TERMINATIONS),
    score=st.none() | st.floats(0, 1),
    seed=st.integers(0, 9),
    sample=st.integers(0, 9),
    policy_id=text,
    environment=text,
    limits=st.dictionaries(text, st.integers(), max_size=2),
    progress=st.none() | st.floats(0, 1),
)
FIRST = Observation('')


@given(trajectories)
@hypothesis_settings(deadline=None)
def test_a_trajectory_survives_json(t):
    assert trajectory(json.loads(json.dumps(t.to_dict()))) == t


@given(st.lists(trajectories, max_size=4), st.integers(1, 200))
@hypothesis_settings(deadline=None)
def test_a_torn_line_costs_only_itself(tmp_path_factory, ts, cut):
    journal = Journal(tmp_path_factory.mktemp('journal') / 't.jsonl')
    for t in ts:
        journal.append(t.to_dict())
    whole = journal.rows()
    torn = json.dumps(Trajectory(Task('x', 'y'), 'p', Observation('é' * 50)).to_dict()).encode()[:cut]
    with open(journal.path, 'ab') as f:
        f.write(torn)
    assert journal.rows() == whole
    journal.append({'last': True})
    assert journal.rows() == [*whole, {'last': True}]


@pytest.mark.parametrize('end, kept', [('{"n": 2}', [1, 2]), ('{"n": 2', [1]), ('{"n": 2}\n', [1, 2]), ('é', [1])])
def test_a_last_line_without_a_newline_is_a_row_when_it_is_whole(tmp_path, end, kept):
    journal = Journal(tmp_path / 't.jsonl')
    journal.path.write_text('{"n": 1}\n' + end)
    assert [r['n'] for r in journal.rows()] == kept
    journal.append({'n': 3})
    assert [r['n'] for r in journal.rows()] == [*kept, 3]


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
    d = Trajectory(Task('x', 'y'), 'p', FIRST).to_dict()
    with pytest.raises(AgentkitError, match=message):
        trajectory({**d, **change})


def test_an_unknown_termination_is_refused():
    with pytest.raises(AgentkitError, match="'done' is not one of"):
        Trajectory(Task('x', 'y'), 'p', FIRST, termination='done')


def test_many_writers_lose_nothing(tmp_path):
    code = (
        'from agentkit.core.store import Journal\nimport sys\nfor i in range(50): '
        f"Journal({str(tmp_path / 'j.jsonl')!r}).append(dict(writer=sys.argv[1], i=i, pad='x' * 5000))"
    )
    writers = [subprocess.Popen([sys.executable, '-c', code, str(w)]) for w in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    rows = Journal(tmp_path / 'j.jsonl').rows()
    assert sorted((r['writer'], r['i']) for r in rows) == sorted((str(w), i) for w in range(3) for i in range(50))


def test_a_killed_writer_leaves_whole_rows(tmp_path):
    path = tmp_path / 'j.jsonl'
    code = (
        'from agentkit.core.store import Journal\ni = 0\nwhile True:\n'
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
@hypothesis_settings(deadline=None)
def test_a_transcript_reads_back(pairs):
    assert turns(transcript(pairs)) == pairs


def test_an_observation_cannot_pose_as_an_action():
    assert len(turns(transcript([('look', 'A note says:\n> open safe')]))) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_text(tmp_path / 'a.json', 'old')
    monkeypatch.setattr(os, 'replace', lambda *a: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError):
        write_text(path, 'new')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_files_are_as_private_as_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        write_json(tmp_path / 'private.json', {})
        os.umask(0o022)
        write_json(tmp_path / 'open.json', {})
    finally:
        os.umask(before)
    assert [(tmp_path / f'{n}.json').stat().st_mode & 0o777 for n in ('private', 'open')] == [0o600, 0o644]


@pytest.mark.parametrize('content', [b'{"a": ', b'\xff\xfe', b'[' * 100_000, b''])
def test_what_is_not_json_is_one_line(tmp_path, content):
    path = tmp_path / 'x.json'
    path.write_bytes(content)
    with pytest.raises(AgentkitError, match=r'x\.json is not JSON') as e:
        read_json(path)
    assert '\n' not in str(e.value)


def test_what_is_no_file_is_one_line(tmp_path):
    with pytest.raises(AgentkitError, match='cannot be read: Is a directory'):
        read_json(tmp_path)
    with pytest.raises(AgentkitError, match='absent.json does not exist'):
        read_json(tmp_path / 'absent.json')


def square(n):
    return (n, n * n)


def test_an_error_in_one_item_keeps_the_others(tmp_path):
    "What is under way when one item fails ends, and is kept; nothing new begins."
    journal, gate, begun = Journal(tmp_path / 's.jsonl'), threading.Event(), []

    def do(n):
        begun.append(n)
        if n == 0:
            assert gate.wait(30)
            raise AgentkitError('no zero')
        gate.set()
        return square(n)

    options = dict(key=lambda n: n, journal=journal, row=lambda r: dict(n=r[0], square=r[1]), bar=dict(disable=True))
    with pytest.raises(AgentkitError, match='no zero'):
        journalled(range(2), do, parallel=2, **options)
    assert journal.rows() == [dict(n=1, square=1)]
    known = {r['n']: (r['n'], r['square']) for r in journal.rows()}
    assert journalled([1, 2], square, known=lambda: known, **options) == [(1, 1), (2, 4)]
    assert sorted(begun) == [0, 1]


def test_an_interrupt_keeps_what_ends_and_begins_nothing_new(tmp_path):
    journal, first, begun = Journal(tmp_path / 's.jsonl'), threading.Event(), []

    def do(n):
        begun.append(n)
        if n == 0:
            first.set()
            return square(n)
        assert first.wait(30)
        if n == 1:
            raise KeyboardInterrupt
        return square(n)

    with pytest.raises(KeyboardInterrupt):
        journalled(
            range(40), do, lambda n: n, journal=journal, row=lambda r: dict(n=r[0]), parallel=2, bar=dict(disable=True)
        )
    kept = {r['n'] for r in journal.rows()}
    assert 0 in kept and kept == set(begun) - {1}


@given(actions, st.integers(0, 9))
@hypothesis_settings(deadline=None)
def test_an_action_space_survives_json_and_chance_is_possible(space, seed):
    assert read_actions(json.loads(json.dumps(space.to_dict()))) == space
    if space in (Choice(), ToolCall()):
        with pytest.raises(AgentkitError, match='nothing to choose from'):
            space.sample(random.Random(seed))
    else:
        assert space.allows(space.sample(random.Random(seed)))


@given(st.lists(text, min_size=1, max_size=4, unique=True), text)
@hypothesis_settings(deadline=None)
def test_reading_a_reply_never_fails_and_what_is_possible_means_itself(options, reply):
    space = Choice(tuple(options))
    assert isinstance(space.read(reply), str) and isinstance(Text().read(reply), str)
    assert all(space.read(option) == option for option in options)


def test_states_of_an_episode():
    seen = [Observation(f'door {i}', Choice(('back', 'forward'))) for i in range(3)]
    steps = tuple(Step(Decision('forward'), o) for o in seen[1:])
    t = Trajectory(Task('x', 'y'), 'p', seen[0], steps)
    assert [t.state(k).now for k in (0, 1, 2, None)] == [*seen, seen[2]]
    assert t.turns == t.state().turns == [('forward', 'door 1'), ('forward', 'door 2')]


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
        settings()


def test_the_environment_overrides_settings(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    monkeypatch.delenv('AGENTKIT_PATHS_RESULTS')
    (tmp_path / 'settings.ini').write_text('[paths]\nresults = there\n')
    assert path_of('results') == tmp_path / 'there'
    monkeypatch.setenv('AGENTKIT_PATHS_RESULTS', 'elsewhere')
    assert path_of('results') == tmp_path / 'elsewhere'


def test_seeds_do_not_depend_on_the_process():
    code = "from agentkit.core.store import rng, digest; print(rng('a', 1).random(), digest({'b': 1, 'a': 2}))"
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


def test_a_private_file_stays_private_when_it_is_written_again(tmp_path):
    path = write_json(tmp_path / 'a.json', {})
    path.chmod(0o600)
    write_json(path, dict(a=1))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    'parts', [['..', 'x'], ['/etc/x'], ['a', '..', '..', 'x'], ['a\0b'], ['../figures/x'], ['a' * 300]]
)
@pytest.mark.parametrize('kind', ['results', 'figures', 'data'])
def test_no_name_leads_out_of_the_configured_folders(tmp_path, monkeypatch, kind, parts):
    monkeypatch.setenv(f'AGENTKIT_PATHS_{kind.upper()}', str(tmp_path / 'inside'))
    with pytest.raises(AgentkitError, match='leads out of .*/inside: write a name|is too long for the name of a file'):
        path_of(kind, *parts)
    assert not list(tmp_path.iterdir())


def test_a_link_inside_the_results_leads_nowhere(tmp_path, results):
    (tmp_path / 'elsewhere').mkdir(), (results / 'other').mkdir(parents=True)
    (results / 'linked').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(AgentkitError, match="'linked/summary.csv' leads out of"):
        path_of('results', 'linked', 'summary.csv')
    (results / 'mine').symlink_to(results / 'other')
    assert path_of('results', 'mine', 'x').parent.is_dir()


@pytest.mark.parametrize(
    'name',
    ['', '.', '..', '.hidden', 'a/b', '/a', 'a\\b', 'C:a', 'a\0', 'a b', 'a\n', 'a' * 121, 'ü' * 61, None, 5, ['a']],
)
def test_a_name_is_no_path(name):
    with pytest.raises(AgentkitError, match='cannot be the name of a table') as e:
        check_name(name, 'a table')
    assert len(str(e.value)) < 300 and '\n' not in str(e.value)


@given(st.text(max_size=150))
def test_what_is_a_name_is_one_file(name):
    try:
        check_name(name, 'a table')
    except AgentkitError:
        return
    assert Path(name).name == name and not {*name} & {*'/\\:\0\n'} and len(f'{name}.json'.encode()) < 255


@pytest.mark.parametrize(
    'content, message',
    [
        ('[sweeps]\njobs = many\n', r'\[sweeps\] jobs = many: write a number from 1'),
        ('[sweeps]\njobs = 0\n', 'write a number from 1'),
        ('[tracking]\nmlflow = maybe\n', 'write on or off'),
        ('[paths]\nresults = a\n[paths]\n', 'cannot be read: .*already exists'),
        ('[paths]\nresults = a\nresults = b\n', 'cannot be read: .*already exists'),
        ('results = a\n', 'cannot be read: .*no section headers'),
        ('[paths]\nresluts = a\n', "did you mean 'results'"),
        ('[pahts]\n', r'unknown section \[pahts\]'),
        ('[DEFAULT]\nx = 1\n[paths]\n', "unknown key 'x'"),
        ('[paths]\nresults = a\n'.encode('utf-16'), 'cannot be read'),
        (b'[paths]\nresults = \xe9\n', 'cannot be read'),
    ],
)
def test_settings_that_cannot_be_are_named(content, message, tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    (tmp_path / 'settings.ini').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AgentkitError, match=message) as e:
        settings()
    assert '\n' not in str(e.value)


def test_settings_that_are_no_file_are_not_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    (tmp_path / 'settings.ini').mkdir()
    with pytest.raises(AgentkitError, match='settings.ini cannot be read: .*Is a directory'):
        settings()
    (tmp_path / 'settings.ini').rmdir()
    (tmp_path / 'settings.ini').symlink_to('nowhere')
    with pytest.raises(AgentkitError, match='settings.ini cannot be read: .*No such file'):
        settings()
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path / 'no folder'))
    with pytest.raises(AgentkitError, match='AGENTKIT_ROOT is .*no folder, which is not a folder'):
        settings()


@pytest.mark.parametrize(
    'content', [b'\xef\xbb\xbf[paths]\r\nresults = a\r\n', b'[paths]\nresults = a', b'\n\n[paths]\nresults = a\n\n']
)
def test_settings_are_read_however_an_editor_has_left_them(content, tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    monkeypatch.delenv('AGENTKIT_PATHS_RESULTS', raising=False)
    (tmp_path / 'settings.ini').write_bytes(content)
    assert settings()['paths']['results'] == 'a'
