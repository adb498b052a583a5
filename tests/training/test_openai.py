"Fine-tuning at a provider, against a server with OpenAI's API: the price first, one job, and the student plays."

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai as openai_client
import pytest

from agentkit.agents.policy import Agent, ConversationAdapter
from agentkit.agents.programs import Expert
from agentkit.agents.saving import load_agent, save_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json
from agentkit.data.formats import load_export
from agentkit.data.rows import rows
from agentkit.envs.find import list_tasks
from agentkit.models import names, remote
from agentkit.models.find import make_lm
from agentkit.rollouts import Runner
from agentkit.testing import openai_server
from agentkit.testing.openai_server import PracticeServer
from agentkit.training import openai
from agentkit.training.openai import OpenAIProvider, RemoteConfig, check_examples, estimate
from agentkit.training.providers import provider_of

BASE = 'openai/gpt-4o-mini-2024-07-18'
TASKS = list_tasks('corridor', 'train', 6)
TRAIN = dict(epochs=2, max_dollars=1.0, poll=0.05)
CREATE, UPLOAD = 'POST /fine_tuning/jobs', 'POST /files'


def row(word, *more):
    return dict(
        messages=[
            dict(role='system', content='Play.'),
            dict(role='user', content=f'Find a {word}.'),
            dict(role='assistant', content=f'take {word} 1'),
            *more,
        ]
    )


ROWS = [row(w) for w in 'mug cup jar pot pan pen key box lamp book'.split()]


@pytest.fixture(autouse=True)
def own_results(results, monkeypatch):
    monkeypatch.setattr(remote, 'FIRST', 0.01)
    for name in ('OPENAI_API_KEY', 'AGENTKIT_API_KEY'):
        monkeypatch.delenv(name, raising=False)
    return results


@pytest.fixture
def server():
    with PracticeServer(0.2) as s:
        yield s


@pytest.fixture(scope='module')
def run():
    with Runner('corridor', workers=2, progress=False) as run:
        yield run


def lm_of(server, model=BASE):
    return make_lm(f'{model}@{server.url}')


def provider(server, model=BASE):
    return provider_of(lm_of(server, model))


def tuned(server, rows=ROWS, **changes):
    "The name of the new model."
    return provider(server).train(rows, **{**TRAIN, **changes})


def refused(server, rows=ROWS, **changes):
    "What the error says."
    with pytest.raises(AgentkitError) as e:
        tuned(server, rows, **changes)
    return str(e.value)


def started(server, **changes):
    "A training in a thread: the provider, and what will come of it."
    trainer, threads = provider(server), ThreadPoolExecutor(1)
    future = threads.submit(trainer.train, ROWS, **{**TRAIN, **changes})
    threads.shutdown(wait=False)
    return trainer, future


def record(results):
    return read_json(next(results.glob('finetune/*/finetune_job.json')))


def test_teacher_to_student_through_the_api_and_the_student_plays(server, run, results, tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_API_KEY', 'planted-key')
    agent = Agent(lm_of(server), think=False, adapter=ConversationAdapter(show_actions=False))
    shown = rows(run(Expert(), TASKS), agent)
    agent.react.lm = agent.lm.copy(model=provider_of(agent.lm).train(shown, **{**TRAIN, 'steps': True}))
    assert agent.name.startswith('openai/ft:gpt-4o-mini-2024-07-18:practice:')
    played, asked = run(agent, TASKS), server.log.count('POST /chat/completions')
    assert all(t.won and not t.invalid for t in played), 'the prompt in training is the prompt in play'
    assert server.log.count(CREATE) == 1 and asked == sum(len(t.steps) for t in played)
    card, losses = (f(agent.name) for f in (provider_of(agent.lm).card, provider_of(agent.lm).losses))
    assert card['tokens'] == TRAIN['epochs'] * record(results)['tokens'] and card['dollars'] > 0
    assert card['base'] == BASE.removeprefix('openai/') and len(losses) == card['steps'] == 10
    assert list(losses['loss']) == sorted(losses['loss'], reverse=True)
    save_agent(agent, results / 'agent.json')
    for path in results.rglob('*'):
        if path.is_file():
            assert 'planted-key' not in path.read_text() and server.url not in path.read_text(), (
                f'{path} holds key or address'
            )
    with pytest.raises(AgentkitError, match='address'):
        load_agent(results / 'agent.json')
    again = load_agent(f'{results}/agent.json@{server.url}')
    assert again.name == agent.name and all(t.won for t in run(again, TASKS))


def test_an_untrained_model_does_not_play(server, run):
    agent = Agent(lm_of(server), think=False, adapter=ConversationAdapter(show_actions=False))
    assert not any(t.won for t in run(agent, TASKS[:2])), 'else the test above shows nothing'


def test_a_trained_model_is_trained_further(server):
    first = tuned(server)
    second = provider(server, first).train([*ROWS, row('cat')], **TRAIN)
    jobs = list(server.jobs.values())
    assert [f'openai/{j["model"]}' for j in jobs] == [BASE, first] and second != first
    assert provider(server).card(second)['base'] == first.removeprefix('openai/')


def test_what_is_missing_is_known_before_anybody_plays(server, monkeypatch):
    provider(server).check(**TRAIN)
    with pytest.raises(AgentkitError, match='unknown settings of a training at a provider: lr'):
        provider(server).check(lr=1)
    with pytest.raises(AgentkitError, match='OPENAI_API_KEY is not set'):
        OpenAIProvider(BASE).check()
    assert server.log == []


def test_nothing_is_sent_without_agreement(server):
    for limit, words in ((0.0, 'above max_dollars=0'), (1e-6, 'above max_dollars=1e-06')):
        assert words in refused(server, max_dollars=limit)
    assert server.log == []
    cost = estimate(ROWS, BASE, 2)
    assert cost.dollars == cost.tokens * 2 * 3.0 / 1e6
    assert tuned(server, max_dollars=cost.dollars).startswith('openai/ft:'), 'the limit itself is allowed'


def test_the_estimate_is_what_is_billed(server, results):
    tuned(server)
    assert record(results)['trained_tokens'] == 2 * record(results)['tokens']


def test_a_row_that_would_be_cut_is_refused():
    with pytest.raises(AgentkitError, match='row 2 has 1[0-9]{2},'):
        estimate([ROWS[0], row('mug ' * 70_000)], BASE)


def test_an_unknown_price_needs_a_price_or_any(server, tmp_path, monkeypatch):
    with pytest.raises(AgentkitError, match='at an unknown price'):
        provider(server, 'openai/gpt-9').train(ROWS, **{**TRAIN, 'max_dollars': 1e9})
    assert server.log == []
    name = provider(server, 'openai/gpt-9').train(ROWS, **{**TRAIN, 'max_dollars': math.inf})
    assert name.startswith('openai/ft:gpt-9:')
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    (tmp_path / 'prices.json').write_text(
        '{"openai/gpt-9": {"training": 7}, "openai/gpt-8": {"training": 7, "input": 1, "output": 2}}'
    )
    assert estimate(ROWS, 'openai/gpt-9').price == estimate(ROWS, 'openai/ft:gpt-9:org::1').price == 7
    assert names.price('openai/gpt-8') == dict(input=1, cached=1, output=2) and names.price('openai/gpt-9') is None


@pytest.mark.parametrize(
    'rows, message',
    [
        (ROWS[:9], '9 rows are too few'),
        ([*ROWS, row('x', dict(role='user', content='Thanks.'))], 'row 11 ends with a user message'),
        ([*ROWS, dict(messages=[dict(role='tool', content='x')])], "row 11: a message has role 'tool'"),
        ([*ROWS, row('x', dict(role='assistant', content=' '))], 'row 11: an empty assistant message'),
        ([*ROWS, dict(messages=[dict(role='user', content='Hello.')])], 'row 11: a row has no assistant message'),
        ([*ROWS, row('x', dict(role='assistant', content='y', loss=0.5))], 'row 11: an answer has the weight 0.5'),
        (
            [*ROWS, row('x', dict(role='assistant', content='y', loss=-1))],
            'row 11: an answer has the weight -1; OpenAI',
        ),
    ],
)
def test_rows_that_openai_refuses_are_named_before_the_upload(rows, message):
    with pytest.raises(AgentkitError, match=message):
        check_examples(rows)


@pytest.mark.parametrize(
    'options, message',
    [(dict(lr=1), 'unknown settings of a training at a provider: lr'), (dict(epochs=0), 'epochs is 0')],
)
def test_wrong_settings(server, options, message):
    assert message in refused(server, **options) and server.log == []


def test_weights_and_other_answers_reach_the_file(server, results):
    "An episode is one row with weights; each other answer to learn is a row of its own, with nothing else learned."
    episode = row(
        'mug',
        dict(role='user', content='You have it.'),
        dict(role='assistant', content='drop it', loss=False, instead='go to sink 1'),
        dict(role='user', content='Nothing.'),
    )
    episode['messages'][2]['loss'] = True
    tuned(server, ROWS[1:] + [episode])
    sent = [json.loads(l)['messages'] for l in next(iter(server.files.values())).splitlines()]
    mine = sorted((m for m in sent if 'mug' in m[1]['content']), key=len)
    assert [[(m['content'], m['weight']) for m in ms if m['role'] == 'assistant'] for ms in mine] == [
        [('take mug 1', 1)],
        [('take mug 1', 0), ('go to sink 1', 1)],
    ]
    kept = load_export(next(results.glob('finetune/*/rows.jsonl')), 'openai')
    assert len(kept) == len(sent) == 11


def test_the_same_rows_are_the_same_job(server):
    assert tuned(server) == tuned(server) and len(server.jobs) == 1
    assert tuned(server, [*ROWS, row('cat')]) and len(server.jobs) == 2


def test_settings_reach_the_job(server):
    model = tuned(server, epochs=4, batch_size=8, lr_multiplier=0.5, seed=3, suffix='walker')
    job = next(iter(server.jobs.values()))
    assert (
        job['hyperparameters'] == dict(n_epochs=4, batch_size=8, learning_rate_multiplier=0.5)
        and job['seed'] == 3
        and ':walker:' in model
    )
    tuned(server, epochs=4, batch_size=8, lr_multiplier=0.5, seed=3, suffix='walker', max_dollars=0.0, poll=0.01)
    assert len(server.jobs) == 1, 'limit and pauses make no other model, and what is paid needs no agreement'


def test_trouble_on_the_way_is_waited_for(server):
    server.faults = [
        (UPLOAD, 503, {}),
        (CREATE + '$', 429, {'retry-after': '0.05'}),
        (r'GET /fine_tuning/jobs/\w', 500, {}),
        ('events', 429, {}),
        (r'GET /fine_tuning/jobs/\w', 0, {}),
        ('events', 0, {}),
    ]
    assert tuned(server).startswith('openai/ft:') and server.faults == [] and len(server.jobs) == 1


@pytest.mark.parametrize(
    'status, question, message',
    [
        (401, UPLOAD, 'could not upload the rows: the server does not accept the key in AGENTKIT_API_KEY'),
        (400, CREATE, r'could not create a job for gpt-4o-mini-2024-07-18: practice fault 400 (HTTP 400)'),
        (404, 'GET /fine_tuning/jobs/', 'could not ask for job ftjob-'),
    ],
)
def test_what_does_not_pass_is_said_at_once(server, status, question, message):
    server.faults = [(question, status, {})]
    assert message in refused(server) and sum(question in l for l in server.log) == 1


def test_a_dead_server_is_given_up_and_the_job_is_found_again(server, monkeypatch, results):
    monkeypatch.setattr(openai, 'PATIENCE', 0.2)
    server.faults = [(r'GET /fine_tuning/jobs/\w', 503, {})] * 99
    assert 'practice fault 503' in refused(server)
    server.faults = []
    assert (
        'job_id' in record(results)
        and tuned(server, max_dollars=0.0).startswith('openai/ft:')
        and server.log.count(CREATE) == 1
    )


@pytest.mark.parametrize('longest, headers', [(50, {}), (10**6, {'content-encoding': 'gzip'})])
def test_an_answer_without_end_is_left_at_once(server, monkeypatch, longest, headers):
    monkeypatch.setattr(remote, 'LONGEST', longest)
    server.faults = [(UPLOAD, 503, headers)]
    assert 'could not upload the rows: an answer ' in refused(server) and server.log == [UPLOAD]


def test_the_key_is_cut_out_of_what_the_server_says(server, monkeypatch):
    monkeypatch.setenv('AGENTKIT_API_KEY', 'practice')
    server.faults = [(UPLOAD, 400, {})]
    assert 'could not upload the rows: … fault 400' in refused(server)


def test_a_failed_job_says_why_and_the_next_call_tries_again(server, monkeypatch, results):
    with monkeypatch.context() as m:
        m.setattr(openai_server, '_file_error', lambda text: 'The file breaks our rules in line 3.')
        trainer = provider(server)
        with pytest.raises(AgentkitError, match='has failed: The file breaks our rules in line 3.'):
            trainer.train(ROWS, **TRAIN)
        assert trainer.job.status == 'failed'
    assert record(results)['status'] == 'failed' and record(results)['error'].startswith('The file breaks')
    assert tuned(server).startswith('openai/ft:') and len(server.jobs) == 2


def test_a_model_without_a_name_is_not_a_success(server, monkeypatch):
    end = openai_server._Jobs._end
    monkeypatch.setattr(
        openai_server._Jobs, '_end', lambda self, job, error: (end(self, job, error), job.update(fine_tuned_model=None))
    )
    assert 'succeeded without a model' in refused(server)


def test_cancel_ends_the_job_over_there(server):
    server.seconds = 60
    trainer, future = started(server, poll=60)
    until(lambda: trainer.job.status == 'validating_files')
    assert trainer.job.cancel()
    with pytest.raises(AgentkitError, match='was cancelled; the same call begins a new one'):
        future.result()
    assert trainer.job.status == 'cancelled' and not trainer.job.cancel()
    assert [j['ended'] for j in server.jobs.values()] == ['cancelled']
    server.seconds = 0.1
    assert tuned(server).startswith('openai/ft:') and len(server.jobs) == 2


def test_cancel_before_the_upload_sends_nothing(server, monkeypatch):
    counted = threading.Event()
    monkeypatch.setattr(openai, 'estimate', lambda *a: (counted.wait(), estimate(*a))[1])
    trainer, future = started(server)
    assert trainer.job.status == 'not_started' and trainer.job.cancel()
    counted.set()
    with pytest.raises(AgentkitError, match='cancelled before anything was sent'):
        future.result()
    assert server.log == [] and trainer.job.status == 'cancelled'


def test_an_answer_that_is_lost_makes_no_second_job():
    class Forgetful(PracticeServer):
        def create(self, body):
            answer = super().create(body)
            return answer if len(self.jobs) > 1 else openai_server._refuse(500, 'created, but not said')

    with Forgetful(0.1) as server:
        assert tuned(server).startswith('openai/ft:') and len(server.jobs) == 1
        assert 'GET /fine_tuning/jobs' in server.log


def test_two_at_once_are_one_job(server):
    futures = [started(server)[1] for _ in range(3)]
    assert len({f.result() for f in futures}) == 1 and len(server.jobs) == server.log.count(UPLOAD) == 1


def test_a_key_is_needed_at_openai_before_anything_else():
    with pytest.raises(AgentkitError, match='OPENAI_API_KEY is not set'):
        make_lm(BASE)
    with pytest.raises(AgentkitError, match='OPENAI_API_KEY is not set'):
        OpenAIProvider(BASE).train(ROWS, **TRAIN)


def test_a_model_from_elsewhere_has_no_card(server):
    with pytest.raises(AgentkitError, match='was not fine-tuned from this project'):
        provider(server).card('openai/ft:gpt-4o-mini:other::1')


def test_save_and_load_keep_the_identity_and_not_the_address(server, tmp_path):
    student = lm_of(server, tuned(server))
    text = save_agent(Agent(student), tmp_path / 'a.json').read_text()
    assert student.model in text and server.url not in text and '127.0.0.1' not in text
    again = load_agent(f'{tmp_path}/a.json@{server.url}').react.lm
    card = provider_of(again).card(again.model)
    assert again.model == student.model and card['id'] == student.model.removeprefix('openai/')
    assert again(messages=ROWS[0]['messages'][:-1]) == ['take mug 1']


def test_a_config_is_honest_about_what_makes_the_model():
    assert set(RemoteConfig().recipe) == {'epochs', 'batch_size', 'lr_multiplier', 'seed', 'suffix', 'steps'}


# Processes that are killed

CHILD = """
import sys, threading
from agentkit.models.find import make_lm
from agentkit.training.providers import provider_of
message = lambda role, content: dict(role=role, content=content)
rows = [dict(messages=[message('user', f'Find {w}.'), message('assistant', f'take {w}')]) for w in 'abcdefghijkl']
train = lambda: print(provider_of(make_lm(sys.argv[1])).train(rows, epochs=1, max_dollars=1., poll=.1))
train() if len(sys.argv) == 2 else threading.Thread(target=train).start()
"""


def until(true, seconds=200):  # a guard against waiting for ever
    "Wait until it is true."
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, 'it never came true'
        time.sleep(0.02)


def child(server, *argv):
    return subprocess.Popen(
        [sys.executable, '-c', CHILD, f'{BASE}@{server.url}', *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finish(process):
    out, _ = process.communicate(timeout=120)
    return out.strip()


def test_a_killed_process_finds_its_job_again(results):
    with PracticeServer(600) as server:
        first = child(server)
        until(lambda: sum(l.endswith('/events') for l in server.log) > 1)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL and record(results)['job_id'] == next(iter(server.jobs))
        server.seconds = 0.1
        assert (
            finish(child(server)).startswith('openai/ft:') and server.log.count(CREATE) == server.log.count(UPLOAD) == 1
        )


def test_a_process_that_was_killed_before_it_heard_the_id_finds_its_job_too(results):
    class Slow(PracticeServer):
        def create(self, body):
            answer = super().create(body)
            heard.wait(60)
            return answer

    heard = threading.Event()
    with Slow(0.1) as server:
        first = child(server)
        until(lambda: server.jobs)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        heard.set()
        assert 'job_id' not in record(results) and record(results)['file_id'] in server.files
        assert (
            finish(child(server)) == f'openai/{next(iter(server.jobs.values()))["name"]}'
            and server.log.count(CREATE) == server.log.count(UPLOAD) == 1
        )


def test_a_program_that_ends_does_not_hang_on_its_job(results):
    with PracticeServer(600) as server:
        process = child(server, 'leave')
        finish(process)
        assert process.returncode == 0 and len(server.jobs) == 1 and record(results)['job_id'] in server.jobs


def test_a_page_in_a_browser_cannot_train_here(server):
    for method, path in (('POST', '/fine_tuning/jobs'), ('GET', '/models'), ('POST', '/files')):
        reply = httpx.request(method, f'{server.url}{path}', json={}, headers=dict(origin='http://page.example'))
        assert reply.status_code == 403 and 'access-control-allow-origin' not in reply.headers
    assert server.log == [] and server.url.startswith('http://127.0.0.1:')


@pytest.mark.parametrize('code', [301, 307, 308])
def test_rows_and_keys_stay_at_the_address(server, code, monkeypatch):
    monkeypatch.setattr(remote, 'TRIES', 1)
    with PracticeServer() as other:
        server.faults = [('.*', code, dict(location=f'{other.url}/files'))] * 20
        assert f'HTTP {code}' in refused(server)
        assert other.log == []


def _given_up(api):
    with pytest.raises(openai_client.APIError):
        api.client.models.list(timeout=5)


def test_an_address_of_ones_own_learns_its_key_and_no_organisation(monkeypatch):
    planted = dict(AGENTKIT_API_KEY='planted-key', OPENAI_ORG_ID='planted-org', OPENAI_PROJECT_ID='planted-project')
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(('127.0.0.1', 0)) as listening:
        api = openai.Api(make_lm(f'{BASE}@http://127.0.0.1:{listening.getsockname()[1]}').engine)
        asking = threading.Thread(target=lambda: _given_up(api), daemon=True)
        asking.start()
        connection, _ = listening.accept()
        with connection:
            request = connection.recv(1 << 16).decode()
    asking.join()
    assert 'planted-key' in request and 'planted-org' not in request and 'planted-project' not in request
