"What the kit does, as text: each producer makes one value, and the file of its name holds what is expected."

import hashlib
import json
import os
from pathlib import Path

FOLDER = Path(__file__).parent
PINS = {}  # name → producer


def pin(name, *cases, slow=False):
    "Register a producer; with cases one for each, called with it."

    def register(produce):
        for case in cases or (None,):
            full = name if case is None else f'{name}-{case}'
            PINS[full] = (produce, () if case is None else (case,), slow)
        return produce

    return register


def as_text(value):
    "The value as it is written: text as it is, all else as JSON."
    text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    return text.rstrip('\n') + '\n'


def recording():
    "Are the expected values written again?"
    return os.environ.get('PINS') == 'record'


def path_of(name):
    "The file of a pin; text unless there is a JSON file."
    return next(iter(FOLDER.glob(f'expected/{name}.*')), None)


def write(name, value):
    "Write the expected value again."
    old, new = path_of(name), FOLDER / 'expected' / f'{name}.{"txt" if isinstance(value, str) else "json"}'
    if old and old != new:
        old.unlink()
    new.parent.mkdir(exist_ok=True)
    new.write_text(as_text(value))


def recorded(name):
    "A recorded episode, as its JSON file has it."
    return json.loads((FOLDER / 'episodes' / f'{name}.json').read_text())


def digest(value):
    "A short name for a value, computed without the kit."
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def parts(named):
    "Several texts as one, each below its name."
    return '\n'.join(f'=== {name}\n{text}' for name, text in named)


def conversation(messages):
    "Messages as text."
    return '\n'.join(f'[{m["role"]}]\n{m["content"]}' for m in messages)


def moments(steps):
    "The first, a middle and the last step."
    return sorted({0, len(steps) // 2, len(steps) - 1})
