"""Agents on disk: the same requests and answers in a fresh process, no secrets, and every bad file refused by name."""

import http.server, json, shutil, subprocess, sys, threading

import dspy
import pytest
from toys import DESKS

from agentkit.agents.policy import SETTINGS, Agent, ConversationAdapter
from agentkit.agents.programs import Chance, Expert, Explorer, Guided, Program
from agentkit.agents.saving import load_agent, make_policy, save_agent, student_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json, write_json
from agentkit.core.types import transcript
from agentkit.core.views import View, conversation, state_of
from agentkit.models.find import make_lm
from agentkit.testing.models import scripted_lm


class Short(View):
    "The goal, and the first word of everything."

    name, instructed = 'brief', False

    def messages(self, state):
        return conversation(state.first.text.partition(': ')[2], [(a, o.split()[0]) for a, o in state.turns])


def state(inputs):
    "A state of an environment that can be read in full, and in few words."
    at = state_of(inputs)
    at.views = dict(full=View(), brief=Short(), student=Short())
    return at


STATES = [
    dict(
        task='Your task is to: put a mug in sink.',
        trajectory=history,
        possible_actions=['go to desk 1', 'go to shelf 1', 'take mug 1 from desk 1'],
    )
    for history in ('', transcript([('go to desk 1', 'On the desk 1, you see a mug 1.')]))
]
DEMO = dict(
    task='Your task is to: find a book.',
    trajectory=transcript([('go to desk 1', 'You see a book 1.')]),
    possible_actions=['look', 'take book 1 from desk 1'],
    action='take book 1 from desk 1',
    augmented=True,
)
KEY = 'sk-planted-key-0123456789'

# what another process does with an agent's file: play two steps and say what it answered
PLAY = (
    'import json, sys\nfrom agentkit.agents.saving import load_agent\nfrom agentkit.core.views import state_of\n'
    f'agent = load_agent(sys.argv[1])\nprint(json.dumps([agent.act(state_of(s)).action for s in {STATES!r}]))'
)


def in_a_fresh_process(path):
    done = subprocess.run([sys.executable, '-c', PLAY, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def endpoint():
    "A server of the OpenAI format that answers with the number of the request's messages, and keeps every request."

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            self.server.asked.append(dict(body=body, key=self.headers.get('Authorization')))
            message = dict(role='assistant', content=f'go to desk {len(body["messages"])}')
            said = json.dumps(
                dict(
                    id='x',
                    object='chat.completion',
                    created=0,
                    model=body['model'],
                    choices=[dict(index=0, message=message, finish_reason='stop')],
                    usage=dict(prompt_tokens=1, completion_tokens=1, total_tokens=2),
                )
            ).encode()
            self.send_response(200)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.asked, server.url = [], f'http://127.0.0.1:{server.server_port}/v1'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def optimised(lm, adapter=None):
    agent = Agent(lm, 'Search every place once.\nNever go back.', adapter=adapter)
    agent.react.demos = [dspy.Example(**DEMO).with_inputs('task', 'trajectory', 'possible_actions')]
    return agent


@pytest.mark.parametrize(
    'adapter',
    [
        ConversationAdapter(),
        ConversationAdapter('brief', show_actions=False),
        dspy.ChatAdapter(),
        dspy.JSONAdapter(),
    ],
    ids=['conversation', 'brief', 'chat', 'json'],
)
def test_the_requests_are_the_same(tmp_path, adapter):
    "Recorded at the engine: messages and settings, with demonstrations and an optimised instruction."
    reply = (
        '{"action": "go to desk 1"}' if isinstance(adapter, dspy.JSONAdapter) else '[[ ## action ## ]]\ngo to desk 1'
    )
    asked = []
    for agent in (
        (before := optimised(scripted_lm([reply]), adapter)),
        load_agent(save_agent(before, tmp_path / 'agent.json'), lm=scripted_lm([reply])),
    ):
        for s in STATES:
            agent.act(state(s))
        asked.append(agent.react.lm.script.asked)
    assert len(asked[0]) == len(STATES) and asked[0] == asked[1]
    assert 'Never go back.' in str(asked[1][0]) or getattr(adapter, 'view', '') == 'brief'
    assert 'find a book' in str(asked[1][0])


def test_an_agent_behind_an_address_plays_the_same_in_a_fresh_process(tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    agent = optimised(make_lm(f'openai/tiny@{endpoint.url}', temperature=0.5, max_tokens=17, seed=3, cache=False))
    answers = [agent.act(state(s)).action for s in STATES]
    mine = [a['body'] for a in endpoint.asked[-2:]]
    path = save_agent(agent, tmp_path / 'agent.json')
    assert in_a_fresh_process(f'{path}@{endpoint.url}') == answers == ['go to desk 6', 'go to desk 8']
    assert [a['body'] for a in endpoint.asked[-2:]] == mine
    assert mine[0]['temperature'] == 0.5 and mine[0]['seed'] == 3


def test_address_and_key_are_never_written(tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    for lm in (
        make_lm(f'openai/tiny@{endpoint.url}'),
        make_lm('openai/tiny', api_base=endpoint.url, api_key=KEY),
        dspy.LM('openai/tiny', api_base=endpoint.url, api_key=KEY, extra_headers={'X-Token': KEY}),
    ):
        text = save_agent(Agent(lm), tmp_path / 'agent.json', replace=True).read_text()
        assert KEY not in text and '127.0.0.1' not in text and str(endpoint.server_port) not in text
        with pytest.raises(AgentkitError, match='openai/tiny was served at an address of its own'):
            load_agent(tmp_path / 'agent.json')
        assert load_agent(tmp_path / 'agent.json', lm=f'openai/tiny@{endpoint.url}').name == 'openai/tiny'


def test_a_fine_tuned_cloud_model_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    name = 'openai/ft:gpt-4o-mini-2024-07-18:org::abc123'
    agent = load_agent(save_agent(Agent(make_lm(name)), tmp_path / 'agent.json'))
    assert agent.name == name and agent.lm.model == name
    monkeypatch.delenv('OPENAI_API_KEY')
    with pytest.raises(AgentkitError, match='OPENAI_API_KEY'):
        load_agent(tmp_path / 'agent.json')


@pytest.mark.parametrize('agent', [Expert(), Chance(3), Chance(0, 'student')], ids=lambda a: a.name)
def test_programs_are_saved_by_name(tmp_path, agent):
    again = load_agent(save_agent(agent, tmp_path / 'agent.json'))
    assert (again.name, again.id) == (agent.name, agent.id)
    at = state(dict(task='You are at 0, the door is at 2.', trajectory='', possible_actions=['forward', 'back']))
    assert again.act(at) == agent.act(at)


def test_a_folder_is_its_agent(tmp_path):
    save_agent(Agent(think=False), tmp_path / 'agent.json')
    assert load_agent(tmp_path).id == load_agent(tmp_path / 'agent.json').id
    with pytest.raises(AgentkitError, match='nothing/agent.json does not exist'):
        (tmp_path / 'nothing').mkdir()
        load_agent(tmp_path / 'nothing')


def test_an_agent_without_a_model_takes_the_one_around_it(tmp_path):
    agent = load_agent(save_agent(Agent(), tmp_path / 'agent.json'))
    with dspy.context(lm=scripted_lm(['look'])):
        assert agent.act(state(STATES[0])).action == 'look'


class OwnAdapter(ConversationAdapter):
    pass


def test_what_cannot_be_saved_says_so(tmp_path):
    for agent, message in (
        (Explorer(Chance()), 'made of others'),
        (Guided(Chance(), Expert()), 'made of others'),
        (Program(print, 'mine'), 'mine is a program'),
        (Agent(adapter=OwnAdapter()), 'a OwnAdapter cannot be saved; known adapters: ConversationAdapter'),
    ):
        with pytest.raises(AgentkitError, match=message):
            save_agent(agent, tmp_path / 'agent.json')
    with pytest.raises(AgentkitError, match='agent.json'):
        save_agent(Agent(), tmp_path / 'agent.pkl')
    assert not list(tmp_path.iterdir())


# --- bad files ---


def change(state, *keys, value=None):
    "The state with another value at a place, or without it."
    state = json.loads(json.dumps(state))
    at = state
    for k in keys[:-1]:
        at = at[k]
    if value is None:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return state


@pytest.mark.parametrize(
    'keys, value, message',
    [
        (['format'], 'agentkit-model', "format is 'agentkit-model'"),
        (['format'], None, 'format is None'),
        (['version'], 3, 'version 3 is unknown'),
        (['demos'], None, "damaged: KeyError: 'demos'"),
        (['demos'], [1], 'damaged'),
        (['demos'], 'x', 'damaged'),
        (['adapter', 'name'], 'mine', "damaged: KeyError: 'mine'"),
        (['adapter', 'options', 'width'], 3, 'damaged: TypeError'),
        (['signature'], [], 'damaged'),
        (['lm', 'settings', 'api_base'], 'http://evil', 'unknown settings of the model: api_base'),
        (['lm', 'model'], None, "KeyError: 'model'"),
        (['lm'], 'openai/x', 'damaged'),
        (['lm', 'model'], 'tiny', 'is not a model name'),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, keys, value, message, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    good = read_json(save_agent(optimised(make_lm('openai/gpt-4o-mini')), tmp_path / 'good.json'))
    path = write_json(tmp_path / 'agent.json', change(good, *keys, value=value))
    with pytest.raises(AgentkitError, match=message) as e:
        load_agent(path)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('provider', ['openai', 'hosted_vllm'])
def test_a_file_does_not_choose_where_the_key_goes(tmp_path, endpoint, provider, monkeypatch):
    monkeypatch.setenv('AGENTKIT_API_KEY', KEY)
    state = read_json(save_agent(Agent(make_lm(f'openai/tiny@{endpoint.url}')), tmp_path / 'agent.json'))
    place, before = endpoint.url.replace('http://', 'http://ann:correcthorse@'), len(endpoint.asked)
    state = change(change(state, 'lm', 'model', value=f'{provider}/tiny@{place}'), 'lm', 'address', value=False)
    path = write_json(tmp_path / 'agent.json', state)
    for spec in (path, f'{path}@{endpoint.url}'):
        with pytest.raises(AgentkitError, match='names an address, .*a file does not choose') as e:
            load_agent(spec)
        assert 'correcthorse' not in str(e.value)
    assert len(endpoint.asked) == before


def test_files_that_are_no_agents(tmp_path):
    (tmp_path / 'agent.json').write_text('{"format": ')
    with pytest.raises(AgentkitError, match='is not JSON'):
        load_agent(tmp_path / 'agent.json')
    write_json(tmp_path / 'agent.json', [1])
    with pytest.raises(AgentkitError, match='is not an agent'):
        load_agent(tmp_path / 'agent.json')
    with pytest.raises(AgentkitError, match='none.json does not exist'):
        make_policy(str(tmp_path / 'none.json'))
    write_json(tmp_path / 'agent.json', dict(format='agentkit-agent', version=1, program=dict(spec='openai/gpt-4o')))
    with pytest.raises(AgentkitError, match="unknown program 'openai/gpt-4o'"):
        load_agent(tmp_path / 'agent.json')


# --- pickle ---


@pytest.mark.filterwarnings('ignore')
def test_pickles_are_opened_only_when_asked_for(tmp_path):
    agent = optimised(None)
    agent.save(tmp_path / 'agent.pkl')
    agent.save(tmp_path / 'whole', save_program=True)
    for path in (tmp_path / 'agent.pkl', tmp_path / 'whole'):
        with pytest.raises(AgentkitError, match='can run any code: .*allow_pickle=True'):
            load_agent(path)
        again = load_agent(path, allow_pickle=True)
        assert again.react.signature.instructions == agent.react.signature.instructions and len(again.react.demos) == 1
    with pytest.raises(AgentkitError, match='can run any code'):
        make_policy(str(tmp_path / 'agent.pkl'))
    dspy.Predict('question -> answer').save(tmp_path / 'other.pkl')
    with pytest.raises(AgentkitError, match='holds no state of an agent'):
        load_agent(tmp_path / 'other.pkl', allow_pickle=True)
    dspy.Predict('question -> answer').save(tmp_path / 'otherwhole', save_program=True)
    with pytest.raises(AgentkitError, match='holds a Predict, not an agent'):
        load_agent(tmp_path / 'otherwhole', allow_pickle=True)


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(AgentkitError, match='none.pkl does not exist'):
        load_agent(tmp_path / 'none.pkl', allow_pickle=True)


# --- a local model ---


@pytest.fixture(scope='module')
def student():
    pytest.importorskip('xllamacpp')
    pytest.importorskip('torch')
    from agentkit.training.bases import make_nano
    from agentkit.training.trainer import TrainConfig, finetune

    base = make_nano(DESKS, size='tiny', vocabulary=300)
    trained = finetune(base, DESKS, TrainConfig.of('nano', epochs=2), progress=False)
    yield student_agent(make_lm(f'local/{trained.id}', slots=1, context=512), view='full')
    from agentkit.models.serving import stop_servers

    stop_servers()


def test_a_local_student_plays_the_same_in_a_fresh_process(tmp_path, student):
    student = student.deepcopy()
    student.react.demos = [dspy.Example(**DEMO)]
    path = save_agent(student, tmp_path / 'agent.json')
    assert in_a_fresh_process(path) == [student.act(state(s)).action for s in STATES]
    again = load_agent(path)
    assert again.id == student.id
    assert again.lm.engine.options == student.lm.engine.options and again.lm.kwargs == student.lm.kwargs


def test_a_changed_model_under_the_same_name_is_refused(tmp_path, student):
    from agentkit.models.store import model_dir, write_card

    path, folder, id = (
        save_agent(student, tmp_path / 'agent.json'),
        model_dir(student.name),
        student.name.removeprefix('local/'),
    )
    kept = tmp_path / 'kept'
    shutil.copytree(folder, kept)
    try:
        card = read_json(folder / 'card.json')
        shutil.copy(model_dir(card['base']) / 'model.gguf', folder / 'model.gguf')
        write_card(
            folder, **{k: v for k, v in card.items() if k not in ('format', 'version', 'weights_sha256', 'gguf_sha256')}
        )
        with pytest.raises(AgentkitError, match=f'{student.name} is no longer the model that was saved'):
            load_agent(path)
        assert load_agent(path, lm=student.name).name == student.name
        shutil.rmtree(folder)
        with pytest.raises(AgentkitError, match=f"no model '{id}'"):
            load_agent(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
    assert load_agent(path).name == student.name


def test_settings_are_the_generation_settings_only():
    assert not {'api_key', 'api_base', 'base_url', 'extra_headers', 'headers'} & set(SETTINGS)


def test_the_command_line_plays_a_saved_agent(tmp_path, student, results, capsys):
    from agentkit.cli import main

    def evaluate(path):
        assert main(['evaluate', '--env', 'corridor', '--policy', str(path), '--tasks', '2', '--json']) == 0
        return json.loads(capsys.readouterr().out)

    assert evaluate(save_agent(Expert(), tmp_path / 'expert.json'))['summary']['wins'] == 2
    other = student.deepcopy()
    other.react.demos = [dspy.Example(**DEMO)]
    first, second = evaluate(save_agent(student, tmp_path / 'a.json')), evaluate(save_agent(other, tmp_path / 'b.json'))
    assert first['summary']['policy'] == second['summary']['policy'] == student.name
    assert first['out'] != second['out'], 'another prompt of the same model does not read the journal of the first'
    assert main(['evaluate', '--env', 'corridor', '--policy', str(tmp_path / 'none.json')]) == 2
    assert 'none.json does not exist' in capsys.readouterr().err


# --- what decides has an id ---


def test_the_id_follows_everything_that_decides():
    lm = scripted_lm(['look'])
    agents = [
        Agent(lm),
        Agent(lm, 'Hurry.'),
        Agent(lm, think=False),
        Agent(lm, adapter=ConversationAdapter(window=2)),
        Agent(lm, adapter=ConversationAdapter('brief')),
        optimised(lm),
        Agent(lm).sampling(temperature=0.7),
        Agent(lm).sampling(seed=2),
        Agent(scripted_lm(['look'], name='other')),
        student_agent(lm),
    ]
    assert len({a.id for a in agents}) == len(agents)
    assert Agent(lm).id == Agent(lm).id == Agent(lm).sampling().id


def test_address_and_key_do_not_decide(endpoint, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    here, elsewhere = (make_lm(f'openai/tiny@{url}') for url in (endpoint.url, 'http://127.0.0.1:9/v1'))
    assert Agent(here).id == Agent(elsewhere).id


def test_an_agent_of_format_1_reads_as_it_did(tmp_path):
    agent = student_agent(scripted_lm(['look']), view='brief')
    new = read_json(save_agent(agent, tmp_path / 'agent.json'))
    old = {
        **new,
        'version': 1,
        'adapter': dict(name='conversation', options=dict(brief=True, show_actions=False, window=0)),
    }
    again = load_agent(write_json(tmp_path / 'old.json', old), lm=agent.lm)
    assert again.id == agent.id and again.adapter.view == 'brief'


def test_where_an_agent_has_learned_is_in_its_file(tmp_path):
    agent = Agent(scripted_lm(['look']))
    plain = read_json(save_agent(agent, tmp_path / 'plain.json'))
    before, agent.learned_in = agent.id, dict(corridor='2')
    path = save_agent(agent.deepcopy(), tmp_path / 'agent.json')
    assert read_json(path) == {**plain, 'learned_in': dict(corridor='2')} and agent.id == before
    assert load_agent(path, agent.lm).learned_in == dict(corridor='2') and Agent().learned_in == {}
    assert load_agent(tmp_path / 'plain.json', agent.lm).learned_in == {}


def test_an_agent_is_not_written_over_another(tmp_path):
    path = tmp_path / 'agent.json'
    before = save_agent(Agent(), path).read_bytes()
    assert save_agent(Agent(), path).read_bytes() == before, 'the same one again is harmless'
    for other in (Expert(), Agent(think=False), with_demo(Agent())):
        with pytest.raises(AgentkitError, match='agent.json exists, and is not this agent'):
            save_agent(other, path)
    assert path.read_bytes() == before
    save_agent(Expert(), path, replace=True)
    assert load_agent(path).name == 'expert'
    path.write_text('notes of somebody')
    with pytest.raises(AgentkitError, match='agent.json is not JSON'):
        save_agent(Agent(), path)
    assert path.read_text() == 'notes of somebody'


def with_demo(agent):
    agent.react.demos = [dspy.Example(task='t', trajectory='', possible_actions=['a'], action='a')]
    return agent


def test_half_a_surrogate_pair_makes_no_other_agent(tmp_path):
    agent = Agent()
    agent.react.demos = [dspy.Example(task='\ud800', trajectory='', possible_actions=['a'], action='a')]
    assert save_agent(agent, tmp_path / 'a.json') == save_agent(agent, tmp_path / 'a.json')
