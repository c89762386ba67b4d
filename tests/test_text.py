import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.report.text import for_csv, for_markdown, for_terminal

MARKUP = "\\`*_{}[]<>|#&!"
VISIBLE = st.characters(exclude_categories=("C", "Z"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\u{1b}[31mred\\u{1b}[0m"),
        ("\x1b]8;;http://evil\x07click", "\\u{1b}]8;;http://evil\\u{7}click"),
        ("\x9b2J", "\\u{9b}2J"),
        ("one\ntwo\r\tthree", "one\\u{a}two\\u{d}\\u{9}three"),
        ("a\u202eb\u2066c\u200b", "a\\u{202e}b\\u{2066}c\\u{200b}"),
        ("\u2028\u2029\ufeff\x00", "\\u{2028}\\u{2029}\\u{feff}\\u{0}"),
        ("\U000e0041 tag", "\\u{e0041} tag"),
        ("\ud800", "\\u{d800}"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_its_code_point(text, shown):
    assert for_terminal(text) == shown


@pytest.mark.parametrize("text", ["", "plain", "café 漢字 العربية \U0001f600", "a b", "back\\slash [red]"])
def test_plain_text_stays_as_it_is(text):
    assert for_terminal(text) == text


@settings(deadline=None)
@given(st.text(st.characters()))
def test_nothing_that_steers_reaches_a_terminal(text):
    shown = for_terminal(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    assert shown.splitlines() in ([], [shown])
    assert for_terminal(shown) == shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_formula_is_defused(start):
    assert for_csv(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"


@pytest.mark.parametrize("value", ["", "text", "a=b", " =no", 7, -7, 0.5, -0.5, None, True])
def test_what_is_no_formula_stays_as_it_is(value):
    assert for_csv(value) is value


@settings(deadline=None)
@given(st.text())
def test_a_defused_cell_is_the_text_behind_at_most_an_apostrophe(text):
    assert for_csv(text) in (text, f"'{text}")
    assert not str(for_csv(text)).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>x</script>", "\\<script\\>x\\</script\\>"),
        ("![x](http://evil)", "\\!\\[x\\](http://evil)"),
        ("a | b", "a \\| b"),
        ("`code` **bold** _it_", "\\`code\\` \\*\\*bold\\*\\* \\_it\\_"),
        ("&lt;", "\\&lt;"),
        ("one\ntwo", "one\\\\u\\{a\\}two"),
        ("back\\|slash", "back\\\\\\|slash"),
    ],
)
def test_markdown_is_shown_as_it_was_written(text, shown):
    assert for_markdown(text) == shown


@settings(deadline=None)
@given(st.text(VISIBLE | st.just(" ")))
def test_each_character_of_markup_has_its_own_backslash(text):
    shown = iter(for_markdown(text))
    for character in text:
        if character in MARKUP:
            assert next(shown) == "\\"
        assert next(shown) == character
    assert next(shown, None) is None


@settings(deadline=None)
@given(st.text(st.characters()))
def test_a_markdown_cell_is_one_line(text):
    shown = for_markdown(text)
    assert shown.splitlines() in ([], [shown])
