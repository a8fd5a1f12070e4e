"""The tiles that specialised warps hand each other through shared memory: buffers, and the barriers that say when one
is full and when it may be filled again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from eintune.kernels.emit.source_lines import Names
from eintune.kernels.emit.triton_dialect import DTYPES
from eintune.space.ir import dtypes
from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import Loop, LoopPlan
from eintune.space.plan.values import Dot, Load, Value
from eintune.space.plan.warp_specialisation import products_of, streamed_vectors, tile_of

BARRIER = "gl.allocate_shared_memory(gl.int64, [{}, 1], mbarrier.MBarrierLayout())"


@dataclass(frozen=True)
class SharedTiles:
    """A tile that is loaded into shared memory for products.

    load: the value. index: what addresses the tensor's axes. block: elements an axis of the tensor. own: whether each
    group has rows of its own; else all read the same. ring: whether a loop streams it, `depth` buffers deep; else
    programs take `depth` of them in turn. last: the last product that reads it. Then the names of the descriptor, the
    buffers and the barriers.
    """

    load: Value
    tensor: str
    index: tuple[Rank, ...]
    block: tuple[int, ...]
    dtype: str
    own: bool
    ring: bool
    depth: int
    groups: int
    last: Value
    descriptor: str
    tiles: str
    full: str
    empty: str

    @property
    def buffers(self) -> int:
        """The number of buffers, those of all groups together."""
        return self.depth * (self.groups if self.own else 1)

    def resident(self, group: str) -> tuple[str, str]:
        """The index of a group's buffer for a tile that stays, and the parity of the number of times that it was filled
        before, as texts."""
        # A tile that stays is filled once a program, so the number of programs that this CTA did before (`visit`)
        # says both which copy it has and, by the parity of the fills of that copy, which phase of the barrier to wait
        # for.
        turn = f"visit % {self.depth}" if self.depth > 1 else ""
        if not self.own or self.groups == 1:
            place = turn or "0"
        else:
            place = f"{turn} * {self.groups} + {group}" if turn else group
        # An mbarrier knows one bit of its phase, which flips each time a fill completes: whoever waits names the
        # parity of the fill that it expects. A count kept from program to program gives it; one begun anew with each
        # program would take the fill of the program before for its own.
        return place, f"visit // {self.depth} & 1" if turn else "visit & 1"

    @property
    def nbytes(self) -> int:
        """Bytes of one buffer."""
        return dtypes.DTYPES[self.dtype].bytes * prod(self.block)

    @property
    def names(self) -> list[str]:
        """The kernel's variables of the buffers and the two barriers of each."""
        return [self.tiles, self.full, self.empty]

    def allocation(self) -> Iterator[str]:
        """The statements that make the buffers and the barriers."""
        shape = [self.buffers, *self.block]
        # The layout is the descriptor's (rows swizzled within 128, 64 or 32 bytes), since TMA writes in it and the
        # matrix unit reads in it: no thread touches the tile in between.
        yield f"{self.tiles} = gl.allocate_shared_memory({DTYPES[self.dtype]}, {shape}, {self.descriptor}.layout)"
        # A buffer of its own is read by one group; a shared one may be filled again only when all groups are done
        # with it.
        yield from barriers(self.full, self.empty, self.buffers, 1 if self.own else self.groups)


@dataclass(frozen=True)
class SharedVector:
    """Numbers of columns that come with a tile of a loop: in a buffer beside each of the tile's, under its barriers.

    load: the value. rank: its axis. tile: what it comes with. vectors: the name of the buffers.
    """

    load: Load
    rank: Rank
    length: int
    tile: SharedTiles
    vectors: str

    def allocation(self) -> str:
        """The statement that makes the buffers."""
        # Not swizzled: threads of a row of a matrix instruction's result read four numbers at once, side by side.
        layout = "gl.SwizzledSharedLayout(1, 1, 1, [0])"
        return (
            f"{self.vectors} = gl.allocate_shared_memory({DTYPES[self.load.dtype]}, "
            f"[{self.tile.depth}, {self.length}], {layout})"
        )


def shared_vectors(
    plan: LoopPlan, row: Rank, tiles: Sequence[SharedTiles], names: Names, without: Collection[Loop] = ()
) -> list[SharedVector]:
    """The vectors that come with a loop's first tile (`warp_specialisation.streamed_vectors`). without: loops whose
    products do not run in the background."""
    found = []
    for loop in (x for x in plan.loops() if x not in without):
        ring = [t for t in tiles if t.load in loop.body.items]
        for v in streamed_vectors(plan, loop, row) if ring else []:
            name = names.fresh(f"{v.tensor.lower()}_vectors")
            found.append(SharedVector(v, loop.rank, plan.length(loop.rank), ring[0], name))
    return found


def barriers(full: str, empty: str, buffers: int, readers: int) -> Iterator[str]:
    """The statements that make two barriers for each of so many buffers. `full` ends a phase with one arrival, of who
    fills the buffer; `empty` with an arrival of each of `readers` groups."""
    for name in (full, empty):
        yield f"{name} = {BARRIER.format(buffers)}"
    yield f"for i in gl.static_range({buffers}):"
    # Full: one arrival, the loader's `expect`, and then as many bytes as it announced. TMA counts the bytes down
    # itself when they have arrived, so the phase ends without any thread of the loader waiting for the copy.
    yield f"    mbarrier.init({full}.index(i), count=1)"
    # Empty: every reader arrives once a fill. Nobody arrives for buffers that were never filled: the loader waits for
    # the phase before the first, which a new barrier takes for completed.
    yield f"    mbarrier.init({empty}.index(i), count={readers})"


def shared_tiles(plan: LoopPlan, row: Rank, stages: int, copies: int, groups: int, names: Names) -> list[SharedTiles]:
    """The tiles that products read, in the order in which they are first read, of a plan that can be divided
    (`warp_specialisation.fault`). stages: buffers of a ring. copies: of what stays. groups: that compute. names: gives
    out what they are called."""
    reads: dict[Load, list[Dot]] = {}
    for v in products_of(plan):
        for x in v.args[:2]:
            if isinstance(x, Load):
                reads.setdefault(x, []).append(v)
    descriptors: dict[tuple[str, tuple[int, ...]], str] = {}
    found = []
    for load, products in reads.items():
        tensor = load.tensor
        tile = tile_of(plan, load, row)
        assert tile is not None, f"value {load.name} is no whole tile"
        index, block = tile
        # What stands in a loop is streamed through a ring. What stands outside it is loaded once a program, anew for
        # each group where it has the rows that groups share out.
        ring, own = load not in plan.root.items, row in load.axes
        name = tensor.lower()
        # One descriptor for all loads of one tensor by one block, even where they lie in buffers of their own: it is
        # a kernel argument of 128 bytes, and each has to be fetched.
        if (tensor, block) not in descriptors:
            descriptors[tensor, block] = names.fresh(f"{tensor}_descriptor")
        found.append(
            SharedTiles(
                load=load,
                tensor=tensor,
                index=index,
                block=block,
                dtype=plan.dtypes[tensor],
                own=own,
                ring=ring,
                depth=stages if ring else copies,
                groups=groups,
                # The buffer is given back after this product and not after the first, or the loader would write over
                # a tile that is read again.
                last=products[-1],
                descriptor=descriptors[tensor, block],
                tiles=names.fresh(f"{name}_tiles"),
                full=names.fresh(f"{name}_full"),
                empty=names.fresh(f"{name}_empty"),
            )
        )
    return found
