"""New categories in words and tables: what is asked that fits no known category, since when, and how much of it.

Clusters are as `tasks.emerging.record` has them, read back from what was stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.report.comparison import short
from tasks.report.numbers import fine_percent

COLUMNS = ("cluster", "status", "about", "prompts", "share now %", "before %", "since", "each night", "nearest", "distance")
BARS = "▁▂▃▄▅▆▇█"
NIGHTS = 14  # that the growth shows
WATCHED = 5  # clusters that are not reported, of which most come and go

Cluster = Mapping[str, Any]


def sentence(source: str, night: str | None, decision: str, reason: str, clusters: Sequence[Cluster]) -> str:
    """What was found, in a sentence."""
    new = [c for c in clusters if c["status"] == "reported" and not c["part_of"]]
    missing = f"not enough data, and so no alert: {reason}; " if decision == "insufficient data" else ""
    if not new:
        return f"{source}, to {night}: {missing or f'{reason}; '}nothing new is seen"
    named = "; ".join(f"{c['name']} ({fine_percent(c['share'])}% since {c['first_seen']})" for c in new)
    return f"{source}, to {night}: {missing}{len(new)} new {'category' if len(new) == 1 else 'categories'}: {named}"


def shown(clusters: Sequence[Cluster]) -> list[Cluster]:
    """Those that are or were reported, and the likeliest of the watched ones."""
    watched = [c for c in clusters if c["status"] == "watched"]
    return [*(c for c in clusters if c["status"] != "watched"), *watched[:WATCHED]]


def rows(clusters: Sequence[Cluster]) -> list[list[str]]:
    """A row for each cluster."""
    return [
        [
            c["cluster_id"],
            f"part of {c['part_of']}" if c["part_of"] else c["status"],
            ", ".join(c["terms"]) or "-",
            str(c["size"]),
            f"{fine_percent(c['share'])} [{fine_percent(c['low'])}, {fine_percent(c['high'])}]",
            fine_percent(c["before"]),
            c["first_seen"],
            growth(c),
            c["category"],
            f"{c['distance']:.2f}",
        ]
        for c in clusters
    ]


def growth(c: Cluster) -> str:
    """The share of each of the last nights as a bar, the highest one full, and the count of the last."""
    nights = c["growth"][-NIGHTS:]
    shares = [g["inside"] / g["n"] if g["n"] else 0.0 for g in nights]
    most = max(shares, default=0.0)
    bars = "".join(BARS[round((len(BARS) - 1) * s / most)] if most else BARS[0] for s in shares)
    return f"{bars} {nights[-1]['inside']}" if nights else "-"


def examples(clusters: Sequence[Cluster], texts: Mapping[str, str]) -> Iterator[str]:
    """The examples of each reported cluster, cut short, below its name."""
    for c in clusters:
        if c["reported"] and any(i in texts for i in c["examples"]):
            yield ""
            yield f"{c['cluster_id']}, {c['name']}:"
            yield from (f"  {short(texts[i])}" for i in c["examples"] if i in texts)


def remarks(clusters: Sequence[Cluster]) -> Iterator[str]:
    """How to read the table."""
    left = len(clusters) - len(shown(clusters))
    if left:
        yield f"{left} more are watched (--json shows them): most come and go"
    if clusters:
        yield (
            "shares are of a night's distinct prompts, since the first night with one, and of the nights before it was found; "
            "distance: of its mean to that of the nearest known category, 1 - cosine"
        )
