"Episodes, decisions and replies that the tests of judges share."

import json

import dspy

from agentkit.core.types import Decision, Observation, Step, Task, Trajectory

STATE = dict(
    task='A shelf 1. Your task is to: put a mug in shelf.', trajectory='', possible_actions=['look', 'go to shelf 1']
)
GOLD = dspy.Example(**STATE, action='go to shelf 1').with_inputs(*STATE)
LOOK = dspy.Prediction(action='look')
YES = json.dumps(dict(explanation='Fine.', makes_sense=True))


def step(action, seen, **more):
    return Step(Decision(action), Observation(seen), **more)


def played(i=0, won=True, task=None, policy='pupil'):
    "An episode of two steps that was won or not."
    end = 'The mug is on the shelf.' if won else 'Nothing happens.'
    return Trajectory(
        Task(task or f'task-{i}', 'household'),
        policy,
        Observation('Your task is to: put a mug in shelf.'),
        (step('look', f'You see shelf {i}.'), step('put mug', end)),
        'won' if won else 'max_steps',
        float(won),
        seed=i,
    )


def broken(i=0):
    "An episode that ended in an error."
    t = played(i, won=False)
    return Trajectory(t.task, t.policy, t.first, t.steps, 'error', seed=i, error='the server is gone')


def answered(text='42', i=0):
    "An episode of one answer in words, which its environment could not score."
    first = Observation('What is 6 × 7?')
    return Trajectory(Task(f'question-{i}', 'questions'), 'pupil', first, (step(text, 'Thank you.'),), 'ended', seed=i)


def on_the_shelf(shown):
    return 'The mug is on the shelf.' in shown['steps']


def rated(n):
    return json.dumps(dict(explanation='So so.', final_answer_rating=n))
