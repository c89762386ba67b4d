"""Texts without what names a person or opens a door: each find is replaced by what it was, in square brackets.

Patterns, in the order in which they are tried: web addresses, e-mail addresses, keys (JSON web tokens, PEM blocks, the prefixes
of common providers, bearer tokens, and 32 or more hexadecimal digits), IP addresses, telephone numbers, and six or more
digits with at most a separator between them (cards, accounts, dates in figures). Names and street addresses stay: no pattern
finds them. Every quantifier is possessive or bounded, so that the time is linear in the text.
"""

import re

_KEYS = (
    r"-----BEGIN [A-Z ]{1,40}-----[^-]{0,8000}+(?:-----END [A-Z ]{1,40}-----)?",
    r"\beyJ[\w-]{8,}+(?:\.[\w-]*+){1,2}",
    r"\b(?:sk|pk|rk)[-_][\w-]{16,}+",
    r"\b(?:gh[pousr]|github_pat|glpat|xox[abprs]|hf|npm|pypi)[-_][\w-]{10,}+",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\bAIza[\w-]{30,}+",
    r"\b[Bb]earer\s{1,3}[\w.~+/=-]{16,}+",
    r"\b[0-9a-fA-F]{32,}+\b",
)
_GROUP = r"[0-9a-fA-F]{1,4}"
PATTERNS = {
    "url": re.compile(r"\b(?:https?|ftp)://[^\s<>\"']++|\bwww\.[^\s<>\"']++", re.IGNORECASE),
    "email": re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}+@[\w-]{1,63}+(?:\.[\w-]{1,63}+){1,8}"),
    "key": re.compile("|".join(_KEYS)),
    "ip": re.compile(
        rf"(?<![\w.])(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.]*\d)|(?<![\w:])(?:{_GROUP}:){{7}}{_GROUP}(?![\w:])|"
        rf"(?<![\w:])(?:{_GROUP}:){{1,6}}(?::{_GROUP}){{1,6}}(?![\w:])"
    ),
    "phone": re.compile(
        r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(\d{1,5}\)[ .-]?)?|\(\d{2,5}\)[ .-]?|0\d{1,4}[ ./-])"
        r"\d{2,5}(?:[ .-]?\d{2,5}){1,4}(?!\w)"
    ),
    "number": re.compile(r"(?<!\d)\d(?:[ .-]?\d){5,}+"),
}  # fmt: skip


def redact(text: str) -> str:
    """`text` with a mark such as [email] in each find's place; a text without finds comes back as it is."""
    for name, pattern in PATTERNS.items():
        text = pattern.sub(f"[{name}]", text)
    return text
