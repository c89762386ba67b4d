import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.rows import Run
from tasks import runs
from tasks.lake import Artifact, Lake, LakeError
from tasks.runs import Started, begin, environment, finish, loaded, manifest, manifests, mark_loaded, unloaded

CONFIG = {"arms": [{"name": "a"}], "benchmarks": ["b"], "nothing": None, "share": 0.01}
BEGIN = """
import json, sys
from pathlib import Path
from tasks.lake import Lake
from tasks.runs import begin
started = begin(Lake(root=Path(sys.argv[1])), "evaluate", "nightly", json.loads(sys.argv[2]))
print(started.run_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(root=tmp_path / "lake")


@contextmanager
def elsewhere(lake: Lake) -> Iterator[str]:
    """The run_id of a run that another process began and still holds."""
    command = [sys.executable, "-c", BEGIN, str(lake.root), json.dumps(CONFIG)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def interrupted(lake: Lake, age: timedelta = timedelta(minutes=1), config: dict = CONFIG, name: str = "nightly") -> Started:
    """A run whose process is gone."""
    begun = datetime.now(UTC) - age
    time.sleep(0.002)  # ids sort by their millisecond
    started = Started(run_id=runs._uuid7(), name=name, kind="evaluate", started_at=begun, config=config)
    folder = lake.root / "runs" / started.run_id
    folder.mkdir(parents=True)
    (folder / "started.json").write_text(started.model_dump_json())
    return started


def end(lake: Lake, started: Started) -> dict:
    table = lake.write(pa.table({"x": [1]}), "somewhere")
    made = finish(lake, started, {"items": [table]}, environment(more="x"))
    mark_loaded(lake, started.run_id)
    return made


def test_run_ids_are_uuids_of_version_7_that_sort_by_time():
    ids = []
    for _ in range(20):
        ids.append(runs._uuid7())
        time.sleep(0.002)
    assert ids == sorted(ids)
    for run_id in ids:
        parsed = uuid.UUID(run_id)
        assert str(parsed) == run_id
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert abs((parsed.int >> 80) / 1000 - time.time()) < 60


def test_run_ids_of_the_same_moment_differ():
    assert len({runs._uuid7() for _ in range(1000)}) == 1000


def test_a_run_that_was_interrupted_goes_on_under_its_own_id_and_time(lake):
    earlier = interrupted(lake)
    assert begin(lake, "evaluate", "nightly", CONFIG) == earlier


def test_a_run_whose_process_was_killed_goes_on(lake):
    with elsewhere(lake) as run_id:
        pass
    assert begin(lake, "evaluate", "nightly", CONFIG).run_id == run_id


def test_a_run_whose_process_lives_is_left_alone(lake):
    with elsewhere(lake) as run_id:
        assert begin(lake, "evaluate", "nightly", CONFIG).run_id != run_id


def test_a_run_that_was_begun_here_is_not_begun_twice(lake):
    one, two = (begin(lake, "evaluate", "nightly", CONFIG) for _ in range(2))
    assert one.run_id != two.run_id


def test_after_20_hours_a_run_is_begun_anew(lake):
    old = interrupted(lake, timedelta(hours=20, seconds=1))
    assert begin(lake, "evaluate", "nightly", CONFIG).run_id != old.run_id
    recent = interrupted(lake, timedelta(hours=19, minutes=59))
    assert begin(lake, "evaluate", "nightly", CONFIG).run_id == recent.run_id


@pytest.mark.parametrize("other", [{"name": "weekly"}, {"config": CONFIG | {"share": 0.02}}], ids=str)
def test_another_request_is_another_run(lake, other):
    earlier = interrupted(lake, **other)
    assert begin(lake, "evaluate", "nightly", CONFIG).run_id != earlier.run_id


def test_another_kind_is_another_run(lake):
    earlier = interrupted(lake)
    assert begin(lake, "judge", "nightly", CONFIG).run_id != earlier.run_id


def test_of_several_interrupted_runs_the_latest_goes_on(lake):
    interrupted(lake)
    time.sleep(0.002)
    later = interrupted(lake)
    assert begin(lake, "evaluate", "nightly", CONFIG) == later


def test_a_finished_run_is_not_begun_again(lake):
    earlier = interrupted(lake)
    end(lake, earlier)
    assert begin(lake, "evaluate", "nightly", CONFIG).run_id != earlier.run_id


def test_a_loaded_run_is_found_by_the_same_request_alone(lake):
    started = begin(lake, "evaluate", "nightly", CONFIG)
    assert loaded(lake, "evaluate", "nightly", CONFIG) is None
    end(lake, started)
    assert loaded(lake, "evaluate", "nightly", CONFIG) == started.run_id
    assert loaded(lake, "evaluate", "nightly", dict(reversed(CONFIG.items()))) == started.run_id
    assert loaded(lake, "evaluate", "nightly", CONFIG | {"benchmarks": ("b",)}) == started.run_id
    assert loaded(lake, "evaluate", "weekly", CONFIG) is None
    assert loaded(lake, "judge", "nightly", CONFIG) is None
    assert loaded(lake, "evaluate", "nightly", CONFIG | {"share": 0.02}) is None


def test_a_manifest_names_every_file_and_the_run_itself(lake):
    started = begin(lake, "evaluate", "nightly", CONFIG)
    made = end(lake, started)
    assert manifest(lake, started.run_id) == made
    assert made["run_id"] == started.run_id
    assert made["artifacts"].keys() == {"items", "runs"}
    assert all(lake.is_intact(Artifact(**a)) for files in made["artifacts"].values() for a in files)
    (run,) = Run.from_table(lake.read(Artifact(**made["artifacts"]["runs"][0])))
    assert (run.run_id, run.kind, run.status, run.config) == (started.run_id, "evaluate", "finished", CONFIG)
    assert run.started_at <= run.finished_at
    assert run.environment["more"] == "x"
    assert run.code_version


def test_manifests_come_oldest_first(lake):
    assert manifests(lake) == []
    made = []
    for name in ("first", "second", "third"):
        made.append(end(lake, begin(lake, "evaluate", name, CONFIG)))
        time.sleep(0.002)
    begin(lake, "evaluate", "unfinished", CONFIG)
    assert manifests(lake) == made


def test_a_manifest_that_is_gone_is_named(lake):
    with pytest.raises(LakeError, match=r"no-run.manifest\.json"):
        manifest(lake, "no-run")


@pytest.mark.parametrize("content", [b"", b'{"run_id": ', b"\xff\x00", b"[]", b"7", b"null"])
def test_a_damaged_manifest_is_named(lake, content):
    started = begin(lake, "evaluate", "nightly", CONFIG)
    end(lake, started)
    (lake.root / "runs" / started.run_id / "manifest.json").write_bytes(content)
    for look in (manifests, lambda lake: manifest(lake, started.run_id), lambda lake: loaded(lake, "evaluate", "n", {})):
        with pytest.raises(LakeError, match=f"{started.run_id}.*truncated or altered"):
            look(lake)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"run_id": "x"}'])
def test_a_damaged_start_is_named(lake, content):
    started = interrupted(lake)
    (lake.root / "runs" / started.run_id / "started.json").write_bytes(content)
    with pytest.raises(LakeError, match=started.run_id):
        begin(lake, "evaluate", "nightly", CONFIG)


def test_a_run_that_cannot_be_recorded_does_not_begin(lake):
    lake.root.write_text("no folder")
    with pytest.raises(LakeError, match="cannot write"):
        begin(lake, "evaluate", "nightly", CONFIG)


def test_a_run_that_was_killed_before_it_was_loaded_goes_on_with_the_manifest_that_it_has(lake):
    started = interrupted(lake)
    made = finish(lake, started, {}, environment())
    assert unloaded(lake) == [made]
    assert loaded(lake, "evaluate", "nightly", CONFIG) is None
    again = begin(lake, "evaluate", "nightly", CONFIG)
    assert again.run_id == started.run_id
    assert finish(lake, again, {}, environment(more="x")) == made
    mark_loaded(lake, again.run_id)
    assert unloaded(lake) == []


def test_a_run_is_abandoned_when_nobody_works_on_it_and_nobody_took_it_up(lake):
    now = datetime.now(UTC)
    since, until = now - timedelta(days=3), now - timedelta(hours=1)
    left, *_ = interrupted(lake, timedelta(hours=5)), interrupted(lake, timedelta(days=4)), interrupted(lake)
    assert [r.run_id for r in runs.abandoned(lake, since, until)] == [left.run_id]
    with elsewhere(lake):
        assert runs.abandoned(lake, now - timedelta(minutes=1), now + timedelta(minutes=1)) == []
    end(lake, begin(lake, "evaluate", "nightly", CONFIG))
    assert runs.abandoned(lake, since, until) == []
