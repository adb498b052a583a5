"Judges as metrics, and many verdicts: optimisers that misread a half, killed runs, journals."

import dataclasses
import importlib.util
import inspect
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest
from judges.shared import GOLD, LOOK, STATE, YES, answered, broken, played, rated

import agentkit.judges.run
from agentkit.agents.programs import Expert
from agentkit.core.errors import AgentkitError
from agentkit.core.store import Journal, digest
from agentkit.core.types import trajectory
from agentkit.envs.find import list_tasks
from agentkit.judges.base import Judge, Verdict, success
from agentkit.judges.expert import ExpertProgress
from agentkit.judges.language import AIFeedback, LMJudge, RateEnd, TrajectoryRating
from agentkit.judges.run import Strict, judge_all, read_verdicts, scored
from agentkit.rollouts import Player, Runner, episode_prediction, examples
from agentkit.testing.judges import stand_in_judge
from agentkit.testing.models import scripted_lm

PINS = Path(__file__).parents[1] / 'pins'

# many at once


def test_a_journal_is_resumed_and_failures_are_asked_again(tmp_path):
    path, ts = tmp_path / 'verdicts.jsonl', [played(i) for i in range(4)]

    class Moody(LMJudge):
        asks = RateEnd
        name = 'moody'
        failing, seen = {'task-1'}, []

        def decide(self, t):
            self.seen.append(t.task.id)
            return (
                Verdict(None, error='no answer', judge=self.name)
                if t.task.id in self.failing
                else Verdict(None if t.task.id == 'task-2' else 0.5, judge=self.name)
            )

    judge = Moody(scripted_lm(['']))
    first = judge_all(judge, ts, path, progress=False)
    assert [v.status for v in first] == ['judged', 'failed', 'unjudged', 'judged']
    with open(path, 'a') as f:
        f.write('{"format": "agentkit-ver')  # as a kill leaves it
    Moody.failing = set()
    second = judge_all(judge, ts, path, parallel=1, progress=False)
    assert [v.status for v in second] == ['judged', 'judged', 'unjudged', 'judged']
    asked = ['task-0', 'task-1', 'task-1', 'task-2', 'task-2', 'task-3']
    assert sorted(Moody.seen) == asked, 'only what had no score was asked again'
    assert len(Journal(path)) == 6
    assert [r['task'] for r in Journal(path).rows()][-1] in ('task-1', 'task-2') and len(read_verdicts(path)) == 4
    Moody.final = True
    judge_all(judge, ts, path, progress=False)
    assert sorted(Moody.seen) == asked, 'what nobody can tell is not asked again'


def test_another_prompt_another_model_or_another_episode_is_another_question(tmp_path):
    path, lm = tmp_path / 'v.jsonl', scripted_lm([rated(4)])

    def ask(judge, t):
        return judge_all(judge, [t], path, progress=False)[0].score

    assert ask(TrajectoryRating(lm, steps=False), played()) == 0.75 and len(lm.script.asked) == 1
    assert (
        ask(TrajectoryRating(lm, 4, steps=False), played()) == 1.0
        and ask(TrajectoryRating(lm, 5, steps=False), played()) == 0.0
        and len(lm.script.asked) == 1
    )
    stern = TrajectoryRating(lm, steps=False)
    stern.predict.signature = stern.predict.signature.with_instructions('Be stern.')
    for judge, t in (
        (stern, played()),
        (TrajectoryRating(scripted_lm([rated(4)], name='other'), steps=False), played()),
        (TrajectoryRating(lm, steps=False), played(won=False)),
    ):
        ask(judge, t)
    assert len(Journal(path)) == 4


@pytest.mark.parametrize('first, second', [(None, 1.0), (1.0, None), (None, None)])
def test_a_verdict_counts_once_and_one_that_failed_for_nothing_where_another_did_not(first, second, tmp_path):
    "As two runs at once leave them, or one that asks again."
    journal = Journal(tmp_path / 'v.jsonl')
    for score in (first, second):
        v = Verdict(score, judge='j', error='' if score else 'the server was sick')
        journal.append(dict(v.to_dict(), key='the same item'))
    journal.append(dict(Verdict(0.0, judge='j').to_dict(), key='another item'))
    journal.append(Verdict(0.5, judge='j').to_dict())  # as in files without keys
    assert [v.score for v in read_verdicts(journal.path)] == [first or second, 0.0, 0.5]


def test_two_runs_at_once_judge_each_item_once(tmp_path):
    asked, items = [], [played(i) for i in range(20)]

    class Slow(Judge):
        name = 'slow'

        def decide(self, t):
            asked.append(t.seed)
            return Verdict(1.0, judge=self.name)

    with ThreadPoolExecutor(2) as threads:
        judge = lambda _: judge_all(Slow(), items, tmp_path / 'v.jsonl', progress=False)
        first, second = threads.map(judge, range(2))
    assert first == second and sorted(asked) == [*range(20)] and len(read_verdicts(tmp_path / 'v.jsonl')) == 20


def test_a_journal_does_not_answer_for_other_weights_or_settings_or_another_function(tmp_path):
    path = tmp_path / 'v.jsonl'

    def ask(judge):
        judge_all(judge, [played()], path, progress=False)
        return len(Journal(path))

    lm = scripted_lm([rated(4)])
    low, high = (lm.copy(reasoning_effort=effort) for effort in ('low', 'high'))
    one, other = lm.copy(), lm.copy()
    one.fingerprint, other.fingerprint = 'a' * 64, 'b' * 64  # as of local models of one name
    judges = [TrajectoryRating(m, steps=False) for m in (lm, low, high, one, other)]
    assert [ask(j) for j in judges + judges] == [1, 2, 3, 4, 5] + [5] * 5

    def metric(words):
        def good(gold, pred, trace=None):
            return float(words in str(pred.trajectory))

        return good

    assert [ask(metric(w)) for w in ('mug', 'cup', 'mug')] == [6, 7, 7]


MILD = """
from agentkit.judges.base import Judge, Verdict


class Mild(Judge):
    name = 'mild'

    def decide(self, t):
        return Verdict(0.5, judge=self.name)
"""


def test_a_journal_does_not_answer_for_a_judge_that_was_edited_or_for_older_rules(tmp_path, monkeypatch):
    def ask(source):
        path = tmp_path / f'm{digest(source)}.py'
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        (v,) = judge_all(module.Mild(), [played()], tmp_path / 'v.jsonl', progress=False)
        return v.score, len(Journal(tmp_path / 'v.jsonl'))

    strict = MILD.replace('0.5', '0.25')
    assert [ask(s) for s in (MILD, MILD, strict, MILD)] == [(0.5, 1), (0.5, 1), (0.25, 2), (0.5, 2)]
    monkeypatch.setattr(agentkit.judges.run, 'RULES', 2)
    assert ask(MILD) == (0.5, 3)


def test_the_same_episode_twice_is_asked_once():
    lm = scripted_lm([rated(4)])
    slower = dataclasses.replace(
        played(), seconds=9.0, steps=tuple(dataclasses.replace(s, seconds=4.0) for s in played().steps)
    )
    verdicts = judge_all(TrajectoryRating(lm, steps=False), [played(), played(1), slower], progress=False)
    assert len(lm.script.asked) == 2 and len(verdicts) == 3


def test_what_is_finished_is_kept_when_the_run_stops(tmp_path):
    class Leaves(Judge):
        name = 'leaves'

        def decide(self, t):
            if t.seed == 2:
                raise AgentkitError('the key is wrong')
            return Verdict(1.0, judge=self.name)

    path = tmp_path / 'v.jsonl'
    with pytest.raises(AgentkitError, match='the key is wrong'):
        judge_all(Leaves(), [played(i) for i in range(5)], path, parallel=1, progress=False)
    kept = {r['task'] for r in Journal(path).rows()}
    assert {'task-0', 'task-1'} <= kept and 'task-2' not in kept


def test_a_foreign_journal_is_refused(tmp_path):
    Journal(tmp_path / 'v.jsonl').append(dict(played().to_dict(), key='x'))
    with pytest.raises(AgentkitError, match='not a verdict: format is'):
        judge_all(success, [played()], tmp_path / 'v.jsonl', progress=False)
    with pytest.raises(AgentkitError, match='has no score'):
        Verdict(0.5, error='gone')


def test_a_journal_of_the_first_format_still_answers(tmp_path):
    "Verdicts on episodes of format 1 are found under their keys when the episodes are read today."
    journal = tmp_path / 'v.jsonl'
    journal.write_bytes((PINS / 'formats/verdicts.jsonl').read_bytes())
    names = ('corridor', 'household', 'household_lost')
    ts = [trajectory(json.loads((PINS / f'episodes/{n}.json').read_text())) for n in names]
    silent = TrajectoryRating(scripted_lm(['must not be asked'], name='scripted-judge'), steps=False)
    silent.lm.kwargs = stand_in_judge(bool).kwargs
    assert [v.score for v in judge_all(silent, ts, journal, progress=False)] == [1.0, 1.0, 0.0]
    assert not silent.lm.script.asked and len(Journal(journal)) == 3


def test_what_broke_off_is_not_judged_by_anybody(tmp_path):
    lm = scripted_lm([rated(4)])
    for judge in (TrajectoryRating(lm, steps=False), success):
        verdicts = judge_all(judge, [broken(), played()], tmp_path / f'{judge}.jsonl', progress=False)
        assert [v.status for v in verdicts] == ['unjudged', 'judged']
    assert len(lm.script.asked) == 1


def test_a_judge_scores_what_the_environment_could_not(tmp_path):
    "Only episodes that came to an end without a score are shown to it; what nobody can judge stays without."
    right = stand_in_judge(lambda shown: '42' in shown['steps'], error=0.0)
    judge = TrajectoryRating(right, rating_threshold=4, steps=False)
    stopped = dataclasses.replace(answered('hm', 2), termination='max_steps')
    ts = [answered('42'), answered('41', 1), stopped, played(3, won=False), broken(4)]
    result = scored(ts, judge, tmp_path / 'v.jsonl', progress=False)
    assert [t.score for t in result] == [1.0, 0.0, 0.0, 0.0, None] and len(Journal(tmp_path / 'v.jsonl')) == 3
    assert [dataclasses.replace(t, score=u.score) for t, u in zip(result, ts)] == ts, 'nothing else changes'
    mute = TrajectoryRating(scripted_lm(['no idea']), steps=False)
    assert [t.score for t in scored(ts, mute, progress=False)] == [None, None, None, 0.0, None]


# optimisers


class Choose(dspy.Module):
    def __init__(self):
        super().__init__()
        self.react = dspy.Predict('task, trajectory, possible_actions: list[str] -> action')

    def forward(self, **state):
        return self.react(**state)


def says(*actions):
    return scripted_lm([f'[[ ## action ## ]]\n{a}\n\n[[ ## completed ## ]]' for a in actions])


def test_evaluate_takes_every_judge():
    with Runner('corridor', workers=1, progress=False) as run:
        tasks = list_tasks('corridor', 'train', 3)
        player = Player(Expert(), tasks, run)
        rating = TrajectoryRating(stand_in_judge(lambda shown: shown['steps'].count('forward') > 1, error=0.0))
        scores = [
            dspy.Evaluate(devset=examples(tasks), metric=j, num_threads=1, max_errors=1)(player).score
            for j in (success, rating, Strict(rating), ExpertProgress('corridor', run.pool))
        ]
    assert scores == [100.0, 66.67, 66.67, 100.0]


def test_one_unjudged_case_stops_an_evaluation_or_is_counted():
    mute = AIFeedback(scripted_lm(['?']))
    with dspy.context(lm=says('look')):
        with pytest.raises(Exception, match='cancelled due to errors'):
            dspy.Evaluate(devset=[GOLD] * 3, metric=Strict(mute), num_threads=1, max_errors=1)(Choose())
        counted = Strict(mute, unjudged=0.25)
        assert dspy.Evaluate(devset=[GOLD] * 4, metric=counted, num_threads=2)(Choose()).score == 25.0
    assert (counted.judged, counted.unjudged) == (0, 4)


@pytest.mark.parametrize('threshold, learned', [(1.0, ['go to shelf 1']), (0.5, ['go to shelf 1', 'look'])])
def test_a_half_is_no_success_unless_you_say_so(threshold, learned):
    "What DSPy's BootstrapFinetune trains on, filtered by truthiness, with a judge that gives 1, ½ and 0."

    class Catch(dspy.clients.provider.Provider):
        def __init__(self):
            super().__init__()
            self.finetunable, self.TrainingJob, self.rows = True, Job, []

        @staticmethod
        def finetune(job, model, train_data, train_data_format, train_kwargs=None):
            caught.rows += train_data
            return model

        def kill(self, *_, **__):
            pass

        def launch(self, *_, **__):
            pass

    class Job(dspy.clients.provider.TrainingJob):
        def status(self):
            return 'succeeded'

    caught = Catch()
    lm = dspy.LM('pupil', engine=says('go to shelf 1', 'look', 'sing').engine, provider=caught, cache=False)
    assessor = stand_in_judge(lambda shown: shown['decision'] == 'look', error=0.0)
    metric = Strict(AIFeedback(assessor), threshold=threshold)
    program = Choose()
    program.set_lm(lm)
    teacher = program.deepcopy()
    dspy.BootstrapFinetune(metric=metric, num_threads=1, adapter=dspy.ChatAdapter()).compile(
        program, teacher=teacher, trainset=[dspy.Example(GOLD).with_inputs(*STATE) for _ in range(3)]
    )
    actions = [r['messages'][-1]['content'].split('\n')[1] for r in caught.rows]
    assert sorted(actions) == learned and metric.judged == 3


def test_the_judge_leaves_no_trace_in_the_programme():
    "A demonstration is what the agent did: the calls of a judge that is the metric are none of it."
    metric = Strict(AIFeedback(scripted_lm([YES])), threshold=0.5)
    with dspy.context(trace=[]):
        metric(GOLD, LOOK)
        assert dspy.settings.trace == []
    with dspy.context(lm=says('look')):
        program = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=1, max_labeled_demos=0).compile(
            Choose(), trainset=[GOLD]
        )
    assert [d.action for d in program.react.demos] == ['look']


def test_gepa_gets_score_and_words():
    judge = TrajectoryRating(
        scripted_lm(
            [
                json.dumps(
                    dict(
                        steps=[dict(explanation='Why look?', task_rating=1, tool_rating=1, result_rating=1)] * 2,
                        explanation='Done.',
                        final_answer_rating=5,
                    )
                )
            ]
        )
    )
    for metric in (judge, Strict(judge), Strict(judge, threshold=0.5)):
        inspect.signature(metric).bind(None, None, None, None, None)
        result = metric(None, episode_prediction(played()), None, 'react', None)
        assert result.score == 1 and result.feedback == 'Done.\nstep 1: Why look?\nstep 2: Why look?'
    with pytest.raises(AgentkitError, match='give it a Trajectory'):
        judge(GOLD, LOOK)


def test_gepa_runs_with_a_judge():
    pytest.importorskip('gepa')
    judge = AIFeedback(stand_in_judge(lambda shown: False, error=0.0))
    with dspy.context(lm=says('look'), adapter=dspy.ChatAdapter()):
        best = dspy.GEPA(
            metric=Strict(judge),
            max_metric_calls=8,
            reflection_lm=scripted_lm(['```\nGo to the shelf.\n```']),
            num_threads=1,
            reflection_minibatch_size=1,
        ).compile(Choose(), trainset=[GOLD], valset=[GOLD])
    assert best.react.signature.instructions
