"""A generated kernel: readable source and what is needed to launch it. Plain data, picklable."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

EMITTER_VERSION = 8
"""Part of every cache key: raise it when an emitter prints other source for the same plan."""

ON_GPU = ("triton", "gluon")
"""Emitters whose kernels a GPU runs."""


@dataclass(frozen=True)
class Argument:
    """A tensor argument: name, shape in elements, dtype ("fp32", "bf16", …), and whether it is written."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    output: bool


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
        text += "".join(step.digest for step in self.steps)
        return hashlib.sha256(text.encode()).hexdigest()
