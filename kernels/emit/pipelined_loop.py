"""Prints a loop whose last product runs one iteration later (`space.plan.pipelined_product`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from eintune.space.ir.expr import Rank
from eintune.space.plan.pipelined_product import PipelinedProduct
from eintune.space.plan.plan import Block, Loop, Segment
from eintune.space.plan.values import Dot, Load, Value

from .printer import Printer


class PipelinedLoop:
    """One segment [low, high) of a loop, its only one. Before it, what is kept is 0; in it, the product works on the
    tile before, in the first iteration on one beyond the rank's end, whose elements load as 0; after it, on the last
    tile."""

    def __init__(
        self, printer: Printer, loop: Loop, pipelined: PipelinedProduct, segment: Segment, ends: tuple[str, str]
    ) -> None:
        self._printer, self._loop, self._pipelined, self._segment = printer, loop, pipelined, segment
        self._low, self._high = ends
        self._known = printer.known
        self._kept = {v: printer.names.fresh(f"{printer.name(v)}_before") for v in pipelined.kept}
        # Zeros times a tile that loads as zeros: the product before the first tile adds nothing, and no branch is
        # needed for it.
        for v, name in self._kept.items():
            printer.write(f"{name} = {printer.full(v.axes, 0.0, v.dtype)}")

    def body(self) -> None:
        """The values of one iteration: loads together, then up to the last product in time, the one that
        is an iteration behind, the rest."""
        printer, rank, pipelined = self._printer, self._loop.rank, self._pipelined.values
        first = printer.start[rank]
        # Before the first iteration there is no tile; one beyond the rank's end is masked to zeros, where a tile
        # before its start would be a wrong address.
        text = printer.choose(f"{first} > {self._low}", f"{first} - {self._loop.tile}", printer.size(rank))
        before = printer.define(f"{rank}_before", text, rank)
        in_time = [x for x in printer.ordered(self._loop.body.items) if x not in pipelined]
        loads = next(i for i, x in enumerate(in_time) if not isinstance(x, Load))
        after = 1 + max(i for i, x in enumerate(in_time) if isinstance(x, Dot))
        # All loads of an iteration together: the compiler gives neighbours one wait.
        self._print(in_time[:loads])
        with self._at(before, beyond=rank):
            self._print([v for v in pipelined if isinstance(v, Load)])
        self._print(in_time[loads:after])
        # Between the product in time and the elementwise work that waits for it: in program order the matrix unit
        # then has this product to do while weights are computed.
        with self._at(before):
            self._print([v for v in pipelined if not isinstance(v, Load)])
        self._print(in_time[after:])

    def moves(self) -> list[tuple[str, str]]:
        """What is kept for the next iteration: (variable, what it becomes)."""
        return [(name, self._printer.name(v)) for v, name in self._kept.items()]

    def finish(self) -> None:
        """The product of the last tile, if there was one."""
        printer, carry = self._printer, self._pipelined.carry
        last, always = printer.here(f"{self._loop.rank}_last", self._last()), self._runs_always()
        # A loop without iterations has no last tile.
        if not always:
            printer.write(f"if {self._low} < {self._high}:")
        with printer.nested(self._loop.rank, deeper=not always):
            with self._at(last):
                self._print(self._pipelined.values)
            printer.write(f"{printer.name(carry.value)} = {printer.name(carry.next)}")

    def _runs_always(self) -> bool:
        bounds = self._printer.bounds
        (_, low), (high, _) = (bounds.span(bounds.simple(end)) for end in (self._segment.lo, self._segment.hi))
        return low < high

    def _last(self) -> str:
        """The first index of the last tile."""
        low, high, tile = self._low, self._high, self._loop.tile
        if low.isdigit() and high.isdigit():
            return str(int(low) + (int(high) - 1 - int(low)) // tile * tile)
        return f"({high} - 1) // {tile} * {tile}" if low == "0" else f"{low} + ({high} - 1 - {low}) // {tile} * {tile}"

    def _print(self, items: Sequence[Value | Loop]) -> None:
        self._printer.block(Block(self._loop.body.ranks, list(items)))

    @contextmanager
    def _at(self, first: str, beyond: Rank | None = None) -> Iterator[None]:
        """Prints for the tile that starts at `first`, of which nothing is known, from what was kept of it."""
        printer, rank = self._printer, self._loop.rank
        start, known, text = printer.start[rank], printer.known, dict(printer.text)
        printer.start[rank], printer.known, printer.beyond = first, self._known, beyond
        printer.text.update(self._kept)
        yield
        printer.start[rank], printer.known, printer.text, printer.beyond = start, known, text, None
