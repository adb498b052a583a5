"Who trains a model, asked in one way; and what is missing is said before anybody plays."

import importlib
import math

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.models.find import make_lm
from agentkit.models.serving import local_lm, serve, stop_servers
from agentkit.models.store import model_dir, read_card
from agentkit.testing.models import scripted_lm
from agentkit.training.local import LocalProvider
from agentkit.training.openai import OpenAIProvider
from agentkit.training.providers import provider_of

pytest.importorskip('torch')

ROWS = [
    dict(messages=[dict(role='user', content=f'Find the mug {i}.'), dict(role='assistant', content='go to desk 1')])
    for i in range(4)
]


@pytest.fixture(scope='module', autouse=True)
def data(own_data, one_thread):
    pass


def test_the_name_and_the_server_say_who_trains():
    far = make_lm('openai/gpt-4o-mini@http://127.0.0.1:9')
    assert isinstance(provider_of(local_lm('nano')), LocalProvider)
    assert isinstance(provider_of(far), OpenAIProvider) and provider_of(far).engine is far.engine
    for lm in (make_lm('ollama_chat/llama3.1'), scripted_lm(['look']), scripted_lm(['look'], 'openai/scripted')):
        with pytest.raises(AgentkitError, match='cannot be trained: only local/… and openai/… models can'):
            provider_of(lm)


def test_a_nano_is_made_from_the_rows_and_trained():
    provider = provider_of(local_lm('nano'))
    name = provider.train(ROWS, epochs=1)
    card = provider.card(name)
    assert card['base'].startswith('nano-base-') and card['trained'] and card['rows'] == 4
    assert len(provider.losses(name)) == card['steps']
    again = provider_of(local_lm(name)).train(ROWS, epochs=2)
    assert provider.card(again)['base'] == card['id']


def test_a_training_needs_the_cores(data):
    name = provider_of(local_lm('nano')).train(ROWS, epochs=1)
    server = serve(name, slots=1, context=256, threads=1)
    provider_of(local_lm(name)).train(ROWS, epochs=1, seed=3)
    assert not server.alive
    stop_servers()


def test_nothing_to_learn_is_an_error():
    with pytest.raises(AgentkitError, match='a nano needs rows or texts to fit its vocabulary on'):
        LocalProvider('local/nano').train([])
    name = LocalProvider('local/nano').train(ROWS, epochs=1)
    with pytest.raises(AgentkitError, match='there are 0 rows to train on'):
        LocalProvider(name).train([])


@pytest.mark.parametrize('package', ['torch', 'transformers', 'tokenizers', 'safetensors', 'gguf'])
def test_a_missing_package_is_said_before_anybody_plays(package, monkeypatch):
    real = importlib.import_module

    def without(name, *more):
        if name.split('.')[0] == package:
            raise ModuleNotFoundError(name, name=package)
        return real(name, *more)

    monkeypatch.setattr(importlib, 'import_module', without)
    with pytest.raises(AgentkitError, match=rf'{package} is not installed: run `pip install "agentkit\[train\]"`'):
        LocalProvider('local/nano').check(epochs=1)


def test_a_wrong_setting_or_base_is_said_before_anybody_plays():
    LocalProvider('local/nano').check(epochs=1, lora_rank=4)
    with pytest.raises(AgentkitError, match='unknown training settings: epoch; known: epochs, lr'):
        LocalProvider('local/nano').check(epoch=1)
    with pytest.raises(AgentkitError, match="no model 'nanno'"):
        LocalProvider('local/nanno').check()


def test_a_card_is_that_of_the_directory():
    name = provider_of(local_lm('nano')).train(ROWS, epochs=1)
    assert provider_of(local_lm(name)).card(name) == read_card(model_dir(name))


@pytest.mark.parametrize(
    'settings, message',
    [
        *[(dict(epochs=n), 'epochs is .*: write a whole number') for n in (0, -1, 1.5, math.nan, '3', True, None)],
        *[(dict(lr=n), 'lr is .*: write a number') for n in ('fast', math.nan, math.inf, -1e-3, None)],
        (dict(lr=0), 'lr is 0: nothing would be learned'),
        *[(dict(lora_rank=n), 'lora_rank is .*: write a whole number from 0 to 1024') for n in (-1, 4.0, 99_999)],
        *[({name: -1}, f'{name} is -1') for name in ('batch_tokens', 'max_length', 'warmup', 'weight_decay', 'clip')],
        (dict(seed='x'), "seed is 'x'"),
        (dict(dtype='float8'), "unknown dtype 'float8'"),
        (dict(vary='corridr'), "did you mean 'corridor'"),
        (dict(epoch=3), "unknown training settings: epoch; .*did you mean 'epochs'"),
        (dict(learning_rate=3), 'unknown training settings: learning_rate'),
    ],
)
def test_settings_are_wrong_before_anybody_plays(settings, message, tmp_path):
    from agentkit.agents.programs import Expert
    from agentkit.rollouts import Runner
    from agentkit.tuning.distill import distill

    with Runner('corridor', tmp_path, progress=False) as run, pytest.raises(AgentkitError, match=message):
        distill('local/nano', Expert(), run.tasks('train', 3), run, train=settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'settings, message',
    [
        *[(dict(epochs=n), 'epochs is') for n in (0, -1, 1.5, '3', True, None)],
        *[(dict(max_dollars=n), 'max_dollars is') for n in (-1, math.nan, 'much', None)],
        *[(dict(batch_size=n), 'batch_size is') for n in (0, 1.5, 'x')],
        *[(dict(lr_multiplier=n), 'lr_multiplier is') for n in (-1, 'x', math.nan)],
    ],
)
def test_settings_of_a_provider_are_numbers(settings, message):
    from agentkit.training.openai import RemoteConfig

    assert RemoteConfig.of(max_dollars=math.inf).batch_size is None
    with pytest.raises(AgentkitError, match=message):
        RemoteConfig.of(**settings)
