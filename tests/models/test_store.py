"What a card vouches for: every file that decides what a model says, wherever the model is read."

import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from agentkit.core.errors import AgentkitError
from agentkit.core.store import write_json
from agentkit.models.store import fingerprint, gguf_of, identity, model_dir, read_card, write_card

FILES = {
    'model.safetensors': 'weights',
    'model.gguf': 'served',
    'config.json': '{"rope_theta": 10000, "transformers_version": "5.0"}',
    'generation_config.json': '{"temperature": 1.0}',
    'tokenizer.json': '{"model": {"vocab": {"a": 0, "b": 1}}}',
    'tokenizer_config.json': '{"eos_token": "a"}',
    'chat_template.jinja': '{{ messages }}',
}


def made(folder, **changes):
    "A model directory with these contents."
    for name, text in {**FILES, **changes}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    write_card(folder, id=folder.name, base='', family='nano', trained=False, steps=0, recipe='')
    return folder


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / 'm')


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_PATHS_DATA', str(tmp_path / 'data'))
    return tmp_path / 'data/models'


READERS = (model_dir, read_card, gguf_of, identity, fingerprint)


@pytest.mark.parametrize('name', FILES)
def test_a_changed_file_is_refused_by_all_who_read(name, folder):
    (folder / name).write_text(FILES[name].swapcase())
    for read in READERS:
        with pytest.raises(AgentkitError, match=f'{name} is not the file the card was written for: delete .* and make'):
            read(folder)


@pytest.mark.parametrize('name', FILES)
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(AgentkitError, match=f'{name} is missing'):
        model_dir(folder)


ADDED = ('added_tokens.json', 'special_tokens_map.json', 'adapter/adapter_model.safetensors', 'pytorch_model.bin')


@pytest.mark.parametrize('name', [*ADDED, 'tokenizer.model', 'merges.txt', 'model-00001-of-00002.safetensors'])
def test_a_file_that_would_be_read_cannot_be_added(name, folder):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('{}')
    with pytest.raises(AgentkitError, match=f'{name} was not there when the card was written: move it elsewhere'):
        model_dir(folder)


@pytest.mark.parametrize('name', ['README.md', 'losses.jsonl', '.DS_Store', '.cache.json', 'notes.txt', 'other.gguf'])
def test_what_nobody_loads_may_lie_there(name, folder):
    (folder / name).write_text('{}')
    assert model_dir(folder) == folder


@given(st.sampled_from([*FILES]), st.integers(0, 99), st.integers(1, 255))
@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_can_change(tmp_path_factory, name, at, bits):
    "Of the same length, and with the time that the file had."
    folder = made(tmp_path_factory.mktemp('card') / 'm')
    read_card(folder)
    before, content = (folder / name).stat(), bytearray((folder / name).read_bytes())
    content[at % len(content)] ^= bits
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(AgentkitError, match=f'{name} is not the file'):
        read_card(folder)


def test_a_link_is_what_it_leads_to(folder, tmp_path):
    "As in a cache of downloads: the files are links, and another target is another file."
    blobs = {n: shutil.move(folder / n, tmp_path / f'blob-{n}') for n in FILES}
    for name, blob in blobs.items():
        (folder / name).symlink_to(blob)
    (tmp_path / 'alias').symlink_to(folder)
    assert read_card(folder) == read_card(tmp_path / 'alias')
    (folder / 'tokenizer.json').unlink()
    (folder / 'tokenizer.json').symlink_to(blobs['config.json'])
    with pytest.raises(AgentkitError, match='tokenizer.json is not the file'):
        read_card(tmp_path / 'alias')
    (folder / 'tokenizer.json').unlink()
    (folder / 'tokenizer.json').symlink_to(tmp_path / 'gone')
    with pytest.raises(AgentkitError, match='tokenizer.json is missing'):
        read_card(folder)


def test_every_file_but_the_served_one_makes_the_identity(tmp_path):
    plain = identity(made(tmp_path / 'm0'))
    changed = [identity(made(tmp_path / f'm{i}', **{n: FILES[n].replace('e', 'E')})) for i, n in enumerate(FILES, 1)]
    assert len({plain, *changed}) == len(FILES), 'only the file for llama.cpp is made from the others'
    assert changed[1] == plain
    assert identity(made(tmp_path / 'z', **{'config.json': FILES['config.json'].replace('5.0', '5.1')})) == plain


def test_cards_of_before_are_read(folder):
    "They vouch for less, and an identity is computed for them."
    card = read_card(folder)
    whole, known = identity(folder), ('files_sha256', 'identity_sha256')
    write_json(folder / 'card.json', {k: v for k, v in card.items() if k not in known})
    assert identity(folder) == whole
    (folder / 'special_tokens_map.json').write_text('{}')
    assert model_dir(folder) == folder and identity(folder) != whole


def test_two_models_of_one_name(data, tmp_path, monkeypatch):
    "One where models are kept, one in the folder one happens to be in."
    monkeypatch.chdir(tmp_path)
    made(data / 'twin')
    made(tmp_path / 'twin')
    assert model_dir('twin') == data / 'twin'
    shutil.rmtree(tmp_path / 'twin')
    made(tmp_path / 'twin', **{'model.safetensors': 'others'})
    with pytest.raises(AgentkitError, match='there are two models twin, in .*: name one by its path'):
        model_dir('twin')
    assert model_dir(tmp_path / 'twin') == tmp_path / 'twin' and model_dir(data / 'twin') == data / 'twin'


def test_an_adapter_by_itself_is_another_one_on_another_base(data):
    made(data / 'base')
    student = data / 'student'
    (student / 'adapter').mkdir(parents=True)
    (student / 'adapter/adapter.gguf').write_text('adapter')
    facts = dict(base_weights_sha256=read_card(data / 'base')['weights_sha256'], losses={}, recipe='')
    write_card(student, id='student', base='base', trained=True, steps=3, **facts)
    one = fingerprint('student')
    made(data / 'base', **{'model.gguf': 'others'})
    assert fingerprint('student') != one
    (data / 'base/model.gguf').write_text('changed')
    with pytest.raises(AgentkitError, match='base/model.gguf is not the file'):
        fingerprint('student')


def test_vllm_serves_the_other_files(tmp_path):
    "The file for llama.cpp is made from them, but with another generation config vLLM says something else."
    one, other = made(tmp_path / 'one'), made(tmp_path / 'other', **{'generation_config.json': '{"top_k": 1}'})
    assert fingerprint(one) == fingerprint(other) and fingerprint(one, 'vllm') != fingerprint(other, 'vllm')
