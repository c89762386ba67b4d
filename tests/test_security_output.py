"""Text that attacks a terminal or a spreadsheet, in all that comes from outside, through each command that shows it."""

import csv
import io
import os
import pty
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from kept import loaded
from test_report_page import HOSTILE, hostile_home
from warehouse_rows import JUDGE, response, run, verdict

from flows import cli
from flows.commands.night import _print
from flows.settings import Settings
from tasks.report.export import as_csv, export

FORMULAS = [f"{start}HYPERLINK(0)" for start in ("=", "+", "-", "@", "\t=", "\r=", "\n=", "＝", "＋", "－", "＠")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hostile")
    hostile_home(home)
    return home


def steering(text: str) -> set[str]:
    """The characters of a text that do something to a terminal; line breaks are the command's own."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


def midwatch(home: Path, *words: str) -> int:
    """The exit code of a command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["midwatch", "--home", str(home), *words])
        return cli._run()


JUDGED = ("--judge", f"judge {HOSTILE}")
COMMANDS = {
    "runs": (),
    "show latest": (),
    "compare previous latest": JUDGED,
    "compare previous latest --markdown": JUDGED,
    "explain previous latest": (),
    "explain previous latest --markdown": (),
    "drift mix": (f"source {HOSTILE}",),
    "drift health": (f"benchmark {HOSTILE}", *JUDGED),
    "alerts --all": (),
    "alerts show a1": (),
    "report latest --out REPORT": (),
    "sql": ("from verdict_details",),
    "sql --format json": ("from verdict_details",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_steers_a_terminal_is_printed(home, tmp_path, capfd, command):
    words = command.replace("REPORT", str(tmp_path / "report.html")).split()
    assert midwatch(home, *words, *COMMANDS[command]) in (0, 3)
    shown = capfd.readouterr()
    assert steering(shown.out + shown.err) == set()
    assert shown.out


REFUSED = {
    "of a query that quotes a response": ("sql", "select text::int from responses"),
    "of a query that makes it up": ("sql", "select error(chr(27) || ']0;owned' || chr(7))"),
    "of a run that is asked for": ("show", HOSTILE.replace("\x00", "")),
    "of a judge that is not there": ("compare", "previous", "latest", "--judge", "x"),
    "of a source that is not there": ("drift", "mix", "x"),
    "of a judge that judged nothing twice": ("drift", "judge", f"judge {HOSTILE}"),
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_nothing_that_steers_a_terminal_is_in_a_complaint(home, capfd, words):
    assert midwatch(home, *words) in (1, 2)
    shown = capfd.readouterr()
    assert steering(shown.err) == set()
    assert shown.err and not shown.out


def test_what_a_night_lacks_is_told_harmlessly(capfd):
    _print(
        Settings(),
        {"parts": {}, "missing": {f"arm {HOSTILE}": HOSTILE}},
        [{"alert_id": "a", "severity": "page", "title": HOSTILE}],
    )
    shown = capfd.readouterr()
    assert steering(shown.out + shown.err) == set()
    assert "missing: arm <script>" in shown.err


def test_csv_on_a_terminal_is_shown_and_to_a_pipe_as_it_is(monkeypatch, capfdbinary):
    table = pa.table({"text": [f"{HOSTILE}\nsecond line"]})
    export(table, "csv", None)
    assert capfdbinary.readouterr().out == as_csv(table)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as seen, os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        export(table, "csv", None)
        shown = os.read(seen.fileno(), 1 << 16).decode().replace("\r\n", "\n")
    assert steering(shown) == set()
    assert "owned" in shown and "second line" in shown


def test_no_cell_of_any_column_is_run_by_a_spreadsheet(tmp_path, capfd):
    judge = JUDGE.model_copy(update={"name": "=HYPERLINK(0)"})
    responses = [response(f"r{n}", "i1", formula) for n, formula in enumerate(FORMULAS)]
    verdicts = [verdict(f"v{n}", f"r{n}").model_copy(update={"rationale": f, "raw": f}) for n, f in enumerate(FORMULAS)]
    loaded(tmp_path, {**run("first", responses, verdicts), "judges": [judge]})
    assert midwatch(tmp_path, "sql", "from verdict_details", "--format", "csv") == 0
    lines = list(csv.DictReader(io.StringIO(capfd.readouterr().out, newline="")))
    assert {line["response"] for line in lines} == {f"'{formula}" for formula in FORMULAS}
    assert {line["judge"] for line in lines} == {"'=HYPERLINK(0)"}
    assert not [c for line in lines for c in line.values() if c.startswith(tuple(FORMULAS))]


def test_a_sheet_for_labelling_runs_no_formula(tmp_path):
    out = tmp_path / "sheet.csv"
    made = run("first", [response("r1", "i1"), response("r3", "i2", "=HYPERLINK(0)")], [verdict("v1", "r3")])
    loaded(tmp_path / "home", made)
    words = ("--run", "first", "--judge", "refusal", "--n", "1", "--again", "--out", str(out))
    assert midwatch(tmp_path / "home", "labels", "sample", *words) == 0
    (line,) = csv.DictReader(io.StringIO(out.read_text(), newline=""))
    assert line["response"] == "'=HYPERLINK(0)"
