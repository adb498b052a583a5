"Rules of the repository that a slip would break silently."

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

PAGES = ('experiments', 'tutorials', 'index.ipynb')
AUTHORING = sorted(
    p for p in (ROOT / 'notebooks').rglob('*.ipynb') if p.relative_to(ROOT / 'notebooks').parts[0] not in PAGES
)
EXPERIMENTS = sorted((ROOT / 'notebooks/experiments').glob('*.ipynb'))
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def cells(path):
    return json.loads(path.read_text())['cells']


def source(cell):
    return ''.join(cell['source'])


def default_exp(path):
    found = re.search(r'#\| default_exp (\S+)', '\n'.join(source(c) for c in cells(path)))
    return found and found.group(1)


def tracked():
    out = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True)
    if out.returncode:
        pytest.skip('not a git checkout')
    return [ROOT / f for f in out.stdout.splitlines() if (ROOT / f).is_file()]


def test_clean_and_export_change_nothing(tmp_path):
    "The package is what the notebooks export, and the notebooks are clean: checked on a copy."
    import shutil

    for name in ('notebooks', 'agentkit', 'pyproject.toml', 'settings.ini', 'README.md', 'LICENSE'):
        src = ROOT / name
        if src.is_dir():
            shutil.copytree(src, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
        elif src.exists():
            shutil.copy(src, tmp_path / name)
    for command in ('nbdev-clean', 'nbdev-export'):
        done = subprocess.run([Path(sys.executable).parent / command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for folder in ('notebooks', 'agentkit'):
        for path in sorted((tmp_path / folder).rglob('*')):
            if path.suffix not in ('.py', '.ipynb') or '__pycache__' in path.parts:
                continue
            original = ROOT / path.relative_to(tmp_path)
            assert original.exists(), f'{original} is exported but not committed'
            assert path.read_text() == original.read_text(), (
                f'{original.relative_to(ROOT)} differs after nbdev-clean and nbdev-export'
            )


def test_papermill_tag_survives_cleaning(tmp_path):
    assert PROJECT['tool']['nbdev']['allowed_cell_metadata_keys'] == ['tags']


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: p.stem)
def test_experiment_notebooks(path):
    "One parameters cell of commented literals, and no function of its own."
    tagged = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, 'exactly one cell is tagged "parameters"'
    for line in source(tagged[0]).splitlines():
        assert re.search(r'\s#\s\S', line), f'no comment: {line}'
    for node in ast.parse(source(tagged[0])).body:
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)
    code = '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'code')
    assert not [n for n in ast.walk(ast.parse(code)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]


def test_dspy_is_never_configured_globally():
    for path in [
        *(ROOT / 'agentkit').rglob('*.py'),
        *(ROOT / 'tests').rglob('*.py'),
        *(ROOT / 'notebooks').rglob('*.ipynb'),
    ]:
        if path != Path(__file__):
            assert 'dspy.configure(' not in path.read_text(), path


def test_no_directive_hides_in_cell_metadata():
    for path in [*AUTHORING, *EXPERIMENTS]:
        for c in cells(path):
            assert set(c['metadata']) <= {'tags'}, f'{path.name}: {c["metadata"]}'


def test_environment_file_agrees_with_the_project():
    conda = yaml.safe_load((ROOT / 'environment.yml').read_text())['dependencies']
    python = next(d for d in conda if isinstance(d, str) and d.startswith('python='))
    assert python == 'python=3.11'
    assert PROJECT['project']['requires-python'] == '>=3.11,<3.13'
    assert next(d for d in conda if isinstance(d, dict))['pip'] == ['-e .[dev]'], (
        'packages are named in pyproject.toml only'
    )


def test_the_lock_holds_what_the_project_asks_for():
    "Each requirement of the two commands is pinned within its range, each pin has hashes, each package its licence."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = (ROOT / 'requirements.lock').read_text()
    assert '://' not in lock, 'no index and no address stands in the lock'
    blocks = re.findall(r'^([\w.-]+)==(\S+)([^\n]*)((?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)+)', lock, re.M)
    assert len(blocks) == len(re.findall(r'^[^#\s]', lock, re.M)), 'a pin without a hash'
    pins = {}
    for name, version, *_ in blocks:
        pins.setdefault(canonicalize_name(name), []).append(version)
    extras = PROJECT['project']['optional-dependencies']
    wanted = PROJECT['project']['dependencies'] + [r for e, rs in extras.items() if e != 'vllm' for r in rs]
    for requirement in map(Requirement, wanted):
        if requirement.name in ('agentkit', 'torch'):
            continue
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f'{requirement} is not in requirements.lock: make lock'
        assert all(requirement.specifier.contains(v) for v in versions), (
            f'{requirement} is pinned to {versions}: make lock'
        )
    listed = re.findall(r'^\| ([\w.-]+) \|', (ROOT / 'docs/licences.md').read_text(), re.M)
    assert set(pins) <= set(map(canonicalize_name, listed)), 'docs/licences.md is older than the lock: make lock'


def test_every_promise_names_a_test_that_exists():
    "docs/promises.md says which test holds what is promised."
    named = re.findall(r'(tests/[\w/]+\.py)(?:::(\w+))?', (ROOT / 'docs/promises.md').read_text())
    assert len(named) > 100
    for file, name in named:
        text = (ROOT / file).read_text()
        assert not name or re.search(rf'^ *(async )?def {name}\b', text, re.M), f'{file} has no {name}'


def test_every_extra_is_part_of_dev():
    extras = PROJECT['project']['optional-dependencies']
    assert {'train', 'serve', 'lab', 'docs', 'dev'} <= set(extras)
    assert set(re.findall(r'agentkit\[([\w,]+)\]', extras['dev'][0])[0].split(',')) == set(extras) - {'dev', 'vllm'}, (
        'vllm is gigabytes, and for a GPU'
    )


def test_importing_the_core_loads_nothing_heavy():
    code = (
        "import sys, agentkit.core.types; print(','.join(m for m in ('torch', 'transformers', 'dspy', 'pandas', "
        "'textworld', 'mlflow', 'xllamacpp') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ''


def test_no_path_of_a_machine_and_no_key_is_committed():
    secret = re.compile(r'sk-[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}|/(?:root|home/\w+|work)/(?:main|shared|\.)')
    for path in tracked():
        if path.suffix in ('.png', '.gguf') or path == Path(__file__):
            continue
        found = secret.search(path.read_text(errors='ignore'))
        assert not found, f'{path.relative_to(ROOT)}: {found.group()}'


def test_tracked_files_are_small():
    for path in tracked():
        assert path.stat().st_size < 1_000_000, f'{path.relative_to(ROOT)} has {path.stat().st_size:,} bytes'


def test_the_readme_is_the_index_notebook():
    readme = tool('readme')
    assert (ROOT / 'README.md').read_text() == readme.render(), 'run `make readme`'


def test_the_readme_shows_the_committed_results():
    "Every rate in the table of README.md is computed from the summary that was committed with it."
    import io
    import pandas as pd
    from agentkit.research.plots import show_table

    shown = subprocess.run(
        ['git', 'show', 'HEAD:results/quickstart/summary.csv'], cwd=ROOT, capture_output=True, text=True
    )
    if shown.returncode:
        pytest.skip('not a git checkout with results')
    table = show_table(pd.read_csv(io.StringIO(shown.stdout), keep_default_na=False, na_values=['']))
    readme = (ROOT / 'README.md').read_text()
    assert len(table) >= 4
    for row in table.itertuples():
        assert row.won in readme and row.success in readme, row


def test_figures_come_from_notebooks_with_results():
    "A figure `<experiment>__<what>` is drawn by the experiment's report or a notebook that names it; its data exist."
    code = {
        p.stem: '\n'.join(source(c) for c in cells(p) if c['cell_type'] == 'code') for p in [*AUTHORING, *EXPERIMENTS]
    }
    plans = [yaml.safe_load(p.read_text()) for p in (ROOT / 'notebooks/experiments').glob('*.yaml')]
    for path in (ROOT / 'figures').glob('*.*'):
        experiment, what = path.stem.split('__')
        assert (ROOT / 'results' / experiment / 'summary.csv').is_file(), (
            f'{path.name}: results/{experiment} has no summary'
        )
        drawn = re.compile(rf"(save_figure\(.*, |show_figure\()(experiment|'{experiment}'), '{what}'[,)]")
        own = [code[Path(p['report']).stem] for p in plans if p['experiment'] == experiment] or [
            c for c in code.values() if f"'{experiment}'" in c
        ]
        assert any(drawn.search(c) for c in own), f'no notebook draws {path.name}'


def tool(name):
    "A program in tools/, imported."
    import importlib

    sys.path.insert(0, str(ROOT / 'tools'))
    return importlib.import_module(name)


def test_notebooks_are_committed_with_the_outputs_of_their_code():
    notebooks = tool('notebooks')
    old = [notebooks.name(p) for p in notebooks.outdated()]
    assert not old, f'run `make notebooks`: {", ".join(old)}'
    for path in notebooks.pages():
        assert any(c.get('outputs') for c in cells(path)), f'{path} shows nothing'


def test_outputs_say_nothing_of_the_machine_that_made_them():
    notebooks = tool('notebooks')
    for path in notebooks.pages():
        for c in cells(path):
            for out in c.get('outputs', []):
                assert notebooks.kept(out) == out, f'{notebooks.name(path)}: an output that differs from run to run'


def test_the_front_page_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 100
