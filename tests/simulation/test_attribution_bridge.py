"""The judge's part from a sample that both judges saw, other items, unscored rows, clusters and several samples of an item."""

import pytest
from attributed import RATES, SAME, SKEWED, STRICTER, World, coverage, injected, shifted

REVERSED = SKEWED[::-1].copy()
WORSE = (RATES, shifted(RATES, 0.5))
SAMPLED = World(1500, rates=WORSE, judges=(SAME, STRICTER), bridge=0.2)
UNSCORED = World(600, (100, 200), rates=WORSE, unscored=(0.02, 0.08), samples=(3, 2), harder=(0.3, 0.6))
ALL = World(
    *(1200, (400, 400), (SKEWED, SKEWED, REVERSED), WORSE, (SAME, STRICTER)),
    **{"bridge": 0.4, "unscored": (0.02, 0.05), "samples": (2, 1), "clusters": 4, "harder": (0.0, 0.5)},
)


@pytest.mark.parametrize("world", [SAMPLED, UNSCORED, ALL], ids=["sampled bridge", "unscored", "all at once"])
def test_parts_are_recovered(world):
    true, found = injected(world), coverage(world, seed=7)
    assert {name: c for name, c in found.items() if name in true and name != "mix" and not 0.93 <= c <= 0.97} == {}
    assert found["mix"] >= 0.93
