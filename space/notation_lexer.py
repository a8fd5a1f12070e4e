"""Tokens of the EDGE notation, and the limits on what is read: text may come from an untrusted cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .einsum import CascadeError

MAX_CHARACTERS = 100_000
MAX_NESTING = 100
"""How deep brackets may nest; the printer keeps to it too."""
MAX_STATEMENTS = 1_000
MAX_RANKS = 128
"""Distinct ranks in one text."""
MAX_DIGITS = 18
"""Digits of an integer in a filter."""

CAPITALS = re.compile(r"[A-Z]+")

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+)
    |(?P<bracketed>[A-Za-z_][A-Za-z0-9_]*(?=\[))     # a name and its list in brackets: sum[m], Bias[m,p]
    |(?P<tensor>[A-Z]+)
    |(?P<word>[a-z_][A-Za-z0-9_]*)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<symbol>::|->|<=|>=|==|!=|/\\|\\/|//|[-+*/%^()\[\],|&:=<>×·−∧∨∩∪←→≤≥≠∞⋄])
    """,
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*?\*/|\#[^\n]*", re.DOTALL)
_SPELLINGS = {"−": "-", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "∧": "/\\", "∨": "\\/", "∞": "inf"}


@dataclass(frozen=True)
class Token:
    """`kind` is "bracketed", "tensor", "word", "number", "symbol" or "end"; columns count from 0."""

    kind: str
    text: str
    start: int
    end: int


def statements(text: str) -> list[tuple[int, list[Token]]]:
    """The lines that say something, with their numbers (from 1), as tokens that end in an "end" token.

    Comments are `/* … */` and `# …`. Raises CascadeError for text over the limits and unknown characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise CascadeError(f"a cascade's text has at most {MAX_CHARACTERS} characters, but this has {len(text)}")
    found = []
    for number, line in enumerate(_without_comments(text).split("\n"), 1):
        tokens = _tokens(line, number)
        if len(tokens) > 1:
            found.append((number, tokens))
    if len(found) > MAX_STATEMENTS:
        raise CascadeError(f"a cascade has at most {MAX_STATEMENTS} lines, but this has {len(found)}")
    return found


def _without_comments(text: str) -> str:
    blank = _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    if "/*" in blank:
        line = blank[: blank.index("/*")].count("\n") + 1
        raise CascadeError(f"line {line}: the comment `/*` is never closed; close it with `*/`")
    return blank


def _tokens(line: str, number: int) -> list[Token]:
    tokens, at = [], 0
    while at < len(line):
        match = _TOKEN.match(line, at)
        if not match or not match.lastgroup:
            raise CascadeError(f"line {number}, column {at + 1}: {line[at]!r} is no part of the notation")
        if match.lastgroup != "space":
            text = _SPELLINGS.get(match[0], match[0])
            kind = "word" if text == "inf" else match.lastgroup
            tokens.append(Token(kind, text, at, match.end()))
        at = match.end()
    return [*tokens, Token("end", "end of line", at, at)]
