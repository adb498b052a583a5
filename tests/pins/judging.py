"Verdicts, and what judges send to a model; what optimisers plan and say."

import json
from dataclasses import replace

from . import conversation, parts, pin
from .play import built_games
from .prompts import messages, read, scripted

EPISODES = ('corridor', 'household', 'household_expert', 'household_lost')
METHODS = ('miprov2', 'gepa', 'bootstrap', 'bootstrap_search', 'simba')
ANSWER = dict(explanation='It looks good.', makes_sense=True, final_answer_rating=4, better='first')
RATED = dict(explanation='It looks good.', task_rating=4, tool_rating=3, result_rating=2)


# --- the kit ---


def expert_progress(t, slack):
    from agentkit.judges.expert import ExpertProgress

    built_games(n=4)  # the episodes are of these
    with ExpertProgress(t.task.env, slack=slack) as judge:
        return judge.verdict(t)


def decisions(t):
    "Each step as an example with the expert's action, and a prediction with the one that was taken."
    from agentkit.envs.pool import EnvPool
    from agentkit.judges.expert import decisions, hinted

    built_games(n=4)  # the episodes are of these
    with EnvPool(t.task.env, n=1) as pool:
        return decisions(hinted(t, pool))


def exact(gold, prediction):
    from agentkit.judges.base import exact_match

    return exact_match.verdict(gold, prediction)


def judge_of(name, lm):
    from agentkit.judges.language import AIFeedback, Pairwise, TrajectoryRating

    known = {
        'feedback': lambda: AIFeedback(lm),
        'rating': lambda: TrajectoryRating(lm),
        'rating_end': lambda: TrajectoryRating(lm, rating_threshold=4, steps=False),
        'pairwise': lambda: Pairwise(lm),
    }
    return known[name]()


def stand_in(believe, error, bias=0.0):
    from agentkit.testing.judges import stand_in_judge

    return stand_in_judge(believe, error, bias=bias)


def tables(verdicts):
    "The tables of ratings and of feedback."
    from agentkit.judges.language import feedback_table, rating_table

    return (rating_table if verdicts[0].rating else feedback_table)(verdicts).round(6).to_string()


def planned(method, n_train, n_held_out, **settings):
    from agentkit.tuning.prompts import budget, budget_text

    plan = budget(method, n_train, n_held_out, **settings)
    return plan, budget_text(plan)


def feedback(t):
    from agentkit.tuning.prompts import feedback

    return feedback(t)


# --- what is pinned ---


def facts(v):
    "A verdict without the name of its judge."
    found = dict(score=v.score, rating=v.rating, explanation=v.explanation, status=v.status, usage=v.usage)
    return found | dict(detail=v.detail)


def items(name):
    "What a judge is asked about."
    t = read('household')
    if name == 'feedback':
        return [decisions(t)[k] for k in (0, 1, 3, 6)]
    return [(t, read('household_retried'))] if name == 'pairwise' else [(t,)]


@pin('judge_progress', *EPISODES)
def _(folder, name):
    return {f'slack {slack}': facts(expert_progress(read(name), slack)) for slack in (0, 1)}


@pin('judge_decisions')
def _(folder):
    pairs = decisions(read('household'))
    return [dict(expert=g.action, action=p.action, score=exact(g, p).score) for g, p in pairs]


def answers(steps):
    return json.dumps(ANSWER | dict(steps=[RATED] * steps))


@pin('judge_prompt', 'feedback', 'rating', 'rating_end', 'pairwise')
def _(folder, name):
    lm, requests = scripted(answers(len(read('household').steps)))
    judge = judge_of(name, lm)
    for item in items(name):
        judge.verdict(*item)
    asked = [(f'request {i}', conversation(messages(r))) for i, r in enumerate(requests)]
    formats = [json.dumps(r.config.response_format, indent=1, sort_keys=True) for r in requests]
    return parts([*asked, ('schema', formats[0])])


@pin('judge_again')
def _(folder):
    "A reply that cannot be read is asked for once more."
    lm, requests = scripted('I would rather not say.')
    found = judge_of('rating_end', lm).verdict(read('corridor'))
    asked = [(f'request {i}', conversation(messages(r))) for i, r in enumerate(requests)]
    return parts([*asked, ('verdict', json.dumps(facts(found), indent=1, sort_keys=True))])


@pin('judge_verdict', 'feedback', 'rating', 'rating_end', 'pairwise')
def _(folder, name):
    "Of a stand-in that is wrong at a known rate."
    believe = (lambda fields: 'second') if name == 'pairwise' else (lambda fields: 'cabinet' in str(fields))
    judge = judge_of(name, stand_in(believe, 0.3, bias=0.2))
    return [facts(judge.verdict(*item)) for item in items(name)]


@pin('judge_tables')
def _(folder):
    lm = stand_in(lambda fields: 'cabinet' in str(fields), 0.2)
    ratings = [judge_of('rating', lm).verdict(read(n)) for n in EPISODES]
    sensible = [judge_of('feedback', lm).verdict(*pair) for pair in decisions(read('household'))]
    return parts([('ratings', tables(ratings)), ('feedback', tables(sensible))])


@pin('budget', *METHODS)
def _(folder, method):
    small, small_text = planned(method, 20, 50)
    priced = dict(teacher='openai/gpt-4o-mini', episode=dict(tokens_in=9000, tokens_cached=4000, tokens_out=200))
    large, large_text = planned(method, 200, 134, **priced)
    return dict(small=small, small_text=small_text, large=large, large_text=large_text)


@pin('budget_settings')
def _(folder):
    return {
        'miprov2': planned('miprov2', 40, 10, num_candidates=5, num_trials=7, max_bootstrapped_demos=0),
        'gepa': planned('gepa', 40, 10, max_metric_calls=100, reflection_minibatch_size=4),
        'simba': planned('simba', 40, 10, bsize=8, num_candidates=3, max_steps=2),
        'bootstrap': planned('bootstrap', 40, 10, max_bootstrapped_demos=2, max_rounds=3),
    }


@pin('feedback', *EPISODES)
def _(folder, name):
    return feedback(read(name))


@pin('feedback_ends')
def _(folder):
    "In words, for each way to end."
    t = read('household_lost')
    ends = ('won', 'lost', 'max_steps', 'loop', 'invalid', 'error')
    return parts((e, feedback(replace(t, termination=e, error='it broke' if e == 'error' else ''))) for e in ends)
