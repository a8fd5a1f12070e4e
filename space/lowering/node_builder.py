"""Makes the nodes of a plan: each in the innermost scope that defines one of its arguments, the same one once."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from eintune.space.analysis.layout import Layout
from eintune.space.ir.dtypes import FLOATS
from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import Carry
from eintune.space.plan.roles import IllegalPlan
from eintune.space.plan.values import (
    Carried,
    Cast,
    Constant,
    Elementwise,
    Index,
    Load,
    SizeOf,
    TileReduce,
    Value,
    is_product,
)

from .scope import PlanScope

STEMS = {
    "dot": "product",
    "exp2": "power",
    "scale": "scaled",
    "where": "masked",
    "sub": "difference",
    "add": "total",
    "mul": "times",
    "div": "ratio",
    "div_rn": "ratio",
    "quotient": "ratio",
    "max": "new_max",
    "guard": "finite",
    "row_factor": "factor",
    "rounded": "rounded",
}
"""What a value of an operation is called in the text of a plan and in generated code."""


FARTHEST = {"int8": 2**7 - 1, "int32": 2**31 - 1, "int64": 2**62}
"""Whole numbers that a float holds exactly, and that nothing which counts documents is beyond."""


class NodeBuilder:
    """compute: the dtype in which floats are computed."""

    def __init__(self, layout: Layout, compute: str) -> None:
        self.layout, self.compute = layout, compute
        self.home: dict[Value, PlanScope] = {}
        self.sources: dict[Value, set[str]] = {}
        """The dtypes of the floating-point tensors that a value comes from."""
        self._stems: dict[str, int] = {}

    def emit(
        self,
        node: Value,
        scope: PlanScope | None = None,
        *,
        axes: tuple[Rank, ...] | None = None,
        name: str | None = None,
    ) -> Value:
        """A node in the innermost scope that defines one of its arguments; the same one is made once.

        scope: where it stands at the outermost, needed for one without arguments or with indices of its own.
        axes: the union of the arguments' by default. name: what it is called, if it is free. A node without a dtype is
        in the compute dtype.
        """
        homes = [self.home[a] for a in node.args] + ([scope] if scope else [])
        home = max(homes, key=lambda s: len(s.ranks))
        node.axes = self.layout.ordered({q for a in node.args for q in a.axes}) if axes is None else axes
        node.dtype = node.dtype or self.compute
        key = node.op, node.args, repr(node.own), node.axes, node.dtype
        for s in home.chain():
            if key in s.made:
                return s.made[key]
        node.name = self._fresh(name) if name else self._name(node)
        home.block.items.append(node)
        home.made[key] = node
        self.home[node] = home
        loaded = isinstance(node, Load) and node.dtype in FLOATS
        self.sources[node] = {node.dtype} if loaded else self.all_sources(node.args)
        return node

    def apply(
        self, op: str, *args: Value, scope: PlanScope | None = None, dtype: str = "", name: str | None = None
    ) -> Value:
        """An elementwise operator."""
        # A compiler fuses one of two products with their sum, and which one may differ from pass to pass: a score and
        # its maximum would then be rounded differently. To round one of them costs nothing: its product becomes a
        # multiply-add of 0.
        if op in ("add", "sub") and all(is_product(a) for a in args):
            args = (args[0], self.rounded(args[1]))
        return self.emit(Elementwise(operator=op, args=args, dtype=dtype), scope, name=name)

    def all_sources(self, values: Iterable[Value]) -> set[str]:
        return {dtype for v in values for dtype in self.sources[v]}

    def _name(self, node: Value) -> str:
        match node:
            case Load():
                return self._fresh(node.tensor.lower())
            case TileReduce():
                return self._fresh(f"tile_{node.reduction}")
            case Cast():
                return self._fresh(f"{node.args[0].name}_{node.dtype}")
            case _:
                return self._fresh(STEMS.get(node.op, node.op))

    def _fresh(self, stem: str) -> str:
        """`stem`, or `stem_2`, `stem_3`, … for later ones."""
        self._stems[stem] = n = self._stems.get(stem, 0) + 1
        return stem if n == 1 else f"{stem}_{n}"

    def widened(self, v: Value) -> Value:
        """The value in the compute dtype."""
        if v.dtype == self.compute:
            return v
        return self.cast(v, self.compute)

    def rounded(self, v: Value, name: str | None = None) -> Value:
        """A product that no compiler fuses with a difference or a sum that it stands in, where it stands in several (or
        others like it do): they would see different numbers."""
        return self.apply("rounded", v, name=name) if is_product(v) else v

    def reduce(self, op: str, v: Value, axis: Rank) -> Value:
        if axis not in v.axes:
            raise IllegalPlan(f"a reduction of {v.name} over the tile axis {axis} needs that axis", f"it has {v.axes}")
        left = tuple(q for q in v.axes if q != axis)
        return self.emit(TileReduce(reduction=op, axis=axis, args=(v,)), axes=left)

    def of_tile(self, op: str, v: Value, name: str, keep: Collection[Rank] = ()) -> Value:
        """A tile of whole numbers reduced along all of its axes but those to `keep`. Lanes beyond the end hold 0."""
        for axis in [q for q in reversed(v.axes) if q not in keep]:
            left = tuple(q for q in v.axes if q != axis)
            v = self.emit(TileReduce(reduction=op, axis=axis, args=(v,), dtype=v.dtype), axes=left, name=name)
        return v

    def least(self, v: Value, keep: Collection[Rank] = ()) -> Value:
        """Of all numbers of a tile, or of those along the axes that are not kept."""
        return self.of_tile("min", self._valid(v, keep, 1), f"{v.name}_least", keep)

    def greatest(self, v: Value, keep: Collection[Rank] = ()) -> Value:
        """As `least`."""
        return self.of_tile("max", self._valid(v, keep, -1), f"{v.name}_greatest", keep)

    def _valid(self, v: Value, keep: Collection[Rank], sign: int) -> Value:
        """Whole numbers, with one of this sign that is beyond all of them in lanes beyond the end of an axis that is
        not kept: those hold 0, which may be none of the numbers."""
        if v.dtype not in FARTHEST:
            return v
        for q in [q for q in v.axes if q not in keep and self.layout.tail(q)]:
            home = self.home[v]
            index = self.emit(Index(rank=q, dtype="int32"), home, axes=(q,))
            inside = self.apply("lt", index, self.size_of(q, home), dtype="bool")
            far = self.emit(Constant(number=float(sign * FARTHEST[v.dtype]), dtype=v.dtype), home)
            v = self.apply("select", inside, v, far, dtype=v.dtype)
        return v

    def size_of(self, rank: Rank, home: PlanScope) -> Value:
        """The number of elements of a rank."""
        sizes = self.layout.sizes
        known = Constant(number=float(sizes[rank]), dtype="int32") if rank in sizes else None
        return self.emit(known or SizeOf(rank=rank, dtype="int32"), home)

    def carry(self, name: str, axes: Iterable[Rank], scope: PlanScope) -> Value:
        """A fresh running value of the loop whose body is `scope`."""
        value = Carried(axes=self.layout.ordered(axes), dtype=self.compute, name=self._fresh(name))
        self.home[value] = scope
        self.sources[value] = set()
        return value

    def settle(self, carry: Carry, scope: PlanScope) -> None:
        """The loop is over: its carry is a value of the scope around it."""
        self.home[carry.value] = scope
        self.sources[carry.value] = self.sources[carry.next]

    def add(self, a: Value | None, b: Value) -> Value:
        return b if a is None else self.apply("add", a, b)

    def cast(self, v: Value, dtype: str) -> Value:
        """A value in another dtype."""
        return self.emit(Cast(args=(v,), dtype=dtype), axes=v.axes)
