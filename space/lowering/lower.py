"""From a cascade, a problem and a schedule to the loop plans of its kernels: one, unless a loop runs in parts.

Everything follows from the graph. Passes are the levels of reductions over a looped rank; hoisting and sinking
come from placing each value by its loops; composite folds become running values; sums of products become matrix
products; masks are inserted where an interpretation of the graph says that a reduction would see a wrong number.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from eintune.host.recent import Recent
from eintune.space.analysis.empty_rows import Empties
from eintune.space.analysis.layout import Layout
from eintune.space.analysis.masks import Masks
from eintune.space.analysis.normal_form import bind_sizes, normalise
from eintune.space.analysis.rank_order import rank_order
from eintune.space.analysis.rank_uses import batch_ranks
from eintune.space.analysis.roots import Roots, roots_of
from eintune.space.analysis.views import Halves
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.dtypes import SIXTEEN_BIT
from eintune.space.ir.expr import (
    Expr,
    Fold,
    Part,
    Rank,
    Reduce,
    Where,
    bind,
    indexing_ranks,
    params,
    reads,
    rewrite,
    tensors,
    topological,
)
from eintune.space.ir.gathers import check_indices, tables
from eintune.space.ir.index_arithmetic import with_sizes
from eintune.space.plan.bounds_prepass import with_early_bounds
from eintune.space.plan.check import check
from eintune.space.plan.plan import Carry, LoopPlan, Program
from eintune.space.plan.reference_invariance import is_invariant, references, stored_moves
from eintune.space.plan.repair import with_repair
from eintune.space.plan.roles import IllegalPlan, Role
from eintune.space.plan.sizes import MOST, SizeRange, Sizes, UnknownMost, UnknownSize
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.targets import TARGETS, merged_elements

from .held_tiles import hold_tiles
from .loops import RunLoop, store
from .packing import packed
from .plan_builder import PlanBuilder
from .scope import PlanScope, Sink
from .split_reduction import stages
from .split_roles import Placed, placed
from .tile_folds import expand
from .unseen_values import Beside, without_unseen

__all__ = ["IllegalPlan", "build_plan", "build_program"]

ROW_TILE = 16
"""Elements of a loop's tiles, at most, where values are filtered by row and tiles are padded: such a plan sums three
times, and is to take no more registers than the one that it stands for."""
PIECES = 4
"""Pieces of a program's tile there, at most: of ALIGNED elements at least."""
ALIGNED = 16
"""Elements: what the length of rows is a multiple of, or not (`build_for_any_size`)."""
SHORT = 2**14
"""Two ranks shorter than this, packed, are no longer than MOST."""

T = TypeVar("T")
Outputs = Mapping[str, tuple[Rank, ...]]


def build_program(cascade: Cascade, problem: Problem, schedule: Schedule, unknown: Sizes | None = None) -> Program:
    """The kernels of the cascade's outputs under the schedule's roles.

    unknown: sizes that are not to be numbers of the plan, with what it may rely on instead; by default every size is
    the problem's. Raises UnknownSize where one has to be a number.

    The schedule gives every rank a role; a rank that stays split has one role as a whole (a tiled loop). A loop in
    parts is cut (`split_reduction`), all else is one kernel. Raises IllegalPlan for a cascade that these roles cannot
    lay out, with the rule and the value. Plans are shared between callers and not to be changed.
    """
    roles = tuple(sorted(schedule.roles, key=lambda r: r[0]))
    style = schedule.filters, schedule.functions, schedule.is_specialised, TARGETS[schedule.emitter].padded
    early = schedule.bounds == "kernel" and TARGETS[schedule.emitter].data_dependent_bounds
    sized = _Sized.of(problem, Sizes() if unknown is None else unknown)
    return _planned(cascade, sized, roles, style, merged_elements(schedule.emitter), early)


def build_plan(cascade: Cascade, problem: Problem, schedule: Schedule) -> LoopPlan:
    """As `build_program`, of one kernel. Raises IllegalPlan too where the roles need several."""
    program = build_program(cascade, problem, schedule)
    if len(program.kernels) > 1:
        raise IllegalPlan("a plan is one kernel", f"these roles need {len(program.kernels)}: {schedule.roles}")
    return program.kernels[0]


def build_for_any_size(cascade: Cascade, problem: Problem, schedule: Schedule) -> Program:
    """As `build_program`, for any size of the ranks that programs or loops iterate (`unknown_sizes`), under a schedule
    `for_any_size`."""
    while True:
        unknown = unknown_sizes(cascade, problem, schedule)
        try:
            return build_program(cascade, problem, schedule, unknown)
        except UnknownMost as error:
            key = cascade, schedule.roles, schedule.emitter, _items(problem.dtypes)
            _bounded[key] = {**(_bounded.get(key) or {}), error.rank: error.limit}
        except UnknownSize as error:
            key = cascade, schedule.roles, schedule.emitter, _items(problem.dtypes)
            _needed[key] = (_needed.get(key) or frozenset()) | {error.rank}


def unknown_sizes(cascade: Cascade, problem: Problem, schedule: Schedule) -> Sizes:
    """What a plan for any size may know of a problem's sizes: those of ranks that the schedule holds in a tile of some
    length are numbers, those that index no argument (how wide a window is) too, and what a plan is known to need as a
    number. Of two that a filter compares it may rely on which is at most the other; of the length of rows, on whether
    ALIGNED divides it; of what a program looks at as one tile, on the power of two that the tile is long."""
    key = cascade, schedule.roles, schedule.emitter, _items(problem.dtypes)
    bounded = _bounded.get(key) or {}
    fixed = _whole(schedule.roles) | (_needed.get(key) or frozenset())
    arguments, rows, compared = _mentioned(cascade)
    sizes = problem.sizes
    beside: dict[Rank, int] = {}  # what is packed with a rank makes it as many times longer
    for r, role in schedule.roles:
        if role.pack:
            beside[role.pack] = beside.get(role.pack, 1) * max(sizes.get(r, 1), 1)
    most = {r: MOST // beside.get(r, 1) for r in arguments}
    ranges = {
        r: SizeRange(most=most[r], multiple=ALIGNED if r in rows and sizes[r] % ALIGNED == 0 else 1)
        for r in arguments
        if r not in fixed and 0 < sizes.get(r, 0) <= most[r]  # an axis may have the size of another rank
    }
    ranges |= {r: ranges[r].around(sizes[r], limit) for r, limit in bounded.items() if r in ranges}
    pairs = ((a, b) for a, b in compared if a in ranges and b in ranges and sizes[a] <= sizes[b])
    return Sizes({}, ranges, ordered=pairs)


def open_ranks(cascade: Cascade, problem: Problem, schedule: Schedule) -> frozenset[Rank]:
    """The ranks of which `unknown_sizes` leaves the size open."""
    packs = sum(role.pack is not None for _, role in schedule.roles)
    if packs > 1 or not all(0 < n < SHORT for n in problem.sizes.values()):
        return frozenset(unknown_sizes(cascade, problem, schedule).ranges)
    needed = _needed.get((cascade, schedule.roles, schedule.emitter, _items(problem.dtypes))) or frozenset()
    return _open(cascade, schedule.roles, needed).intersection(problem.sizes)


@lru_cache(maxsize=512)
def _open(cascade: Cascade, roles: tuple[tuple[Rank, Role], ...], needed: frozenset[Rank]) -> frozenset[Rank]:
    """As `open_ranks`, of sizes up to SHORT."""
    return frozenset(_mentioned(cascade)[0]) - needed - _whole(roles)


def _whole(roles: tuple[tuple[Rank, Role], ...]) -> set[Rank]:
    """The ranks that are held in a tile of some length."""
    return {r for r, role in roles if role.outer is None and not role.pack and (role.tile or 0) < MOST}


_needed: Recent[Hashable, frozenset[Rank]] = Recent(512)
"""The ranks that a plan needed the sizes of, so that each is found out once."""
_bounded: Recent[Hashable, dict[Rank, int]] = Recent(512)
"""The ranks that a plan needed to know the most of, up to a limit."""


@lru_cache(maxsize=512)
def _mentioned(cascade: Cascade) -> tuple[tuple[Rank, ...], frozenset[Rank], tuple[tuple[Rank, Rank], ...]]:
    """The ranks that index arguments, those that are rows of inputs, and pairs that a filter compares."""
    every = [t.ranks for t in (*cascade.inputs.values(), *cascade.outputs.values())]
    rows = frozenset(t.ranks[-1] for t in cascade.inputs.values() if len(t.ranks) > 1)
    filters = (x.predicate for x in topological(list(roots_of(cascade).expressions)) if isinstance(x, Where))
    pairs = ((a, b) for p in filters for a in sorted(p.ranks) for b in sorted(p.ranks) if a != b)
    addressed = (indexing_ranks(x) for x in reads(roots_of(cascade).expressions))  # a key on its page, too
    arguments = dict.fromkeys(r for ranks in (*every, *addressed) for r in ranks)
    return tuple(arguments), rows, tuple(dict.fromkeys(pairs))


@dataclass(frozen=True)
class _Sized:
    """What a plan takes from a problem, hashable: many schedules differ in nothing that a plan sees."""

    sizes: tuple[tuple[Rank, int], ...]
    dtypes: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, float], ...]
    ranges: tuple[tuple[Rank, SizeRange], ...]
    ordered: frozenset[tuple[Rank, Rank]]

    @classmethod
    def of(cls, problem: Problem, unknown: Sizes) -> _Sized:
        known = {r: n for r, n in problem.sizes.items() if r not in unknown.ranges}
        ranges = _items(unknown.ranges)
        return cls(_items(known), _items(problem.dtypes), _items(problem.params), ranges, unknown.ordered)


def _items(mapping: Mapping[str, T]) -> tuple[tuple[str, T], ...]:
    return tuple(sorted(mapping.items(), key=lambda item: item[0]))


@lru_cache(maxsize=512)
def _planned(
    cascade: Cascade,
    sized: _Sized,
    given: tuple[tuple[Rank, Role], ...],
    style: tuple[str, str, bool, bool],
    merged: int,
    early: bool,
) -> Program:
    source = roots_of(cascade)
    dtypes, roles = dict(sized.dtypes), dict(given)
    sizes = Sizes(sized.sizes, dict(sized.ranges), ordered=sized.ordered)
    # Parameters and sizes become numbers before anything else, so that folding of constants, filters and bounds all
    # work on numbers.
    expressions = with_sizes(_bound(source.expressions, source.outputs, dtypes, dict(sized.params)), sizes)
    source = Roots(tuple(expressions), source.outputs, source.halves)
    outputs = source.outputs
    # Before a loop is cut: packed ranks are rows, the rank in parts is streamed, and neither knows of the other.
    source, roles, sizes, stored = packed(source, roles, sizes)
    filters, functions, specialised, padded = style
    lowering = _Lowering(dtypes, list(cascade.inputs), outputs, filters, functions)
    divided = [r for r, role in roles.items() if role.num_splits > 1]
    if len(divided) > 1:
        raise IllegalPlan("one rank of a plan is in parts", f"{divided} are")
    kernels = [Placed(source, roles, sizes, {}, stored)]
    if divided:
        _sizes([*source.ranks(), *source.numbers(), *source.axes()], sizes)
        kernels = list(
            placed(
                stages(source, divided[0], uneven=divided[0] in sizes.ranges), divided[0], roles, sizes, merged, stored
            )
        )
    plans: list[LoopPlan] = []
    # In order, since a kernel must know whether workspaces that it reads may hold -inf.
    for k in kernels:
        plan = lowering.plan(k)
        *before, main = with_early_bounds(plan) if early and len(kernels) == 1 else (plan,)
        if not main.unfiltered:
            plans += [*before, main]
            continue
        if padded:
            k = replace(k, roles={r: _narrowed(role) for r, role in k.roles.items()})
        # Few differ, as their tiles are short. (Of a loop in parts what is cut depends on the tiles that were given.)
        packs = tuple((r, role.pack) for r, role in given)
        key = None if divided else (cascade, sized, _items(k.roles), packs, functions)
        rows = _by_row.get(key) if key else None
        if rows is None:
            rows = lowering.plan(k, by_row=True)
            if key:
                _by_row[key] = rows
        plans += [*before, *with_repair(main, rows, specialised)]
    return Program(tuple(plans))


_by_row: Recent[Hashable, LoopPlan] = Recent(256)
"""What computes tiles again, as many schedules have the same."""


class _Lowering:
    """Plans the kernels of one program in order. inputs: the program's, in order; outputs: its own. filters,
    functions: as in `Schedule`."""

    def __init__(
        self,
        dtypes: Mapping[str, str],
        inputs: Sequence[str],
        outputs: Outputs,
        filters: str,
        functions: str,
    ) -> None:
        self._dtypes, self._inputs, self._outputs = dict(dtypes), list(inputs), dict(outputs)
        self._filters, self._functions = filters, functions
        self._compute = "fp64" if "fp64" in dtypes.values() else "fp32"
        self._infinite: frozenset[str] = frozenset()
        """Workspaces that may hold -inf."""

    def plan(self, kernel: Placed, *, by_row: bool = False) -> LoopPlan:
        """One kernel. What it writes and has no dtype is a workspace in the compute dtype. by_row: with values
        filtered by each row, and all filters in every tile."""
        source, outputs, halves = kernel.roots.expressions, kernel.roots.outputs, kernel.roots.halves
        ranks = kernel.roots.ranks()
        roles = _roles(ranks, halves, kernel.roles)
        own = {n: self._outputs.get(n, index) for n, index in outputs.items()}
        indices = [*ranks, *kernel.roots.axes(), *(r for index in own.values() for r in index)]
        lengths = [s.length for s in kernel.splits.values() if isinstance(s.length, str)]
        numbers = _sizes([*indices, *kernel.roots.numbers(), *lengths], kernel.sizes)
        _check_whole(roles, numbers)
        sizes = numbers.only([*indices, *(r for r in (*kernel.roots.numbers(), *lengths) if r in numbers.ranges)])
        # A packed rank is as long as its two parts together, by construction; whether a table is long enough is seen
        # when a kernel gets its sizes (`LoopPlan.tables`).
        fitting = {(Part("//", r, d.times), d.rank) for r, d in sizes.derived.items() if d.by == d.step == 1}
        fitting |= {(p, axis) for p, axis in tables(source) if {p.rank, axis} & sizes.ranges.keys()}
        try:
            check_indices(source, sizes, fitting=fitting)
        except UnknownSize:
            raise
        except ValueError as error:
            raise IllegalPlan(str(error)) from None
        order = rank_order(source, outputs, ranks, batch_ranks(source, halves))
        _refuse_grid_reductions(source, roles, halves)
        self._dtypes = dict.fromkeys(outputs, self._compute) | self._dtypes

        # Twice at most: the fast way of weighing first, and again without it if what is stored would show its
        # rounding.
        def layout() -> Layout:  # building a plan may add axes to it
            return Layout(dict(roles), sizes, halves, order, kernel.splits, self._infinite)

        plan, infinite = self._built(kernel, layout(), own, numbers, by_row)
        if plan is None:
            plan, infinite = self._built(kernel, layout(), own, numbers, by_row, precise=True)
        assert plan is not None
        check(plan)
        self._infinite |= infinite
        return plan

    def _built(
        self, kernel: Placed, layout: Layout, own: Outputs, numbers: Sizes, by_row: bool, *, precise: bool = False
    ) -> tuple[LoopPlan | None, frozenset[str]]:
        """A plan, and which of its outputs may hold -inf; None for one that has to be `precise` (see `PlanBuilder`)."""
        masks, outputs = Masks(layout), kernel.roots.outputs
        beside: Beside = "row" if by_row else "nothing"
        roots, left = _prepared(list(kernel.roots.expressions), layout, masks, numbers, beside)
        # Of outputs of 16 bits, errors of fp32 in positions do not show (`row_offsets`), unless a maximum is met again:
        # beside scores that were not taken apart, or as a result.
        narrow = all(self._dtypes[n] in SIXTEEN_BIT for n in self._outputs)
        filters = "every" if by_row else self._filters
        run, low_precision = RunLoop(filters), narrow and not _has_maximum(roots)
        builder = PlanBuilder(
            layout, masks, self._dtypes, self._compute, run, kernel.stored, self._functions, low_precision, precise
        )
        used, grid = tensors(roots), _grid(layout.order, layout.roles)
        root = _tree(roots, outputs, builder).block
        plan = LoopPlan(
            roles=layout.roles,
            sizes=layout.sizes,
            order=layout.order,
            grid=grid,
            root=root,
            inputs={n: used[n] for n in dict.fromkeys([*self._inputs, *used]) if n in used},
            outputs=dict(own),
            dtypes={n: self._dtypes[n] for n in (*used, *outputs)},
            splits=dict(kernel.splits),
            unfiltered=left if beside == "nothing" else frozenset(),
        )
        # Only now is there a plan that can be asked.
        if builder.references and not _is_invariant(plan, builder.references):
            return None, frozenset()
        return plan, frozenset(n for n, x in zip(outputs, roots, strict=True) if masks.reaches_neg_inf(x))


def _narrowed(role: Role) -> Role:
    match role:
        case Role("loop", int(tile)):
            return replace(role, tile=min(tile, ROW_TILE))
        case Role("grid", int(tile)) if tile > ALIGNED:
            return replace(role, tile=max(tile // PIECES, ALIGNED))
        case _:
            return role


def _has_maximum(roots: Sequence[Expr]) -> bool:
    return any(isinstance(x, Reduce) and x.op in ("max", "min") for x in topological(roots))


def _is_invariant(plan: LoopPlan, factors: Mapping[Carry, tuple[float, bool]]) -> bool:
    """Whether nothing that a plan stores depends on how the products of references with their factors are rounded.

    That is as if the scores were rounded once more. It must not show where scores are given, and no sums that were
    rounded, nor as a factor of what is relative to the maximum itself, a weight beside the sum of all.
    """
    loops = {c: loop for loop in plan.loops() for c in loop.carries}
    several = len(list(plan.loops())) > 1  # weights may be taken in another one
    for c, (k, given) in factors.items():
        alone = stored_moves(plan, references(c, [], k))
        # By itself the rounded reference may appear in the result neither as a factor (a weight stored as it is) nor,
        # where scores are inputs, at all: a maximum of given numbers is exact, and is to be stored exactly.
        if (given or several) if alone is None else any(move.factor for move in alone):
            return False
        if not is_invariant(plan, references(c, loops[c].carries, k)):
            return False
    return True


def _bound(
    roots: Sequence[Expr], outputs: Outputs, dtypes: Mapping[str, str], values: Mapping[str, float]
) -> list[Expr]:
    missing = sorted(set(params(roots)) - set(values))
    if missing:
        raise IllegalPlan("every parameter has a value", f"{missing} have none (given: {dict(values)})")
    untyped = sorted({*tensors(roots), *outputs} - set(dtypes))
    if untyped:
        raise IllegalPlan("every tensor has a dtype", f"{untyped} have none (given: {dict(dtypes)})")
    return bind(roots, values)


def _roles(ranks: Sequence[Rank], halves: Halves, given: Mapping[Rank, Role]) -> dict[Rank, Role]:
    roles: dict[Rank, Role] = {}
    for r in ranks:
        if r not in given:
            raise IllegalPlan("every rank has a role", f"{r} has none (roles: {sorted(given)})")
        roles[r] = given[r]
        if r in halves and not (roles[r].outer == "loop" and roles[r].tile):
            raise IllegalPlan("a rank that stays split is a loop over tiles", f"{r} is {roles[r]}")
    return roles


def _check_whole(roles: Mapping[Rank, Role], sizes: Sizes) -> None:
    """Raises IllegalPlan for a tile that is to hold all of a rank and does not."""
    short = {r: role.tile for r, role in roles.items() if role.outer is None and role.tile and r in sizes}
    for r, tile in short.items():
        if tile < sizes[r]:
            raise IllegalPlan(
                "a tile that holds all of a rank is as long as it", f"{r} has {sizes[r]}, its tile {tile}"
            )


def _sizes(ranks: Sequence[Rank], given: Mapping[Rank, int]) -> Sizes:
    sizes = Sizes.of(given)
    missing = [r for r in dict.fromkeys(ranks) if not sizes.has(r) or sizes.least(r) < 1]
    if missing:
        raise IllegalPlan("every rank has a size of at least 1", f"{missing} have none (given: {dict(given)})")
    return sizes.only(ranks)


def _refuse_grid_reductions(roots: Sequence[Expr], roles: Mapping[Rank, Role], halves: Halves) -> None:
    whole = {half: rank for rank, pair in halves.items() for half in pair}
    for x in topological(roots):
        if isinstance(x, (Reduce, Fold)) and roles[whole.get(x.rank, x.rank)].outer == "grid":
            raise IllegalPlan(
                "a reduction runs inside one program",
                f"{x.rank} is reduced and its role is grid (roles that may be reduced: loop, whole axis)",
            )


def _prepared(
    roots: list[Expr], layout: Layout, masks: Masks, sizes: Sizes, beside: Beside
) -> tuple[list[Expr], frozenset[Rank]]:
    """The graph in the form that is laid out: folds over whole tiles expanded, in normal form, with guards and masks,
    and with what tiles leave held between loops. Then the ranks that `without_unseen` gives."""
    # The order matters. Folds over whole tiles are plain reductions, which the normal form then sees. Guards come
    # after it, as it moves factors through differences; masks after guards, as they look at what guards leave.
    roots = rewrite(roots, lambda x: _expanded(x, layout))
    roots = normalise(bind_sizes(roots, sizes), layout)
    filtered, left = without_unseen(Empties(layout).guarded(roots), layout, masks, beside)
    return hold_tiles(masks.hoisted(filtered), layout), left


def _expanded(x: Expr, layout: Layout) -> Expr | None:
    if isinstance(x, Fold) and layout.loop_of(x.rank) is None:
        return expand(x)
    return None


def _tree(roots: Sequence[Expr], outputs: Outputs, builder: PlanBuilder) -> PlanScope:
    """The root block: every output asked for, those that vary with loops inside them."""
    layout = builder.layout
    targets = list(zip(outputs.items(), roots, strict=True))
    sinks = {name: _sink(name, ranks, x, layout) for (name, ranks), x in targets}
    root = builder.scope(frozenset(), None, roots, [s for s in sinks.values() if s])
    for (name, ranks), x in targets:
        sink = sinks[name]
        if sink is None:
            store(builder, name, ranks, x, root)
        elif sink in root.work:
            builder.run(sink, root)
    return root


def _sink(name: str, ranks: tuple[Rank, ...], x: Expr, layout: Layout) -> Sink | None:
    """The loops that an output still varies with, outermost first."""
    sink: Sink | None = None
    for r in reversed(_nest(x, layout.ordered((layout.shape(x) | layout.of_ranks(ranks)).loops), layout)):
        sink = Sink(name, ranks, x, r, sink)
    return sink


def _nest(x: Expr, loops: Sequence[Rank], layout: Layout) -> list[Rank]:
    """The loops of an output, outermost first: a pass whose result varies with a loop runs inside that loop."""
    around: dict[Rank, set[Rank]] = {r: set() for r in loops}
    for node in topological([x]):
        if isinstance(node, (Reduce, Fold)) and (rank := layout.loop_of(node.rank)) in around:
            around[rank] |= layout.shape(node).loops & set(loops)
    nest: list[Rank] = []
    while len(nest) < len(loops):
        left = [r for r in loops if r not in nest]
        nest.append(next((r for r in left if around[r] <= set(nest)), left[0]))
    return nest


def _grid(order: Sequence[Rank], roles: Mapping[Rank, Role]) -> tuple[Rank, ...]:
    """Tiled ranks vary fastest, so that neighbouring programs share what does not vary with them."""
    # Programs that start side by side then read the same keys and values of one head, which the L2 cache serves.
    grid = [r for r in reversed(order) if roles[r].outer == "grid"]
    return tuple([r for r in grid if roles[r].tile] + [r for r in grid if not roles[r].tile])
