"Workers that hang, die, raise or lose their parent, and the pool that lends them."

import os, signal, subprocess, sys, textwrap, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil, pytest

from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Hint, Observation, Task
from agentkit.envs.base import Environment
from agentkit.envs import pool as pools
from agentkit.envs.find import list_tasks, make_env
from agentkit.envs.pool import EnvPool, Worker, WorkerError
from agentkit.testing.corridor import Corridor


REPLIES = 4  # the worker's own end of the pipe: what libraries print is elsewhere


class Trouble(Environment):
    "An environment that does what its action says; lives in the worker."

    def __init__(self, mood='good'):
        if mood == 'broken':
            raise AgentkitError('no such mood: broken')
        if mood == 'absent':
            time.sleep(60)

    def reset(self, task, seed=0):
        return Observation(f'{task.id} {seed}', Choice(('hang', 'die')))

    def step(self, action):
        if action == 'hang':
            time.sleep(60)
        if action.startswith('touch '):
            Path(action[6:]).touch() or time.sleep(60)
        if action == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if action == 'exit':
            print('the roof fell in', file=sys.stderr, flush=True) or os._exit(7)
        if action == 'raise':
            raise ValueError('no')
        if action == 'refuse':
            raise AgentkitError('the task has no cup: choose another')
        if action == 'print':
            print('{"value": "a lie"}', flush=True) or os.system('echo noise')
        if action == 'flood':
            sys.stderr.write('x' * 1_000_000)
        if action == 'read':
            return Observation(repr(sys.stdin.read()))
        if action == 'child':
            return Observation(str(subprocess.Popen(['sleep', '60']).pid))
        if action == 'away':  # a daemon: another session, and its parent ends at once
            code = 'import os, time; os.fork() and os._exit(0); os.setsid(); '
            code += 'print(os.getpid(), flush=True); time.sleep(60)'
            said = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True).stdout
            return Observation(said.readline())
        if action == 'fork':
            return Observation(str(os.fork() or time.sleep(60)))
        if action == 'big':
            return Observation('y' * 3_000_000)
        if action.startswith('say '):
            os.write(REPLIES, action[4:].encode() + b'\n')
        if action == 'hang up':
            os.close(REPLIES) or time.sleep(60)
        if len(action) > 1000:
            return Observation(f'{len(action)} {action[-3:]}')
        return Observation(str(os.getpid()), reward=0.5)

    def refuse(self, action, why):
        return Observation(f'{action}: {why}', Choice(('hang', 'die')))


HERE = f'{__name__}:Trouble'
TASK = Task('t', 'trouble')


def gone(pid, seconds=10):
    "Does the process end within the given time?"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def pool():
    with EnvPool(HERE, n=1, timeout=20) as pool:
        yield pool
    assert not [p for p in psutil.Process().children(recursive=True) if 'envs.worker' in ' '.join(p.cmdline())]


def pid_of(pool):
    with pool.session() as env:
        return int(env.step('who').text)


def test_an_observation_survives_the_pipe(pool):
    with pool.session() as env:
        assert env.reset(TASK, 3) == Observation('t 3', Choice(('hang', 'die')))
        assert env.step('who').reward == 0.5
        assert len(env.step('big').text) == 3_000_000
        assert env.refuse('eat', 'no').text == 'eat: no'
        assert env.expert() is None and env.progress() is None


def test_hints_and_progress_survive_the_pipe():
    with EnvPool('corridor', n=1) as pool, pool.session() as env:
        env.reset(list_tasks('corridor', n=2)[1])
        assert env.expert() == Hint('forward', 'door 1') and env.progress() == 0
        assert env.step('forward').actions == Choice(('back', 'forward')) and env.progress() == 0.5
        assert env.refuse('fly', 'no') is None, "the loop's own words"


def test_a_hung_worker_is_killed_at_the_time_out_and_replaced(pool):
    pid = pid_of(pool)
    pool.timeout = 1
    with pool.session() as env:
        with pytest.raises(WorkerError, match='no answer to step within 1 s'):
            env.step('hang')
        with pytest.raises(WorkerError, match='closed'):
            env.step('who')
    assert gone(pid)
    pool.timeout = 20
    assert pid_of(pool) != pid


@pytest.mark.parametrize('size', [100_000, 1_000_000])
def test_the_time_of_a_call_holds_while_its_request_is_written(pool, size):
    "A stopped worker reads nothing, and a pipe holds 64 KiB."
    pid = pid_of(pool)
    pool.timeout = 1
    with pool.session() as env:
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match='no answer to step within 1 s'):
            env.step('x' * size)
    assert gone(pid)
    pool.timeout = 20
    assert pid_of(pool) != pid


@pytest.mark.parametrize('size', [65_536, 3_000_000])
def test_a_long_request_arrives_whole(pool, size):
    with pool.session() as env:
        assert env.step('x' * size + 'end').text == f'{size + 3} end'
        assert env.step('who').text.isdigit()


@pytest.mark.parametrize(
    'action, message',
    [
        ('say garbage', 'step is not JSON'),
        # alone, or together with the right answer, as it happens
        ('say 7', 'what came is no answer to step|step is not JSON'),
        ('say {"id": 99, "value": "a lie"}', 'what came is no answer to step|step is not JSON'),
        ('say {"value": "a lie"}', 'what came is no answer to step|step is not JSON'),
        ('say {"id": 1}\n{"id": 1}', 'what came is no answer to step|step is not JSON'),
        ('hang up', 'the worker hung up during step'),
    ],
)
def test_what_is_no_answer_ends_the_worker(pool, action, message):
    pid = pid_of(pool)
    with pool.session() as env:
        with pytest.raises(WorkerError, match=message):
            env.step(action)
            env.step('who')
        with pytest.raises(WorkerError, match='closed'):
            env.step('who')
    assert gone(pid) and pid_of(pool) != pid


def test_an_answer_without_end_is_left(pool, monkeypatch):
    monkeypatch.setattr(pools, 'LONGEST', 1_000_000)
    with pool.session() as env:
        with pytest.raises(WorkerError, match='the answer to step has more than 1,000,000 bytes, worker killed'):
            env.step('big')
    assert pid_of(pool)


def test_workers_that_died_leave_no_zombies(pool):
    pids = []
    for _ in range(3):
        pids.append(pid_of(pool))
        with pytest.raises(WorkerError), pool.session() as env:
            env.step('die')
    assert pid_of(pool) and not [p for p in psutil.Process().children() if p.pid in pids]


@pytest.mark.parametrize(
    'action, message',
    [('die', 'killed by SIGKILL during step'), ('exit', 'exit code 7 during step; its last words: the roof fell in')],
)
def test_a_dead_worker_says_how_and_is_replaced(pool, action, message):
    pid = pid_of(pool)
    with pytest.raises(WorkerError, match=message):
        with pool.session() as env:
            env.step(action)
    assert pid_of(pool) != pid


def test_a_worker_killed_between_sessions_is_replaced(pool):
    pid = pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended with all its threads, and not yet taken note of
    assert pid_of(pool) != pid


def test_death_is_seen_although_a_fork_holds_the_pipe(pool):
    with pool.session() as env:
        fork = int(env.step('fork').text)
        with pytest.raises(WorkerError, match='SIGKILL'):
            env.step('die')
    assert gone(fork)


def test_errors_come_back_and_the_worker_lives_on(pool):
    pid = pid_of(pool)
    with pool.session() as env:
        with pytest.raises(WorkerError, match='step raised ValueError: no'):
            env.step('raise')
        with pytest.raises(AgentkitError, match='^the task has no cup: choose another$') as e:
            env.step('refuse')
        assert type(e.value) is AgentkitError
    assert pid_of(pool) == pid


def test_what_libraries_print_or_read_does_not_matter(pool):
    with pool.session() as env:
        for action in ('print', 'flood', 'print'):
            assert env.step(action).text.isdigit()
        assert env.step('read').text == "''"


def test_close_leaves_no_grandchild():
    with EnvPool(HERE, n=1) as pool:
        with pool.session() as env:
            child = int(env.step('child').text)
        assert psutil.pid_exists(child)
    assert gone(child)


@pytest.mark.parametrize('end', ['close', 'die', 'hang', 'exit'])
def test_nothing_is_left_that_has_left_the_session(end):
    "A daemon that an environment has started goes with its worker, and one of another worker stays."
    with EnvPool(HERE, n=1) as others, others.session() as other:
        stays = int(other.step('away').text)
        with EnvPool(HERE, n=1, timeout=20) as pool, pool.session() as env:
            goes = int(env.step('away').text)
            assert psutil.pid_exists(goes) and os.getsid(goes) != os.getsid(0)
            if end != 'close':
                pool.timeout = env._timeout = 1
                with pytest.raises(WorkerError):
                    env.step(end)
                assert gone(goes)
        assert gone(goes) and not gone(stays, 0.5)
    assert gone(stays)


LEFT = """
import os, sys, time
from agentkit.envs.pool import EnvPool
with EnvPool({here!r}, n=1) as pool, pool.session() as env:
    print(env.step('away').text.strip(), env.step('child').text, env.step('who').text, flush=True)
    time.sleep(60)
"""


def test_a_killed_parent_leaves_no_process_of_any_session():
    code = LEFT.format(here=HERE)
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    parent = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': path}
    )
    started = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(started) == 3 and all(gone(pid, 60) for pid in started)


def test_close_ends_a_running_call(tmp_path):
    pool, caught, inside = EnvPool(HERE, n=1, timeout=60), [], tmp_path / 'inside'

    def hang():
        with pool.session() as env:
            env.reset(TASK)
            try:
                env.step(f'touch {inside}')
            except WorkerError as e:
                caught.append(str(e))

    thread = threading.Thread(target=hang)
    thread.start()
    while thread.is_alive() and not inside.exists():
        time.sleep(0.02)
    pool.close()
    thread.join(10)
    assert caught and 'during step' in caught[0]
    with pytest.raises(AgentkitError, match='closed'):
        with pool.session():
            pass


def test_a_factory_that_fails_or_hangs():
    with pytest.raises(AgentkitError, match='^no such mood: broken$'):
        Worker(HERE, {'mood': 'broken'})
    with pytest.raises(WorkerError, match='no answer to start within 2 s'):
        Worker(HERE, {'mood': 'absent'}, start_timeout=2)
    with pytest.raises(WorkerError, match='start raised ModuleNotFoundError'):
        Worker('no_such_module:X')
    with EnvPool(HERE, n=1, mood='broken') as pool:
        for _ in range(2):
            with pytest.raises(AgentkitError, match='broken'):
                with pool.session():
                    pass
    assert not psutil.Process().children()


def test_many_threads_share_few_workers():
    def play(task):
        with pool.session() as env:
            env.reset(task)
            won = [env.step('forward').score for _ in range(task.data['doors'])]
        return won == [0] * (len(won) - 1) + [1]

    with EnvPool('corridor', n=2) as pool, ThreadPoolExecutor(16) as threads:
        assert all(threads.map(play, list_tasks('corridor', 'train', n=40)))
        assert len(psutil.Process().children()) == 2
    assert not psutil.Process().children()


def test_an_interrupted_call_does_not_answer_the_next(pool):
    with pool.session() as env:
        env.reset(TASK)
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            env.step('hang')
        with pytest.raises(WorkerError, match='closed'):
            env.step('who')
    assert pid_of(pool)


PARENT = """
    import sys, threading, time
    from agentkit.envs.pool import Worker
    worker = Worker('importlib:import_module', {'name': 'time'})
    print(worker.pid, flush=True)
    if sys.argv[1:] == ['busy']: worker.call('sleep', 60)
    if sys.argv[1:] != ['leave']: time.sleep(60)
"""


@pytest.mark.parametrize('how', ['idle', 'busy'])
def test_a_worker_ends_when_its_parent_is_killed(how):
    parent = subprocess.Popen([sys.executable, '-', how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    parent.stdin.write(textwrap.dedent(PARENT))
    parent.stdin.close()
    pid = int(parent.stdout.readline())
    if how == 'busy':
        time.sleep(0.5)
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid, 15)


def test_a_script_that_forgets_to_close_leaves_nothing():
    done = subprocess.run(
        [sys.executable, '-', 'leave'], input=textwrap.dedent(PARENT), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert gone(int(done.stdout))


def test_names():
    with pytest.raises(AgentkitError, match="unknown environment 'mars'. Known: alfworld"):
        EnvPool('mars')
    with pytest.raises(AgentkitError, match='nowhere'):
        make_env('nowhere:X')
    with pytest.raises(AgentkitError, match='json:dumps is not an environment'):
        EnvPool('json:dumps')
    with pytest.raises(AgentkitError, match='workers is 0: write a whole number from 1'):
        EnvPool('corridor', n=0)
    assert isinstance(make_env('corridor'), Corridor)
