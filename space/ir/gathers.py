"""What indexed accesses ask of tensors: the lengths of their axes, what numbers may address
them, and which an index tensor may hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from .expr import Access, Computed, Expr, Gather, Iota, Map, Part, Rank, Split, Unsplit, is_padded, reads, topological
from .index_arithmetic import is_of_elements, span

LARGEST_TRIED = 1024
"""A part by more is not tried out to where it begins again: text may come from anywhere."""
LARGEST_TABLE = 2**18
"""Axes that computed numbers address are not made longer than so many elements together: beyond, what is tried is 0."""


def axes(x: Access | Gather) -> tuple[Rank, ...]:
    """The name of each axis' length: the rank that iterates it, or the tensor's own name for it."""
    return tuple(i if isinstance(i, str) else own for i, own in zip(x.index, x.tensor.ranks, strict=True))


def shapes(roots: Iterable[Expr], sizes: Mapping[Rank, int]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that is read. Raises KeyError for a rank or an axis without a size."""
    return {x.tensor.name: tuple(sizes[r] for r in axes(x)) for x in reads(roots)}


def limits(roots: Iterable[Expr], sizes: Mapping[Rank, int]) -> dict[str, int]:
    """What the elements of an integer tensor lie below, where that is known: those that address an axis, and those
    that the index along a rank is compared with (lengths, say, of at most all of it; labels, each an index)."""
    wanted = list(roots)
    found: dict[str, int] = {}
    for x in reads(wanted):
        for i, own in zip(x.index, x.tensor.ranks, strict=True):
            if isinstance(i, (Access, Gather)):
                found[i.tensor.name] = min(sizes[own], found.get(i.tensor.name, sizes[own]))
    for name, rank, beyond in _compared(wanted):
        found.setdefault(name, sizes[rank] + beyond)
    return found


def trusted(roots: Iterable[Expr]) -> set[str]:
    """The integer tensors whose elements must lie within the axes that they address."""
    addressed = (i for x in reads(roots) if not is_padded(x) for i in x.index)
    return {i.tensor.name for i in addressed if isinstance(i, (Access, Gather))}


def _compared(roots: Iterable[Expr]) -> Iterator[tuple[str, Rank, int]]:
    """Tensors, the ranks whose indices they are compared with, and how far beyond the last index they go."""
    for x in topological(roots):
        match x:
            case Map(op, (Iota(rank), (Access() | Gather()) as n) | ((Access() | Gather()) as n, Iota(rank))):
                if _is_int(n) and op in ("lt", "le", "gt", "ge", "eq", "ne"):
                    yield n.tensor.name, rank, int(op not in ("eq", "ne"))


def _is_int(x: Access | Gather) -> bool:
    return x.tensor.kind == "int"


def parts(roots: Iterable[Expr]) -> dict[Rank, dict[Part, None]]:
    """The parts of ranks that address axes, by the axis' name."""
    found: dict[Rank, dict[Part, None]] = {}
    for x in reads(roots):
        for i, own in zip(x.index, x.tensor.ranks, strict=True):
            if isinstance(i, Part):
                found.setdefault(own, {})[i] = None
    return found


def tables(roots: Iterable[Expr]) -> Iterator[tuple[Part, Rank]]:
    """Quotients of indices, with the axes that they address: those must be long enough."""
    for axis, found in parts(roots).items():
        yield from ((p, axis) for p in found if p.op == "//")


def length(part: Part, size: int) -> int:
    """How many different numbers a part of the index along a rank of `size` elements takes."""
    return -(-size // part.by) if part.op == "//" else min(part.by, size)


def numbers(roots: Iterable[Expr]) -> Iterator[tuple[Access | Gather, Computed, Rank]]:
    """The numbers computed of indices and sizes alone that address an axis: what they read, and the axis' name."""
    for x in reads(roots):
        for i, own in zip(x.index, x.tensor.ranks, strict=True):
            if isinstance(i, Computed) and not is_of_elements(i):
                yield x, i, own


def has_computed_indices(roots: Iterable[Expr]) -> bool:
    """Whether there is anything that `check_indices` looks at."""
    wanted = list(roots)
    return bool(parts(wanted)) or any(True for _ in numbers(wanted))


def check_indices(
    roots: Iterable[Expr], sizes: Mapping[Rank, int], padded: bool = False, fitting: Collection[tuple[Part, Rank]] = ()
) -> None:
    """Raises ValueError where a quotient, a remainder or a computed number goes beyond the axis that it addresses,
    unless the access is 0 there. padded: for those, too. fitting: parts that are as long as the axis is, with the axis,
    whatever the sizes are.

    A rank without a size is not looked at.
    """
    wanted = list(roots)
    for x, i, own in numbers(wanted):
        try:
            low, high = span(i, sizes)
        except KeyError:
            continue
        if (padded or not is_padded(x)) and not 0 <= low <= high < sizes[own]:
            raise ValueError(
                f"{x.tensor.name} is addressed within {low}..{high} by a computed index, but its axis has "
                f"{sizes[own]} elements: bound the index (min, max, clamp), or enlarge the tensor"
            )
    for axis, found in parts(wanted).items():
        for p in found:
            if (p, axis) in fitting:
                continue
            needed = length(p, sizes.get(p.rank, 1 if p.op == "//" else p.by))
            if needed > sizes[axis]:
                raise ValueError(
                    f"{p.rank} {p.op} {p.by} addresses {needed} elements of axis {axis} for |{p.rank}| = "
                    f"{sizes[p.rank]}, but the axis has {sizes[axis]}"
                )


def check_splits(roots: Iterable[Expr], sizes: Mapping[Rank, int]) -> None:
    """Raises ValueError where a rank and the two that it is split into, or joined of, do not fit. Ranks without a size
    are not looked at."""
    for x in topological(roots):
        if isinstance(x, (Split, Unsplit)) and {x.rank, x.outer, x.inner} <= sizes.keys():
            length, tiles, inner = sizes[x.rank], sizes[x.outer], sizes[x.inner]
            if tiles * inner != length:
                view = f"split[{x.rank} -> {x.outer},{x.inner}]"
                if isinstance(x, Unsplit):
                    view = f"unsplit[{x.outer},{x.inner} -> {x.rank}]"
                raise ValueError(
                    f"{view}: |{x.rank}| must be |{x.outer}| * |{x.inner}|, but {length} is not {tiles} * {inner}"
                )


def reach(roots: Iterable[Expr]) -> dict[Rank, int]:
    """For each rank of which parts address axes, a size at which its quotients differ (1 where that is too large to
    try out)."""
    found: dict[Rank, int] = {}
    for every in parts(roots).values():
        for p in every:
            found[p.rank] = max(found.get(p.rank, 1), p.by + 2 if p.by <= LARGEST_TRIED else 1)
    return found


def completed(roots: Iterable[Expr], sizes: Mapping[Rank, int], rows: int) -> dict[Rank, int]:
    """The sizes with one for each axis that has none: as long as parts address it, `rows` for a table."""
    wanted = list(roots)
    full = dict(sizes)
    for axis, found in parts(wanted).items():
        if axis not in sizes:
            full[axis] = max(length(p, sizes[p.rank]) for p in found)
    for x, i, own in numbers(wanted):
        if own not in sizes:
            most = int(LARGEST_TABLE ** (1 / sum(isinstance(other, Computed) for other in x.index)))
            full[own] = max(full.get(own, rows), min(span(i, sizes)[1] + 1, most))
    for x in reads(wanted):
        for r in axes(x):
            full.setdefault(r, rows)
    return full


def whole(roots: Iterable[Expr], sizes: Mapping[Rank, int]) -> dict[Rank, int]:
    """The sizes with one for each rank that only its parts give: what the axes of its quotients hold."""
    full = dict(sizes)
    for axis, found in parts(roots).items():
        for p in found:
            if p.op == "//" and p.rank not in sizes and axis in sizes:
                full[p.rank] = min(full.get(p.rank, sizes[axis] * p.by), sizes[axis] * p.by)
    return full
