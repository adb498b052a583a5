"Record the expected values again, all or those whose names contain a word: python tests/pins/record.py [word]"

import os
import subprocess
import sys
from pathlib import Path

if __name__ == '__main__':
    chosen = ['-k', ' or '.join(sys.argv[1:])] if sys.argv[1:] else []
    command = [sys.executable, '-m', 'pytest', 'tests/test_pins.py', '-q', '-m', 'slow or not slow', *chosen]
    sys.exit(subprocess.call(command, cwd=Path(__file__).parent.parent.parent, env={**os.environ, 'PINS': 'record'}))
