"""The invariants of a loop plan, checked."""

from __future__ import annotations

from .bounds import numbers
from .plan import Block, Loop, LoopPlan
from .roles import IllegalPlan
from .values import Store, Value


def check(plan: LoopPlan) -> None:
    """Raises IllegalPlan naming the first value or loop that breaks an invariant of `plan`."""
    _Checker(plan).block(plan.root, frozenset())


class _Checker:
    def __init__(self, plan: LoopPlan) -> None:
        self._plan = plan
        self._names: set[str] = set()

    def block(self, block: Block, known: frozenset[Value]) -> None:
        defined = set(known)
        for item in block.items:
            if isinstance(item, Loop):
                self._loop(item, block, frozenset(defined))
                defined |= {c.value for c in item.carries}
            else:
                self._value(item, defined)
                defined.add(item)

    def _loop(self, loop: Loop, around: Block, known: frozenset[Value]) -> None:
        role = self._plan.roles[loop.rank]
        if role.outer != "loop":
            raise IllegalPlan("a loop runs over a rank whose role is loop", f"{loop.rank} is {role}")
        if loop.body.ranks != around.ranks | {loop.rank}:
            raise IllegalPlan(f"the loop over {loop.rank} stands in {set(around.ranks)}, its body in {loop.body.ranks}")
        for c in loop.carries:
            if c.value.axes != c.next.axes:
                raise IllegalPlan("a carry keeps its axes", f"{c.value.name}{c.value.axes} becomes {c.next.axes}")
            if c.next is c.value:
                raise IllegalPlan("a carry is updated in its loop", f"{c.value.name} is not")
        self._bounds(loop, known)
        inside = known | {c.value for c in loop.carries}
        self.block(loop.body, inside)

    def _bounds(self, loop: Loop, known: frozenset[Value]) -> None:
        ends = [b for s in loop.segments for b in (s.lo, s.hi)] + list(loop.mask_free or ())
        for v in (v for b in ends for v in numbers(b)):
            if v not in known or v.axes:
                raise IllegalPlan("a loop's bounds are numbers known before it", f"{loop.rank} uses {v.name}{v.axes}")
        for k in (k for s in loop.segments for k in s.known):
            if isinstance(k, Value) and k.dtype != "bool":
                raise IllegalPlan("a segment knows filters and conditions", f"{loop.rank} has {k.name}:{k.dtype}")

    def _value(self, v: Value, defined: set[Value]) -> None:
        for a in v.args:
            if a not in defined:
                raise IllegalPlan("a value is defined before it is used", f"{v.name} uses {a.name}")
        if not isinstance(v, Store) and v.name in self._names:
            raise IllegalPlan("a value is defined once", f"{v.name} is defined again")
        self._names.add(v.name)
        order = [q for q in self._plan.order if q in v.axes]
        if list(v.axes) != order:
            raise IllegalPlan(f"axes follow the plan's order {order}", f"{v.name} has {v.axes}")
        for q in v.axes:
            if self._plan.roles[q].tile is None:
                raise IllegalPlan("an axis is a tiled rank", f"{v.name} has {q}, which is {self._plan.roles[q]}")
