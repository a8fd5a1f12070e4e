"""The iterations of a loop of specialised warps: pipelined products, and lazy rescaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eintune.kernels.emit.value_printer import literal
from eintune.space.ir.dtypes import SIXTEEN_BIT
from eintune.space.plan.lazy_rescaling import LazyRescaling
from eintune.space.plan.pipelined_product import PipelinedProduct
from eintune.space.plan.plan import Block, Loop
from eintune.space.plan.values import Cast, Dot, Scale, Value
from eintune.space.plan.warp_specialisation import sides

from .compute_printer import ComputePrinter
from .printer import IterationOrder


class Iterations:
    """The iterations of one loop. Without a pipelined product all are alike. With one, the first starts none, the last
    one's comes after the loop. lazy: the reference that all but the first keep while it serves; place: the name of
    where they note that it does not."""

    def __init__(
        self,
        printer: ComputePrinter,
        loop: Loop,
        order: IterationOrder,
        pipelined: PipelinedProduct | None,
        lazy: LazyRescaling | None,
        place: str,
    ) -> None:
        self._printer, self._loop, self._pipelined = printer, loop, pipelined
        self._lazy, self._place = lazy, place
        self._sweep = order
        kept = pipelined.kept if pipelined else ()
        self._kept = {v: printer.names.fresh(f"{printer.name(v)}_before") for v in kept}
        moved = pipelined.values if pipelined else ()
        self._in_time = [v for v in loop.body.items if v not in moved]
        self._finite = self._guard()
        self._serving = printer.names.fresh("serving") if lazy else ""
        """The reference times the factor of its row's scores; -inf in rows that it does not serve: those without a
        score so far, and those whose scores are so large that their factor is another number."""

    def first(self) -> None:
        """The first iteration, which starts no pipelined product; its filters are evaluated."""
        printer, loop = self._printer, self._loop
        with printer.nested(loop.rank, deeper=False), printer.iteration(loop, self._sweep, self._sweep.first, None):
            self._find(self._in_time)
            self._move(pipelined=False)

    def rest(self) -> None:
        """One loop over all iterations, but for the first where there is a pipelined product."""
        printer, loop, order = self._printer, self._loop, self._sweep
        peeled = self._pipelined is not None
        optional = printer.outside(loop, *printer.reached(loop, order, peeled)) if loop.joined else None
        name = printer.start[loop.rank]
        if self._lazy and not peeled:
            axes, dtype = self._lazy.reference.axes, self._lazy.reference.dtype
            printer.write(f"{self._serving} = {printer.full(axes, -math.inf, dtype)}")
        printer.write(f"for {name} in {order.range(peeled)}:")
        with printer.nested(loop.rank), printer.iteration(loop, order, name, optional):
            if self._pipelined is None:
                self._weigh(self._in_time)
                self._move(pipelined=True)
                return
            product = next(v for v in self._in_time if isinstance(v, Dot))
            at = self._in_time.index(product)
            self._print(self._in_time[:at])
            printer.begin(product)
            with printer.before(printer.turn(loop, order, name, before=1), self._kept):
                running = self._start_pipelined()
            printer.write(f"{printer.name(product)} = warpgroup_mma_wait(1, [{printer.name(product)}])")
            printer.release(product)
            self._weigh(self._in_time[at + 1 :])
            with printer.before(printer.turn(loop, order, name, before=1), self._kept):
                self._wait_pipelined(running)
            self._move(pipelined=True)

    def last(self) -> None:
        """The pipelined product of the last tile."""
        printer, loop = self._printer, self._loop
        assert self._pipelined is not None
        with printer.before(printer.turn(loop, self._sweep, self._sweep.last), self._kept):
            self._wait_pipelined(self._start_pipelined())
        carry = self._pipelined.carry
        printer.write(f"{printer.name(carry.value)} = {printer.name(carry.next)}")

    def _start_pipelined(self) -> str:
        """Start the pipelined product; the names of what it works on."""
        assert self._pipelined is not None
        printer, product = self._printer, self._pipelined.product
        for v in self._pipelined.values:
            if v.op == "mul" and v.args[0] is self._pipelined.carry.value and v.args[1].axes == (printer.row,):
                printer.rescale(v)
            elif v is not product:
                self._print([v])
        left, _ = sides(product, printer.row)
        printer.begin(product, self._kept[left])
        return f"{printer.name(product)}, {self._kept[left]}"

    def _wait_pipelined(self, running: str) -> None:
        assert self._pipelined is not None
        self._printer.write(f"{running} = warpgroup_mma_wait(0, [{running}])")
        self._printer.release(self._pipelined.carry.next)

    def _move(self, pipelined: bool) -> None:
        """What one iteration leaves for the next."""
        printer = self._printer
        moves = [
            (printer.name(c.value), printer.name(c.next))
            for c in self._loop.carries
            if pipelined or self._pipelined is None or c is not self._pipelined.carry
        ]
        for v, name in self._kept.items():
            assert self._pipelined is not None
            product = self._pipelined.carry.next
            is_left = v is sides(product, printer.row)[0]
            moves.append((name, printer.as_left(v, product) if is_left else printer.name(v)))
        if moves:
            printer.write(f"{', '.join(name for name, _ in moves)} = {', '.join(text for _, text in moves)}")

    def _print(self, items: Sequence[Value | Loop]) -> None:
        self._printer.block(Block(self._loop.body.ranks, list(items)))

    def _guard(self) -> str | None:
        """The name of a reference that is finite, in a loop that runs from its end: a plan knows that no row is without
        a score as far as it has come, but that is said of loops that run upwards. None where the plan has one."""
        if self._lazy is None or self._lazy.guarded:
            return None
        return self._printer.names.fresh(f"{self._printer.name(self._lazy.carry.next)}_finite")

    def _find(self, items: Sequence[Value | Loop]) -> None:
        """Print values that bring a reference up to date, and those that are relative to it."""
        lazy, printer = self._lazy, self._printer
        if lazy is None:
            self._print(items)
            return
        found = lazy.carry.next
        name, after = printer.name(found), items.index(found) + 1
        self._print(items[:after])
        if self._finite:
            printer.write(f"{self._finite} = {printer.choose(f'{name} == {literal(-math.inf)}', '0.0', name)}")
        with printer.renamed({found: self._finite or name}):
            self._print(items[after:])
        ordinary = f"{printer.function('abs', [name])} < {literal(lazy.factor.factors.limit)}"
        reference = printer.name(lazy.reference)
        printer.write(f"{self._serving} = {printer.choose(ordinary, reference, literal(-math.inf))}")

    def _weigh(self, items: Sequence[Value | Loop]) -> None:
        """Print an iteration's values: with lazy rescaling, first as if it served, then in a branch again."""
        lazy, printer = self._lazy, self._printer
        if lazy is None:
            self._print(items)
            return
        before, after = lazy.around([v for v in items if isinstance(v, Value)])
        self._print(before)
        self._weigh_as_it_is(lazy)
        total = printer.name(lazy.row_sum)
        printer.write(f"{total} = watched({total}, {self._place})")
        printer.write(f"if is_beyond({printer.start[self._loop.rank]}, {self._place}) != 0:")
        printer.helpers |= {"watched", "is_beyond"}
        with printer.nested(self._loop.rank):
            self._find(lazy.recomputed)
        self._print(after)

    def _weigh_as_it_is(self, lazy: LazyRescaling) -> None:
        """The weights relative to the reference of the iteration before, from which nothing is transported. Rows that
        it serves have one factor, a number."""
        printer, kept = self._printer, lazy.rescale
        for c in lazy.carries:
            printer.write(f"{printer.name(c.next)} = {printer.name(c.value)}")
        printer.write(f"{printer.name(kept)} = {printer.full(kept.axes, 1.0, kept.dtype)}")
        numbers: dict[Value, float] = {lazy.factor: lazy.factor.factors.factor}
        as_it_is = dict.fromkeys(lazy.max_update, printer.name(lazy.carry.value))
        with printer.renamed(as_it_is | {lazy.reference: self._serving}):
            for v in lazy.weights:
                if isinstance(v, Scale) and v.args[0] in numbers:
                    numbers[v] = numbers[v.args[0]] * v.factor
                elif v.op == "mul" and v.args[1] in numbers and v is not lazy.reference:
                    text = f"{printer.use(v.args[0], v.axes)} * {literal(numbers[v.args[1]])}"
                    printer.write(f"{printer.name(v)} = {text}")
                elif isinstance(v, Cast) and v.dtype in SIXTEEN_BIT:
                    printer.narrow(v)
                elif v not in (lazy.factor, lazy.reference):
                    self._print([v])
