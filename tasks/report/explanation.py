"""Why a rate changed, in a sentence, a waterfall and cases, for the terminal, for a pull request and as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.compare import differing
from tasks.drift.attribution import MODEL, Estimate, Part
from tasks.explain import Explanation, Side
from tasks.report.comparison import short, verdict
from tasks.report.rates import RateTable, markdown
from tasks.report.text import for_markdown

HEADER = ["part", "points", "95% interval", "", "most of it in"]
BAR = 3  # the column that only a terminal shows as it is
FLIPPED = ("because of", "item", "category", "prompt", "base", "response", "candidate", "response")
BETWEEN = ("mix", "new categories", "lost categories")
MOST = 3  # categories that a line of the waterfall names
WIDTH = 24  # characters of the waterfall
MOST_SEEN = 0.9  # of the responses: what is left would hardly tell more
LARGE = 2000  # responses from which a sample is advised

Points = list[tuple[Part, float]]


def headline(e: Explanation) -> str:
    """What moved and why, in a sentence; points are rounded so that they add up to the rates that are shown."""
    before, after, parts = shown(e)
    said = [f"{p:+.1f}{'' if n else ' points'} {part.name}" for n, (part, p) in enumerate(_by_size(parts))]
    noise = f"{100 * e.noise.value:.1f}" if e.noise else "none, the responses are the same" if _is_same(e) else "unknown"
    return f"{_title(e)} {before:.1f}% -> {after:.1f}%: {', '.join(said)}; noise floor {noise}"


def conclusion(e: Explanation) -> str:
    """Which parts are beyond chance, and whether the model's is within what a repeat moves."""
    _, _, parts = shown(e)
    beyond = [(part, p) for part, p in _by_size(parts) if _is_beyond(part.whole)]
    quiet = [part for part, _ in beyond if part.name == MODEL and e.noise and abs(part.whole.value) <= e.noise.value]
    causes = [f"{part.name} {p:+.1f}" for part, p in beyond if part not in quiet]
    said = f"beyond chance: {', '.join(causes)}" if causes else "no part is beyond chance"
    return f"{said}; the model's part is within what a mere repeat moves" if quiet else said


def remarks(e: Explanation, kinds: Mapping[str, str]) -> Iterator[str]:
    """Who judged and what was set against what, what is not known, and what to run; `kinds` of judges and arms by id."""
    yield _judged(e)
    for field in differing(e.base.rows, e.candidate.rows):
        if not field.startswith("judge"):
            yield f"the arms are not alike in {field}; what that moves is in the model's part"
    items = e.found.items
    same = f" ({items['same']} of them with the same stored responses)" if items["same"] else ""
    alone = f"{items['lone0']} in the base alone, {items['lone1']} in the candidate alone"
    yield f"items: {items['common']} scored in both runs{same}, {alone}"
    if any(e.unscored):
        yield f"without a verdict, and in no rate: {e.unscored[0]} responses of the base, {e.unscored[1]} of the candidate"
    if items["moved"]:
        yield f"{items['moved']} items changed their category: removed from one and added to another"
    if _is_reversed(e):
        yield "Simpson's paradox: within every category the rate moved the other way; the change as a whole is the mix alone"
    yield _noise(e, kinds)
    yield from advice(e, kinds)


def advice(e: Explanation, kinds: Mapping[str, str]) -> Iterator[str]:
    """What to run so that the judge's part can be told from the model's, or told better."""
    if not e.judges_differ:
        return
    seen = e.found.bridged
    commands = (_rejudge(e.base, e.candidate, kinds), _rejudge(e.candidate, e.base, kinds))
    missing = [command for command, n in zip(commands, seen, strict=True) if not n]
    if len(missing) == 2:
        yield "judge and model cannot be told apart: hardly a response has verdicts of both judges; either of these would do"
    elif missing:
        yield f"the judge's part rests on the {'candidate' if seen[1] else 'base'}'s responses alone; this would add the others"
    yield from missing
    for n, of, name in zip(seen, (e.found.base.n, e.found.candidate.n), ("base", "candidate"), strict=True):
        if 0 < n < MOST_SEEN * of:
            yield f"both judges scored {n:,} of the {name}'s {of:,} responses; more of them (--sample) tell more of the judge"


def waterfall(e: Explanation) -> RateTable:
    """From the base's rate to the candidate's, part by part, in points."""
    before, after, parts = shown(e)
    reached = [before]
    for _, points in parts:
        reached.append(reached[-1] + points)
    least, most = min(reached), max(reached)
    lines = [
        [p.name, f"{points:+.1f}", _interval(p.whole, "+"), _bar(start, start + points, least, most), _largest(p)]
        for (p, points), start in zip(parts, reached, strict=False)
    ]
    ends = [
        [name, f"{rate:.1f}", _interval(Estimate(rate, i.low, i.high), ""), _bar(rate, rate, least, most), f"{i.n:,} responses"]
        for name, rate, i in (("base", before, e.found.base), ("candidate", after, e.found.candidate))
    ]
    return RateTable(f"{_title(e)}, {_names(e)}", HEADER, [ends[0], *lines, ends[1]])


def flips(e: Explanation, most: int) -> list[list[str]]:
    """The first cases that flipped, cut short: why, item, category, prompt, and each side's verdict and response."""
    return [
        [
            row["cause"] or "not known",
            row["item_id"][:8],
            row["category_after"],
            short(row["prompt"]),
            verdict(row, ""),
            short(row["response"]),
            verdict(row, "_after"),
            "the same" if row["response_id"] == row["response_id_after"] else short(row["response_after"]),
        ]
        for row in e.flips.head(most).iter_rows(named=True)
    ]


def alert_lines(e: Explanation) -> str:
    """What an alert says of it: the sentence, what is beyond chance, and the items that carry it, by id."""
    items = [f"{row['item_id'][:8]} ({row['category_after']})" for row in e.flips.head(MOST).iter_rows(named=True)]
    cases = [f"Such as items {', '.join(items)}"] if items else []
    return "\n".join([f"From the last night of the reference: {headline(e)}", f"Of this, {conclusion(e)}", *cases])


def text(e: Explanation, kinds: Mapping[str, str], most: int) -> str:
    """The explanation as Markdown for a pull request; prompts and responses are cut short and escaped."""
    told = "\n".join(f"- {for_markdown(r)}" for r in (conclusion(e), *remarks(e, kinds)))
    title, header, rows = waterfall(e)
    bare = RateTable(title, header[:BAR] + header[BAR + 1 :], [row[:BAR] + row[BAR + 1 :] for row in rows])
    listed = markdown(RateTable("Flipped cases", list(FLIPPED), flips(e, most)))
    folded = f"<details><summary>{e.flips.height} flipped cases</summary>\n\n{listed}\n</details>\n"
    return "\n\n".join([f"**{for_markdown(headline(e))}**", told, markdown(bare), folded])


def record(e: Explanation, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The explanation for JSON: every part with its categories, and every case that flipped with its whole text."""
    parts = [{"part": p.name} | p.whole._asdict() | {"categories": _by_name(p.categories)} for p in e.found.parts]
    return {
        **{"headline": headline(e), "conclusion": conclusion(e), "benchmark": e.benchmark, "metric": e.metric},
        **{"base": _side(e, e.base, 0), "candidate": _side(e, e.candidate, 1), "change": e.found.change._asdict()},
        **{"parts": parts, "noise": e.noise._asdict() if e.noise else None, "items": e.found.items},
        **{"advice": list(advice(e, kinds)), "flips": e.flips.to_dicts()},
    }


def shown(e: Explanation) -> tuple[float, float, Points]:
    """Both rates in percent and the parts in points, to a tenth: the parts add up to the difference of the rates as shown.

    Each is rounded down, and those that lost most are given a tenth back until all is accounted for.
    """
    before, after = (round(1000 * i.value) for i in (e.found.base, e.found.candidate) if i.value is not None)
    exact = [1000 * p.whole.value for p in e.found.parts]
    tenths = [int(x // 1) for x in exact]
    lost = sorted(range(len(exact)), key=lambda n: tenths[n] - exact[n])
    for n in lost[: after - before - sum(tenths)]:
        tenths[n] += 1
    return before / 10, after / 10, [(p, t / 10) for p, t in zip(e.found.parts, tenths, strict=True)]


def _side(e: Explanation, side: Side, place: int) -> dict[str, Any]:
    known = {k: v for k, v in side._asdict().items() if k not in ("rows", "bridge")}
    rate = (e.found.base, e.found.candidate)[place]._asdict()
    return known | rate | {"unscored": e.unscored[place], "bridged": e.found.bridged[place]}


def _by_name(moved: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    return {name: m._asdict() for name, m in moved.items()}


def _title(e: Explanation) -> str:
    return e.metric.replace("_", " ").capitalize()


def _names(e: Explanation) -> str:
    arms = e.base.arm if e.base.arm == e.candidate.arm else f"{e.base.arm} -> {e.candidate.arm}"
    return f"{arms} on {e.benchmark}"


def _by_size(parts: Points) -> Points:
    return sorted(parts, key=lambda each: -abs(each[0].whole.value))


def _is_beyond(moved: Estimate) -> bool:
    return moved.low is not None and moved.high is not None and (moved.low > 0 or moved.high < 0)


def _is_reversed(e: Explanation) -> bool:
    """Whether in every category that both runs have the rate moved against the whole."""
    within: dict[str, float] = {}
    for part in e.found.parts:
        for name, moved in part.categories.items():
            within[name] = within.get(name, 0.0) + (0.0 if part.name in BETWEEN else moved.value)
    against = [moved * e.found.change.value for moved in within.values()]
    return len(against) > 1 and max(against) <= 0 and min(against) < 0


def _is_same(e: Explanation) -> bool:
    """Whether both sides are about the same stored responses."""
    return e.found.items["same"] == e.found.items["common"] and not e.found.items["lone0"] + e.found.items["lone1"]


def _judged(e: Explanation) -> str:
    before, after = (f"{s.judge} ({s.judge_id[:8]})" for s in (e.base, e.candidate))
    return (
        f"judged by {before}, then by {after}" if e.judges_differ else f"judged by {before} both times: the judge moved nothing"
    )


def _noise(e: Explanation, kinds: Mapping[str, str]) -> str:
    if e.noise is not None:
        value, low, high, moved = (100 * x for x in (e.noise.value, e.noise.low, e.noise.high, e.noise.moved))
        known = f"{e.noise.n} items asked twice moved it by {moved:+.1f}"
        return f"noise floor {value:.1f} [{low:.1f}, {high:.1f}] points: 19 of 20 mere repeats move the rate by less; {known}"
    if _is_same(e):
        asks = f"midwatch judge run --judge {e.candidate.judge} --run {e.candidate.run_id} --fresh"
        return f"the responses are the same, so no repeat of the model is in it; how far a judge repeats itself: {asks}"
    if kinds.get(e.base.arm_id) == "imported":
        return f"noise floor unknown: the responses of {e.base.arm} came from a file, which does not repeat itself"
    asks = f"midwatch run --benchmark {e.benchmark} --fresh"
    return f"noise floor unknown: no run asked {e.base.arm} the same items again; {asks}, configured as before, does"


def _rejudge(own: Side, other: Side, kinds: Mapping[str, str]) -> str:
    """The command that puts the responses of a side to the judge of the other."""
    kind = kinds.get(other.judge_id)
    if kind == "imported":
        return f"midwatch import verdicts FILE --judge {other.judge} --label COLUMN --run {own.run_id}"
    if kind == "human":
        return f"midwatch labels import FILE --label COLUMN --annotator {other.judge} --run {own.run_id}"
    size = f" --sample {LARGE // 2}" if own.rows.height > LARGE else ""
    return f"midwatch rejudge {own.run_id} --judge {other.judge}{size} -c CONFIG  # CONFIG: as it was for run {other.run_id}"


def _interval(found: Estimate, sign: str) -> str:
    if found.low is None or found.high is None:
        return "-"
    if found.low == found.high == 0 and sign:
        return "exactly 0"
    return f"[{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def _bar(start: float, end: float, least: float, most: float) -> str:
    """Where on the way from the least to the most rate reached a part lies; a rate is a single stroke."""
    scale = (WIDTH - 1) / (most - least) if most > least else 0.0
    left, right = (round((x - least) * scale) for x in sorted((start, end)))
    return " " * left + ("█" * max(1, right - left) if start != end else "│")


def _largest(part: Part) -> str:
    """The categories that make most of a part, with their share of it."""
    whole = part.whole.value
    named = sorted(part.categories.items(), key=lambda each: -abs(each[1].value))[:MOST]
    moved = [(name, m.value) for name, m in named if abs(m.value) >= 0.0005]
    return ", ".join(f"{name} {100 * v:+.1f}" + (f" ({v / whole:.0%})" if 0 < v / whole <= 1 else "") for name, v in moved)
