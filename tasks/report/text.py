"""Hostile text made harmless for where it is shown: a terminal, a CSV file, a Markdown table."""

import re
import unicodedata

# How a cell starts that a spreadsheet runs (OWASP, CSV injection); the last four as East Asian keyboards write them.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#&!])")


def for_terminal(text: str) -> str:
    """`text` on one line without control, escape and direction-changing characters, each shown as its code point."""
    return "".join(c if _is_plain(c) else f"\\u{{{ord(c):x}}}" for c in text)


def for_csv(value: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front; anything else is as it was."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def for_markdown(text: str) -> str:
    """`text` as literal characters in a table cell."""
    return _MARKDOWN.sub(r"\\\1", for_terminal(text))


def _is_plain(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
