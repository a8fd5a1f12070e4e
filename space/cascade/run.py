"""Cascades run in float64, by NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eintune.space.ir.evaluate import evaluate, ranks_of
from eintune.space.ir.expr import (
    Expr,
    Rank,
    Size,
    Where,
    reads,
    topological,
)
from eintune.space.ir.gathers import axes, check_indices, check_splits, whole
from eintune.space.ir.pointwise import Array

from .cascade import Cascade


def run_cascade(
    cascade: Cascade,
    data: Mapping[str, Array],
    sizes: Mapping[Rank, int] | None = None,
    params: Mapping[str, float] | None = None,
) -> dict[str, Array]:
    """Evaluate a cascade's outputs, axes in the order that each output declares.

    `sizes` may be left out where every rank indexes an input; given sizes add to those.
    """
    known = infer_sizes(cascade, {n: np.shape(a) for n, a in data.items()}, sizes)
    roots = cascade.roots()
    _check_sized(cascade, roots, known)
    values = evaluate(list(roots.values()), data, known, params)
    results = {}
    for (name, _), (array, ranks) in zip(roots.items(), values, strict=True):
        want = cascade.outputs[name].ranks
        missing = [r for r in want if r not in ranks]
        for r in missing:
            array = np.repeat(array[..., None], known[r], -1)
        have = [*ranks, *missing]
        results[name] = array.transpose([have.index(r) for r in want])
    return results


def _check_sized(cascade: Cascade, roots: Mapping[str, Expr], known: Mapping[Rank, int]) -> None:
    """Raises ValueError for a rank whose size neither an input nor the caller gives."""
    for name, root in roots.items():
        every = {*cascade.outputs[name].ranks}
        for x in topological([root]):
            every |= ranks_of(x)
            match x:
                case Size():
                    every.add(x.rank)
                case Where():
                    every |= {r for r, _ in x.predicate.sizes} | {t.stride for t in x.predicate.terms if t.stride}
        if missing := sorted(every - set(known)):
            raise ValueError(
                f"einsum {name}: the size of a rank that indexes no input must be given in `sizes`, but "
                f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} none (given: {dict(known)})"
            )


def infer_sizes(
    cascade: Cascade, shapes: Mapping[str, Sequence[int]], given: Mapping[Rank, int] | None = None
) -> dict[Rank, int]:
    """The size of every rank that indexes an input, and of every axis that is addressed in another way.

    `given` sizes must be those of the shapes. A rank that is not given and of which only parts address axes is as long
    as its quotients' axes allow. Raises ValueError naming the two tensors that disagree, the given size and the tensor
    that has another, the part that goes beyond its axis, or the split whose parts are not the whole.
    """
    found: dict[Rank, tuple[int, str]] = {}
    roots = [e.expr for e in cascade.einsums]
    same = cascade.same_sizes()
    ranks: dict[Rank, None] = {}
    for x in reads(roots):
        if x.tensor.name in cascade.inputs:
            name = x.tensor.name
            if name not in shapes:
                raise ValueError(f"input {name} is missing (the cascade reads {sorted(cascade.inputs)})")
            if len(shapes[name]) != len(x.index):
                raise ValueError(f"{name} has ranks {list(axes(x))}, but its shape is {tuple(shapes[name])}")
            for r, n in zip(axes(x), shapes[name], strict=True):
                ranks[r] = None
                has, whose = found.setdefault(same.get(r, r), (int(n), name))
                if has != int(n):
                    raise ValueError(f"rank {r} must have one size, but {whose} gives {has} and {name} gives {n}")
    for r, n in (given or {}).items():
        ranks[r] = None
        has, whose = found.setdefault(same.get(r, r), (n, "`sizes`"))
        if has != n:
            raise ValueError(f"rank {r} must have one size, but {whose} gives {has} and `sizes` gives {n}")
    ranks.update(dict.fromkeys(cascade.ranks()))
    of_each = {r: found[same.get(r, r)][0] for r in ranks if same.get(r, r) in found}
    sizes = whole(roots, of_each)
    check_indices(roots, sizes)
    check_splits(roots, sizes)
    return sizes
