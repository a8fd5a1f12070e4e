"""A generated kernel: readable source and what is needed to launch it. Plain data, picklable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

from eintune.space.plan.refusals import RuleError
from eintune.space.plan.sizes import Derived, SizeRange

EMITTER_VERSION = 8
"""Part of every cache key: raise it when an emitter prints other source for the same plan."""

MOST_PROGRAMS = 2**31
"""A grid of a CUDA kernel has fewer along its first axis."""
ON_GPU = ("triton", "gluon")
"""Emitters whose kernels a GPU runs."""


T = TypeVar("T")


def _changed(x: T, **fields: object) -> T:
    """As `dataclasses.replace` of an object without defaults to compute, in a tenth of the time: a program whose
    lengths grow asks for a kernel at each."""
    made: T = object.__new__(type(x))
    made.__dict__.update(x.__dict__)
    made.__dict__.update(fields)
    return made


@dataclass(frozen=True)
class Argument:
    """A tensor argument: name, shape in elements, dtype ("fp32", "bf16", …), and whether it is written.

    axes: of a kernel that is made for any size of some ranks, the rank of each axis whose length is 0 in the shape; ""
    for the others. No tensor fits such a shape: `Kernel.at` says what the lengths are.
    order: of a workspace, its axes as they lie in memory, the outermost first; () where they lie in order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    output: bool
    axes: tuple[str, ...] = field(default=(), repr=False)
    order: tuple[int, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, name: str, shape: Sequence[int | str], dtype: str, output: bool) -> Argument:
        """An argument with the names of ranks where lengths are not known."""
        axes = tuple("" if isinstance(n, int) else n for n in shape)
        lengths = tuple(n if isinstance(n, int) else 0 for n in shape)
        return cls(name, lengths, dtype, output, axes if any(axes) else ())

    def at(self, sizes: Mapping[str, int]) -> Argument:
        """With a number for each length."""
        if not self.axes:
            return self
        lengths = [sizes[r] if r else n for n, r in zip(self.shape, self.axes, strict=True)]
        return _changed(self, shape=tuple(lengths), axes=())

    @property
    def strides(self) -> tuple[int, ...]:
        """Of a tensor without gaps, in elements."""
        found, step = [0] * len(self.shape), 1
        for axis in reversed(self.order or range(len(self.shape))):
            found[axis] = step
            step *= self.shape[axis]
        return tuple(found)


@dataclass(frozen=True)
class Descriptor:
    """A tensor that is also passed as a tensor descriptor.

    argument: its position among the kernel's arguments. block: what one load fetches, in elements an axis.
    """

    argument: int
    block: tuple[int, ...]


@dataclass(frozen=True)
class Reach:
    """How far 32-bit offsets inside one tile go in a tensor.

    argument: its position among the kernel's arguments. steps: the most indices that they go along each of its axes.
    """

    argument: int
    steps: tuple[int, ...]


def divisor(count: int) -> int:
    """What takes the place of a division by `count`: n // count is n * (divisor // 64) >> divisor % 64 for natural n
    below 2**31 (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994)."""
    shift = 31 + (count - 1).bit_length()
    return -(-(1 << shift) // count) * 64 + shift


@dataclass(frozen=True)
class Kernel:
    """Generated code.

    emitter: who printed it. source: a whole Python module. entry: the function in it.
    The torch entry takes the tensors in the order of `arguments` (outputs last) and fills the outputs.
    The triton entry is a `@triton.jit` function that takes the tensors, then every stride of every tensor
    in the same order, then a tensor descriptor for each of `descriptors`; `grid` is its launch grid, `warps` and
    `stages` its options. The gluon entry is the same but `@gluon.jit`; `warps` are those of its first group, and
    `registers` what a thread starts with, before the groups of warps divide them; where `resident` is a number, no more
    programs are launched than so many on each multiprocessor, and each does the work of several.

    reaches: of the tiles whose offsets are 32 bits wide: what the tensors' strides must allow (`spans`).

    sizes: of a kernel that is made for any size of some ranks, those that its entry takes as numbers, after the strides
    where it takes those. derived: how sizes follow from those of arguments.
    counts: the grid is `grid` times ceil(size / number) for each of these. divisors: such counts that the entry divides
    by, and takes as a `divisor` each after the sizes. ranges, ordered, tables: what it relies on of the sizes
    of arguments: what each lies within, which is at most which, and of which quotient an axis is as long.
    `at` gives the kernel at sizes that are numbers, of the same source; values: the numbers for `sizes` and `divisors`
    there.

    steps: where several are launched one after the other, each as a kernel of its own: they share the source, and
    name as arguments what they take of the program's arguments and `workspaces`. What is said above of one entry is
    then said of the first.
    """

    emitter: str
    source: str
    entry: str
    arguments: tuple[Argument, ...]
    grid: tuple[int, ...] = (1,)
    warps: int = 4
    stages: int = 1
    registers: int | None = None
    resident: int | None = None
    descriptors: tuple[Descriptor, ...] = ()
    reaches: tuple[Reach, ...] = ()
    workspaces: tuple[Argument, ...] = ()
    steps: tuple[Kernel, ...] = ()
    sizes: tuple[str, ...] = ()
    derived: tuple[tuple[str, Derived], ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    divisors: tuple[tuple[str, int], ...] = ()
    ranges: tuple[tuple[str, SizeRange], ...] = ()
    ordered: tuple[tuple[str, str], ...] = ()
    tables: tuple[tuple[str, int, str], ...] = ()
    values: tuple[int, ...] = ()

    def at(self, sizes: Mapping[str, int]) -> Kernel:
        """The kernel at sizes that are numbers. Raises RuleError for sizes that it was not made for, and for more
        programs than a grid has."""
        self._check(sizes)
        known = dict(sizes)
        for name, derived in self.derived:
            known[name] = derived.of(known[derived.rank])
        programs = self.grid[0] * prod(-(-known[r] // n) for r, n in self.counts)
        if programs >= MOST_PROGRAMS:
            raise RuleError(f"a grid has at most {MOST_PROGRAMS - 1} programs", f"got {programs}")
        return _changed(
            self,
            arguments=tuple([a.at(known) for a in self.arguments]),
            workspaces=tuple([a.at(known) for a in self.workspaces]),
            grid=(programs, *self.grid[1:]),
            counts=(),
            ranges=(),
            ordered=(),
            tables=(),
            values=(*(known[r] for r in self.sizes), *(divisor(-(-known[r] // n)) for r, n in self.divisors)),
            steps=tuple([step.at(known) for step in self.steps]),
        )

    def _check(self, sizes: Mapping[str, int]) -> None:
        for r, known in self.ranges:
            if not known.least <= sizes[r] <= known.most or sizes[r] % known.multiple:
                multiples = "" if known.multiple == 1 else f"multiples of {known.multiple} "
                rule = f"this kernel was made for {multiples}from {known.least} to {known.most} elements of {r}"
                raise RuleError(rule, f"got {sizes[r]}")
        for a, b in self.ordered:
            if sizes[a] > sizes[b]:
                raise RuleError(
                    f"this kernel was made for no more of {a} than of {b}", f"got {sizes[a]} and {sizes[b]}"
                )
        for r, by, axis in self.tables:
            if (needed := -(-sizes[r] // by)) > sizes[axis]:
                raise RuleError(
                    f"{r} // {by} addresses {needed} elements of axis {axis} for |{r}| = {sizes[r]}",
                    f"the axis has {sizes[axis]}",
                )

    @property
    def launches(self) -> tuple[Kernel, ...]:
        """The steps; the kernel itself where it is one."""
        return self.steps or (self,)

    @property
    def uses_descriptors(self) -> bool:
        """Whether tensors are passed as tensor descriptors, which not all tensors allow."""
        return any(step.descriptors for step in self.launches)

    @property
    def digest(self) -> str:
        """sha256 of everything that decides what runs, hex."""
        parts = (self.emitter, self.source, self.entry, self.arguments, self.grid, self.warps, self.stages)
        text = repr((*parts, self.descriptors) if self.descriptors else parts)  # records from before stay valid
        text += "" if self.registers is None else f" {self.registers} registers, {self.resident} resident"
        text += f" {self.sizes} {self.derived} {self.counts}" if self.counts or self.sizes else ""
        text += "".join(step.digest for step in self.steps)
        return hashlib.sha256(text.encode()).hexdigest()
