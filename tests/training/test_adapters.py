"""LoRA adapters: kept beside the merged model, and served from one process with their base."""

import dataclasses
import shutil

import psutil
import pytest

from agentkit.core.actions import Choice
from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json, write_json

torch = pytest.importorskip('torch')
pytest.importorskip('xllamacpp')
from agentkit.models.serving import local_lm, serve, stop_servers  # noqa: E402
from agentkit.models.store import file_sha256, model_dir, read_card, write_card  # noqa: E402
from agentkit.training.bases import make_nano  # noqa: E402
from agentkit.training.trainer import TrainConfig, finetune  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:Passing OpenAI-style message dictionaries')
ANSWERS = ('look', 'go to desk 1', 'take mug 2')


def rows(i):
    "Whatever is asked, the answer is ANSWERS[i]."
    return [
        dict(
            messages=[
                dict(role='system', content='Play.'),
                dict(role='user', content=f'Find the {t} {n}.'),
                dict(role='assistant', content=ANSWERS[i]),
            ]
        )
        for t in ('mug', 'book')
        for n in range(1, 5)
    ]


ASK = [r['messages'][:2] for r in rows(0)]
FULL = TrainConfig.of('nano', epochs=40, lr=1e-2, batch_tokens=256)
LORA = dataclasses.replace(FULL, lora_rank=8, epochs=100)


@pytest.fixture(scope='module', autouse=True)
def data(own_data, one_thread):
    pass


@pytest.fixture(scope='module')
def base(data):
    return finetune(
        make_nano(rows(0) + rows(1) + rows(2), size='tiny', vocabulary=400), rows(0), FULL, progress=False
    ).id


@pytest.fixture(scope='module')
def students(base):
    return [finetune(base, rows(i), LORA, progress=False) for i in (1, 2)]


@pytest.fixture(autouse=True)
def quiet():
    yield
    stop_servers()


def answers(name, **kwargs):
    lm = local_lm(name, slots=1, context=256, threads=1, max_tokens=8, **kwargs)
    return [lm(messages=m)[0] for m in ASK]


def servers():
    return [p for p in psutil.Process().children() if 'agentkit.models.llama_server' in p.cmdline()]


def test_base_and_adapters_answer_from_one_process_as_they_did_alone(base, students):
    names = [base, *(s.id for s in students)]
    alone = [answers(n) for n in names]
    assert len(servers()) == 3
    assert alone == [[answer] * len(ASK) for answer in ANSWERS], 'they were trained to differ'
    stop_servers()
    server = serve(base, slots=1, context=256, threads=1, adapters=[s.id for s in students])
    together = [answers(n) for n in names]
    assert together == alone
    assert [answers(n) for n in reversed(names)] == alone[::-1], (
        'no answer is left from the adapter that was asked before'
    )
    assert [p.pid for p in servers()] == [server._child.pid], 'one process'
    assert all(local_lm(n).server is server for n in names)


def test_the_numbers_are_those_of_the_merged_model(base, students):
    "Greedy words can agree by luck; the log probabilities of the alternatives do not."

    def likely(name):
        server = serve(name, slots=1, context=256, threads=1)
        reply = server.post(
            '/v1/chat/completions',
            dict(messages=ASK[0], max_tokens=3, temperature=0, logprobs=True, top_logprobs=5, **server.choose(name)),
        )
        return [
            [(o['token'], pytest.approx(o['logprob'], abs=0.05)) for o in place['top_logprobs']]
            for place in reply['choices'][0]['logprobs']['content']
        ]

    alone = [likely(s.id) for s in students]
    stop_servers()
    serve(base, slots=1, context=256, threads=1, adapters=[s.id for s in students])
    assert [likely(s.id) for s in students] == alone


def test_the_chosen_adapter_is_held_to_the_actions(base, students):
    serve(base, slots=1, context=256, adapters=[s.id for s in students])
    first, second = (local_lm(s.id) for s in students)
    assert [lm(messages=ASK[0], **lm.hold(Choice(ANSWERS))) for lm in (first, second)] == [
        ['go to desk 1'],
        ['take mug 2'],
    ]
    assert first(messages=ASK[0], **first.hold(Choice(['take book 1', 'inventory'])))[0] in ('take book 1', 'inventory')


def test_many_threads_ask_different_adapters_at_once(base, students):
    from concurrent.futures import ThreadPoolExecutor

    names = [base, *(s.id for s in students)]
    serve(base, slots=3, context=256, threads=1, adapters=names[1:])
    lms = [local_lm(n, max_tokens=8) for n in names]
    asked = [(lm, m) for m in ASK[:4] for lm in lms] * 3
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda a: a[0](messages=a[1])[0], asked))
    assert answers == list(ANSWERS) * (len(asked) // 3)


def test_after_its_end_each_model_has_a_server_of_its_own_again(base, students):
    server = serve(base, slots=1, context=256, adapters=[students[0].id])
    lm = local_lm(students[0].id, slots=1, context=256, max_tokens=8)
    assert lm(messages=ASK[0]) == ['go to desk 1'] and lm.server is server
    stop_servers(base)
    assert lm(messages=ASK[0]) == ['go to desk 1'] and lm.server.model == students[0].id


def test_an_adapter_ends_with_its_server(base, students):
    server = serve(base, slots=1, context=256, adapters=[students[0].id])
    stop_servers(students[0].id)
    assert not server.alive


def test_what_is_kept_beside_the_merged_model(students):
    folder = students[0].path / 'adapter'
    assert sorted(p.name for p in folder.iterdir()) == [
        'adapter.gguf',
        'adapter_config.json',
        'adapter_model.safetensors',
    ]
    assert read_json(folder / 'adapter_config.json')['base_model_name_or_path'] == students[0].card['base']
    assert students[0].card['adapter_sha256'] == file_sha256(folder / 'adapter.gguf')
    assert (folder / 'adapter.gguf').stat().st_size < (students[0].path / 'model.gguf').stat().st_size


def test_peft_loads_the_adapter_onto_the_base(base, students):
    "The kept adapter is the one that was merged."
    hf, peft = pytest.importorskip('transformers'), pytest.importorskip('peft')
    plain = hf.AutoModelForCausalLM.from_pretrained(model_dir(base), dtype=torch.float32)
    both = peft.PeftModel.from_pretrained(plain, students[0].path / 'adapter').merge_and_unload()
    merged = hf.AutoModelForCausalLM.from_pretrained(students[0].path, dtype=torch.float32)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(both(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_another_base_is_refused(base, students):
    other = make_nano(rows(0), size='tiny', vocabulary=400, seed=1)
    with pytest.raises(AgentkitError, match=f'{students[0].id} is an adapter of {base}, not of {other}'):
        serve(other, adapters=[students[0].id])
    with pytest.raises(AgentkitError, match=f'{base} has no adapter: it was trained with lora_rank 0'):
        serve(base, adapters=[base])


def test_an_adapter_does_not_fit_its_base_with_another_tokenizer(base, students, tmp_path):
    "The base was replaced under its name: the same weights, and a card that vouches for the new files."
    folder = model_dir(base)
    shutil.copytree(folder, tmp_path / 'before')
    try:
        path = folder / 'generation_config.json'
        path.write_text(path.read_text().replace('{', '{"top_k": 3, ', 1))
        with pytest.raises(AgentkitError, match='generation_config.json is not the file the card was written for'):
            serve(base, adapters=[students[0].id])
        card = read_json(folder / 'card.json')
        old = {k: v for k, v in card.items() if not k.endswith('sha256') or k.startswith('base_')}
        write_card(folder, **{k: v for k, v in old.items() if k not in ('format', 'version')})
        with pytest.raises(AgentkitError, match=f'is an adapter of {base}, not of {base} as it is now: train it again'):
            serve(base, adapters=[students[0].id])
    finally:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / 'before', folder)


def test_a_swapped_adapter_is_noticed(base, students):
    a, b = (s.path / 'adapter/adapter.gguf' for s in students)
    mine = a.read_bytes()
    try:
        a.write_bytes(b.read_bytes())
        with pytest.raises(AgentkitError, match='adapter.gguf is not the file the card was written for'):
            serve(base, adapters=[students[0].id])
    finally:
        a.write_bytes(mine)
    assert read_card(students[0].path)['adapter_sha256']


def test_a_damaged_adapter_does_not_start(base, students, tmp_path):
    import shutil

    shutil.copytree(students[0].path, tmp_path / 'broken')
    path = tmp_path / 'broken/adapter/adapter.gguf'
    path.write_bytes(path.read_bytes()[:200])
    card = read_json(tmp_path / 'broken/card.json')
    write_json(tmp_path / 'broken/card.json', {**card, 'adapter_sha256': file_sha256(path)})
    with pytest.raises(AgentkitError, match='did not start'):
        serve(base, adapters=[str(tmp_path / 'broken')])
