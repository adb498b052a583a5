"What is sent to a model, and what is made of its reply."

from . import FOLDER, conversation, moments, parts, pin, recorded
from .echo import Echo

EPISODES = ('corridor', 'household')
AGENTS = (
    'default',
    'instructions',
    'no_thoughts',
    'window',
    'no_actions',
    'student',
    'student_window',
    'demonstration',
    'student_demonstration',
    'saved',
)
REPLIES = (
    'go to desk 1',
    '> go to desk 1',
    'Go to the Desk 1.',
    '**Action:** go to desk 1',
    '- `take mug 1 from desk 1`',
    '1. take mug 1 from desk 1',
    'My next action: take the mug 1 from the desk 1!',
    'take mug 1 from desk 2',
    'take mug 2 from desk 1',
    'take mug 1 form desk 1',
    'take mug from desk 1',
    'open drawr 1',
    'open drawer',
    'I will open the drawer now.\nopen drawer 1',
    'open drawer 1\ngo to desk 1',
    '',
    '   \n  ',
    'think: where is the mug?',
    '> think: where is the mug?',
    'Think: where is the mug?',
    '{"action": "look"}',
    '{"action": "think", "thought": "Desks first.\\nThen drawers."}',
    'Sure! {"thought": "hm", "action": "go to desk 10"} That is best.',
    '{"action": "go to desk 1"',
    '{"action": 3}',
    '```json\n{"Action": "Open the drawer 1"}\n```',
    '```\nlook\n```',
    'LOOK',
    'look around',
    'dance',
    'go to desk 1, then take mug 1 from desk 1',
    'x' * 300 + '\nlook',
)
ACTIONS = [
    'go to desk 1',
    'go to desk 10',
    'take mug 1 from desk 1',
    'open drawer 1',
    'look',
    'inventory',
    'think: ${...}',
]


# --- the kit ---


def read(name):
    from agentkit.core.types import trajectory

    return trajectory(recorded(name))


def agent_of(name, lm):
    from agentkit.agents.policy import Agent, ConversationAdapter, demonstration
    from agentkit.agents.saving import load_agent, student_agent
    from agentkit.envs.alfworld.environment import AlfWorld

    told = AlfWorld.instructions

    shown = [demonstration(read('household_expert'))] if 'demonstration' in name else []
    known = {
        'default': lambda: Agent(lm),
        'instructions': lambda: Agent(lm, told),
        'no_thoughts': lambda: Agent(lm, told, think=False),
        'window': lambda: Agent(lm, told, adapter=ConversationAdapter(window=3)),
        'no_actions': lambda: Agent(lm, told, adapter=ConversationAdapter(show_actions=False)),
        'student': lambda: student_agent(lm),
        'student_window': lambda: Agent(lm, think=False, adapter=ConversationAdapter('student', False, window=3)),
        'demonstration': lambda: Agent(lm, told),
        'student_demonstration': lambda: student_agent(lm),
        'saved': lambda: load_agent(FOLDER / 'formats/agent.json', lm),
    }
    agent = known[name]()
    agent.react.demos += shown
    return agent


def scripted(reply='forward'):
    "A model that says one thing, and the requests that it got."
    from agentkit.testing.models import scripted_lm

    lm = scripted_lm([reply])
    return lm, lm.script.asked


def asked(agent, requests, t, step):
    "The request that the agent makes at a step of a recorded episode."
    act(agent, t, step)
    return requests[-1]


def act(agent, t, step):
    from agentkit.core.types import said

    return said(agent.act(state(t, step)))


def state(t, step):
    "The state before a step, as the loop makes it: with the views of the household's environment."
    from dataclasses import replace

    from agentkit.envs.alfworld.environment import AlfWorld
    from agentkit.envs.base import views_of

    return replace(t.state(step), views=views_of(AlfWorld))


def messages(request):
    "The messages of a request, the system message first."
    texts = request.system if isinstance(request.system, str) else ''.join(p.text for p in request.system or ())
    system = [dict(role='system', content=texts)] if texts else []
    return system + [dict(role=m.role, content=m.text or '') for m in request.messages]


def choices(t, step):
    "What a reader of the brief episode is offered."
    at = state(t, step)
    return at.views['brief'].offer(at).options


def brief(t):
    "The episode as a student reads it."
    from agentkit.envs.alfworld.view import brief_turns

    return brief_turns(t.first.text, t.turns)


def meant(reply, actions):
    from agentkit.agents.reply import read_reply
    from agentkit.core.actions import Choice
    from agentkit.core.types import said

    return said(read_reply(reply, Choice(a for a in actions if not a.startswith('think:'))))


def remote_format(actions, think):
    from agentkit.core.actions import Choice
    from agentkit.models.hold import answer_format

    return answer_format(Choice(actions), think)['response_format']


def local_body(name, t, step):
    "The body that a local server gets: its grammar holds the answer to the actions."
    from agentkit.models.serving import LocalLM, Server, VllmServer, _wire

    lm, requests = scripted(state(t, step).now.actions.options[0])
    local = LocalLM('local/any', engine=lm.engine)
    request = asked(agent_of(name, local), requests, t, step)
    return {
        'llama.cpp': _wire(request, lambda a: Server.hold(None, a)),
        'vllm': _wire(request, lambda a: VllmServer.hold(None, a)),
    }


def remote_body(name, t, step):
    "The body that an OpenAI-compatible server gets, over HTTP."
    from agentkit.models.find import make_lm

    with Echo(state(t, step).now.actions.options[0]) as server:
        act(agent_of(name, make_lm(f'openai/parrot@{server.url}')), t, step)
    return server.bodies


# --- what is pinned ---


@pin('prompts-corridor', *AGENTS)
def _(folder, name):
    return prompts('corridor', name)


@pin('prompts-household', *AGENTS)
def _(folder, name):
    return prompts('household', name)


def prompts(episode, name):
    "The messages of an agent at three steps."
    lm, requests = scripted()
    t, agent = read(episode), agent_of(name, lm)
    steps = moments(t.steps)
    return parts((f'step {k}', conversation(messages(asked(agent, requests, t, k)))) for k in steps)


@pin('brief', *EPISODES, 'household_expert', 'household_lost')
def _(folder, episode):
    first, pairs = brief(read(episode))
    return '\n'.join([first, *(f'> {a}\n{o}' for a, o in pairs)])


@pin('sayable', *EPISODES, 'household_expert', 'household_lost')
def _(folder, episode):
    t = read(episode)
    return parts((f'step {k}', '\n'.join(choices(t, k))) for k in range(len(t.steps)))


@pin('read_action')
def _(folder):
    return [dict(reply=r, action=meant(r, ACTIONS)) for r in REPLIES]


@pin('response_format', *EPISODES)
def _(folder, episode):
    t = read(episode)
    states = {f'step {k}': state(t, k).now.actions.options for k in moments(t.steps)}
    return {k: dict(plain=remote_format(a, False), thoughts=remote_format(a, True)) for k, a in states.items()}


@pin('local_body', *EPISODES)
def _(folder, episode):
    t = read(episode)
    return {f'step {k}': local_body('student', t, k) for k in moments(t.steps)}


@pin('remote_body', *EPISODES)
def _(folder, episode):
    t = read(episode)
    return {f'step {k}': remote_body('instructions', t, k) for k in moments(t.steps)}


@pin('grammar')
def _(folder):
    from agentkit.models.serving import choice, choice_grammar

    odd = ['say "hi"', 'back\\slash', 'two\nlines', 'münze 1', 'a | b', 'look', 'look']
    return dict(grammar=choice_grammar(odd), choice=choice(odd))
