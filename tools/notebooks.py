"""Run lessons, tutorials and reports, and keep their outputs: people read notebooks on a git host.

    python tools/notebooks.py             what is older than its code
    python tools/notebooks.py --all       all of them
    python tools/notebooks.py PATH …      these

Outputs are made stable, so that running twice changes nothing: no paths of the machine, no addresses, ports or clocks,
no progress bars. `outputs.json` says for which code each notebook's outputs were made; a test compares."""

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAMPS = ROOT / 'notebooks/outputs.json'
CELL_SECONDS = 1200
VOLATILE = (
    (re.escape(str(ROOT)), '.'),
    (re.escape(tempfile.gettempdir()) + r'(?:/[\w.+-]*tmp[\w.+-]*|/tmp\w+)', '/tmp/…'),
    (r'0x[0-9a-f]{6,}', '0x…'),
    (r'(127\.0\.0\.1|localhost):\d{4,5}', r'\1:…'),
    (r"(seconds['\"]?[=:] ?)\d+(?:\.\d+)?(?:e-\d+)?", r'\1…'),
    (r'\b\d+(?:\.\d+)?(?: ms| s\b)', '… s'),
    (r'\x1b\[[0-9;]*m', ''),
)
DROPPED = ('application/vnd.jupyter.widget-view+json', 'application/javascript')


def pages() -> list[Path]:
    "The notebooks that are committed with outputs: all but the front page and the experiments that take hours."
    found = sorted((ROOT / 'notebooks').rglob('*.ipynb'))
    experiment = lambda p: p.parent.name == 'experiments' and not p.stem.endswith('_report')
    hidden = lambda p: any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts)
    return [p for p in found if p.stem != 'index' and not experiment(p) and not hidden(p)]


def source(cell) -> str:
    return ''.join(cell['source'])


def stamp(path) -> str:
    "A digest of the code of a notebook."
    code = [source(c) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def stamps() -> dict[str, str]:
    "Notebook → the code for which its outputs were made."
    return json.loads(STAMPS.read_text()) if STAMPS.exists() else {}


def name(path) -> str:
    return path.relative_to(ROOT).as_posix()


def outdated() -> list[Path]:
    "The notebooks whose outputs are missing, or were made for other code."
    known = stamps()
    return [p for p in pages() if known.get(name(p)) != stamp(p)]


def stable(text: str) -> str:
    "A text without what differs from run to run."
    for pattern, instead in VOLATILE:
        text = re.sub(pattern, instead, text)
    return text


def kept(output) -> dict | None:
    "An output as it is committed; None for what only a running kernel can show."
    if output['output_type'] == 'stream':
        text = ''.join(output['text'])
        return None if output['name'] == 'stderr' else {**output, 'text': stable(text).splitlines(True)}
    data = {k: v for k, v in output.get('data', {}).items() if k not in DROPPED}
    if not data or set(output.get('data', {})) & set(DROPPED):
        return None
    if 'text/markdown' in data:
        data.pop('text/plain', None)  # the same again, unformatted
    texts = {k: stable(''.join(v)).splitlines(True) for k, v in data.items() if k.startswith('text/')}
    return {
        **output,
        'data': {**data, **texts},
        'metadata': {},
        **({'execution_count': None} if 'execution_count' in output else {}),
    }


def run(path):
    "Run a notebook from the project folder, in a kernel of its own, and keep its outputs."
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        own = {f'AGENTKIT_PATHS_{k}': f'{folder}/{k.lower()}' for k in ('RESULTS', 'DATA')}
        own = {} if path.parent.name == 'experiments' else own  # reports read the committed results
        own |= {'AGENTKIT_ROOT': str(ROOT), 'AGENTKIT_PROGRESS': 'text', 'TQDM_DISABLE': '1'}
        os.environ |= own
        try:
            NotebookClient(nb, timeout=CELL_SECONDS, resources=dict(metadata=dict(path=str(ROOT)))).execute()
        finally:
            for key in own:
                os.environ.pop(key)
    written = json.loads(path.read_text())
    code = [c for c in nb.cells if c.cell_type == 'code']
    for cell, ran in zip((c for c in written['cells'] if c['cell_type'] == 'code'), code, strict=True):
        cell['outputs'] = [o for o in map(kept, json.loads(json.dumps(ran.outputs))) if o]
    path.write_text(json.dumps(written, sort_keys=True, indent=1, ensure_ascii=False) + '\n')


def main(arguments):
    chosen = pages() if arguments == ['--all'] else [Path(a).resolve() for a in arguments] or outdated()
    for i, path in enumerate(chosen, 1):
        print(f'[{i}/{len(chosen)}] {name(path)}', flush=True)
        run(path)
        STAMPS.write_text(json.dumps({**stamps(), name(path): stamp(path)}, indent=1, sort_keys=True) + '\n')
    known = {name(p) for p in pages()}
    STAMPS.write_text(json.dumps({k: v for k, v in stamps().items() if k in known}, indent=1, sort_keys=True) + '\n')


if __name__ == '__main__':
    main(sys.argv[1:])
