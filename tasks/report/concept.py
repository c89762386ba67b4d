"""What became of a judge's verdicts on the same content, in words and in a table."""

from collections.abc import Sequence
from typing import Any

from tasks.concept import Part
from tasks.report.rates import RateTable

HEADER = ["category", "responses", "flipped", "share", "worse", "better", "noise", "kappa", "AC1", "p", "finding"]


def sentence(judge: str, parts: Sequence[Part]) -> str:
    """Whether the judge changed, in a sentence."""
    whole = parts[0].found
    if whole.share is None:
        return f"{judge}: no response has two verdicts that could be compared"
    noise = (
        "how far it disagrees with itself is not known" if whole.noise is None else f"asked again, {_percent(whole.noise)} flip"
    )
    changed = [p.slice for p in parts if p.is_changed]
    finding = f"it changed ({', '.join(changed)})" if changed else "no change beyond chance"
    moved = f"{whole.flipped} of {whole.n} verdicts flipped ({_percent(whole.share)})"
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
    share = (
        "-"
        if f.share is None or f.low is None or f.high is None
        else f"{100 * f.share:.1f} [{100 * f.low:.1f}, {100 * f.high:.1f}]"
    )
    noise = "-" if f.noise is None else f"{100 * f.noise:.1f}"
    agreement = ["-" if v is None else f"{v:.3f}" for v in (f.agreement.kappa, f.agreement.ac1)]
    p = "-" if part.p is None else "<0.001" if part.p < 0.001 else f"{part.p:.3f}"
    finding = "changed" if part.is_changed else "no change seen"
    return [part.slice, str(f.n), str(f.flipped), share, str(f.worse), str(f.better), noise, *agreement, p, finding]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
