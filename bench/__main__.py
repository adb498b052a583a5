"`python -m bench`: measure all parts, or some of them."

import argparse
import sys

from agentkit.core.errors import AgentkitError
from agentkit.research.plots import save_figure
from bench.babyai import bench_babyai
from bench.compared import PARTS, read_summary, record, table
from bench.environment import bench_env
from bench.figure import bench_figure
from bench.games import bench_games, empty_data
from bench.rollouts import bench_rollouts
from bench.training import bench_training


RUN = dict(env=bench_env, rollouts=bench_rollouts, training=bench_training, babyai=bench_babyai)
OWN_WORLDS = ('babyai',)  # parts that need no household games


def bench(parts=PARTS, games: int = 20) -> dict:
    "Measure these parts; the summary."
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise AgentkitError(f'unknown part {", ".join(unknown)}; known: {", ".join(PARTS)}')
    for part in parts:
        with empty_data():
            tasks, what = ([], 'none') if part in OWN_WORLDS else bench_games(games)
            compared, details = RUN[part](tasks)
        record(part, compared, dict(games=what, **details))
    save_figure(bench_figure(), 'bench', 'ratios')
    return read_summary()


def main(argv: list[str] | None = None) -> int:
    "The command line; returns the exit code."
    parser = argparse.ArgumentParser(prog='python -m bench', description='How much faster than the usual way?')
    parser.add_argument('parts', nargs='*', metavar='part', help=f'{", ".join(PARTS)}; default: all')
    parser.add_argument('--games', type=int, default=20, help='how many games; default 20')
    a = parser.parse_args(argv)
    try:
        print(table(bench(a.parts or PARTS, a.games)).to_string(index=False, float_format='{:.4g}'.format))
    except AgentkitError as e:
        print(f'bench: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
