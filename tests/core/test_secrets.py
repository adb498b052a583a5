"Secrets: what is planted is taken out, what is not secret stays, and no text takes longer than its length."

import base64
import io
import json
import urllib.parse

import pytest
from conftest import ROOT
from hypothesis import given, strategies as st

from agentkit.core.secrets import Masked, Redactor, error_line, holds_secret, redact
from agentkit.core.settings import without_keys

TAIL = 'aB3' * 12
PLANTED = {
    'sk-' + TAIL: 'api key',
    'sk-proj-' + TAIL: 'api key',
    'gsk_' + TAIL: 'api key',
    'hf_' + TAIL: 'api key',
    'ghp_' + TAIL: 'api key',
    'glpat-' + TAIL: 'api key',
    'AIza' + 'Sy0-_' * 7: 'api key',
    'AKIA' + 'IOSFODNN7EXAMPLE': 'aws key',
    'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.' + TAIL: 'token',
    'eyJhbGci-iJIUzI1Ni.eyJzdWIiOiIxMjM0In0.' + TAIL: 'token',
    '-----BEGIN RSA PRIVATE KEY-----\nMIIE\n' + TAIL + '\n-----END RSA PRIVATE KEY-----': 'private key',
    '-----BEGIN PRIVATE KEY-----\n' + TAIL: 'private key',
}


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('secret', PLANTED, ids=lambda s: s[:12])
@pytest.mark.parametrize('around', ['{}', 'my key is {}, thanks', '"{}"', 'x={}&y=1', '\n{}\n'])
def test_planted_secrets_are_found(secret, around, strict):
    r = Redactor(strict=strict)
    out = r(dict(deep=[around.format(secret)]))
    assert TAIL not in str(out) and secret not in str(out)
    assert sum(r.counts.values()) == 1 and PLANTED[secret] in r.counts
    if secret.startswith('-----') and not secret.endswith('-----'):
        around = around.partition('}')[0] + '}'  # a key that does not end takes the rest with it
    assert out['deep'][0] == around.format(f'[{PLANTED[secret]}]')


@pytest.mark.parametrize(
    'text, left',
    [
        ('Authorization: Bearer abc123def456ghi', 'Authorization: Bearer [token]'),
        ('http://me:hunter22@host:80/v1', 'http://[password]@host:80/v1'),
        ('http://me:hun@ter@host:80/v1', 'http://[password]@host:80/v1'),
        ('psql me:swordfish@db', 'psql [password]@db'),
        ('{"api_key": "correct horse battery"}', '{"api_key": "[password]"}'),
        ('{\\"password\\": \\"swordfish\\"}', '{\\"password\\": \\"[password]\\"}'),
        ('export MY_API_KEY=abcd1234efgh', 'export MY_API_KEY=[password]'),
        ("password='swordfish'", "password='[password]'"),
        ('Authorization: Basic YW5uOnBhc3M=', 'Authorization: Basic [token]'),
        ("{'authorization': 'Basic YWFh'}", "{'authorization': 'Basic [token]'}"),
        ('GET /v1/x?key=abcd1234efgh&alt=json', 'GET /v1/x?key=[token]&alt=json'),
        ('http:\\/\\/me:hunter22@host\\/v1', 'http:\\/\\/[password]@host\\/v1'),
        ('?next=http%3A%2F%2Fme%3Ahunter22%40host', '?next=http%3A%2F%2F[password]%40host'),
        ('redis://:hunter22@host', 'redis://[password]@host'),
        ('http://me:hunter22@[::1]:80/', 'http://[password]@[::1]:80/'),
    ],
    ids=lambda _: 'text',  # pytest writes the ids into the environment, where secrets are learned
)
def test_secrets_by_their_place(text, left):
    assert redact(text) == redact(text, strict=True) == left


@pytest.mark.parametrize(
    'text, kept',
    [
        ('go to shelf 1', True),
        ('openai/tiny@http://127.0.0.1:8080/v1', True),
        ('max_tokens=200, tokens: 12', True),
        ('a token of love', True),
        ('', True),
        ('key: shelf', True),
        ('ollama_chat/llama3.1:8b@http://127.0.0.1:1/v1', True),
        ('On the shelf 1: a mug@home', True),
        ('at 12:30 @ home', True),
        ('http://secretword@host/v1', False),
        ('sk-' + 'abcdefghijklmnopqrst', False),
        ('Authorization: Bearer abcdefgh', False),
        ("LM(model, api_key='secretword')", False),
        ('?api_key=secretword&x=1', False),
        ('password: secretword', False),
        ('failed to connect to me:secretword@127.0.0.1:80', False),
    ],
    ids=lambda _: 'text',
)
def test_what_leaves_the_machine_is_read_strictly(text, kept):
    strict = Redactor(strict=True, mark='***')
    assert (strict(text) == text) == kept
    assert kept or not any(w in strict(text) for w in ('secretword', 'abcdefgh'))


def test_values_of_secret_variables(monkeypatch):
    for name in ('MY_KEY', 'A_TOKEN', 'client_secret', 'DB_PASSWORD'):
        monkeypatch.setenv(name, f'plain words of {name}')
    monkeypatch.setenv('KEYBOARD', 'qwerty layout'), monkeypatch.setenv('SHORT_KEY', 'mug')
    monkeypatch.setenv('PROXY', 'http://ann:correcthorse@proxy:3128')
    r = Redactor()
    names = 'plain words of MY_KEY and plain words of A_TOKEN, plain words of client_secret; plain words of DB_PASSWORD'
    assert r(names) == '[environment] and [environment], [environment]; [environment]'
    assert r.counts == {'environment': 4} and r('a mug on a qwerty layout') == 'a mug on a qwerty layout'
    assert r('The proxy said no to correcthorse.') == 'The proxy said no to [environment].'


@pytest.mark.parametrize('secret', ['correct horse/battery+"staple"', 'schlüssel/zum+café', 'back\\slash\\es'])
def test_a_secret_is_found_however_it_is_written(secret, monkeypatch):
    monkeypatch.setenv('DB_PASSWORD', secret)
    written = [
        secret,
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        json.dumps(secret).replace('/', '\\/'),
    ]
    written += [urllib.parse.quote(secret), urllib.parse.quote(secret, ''), urllib.parse.quote_plus(secret)]
    written += [base64.b64encode(secret.encode()).decode()]
    for text in written:
        assert redact(f'<{text}>').strip('<>"=') == '[environment]', text


@pytest.mark.parametrize(
    'value', ['1', 'true', 'none', 'EMPTY', 'mug', 'not-needed', 'corridor', 'localhost', '/tmp', ' ']
)
def test_values_that_are_no_secrets_do_not_shred_the_text(value, monkeypatch):
    for name in ('KEY', 'OPENAI_API_KEY', 'MY_TOKEN'):
        monkeypatch.setenv(name, value)
    text = f'In corridor 1 there is 1 mug: true, none, EMPTY, not-needed, localhost, /tmp/x; {value}'
    assert redact(text) == text


def test_a_word_that_is_a_password_is_taken_out_alone(monkeypatch):
    monkeypatch.setenv('DB_PASSWORD', 'swordfish')
    assert redact('swordfish, swordfishes, "swordfish"') == '[environment], swordfishes, "[environment]"'


def test_a_key_with_its_address_is_a_key(monkeypatch):
    monkeypatch.setenv('AGENTKIT_API_KEY', 'plain-words-key@http://one:1 other-words-key@http://two:2')
    assert redact('plain-words-key and other-words-key') == '[environment] and [environment]'


def test_children_get_no_keys(monkeypatch):
    secret = dict(OPENAI_KEY_2='x', HF_TOKENS='x', DB_PASSWD='x', MY_PAT='x', GOOGLE_CREDENTIALS='x', client_secret='x')
    secret |= dict(NOTE=f'sk-{TAIL}', DATABASE_URL='postgres://ann:correcthorse@db')
    plain = dict(
        PATH_TO='/bin',
        KEYBOARD='de',
        TOKENIZERS_PARALLELISM='1',
        HTTPS_PROXY='http://ann:pw@proxy:1',
        HOST_URL='http://h',
    )
    for name, value in (secret | plain).items():
        monkeypatch.setenv(name, value)
        assert holds_secret(name, value) == (name in secret), name
    assert not set(secret) & set(without_keys()) and set(plain) <= set(without_keys())


@given(st.lists(st.integers(1, 9), max_size=30))
def test_a_stream_hides_a_key_that_comes_in_pieces(cuts):
    text, shown = f'before\r10%|#\rkey sk-{TAIL} behind\nhttp://ann:correcthorse@host/\nthe end', io.StringIO()
    with Masked(shown) as stream:
        for n in cuts:
            stream.write(text[:n])
            text = text[n:]
        stream.write(text)
    assert shown.getvalue() == 'before\r10%|#\rkey *** behind\nhttp://***@host/\nthe end'


class Interrupted(io.StringIO):
    "A file whose writes are interrupted by a signal, whose handler writes to the same stream."

    handler, inside = None, False

    def _alone(self, do):
        assert not self.inside, 'reentrant call'
        self.inside = True
        handler, self.handler = self.handler, None
        if handler:
            handler()
        result = do()
        self.inside = False
        return result

    def write(self, text):
        return self._alone(lambda: io.StringIO.write(self, text))

    def flush(self):
        self._alone(lambda: None)


@pytest.mark.parametrize('during', ['write', 'flush'])
def test_a_signals_handler_may_write_in_the_middle_of_a_line(during):
    file = Interrupted()
    with Masked(file) as stream:

        def handler():
            stream.write('interrupted\n')
            stream.flush()

        stream.write('before\n')
        file.handler = handler
        stream.write('a line\n') if during == 'write' else stream.flush()
        stream.write('after')
    assert file.getvalue() == f'before\n{"a line" + chr(10) if during == "write" else ""}interrupted\nafter'


PEM = '-----BEGIN RSA PRIVATE KEY-----\n' + (TAIL + '\n') * 3 + '-----END RSA PRIVATE KEY-----'


def masked(pieces):
    shown = io.StringIO()
    with Masked(shown) as stream:
        for piece in pieces:
            stream.write(piece)
    return shown.getvalue()


@given(st.lists(st.integers(1, 60), max_size=20), st.sampled_from(['', '12:00 INFO ', '> ']))
def test_a_stream_hides_a_key_of_several_lines(cuts, prefix):
    text = f'before\n{PEM}\nbetween\n{PEM}\nafter\n'.replace('\n', f'\n{prefix}')
    pieces, at = [], 0
    for n in cuts:
        pieces.append(text[at : at + n])
        at += n
    assert masked([*pieces, text[at:]]) == 'before\n***\nbetween\n***\nafter\n'.replace('\n', f'\n{prefix}')
    assert masked(text.splitlines(keepends=True)) == masked(text) == masked([text])


@given(st.lists(st.integers(1, 30), max_size=20))
def test_a_stream_hides_a_value_of_several_lines(cuts):
    value = 'correct horse\nbattery staple\n\ncorrect horse\nand so on'
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SIGNING_KEY', value)
        text = f'correct horse\nbattery lamp\n{value}\nthe end\ncorrect horse\n'
        pieces, at = [], 0
        for n in cuts:
            pieces.append(text[at : at + n])
            at += n
        assert masked([*pieces, text[at:]]) == 'correct horse\nbattery lamp\n***\nthe end\ncorrect horse\n'


def test_what_only_begins_like_a_key_is_shown_later():
    "Words about a key are no reason to keep a log for ever; and a cut key on one line takes its line only."
    shown, line = io.StringIO(), 'a line of a log\n'
    stream = Masked(shown)
    stream.write('-----BEGIN PRIVATE KEY-----\n')
    for _ in range(Masked.key // len(line) + 2):
        assert not shown.getvalue() or shown.getvalue().startswith('***')
        stream.write(line)
    stream.write(line)
    assert shown.getvalue().endswith(line) and '***' in shown.getvalue()
    assert masked(['{"key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhki…\n', line]) == f'{{"key": "***{line}'


def test_a_stream_does_not_keep_a_line_without_an_end():
    shown = io.StringIO()
    stream = Masked(shown)
    for _ in range(3):
        stream.write('a' * 50_000)
    assert len(shown.getvalue()) >= 100_000


def test_the_name_of_a_field_can_be_left_out_of_account():
    schema = dict(api_key=dict(type='string'), password='the word', tokens=[1])
    assert redact(schema, names=False) == schema
    assert redact(schema) == {**schema, 'password': '[password]'}
    assert redact(dict(passwords=['a', 'b'])) == dict(passwords=['[password]'] * 2)


def test_values_under_secret_names_and_what_a_model_was_given():
    secret = dict(api_key='x', Authorization='y', hf_token='z', aws_secret_access_key='w')
    plain = dict(max_tokens=5, eos=1, password=None, token='mug')
    strict = Redactor(strict=True, mark='***')
    assert strict(secret | plain) == dict.fromkeys(secret, '***') | plain and strict.counts == dict(password=4)
    assert strict([dict(a=(dict(client_secret='x'),))]) == [dict(a=(dict(client_secret='***'),))]
    strict.learn(dict(engine=dict(api_key='correct-horse', base='http://ann:battery-staple@host')))
    assert strict('correct-horse, battery-staple') == '***, ***'


def test_ordinary_text_is_left_alone():
    household = (
        'You see a keychain 2, a tokencard 1, a desk 1 and a key 3. The password is under the mat: look there. '
        'Secret: behind the drawer. Ask risk-averse task-oriented desk-lamp-and-bookshelf people. '
        'token: mug, max_tokens=4096, "tokens_in": 123456, bearer of bad news, the bearer transportation, '
        'http://host:8080/v1, me@host is here, sk-learn, AKIA'
    )
    r = Redactor()
    assert r(household) == household
    for path in sorted((ROOT / 'notebooks').rglob('*.ipynb')):
        for c in json.loads(path.read_text())['cells']:
            if c['cell_type'] == 'markdown':
                assert r(''.join(c['source'])) == ''.join(c['source']), path.name
    assert not r.counts
    assert redact('write to ana.b@example.org.', emails=True) == 'write to [e-mail].'
    assert redact('write to ana.b@example.org.') == 'write to ana.b@example.org.'


@given(st.text('ab1 :@/.=-"\n[', max_size=60), st.booleans())
def test_twice_is_once(text, strict):
    text = text.replace('b1', 'sk-').replace('ab', 'password').replace('1:', '://')
    once = redact(text, emails=True, strict=strict)
    assert redact(once, emails=True, strict=strict) == once


def test_an_error_is_one_line_without_secrets():
    error = ValueError(f'refused: Authorization: Bearer {TAIL}\nand more')
    assert error_line(error) == 'ValueError: refused: Authorization: Bearer [token]'
    assert error_line(KeyError()) == 'KeyError: '


PARTS = (
    *('a', 'a.', 'a:', 'a@', 'a:@', 'x:y@', '.@', 'a:b,', 'a.b-c_', ' ', '=', '"', '\\', '://', '://a:', 'sk-', 'sk_'),
    *('eyJ-', 'eyJ.', 'eyJaaaaaaaaa.', 'AIza', 'AKIA', 'bearer ', 'token=', 'password=', 'secret="', 'api_key: '),
    *(
        '?key=',
        '&',
        '?key',
        '%3A%2F%2F',
        '%3A%2F%2Fa',
        'authorization: a ',
        'cookie:',
        'basic ',
        ':\\/\\/',
        '\\',
        ':',
        '/',
    ),
    *('-----BEGIN ', '-----BEGIN A', '-----BEGIN PRIVATE KEY-----', '-----END A'),
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('strict', [False, True])
def test_no_text_takes_longer_than_its_length(part, strict):
    "A scan that begins again at each letter would take many minutes; this one takes a moment."
    redact(part * (300_000 // len(part)), emails=True, strict=strict)
