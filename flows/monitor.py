"""The monitors look at their series, alerts follow, and people are told."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow, task
from prefect.events import emit_event

from flows.asked import asked
from flows.explained import explained
from flows.nights import nights
from flows.publish import publish
from flows.steps import Context
from schemas.errors import MidwatchError
from schemas.monitors import AlertSpec, MonitorSpec
from schemas.rows import AlertEvent, AlertEventKind, Cause
from tasks import runs
from tasks.alerts import event, outcome
from tasks.assemble import Parts
from tasks.deliver import DeliveryError, Message, deliver, messages
from tasks.explain import cause_of
from tasks.lake import Lake
from tasks.monitor import Finding, Night, Rules, check, incomplete, unfinished
from tasks.report.explanation import alert_lines
from tasks.self_test import self_test

PATIENCE = timedelta(hours=1), timedelta(days=3)  # a run that did not finish is told of when it is between so old

_UNRESOLVED = "from alert_status where state <> 'resolved' order by raised_at, alert_id"
_WAITING = "from alert_status where state in ('open', 'acknowledged') order by raised_at, alert_id"

deliver_task = task(name="deliver", retries=2, retry_delay_seconds=[2, 10])(deliver)


@flow(name="monitor")
def monitor(
    specs: Sequence[MonitorSpec],
    alerts: AlertSpec,
    sentinels: Mapping[str, str],
    home: Path,
    now: datetime,
    night: Night | None = None,
) -> str:
    """The run_id of what the monitors found `now`, after the alerts that followed were stored and sent.

    `sentinels` has the run_id of the sentinel responses by monitor; `night`: they look at the end of it.
    """
    lake = Lake(root=home / "lake")
    asked = {"at": now.isoformat()} if night is None else {"night": night.name, "run": night.run_id}
    context = Context(lake, runs.begin(lake, "monitor", "monitor", asked), False, 0.0)
    shared = Rules.of(specs, alerts)
    findings = [f for s in specs for f in _findings(s, shared, sentinels.get(s.name), home, now)]
    findings += incomplete(night, now) if night else []
    findings += [unfinished(r.run_id, r.name, r.kind, r.started_at) for r in _abandoned(lake, now)]
    reasons = {s.name: _reason(s, f, home) for s in specs for f in findings if f.monitor == s.name and _is_explainable(f)}
    blamed = [_blamed(f, reasons.get(f.monitor)) for f in findings]
    told = {name: reason.text for name, reason in reasons.items()}
    return conclude(context, specs, blamed, told, alerts, home, now)


@flow(name="alert", flow_run_name="{kind}")
def act(
    alert_id: str,
    kind: AlertEventKind,
    home: Path,
    now: datetime,
    who: str,
    until: datetime | None,
    is_true: bool | None,
    note: str,
) -> str:
    """The run_id of what somebody did about an alert."""
    lake = Lake(root=home / "lake")
    context = Context(lake, runs.begin(lake, "monitor", kind, {"alert": alert_id, "at": now.isoformat()}), False, 0.0)
    happened = event(alert_id, context.started.run_id, kind, now, who, until, is_true, note or None)
    return publish(context, home, Parts([], [], [], [], [], events=[happened]))


def conclude(
    context: Context,
    specs: Sequence[MonitorSpec],
    findings: Sequence[Finding],
    explained: Mapping[str, str],
    alerts: AlertSpec,
    home: Path,
    now: datetime,
) -> str:
    """The run_id, after findings and the alerts that follow were stored, and people were told."""
    found = outcome(specs, findings, _alerts(home, _UNRESOLVED), explained, context.started.run_id, now)
    publish(context, home, Parts([], [], [], [], [], tests=found.tests, alerts=found.raised, events=found.events))
    for alert in found.raised:
        resource = {"prefect.resource.id": f"midwatch.alert.{alert.alert_id}", "prefect.resource.name": alert.title}
        emit_event("midwatch.alert.raised", resource=resource, payload={"cause": alert.cause, "monitor": alert.monitor})
    send(alerts, home, now)
    return context.started.run_id


def send(alerts: AlertSpec, home: Path, now: datetime) -> None:
    """Send what was not delivered yet, and note what came of it; what failed is tried again the next time."""
    standing = _alerts(home, _WAITING)
    waiting = [
        (name, message)
        for name in alerts.notify_env
        for message in messages([a for a in standing if name not in (a["delivered_to"] or ())])
    ]
    if not waiting:
        return
    lake = Lake(root=home / "lake")
    context = Context(lake, runs.begin(lake, "monitor", "deliver", {"at": now.isoformat()}), False, 0.0)
    happened = [e for name, message in waiting for e in _sent(message, name, context.started.run_id, now)]
    publish(context, home, Parts([], [], [], [], [], events=happened))


def _sent(message: Message, name: str, run_id: str, now: datetime) -> list[AlertEvent]:
    try:
        deliver_task(message, name)
    except DeliveryError as e:
        return [event(i, run_id, "failed", now, note=str(e)) for i in message.alert_ids]
    return [event(i, run_id, "delivered", now, note=name) for i in message.alert_ids]


def _findings(spec: MonitorSpec, shared: Rules, sentinel: str | None, home: Path, now: datetime) -> list[Finding]:
    rows = nights(home, spec, sentinel, now)
    return [*check(spec, rows, shared, now), self_test(spec, rows, shared)]


class _Reason(NamedTuple):
    """What a rate's change is made of, and the cause that this speaks for; None: it could not be told."""

    text: str
    cause: Cause | None


def _is_explainable(found: Finding) -> bool:
    return found.kind == "rate" and found.decision == "alert" and None not in (found.reference_run, found.last_run)


def _blamed(found: Finding, reason: _Reason | None) -> Finding:
    return found._replace(cause=reason.cause or found.cause) if reason is not None and _is_explainable(found) else found


def _reason(spec: MonitorSpec, found: Finding, home: Path) -> _Reason:
    """The change from the last reference night to the newest one, taken apart."""
    about = (str(found.reference_run), str(found.last_run)), spec.metric, spec.judge, [str(spec.benchmark)], [str(spec.arm)]
    try:
        (explanation,) = explained(home, *about)
    except MidwatchError as e:
        return _Reason(f"What it is made of could not be told: {e}", None)
    return _Reason(alert_lines(explanation), cause_of(explanation))


def _abandoned(lake: Lake, now: datetime) -> list[runs.Started]:
    least, most = PATIENCE
    left = runs.abandoned(lake, now - most, now - least)
    return [r for r in left if r.kind != "monitor"]  # which the next look makes up for


def _alerts(home: Path, sql: str) -> list[dict[str, Any]]:
    """Rows of the view alert_status, their details read."""
    return [row | {"details": json.loads(row["details"])} for row in asked(home, sql).to_dicts()]
