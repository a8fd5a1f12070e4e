"""Compute operators with their merge operators, `÷(←)`, `∨`'s `max(∪)`, `sub-then-exp(1)`: of actions and infix."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import pairwise

from .cursor import Cursor
from .grammar import CULLED, MERGES, REDUCE, REDUCE_MERGES, UNARY, fitting_merges
from .lexer import Token

_OPERANDS = ("tensor", "bracketed", "word", "number")
"""What begins an operand."""
_MERGES = frozenset({*MERGES, *MERGES.values()})


class Merges(Cursor):
    """A cursor that reads compute operators."""

    def named(self, operators: Container[str]) -> tuple[str, int]:
        """The compute operator that stands here, and its tokens: `×`, `max`, or one whose name has hyphens,
        `sub-then-exp`; ("", 0) if none does."""
        end = len(self.tokens) - 1
        for length in range(min(5, end - self.at), 0, -1):
            joined = self.tokens[self.at : self.at + length]
            name = "".join(t.text for t in joined)
            if name in operators and all(a.end == b.start for a, b in pairwise(joined)):
                return name, length
        return "", 0

    def operator(self, operators: Mapping[str, str], construct: str) -> str:
        """The same, taken."""
        name, length = self.named(operators)
        if not name:
            self.fail(f"{construct} computes by one of {list(operators)}, but got {self.peek().text!r}", self.peek())
        self.at += length
        return name

    def compute(self, operators: Mapping[str, str], construct: str) -> tuple[str, str]:
        """A compute operator and, in brackets, its merge operator ("" if none stands there): `×(∩)`."""
        token = self.peek()
        name = self.operator(operators, construct)
        op = operators[name]
        if self.peek().text != "(":
            return op, CULLED[op][-1] if name == "÷" else ""
        return op, self.fitting(name, op, operators, construct, token)

    def fitting(self, name: str, op: str, operators: Mapping[str, str], construct: str, token: Token) -> str:
        """A merge operator in brackets, under which `op`, here called `name`, may stand."""
        merge = self.brackets(self.merge, "a merge operator")
        fitting = REDUCE_MERGES if operators is REDUCE else fitting_merges(op)
        if merge not in fitting:
            self.fail(
                f"{construct} by {name} cannot merge by {merge}, which skips points that count; "
                f"those that fit are {list(fitting)}",
                token,
            )
        return merge

    def merge(self) -> str:
        token = self.next()
        text = token.text + (self.next().text if token.text == "<" else "")
        for name, plain in MERGES.items():
            if text in (name, plain):
                return name
        self.fail(f"a merge operator is one of {list(MERGES)} (plainly {list(MERGES.values())}), not {text!r}", token)

    def merge_starts(self, ahead: int = 0) -> bool:
        """Whether `(∩)` stands here: no operand is written so, but for `(1)`, which an operand follows."""
        texts = [self.peek(ahead + i).text for i in range(4)]
        if texts[0] != "(":
            return False
        if texts[1:3] == ["1", ")"]:
            return self.peek(ahead + 3).kind in _OPERANDS or texts[3] == "("
        return (texts[2] == ")" and texts[1] in _MERGES) or texts[1:] == ["<", "-", ")"]

    def unary(self) -> str | None:
        """The operator of one operand that stands here as an action, `σ()`, `exp(1)` or `exp`; taken."""
        name, length = self.named(UNARY)
        if not name:
            return None
        token = self.peek()
        self.at += length
        if self.peek().text == "(":
            if self.peek(1).text == ")":
                self.at += 2
            else:
                self.fitting(name, name, UNARY, "an action", token)
        return name
