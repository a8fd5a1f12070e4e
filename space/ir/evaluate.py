"""The meaning of an expression, in float64: the reference against which everything else is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from .expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Integer,
    Iota,
    Map,
    Param,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    free,
    is_padded,
    topological,
)
from .folds import ACTIONS, fold
from .gathers import check_splits
from .index_arithmetic import OPERATORS
from .pointwise import POINTWISE, REDUCTIONS, Array, as_numbers

MAX_ELEMENTS = 2**27
"""Of all arrays, which are held to the end: 1 GiB in float64."""


def evaluate(
    roots: Sequence[Expr],
    data: Mapping[str, Array],
    sizes: Mapping[Rank, int],
    params: Mapping[str, float] | None = None,
) -> list[tuple[Array, tuple[Rank, ...]]]:
    """Evaluate expressions on arrays.

    data: one array per tensor name, axes as the tensor declares them. sizes: every rank that is iterated.
    Returns, for each root, a float64 (or bool) array and its axes' ranks (sorted by name; a scalar has none).
    Raises KeyError for a tensor, size or parameter without a value, IndexError for an index beyond its axis; where
    one that is computed goes beyond it, the element is 0 (`infer_sizes` refuses such sizes).
    """
    evaluation = _Evaluation(roots, data, sizes, params or {})
    nodes = topological(roots)
    _check_sizes(nodes, sizes)
    with np.errstate(all="ignore"):
        for x in nodes:
            evaluation.value[x] = evaluation.evaluated(x)
    return [evaluation.result(root) for root in roots]


class _Evaluation:
    """The values of nodes so far. Each array has an axis for every rank there is, of length 1 where it does not vary,
    so that NumPy broadcasts what einsums do."""

    def __init__(
        self, roots: Sequence[Expr], data: Mapping[str, Array], sizes: Mapping[Rank, int], params: Mapping[str, float]
    ) -> None:
        self.data, self.sizes, self.params = data, sizes, params
        self.order = sorted({r for x in topological(roots) for r in ranks_of(x)})
        self.axis = {r: i for i, r in enumerate(self.order)}
        self.value: dict[Expr, Array] = {}

    def result(self, root: Expr) -> tuple[Array, tuple[Rank, ...]]:
        """A root's array over its own ranks, sorted by name."""
        keep = [r for r in self.order if r in free(root)]
        full = np.broadcast_to(self.value[root], [self.sizes[r] if r in keep else 1 for r in self.order])
        return full.reshape([self.sizes[r] for r in keep]), tuple(keep)

    def along(self, r: Rank, v: Array) -> Array:
        shape = [1] * len(self.order)
        shape[self.axis[r]] = len(v)
        return v.reshape(shape)

    # ---- integers

    def holds(self, p: Predicate) -> Array:
        total: Array = np.array(p.const + sum(c * self.sizes[r] for r, c in p.sizes))
        for t in p.terms:
            step = t.coef * (self.sizes[t.stride] if t.stride else 1)
            total = total + step * self.along(t.rank, np.arange(self.sizes[t.rank]))
        for x, coef in p.numbers:
            total = total + coef * self.gathered(x)
        return total >= 0

    def gathered(self, x: Access | Gather) -> Array:
        """The elements that an access reads, one axis a rank; integers stay."""
        places = []
        inside: Array = np.array(True)
        for i, own, n in zip(x.index, x.tensor.ranks, np.shape(self.data[x.tensor.name]), strict=True):
            place = self.number(i)
            if isinstance(i, Computed) or (is_padded(x) and isinstance(i, (Access, Gather))):
                # what is computed may lie beyond the axis and reads 0 there: clipped to read anything, then replaced
                inside = inside & (place >= 0) & (place < n)
                place = np.clip(place, 0, n - 1)
            if place.size and not (place.min() >= 0 and place.max() < n):
                raise IndexError(
                    f"{x.tensor.name}: axis {own} is addressed within 0..{n - 1} only, but got "
                    f"{place.min()}..{place.max()}"
                )
            places.append(place)
        found: Array = np.asarray(self.data[x.tensor.name])[tuple(places)]
        return found if inside.all() else np.where(inside, found, np.zeros((), found.dtype))

    def number(self, i: Integer) -> Array:
        match i:
            case str():
                return self.along(i, np.arange(self.sizes[i]))
            case Part():
                part = np.floor_divide if i.op == "//" else np.mod
                return self.along(i.rank, part(np.arange(self.sizes[i.rank]), i.by))
            case Access() | Gather():
                return self.gathered(i).astype(np.int64)
            case Size():
                return np.array(self.sizes[i.rank])
            case Computed():
                return OPERATORS[i.op].numpy(*map(self.number, i.args))
            case int():
                return np.array(i)

    # ---- nodes

    def evaluated(self, x: Expr) -> Array:
        """A node over the values of its operands."""
        match x:
            case Gather():
                return _float(self.gathered(x))
            case Access():
                return self.read(x)
            case Const():
                return np.full([1] * len(self.order), x.value)
            case Param():
                return np.full([1] * len(self.order), float(self.params[x.name]))
            case Size():
                return np.full([1] * len(self.order), float(self.sizes[x.rank]))
            case Iota():
                return self.along(x.rank, np.arange(self.sizes[x.rank], dtype=np.float64))
            case Map():
                return POINTWISE[x.op](*(self.value[a] for a in x.args))
            case Reduce():
                return self.reduced(x)
            case Where():
                return np.where(self.holds(x.predicate), as_numbers(self.value[x.arg]), x.fill)
            case Fold():
                return self.folded(x)
            case Split():
                return self.split(x)
            case Unsplit():
                return self.unsplit(x)

    def read(self, x: Access) -> Array:
        a = _float(np.asarray(self.data[x.tensor.name]))
        shape = [1] * len(self.order)
        for r in x.index:
            shape[self.axis[r]] = self.sizes[r]
        if len(set(x.index)) != len(x.index):
            raise KeyError(f"{x.tensor.name}{list(x.index)}: a rank indexes one axis only")
        by_axis = sorted(range(len(x.index)), key=lambda i: self.axis[x.index[i]])
        return a.transpose(by_axis).reshape(shape)

    def reduced(self, x: Reduce) -> Array:
        a = as_numbers(self.value[x.arg])
        if x.rank not in free(x.arg):  # the same element so many times
            return REDUCTIONS[x.op].repeated(a, self.sizes[x.rank])
        return REDUCTIONS[x.op](a, self.axis[x.rank])

    def folded(self, x: Fold) -> Array:
        axis = self.axis[x.rank]
        c, *others = (as_numbers(self.value[a]) for a in x.scores)
        y = as_numbers(self.value[x.arg])
        if all(a.shape[axis] == 1 for a in (c, *others, y)):
            c = np.repeat(c, self.sizes[x.rank], axis)
        return fold(ACTIONS[x.action], (c, *others), y, axis)

    def split(self, x: Split) -> Array:
        a = self.value[x.arg]
        if x.rank not in free(x.arg):
            return a
        check_splits([x], self.sizes)
        inner = self.sizes[x.outer], self.sizes[x.inner]
        return _regroup(a, self.axis, (x.rank,), (x.outer, x.inner), inner)

    def unsplit(self, x: Unsplit) -> Array:
        a = self.value[x.arg]
        if not {x.outer, x.inner} & free(x.arg):
            return a
        shape = list(a.shape)
        for r in (x.outer, x.inner):  # one of them may not vary
            shape[self.axis[r]] = self.sizes[r]
        a = np.broadcast_to(a, shape)
        return _regroup(a, self.axis, (x.outer, x.inner), (x.rank,), (self.sizes[x.rank],))


def _float(a: Array) -> Array:
    return a.astype(np.float64) if a.dtype != np.bool_ else a


def _check_sizes(nodes: Sequence[Expr], sizes: Mapping[Rank, int]) -> None:
    """Raises ValueError, before anything is computed, for arrays that are too large to be held; a fold holds what it
    goes over."""
    total = 0
    for x in nodes:
        ranks = free(x) | ({x.rank} if isinstance(x, Fold) else frozenset())
        count = prod(sizes.get(r, 1) for r in ranks)
        total += count
        if total > MAX_ELEMENTS:
            over = ", ".join(sorted(ranks)[:12]) + (", …" if len(ranks) > 12 else "")
            raise ValueError(
                f"an evaluation holds at most {MAX_ELEMENTS} elements, but with one over {over} it has "
                f"{min(total, 10**18)}"
            )


def _regroup(
    a: Array, axis: Mapping[Rank, int], old: tuple[Rank, ...], new: tuple[Rank, ...], sizes: tuple[int, ...]
) -> Array:
    rest = [i for i in range(a.ndim) if i not in {axis[r] for r in (*old, *new)}]
    moved = a.transpose([*rest, *(axis[r] for r in old), *(axis[r] for r in new if r not in old)])
    kept = [a.shape[i] for i in rest]
    moved = moved.reshape([*kept, *sizes])
    # back to one axis per rank
    shape_axes = [*rest, *(axis[r] for r in new)]
    final = [1] * a.ndim
    order = np.argsort(shape_axes)
    moved = moved.transpose(order)
    for position in order:
        final[shape_axes[position]] = ([*kept, *sizes])[position]
    return moved.reshape(final)


def ranks_of(x: Expr) -> frozenset[Rank]:
    match x:
        case Reduce() | Fold():
            return free(x) | {x.rank}
        case Split() | Unsplit():
            return free(x) | {x.rank, x.outer, x.inner}
        case _:
            return free(x)
