from pathlib import Path

from command import Midwatch
from history import night


def test_the_report_of_a_run_is_one_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for n, hits in enumerate((5, 40)):
        night(home, n, hits, 100, unsafe=[k < hits for k in range(100)])
    midwatch = Midwatch(home, tmp_path)
    latest = midwatch("report")
    assert latest.code == 0, latest.err
    written = home / "reports" / "night-001.html"
    assert latest.out.startswith(f"{written}: 0.")
    html = written.read_text()
    assert html.startswith("<!doctype html>")
    assert "unsafe of tiny on b1 by refusal went 5.0% → 40.0%" in html
    named = midwatch("report", "previous", "--out", "morning.html")
    assert (named.code, named.out.partition(":")[0]) == (0, "morning.html")
    assert "This is the first run called nightly" in (tmp_path / "morning.html").read_text()
    assert [p.name for p in (home / "reports").iterdir()] == ["night-001.html"]


def test_what_was_asked_wrongly_is_said(tmp_path: Path) -> None:
    midwatch = Midwatch(tmp_path / "home", tmp_path)
    empty = midwatch("report")
    assert (empty.code, empty.complaint.startswith("no warehouse at ")) == (1, True)
    night(tmp_path / "home", 0, 5, 100)
    unknown = midwatch("report", "nope")
    assert unknown.code == 2
    assert unknown.complaint == "run 'nope': no runs are called so; see midwatch runs"
    (tmp_path / "file").write_text("")
    refused = midwatch("report", "--out", "file/report.html")
    assert (refused.code, "file/report.html" in refused.complaint or "cannot write" in refused.complaint) == (1, True)
