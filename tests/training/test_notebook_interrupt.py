"A training in a notebook: the interrupt of the kernel stops it, and the cell that is run again goes on."

import json

import pytest

pytest.importorskip('torch')
KernelManager = pytest.importorskip('jupyter_client').KernelManager
pytest.importorskip('ipykernel')

SETUP = """
import os, sys, threading
os.environ.update({variables})
from agentkit.training import trainer
from agentkit.training.bases import make_nano
from agentkit.training.trainer import TrainConfig, finetune
rows = [dict(messages=[dict(role='user', content=f'the cup {{i}} is on the table'),
                       dict(role='assistant', content=f'go to shelf {{i % 7}}')]) for i in range(40)]
base = make_nano(rows, size='tiny', vocabulary=400)
real = trainer.Training.update
def update(self, *args, **about):
    done = real(self, *args, **about)
    print('step', self.steps, flush=True)
    return done
trainer.Training.update = update
config = TrainConfig(epochs={epochs}, batch_tokens=64, dtype='float32')
"""
CELLS = dict(
    finetune='trained = finetune(base, rows, config); print("losses", len(trained.losses))',
    dspy="""
from agentkit.models.serving import local_lm
from agentkit.training.dspy_bridge import with_provider
job = with_provider(local_lm(base)).finetune(rows, None, dict(epochs={epochs}, batch_tokens=64, dtype='float32'))
trained = trainer.Trained('', trainer.model_dir(job.result().model)); print("losses", len(trained.losses))
""",
)
STILL = """
frames = [f for i, f in sys._current_frames().items() if i != threading.main_thread().ident]
files = set()
for f in frames:
    while f: files.add(f.f_code.co_filename); f = f.f_back
print('training in a thread:', any('trainer' in name for name in files))
"""


class Kernel:
    "A notebook's kernel, as Jupyter starts it."

    def __enter__(self):
        self.manager = KernelManager()
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code, interrupt_after=None):
        "What the cell printed, and the name of its error."
        id, text, error = self.client.execute(code), '', ''
        while True:
            m = self.client.get_iopub_msg(timeout=240)
            if m['parent_header'].get('msg_id') != id:
                continue
            text += m['content'].get('text', '') if m['msg_type'] == 'stream' else ''
            error = m['content']['ename'] if m['msg_type'] == 'error' else error
            if interrupt_after and interrupt_after in text:
                self.manager.interrupt_kernel()
                interrupt_after = None
            if m['msg_type'] == 'status' and m['content']['execution_state'] == 'idle':
                return text, error


@pytest.mark.slow
@pytest.mark.parametrize('way', CELLS)
def test_an_interrupted_cell_stops_and_goes_on_when_it_is_run_again(way, tmp_path, monkeypatch):
    variables = json.dumps(dict(AGENTKIT_PATHS_DATA=str(tmp_path), AGENTKIT_PROGRESS='text', OMP_NUM_THREADS='1'))
    with Kernel() as kernel:
        assert kernel.run(SETUP.format(variables=variables, epochs=40))[1] == ''
        cell = CELLS[way].format(epochs=40)
        first, error = kernel.run(cell, interrupt_after='step 5\n')
        assert error == 'KeyboardInterrupt' and 'losses' not in first
        stopped = int(first.rpartition('step ')[2].split()[0])
        assert kernel.run(STILL) == ('training in a thread: False\n', '')
        again, error = kernel.run(cell)
        assert error == '' and 'losses' in again
        went_on = int(again.partition('step ')[2].split()[0])
        assert 5 < went_on <= stopped + 1, 'it began again'
        assert f'| {went_on - 1}/' in again, 'the bar says where it goes on'
        steps = int(again.rpartition('losses ')[2])
        assert again.count('step ') == steps - went_on + 1
