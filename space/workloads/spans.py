"""Modifiers of sequences that are packed one after another, or that end anywhere: each query has keys of its own, from
one to another, which integers beside it name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from eintune.space.cascade.builder import apply
from eintune.space.cascade.problem import Values
from eintune.space.ir.expr import NEG_INF, Expr, Iota, Rank
from eintune.space.tracing.site import Site

from .modifiers import Modifier, Slopes, check_axes
from .workload import INTEGERS

FIRST, END, PLACE = "FIRST", "END", "AT"
"""What the integers are called: the first key, the one after the last, and the one that a query stands at."""


@dataclass(frozen=True)
class Spans(Modifier):
    """A query sees key m where FIRST <= m < END, whole numbers over `axes`, "bp" or "b"; none where END <= FIRST.

    Causal filters and windows of sequences that are packed come to this: each ends for a query where it stands.
    sequences, causal: what is drawn, so many packed sequences of one length (0: any stretches, or over "b" the keys up
    to any), which a query sees up to where it stands: the last one at the last key. Raises ValueError for a number
    below 0.
    """

    axes: str = "bp"
    sequences: int = 0
    causal: bool = False
    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_axes("spans", self.axes)
        if type(self.sequences) is not int or self.sequences < 0:
            raise ValueError(f"`packed` must be a number of sequences, but got {self.sequences!r}")

    def apply(self, score: Expr, site: Site) -> Expr:
        first, end = (site.tensor(name, self.axes, "int") for name in (FIRST, END))
        seen = apply("and", apply("ge", Iota("m"), first), apply("lt", Iota("m"), end))
        return apply("select", seen, score, NEG_INF)

    @property
    def tensors(self) -> Mapping[str, str]:
        return {FIRST: self.axes, END: self.axes}

    @property
    def dtypes(self) -> Mapping[str, str]:
        return dict.fromkeys(self.tensors, INTEGERS)

    def drawn(self, sizes: Mapping[Rank, int]) -> Mapping[str, Values]:
        rows, keys, count = sizes["p"], sizes["m"], self.sequences
        if not count:
            return {FIRST: Values(0, 1), END: Values(1, keys + 1)} if self.axes == "b" else {}
        if self.causal:  # the first query stands at the first key, or of one sequence the last at the last
            end = Values(1 if count > 1 else keys - rows + 1, keys + 1, steps=rows)
        else:
            end = Values(keys / count, keys + keys / count, steps=count)
        return {FIRST: Values(0, keys, steps=count), END: end}

    @property
    def words(self) -> str:
        if self.sequences:
            packed = f"{self.sequences} packed sequences" if self.sequences > 1 else "all keys of each"
            return packed + (", causal" if self.causal else "")
        return "spans" if self.axes == "bp" else "keys up to a length"

    @property
    def slug(self) -> str:
        if self.sequences:
            packed = f"packed{self.sequences}" if self.sequences > 1 else "whole"
            return packed + ("-causal" if self.causal else "")
        return "spans" if self.axes == "bp" else "lengths"


@dataclass(frozen=True)
class PlacedSlopes(Slopes):
    """`Slopes` of queries that stand at key AT, a whole number over `axes`, "bp" or "b"."""

    axes: str = "bp"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("alibi", self.axes)

    def ahead(self, site: Site) -> Expr:
        return Iota("m") - site.tensor(PLACE, self.axes, "int")

    @property
    def tensors(self) -> Mapping[str, str]:
        return {**super().tensors, PLACE: self.axes}

    @property
    def dtypes(self) -> Mapping[str, str]:
        return {**super().dtypes, PLACE: INTEGERS}

    def drawn(self, sizes: Mapping[Rank, int]) -> Mapping[str, Values]:
        keys, rows = sizes["m"], sizes["p"]
        return {**super().drawn(sizes), PLACE: Values(0, keys, steps=rows) if self.axes == "bp" else Values(0, keys)}

    @property
    def words(self) -> str:
        return f"{super().words} from places"

    @property
    def slug(self) -> str:
        return f"{super().slug}-placed"
