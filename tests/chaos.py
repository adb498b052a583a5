"A small sweep, a model server that misbehaves, and a hand that kills, stops, cuts and fills while the sweep runs."

import gzip
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import ThreadingHTTPServer

import flaky
import pandas as pd
import psutil
import yaml
from conftest import ROOT

from agentkit.core.store import digest, write_json

PARAMETERS = """student = 'expert'  # a program, `remote`, or `local`: a small model that learned from `remote`
env = 'corridor'  # what is played
tasks = 12  # how many are measured
train = 8  # how many the teacher plays for a student
address = ''  # of the model server
out = ''  # the run's folder"""

PLAY = """from pathlib import Path
from agentkit.envs.find import list_tasks
from agentkit.evals import evaluate
from agentkit.models.serving import stop_servers
from agentkit.research.sweeps import finish, results_of
from agentkit.rollouts import Limits, Runner
from agentkit.tuning.distill import distill

folder, remote, distilled = Path(out), f'openai/m@{address}', None
with Runner(env, folder.parent, Limits(max_steps=20), workers=2, parallel=4) as run:
    held_out = list_tasks(env, 'valid_unseen', tasks)
    if student == 'local':
        games = list_tasks(env, 'train', train)
        distilled = distill('local/nano', run.policy(remote), games, run, folder, train=dict(epochs=4))
        reports = dict(before=evaluate(run.policy(distilled.base), held_out, run))
        reports['after'] = evaluate(distilled.agent, held_out, run)
    else:
        policy = run.policy(remote if student == 'remote' else student)
        reports = dict(program=evaluate(policy, held_out, run))
stop_servers()
finish(out, **results_of(reports, distilled))"""


def plan(folder, address, students=('expert', 'remote', 'local'), **changes):
    "The plan of the small sweep and its notebook."

    def cell(source, *tags):
        return dict(
            cell_type='code',
            id=digest(source, n=8),
            metadata=dict(tags=list(tags)),
            outputs=[],
            execution_count=None,
            source=source,
        )

    kernel = dict(name='python3', display_name='python3', language='python')
    cells = [cell(PARAMETERS, 'parameters'), cell(PLAY)]
    write_json(
        folder / 'chaos.ipynb', dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel), cells=cells)
    )
    path, cells = folder / 'chaos.yaml', [dict(student=s) for s in students]
    fixed = dict(address=address, **changes)
    path.write_text(yaml.safe_dump(dict(experiment='chaos', notebook='chaos.ipynb', fixed=fixed, cells=cells)))
    return path


def reply(body):
    "What the model says: it walks forward, but never to every fourth door. Nothing but the request decides."
    doors = re.search(r'walk to door (\d+)', body['messages'][1]['content'])
    action = 'back' if int(doors.group(1)) % 4 == 0 else 'forward'
    form = body.get('response_format', {}).get('json_schema', {}).get('schema', {}).get('properties', {})
    return json.dumps(dict(action=action)) if 'action' in form else action


class Faults:
    "Each is one way of not answering."

    def broken(self, body):
        self.send(500, dict(error=dict(message='internal error')))

    def overloaded(self, body):
        self.send(503, b'<html>overloaded</html>', 'text/html')

    def too_many(self, body):
        self.send(429, dict(error=dict(message='slow down')), Retry_After='0')

    def closed(self, body):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')  # a reset

    def cut(self, body):
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', '4000')
        self.end_headers()
        self.wfile.write(b'{"id": "x", "choices": [{"mess')
        self.close_connection = True

    def empty(self, body):
        self.send(200, {})

    def without_choices(self, body):
        self.send(200, dict(id='x', object='chat.completion', model='m', choices=[]))

    def null(self, body):
        self.send(200, b'null')

    def page(self, body):
        self.send(200, b'<html><body>Please log in</body></html>', 'text/html')

    def elsewhere(self, body):
        self.send(302, b'', Location='http://127.0.0.1:9/login')

    def not_gzip(self, body):
        self.send(200, gzip.compress(b'{"choices"')[:12], Content_Encoding='gzip')

    def slow(self, body):
        time.sleep(0.3)
        self.good(body)


FAULTS = [name for name in vars(Faults) if name[0] != '_']


class Handler(Faults, flaky.Handler):
    "OpenAI's chat API, with a fault now and then."

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        getattr(self, self.server.next_fault() or 'good')(body)

    def good(self, body):
        words = sum(len(m['content'].split()) for m in body['messages'])
        self.send(*flaky.said(reply(body), words, 1))


class ChaosServer(ThreadingHTTPServer):
    "A server whose answers depend on the request alone; a share of them does not come."

    daemon_threads = True

    def __init__(self, share=0.0, seed=0):
        super().__init__(('127.0.0.1', 0), Handler)
        self.share, self.random, self.requests, self.faults = share, random.Random(seed), 0, Counter()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def next_fault(self):
        with self.lock:
            self.requests += 1
            fault = self.random.choice(FAULTS) if self.random.random() < self.share else ''
            self.faults[fault or 'none'] += 1
            return fault

    def handle_error(self, request, client_address):
        pass  # a client that was killed

    @property
    def address(self):
        return f'http://127.0.0.1:{self.server_address[1]}/v1'


def environment(folder):
    "Where a sweep writes, and a key that must not come out anywhere."
    names = {k: str(folder / k.lower()) for k in ('RESULTS', 'FIGURES', 'DATA')}
    own = {f'AGENTKIT_PATHS_{k}': v for k, v in names.items()}
    return {**os.environ, **own, 'AGENTKIT_ROOT': str(ROOT), 'AGENTKIT_API_KEY': KEY, 'TMPDIR': str(folder / 'tmp')}


KEY = 'sk-chaos-0123456789abcdefghij'


class Sweep:
    "`agentkit sweep` as a process, and what can be done to it."

    def __init__(self, plan, folder, file_limit=None):
        (folder / 'tmp').mkdir(exist_ok=True)
        self.folder, self.log = folder, open(folder / 'log.txt', 'ab')

        def limit():
            if file_limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        self.process = subprocess.Popen(
            [sys.executable, '-m', 'agentkit.cli', 'sweep', str(plan)],
            env=environment(folder),
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=limit,
        )

    def processes(self):
        "The sweep and all that it has started, itself last."
        try:
            top = psutil.Process(self.process.pid)
            return [*top.children(recursive=True), top]
        except psutil.NoSuchProcess:
            return []

    def end(self, seconds=600):
        "Wait for the end; the exit code."
        try:
            return self.process.wait(seconds)
        finally:
            self.log.close()

    # what can be done to it; each returns when it has been done
    def kill_one(self, r):
        "SIGKILL to a kernel, a worker, a server or the sweep."
        some = self.processes()
        if some:
            _kill([r.choice(some)])

    def kill_all(self, r):
        "The machine goes off."
        _kill(self.processes())

    def interrupt(self, r):
        "Ctrl-C."
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def pause(self, r):
        "Somebody closes the lid for a second."
        some = self.processes()
        for sent, wait in ((signal.SIGSTOP, 1), (signal.SIGCONT, 0)):
            for p in some:
                _send(p, sent)
            time.sleep(wait)


HANDS = ('kill_one', 'kill_all', 'interrupt', 'pause')


def _send(process, number):
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _kill(processes):
    for p in processes:
        _send(p, signal.SIGKILL)
    while any(map(_alive, processes)):
        time.sleep(0.02)


def _alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def cut_tail(folder, r):
    "What a power failure does to a file that was being written: a journal ends in the middle of a line."
    journals = sorted(p for p in (folder / 'results').rglob('*.jsonl') if p.stat().st_size > 50)
    if journals:
        path = r.choice(journals)
        text = path.read_bytes()
        last = text.rstrip(b'\n').rfind(b'\n') + 1
        path.write_bytes(text[: r.randrange(last + 1, len(text))])
    return bool(journals)


def cut_checkpoint(folder, r):
    "A checkpoint whose file ends in the middle."
    files = sorted(p for p in (folder / 'data').rglob('*') if p.is_file() and '.part' in str(p) and p.stat().st_size)
    if files:
        path = r.choice(files)
        path.write_bytes(path.read_bytes()[: r.randrange(path.stat().st_size)])
    return bool(files)


CLOCKS = re.compile(r'seconds|tokens|calls|cost|dollar')  # an answer that was asked for twice was paid for twice


def tables(folder):
    "All tables of the sweep, without clocks and costs, as text."
    out = {}
    for path in sorted((folder / 'results/chaos').glob('*.csv')):
        table = pd.read_csv(path, keep_default_na=False)
        table = table[[c for c in table if not CLOCKS.search(c) or c == 'train_tokens']]
        out[path.name] = table.drop(columns='address', errors='ignore').to_csv(index=False)
    return out


def leaks(folder):
    "Files that hold the key."
    return [str(p) for p in folder.rglob('*') if p.is_file() and KEY.encode() in p.read_bytes()]


def left_running(folder):
    "Processes that work for this sweep and have lost it."
    mine = f'AGENTKIT_PATHS_RESULTS={folder / "results"}'.encode()
    out = []
    for p in psutil.process_iter(['pid', 'cmdline']):
        try:
            if mine in open(f'/proc/{p.pid}/environ', 'rb').read() and p.status() != psutil.STATUS_ZOMBIE:
                out.append(' '.join(p.info['cmdline'] or [])[:100])
        except (OSError, psutil.NoSuchProcess):
            continue
    return out
