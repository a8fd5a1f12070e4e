"""What a rank of a plan is iterated by, and the part of a loop that one kernel runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eintune.space.ir.expr import Rank

from .refusals import RuleError


class IllegalPlan(RuleError):
    """A cascade that this schedule cannot lay out; the message names the rule and the value."""


@dataclass(frozen=True)
class Role:
    """What a schedule does with one rank.

    outer: "grid" (programs iterate it), "loop" (one program iterates it), or None (all of it at once).
    tile: length of the tile axis; None means the rank is a scalar index inside the program (no axis).
    (None, tile) is a whole axis, padded to `tile`.
    num_splits: a loop may be divided into so many parts, each run by a program of its own (split-K, split-KV); another
    kernel merges them.
    pack: (None, None) with the rank whose tiles run over this one too, as many rows as both have indices.
    """

    outer: Literal["grid", "loop"] | None
    tile: int | None
    num_splits: int = 1
    pack: Rank | None = None

    def to_json(self) -> list[str | int | None]:
        """The fields in order, up to the last that is not as usual."""
        if self.pack:
            return [self.outer, self.tile, self.num_splits, self.pack]
        return [self.outer, self.tile, *([self.num_splits] if self.num_splits > 1 else [])]


@dataclass(frozen=True)
class LoopSplit:
    """The part of a loop that a program runs: [rank * length, (rank + 1) * length), `rank` being a grid rank. length:
    elements, or the name of the size that says how many, where that is not known."""

    rank: Rank
    length: int | Rank


def split_length(size: int, tile: int, num_splits: int) -> int:
    """Elements of one of at most `num_splits` parts of a rank. A whole number of tiles, so that only the last part may
    be shorter."""
    tiles = -(-size // tile)
    return -(-tiles // num_splits) * tile
