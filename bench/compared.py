"A ratio and its two figures; what was measured, and on which machine."

import functools
import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import psutil

from agentkit.core.settings import path_of
from agentkit.core.store import read_object, write_json, write_text


@dataclass(frozen=True)
class Compared:
    "The same cost measured in two ways."

    plain: float  # the usual way
    ours: float  # the kit's
    unit: str
    n: int  # how many things were measured

    @property
    def ratio(self) -> float:
        return round(self.plain / self.ours, 2)


PARTS = ('env', 'rollouts', 'training', 'babyai')


@functools.cache
def _processor():
    "What the processor calls itself."
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def machine() -> dict:
    "What a number depends on besides the code."
    packages = ('dspy', 'textworld', 'alfworld', 'minigrid', 'torch', 'transformers', 'xllamacpp', 'trl')
    versions = {d: importlib.metadata.version(d) for d in packages if importlib.util.find_spec(d)}
    return dict(
        cores=os.cpu_count(),
        processor=_processor(),
        memory_gb=round(psutil.virtual_memory().total / 2**30),
        system=platform.system(),
        python=platform.python_version(),
        versions=versions,
        load=round(os.getloadavg()[0], 1),
    )


def results() -> Path:
    "Where the figures are kept."
    return path_of('results', 'bench', 'summary.json').parent


def read_summary() -> dict:
    "What has been measured so far."
    path = results() / 'summary.json'
    return read_object(path) if path.exists() else dict(figures={}, parts={})


def record(
    part: str,  # one of `PARTS`
    compared: dict[str, Compared],  # the ratios' names and figures
    details: dict,  # what else was measured
) -> dict:
    "Put a part into `results/bench/summary.json`; the other parts stay as they are."
    before = read_summary()
    figures = {k: f for k, f in before['figures'].items() if f['part'] != part} | {
        k: dict(part=part, **asdict(c)) for k, c in compared.items()
    }
    ratios = {k: Compared(f['plain'], f['ours'], f['unit'], f['n']).ratio for k, f in figures.items()}
    summary = dict(**ratios, figures=figures, parts={**before['parts'], part: dict(**details, machine=machine())})
    write_json(results() / 'summary.json', summary)
    write_text(results() / 'summary.csv', table(summary).to_csv(index=False))
    return summary


def table(summary: dict) -> pd.DataFrame:
    "A row a ratio."
    figures = sorted(summary['figures'].items(), key=lambda x: PARTS.index(x[1]['part']))
    return pd.DataFrame(
        [
            dict(ratio=name, times=summary[name], plain=f['plain'], ours=f['ours'], unit=f['unit'], n=f['n'])
            for name, f in figures
        ]
    )
