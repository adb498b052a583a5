"""Hints in a learner's environment: each is right for its state, each option does something, and the world does
not notice."""

import warnings

import pytest
from flaky import FlakyServer, said

gymnasium = pytest.importorskip('gymnasium', reason='the extra [babyai] is not installed')
pytest.importorskip('minigrid', reason='the extra [babyai] is not installed')

from gymnasium.utils.env_checker import check_env  # noqa: E402
from minigrid.utils.baby_ai_bot import BabyAIBot  # noqa: E402
from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper, StochasticActionWrapper  # noqa: E402

from agentkit.agents.policy import Agent, ConversationAdapter  # noqa: E402
from agentkit.agents.programs import Chance, Program  # noqa: E402
from agentkit.agents.saving import save_agent  # noqa: E402
from agentkit.core.errors import AgentkitError, EpisodeError  # noqa: E402
from agentkit.core.store import rng  # noqa: E402
from agentkit.envs.babyai.environment import BabyAI  # noqa: E402
from agentkit.envs.babyai.expert import SUBGOALS  # noqa: E402
from agentkit.envs.babyai.present import instructions_for  # noqa: E402
from agentkit.envs.babyai.world import ACTIONS, level_id  # noqa: E402
from agentkit.labs.minigrid.hints import NOTHING, HintWrapper  # noqa: E402
from agentkit.labs.minigrid.sources import hint_agent  # noqa: E402

NAMES = dict(action=ACTIONS, subgoal=SUBGOALS)
LEVELS = ('GoToObj', 'PickupLoc', 'PutNextLocal', 'UnlockPickup', 'GoToSeq')


def level(name='PutNextLocal'):
    return gymnasium.make(level_id(name), disable_env_checker=True)


def source(name):
    "The options of a source; the agent is one of chance."
    return dict(hint_source=name, **(dict(hint_model_path=Chance(3)) if name == 'agent' else {}))


def walk(env, actions, seed=None):
    "What is observed when these actions are done, until the episode ends."
    observed = [env.reset(seed=seed)[0]]
    for action in actions:
        observation, *_, terminated, truncated, _ = env.step(action)
        observed.append(observation)
        if terminated or truncated:
            break
    return observed


def shown(observed):
    "Number of an observation → its hint, of those that have one."
    return {i: o['hint'] for i, o in enumerate(observed) if o['hint_available']}


def wander(seed, n=60):
    "Any actions; those that walk come often."
    r = rng('wander', seed)
    return [r.choice((0, 1, 2, 2, 2, 3, 4, 5)) for _ in range(n)]


# --- the protocol of gymnasium ---


@pytest.mark.parametrize('kind', NAMES)
@pytest.mark.parametrize('name', ['bot', 'planner', 'agent'])
def test_gymnasium_has_nothing_to_complain_about(name, kind):
    env = HintWrapper(level(), kind, 2, hint_probability=0.7, **source(name))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the space of missions
        check_env(env, skip_render_check=True)
    assert env.counts['shown']


@pytest.mark.parametrize('kind, n', [('subgoal', 8), ('action', 7)])
def test_the_observation_has_the_keys_of_the_environment_and_two_more(kind, n):
    env, bare = HintWrapper(level(), kind), level()
    assert set(env.observation_space) == {*bare.observation_space, 'hint', 'hint_available'}
    assert env.observation_space['hint'].n == n and env.observation_space['hint_available'].n == 2
    for observation in walk(env, wander(1), seed=1):
        assert observation in env.observation_space
        assert type(observation['hint']) is int and observation['hint_available'] in (0, 1)


def test_an_observation_that_is_no_dictionary_is_kept_under_a_name():
    env = HintWrapper(ImgObsWrapper(FullyObsWrapper(level())), 'action', 1)
    observation, _ = env.reset(seed=1)
    assert set(observation) == {'observation', 'hint', 'hint_available'} and observation in env.observation_space


def test_the_description_of_the_environment_makes_it_again():
    env = HintWrapper(level(), 'action', 3, 'planner', hint_probability=0.5, full=False, hint_seed=4)
    again = gymnasium.make(env.spec)
    assert again.spec.additional_wrappers == env.spec.additional_wrappers
    for seed in range(3):
        mine, other = (shown(walk(e, wander(seed), seed=seed)) for e in (env, again))
        assert mine == other and mine


# --- the world does not notice ---


@pytest.mark.filterwarnings('ignore:HintWrapper. ')
@pytest.mark.parametrize('name', ['bot', 'planner', 'agent'])
@pytest.mark.parametrize('kind', NAMES)
def test_worlds_are_equal_with_and_without_hints(name, kind):
    "Also those that are drawn after the first one, without a seed."
    for levels in LEVELS:
        bare, env = level(levels), HintWrapper(level(levels), kind, 2, hint_probability=0.5, **source(name))
        for episode in range(4):
            actions = wander((levels, episode))
            seed = 7 if episode == 0 else None
            for one, other in zip(walk(bare, actions, seed), walk(env, actions, seed), strict=True):
                assert (one['image'] == other['image']).all()
                assert (one['mission'], one['direction']) == (other['mission'], other['direction'])
        assert bare.unwrapped.np_random.bit_generator.state == env.unwrapped.np_random.bit_generator.state


def test_rewards_and_ends_are_equal_too():
    bare, env = level('GoToObj'), HintWrapper(level('GoToObj'), 'action', 1)
    for seed in range(10):
        bare.reset(seed=seed)
        observation, ended = env.reset(seed=seed)[0], False
        while not ended:
            action = observation['hint']
            observation, *mine, _ = env.step(action)
            _, *other, _ = bare.step(action)
            assert mine == other
            ended = mine[1] or mine[2]
        assert mine[0] > 0, 'followed, the hints win'


# --- the hint is right ---


@pytest.mark.filterwarnings('ignore:HintWrapper. no more hints')
@pytest.mark.parametrize('levels', LEVELS)
def test_the_bots_hint_is_what_minigrids_bot_does_in_that_state(levels):
    "The bot beside is Minigrid's own, told each action once; the walker does what it likes."
    for seed in range(4):
        env, twin = HintWrapper(level(levels), 'action', 3), level(levels)
        goals = HintWrapper(level(levels), 'subgoal', 3)
        actions = wander((levels, seed), 40)
        observed = [*zip(walk(env, actions, seed), walk(goals, actions, seed), strict=True)][:-1]
        twin.reset(seed=seed)
        bot, last = BabyAIBot(twin.unwrapped), None
        for i, (action, (mine, goal)) in enumerate(zip(actions, observed)):
            try:
                right = bot.replan(last)
            except Exception:  # the walker has broken a box, and the bot gives up
                assert not shown(mine for mine, _ in observed[i:])
                break
            assert mine['hint_available'] == (i % 3 == 0), (levels, seed, i)
            if mine['hint_available']:
                top = type(bot.stack[-1]).__name__.removesuffix('Subgoal') if bot.stack else 'done'
                assert (ACTIONS[mine['hint']], SUBGOALS[goal['hint']]) == (ACTIONS[int(right)], top)
            twin.step(action)
            last = action


@pytest.mark.parametrize('full', [True, False])
@pytest.mark.parametrize('kind', NAMES)
def test_the_planners_hint_is_the_one_of_the_kits_own_environment(kind, full):
    env = HintWrapper(level('GoToSeq'), kind, 1, 'planner', full=full)
    own = BabyAI(levels='GoToSeq', full=full, done=True)
    for task in BabyAI.tasks('test', 3, levels='GoToSeq'):
        actions = wander(task.id, 30)
        own.reset(task)
        for observation, action in zip(walk(env, actions, task.data['seed']), actions):
            assert NAMES[kind][observation['hint']] == getattr(own.expert(), kind) and observation['hint_available']
            own.step(ACTIONS[action])


def test_the_bot_plans_once_a_step_also_when_no_hint_is_shown(monkeypatch):
    calls, replan = [], BabyAIBot.replan
    monkeypatch.setattr(BabyAIBot, 'replan', lambda self, action=None: calls.append(action) or replan(self, action))
    walk(HintWrapper(level(), 'action', 7), actions := [0, 1, 0, 2, 2], seed=1)
    assert calls == [None, *actions]


# --- when ---


@pytest.mark.parametrize('frequency', [1, 2, 5, 13])
def test_every_so_manieth_observation_has_a_hint_and_the_first_one(frequency):
    observed = walk(HintWrapper(level(), 'action', frequency), [0] * 30, seed=1)
    assert list(shown(observed)) == list(range(0, 31, frequency))
    assert {o['hint'] for o in observed if not o['hint_available']} <= {NOTHING['action']}


def test_none_is_said_as_what_does_nothing():
    assert ACTIONS[NOTHING['action']] == 'done' and SUBGOALS[NOTHING['subgoal']] == 'none'
    for kind in NAMES:
        observed = walk(HintWrapper(level(), kind, 5), [0] * 4, seed=1)
        assert [o['hint'] for o in observed[1:]] == [NOTHING[kind]] * 4


def test_the_last_observation_of_an_episode_has_none():
    env = HintWrapper(level('GoToObj'), 'action', 1)
    observation, ended = env.reset(seed=1)[0], False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(observation['hint'])
        ended = terminated or truncated
    assert terminated and not observation['hint_available']


def test_chance_shows_the_hints_that_are_due():
    env = HintWrapper(level(), 'action', 2, hint_probability=0.3)
    hints = [shown(walk(env, [0] * 60, seed)) for seed in range(20)]
    assert all(number % 2 == 0 for h in hints for number in h)
    n, k = 20 * 31, sum(map(len, hints))
    assert 0.22 < k / n < 0.38
    assert all(shown(walk(env, [0] * 60, seed)) == hints[seed] for seed in (3, 4)), 'the same seed, the same hints'
    other = HintWrapper(level(), 'action', 2, hint_probability=0.3, hint_seed=1)
    assert [shown(walk(other, [0] * 60, seed)) for seed in range(20)] != hints
    never = HintWrapper(level(), 'action', 1, hint_probability=0.0)
    assert not shown(walk(never, [0] * 9, seed=1)) and never.counts['shown'] == 0


def test_after_a_share_of_the_training_no_hint_comes():
    env = HintWrapper(level(), 'action', 1, hint_stop_percentage=0.5, total_steps=40)
    first, second = walk(env, [0] * 15, seed=1), walk(env, [0] * 15)
    assert len(shown(first)) == 16 and list(shown(second)) == list(range(5)) and not shown(walk(env, [0] * 5))
    assert not shown(walk(HintWrapper(level(), hint_stop_percentage=0.0, total_steps=9), [0] * 9, seed=1))


def test_hints_are_switched_off_and_on():
    env = HintWrapper(level(), 'action', 1)
    walk(env, [0] * 3, seed=1)
    env.disable_hints()
    assert not env.step(0)[0]['hint_available'] and not shown(walk(env, [0] * 3))
    env.enable_hints()
    assert len(shown(walk(env, [0] * 3))) == 4


# --- who knows none ---


def test_a_bot_that_breaks_off_gives_no_more_hints_in_this_episode(monkeypatch):
    replan = BabyAIBot.replan

    def breaking(self, action=None):
        if self.mission.step_count == 4 and self.mission.breaks:
            raise AssertionError('lost')
        return replan(self, action)

    monkeypatch.setattr(BabyAIBot, 'replan', breaking)
    env = HintWrapper(level(), 'action', 3)
    with pytest.warns(UserWarning, match='no more hints in this episode: the bot broke off: AssertionError lost') as w:
        for episode, breaks in enumerate((True, True, False)):
            env.unwrapped.breaks = breaks
            assert list(shown(walk(env, [0] * 12, seed=episode))) == ([0, 3] if breaks else [0, 3, 6, 9, 12])
    assert env.counts['broken'] == 2 and len(w) == 1, 'counted twice, said once'


def test_where_minigrids_bot_really_breaks_off_the_episode_goes_on():
    env = HintWrapper(level('KeyInBox'), 'action', 1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            for _ in range(20):
                observation, *_ = env.step(observation['hint'])
    assert env.counts['broken'] == 3


# --- an agent ---


def agent(lm, kind='action', encoding='ascii'):
    view = f'{encoding}_{"now" if kind == "action" else kind}'
    return Agent(lm, instructions_for(encoding, kind), think=False, adapter=ConversationAdapter(view))


@pytest.mark.parametrize('kind, answer', [('action', 'toggle'), ('subgoal', 'Explore')])
@pytest.mark.parametrize('name', ['agent', 'dspy'])
def test_a_saved_agent_gives_actions_and_sub_goals(name, kind, answer, tmp_path):
    with FlakyServer(lambda number, body: said(answer)) as server:
        lm = hint_agent(f'openai/m@{server.url}', kind).lm
        path = save_agent(agent(lm, kind, 'natural'), tmp_path / 'agent.json')
        env = HintWrapper(level(), kind, 2, name, f'{path}@{server.url}')
        hints = shown(walk(env, [0] * 4, seed=1))
        assert hints == {i: NAMES[kind].index(answer) for i in (0, 2, 4)} and not env.counts['fallback']
        prompts = [body['messages'][-1]['content'] for body in server.asked]
        assert len(prompts) == 3 and 'Your mission: put' in prompts[0], 'asked where a hint is due, as it was taught'
        assert not [p for p in prompts if 'previous actions' in p]
        other = HintWrapper(level(), kind, 2, name, f'{path}@{server.url}', encoding_type='relative')
        other.reset(seed=1)
        assert 'Your mission' not in server.asked[-1]['messages'][-1]['content']


def test_a_bare_model_is_told_the_last_five_actions():
    with FlakyServer(lambda number, body: said('left')) as server:
        env = HintWrapper(level(), 'action', 1, 'agent', f'openai/m@{server.url}')
        walk(env, [2, 1, 0, 0, 1, 2, 2], seed=1)
        prompts = [body['messages'][-1]['content'] for body in server.asked]
        assert 'previous actions' not in prompts[0] and 'previous actions: step-1: 2' in prompts[1]
        assert 'previous actions: step-3: 0, step-4: 0, step-5: 1, step-6: 2, step-7: 2' in prompts[-1]
        short = HintWrapper(level(), 'action', 1, 'agent', f'openai/m@{server.url}', previous_actions=2)
        walk(short, [2, 1, 0], seed=1)
        assert 'previous actions: step-2: 1, step-3: 0' in server.asked[-1]['messages'][-1]['content']


def test_an_agent_sees_the_whole_grid_or_what_the_learner_sees():
    texts = []
    looker = Program(lambda state: texts.append(state.now.text) or 'left', 'looker')
    for full in (True, False):
        HintWrapper(level('GoToSeq'), 'action', 1, 'agent', looker, full=full).reset(seed=1)
    assert '??' not in texts[0] and texts[0].count('\n') > texts[1].count('\n')


def test_a_busy_server_is_asked_again_with_the_patience_of_the_kit():
    busy = 429, dict(error=dict(message='slow down'))
    with FlakyServer(lambda number, body: busy if number % 2 else said('toggle')) as server:
        env = HintWrapper(level(), 'action', 1, 'agent', agent(server.lm))
        assert set(shown(walk(env, [0] * 3, seed=1)).values()) == {ACTIONS.index('toggle')}
        assert len(server.asked) == 8 and not env.counts['fallback']


def test_an_answer_that_means_nothing_is_replaced_by_the_bots():
    answers = iter(['toggle', 'wander about', 'toggle', 'none at all'])
    env = HintWrapper(level(), 'action', 1, 'agent', Program(lambda state: next(answers), 'odd'))
    bots = shown(walk(HintWrapper(level(), 'action', 1), [0] * 3, seed=1))
    with pytest.warns(UserWarning, match="the bot gives a hint for the agent: odd says 'wander about'") as w:
        hints = shown(walk(env, [0] * 3, seed=1))
    assert hints == {0: 5, 1: bots[1], 2: 5, 3: bots[3]}
    assert env.counts == dict(shown=4, fallback=2) and len(w) == 1


def test_after_an_error_the_bot_gives_the_hints_of_the_episode():
    asked = []

    def ill(state):
        asked.append(state)
        if len(asked) == 2:
            raise EpisodeError('the conversation is too long')
        return 'toggle'

    env = HintWrapper(level(), 'action', 1, 'agent', Program(ill, 'ill'))
    with pytest.warns(UserWarning, match='the conversation is too long'):
        first = shown(walk(env, [0] * 4, seed=1))
    assert len(first) == 5 and len(asked) == 2 and env.counts['fallback'] == 4
    assert set(shown(walk(env, [0] * 4, seed=1)).values()) == {5} and len(asked) == 7


def test_a_model_that_is_gone_is_replaced_for_good_and_one_that_never_came_is_an_error():
    state = dict(answers=3)

    def leaving(_):
        state['answers'] -= 1
        if state['answers'] < 0:
            raise AgentkitError('the key is no longer valid: renew it')
        return 'toggle'

    env = HintWrapper(level(), 'action', 1, 'agent', Program(leaving, 'leaving'))
    with pytest.warns(UserWarning, match='the key is no longer valid'):
        walk(env, [0] * 5, seed=1)
    walk(env, [0] * 5)
    assert state['answers'] == -1, 'not asked again' and env.counts['fallback'] == 3 + 6
    with pytest.raises(AgentkitError, match='renew it'):
        HintWrapper(level(), 'action', 1, 'agent', Program(leaving, 'leaving')).reset(seed=1)


# --- what is refused ---


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(hint_type='goal'), "hint_type is 'goal', and not one of action, subgoal"),
        (dict(hint_source='oracle'), 'hint_source is'),
        (dict(hint_source='dspy'), 'hint_source is agent: which one'),
        (dict(hint_source='agent', hint_model_path='gone.json'), 'gone.json does not exist'),
        (dict(hint_source='agent', hint_model_path='openai/m@http://h:1', encoding_type='asci'), 'encoding_type'),
        (dict(hint_source='agent', hint_model_path=Chance(), encoding_type='ascii'), 'leave encoding_type out'),
        (dict(hint_frequency=0), 'hint_frequency is 0'),
        (dict(hint_frequency=2.5), 'hint_frequency is 2.5'),
        (dict(hint_frequency=True), 'hint_frequency is True'),
        (dict(hint_probability=1.5), 'hint_probability is 1.5'),
        (dict(hint_probability='often'), 'hint_probability is'),
        (dict(hint_stop_percentage=-1, total_steps=9), 'hint_stop_percentage is -1'),
        (dict(hint_stop_percentage=0.5), 'belong together'),
        (dict(total_steps=100), 'belong together'),
        (dict(total_steps=0, hint_stop_percentage=0.5), 'total_steps is 0'),
        (dict(hint_model_path='agent.json'), 'hint_model_path is for hint_source agent; here it is bot'),
        (dict(encoding_type='natural', hint_source='planner'), 'here it is planner'),
        (dict(previous_actions=3), 'previous_actions is for'),
        (dict(previous_actions=-1), 'previous_actions is -1'),
        (dict(full=False), 'full is for hint_source agent and planner'),
        (dict(full='yes'), 'full is'),
        (dict(hint_seed='x'), 'hint_seed is'),
    ],
)
def test_what_cannot_be_or_would_change_nothing_is_refused(options, words):
    with pytest.raises(AgentkitError) as e:
        HintWrapper(level(), **options)
    assert words in str(e.value) and '\n' not in str(e.value)


def test_environments_that_cannot_be_hinted_are_refused():
    with pytest.raises(AgentkitError, match='hints are for environments of Minigrid'):
        HintWrapper(gymnasium.make('CartPole-v1'))
    with pytest.raises(AgentkitError, match='the bot knows only the levels of BabyAI'):
        HintWrapper(level('MiniGrid-Empty-5x5'))
    with pytest.raises(AgentkitError, match='StochasticActionWrapper changes actions: put it around'):
        HintWrapper(StochasticActionWrapper(level()))
    assert shown(walk(StochasticActionWrapper(HintWrapper(level())), [0], seed=1))


def test_a_planner_that_cannot_read_a_mission_says_so_once():
    env = HintWrapper(level('MiniGrid-Empty-5x5'), 'action', 1, 'planner')
    with pytest.warns(UserWarning, match="no more hints in this episode: .* is not a mission in BabyAI's language"):
        assert not shown(walk(env, [0] * 3, seed=1))
    assert env.counts['broken'] == 1
