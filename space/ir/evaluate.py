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
"""Of one array: 1 GiB in float64."""


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
    order = sorted({r for x in topological(roots) for r in ranks_of(x)})
    axis = {r: i for i, r in enumerate(order)}
    value: dict[Expr, Array] = {}

    def along(r: Rank, v: Array) -> Array:
        shape = [1] * len(order)
        shape[axis[r]] = len(v)
        return v.reshape(shape)

    def holds(p: Predicate) -> Array:
        total: Array = np.array(p.const + sum(c * sizes[r] for r, c in p.sizes))
        for t in p.terms:
            step = t.coef * (sizes[t.stride] if t.stride else 1)
            total = total + step * along(t.rank, np.arange(sizes[t.rank]))
        for x, coef in p.numbers:
            total = total + coef * gather(x)
        return total >= 0

    def gather(x: Access | Gather) -> Array:
        """The elements that an access reads, one axis a rank; integers stay."""
        places = []
        inside: Array = np.array(True)
        for i, own, n in zip(x.index, x.tensor.ranks, np.shape(data[x.tensor.name]), strict=True):
            place = number(i)
            if isinstance(i, Computed) or (is_padded(x) and isinstance(i, (Access, Gather))):
                inside = inside & (place >= 0) & (place < n)
                place = np.clip(place, 0, n - 1)
            if place.size and not (place.min() >= 0 and place.max() < n):
                raise IndexError(
                    f"{x.tensor.name}: axis {own} is addressed within 0..{n - 1} only, but got "
                    f"{place.min()}..{place.max()}"
                )
            places.append(place)
        found: Array = np.asarray(data[x.tensor.name])[tuple(places)]
        return found if inside.all() else np.where(inside, found, np.zeros((), found.dtype))

    def number(i: Integer) -> Array:
        match i:
            case str():
                return along(i, np.arange(sizes[i]))
            case Part():
                part = np.floor_divide if i.op == "//" else np.mod
                return along(i.rank, part(np.arange(sizes[i.rank]), i.by))
            case Access() | Gather():
                return gather(i).astype(np.int64)
            case Size():
                return np.array(sizes[i.rank])
            case Computed():
                return OPERATORS[i.op].numpy(*map(number, i.args))
            case int():
                return np.array(i)

    def go(x: Expr) -> Array:
        match x:
            case Gather():
                a = gather(x)
                return a.astype(np.float64) if a.dtype != np.bool_ else a
            case Access():
                a = np.asarray(data[x.tensor.name])
                a = a.astype(np.float64) if a.dtype != np.bool_ else a
                shape = [1] * len(order)
                for r in x.index:
                    shape[axis[r]] = sizes[r]
                if len(set(x.index)) != len(x.index):
                    raise KeyError(f"{x.tensor.name}{list(x.index)}: a rank indexes one axis only")
                by_axis = sorted(range(len(x.index)), key=lambda i: axis[x.index[i]])
                return a.transpose(by_axis).reshape(shape)
            case Const():
                return np.full([1] * len(order), x.value)
            case Param():
                return np.full([1] * len(order), float((params or {})[x.name]))
            case Size():
                return np.full([1] * len(order), float(sizes[x.rank]))
            case Iota():
                return along(x.rank, np.arange(sizes[x.rank], dtype=np.float64))
            case Map():
                return POINTWISE[x.op](*(value[a] for a in x.args))
            case Reduce():
                a = as_numbers(value[x.arg])
                if x.rank not in free(x.arg):
                    return REDUCTIONS[x.op].repeated(a, sizes[x.rank])
                return REDUCTIONS[x.op](a, axis[x.rank])
            case Where():
                return np.where(holds(x.predicate), as_numbers(value[x.arg]), x.fill)
            case Fold():
                c, *others = (as_numbers(value[a]) for a in x.scores)
                y = as_numbers(value[x.arg])
                if all(a.shape[axis[x.rank]] == 1 for a in (c, *others, y)):
                    c = np.repeat(c, sizes[x.rank], axis[x.rank])
                return fold(ACTIONS[x.action], (c, *others), y, axis[x.rank])
            case Split():
                a = value[x.arg]
                if x.rank not in free(x.arg):
                    return a
                check_splits([x], sizes)
                return _regroup(a, axis, (x.rank,), (x.outer, x.inner), (sizes[x.outer], sizes[x.inner]))
            case Unsplit():
                a = value[x.arg]
                if not {x.outer, x.inner} & free(x.arg):
                    return a
                shape = list(a.shape)
                for r in (x.outer, x.inner):
                    shape[axis[r]] = sizes[r]
                a = np.broadcast_to(a, shape)
                return _regroup(a, axis, (x.outer, x.inner), (x.rank,), (sizes[x.rank],))

    with np.errstate(all="ignore"):
        for x in topological(roots):
            _check_size(x, sizes)
            value[x] = go(x)
    results = []
    for root in roots:
        keep = [r for r in order if r in free(root)]
        full = np.broadcast_to(value[root], [sizes[r] if r in keep else 1 for r in order])
        results.append((full.reshape([sizes[r] for r in keep]), tuple(keep)))
    return results


def _check_size(x: Expr, sizes: Mapping[Rank, int]) -> None:
    """Raises ValueError for an array that is too large to be held; a fold holds what it goes over."""
    ranks = free(x) | ({x.rank} if isinstance(x, Fold) else frozenset())
    count = prod(sizes.get(r, 1) for r in ranks)
    if count > MAX_ELEMENTS:
        over = ", ".join(sorted(ranks)[:12]) + (", …" if len(ranks) > 12 else "")
        raise ValueError(
            f"an evaluation holds at most {MAX_ELEMENTS} elements, but one over {over} has {min(count, 10**18)}"
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
