"""Texts of others on a terminal: nothing that they hold may move a cursor, colour a line or hide a word."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """The text with every character spelled out that is not printed as itself: controls and escapes, lone surrogates,
    marks that turn or hide what follows. keep: those that may stay ("\\n" where lines are wanted)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _spelled(c) for c in text)


def _spelled(c: str) -> str:
    """ "\\x1b" for an escape."""
    return c.encode("unicode_escape").decode("ascii")
