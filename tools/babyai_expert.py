"""Measure BabyAI's experts: `python tools/babyai_expert.py` plays 25 worlds of all its levels (minutes).

Writes `results/babyai_expert/`: summary.csv has all levels, nine.csv the nine levels of the Minigrid seed under its own
episode seeds, unsolved.csv every world that was not solved, and why."""

import csv
import sys
from pathlib import Path

from agentkit.envs.babyai.expert import compare_advisors
from agentkit.envs.babyai.world import levels

NINE = (
    *('GoToObj', 'OpenDoor', 'GoToSeq', 'Open', 'PickupLoc', 'PutNextLocalS6N4', 'GoToImpUnlock'),
    *('BlockedUnlockPickup', 'Synth'),
)
NINE_SEEDS = [seed + 1000 * i for seed in (42, 123, 456, 789, 999) for i in range(5)]


def write(path: Path, rows: list[dict]):
    "A table as CSV."
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as f:
        table = csv.DictWriter(f, rows[0], lineterminator='\n')
        table.writeheader()
        table.writerows(rows)


def measure(folder: Path, seeds: int = 25):
    "All tables."
    names = [name for name, id in levels().items() if id.startswith('BabyAI-')]
    rows, unsolved = compare_advisors(names, range(seeds))
    write(folder / 'summary.csv', rows)
    nine, unsolved_nine = compare_advisors(NINE, NINE_SEEDS)
    write(folder / 'nine.csv', nine)
    write(folder / 'unsolved.csv', unsolved + unsolved_nine)
    for policy in ('planner', 'bot'):
        for rows_of in (rows, nine):
            mine = [r for r in rows_of if r['policy'] == policy]
            print(policy, sum(r['solved'] for r in mine), 'of', sum(r['n'] for r in mine))


if __name__ == '__main__':
    measure(Path('results/babyai_expert'), *map(int, sys.argv[1:]))
