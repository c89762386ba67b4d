"""What Prometheus may scrape: a file of the text format, written anew after every night."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flows.asked import asked
from tasks.runs import Started

FILE = "midwatch.prom"

_RUN = """
select
    n_responses as responses, n_responses - n_from_cache as requests, n_errors as errors,
    n_unscored / nullif(n_verdicts, 0) as unscored_ratio
from latest_runs
where run_id = $run
"""
_ALERTS = (
    "select severity, count(*)::double as n from alert_status where state in ('open', 'acknowledged') group by all order by all"
)


class Measures(Collector):
    """Figures of a night and of its run; one that is not known is left out."""

    def __init__(self, home: Path, night: Started, run_id: str | None, missing: int) -> None:
        self._home, self._night, self._run_id, self._missing = home, night, run_id, missing

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a figure."""
        now = datetime.now(UTC)
        yield _gauge("last_night_timestamp_seconds", "When the last night ended", now.timestamp())
        yield _gauge("night_duration_seconds", "How long it took", (now - self._night.started_at).total_seconds())
        yield _gauge("night_missing_parts", "Parts of it that failed", self._missing)
        alerts = _gauge("alerts", "Alerts that are open or acknowledged", None, "severity")
        for severity, n in asked(self._home, _ALERTS).iter_rows():
            alerts.add_metric([severity], n)
        yield alerts
        for run in asked(self._home, _RUN, run=self._run_id).iter_rows(named=True):
            yield from (_gauge(f"run_{name}", f"{name} of the night's run", value) for name, value in run.items())


def _gauge(name: str, what: str, value: float | None, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"midwatch_{name}", what, value, labels or None)


def write_measures(home: Path, night: Started, run_id: str | None, missing: int) -> Path:
    """The file, for node_exporter's textfile collector."""
    registry = CollectorRegistry()
    registry.register(Measures(home, night, run_id, missing))
    write_to_textfile(str(home / FILE), registry)
    return home / FILE
