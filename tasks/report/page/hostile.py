"""Hostile text made harmless for a web page."""

import re

from tasks.report.text import for_terminal

LONGEST = 3000  # characters of a text that are shown
CELL = 200  # characters of a cell

_LAID_OUT = re.compile(r"(\r?\n|\t)")


def for_page(value: object) -> object:
    """What the template shows for a value, before it escapes it: '–' for None, and text with control, escape and
    direction-changing characters as their code points, cut after LONGEST characters. Line ends and tabs stay: they lay a text
    out, and hide nothing."""
    if value is None:
        return "–"
    if type(value) is not str:  # Markup is what we made ourselves, and numbers hide nothing
        return value
    value = cut(value, LONGEST)
    return "".join(part if _LAID_OUT.fullmatch(part) else for_terminal(part) for part in _LAID_OUT.split(value))


def cut(text: str, most: int = CELL) -> str:
    """The text, of which at most so many characters are kept."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"
