"Kills, cuts, fills, delays and lies against a whole small sweep: its tables equal those of an undisturbed one."

import random
import time
from collections import Counter

import pytest
from chaos import HANDS, ChaosServer, Sweep, cut_checkpoint, cut_tail, leaks, left_running, plan, tables


def undisturbed(folder, server):
    folder.mkdir()
    share, server.share = server.share, 0.0
    code = Sweep(plan(folder, server.address), folder).end()
    server.share = share
    assert code == 0, (folder / 'log.txt').read_text()[-3000:]
    return tables(folder)


def check(folder, expected):
    "Nothing lost, nothing wrong, nothing leaked."
    assert tables(folder) == expected
    assert leaks(folder) == []
    left = [p for p in (folder / 'tmp').rglob('*') if p.is_file()]
    assert not left, f'left in the temporary folder: {left}'


def finished(folder, server, attempts=6):
    "The sweep again and again, as a patient person would call it, until it says that it is done."
    for _ in range(attempts):
        if Sweep(plan(folder, server.address), folder).end() == 0:
            return
    raise AssertionError((folder / 'log.txt').read_text()[-3000:])


@pytest.mark.timeout(1200)
def test_a_disturbed_sweep_ends_with_the_same_tables(tmp_path):
    "One of each: a flaky server all the time, a kill of everything, of one process, an interrupt, a torn line."
    server, r = ChaosServer(share=0.15, seed=1), random.Random(1)
    expected, folder = undisturbed(tmp_path / 'calm', server), tmp_path / 'storm'
    folder.mkdir()
    before = server.requests
    for hand, after in (('kill_all', 12), ('interrupt', 30), ('kill_one', 45)):
        sweep = Sweep(plan(folder, server.address), folder)
        # the hand moves after so many requests, not after so many seconds: a slow machine sees the same
        while server.requests - before < after and sweep.process.poll() is None:
            time.sleep(0.02)
        getattr(sweep, hand)(r)
        assert sweep.end() != 0 or hand == 'kill_one'
        cut_tail(folder, r)
    finished(folder, server)
    check(folder, expected)
    assert sum(n for fault, n in server.faults.items() if fault != 'none') > 5
    assert left_running(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('seed', [0, 1])
def test_ten_minutes_of_chaos(tmp_path, seed):
    "At random: every hand, torn files, a full disk; then the sweep is called until it is done."
    server, r, done = ChaosServer(share=0.2, seed=seed), random.Random(seed), Counter()
    expected, folder = undisturbed(tmp_path / 'calm', server), tmp_path / 'storm'
    folder.mkdir()
    rounds, end = 0, time.monotonic() + 600
    while time.monotonic() < end:
        full = r.random() < 0.15
        sweep = Sweep(plan(folder, server.address), folder, file_limit=r.choice((20_000, 200_000)) if full else None)
        done['full disk'] += full
        while sweep.process.poll() is None:
            time.sleep(r.uniform(0.5, 12))
            hand = r.choice(HANDS)
            done[hand] += 1
            getattr(sweep, hand)(r)
        sweep.end()
        done['torn line'] += r.random() < 0.5 and cut_tail(folder, r)
        done['cut checkpoint'] += r.random() < 0.5 and cut_checkpoint(folder, r)
        rounds += 1
        if sweep.process.returncode == 0:  # it got through: the storm begins again in a new folder
            check(folder, expected)
            done['survived'] += 1
            folder = tmp_path / f'storm-{done["survived"]}'
            folder.mkdir()
    finished(folder, server)
    check(folder, expected)
    print(f'{rounds} rounds; {dict(done)}; answers: {dict(server.faults)}')
