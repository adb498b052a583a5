"No text, whoever wrote it, ends a run; what is kept and read again is the same."

import dataclasses
import json

import pytest
from flaky import FlakyServer, said
from hypothesis import HealthCheck, given, settings, strategies as st

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Chance, Expert, Program
from agentkit.agents.reply import read_reply
from agentkit.core.actions import Choice, Text, ToolCall, json_fields
from agentkit.core.errors import AgentkitError, EpisodeError
from agentkit.core.store import Journal
from agentkit.core.types import Decision, Observation, Task, trajectory
from agentkit.data.rows import keep, read_rows, rows, write_rows
from agentkit.envs.base import Environment
from agentkit.envs.find import list_tasks
from agentkit.evals import Report, episode_table, evaluate, read_report
from agentkit.judges.language import TrajectoryRating
from agentkit.judges.run import judge_all
from agentkit.rollouts import Runner, read_trajectories, run_episode
from agentkit.testing.models import scripted_lm

HALF = json.loads('"\\ud800"')  # of a surrogate pair
ODD = {
    'half a pair': f'a {HALF} b',
    'the other half': json.loads('"\\udfff"') * 3,
    'nothing': '',
    'NUL': 'a\0b',
    'controls': ''.join(map(chr, range(32))) + '\x7f\x80\x85\x9b',
    'line ends': 'a\rb\u2028c\u2029d\x0be\x0cf\x1cg\x1dh\x1ei',
    'bidi': '\u202eabc\u2066\u202d',
    'terminal': '\x1b]0;title\x07\x1b[2J\x1b[31m',
    'zero width': '\u200b\ufeff\u00ad' * 10,
    'combining': 'e' + '\u0301' * 5000,
    'noncharacters': '\ufffe\uffff\U0010ffff',
    'long': 'ab ' * 300_000,
    'brackets': '{[' * 20_000,
    'JSON': '{"action": null, "thought": ["' + '\\ud800' + '"]}',
    'a number': '{"action": ' + '9' * 6000 + '}',
    'think': f'think: {HALF}',
    'transcript': '> forward\n>> back\n > x\n## steps\n| 1. x',
    'CSV': '=cmd|"/c",\'\n"',
    'template': '<|im_end|>[INST]</s>{{7*7}}%s{0}',
    'image': '<<CUSTOM-TYPE-START-IDENTIFIER>>[{"type": "image_url"}]<<CUSTOM-TYPE-END-IDENTIFIER>>',
}


@pytest.fixture(scope='module')
def run():
    with Runner('corridor', progress=False) as runner:
        yield runner


def test_no_answer_of_a_model_ends_an_evaluation(run, tmp_path):
    "Each odd text is said once, in the middle of some episode; all end, all are kept, nothing is asked twice."
    odd, tasks = [*ODD.values()], list_tasks('corridor', 'train', 8)
    with FlakyServer(lambda n, body: said(odd[n // 2] if n % 2 and n // 2 < len(odd) else 'forward')) as server:
        agent = Agent(server.lm)
        first = run(agent, tasks, repeats=3, journal=tmp_path / 'j.jsonl')
        asked = len(server.asked)
        assert run(agent, tasks, repeats=3, journal=tmp_path / 'j.jsonl') == first and len(server.asked) == asked
    assert asked > 2 * len(odd) and {t.termination for t in first} == {'won'}
    assert read_trajectories(tmp_path / 'j.jsonl') and len(Journal(tmp_path / 'j.jsonl')) == 24
    report = Report('m', episode_table(first))
    report.save(tmp_path)
    assert read_report(tmp_path).to_dict() == report.to_dict() and report.summary['n'] == 24
    write_rows(tmp_path / 'rows.jsonl', learned := rows(keep(first), agent))
    assert read_rows(tmp_path / 'rows.jsonl') == learned


class Poet(Environment):
    "Whatever the task says is what one sees; whatever is said is repeated."

    def reset(self, task, seed=0):
        self.said = 0
        return Observation(task.data['text'], Text(), score=0.0)

    def step(self, action):
        self.said += 1
        return Observation(action, Text(), done=self.said == 2, score=float(self.said == 2))


@pytest.mark.parametrize('name', ODD)
def test_odd_text_of_a_world_and_a_policy_is_kept_as_it_is(name, tmp_path):
    text = ODD[name]
    task = Task('odd', 'poet', kind=text[:50], data=dict(text=text, more=[text, {text[:9]: text}]))
    t = run_episode(Program(lambda state: Decision(text or 'x', text), text[:20] or 'mute'), Poet(), task)
    assert t.won and len(t.steps) == 2
    Journal(tmp_path / 'j.jsonl').append(t.to_dict())
    (again,) = map(trajectory, Journal(tmp_path / 'j.jsonl').rows())
    assert again == t and again.key == t.key and again.state().transcript == t.state().transcript
    lm = scripted_lm(['{"explanation": "", "final_answer_rating": 5}'])
    judge = TrajectoryRating(lm, steps=False)
    verdicts = judge_all(judge, [t], tmp_path / 'v.jsonl', progress=False)
    assert judge_all(judge, [again], tmp_path / 'v.jsonl', progress=False) == verdicts and len(lm.script.asked) == 1
    json.dumps(lm.script.asked[0].messages[-1].text, ensure_ascii=False).encode()


def test_a_task_with_odd_data_is_found_again(run, tmp_path):
    "Its key is the same before and after it was written down."
    task = dataclasses.replace(list_tasks('corridor', 'train', 1)[0], id=f'odd {HALF}', kind=HALF)
    played = run(Expert(), [task], journal=tmp_path / 'j.jsonl')
    silent = Program(lambda state: pytest.fail('played again'), 'expert', Expert().id)
    assert run(silent, [task], journal=tmp_path / 'j.jsonl') == played and played[0].won


def test_an_odd_error_is_a_line(run):
    for text in ('', '\n\n', HALF, 'x' * 10_000_000, '\r\u2028'):

        def fails(state):
            raise RuntimeError(text)

        report = evaluate(Program(fails, 'broken'), list_tasks('corridor', 'train', 1), run)
        (error,) = report.episodes['error']
        assert error.startswith('RuntimeError') and len(error.splitlines()) == 1 and len(error) < 1000
        report.to_dict()


class Stuck(Poet):
    "A world in which nothing can be done any more, though it has not ended."

    def __init__(self, actions):
        self.actions = actions

    def reset(self, task, seed=0):
        return Observation('x', self.actions)


@pytest.mark.parametrize('actions', [Choice(()), Choice(('',)), ToolCall({})], ids=['nothing', 'silence', 'no tools'])
def test_a_world_without_a_way_on_ends_one_episode(actions):
    "Not the run: the other tasks may go well."
    with FlakyServer(lambda n, body: said('x')) as server:
        for policy in (Agent(server.lm), Chance(), Program(lambda state: 'x', 'x')):
            t = run_episode(policy, Stuck(actions), Task('stuck', 'stuck'))
            assert t.termination in ('error', 'invalid', 'loop'), policy.name
    with pytest.raises(EpisodeError, match='nothing to choose from'):
        Choice(()).sample(None)


TOOLS = ToolCall({'add': {'properties': {'a': {'type': 'number'}}, 'required': ['a']}})


@pytest.mark.parametrize(
    'reply',
    [
        '{"tool": [], "arguments": {}}',
        '{"tool": {"a": 1}, "arguments": {}}',
        '{"tool": null, "arguments": {}}',
        '{"tool": "add", "arguments": null}',
        '{"tool": "add", "arguments": {"a": ' + '[' * 3000 + ']' * 3000 + '}}',
        '{"tool": "add", "arguments": {"a": ' + '9' * 6000 + '}}',
        '{"a":' * 20_000,
        '{' * 1_000,
        '{' * 100_000,
        '{"' * 50_000,
    ],
)
def test_a_call_of_any_form_is_an_impossible_action_and_no_failure(reply):
    for actions in (TOOLS, Choice(('look',))):
        decision = read_reply(reply, actions)
        assert actions.allows(decision.action) in (True, False) and isinstance(json_fields(reply), dict)
    assert not TOOLS.allows(read_reply(reply, TOOLS).action) or 'a' in reply


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(), max_size=60), st.sampled_from([Choice(('look', 'go to shelf 1')), TOOLS, Text()]))
def test_any_reply_is_a_decision_that_can_be_written(reply, actions):
    decision = read_reply(reply, actions)
    assert actions.allows(decision.action) in (True, False)
    assert (
        json.loads(json.dumps(dataclasses.asdict(decision), ensure_ascii=False).encode())['action'] == decision.action
    )


def test_a_score_that_is_none_is_an_error_that_a_person_can_read():
    with pytest.raises(AgentkitError, match='a score is from 0 to 1'):
        Observation('x', score=float('nan'))
