"""What flows ask the warehouse."""

from pathlib import Path
from typing import Any

import polars as pl

from warehouse.connect import snapshot_path
from warehouse.query import query


def asked(home: Path, sql: str, **parameters: Any) -> pl.DataFrame:
    """The result of one query on the published snapshot; `parameters` are the values of $name in it."""
    return pl.DataFrame(pl.from_arrow(query(snapshot_path(home / "warehouse.duckdb"), sql, parameters=parameters)))
