"""The order of a loop's body whose products run in the background.

A matrix instruction works while its warps go on. So each product is started as soon as its operands are there, those
with the fewest products before them first, and is waited for where its result is first read: what lies between runs
beside it. In attention's backward the second product of an iteration hides behind the exponentials of the first, and
the third behind what the fourth is made of, as in FlashAttention-3's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.plan.values import Dot, Load, Value


@dataclass(frozen=True)
class Start:
    """The start of a product."""

    product: Dot


@dataclass(frozen=True)
class Wait:
    """A wait for the products that were started first. running: how many of those after them may go on."""

    products: tuple[Dot, ...]
    running: int


Step: TypeAlias = list[Value] | Start | Wait
"""Values to be computed, or what becomes of a product."""


def in_background(items: Sequence[Value], tiles: Collection[Value]) -> list[Step]:
    """The steps of a body in which products run in the background; all are done after the last one. tiles: the values
    that products read from shared memory, which are there when the product waits for them."""
    return [*_Order(items, tiles).steps()]


class _Order:
    def __init__(self, items: Sequence[Value], tiles: Collection[Value]) -> None:
        self.items, self.tiles = items, tiles
        self.done: set[Value] = set()
        """What is printed, and products whose results may be read."""
        self.started: list[Dot] = []
        """Products that run, in the order of their starts, which is that in which they end."""
        self.after: dict[Value, frozenset[Dot]] = {}
        """The products that a value depends on, by value."""
        body = set(items)
        for v in items:
            own = [frozenset((a,)) if isinstance(a, Dot) else self.after[a] for a in v.args if a in body]
            through = [self.after[a] for a in v.args if a in body]
            self.after[v] = frozenset().union(*own, *through)

    def steps(self) -> Iterator[Step]:
        first = [v for v in self.items if not self.after[v] and isinstance(v, Load) and v not in self.tiles]
        # Numbers of rows and columns are asked for before anything is waited for: the way to memory and back is longer
        # than a product. Whole tiles would take registers that long: they come once the first products run.
        yield from self._computed([v for v in first if len(v.axes) < 2])
        products = [v for v in self.items if isinstance(v, Dot)]
        for product in sorted(products, key=lambda v: len(self.after[v])):
            if self.after[product]:
                yield from self._computed(first)
            yield from self._computed(product.args)
            yield Start(product)
            self.started.append(product)
        yield from self._computed(self.items)
        if self.started:
            yield self._wait(self.started[-1])

    def _computed(self, wanted: Iterable[Value]) -> Iterator[Step]:
        """What it takes to have some values, in the order of the plan, with waits where a product's result is read."""
        needed = self._below(wanted)
        some: list[Value] = []
        for v in (v for v in self.items if v in needed):
            if isinstance(v, Dot):
                continue
            running = [a for a in v.args if a in self.started]
            if running:
                yield from filter(None, [some])
                some = []
                yield self._wait(max(running, key=self.started.index))
            some.append(v)
            self.done.add(v)
        yield from filter(None, [some])
        # An accumulator is read by the product that adds to it.
        for a in wanted:
            if isinstance(a, Dot) and a in self.started:
                yield self._wait(a)

    def _below(self, wanted: Iterable[Value]) -> set[Value]:
        found: set[Value] = set()
        left = list(wanted)
        while left:
            v = left.pop()
            if v not in found and v not in self.done and v in self.after:
                found.add(v)
                left += [] if isinstance(v, Dot) and v in self.started else v.args
        return found

    def _wait(self, product: Dot) -> Wait:
        count = self.started.index(product) + 1
        over, self.started = tuple(self.started[:count]), self.started[count:]
        self.done.update(over)
        return Wait(over, len(self.started))
