"""An alert in words that fit a phone's screen: what moved, how sure it is, why, and what to look at next."""

from math import exp

from tasks.monitor import Finding, Moved

WHERE_TO_LOOK = {
    "rate": "midwatch explain {before} {after}  (model, judge or mix), midwatch compare {before} {after}  (the cases)",
    "mix": "midwatch drift mix {source}  (every category, and what so many prompts could have shown)",
    "flips": "midwatch sql \"from repeated_verdicts where flipped and day >= '{since}' limit 20\"",
    "unscored": 'midwatch sql "select error, count(*) from verdict_details where error is not null group by 1 order by 2 desc"',
    "missing": "midwatch runs; midwatch doctor",
    "unfinished": "midwatch runs; the same command goes on where it stopped",
    "incomplete": "midwatch doctor; midwatch night  (what is done is not done again)",
    "emerging": "midwatch drift new {monitor} --model MODEL  (the clusters, with example prompts)",
    "self_test": "midwatch monitor --json  (what the self-test saw)",
}
WHAT = {
    "rate": "{monitor}: {series}",
    "mix": "{monitor}: {series} prompts",
    "flips": "{monitor}: changed verdicts, {series}",
    "unscored": "{monitor}: responses without a verdict",
}


def title(found: Finding) -> str:
    """One line: the cause, what moved, from what to what."""
    if not found.moved:
        return f"{found.cause}: {found.monitor}: {found.reason}"
    first = found.moved[0]
    return f"{found.cause}: {_what(found, first)} {_percent(first.before)} -> {_percent(first.share)} since {first.since}"


def body(found: Finding, explained: str | None, alert_id: str) -> str:
    """The rest: numbers with intervals, evidence, versions, an explanation where there is one, and the next commands."""
    lines = [_sentence(found, m) for m in found.moved]
    lines += [_certainty(found)] if found.evidence is not None and found.needed is not None else []
    lines += [f"Measured otherwise than in the reference: {'; '.join(found.versions)}"] if found.versions else []
    lines += [explained] if explained else []
    lines += [f"Look at: {_next(found)}", f"Then: midwatch alerts ack {alert_id[:8]}; and close it, with what you found"]
    return "\n".join(lines)


def _what(found: Finding, moved: Moved) -> str:
    return WHAT.get(found.kind, "{monitor}: {series}").format(monitor=found.monitor, series=moved.series)


def _sentence(found: Finding, m: Moved) -> str:
    ratio = f", {m.ratio:.2g} times as much" if m.ratio else ""
    nights = "1 night" if m.nights == 1 else f"{m.nights} nights"
    before = f"{_percent(m.before)} ({m.hits_before:,.0f} of {m.size_before:,.0f} in the reference)"
    interval = f"[{100 * m.low:.1f}, {100 * m.high:.1f}]"
    now = f"{_percent(m.share)} {interval} ({m.hits:,.0f} of {m.size:,.0f} in {nights} since {m.since})"
    whole = "these prompts" if found.kind == "emerging" else "the evidence"
    part = f"; {100 * m.part:.0f}% of {whole}" if len(found.moved) > 1 else ""
    return f"{m.series}: {before} -> {now}{ratio}{part}"


def _certainty(found: Finding) -> str:
    evidence, needed = found.evidence or 0.0, found.needed or 0.0
    spread = f"; nights vary {found.phi:.1f} times as much as sampling alone" if found.phi and found.phi > 1.05 else ""
    asked = f"{_large(needed)} needed for at most {found.budget or 0:g} false alarms a month"
    return f"Evidence {_large(evidence)} to 1, of {asked}{spread}"


def _large(log: float) -> str:
    return f"{exp(log):,.0f}" if log < 14 else f"10^{log / 2.302585:.0f}"


def _next(found: Finding) -> str:
    since = found.moved[0].since if found.moved else found.night
    before, after = found.reference_run or "RUN", found.last_run or "RUN"
    return WHERE_TO_LOOK[found.kind].format(
        monitor=found.monitor, before=before, after=after, since=since, source=found.details.get("source", "SOURCE")
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
