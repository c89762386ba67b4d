import json

import pytest

from schemas.errors import ConfigError
from tasks.ingest import Pin
from tasks.pins import read_lock, write_lock

ONE = Pin(source="Paul/XSTest", commit="c" * 40, content_hash="1" * 32, n_items=450)
TWO = Pin(source="own.csv", commit=None, content_hash="2" * 32, n_items=3)


def test_without_a_file_nothing_is_pinned(tmp_path):
    assert read_lock(tmp_path / "midwatch.lock") == {}


def test_pins_are_read_as_they_were_written(tmp_path):
    write_lock(tmp_path / "midwatch.lock", {"xstest": ONE, "own": TWO})
    assert read_lock(tmp_path / "midwatch.lock") == {"xstest": ONE, "own": TWO}


def test_a_new_pin_replaces_its_own_and_leaves_the_others(tmp_path):
    path = tmp_path / "midwatch.lock"
    write_lock(path, {"xstest": ONE, "own": TWO})
    newer = ONE.model_copy(update={"content_hash": "3" * 32})
    write_lock(path, {"xstest": newer})
    assert read_lock(path) == {"xstest": newer, "own": TWO}


def test_the_file_is_the_same_whatever_the_order(tmp_path):
    write_lock(tmp_path / "a", {"xstest": ONE, "own": TWO})
    write_lock(tmp_path / "b", {"own": TWO, "xstest": ONE})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text().endswith("}\n")
    assert list(json.loads((tmp_path / "a").read_text())) == ["own", "xstest"]


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"xstest": {"source": "x"}}', '{"xstest": null}'])
def test_a_damaged_file_is_named_and_kept(tmp_path, content):
    path = tmp_path / "midwatch.lock"
    path.write_text(content)
    for use in (read_lock, lambda path: write_lock(path, {"own": TWO})):
        with pytest.raises(ConfigError, match=r"midwatch\.lock: not a lock file .*pin again"):
            use(path)
    assert path.read_text() == content
