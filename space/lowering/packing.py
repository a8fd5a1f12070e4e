"""Two ranks along one axis: a tile of rows that runs over both.

An element of the packed rank r = p * |g| + g is one of p and one of g: p is its quotient by |g|, g its remainder. What
lacks g (the keys that a group of heads shares) is then loaded once for all of g. Reads become indexed accesses by
these parts, filters stay affine (`m <= r // n` is `n * m <= r`), and results are stored where the parts say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from eintune.space.analysis.normal_form import bind_sizes
from eintune.space.analysis.roots import Roots
from eintune.space.ir.expr import (
    Access,
    Expr,
    Fold,
    Gather,
    Index,
    Integer,
    Iota,
    Leaf,
    Map,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Tensor,
    Term,
    Where,
    is_padded,
    rewrite,
    topological,
    with_leaves,
)
from eintune.space.plan.roles import IllegalPlan, Role
from eintune.space.plan.sizes import Derived, Sizes

Stored = dict[str, tuple["Rank | Part", ...]]
"""By output: what addresses each of its axes."""


@dataclass(frozen=True)
class Packing:
    """The rank `axis` = slow * count + fast."""

    axis: Rank
    slow: Rank
    fast: Rank
    count: int

    def part(self, rank: Rank) -> Rank | Part:
        """What addresses an axis of `rank`: the quotient or the remainder of the packed rank's index; other ranks
        stay."""
        return {self.slow: Part("//", self.axis, self.count), self.fast: Part("%", self.axis, self.count)}.get(
            rank, rank
        )

    def packs(self, rank: Rank) -> bool:
        return rank in (self.slow, self.fast)


def packed(source: Roots, roles: Mapping[Rank, Role], sizes: Sizes) -> tuple[Roots, dict[Rank, Role], Sizes, Stored]:
    """The computation over packed ranks where a role asks for it (`Role.pack`), with roles and sizes of those.

    Raises IllegalPlan where two ranks cannot lie along one axis.
    """
    grouped_ranks = {r: role.pack for r, role in roles.items() if role.pack}
    if not grouped_ranks:
        return source, dict(roles), sizes, {}
    # An axis that is three ranks at once would need quotients of quotients in each address.
    if len(grouped_ranks) > 1:
        raise IllegalPlan("one rank is packed beside another", f"{sorted(grouped_ranks)} are")
    ((grouped, row),) = grouped_ranks.items()
    if row is None or row not in roles or roles[row].outer != "grid" or not roles[row].tile:
        raise IllegalPlan("a rank is packed beside one in tiles over programs", f"{grouped} is beside {row}")
    # The rewriting divides by a size, so sizes are numbers first.
    expressions = bind_sizes(source.expressions, sizes)
    packing = _packing(expressions, source, row, grouped, sizes)
    new = rewrite(expressions, lambda x: _step(x, packing))
    outputs = {n: _joined(n, ranks, packing) for n, ranks in source.outputs.items()}
    stored: Stored = {n: tuple(packing.part(r) for r in ranks) for n, ranks in source.outputs.items()}
    given = {r: role for r, role in roles.items() if not packing.packs(r)} | {packing.axis: roles[row]}
    counted = sizes.deriving(packing.axis, Derived(packing.slow, times=packing.count))
    return Roots(tuple(new), outputs, source.halves), given, counted, stored


def _packing(expressions: list[Expr], source: Roots, row: Rank, grouped: Rank, sizes: Sizes) -> Packing:
    """Which rank is the quotient and which the remainder, and a free name for the packed rank. A rank that filters
    compare is the quotient, as filters of that stay affine. Raises IllegalPlan where they compare both."""
    filtered = {r for x in topological(expressions) if isinstance(x, Where) for r in x.predicate.ranks}
    # An affine filter can compare a quotient (multiply both sides by the divisor), but not a remainder.
    slow, fast = (grouped, row) if grouped in filtered else (row, grouped)
    if fast in filtered:
        raise IllegalPlan("filters compare one of two packed ranks", f"they compare {row} and {grouped}")
    taken = {*source.ranks(), *source.numbers(), *source.axes()}
    axis = next(name for n in range(len(taken) + 1) if (name := f"{row[0]}{n}") not in taken)
    return Packing(axis, slow, fast, sizes[fast])


def _joined(name: str, ranks: tuple[Rank, ...], packing: Packing) -> tuple[Rank, ...]:
    """An output's ranks with the packed one in place of its parts."""
    found = [r for r in ranks if packing.packs(r)]
    if len(found) != 2:
        raise IllegalPlan("an output has both packed ranks", f"{name} has {found}")
    return tuple(packing.axis if r == found[0] else r for r in ranks if r != found[1])


def _step(x: Expr, packing: Packing) -> Expr | None:
    match x:
        case Access() | Gather():
            return _read(x, packing)
        case Iota(rank) if packing.packs(rank):
            return _number(rank, packing)
        case Where() if packing.slow in x.predicate.ranks:
            return Where(_filter(x.predicate, packing), x.arg, x.fill)
        case Reduce() | Fold() if packing.packs(x.rank):
            raise IllegalPlan("a packed rank is not reduced", f"{x.rank} is")
        case _:
            return None


def _read(x: Access | Gather, packing: Packing) -> Access | Gather:
    # Each tensor is addressed by the parts of the packed index that it has: keys and values by neither, and so once
    # for all heads of a group.
    index = tuple(_index(i, packing) for i in x.index)
    if index == x.index:
        return x
    # Axes keep names whose sizes say how long they are; the packed rank's is another.
    own = tuple(i if isinstance(i, str) else r for i, r in zip(x.index, x.tensor.ranks, strict=True))
    return Gather(Tensor(x.tensor.name, own, x.tensor.kind), index, is_padded(x))


def _index(i: Index, packing: Packing) -> Index:
    return with_leaves(i, lambda leaf: _leaf(leaf, packing))


def _leaf(i: Leaf, packing: Packing) -> Integer:
    match i:
        case str():
            return packing.part(i)
        case Part():
            if packing.packs(i.rank):
                raise IllegalPlan("a packed rank addresses an axis as a whole", f"{i.rank} {i.op} {i.by} is a part")
            return i
        case Access() | Gather():
            return _read(i, packing)
        case Size() | int():
            return i


def _number(rank: Rank, packing: Packing) -> Expr:
    """The index of a rank as a number, half an element from where a rounding would matter."""
    # A division of floats by a reciprocal may fall just short of a whole number; half an element away from all of
    # them it cannot.
    slow = Map("floor", ((Iota(packing.axis) + 0.5) * (1.0 / packing.count),))
    return slow if rank == packing.slow else Iota(packing.axis) - slow * packing.count


def _filter(p: Predicate, packing: Packing) -> Predicate:
    """`c * (r // n) + rest >= 0` for c = 1 or -1, as an affine filter on r."""
    (coef,) = [t.coef for t in p.terms if t.rank == packing.slow]
    if abs(coef) != 1:
        raise IllegalPlan("a filter has the index of a packed rank once", f"{packing.slow} is there {coef} times")
    n = packing.count
    # All is multiplied by n: n * (r // n) is r less a remainder between 0 and n - 1, of which the constant takes in
    # as much as keeps the same indices.
    terms = [Term(packing.axis, coef) if t.rank == packing.slow else replace(t, coef=n * t.coef) for t in p.terms]
    sizes = tuple((r, n * c) for r, c in p.sizes)
    return Predicate(tuple(terms), sizes, n * p.const + (n - 1 if coef < 0 else 0))
