"""How often the parts of a change hold the truth: worlds in which model, judge and mix change, alone and together.

    .venv/bin/python -m bench.attribution [--pairs 1000]

A line a world: each part in points, and the share of its 95% intervals that hold it. Takes some five minutes.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "simulation"))

from attributed import WORLDS, coverage, injected


def line(name: str, pairs: int) -> str:
    true, found = injected(WORLDS[name]), coverage(WORLDS[name], 7, pairs)
    parts = [f"{part} {100 * true.get(part, 0.0):+.1f}: {share:.3f}" for part, share in sorted(found.items())]
    return f"| {name} | {', '.join(parts)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    for world in WORLDS:
        print(line(world, parser.parse_args().pairs), flush=True)
