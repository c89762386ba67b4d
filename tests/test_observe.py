import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import MidwatchError
from schemas.rows import NONE, UNKNOWN, ObservedDay, ObservedPrompt
from tasks import observe
from tasks.importers.prompts import FUTURE, NOT_A_ROW, NOT_A_WEIGHT, Columns, Reading, harm_of
from tasks.importers.responses import ImportRefused
from tasks.key import key_of
from tasks.lake import ArtifactMissing, Lake
from tasks.observe import Arrival, alone, arrive, fresh, uncategorised
from tasks.observed import HASHES, PROMPTS, Categoriser, Taken, files_of, take_in
from tasks.prompt_categories import Categorised
from tasks.runs import begin, finish

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = datetime(2026, 1, 31, 12, tzinfo=UTC)
FULL = Columns("time", "text", "harm", "weight")
GIVEN = Categoriser("given")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(root=tmp_path / "home/lake")


def row(hours: float = 0, text: str = "Hi", harm: str = NONE, weight: Any = 1) -> dict[str, Any]:
    return {"time": (DAY + timedelta(hours=hours)).isoformat(), "text": text, "harm": harm, "weight": weight}


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def reading(source: str = "chat", columns: Columns = FULL, **given: Any) -> Reading:
    harm = harm_of(None) if columns.category else None
    return Reading(source=source, columns=columns, key=b"k" * 32, now=NOW, harm=harm, **given)


def imported(
    lake: Lake,
    *files: Path,
    source: str = "chat",
    hashed: bool = False,
    categoriser: Categoriser = GIVEN,
    finished: bool = True,
) -> tuple[Arrival, Taken]:
    """The import of files into the lake, as a run of its own."""
    columns = FULL if categoriser.categorise is None else FULL._replace(category=None)
    read = reading(source, columns, is_hashed=hashed)
    with alone(lake, source) as folder:
        arrival = arrive(lake, folder, files, read, 0.5)
        started = begin(lake, "observe", source, {"files": [str(f) for f in files], "n": len(list(lake.root.rglob("*")))})
        taken = take_in(lake, fresh(lake, folder, source, arrival), source, categoriser, started.run_id, not hashed)
        if finished:
            finish(lake, started, {HASHES if hashed else PROMPTS: taken.prompts, "observed_days": [taken.days]}, {})
    return arrival, taken


def prompts(lake: Lake, taken: Taken) -> list[ObservedPrompt]:
    return [p for f in taken.prompts for p in ObservedPrompt.from_table(lake.read(f))]


def days(lake: Lake, taken: Taken) -> list[tuple[Any, ...]]:
    return [(str(d.day), d.harm_category, d.n, d.weight) for d in ObservedDay.from_table(lake.read(taken.days))]


def test_prompts_are_sorted_by_time_and_cut_by_month_and_counted_by_day(lake, tmp_path):
    rows = [row(13, "b", weight=2.5), row(0, "a"), row(11.9, "c", "self_harm"), row(0.5, "d", UNKNOWN, 0)]
    _, taken = imported(lake, written(tmp_path / "a.jsonl", rows))
    assert [p.text for p in prompts(lake, taken)] == ["a", "d", "c", "b"]
    assert [Path(f.path).parts[:3] for f in taken.prompts] == [("observed", "chat", m) for m in ("2026-01", "2026-02")]
    assert days(lake, taken) == [
        ("2026-01-31", NONE, 1, 1.0),
        ("2026-01-31", "self_harm", 1, 1.0),
        ("2026-01-31", UNKNOWN, 1, 0.0),
        ("2026-02-01", NONE, 1, 2.5),
    ]


def test_the_same_file_again_brings_nothing_and_an_overlapping_one_what_is_new(lake, tmp_path):
    rows = [row(n / 10, f"prompt {n}") for n in range(30)]
    first, _ = written(tmp_path / "a.jsonl", rows[:20]), imported(lake, written(tmp_path / "a.jsonl", rows[:20]))
    assert imported(lake, first)[1].rows == 0
    random.Random(0).shuffle(shuffled := rows[10:])
    arrival, taken = imported(lake, written(tmp_path / "b.jsonl", shuffled))
    assert (arrival.rows, taken.rows) == (20, 10)
    assert [p.text for p in prompts(lake, taken)] == [f"prompt {n}" for n in range(20, 30)]
    assert imported(lake, first, source="web")[1].rows == 20


def test_equal_rows_of_a_file_are_several_prompts_and_the_same_ones_in_another(lake, tmp_path):
    twice = written(tmp_path / "a.jsonl", [row(), row(1), row()])
    thrice = written(tmp_path / "b.jsonl", [row(), row(), row(), row(2)])
    _, one = imported(lake, twice)
    _, two = imported(lake, thrice)
    assert (one.rows, two.rows) == (3, 2) and len({p.prompt_id for t in (one, two) for p in prompts(lake, t)}) == 5
    _, together = imported(lake, twice, thrice, source="both")
    assert together.rows == 5


ROWS = st.lists(
    st.builds(row, st.integers(0, 800), st.sampled_from("ab"), st.sampled_from([NONE, "self_harm"])), min_size=1, max_size=8
)


@settings(max_examples=6, deadline=None)
@given(parts=st.lists(ROWS, min_size=1, max_size=3))
def test_what_is_stored_does_not_depend_on_how_exports_overlap(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("home")
    lake = Lake(root=folder / "lake")
    taken = [imported(lake, written(folder / f"{n}.jsonl", part))[1] for n, part in enumerate(parts)]
    found = Counter((p.observed_at.isoformat(), p.text) for t in taken for p in prompts(lake, t))
    each = [Counter((r["time"], r["text"]) for r in part) for part in parts]
    assert found == {key: max(counts[key] for counts in each) for counts in each for key in counts}
    assert sum(n for t in taken for _, _, n, _ in days(lake, t)) == sum(found.values())


def test_a_run_that_never_finished_does_not_make_its_prompts_known(lake, tmp_path):
    file = written(tmp_path / "a.jsonl", [row(n) for n in range(3)])
    imported(lake, file, finished=False)
    assert imported(lake, file)[1].rows == 3


def test_hash_only_keeps_no_text_and_knows_its_prompts_all_the_same(lake, tmp_path):
    secret = "my very own words"
    file = written(tmp_path / "a.jsonl", [row(text=secret), row(1, secret)])
    _, taken = imported(lake, file, hashed=True)
    assert [p.text for p in prompts(lake, taken)] == [None, None]
    assert imported(lake, file)[1].rows == 0
    kept = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p != file]
    assert not any(secret.encode() in data for data in kept)


def test_bad_rows_are_set_aside_and_counted(lake, tmp_path):
    rows = [row(n) for n in range(6)] + [row(24 * 365), row(7, weight="nan"), row(8, weight=-1)]
    file = written(tmp_path / "a.jsonl", rows)
    file.write_bytes(file.read_bytes() + b'{"time": "2026-01-31T12:00Z", "te')
    arrival, taken = imported(lake, file)
    assert (arrival.rows, arrival.bad, taken.rows) == (10, 4, 6)
    assert arrival.reasons == {NOT_A_WEIGHT: 2, FUTURE: 1, NOT_A_ROW: 1}
    aside = [json.loads(line) for line in Path(str(arrival.quarantine)).read_text().splitlines()]
    assert [(a["file"], a["row"], a["reasons"]) for a in aside] == [
        ("a.jsonl", 6, [FUTURE]),
        ("a.jsonl", 7, [NOT_A_WEIGHT]),
        ("a.jsonl", 8, [NOT_A_WEIGHT]),
        ("a.jsonl", 9, [NOT_A_ROW]),
    ]


def test_too_many_bad_rows_stop_the_import_and_nothing_is_stored(lake, tmp_path):
    file = written(tmp_path / "a.jsonl", [row(), *(row(24 * 365 + n) for n in range(3))])
    with alone(lake, "chat") as folder, pytest.raises(ImportRefused, match=r"3 of 4 rows .*: 3 x in the future\. They are in"):
        arrive(lake, folder, [file], reading(), 0.5)
    assert not list(lake.root.rglob("*.parquet")) and len(list(lake.quarantine.iterdir())) == 1


def test_times_of_a_zone_land_on_the_days_of_utc(lake, tmp_path):
    rows = [{"time": t, "text": "Hi", "harm": NONE, "weight": 1} for t in ("2026-02-01T00:30", "2026-02-01T01:30+01:00")]
    with alone(lake, "chat") as folder:
        read = reading(zone=ZoneInfo("Europe/Berlin"))
        arrival = arrive(lake, folder, [written(tmp_path / "a.jsonl", rows)], read, 0.0)
        taken = take_in(lake, fresh(lake, folder, "chat", arrival), "chat", GIVEN, "r", True)
    assert [d[0] for d in days(lake, taken)] == ["2026-01-31", "2026-02-01"]


def test_categories_come_from_a_classifier_in_the_order_of_the_prompts(lake, tmp_path):
    def by_length(texts: Sequence[str]) -> list[Categorised]:
        return [Categorised("self_harm", 0.75) if len(t) > 2 else Categorised(UNKNOWN, None) for t in texts]

    file = written(tmp_path / "a.jsonl", [row(3, "long"), row(1, "x"), row(2, "longer")])
    _, taken = imported(lake, file, categoriser=Categoriser("c" * 32, by_length))
    found = [(p.text, p.harm_category, p.score, p.classifier_id, p.category) for p in prompts(lake, taken)]
    assert found == [
        ("x", UNKNOWN, None, "c" * 32, None),
        ("longer", "self_harm", 0.75, "c" * 32, None),
        ("long", "self_harm", 0.75, "c" * 32, None),
    ]


def test_stored_texts_are_categorised_once_by_another_classifier(lake, tmp_path):
    imported(lake, written(tmp_path / "a.jsonl", [row(n, f"t{n}", weight=2) for n in range(3)]))
    imported(lake, written(tmp_path / "b.jsonl", [row(9)]), hashed=True)
    second = Categoriser("d" * 32, lambda texts: [Categorised("self_harm", 0.5) for _ in texts])
    with alone(lake, "chat") as folder:
        started = begin(lake, "observe", "chat", {})
        taken = take_in(lake, uncategorised(lake, folder, "chat", "d" * 32), "chat", second, started.run_id, False)
        finish(lake, started, {PROMPTS: taken.prompts, "observed_days": [taken.days]}, {})
    assert days(lake, taken) == [("2026-01-31", "self_harm", 3, 6.0)]
    assert {p.text for p in prompts(lake, taken)} == {None}
    with alone(lake, "chat") as folder:
        assert list(uncategorised(lake, folder, "chat", "d" * 32)) == []
        assert sum(len(t) for t in uncategorised(lake, folder, "chat", "e" * 32)) == 3
    assert imported(lake, tmp_path / "a.jsonl")[1].rows == 0
    with alone(lake, "web") as folder, pytest.raises(MidwatchError, match="no prompts of this source are stored"):
        list(uncategorised(lake, folder, "web", "d" * 32))


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-9])])
def test_a_damaged_file_of_the_source_stops_the_import(lake, tmp_path, damage):
    file = written(tmp_path / "a.jsonl", [row()])
    _, taken = imported(lake, file)
    damage(lake.root / taken.prompts[0].path)
    with pytest.raises(ArtifactMissing, match="counted twice"):
        imported(lake, file)


def test_files_of_other_times_are_not_read(lake, tmp_path):
    _, taken = imported(lake, written(tmp_path / "a.jsonl", [row()]))
    path = lake.root / taken.prompts[0].path
    path.write_bytes(b"x" + path.read_bytes()[1:])  # damaged, but its record of times can still be read
    assert imported(lake, written(tmp_path / "b.jsonl", [row(100)]))[1].rows == 1
    assert len(files_of(lake, "chat")) == 2 and files_of(lake, "cha") == []


def test_one_import_of_a_source_at_a_time(lake):
    with alone(lake, "chat") as folder:
        (folder / "left behind").write_text("")
        with alone(lake, "web"), pytest.raises(MidwatchError, match="chat: another import of this source is running"):
            alone(lake, "chat").__enter__()
    with alone(lake, "chat") as folder:
        assert list(folder.iterdir()) == []


def test_what_a_killed_import_left_is_cleared_away(lake):
    left = lake.root / "observed/chat/.arriving"
    left.mkdir(parents=True)
    (left / "arrived.duckdb").write_bytes(b"garbage")
    with alone(lake, "chat") as folder:
        assert folder == left and list(folder.iterdir()) == []


def test_the_key_is_made_once_and_never_anew_beside_prompts(lake, tmp_path):
    lake.root.mkdir(parents=True)
    key = key_of(lake)
    path = lake.root.parent / "observed.key"
    assert key == key_of(lake) and len(key) == 32 and path.stat().st_mode & 0o777 == 0o600
    imported(lake, written(tmp_path / "a.jsonl", [row()]))
    path.unlink()
    with pytest.raises(MidwatchError, match="gone, and without it prompts would be counted twice; restore it"):
        key_of(lake)
    path.write_text("no key")
    with pytest.raises(MidwatchError, match="expected 64 hexadecimal digits"):
        key_of(lake)


def test_two_hundred_thousand_prompts_of_one_category_take_many_files_and_one_count(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(observe, "MEMORY", "48MB")
    n = 200_000
    frame = pl.DataFrame({"time": pl.Series([1767225600 + i % 9000 for i in range(n)]), "text": ["again"] * n}).with_columns(
        harm=pl.lit("self_harm"), weight=pl.lit(0.5)
    )
    frame.write_parquet(tmp_path / "a.parquet")
    _, taken = imported(lake, tmp_path / "a.parquet")
    assert len(taken.prompts) == 4 and taken.rows == n
    assert days(lake, taken) == [("2026-01-01", "self_harm", n, n / 2)]
    times = [t for f in taken.prompts for t in pq.read_table(lake.root / f.path)["observed_at"].to_pylist()]
    assert times == sorted(times)
    ids = {i for f in taken.prompts for i in lake.read(f)["prompt_id"].to_pylist()}
    assert len(ids) == n
