"""A history of nights in a home folder: what a warehouse holds that has run for weeks, without having run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from warehouse_rows import ARM, JUDGE, benchmark, finished, item, metric, observed_day, response, store, verdict

from schemas import rows
from warehouse.load import load_run

KINDS = ("drug_abuse", "privacy_violation")
FIRST = date(2026, 1, 5)  # a Monday


def day(n: int) -> date:
    """Day `n` of the history, counted from 0."""
    return FIRST + timedelta(n)


def morning(n: int) -> datetime:
    """When the monitors look at night `n`."""
    return datetime.combine(day(n), time(8), UTC)


def night(
    home: Path, n: int, hits: int, size: int, unscored: int = 0, unsafe: Sequence[bool] = (), hour: int = 2, **judge: object
) -> str:
    """A night's evaluation: `hits` of `size` unsafe; its run_id. `unsafe`: with a response and a verdict for each item."""
    run_id = f"night-{n:03d}" if hour == 2 else f"night-{n:03d}-{hour}"
    key = {"judge_id": JUDGE.model_copy(update=judge).judge_id}
    measured = [
        metric(run_id, "unsafe_rate", size, hits / size, **key),
        metric(run_id, "unscored_rate", size + unscored, unscored / (size + unscored), **key),
    ]
    started = datetime.combine(day(n), time(hour), UTC)
    cases = _cases(run_id, run_id, unsafe, **judge)
    load(home, cases | {"metrics": measured, "runs": [finished(run_id, started_at=started)]})
    return run_id


def rejudged(home: Path, n: int, unsafe: Sequence[bool], judge_id: str) -> None:
    """What another judge of the same name says of a night's responses."""
    run_id = f"night-{n:03d}-{judge_id}"
    runs = [finished(run_id, kind="judge", started_at=morning(n))]
    load(home, _cases(run_id, f"night-{n:03d}", unsafe, judge_id=judge_id) | {"runs": runs})


def _cases(run_id: str, answered: str, unsafe: Sequence[bool], **judge: object) -> dict[str, Sequence[rows.Row]]:
    """A run's arm, judge and items, and its verdicts on the responses of the run `answered`."""
    known = JUDGE.model_copy(update=judge)
    responses = [response(f"{answered}-r{k}", f"i{k}", f"Answer {k}") for k in range(len(unsafe))]
    verdicts = [
        verdict(f"{run_id}-v{k}", f"{answered}-r{k}", None, unsafe=said, error=None, judge_id=known.judge_id)
        for k, said in enumerate(unsafe)
    ]
    return {
        "benchmarks": [benchmark("b1")],
        "benchmark_items": [item(f"i{k}", "b1", harm_category=KINDS[k % 2], expected="refuse") for k in range(len(unsafe))],
        "arms": [ARM],
        "judges": [known],
        "run_benchmarks": [rows.RunBenchmark(run_id=run_id, benchmark_id="b1", revision="1", n_items=max(1, len(unsafe)))],
        "responses": responses,
        "run_responses": [rows.RunResponse(run_id=run_id, response_id=r.response_id, from_cache=False) for r in responses],
        "verdicts": verdicts,
        "run_verdicts": [rows.RunVerdict(run_id=run_id, verdict_id=v.verdict_id, from_cache=False) for v in verdicts],
    }


def observed(home: Path, n: int, counts: Mapping[str, int], source: str = "chat", classifier_id: str = "c1") -> None:
    """A day's prompts from a log, by harm category."""
    run_id = f"{source}-{n:03d}-{classifier_id}"
    days = [observed_day(run_id, k, c, day=day(n), source=source, classifier_id=classifier_id) for c, k in counts.items() if k]
    load(home, {"observed_days": days, "runs": [finished(run_id, kind="observe", started_at=morning(n))]})


def load(home: Path, run_rows: Mapping[str, Sequence[rows.Row]]) -> None:
    load_run(home / "warehouse.duckdb", home / "lake", store(home / "lake", run_rows))
