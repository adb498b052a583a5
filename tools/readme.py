"""README.md is notebooks/index.ipynb with outputs: `python tools/readme.py` runs it and writes both."""

import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX, README = ROOT / 'notebooks/index.ipynb', ROOT / 'README.md'
# a table is one block of text
WIDE = (
    'import pandas; '
    "pandas.set_option('display.width', 200, 'display.max_columns', 30, 'display.float_format', '{:.4g}'.format)"
)


def _table(text):
    "A printed data frame's HTML is not Markdown; the plain text in a code block is, and reads well everywhere."
    return f'```\n{text.rstrip()}\n```'


def _outputs(cell):
    for out in cell['outputs']:
        data = out.get('data', {})
        if 'text/markdown' in data:
            yield ''.join(data['text/markdown'])
        elif 'text/plain' in data:
            yield _table(''.join(data['text/plain']))


def render(notebook=INDEX) -> str:
    "The Markdown of a notebook: its prose, its code, its text outputs."
    parts = []
    for cell in json.loads(Path(notebook).read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
        else:
            parts += [f'```python\n{source}\n```', *_outputs(cell)]
    return '<!-- made from notebooks/index.ipynb by `make readme` -->\n\n' + '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    from nbclient import NotebookClient
    import nbformat

    os.environ['AGENTKIT_ROOT'] = str(ROOT)
    notebook = nbformat.read(INDEX, 4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WIDE))
    NotebookClient(notebook, kernel_name='python3').execute()
    del notebook.cells[0]
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if o.output_type != 'stream']
    nbformat.write(notebook, INDEX)
    from nbdev.clean import nbdev_clean

    nbdev_clean(str(INDEX))
    README.write_text(render())
