"""The vLLM backend, against a stand-in with vLLM's arguments and HTTP: processes, requests, errors. No GPU needed."""

import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError, EpisodeError
from agentkit.core.store import read_json

pytest.importorskip('torch')
pytest.importorskip('xllamacpp')
from agentkit.models import serving  # noqa: E402
from agentkit.models.serving import VllmServer, local_lm, reload_servers, serve, stop_servers  # noqa: E402
from agentkit.models.store import model_dir  # noqa: E402
from agentkit.training.bases import make_nano  # noqa: E402
from agentkit.training.trainer import TrainConfig, finetune, quantize  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
ROWS = [
    dict(messages=[dict(role='user', content=f'Find the mug {i}.'), dict(role='assistant', content='go to desk 1')])
    for i in range(4)
]
ASK = [dict(role='user', content='You see a desk 1 and a shelf 12.')]

STAND_IN = """
import argparse, json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
p = argparse.ArgumentParser()
for name in ('host', 'port', 'model', 'served-model-name', 'max-model-len', 'max-num-seqs', 'generation-config',
             'max-loras', 'max-lora-rank', 'allowed-origins'):
    p.add_argument('--' + name)
for name in ('enable-prefix-caching', 'enable-prompt-tokens-details', 'enable-lora'):
    p.add_argument('--' + name, action='store_true')
p.add_argument('--lora-modules', nargs='*', default=[])
a = p.parse_args()
if os.environ.get('STAND_IN_FAILS'): sys.exit('RuntimeError: no CUDA device')
if os.environ.get('STAND_IN_LATE'):
    import socket
    ports = os.environ['STAND_IN_LOG'] + '/ports.jsonl'
    print(a.port, file=open(ports, 'a'))
    if len(open(ports).readlines()) == 1:
        hold = 'import socket, time; s = socket.create_server(("127.0.0.1", %s)); time.sleep(60)' % a.port
        subprocess.Popen([sys.executable, '-c', hold])
        while not socket.socket().connect_ex(('127.0.0.1', int(a.port))) == 0: time.sleep(.05)
        sys.exit('OSError: address already in use')
loras = dict(m.split('=', 1) for m in a.lora_modules)
for path in loras.values(): json.load(open(path + '/adapter_config.json'))
json.load(open(a.model + '/config.json'))
worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
log = os.environ['STAND_IN_LOG']
json.dump(dict(args=vars(a), pids=[os.getpid(), worker.pid]), open(log + '/started.json', 'w'))
print('INFO: this goes to standard output')
asked = []

class Handler(BaseHTTPRequestHandler):
    def reply(self, code, body):
        said = json.dumps(body).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def do_GET(self):
        asked.append(self.path)
        self.reply(503 if len(asked) < 3 else 200, {})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if self.headers['Authorization'] != 'Bearer ' + os.environ['VLLM_API_KEY']:
            return self.reply(401, dict(error='Unauthorized'))
        open(log + '/bodies.jsonl', 'a').write(json.dumps(dict(body, path=self.path)) + chr(10))
        if self.path.endswith('load_lora_adapter'):
            if os.environ.get('VLLM_ALLOW_RUNTIME_LORA_UPDATING') != '1': return self.reply(404, {})
            name = body['lora_name']
            loras.pop(name) if 'unload' in self.path else loras.update({name: body['lora_path']})
            return self.reply(200, 'Success')
        refuse = lambda code, message: self.reply(code, dict(error=dict(message=message, code=code)))
        if body['model'] not in (a.served_model_name, *loras):
            return refuse(404, 'The model `%s` does not exist.' % body['model'])
        words = sum(len(m['content'].split()) for m in body['messages'])
        if words > int(a.max_model_len):
            return refuse(400, "This model's maximum context length is %s tokens." % a.max_model_len)
        choice = body.get('structured_outputs', {}).get('choice', ['anything'])
        said = choice[-1] if body['model'] in loras else choice[0]
        usage = dict(prompt_tokens=words, completion_tokens=1, total_tokens=words + 1,
                     prompt_tokens_details=dict(cached_tokens=words // 2))
        choices = [dict(index=0, message=dict(role='assistant', content=said), finish_reason='stop')]
        self.reply(200, dict(id='x', object='chat.completion', created=0, model=body['model'], usage=usage,
                             choices=choices))
    def log_message(self, *args): pass

ThreadingHTTPServer((a.host, int(a.port)), Handler).serve_forever()
"""


@pytest.fixture(scope='module', autouse=True)
def data(own_data):
    pass


@pytest.fixture(scope='module')
def base(data):
    return make_nano(ROWS, size='tiny', vocabulary=300)


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    "A package `vllm` that can be started."
    folder = tmp_path / 'site/vllm/entrypoints/openai'
    folder.mkdir(parents=True)
    for d in (folder, folder.parent, folder.parent.parent):
        (d / '__init__.py').touch()
    (folder / 'api_server.py').write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / 'site')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    monkeypatch.setenv('STAND_IN_LOG', str(tmp_path))
    monkeypatch.setenv('AGENTKIT_MODELS_BACKEND', 'vllm')
    yield tmp_path
    stop_servers()
    sys.modules.pop('vllm', None)


def gone(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z'
    except FileNotFoundError:
        return True


def wait_until(true, seconds=30):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, 'it did not happen'
        time.sleep(0.05)


def bodies(folder):
    return [json.loads(l) for l in (folder / 'bodies.jsonl').read_text().splitlines()]


def test_a_choice_is_sent_in_vllms_words(vllm, base):
    lm = local_lm(base, slots=2, context=64)
    assert lm(messages=ASK, **lm.hold(Choice(['go to desk 1', 'look']))) == ['go to desk 1']
    assert isinstance(lm.server, VllmServer) and base in repr(lm.server)
    (body,) = bodies(vllm)
    assert body['structured_outputs'] == dict(choice=['go to desk 1', 'look']) and body['model'] == base
    assert 'grammar' not in body and 'response_format' not in body and body['temperature'] == 0
    assert lm.history[-1]['usage']['prompt_tokens_details']['cached_tokens'] > 0
    args = read_json(vllm / 'started.json')['args']
    assert args['enable_prefix_caching'] and not args['enable_lora'] and args['model'] == str(model_dir(base))
    assert (args['max_model_len'], args['max_num_seqs'], args['host'], args['generation_config']) == (
        '64',
        '2',
        '127.0.0.1',
        'vllm',
    )


def test_adapters_are_models_of_one_server(vllm, base):
    student = finetune(base, ROWS, TrainConfig.of('nano', epochs=1, lora_rank=4), progress=False)
    server = serve(base, slots=2, context=64, adapters=[student.id])
    args = read_json(vllm / 'started.json')['args']
    assert (
        args['lora_modules'] == [f'{student.id}={student.path}/adapter']
        and args['max_lora_rank'] == '8'
        and args['max_loras'] == '1'
    )
    said = [
        lm(messages=ASK, **lm.hold(Choice(['look', 'go to desk 1']))) for lm in (local_lm(base), local_lm(student.id))
    ]
    assert said == [['look'], ['go to desk 1']] and [b['model'] for b in bodies(vllm)] == [base, student.id]
    assert local_lm(student.id).server is server


def test_a_changed_adapter_is_loaded_into_the_running_server(vllm, base):
    student = finetune(base, ROWS, TrainConfig.of('nano', epochs=1, lora_rank=4), progress=False)
    server = serve(base, slots=2, context=64, adapters=[student.id])
    pids = read_json(vllm / 'started.json')['pids']
    assert reload_servers(student.id) == [server] and read_json(vllm / 'started.json')['pids'] == pids
    unload, load = bodies(vllm)
    assert (unload['path'], load['path']) == ('/v1/unload_lora_adapter', '/v1/load_lora_adapter')
    assert load['lora_name'] == unload['lora_name'] == student.id and load['lora_path'] == f'{student.path}/adapter'
    assert local_lm(student.id)(messages=ASK, **local_lm(student.id).hold(Choice(['look', 'go to desk 1']))) == [
        'go to desk 1'
    ]


def test_changed_weights_begin_a_new_process(vllm, base):
    server = serve(base, slots=1, context=64)
    pids = read_json(vllm / 'started.json')['pids']
    assert reload_servers(base) == [server] and read_json(vllm / 'started.json')['pids'] != pids
    assert server.alive and local_lm(base, slots=1, context=64)(messages=ASK) == ['anything']


def test_only_its_owner_is_answered(vllm, base):
    import httpx

    server = serve(base, slots=1, context=64)
    assert httpx.post(f'{server.url}/v1/chat/completions', json=dict(model=base)).status_code == 401
    assert read_json(vllm / 'started.json')['args']['allowed_origins'] == '[]'


def test_closing_leaves_no_process(vllm, base):
    server = serve(base, slots=1, context=64)
    pids = read_json(vllm / 'started.json')['pids']
    assert not any(gone(p) for p in pids)
    server.close()
    wait_until(lambda: all(gone(p) for p in pids))


def test_a_killed_parent_takes_everything_along(vllm, base):
    script = (
        f'import time, agentkit.models.serving as s; x = s.serve({base!r}, slots=1, context=64); '
        'print(x._child.pid, flush=True); time.sleep(600)'
    )
    parent = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    pids = [int(parent.stdout.readline()), *read_json(vllm / 'started.json')['pids']]
    assert not any(gone(p) for p in pids)
    parent.kill()
    parent.wait()
    wait_until(lambda: all(gone(p) for p in pids))


def test_vllm_dies_with_the_process_that_started_it(vllm, base):
    server = serve(base, slots=1, context=64)
    os.kill(server._child.pid, signal.SIGKILL)
    wait_until(lambda: gone(read_json(vllm / 'started.json')['pids'][0]))


def test_a_dead_vllm_is_noticed(vllm, base):
    server = serve(base, slots=1, context=64)
    os.kill(read_json(vllm / 'started.json')['pids'][0], signal.SIGKILL)
    wait_until(lambda: not server.alive)
    with pytest.raises(AgentkitError, match=f'the server for {base} is gone'):
        server.post('/v1/chat/completions', dict(model=base, messages=[]))
    assert serve(base, slots=1, context=64) is not server


def test_the_workers_of_a_killed_vllm_end_before_another_one_starts(vllm, base):
    "A GPU has no place for two."
    server = serve(base, slots=1, context=64)
    pids = read_json(vllm / 'started.json')['pids']
    os.kill(server._child.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive)
    assert serve(base, slots=1, context=64) is not server
    assert all(map(gone, pids))


def test_a_vllm_that_stands_still_is_replaced(vllm, base, monkeypatch):
    for name in ('REPLY_SECONDS', 'ALIVE_SECONDS'):
        monkeypatch.setattr(serving, name, 1)
    lm = local_lm(base, slots=1, context=64)
    first, pids = lm.server, read_json(vllm / 'started.json')['pids']
    os.kill(pids[0], signal.SIGSTOP)
    assert lm(messages=ASK, **lm.hold(Choice(['look']))) == ['look'] and lm.server is not first
    assert all(map(gone, pids))


def test_a_port_that_was_taken_meanwhile_is_left_to_its_owner(vllm, base, monkeypatch):
    monkeypatch.setenv('STAND_IN_LATE', '1')
    assert serve(base, slots=1, context=64).alive
    first, second = [json.loads(l) for l in (vllm / 'ports.jsonl').read_text().splitlines()]
    assert first != second == int(serve(base, slots=1, context=64).url.rpartition(':')[2])


def test_a_vllm_that_does_not_start_says_why(vllm, base, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', '1')
    with pytest.raises(
        AgentkitError,
        match=f'the server for {base} did not start: exit code 1; its log ends with: RuntimeError: no CUDA device',
    ):
        serve(base)


def test_a_conversation_that_is_too_long_ends_its_episode_only(vllm, base):
    lm = local_lm(base, slots=1, context=64)
    with pytest.raises(EpisodeError, match='maximum context length is 64'):
        lm('word ' * 100)


def test_without_vllm_the_extra_is_named(base, monkeypatch):
    monkeypatch.setitem(sys.modules, 'vllm', None)
    with pytest.raises(AgentkitError, match=r'vllm is not installed: run `pip install "agentkit\[vllm\]"`'):
        serve(base, backend='vllm')


def test_what_vllm_cannot_serve(vllm, base):
    small = quantize(base, 'q8_0')
    with pytest.raises(AgentkitError, match='holds weights for llama.cpp only'):
        serve(small)
    with pytest.raises(AgentkitError, match="unknown backend 'triton'; known: llama.cpp, vllm"):
        serve(base, backend='triton')
