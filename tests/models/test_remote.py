"Language models behind an address: servers that misbehave, keys that must not travel, replies that have to be read."

import contextlib
import copy
import gzip
import itertools
import json
import pickle
import random
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import format_datetime
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import httpx
import pytest
from dspy import lm15
from hypothesis import given, strategies as st
from toys import DESKS

from agentkit.agents.policy import THINK, Agent
from agentkit.agents.reply import read_reply
from agentkit.agents.saving import make_policy
from agentkit.core.actions import Choice, ToolCall
from agentkit.core.errors import AgentkitError, EpisodeError
from agentkit.core.store import Journal
from agentkit.core.types import Observation, State, Task, said
from agentkit.envs.find import list_tasks
from agentkit.models import remote
from agentkit.models.find import make_lm
from agentkit.models.names import KEYS, OWN_KEY, cost, key_for, named, parse_spec, price, usage
from agentkit.models.remote import CAP, PATIENCE, TRIES, RemoteEngine, RemoteLM, Throttle, backoff
from agentkit.rollouts import Limits, Runner

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
KEY = 'sk-planted-key-0123456789'
ASK = [dict(role='user', content='You see a desk 1.')]
ACTIONS = ['go to desk 1', 'go to desk 2', 'look']
STATE = State(Task('mug', 'house'), Observation('Find a mug.', Choice(ACTIONS)))


def chat(text='look', finish='stop'):
    return dict(
        id='x',
        object='chat.completion',
        created=0,
        model='parrot',
        usage=dict(prompt_tokens=9, completion_tokens=2, total_tokens=11),
        choices=[dict(index=0, finish_reason=finish, message=dict(role='assistant', content=text))],
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = 'HTTP/1.1', True

    def do_GET(self):
        self.server.gets.append(self.path)
        models = self.server.models
        if isinstance(models, str):
            return getattr(self, models)()
        if isinstance(models, list):
            models = 200, dict(data=[dict(id=m) for m in models])
        self.send(*models) if isinstance(models, tuple) else self.send(models, dict(error=dict(message='no list')))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        with self.server.lock:
            self.server.asked.append(dict(path=self.path, headers=dict(self.headers), body=body))
            answer = self.server.script.pop(0) if self.server.script else self.server.otherwise
        if callable(answer):
            answer = answer(body)
        getattr(self, answer)() if isinstance(answer, str) else self.send(*answer)

    def send(self, status, body, headers={}):
        content = json.dumps(body) if isinstance(body, (dict, list)) else body
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for k, v in {'Content-Type': 'application/json', **headers}.items():
            self.send_header(k, v)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def drop(self):
        "Hang up without an answer."
        self.close_connection = True

    def torn(self):
        "Hang up in the middle of the answer."
        content = json.dumps(chat()).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content[:40])
        self.close_connection = True

    def claim(self):
        "Promise more than comes."
        content = json.dumps(chat()).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content) + 9))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def drip(self):
        "A byte now and then, until nobody listens."
        self.send_response(200)
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        while not self.server.woken.wait(0.05):
            self.wfile.write(b'1\r\n \r\n')

    def hang(self):
        self.server.woken.wait(20)
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked, self.gets, self.script, self.models, self.otherwise = (
            [],
            [],
            [],
            ['parrot', 'llama3.1:latest'],
            (200, chat()),
        )
        self.lock, self.woken, self.url = threading.Lock(), threading.Event(), f'http://127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a client that has given up


@pytest.fixture
def server():
    server = Server()
    yield server
    server.woken.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def lm(server, waits):
    return RemoteLM('openai/parrot', RemoteEngine('openai', server.url + '/v1', sleep=waits.append))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in (*KEYS.values(), OWN_KEY):
        monkeypatch.delenv(name, raising=False)


# --- names ---


@pytest.mark.parametrize(
    'spec, parts',
    [
        ('openai/gpt-4o-mini', ('openai', 'gpt-4o-mini', '')),
        ('groq/openai/gpt-oss-20b', ('groq', 'openai/gpt-oss-20b', '')),
        ('openai/m@http://h:1', ('openai', 'm', 'http://h:1/v1')),
        ('openai/m@https://h/', ('openai', 'm', 'https://h/v1')),
        ('openai/m@http://h/api/v3/', ('openai', 'm', 'http://h/api/v3')),
        ('ollama_chat/llama3.1:8b@http://10.0.0.1:11434', ('ollama_chat', 'llama3.1:8b', 'http://10.0.0.1:11434/v1')),
    ],
)
def test_specs(spec, parts):
    assert parse_spec(spec) == parts


@pytest.mark.parametrize(
    'spec, message',
    [
        ('', 'is not a model name'),
        ('openai/', 'is not a model name'),
        ('/x', 'is not a model name'),
        ('openai/x@http://', 'is not an address'),
        ('openai/x@http://h:port', 'is not an address'),
        ('openai/x@httpx://h', 'is not an address'),
        ('hosted_vllm/x', 'needs an address'),
        ('mistral/x', 'any OpenAI-compatible server is openai/<model>@http'),
        ('openai/x', 'OPENAI_API_KEY is not set'),
        ('groq/x', 'GROQ_API_KEY is not set'),
        ('anthropic/x', 'ANTHROPIC_API_KEY is not set'),
        ('gemini/x', 'GEMINI_API_KEY is not set'),
        ('judge', 'settings.ini names no judge'),
    ],
)
def test_a_name_that_cannot_work_is_an_error_when_the_model_is_made(spec, message):
    with pytest.raises(AgentkitError, match=message):
        make_lm(spec)


def test_a_blank_key_is_no_key(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', ' \n')
    with pytest.raises(AgentkitError, match='OPENAI_API_KEY is not set'):
        make_lm('openai/gpt-4o-mini')


def test_settings_name_the_models(monkeypatch, server):
    monkeypatch.setenv('AGENTKIT_MODELS_JUDGE', f'openai/parrot@{server.url}')
    assert named('judge') == f'openai/parrot@{server.url}' and named('openai/x') == 'openai/x'
    assert make_lm('judge').model == 'openai/parrot'
    assert make_policy('judge').name == 'openai/parrot'
    assert make_policy('teacher').name == 'expert'


def test_the_name_has_no_address(server):
    agent = make_policy(f'openai/parrot@{server.url}')
    assert agent.name == 'openai/parrot'
    assert agent.act(STATE).action == 'look'
    written = (
        repr(agent)
        + repr(agent.react.lm)
        + repr(agent.react.lm.engine)
        + repr(vars(agent.react.lm))
        + repr(agent.react.lm.history)
        + json.dumps(agent.dump_state())
        + agent.id
    )
    assert '127.0.0.1' not in written and str(server.server_port) not in written


def test_models_without_a_key_are_made_without_one():
    assert make_lm('ollama_chat/llama3.1').engine.own is False
    assert make_lm('hosted_vllm/llama@http://127.0.0.1:9').model == 'hosted_vllm/llama'


def test_reasoning_models_choose_their_own_temperature(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    lm = make_lm('openai/gpt-5-mini')
    assert lm.kwargs.get('temperature') is None and lm.kwargs.get('max_completion_tokens') is None
    assert make_lm('openai/gpt-5-mini', temperature=1.0, max_tokens=20000).kwargs['max_completion_tokens'] == 20000


# --- keys ---


def bearer(server):
    return server.asked[-1]['headers'].get('Authorization')


def test_a_providers_key_is_never_sent_to_an_address(server, monkeypatch):
    for name in KEYS.values():
        monkeypatch.setenv(name, KEY)
    for provider in ('openai', 'groq', 'hosted_vllm', 'ollama_chat', 'openrouter'):
        make_lm(f'{provider}/parrot@{server.url}')('Hello')
        assert KEY not in json.dumps(server.asked[-1])
    monkeypatch.setenv('AGENTKIT_API_KEY', KEY)
    make_lm(f'openai/parrot@{server.url}')('Hello')
    assert bearer(server) == f'Bearer {KEY}'


def test_a_key_with_an_address_goes_there_only(server, monkeypatch):
    monkeypatch.setenv('AGENTKIT_API_KEY', f'mine@{server.url} other@http://127.0.0.1:9')
    make_lm(f'openai/parrot@{server.url}')('Hello')
    assert bearer(server) == 'Bearer mine'
    monkeypatch.setenv(
        'AGENTKIT_API_KEY', f'other@http://127.0.0.1:9 other@{server.url.replace("127.0.0.1", "localhost")}'
    )
    make_lm(f'openai/parrot@{server.url}')('Hello')
    assert 'other' not in json.dumps(server.asked[-1])


@given(st.sampled_from(['http://a:1/v1', 'http://a', 'https://a/v1', 'http://b:1']), st.text('ab@:/htp ', max_size=30))
def test_a_key_is_one_of_the_pairs_or_the_whole_text(address, text):
    key = key_for(address, text)
    assert key in ('', text) or f'{key}@http' in text


@pytest.mark.parametrize('code', [301, 302, 303, 307, 308])
def test_a_redirect_takes_neither_key_nor_prompt_along(server, lm, waits, code, monkeypatch):
    monkeypatch.setenv('AGENTKIT_API_KEY', KEY)
    other = server.url.replace('127.0.0.1', 'localhost') + '/elsewhere'
    server.script = [(code, {}, {'location': other})] * 20
    before = len(server.asked)
    with pytest.raises(AgentkitError, match='it sends to another address'):
        lm('Hello')
    assert all(a['path'].endswith('/v1/chat/completions') for a in server.asked[before:])


def test_the_key_is_read_when_it_is_used(server, monkeypatch, lm):
    monkeypatch.setenv('AGENTKIT_API_KEY', 'first')
    lm('Hello')
    assert bearer(server) == 'Bearer first'
    monkeypatch.setenv('AGENTKIT_API_KEY', 'second\n')
    lm('Hello')
    assert bearer(server) == 'Bearer second'
    make_lm('openai/parrot', api_base=server.url, api_key='third')('Hello')
    assert bearer(server) == 'Bearer third'


def test_the_key_is_nowhere(server, monkeypatch, lm):
    monkeypatch.setenv('AGENTKIT_API_KEY', KEY)
    given = make_lm('openai/parrot', api_base=server.url, api_key=KEY)
    for one in (lm, given):
        one('Hello')
        server.script = [(401, dict(error=dict(message=f'wrong key {KEY}')))]
        with pytest.raises(AgentkitError, match='does not accept the key in AGENTKIT_API_KEY .*wrong key …') as failed:
            one('Hello')
        engine = one.engine
        written = (
            str(failed.value)
            + repr(one)
            + repr(engine)
            + json.dumps(one.dump_state())
            + repr(one.history)
            + repr(pickle.dumps(engine))
        )
        assert KEY not in written and str(server.server_port) not in written


def test_a_saved_engine_asks_for_its_address(lm):
    again = pickle.loads(pickle.dumps(lm.engine))
    other = lm.copy(engine=again)
    with pytest.raises(AgentkitError, match='an address is not saved with a program'):
        other('Hello')
    assert RemoteEngine.load_state(dict(provider='ollama_chat', own=False)).own is False


# --- back-off, with a clock that does not tick ---


def refuse(error):
    raise error


@pytest.fixture
def unlucky(monkeypatch):
    "Jitter that always draws its upper bound."
    monkeypatch.setattr(random, 'uniform', lambda low, high: high)


@pytest.mark.parametrize('error', [lm15.ServerError('x', status=503), lm15.RateLimitError('x', status=429)])
def test_waiting_grows_and_is_capped_and_ends(error, waits, unlucky, monkeypatch):
    monkeypatch.setattr(remote, 'PATIENCE', 1e9)
    calls = []
    with pytest.raises(type(error)):
        backoff(waits.append)(lambda: calls.append(1) or refuse(error))
    assert waits == [1, 2, 4, 8, 16, 32, CAP] and len(calls) == TRIES


def test_waiting_ends_with_the_first_answer(waits, unlucky):
    errors = [lm15.RateLimitError('x', status=429)] * 3
    assert backoff(waits.append)(lambda: refuse(errors.pop()) if errors else 'look') == 'look'
    assert waits == [1, 2, 4]


def test_patience_ends_it_earlier(waits, unlucky):
    with pytest.raises(lm15.RateLimitError):
        backoff(waits.append)(refuse, lm15.RateLimitError('x', retry_after=100.0))
    assert waits == [101, 102] and sum(waits) <= PATIENCE < sum(waits) + 104


def test_waiting_is_jittered(waits):
    for _ in range(40):
        with pytest.raises(lm15.ServerError):
            backoff(waits.append)(refuse, lm15.ServerError('x'))
    bounds = [min(CAP, 2**i) for i in range(TRIES - 1)]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds * 40))
    third = waits[2 :: TRIES - 1]
    assert len(set(third)) == 40 and 0 <= min(third) < 1 and 3 < max(third) <= 4, (
        'full jitter reaches from 0 to the bound'
    )


def test_retry_after_is_a_lower_bound(waits):
    with pytest.raises(lm15.RateLimitError):
        backoff(waits.append)(refuse, lm15.RateLimitError('x', retry_after=20.0))
    assert waits and all(20 <= w <= 20 + 2**i for i, w in enumerate(waits))


@pytest.mark.parametrize(
    'error',
    [
        lm15.InvalidRequestError('x', status=400),
        lm15.AuthError('x', status=401),
        lm15.AuthError('x', status=403),
        lm15.InvalidRequestError('x', status=404),
        lm15.BillingError('x', status=429),
        lm15.ContextLengthError('x'),
        ValueError('x'),
        KeyboardInterrupt(),
    ],
)
def test_what_does_not_get_better_is_not_repeated(waits, error):
    with pytest.raises(type(error)):
        backoff(waits.append)(refuse, error)
    assert waits == []


# --- back-off, with a server that really misbehaves ---


def at(seconds):
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    'bad',
    [
        (429, dict(error=dict(message='slow down'))),
        (500, 'oops'),
        (502, '<html>'),
        (503, {}),
        (529, {}),
        (408, {}),
        'drop',
        'torn',
        (200, '<html>please log in</html>'),
        (200, '{"choi'),
    ],
    ids=['429', '500', '502', '503', '529', '408', 'drop', 'torn', 'html', 'half'],
)
def test_trouble_that_passes_is_waited_for(server, lm, waits, bad):
    server.script = [bad, bad]
    assert lm('Hello') == ['look']
    assert len(server.asked) == 3 and len(waits) == 2 and 0 <= waits[0] <= 1 and 0 <= waits[1] <= 2


@pytest.mark.parametrize(
    'header, low, high',
    [('7', 7, 8), ('0', 0, 1), (lambda: at(30), 28, 31), (lambda: at(-30), 0, 1), ('soon', 0, 1)],
    ids=['seconds', 'zero', 'date', 'past', 'nonsense'],
)
def test_retry_after_is_heard(server, lm, waits, header, low, high):
    server.script = [
        lambda body: (429, {}, {'Retry-After': header() if callable(header) else header})
    ]  # a date counts from when it is sent
    assert lm('Hello') == ['look'] and len(waits) == 1 and low <= waits[0] <= high


def test_a_server_that_hangs_is_left(server, waits):
    def patient(seconds):
        return RemoteLM(
            'openai/parrot', RemoteEngine('openai', server.url + '/v1', timeout=seconds, sleep=waits.append)
        )

    server.script = ['hang']
    assert patient(2)('Hello') == ['look'] and len(waits) == 1
    server.otherwise = 'hang'
    with pytest.raises(EpisodeError, match='openai/parrot: no answer within 0.2 s'):
        patient(0.2)('Hello')
    assert len(waits) == 1 + TRIES - 1


@pytest.mark.parametrize(
    'bad, kind, message, asked',
    [
        ((500, dict(error=dict(message='oops'))), EpisodeError, r'openai/parrot: oops \(HTTP 500\)', TRIES),
        ((429, {}), EpisodeError, 'HTTP 429', TRIES),
        ('drop', EpisodeError, 'the connection was dropped', TRIES),
        ((400, dict(error=dict(message='no such parameter'))), EpisodeError, 'no such parameter', 1),
        ((401, {}), AgentkitError, 'does not accept the key', 1),
        ((403, {}), AgentkitError, 'does not accept the key', 1),
        ((404, {}), AgentkitError, 'no such model, or no such address', 1),
        ((402, {}), AgentkitError, 'cannot pay', 1),
        (
            (429, dict(error=dict(message='quota', code='insufficient_quota', type='insufficient_quota'))),
            AgentkitError,
            'cannot pay',
            1,
        ),
    ],
)
def test_what_stays_is_one_clear_error(server, lm, bad, kind, message, asked):
    server.otherwise = bad
    with pytest.raises(AgentkitError, match=message) as failed:
        lm('Hello')
    assert type(failed.value) is kind and len(server.asked) == asked
    assert '127.0.0.1' not in str(failed.value) and '\n' not in str(failed.value)


def test_dspy_and_litellm_do_not_retry_as_well(server, waits):
    lm = RemoteLM('openai/parrot', RemoteEngine('openai', server.url + '/v1', sleep=waits.append), num_retries=0)
    server.otherwise = (500, {})
    with pytest.raises(EpisodeError):
        dspy.Predict('question -> answer')(question='?', lm=lm)
    assert len(server.asked) == TRIES


def choices(*value):
    return 200, dict(chat(), choices=value[0] if len(value) == 1 else list(value))


def message(value, finish='stop'):
    return choices([dict(index=0, finish_reason=finish, message=value)])


BROKEN = {
    'empty': (200, {}),
    'a list': (200, []),
    'a text': (200, '"look"'),
    'null': (200, 'null'),
    'a number': (200, '7'),
    'nothing': (200, ''),
    'half': (200, json.dumps(chat())[:60]),
    'twice': (200, json.dumps(chat()) * 2),
    'html': (200, '<html>please log in</html>'),
    'deep': (200, '[' * 100_000),
    'an error of any form': (200, dict(error='overloaded')),
    'choices: none': choices([]),
    'choices: null': choices(None),
    'choices: an object': choices(dict(message='look')),
    'choices: a text': choices('look'),
    'choices: a number': choices(1),
    'choices: of texts': choices(['look']),
    'choices: of nulls': choices([None]),
    'message: none': choices([{}]),
    'message: null': message(None),
    'message: a text': message('look'),
    'message: a list': message(['look']),
    'message: empty': message({}),
    'message: no text': message(dict(role='assistant')),
    'message: null text': message(dict(role='assistant', content=None, tool_calls=[])),
    'text: a number': message(dict(role='assistant', content=7)),
    'text: an object': message(dict(role='assistant', content=dict(text='look'))),
    'text: of numbers': message(dict(role='assistant', content=[7])),
    'redirect': (307, {}, {'Location': '/other'}),
    'redirect for good': (301, '<html>', {'Location': 'http://127.0.0.1:9/'}),
    'too short': 'torn',
    'too long': 'claim',
    'half of UTF-16': (200, b'\xff\xfe{'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_an_answer_without_a_message_is_trouble_and_no_action(server, lm, waits, name):
    server.script = [BROKEN[name]] * 2
    assert play(lm, think=False) == 'look' and len(waits) == 2
    server.otherwise = BROKEN[name]
    with pytest.raises(EpisodeError, match='^openai/parrot: ') as failed:
        play(lm, think=False)
    assert len(server.asked) == 3 + TRIES and len(str(failed.value)) < 600 and '\n' not in str(failed.value)
    assert {a['path'] for a in server.asked} == {'/v1/chat/completions'}, 'a redirect is not followed'


OWN = {
    'empty': message(dict(role='assistant', content='')),
    'blank': message(dict(role='assistant', content=' \n')),
    'only thought': message(dict(role='assistant', content=None, reasoning_content='Hm.')),
    'cut off': message(dict(role='assistant', content=None), 'length'),
    'a tool that nobody has': message(
        dict(role='assistant', content=None, tool_calls=[dict(id='1', function=dict(name='x', arguments='{}'))])
    ),
    'refused': message(dict(role='assistant', content=None, refusal='I cannot.')),
}


@pytest.mark.parametrize('name', OWN)
def test_an_empty_message_is_the_models_own(server, lm, waits, name):
    server.otherwise = OWN[name]
    assert play(lm, think=False) in ('', 'I cannot.') and waits == []


def test_text_in_parts_or_in_another_encoding_is_text(server, lm, waits):
    parts = dict(role='assistant', content=[dict(type='thinking', thinking=[]), dict(type='text', text='look')])
    server.script = [message(parts), *((200, json.dumps(chat()).encode(e)) for e in ('utf-8-sig', 'utf-16', 'utf-32'))]
    assert [play(lm, think=False) for _ in range(4)] == ['look'] * 4 and waits == []


def test_a_list_of_models_that_cannot_be_read_is_no_verdict(server):
    for models in ((200, '[' * 100_000), (200, '<html>'), (200, dict(data=[7])), (200, 'null')):
        server.models = models
        make_lm(f'openai/parrot@{server.url}').check()


def test_an_answer_that_drips_for_ever_is_left(server, waits, monkeypatch):
    "Each byte comes in time, and the answer never ends."
    monkeypatch.setattr(remote, 'WHOLE', 2)
    lm = RemoteLM('openai/parrot', RemoteEngine('openai', server.url + '/v1', timeout=0.5, sleep=waits.append))
    server.otherwise = 'drip'
    with pytest.raises(EpisodeError, match='openai/parrot: an answer without end: .* bytes in 1 s or less'):
        lm('Hello')
    assert len(server.asked) == 1 and waits == [], 'it is not asked for again'


def test_an_answer_that_is_too_long_is_left(server, lm, monkeypatch):
    monkeypatch.setattr(remote, 'LONGEST', 1000)
    server.otherwise = (200, chat('x' * 2000))
    with pytest.raises(EpisodeError, match='an answer without end'):
        lm('Hello')
    server.otherwise = (200, chat('look'))
    assert lm('Hello') == ['look']


class Raw:
    "A server that sends these bytes after each request, and again and again the last of them."

    def __init__(self, *pieces, pause=0.0):
        self.pieces, self.pause, self.sent, self.closed = pieces, pause, 0, threading.Event()
        self.socket = socket.create_server(('127.0.0.1', 0))
        self.url = f'http://127.0.0.1:{self.socket.getsockname()[1]}/v1'
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.answer, args=self.socket.accept()[:1], daemon=True).start()

    def answer(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            for piece in itertools.chain(self.pieces, itertools.repeat(self.pieces[-1])):
                self.sent += connection.send(piece)
                if self.closed.wait(self.pause):
                    break

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed.set()
        self.socket.close()


OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n'
DRIPS = dict(
    status=(b'H',),
    headers=(OK, b'x'),
    interim=(b'HTTP/1.1 100 Continue\r\n\r\n',),
    chunks=(OK + b'transfer-encoding: chunked\r\n\r\n', b'1\r\n \r\n'),
    extension=(OK + b'transfer-encoding: chunked\r\n\r\n1;', b'x'),
    trailers=(OK + b'transfer-encoding: chunked\r\n\r\n0\r\n', b'x'),
    closing=(OK + b'\r\n', b' '),
)


@pytest.mark.parametrize('drip', DRIPS)
def test_wherever_an_answer_drips_it_is_left(waits, monkeypatch, drip):
    monkeypatch.setattr(remote, 'WHOLE', 1)
    with Raw(*DRIPS[drip], pause=0.05) as server:
        engine = RemoteEngine('openai', server.url, timeout=0.5, sleep=waits.append)
        with pytest.raises(EpisodeError, match='openai/parrot: an answer without end|connection was dropped'):
            RemoteLM('openai/parrot', engine)('Hello')


@pytest.mark.parametrize(
    'pieces',
    [
        (OK + b'content-length: 999999999999\r\n\r\n', b'x' * 65536),
        (OK + b'transfer-encoding: chunked\r\n\r\n', b'10000\r\n' + b'x' * 65536 + b'\r\n'),
        (b'HTTP/1.1 100 Continue\r\n\r\n' * 1000,),
        (b'HTTP/1.1 500 Oops\r\n\r\n', b'x' * 65536),
    ],
    ids=['length', 'chunks', 'interim', 'error'],
)
def test_a_flood_is_left_before_it_fills_the_memory(waits, monkeypatch, pieces):
    monkeypatch.setattr(remote, 'LONGEST', 1_000_000)
    with Raw(*pieces) as server:
        lm = RemoteLM('openai/parrot', RemoteEngine('openai', server.url, sleep=waits.append))
        with pytest.raises(EpisodeError, match='openai/parrot: an answer without end: 1,'):
            lm('Hello')
        assert server.sent < 50_000_000 and waits == [], 'what is beyond stays in the buffers of the system'


@pytest.mark.parametrize('packed', ['gzip', 'gzip, gzip', 'deflate', 'br', 'zstd'])
def test_a_packed_answer_is_not_unpacked(waits, packed):
    bomb = gzip.compress(bytes(10_000_000))
    for _ in packed.split(', ')[1:]:
        bomb = gzip.compress(bomb)
    head = OK + f'content-encoding: {packed}\r\ncontent-length: {len(bomb)}\r\n\r\n'.encode()
    with Raw(head + bomb) as server:
        lm = RemoteLM('openai/parrot', RemoteEngine('openai', server.url, sleep=waits.append))
        with pytest.raises(EpisodeError, match=f'an answer packed as {packed}: it was not asked for'):
            lm('Hello')


def test_answers_are_asked_for_as_they_are(server, lm):
    lm('Hello')
    assert server.asked[0]['headers']['accept-encoding'] == 'identity'


def test_a_list_of_models_that_drips_is_left(server, monkeypatch):
    "The list has the limits of an answer; without it the model is asked."
    monkeypatch.setattr(remote, 'WHOLE', 1)
    server.models = 'drip'
    make_lm(f'openai/parrot@{server.url}', timeout=0.5).check()
    assert len(server.asked) == 1


@pytest.mark.parametrize('proxied', [False, True])
def test_every_connection_of_a_client_is_limited(monkeypatch, proxied):
    "Also through a proxy of the environment, and of the library that OpenAI's own client uses now."
    if proxied:
        monkeypatch.setenv('HTTP_PROXY', 'http://127.0.0.1:9')
        monkeypatch.setenv('ALL_PROXY', 'http://127.0.0.1:9')
    for library in filter(None, (httpx, sys.modules.get('httpx2'))):
        client = remote.limited(library.Client(), 1.0)
        ways = [t for t in (client._transport, *client._mounts.values()) if t]
        assert all(isinstance(t._pool._network_backend, remote._Limited) for t in ways)
        assert (len(ways) > 1) == proxied


# --- a run of episodes ---

TASKS = list_tasks('corridor', 'train', 4)


def test_a_call_that_finally_fails_is_a_recorded_failure(server, waits, tmp_path):
    agent = Agent(
        RemoteLM('openai/parrot', RemoteEngine('openai', server.url + '/v1', sleep=waits.append)), think=False
    )
    server.otherwise = lambda body: (
        (500, dict(error=dict(message='oops'))) if len(body['messages']) > 2 else (200, chat('forward'))
    )
    with Runner('corridor', workers=2, progress=False) as run:
        played = run(agent, TASKS[-2:], journal=tmp_path / 'j.jsonl')
    assert [(t.termination, t.score, t.error) for t in played] == [
        ('error', None, 'EpisodeError: openai/parrot: oops (HTTP 500)')
    ] * 2
    assert '127.0.0.1' not in (tmp_path / 'j.jsonl').read_text()


def test_a_model_that_cannot_be_had_stops_before_the_first_episode(server, tmp_path, monkeypatch):
    with Runner('corridor', workers=1, progress=False) as run:
        monkeypatch.setattr(run.pool, 'session', lambda *a: pytest.fail('an episode was begun'))
        for spec, message in (
            (f'openai/parot@{server.url}', 'no such model; it offers: llama3.1:latest, parrot'),
            ('openai/parrot@http://127.0.0.1:9', 'nobody answers at its address'),
        ):
            with pytest.raises(AgentkitError, match=message):
                run(make_policy(spec), TASKS, journal=tmp_path / 'j.jsonl')
    assert not server.asked and not (tmp_path / 'j.jsonl').exists()


def test_a_key_that_is_withdrawn_stops_the_run_and_it_resumes(server, tmp_path):
    agent = Agent(make_lm(f'openai/parrot@{server.url}'), think=False)
    server.script, server.otherwise = [(200, chat('forward'))] * 3, (403, {})
    with Runner('corridor', workers=1, progress=False) as run:
        with pytest.raises(AgentkitError, match='does not accept the key'):
            run(agent, TASKS, journal=tmp_path / 'j.jsonl')
        done = len(Journal(tmp_path / 'j.jsonl'))
        server.otherwise = (200, chat('forward'))
        played = run(agent, TASKS, journal=tmp_path / 'j.jsonl')
        assert 0 < done < len(TASKS) and all(t.termination == 'won' for t in played), [t.termination for t in played]
        gets = len(server.gets)
        assert run(agent, TASKS, journal=tmp_path / 'j.jsonl') == played and len(server.gets) == gets, (
            'nothing is asked for a run that is complete'
        )


def test_the_command_line_takes_an_address_and_writes_it_nowhere(server, results, capsys):
    from agentkit.cli import main

    server.otherwise = (200, chat('forward'))
    play = lambda model: main(
        f'evaluate --env corridor --policy openai/{model}@{server.url} --split train --tasks 2 --workers 1'.split()
    )
    assert not play('parrot')
    assert 'openai/parrot' in capsys.readouterr().out
    written = [p.read_text() for p in results.rglob('*') if p.is_file()]
    assert len(written) >= 3 and not any('127.0.0.1' in text or str(server.server_port) in text for text in written)
    assert play('parot')
    assert 'no such model; it offers' in capsys.readouterr().err


# --- check ---


def test_the_check_asks_for_the_list(server):
    for spec in ('openai/parrot', 'ollama_chat/llama3.1', 'hosted_vllm/parrot'):
        make_lm(f'{spec}@{server.url}').check()
    assert server.gets == ['/v1/models'] * 3 and not server.asked


def test_without_a_list_it_asks_for_one_token(server):
    server.models = 404
    make_lm(f'openai/parrot@{server.url}').check()
    assert server.asked[0]['body']['max_tokens'] == 1
    server.otherwise = (404, dict(error=dict(message='model not found')))
    with pytest.raises(AgentkitError, match='no such model, or no such address .*model not found'):
        make_lm(f'openai/parrot@{server.url}').check()


@pytest.mark.parametrize('status', [401, 403])
def test_the_check_finds_a_wrong_key(server, status):
    server.models = status
    with pytest.raises(AgentkitError, match='does not accept the key in AGENTKIT_API_KEY'):
        make_lm(f'openai/parrot@{server.url}').check()


def test_a_list_that_fails_for_a_moment_is_no_verdict(server):
    server.models = 503
    make_lm(f'openai/parrot@{server.url}').check()
    assert len(server.asked) == 1


def test_a_name_that_is_not_found_in_dns():
    with pytest.raises(AgentkitError, match='nobody answers at its address'):
        make_lm('openai/parrot@http://no-such-host.invalid').check()


# --- how many at once ---


class Gate:
    "Answers that wait until they are let go; `inside` are those the server is working on, the oldest first."

    def __init__(self, server):
        self.inside, self.changed, self.opened = [], threading.Condition(), False
        server.otherwise = self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        with self.changed:
            self.opened = True
        self.let(len(self.inside), (200, chat()))

    def __call__(self, body):
        answer = Future()
        with self.changed:
            if self.opened:
                return 200, chat()
            self.inside.append(answer)
            self.changed.notify_all()
        return answer.result(60)

    def settles_at(self, n):
        "Exactly n calls come in, and no more."
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.inside) >= n, 30), len(self.inside)
        time.sleep(0.2)
        assert len(self.inside) == n

    def let(self, n, answer):
        "Answer n calls that are inside, and none that comes later."
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.inside) >= n, 30), len(self.inside)
            going, self.inside = self.inside[:n], self.inside[n:]
        for waiting in going:
            waiting.set_result(answer)


def test_what_the_server_sees_shrinks_on_429_and_recovers(server):
    lm = RemoteLM('openai/parrot', RemoteEngine('openai', server.url + '/v1', sleep=lambda seconds: None))
    line = lm.engine.throttle
    line.most = line.limit = 8
    copies = [lm, lm.copy(), copy.deepcopy(lm)]
    with ThreadPoolExecutor(24) as threads, Gate(server) as gate:
        calls = [threads.submit(copies[i % 3], 'Hello') for i in range(60)]
        gate.settles_at(8)
        gate.let(8, (429, {}))  # one round of refusals halves once, not eight times
        gate.settles_at(4)
        gate.let(4, (429, {}))
        gate.settles_at(2)
        assert line.limit == 2
        gate.let(2, (200, chat()))  # a full round of successes: one more
        gate.settles_at(3)
        gate.let(3, (200, chat()))
        gate.settles_at(4)
        for n in (4, 5, 6, 7):
            gate.let(n, (200, chat()))
        gate.settles_at(8)
        gate.let(8, (200, chat()))
        gate.settles_at(8)  # never more than at the start
    assert all(c.result() == ['look'] for c in calls) and line.flying == 0


def test_one_endpoint_has_one_throttle(server):
    one, other = make_lm(f'openai/parrot@{server.url}'), make_lm(f'openai/other@{server.url}')
    assert (
        one.engine.throttle
        is other.engine.throttle
        is copy.deepcopy(one).engine.throttle
        is one.copy(temperature=1.0).engine.throttle
    )
    program = dspy.Predict('question -> answer')
    program.set_lm(one)
    assert program.deepcopy().lm.engine is one.engine
    assert make_lm('openai/parrot@http://127.0.0.1:9').engine.throttle is not one.engine.throttle


def test_other_failures_give_the_place_back():
    line = Throttle(2)
    for error in (lm15.ServerError('x'), ValueError('x'), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            with line.call():
                raise error
    assert (line.flying, line.limit, line.won) == (0, 2, 0)


# --- held to the possible actions ---


def obedient(body):
    "A server that keeps to a schema: it takes the last action of the enum, or thinks if it may."
    format_ = body.get('response_format')
    if not format_:
        return 200, chat('I would look.')
    enum = format_['json_schema']['schema']['properties']['action']['enum']
    return 200, chat(
        json.dumps(dict(action='think', thought='Where are mugs?') if 'think' in enum else dict(action=enum[-1]))
    )


def play(lm, **kwargs):
    return said(Agent(lm, **kwargs).act(STATE))


def formats(server):
    return ['response_format' in a['body'] for a in server.asked]


def test_a_server_that_keeps_to_the_schema_is_held_to_it(server, lm):
    server.otherwise = obedient
    assert [play(lm, think=False) for _ in range(2)] == ['look'] * 2 and formats(server) == [True] * 2
    schema = server.asked[0]['body']['response_format']['json_schema']
    assert schema['strict'] is True and schema['schema'] == dict(
        type='object',
        properties=dict(action=dict(type='string', enum=ACTIONS)),
        required=['action'],
        additionalProperties=False,
    )


def test_thinking_stays_possible(server, lm):
    server.otherwise = obedient
    assert play(lm) == 'think: Where are mugs?'
    assert server.asked[0]['body']['response_format']['json_schema']['schema']['required'] == ['action', 'thought']
    assert THINK not in json.dumps(server.asked[0]['body']['response_format'])


def test_a_server_that_refuses_the_schema_is_asked_plainly_from_then_on(server, lm):
    server.otherwise = lambda body: (
        (400, dict(error=dict(message='response_format is not supported')))
        if 'response_format' in body
        else (200, chat('Go to desk 1'))
    )
    assert [play(lm) for _ in range(3)] == ['go to desk 1'] * 3 and formats(server) == [True, False, False, False]
    assert play(lm.copy()) == play(copy.deepcopy(lm)) == 'go to desk 1' and formats(server)[4:] == [False, False], (
        'copies know it too'
    )


def test_a_server_that_ignores_the_schema_is_found_out(server, lm):
    server.otherwise = (200, chat('> look'))
    assert [play(lm) for _ in range(2)] == ['look'] * 2 and formats(server) == [True, False]


def test_an_answer_that_was_cut_off_says_nothing_about_the_server(server, lm):
    server.script, server.otherwise = [(200, chat('{"action": "think", "thought": "I need a', 'length'))], obedient
    assert play(lm) == 'think: I need a'
    assert play(lm, think=False) == 'look' and formats(server) == [True, True]


def test_a_refusal_that_is_not_about_the_schema_changes_nothing(server, lm):
    server.otherwise = (400, dict(error=dict(message='I do not talk about that')))
    with pytest.raises(EpisodeError, match='I do not talk about that'):
        play(lm)
    server.otherwise = obedient
    assert play(lm, think=False) == 'look' and formats(server) == [True, False, True]


def test_a_tool_call_is_held_to_its_schema(server, lm):
    tools = ToolCall({'go': dict(properties=dict(to=dict(enum=['desk', 'shelf'])), required=['to'])})
    call = dict(tool='go', arguments=dict(to='desk'))
    server.otherwise = (200, chat(json.dumps(call)))
    action = Agent(lm, think=False).act(State(Task('mug', 'house'), Observation('Find a mug.', tools))).action
    assert json.loads(action) == call and tools.allows(action)
    assert server.asked[0]['body']['response_format']['json_schema']['schema'] == tools.schema()


def test_other_schemas_are_left_alone(server, lm):
    schema = dict(
        type='json_schema',
        json_schema=dict(name='verdict', schema=dict(type='object', properties=dict(ok=dict(type='boolean')))),
    )
    server.otherwise = (400, {})
    with pytest.raises(EpisodeError):
        lm(messages=ASK, response_format=schema)
    assert formats(server) == [True]


@pytest.mark.parametrize('bad', [[], [''], ['look', '']])
def test_a_choice_needs_choices(lm, bad):
    with pytest.raises(AgentkitError, match='at least one action'):
        lm.hold(Choice(bad))


# --- reading replies ---

POSSIBLE = [
    'go to desk 1',
    'go to desk 2',
    'go to drawer 12',
    'take mug 1 from desk 1',
    'open drawer 1',
    'move mug 1 to shelf 1',
    'use desklamp 1',
    'look',
    'inventory',
]


@pytest.mark.parametrize(
    'reply, action',
    [
        ('look', 'look'),
        ('> look', 'look'),
        ('  Look.  ', 'look'),
        ('"look"', 'look'),
        ('`look`', 'look'),
        ('**look**', 'look'),
        ('- look', 'look'),
        ('1. look', 'look'),
        ('1) go to desk 2', 'go to desk 2'),
        ('Action: look', 'look'),
        ('**Action:** look', 'look'),
        ('Next action: "go to desk 1".', 'go to desk 1'),
        ('My next action: look', 'look'),
        ('GO TO DESK 2', 'go to desk 2'),
        ('go  to\tdesk 2', 'go to desk 2'),
        ('I see a desk.\n\nAction: go to desk 1\nIt may hold a mug.', 'go to desk 1'),
        ('Thought: a mug is needed.\nAction: go to desk 1', 'go to desk 1'),
        ('```\nlook\n```', 'look'),
        ('{"action": "look"}', 'look'),
        ('```json\n{"action": "go to desk 2"}\n```', 'go to desk 2'),
        ('{"Action": "go to desk"}', 'go to desk 1'),
        ("{'action': 'look'", 'look'),
        ('Sure: {"action": "look"} as you wish', 'look'),
        ('{"action": "think", "thought": "a\\nb"}', 'think: a b'),
        ('{"action": "think"}', 'think'),  # nothing was thought
        ('think: I look around\nlook', 'think: I look around'),
        ('> think: hm', 'think: hm'),
        ('go to desk', 'go to desk 1'),
        ('goto desk 2', 'go to desk 2'),
        ('take the mug 1 from the desk 1', 'take mug 1 from desk 1'),
        ('take mug from desk', 'take mug 1 from desk 1'),
        ('use desk lamp', 'use desklamp 1'),
        # another thing, another verb or no action at all stays what it was: an invalid step
        ('take mug 2 from desk 1', 'take mug 2 from desk 1'),
        ('take cup 1 from desk 1', 'take cup 1 from desk 1'),
        ('go to desk 3', 'go to desk 3'),
        ('go to drawer 1', 'go to drawer 1'),
        ('close drawer 1', 'close drawer 1'),
        ('fly away', 'fly away'),
        ('I should look for it', 'I should look for it'),
        ('{"verb": "look"}', '{"verb": "look"}'),
        ('{"action": {"name": "look"}}', '{"action": {"name": "look"}}'),
        ('[1, {2', '[1, {2'),
        ('', ''),
        ('\n \n', ''),
        ('```\n```', ''),
        ('> ', '>'),
    ],
)
def test_replies_are_read(reply, action):
    assert said(read_reply(reply, Choice(POSSIBLE))) == action


@given(
    st.sampled_from(POSSIBLE),
    st.sampled_from(
        [
            '{}',
            '> {}',
            'Action: {}',
            '**{}**',
            '"{}"',
            'I think so.\n{}',
            '{{"action": "{}"}}',
            '{}.',
            '```\n{}\n```',
            '{}\n\nand then we will see',
        ]
    ),
)
def test_a_possible_action_is_found_in_any_wrapping(action, wrapping):
    assert said(read_reply(wrapping.format(action), Choice(POSSIBLE))) == action


@given(st.text(max_size=80))
def test_any_reply_is_an_action_or_a_line_of_it(reply):
    text = said(read_reply(reply, Choice(POSSIBLE)))
    assert text in POSSIBLE or text in reply or text.startswith('think:')
    assert '\n' not in text


def test_what_was_read_is_what_is_traced_and_learned(server, lm):
    server.otherwise = (200, chat('**Action:** Go to desk'))
    with dspy.context(trace=[]):
        assert play(lm) == 'go to desk 1'
        assert dspy.settings.trace[0][2].action == 'go to desk 1'


# --- counts and prices ---


def test_usage_is_counted(server, lm):
    server.script = [
        (
            200,
            {
                **chat(),
                'usage': dict(
                    prompt_tokens=100,
                    completion_tokens=7,
                    total_tokens=107,
                    prompt_tokens_details=dict(cached_tokens=64),
                ),
            },
        )
    ]
    with dspy.track_usage() as used:
        lm('Hello')
        lm('Hello')
    assert usage(used) == dict(calls=2, tokens_in=109, tokens_cached=64, tokens_out=9)


def test_cached_input_is_part_of_the_input_everywhere(server):
    server.otherwise = (
        200,
        dict(
            id='x',
            type='message',
            role='assistant',
            model='claude',
            stop_reason='end_turn',
            content=[dict(type='text', text='look')],
            usage=dict(input_tokens=10, output_tokens=2, cache_read_input_tokens=90, cache_creation_input_tokens=5),
        ),
    )
    lm = make_lm(f'anthropic/claude@{server.url}')
    with dspy.track_usage() as used:
        assert lm('Hello') == ['look']
    assert usage(used) == dict(calls=1, tokens_in=105, tokens_cached=90, tokens_out=2)
    assert server.asked[0]['path'] == '/v1/messages'


def test_every_price_is_known_or_none(monkeypatch, tmp_path):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    mini = price('openai/gpt-4o-mini')
    assert 0 < mini['cached'] < mini['input'] < mini['output'] < 100
    assert price('openai/ft:gpt-4o-mini-2024-07-18:org::abc')['input'] > 0
    assert price('anthropic/claude-haiku-4-5')['output'] > price('anthropic/claude-haiku-4-5')['input'] > 0
    for nobody in (
        'openai/none-such',
        'gpt-4o-mini',
        'groq/gpt-4o-mini',
        'openai/gpt-4o-mini@http://127.0.0.1:8080',
        'openai/gpt-4o-mini+0.25',
        'hosted_vllm/llama',
    ):
        assert price(nobody) is None and cost(nobody, 1, 0, 1) is None
    for free in ('local/nano-1', 'expert', 'random-reader-3', 'scripted', 'teacher'):
        assert cost(free, 10**6, 0, 10**6) == 0
    assert cost('openai/gpt-4o-mini', 10**6, 10**6, 0) == pytest.approx(mini['cached'])
    assert cost('openai/gpt-4o-mini', 0, 0, 10**6) == pytest.approx(mini['output'])


def test_an_own_price_wins(monkeypatch, tmp_path):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    (tmp_path / 'prices.json').write_text(
        json.dumps({'openai/gpt-4o-mini': dict(input=1, output=2), 'openai/mine': dict(input=0, output=0, cached=0)})
    )
    assert (
        price('openai/gpt-4o-mini@http://127.0.0.1:8080')
        == price('openai/gpt-4o-mini')
        == dict(input=1, cached=1, output=2)
    )
    assert cost('openai/mine', 10**6, 0, 10**6) == 0


@pytest.mark.parametrize(
    'row', [dict(input=1), dict(input=1, output=-2), dict(input='1', output=2), dict(input=1, output=2, images=3), 5]
)
def test_a_price_that_is_none_is_named(monkeypatch, tmp_path, row):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    (tmp_path / 'prices.json').write_text(json.dumps({'openai/x': row}))
    with pytest.raises(AgentkitError, match='the price of openai/x is'):
        price('openai/x')


# --- a real server ---


@pytest.fixture(scope='module')
def nano(tmp_path_factory):
    "The address of a real llama.cpp server with a tiny model."
    pytest.importorskip('torch')
    pytest.importorskip('xllamacpp')
    from agentkit.models import serving
    from agentkit.training.bases import make_nano

    with pytest.MonkeyPatch.context() as m:
        m.setenv('AGENTKIT_PATHS_DATA', str(tmp_path_factory.mktemp('data')))
        served = serving.serve(make_nano(DESKS, size='tiny', vocabulary=300), slots=2, context=1024, threads=1)
        yield served
        serving.stop_servers(served.model)


def ask(server, model='', **options):
    return make_lm(f'openai/{model or server.model}', api_base=server.url, api_key=server.key, **options)


def test_a_real_server_is_held_to_the_possible_actions(nano):
    lm = ask(nano, temperature=2.0)
    lm.check()
    assert {play(lm, think=False) for _ in range(6)} <= set(ACTIONS) and not lm.engine.plain
    assert json.loads(lm.history[-1]['outputs'][0])['action'] in ACTIONS, 'the reply itself is JSON'
    assert lm.history[-1]['usage']['prompt_tokens'] > 0 and lm.model == f'openai/{nano.model}'


def test_a_real_server_is_read_plainly(nano):
    lm = ask(nano, max_tokens=8)
    lm.engine.plain.add(lm.model)
    reply = play(lm, think=False)
    assert reply == said(read_reply(lm.history[-1]['outputs'][0], Choice(ACTIONS)))
    assert 'response_format' in lm.history[-1]['kwargs'] and len(lm.history) == 1


def test_a_real_server_is_checked(nano):
    with pytest.raises(AgentkitError, match=f'no such model; it offers: {nano.model}'):
        ask(nano, 'nanu').check()


def test_a_conversation_that_outgrows_a_real_server_ends_one_episode(nano):
    with pytest.raises(EpisodeError, match='context'):
        ask(nano)('word ' * 2000)


def test_a_local_model_is_checked_too(nano):
    agent = make_policy(f'local/{nano.model}', slots=2, context=1024, threads=1)
    agent.check()
    assert agent.lm.server is nano
    with pytest.raises(AgentkitError, match="no model 'none-such'"):
        make_policy('local/none-such').check()


@pytest.mark.slow
@pytest.mark.llm
@pytest.mark.timeout(1200)
def test_a_pretrained_model_plays_a_household_game_over_http():
    "SmolLM2-135M-Instruct as shipped, zero-shot: it plays; nobody expects it to win."
    pytest.importorskip('xllamacpp')
    from agentkit.models import serving
    from agentkit.training.bases import find_smollm2

    with serving.serve(find_smollm2(), slots=1, context=8192) as served:
        lm = ask(served)
        with Runner('alfworld', limits=Limits(max_steps=6), workers=1, progress=False) as run:
            (t,) = run(Agent(lm), list_tasks('alfworld', 'valid_unseen', 1))
    assert t.termination in ('won', 'max_steps', 'loop') and t.invalid == 0 and t.policy == f'openai/{served.model}'
    assert t.usage['tokens_in'] > t.usage['tokens_out'] > 0 and not lm.engine.plain
