"""The iterations of a loop of specialised warps: pipelined products, and lazy rescaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eintune.kernels.emit.value_printer import literal
from eintune.space.ir.dtypes import SIXTEEN_BIT
from eintune.space.plan.lazy_rescaling import LazyRescaling
from eintune.space.plan.pipelined_product import PipelinedProduct
from eintune.space.plan.plan import Block, Loop
from eintune.space.plan.values import Cast, Dot, RowReference, RowScale, Scale, Value
from eintune.space.plan.warp_specialisation import run_in_background, sides

from .compute_printer import ComputePrinter
from .printer import IterationOrder
from .product_order import Start, Wait, in_background


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
        # What the moved values read of their own iteration outlives it under a second name, as the first is assigned
        # anew while the matrix unit may still read the old one.
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
        # No branch decides here whether filters are needed: they cost one iteration, and a branch around it would
        # double its code.
        with printer.nested(loop.rank, deeper=False), printer.iteration(loop, self._sweep, self._sweep.first, None):
            self._find(self._in_time)
            self._move(pipelined=False)

    def rest(self) -> None:
        """One loop over all iterations, but for the first where there is a pipelined product."""
        printer, loop, order = self._printer, self._loop, self._sweep
        peeled = self._pipelined is not None
        optional = printer.outside(loop, *printer.reached(loop, order, peeled)) if loop.joined else None
        name = printer.start[loop.rank]
        # Before the first tile no row has a reference. Relative to -inf a score's weight is inf, or NaN for a score
        # that is -inf itself; `watched` finds either, and the first iteration is weighed again.
        if self._lazy and not peeled:
            axes, dtype = self._lazy.reference.axes, self._lazy.reference.dtype
            printer.write(f"{self._serving} = {printer.full(axes, -math.inf, dtype)}")
        printer.write(f"for {name} in {order.range(peeled)}:")
        with printer.nested(loop.rank), printer.iteration(loop, order, name, optional):
            if self._pipelined is None:
                if self._lazy is None and run_in_background(loop):
                    self._in_background()
                else:
                    self._weigh(self._in_time)
                self._move(pipelined=True)
                return
            # From here on this is FlashAttention-3's intra-warpgroup pipelining (arXiv 2407.08608, section 3.2):
            # start this tile's scores, start the product of the tile before, and compute weights while the latter
            # runs.
            product = next(v for v in self._in_time if isinstance(v, Dot))
            at = self._in_time.index(product)
            self._print(self._in_time[:at])
            # Both are started before either is waited for. The matrix unit runs a group's instructions in the order
            # in which they were issued, so the scores, which are needed first, are issued first.
            printer.begin(product)
            # The product reads the tile of the iteration before, which lies one place back in its ring: slot and
            # phase are that turn's.
            with printer.before(printer.turn(loop, order, name, before=1), self._kept):
                running = self._start_pipelined()
            # Waits until at most one product is in flight, which leaves the pipelined one running. The wait gives the
            # accumulator back as a new value, so that nothing that reads it can be moved before the wait.
            printer.write(f"{printer.name(product)} = warpgroup_mma_wait(1, [{printer.name(product)}])")
            # Not before the wait: the matrix unit reads shared memory while it works, and the loader would copy the
            # next tile over what is still read.
            printer.release(product)
            self._weigh(self._in_time[at + 1 :])
            # Named again and not kept from above: a place is given back in the same terms in which it was taken.
            with printer.before(printer.turn(loop, order, name, before=1), self._kept):
                # After all elementwise work of this tile, which is what the product was to hide behind, and before
                # its weights replace those that the matrix unit may still read from registers.
                self._wait_pipelined(running)
            self._move(pipelined=True)

    def _in_background(self) -> None:
        """An iteration whose products are all done at its end (`product_order`)."""
        printer = self._printer
        values = [v for v in self._in_time if isinstance(v, Value)]
        lefts: dict[Value, str] = {}
        left_over = [v for v in values if isinstance(v, Dot)]
        done: list[Value] = []
        held = {x.tile.load for x in printer.vectors.values()}
        for step in in_background(values, {*printer.tiles, *printer.vectors}):
            match step:
                case Start(product):
                    left, _ = sides(product, printer.row)
                    if left not in printer.tiles:
                        lefts[product] = printer.here(f"{printer.name(left)}_left", printer.as_left(left, product))
                    printer.begin(product, lefts.get(product))
                case Wait(products, running):
                    # With the left operands, as in `_start_pipelined`.
                    names = [printer.name(v) for v in products] + [lefts[v] for v in products if v in lefts]
                    text = ", ".join(names)
                    printer.write(f"{text} = warpgroup_mma_wait({running}, [{text}])")
                    # The last product that reads a tile need not be the last that the plan has: they start in another
                    # order. What vectors come with is given back at the end, when those are read, too.
                    left_over = [v for v in left_over if v not in products]
                    reads = {x for v in left_over for x in v.args[:2]} | (held if left_over else set())
                    done += [x for v in products for x in v.args[:2]]
                    printer.give_back([x for n, x in enumerate(done) if x not in reads and x not in done[n + 1 :]])
                    done = [x for x in done if x in reads]
                case list(some):
                    self._print(some)

    def last(self) -> None:
        """The pipelined product of the last tile."""
        printer, loop = self._printer, self._loop
        assert self._pipelined is not None
        # After the loop the iteration variable is gone: the place is counted from where the last tile lies.
        with printer.before(printer.turn(loop, self._sweep, self._sweep.last), self._kept):
            self._wait_pipelined(self._start_pipelined())
        carry = self._pipelined.carry
        printer.write(f"{printer.name(carry.value)} = {printer.name(carry.next)}")

    def _start_pipelined(self) -> str:
        """Print the start of the pipelined product; returns the variables of its result and its left operand, which
        must not change until it is done."""
        assert self._pipelined is not None
        printer, product = self._printer, self._pipelined.product
        # The accumulator is scaled before its product starts, since that adds to it. In most iterations no maximum
        # moved and all factors are 1: `rescaled` asks a warp's lanes and skips the multiplications.
        for v in self._pipelined.values:
            if v.op == "mul" and v.args[0] is self._pipelined.carry.value and v.args[1].axes == (printer.row,):
                printer.rescale(v)
            elif v is not product:
                self._print([v])
        left, _ = sides(product, printer.row)
        printer.begin(product, self._kept[left])
        # The left operand belongs to what is waited for: it is in registers that the instruction reads while it runs,
        # and a register allocator that took them for free would hand them to the weights of the next tile.
        return f"{printer.name(product)}, {self._kept[left]}"

    def _wait_pipelined(self, running: str) -> None:
        assert self._pipelined is not None
        self._printer.write(f"{running} = warpgroup_mma_wait(0, [{running}])")
        self._printer.release(self._pipelined.carry.next)

    def _move(self, pipelined: bool) -> None:
        """Print the assignments that make an iteration's values the next one's. pipelined: whether the pipelined
        product of this iteration was waited for, so that its accumulator has a next value."""
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
            # Converted to the operand's layout now and not when the product starts: packed to 16 bits it takes half
            # the registers across the iteration.
            moves.append((name, printer.as_left(v, product) if is_left else printer.name(v)))
        if moves:
            # One assignment of all at once: a carry may be another one's next value.
            printer.write(f"{', '.join(name for name, _ in moves)} = {', '.join(text for _, text in moves)}")

    def _print(self, items: Sequence[Value | Loop]) -> None:
        self._printer.block(Block(self._loop.body.ranks, list(items)))

    def _guard(self) -> str | None:
        """The name of the reference with 0 for -inf; None where the plan guards it itself, or no reference is kept. A
        plan without a guard has proven that each row has a score in its first tile, but of loops that run upwards; this
        one runs from its end."""
        # Loops that keep a reference run from their ends (`IterationOrder`), so a row that has a score in the first
        # tile upwards may have none in the first downwards: its maximum is -inf, and -inf less -inf is NaN.
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
        # Only what follows the maximum reads the finite one. The carry keeps the -inf, or the next maximum would be
        # at least 0.
        with printer.renamed({found: self._finite or name}):
            self._print(items[after:])
        # Beyond the limit `RowFactor` gives a row another factor, while the weights of the usual case are computed
        # with one number for all rows. Such a row is marked as not served and weighed again each time.
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
        # Optimistic: nearly every tile's weights stay below the limit, so the common path has no maximum, no factor
        # and no branch that is taken. A wrong guess costs one evaluation more.
        self._weigh_as_it_is(lazy)
        total = printer.name(lazy.row_sum)
        # One test on a row's sum of weights is enough: it is no less than any of them, inf where one overflowed, and
        # NaN where the reference was no number. The comparison is true of NaN too (`gtu`: or unordered).
        printer.write(f"{total} = watched({total}, {self._place})")
        # Each warp takes the branch by itself: a warp holds whole rows (four lanes a row), so no row is half weighed,
        # and there is nothing in the branch that warps would have to do together.
        printer.write(f"if is_beyond({printer.start[self._loop.rank]}, {self._place}) != 0:")
        printer.helpers |= {"watched", "is_beyond"}
        with printer.nested(self._loop.rank):
            # The same names are assigned again, so what follows reads whichever weights are valid.
            self._find(lazy.recomputed)
        self._print(after)

    def _weigh_as_it_is(self, lazy: LazyRescaling) -> None:
        """The weights relative to the reference of the iteration before, from which nothing is transported. Rows that
        it serves have one factor, a number."""
        printer, kept = self._printer, lazy.rescale
        # What was to be brought up to date is what it was: the references are their old values, and the factor that
        # moves accumulators from one to the other is 1.
        for c in lazy.carries:
            printer.write(f"{printer.name(c.next)} = {printer.name(c.value)}")
        printer.write(f"{printer.name(kept)} = {printer.full(kept.axes, 1.0, kept.dtype)}")
        # A factor of each row would take a register a row and a multiplication more; as a number it is folded into
        # the multiply-add of the weights.
        numbers: dict[Value, float] = {v: v.factors.factor for v in lazy.weights if isinstance(v, RowScale)}
        # Nothing of the update is printed here, so whatever weights read of it must be found under the name of the
        # old reference.
        as_it_is = dict.fromkeys(lazy.max_update, printer.name(lazy.carry.value))
        with printer.renamed(as_it_is | {lazy.reference: self._serving}):
            for v in lazy.weights:
                if v in lazy.unread:
                    continue
                if isinstance(v, Scale) and v.args[0] in numbers:
                    numbers[v] = numbers[v.args[0]] * v.factor
                elif v.op == "mul" and v.args[1] in numbers:
                    text = f"{printer.use(v.args[0], v.axes)} * {literal(numbers[v.args[1]])}"
                    printer.write(f"{printer.name(v)} = {text}")
                # By an instruction that stays put: the compiler would otherwise sink the conversion below the branch
                # that may replace the weights, and carry them through it in twice the registers.
                elif isinstance(v, Cast) and v.dtype in SIXTEEN_BIT:
                    printer.narrow(v)
                elif isinstance(v, RowReference):
                    # A row whose reference is found in another way is weighed again each time: relative to -inf.
                    near = printer.use(v.args[0], v.axes)
                    ordinary = f"{printer.function('abs', [near])} < {literal(v.limit)}"
                    printer.write(f"{printer.name(v)} = {printer.choose(ordinary, near, literal(-math.inf))}")
                elif v not in numbers and v is not lazy.reference:
                    self._print([v])
