"Numbers that are none, or out of range, given to the library in Python: one line, before anybody plays or is trained."

import math

import pytest

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Program
from agentkit.core.errors import AgentkitError, check_number
from agentkit.envs.find import list_tasks
from agentkit.envs.pool import EnvPool
from agentkit.evals import Report, evaluate
from agentkit.judges.base import success
from agentkit.judges.calibration import calibrate
from agentkit.judges.run import judge_all
from agentkit.rollouts import Limits, Runner
from agentkit.testing.models import scripted_lm
from agentkit.tuning.distill import distill, distill_from
from agentkit.tuning.gate import promote
from agentkit.tuning.prompts import LEAST, METHODS, optimize

TASKS = list_tasks('corridor', 'train', 8)
NO_NUMBER = ('3', None, True, math.nan, math.inf, -math.inf, [1], {})
NO_COUNT = (*NO_NUMBER, 1.0, 1.5, 0, -1)
NO_SHARE = (*NO_NUMBER, -0.1, 1.1, -1, 2)


def _never(state):
    raise AssertionError('somebody plays')


NOBODY = Program(_never, 'nobody')
MUTE = scripted_lm([])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    with Runner('corridor', tmp_path_factory.mktemp('run'), workers=1, progress=False) as runner:
        yield runner


def episodes(play):
    "Options of whoever plays episodes: what is wrong of each."
    return [(play, name, v) for name in ('repeats', 'samples') for v in NO_COUNT] + [
        (play, 'seed', v) for v in (*NO_NUMBER, 1.0, 1.5)
    ]


def of(call, **options):
    return [(call, name, v) for name, values in options.items() for v in values]


CALLS = [
    *episodes(lambda run, **o: run(NOBODY, TASKS, **o)),
    *episodes(lambda run, **o: evaluate(NOBODY, TASKS, run, **o)),
    *of(lambda run, **o: evaluate(NOBODY, TASKS, run, **o), max_unmeasured=NO_SHARE),
    *of(lambda run, **o: Limits(**o), max_steps=NO_COUNT, max_invalid=NO_COUNT, loop=NO_COUNT),
    *of(lambda run, **o: run.with_limits(**o), max_steps=NO_COUNT),
    *of(lambda run, **o: Runner('corridor', **o), workers=NO_COUNT, parallel=[v for v in NO_COUNT if v is not None]),
    *of(lambda run, **o: Runner('corridor', **o), timeout=(*NO_NUMBER, -1)),
    *of(lambda run, **o: run.replace(**o), parallel=[v for v in NO_COUNT if v is not None]),
    *of(lambda run, **o: EnvPool('corridor', **o), n=NO_COUNT, timeout=(*NO_NUMBER, -1)),
    *of(
        lambda run, **o: distill('local/nano', NOBODY, TASKS, run, **o),
        **dict(rounds=[v for v in NO_COUNT if v != 0], threshold=NO_SHARE, seed=(*NO_NUMBER, 1.5)),
    ),
    *of(lambda run, **o: distill('local/nano', NOBODY, TASKS, run, train=o), epochs=NO_COUNT, lr=(*NO_NUMBER, -1)),
    *of(lambda run, **o: distill_from('local/nano', [], run.folder, **o), threshold=NO_SHARE),
    *of(lambda run, **o: judge_all(success, [], **o), parallel=NO_COUNT),
    *of(
        lambda run, **o: calibrate(success, [NOBODY], [True], **o),
        **dict(repeats=[v for v in NO_COUNT if v != 0], temperature=(*NO_NUMBER, -1), max_unmeasured=NO_SHARE),
        **dict(threshold=[v for v in NO_SHARE if v is not None]),
    ),
    *of(
        lambda run, **o: promote(Report('a', None), Report('b', None), run.folder, **o), margin=NO_SHARE, least=NO_COUNT
    ),
]


@pytest.mark.parametrize('i', range(len(CALLS)), ids=lambda i: f'{i}-{CALLS[i][1]}-{CALLS[i][2]}')
def test_wrong_numbers_cost_one_line(i, run):
    call, name, value = CALLS[i]
    with pytest.raises(AgentkitError) as e:
        call(run, **{name: value})
    assert repr(value) in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('method', METHODS)
def test_wrong_settings_of_an_optimiser_cost_one_line(method, run, monkeypatch):
    monkeypatch.setattr(Runner, 'play', lambda *_, **__: pytest.fail('somebody plays'))
    wrong = dict(
        threshold=NO_SHARE, validation=(*NO_SHARE, 1, 1.0), auto=('lite', None, 3, [1]), seed=(*NO_NUMBER, 1.5)
    )
    for name, default in {**METHODS[method].settings, 'seed': 0}.items():
        values = wrong.get(name) or [v for v in NO_COUNT if v != 0 or LEAST[name] > 0]
        for value in (v for v in values if v is not None or default is not None):
            with pytest.raises(AgentkitError) as e:
                optimize(Agent(MUTE), TASKS[:4], TASKS[4:], run, method, **{name: value})
            assert repr(value) in str(e.value) and name in str(e.value) and '\n' not in str(e.value)


def test_numbers_are_what_they_are():
    assert (
        check_number('n', 3, 1, whole=True) == 3 and check_number('n', 3) == 3 and check_number('n', 0.5, 0, 1) == 0.5
    )
    for value, bounds, words in (
        (True, dict(whole=True), 'n is True: write a whole number'),
        (-1, dict(least=0), 'n is -1: write a number from 0'),
        (2, dict(least=0, most=1), 'n is 2: write a number from 0 to 1'),
        ('x' * 100, {}, f"n is '{'x' * 59}: write a number"),
    ):
        with pytest.raises(AgentkitError) as e:
            check_number('n', value, **bounds)
        assert str(e.value) == words
