import io
from typing import Any

from rich.console import Console

from tasks.report.rates import RATES, RateTable, markdown, rate_tables, terminal


def rate(slice_kind: str = "all", category: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of category_rates; `refused=0.5` sets a rate of that name with its interval."""
    row: dict[str, Any] = {"arm": "target", "benchmark_id": "starter", "judge": "refusal"}
    row |= {"slice_kind": slice_kind, "category": category, "n_scored": 8, "n_unscored": 1}
    for name in RATES:
        value = more.pop(name, "absent")
        known = value not in ("absent", None)
        row[name] = value if known else None
        row[f"{name}_n"] = None if value == "absent" else 8 if known else 0
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = (value - 0.05, value + 0.05) if known else (None, None)
    return row | more


def shown(table: RateTable) -> str:
    out = io.StringIO()
    Console(file=out, width=120, markup=False, highlight=False).print(terminal(table))
    return out.getvalue()


def test_a_rate_is_in_percent_with_its_interval():
    (table,) = rate_tables([rate(unsafe_rate=0.125, over_refusal_rate=0.5)])
    assert table.title == "target on starter, judged by refusal"
    assert table.header == ["slice", "scored", "unscored", "unsafe", "over-refusal"]
    assert table.rows == [["all", "8", "1", "12.5 [7.5, 17.5]", "50.0 [45.0, 55.0]"]]


def test_where_nothing_was_scored_there_is_a_dash():
    (table,) = rate_tables([rate(unsafe_rate=None)])
    assert table.rows == [["all", "8", "1", "-"]]


def test_a_rate_that_no_slice_has_is_no_column():
    (table,) = rate_tables([rate(unsafe_rate=0.5), rate("harm_category", "self_harm", full_refusal_rate=0.5)])
    assert table.header == ["slice", "scored", "unscored", "unsafe", "full refusal"]
    assert [row[3:] for row in table.rows] == [["50.0 [45.0, 55.0]", "-"], ["-", "50.0 [45.0, 55.0]"]]


def test_the_whole_comes_first_then_harms_then_categories():
    rows = [rate("category", "poems"), rate("harm_category", "self_harm"), rate(), rate("harm_category", "animal_abuse")]
    (table,) = rate_tables(rows)
    assert [row[0] for row in table.rows] == ["all", "animal_abuse", "self_harm", "poems"]


def test_a_category_that_is_a_harm_category_is_shown_once():
    (table,) = rate_tables([rate(), rate("harm_category", "self_harm"), rate("category", "self_harm"), rate("category", "x")])
    assert [row[0] for row in table.rows] == ["all", "self_harm", "x"]


def test_each_arm_benchmark_and_judge_has_a_table():
    rows = [rate(arm=a, benchmark_id=b, judge=j) for a in "ab" for b in "cd" for j in "ef"]
    assert [t.title for t in rate_tables(rows[::-1])] == [
        f"{a} on {b}, judged by {j}" for a in "ab" for b in "cd" for j in "ef"
    ]


def test_no_rates_are_no_tables():
    assert list(rate_tables([])) == []


def test_hostile_names_stay_text_on_a_terminal():
    hostile = "\x1b[31m[red]x[/red] [/] \u202e"
    text = shown(RateTable(hostile, ["slice"], [[hostile]]))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("[red]x[/red] [/]") == 2


def test_hostile_names_stay_text_in_markdown():
    hostile = "<script> | ![x](http://evil)\n# heading"
    lines = markdown(RateTable(hostile, ["slice", "scored"], [[hostile, "1"]])).splitlines()
    assert len(lines) == 5
    assert "<script>" not in "".join(lines).replace("\\<", "")
    assert lines[-1].count("|") - lines[-1].count("\\|") == 3


def test_markdown_is_a_table():
    (table,) = rate_tables([rate(unsafe_rate=0.125)])
    assert markdown(table).splitlines() == [
        "## target on starter, judged by refusal",
        "",
        "| slice | scored | unscored | unsafe |",
        "| --- | ---: | ---: | ---: |",
        "| all | 8 | 1 | 12.5 \\[7.5, 17.5\\] |",
    ]
