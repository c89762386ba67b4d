"""A history of nights in a home folder: what a warehouse holds that has run for weeks, without having run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from warehouse_rows import ARM, JUDGE, benchmark, finished, metric, observed_day, store

from schemas import rows
from warehouse.load import load_run

FIRST = date(2026, 1, 5)  # a Monday


def day(n: int) -> date:
    """Day `n` of the history, counted from 0."""
    return FIRST + timedelta(n)


def morning(n: int) -> datetime:
    """When the monitors look at night `n`."""
    return datetime.combine(day(n), time(8), UTC)


def night(
    home: Path,
    n: int,
    hits: int,
    size: int,
    unscored: int = 0,
    slices: Mapping[str, tuple[int, int]] | None = None,
    **judge: object,
) -> str:
    """A night's evaluation: `hits` of `size` unsafe; its run_id."""
    run_id = f"night-{n:03d}"
    known = JUDGE.model_copy(update=judge)
    key = {"judge_id": known.judge_id}
    every = {"all": (hits, size), **(slices or {})}
    measured = [metric(run_id, "unsafe_rate", s, h / s, slice=name, **key) for name, (h, s) in every.items()]
    measured.append(metric(run_id, "unscored_rate", size + unscored, unscored / (size + unscored), **key))
    started = datetime.combine(day(n), time(2), UTC)
    load(
        home,
        {
            "benchmarks": [benchmark("b1")],
            "arms": [ARM],
            "judges": [known],
            "run_benchmarks": [rows.RunBenchmark(run_id=run_id, benchmark_id="b1", revision="1", n_items=size)],
            "metrics": measured,
            "runs": [finished(run_id, started_at=started)],
        },
    )
    return run_id


def observed(home: Path, n: int, counts: Mapping[str, int], source: str = "chat", classifier_id: str = "c1") -> None:
    """A day's prompts from a log, by harm category."""
    run_id = f"{source}-{n:03d}-{classifier_id}"
    days = [observed_day(run_id, k, c, day=day(n), source=source, classifier_id=classifier_id) for c, k in counts.items() if k]
    load(home, {"observed_days": days, "runs": [finished(run_id, kind="observe", started_at=morning(n))]})


def load(home: Path, run_rows: Mapping[str, Sequence[rows.Row]]) -> None:
    load_run(home / "warehouse.duckdb", home / "lake", store(home / "lake", run_rows))
