"Record the expected values again, all or those whose names contain a word: python tests/pins/record.py [word]"

import os
import sys
from pathlib import Path

import pytest

if __name__ == '__main__':
    os.environ['PINS'] = 'record'
    test = str(Path(__file__).parent.parent / 'test_pins.py')
    chosen = ['-k', ' or '.join(sys.argv[1:])] if sys.argv[1:] else []
    sys.exit(pytest.main([test, '-q', '-m', 'slow or not slow', *chosen]))
