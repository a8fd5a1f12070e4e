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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import CellType, FunctionType
from typing import Any, TypeAlias

from .launch import ByAddress
from .tensor_descriptors import LaunchDescriptors

Launcher: TypeAlias = Callable[[int, Sequence[int]], object]
"""Launches a kernel on a stream and on tensors of one layout, given their addresses."""

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


@dataclass(frozen=True)
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


def by_address(kernel: Launchable, device: int) -> ByAddress:
    """A launcher for tensors of the layout that are on a device."""
    import torch
    from triton import knobs

    # Looked up once: what is left in the call is a stream and the arguments.
    current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
    raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
    run, public, runtime = kernel.compiled.run, kernel.compiled[kernel.grid], knobs.runtime

    def usual(stream: int, pointers: Sequence[int]) -> None:
        run(*kernel.given(stream, pointers))

    # With the first addresses that come: those of a layout's first call come again.
    way: Launcher | None = None

    def launch(pointers: Sequence[int]) -> None:
        nonlocal way
        # The stream of the device that the tensors are on, not of the caller's current one.
        if current_device() != device:
            with torch.cuda.device(device):
                launch(pointers)
            return
        if not (_is_heard(runtime.launch_enter_hook) or _is_heard(runtime.launch_exit_hook)):
            stream = raw_stream(device)
            if way is None:
                way = _straight(kernel, pointers) or usual
            try:
                way(stream, pointers)
                return
            except TypeError:  # raised while arguments are parsed, before anything is launched
                pass
        # Never reached by a kernel that ran: a TypeError of the launcher's own comes from its argument parsing.
        public(*pointers, *kernel.rest(pointers))

    return launch


def _is_heard(hook: Any) -> bool:
    """Whether a launch hook is installed: a plain function, or a chain that is not empty."""
    return hook is not None and bool(getattr(hook, "calls", True))


# ---- the launcher's function


def _straight(kernel: Launchable, pointers: Sequence[int]) -> Launcher | None:
    """The function that Triton's launcher calls, called without it; None where that might not come to the same."""
    found = _native(kernel.compiled.run)
    first = found and _noted(kernel, found[1], pointers)
    if found is None or first is None:
        return None
    (native, instead), (gx, gy, gz), head, numbers = found, kernel.grid, first.head, kernel.numbers
    is_nested = first.is_nested
    if kernel.described is None:
        if is_nested:
            return lambda stream, pointers: native(gx, gy, gz, stream, *head, (*pointers, *numbers))
        return lambda stream, pointers: native(gx, gy, gz, stream, *head, *pointers, *numbers)
    known = [(i, {pointers[i]: parts}) for i, parts in zip(kernel.described.arguments, first.encoded, strict=True)]

    def fresh(pointers: Sequence[int]) -> list[Any]:
        now = _noted(kernel, instead, pointers)
        if now is None or now.head != head:
            raise TypeError("Triton's launcher passes on something else than before")  # it is called as it is, then
        for (i, encoded), parts in zip(known, now.encoded, strict=True):
            if len(encoded) >= MOST_ADDRESSES:
                encoded.clear()
            encoded[pointers[i]] = parts
        return [*pointers, *numbers, *chain.from_iterable(now.encoded)]

    def launch(stream: int, pointers: Sequence[int]) -> object:
        given = [*pointers, *numbers]
        try:
            for i, encoded in known:
                given += encoded[pointers[i]]
        except KeyError:
            given = fresh(pointers)
        if is_nested:
            return native(gx, gy, gz, stream, *head, given)
        return native(gx, gy, gz, stream, *head, *given)

    return launch


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


@dataclass(frozen=True)
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
