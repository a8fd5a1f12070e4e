"""What addresses an axis, both ways: `m`, `m//64`, `BT[b,j]`, `p-m+3`, `min(abs(p-m),|m|-1)`, `h*|g|+g`.

A text and its index determine each other: sums and products associate to the left, brackets stand where they must.
"""

from __future__ import annotations

from collections.abc import Callable

from eintune.space.ir.expr import Access, Computed, Gather, Index, Integer, Part, Rank, Size
from eintune.space.ir.index_arithmetic import OPERATORS

from .cursor import Cursor
from .filters import read_integer

SUMS = {"+": "add", "-": "sub"}
PRODUCTS = {"*": "mul", "×": "mul"}
SYMBOLS = {"add": "+", "sub": "-", "mul": "*"}
CALLED = ("abs", "max", "min")
_SUM, _PRODUCT, _ATOM = range(3)
MOST_OPERANDS = 64
"""In one index: text may come from anywhere."""
MOST_NESTING = 16
"""How deep an index may nest: brackets, calls and accesses in it."""


def read_index(line: Cursor, indexed: Callable[[], Access | Gather]) -> Index:
    """indexed: reads an access that stands in brackets."""
    token = line.peek()
    line.index_nesting += 1
    if line.index_nesting > MOST_NESTING:
        line.fail(f"an index nests at most {MOST_NESTING} deep", token)
    found = _Reader(line, indexed).sum()
    line.index_nesting -= 1
    if isinstance(found, (int, Size)):
        line.fail("a tensor's index varies with a rank or an element: a number alone addresses nothing", token)
    return found


class _Reader:
    def __init__(self, line: Cursor, indexed: Callable[[], Access | Gather]) -> None:
        self.line, self.indexed = line, indexed
        self.operands = 0

    def sum(self) -> Integer:
        return self.joined(SUMS, lambda: self.joined(PRODUCTS, self.signed))

    def joined(self, symbols: dict[str, str], operand: Callable[[], Integer]) -> Integer:
        left = operand()
        while token := self.line.take(*symbols):
            left = Computed(symbols[token.text], (left, operand()))
        return left

    def signed(self) -> Integer:
        if not self.line.take("-"):
            return self.atom()
        if self.line.peek().kind == "number":
            return -read_integer(self.line)
        return Computed("neg", (self.atom(),))

    def atom(self) -> Integer:
        line, token = self.line, self.line.peek()
        self.operands += 1
        if self.operands > MOST_OPERANDS:
            line.fail(f"an index is computed of at most {MOST_OPERANDS} operands", token)
        if token.kind == "bracketed":
            return self.indexed()
        if line.capital():
            return Size(line.capital_size())
        if token.kind == "tensor":
            line.fail(f"inside an index a tensor's ranks stand in brackets: {token.text}[…]", token)
        if token.kind == "number":
            return read_integer(line)
        if token.text == "|":
            return Size(line.size())
        if token.text == "(":
            return self.nested(lambda: line.brackets(self.sum, "an index"))
        if token.text in CALLED:
            line.next()
            return self.nested(lambda: self.call(token.text))
        rank = line.rank("a tensor's index")
        part = line.take("//", "%")
        return Part(part.text, rank, read_integer(line)) if part else rank

    def nested(self, inside: Callable[[], Integer]) -> Integer:
        self.line.index_nesting += 1
        if self.line.index_nesting > MOST_NESTING:
            self.line.fail(f"an index nests at most {MOST_NESTING} deep", self.line.peek())
        found = inside()
        self.line.index_nesting -= 1
        return found

    def call(self, op: str) -> Integer:
        def arguments() -> tuple[Integer, ...]:
            found = [self.sum()]
            while len(found) < OPERATORS[op].arity:
                self.line.expect(",", op)
                found.append(self.sum())
            return tuple(found)

        return Computed(op, self.line.brackets(arguments, op))


def write_index(i: Index, rank: Callable[[Rank], str], indexed: Callable[[Access | Gather], str]) -> str:
    """rank, indexed: write a rank and an access."""

    def write(x: Integer) -> tuple[str, int]:
        match x:
            case str():
                return rank(x), _ATOM
            case Part():
                return f"{rank(x.rank)}{x.op}{x.by}", _ATOM
            case Access() | Gather():
                return indexed(x), _ATOM
            case Size():
                return f"|{rank(x.rank)}|", _ATOM
            case Computed("neg", (a,)):
                text, level = write(a)
                return f"-({text})" if level < _ATOM or text[0] in "-0123456789" else f"-{text}", _ATOM
            case Computed() if x.op in SYMBOLS:
                level = _PRODUCT if x.op == "mul" else _SUM
                (left, own), (right, other) = map(write, x.args)
                left = left if own >= level else f"({left})"
                right = right if other > level and not right.startswith("-") else f"({right})"
                return f"{left}{SYMBOLS[x.op]}{right}", level
            case Computed():
                return f"{x.op}({','.join(write(a)[0] for a in x.args)})", _ATOM
            case int():
                return str(x), _ATOM

    return write(i)[0]
