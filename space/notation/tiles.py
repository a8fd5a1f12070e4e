"""An axis that is addressed in tiles: `m1×M0+m0`, in whichever order and with whatever brackets it is written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from eintune.space.ir.expr import Computed, Index, Rank, Size

from .cursor import Cursor
from .lexer import Token

_TIMES = ("×", "*", "·")
_MORE = ("//", "%", "*", "×", "·", "+", "-")


@dataclass(frozen=True)
class _Sum:
    """Where `m1×M0+m0` has its parts: places of tokens from here. named: whether its size is a capital and a digit."""

    outer: int
    size: int
    inner: int
    length: int
    named: bool


def parts_of(i: Index) -> tuple[Rank, Rank] | None:
    """(m1, m0) of `m1 * |m0| + m0`."""
    match i:
        case Computed("add", (Computed("mul", (str() as outer, Size(size))), str() as inner)) if size == inner:
            return outer, inner
        case _:
            return None


def common(outer: Rank, inner: Rank) -> Rank | None:
    """m of m1 and m0."""
    return outer[0] if outer[0] == inner[0] and outer[0] not in (outer, inner) else None


class Tiles(Cursor):
    """A cursor that reads such an index."""

    def tile_starts(self, braces: bool, ahead: int = 0) -> bool:
        """Whether one stands here, which without braces no expression can be: a rank is no value."""
        return self._sum(braces, ahead) is not None

    def tile(self, braces: bool) -> Index:
        """The one that stands here."""
        found, token = self._sum(braces, 0), self.peek()
        assert found is not None
        end = self.at + found.length
        outer, size, inner = (self._read(self.at + at) for at in (found.outer, found.size, found.inner))
        self.at = end
        if size != inner or inner == outer:
            self.fail(
                f"an axis in tiles is addressed by tile, times the size of one, plus the place in it "
                f"({outer}*|{inner}|+{inner}), but got {outer}*|{size}|+{inner}",
                token,
            )
        return Computed("add", (Computed("mul", (outer, Size(inner))), inner))

    def fail_unnamed(self, name: str, outer: Rank, inner: Rank, token: Token) -> NoReturn:
        """The whole axis is called as its parts are without digits, or as a declaration says."""
        self.fail(
            f"{name}: its axis in tiles {outer} and {inner} needs a name of its own: declare "
            f"`input {name}[…]` on a line above",
            token,
        )

    def _sum(self, braces: bool, ahead: int) -> _Sum | None:
        opening = int(self.peek(ahead).text == "(")
        first = ahead + opening
        found = self._in_order(first)
        if found is None:
            return None
        last = first + found.length
        if opening and self.peek(last).text != ")":
            return None
        whole = _Sum(found.outer, found.size, found.inner, last + opening - ahead, found.named)
        if braces:  # more arithmetic is no tile
            return whole if self.peek(last + opening).text not in _MORE else None
        tokens = [self.peek(i) for i in range(ahead, last + opening)]
        close = all(a.end == b.start for a, b in pairwise(tokens))
        return whole if close or found.named else None

    def _in_order(self, at: int) -> _Sum | None:
        """`m1×M0+m0` or `m0+m1×M0`, here."""
        if product := self._product(at):
            outer, size, length, named = product
            if self.peek(at + length).text == "+" and self.index_starts(at + length + 1):
                return _Sum(outer, size, at + length + 1, length + 2, named)
        elif self.index_starts(at) and self.peek(at + 1).text == "+" and (product := self._product(at + 2)):
            outer, size, length, named = product
            return _Sum(outer, size, at, length + 2, named)
        return None

    def _product(self, at: int) -> tuple[int, int, int, bool] | None:
        """`m1×M0` or `M0×m1`, here: where the rank and the size stand, the tokens, and whether the size is named."""
        size = self._size_length(at)
        if size and self.peek(at + size).text in _TIMES and self.index_starts(at + size + 1):
            return at + size + 1, at, size + 2, size == 2
        if self.index_starts(at) and self.peek(at + 1).text in _TIMES and (size := self._size_length(at + 2)):
            return at, at + 2, size + 2, size == 2
        return None

    def _size_length(self, at: int) -> int:
        """The tokens of `M0` or `|m0|`, here; 0 if there is none."""
        return self.capital(at) or 3 * (self.peek(at).text == self.peek(at + 2).text == "|")

    def _read(self, at: int) -> Rank:
        self.at, before = at, self.at
        is_rank = self.peek().kind == "word"
        rank = (
            self.rank("a tensor's index")
            if is_rank
            else self.size()
            if self.peek().text == "|"
            else self.capital_size()
        )
        self.at = before
        return rank
