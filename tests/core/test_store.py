"Journals that people and editors have touched, and those that several runs add to."

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fcntl
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal, check_own, digest, journalled, read_json, read_lines, read_object, write_json

values = st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=5), st.integers(), st.none()), max_size=3)


@given(st.lists(values, min_size=1, max_size=4), st.integers(0, 40))
def test_only_what_is_not_json_is_torn(tmp_path_factory, rows, cut):
    "However much of the last line is left: it is a row when it is whole, and nothing else is lost."
    journal = Journal(tmp_path_factory.mktemp('journal') / 'j.jsonl')
    for row in rows:
        journal.append(row)
    content = journal.path.read_bytes()
    last = len(content) - content[:-1].rfind(b'\n') - 1
    cut = min(cut, last)
    journal.path.write_bytes(content[: len(content) - cut])
    left = rows if cut <= 1 else rows[:-1]
    assert journal.rows() == left
    journal.append({'n': 1})
    assert journal.rows() == [*left, {'n': 1}] and journal.path.read_bytes().endswith(b'\n')


# --- two runs at once ---

QUIET = dict(bar=dict(disable=True))


def counted(journal, items, do=lambda n: n):
    "Squares of the items, kept in the journal."
    known = lambda: {r['n']: r['n'] for r in journal.rows()}
    return journalled(items, do, lambda n: n, known, journal, lambda n: dict(n=n), **QUIET)


def test_of_two_runs_on_a_journal_the_second_finds_the_work_done(tmp_path):
    journal, done, both = Journal(tmp_path / 'j.jsonl'), [], threading.Barrier(2)

    def run(_):
        both.wait(30)
        return counted(journal, range(20), lambda n: done.append(n) or n)

    with ThreadPoolExecutor(2) as threads:
        assert [*threads.map(run, range(2))] == [[*range(20)]] * 2
    assert sorted(done) == [*range(20)] and sorted(r['n'] for r in journal.rows()) == [*range(20)]


def test_runs_with_other_items_wait_and_add_theirs(tmp_path):
    journal = Journal(tmp_path / 'j.jsonl')
    with ThreadPoolExecutor(4) as threads:
        parts = [*threads.map(lambda k: counted(journal, range(k, k + 6)), range(0, 16, 4))]
    assert parts == [[*range(k, k + 6)] for k in range(0, 16, 4)]
    assert sorted(r['n'] for r in journal.rows()) == [*range(18)]


HOLD = """
import sys, time
from agentkit.core.store import Journal, journalled
do = lambda n: print('begun', flush=True) or time.sleep(600)
journalled([1], do, lambda n: n, journal=Journal(sys.argv[1]), bar=dict(disable=True))
"""


def test_a_killed_run_keeps_nobody_waiting(tmp_path, capfd):
    "The second one says that it waits, and goes on when the first is dead."
    journal = Journal(tmp_path / 'j.jsonl')
    child = subprocess.Popen([sys.executable, '-c', HOLD, journal.path], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == 'begun\n'
    with ThreadPoolExecutor(1) as threads:
        options = dict(key=lambda n: n, journal=journal, row=lambda n: dict(n=n), bar=dict(desc='squares'))
        second = threads.submit(journalled, [1], lambda n: n, **options)
        said = ''
        while 'another run adds to it, this one waits' not in said:
            said += capfd.readouterr().err
        assert not second.done() and not len(journal)
        os.kill(child.pid, signal.SIGKILL)
        assert second.result(60) == [1] and journal.rows() == [dict(n=1)]
    child.wait()


def test_what_is_known_needs_no_lock_and_no_place_to_write(tmp_path):
    journal = Journal(tmp_path / 'j.jsonl')
    counted(journal, [1, 2])
    lock = journal.path.with_name('.j.jsonl.lock')
    lock.unlink()
    assert counted(journal, [2, 1]) == [2, 1] and not lock.exists()


# --- what editors and people leave behind ---

ROW = dict(messages=[dict(role='user', content='Where? Über'), dict(role='assistant', content='Hier ✓', loss=True)])


def readers():
    "Name → a line of the file, how it is read, and what of a row is compared."
    from agentkit.core.types import Observation, Task, Trajectory
    from agentkit.data.pairs import load_pairs
    from agentkit.data.records import make_record, read_ratings, read_records
    from agentkit.data.rows import read_rows
    from agentkit.envs.questions.data import read_questions
    from agentkit.envs.tasks import read_tasks
    from agentkit.judges.base import Verdict
    from agentkit.judges.run import read_verdicts
    from agentkit.rollouts import read_trajectories

    def played(i):
        return Trajectory(Task(f't{i}', 'corridor'), 'expert', Observation('Ü'), termination='won', score=1.0, seed=i)

    told = dict(input='Où?', output='Là')
    chosen, rejected = ([dict(role='assistant', content=c)] for c in 'äo')
    return dict(
        journal=(lambda i: dict(n=i), lambda p: Journal(p).rows()),
        rows=(lambda i: {**ROW, 'provenance': dict(task=i)}, read_rows),
        records=(lambda i: make_record(told, 'log', task=i).to_dict(), read_records),
        ratings=(lambda i: dict(record=f'r{i}', rater='Zoë', rating=3), read_ratings),
        tasks=(lambda i: dict(id=f't{i}', question='ñ'), lambda p: read_tasks(p, 'corridor')),
        questions=(lambda i: dict(question=f'{i} é?', answer='é'), lambda p: read_questions(str(p))),
        episodes=(lambda i: played(i).to_dict(), read_trajectories),
        verdicts=(lambda i: Verdict(1.0, judge=f'ö{i}').to_dict(), read_verdicts),
        pairs=(lambda i: dict(prompt=ROW['messages'][:1], chosen=chosen, rejected=rejected), load_pairs),
    )


FORMS = {
    'newline': lambda lines: '\n'.join([*lines, '']).encode(),
    'no newline': lambda lines: '\n'.join(lines).encode(),
    'windows': lambda lines: '\r\n'.join([*lines, '']).encode(),
    'windows, no newline': lambda lines: '\r\n'.join(lines).encode(),
    'byte-order mark': lambda lines: '\n'.join(lines).encode('utf-8-sig'),
    'mark and windows': lambda lines: '\r\n'.join(lines).encode('utf-8-sig'),
    'empty lines': lambda lines: ('\n \n' + '\n\n\t\n'.join(lines) + '\n\n  ').encode(),
}


@pytest.mark.parametrize('kind', readers())
def test_a_file_is_read_however_an_editor_has_left_it(kind, tmp_path):
    row, read = readers()[kind]
    lines, path = [json.dumps(row(i), ensure_ascii=False) for i in range(3)], tmp_path / f'{kind}.jsonl'
    path.write_bytes(FORMS['newline'](lines))
    expected = list(map(repr, read(path)))
    assert len(expected) == 3
    for name, form in FORMS.items():
        path.write_bytes(form(lines))
        assert len(read(path)) == 3, name
        Journal(path).append(row(3))
        assert len(read(path)) == 4, f'{name}: a row more'
        assert b'Infinity' not in path.read_bytes() and path.read_bytes().endswith(b'\n')
        assert all(line.encode() in path.read_bytes() for line in lines), f'{name}: what was there stays'


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
@pytest.mark.parametrize('kind', readers())
def test_another_encoding_is_refused_by_name_and_nothing_is_added_to_it(kind, encoding, tmp_path):
    row, read = readers()[kind]
    path = tmp_path / f'{kind}.jsonl'
    content = '\n'.join(json.dumps(row(i), ensure_ascii=False) for i in range(2)).encode(encoding)
    path.write_bytes(content)
    for touch in (read, lambda p: Journal(p).append(row(2))):
        with pytest.raises(AgentkitError, match='is not UTF-8 but UTF-16, or no text: save it as UTF-8'):
            touch(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize('kind', ['rows', 'ratings', 'tasks', 'questions'])
def test_a_slip_of_the_pen_in_the_last_line_is_named_where_people_write(kind, tmp_path):
    row, read = readers()[kind]
    (tmp_path / 'f.jsonl').write_text(json.dumps(row(0)) + '\n' + json.dumps(row(1)).replace(':', ' ', 1))
    with pytest.raises(AgentkitError, match='f.jsonl line 2'):
        read(tmp_path / 'f.jsonl')


def test_latin_text_is_named_with_its_line(tmp_path):
    (tmp_path / 'f.jsonl').write_bytes('{"record": "a", "rater": "Zoë", "rating": 1}\n'.encode('latin-1'))
    with pytest.raises(AgentkitError, match=r'f.jsonl is not UTF-8, line 1 .*: save it as UTF-8'):
        read_lines(tmp_path / 'f.jsonl')


@given(st.lists(values, min_size=1, max_size=3), st.sampled_from(['\n', '\r\n', '\n\n', '\n \n']), st.data())
def test_nothing_that_was_written_is_ever_lost(tmp_path_factory, rows, newline, data):
    "Whole, torn within a character, or with a slip of the pen: every byte is in the file, or in the one beside it."
    journal = Journal(tmp_path_factory.mktemp('journal') / 'j.jsonl')
    content = newline.join(json.dumps(r, ensure_ascii=False) for r in [*rows, {'ü': '✓' * 3}]).encode()
    content = content[: data.draw(st.integers(1, len(content)))]
    journal.path.write_bytes(content)
    before = journal.rows()
    journal.append({'n': 1})
    assert journal.rows() == [*before, {'n': 1}]
    torn = journal.path.with_name('j.jsonl.torn')
    kept = journal.path.read_bytes() + (torn.read_bytes() if torn.exists() else b'')
    assert all(line in kept for line in content.split(b'\n'))


def test_a_row_goes_into_the_file_that_an_editor_has_put_in_its_place(tmp_path):
    "Editors write a new file and rename it: a writer that waited for the old one's lock opens the new one."
    path = tmp_path / 'ratings.jsonl'
    path.write_text('{"n": 0}\n')
    with open(path, 'a') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code = (
            'import sys; from agentkit.core.store import Journal; print(1, flush=True); Journal(sys.argv[1]).append({})'
        )
        waiting = subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE)
        waiting.stdout.readline()
        while not opened(path, waiting.pid):
            assert waiting.poll() is None
            time.sleep(0.01)
        (tmp_path / 'edited').write_text('{"n": "by hand"}')
        os.replace(tmp_path / 'edited', path)
    waiting.communicate()
    assert waiting.returncode == 0 and Journal(path).rows() == [{'n': 'by hand'}, {}]


def opened(path, pid):
    "Does this process have the file open?"
    links = list(Path(f'/proc/{pid}/fd').iterdir())
    return str(path) in [os.readlink(link) for link in links if link.is_symlink()]


def test_two_writers_and_a_person_lose_nothing(tmp_path):
    path = tmp_path / 'j.jsonl'
    path.write_text('{"who": "a person"}')  # without a newline
    code = """
import sys
from agentkit.core.store import Journal
for i in range(40):
    Journal(sys.argv[1]).append(dict(who=sys.argv[2], i=i, text='ü' * 200))
"""
    writers = [subprocess.Popen([sys.executable, '-c', code, str(path), who]) for who in 'ab']
    assert [w.wait() for w in writers] == [0, 0]
    rows = Journal(path).rows()
    assert rows[0] == {'who': 'a person'} and len(rows) == 81
    assert all([r['i'] for r in rows if r['who'] == who] == list(range(40)) for who in 'ab')


# --- what the operating system refuses ---


def test_a_device_or_a_folder_in_the_way_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'folder').mkdir()
    os.symlink('/dev/full', tmp_path / 'device')
    for name in ('pipe', 'folder', 'device'):
        for write in (lambda p: write_json(p, {}), lambda p: Journal(p).append({})):
            with pytest.raises(AgentkitError, match=f'{name} is not a file: name another place'):
                write(tmp_path / name)
    assert (tmp_path / 'pipe').is_fifo() and (tmp_path / 'device').is_char_device()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / 'real').mkdir()
    os.symlink('real/a.json', tmp_path / 'link.json')
    write_json(tmp_path / 'link.json', 1)
    assert (tmp_path / 'link.json').is_symlink() and read_json(tmp_path / 'real/a.json') == 1
    os.symlink('nowhere/at/all', tmp_path / 'broken.json')
    with pytest.raises(FileNotFoundError) as e:
        write_json(tmp_path / 'broken.json', 1)
    assert e.value.filename == str(tmp_path / 'broken.json')


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path):
    "A limit of the size of files fails in the middle of writing, as a full disk does."
    code = """
import resource, signal, sys
from agentkit.core.store import Journal, write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
folder = sys.argv[1]
journal, text = Journal(folder + '/j.jsonl'), 'x' * 50_000
for write in (lambda: write_text(folder + '/a.txt', text), lambda: journal.append(dict(x=text))):
    try:
        write()
    except OSError as e:
        print(e.filename, e.strerror)
"""
    (tmp_path / 'a.txt').write_text('old')
    Journal(tmp_path / 'j.jsonl').append({'n': 1})
    run = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True)
    assert run.stdout.splitlines() == [f'{tmp_path}/a.txt File too large', f'{tmp_path}/j.jsonl File too large'], (
        run.stderr
    )
    assert (tmp_path / 'a.txt').read_text() == 'old' and Journal(tmp_path / 'j.jsonl').rows() == [{'n': 1}]
    assert {p.name for p in tmp_path.iterdir()} == {'a.txt', 'j.jsonl'}, 'nothing torn, nothing beside them'
    Journal(tmp_path / 'j.jsonl').append({'n': 2})
    assert Journal(tmp_path / 'j.jsonl').rows() == [{'n': 1}, {'n': 2}]


def test_only_what_we_wrote_is_written_over(tmp_path):
    path, beside = tmp_path / 'rows.jsonl', tmp_path / 'rows.jsonl.json'
    check_own(path, beside)
    path.write_text('by hand\n')
    for facts in (None, '[]', '{}', json.dumps(dict(digest=digest('something else')))):
        if facts:
            beside.write_text(facts)
        with pytest.raises(AgentkitError, match='rows.jsonl exists, and holds something else'):
            check_own(path, beside)
    write_json(beside, dict(digest=digest('by hand\n')))
    check_own(path, beside)
    path.unlink()
    check_own(path, beside)
    for notes in ('{"mine": 1}', '[1]', '"words"'):
        beside.write_text(notes)
        with pytest.raises(AgentkitError, match='rows.jsonl.json exists, and holds something else'):
            check_own(path, beside)


@pytest.mark.parametrize('content', ['[]', '5', 'null', '"x"', '{', '', '[' * 100_000, b'\xff\xfe'])
def test_what_is_no_object_is_named(content, tmp_path):
    (tmp_path / 'o.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AgentkitError, match=r'o\.json (holds|is not JSON)'):
        read_object(tmp_path / 'o.json')
    with pytest.raises(AgentkitError, match='cannot be read: Is a directory'):
        read_object(tmp_path)
