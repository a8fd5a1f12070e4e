"""S-expressions, as egglog writes them: `(let $S (R_add_e $Q))   ; a comment`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.ir.einsum import CascadeError

from .lexer import MAX_NESTING

_TOKEN = re.compile(r'\s+|;[^\n]*|(?P<string>"(?:[^"\\]|\\.)*")|(?P<bracket>[()])|(?P<atom>[^\s()";]+)')
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf)|NaN|nan")


@dataclass(frozen=True)
class Call:
    """`(head child …)`; a child is a call, a name, a string or a number."""

    head: str
    children: tuple[Term, ...]


@dataclass(frozen=True)
class Name:
    text: str


Term: TypeAlias = Call | Name | str | float


def commands(text: str) -> list[Term]:
    """A program's top level; brackets are matched without recursion. Raises CascadeError with the character."""
    stack: list[list[Term]] = [[]]
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise CascadeError(f"character {at + 1}: {text[at]!r} is no part of a program (an open string?)")
        at = match.end()
        if match["string"]:
            stack[-1].append(string_of(match["string"]))
        elif match["atom"]:
            atom = match["atom"]
            stack[-1].append(float(atom) if NUMBER.fullmatch(atom) else Name(atom))
        elif match["bracket"] == "(":
            stack.append([])
            if len(stack) > MAX_NESTING:
                raise CascadeError(f"character {at}: brackets nest at most {MAX_NESTING} deep")
        elif match["bracket"]:
            _close(stack, at)
    if len(stack) > 1:
        raise CascadeError(f"{len(stack) - 1} brackets are never closed")
    return stack[0]


def _close(stack: list[list[Term]], at: int) -> None:
    if len(stack) == 1:
        raise CascadeError(f"character {at}: `)` closes nothing")
    items = stack.pop()
    head = items[0] if items else None
    if isinstance(head, Name):
        stack[-1].append(Call(head.text, tuple(items[1:])))
    else:
        stack[-1].append(Call("", tuple(items)))  # a list of facts or of sorts, which only rules and sorts have


def string_of(token: str) -> str:
    """The text of a token in quotes."""
    return re.sub(r"\\(.)", r"\1", token[1:-1])
