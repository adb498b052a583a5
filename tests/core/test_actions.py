"Forms to fill in: what is allowed is what the schema says, and a reply that is nearly one becomes one."

import json

import pytest

from agentkit.core.actions import Structured, read_actions
from agentkit.core.store import rng
from agentkit.models.hold import answer_format, keeps_to

FORM = Structured(
    {'why': dict(type='string', minLength=1), 'n': dict(type='integer'), 'who': dict(enum=['ann', 'bob'])}
)
RIGHT = '{"why": "It is \\"so\\".", "n": 3, "who": "bob"}'


@pytest.mark.parametrize(
    'reply',
    [
        RIGHT,
        f'Sure:\n```json\n{RIGHT}\n```',
        '{"who": "bob", "n": 3, "why": "It is \\"so\\"."}',
        '{"Who": "bob", "N": 3, "Why": "It is \\"so\\".",}',
        json.dumps(json.loads(RIGHT), indent=2),
    ],
)
def test_what_is_nearly_a_form_becomes_one(reply):
    assert FORM.read(reply) == RIGHT and FORM.allows(RIGHT)


@pytest.mark.parametrize(
    'wrong',
    [
        *('', 'no', '[]', 'null', '3', '{}', '{"why": "a", "n": 3}', '{"why": "a", "n": "3", "who": "bob"}'),
        *('{"why": "a", "n": 3, "who": "eve"}', '{"why": "", "n": 3, "who": "bob"}', RIGHT[:-1] + ', "more": 1}'),
        '[' * 100_000,
    ],
)
def test_what_is_no_form_says_why(wrong):
    assert not FORM.allows(wrong) and FORM.why_not(wrong)
    assert isinstance(FORM.read(wrong[:200]), str)


def test_chance_fills_it_in_and_a_journal_keeps_it():
    assert all(FORM.allows(FORM.sample(rng(k))) for k in range(50))
    again = read_actions(json.loads(json.dumps(FORM.to_dict())))
    assert again == FORM and list(again.fields) == ['why', 'n', 'who']
    assert json.loads(FORM.lines()[0])['who'] == {'enum': ['ann', 'bob']}


def test_a_server_is_held_to_it():
    schema = answer_format(FORM)['response_format']['json_schema']['schema']
    assert schema == FORM.schema() and schema['required'] == ['why', 'n', 'who']
    assert keeps_to(schema, json.loads(RIGHT)) and not keeps_to(schema, {})
