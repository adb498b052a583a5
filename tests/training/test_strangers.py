"Model directories of strangers: nothing that they bring along is run, and no name of theirs leads elsewhere."

import os
import shutil

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json, write_json
from agentkit.models.store import FILES, model_dir, write_card
from agentkit.training.bases import build_model, ensure_model, load_pretrained, make_nano
from agentkit.training.encoding import encode
from agentkit.training.trainer import TrainConfig, clean_up, finetune, open_session, unfinished

torch = pytest.importorskip('torch')
ROWS = [dict(messages=[dict(role='user', content=f'go {i}'), dict(role='assistant', content='look')]) for i in range(4)]


@pytest.fixture(scope='module', autouse=True)
def data(own_data):
    pass


@pytest.fixture
def stranger(tmp_path):
    "A copy of a model, and what its code would leave if it ran."
    folder, ran = tmp_path / 'stranger', tmp_path / 'ran'
    shutil.copytree(model_dir(make_nano(ROWS, size='tiny', vocabulary=300)), folder)
    (folder / 'own.py').write_text(
        f'open({str(ran)!r}, "w")\nfrom transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n'
        'from transformers import PreTrainedTokenizerFast as Tokenizer\n'
    )
    return folder, ran


def change(folder, name, **fields):
    "Other fields in a file, for which the card vouches."
    write_json(folder / name, {**read_json(folder / name), **fields})
    vouch(folder)


def vouch(folder):
    facts = {k: v for k, v in read_json(folder / 'card.json').items() if k not in {'format', 'version', *FILES}}
    write_card(folder, **facts)


def train(folder):
    return finetune(str(folder), ROWS, TrainConfig.of('nano', epochs=1), progress=False)


@pytest.mark.parametrize('kind', ['llama', 'unknown'])
def test_code_in_a_model_directory_is_not_run(stranger, kind, monkeypatch):
    folder, ran = stranger
    monkeypatch.setattr('builtins.input', lambda *_: 'y')  # nobody is asked, either
    auto = dict(AutoConfig='own.Config', AutoModelForCausalLM='own.Model')
    change(folder, 'config.json', auto_map=auto, **({} if kind == 'llama' else dict(model_type='unknown')))
    if kind == 'llama':
        train(folder)  # its code is not needed
    else:
        with pytest.raises(AgentkitError, match='stranger cannot be used') as e:
            load_pretrained('ModelForCausalLM', folder)
        assert '\n' not in str(e.value)
    change(folder, 'tokenizer_config.json', auto_map=dict(AutoTokenizer=[None, 'own.Tokenizer']), tokenizer_class='Own')
    with pytest.raises(AgentkitError, match='stranger cannot be used'):
        load_pretrained('Tokenizer', folder)
    assert not ran.exists()


def test_a_template_is_rendered_in_a_sandbox(stranger):
    folder, _ = stranger
    (folder / 'chat_template.jinja').write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    config = read_json(folder / 'tokenizer_config.json')
    write_json(folder / 'tokenizer_config.json', {k: v for k, v in config.items() if k != 'chat_template'})
    with pytest.raises(AgentkitError, match='the chat template cannot be used: .*unsafe'):
        encode(ROWS[0], load_pretrained('Tokenizer', folder))


class Opens:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_pickled_weights_are_refused(stranger):
    folder, ran = stranger
    (folder / 'model.safetensors').unlink()
    torch.save(dict(x=Opens(str(ran))), folder / 'pytorch_model.bin')
    with pytest.raises((AgentkitError, OSError), match='safetensors'):
        load_pretrained('ModelForCausalLM', folder)
    with pytest.raises(AgentkitError):
        train(folder)
    assert not ran.exists()


@pytest.mark.parametrize('name', ['../outside', '/outside', 'a/b', 'a\0b', '', '..', 'a' * 200])
def test_names_of_models_and_sessions_are_no_paths(name):
    base = make_nano(ROWS, size='tiny', vocabulary=300)
    for use in (
        lambda: build_model(name, lambda folder: 1 / 0),
        lambda: finetune(base, ROWS, TrainConfig.of('nano', epochs=1), name or '..', progress=False),
        lambda: open_session(base, name=name or '..'),
    ):
        with pytest.raises(AgentkitError, match='cannot be the name of a (model|session)'):
            use()
    with pytest.raises(AgentkitError, match='no model|has not been fetched|leads out of'):
        model_dir(name)


def test_a_session_that_runs_is_not_cleaned_up():
    base = make_nano(ROWS, size='tiny', vocabulary=300)
    with pytest.raises(KeyboardInterrupt), open_session(base, name='busy') as session:
        session.step(ROWS)
        assert clean_up() == [] and list(unfinished()) == ['busy']
        raise KeyboardInterrupt
    assert clean_up() == ['busy'] and not unfinished()


def test_ensure_model_says_which_folder_it_is_not(tmp_path):
    with pytest.raises(AgentkitError, match='no model'):
        ensure_model(str(tmp_path / os.pardir / 'nothing'))
