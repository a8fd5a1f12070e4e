"""Loop bounds that follow from data, found by a kernel of their own before the one whose loops they bound.

Programs that differ only in ranks which the data lacks (the heads of packed sequences) would all look for the same
bounds. Here one program for each tile looks once and leaves a few integers, which the others load. A rewriting of a
plan: what is moved is whatever the bounds of the outermost loops are computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

from .expr import Part, Rank, Tensor
from .plan import (
    Block,
    Bound,
    CeilTo,
    FloorTo,
    Greatest,
    Least,
    Loop,
    LoopPlan,
    Number,
    Role,
    Segment,
    Sum,
    Value,
)
from .plan_check import check
from .selections import numbers

BOUNDS = ("program", "kernel")
"""The settings of `Schedule.bounds`."""


def with_early_bounds(plan: LoopPlan) -> tuple[LoopPlan, ...]:
    """The plan after one that finds its bounds; the plan alone where there are none, or nothing that programs share."""
    wanted = _wanted(plan)
    cone = _cone(plan, wanted)
    ranks = _ranks(plan, cone) if cone else None
    if not cone or ranks is None or not _is_shared(plan, ranks):
        return (plan,)
    grid = tuple(r for r in plan.grid if r in ranks)
    index, own, counts = _places(plan, [r for r in plan.order if r in grid])
    names = {v: _fresh(plan, v.name) for v in wanted}
    before = _look(plan, cone, ranks, grid, names, index, own, counts)
    after = _rest(plan, names, index, own, counts)
    for made in (before, after):
        check(made)
    return before, after


def _wanted(plan: LoopPlan) -> list[Value]:
    """The computed numbers that bound the outermost loops."""
    every = (b for x in plan.root.items if isinstance(x, Loop) for b in _bounds(x))
    return [v for v in dict.fromkeys(v for b in every for v in numbers(b)) if v.op != "load"]


def _bounds(loop: Loop) -> list[Bound]:
    return [b for s in loop.segments for b in (s.lo, s.hi)] + list(loop.clear or ())


def _cone(plan: LoopPlan, wanted: Iterable[Value]) -> list[Value]:
    """All that some values of the root block are computed from, in order; nothing if that is more than values."""
    found: set[Value] = set()
    open_ends = list(wanted)
    while open_ends:
        v = open_ends.pop()
        if v not in found:
            found.add(v)
            open_ends += v.args
    inside = [v for v in plan.root.items if isinstance(v, Value) and v in found]
    return inside if len(inside) == len(found) else []


def _ranks(plan: LoopPlan, cone: Iterable[Value]) -> frozenset[Rank] | None:
    """The ranks that index what a cone loads, and its axes; None where something is looked up."""
    ranks: set[Rank] = set()
    for v in cone:
        ranks.update(v.axes)
        if v.op == "load":
            assert isinstance(v.attr, tuple)
            _, index = v.attr
            if v.args or not all(isinstance(i, str) for i in index):
                return None
            ranks.update(index)
        elif v.op == "iota":
            ranks.add(str(v.attr))
    inside = all(plan.roles[r].outer != "loop" for r in ranks)
    return frozenset(ranks) if inside else None


def _is_shared(plan: LoopPlan, ranks: frozenset[Rank]) -> bool:
    """Whether several programs would find the same."""
    tiles = (-(-plan.sizes[r] // (plan.roles[r].tile or 1)) for r in plan.grid if r not in ranks)
    return prod(tiles) > 1


def _places(plan: LoopPlan, ranks: Iterable[Rank]) -> tuple[tuple[Rank | Part, ...], tuple[Rank, ...], dict[Rank, int]]:
    """Where a program's numbers stand in a workspace: its index, the workspace's own ranks, and their sizes."""
    index: list[Rank | Part] = []
    own: list[Rank] = []
    counts: dict[Rank, int] = {}
    for r in ranks:
        tile = plan.roles[r].tile
        index.append(Part("//", r, tile) if tile else r)
        own.append(f"{r}_tiles" if tile else r)
        counts[own[-1]] = -(-plan.sizes[r] // (tile or 1))
    return tuple(index), tuple(own), counts


def _fresh(plan: LoopPlan, name: str) -> str:
    taken = {*plan.inputs, *plan.outputs}
    fresh = name.upper()
    while fresh in taken:
        fresh += "_"
    return fresh


def _look(
    plan: LoopPlan,
    cone: list[Value],
    ranks: frozenset[Rank],
    grid: tuple[Rank, ...],
    names: Mapping[Value, str],
    index: tuple[Rank | Part, ...],
    own: tuple[Rank, ...],
    counts: Mapping[Rank, int],
) -> LoopPlan:
    """The kernel that finds the bounds and stores them."""
    stores = [Value(f"o_{v.name}", "store", (v,), (name, index), (), v.dtype) for v, name in names.items()]
    used = _tensors(cone)
    return replace(
        plan,
        roles={r: role for r, role in plan.roles.items() if r in ranks},
        sizes={r: n for r, n in plan.sizes.items() if r in ranks} | dict(counts),
        order=tuple(r for r in plan.order if r in ranks),
        grid=grid,
        root=Block(frozenset(), [*cone, *stores]),
        inputs={n: t for n, t in plan.inputs.items() if n in used},
        outputs=dict.fromkeys(names.values(), own),
        dtypes={n: d for n, d in plan.dtypes.items() if n in used} | {name: v.dtype for v, name in names.items()},
        parts={},
    )


def _rest(
    plan: LoopPlan,
    names: Mapping[Value, str],
    index: tuple[Rank | Part, ...],
    own: tuple[Rank, ...],
    counts: Mapping[Rank, int],
) -> LoopPlan:
    """The kernel that loads the bounds, without what nothing else in it needs."""
    loads = {v: Value(f"{v.name}_found", "load", (), (name, index), (), v.dtype) for v, name in names.items()}
    items = [_rebound(x, loads) if isinstance(x, Loop) else x for x in plan.root.items]
    needed: set[Value] = set()
    kept: list[Value | Loop] = []
    for x in reversed(items):
        if isinstance(x, Loop):
            needed.update(_all_read(x))
        elif x.op != "store" and x not in needed:
            continue
        else:
            needed.update(x.args)
        kept.append(x)
    root = Block(plan.root.ranks, [*loads.values(), *reversed(kept)])
    used = _tensors(_values(root))
    axes = {q for v in _values(root) for q in v.axes}
    gone = {r for r, role in plan.roles.items() if role == Role(None, role.tile) and r not in axes}
    tensors = {name: Tensor(name, own, "int") for name in names.values()}
    return replace(
        plan,
        roles={r: role for r, role in plan.roles.items() if r not in gone},
        order=tuple(r for r in plan.order if r not in gone),
        sizes={r: n for r, n in plan.sizes.items() if r not in gone} | dict(counts),
        root=root,
        inputs={n: t for n, t in plan.inputs.items() if n in used} | tensors,
        dtypes={n: d for n, d in plan.dtypes.items() if n in used or n in plan.outputs}
        | {name: v.dtype for v, name in names.items()},
    )


def _values(block: Block) -> list[Value]:
    found: list[Value] = []
    for x in block.items:
        found += _values(x.body) if isinstance(x, Loop) else [x]
    return found


def _all_read(loop: Loop) -> set[Value]:
    """Whatever a loop's body, its conditions and its ends use."""
    found = {a for v in _values(loop.body) for a in v.args} | {c.next for c in loop.carries}
    found |= {k for s in loop.segments for k in s.known if isinstance(k, Value)}
    return found | {v for b in _bounds(loop) for v in numbers(b)}


def _tensors(values: Iterable[Value]) -> set[str]:
    return {str(v.attr[0]) for v in values if v.op in ("load", "store") and isinstance(v.attr, tuple)}


def _rebound(loop: Loop, moved: Mapping[Value, Value]) -> Loop:
    segments = tuple(Segment(_at(s.lo, moved), _at(s.hi, moved), s.known) for s in loop.segments)
    clear = (_at(loop.clear[0], moved), _at(loop.clear[1], moved)) if loop.clear else None
    return replace(loop, segments=segments, clear=clear)


def _at(b: Bound, moved: Mapping[Value, Value]) -> Bound:
    """A bound with other values for its numbers."""
    match b:
        case Number():
            return replace(b, value=moved.get(b.value, b.value))
        case Sum():
            return Sum(tuple((c, _at(t, moved)) for c, t in b.terms))
        case Least() | Greatest():
            return type(b)(tuple(_at(a, moved) for a in b.args))
        case FloorTo() | CeilTo():
            return type(b)(_at(b.arg, moved), b.step)
        case _:
            return b
