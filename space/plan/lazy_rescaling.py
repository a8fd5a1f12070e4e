"""A loop whose folds keep a reference for as long as it serves.

A composite fold weighs a tile relative to a reference, the maximum of the scores so far. Any number would do: what is
made of the sums does not depend on it (`reference_invariance` finds out), as long as no weight overflows. So an
iteration may weigh its tile relative to the reference as it is, and only where a row's weights add up to more than
`LIMIT` find the maximum and weigh again. Until a row has its first score its reference is -inf, and the sum no number:
it is found then too. What is left out, nearly always, is a maximum, a factor and an accumulator times that factor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .plan import Carry, Loop, LoopPlan
from .reference_invariance import is_invariant, ratio, references
from .refusals import Refusal
from .values import Dot, Load, RowReference, RowScale, Store, TileReduce, Value

Rescaling = Literal["eager", "lazy"]
"""The settings of `Schedule.rescaling`."""

RESCALING: tuple[Rescaling, ...] = get_args(Rescaling)

LIMIT = 2.0**15
"""Of a row's weights relative to a reference that is kept. The largest power of two in fp16, to which weights are
rounded; and far below what a sum of products in fp32 could overflow with."""


@dataclass(frozen=True)
class LazyRescaling:
    """The parts of one loop that decide whether a reference is kept; values in the order of the loop's body.

    carry: the running maximum that serves as the reference. carries: all running values that are it times a number,
    `carry` among them. max_update: the values that find the next reference, and bring `carries` to it. rescale: the
    one of these that accumulators are multiplied by (2 to the old reference less the new). weights: the values that
    are computed relative to the reference: among them `factor`, which a row's scores are multiplied by, `reference`,
    the carry times `factor`, and `row_sum`, the sum of a row's weights. unread: those of them that nothing reads while
    a reference is kept. recomputed: `max_update` and `weights`, which are evaluated again where it does not serve.
    """

    carry: Carry
    carries: tuple[Carry, ...]
    max_update: tuple[Value, ...]
    rescale: Value
    weights: tuple[Value, ...]
    factor: RowScale
    reference: Value
    row_sum: TileReduce
    unread: frozenset[Value]
    recomputed: tuple[Value, ...]

    @property
    def guarded(self) -> bool:
        """Whether a plan allows for rows without a score, whose loop may be empty."""
        return any(v.op == "guard" for v in self.max_update)

    def around(self, values: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """The values of a body that are not recomputed: those to print before the fold, as nothing of it enters them,
        and those to print after it."""
        own = set(self.recomputed)
        after = set(_after(values, own))
        return ([v for v in values if v not in own | after], [v for v in values if v in after - own])


def lazy_rescalings(plan: LoopPlan) -> dict[Loop, LazyRescaling]:
    """The loops of a plan that may keep a reference, each with the parts of its fold. A loop is left out where what the
    plan stores would depend on which reference was kept."""
    return {loop: lazy for loop in plan.root.items if isinstance(loop, Loop) and (lazy := _of(plan, loop))}


def fault(plan: LoopPlan) -> Refusal | None:
    """Why no loop of a plan may keep its reference; None where one may."""
    if lazy_rescalings(plan):
        return None
    return Refusal("lazy rescaling", "nothing is weighed relative to one that could be kept")


def _of(plan: LoopPlan, loop: Loop) -> LazyRescaling | None:
    # What is in an inner loop would have to be run twice in the branch, its products too.
    values = [v for v in loop.body.items if isinstance(v, Value)]
    if len(values) < len(loop.body.items):
        return None
    # A running maximum that starts at -inf. Which of several is the reference of the weights shows in what reads it.
    candidates = (_at(values, loop, c) for c in loop.carries if c.init == -float("inf") and c.next.op == "max")
    return next((x for x in candidates if x and _is_free(plan, x)), None)


def _at(values: Sequence[Value], loop: Loop, carry: Carry) -> LazyRescaling | None:
    """The parts of the fold whose reference is `carry`. None where nothing is weighed relative to it, and where a value
    outside of those parts reads one of them: that value would see a reference which is out of date."""
    read = _read_where_kept(values, [c.next for c in loop.carries])
    every = [*values, *(c.value for c in loop.carries)]
    users = {v: [u for u in read if v in read[u]] for v in every}
    # The pattern that `tile_folds.ScaleFold` leaves: old and new reference times the row's factor, their difference
    # (bounded, where a factor may change between the two), and 2 to that, by which accumulators move.
    new = [carry.next, *(u for u in users[carry.next] if u.op == "guard")]
    old_products, products = (_products(sources, users) for sources in ([carry.value], new))
    steps = [u for p in old_products for u in users[p] if u.op == "sub" and u.args[0] is p and u.args[1] in products]
    steps += [u for step in steps for u in users[step] if u.op == "min"]
    rescales = [u for u in users[steps[-1]] if u.op == "exp2"] if steps else []
    # A plan that multiplies after it subtracts (`precise`) has no such pair of products: there is nothing to keep.
    if len(rescales) != 1:
        return None
    (rescale,) = rescales
    # A result may be the maximum itself, in the scores' own terms: it is another running maximum over the same
    # numbers, and goes stale with this one. It must be found again when this one is.
    carries = tuple(c for c in loop.carries if c is carry or ratio(c, carry) is not None)
    bounds = {a for step in steps for a in step.args if step.op == "min"}  # in the scores' own terms
    # Sorting a body's values into three: what brings the reference up to date; what is weighed relative to it; and
    # the rest, which is printed once whichever branch was taken.
    update = {*new, *bounds, *steps, rescale, *(c.next for c in carries)}
    # What depends on the factor between references is an accumulator: it stands after the branch, with the factor 1
    # where the reference was kept.
    weights = set(_after(values, new)) - update - set(_after(values, [rescale]))
    # Backwards, so that a whole chain moves: the tile's maximum is read by nothing but the running one, and what it
    # alone reads by nothing but that.
    for v in reversed(values):
        if not isinstance(v, Load) and users[v] and update.issuperset(users[v]):  # nothing else needs it
            update.add(v)
            weights.discard(v)
    total, reference = _total(weights), products[-1]
    inside = update | weights
    # Nothing outside may read a reference that is perhaps not the newest: not its update, not its old value, and no
    # other carry may take it over.
    stale = {u for v in update - {rescale} for u in users[v]} - inside
    stale |= {u for c in carries for u in users[c.value]} - update
    stale |= update & {c.next for c in loop.carries if c not in carries}
    # The factor of a row is needed as a number where the reference is kept (`iterations`), so it must be one.
    factor = reference.args[0].args[1]
    if stale or total is None or not isinstance(factor, RowScale):
        return None
    found, weighed, again = (tuple(v for v in values if v in part) for part in (update, weights, inside))
    # The reference that is kept is a number already, so nothing reads the product that it is made of.
    unread = frozenset(v for v in weights if v not in read or users[v] == [reference])
    return LazyRescaling(carry, carries, found, rescale, weighed, factor, reference, total, unread, again)


def _read_where_kept(values: Sequence[Value], results: Collection[Value]) -> dict[Value, tuple[Value, ...]]:
    """The values that are needed while a reference is kept, each with what it reads then: a row's factor is a number,
    and where a row part is taken off it is taken off the kept reference. results: what is needed in any case."""
    read: dict[Value, tuple[Value, ...]] = {}
    needed = set(results)
    for v in reversed(values):
        if v in needed or isinstance(v, Store):
            read[v] = () if isinstance(v, RowScale) else v.args[:1] if isinstance(v, RowReference) else v.args
            needed.update(read[v])
    return read


def _products(references: Sequence[Value], users: Mapping[Value, Sequence[Value]]) -> list[Value]:
    """The (rounded) products of `references` with a row's factor, as scores are multiplied by it too."""
    every = [u for v in references for u in users[v] if u.op == "mul" and u.args[0] is v]
    return [r for u in every if isinstance(u.args[1], RowScale) for r in users[u] if r.op == "rounded"]


def _total(relative: Collection[Value]) -> TileReduce | None:
    """The sum of a row's weights, by which a reference is tested. None unless there is exactly one exponential and one
    sum of it, and no matrix product among these values."""
    # The test for a reference that no longer serves is on a row's sum of these, so they must all be in it.
    weights = [v for v in relative if v.op == "exp2"]
    sums = [v for v in relative if isinstance(v, TileReduce) and v.args[0] in weights and v.reduction == "add"]
    # A matrix product in the branch would be issued by some warps of a group and not by others; the instruction needs
    # all four.
    products = any(isinstance(v, Dot) for v in relative)
    return sums[0] if len(weights) == len(sums) == 1 and not products else None


def _after(values: Sequence[Value], sources: Collection[Value]) -> Iterator[Value]:
    """The values that depend on some others."""
    # One sweep is enough: values stand after what they read.
    found = set(sources)
    for v in values:
        if not found.isdisjoint(v.args):
            found.add(v)
            yield v


def _is_free(plan: LoopPlan, lazy: LazyRescaling) -> bool:
    """Whether nothing that a plan stores depends on what number the reference is."""
    return is_invariant(plan, references(lazy.carry, lazy.carries, lazy.factor.factors.factor))
