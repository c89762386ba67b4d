"""A night: frozen responses are judged again, an arm is asked twice, the run, the monitors, the report. What fails is told."""

import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefect import flow, runtime, tags
from prefect.artifacts import create_link_artifact

from flows.asked import asked
from flows.budget import planned
from flows.choices import LOCK, run_id_of
from flows.evaluate import evaluate
from flows.logs import logged
from flows.measures import write_measures
from flows.monitor import monitor
from flows.publish import publish
from flows.report import write_report
from flows.sentinel import sentinel
from flows.settings import Settings
from flows.steps import Context, part
from schemas.config import RunSpec, load
from schemas.errors import MidwatchError
from schemas.night import SentinelSpec
from tasks import runs
from tasks.assemble import Parts
from tasks.diary import Diary
from tasks.engines import engines
from tasks.ingest import Pin
from tasks.lake import Lake
from tasks.monitor import Night
from tasks.pins import read_lock
from warehouse.load import prepare

log = logging.getLogger("midwatch.night")

_MISSING = "select coalesce(environment->>'$.missing', '{}') as missing from runs where run_id = $run"


@flow(name="nightly", flow_run_name="{config.stem}")
def nightly(config: Path, home: Path) -> str:
    """The run_id of tonight's record: its parts, what each brought or why it is missing, and what was planned.

    A night that was killed goes on with the parts that are not done. MidwatchError where another one is running.
    """
    with _alone(home), tags(*runtime.flow_run.tags):
        spec, lake = load(config), Lake(root=home / "lake")
        record = {"spec": spec.model_dump(mode="json"), "night": spec.night.model_dump(mode="json")}
        context = Context(lake, runs.begin(lake, "night", spec.name, record), False, spec.max_quarantined)
        with logged(home, context.started.run_id), engines(home / "logs"):
            return _night(context, spec, home, read_lock(config.parent / LOCK))


def _night(context: Context, spec: RunSpec, home: Path, pins: Mapping[str, Pin]) -> str:
    diary = Diary(context.lake, context.started)
    prepare(home / "warehouse.duckdb")  # people are told also of a first night that brings nothing
    for s in spec.night.sentinels:
        for judge in s.judges:
            diary.part(f"sentinel {judge}", partial(_sentinel, s, judge, spec, home))
    if spec.night.repeat:
        twice = _limited(spec, spec.night.repeat)
        diary.part("repeat", lambda: evaluate(twice, home, pins, fresh=True, kind="repeat", is_partial=True))
    plan, run_id = None, None
    if spec.night.budget.is_limited:
        plan = diary.part("plan", lambda: planned(spec, home, pins).record)
    if plan or not spec.night.budget.is_limited:  # what is not planned could cost anything
        tonight = spec.model_copy(update={"share": plan["share"] if plan else spec.share})
        run_id = diary.part("run", lambda: evaluate(tonight, home, pins, is_partial=True))
    missing = diary.missing | (_missing_in(home, run_id) if run_id else {})
    this = Night(spec.name, run_id, missing)
    diary.part("monitors", lambda: monitor(spec.monitors, spec.alerts, _frozen(spec, home), home, datetime.now(UTC), this))
    if why := diary.missing.get("monitors"):
        raise MidwatchError(f"the monitors could not look, so the night is not over: {why}")
    publish(context, home, Parts([], [], [], [], [], facts={"night": {"parts": diary.parts, "missing": missing, "plan": plan}}))
    if run_id:
        with part({}, "report"):  # midwatch report makes it at any time
            _report(home, run_id)
    write_measures(home, context.started, run_id, len(missing))
    return context.started.run_id


def _report(home: Path, run_id: str) -> None:
    path = write_report(home, run_id, home / "reports" / f"{run_id}.html")
    create_link_artifact(key="morning-report", link=path.as_uri(), link_text=f"Morning report of run {run_id}")
    log.info("report: %s", path)


def _limited(spec: RunSpec, limit: int) -> RunSpec:
    benchmarks = tuple(b.model_copy(update={"limit": min(limit, b.limit or limit)}) for b in spec.benchmarks)
    return spec.model_copy(update={"benchmarks": benchmarks, "name": f"{spec.name}-repeat"})


def _sentinel(wanted: SentinelSpec, judge: str, spec: RunSpec, home: Path) -> str:
    return sentinel(run_id_of(_settings(home), wanted.run), judge, spec, home, wanted.size)[0]


def _frozen(spec: RunSpec, home: Path) -> dict[str, str]:
    return {m.name: run_id_of(_settings(home), m.run) for m in spec.monitors if m.run is not None}


def _settings(home: Path) -> Settings:
    settings = Settings()
    settings.home = home
    return settings


def _missing_in(home: Path, run_id: str) -> dict[str, str]:
    return dict(json.loads(asked(home, _MISSING, run=run_id)["missing"][0]))


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Within this context no other night runs in this home; the lock goes with the process."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "night.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise MidwatchError(f"{home}: a night is running here ({file.read().strip()}); wait until it is done") from None
        file.truncate(0)
        file.write(f"since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield
