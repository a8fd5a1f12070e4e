"""One loop: one pass over a rank for every reduction, fold and output that it can serve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eintune.space.analysis.intervals import divided
from eintune.space.analysis.layout import Layout, Shape
from eintune.space.analysis.normal_form import oriented
from eintune.space.ir.expr import Access, Const, Expr, Fold, Gather, Predicate, Rank, Reduce
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import REDUCTIONS
from eintune.space.ir.products import factors, product
from eintune.space.plan.plan import Block, Loop
from eintune.space.plan.roles import IllegalPlan
from eintune.space.plan.values import Mask, Store, Value

from .contraction import Product
from .data_bounds import value_bounds
from .loop_pass import Pass, Running, ScoreTile, TileFold
from .plan_builder import PlanBuilder
from .scope import PlanScope, Sink, Work
from .tile_folds import TILE_FOLDS
from .tile_moments import comoment, mean_of, weights_of


@dataclass(frozen=True)
class RunLoop:
    """Fills one loop. filters: as in `Schedule`."""

    filters: str

    def __call__(self, builder: PlanBuilder, rank: Rank, group: list[Work], around: PlanScope) -> None:
        targets = [a for w in group for a in _arguments(w)]
        sinks = [w.inner for w in group if isinstance(w, Sink) and w.inner]
        body = builder.scope(around.ranks | {rank}, around, targets, sinks)
        this = Pass(builder, rank, body, around)
        # Row statistics before matrix accumulators: shorter live ranges.
        # Values of a body stand in the order in which they are asked for.
        for work in sorted(group, key=lambda w: _weight_class(w, builder)):
            _lower(this, work, group)
        split = self.filters != "every"

        def skips(*rules: Predicate | Expr) -> bool:
            return all(_skips(w, rules, builder) for w in group)

        # After the body is there, since it says which filters are asked for; a loop's ends need nothing of it.
        division = divided(
            builder.layout,
            rank,
            dict.fromkeys(_filters(body.block)),
            around.ranks,
            skips=skips,
            split=split,
            number=lambda x, greatest: _number(x, greatest, builder, around),
            computed=value_bounds(builder, rank, targets, skips, body, split),
        )
        role = builder.layout.roles[rank]
        parts = tuple(division.segments)
        # Printed as one loop with its masks in a branch; the range without masks is then a condition on the index.
        clear = division.clear if self.filters == "branch" and len(parts) > 1 else None
        around.block.items.append(Loop(rank, role.tile or 1, parts, tuple(this.carries), body.block, clear))
        _finish(this)


def _number(x: Access | Gather, greatest: bool, builder: PlanBuilder, around: PlanScope) -> Value | None:
    """An element of a tensor that is one number for the whole loop; of a tile of them the least or the greatest."""
    shape = builder.layout.shape(x)
    # A bound is one number, known before the loop begins.
    if not shape.loops <= around.ranks:
        return None
    value = builder.value(x, around)
    return builder.greatest(value) if greatest else builder.least(value)


def _arguments(work: Work) -> list[Expr]:
    match work:
        case Sink():
            return [work.value]
        case Reduce():
            return [work.arg]
        case Fold():
            return [*work.scores, work.arg]


def _weight_class(work: Work, builder: PlanBuilder) -> tuple[bool, int]:
    if isinstance(work, Sink):
        # Stores last: they read what the others make.
        return True, 0
    return False, len(builder.layout.shape(work).axes)


def _filters(block: Block) -> Iterator[Predicate]:
    """The filters that a body applies, tails too."""
    for item in block.items:
        if isinstance(item, Loop):
            yield from _filters(item.body)
        elif isinstance(item, Mask):
            yield item.predicate


def _skips(work: Work, ps: tuple[Predicate | Expr, ...], builder: PlanBuilder) -> bool:
    # An output must be written everywhere, also where a filter leaves nothing of it.
    return not isinstance(work, Sink) and builder.masks.is_identity(work, *ps)


def _lower(this: Pass, work: Work, group: list[Work]) -> None:
    match work:
        case Sink():
            _store(this, work)
        case Fold():
            _fold(this, work)
        case Reduce("add"):
            _sum(this, work)
        case Reduce():
            _reduction(this, work, group)


def _store(this: Pass, sink: Sink) -> None:
    # An output that varies with several loops is written in the innermost; a pass that another output already asked
    # for is not run again.
    if sink.inner in this.body.work:
        this.builder.run(sink.inner, this.body)
    elif sink.inner is None:
        store(this.builder, sink.name, sink.ranks, sink.value, this.body)


def store(builder: PlanBuilder, name: str, ranks: tuple[Rank, ...], x: Expr, scope: PlanScope) -> None:
    """Write an output's tile, broadcast over the ranks that the value does not vary with."""
    value = builder.value(x, scope)
    axes = builder.layout.ordered(builder.layout.of_ranks(ranks).axes)
    where = builder.stored.get(name, ranks)
    called, dtype = f"o_{name.lower()}", builder.dtypes[name]
    scope.block.items.append(Store(tensor=name, index=where, args=(value,), axes=axes, dtype=dtype, name=called))


def _sum(this: Pass, work: Reduce) -> None:
    layout = this.builder.layout
    axis, taken = layout.axis_of(work.rank), layout.of_rank(work.rank)
    # What does not vary with the loop leaves the sum, also where no law did it: one multiplication after the loop in
    # place of one an iteration. The carry goes into the contraction, as a matrix unit adds to it at no cost.
    inside, outside = _parted(work.arg, taken, layout)
    carry = this.carry("sum", _axes(inside, taken, this), 0.0)
    carry.next = this.builder.contract(Product(inside), axis, this.body, accumulator=carry.value)
    this.results[work] = carry.value, outside


def _parted(arg: Expr, taken: Shape, layout: Layout) -> tuple[list[Expr], list[Expr]]:
    """The factors of a product that vary with what is reduced, and those that leave the loop."""
    inside = [f for f in factors(arg) if layout.shape(f).meets(taken)]
    return inside, [f for f in factors(arg) if f not in inside]


def _axes(parts: list[Expr], taken: Shape, this: Pass) -> frozenset[Rank]:
    return (this.builder.layout.shape(product(parts)) - taken).axes


def _reduction(this: Pass, work: Reduce, group: list[Work]) -> None:
    builder, identity = this.builder, REDUCTIONS[work.op].identity
    carry = this.carry(f"running_{work.op}", builder.layout.shape(work).axes, identity)
    carry.next = builder.apply(work.op, carry.value, _reduced_tile(this, work, group))
    this.results[work] = carry.value, []


def _reduced_tile(this: Pass, work: Reduce, group: list[Work]) -> Value:
    """What a reduction makes of one tile."""
    builder, axis = this.builder, this.builder.layout.axis_of(work.rank)
    if tile := _tile_reference(this, work, group):
        return tile.reduced(builder)
    if work.op in ("max", "min"):
        # As a whole: what another pass subtracts it from is computed as a whole there, and rounded like it.
        return ScoreTile.of(this, work.op, work.arg, axis, whole=True).reduced(builder)
    arg = builder.number(builder.masks.masked(work.arg, axis, REDUCTIONS[work.op].identity), this.body)
    return builder.reduce(work.op, arg, axis) if axis else arg


def _tile_reference(this: Pass, work: Reduce, group: list[Work]) -> ScoreTile | None:
    """What a fold of the same score in this loop has already reduced of the tile, if one has."""
    for other in group:
        if isinstance(other, Fold) and other.action in TILE_FOLDS and TILE_FOLDS[other.action].is_reference(work):
            core, k = oriented(other.ref)
            # A result that is the row's maximum (log-sum-exp beside attention): the fold has reduced this tile
            # already. Only the tile's, as the running one may be guarded.
            if other.rank == work.rank and k > 0 and core is work.arg:
                return _reference(this, other)[1].tile
    return None


def _reference(this: Pass, work: Fold) -> tuple[TileFold, Running]:
    """The running reference of a fold: one for all folds of the same score."""
    # Numerator and denominator of a softmax have one score: one maximum, one set of weights, one factor serve both.
    key = work.action, work.rank, work.ref
    if key not in this.references:
        lowering = TILE_FOLDS[work.action]
        this.references[key] = lowering, lowering.start(this, work.ref, work.rank)
    return this.references[key]


def _fold(this: Pass, work: Fold) -> None:
    builder, layout = this.builder, this.builder.layout
    axis, taken = layout.axis_of(work.rank), layout.of_rank(work.rank)
    if ACTIONS[work.action].weighed:
        _moments(this, work)
        return
    lowering, running = _reference(this, work)
    inside, outside = _parted(work.arg, taken, layout)
    # Moving a sum of squares from mean to mean needs plain counts; with an argument that varies it would have to be a
    # weighted one (`tile_moments`).
    if lowering.constant_argument and inside:
        raise IllegalPlan(f"a {work.action!r} fold sums its weights", f"its argument varies with {work.rank}")
    carry = this.carry("acc", _axes([work.ref, *inside], taken, this), 0.0)
    moved = lowering.transport(builder, carry.value, running)
    weighted = Product(inside, (running.weight,))
    carry.next = builder.contract(weighted, axis, this.body, accumulator=moved)
    this.results[work] = carry.value, outside


def _moments(this: Pass, work: Fold) -> None:
    """A fold around weighed means: one sum of weights for all that have the same, one mean of each score."""
    taken = this.builder.layout.of_rank(work.rank)
    # Three scores: the first is what weights are relative to. Its maximum and weights are those of a plain fold of
    # the same score, made if it is not there.
    relative = work.ref if len(work.scores) > 2 else None
    running = None if relative is None else _reference(this, Fold("scale", work.rank, relative, Const(1.0)))[1]
    inside, outside = _parted(work.arg, taken, this.builder.layout)
    key = (work.rank, relative, *inside)
    if key not in this.weights:
        this.weights[key] = weights_of(this, relative, running, inside, work.rank)
    weights = this.weights[key]
    for x in work.scores[-2:]:
        if (*key, x) not in this.means:
            this.means[*key, x] = mean_of(this, x, weights, work.rank)
    means = [this.means[*key, x] for x in work.scores[-2:]]
    axes = _axes([*inside, *work.scores], taken, this)
    this.results[work] = comoment(this, work, weights, means, running, axes), outside


def _finish(this: Pass) -> None:
    """After the loop its carries are values of the scope around it."""
    for carry in this.carries:
        # What varied with the loop no longer does: carries have left it, and later passes find them where they are
        # asked for.
        this.builder.settle(carry, this.around)
    for work, (value, outside) in this.results.items():
        for f in outside:
            value = this.builder.apply("mul", value, this.builder.number(f, this.around))
        this.around.values[work] = value
