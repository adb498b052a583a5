"A tiny training on the CPU with one thread."

import contextlib
import json
import platform
import re
from pathlib import Path

import pytest
from agentkit.envs.alfworld.names import rename
from agentkit.envs.base import Environment

from . import path_of, pin, recording
from .prompts import agent_of, read
from .rows import GROUPS, distilled, row_of, short_corrected


# --- the kit ---


def new_model(rows):
    from agentkit.training.bases import make_nano

    return make_nano(rows, seed=0, size='tiny', vocabulary=400)


class Renamed(Environment):
    "Rows with other names."

    @classmethod
    def vary(cls, row, r):
        return rename(row, GROUPS, r)


def trained(rows, vary=''):
    "A training of two epochs: its id, its losses, its card and the digests of the weights."
    from agentkit.models.store import model_dir, read_card
    from agentkit.training.trainer import TrainConfig, finetune

    base = new_model(rows)
    config = TrainConfig.of('nano', epochs=2, batch_tokens=1024, dtype='float32', vary=vary)
    made = finetune(base, rows, config, progress=False)
    digests = {k: read_card(model_dir(m))['weights_sha256'] for k, m in (('base', base), ('trained', made.id))}
    return made.id, made.losses, made.card, digests


def encoded(rows, row, limit=4096):
    "The row as tokens of the tokenizer that was fitted on the rows."
    from agentkit.models.store import model_dir
    from agentkit.training.encoding import encode
    from transformers import AutoTokenizer

    e = encode(row, AutoTokenizer.from_pretrained(model_dir(new_model(rows))), limit)
    return dict(ids=str(list(e.ids)), labels=str(list(e.labels)), cut=e.cut, others=str(e.others), tokens=len(e.ids))


def steps_of(lengths, **changes):
    "The batches and the learning rates of a training."
    from agentkit.training.trainer import TrainConfig, plan

    config = TrainConfig.of('nano', **changes)
    steps = plan(lengths, config)
    return steps, [config.rate(i, len(steps)) for i in range(len(steps))]


# --- what is pinned ---


@contextlib.contextmanager
def one_thread():
    torch = pytest.importorskip('torch')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def machine():
    "What float32 results may depend on in their last digits: the kernels are chosen by the processor's own model."
    import torch
    import transformers

    libraries = f'torch {torch.__version__}, transformers {transformers.__version__}'
    return f'{libraries}, {torch.backends.cpu.get_cpu_capability()}, {processor()}'


def processor():
    "Vendor, family, model and stepping; where the system does not tell them, the name of the architecture."
    facts = Path('/proc/cpuinfo')
    if not facts.exists():
        return platform.machine()
    first = dict(re.findall(r'^([\w ]+?)\s*: (.*)$', facts.read_text().split('\n\n')[0], flags=re.M))
    return ' '.join(first.get(k, '?') for k in ('vendor_id', 'cpu family', 'model', 'stepping'))


def six_rows():
    "Three episodes, one of them with corrections, and the three with a demonstration before them."
    names = ('corridor', 'household', 'household_expert')
    return [*(row_of(read(n), 'student') for n in names), *short_corrected(), row_of(read('household'), 'instructions')]


@pin('training_encode')
def _(folder):
    rows = six_rows()
    shown = distilled(agent_of('student_demonstration', None), [read('corridor')])[0]
    with one_thread():
        found = {'corridor': encoded(rows, rows[0]), 'cut': encoded(rows, rows[0], 60)}
        return found | {'corrected': encoded(rows, short_corrected()[1]), 'demonstration': encoded(rows, shown)}


@pin('training_plan')
def _(folder):
    steps, rates = steps_of([100, 40, 300, 41, 260, 90], epochs=3, batch_tokens=512, seed=1)
    return '\n'.join(f'epoch {e} rows {rows} lr {r:.3e}' for (e, rows), r in zip(steps, rates))


@pin('training_losses', 'plain', 'renamed')
def _(folder, case):
    with one_thread():
        _, losses, card, _ = trained(six_rows(), 'pins.training:Renamed' if case == 'renamed' else '')
    lines = [f'step {r.step} epoch {r.epoch} tokens {r.tokens} loss {r.loss:.4f}' for r in losses.itertuples()]
    facts = ('rows', 'steps', 'tokens', 'cut', 'trained', 'family', 'dtype')
    return '\n'.join([*lines, *(f'{k}: {json.dumps(card[k])}' for k in facts)])


@pin('training_weights')
def _(folder):
    return same_machine('training_weights')[1]


@pin('training_id')
def _(folder):
    return same_machine('training_id')[0]


def same_machine(name):
    "The id of a training, and its weights to the bit, on a machine that computes like the one that recorded them."
    pytest.importorskip('torch')
    if not recording() and json.loads(path_of(name).read_text())['machine'] != machine():
        pytest.skip(f'recorded with other libraries or on another processor: this is {machine()}')
    with one_thread():
        id, _, _, digests = trained(six_rows())
    return dict(machine=machine(), id=id), dict(machine=machine(), **digests)
