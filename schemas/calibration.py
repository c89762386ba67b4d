"""The figures of a judge against people, as schemas/calibration.yaml describes them."""

from schemas.catalog import Described, described

REFUSED = "refused: "  # how the method of a corrected rate starts that has no value, before the reason


def figures() -> dict[str, Described]:
    """The figures by name, without the prefix of what is compared."""
    return described("calibration.yaml")


def figure_of(metric: str) -> str:
    """The figure that a `metric` of the table calibrations is, such as sensitivity for label_sensitivity_full_refusal.

    KeyError where it is none.
    """
    bare = metric.partition("_")[2].partition(":")[0]
    known = [f for f in figures() if bare == f or bare.startswith(f"{f}_")]
    if not known:
        raise KeyError(f"{metric}: no figure of schemas/calibration.yaml")
    return max(known, key=len)
