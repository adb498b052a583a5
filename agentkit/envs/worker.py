"Hand-written, because it is plumbing: the child process behind `agentkit.envs.pool.Worker`."

import faulthandler, importlib, json, os, queue, select, signal, sys, threading, time

from agentkit.core.errors import AgentkitError

GRACE = 5  # seconds between the parent's end and ours
FAMILY = 'AGENTKIT_WORKER'  # the variable by which a worker and all that it starts are known, whatever their session


def end_family(token: str):
    "Kill what a worker has started and has left its process group; not what gave up its environment, too."
    import psutil

    for _ in range(100):  # who is being killed may still start another one
        alive = False
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(FAMILY) == token:
                    process.kill()
                    alive = True
            except (psutil.Error, OSError):  # it has ended, or belongs to somebody else
                pass
        if not alive:
            return
        time.sleep(0.01)


def private_pipes() -> tuple[int, int]:
    "Take file descriptors 0 and 1 away from everybody: what libraries print goes to stderr, what they read is empty."
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def listen(fd: int, parent: int, lines: queue.Queue):
    "Queue the parent's lines; when it is gone, queue None, and end the process group if that does not end us."
    rest = b''
    while True:
        if not select.select([fd], [], [], 2)[0]:
            if os.getppid() != parent:
                break
            continue
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            break
        *whole, rest = (rest + chunk).split(b'\n')
        for line in whole:
            lines.put(line)
    lines.put(None)
    time.sleep(GRACE)
    end_family(os.environ.get(FAMILY, '-'))
    os.killpg(os.getpgrp(), signal.SIGKILL)


def answer(do) -> dict:
    "What the parent gets: the value, or the error by name and text."
    try:
        return {'value': do()}
    except AgentkitError as e:
        return {'error': str(e), 'type': 'AgentkitError'}
    except Exception as e:
        return {'error': str(e), 'type': type(e).__name__}


def send(fd: int, reply: dict):
    try:
        data = json.dumps(reply).encode() + b'\n'
    except (TypeError, ValueError) as e:
        data = json.dumps({'error': str(e), 'type': type(e).__name__, 'id': reply['id']}).encode() + b'\n'
    while data:
        data = data[os.write(fd, data) :]


def serve(target: str, options: dict, lines: queue.Queue, replies: int):
    "Make the object, then answer one call after the other until the parent is gone."
    served = {}

    def make():
        module, _, name = target.partition(':')
        served['object'] = getattr(importlib.import_module(module), name)(**options)

    reply = answer(make)
    send(replies, reply | {'id': 0})
    if 'error' in reply:
        return
    while (line := lines.get()) is not None:
        request = json.loads(line)
        # works without the interpreter lock, so that a call stuck in C ends too when the parent is gone
        faulthandler.dump_traceback_later(request['timeout'] + GRACE, exit=True)
        reply = answer(lambda: getattr(served['object'], request['method'])(*request['args']))
        faulthandler.cancel_dump_traceback_later()
        send(replies, reply | {'id': request['id']})
    if hasattr(served['object'], 'close'):
        served['object'].close()


def main():
    parent, target, options = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    requests, replies = private_pipes()
    lines = queue.Queue()
    threading.Thread(target=listen, args=(requests, parent, lines), daemon=True).start()
    serve(target, options, lines, replies)
    end_family(os.environ.get(FAMILY, '-'))  # the parent may be gone


if __name__ == '__main__':
    main()
