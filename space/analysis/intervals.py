"""Interval reasoning on affine filters: where a loop may start and stop, and where a filter holds throughout.

For a filter `a * i + rest >= 0` on the loop's index i (a = 1 or -1), the extremes of `rest` over the program's
tile bound i: outside those bounds no element passes (skip, if every reduction sees its identity there), and
inside the bounds of the other extreme every element passes (no mask).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from eintune.space.ir.expr import Access, Gather, Predicate, Rank
from eintune.space.plan.bounds import (
    Bound,
    First,
    Last,
    Lit,
    Number,
    PartStart,
    Size,
    ceil_to,
    floor_to,
    greatest,
    least,
    negated,
    plus,
    total,
)
from eintune.space.plan.plan import Known, Segment
from eintune.space.plan.sizes import Affine, Sizes, tail_predicate
from eintune.space.plan.values import Value

from .filters import farthest, is_wide
from .layout import Layout

MOST_ALTERNATIVES = 6
"""Of so many filters that do not bound a loop alone, some together may."""


@dataclass(frozen=True)
class Range:
    """What one filter or condition says about a loop's index, as half-open ranges: outside of [any_lo, any_hi) it is
    false for every element, and on all tiles in [all_lo, all_hi) it holds throughout."""

    any_lo: Bound
    any_hi: Bound
    all_lo: Bound
    all_hi: Bound


@dataclass(frozen=True)
class Division:
    """The segments of a loop; and the range on which every filter holds, without regard to where the loop begins and
    ends (None where no segment is divided off)."""

    segments: tuple[Segment, ...]
    clear: tuple[Bound, Bound] | None = None


def divided(
    layout: Layout,
    rank: Rank,
    filters: Iterable[Predicate],
    around: frozenset[Rank],
    *,
    skips: Callable[..., bool],
    split: bool,
    number: Callable[[Access | Gather, bool], Value | None] = lambda x, greatest: None,
    computed: Sequence[tuple[Range, Value | None]] = (),
) -> Division:
    """The segments of a loop over `rank` inside the loops `around`.

    filters: the predicates used in its body. skips(p, …): whether tiles where all of these are false may be left out.
    split: whether the range where every filter holds is a segment of its own. number: an element of a tensor as a
    scalar that is known before the loop, if it is one, or the least (the greatest) of those of a program's tile.
    computed: what conditions on values say of the loop, and the
    value that then holds on whole tiles (`value_bounds`).
    """
    tile = layout.roles[rank].tile or 1
    # Each filter is solved for the loop's index: a half-line in which something passes, and a smaller one in which
    # everything does. The loop runs over the intersection of the former, without masks over that of the latter.
    filtered = {p: r for p in filters if (r := _range(layout, p, rank, tile, around, number))}
    start, stop = _span(layout, rank)
    # Tiles where a filter is false may be left out only if every reduction of the loop sees its identity there: a sum
    # that counts filtered elements as 1, say, may not skip them.
    skipped = [[r] for r, _ in computed] + list(_skipped(filtered, skips))
    # Of filters of which one must hold the union is wanted, as one range: from the least start to the greatest end.
    low: list[Bound] = [*start, *(least([r.any_lo for r in group]) for group in skipped)]
    high: list[Bound] = [*stop, *(greatest([r.any_hi for r in group]) for group in skipped)]
    ranges: dict[Known, Range] = {v: r for r, v in computed if v}
    ranges |= dict(filtered.items())
    tail = tail_predicate(rank, layout.sizes)
    whole = _range(layout, tail, rank, tile, around, number)
    # The tail is a filter like any other, false in the last tile only. Otherwise every iteration would compare
    # indices with the size.
    if not layout.sizes.is_multiple(rank, tile) and whole:
        ranges[tail] = whole
    lo, hi = greatest(low), least(high)
    if not split or not ranges:
        return Division((Segment(lo, hi, frozenset()),))
    known = frozenset(ranges)
    # The middle segment may not reach beyond the loop's end. A filter sees to that, as its all_hi is at most its
    # any_hi; a condition that is not asked for on whole tiles has no all_hi, so its end is named here.
    last = [ceil_to(r.any_hi, tile) for r, v in computed if not v]
    clear = greatest([r.all_lo for r in ranges.values()]), least([*stop, *last, *(r.all_hi for r in ranges.values())])
    # Clipped so that lo <= begin <= end whatever data or a program's place make of the bounds: segments then cover
    # each tile of [lo, hi) exactly once, if need be as empty ones.
    begin = greatest([lo, least([clear[0], ceil_to(hi, tile)])])
    end = greatest([begin, clear[1]])
    parts = (Segment(lo, begin, frozenset()), Segment(begin, end, known), Segment(end, hi, frozenset()))
    return Division(tuple(s for s in parts if s.lo != s.hi) or (Segment(lo, hi, frozenset()),), clear)


def _skipped(ranges: Mapping[Predicate, Range], skips: Callable[..., bool]) -> Iterator[list[Range]]:
    """The ranges of filters outside which nothing counts: of one filter, or of a few of which one must hold."""
    left = []
    for p, r in ranges.items():
        if skips(p):
            yield [r]
        else:
            left.append(p)
    # Two half-lines of which one must hold (a window or a prefix, say): neither alone allows skipping, both together
    # do. Groups of three at most, as each is asked of every reduction of the loop.
    for count in (2, 3):
        for group in combinations(left[:MOST_ALTERNATIVES], count):
            if skips(*group):
                yield [ranges[p] for p in group]


def _span(layout: Layout, rank: Rank) -> tuple[list[Bound], list[Bound]]:
    """Where a loop starts (the greatest of these) and stops (the least): of its rank, or of the program's part."""
    size, part = layout.sizes.bound(rank), layout.splits.get(rank)
    if part is None:
        return [Lit(0)], [size]
    if not isinstance(part.length, int):
        start = PartStart(part.rank, part.length)
        return [start], [total([(1, start), (1, Size(part.length))], 0), size]
    ends: list[Bound] = [] if layout.sizes.is_multiple(rank, part.length) else [size]
    return [total([(part.length, First(part.rank))], 0)], [total([(part.length, First(part.rank))], part.length), *ends]


def _range(
    layout: Layout,
    p: Predicate,
    rank: Rank,
    tile: int,
    around: frozenset[Rank],
    number: Callable[[Access | Gather, bool], Value | None],
) -> Range | None:
    """None where the filter does not bound the loop's index by itself, or not in the 32 bits of an index."""
    coefs = {t.rank: t.coef for t in p.terms}
    a = coefs.pop(rank, 0)
    # With another coefficient the ends would be quotients, which bounds do not have; and text of 32 bits must not
    # overflow.
    if abs(a) != 1 or is_wide(p, layout.sizes):
        return None
    # A number from memory may be anything, padding included. Clamped to where it decides the filter either way, sums
    # with it stay within 32 bits.
    limit = farthest(p, layout.sizes)
    ends = (-limit, limit, True) if limit is not None else ()
    size = layout.sizes.bound(rank)
    assumed: int | Bound = size.value if isinstance(size, Lit) else size
    if a > 0:  # as a loop's end it is taken for the rank's, and as its start for that
        assumed = 0
    known: dict[bool, list[tuple[int, Bound]]] = {}
    for up in (False, True):
        loaded = [(c, number(x, (c > 0) == up)) for x, c in p.numbers]
        known[up] = [(c, Number(v, assumed, *ends)) for c, v in loaded if v]
        # It is read in the loop itself, so it cannot say where the loop ends.
        if len(known[up]) < len(loaded):
            return None
    unknown: list[tuple[int, Bound]] = [(c, Size(r)) for r, c in p.sizes]
    smallest, largest = (
        # Over the tiles of all other ranks, which a program (or an outer iteration) has whole: each term is extreme
        # at one end of its rank's tile, by the sign of its coefficient.
        total(
            [*((c, extreme(layout, q, (c > 0) == up, around)) for q, c in coefs.items()), *known[up], *unknown], p.const
        )
        for up in (False, True)
    )
    # i <= rest: something passes up to the largest rest, everything up to the smallest. `all_hi` is rounded down to
    # whole tiles, since a tile without masks must lie within it. For i >= -rest it is the other way round.
    if a == -1:
        return Range(Lit(0), plus(largest, 1), Lit(0), floor_to(plus(smallest, 1), tile))
    return Range(floor_to(negated(largest), tile), size, ceil_to(negated(smallest), tile), size)


def extreme(layout: Layout, rank: Rank, last: bool, around: frozenset[Rank]) -> Bound:
    """The first or last index of a rank: in the tile at hand, or of all where that is not fixed yet."""
    role = layout.roles[rank]
    # A loop that is not open yet stands for all of its indices: the bound must hold in each iteration of it.
    if role.outer is None or (role.outer == "loop" and rank not in around):
        return plus(layout.sizes.bound(rank), -1) if last else Lit(0)
    return Last(rank) if last else First(rank)


def leaves_an_element(rank: Rank, filters: Iterable[Predicate], sizes: Sizes, *, first: bool = False) -> bool:
    """Whether some index of `rank` (the first one, if so asked) passes all filters, whatever the other ranks' indices
    are, and whatever the sizes that are not known.

    Every lower bound must be at most every upper bound, the rank's own ends included; each difference is affine
    in the other ranks, so its least value is at a corner of the box.
    """
    # Fourier and Motzkin's elimination of the one variable: with coefficients of 1 the integers between two bounds
    # are not empty if the lower is at most the upper, so no rounding is lost.
    lower: list[Affine] = [Affine({}, {}, 0)]
    upper: list[Affine] = [Affine({}, {}, 0) if first else Affine({}, {}, 0).plus_last(rank, 1, sizes)]
    for p in filters:
        rest = Affine.of(p)
        a = 0 if p.numbers else rest.indices.get(rank, 0)
        bound = Affine({q: c for q, c in rest.indices.items() if q != rank}, rest.sizes, rest.const)
        if a == 1:
            lower.append(Affine({}, {}, 0) - bound)
        elif a == -1:
            upper.append(bound)
        else:
            return False
    return all((high - low).least(sizes) >= 0 for low in lower for high in upper)
