"""Loop bounds that follow from data, found by a kernel of their own before the one whose loops they bound.

Programs that differ only in ranks which the data lacks (the heads of packed sequences) would all look for the same
bounds. Here one program for each tile looks once and leaves a few integers, which the others load. A rewriting of a
plan: what is moved is whatever the bounds of the outermost loops are computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from eintune.space.ir.expr import Part, Rank, Tensor

from .bounds import Bound, CeilTo, FloorTo, Greatest, Least, Number, Sum, numbers
from .check import check
from .plan import Block, Loop, LoopPlan, Segment
from .sizes import Derived, Sizes
from .values import Load, SizeOf, Store, Value

BOUNDS = ("program", "kernel")
"""The settings of `Schedule.bounds`."""


def with_early_bounds(plan: LoopPlan) -> tuple[LoopPlan, ...]:
    """The plan after one that finds its bounds; the plan alone where there are none, or nothing that programs share."""
    wanted = _wanted(plan)
    cone = _cone(plan, wanted)
    ranks = _ranks(plan, cone)
    # A second launch costs microseconds: it pays only where several programs would find the same.
    if not cone or ranks is None or not _is_shared(plan, ranks):
        return (plan,)
    found = _Found.of(plan, wanted, ranks)
    made = _look(plan, cone, ranks, found), _rest(plan, found)
    for kernel in made:
        check(kernel)
    return made


def _wanted(plan: LoopPlan) -> list[Value]:
    """The computed numbers that bound the outermost loops."""
    every = (b for x in plan.root.items if isinstance(x, Loop) for b in _bounds(x))
    return [v for v in dict.fromkeys(v for b in every for v in numbers(b)) if not isinstance(v, Load)]


def _bounds(loop: Loop) -> list[Bound]:
    return [b for s in loop.segments for b in (s.lo, s.hi)] + list(loop.mask_free or ())


def _cone(plan: LoopPlan, wanted: Iterable[Value]) -> list[Value]:
    """All that some values of the root block are computed from, in order; nothing where a loop or a carry is among
    it."""
    found: set[Value] = set()
    open_ends = list(wanted)
    while open_ends:
        v = open_ends.pop()
        if v not in found:
            found.add(v)
            open_ends += v.args
    inside = [v for v in plan.root.items if isinstance(v, Value) and v in found]
    # Something of the cone stands in a loop, or is a carry: then it cannot be found before all loops.
    return inside if len(inside) == len(found) else []


def _ranks(plan: LoopPlan, cone: Iterable[Value]) -> frozenset[Rank] | None:
    """The ranks that index what a cone loads, and its axes; None where something is looked up, or loops are needed."""
    ranks: set[Rank] = set()
    for v in cone:
        ranks.update(v.axes)
        if isinstance(v, Load):
            direct = [i for i in v.index if isinstance(i, str)]
            if v.args or len(direct) < len(v.index):
                return None
            ranks.update(direct)
    return None if any(plan.roles[r].outer == "loop" for r in ranks) else frozenset(ranks)


def _is_shared(plan: LoopPlan, ranks: frozenset[Rank]) -> bool:
    """Whether several programs would find the same."""
    return prod(-(-plan.sizes.most(r) // (plan.roles[r].tile or 1)) for r in plan.grid if r not in ranks) > 1


@dataclass(frozen=True)
class _Found:
    """The bounds that the first kernel finds, and the workspaces that it leaves them in.

    names: by value, the workspace's tensor. index: what addresses a workspace's axes, from a program's indices. ranks:
    the workspace's own ranks, with what their sizes follow from."""

    names: Mapping[Value, str]
    index: tuple[Rank | Part, ...]
    ranks: Mapping[Rank, Derived]

    @classmethod
    def of(cls, plan: LoopPlan, wanted: Iterable[Value], ranks: frozenset[Rank]) -> _Found:
        index: list[Rank | Part] = []
        own: dict[Rank, Derived] = {}
        for r in (r for r in plan.order if r in ranks and r in plan.grid):
            tile = plan.roles[r].tile
            # One number for each tile of a rank, so programs of the main kernel, which know their first index, look
            # it up by that index divided by the tile.
            index.append(Part("//", r, tile) if tile else r)
            own[f"{r}_tiles" if tile else r] = Derived(r, by=tile or 1)
        taken = {*plan.inputs, *plan.outputs}
        return cls({v: _fresh(v.name.upper(), taken) for v in wanted}, tuple(index), own)

    def sizes(self, plan: LoopPlan, ranks: Iterable[Rank]) -> Sizes:
        """Those of some ranks of a plan, and of the workspace's own."""
        sizes = plan.sizes.only(ranks)
        for name, derived in self.ranks.items():
            sizes = sizes if sizes.has(name) else sizes.deriving(name, derived)
        return sizes

    @property
    def dtypes(self) -> dict[str, str]:
        return {name: v.dtype for v, name in self.names.items()}

    def stores(self) -> list[Value]:
        return [
            Store(tensor=n, index=self.index, args=(v,), dtype=v.dtype, name=f"o_{v.name}")
            for v, n in self.names.items()
        ]

    def loads(self) -> dict[Value, Value]:
        return {
            v: Load(tensor=n, index=self.index, dtype=v.dtype, name=f"{v.name}_found") for v, n in self.names.items()
        }

    def tensors(self) -> dict[str, Tensor]:
        return {name: Tensor(name, tuple(self.ranks), "int") for name in self.names.values()}


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _look(plan: LoopPlan, cone: list[Value], ranks: frozenset[Rank], found: _Found) -> LoopPlan:
    """The kernel that finds the bounds and stores them."""
    used = _tensors(cone)
    return replace(
        plan,
        roles={r: role for r, role in plan.roles.items() if r in ranks},
        sizes=found.sizes(plan, [*ranks, *_lengths(plan, cone, ranks)]),
        order=tuple(r for r in plan.order if r in ranks),
        grid=tuple(r for r in plan.grid if r in ranks),
        root=Block(frozenset(), [*cone, *found.stores()]),
        inputs={n: t for n, t in plan.inputs.items() if n in used},
        outputs=dict.fromkeys(found.dtypes, tuple(found.ranks)),
        dtypes={n: d for n, d in plan.dtypes.items() if n in used} | found.dtypes,
        splits={},
    )


def _lengths(plan: LoopPlan, cone: Iterable[Value], ranks: Iterable[Rank]) -> set[Rank]:
    """The ranks whose sizes are read, and those that the sizes of axes follow from."""
    found = {v.rank for v in cone if isinstance(v, SizeOf)}
    return found | {plan.sizes.derived[r].rank for r in (*ranks, *found) if r in plan.sizes.derived}


def _rest(plan: LoopPlan, found: _Found) -> LoopPlan:
    """The kernel that loads the bounds, without the values that only their computation needed."""
    loads = found.loads()
    kept: list[Value | Loop] = []
    needed: set[Value] = set()
    # Liveness once more: what only the bounds were computed from goes, and with it whole rows of integers that each
    # program would have held.
    for x in reversed(plan.root.items):
        if isinstance(x, Loop):
            x = _rebound(x, loads)
            needed.update(_read(x))
        elif isinstance(x, Store) or x in needed:
            needed.update(x.args)
        else:
            continue
        kept.append(x)
    root = Block(plan.root.ranks, [*loads.values(), *reversed(kept)])
    used, axes = _tensors(_values(root)), {q for v in _values(root) for q in v.axes}
    # Axes that only the look had (a whole row of integers at once) are no axes of this kernel any more.
    gone = {r for r, role in plan.roles.items() if role.outer is None and role.tile and r not in axes}
    return replace(
        plan,
        roles={r: role for r, role in plan.roles.items() if r not in gone},
        sizes=found.sizes(plan, (r for r in (*plan.sizes, *plan.sizes.ranges) if r not in gone)),
        order=tuple(r for r in plan.order if r not in gone),
        root=root,
        inputs={n: t for n, t in plan.inputs.items() if n in used} | found.tensors(),
        dtypes={n: d for n, d in plan.dtypes.items() if n in used} | found.dtypes,
    )


def _values(block: Block) -> list[Value]:
    found: list[Value] = []
    for x in block.items:
        found += _values(x.body) if isinstance(x, Loop) else [x]
    return found


def _read(loop: Loop) -> set[Value]:
    """Whatever a loop's body, its conditions and its ends use."""
    found = {a for v in _values(loop.body) for a in v.args} | {c.next for c in loop.carries}
    found |= {k for s in loop.segments for k in s.known if isinstance(k, Value)}
    return found | {v for b in _bounds(loop) for v in numbers(b)}


def _tensors(values: Iterable[Value]) -> set[str]:
    return {v.tensor for v in values if isinstance(v, Load | Store)}


def _rebound(loop: Loop, moved: Mapping[Value, Value]) -> Loop:
    segments = tuple(Segment(_at(s.lo, moved), _at(s.hi, moved), s.known) for s in loop.segments)
    mask_free = (_at(loop.mask_free[0], moved), _at(loop.mask_free[1], moved)) if loop.mask_free else None
    return replace(loop, segments=segments, mask_free=mask_free)


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
