"The environment's promises, its splits, the bytes of its prompts."

import json
import random
import re
import sys
from pathlib import Path

import pytest

from agentkit.agents.programs import Expert
from agentkit.core.actions import Structured, ToolCall, read_actions
from agentkit.core.errors import AgentkitError
from agentkit.core.types import Decision, Observation, State, Step, Task, trajectory
from agentkit.envs.base import views_of
from agentkit.envs.check import check_env
from agentkit.envs.find import list_tasks
from agentkit.envs.tasks import check_disjoint
from agentkit.envs.tools.environment import Tools, vary
from agentkit.envs.tools.kinds import NAME
from agentkit.envs.tools.plans import PLAN, Plan, plan_prompt, plan_space, step_of
from agentkit.envs.tools.requests import RULES
from agentkit.envs.tools.splits import HELD_OUT, SPLITS, luck_ceiling, pairs, tasks_for, tools_of
from agentkit.envs.tools.expert import solve
from agentkit.envs.tools.tools import Desk, tool_list
from agentkit.envs.tools.world import words, world
from agentkit.rollouts import Limits, Runner, run_episode

ENV = 'agentkit.envs.tools.environment:Tools'


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(actions='call', no_answer_prob=0.4, partial_answer_prob=0.4),
        dict(tools='search_wikipedia,search_internet,calculate_number,final_answer'),
    ],
)
def test_it_keeps_what_it_promises(options):
    report = check_env(ENV, n=1, steps=8, **options)
    assert report.ok, str(report)


# --- splits ---

ALL = {split: tasks_for(split, 500) for split in SPLITS}


def used(task):
    return tools_of(solve(task.data['request'], Desk(world(task.data['world'], task.data['other']), task.id)))


def test_there_are_enough_requests_and_no_two_splits_share_one():
    texts = {split: {t.data['request'] for t in tasks} for split, tasks in ALL.items()}
    programs = {split: {json.dumps(t.data['program'], sort_keys=True) for t in tasks} for split, tasks in ALL.items()}
    for one in SPLITS:
        assert len(ALL[one]) == 500 and len(programs[one]) == 500
        for other in SPLITS:
            if one != other:
                assert not texts[one] & texts[other] and not programs[one] & programs[other]
                check_disjoint(ALL[one], ALL[other])
                worlds = ({(t.data['world'], t.data['other']) for t in ALL[s]} for s in (one, other))
                assert not set.intersection(*worlds)


def test_new_names_share_no_word_with_training():
    known = {w for t in ALL['train'] for name in re.findall(NAME, t.data['request']) for w in name.split()} & set(
        words()
    )
    new = {w for t in ALL['new_names'] for w in re.findall(r'[A-Z][a-z]+', t.data['request'])}
    assert len(known) > 500 and not new & set(words()) and len(new & set(words(other=True))) > 400


def test_new_wordings_begin_in_ways_that_training_never_shows():
    ways = [re.compile(re.sub(r'\\\{.*?\\\}', '.+', re.escape(x.text))) for x in RULES['request'] if x.new]
    new = lambda t: any(w.fullmatch(t.data['request']) for w in ways)
    assert all(new(t) for t in ALL['new_wordings'])
    assert not any(new(t) for split in SPLITS if split != 'new_wordings' for t in ALL[split])


def test_pairs_of_tools_are_kept_from_training():
    seen = {split: [used(t) for t in tasks[:200]] for split, tasks in ALL.items()}
    known = set().union(*(pairs(u) for u in seen['train']))
    assert not known & HELD_OUT
    assert all(pairs(u) & HELD_OUT for u in seen['new_combinations'])
    everything = known.union(*(pairs(u) for us in seen.values() for u in us))
    assert 0.2 <= len(HELD_OUT) / len(everything) <= 0.3
    assert {tool for p in HELD_OUT for tool in p} <= {tool for p in known for tool in p}, 'each tool itself is known'
    assert {len(u) - 1 for u in seen['longer']} == {5, 6} and max(len(u) for u in seen['train']) == 5
    assert len({t.kind for t in ALL['train']}) >= 15


def test_a_larger_number_only_continues_and_a_seed_changes_all():
    assert tasks_for('valid', 30) == ALL['valid'][:30]
    other = tasks_for('valid', 30, seed=1)
    assert not {t.id for t in other} & {t.id for t in ALL['valid']}
    assert {t.env for t in list_tasks(ENV, 'valid', 3)} == {'tools'}
    with pytest.raises(AgentkitError, match='a seed is from 0'):
        tasks_for('valid', 3, seed=-1)


def test_luck_has_a_ceiling():
    r = random.Random(0)
    for searches, steps in ((4, 5), (4, 7), (5, 7), (1, 3)):
        ended = 0
        for _ in range(20_000):
            left, failed = searches, 0
            while left:
                left, failed = (left - 1, failed) if r.random() >= 0.2 else (left, failed + 1)
            ended += steps + failed <= 10
        assert abs(luck_ceiling(searches, steps) - ended / 20_000) < 0.01
    assert luck_ceiling(4, 5) > 0.99 > luck_ceiling(4, 7)
    assert luck_ceiling(3, 4, failing=0) == 1


# --- episodes ---


def test_tasks_hold_no_answer():
    for task in ALL['test'][:50]:
        assert set(task.data) == {'request', 'program', 'world', 'other'}
        turns = solve(task.data['request'], Desk(world(task.data['world'], task.data['other']), task.id))
        if task.kind in ('fact', 'chain', 'recommended'):
            value = turns[-1][1].rpartition(' is ')[2].rstrip('.')
            assert value not in json.dumps(task.data)


def test_a_made_up_tool_is_refused_and_changes_nothing():
    env, task = Tools(), ALL['test'][0]
    first = env.reset(task)
    for action in (
        str(Plan('', '', 'Do it.', 'search_web')),
        'Hello',
        '',
        '{"task": "x"}',
        '[1]',
        'null',
        '{"selected_tool": 3}',
    ):
        assert not first.actions.allows(action)
        seen = env.refuse(action, 'why')
        assert not seen.done and seen.actions == first.actions
    assert (
        'There is no tool search_web. There are: ask_user'
        in env.refuse(str(Plan('a', 'b', 'c', 'search_web')), '').text
    )
    assert env.turns == [] and env.desk.mails == []


def test_both_forms_survive_a_journal(tmp_path):
    for form, kind in (('plan', Structured), ('call', ToolCall)):
        t = run_episode(Expert(), Tools(actions=form), ALL['test'][3], hints=True)
        again = trajectory(json.loads(json.dumps(t.to_dict())))
        assert again == t and isinstance(again.first.actions, kind)
        assert all(s.hint.action == s.action for s in again.steps)
        assert read_actions(t.first.actions.to_dict()) == t.first.actions


def test_the_same_luck_again_and_other_luck_for_another_seed():
    task = next(t for t in ALL['test'] if t.kind == 'total of three')
    runs = [run_episode(Expert(), Tools(0.3, 0.3), task, seed=s) for s in (0, 0, 1, 2, 3)]
    assert runs[0].turns == runs[1].turns
    assert len({json.dumps(t.turns) for t in runs}) > 2


def test_progress_grows_with_what_is_known():
    env, task = Tools(0.0, 0.0), next(t for t in ALL['test'] if t.kind == 'total')
    env.reset(task)
    known = [env.progress()]
    while not env.desk.answer:
        env.step(env.expert().action)
        known.append(env.progress())
    assert known[0] == 0 and known == sorted(known) and known[-1] == 1 and len(set(known)) == len(known)


def test_workers_play_it(tmp_path):
    with Runner(ENV, tmp_path, limits=Limits(max_steps=10), workers=1, progress=False, no_answer_prob=0.0) as run:
        episodes = run(Expert(), run.tasks('test', 6), hints=True)
        assert all(t.won for t in episodes) and 'Tools-' in episodes[0].environment


def test_own_tools_from_a_function(tmp_path, monkeypatch):
    (tmp_path / 'my_tools.py').write_text(
        'from agentkit.envs.tools.tools import tool_list\n\ndef three():\n'
        '    known = tool_list()\n'
        '    return [known[name] for name in ("search_internet", "search_wikipedia", "final_answer")]\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = Tools(tools='my_tools:three')
    assert list(env.tools) == ['search_internet', 'search_wikipedia', 'final_answer']
    t = run_episode(Expert(), env, next(t for t in ALL['test'] if t.kind == 'fact'), limits=Limits(max_steps=10))
    assert t.termination in ('won', 'lost')
    sys.modules.pop('my_tools')


# --- prompts ---

ARTICLE = """User request: 

```
Get the average Rotten Tomatoes scores for DreamWorks' last 5 movies. 
```

Context information: 

```
Task: Find the last 5 movies released by DreamWorks. 
Result: The last five movies released by DreamWorks are 'The Bad Guys' (2022), 'Boss Baby: Family Business' (2021), \
'Trolls World Tour' (2020), 'Abominable' (2019), and 'How to Train Your Dragon: The Hidden World' (2019). 

Task: Search the internet for the Rotten Tomatoes score of 'The Bad Guys' (2022). 
Result: The Rotten Tomatoes score of 'The Bad Guys' (2022) is 88%. 
```

Plan the next step."""
REQUEST = "Get the average Rotten Tomatoes scores for DreamWorks' last 5 movies."
DONE = [
    (
        'Find the last 5 movies released by DreamWorks.',
        "The last five movies released by DreamWorks are 'The Bad Guys' (2022), 'Boss Baby: Family Business' (2021), "
        "'Trolls World Tour' (2020), 'Abominable' (2019), and 'How to Train Your Dragon: The Hidden World' (2019).",
    ),
    (
        "Search the internet for the Rotten Tomatoes score of 'The Bad Guys' (2022).",
        "The Rotten Tomatoes score of 'The Bad Guys' (2022) is 88%.",
    ),
]
TARGET = (
    '{"context_information_summary": "Known.", "thoughts": "Search.", "task": "Search the internet for the score of '
    '\'Boss Baby: Family Business\' (2021).", "selected_tool": "search_internet"}'
)


def test_prompts_are_those_of_the_seed_byte_by_byte():
    assert plan_prompt(REQUEST, DONE, form='article') == ARTICLE
    upstream = '\n'.join(line.rstrip() for line in ARTICLE.split('\n'))
    assert plan_prompt(REQUEST, DONE) == upstream
    first, second = '```\nHi.\n```', '```\n<no previous steps available>\n```'
    empty = f'User request:\n\n{first}\n\nContext information:\n\n{second}\n\nPlan the next step.'
    assert plan_prompt('Hi.', []) == empty


def test_the_target_is_the_action_byte_by_byte():
    space = plan_space(tool_list())
    assert space.allows(TARGET) and space.read(TARGET) == TARGET
    assert str(Plan(*json.loads(TARGET).values())) == TARGET
    shuffled = json.dumps(dict(reversed(json.loads(TARGET).items())))
    assert space.read(f'```json\n{shuffled}\n```') == TARGET
    assert list(space.schema()['properties']) == space.schema()['required'] == list(PLAN)


def test_views_tell_the_state_and_list_tools_only_when_asked():
    env, task = Tools(0.0, 0.0), ALL['test'][5]
    t = run_episode(Expert(), env, task)
    views = views_of(Tools)
    short, listed = (views[name].messages(t.state(1))[0]['content'] for name in ('planner', 'planner_tools'))
    assert listed.endswith(short) and all(tool.description in listed for tool in env.tools.values())
    assert not any(tool.description in short for tool in env.tools.values())
    assert f'Task: {step_of(t.turns[0][0])[1]}\nResult: {t.turns[0][1]}' in short
    assert views['article'].messages(t.state(1))[0]['content'].replace(' \n', '\n') == short
    calls = run_episode(Expert(), Tools(0.0, 0.0, actions='call'), task)
    assert views['planner_tools'].messages(calls.state(0)) == views['planner_tools'].messages(t.state(0))
    state = State(
        Task('a', 'tools'),
        Observation('Hi', env.space),
        [Step(Decision('no plan'), Observation('What?', env.space), False)],
    )
    assert 'Task: no plan\nResult: What?' in views['planner'].messages(state)[0]['content']


def test_other_names_leave_a_row_right():
    "A row that is told with other names is still the expert's: with its names put back it is the same."
    for task in ALL['test'][:60]:
        t = run_episode(Expert(), Tools(0.0, 0.0), task)
        for k in range(len(t.steps)):
            prompt = views_of(Tools)['planner'].messages(t.state(k))[0]
            row = dict(messages=[prompt, dict(role='assistant', content=t.turns[k][0], loss=True)])
            other = vary(row, random.Random(k))
            assert other['messages'][1]['loss'] is True and plan_space(tool_list()).allows(
                other['messages'][1]['content']
            )
            names = set(words()) & set(re.findall(r'[A-Z][a-z]+', prompt['content']))
            assert not names & set(re.findall(r'[A-Z][a-z]+', other['messages'][0]['content']))
            assert re.findall(r'\d+', other['messages'][0]['content']) == re.findall(r'\d+', prompt['content'])
            if names:
                assert other != row


def test_the_lessons_fit_the_package():
    root = Path(__file__).parents[3]
    assert {p.stem[3:] for p in (root / 'notebooks/envs/tools').glob('*.ipynb')} == {
        p.stem for p in (root / 'agentkit/envs/tools').glob('*.py') if p.stem != '__init__'
    }


def test_a_judge_has_to_say_where_there_is_no_truth():
    own = Task('my/1', ENV, data=dict(request='What is 17 times 3?'))
    for env, task in ((Tools(), own), (Tools(judged=True), ALL['test'][0])):
        first = env.reset(task)
        seen = env.step(str(Plan('a', 'b', 'It is 51.', 'final_answer')))
        assert (first.score, seen.score, seen.done, env.progress()) == (None, None, True, None)
    env.reset(own)
    assert env.expert() is None


def test_an_empty_answer_is_none():
    env = Tools()
    env.reset(ALL['test'][0])
    seen = env.step(str(Plan('a', 'b', ' ', 'final_answer')))
    assert not seen.done and seen.text == 'The answer is empty.'
