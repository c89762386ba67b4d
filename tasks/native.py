"""A benchmark's own table, from a local file or from the hub, with every plain value as text."""

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors as cs

from schemas.errors import MidwatchError


class IngestError(MidwatchError):
    """A benchmark can't be read: the source, what was found there, and what to do."""


def read_file(path: Path) -> pl.DataFrame:
    """The rows of a CSV, JSONL or Parquet file (also .gz), in file order; IngestError when it is none of these or empty."""
    kind = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        match kind:
            case ".csv":
                frame = pl.read_csv(data, infer_schema=False) if data.strip() else pl.DataFrame()
            case ".jsonl":
                frame = _jsonl(path, data)
            case ".parquet":
                frame = pl.read_parquet(data)
            case _:
                raise IngestError(f"{path}: {kind or 'no'} extension; give a .csv, .jsonl or .parquet file (also .gz)")
    except (OSError, EOFError, zlib.error, UnicodeError, pl.exceptions.PolarsError) as e:
        raise IngestError(f"{path}: cannot be read as {kind[1:] or 'a table'} in UTF-8: {_first_line(e)}") from e
    if frame.is_empty():
        raise IngestError(f"{path}: the file has no rows")
    return as_text(frame)


def read_hub(dataset: str, commit: str) -> pl.DataFrame:
    """The rows of the only split of a hub data set (or of a local folder in its form) at a commit."""
    import datasets

    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(dataset, revision=None if Path(dataset).is_dir() else commit)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        raise IngestError(f"{dataset}: the data set cannot be loaded: {_first_line(e)}; {_LOCAL}") from e
    if len(splits) != 1:
        raise IngestError(f"{dataset}: expected one split, found {', '.join(splits)}; {_LOCAL}")
    (split,) = splits.values()
    return as_text(pl.DataFrame(split.with_format("arrow")[:]))


def resolve_commit(dataset: str, revision: str | None) -> str:
    """The commit that `revision` (None: the default branch) of a hub data set is now; IngestError without the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its HTTP client, whose errors are no OSError

    try:
        commit = HfApi().dataset_info(dataset, revision=revision, timeout=30).sha
    except (OSError, httpx.HTTPError, OfflineModeIsEnabled) as e:
        raise IngestError(f"{dataset}: the hub does not say which revision is current: {_first_line(e)}; {_LOCAL}") from e
    if commit is None:
        raise IngestError(f"{dataset}: the hub names no commit; {_LOCAL}")
    return commit


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes; IngestError when there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise IngestError(f"{path}: {e.strerror or e}") from e


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Every number, truth value and category as text, so that a CSV and a Parquet file of the same table are equal."""
    plain = cs.numeric() | cs.boolean() | cs.by_dtype(pl.Categorical, pl.Enum, pl.Null)
    return frame.with_columns(plain.cast(pl.String))


def _jsonl(path: Path, data: bytes) -> pl.DataFrame:
    rows: list[Any] = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), start=1):  # splitlines also ends one at U+2028
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as e:  # not JSON, a number of thousands of digits, or endlessly nested
            raise IngestError(f"{path}: line {number} is not JSON: {e}") from e
        if row is not None and not isinstance(row, dict):
            raise IngestError(f"{path}: line {number} is {type(row).__name__}, expected an object")
        rows += [row] if row is not None else []
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


_LOCAL = "without the hub, give a local file: --benchmark ID=PATH"
