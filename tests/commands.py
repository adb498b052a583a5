"Commands of the kit in a process of their own."

import json
import os
import subprocess
import sys

SESSION = """
import contextlib, io, json, sys
from agentkit.cli import main

results = []
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(line.split())
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def session(*typed, **variables):
    "(exit code, standard output, standard error) of several commands in one process of their own."
    env = {**os.environ, 'COLUMNS': '200', **{k: str(v) for k, v in variables.items()}}
    run = subprocess.run([sys.executable, '-c', SESSION, *typed], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-1000:]
    return json.loads(run.stdout.splitlines()[-1])
