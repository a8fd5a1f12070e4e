"""From a loop plan to a tile term: which tiles a program moves, and where each stands.

A value inside a loop stands there once an iteration; what a loop leaves is its `Final`. So a store inside the
loop moves its tile every iteration and one after it once, because that is where the plan has it.
"""

from __future__ import annotations

from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds import bound_value
from eintune.space.plan.plan import Block, Loop, LoopPlan
from eintune.space.plan.values import Value

from .tiles import ELEMENT_BYTES, UNARY, Cast, Elementwise, Final, Input, Ldr, Lds, Stg, Sts, TileError, TileExpr, Wgmma


def tile_terms(plan: LoopPlan) -> dict[str, TileExpr]:
    """The tile term of each output of one program.

    For plans of loads, products, pointwise operations of one tile, casts and stores, with constant loop bounds.
    Raises TileError for any other, naming the operation.
    """
    reader = _Reader(plan)
    return {_tensor(v): Stg(Sts(reader.computed(v.args[0]))) for v in reader.iterations if v.op == "store"}


def _tensor(v: Value) -> str:
    assert isinstance(v.attr, tuple), f"the attr of {v.op} is (tensor, ranks), but got {v.attr!r}"
    return str(v.attr[0])


class _Reader:
    """Reads values of one plan into terms."""

    def __init__(self, plan: LoopPlan) -> None:
        self.plan = plan
        self.iterations: dict[Value, int] = {}
        self.finals: dict[Value, Value] = {}
        self._visit(plan.root, 1)

    def _visit(self, block: Block, times: int) -> None:
        for item in block.items:
            if isinstance(item, Loop):
                self._refuse_running_values(item)
                self.finals.update((c.value, c.next) for c in item.carries)
                self._visit(item.body, times * self._trips(item))
            else:
                self.iterations[item] = times

    def _refuse_running_values(self, loop: Loop) -> None:
        """What a loop carries may be added into; read otherwise, it would be the last iteration's value."""
        running = {c.value for c in loop.carries}
        for v in loop.body.items:
            read = () if isinstance(v, Loop) else v.args[:2] if v.op == "dot" else v.args
            if found := running.intersection(read):
                names = sorted(c.name for c in found)
                raise TileError(
                    f"tile terms: a running value may only be a product's accumulator, but {names} are read"
                )

    def _trips(self, loop: Loop) -> int:
        try:
            spans = [bound_value(s.hi, {}, {}) - bound_value(s.lo, {}, {}) for s in loop.segments]
        except KeyError as rank:
            raise TileError(f"tile terms need constant loop bounds, but one over {loop.rank} mentions {rank}") from None
        return sum(-(-max(n, 0) // loop.tile) for n in spans)

    def computed(self, v: Value) -> TileExpr:
        """A value in registers."""
        if v.op == "load":
            return Ldr(Lds(self._input(v, v.axes)))
        if v.op == "carry":
            return Final(self.computed(self.finals[v]))
        if v.op == "dot":
            return self._product(v)
        if v.op == "cast":
            return Cast(ELEMENT_BYTES[v.dtype], self.computed(v.args[0]))
        if v.op in UNARY:
            return Elementwise(v.op, self.computed(v.args[0]))
        raise TileError(f"tile terms have no operation {v.op} (valid: load, carry, dot, cast, {', '.join(UNARY)})")

    def _product(self, v: Value) -> TileExpr:
        assert isinstance(v.attr, tuple), f"a dot's attr is (contracted axis, batch axes), but got {v.attr!r}"
        contracted, batch = v.attr
        if batch:
            raise TileError(f"tile terms have two axes, but {v.name} has batch axes {batch}")
        left, right = v.args[:2]
        (row,) = (a for a in left.axes if a != contracted)
        (col,) = (a for a in right.axes if a != contracted)
        first = Lds(self._input(left, (row, contracted))) if left.op == "load" else self.computed(left)
        second = Lds(self._input(right, (contracted, col))) if right.op == "load" else Sts(self.computed(right))
        return Wgmma(first, second)

    def _input(self, v: Value, axes: tuple[Rank, ...]) -> Input:
        if len(axes) != 2:
            raise TileError(f"tile terms have two axes, but {v.name} has {list(axes)}")
        rows, cols = (self.plan.length(a) for a in axes)
        return Input(_tensor(v), rows, cols, ELEMENT_BYTES[v.dtype], self.iterations[v])
