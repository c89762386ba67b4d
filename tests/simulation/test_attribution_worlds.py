"""Model, judge and mix change, alone and together: each true part is in 93 to 97% of its intervals, in 1,000 pairs of runs.

bench/attribution.py has the other worlds.
"""

import numpy as np
import pytest
from attributed import BETTER, WORLDS, coverage, injected

TRIED = ["the mix, half of the items common", "Simpson's paradox", "everything, clusters of four, 40% judged by both"]


@pytest.mark.parametrize("name", TRIED)
def test_each_part_is_recovered(name):
    true, found = injected(WORLDS[name]), coverage(WORLDS[name], seed=7)
    assert {part: c for part, c in found.items() if part in true and not 0.93 <= c <= 0.97} == {}


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_injected_adds_up(name):
    true = injected(WORLDS[name])
    assert sum(value for part, value in true.items() if part != "change") == pytest.approx(true["change"])


def test_with_the_same_items_the_mix_is_the_same_without_a_doubt():
    assert coverage(WORLDS["the model"], seed=7, trials=50)["mix"] == 1


def test_simpsons_paradox_is_one():
    true = injected(WORLDS["Simpson's paradox"])
    assert true["change"] > 0.01
    assert true["model"] < -0.03
    assert np.all(BETTER[1] < BETTER[0])
