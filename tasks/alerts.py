"""From what monitors find to alerts: raised once, seen again, resolved by themselves, and never lost on the way to people."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from schemas.ids import digest
from schemas.monitors import MonitorSpec
from schemas.rows import Alert, AlertEvent, AlertEventKind, DriftTest
from tasks.monitor import Finding, Moved
from tasks.report.alert import body, title

SERIES = ("rate", "mix", "flips", "unscored", "missing")  # kinds of findings of the monitors that are declared


class Outcome(NamedTuple):
    """What a look at the monitors brings: every decision, new alerts, and what happens to those that were there."""

    tests: list[DriftTest]
    raised: list[Alert]
    events: list[AlertEvent]


def outcome(
    specs: Sequence[MonitorSpec],
    findings: Sequence[Finding],
    unresolved: Sequence[Mapping[str, Any]],
    explained: Mapping[str, str],
    run_id: str,
    now: datetime,
) -> Outcome:
    """What follows from `findings`, where the alerts `unresolved` (rows of the view alert_status) are not resolved yet.

    An alert stands for one monitor, kind of finding, cause and subject. `explained` says of a rate's monitor what its change is
    made of, and of a subject what it is.
    """
    severities = {spec.name: spec.severity for spec in specs}
    standing = {
        (a["monitor"], a["details"]["kind"], a["cause"], a["details"].get("subject")): a["alert_id"] for a in unresolved
    }
    alarms = {(f.monitor, f.kind, f.cause, f.subject): f for f in findings if f.decision == "alert"}
    decided = {(f.monitor, f.kind) for f in findings if f.decision in ("ok", "watch", "alert")}
    raised = [
        _alert(
            f, severities.get(f.monitor, "page"), explained.get(f.subject or f.monitor) if _has_reason(f) else None, run_id, now
        )
        for key, f in alarms.items()
        if key not in standing
    ]
    again = [
        event(standing[k], run_id, "seen again", now, note=f.reason) for k, f in alarms.items() if k in standing and f.is_again
    ]
    over = [
        event(i, run_id, "resolved", now, note=_over(specs, m, kind))
        for (m, kind, c, subject), i in standing.items()
        if (m, kind, c, subject) not in alarms and ((m, kind) in decided or _over(specs, m, kind))
    ]
    return Outcome([_test(f, run_id, now) for f in findings], raised, [*again, *over])


def _over(specs: Sequence[MonitorSpec], monitor: str, kind: str) -> str | None:
    """Why nothing is said of what an alert was about, where that means that it is over; None: it may not be."""
    if kind == "unfinished":
        return "it was run again, or is long ago"
    return "it is no longer watched" if specs and kind in SERIES and monitor not in {s.name for s in specs} else None


def event(
    alert_id: str,
    run_id: str,
    kind: AlertEventKind,
    at: datetime,
    who: str | None = None,
    until: datetime | None = None,
    is_true: bool | None = None,
    note: str | None = None,
) -> AlertEvent:
    """Something that happens to an alert."""
    event_id = digest("alert event", alert_id, run_id, kind, at.isoformat(), note)
    return AlertEvent(
        event_id=event_id,
        alert_id=alert_id,
        run_id=run_id,
        happened_at=at,
        kind=kind,
        who=who,
        until=until,
        is_true=is_true,
        note=note,
    )


def _alert(found: Finding, severity: str, explained: str | None, run_id: str, now: datetime) -> Alert:
    if found.cause is None:
        raise ValueError(f"{found.monitor}: an alert without a cause")
    alert_id = digest("alert", found.monitor, found.kind, found.cause, run_id, *_subject(found))
    return Alert(
        alert_id=alert_id,
        run_id=run_id,
        monitor=found.monitor,
        cause=found.cause,
        severity=severity,
        raised_at=now,
        since=min((m.since for m in found.moved), default=found.night),
        title=title(found),
        body=body(found, explained, alert_id),
        details={"kind": found.kind, "explained": explained, **_numbers(found), **_more(found)},
    )


def _test(found: Finding, run_id: str, now: datetime) -> DriftTest:
    numbers = _numbers(found)
    nights = [str(d) for d in found.reference_nights]
    return DriftTest(
        test_id=digest("drift test", run_id, found.monitor, found.kind, *_subject(found)),
        run_id=run_id,
        monitor=found.monitor,
        kind=found.kind,
        checked_at=now,
        night=found.night,
        reference={"nights": len(nights), "from": nights[0], "to": nights[-1], "phi": found.phi} if nights else None,
        current={"moved": numbers["moved"]} if found.moved else None,
        statistic=found.evidence,
        threshold=found.needed,
        effect=found.moved[0].ratio if found.moved else None,
        decision=found.decision,
        reason=found.reason,
        details={"cause": found.cause, "versions": list(found.versions), "visible": dict(found.visible), **_more(found)},
    )


def _has_reason(found: Finding) -> bool:
    return found.kind == "rate" or found.subject is not None


def _subject(found: Finding) -> list[str]:
    return [] if found.subject is None else [found.subject]


def _more(found: Finding) -> dict[str, Any]:
    """What a finding of one of several subjects has beside the others."""
    return ({} if found.subject is None else {"subject": found.subject}) | dict(found.details)


def _numbers(found: Finding) -> dict[str, Any]:
    return {
        "night": str(found.night) if found.night else None,
        "run": found.last_run,
        "reference_run": found.reference_run,
        "evidence": found.evidence,
        "threshold": found.needed,
        "phi": found.phi,
        "versions": list(found.versions),
        "moved": [_plain(m) for m in found.moved],
    }


def _plain(moved: Moved) -> dict[str, Any]:
    return moved._asdict() | {"since": str(moved.since)}
