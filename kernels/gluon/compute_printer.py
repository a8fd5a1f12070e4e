"""What a computing group of specialised warps prints: the plan on 64 rows, its products in the background."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from eintune.kernels.emit.printer import Branch
from eintune.kernels.emit.source_lines import INDENT
from eintune.kernels.emit.triton_dialect import DTYPES
from eintune.kernels.emit.value_printer import literal
from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import Loop, LoopPlan
from eintune.space.plan.predication import source, unneeded
from eintune.space.plan.repair import GROUPS
from eintune.space.plan.values import Dot, Load, Store, TileReduce, Value
from eintune.space.plan.warp_specialisation import GROUP_ROWS, GROUP_WARPS, groups, length, products_of, sides, tile_of
from eintune.space.schedule.schedule import Schedule

from .helpers import NARROWED
from .printer import GluonPrinter, IterationOrder, PipelineSlot
from .shared_tiles import SharedTiles, SharedVector
from .work_queue import WorkQueue

WIDEST = 256
"""Columns of one matrix instruction's result."""


class ComputePrinter(GluonPrinter):
    """Prints what each computing group does on its 64 rows, all but its loops (`compute`)."""

    def __init__(
        self,
        plan: LoopPlan,
        schedule: Schedule,
        row: Rank,
        tiles: Sequence[SharedTiles],
        vectors: Sequence[SharedVector],
        entry: str,
        queue: WorkQueue | None = None,
    ) -> None:
        super().__init__(plan, schedule, row, tiles, vectors, entry, queue)
        # Row vectors (references, sums) are shared by tiles of different widths and have one layout only: that of the
        # first product's tile.
        self._main = products_of(plan)[0].axes[1]
        self._slot = PipelineSlot("0", "0")
        self._arrived: set[Value] = set()
        """The tiles of rings that were waited for in this iteration."""
        self.layouts: dict[str, str] = {}
        """The name of a layout -> what makes it."""
        self.staged: dict[tuple[str, tuple[int, ...]], tuple[str, str]] = {}
        """(Output, block) -> the variables of its descriptor, and of the shared memory in which a group assembles its
        block before TMA stores it."""
        # `group` is a constant of each group's code (`gl.constexpr`), so this is an addition and no test.
        if groups(schedule.warps) > 1:
            own = self.names.fresh(f"{row}_own")
            self.prologue(f"{own} = {self.own_first('group')}")
            self.start[row] = own

    # ---- layouts

    def layout(self, axes: tuple[Rank, ...]) -> str:
        """The name of a tile's layout: of (rows, columns), of rows, or of columns."""
        # A number a row is held where the row's elements are, in the four lanes that share it: a reduction along the
        # row ends there, and spreading it over the row again moves nothing.
        if axes == (self.row,):
            return self._rows((self.row, self._main))
        if len(axes) == 1:
            tile = self.layout((self.row, *axes))
            return self._layout(f"{tile}_COLUMNS", f"gl.SliceLayout(0, {tile})")
        # wgmma's result: 64 rows, 16 for each of four warps, and at most 256 columns an instruction; wider tiles are
        # several instructions side by side.
        columns = min(self.length(axes[1]), WIDEST)
        # Every tile has this layout, not products alone: an elementwise operation between two products then works on
        # what a thread has, and nothing crosses threads.
        text = f"gl.NVMMADistributedLayout([3, 0], [{GROUP_WARPS}, 1], [16, {columns}, 16])"
        return self._layout("_".join(axes).upper(), text)

    def _rows(self, axes: tuple[Rank, ...]) -> str:
        """The layout of the rows of a tile."""
        tile = self.layout(axes)
        return self._layout(f"{tile}_ROWS", f"gl.SliceLayout(1, {tile})")

    def as_left(self, v: Value, product: Value) -> str:
        """A computed value as the left operand of a product."""
        tile = self.layout(product.axes)
        # Two 16-bit numbers a register, as wgmma takes its left operand. Rounded to 16 bits a result's fragments are
        # in the right threads already: the conversion packs and moves nothing.
        layout = self._layout(f"{tile}_LEFT", f"gl.DotOperandLayout(0, {tile}, 2)")
        return f"gl.convert_layout({self.name(v)}, {layout})"

    def _layout(self, name: str, text: str) -> str:
        """A name for a layout, of this kernel among those of its module."""
        name += self.entry.removeprefix("kernel").upper()
        self.layouts.setdefault(name, text)
        return name

    def length(self, axis: Rank) -> int:
        """Elements of an axis of a group's tile."""
        return length(self.plan, axis, self.row) or 1

    def _lanes(self, axis: Rank) -> str:
        text = f"gl.arange(0, {self.length(axis)}, {self.layout((axis,))})"
        return self.define(f"lane_{axis}", text, None)

    def full(self, axes: tuple[Rank, ...], value: float, dtype: str) -> str:
        if not axes:
            return super().full(axes, value, dtype)
        shape = ", ".join(str(self.length(q)) for q in axes)
        return f"gl.full([{shape}], {literal(value)}, {DTYPES[dtype]}, {self.layout(axes)})"

    def use(self, v: Value, axes: tuple[Rank, ...]) -> str:
        return self.spread(self.name(v), v.axes, axes)

    def at(self, rank: Rank, axes: tuple[Rank, ...]) -> str:
        return self.spread(self.index(rank), (rank,), axes) if self.tiled(rank) else self.scalar[rank]

    def spread(self, text: str, have: tuple[Rank, ...], want: tuple[Rank, ...]) -> str:
        """A value with axes `have` as an operand over `want`: a vector of rows is brought into the layout of that
        tile's rows, and broadcast."""
        # Another tile's rows lie in the same threads, whatever its width. `assert_trivial` has the compiler fail if
        # that ever ceased to hold, rather than exchange vectors through shared memory in each iteration.
        if have == (self.row,) and len(want) == 2 and want[1] != self._main:
            text = f"gl.convert_layout({text}, {self._rows(want)}, assert_trivial=True)"
        return text + self.broadcast(have, want)

    def expression(self, v: Value) -> str:
        if v.op in ("div", "quotient") and len(v.axes) == 2 and v.args[1].axes == (self.row,):
            return self._over_rows(v)
        text = super().expression(v)
        # A reduction leaves its result in the layout of the tile that it reduced; all row vectors have that of the
        # first product's.
        if isinstance(v, TileReduce) and len(v.args[0].axes) == 2 and v.args[0].axes[1] != self._main:
            return f"gl.convert_layout({text}, {self.layout(v.axes)}, assert_trivial=True)"
        return text

    def _over_rows(self, v: Value) -> str:
        """A tile over one number for each row: times its reciprocal, since a division is many instructions. A number
        below 2^-128 has none."""
        a, b = v.args
        inverse = self.here("inverse", f"1.0 / {self.name(b)}")
        product = f"{self.use(a, v.axes)} * {self.spread(inverse, b.axes, v.axes)}"
        # Then the divisor is proven positive where it matters. A quotient is 0 where both are 0 (a row without a
        # score), which 0 times an infinite reciprocal is not.
        if v.op == "div":
            return product
        return self.choose(f"({self.use(a, v.axes)} == 0.0) & ({self.use(b, v.axes)} == 0.0)", "0.0", product)

    # ---- loads and stores

    def value(self, v: Value) -> None:
        if isinstance(v, Dot):
            self.begin(v)
            # Alone between two waits: what stands outside a loop, or in one without a pipelined product, has nothing
            # to run beside.
            self.write(f"{self.name(v)} = warpgroup_mma_wait(0, [{self.name(v)}])")
            self.release(v)
        elif self.queue and v in self.queue.numbers:
            pass  # it comes with the program's number
        elif v in self.vectors:
            x = self.vectors[v]
            self._await(x.tile)
            self.write(f"{self.name(v)} = {x.vectors}.index({self._slot.slot}).load({self.layout(v.axes)})")
        elif v not in self.tiles:
            super().value(v)
        # A tile of a ring is waited for where its product begins (`begin`), as late as possible. A tile that stays is
        # waited for once, here: each further wait would be a poll of a barrier that is long past.
        elif not self.tiles[v].ring:
            place, phase = self.tiles[v].resident("group")
            self.write(f"mbarrier.wait({self.tiles[v].full}.index({place}), {phase})")

    def _block(self, v: Load) -> tuple[int, ...] | None:
        return None

    def store(self, v: Store) -> str:
        output = v.tensor
        (value,) = v.args
        tile = tile_of(self.plan, v, self.row)
        if tile is None or self.row not in value.axes:
            return super().store(v)
        dtype, (ranks, block) = self.plan.dtypes[output], tile
        descriptor, buffers = self._staging(output, block)
        shape = [self.length(q) for q in value.axes]
        text = self.name(value) + ("" if value.dtype == dtype else f".to({DTYPES[dtype]})")
        # The last store by TMA may still be reading these buffers. Who issued it waits until it has read them, and
        # the barrier passes that on to the other warps of the group.
        self.write("tma.store_wait(0)")
        self.write("group_barrier()")
        self.write(f"{buffers}.index(group).reshape({shape}).store({text})")
        # Threads write through the generic proxy, TMA reads through the asynchronous one; without a fence between the
        # two it may read what stood there before.
        self.write("fence_async_shared()")
        at = f"{descriptor}, [{self.coordinates(ranks)}], {buffers}.index(group)"
        return f"store_block({at})"

    def _staging(self, output: str, block: tuple[int, ...]) -> tuple[str, str]:
        """As `staged`, which is filled on the way."""
        if (output, block) not in self.staged:
            names = (f"{self.tensor[output]}_descriptor", f"{output.lower()}_tiles")
            self.staged[output, block] = (self.names.fresh(names[0]), self.names.fresh(names[1]))
        return self.staged[output, block]

    def taken(self, queue: WorkQueue) -> tuple[list[str], list[str]]:
        take = list(queue.take([self.name(v) for v in queue.numbers]))
        lines, every = self.programs()
        before = [*lines, "visit = 0", *take, f"while program < {every}:"]
        return before, [INDENT + line for line in ("visit += 1", *take)]

    def note(self) -> None:
        """Print what the group notes of its rows (`space/plan/repair.py`), once all else is printed."""
        if (notes := self.plan.notes) is None:
            return
        count = self.plan.sizes[GROUPS]
        place = "tl.cast(program, tl.int64)" + (f" * {count} + group" if count > 1 else "")
        some = self.reduce("max", self.cast(self.name(notes.value), "int32"), 0)
        self.write(f"tl.store({self.tensor[notes.tensor]} + {place}, {some})")

    def finish(self) -> list[str]:
        # At the end of each program: a CTA that ended before its last store was read would free the shared memory
        # below it.
        return [*super().finish(), *([f"{INDENT}tma.store_wait(0)"] if self.staged else [])]

    # ---- products

    def _place(self, t: SharedTiles) -> str:
        return self._slot.slot if t.ring else t.resident("group")[0]

    def _matrix(self, v: Value, transposed: bool) -> str:
        """A loaded tile as a matrix."""
        t = self.tiles[v]
        text = f"{t.tiles}.index({self._place(t)}).reshape({[self.length(q) for q in v.axes]})"
        return f"{text}.permute((1, 0))" if transposed else text

    def _await(self, t: SharedTiles) -> None:
        """Print the wait for a tile of a ring, once an iteration."""
        if t.load not in self._arrived:
            self._arrived.add(t.load)
            self.write(f"mbarrier.wait({t.full}.index({self._place(t)}), {self._slot.phase})")

    def begin(self, v: Dot, kept: str | None = None) -> None:
        """Print the start of a product, after waits for its tiles. kept: the variable that holds a computed left
        operand, where that is not the operand's own."""
        left, right = sides(v, self.row)
        contracted = v.contracted
        # Once a tile, also where a product reads the same one twice.
        for t in dict.fromkeys(self.tiles[x] for x in (left, right) if x in self.tiles):
            if t.ring:
                self._await(t)
        # Transposed by its view alone: the matrix unit reads 16-bit operands in shared memory along either axis.
        loaded = self._matrix(left, left.axes[0] == contracted) if left in self.tiles else None
        a = loaded or kept or self.as_left(left, v)
        b = self._matrix(right, right.axes[0] != contracted)
        # An operand must be there even where it is not read; `use_acc=False` keeps the instruction from adding it,
        # which saves setting the registers to 0.
        added = [self.name(v.args[2])] if len(v.args) > 2 else [self.full(v.axes, 0.0, v.dtype), "use_acc=False"]
        self.write(f"{self.name(v)} = warpgroup_mma({', '.join([a, b, *added])}, is_async=True)")

    def rescale(self, v: Value) -> None:
        """Print a product of an accumulator with a factor for each row; a warp whose factors are all 1 skips it."""
        x, factors = v.args
        # All numbers of one thread at once, so that there is one vote and one branch for the tile, not one for each
        # register.
        each = self.length(v.axes[1]) * GROUP_ROWS // (GROUP_WARPS * 32)
        self.write(f"{self.name(v)} = rescaled({self.name(x)}, {self.use(factors, v.axes)}, {each})")
        self.helpers.add("rescaled")

    def narrow(self, v: Value) -> None:
        """Print a conversion to 16 bits that the compiler does not move (`helpers.NARROWED`)."""
        (x,) = v.args
        self.write(f"{self.name(v)} = {NARROWED[v.dtype]}({self.name(x)})")
        self.helpers.add(NARROWED[v.dtype])

    def release(self, v: Value) -> None:
        """Give back the buffers that nothing reads after a product."""
        for t in dict.fromkeys(self.tiles[x] for x in v.args[:2] if x in self.tiles):
            # In a loop a tile that stays is read again by the next iteration: `release_resident` gives it back after
            # the loop.
            if t.last is v and (t.ring or v in self.plan.root.items):
                self.write(f"mbarrier.arrive({t.empty}.index({self._place(t)}), count=1)")

    def give_back(self, loads: Iterable[Value]) -> None:
        """Give back the buffers of rings that hold these tiles."""
        for t in dict.fromkeys(self.tiles[x] for x in loads if x in self.tiles):
            if t.ring:
                self.write(f"mbarrier.arrive({t.empty}.index({self._place(t)}), count=1)")

    def release_resident(self, products: Iterable[Value]) -> None:
        """Give back the tiles that stay, which nothing reads after a loop's products."""
        last = set(products)
        for t in self.tiles.values():
            if not t.ring and t.last in last:
                self.write(f"mbarrier.arrive({t.empty}.index({self._place(t)}), count=1)")

    # ---- iterations

    @contextmanager
    def iteration(self, loop: Loop, order: IterationOrder, first: str, optional: Branch | None) -> Iterator[None]:
        """Prints an iteration whose tile starts at `first`. optional: its branch, in which its filters are evaluated
        (one without a condition is never taken); None where they always are."""
        rank = loop.rank
        saved = self._optional, self._unneeded, self.start[rank], self._slot, self._arrived
        text, known = dict(self.text), self.known
        self._optional, self.start[rank] = optional, first
        # A branch without a condition is one that is never taken, so what it would have filtered is known to hold.
        if optional and not optional.condition:
            self._optional, self.known = None, known | optional.known
        # With filters in a branch only, values that nothing but a filter reads (indices, bounds) move there with it.
        unused = unneeded(loop, self._source) - self._early(loop)
        self._unneeded = {v: None for v in loop.body.items if isinstance(v, Value) and v in unused}
        self._slot, self._arrived = self.turn(loop, order, first), set()
        yield
        self._optional, self._unneeded, self.start[rank], self._slot, self._arrived = saved
        self.text, self.known = text, known

    def reached(self, loop: Loop, order: IterationOrder, peeled: bool) -> tuple[bool, bool]:
        """Whether a tile may lie below the range where a loop's filters hold, and beyond it. peeled: without the tile
        that comes first."""
        n = next((n for n, s in enumerate(loop.segments) if s.known), 0)
        # The tiles that need no filter are a contiguous range. What may come before or after it is bounded by how far
        # its ends and the loop's can be apart in any program; within one tile counts as none where that tile is
        # peeled off.
        low, high = loop.mask_free or (loop.segments[n].lo, loop.segments[n].hi)
        ends = loop.whole()
        below, beyond = (self.bounds.most_over(*ends) > loop.tile for ends in ((low, ends.lo), (ends.hi, high)))
        return (True, beyond) if peeled and order.top else (below, True) if peeled else (True, True)

    def _early(self, loop: Loop) -> set[Value]:
        """The rows and columns that only the branch with the filters reads. They are loaded in each iteration before
        its product all the same: a load in the branch, which comes after the product, would be waited for."""
        in_branch = unneeded(loop, self._source) - unneeded(loop, lambda v: source(v, self.passes))
        return {v for v in in_branch if isinstance(v, Load) and not v.args and len(v.axes) < 2}

    @contextmanager
    def renamed(self, text: dict[Value, str]) -> Iterator[None]:
        """Prints with other names for some values."""
        named = {v: self.text[v] for v in text}
        self.text.update(text)
        yield
        self.text.update(named)

    @contextmanager
    def before(self, turn: PipelineSlot, text: dict[Value, str]) -> Iterator[None]:
        """Prints for the iteration before: `turn` is its slot and phase, `text` the variables that hold its values."""
        saved, named, known = (self._slot, self._arrived), dict(self.text), self.known
        # What this iteration's branch knows says nothing about the tile before.
        self._slot, self._arrived, self.known = turn, set(), self.always()
        self.text.update(text)
        yield
        (self._slot, self._arrived), self.text, self.known = saved, named, known
