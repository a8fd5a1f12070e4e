"""Launching a compiled kernel by addresses, without what Triton does anew at every launch.

Triton's launcher is an object in Python around a function in C. At each launch it encodes every tensor descriptor again
and makes lists of what the function takes: most of the host's time. All of that follows from the addresses, so it is
done once: the launcher is run with something that only takes note in the place of its function, and from then on the
function is called with what was noted. That asks nothing of a version's order of arguments. A launcher that may do more
at a launch (scratch memory, something that is not known here) is called as it is, and so is any while somebody listens
(launch hooks).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import CellType, FunctionType
from typing import Any

from .tensor_descriptors import LaunchDescriptors

KNOWN = frozenset(
    {"num_ctas", "launch", "launch_cooperative_grid", "launch_pdl", "arg_annotations", "kernel_signature"}
    | {"global_scratch_size", "global_scratch_align", "profile_scratch_size", "profile_scratch_align", "gsan_enabled"}
)
"""What Triton's launchers of 3.6 to 3.9 have. One that has more might do more at a launch."""
AT_EACH_LAUNCH = ("global_scratch_size", "profile_scratch_size", "gsan_enabled")
"""Where one of these is not 0, a launcher does something at each launch."""
FUNCTION = "launcher"
"""What Triton calls its function in C where another is around that, which encodes descriptors."""
MOST_ADDRESSES = 128
"""For how many addresses of each tensor its encoded descriptor is kept."""


@dataclass(frozen=True, slots=True)
class Launchable:
    """A compiled kernel for tensors of one layout.

    compiled: Triton's. numbers: what it takes after the tensors: strides and sizes, constants among them. described:
    makes the tensor descriptors, where it takes any.
    """

    compiled: Any
    grid: tuple[int, int, int]
    numbers: tuple[int, ...]
    described: LaunchDescriptors | None = None

    def rest(self, pointers: Sequence[int]) -> Sequence[Any]:
        """What it is launched with after the addresses."""
        return (*self.numbers, *self.described(pointers)) if self.described else self.numbers

    def given(self, stream: int, pointers: Sequence[int]) -> tuple[Any, ...]:
        """What Triton's launcher is called with."""
        compiled = self.compiled
        before = (*self.grid, stream, compiled.function, compiled.packed_metadata, None, None, None)
        return (*before, *pointers, *self.rest(pointers))


class DirectLaunch:
    """Launches a kernel on tensors of one layout that are on one device, given their addresses (`ByAddress`).

    An object with slots, as there is one for every kernel at every size that a program comes with: few objects for the
    garbage collector to go through.
    """

    __slots__ = ("_current_device", "_device", "_head", "_is_nested", "_kernel", "_known", "_native", "_raw_stream")

    def __init__(self, kernel: Launchable, device: int) -> None:
        import torch

        self._kernel, self._device = kernel, device
        self._current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
        self._raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
        self._native: Callable[..., object] | None = _not_looked_for
        """The launcher's function; None where the launcher is called as it is."""
        self._head: tuple[Any, ...] = ()
        self._known: tuple[tuple[int, dict[int, Sequence[Any]]], ...] = ()
        """Of each descriptor, which tensor it is of, and what it is encoded to, by address."""
        self._is_nested = False

    def __call__(self, pointers: Sequence[int]) -> None:
        # The stream of the device that the tensors are on, not of the caller's current one.
        if self._current_device() != self._device:
            self._elsewhere(pointers)
            return
        runtime, native, kernel = _runtime(), self._native, self._kernel
        enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
        # A hook is a plain function, or a chain of them that may be empty.
        heard = enter is not None and getattr(enter, "calls", True)
        if not heard and not (leave is not None and getattr(leave, "calls", True)):
            stream = self._raw_stream(self._device)
            try:
                if native is _not_looked_for:
                    native = self._looked(pointers)
                if native is None:
                    kernel.compiled.run(*kernel.given(stream, pointers))
                    return
                given = [*pointers, *kernel.numbers]
                if self._known:
                    given += self._encoded(pointers)
                if self._is_nested:
                    native(*kernel.grid, stream, *self._head, given)
                else:
                    native(*kernel.grid, stream, *self._head, *given)
                return
            except TypeError:  # raised while arguments are parsed, before anything is launched
                pass
        # Never reached by a kernel that ran: a TypeError of the launcher's own comes from its argument parsing.
        kernel.compiled[kernel.grid](*pointers, *kernel.rest(pointers))

    def _elsewhere(self, pointers: Sequence[int]) -> None:
        import torch

        with torch.cuda.device(self._device):
            self(pointers)

    def _looked(self, pointers: Sequence[int]) -> Callable[..., object] | None:
        """What Triton's launcher comes to, found out with the first addresses that are launched."""
        kernel = self._kernel
        found = _native(kernel.compiled.run)
        note = found and _noted(kernel, found[1], pointers)
        if found is None or note is None:
            self._native = None
            return None
        self._head, self._is_nested = note.head, note.is_nested
        arguments = kernel.described.arguments if kernel.described else ()
        self._known = tuple((i, {pointers[i]: parts}) for i, parts in zip(arguments, note.encoded, strict=True))
        self._native = found[0]  # last: another thread goes on with all of it or with none
        return self._native

    def _encoded(self, pointers: Sequence[int]) -> Sequence[Any]:
        """The descriptors of tensors at these addresses, as the launcher's function takes them."""
        given: list[Any] = []
        try:
            for i, encoded in self._known:
                given += encoded[pointers[i]]
        except KeyError:
            return self._fresh(pointers)
        return given

    def _fresh(self, pointers: Sequence[int]) -> Sequence[Any]:
        found = _native(self._kernel.compiled.run)
        note = found and _noted(self._kernel, found[1], pointers)
        if not note or note.head != self._head:
            raise TypeError("Triton's launcher passes on something else than before")  # the public way is taken
        for (i, encoded), parts in zip(self._known, note.encoded, strict=True):
            if len(encoded) >= MOST_ADDRESSES:
                encoded.clear()
            encoded[pointers[i]] = parts
        return [*chain.from_iterable(note.encoded)]


def _not_looked_for(*given: Any) -> None:
    """Stands for a launcher's function before the first launch."""


@functools.cache
def _runtime() -> Any:
    """Triton's settings that hold while a program runs, with the hooks that are called around launches."""
    from triton import knobs

    return knobs.runtime


# ---- the launcher's function


def _native(run: Any) -> tuple[Callable[..., object], Callable[[Any], Any]] | None:
    """The function in C that Triton's launcher comes to, and what makes a launcher that comes to another one. None for
    a launcher that does more."""
    launch, code = getattr(run, "launch", None), getattr(getattr(run, "launch", None), "__code__", None)
    if launch is None or not vars(run).keys() <= KNOWN or any(getattr(run, name, 0) for name in AT_EACH_LAUNCH):
        return None
    if code is not None and FUNCTION not in code.co_freevars:
        return None
    cells = dict(zip(code.co_freevars, launch.__closure__, strict=True)) if code else {}

    def instead(other: Any) -> Any:
        made = copy.copy(run)
        made.launch = other
        if code is not None:
            changed = tuple((cells | {FUNCTION: CellType(other)}).values())
            made.launch = FunctionType(code, launch.__globals__, launch.__name__, launch.__defaults__, changed)
        return made

    return cells[FUNCTION].cell_contents if cells else launch, instead


class _Mark(int):
    """An address, known again among what a launcher passes on."""


@dataclass(frozen=True, slots=True)
class _Note:
    """What a launcher's function was called with: before the addresses, but for grid and stream; of each descriptor
    what it was encoded to; and whether addresses and all after them are one argument."""

    head: tuple[Any, ...]
    encoded: tuple[tuple[Any, ...], ...]
    is_nested: bool


def _noted(kernel: Launchable, instead: Callable[[Any], Any], pointers: Sequence[int]) -> _Note | None:
    """What a launch would call the launcher's function with. None where what is passed on is not what was given, in
    its order: then more is done at a launch than is known here."""
    notes: list[tuple[Any, ...]] = []
    marks, before = [_Mark(p) for p in pointers], (*kernel.grid, 0)
    instead(lambda *passed: notes.append(passed))(*kernel.given(0, marks))
    if len(notes) != 1:
        return None
    *passed, last = notes[0]
    is_nested = isinstance(last, (list, tuple))
    every = list(last) if is_nested else [*passed, last]
    start = next((i for i, x in enumerate(every) if isinstance(x, _Mark)), 0)
    after = start + len(marks)
    rest = every[after + len(kernel.numbers) :]
    encoded = tuple(_divided(rest, kernel.described.axes if kernel.described else ()))
    if (
        tuple(passed[:4]) != before
        or list(map(id, every[start:after])) != list(map(id, marks))
        or tuple(every[after : after + len(kernel.numbers)]) != kernel.numbers
        or sum(map(len, encoded)) != len(rest)
        or any(isinstance(part[0], int) for part in encoded)
        or (is_nested and start)
    ):
        return None
    return _Note(tuple(passed[4:] if is_nested else every[4:start]), encoded, is_nested)


def _divided(encoded: Sequence[Any], axes: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """What descriptors of so many axes came to: of each a tensor map, then a length and a stride for each axis."""
    start = 0
    for n in axes:
        yield tuple(encoded[start : start + 1 + 2 * n])
        start += 1 + 2 * n
