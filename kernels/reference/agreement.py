"""Does a stored cascade still mean what its definition says? Evaluated in float64 at a few small sizes.

What a record may hold is a form that follows from its definition (`kept_forms.is_form`). Laws are equations over real
numbers, and a problem's own parameters may leave the domain in which one was checked: before a program runs a kernel
made from a record, its cascade is compared with the program's own definition at those, on random numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Rank, Split, Unsplit, free, topological
from eintune.space.ir.gathers import completed, limits, reach, shapes, trusted

from .eager import run_eager
from .surroundings import plain_surroundings

TOLERANCE = 1e-9
"""Relative to the largest value: float64 rounding of a few dozen operations is far below it."""
OUTER, INNER = 2, 3
"""Sizes of the halves of a split rank."""
ROWS = 4
"""Length of an axis that an index tensor addresses."""


def agrees(derived: Cascade, definition: Cascade, params: Mapping[str, float]) -> bool:
    """Whether both give the same outputs from the same inputs, to float64 rounding."""
    if {n: t.ranks for n, t in derived.outputs.items()} != {n: t.ranks for n, t in definition.outputs.items()}:
        return False
    if set(derived.inputs) - set(definition.inputs):
        return False
    sizes = _sizes(derived, definition)
    data = _data(definition, sizes)
    try:
        one, two = (run_eager(c, data, sizes, params, torch.float64) for c in (definition, derived))
    except (KeyError, ValueError, RuntimeError, IndexError):
        return False  # it reads what is not there, in shapes that do not fit
    return all(_close(one[name], two[name]) for name in one)


def check_tilings(cascade: Cascade, params: Mapping[str, float]) -> None:
    """Raises CascadeError for an output that depends on how a rank is divided into tiles: that is the schedule's to
    choose, so a kernel of it would compute anything. Nothing to check where no rank is divided."""
    roots = cascade.roots()
    views = [x for x in topological(list(roots.values())) if isinstance(x, (Split, Unsplit))]
    if not views:
        return
    divided = ", ".join(dict.fromkeys(f"{x.rank} into {x.outer} and {x.inner}" for x in views))
    sizes = _sizes(cascade)
    data = _data(cascade, sizes)
    made: dict[str, Tensor] = {}
    for tiles in (None, 1, 0):  # as drawn, one tile of all, tiles of one
        here = sizes | {x.outer: tiles or sizes[x.rank] for x in views if tiles is not None}
        here |= {x.inner: sizes[x.rank] // here[x.outer] for x in views}
        try:
            outputs = run_eager(cascade, data, here, params, torch.float64)
        except (KeyError, ValueError, RuntimeError, IndexError):
            return  # a rank that is divided in two ways, say: nothing is known
        for name, output in outputs.items():
            first = made.setdefault(name, output)
            if first.shape != output.shape or not _close(first, output):
                raise CascadeError(
                    f"einsum {name}: its value must not depend on how ranks are divided ({divided}): tiles are chosen "
                    "for speed"
                )


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(torch.nan_to_num(a, posinf=0.0, neginf=0.0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=TOLERANCE * max(scale, 1.0), equal_nan=True)


def _sizes(*cascades: Cascade) -> dict[Rank, int]:
    """Small sizes, mostly different from each other; a split rank is the product of its halves."""
    halves: dict[Rank, tuple[Rank, Rank]] = {}
    ranks: dict[Rank, None] = {}
    for cascade in cascades:
        roots = list(cascade.roots().values())
        for x in topological(roots):
            ranks.update(dict.fromkeys(sorted(free(x))))
            if isinstance(x, (Split, Unsplit)):
                halves[x.rank] = (x.outer, x.inner)
        ranks.update(dict.fromkeys(cascade.ranks()))  # sizes that nothing iterates
    sizes = dict(zip(ranks, itertools.cycle((2, 3, 4, 5)), strict=False))
    bodies = [e.expr for c in cascades for e in c.einsums]
    least = reach(bodies)
    sizes = {r: max(n, least.get(r, n)) for r, n in sizes.items()}
    for rank, (outer, inner) in halves.items():
        tiles = max(OUTER, -(-least.get(rank, 1) // INNER))
        sizes |= {outer: tiles, inner: INNER, rank: tiles * INNER}
    for cascade in cascades:
        sizes = cascade.equalised(sizes)
    return completed(bodies, sizes, ROWS)


@plain_surroundings(torch.device("cpu"))
def _data(definition: Cascade, sizes: Mapping[Rank, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    bodies = [e.expr for e in definition.einsums]
    below, within = limits(bodies, sizes), trusted(bodies)
    data: dict[str, Tensor] = {}
    for name, shape in shapes(bodies, sizes).items():
        if name not in definition.inputs:
            continue
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        match definition.inputs[name].kind:
            case "int" if name in below:
                beyond = int(name not in within)
                drawn = torch.randint(-beyond, below[name] + beyond, shape, generator=generator)
            case "int":
                drawn = (drawn.abs() * 2).floor().to(torch.int32)
            case "bool":
                drawn = drawn > 0
            case _:
                pass
        data[name] = drawn
    return data
