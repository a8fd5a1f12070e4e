"""Tokens of the EDGE notation, and the limits on what is read: text may come from an untrusted cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eintune.space.ir.einsum import CascadeError

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
    |(?P<subscript>_(?=[{|A-Za-z0-9]))                # LaTeX's, at the start of a token: QK_{m,p}, S_i
    |(?P<command>\\[A-Za-z]+)
    |(?P<word>[a-z_][A-Za-z0-9_]*)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<symbol>::|->|<=|>=|==|!=|/\\|\\/|//|[-+*/%^()\[\]{},|&:=<>×÷·−∧∨⋀⋁∩∪←→≤≥≠∞⋄◇σ𝟙])
    """,
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*?\*/|\#[^\n]*", re.DOTALL)
_SPELLINGS = {
    **{"−": "-", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "∧": "/\\", "∨": "\\/", "⋀": "/\\", "⋁": "\\/"},
    **{"∞": "inf", "σ": "sigmoid", "𝟙": "1", "◇": "⋄"},
}
_COMMANDS = {
    **{
        "times": "×",
        "cdot": "·",
        "div": "÷",
        "leq": "<=",
        "le": "<=",
        "geq": ">=",
        "ge": ">=",
        "neq": "!=",
        "ne": "!=",
    },
    **{"bigwedge": "/\\", "wedge": "/\\", "bigvee": "\\/", "vee": "\\/", "cap": "∩", "cup": "∪"},
    **{
        "leftarrow": "←",
        "gets": "←",
        "to": "->",
        "rightarrow": "->",
        "diamond": "⋄",
        "lvert": "|",
        "rvert": "|",
        "vert": "|",
    },
    **{"infty": "inf", "sigma": "sigmoid", "max": "max", "min": "min", "exp": "exp", "log": "log", "ln": "log"},
    **{"tanh": "tanh", "sin": "sin", "cos": "cos", "sqrt": "sqrt", "frac": "\\frac"},
}
"""LaTeX's names of what the notation has."""
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathit|mathbb|operatorname)\{([^{}\n]*)\}")
_SPACING = re.compile(r"\\(?:left|right|quad|qquad)(?![A-Za-z])|(?<!/)\\[,;:!]")


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
    blank = _WRAPPED.sub(lambda m: m[1].rjust(len(m[0])), blank)  # columns stay
    blank = _SPACING.sub(lambda m: " " * len(m[0]), blank)
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
            text = _text(match[0], number, at)
            tokens.append(Token(_kind(text, match.lastgroup), text, at, match.end()))
        at = match.end()
    return [*tokens, Token("end", "end of line", at, at)]


def _text(found: str, number: int, at: int) -> str:
    """How the reader knows a token, whichever way it is spelled."""
    if not found.startswith("\\") or len(found) == 1 or not found[1].isalpha():
        return _SPELLINGS.get(found, found)
    if found[1:] not in _COMMANDS:
        known = " ".join("\\" + c for c in sorted(_COMMANDS))
        raise CascadeError(f"line {number}, column {at + 1}: {found} is no command of the notation; there are {known}")
    return _COMMANDS[found[1:]]


def _kind(text: str, group: str) -> str:
    if group not in ("symbol", "command", "subscript"):
        return group
    return "number" if text == "1" else "word" if text.isascii() and text.isalpha() else "symbol"
