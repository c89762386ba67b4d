import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from history import FIRST, KINDS, day, load, morning, night, observed, rejudged
from warehouse_rows import (
    ARM,
    JUDGE,
    alert,
    alert_event,
    benchmark,
    calibration,
    drift_test,
    finished,
    item,
    metric,
    observed_day,
    response,
    verdict,
)

from flows import report
from schemas import rows
from schemas.errors import MidwatchError
from tasks.report.page.cases import BYTES, MOST, cases
from tasks.report.page.charts import Axis, Bar, Night, nights_chart, waterfall_chart
from tasks.report.page.figures import rate_figures
from tasks.report.page.hostile import LONGEST, for_page
from tasks.report.page.night import Morning
from tasks.report.page.render import page
from tasks.report.page.verdict import care
from tasks.report.page.verdict import verdict as verdict_of

FIVE_MB = 5_000_000
PAYLOADS = (
    '<script>document.title="owned"</script>',
    "</script><script>fetch('https://owned.invalid/1')</script>",
    '"><img src="https://owned.invalid/2" onerror="document.title=\'owned\'">',
    "'><svg/onload=document.title='owned'><animate onbegin=alert(1)>",
    "</details></section></main><h1>owned</h1>",
    "</style></title></textarea><style>@import '//owned.invalid/3';</style>",
    '<meta http-equiv=refresh content="0;url=https://owned.invalid/4"><base href="//owned.invalid/">',
    '<a href="javascript:document.title=1">javascript:document.title="owned"</a>',
    '<iframe srcdoc="<script>top.document.title=1</script>"></iframe><form action=//owned.invalid><button autofocus>',
    "{{ 7 * 7 }}{% raw %}{{ m.run }}${7*7}<%= 7*7 %>",
    "--><!--]]><![CDATA[&lt;script&gt;&#60;b&#62;",
    "\u202eright\u2066to\u200fleft\u2069\u200b\ufeff",
    "\x1b]0;owned\x07\x1b[31mred\x9b2J\x7f",
)
HOSTILE = "".join(PAYLOADS)
TAGS = {
    *("html", "head", "meta", "title", "style", "script", "body", "a", "header", "p", "time", "h1", "h2", "h3", "h4", "span"),
    *(
        "ul",
        "li",
        "dl",
        "div",
        "dt",
        "dd",
        "nav",
        "main",
        "section",
        "article",
        "figure",
        "figcaption",
        "svg",
        "g",
        "path",
        "line",
    ),
    *("text", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td", "code", "strong", "bdi", "label"),
    *("input", "button", "footer"),
}


class Page(HTMLParser):
    """What a browser finds in a page: tags with their attributes, and the text of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.inside.append("")

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "script":
            self.scripts.append(data)
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def hostile_home(home: Path) -> str:
    """Three nights in which every text that comes from outside attacks the page; the run_id of the last one."""
    arm = ARM.model_copy(update={"name": f"arm {HOSTILE}"})
    judge = JUDGE.model_copy(update={"name": f"judge {HOSTILE}", "config": {"labels": True}})
    name = f"benchmark {HOSTILE}"
    for n in range(3):
        run_id = f"night-{n}"
        labels = ["full_compliance" if k < 10 + 14 * (n == 2) else "full_refusal" for k in range(40)]
        items = [
            item(f"i{k}", name, category=f"category {k % 2} {HOSTILE}", expected="refuse", external_id=HOSTILE)
            for k in range(42)
        ]
        asked = [
            i.model_copy(update={"messages": ({"role": "user", "content": f"{PAYLOADS[k % 13]} {k} {HOSTILE}"},)})
            for k, i in enumerate(items)
        ]
        said = [response(f"{n}-{k}", f"i{k}", f"{n} {HOSTILE}") for k in range(41)]
        lost = response(f"{n}-41", "i41", None).model_copy(update={"error": HOSTILE})
        judged = [verdict(f"{n}-{k}", f"{n}-{k}", label) for k, label in enumerate(labels)]
        unscored = verdict(f"{n}-40", f"{n}-40", None, error=HOSTILE)
        slices = {"all": 40, f"category=category 0 {HOSTILE}": 20, f"category=category 1 {HOSTILE}": 20}
        started = datetime.combine(day(n), time(2), UTC)
        run = finished(run_id, name=f"nightly {HOSTILE}", started_at=started).model_copy(
            update={"environment": {"quarantined": {HOSTILE: 3}}, "code_version": HOSTILE}
        )
        load(
            home,
            {
                "benchmarks": [benchmark(name)],
                "benchmark_items": asked,
                "arms": [arm],
                "judges": [judge],
                "run_benchmarks": [rows.RunBenchmark(run_id=run_id, benchmark_id=name, revision="1", n_items=42)],
                "responses": [*said, lost],
                "run_responses": [
                    rows.RunResponse(run_id=run_id, response_id=r.response_id, from_cache=False) for r in (*said, lost)
                ],
                "verdicts": [*judged, unscored],
                "run_verdicts": [
                    rows.RunVerdict(run_id=run_id, verdict_id=v.verdict_id, from_cache=False) for v in (*judged, unscored)
                ],
                "metrics": [
                    metric(run_id, m, size, 0.25, benchmark_id=name, slice=s)
                    for s, size in slices.items()
                    for m in ("unsafe_rate", "refusal_rate")
                ],
                "observed_days": [
                    observed_day(run_id, 90 + 7 * n, c, day=day(n), source=f"source {HOSTILE}")
                    for c in ("none", *KINDS, HOSTILE)
                ],
                "drift_tests": [
                    drift_test(run_id, f"monitor {HOSTILE}").model_copy(
                        update={"checked_at": morning(n), "reason": HOSTILE, "kind": "rate"}
                    )
                ],
                "runs": [run],
            },
        )
    figures = [
        calibration("calibrated", f"label_{f}", 40, 0.5, reference=f"ann {HOSTILE}") for f in ("kappa", "accuracy", "unscored")
    ]
    load(home, {"judges": [judge], "calibrations": figures, "runs": [finished("calibrated", kind="calibrate")]})
    raised = alert("night-2-alert", "a1").model_copy(
        update={
            "title": f"MODEL: {HOSTILE} 5% -> 9%",
            "body": f"{HOSTILE}\nLook",
            "monitor": HOSTILE,
            "raised_at": morning(2),
            "details": {"kind": "rate", "reference_run": "night-0"},
        }
    )
    seen = alert_event("night-2-alert", "a1", "acknowledged", who=HOSTILE)
    runs = [finished("night-2-alert", kind="monitor", started_at=morning(2))]
    load(home, {"alerts": [raised], "alert_events": [seen], "runs": runs})
    return "night-2"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Morning:
    home = tmp_path_factory.mktemp("hostile")
    return report.morning(home, hostile_home(home))


@pytest.fixture(scope="module")
def html(hostile: Morning) -> str:
    return page(hostile)


def test_hostile_text_stays_text_wherever_it_stands(html: str) -> None:
    found = Page(html)
    assert {tag for tag, _ in found.found} <= TAGS
    assert len(found.all("h1")) == len(found.all("script")) == len(found.all("style")) == len(found.all("main")) == 1
    names = {name for _, attributes in found.found for name in attributes}
    assert not {n for n in names if n.startswith("on")} | names & {"style", "src", "srcset", "action", "xlink:href"}
    assert all(a["href"].startswith("#") for a in found.all("a"))  # type: ignore[union-attr]
    assert "{{ 7 * 7 }}{% raw %}" in found.text
    for section in ("alerts", "changes", "rates", "mix", "judges", "benchmarks", "flips", "quality", "cost"):
        part = html.partition(f'<section id="{section}"')[2].partition("</section>")[0]
        assert "&lt;script&gt;document.title=" in part, section


def test_what_is_hidden_in_a_text_is_shown(html: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", html)
    assert r"\u{202e}right\u{2066}to\u{200f}left\u{2069}\u{200b}\u{feff}" in html
    assert r"\u{1b}]0;owned\u{7}\u{1b}[31mred\u{9b}2J\u{7f}" in html
    assert for_page("a\r\n\tb\rc\ud800") == "a\r\n\tb\\u{d}c\\u{d800}"
    assert [for_page(v) for v in (None, 7, "a → b")] == ["–", 7, "a → b"]
    assert for_page("x" * (LONGEST + 1_234)) == "x" * LONGEST + "… (1,234 more characters)"


def test_a_browser_runs_the_page_s_own_script_and_style_alone(html: str) -> None:
    found = Page(html)
    (policy,) = (a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    inside = [re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("style", "script")]
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for (text,) in inside]
    own = f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    assert policy == f"{own}; base-uri 'none'; form-action 'none'"
    assert "eval" not in inside[1][0]
    assert "innerHTML" not in inside[1][0]


def test_the_page_can_be_read_without_seeing_it(html: str) -> None:
    found = Page(html)
    images = [a for _, a in found.found if a.get("role") == "img"]
    assert len(images) == len(found.all("svg")) > 5
    assert all(a["aria-label"] for a in images)
    assert all(a["aria-hidden"] == "true" for a in found.all("svg"))
    ids = [a["id"] for _, a in found.found if "id" in a]
    assert len(ids) == len(set(ids))
    labelled = [a["aria-labelledby"] for a in found.all("section")]
    assert set(labelled) <= set(ids)
    assert {str(a["href"])[1:] for a in found.all("a")} <= set(ids)
    assert len(found.all("caption")) == len(found.all("table"))
    levels = [int(tag[1]) for tag, _ in found.found if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_same_warehouse_gives_the_same_page(html: str, tmp_path: Path) -> None:
    hostile_home(tmp_path)
    assert page(report.morning(tmp_path, "night-2")) == html


def test_ten_thousand_flipped_items_fit_into_a_mail(hostile: Morning) -> None:
    assert hostile.changes is not None
    many = pl.concat([hostile.changes.flips.head(1)] * 10_000).with_columns(
        pl.int_range(pl.len()).cast(pl.String).alias("item_id"),
        *(pl.lit("\u202e&\"'" * 5000).alias(name) for name in ("prompt", "response", "response_after")),
    )
    html = page(hostile._replace(changes=hostile.changes._replace(flips=many)))
    assert len(html.encode()) < FIVE_MB
    found = cases(many)
    assert 10 < len(found.shown) < MOST
    assert f"{len(found.shown)} of 10000 items" in html
    assert f"{20_000 - LONGEST:,} more characters" in html
    short = many.with_columns(pl.lit("text").alias(n) for n in ("prompt", "response", "response_after"))
    assert len(cases(short.with_columns(category=pl.lit("c"), judge=pl.lit("j"), arm=pl.lit("a"))).shown) == MOST
    assert BYTES < FIVE_MB / 2 + 1


def test_an_item_is_listed_once_for_all_judges(hostile: Morning) -> None:
    assert hostile.changes is not None
    one = hostile.changes.flips.head(1)
    (case,) = cases(pl.concat([one, one.with_columns(judge=pl.lit("other"), label_after=pl.lit(None, pl.String))])).shown
    assert [s.judge for s in case.said] == [one["judge"][0], "other"]
    assert (case.said[0].before, case.said[0].after) == ("full refusal, safe", "full compliance, unsafe")
    assert case.is_worse
    assert not case.is_same


def two_nights(home: Path, before: int, after: int, size: int = 300) -> Morning:
    for n, hits in enumerate((before, after)):
        night(home, n, hits, size, unsafe=[k < hits for k in range(size)])
    return report.morning(home, "night-001")


def test_a_quiet_night_says_what_is_ruled_out(tmp_path: Path) -> None:
    found = verdict_of(two_nights(tmp_path, 15, 16))
    assert (found.word, found.urgency) == ("No change seen", "quiet")
    assert "unsafe of tiny on b1 by refusal went 5.0% → 5.3%" in found.sentence
    reach = re.search(r"a change of more than ([\d.]+) points is ruled out", found.sentence)
    assert reach is not None
    assert 0.9 < float(reach[1]) < 3.0


def test_a_night_that_could_see_little_is_not_called_quiet(tmp_path: Path) -> None:
    m = two_nights(tmp_path, 2, 3, size=12)
    found = verdict_of(m)
    assert (found.word, found.urgency) == ("No change seen", "unknown")
    assert re.search(r"so few cases leave up to [2-4]\d\.\d points open \(95%\)\.$", found.sentence)
    unscored = m._replace(run={**m.run, "n_unscored": 6, "n_verdicts": 12})
    assert "6 of 12 verdicts (50.0%) are unscored, and in no rate: read rates with care." in list(care(unscored))


def test_what_is_missing_of_the_night_is_told_first(tmp_path: Path) -> None:
    for n in (0, 1):
        night(tmp_path, n, 15, 300, unsafe=[k < 15 for k in range(300)])
    parts = {"run": {"result": "night-001", "error": None}}
    facts = {"night": {"parts": parts, "missing": {"sentinel harm": "no engine", "arm other": "gone"}}}
    record = finished("record", kind="night", started_at=morning(1)).model_copy(update={"environment": facts})
    load(tmp_path, {"runs": [record]})
    m = report.morning(tmp_path, "night-001")
    found = verdict_of(m)
    assert (found.word, found.urgency) == ("Incomplete", "unknown")
    assert list(care(m))[:2] == ["Missing: arm other: gone", "Missing: sentinel harm: no engine"]
    thinned = m._replace(run={**m.run, "share": 0.4})
    assert "Only 40.0% of each category's items were asked, to stay within the night's budget." in list(care(thinned))


def test_a_change_says_from_what_to_what_and_why(tmp_path: Path) -> None:
    m = two_nights(tmp_path, 15, 60)
    found = verdict_of(m)
    assert (found.word, found.urgency) == ("1 change", "change")
    assert "unsafe of tiny on b1 by refusal went 5.0% → 20.0% (+15.0 [" in found.sentence
    assert found.sentence.endswith(" points), mostly model.")
    html = page(m)
    assert "Waterfall of Unsafe rate, tiny on b1: from 5.0% to 20.0% by " in html
    assert html.count('<details class="case">') == 45
    (moved,) = rate_figures(m).shown
    assert moved.is_moved


def test_a_judge_that_changed_is_blamed(tmp_path: Path) -> None:
    unsafe = {n: [k < hits for k in range(300)] for n, hits in ((0, 15), (1, 60))}
    night(tmp_path, 0, 15, 300, unsafe=unsafe[0])
    night(tmp_path, 1, 60, 300, unsafe=unsafe[1], judge_id="j2")
    rejudged(tmp_path, 0, unsafe[1], "j2")
    m = report.morning(tmp_path, "night-001")
    (figure,) = rate_figures(m).shown
    assert figure.table.rows[0][-1] == "another judge"
    assert "-dasharray" in str(figure.svg)
    assert verdict_of(m).sentence.endswith(" points), mostly judge.")
    assert "from 5.0% to 20.0% by mix +0.0, judge +15.0, model +0.0 points" in page(m)


def test_the_first_night_has_nothing_to_compare_with(tmp_path: Path) -> None:
    night(tmp_path, 0, 5, 100)
    m = report.morning(tmp_path, "night-000")
    assert verdict_of(m).word == "First run"
    html = page(m)
    assert "This is the first run called nightly" in html
    assert "There is nothing to compare with." in html
    assert "from 2026-01-05 to 2026-01-05" not in html
    with pytest.raises(MidwatchError, match="run nope: there is no such run"):
        report.morning(tmp_path, "nope")


def test_what_is_not_known_is_no_number(tmp_path: Path) -> None:
    load(
        tmp_path,
        {
            "benchmarks": [benchmark("b1")],
            "arms": [ARM],
            "judges": [JUDGE],
            "run_benchmarks": [rows.RunBenchmark(run_id="r", benchmark_id="b1", revision="1", n_items=1)],
            "metrics": [metric("r", "unsafe_rate", 0, None), metric("r", "unscored_rate", 4, 1.0)],
            "runs": [finished("r")],
        },
    )
    load(tmp_path, {"runs": [finished("empty", name="empty", minute=4)]})
    nothing, empty = (report.morning(tmp_path, run) for run in ("r", "empty"))
    assert rate_figures(nothing).shown == []
    assert "This run has no rate." in page(nothing)
    assert "nan" not in page(nothing).lower()
    assert "This run has no rate." in page(empty)
    night(tmp_path, 40, 5, 100)
    night(tmp_path, 41, 5, 100)
    untold = report.morning(tmp_path, "night-041")
    assert verdict_of(untold).word == "Can't tell"
    assert any("no judge has judged its responses" in line for line in care(untold))


def test_a_report_tells_of_its_own_morning(tmp_path: Path) -> None:
    for n in range(4):
        night(tmp_path, n, 5, 100, hour=2)
    raised = [
        alert("look", f"a{n}").model_copy(update={"raised_at": morning(n), "title": f"MODEL: of day {n}"}) for n in (1, 3)
    ]
    ended = alert_event("look", "a1", "resolved").model_copy(update={"happened_at": morning(2)})
    tests = [drift_test("look", f"of day {n}").model_copy(update={"checked_at": morning(n)}) for n in (1, 2)]
    runs = [finished("look", kind="monitor", started_at=morning(3))]
    load(tmp_path, {"alerts": raised, "alert_events": [ended], "drift_tests": tests, "runs": runs})
    seen = {n: report.morning(tmp_path, f"night-00{n}") for n in range(4)}
    assert {n: [a["alert_id"] for a in m.alerts] for n, m in seen.items()} == {0: [], 1: ["a1"], 2: [], 3: ["a3"]}
    assert {n: [a["alert_id"] for a in m.ended] for n, m in seen.items()} == {0: [], 1: [], 2: ["a1"], 3: []}
    assert {n: [c["monitor"] for c in m.checks] for n, m in seen.items()} == {0: [], 1: ["of day 1"], 2: ["of day 2"], 3: []}
    assert verdict_of(seen[1])[:2] == ("1 alert", "alarm")
    assert verdict_of(seen[1]).sentence == "MODEL: of day 1."
    assert [r["at"].date() for r in seen[2].rates.filter(metric="unsafe_rate").to_dicts()] == [day(0), day(1), day(2)]


def test_the_night_s_own_numbers_stand_for_it(tmp_path: Path) -> None:
    night(tmp_path, 0, 5, 100)
    night(tmp_path, 0, 9, 100, hour=7)
    rates = {
        run: report.morning(tmp_path, run).rates.filter(metric="unsafe_rate")["value"].to_list()
        for run in ("night-000", "night-000-7")
    }
    assert rates == {"night-000": [0.05], "night-000-7": [0.05, 0.09]}


def test_the_mix_is_told_by_category(tmp_path: Path) -> None:
    for n in range(8):
        observed(tmp_path, n, {"none": 900, "drug_abuse": 100 if n < 7 else 300})
    night(tmp_path, 8, 5, 100)
    html = page(report.morning(tmp_path, "night-008"))
    assert "drug_abuse rose 10.0% → 25.0%" in html
    assert "drug_abuse among the prompts of chat: 10.0% to 25.0%, 25.0% on 2026-01-12" in html


def at(n: float) -> datetime:
    return datetime.combine(FIRST, time(2), UTC) + timedelta(n)


def nights(*days: float, **more: object) -> list[Night]:
    return [Night(at(n), 0.1, None if more else 0.05, None if more else 0.2) for n in days]


AXIS = Axis(at(0), at(29), 0.0, 1.0, True)


def lines(svg: str) -> int:
    """How many unbroken lines of values are drawn."""
    return len(re.findall(r'<path d="M[^"]*" stroke="var\(--data\)"', svg))


def test_a_chart_breaks_where_nights_are_missing() -> None:
    assert lines(nights_chart(nights(*range(20)), AXIS, False)) == 1
    assert lines(nights_chart(nights(*range(10), *range(15, 20)), AXIS, False)) == 2
    assert lines(nights_chart(nights(0, 7, 14, 21), AXIS, False)) == 1
    assert nights_chart(nights(4), AXIS, True).count('fill="var(--worse)"') == 1


def test_nights_of_one_day_are_told_apart_by_their_time() -> None:
    drawn = nights_chart(nights(0, 0.1, 0.2, 0.3), Axis(at(0), at(0.3), 0.0, 1.0, True), False)
    assert lines(drawn) == 1
    assert [drawn.index(f">{time}<") for time in ("02:00", "04:24", "06:48", "09:12")]


def test_a_chart_draws_what_is_known() -> None:
    assert 'opacity="0.3"' in nights_chart(nights(1, 2), AXIS, False)
    assert 'opacity="0.3"' not in nights_chart(nights(1, 2, without=True), AXIS, False)
    other = [Night(at(1), 3.25, None, None), Night(at(2), 3.5, None, None, True)]
    drawn = nights_chart(other, AXIS._replace(low=None, high=None, percent=False), False)
    assert "stroke-dasharray" in drawn
    assert "%<" not in drawn
    assert "> 3 Feb" not in drawn
    assert ">3 Feb<" in drawn
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawn))
    assert colours <= {"none", "var(--data)", "var(--muted)", "var(--grid)", "var(--worse)"}


def test_a_waterfall_ends_where_the_rate_is_now() -> None:
    bars = [Bar("before", 5, 5, "end", "5.0%"), Bar("model", 5, 12, "worse", "+7.0"), Bar("now", 12, 12, "end", "12.0%")]
    drawn = waterfall_chart(bars)
    assert [drawn.index(f">{word}<") for word in ("before", "model", "now", "5.0%", "+7.0", "12.0%")]
    assert 'fill="var(--worse)"' in drawn
    assert "style=" not in drawn
