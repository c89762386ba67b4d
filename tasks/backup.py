"""A backup: a plain folder of files and one index of them, which any tool can copy, and `restore` makes a home of.

Files of the lake lie under their own names, so that each is copied once. All others lie under `others/`, named by their
content, so that nothing that the index of an earlier backup names is overwritten before there is a new index.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError

from schemas.errors import MidwatchError
from tasks.forgotten import unfinished
from tasks.gc import withdrawn
from tasks.hold import owning, using
from tasks.lake import Lake, write_atomically
from tasks.runs import code_version, manifest

INDEX, LAKE, OTHERS = "midwatch-backup.json", "lake", "others"
SNAPSHOT, WAREHOUSE, KEY = "warehouse.snapshot.duckdb", "warehouse.duckdb", "observed.key"
BESIDE = "beside"  # what was included from outside the home folder
_WHOLE = ("benchmarks", "embeddings")  # of the lake, whether runs name it or not: to get it again costs
_OWN = (INDEX, LAKE, OTHERS, ".lock")
_PART = ".part-"
_CHUNK = 1 << 20
_SHOWN = 5  # damaged files that an error names


class BackupError(MidwatchError):
    """The folder is no place for this backup, or what is in it is not what was written."""


def _below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError("not a path below the folder")
    return path


Below = Annotated[str, AfterValidator(_below)]


class Kept(BaseModel):
    """A file of the home folder, and its place in the backup; `size` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Below
    place: Below
    sha256: str
    size: int


class Index(BaseModel):
    """What a backup consists of; it is written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    made_at: AwareDatetime
    code_version: str
    runs: tuple[str, ...]
    files: tuple[Kept, ...]


class Made(NamedTuple):
    """A backup that was made: what it holds, how many files and bytes were not there yet, and how many were pruned."""

    contents: Index
    copied: int
    copied_bytes: int
    pruned: int


def backup(home: Path, folder: Path, beside: Sequence[Path] = (), *, with_key: bool = False, prune: bool = False) -> Made:
    """Make `folder` a backup of the finished runs in `home`, with `beside` as files from elsewhere.

    Consistent while runs and loads go on: what they finish later is not in it. `prune`: what `home` no longer has goes from
    the backup as well; BackupError where that would be runs and it was not asked for. BackupError names a damaged file of the
    lake, and then the backup before stays what it was.
    """
    lake = Lake(root=home / "lake")
    _check_place(home, folder)
    with using(lake), owning(Lake(root=folder)):
        copies = _Copies(folder)
        files = list(_files(home, lake, copies, beside, with_key))
        runs = sorted(PurePosixPath(f.path).parts[2] for f in files if f.path.endswith("/manifest.json"))
        if (lost := sorted(copies.earlier - set(runs))) and not prune:
            raise BackupError(
                f"{folder} holds {len(lost)} runs that {home} does not have (such as {lost[0]}): choose another folder; or, if "
                "they were removed on purpose, --prune removes them from the backup too"
            )
        index = Index(format=1, made_at=datetime.now(UTC), code_version=code_version(), runs=tuple(runs), files=tuple(files))
        copies.sync()
        write_atomically(folder / INDEX, index.model_dump_json(indent=1).encode())
        pruned = _prune(folder, index, everything=prune)
    return Made(index, copies.n, copies.size, pruned)


def check(folder: Path) -> Index:
    """The index of a backup whose files are all intact; BackupError names those that are not."""
    index = _read(folder)
    damaged = [f.place for f in index.files if not _is_intact(folder / f.place, f)]
    if damaged:
        shown = ", ".join(damaged[:_SHOWN]) + (" ..." if len(damaged) > _SHOWN else "")
        raise BackupError(
            f"{folder}: {len(damaged)} of {len(index.files)} files are missing or not those that were written: {shown}; "
            "take another copy of the backup"
        )
    return index


def restore(folder: Path, home: Path) -> Index:
    """The index of the backup, after `home` was made of it; BackupError where that has something in it, or a file is damaged.

    Until all files are there and verified, nothing is at `home`.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BackupError(f"{home} is not empty: restore into a new folder, then point --home to it")
    index = check(folder)
    making = home.absolute().with_name(f".{home.absolute().name}.restoring")
    try:
        shutil.rmtree(making, ignore_errors=True)  # what a killed restore left
        for file in index.files:
            for path in {file.path, WAREHOUSE if file.path == SNAPSHOT else file.path}:
                _restored(folder / file.place, making / path, file)
        making.mkdir(parents=True, exist_ok=True)
        making.replace(home.absolute())
    except OSError as e:
        raise BackupError(f"cannot write {home}: {e.strerror or e}; free space or choose another folder") from e
    return index


class _Copies:
    """Files on their way into a backup: how many and how many bytes were not there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._touched: set[Path] = set()
        self.n = self.size = 0
        for part in folder.rglob(f"{_PART}*"):
            part.unlink()  # what a killed backup left
        index = _read(folder) if (folder / INDEX).exists() else None
        self.earlier = frozenset(index.runs if index else ())

    def of_lake(self, home: Path, path: str) -> Kept:
        """A file that is named by its content, copied unless it is there; BackupError where its content is another."""
        source, size = home / path, (home / path).stat().st_size
        kept = Kept(path=path, place=path, sha256=PurePosixPath(path).stem, size=size)
        there = self._folder / path
        if not there.exists() or there.stat().st_size != size:
            self._copy(source, path, kept.sha256)
        return kept

    def of_other(self, source: Path, path: str) -> Kept:
        """Any other file as it is now, under the digest of its content."""
        sha256, size = self._copy(source, None, None)
        return Kept(path=path, place=f"{OTHERS}/{sha256}", sha256=sha256, size=size)

    def sync(self) -> None:
        """Return when the disk has the names of all files."""
        for folder in self._touched:
            fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _copy(self, source: Path, place: str | None, expected: str | None) -> tuple[str, int]:
        part = self._folder / f"{_PART}{secrets.token_hex(4)}"
        try:
            try:
                sha256, size = _copied(source, part)
                if expected not in (None, sha256):
                    raise BackupError(
                        f"{source}: not the file that was written: restore it from an earlier backup; the runs that name it "
                        "can't be backed up"
                    )
                target = self._folder / (place or f"{OTHERS}/{sha256}")
                if place is not None or not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    part.replace(target)
                    self._touched.add(target.parent)
                    self.n, self.size = self.n + 1, self.size + size
            finally:
                part.unlink(missing_ok=True)
        except OSError as e:
            raise BackupError(f"cannot copy {source} to {self._folder}: {e.strerror or e}") from e
        return sha256, size


def _check_place(home: Path, folder: Path) -> None:
    if folder.resolve().is_relative_to(home.resolve()) or home.resolve().is_relative_to(folder.resolve()):
        raise BackupError(f"{folder}: a backup lies apart from the home folder {home}")
    if not (home / "lake").is_dir():
        raise BackupError(f"{home}: there is no lake in it, so nothing to back up; say which folder with --home")
    if pending := withdrawn(Lake(root=home / "lake")):
        raise BackupError(f"the removal of run {pending[0]} was interrupted: midwatch gc --yes finishes it; then back up")
    if unfinished(Lake(root=home / "lake")):
        raise BackupError("a request to forget was interrupted: midwatch forget --yes completes it; then back up")
    strange = [p.name for p in folder.glob("*") if p.name not in _OWN and not p.name.startswith(_PART)]
    if strange and not (folder / INDEX).exists():
        raise BackupError(f"{folder}: holds other files ({strange[0]}) and no backup; choose an empty folder")


def _files(home: Path, lake: Lake, copies: _Copies, beside: Sequence[Path], with_key: bool) -> Iterator[Kept]:
    """Every file of the backup, copied in the order that makes it consistent.

    A run is marked as loaded after it is in the snapshot, and is in the snapshot after its manifest is in the lake: so marks
    come first and manifests last, and what is missing in the snapshot is loaded by the next run.
    """
    marks = [path for path in sorted((lake.root / "runs").glob("*/loaded")) if (path.parent / "manifest.json").exists()]
    yield from (_other(home, copies, path) for path in marks)
    if (home / SNAPSHOT).exists():
        yield _other(home, copies, home / SNAPSHOT)
    finished = [path.parent for path in sorted((lake.root / "runs").glob("*/manifest.json"))]
    named = {a["path"] for run in finished for files in manifest(lake, run.name)["artifacts"].values() for a in files}
    for run in finished:
        yield from (_other(home, copies, run / name) for name in ("started.json", "manifest.json"))
    shared = {p.relative_to(lake.root).as_posix() for room in _WHOLE for p in (lake.root / room).rglob("*.parquet")}
    yield from (copies.of_lake(home, f"{LAKE}/{path}") for path in sorted(named | shared))
    yield from (_other(home, copies, path) for path in _others(home, with_key))
    yield from (copies.of_other(path, f"{BESIDE}/{path.name}") for path in beside)


def _others(home: Path, with_key: bool) -> Iterable[Path]:
    patterns = ("lake/forgotten/*.json", "quarantine/*.jsonl", "reports/*", "*.safetensors", *([KEY] if with_key else []))
    return [path for pattern in patterns for path in sorted(home.glob(pattern)) if path.is_file() and path.name[0] != "."]


def _other(home: Path, copies: _Copies, path: Path) -> Kept:
    return copies.of_other(path, path.relative_to(home).as_posix())


def _prune(folder: Path, index: Index, *, everything: bool) -> int:
    """How many files went that the index does not name: what was replaced, and with `everything` also files of the lake."""
    wanted = {folder / f.place for f in index.files}
    rooms = (LAKE, OTHERS) if everything else (OTHERS,)
    unwanted = [p for room in rooms for p in (folder / room).rglob("*") if p.is_file() and p not in wanted]
    for path in unwanted:
        path.unlink()
    return len(unwanted)


def _read(folder: Path) -> Index:
    path = folder / INDEX
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BackupError(f"{folder}: no backup, or one that was never finished: it has no {INDEX}") from None
    except ValidationError as e:
        raise BackupError(f"{path}: not the index of a backup ({e.error_count()} errors); take another copy of it") from e


def _is_intact(path: Path, file: Kept) -> bool:
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def _restored(source: Path, target: Path, file: Kept) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if _copied(source, target)[0] != file.sha256:
        raise BackupError(f"{source}: not what was written: it changed while it was read; restore again")
    if file.path == KEY:
        target.chmod(0o600)


def _copied(source: Path, target: Path) -> tuple[str, int]:
    """The SHA-256 and the size of what was copied; the file open at first is read to its end, whatever takes its name."""
    sha256, size = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("xb") as written:
        while chunk := read.read(_CHUNK):
            sha256.update(chunk)
            written.write(chunk)
            size += len(chunk)
        written.flush()
        os.fsync(written.fileno())
    return sha256.hexdigest(), size
