"""From a loop plan to a tile term: which tiles a program moves, and where each stands.

A value inside a loop stands there once an iteration; what a loop leaves is its `Final`. So a store inside the
loop moves its tile every iteration and one after it once, because that is where the plan has it.
"""

from __future__ import annotations

from eintune.space.ir.expr import Rank
from eintune.space.plan import values
from eintune.space.plan.bounds import bound_value
from eintune.space.plan.plan import Block, Loop, LoopPlan

from .tiles import ELEMENT_BYTES, UNARY, Cast, Elementwise, Final, Input, Ldr, Lds, Stg, Sts, TileError, TileExpr, Wgmma


def tile_terms(plan: LoopPlan) -> dict[str, TileExpr]:
    """The tile term of each output of one program.

    For plans of loads, products, pointwise operations of one tile, casts and stores, with constant loop bounds.
    Raises TileError for any other, naming the operation.
    """
    reader = _Reader(plan)
    return {v.tensor: Stg(Sts(reader.computed(v.args[0]))) for v in reader.iterations if isinstance(v, values.Store)}


class _Reader:
    """Reads values of one plan into terms."""

    def __init__(self, plan: LoopPlan) -> None:
        self.plan = plan
        self.iterations: dict[values.Value, int] = {}
        self.finals: dict[values.Value, values.Value] = {}
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
            read = () if isinstance(v, Loop) else v.args[:2] if isinstance(v, values.Dot) else v.args
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

    def computed(self, v: values.Value) -> TileExpr:
        """A value in registers."""
        match v:
            case values.Load():
                return Ldr(Lds(self._input(v, v.axes)))
            case values.Carried():
                return Final(self.computed(self.finals[v]))
            case values.Dot():
                return self._product(v)
            case values.Cast():
                return Cast(ELEMENT_BYTES[v.dtype], self.computed(v.args[0]))
        if v.op in UNARY:
            return Elementwise(v.op, self.computed(v.args[0]))
        raise TileError(f"tile terms have no operation {v.op} (valid: load, carry, dot, cast, {', '.join(UNARY)})")

    def _product(self, v: values.Dot) -> TileExpr:
        contracted = v.contracted
        if v.batch:
            raise TileError(f"tile terms have two axes, but {v.name} has batch axes {v.batch}")
        left, right = v.args[:2]
        (row,) = (a for a in left.axes if a != contracted)
        (col,) = (a for a in right.axes if a != contracted)
        return Wgmma(self._operand(left, (row, contracted)), self._operand(right, (contracted, col), in_shared=True))

    def _operand(self, v: values.Value, axes: tuple[Rank, ...], in_shared: bool = False) -> TileExpr:
        """An operand of a product: what is loaded in shared memory, what is computed in registers unless it has to be
        in shared memory too."""
        if isinstance(v, values.Load):
            return Lds(self._input(v, axes))
        return Sts(self.computed(v)) if in_shared else self.computed(v)

    def _input(self, v: values.Load, axes: tuple[Rank, ...]) -> Input:
        if len(axes) != 2:
            raise TileError(f"tile terms have two axes, but {v.name} has {list(axes)}")
        rows, cols = (self.plan.length(a) for a in axes)
        return Input(v.tensor, rows, cols, ELEMENT_BYTES[v.dtype], self.iterations[v])
