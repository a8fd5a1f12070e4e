"""A loop whose folds keep a reference for as long as it serves.

A composite fold weighs a tile relative to a reference, the maximum of the scores so far. Any number would do: what is
made of the sums does not depend on it (`shifts` finds out), as long as no weight overflows. So an iteration may weigh
its tile relative to the reference as it is, and only where a row's weights add up to more than `LIMIT` find the maximum
and weigh again. Until a row has its first score its reference is -inf, and the sum no number: it is found then too.
What is left out, nearly always, is a maximum, a factor and an accumulator times that factor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .plan import Carry, Loop, LoopPlan, Value, all_values
from .shifts import Dependent, Shifts, addend, factor, linear, same

REFERENCES = ("running", "stale")
"""The settings of `Schedule.reference`."""

LIMIT = 2.0**15
"""Of a row's weights relative to a stale reference. The largest power of two in fp16, to which weights are rounded; and
far below what a sum of products in fp32 could overflow with."""


@dataclass(frozen=True)
class StaleReference:
    """carry: the reference. carries: it, and others that hold the same number times a factor. finding: the values that
    bring it up to date. transport: of them, the factor from the old reference to the new. weighing: those that are
    relative to the reference. total: of them, the sum of a row's weights. All in the order of the loop's body."""

    carry: Carry
    carries: tuple[Carry, ...]
    finding: tuple[Value, ...]
    transport: Value
    weighing: tuple[Value, ...]
    total: Value

    @property
    def guarded(self) -> bool:
        """Whether a plan allows for rows without a score, whose loop may be empty."""
        return any(v.op == "guard" for v in self.finding)

    @property
    def again(self) -> list[Value]:
        """All that is evaluated where the reference does not serve, in an order in which it can be."""
        return [*self.finding, *self.weighing]

    def around(self, values: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """The other values of a body: those that do not depend on the parts of the fold, and those that do."""
        own = {*self.finding, *self.weighing}
        after = set(_after(values, own))
        return ([v for v in values if v not in own | after], [v for v in values if v in after - own])


def stale_references(plan: LoopPlan) -> dict[Loop, StaleReference]:
    """What each loop of a plan may keep. Empty where what a plan stores depends on the references themselves."""
    return {loop: stale for loop in plan.root.items if isinstance(loop, Loop) and (stale := _of(plan, loop))}


def fault(plan: LoopPlan) -> str | None:
    """Why no loop of a plan may keep its reference; None where one may."""
    return None if stale_references(plan) else "stale reference: nothing is weighed relative to one that could be kept"


def _of(plan: LoopPlan, loop: Loop) -> StaleReference | None:
    values = [v for v in loop.body.items if isinstance(v, Value)]
    if len(values) < len(loop.body.items):
        return None
    candidates = (_at(values, loop, c) for c in loop.carries if c.init == -float("inf") and c.next.op == "max")
    return next((x for x in candidates if x and _is_free(plan, loop, x, values)), None)


def _at(values: Sequence[Value], loop: Loop, carry: Carry) -> StaleReference | None:
    """The parts of a fold relative to one carry; None where it is no reference, or where others read its parts."""
    users = {v: [u for u in values if v in u.args] for v in values} | {
        c.value: [u for u in values if c.value in u.args] for c in loop.carries
    }
    new = [carry.next, *(u for u in users[carry.next] if u.op == "guard")]
    steps = [u for u in users[carry.value] if u.op == "sub" and u.args[0] is carry.value and u.args[1] in new]
    transports = [u for step in steps for u in users[step] if u.op == "exp2"]
    if len(steps) != 1 or len(transports) != 1:
        return None
    (transport,) = transports
    carries = tuple(c for c in loop.carries if _ratio(c, carry) is not None)
    finding = {*new, *steps, transport, *(c.next for c in carries)}
    weighing = set(_after(values, new)) - finding - set(_after(values, [transport]))
    for v in reversed(values):
        if v.op != "load" and users[v] and finding.issuperset(users[v]):  # nothing else needs it
            finding.add(v)
    total = _total(weighing)
    inside = finding | weighing
    read = {u for v in finding - {transport} for u in users[v]} - inside
    read |= {u for c in carries for u in users[c.value]} - finding
    read |= finding & {c.next for c in loop.carries if c not in carries}
    if read or total is None:
        return None
    in_order = (tuple(v for v in values if v in part) for part in (finding, weighing))
    return StaleReference(carry, carries, next(in_order), transport, next(in_order), total)


def _total(weighing: Collection[Value]) -> Value | None:
    """The sum of a row's weights; None unless there is one, of the only weights, which nothing multiplies yet."""
    weights = [v for v in weighing if v.op == "exp2"]
    sums = [v for v in weighing if v.op == "reduce" and v.args[0] in weights and _operation(v) == "add"]
    products = any(v.op == "dot" for v in weighing)
    return sums[0] if len(weights) == len(sums) == 1 and not products else None


def _operation(v: Value) -> object:
    assert isinstance(v.attr, tuple)
    return v.attr[0]


def _after(values: Sequence[Value], sources: Collection[Value]) -> Iterator[Value]:
    """The values that depend on some others."""
    found = set(sources)
    for v in values:
        if not found.isdisjoint(v.args):
            found.add(v)
            yield v


def _ratio(c: Carry, reference: Carry) -> float | None:
    """A running maximum over another one, where both take in the same number times a factor."""
    if c.init != reference.init or c.next.op != "max":
        return None
    old, taken = (linear(next(a for a in x.next.args if a is not x.value)) for x in (reference, c))
    if old.keys() != taken.keys() or any(x.value not in x.next.args for x in (reference, c)):
        return None
    ratios = [taken[base] / old[base] for base in old]
    return ratios[0] if ratios[0] > 0 and all(abs(r / ratios[0] - 1) < 1e-9 for r in ratios) else None


def _is_free(plan: LoopPlan, loop: Loop, stale: StaleReference, values: Sequence[Value]) -> bool:
    """Whether nothing that a plan stores depends on what number the reference is."""
    shifts = Shifts(stale.carry.value.axes)
    for c in stale.carries:
        shifts.moves[c.value] = shifts.moves[c.next] = addend(0, _ratio(c, stale.carry) or 1.0)
    scaled = set(_after(values, [stale.transport, *stale.weighing]))
    for c in loop.carries:
        if c.next in scaled and c not in stale.carries:
            shifts.moves[c.value] = factor(0, -1.0)
    outputs = [v for v in all_values(plan.root) if v.op == "store"]
    try:
        shifts.follow(values)
        kept = all(same(shifts.of(c.next), shifts.of(c.value)) for c in loop.carries)
        shifts.follow(v for v in all_values(plan.root) if v.op != "store")
    except Dependent:
        return False
    return kept and all(shifts.of(a).stays for v in outputs for a in v.args)
