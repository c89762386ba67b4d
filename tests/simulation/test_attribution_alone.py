"""A model, a judge or a mix changes alone: its part is in 93 to 97% of its intervals, and nothing in those of the others."""

import pytest
from attributed import EVEN, RATES, SAME, SKEWED, STRICTER, World, coverage, injected, shifted

MODEL = World(rates=(RATES, shifted(RATES, 0.5)))
JUDGE = World(judges=(SAME, STRICTER))
MIX = World(common=400, lone=(400, 400), mix=(SKEWED, SKEWED, EVEN))
FRESH = World(common=0, lone=(800, 800), mix=(SKEWED, SKEWED, EVEN))


@pytest.mark.parametrize(
    ("world", "cause", "parts"),
    [
        (MODEL, "model", {"model"}),
        (JUDGE, "judge", {"judge", "model"}),
        (MIX, "mix", {"mix", "items added", "items removed", "model"}),
        (FRESH, "mix", {"mix", "model or harder prompts"}),
    ],
    ids=["model", "judge", "mix, half of the items common", "mix, no item common"],
)
def test_each_cause_alone_is_recovered(world, cause, parts):
    true = injected(world)
    assert true[cause] == pytest.approx(true["change"])
    assert all(abs(value) < 1e-12 for name, value in true.items() if name not in (cause, "change"))
    found = coverage(world, seed=7)
    assert {name: c for name, c in found.items() if name in parts | {"change"} and not 0.93 <= c <= 0.97} == {}
    assert "mix" in parts or found["mix"] == 1  # with the same items the mix is the same: no interval, and no doubt
