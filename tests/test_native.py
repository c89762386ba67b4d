import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.native import IngestError, as_text, read_file, read_hub, sha256_of

COMMIT = "c" * 40
ROWS = [
    {"id": "1", "prompt": 'two\nlines, "quoted"', "note": "x"},
    {"id": "2", "prompt": "café \U0001f600 \u2028 \x85 end", "note": None},
    {"id": "3", "prompt": " 007 ", "note": "null"},
]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1)


def as_jsonl(frame: pl.DataFrame) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in frame.to_dicts()).encode()


def as_parquet(frame: pl.DataFrame, folder: Path) -> bytes:
    frame.write_parquet(folder / "made")
    return (folder / "made").read_bytes()


def every_format(frame: pl.DataFrame, folder: Path) -> list[Path]:
    plain = {
        "a.csv": frame.write_csv(quote_style="necessary").encode(),
        "a.jsonl": as_jsonl(frame),
        "a.parquet": as_parquet(frame, folder),
    }
    contents = plain | {f"{name}.gz": gzip.compress(data) for name, data in plain.items()}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def refusal(path: Path) -> str:
    """The one line that says why a file can't be read."""
    with pytest.raises(IngestError) as caught:
        read_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_the_same_table_in_every_format_is_the_same_text(tmp_path):
    for path in every_format(pl.DataFrame(ROWS), tmp_path):
        assert read_file(path).to_dicts() == ROWS, path.name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_any_text_survives_every_format(pairs):
    frame = pl.DataFrame(pairs, schema=["prompt", "category"], orient="row")
    with TemporaryDirectory() as folder:
        for path in every_format(frame, Path(folder)):
            assert read_file(path).to_dicts() == frame.to_dicts(), path.name


@pytest.mark.parametrize(
    "dtype", [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Categorical]
)
def test_a_parquet_column_of_any_whole_number_or_category_is_the_text_of_a_csv(tmp_path, dtype):
    frame = pl.DataFrame({"id": ["1", "20"]}).with_columns(pl.col("id").cast(dtype))
    assert read_file(written(tmp_path, "a.parquet", as_parquet(frame, tmp_path))).to_dicts() == [{"id": "1"}, {"id": "20"}]


def test_fractions_and_truth_values_are_text_too():
    frame = pl.DataFrame({"a": [1.5], "b": [True], "c": [None]}).with_columns(d=pl.col("a").cast(pl.Float32))
    assert as_text(frame).to_dicts() == [{"a": "1.5", "b": "true", "c": None, "d": "1.5"}]
    assert set(as_text(frame).dtypes) == {pl.String}


def test_numbers_in_jsonl_are_text_like_those_of_a_csv(tmp_path):
    jsonl = written(tmp_path, "a.jsonl", b'{"id": 7, "prompt": "x"}\n')
    csv = written(tmp_path, "a.csv", b"id,prompt\n7,x\n")
    assert read_file(jsonl).equals(read_file(csv))


def test_a_zero_in_front_of_a_number_stays(tmp_path):
    assert read_file(written(tmp_path, "a.csv", b"id\n007\n")).to_dicts() == [{"id": "007"}]


def test_the_word_null_is_a_word(tmp_path):
    assert read_file(written(tmp_path, "a.csv", b"prompt,b\nnull,NA\n")).to_dicts() == [{"prompt": "null", "b": "NA"}]


@pytest.mark.parametrize(("name", "data"), [("a.csv", b"prompt\nx\n"), ("a.jsonl", b'{"prompt": "x"}\n')])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, name, data):
    assert read_file(written(tmp_path, name, b"\xef\xbb\xbf" + data)).to_dicts() == [{"prompt": "x"}]


def test_a_cell_may_hold_several_lines(tmp_path):
    path = written(tmp_path, "a.csv", b'prompt,n\n"one\r\ntwo\n\nthree",1\nfour,2\n')
    assert read_file(path)["prompt"].to_list() == ["one\r\ntwo\n\nthree", "four"]


def test_windows_line_ends_are_no_part_of_a_value(tmp_path):
    assert read_file(written(tmp_path, "a.csv", b"a,b\r\n1,2\r\n")).to_dicts() == [{"a": "1", "b": "2"}]
    assert read_file(written(tmp_path, "a.jsonl", b'{"a": "1"}\r\n\r\n{"a": "2"}\r\n'))["a"].to_list() == ["1", "2"]


def test_jsonl_objects_may_lack_keys(tmp_path):
    path = written(tmp_path, "a.jsonl", b'{"a": "1"}\n{"a": "2", "b": "x"}\n')
    assert read_file(path).to_dicts() == [{"a": "1", "b": None}, {"a": "2", "b": "x"}]


def test_a_column_that_starts_as_numbers_may_go_on_as_text(tmp_path):
    path = written(tmp_path, "a.jsonl", b"".join(b'{"a": %d}\n' % i for i in range(300)) + b'{"a": "x"}\n')
    assert read_file(path)["a"].to_list()[-2:] == ["299", "x"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    data = gzip.compress(b"") if name.endswith(".gz") else b""
    assert "no rows" in refusal(written(tmp_path, name, data))


def test_a_header_alone_is_refused(tmp_path):
    assert "no rows" in refusal(written(tmp_path, "a.csv", b"id,prompt\n"))


@pytest.mark.parametrize(("name", "data"), [("a.csv", "prompt\ncafé\n"), ("a.jsonl", '{"prompt": "café"}\n')])
def test_latin_1_is_refused_in_one_line(tmp_path, name, data):
    assert "UTF-8" in refusal(written(tmp_path, name, data.encode("latin-1")))


def test_a_row_with_too_many_cells_is_refused(tmp_path):
    refusal(written(tmp_path, "a.csv", b"a,b\n1,2\n1,2,3\n"))


@pytest.mark.parametrize("line", [b"{'a': 1}", b'{"a": 1', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_line_that_is_not_json_is_named(tmp_path, line):
    assert "line 3 is not JSON" in refusal(written(tmp_path, "a.jsonl", b'{"a": 1}\n\n' + line + b"\n"))


@pytest.mark.parametrize("line", ["[1]", '"x"', "7"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    assert "line 2 is" in refusal(written(tmp_path, "a.jsonl", b'{"a": 1}\n' + line.encode()))


def test_half_a_surrogate_pair_is_refused(tmp_path):
    refusal(written(tmp_path, "a.jsonl", b'{"prompt": "\\ud800"}\n'))


@pytest.mark.parametrize("name", ["a.txt", "a", "a.xlsx", "a.gz", "a.csv.zip"])
def test_an_unknown_extension_is_named_with_those_that_are_known(tmp_path, name):
    assert ".csv, .jsonl or .parquet" in refusal(written(tmp_path, name, gzip.compress(b"prompt\nx\n")))


def test_damaged_files_are_refused(tmp_path):
    whole = gzip.compress("\n".join(["prompt", *(f"{i} is {i * i}" for i in range(2000))]).encode())
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    refusal(written(tmp_path, "truncated.csv.gz", whole[:100]))
    refusal(written(tmp_path, "flipped.csv.gz", bytes(flipped)))
    refusal(written(tmp_path, "plain.csv.gz", b"prompt\nx\n"))
    refusal(written(tmp_path, "a.parquet", as_parquet(pl.DataFrame(ROWS), tmp_path)[:-20]))
    refusal(written(tmp_path, "b.parquet", b"PAR1 is not enough"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    refusal(tmp_path / "none.csv")
    with pytest.raises(IngestError, match=r"none\.csv"):
        sha256_of(tmp_path / "none.csv")


def test_a_file_is_known_by_its_bytes(tmp_path):
    one = sha256_of(written(tmp_path, "a.csv", b"prompt\nx\n"))
    assert one == sha256_of(written(tmp_path, "b.csv", b"prompt\nx\n"))
    assert one != sha256_of(written(tmp_path, "c.csv", b"prompt\ny\n"))


@pytest.fixture
def hub_home(tmp_path, monkeypatch) -> Path:
    """A cache of its own for `datasets`, whose default is read at import."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def hub_folder(folder: Path, files: dict[str, bytes]) -> str:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


def test_a_folder_in_the_form_of_the_hub_is_read_like_the_file(hub_home):
    csv = b'id,prompt,type\n1,"one, two",homonyms\n2,three,contrast_homonyms\n'
    frame = read_hub(hub_folder(hub_home / "set", {"prompts.csv": csv}), COMMIT)
    assert frame.equals(read_file(written(hub_home, "prompts.csv", csv)))


def test_more_splits_than_one_are_refused(hub_home):
    files = {"train.csv": b"prompt\nx\n", "test.csv": b"prompt\ny\n"}
    with pytest.raises(IngestError, match="expected one split, found") as caught:
        read_hub(hub_folder(hub_home / "set", files), COMMIT)
    assert {"train", "test"} <= set(str(caught.value).replace(",", "").replace(";", "").split())


def test_an_empty_folder_is_refused(hub_home):
    with pytest.raises(IngestError, match="give a local file"):
        read_hub(hub_folder(hub_home / "set", {}), COMMIT)


ASK = """
from tasks.native import IngestError, read_hub, resolve_commit
try:
    commit = resolve_commit("Paul/XSTest", None)
    print(commit)
    print(read_hub("Paul/XSTest", commit).write_json())
except IngestError as e:
    print(e)
"""


def in_a_process(folder: Path, **environment: str) -> list[str]:
    """What a process prints that reads its hub settings afresh, as huggingface_hub does at import alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and not k.lower().endswith("_proxy")}
    ran = subprocess.run(
        [sys.executable, "-c", ASK],
        env=kept | {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return ran.stdout.splitlines()


def test_without_the_hub_the_message_says_to_give_a_file(tmp_path):
    (line,) = in_a_process(tmp_path, HF_HUB_OFFLINE="1")
    assert "Paul/XSTest" in line
    assert line.endswith("--benchmark ID=PATH")


def test_a_hub_that_nobody_serves_is_named_in_one_line(tmp_path):
    (line,) = in_a_process(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "Paul/XSTest" in line
    assert line.endswith("--benchmark ID=PATH")


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a data set of one file needs; any other file is not there."""

    protocol_version = "HTTP/1.1"
    data = b"id,prompt,type\n1,one,homonyms\n"
    api = "/api/datasets/Paul/XSTest"

    def do_GET(self):
        file = {"type": "file", "path": "prompts.csv", "size": len(self.data), "oid": "1" * 40}
        info = {"id": "Paul/XSTest", "sha": COMMIT, "siblings": [{"rfilename": "prompts.csv"}], "tags": []}
        answers = {
            self.api: json.dumps(info).encode(),
            f"{self.api}/revision/{COMMIT}": json.dumps(info).encode(),
            f"{self.api}/tree/{COMMIT}": json.dumps([file]).encode(),
            f"/datasets/Paul/XSTest/resolve/{COMMIT}/prompts.csv": self.data,
        }
        body = answers.get(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("X-Error-Code", "EntryNotFound") if body is None else self.send_header("ETag", f'"{"1" * 40}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET" and body:
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_data_set_of_the_hub_is_read_at_the_commit_that_it_has_now(tmp_path, hub):
    commit, rows = in_a_process(tmp_path, HF_ENDPOINT=hub, HF_HUB_DISABLE_XET="1")
    assert commit == COMMIT
    assert json.loads(rows) == [{"id": "1", "prompt": "one", "type": "homonyms"}]
