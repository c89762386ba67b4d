"""A forgotten prompt is nowhere in the home folder, whatever form it stands in, and no number moves."""

import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from command import rows
from kept import files, loaded
from test_runs import elsewhere
from warehouse_rows import alert, alert_event, contents, drift_test, item, observed_day, observed_prompt, response, run, verdict

from flows.cli import midwatch as command
from flows.forget import again, erase
from schemas.errors import ConfigError, MidwatchError
from schemas.ids import digest
from schemas.rows import Prompt, Response
from tasks import forget as forgetting
from tasks.backup import BackupError, backup, restore
from tasks.forget import plan
from tasks.forgotten import FORGOTTEN, Record, note, records, tombstones
from tasks.lake import Lake
from tasks.observe import alone
from tasks.runs import begin, manifests
from warehouse.load import rebuild

MARK = "qyzzyx"  # in every text that has to go, and in nothing else
TEXT = f'My name is "{MARK}" & I live at Überweg 7 <b>'
ONE, TWO = (f"00000000-0000-7000-8000-00000000000{n}" for n in (1, 2))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
RATES = ("nightly_rates", "category_mix", "run_summary", "run_metrics", "category_rates", "alert_status", "judge_calibration")


def asking(item_id: str, text: str) -> dict:
    return {"item_id": item_id, "messages": [{"role": "user", "content": text}]}


def results(run_id: str) -> dict:
    """A run with an item that asks the text, one that holds it, and one that does not."""
    answers = [
        response(f"{run_id[-1]}-own", "i-own", f"Of course, {MARK}."),
        response(f"{run_id[-1]}-holds", "i-holds", f"Well, {MARK}."),
        response(f"{run_id[-1]}-other", "i-other", f"You said: {TEXT}"),
    ]
    quoted = {"rationale": f"It names {MARK}"}
    said = [verdict(f"v-{r.response_id}", r.response_id).model_copy(update=quoted) for r in answers[:2]]
    said[1] = said[1].model_copy(update={"raw": "B"})
    said.append(verdict(f"v-{answers[2].response_id}", answers[2].response_id, None, error="no verdict in the reply"))
    long = {"context": f"{TEXT} and so on", "polarity": "neg", "n": 3}
    items = [
        item("i-own", "b1", category="x").model_copy(update=asking("i-own", TEXT) | {"attributes": long}),
        item("i-holds", "b1", category="x").model_copy(update=asking("i-holds", f"Repeat: {TEXT}")),
        item("i-other", "b1", category="y").model_copy(update=asking("i-other", "What is bread?")),
    ]
    cluster = {"terms": [MARK, "bread"], "name": f"prompts about {MARK}, bread", "kind": "emerging"}
    found = {"kind": "emerging", "reason": f"about {MARK}", "details": {"clusters": [cluster]}}
    told = alert(run_id, f"{run_id[-1]}-a").model_copy(update={"title": f"NEW: about {MARK}", "body": TEXT, "details": cluster})
    return run(run_id, answers, said) | {
        "benchmark_items": items,
        "observed_prompts": [
            observed_prompt(run_id, digest(run_id, 1), text=TEXT, harm_category="self_harm"),
            observed_prompt(run_id, digest(run_id, 2), 1, text="Where is bread?"),
        ],
        "observed_days": [observed_day(run_id, 1, "self_harm"), observed_day(run_id, 1)],
        "drift_tests": [drift_test(run_id).model_copy(update=found)],
        "alerts": [told],
        "alert_events": [alert_event(run_id, told.alert_id, "acknowledged", note=f"it was {TEXT}")],
    }


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which the text is everywhere."""
    home = tmp_path_factory.mktemp("made") / "home"
    for run_id in (ONE, TWO):
        loaded(home, results(run_id))
        written(home / f"reports/{run_id}.html", f"<p>{MARK}</p>")
    lake = Lake(root=home / "lake")
    written(home / "observed.key", "ab" * 32)
    question = Prompt.model_validate(asking("q", f"Is this bad? {TEXT}"))
    lake.write(Prompt.to_table([question, Prompt.model_validate(asking("q2", "Is bread bad?"))]), "prompts")
    lake.write(Response.to_table([response("reply", "q", f"{MARK} is fine")]), "responses/judge/pinned")
    lake.write(Response.to_table([response("left", "i-own", f"{MARK}!")]), "responses/a1/2026")
    vectors = pa.table({"text_id": [digest("text", TEXT), digest("text", "Where is bread?")], "vector": [[1.0], [2.0]]})
    lake.write(vectors.cast(pa.schema({"text_id": pa.string(), "vector": pa.list_(pa.float32())})), "embeddings/m")
    aside = {"file": "a", "row": 3, "reasons": ["no time"], "values": {"text": TEXT, "time": ""}}
    nested = {"row": 4, "reasons": [f"messages: {MARK}"], "values": asking("i-own", json.dumps([TEXT]))}
    written(
        home / "quarantine/q.jsonl", json.dumps(aside) + "\n" + json.dumps(nested) + '\n{"row": 5, "values": {"text": "ok"}}\n'
    )
    written(home / "logs/m.log", f"POST {TEXT}\nPOST {json.dumps(TEXT)}\nfine\n")
    with (home / "sheet.csv").open("w", newline="") as sheet:
        csv.writer(sheet).writerows(
            [
                ["response_id", "prompt", "response", "label"],
                ["1-own", TEXT, f"Of course, {MARK}.", "full_refusal"],
                ["1-x", "What is bread?", "Food.", "full_compliance"],
            ]
        )
    written(home / "lake/observed/chat/.arriving/arrived.duckdb", MARK)
    written(home / "lake/.x.tmp", MARK)
    written(home / ".warehouse.snapshot.duckdb.tmp", MARK)
    written(home / "prefect/results/error", MARK)
    with closing(sqlite3.connect(home / "prefect/prefect.db")) as database, database:
        database.execute("pragma journal_mode = wal")
        database.execute('create table "log" (id integer primary key, message text, data json)')
        database.execute("pragma secure_delete = off")
        database.execute('insert into "log" (message) values (?)', [TEXT * 9])
        database.execute('delete from "log"')
        database.executemany('insert into "log" (message, data) values (?, ?)', [(TEXT, json.dumps({"t": TEXT})), ("ok", "{}")])
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "home")


def places(home: Path) -> list[str]:
    """Where the mark is: in bytes, in columns of Parquet files, in rows of databases; in any case and escape."""
    found = []
    for name in sorted(files(home)):
        path = home / name
        text = path.read_bytes().decode(errors="replace")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            text += str(table.to_pylist()) + str(table.schema.metadata) + str(pq.read_metadata(path).to_dict())
        if path.suffix == ".duckdb" and path.stat().st_size > 1000:
            with duckdb.connect(path, read_only=True) as connection:
                names = [n for (n,) in connection.execute("select table_name from duckdb_tables()").fetchall()]
                text += "".join(str(connection.table(n).fetchall()) for n in names)
        if MARK in text.lower():
            found.append(name)
    return found


def forgotten(home: Path) -> dict[str, int]:
    return erase(home, [digest(ONE, 1)], "me", NOW, f"asked by {TEXT}").counts


def figures(home: Path) -> dict[str, list]:
    """All that is counted: rates, mixes, and the rows without their texts."""
    shown = {view: rows(home, f"from {view} order by all") for view in RATES}
    for told in shown["alert_status"]:
        for name in ("title", "body", "details"):
            told.pop(name, None)
    observed = "select prompt_id, observed_at, harm_category, category, score, weight, classifier_id from observed_prompts"
    shown["observed"] = rows(home, f"{observed} order by all")
    shown["verdicts"] = rows(home, "select verdict_id, label, unsafe, score, error is null as ok from verdicts order by all")
    shown["items"] = rows(home, "select item_id, category, harm_category, expected from benchmark_items order by all")
    return shown


def test_nothing_of_it_is_left_and_no_number_moves(home):
    before, there = figures(home), places(home)
    assert len(there) > 20 and {"warehouse.duckdb", "warehouse.snapshot.duckdb", "prefect/prefect.db", "sheet.csv"} <= set(
        there
    )
    assert forgotten(home) == {"observed prompts": 2, "items": 2, "responses": 5, "verdicts": 4}
    assert places(home) == [] and figures(home) == before
    lake = Lake(root=home / "lake")
    live = contents(home / "warehouse.snapshot.duckdb")
    rebuild(home / "warehouse.duckdb", lake.root, manifests(lake))
    assert contents(home / "warehouse.snapshot.duckdb") == live
    texts = {r["response_id"]: r["text"] for r in rows(home, "select response_id, text from responses")}
    assert texts == {f"{n}-{k}": FORGOTTEN for n in (1, 2) for k in ("own", "holds")} | {
        f"{n}-other": f"You said: {FORGOTTEN}" for n in (1, 2)
    }
    assert rows(home, "select text from observed_prompts where text is not null") == [{"text": "Where is bread?"}] * 2
    assert rows(home, "select distinct raw from verdicts where raw is not null order by raw") == [
        {"raw": "B"},
        {"raw": "VERDICT: None"},
    ]
    (kept,) = rows(home, "select distinct messages, attributes from benchmark_items where item_id = 'i-own'")
    assert json.loads(kept["messages"]) == [{"role": "user", "content": FORGOTTEN}]
    assert json.loads(kept["attributes"]) == {"context": FORGOTTEN, "n": 3, "polarity": "neg"}
    assert rows(home, "select distinct reason from drift_tests") == [{"reason": f"about {FORGOTTEN}"}]


def test_what_others_wrote_stays(home):
    forgotten(home)
    (vectors,) = Lake(root=home / "lake").root.glob("embeddings/m/*.parquet")
    assert pq.read_table(vectors)["text_id"].to_pylist() == [digest("text", "Where is bread?")]
    aside = [json.loads(line) for line in (home / "quarantine/q.jsonl").read_text().splitlines()]
    assert [r["row"] for r in aside] == [3, 4, 5] and [r["values"] for r in aside] == [{}, {}, {"text": "ok"}]
    assert (home / "logs/m.log").read_text().endswith("fine\n")
    with (home / "sheet.csv").open(newline="") as sheet:
        table = list(csv.reader(sheet))
    assert table[1:] == [["1-own", FORGOTTEN, FORGOTTEN, "full_refusal"], ["1-x", "What is bread?", "Food.", "full_compliance"]]
    with closing(sqlite3.connect(home / "prefect/prefect.db")) as database:
        assert database.execute("select message, data from log").fetchall()[1] == ("ok", "{}")


def test_it_is_on_record_without_the_text_and_is_told_when_it_comes_again(home):
    forgotten(home)
    lake = Lake(root=home / "lake")
    (record,) = records(lake)
    assert record.who == "me" and record.reason == f"asked by {FORGOTTEN}" and record.finished_at == NOW
    assert record.prompt_ids == tuple(sorted([digest(ONE, 1), digest(TWO, 1)])) and record.item_ids == ("i-holds", "i-own")
    barred = tombstones(lake)
    assert barred.bars(TEXT) and not barred.bars("Where is bread?") and not barred.bars(None)
    assert barred.without([TEXT, "x", None]) == [None, "x", None]
    assert plan(home, [digest(ONE, 1), "i-own"], "me", NOW, "").counts == dict.fromkeys(
        ("observed prompts", "items", "responses", "verdicts"), 0
    )


def test_a_short_text_is_not_looked_for_inside_of_others(home):
    loaded(home, results(TWO[:-1] + "3") | {"observed_prompts": [observed_prompt(TWO[:-1] + "3", "short", text="bread")]})
    asked = rows(home, "select text from observed_prompts where prompt_id <> 'short' order by all")
    erase(home, ["short"], "me", NOW, "")
    assert rows(home, "select text from observed_prompts where prompt_id = 'short'") == [{"text": None}]
    assert rows(home, "select text from observed_prompts where prompt_id <> 'short' order by all") == asked
    assert len(rows(home, "from benchmark_items where messages::varchar like '%bread%'")) == 1


# Forgets in children that die at a later file each, just before or after it gets its name or loses it.
DYING = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from flows.forget import again, erase
from tasks.forgotten import unfinished
from tasks.lake import Lake
from tasks.observe import alone
home, prompt_id, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
now = datetime(2026, 3, 1, tzinfo=UTC)

def dies_at(moment):
    left = moment
    def counted(act):
        def acting(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0 and moment % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            done = act(*args, **kwargs)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return acting
    Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)

for moment in range(first, 100, 3):
    child = os.fork()
    if child == 0:
        waiting = unfinished(Lake(root=home / "lake"))
        dies_at(moment)
        again(home, waiting, now) if waiting else erase(home, [prompt_id], "me", now, "")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, len(unfinished(Lake(root=home / "lake"))), flush=True)
    if status != -signal.SIGKILL:
        break
"""


@pytest.mark.parametrize("first", [1, 2])
def test_killed_again_and_again_it_is_completed_by_the_next_call(home, tmp_path, first):
    before = figures(home)
    command_line = [sys.executable, "-c", DYING, str(home), digest(ONE, 1), str(first)]
    died = subprocess.run(command_line, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    outcomes = [tuple(map(int, line.split())) for line in died.stdout.splitlines()]
    killed = [left for status, left in outcomes if status == -signal.SIGKILL]
    assert outcomes[-1] == (0, 0) and len(killed) > 5 and set(killed[1:]) == {1}, died.stderr
    lake = Lake(root=home / "lake")
    assert places(home) == [] and figures(home) == before
    live = contents(home / "warehouse.snapshot.duckdb")
    rebuild(home / "warehouse.duckdb", lake.root, manifests(lake))
    assert contents(home / "warehouse.snapshot.duckdb") == live


def test_what_was_interrupted_is_completed_by_the_command_and_not_backed_up_before(home, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(forgetting, "_clear", interrupt)
        forgotten(home)
    told = CliRunner().invoke(command, ["--home", str(home), "doctor"])
    assert "requests that were interrupted: 1" in told.output and "midwatch forget --yes" in told.output
    with pytest.raises(BackupError, match="midwatch forget --yes completes it"):
        backup(home, tmp_path / "bk")
    told = CliRunner().invoke(command, ["--home", str(home), "forget", "--yes"])
    assert told.exit_code == 0 and "to be carried out: 1" in told.stderr and places(home) == []


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_begins_tells_of_what_was_interrupted(tmp_path, caplog):
    lake = Lake(root=tmp_path / "lake")
    note(lake, Record(asked=("x",), prompt_ids=(), item_ids=(), text_ids=(), who="me", asked_at=NOW, reason=""))
    begin(lake, "evaluate", "nightly", {})
    assert "a request to forget was interrupted" in caplog.text


def test_an_older_backup_brings_it_back_until_it_is_forgotten_again(home, tmp_path):
    backup(home, tmp_path / "bk", with_key=True)
    forgotten(home)
    assert backup(home, tmp_path / "bk2").contents.runs and places(tmp_path / "bk2") == []
    restore(tmp_path / "bk", tmp_path / "new")
    assert places(tmp_path / "new")
    (record,) = (home / "lake/forgotten").glob("*.json")
    written(tmp_path / "new/lake/forgotten" / record.name, record.read_text())
    assert CliRunner().invoke(command, ["--home", str(tmp_path / "new"), "forget", "--again", "--yes"]).exit_code == 0
    assert places(tmp_path / "new") == []
    assert places(tmp_path / "bk") and backup(home, tmp_path / "bk", prune=True) and places(tmp_path / "bk") == []


def test_nothing_is_forgotten_while_a_run_is_going_on(home):
    with elsewhere(Lake(root=home / "lake")) as run_id, pytest.raises(MidwatchError, match=f"run {run_id} is going on"):
        forgotten(home)
    assert not records(Lake(root=home / "lake")) and MARK in str(rows(home, "from observed_prompts"))


def test_a_file_that_cannot_be_read_is_named_since_it_may_hold_the_text(home):
    written(home / "lake/responses/a1/x.parquet", "no table")
    with pytest.raises(MidwatchError, match=r"x\.parquet: can't be read, and may hold"):
        forgotten(home)


def test_the_command_shows_first_and_says_what_it_does_not_reach(home):
    asked = ["--home", str(home), "forget", "--prompt-id", digest(ONE, 1)]
    shown = CliRunner().invoke(command, asked)
    assert "observed prompts" in shown.output and "--yes does it" in shown.output and MARK not in shown.output
    assert places(home) and not records(Lake(root=home / "lake"))
    done = CliRunner().invoke(command, [*asked, "--yes", "--reason", "request 17", "--json"])
    assert json.loads(done.stdout)["forgotten"] is True and records(Lake(root=home / "lake"))[0].reason == "request 17"
    again = CliRunner().invoke(command, [*asked, "--yes"])
    assert "no text of it is left: it was forgotten on 20" in again.output and len(records(Lake(root=home / "lake"))) == 1
    with pytest.raises(ConfigError, match="no observed prompt and no item of a benchmark has this id"):
        command(["--home", str(home), "forget", "--prompt-id", "nobody"], standalone_mode=False)
    with pytest.raises(ConfigError, match="nothing that was begun"):
        command(["--home", str(home), "forget"], standalone_mode=False)


def test_a_record_never_holds_the_text(home):
    forgotten(home)
    again(home, records(Lake(root=home / "lake")), NOW)
    (path,) = (home / "lake/forgotten").glob("*.json")
    assert set(json.loads(path.read_text())) == set(Record.model_fields) and not re.search(MARK, path.read_text())


def test_a_turn_of_a_conversation_is_not_taken_for_what_others_ask(home):
    three = f"{ONE[:-1]}3"
    talk = [
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Is it?"},
    ]
    items = [
        item("i-talk", "b1").model_copy(update={"messages": talk}),
        item("i-is", "b1").model_copy(update=asking("i-is", "Is it?")),
    ]
    answers = [response("talk", "i-talk", "Yes."), response("is", "i-is", "Yes.")]
    loaded(home, run(three, answers) | {"benchmark_items": items, "observed_prompts": []})
    assert plan(home, ["i-is"], "me", NOW, "").record.item_ids == ("i-is",)
    assert plan(home, ["i-talk"], "me", NOW, "").record.item_ids == ("i-talk",)
    forgotten(home)
    assert places(home) == []
    texts = rows(home, "select response_id, text from responses where response_id in ('talk', 'is') order by all")
    assert [t["text"] for t in texts] == ["Yes.", FORGOTTEN]


def test_nothing_is_forgotten_while_a_log_is_read(home):
    with alone(Lake(root=home / "lake"), "chat"), pytest.raises(MidwatchError, match="an import of chat is going on"):
        forgotten(home)
