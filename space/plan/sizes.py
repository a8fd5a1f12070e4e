"""Sizes of ranks: numbers, or what is known of a number that a kernel is given when it runs.

A plan that is made for any length knows some sizes only so far: the least and the most that they may be, and what
divides them. Whoever needs one as a number is told that it is none (`UnknownSize`); the plan is then made for that
number alone. So what has not learnt to do without a number is still right, only more special than it need be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eintune.space.ir.expr import Predicate, Rank, Term

from .bounds import Bound, Lit, Size
from .roles import IllegalPlan

MOST = 2**28
"""Elements of a rank whose size is not known: sums of a few indices and sizes then need no more than 32 bits."""


class UnknownSize(IllegalPlan):
    """A plan needs the size of `rank` as a number."""

    def __init__(self, rank: Rank) -> None:
        super().__init__("the plan needs every size as a number", f"that of {rank} is not known")
        self.rank = rank


class UnknownMost(UnknownSize):
    """A plan needs to know the most that the size of `rank` can be, to the next power of two, where that is at most
    `limit`; beyond it only that it is more."""

    def __init__(self, rank: Rank, limit: int) -> None:
        super().__init__(rank)
        self.limit = limit


@dataclass(frozen=True)
class SizeRange:
    """What is known of a size: least <= size <= most, and `multiple` divides it."""

    least: int = 1
    most: int = MOST
    multiple: int = 1

    def around(self, size: int, limit: int) -> SizeRange:
        """Those of these sizes that lie between the same two powers of two as `size`; beyond a limit, which is such a
        power, all."""
        if size > limit:
            return SizeRange(limit + 1, self.most, self.multiple)
        most = 1 << (size - 1).bit_length()
        return SizeRange(most // 2 + 1, most, self.multiple)


@dataclass(frozen=True)
class Derived:
    """A size that follows from another one: ceil(|rank| * times / by) * step."""

    rank: Rank
    times: int = 1
    by: int = 1
    step: int = 1

    def of(self, size: int) -> int:
        """The size, given that of `rank`."""
        return -(-size * self.times // self.by) * self.step

    def over(self, known: SizeRange) -> SizeRange:
        """What is known of it, given what is known of the size of `rank`."""
        whole = known.multiple * self.times
        multiple = whole // self.by * self.step if whole % self.by == 0 else self.step
        return SizeRange(self.of(known.least), self.of(known.most), multiple)


class Sizes(dict[Rank, int]):
    """The sizes of ranks that are numbers. ranges: what is known of the others. derived: how some of those follow from
    others, in an order in which they can be worked out. ordered: pairs of ranks whose sizes are not known, but that the
    first is at most the second."""

    def __init__(
        self,
        numbers: Mapping[Rank, int] | Iterable[tuple[Rank, int]] = (),
        ranges: Mapping[Rank, SizeRange] | None = None,
        derived: Mapping[Rank, Derived] | None = None,
        ordered: Iterable[tuple[Rank, Rank]] = (),
    ) -> None:
        super().__init__(numbers)
        self.ranges, self.derived, self.ordered = dict(ranges or {}), dict(derived or {}), frozenset(ordered)

    @classmethod
    def of(cls, sizes: Mapping[Rank, int]) -> Sizes:
        """A copy of sizes that may all be numbers."""
        return cls(sizes, sizes.ranges, sizes.derived, sizes.ordered) if isinstance(sizes, Sizes) else cls(sizes)

    def __missing__(self, rank: Rank) -> int:
        if rank not in self.ranges:
            raise KeyError(rank)
        raise UnknownSize(self._root(rank))

    def same(self, rank: Rank) -> Rank:
        """The rank that a size is equal to, if it follows from one by being that: one number is enough for both."""
        while (derived := self.derived.get(rank)) is not None and derived == Derived(derived.rank):
            rank = derived.rank
        return rank

    def _root(self, rank: Rank) -> Rank:
        """The rank that a size follows from."""
        while rank in self.derived:
            rank = self.derived[rank].rank
        return rank

    def least(self, rank: Rank) -> int:
        """The least that a size can be."""
        return self.ranges[rank].least if rank in self.ranges else self[rank]

    def most(self, rank: Rank) -> int:
        """The most that a size can be."""
        return self.ranges[rank].most if rank in self.ranges else self[rank]

    def within(self, rank: Rank, limit: int) -> bool:
        """Whether a size is at most a limit. Raises UnknownMost where that is not known."""
        if self.least(rank) <= limit < self.most(rank):
            raise UnknownMost(self._root(rank), limit)
        return self.most(rank) <= limit

    def has(self, rank: Rank) -> bool:
        """Whether there is a size of this name, known or not."""
        return rank in self or rank in self.ranges

    def is_multiple(self, rank: Rank, of: int) -> bool:
        """Whether a size is certainly a multiple of a number."""
        return (self.ranges[rank].multiple if rank in self.ranges else self[rank]) % of == 0

    def bound(self, rank: Rank) -> Bound:
        """A size as a bound."""
        return Size(rank) if rank in self.ranges else Lit(self[rank])

    def without(self, rank: Rank) -> Sizes:
        """What is known of the sizes that are no numbers, but for one."""
        left = {r: known for r, known in self.ranges.items() if r != rank}
        return Sizes({}, left, ordered=(pair for pair in self.ordered if rank not in pair))

    def only(self, ranks: Iterable[Rank]) -> Sizes:
        """Those of some ranks; what they follow from is not among them unless it is asked for."""
        chosen = dict.fromkeys(ranks)
        return Sizes(
            {r: self[r] for r in chosen if r not in self.ranges},
            {r: self.ranges[r] for r in chosen if r in self.ranges},
            {r: d for r, d in self.derived.items() if r in chosen},
            self.ordered,
        )

    def plus(self, numbers: Mapping[Rank, int]) -> Sizes:
        """With more sizes, or others, that are numbers."""
        ranges = {r: known for r, known in self.ranges.items() if r not in numbers}
        return Sizes({**self, **numbers}, ranges, self.derived, self.ordered)

    def deriving(self, name: Rank, derived: Derived) -> Sizes:
        """With one more size, that follows from another one."""
        if derived.rank not in self.ranges:
            return self.plus({name: derived.of(self[derived.rank])})
        ranges = {**self.ranges, name: derived.over(self.ranges[derived.rank])}
        return Sizes(self, ranges, {**self.derived, name: derived}, self.ordered)

    def at(self, numbers: Mapping[Rank, int]) -> Sizes:
        """All of them as numbers. Raises UnknownSize for one that is not given and does not follow."""
        found = self.numbers_at(numbers)
        return Sizes({r: found[r] for r in (*self, *self.ranges)})

    def numbers_at(self, numbers: Mapping[Rank, int]) -> dict[Rank, int]:
        """As `at`; others that are given stay among them."""
        found = {**numbers, **self}
        for name in self.ranges:
            if name not in found and name not in self.derived:
                raise UnknownSize(name)
        for name, derived in self.derived.items():
            found[name] = derived.of(found[derived.rank])
        return found


@dataclass(frozen=True)
class Affine:
    """sum(coefficient * index) + sum(coefficient * |rank|) + const."""

    indices: Mapping[Rank, int]
    sizes: Mapping[Rank, int]
    const: int

    @classmethod
    def of(cls, p: Predicate) -> Affine:
        """What has to be at least 0, numbers from memory left out."""
        return cls({t.rank: t.coef for t in p.terms}, dict(p.sizes), p.const)

    def __sub__(self, other: Affine) -> Affine:
        indices, sizes = (
            {r: a.get(r, 0) - b.get(r, 0) for r in {*a, *b}}
            for a, b in ((self.indices, other.indices), (self.sizes, other.sizes))
        )
        return Affine(indices, sizes, self.const - other.const)

    def plus_last(self, rank: Rank, times: int, known: Sizes) -> Affine:
        """With a multiple of a rank's last index."""
        if rank not in known.ranges:
            return Affine(self.indices, self.sizes, self.const + times * (known[rank] - 1))
        return Affine(self.indices, {**self.sizes, rank: self.sizes.get(rank, 0) + times}, self.const - times)

    def least(self, known: Sizes) -> int:
        """The least that it can be: each index at one end of its rank, then each size at one of its own."""
        corner = self
        for r, c in self.indices.items():
            corner = corner.plus_last(r, c, known) if c < 0 else corner
        left = dict(corner.sizes)
        # What one size is certainly at least of another one is no less than 0.
        for small, large in sorted(known.ordered):  # in one order in every process
            both = min(left.get(large, 0), -left.get(small, 0))
            if both > 0:
                left[large] -= both
                left[small] += both
        return corner.const + sum(c * (known.least(r) if c > 0 else known.most(r)) for r, c in left.items())


def tail_predicate(rank: Rank, sizes: Sizes) -> Predicate:
    """`rank <= |rank| - 1`."""
    if rank in sizes.ranges:
        return Predicate((Term(rank, -1),), ((rank, 1),), -1)
    return Predicate((Term(rank, -1),), (), sizes[rank] - 1)
