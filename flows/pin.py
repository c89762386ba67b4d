"""Which data a configuration means today, for midwatch.lock."""

from pathlib import Path

from prefect import flow

from flows.steps import ingest
from schemas.config import RunSpec
from tasks.ingest import Pin, locate
from tasks.lake import Lake
from tasks.pins import pin_of


@flow(name="pin")
def pin(spec: RunSpec, home: Path) -> dict[str, Pin]:
    """Ingest the configured benchmarks as they are now; what each of them is, by its id."""
    lake = Lake(root=home / "lake")
    sources = [locate(b, None) for b in spec.benchmarks]
    return {s.spec.id: pin_of(s, ingest(lake, s, None, spec.max_quarantined)) for s in sources}
