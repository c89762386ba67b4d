"""Model, judge and mix change together, also under Simpson's paradox: each true part is in 93 to 97% of its intervals."""

import numpy as np
import pytest
from attributed import EVEN, RATES, SAME, SKEWED, STRICTER, World, coverage, injected, shifted

REVERSED = SKEWED[::-1].copy()
WORSE = (RATES, shifted(RATES, 0.5))
TOGETHER = World(600, (300, 300), (SKEWED, SKEWED, REVERSED), WORSE, (SAME, STRICTER))
FRESH = World(0, (800, 800), (SKEWED, SKEWED, EVEN), WORSE, (SAME, STRICTER))
BETTER = (RATES, shifted(RATES, -0.4))  # in every category, and yet the whole rises
SIMPSON = World(600, (400, 400), (EVEN, SKEWED, REVERSED), BETTER, (SAME, STRICTER))


@pytest.mark.parametrize("world", [TOGETHER, FRESH, SIMPSON], ids=["together", "no item common", "simpson"])
def test_causes_together_are_told_apart(world):
    true, found = injected(world), coverage(world, seed=7)
    assert sum(value for name, value in true.items() if name != "change") == pytest.approx(true["change"])
    assert {name: c for name, c in found.items() if name in true and not 0.93 <= c <= 0.97} == {}


def test_simpson_is_one():
    true = injected(SIMPSON)
    assert true["change"] > 0.01
    assert true["model"] < -0.03
    assert np.all(BETTER[1] < BETTER[0])
