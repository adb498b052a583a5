"""Pin every package of the README's two commands, with hashes, and list the licences of what is installed.

`make lock` writes requirements.lock (all extras but vllm, for Python 3.11 and 3.12) and docs/licences.md.
torch is not in it, nor what a CUDA build of it brings: the Makefile installs one version of it by name.
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, LICENCES = ROOT / 'requirements.lock', ROOT / 'docs/licences.md'
LEFT_OUT = re.compile(r'torch|triton|(nvidia|cuda)-')
HOME = ('homepage', 'home', 'source', 'repository', 'source code', 'github')

HEADER = """# What the README's two commands install, made by `make lock`: do not edit.
# pip install --require-hashes --no-deps -r requirements.lock
"""


def compiled() -> str:
    "The pins of all extras, for each supported Python and system, each with the hashes of its files."
    command = 'pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet'
    quiet = '--no-emit-index-url --no-emit-find-links'
    return subprocess.run(
        [Path(sys.executable).with_name('uv'), *command.split(), *quiet.split(), '--extra', 'dev', 'pyproject.toml'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def entries(text: str) -> list[tuple[str, str]]:
    "Name and text of each pin with its hashes."
    pins = re.findall(r'^[^\s#].*(?:\n[ ]+--hash.*)*', text, re.M)
    return [(re.match(r'[\w.-]+', p).group().lower(), p) for p in pins]


def licence(name: str) -> tuple[str, str]:
    "Licence and home page as the package itself says."
    about = metadata(name)
    classified = [c.split(' :: ')[-1] for c in about.get_all('Classifier') or [] if c.startswith('License')]
    short = (about.get('License') or '').strip().splitlines()[:1]
    said = about.get('License-Expression') or ', '.join(c for c in classified if c != 'OSI Approved') or ''.join(short)
    pages = dict(p.split(', ', 1) for p in about.get_all('Project-URL') or [] if ', ' in p)
    home = about.get('Home-page') or next((u for n, u in pages.items() if n.lower() in HOME), '')
    return said.strip('# ') or _first_line(name) or 'not said', home


def _first_line(name):
    "Of the licence file of a package whose metadata name none."
    texts = [f.read_text() for f in files(name) or [] if f.name.upper().startswith(('LICENSE', 'LICENCE'))]
    return next((line.strip() for line in '\n'.join(texts).splitlines() if line.strip()), '')


def licences(names: list[str]) -> str:
    "A table of packages and licences; what this system does not install is named without one."
    rows = []
    for name in sorted(set(names)):
        try:
            rows.append((name, *licence(name)))
        except PackageNotFoundError:
            rows.append((name, 'not installed on the system that wrote this', ''))
    lines = [f'| {name} | {said} | {home} |'.replace(' |  |', ' | |') for name, said, home in rows]
    return '\n'.join(
        [
            '# Licences',
            '',
            'agentkit is Apache-2.0. It contains no code of others; it installs the packages below. `make lock` writes',
            'what they say about themselves. Those under the GPL come with the extra `[alfworld]` alone.',
            '',
            '| package | licence | home |',
            '|---|---|---|',
            *lines,
            '',
        ]
    )


def main():
    pins = [(name, text) for name, text in entries(compiled()) if not LEFT_OUT.match(name)]
    LOCK.write_text(HEADER + '\n'.join(text for _, text in pins) + '\n')
    LICENCES.write_text(licences([name for name, _ in pins] + ['torch']))
    print(f'{LOCK.name}: {len(pins)} pins; {LICENCES.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
