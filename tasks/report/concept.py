"""What became of a judge's verdicts on the same content, in words and in a table."""

from collections.abc import Sequence
from typing import Any

from tasks.concept import Part
from tasks.report.numbers import interval, p_value, percent
from tasks.report.rates import RateTable

HEADER = ["category", "responses", "flipped", "share", "worse", "better", "noise", "kappa", "AC1", "p", "finding"]


def sentence(judge: str, parts: Sequence[Part]) -> str:
    """Whether the judge changed, in a sentence."""
    whole = parts[0].found
    if whole.share is None:
        return f"{judge}: no response has two verdicts that could be compared"
    noise = (
        "how far it disagrees with itself is not known" if whole.noise is None else f"asked again, {percent(whole.noise)}% flip"
    )
    changed = [p.slice for p in parts if p.is_changed]
    finding = f"it changed ({', '.join(changed)})" if changed else "no change beyond chance"
    moved = f"{whole.flipped} of {whole.n} verdicts flipped ({percent(whole.share)}%)"
    ways = f"{whole.worse} for the worse, {whole.better} for the better"
    return f"{judge}: {moved}, {ways}; {noise}: {finding}"


def table(judge: str, parts: Sequence[Part]) -> RateTable:
    """The same by category."""
    return RateTable(f"first and newest verdicts of {judge}", HEADER, [_cells(p) for p in parts])


def record(part: Part) -> dict[str, Any]:
    """The same for JSON."""
    moved = part.found._asdict() | {"agreement": part.found.agreement._asdict()}
    return {"slice": part.slice, "p": part.p, "changed": part.is_changed} | moved


def _cells(part: Part) -> list[str]:
    f = part.found
    flipped = [str(f.flipped), interval(f.share, f.low, f.high), str(f.worse), str(f.better), percent(f.noise)]
    agreement = ["-" if v is None else f"{v:.3f}" for v in (f.agreement.kappa, f.agreement.ac1)]
    finding = "changed" if part.is_changed else "no change seen"
    return [part.slice, str(f.n), *flipped, *agreement, p_value(part.p), finding]
