"Journals that people and editors have touched, and those that several runs add to."

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, strategies as st

from agentkit.core.store import Journal, journalled

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
