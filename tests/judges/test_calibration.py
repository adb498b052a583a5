"Calibration: known errors are found, silence is counted apart, copies are no evidence."

import json
import random

import pytest
from judges.shared import broken, on_the_shelf, played

from agentkit.agents.programs import Chance, Expert
from agentkit.core.stats import cluster_interval
from agentkit.core.store import Journal
from agentkit.core.types import transcript
from agentkit.envs.alfworld.expert import progress
from agentkit.envs.find import list_tasks
from agentkit.judges.base import Judge, Verdict
from agentkit.judges.calibration import calibrate, kappa, read_calibration
from agentkit.judges.expert import ExpertProgress, decisions
from agentkit.judges.language import AIFeedback, TrajectoryRating, describe_state, read_numbered
from agentkit.models.find import make_lm
from agentkit.rollouts import Runner
from agentkit.testing.judges import stand_in_judge
from agentkit.testing.models import scripted_lm


@pytest.fixture(scope='module')
def household():
    with Runner('household', workers=1, progress=False) as run:
        yield run, run(Expert(), list_tasks('household', 'train', 2))


@pytest.mark.parametrize('error', [0.0, 0.1, 0.3, 0.5])
def test_kappa_is_what_it_must_be(error):
    ts = [played(i, won=bool(k), task=f'task-{i}', policy=f'p{k}') for i in range(100) for k in (0, 1)]
    s = calibrate(
        TrajectoryRating(stand_in_judge(on_the_shelf, error=error), steps=False), ts, lambda t: t.won, progress=False
    ).summary
    assert s['kappa_low'] - 1e-9 <= 1 - 2 * error <= s['kappa_high'] + 1e-9
    assert s['agreement'] == pytest.approx(1 - error, abs=0.1) and s['tasks'] == 100 and s['judged'] == 200
    if error == 0:
        assert s['kappa'] == 1 and s['false_pass'] == s['false_fail'] == 0


def test_kappa_of_a_table_computed_by_hand():
    truth, labels = [1] * 45 + [0] * 55, [1] * 40 + [0] * 5 + [1] * 15 + [0] * 40
    po, pe = 0.8, 0.45 * 0.55 + 0.55 * 0.45
    assert kappa(truth, labels) == pytest.approx((po - pe) / (1 - pe))


def test_copies_of_a_case_do_not_make_the_interval_narrower():
    r = random.Random(1)
    values = [r.random() < 0.7 for _ in range(40)]

    def mean(rows):
        return float(sum(values[i % 40] for i in rows) / len(rows))

    once = cluster_interval(mean, list(range(40)))
    tenfold = cluster_interval(mean, [i % 40 for i in range(400)])
    naive = cluster_interval(mean, list(range(400)))
    assert once == pytest.approx(tenfold, abs=0.03)
    assert naive[1] - naive[0] < 0.5 * (tenfold[1] - tenfold[0])
    assert cluster_interval(mean, ['one'] * 40) == (None, None)


def test_silence_failures_and_unknown_truths_are_counted_apart(tmp_path):
    class Partial(Judge):
        name = 'partial'

        def decide(self, t):
            return [
                Verdict(1.0, judge='p'),
                Verdict(0.0, judge='p'),
                Verdict(None, judge='p'),
                Verdict(None, error='gone', judge='p'),
                Verdict(1.0, judge='p'),
            ][t.seed]

    c = calibrate(Partial(), [played(i) for i in range(5)], [True, True, True, False, None], progress=False)
    s = c.summary
    assert (s['n'], s['judged'], s['unjudged'], s['failed'], s['without_truth']) == (5, 3, 1, 1, 1)
    assert len(c.judged) == 2 and s['agreement'] == 0.5 and s['false_fail'] == 0.5 and s['false_pass'] is None
    again = read_calibration(c.save(tmp_path / 'c.json'))
    assert again.summary == s and str(again) == str(c) and again.table.equals(c.table)
    json.loads((tmp_path / 'c.json').read_text(), parse_constant=lambda x: pytest.fail(f'{x} is not JSON'))


def test_repeats_are_journalled_and_find_the_known_inconsistency(tmp_path):
    ts = [played(i, won=i % 2 == 0) for i in range(60)]
    judge = TrajectoryRating(stand_in_judge(on_the_shelf, error=0.2), steps=False)
    c = calibrate(judge, ts, lambda t: t.won, repeats=4, journal=tmp_path / 'v.jsonl', progress=False)
    assert c.summary['repeat_agreement_low'] < 0.8**2 + 0.2**2 < c.summary['repeat_agreement_high']
    assert len(Journal(tmp_path / 'v.jsonl')) == 60 * 5 and c.summary['calls'] == 300
    silent = TrajectoryRating(scripted_lm(['must not be asked'], name='scripted-judge'), steps=False)
    silent.lm.kwargs = judge.lm.kwargs
    assert (
        calibrate(silent, ts, lambda t: t.won, repeats=4, journal=tmp_path / 'v.jsonl', progress=False).summary
        == c.summary
    )


def test_dollars_are_known_or_not():
    def dollars(name):
        lm = stand_in_judge(on_the_shelf, name=name)
        return calibrate(
            TrajectoryRating(lm, steps=False), [played(0), played(1, False)], [1.0, 0.0], progress=False
        ).summary['dollars']

    assert dollars('openai/gpt-4o-mini') > 0 and dollars('scripted-judge') == 0 and dollars('nobody/knows') is None


def test_what_broke_off_is_unjudged():
    judge = TrajectoryRating(stand_in_judge(on_the_shelf, error=0.0), steps=False)
    s = calibrate(judge, [played(0), broken(1)], [True, False], progress=False).summary
    assert (s['judged'], s['unjudged'], s['agreement'], s['calls']) == (1, 1, 1.0, 1)


def test_the_assessor_is_calibrated_against_the_experts_plan(household):
    "AI feedback on household decisions: where a wanderer departs from the expert, and what the expert's plan says."
    run, played = household
    (t,) = run.with_limits(max_steps=12)(Chance(), [played[0].task], hints=True)
    other = [d for d in decisions(t) if d[0].action != d[1].action]
    judge = ExpertProgress('household', run.pool)
    truth = [judge.verdict(*d).score for d in other]
    assert len(other) >= 6 and {0.0, 1.0} <= set(truth)
    known = {describe_state(g.inputs()) + p.action: y for (g, p), y in zip(other, truth)}
    perfect = AIFeedback(stand_in_judge(lambda shown: bool(known[shown['situation'] + shown['decision']]), error=0.0))
    assert calibrate(perfect, other, truth, progress=False).summary['kappa'] == 1
    wrong = AIFeedback(stand_in_judge(lambda shown: not known[shown['situation'] + shown['decision']], error=0.0))
    assert calibrate(wrong, other, truth, progress=False).summary['kappa'] < 0


def test_a_program_that_reads_the_transcript_agrees_with_the_environment(household):
    run, played = household
    lost = run.with_limits(max_steps=6)(Chance(), [t.task for t in played])

    def reached(shown):
        return progress(shown['task'], transcript(read_numbered(shown['steps']))) == 1

    c = calibrate(TrajectoryRating(stand_in_judge(reached, error=0.0)), played + lost, lambda t: t.won, progress=False)
    assert c.summary['kappa'] == 1 and c.summary['n'] == 4


@pytest.mark.slow
@pytest.mark.llm
@pytest.mark.timeout(3600)
def test_a_small_model_judges_household_episodes(capsys):
    "SmolLM2 through a real server, held to the schema: every reply is read; its quality is reported, not asserted."
    from agentkit.models.serving import stop_servers

    with Runner('household', progress=False) as run:
        tasks = list_tasks('household', 'train', 10)
        strayed = run.with_limits(max_steps=12)(Chance(), tasks, hints=True)
        ts = run.with_limits(max_steps=30)(Expert(), tasks) + strayed
        other = [d for t in strayed for d in decisions(t)[:2] if d[0].action != d[1].action]
        judge = ExpertProgress('household', run.pool, slack=0)
        truth = [judge.verdict(*d).score for d in other]
    try:
        lm = make_lm('local/smollm2-135m', slots=1)
        rated = calibrate(TrajectoryRating(lm, 3, steps=False), ts, lambda t: t.won, parallel=1, progress=False)
        assessed = calibrate(AIFeedback(lm), other, truth, parallel=1, progress=False)
    finally:
        stop_servers()
    with capsys.disabled():
        print(f'\n{rated}\n\n{assessed}')
    assert rated.summary['judged'] + rated.summary['unjudged'] == 20 and rated.summary['failed'] == 0
    assert rated.summary['judged'] >= 18 and assessed.summary['failed'] == 0
