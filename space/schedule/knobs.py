"""The knobs: the ways in which schedules of one cascade differ, what each may be set to and where that makes sense.

A knob is a small object with one protocol, and the table `KNOBS` is the whole list. Nothing here knows a workload or
a machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from eintune.space.ir.approximations import FUNCTIONS
from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds_prepass import BOUNDS
from eintune.space.plan.descriptor_blocks import block_of
from eintune.space.plan.lazy_rescaling import RESCALING
from eintune.space.plan.pipelined_product import PIPELINED
from eintune.space.plan.roles import split_length
from eintune.space.plan.warp_specialisation import GROUP_ROWS, WARP_SPECIALISATION, groups

from .choices import ELEMENT, WHOLE, Choice, Point, Setting, SpaceFacts
from .schedule import LOADS
from .targets import Target


class Knob(Protocol):
    """A way in which schedules differ."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        """Its coordinates in a space: none, one, or one for each rank that it applies to."""

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """Whether a point is worth trying as far as this knob is concerned. Reads only the coordinates that it
        needs."""


class Tiles:
    """Tile sizes of rows, of streamed ranks, and of other ranks that are too long to be one axis."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        return [c for r in facts.uses.kinds if (c := self._choice(facts, r))]

    def _choice(self, facts: SpaceFacts, rank: Rank) -> Choice | None:
        values = self._values(facts, rank)
        # Several streamed ranks make a tile of all their lengths multiplied; the outer ones may then go element by
        # element.
        if values and rank in facts.uses.of("streamed")[:-1] and self._is_crowded(facts):
            values = [ELEMENT, *values]
        return Choice(f"tile {rank}", tuple(values), values[len(values) // 2]) if values else None

    def _values(self, facts: SpaceFacts, rank: Rank) -> list[int]:
        kind, size, target = facts.uses.kinds[rank], facts.sizes[rank], facts.target
        match kind:
            case "row":
                streamed = facts.uses.products or facts.uses.of("streamed")
                rows = size * max(Packed.lengths(facts))
                values = _fitting(target.rows if streamed else target.streams, rows, target)
            case "streamed":
                values = _fitting(target.streams, size, target)
                if rank not in facts.uses.halves and size <= target.longest_axis:
                    # A rank in one tile needs no loop, and no running values either.
                    values = [v for v in values if v < size] + [WHOLE]
            case "resident" | "contracted":
                if size <= target.longest_axis:
                    return []
                values = [v for v in _fitting(target.rows, size, target) if v >= 64]
            case _:
                return []
        return values

    def _is_crowded(self, facts: SpaceFacts) -> bool:
        """Whether even the shortest tiles of all ranks together are too many elements: then all streamed ranks but the
        innermost may be gone over by loops of single elements."""
        least: dict[str, Setting] = {c.name: c.values[0] for c in Batched().choices(facts)}
        for r in facts.uses.kinds:
            if values := self._values(facts, r):
                least[f"tile {r}"] = values[0]
        return self._elements(facts, least) > facts.target.temporary[1]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """The tile between two products (or of a row, where there is none) is neither tiny nor huge."""
        least, most = facts.target.temporary
        return min(least, self._largest(facts)) <= self._elements(facts, point) <= most

    def _elements(self, facts: SpaceFacts, point: Point) -> int:
        return math.prod(
            facts.length(r, point) for k in ("batch", "grouped", "row", "streamed") for r in facts.uses.of(k)
        )

    def _largest(self, facts: SpaceFacts) -> int:
        """Elements at the longest settings: a small problem has no tile as large as the least."""
        longest: dict[str, Setting] = {c.name: c.default for c in Batched().choices(facts)}
        for c in self.choices(facts):
            longest[c.name] = WHOLE if WHOLE in c.values else c.values[-1]
        return self._elements(facts, longest)


class Batched:
    """Whether a batch rank is an axis of every product (the longest one), or programs iterate all of them."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        ranks = [r for r in facts.uses.of("batch") if facts.sizes[r] > 1]
        if not facts.target.batched:
            return []
        if not ranks:
            return [Choice("batched", ("rows",), "rows")] if facts.uses.of("grouped") else []
        longest = max(ranks, key=lambda r: facts.sizes[r])
        return [Choice("batched", ("", longest), longest)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        return True


class NumSplits:
    """Whether programs share the longest streamed rank, each running a part of it, where there are few programs.

    What the parts leave is merged by another kernel, so they must be few enough to leave little.
    """

    MOST = 4096
    """Programs beyond which more of them serve nobody."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        streamed = [] if facts.uses.halves else facts.uses.of("streamed")
        if not streamed:
            return []
        longest = max(streamed, key=lambda r: facts.sizes[r])
        tiles = -(-facts.sizes[longest] // facts.target.streams[0])
        values = tuple(n for n in facts.target.num_splits if n == 1 or 2 * n <= tiles)
        return [Choice(f"num_splits {longest}", values, 1)] if len(values) > 1 else []

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        for rank in facts.uses.of("streamed"):
            parts, tile = int(point.get(f"num_splits {rank}", 1)), int(point.get(f"tile {rank}", WHOLE))
            # Parts are made of whole tiles: a rank that is one tile has none, nor has one that is gone over by
            # elements.
            if parts > 1 and not (tile > ELEMENT and self._divides(facts, point, -(-facts.sizes[rank] // tile), parts)):
                return False
        return True

    def _divides(self, facts: SpaceFacts, point: Point, tiles: int, parts: int) -> bool:
        """Whether every part has two tiles of its own, and the grid is short without them."""
        roles = [(facts.sizes[r], facts.role(r, point)) for r in facts.uses.kinds]
        programs = math.prod(-(-n // (role.tile or 1)) for n, role in roles if role.outer == "grid")
        return 2 * parts <= tiles and programs < facts.target.few and programs * parts <= self.MOST


class Packed:
    """Whether a short row's tiles run over a rank beside it too, so that what lacks that rank is loaded once for all
    of it."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        return [Choice("packed", (False, True), False)] if max(self.lengths(facts)) > 1 else []

    @staticmethod
    def lengths(facts: SpaceFacts) -> list[int]:
        """The lengths of the ranks that a row's tiles may run over: at most one, where the row leaves room."""
        beside = [(r, row) for r, row in facts.uses.packs_with.items() if facts.sizes[r] > 1]
        if facts.target.batched or len(beside) != 1 or not facts.uses.products:
            return [1]
        ((lane, row),) = beside
        return [1, facts.sizes[lane]] if 1 < facts.sizes[row] < facts.target.rows[-1] else [1]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """A tile is no longer than what it runs over."""
        length = self.lengths(facts)[-1] if point.get("packed") else 1
        tiles = ((facts.sizes[r] * length, int(point.get(f"tile {r}", WHOLE))) for r in facts.uses.of("row"))
        return all(tile <= facts.target.axis(size) for size, tile in tiles)


class Warps:
    """Warps of a program."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        return [Choice("warps", facts.target.warps, facts.target.warps[0])]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """A warp has at least 512 elements of the largest tile, so that the matrix unit's rows are filled."""
        if point["warps"] == facts.target.warps[0]:
            return True
        elements = 1
        for k in ("row", "streamed"):
            for r in facts.uses.of(k):
                elements *= facts.length(r, point)
        # Fewer and warps repeat each other's work (`costmodel.pricing.products`).
        return elements >= 512 * int(point["warps"])


class Stages:
    """Software pipeline stages of the loops."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        values = facts.target.stages
        return [Choice("stages", values, values[min(1, len(values) - 1)])]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """No more stages than the longest loop has iterations."""
        counts = [1]
        for r in (*facts.uses.of("streamed"), *facts.uses.of("contracted")):
            tile, parts = int(point.get(f"tile {r}", WHOLE)), int(point.get(f"num_splits {r}", 1))
            counts.append(split_length(facts.sizes[r], tile, parts) // tile if tile else 1)
        return int(point["stages"]) <= max(counts)


class Filters:
    """Where filters are evaluated, if there are any.

    Segments cost a second loop, with a software pipeline of its own to fill (and the compiler waits for each matrix
    instruction where one loop hands its accumulators on to another): with a pipeline a branch is better. Where
    operators run one by one there is no pipeline, and nothing to weigh.
    """

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        uneven = any(facts.sizes[r] % facts.target.streams[-1] for r in facts.uses.of("streamed"))
        if not (facts.uses.filtered or uneven):
            return [Choice("filters", ("every",), "every")]
        if facts.target.batched:
            return [Choice("filters", ("segments",), "segments")]
        return [Choice("filters", ("every", "branch"), "branch")]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        return True


class Order:
    """Program order: where programs differ in length, the longest may start first."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        if facts.uses.coupled and not facts.target.batched:
            return [Choice("order", ("forward", "reverse"), "reverse")]
        return [Choice("order", ("forward",), "forward")]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        return True


class Loads:
    """Tiles loaded by pointer or by tensor descriptor: where every tile of two axes can be loaded by one, and a
    pipelined loop streams some of them. In loops only where there are other tensors to load before a loop."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        possible = facts.target.descriptors and self._serves(facts, lambda r: None if _is_index(facts, r) else 16)
        others = any(sum(not _is_index(facts, rank) for rank in r.index) < 2 for r in facts.reads)
        return [_setting("loads", LOADS if others else ("pointer", "descriptor"), "pointer", possible)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        if point["loads"] == "pointer":
            return True
        streams = any(point.get(f"tile {r}", WHOLE) != WHOLE for r in facts.uses.of("streamed"))
        return streams and int(point["stages"]) > 1 and self._serves(facts, lambda r: facts.role(r, point).tile)

    @staticmethod
    def _serves(facts: SpaceFacts, tile: Callable[[Rank], int | None]) -> bool:
        tiled = [r for r in facts.reads if sum(tile(rank) is not None for rank in r.index) > 1]
        return bool(tiled) and all(block_of(r, facts.sizes, tile) for r in tiled)


class Functions:
    """Functions to the compute dtype, or by the hardware's approximation where the tensors are coarser than that."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        possible = facts.target.approximate and facts.approximable
        return [_setting("functions", FUNCTIONS, "exact", possible)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        return True


class PipelinedProducts:
    """Whether a loop's last product runs beside the next tile's elementwise work: where one program has a matrix unit
    to itself for long, and registers for another tile."""

    ROWS = 64
    """Of one matrix instruction. With 128 rows a group of warps spills, three times as slow on the H200."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        possible = facts.target.pipelined_products and facts.uses.products and facts.uses.of("streamed")
        return [_setting("pipelined", PIPELINED, "none", possible)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """A pipelined product reads its tile an iteration later, so that with two stages the next one would wait for
        it; and what it keeps takes registers: those that a descriptor leaves free, and no second block takes."""
        rows = math.prod(facts.length(r, point) for r in facts.uses.of("row"))
        room = rows <= self.ROWS and int(point["warps"]) == facts.target.warps[0] and point["loads"] != "pointer"
        nested = by_element(facts, point)
        return point["pipelined"] == "none" or (int(point["stages"]) > 2 and room and not nested)


class Bounds:
    """Where loop bounds that follow from data are found: by each program, or once by a kernel before."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        possible = facts.target.data_dependent_bounds and facts.data_dependent_bounds
        return [_setting("bounds", BOUNDS, "program", possible)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """A loop in parts is cut into kernels already."""
        whole = all(int(point.get(f"num_splits {r}", 1)) == 1 for r in facts.uses.of("streamed"))
        return point["bounds"] == "program" or whole


class WarpSpecialisation:
    """Whether one group of a program's warps loads tiles and the others compute on them, or each does both."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        possible = facts.target.specialised and facts.uses.products and facts.uses.of("streamed")
        return [_setting("warp_specialisation", WARP_SPECIALISATION, "none", possible)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        """Each group that computes has the rows of one matrix instruction; what products read comes by descriptor,
        whatever else is loaded, through two buffers at least; loop bounds are known to all groups; the last product of
        a loop is pipelined anyway, and work of all lengths is handed out evenly in any order."""
        if point["warp_specialisation"] == "none":
            return True
        if by_element(facts, point):
            return False
        rows = math.prod(facts.length(r, point) for r in facts.uses.of("row"))
        own = rows == GROUP_ROWS * groups(int(point["warps"]))
        known = point["bounds"] == "kernel" or not facts.data_dependent_bounds
        described = "descriptor" in Loads().choices(facts)[0].values
        usual = point["pipelined"] == "none" and point["loads"] == ("descriptor" if described else "pointer")
        in_order = point["order"] == Order().choices(facts)[0].default
        return own and known and usual and in_order and not point.get("packed") and int(point["stages"]) > 1


class Rescaling:
    """Whether folds bring their reference up to date with every tile, or keep it while it serves: where specialised
    warps print it, since each warp decides by itself."""

    def choices(self, facts: SpaceFacts) -> list[Choice]:
        possible = len(WarpSpecialisation().choices(facts)[0].values) > 1
        return [_setting("rescaling", RESCALING, "eager", possible)]

    def is_legal(self, facts: SpaceFacts, point: Point) -> bool:
        return point["rescaling"] == "eager" or point["warp_specialisation"] != "none"


def _setting(name: str, values: tuple[str, ...], usual: str, possible: object) -> Choice:
    """A choice of all values, where what the others need is there; else of the usual one alone."""
    return Choice(name, values if possible else (usual,), usual)


def by_element(facts: SpaceFacts, point: Point) -> bool:
    """Whether some loop goes over single elements, around another."""
    return any(point.get(f"tile {r}", WHOLE) == ELEMENT for r in facts.uses.of("streamed"))


def _is_index(facts: SpaceFacts, rank: Rank) -> bool:
    """Whether programs take one element of the rank at a time."""
    return facts.uses.kinds[rank] in ("batch", "grouped")


KNOBS: tuple[Knob, ...] = (
    Tiles(),
    Batched(),
    Packed(),
    NumSplits(),
    Warps(),
    Stages(),
    Filters(),
    Order(),
    Loads(),
    Functions(),
    PipelinedProducts(),
    Bounds(),
    WarpSpecialisation(),
    Rescaling(),
)
"""Every knob. A new one is one row here (and a field of `Schedule` if an emitter reads it)."""


def _fitting(tiles: Sequence[int], size: int, target: Target) -> list[int]:
    """The tile sizes that are not longer than the rank needs."""
    needed = target.axis(size)
    if needed <= tiles[0] and target.padded:
        return [needed]
    return [t for t in tiles if t < needed] + ([needed] if needed <= tiles[-1] else [])
