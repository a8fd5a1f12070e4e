"""Runs a loop plan in float64 NumPy as its definition says: padded tiles, invalid lanes of loads 0, filters that a
segment knows not applied. A missing mask, a wrong bound or a filter that does not hold shows as a wrong number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eintune.space.ir.expr import Part, Predicate, Rank
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS, Array
from eintune.space.plan.bounds import bound_value
from eintune.space.plan.lazy_rescaling import LIMIT, LazyRescaling, lazy_rescalings
from eintune.space.plan.plan import Block, Known, Loop, LoopPlan
from eintune.space.plan.predication import passed, passes
from eintune.space.plan.values import (
    Cast,
    Constant,
    Dot,
    Elementwise,
    Index,
    IndexPart,
    Lane,
    Load,
    Mask,
    RowReference,
    RowScale,
    Scale,
    Store,
    TileReduce,
    TileStart,
    Value,
    Within,
)

PLAIN = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "div_rn": np.divide}
"""Without the special cases of the language: where those are reached, a plan has a guard or a quotient."""


@dataclass
class Program:
    """One program: where its tiles start, and the values so far."""

    plan: LoopPlan
    data: dict[str, Array]
    outputs: dict[str, Array]
    first: dict[Rank, int]
    known: frozenset[Known] = frozenset()
    values: dict[Value, Array] = field(default_factory=dict)
    lazy: Mapping[Loop, LazyRescaling] = field(default_factory=dict)
    """References that loops keep until a row's weights add up to more than `limit`."""
    limit: float = LIMIT
    kept: bool = False
    """Whether what is computed is relative to a reference that is kept."""

    # ---- indices

    def lanes(self, rank: Rank) -> Array:
        return self.first[rank] + np.arange(self.plan.roles[rank].tile or 1)

    def last(self) -> dict[Rank, int]:
        tiles = {r: self.plan.roles[r].tile or 1 for r in self.first}
        return {r: min(n + tiles[r], self.plan.sizes[r]) - 1 for r, n in self.first.items()}

    def along(self, rank: Rank, axes: tuple[Rank, ...], vector: Array) -> Array:
        """A rank's vector as an operand over axes; a scalar where the rank has no tile."""
        if self.plan.roles[rank].tile is None:
            return vector[0]
        return vector.reshape([-1 if q == rank else 1 for q in axes])

    def operand(self, v: Value, axes: tuple[Rank, ...]) -> Array:
        return self.values[v][tuple(slice(None) if q in v.axes else None for q in axes)] if v.axes else self.values[v]

    # ---- the tree

    def block(self, block: Block) -> None:
        for item in block.items:
            if isinstance(item, Loop):
                self.loop(item)
            elif isinstance(item, Store):
                self.store(item)
            else:
                self.values[item] = np.broadcast_to(self.compute(item), [self.plan.length(q) for q in item.axes])

    def keeping(self, loop: Loop, lazy: LazyRescaling) -> None:
        """An iteration whose tile is weighed relative to the reference before it, if that serves."""

        def run(values: Sequence[Value]) -> None:
            self.block(Block(loop.body.ranks, list(values)))

        before, after = lazy.around([v for v in loop.body.items if isinstance(v, Value)])
        run(before)
        old = self.values[lazy.carry.value]
        self.values.update(dict.fromkeys(lazy.max_update, old))
        self.values.update({c.next: self.values[c.value] for c in lazy.carries})
        self.values[lazy.rescale] = np.ones_like(old)
        self.kept = True
        run(lazy.weights)
        self.kept = False
        if not (self.values[lazy.row_sum] <= self.limit).all():
            run(lazy.recomputed)
        run(after)

    def number(self, v: Value) -> int:
        """A scalar value that a bound is made of."""
        return int(self.values[v])

    def loop(self, loop: Loop) -> None:
        for c in loop.carries:
            self.values[c.value] = np.full([self.plan.length(q) for q in c.value.axes], c.init)
        around, ends = self.known, self.last()
        for s in loop.segments:
            self.known = around | s.known
            low, high = (bound_value(b, self.first, ends, self.number) for b in (s.lo, s.hi))
            for start in range(low, high, loop.tile):
                self.first[loop.rank] = start
                if loop in self.lazy:
                    self.keeping(loop, self.lazy[loop])
                else:
                    self.block(loop.body)
                new = [self.values[c.next] for c in loop.carries]
                self.values.update({c.value: n for c, n in zip(loop.carries, new, strict=True)})
        self.known = around
        self.first.pop(loop.rank, None)

    def compute(self, v: Value) -> Array:
        if passes(v, self.known) and (kept := passed(v)):
            return self.values[kept]
        args = [self.operand(a, v.axes) for a in v.args if not isinstance(v, TileReduce | Dot)]
        match v:
            case Load():
                return self.load(v)
            case Constant():
                return np.array(v.number)
            case Index():
                return self.along(v.rank, v.axes, self.lanes(v.rank)).astype(float)
            case Lane():
                return np.arange(float(self.plan.length(v.rank)))
            case TileStart():
                return np.array(float(self.first[v.rank]))
            case IndexPart():
                return self.part(v.part, v.axes).astype(float)
            case Cast() | Elementwise(operator="rounded"):
                return args[0]
            case Scale():
                return args[0] * v.factor
            case Mask():
                return np.where(self.holds(v.predicate, v.axes, args[1:]), args[0], v.fill)
            case RowScale():
                return np.vectorize(v.factors, otypes=[np.float64])(args[0])
            case Elementwise(operator="guard"):
                return np.where(np.isneginf(args[0]), 0.0, args[0])
            case Elementwise(operator="tile_reference"):
                return np.where(args[2] == args[3], args[1], args[0])
            case RowReference():
                judged = args[:1] if self.kept else args[1:]
                ordinary = np.all([np.abs(x) < v.limit for x in judged], axis=0)
                return np.where(ordinary, args[0], -np.inf if self.kept else args[1])
            case Elementwise(operator="quotient"):
                return POINTWISE["div"].numpy(*args)
            case TileReduce():
                return REDUCTIONS[v.reduction].numpy(self.values[v.args[0]], axis=v.args[0].axes.index(v.axis))
            case Dot():
                return self.dot(v)
        return (PLAIN.get(v.op) or POINTWISE[v.op].numpy)(*args)

    def dot(self, v: Value) -> Array:
        letters = {q: chr(ord("a") + i) for i, q in enumerate(self.plan.order)}
        a, b, out = ("".join(letters[q] for q in x.axes) for x in (*v.args[:2], v))
        product = np.einsum(f"{a},{b}->{out}", self.values[v.args[0]], self.values[v.args[1]])
        return product + self.values[v.args[2]] if len(v.args) > 2 else product

    def holds(self, p: Predicate, axes: tuple[Rank, ...], numbers: list[Array]) -> Array:
        total: Array = np.array(p.const)
        for t in p.terms:
            total = total + t.coef * self.along(t.rank, axes, self.lanes(t.rank))
        for number, (_, coef) in zip(numbers, p.numbers, strict=True):
            total = total + coef * number
        return total >= 0

    # ---- memory

    def place(self, ranks: tuple[Rank, ...]) -> tuple[tuple[Array, ...], tuple[Rank, ...], Array]:
        """Clipped indices of a tile, the ranks of its axes, and which of its lanes are valid."""
        lanes = [self.lanes(r) for r in ranks]
        inside = [n < self.plan.sizes[r] for r, n in zip(ranks, lanes, strict=True)]
        clipped = [np.minimum(n, self.plan.sizes[r] - 1) for r, n in zip(ranks, lanes, strict=True)]
        valid = np.array(True)
        for mask in inside:
            valid = valid[..., None] & mask
        return np.ix_(*clipped), ranks, valid

    def load(self, v: Load) -> Array:
        """A tile, 0 in lanes that lie beyond a rank's end or that a looked-up number takes out of the tensor."""
        numbers = iter(v.args)
        places: list[Array] = []
        valid = np.array(True)
        for rank in v.axes:
            valid = valid & self.along(rank, v.axes, self.lanes(rank) < self.plan.sizes[rank])
        for i, n in zip(v.index, self.data[v.tensor].shape, strict=True):
            match i:
                case None | Within():
                    place = self.operand(next(numbers), v.axes).astype(int)
                    found = np.broadcast_arrays(place, valid)
                    stays = found[0][found[1]]
                    assert i is None or not stays.size or (i.low <= int(stays.min()) and int(stays.max()) <= i.high)
                    valid = valid & (place >= 0) & (place < n)
                case Part():
                    place = self.part(i, v.axes)
                case _:
                    place = self.along(i, v.axes, self.lanes(i))
            places.append(np.clip(place, 0, n - 1))
        every = np.broadcast_arrays(*places, np.empty([self.plan.length(q) for q in v.axes]))[:-1]
        return np.where(valid, self.data[v.tensor][tuple(every)], 0)

    def part(self, part: Part, axes: tuple[Rank, ...]) -> Array:
        lanes = self.lanes(part.rank)
        found: Array = lanes // part.by if part.op == "//" else lanes % part.by
        if part.rank in axes:
            return self.along(part.rank, axes, found)
        assert len(set(found[lanes < self.plan.sizes[part.rank]])) == 1, f"{part} is one number for a tile"
        return found[0]

    def store(self, v: Store) -> None:
        name, ranks = v.tensor, v.index
        tile = np.broadcast_to(self.operand(v.args[0], v.axes), [self.plan.length(q) for q in v.axes])
        if any(isinstance(r, Part) for r in ranks):
            self.scatter(name, ranks, tile, v.axes)
            return
        where, _, valid = self.place(ranks)
        kept = [r for r in ranks if r in v.axes]
        tile = tile.transpose([v.axes.index(q) for q in kept]).reshape(valid.shape)
        every = np.broadcast_arrays(*where) if where else []
        self.outputs[name][tuple(i[valid] for i in every)] = tile[valid] if where else tile

    def scatter(self, name: str, index: tuple[Rank | Part, ...], tile: Array, axes: tuple[Rank, ...]) -> None:
        """Store where parts of ranks say; each valid element once."""
        places = [self.part(i, axes) if isinstance(i, Part) else self.along(i, axes, self.lanes(i)) for i in index]
        ranks = {i.rank if isinstance(i, Part) else i for i in index}
        valid = np.ones(tile.shape, bool)
        for r in ranks & set(axes):
            valid = valid & self.along(r, axes, self.lanes(r) < self.plan.sizes[r])
        every = [np.broadcast_to(p, tile.shape)[valid] for p in places]
        assert np.isnan(self.outputs[name][tuple(every)]).all(), "each element is stored once"
        self.outputs[name][tuple(every)] = tile[valid]


def programs(plan: LoopPlan) -> Iterator[dict[Rank, int]]:
    """The first index of every rank that a program fixes."""
    steps = [range(0, plan.sizes[r], plan.roles[r].tile or 1) for r in plan.grid]
    whole = {r: 0 for r, role in plan.roles.items() if role.outer is None}
    for starts in itertools.product(*steps):
        yield whole | dict(zip(plan.grid, starts, strict=True))


def run_plan(plan: LoopPlan, data: dict[str, Array], limit: float | None = None) -> dict[str, Array]:
    """The outputs of all programs; what none of them writes stays NaN. limit: of lazy rescaling, else all run."""
    lazy = {} if limit is None else lazy_rescalings(plan)
    outputs = {n: np.full([plan.sizes[r] for r in ranks], np.nan) for n, ranks in plan.outputs.items()}
    with np.errstate(all="ignore"):
        for first in programs(plan):
            Program(plan, data, outputs, first, lazy=lazy, limit=limit or 0.0).block(plan.root)
    return outputs
