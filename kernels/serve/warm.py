"""Compile what records and portfolios hold ahead of a program, for the machine that is here or for another one.

For the one that is here, what a process does once is done too: kernels are loaded into the GPU, and what a first call
has to know of what is stored (which forms follow from which definitions, what the cost model says of each kernel) is
found out.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.costmodel.machines.machine import load_machine, machine_for_device
from eintune.host.notices import logger, one_line, say_once
from eintune.kernels.emit.kernel import ON_GPU, Kernel
from eintune.kernels.launch.compile_pool import CompileFailure, CompilePool
from eintune.kernels.launch.compiled_cache import compiled_folder
from eintune.kernels.launch.offline import CompileError, specialisation_of
from eintune.kernels.launch.preload import preload
from eintune.kernels.store.cache import Cache, Entry
from eintune.kernels.store.portfolio import every_entry
from eintune.space.cascade.problem import Problem

from .any_size import kernel_at
from .choices import make_kernel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Warmed:
    """What was compiled. architecture: such as "sm_90". compiled: kernels that are in the cache now; failed: why others
    are not; folder: where they are (None: Triton's own cache); seconds: that it took; loaded: kernels that this process
    has in its GPU now."""

    architecture: str
    compiled: int
    failed: tuple[str, ...]
    folder: Path | None
    seconds: float
    loaded: int = 0


def warm(
    workload: str | None = None,
    *,
    machine: str | None = None,
    cache: str | Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Warmed:
    """Compile the kernels of all records and portfolios that are stored or shipped for a machine, so that no call waits
    for a compiler. Where that machine is here, load them into the current GPU, so that this process waits for nothing
    of that kind either.

    workload: of this one only ("attention"). machine: one that is described ("h200"), which need not be here; by
    default the GPU that is. cache: the directory of records (default: the user's). progress: hears what goes on. Later
    processes find what was compiled, those that are given a copy of the cache directory too.

    Raises ValueError without a GPU and a machine, for a machine that is not known or compiles nothing, and for
    arguments of other types.
    """
    for what, value, kinds in (("workload", workload, str), ("machine", machine, str), ("cache", cache, (str, Path))):
        if value is not None and not isinstance(value, kinds):
            raise ValueError(f"`{what}` must be a name or None, but got {type(value).__name__}")
    started = time.perf_counter()
    name = _present() if machine is None else machine
    architecture = load_machine(name).architecture
    if not re.fullmatch(r"sm_\d+a?|gfx\w+", architecture):
        raise ValueError(f"`machine` must be one that kernels are compiled for (h200, h100, …), but got {name!r}")
    records = Cache(None if cache is None else Path(cache))
    kernels, folder = _kernels(records, name, workload), compiled_folder(records.directory)
    progress(f"compiling {len(kernels)} kernels for {architecture}")
    device = _present_as(name)
    with CompilePool(max(1, min(len(kernels), os.cpu_count() or 1)), cache_dir=folder) as pool:
        every = pool.compile(kernels, architecture, meanwhile=lambda: _rehearse(records, name, workload, device))
    failed = [f"{m.status}: {_first_line(m.message)}" for m in every if isinstance(m, CompileFailure)]
    compiled = [k for k, m in zip(kernels, every, strict=True) if not isinstance(m, CompileFailure)]
    loaded = 0
    if device is not None:
        progress(f"loading {len(compiled)} kernels into {device}")
        loaded, refused = _loaded(compiled, architecture, device, folder)
        failed += refused
    seconds = time.perf_counter() - started
    return Warmed(architecture, len(compiled), tuple(failed), folder, seconds, loaded)


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else ""


def _present() -> str:
    """The name of the machine that is here. Raises ValueError where it is no GPU that is described."""
    import torch

    if not torch.cuda.is_available():
        raise ValueError("`machine` must name the machine to compile for (h200, h100, …) where no GPU is")
    title = torch.cuda.get_device_name()
    found = machine_for_device(title)
    if found is None:
        raise ValueError(f"`machine` must name the machine to compile for: {title} is not described")
    return found


def _present_as(machine: str) -> torch.device | None:
    """The current GPU, where it is this machine; None where it is another, and without one."""
    import torch

    if not torch.cuda.is_available() or machine_for_device(torch.cuda.get_device_name()) != machine:
        return None
    return torch.device("cuda", torch.cuda.current_device())


def _loaded(
    kernels: Sequence[Kernel], architecture: str, device: torch.device, folder: Path | None
) -> tuple[int, list[str]]:
    """Load kernels into a GPU: how many, and why others are not."""
    failed: list[str] = []
    for kernel in kernels:
        try:
            preload(kernel, architecture, device.index, folder)
        except CompileError as error:
            failed.append(f"not loaded: {_first_line(str(error))}")
    return len(kernels) - len(failed), failed


def _rehearse(cache: Cache, machine: str, workload: str | None, device: torch.device | None) -> None:
    """Find out what first calls on this machine ask of what is stored, but for the kernels: it is remembered."""
    if device is None:
        return
    from . import modified_attention  # noqa: F401  # and all that a first call imports
    from .priced import machine_of, rehearse

    try:
        rehearse([*_entries(cache, machine, workload)], machine_of(device))
    except (ValueError, KeyError, RecursionError) as error:  # a record that is none: calls find that out, too
        logger.debug("rehearsing ended early: %s", one_line(error))


def _entries(cache: Cache, machine: str, workload: str | None) -> Iterator[Entry]:
    """What is stored for a machine, in portfolios and in records."""
    for entry in [*every_entry(cache), *cache.entries()]:
        if machine_for_device(entry.key.machine) == machine and workload in (None, entry.key.workload):
            yield entry


def _problem(entry: Entry) -> Problem:
    """What an entry's form computes, at its sizes."""
    key = entry.key
    return Problem(key.workload, entry.record.cascade, dict(key.sizes), dict(key.dtypes), dict(key.params))


def _kernels(cache: Cache, machine: str, workload: str | None) -> list[Kernel]:
    """The kernels of a machine's portfolios and records, each specialisation once: those that differ in nothing that a
    compiler sees are one."""
    found: dict[object, Kernel] = {}
    for entry in _entries(cache, machine, workload):
        for kernel in _made(entry):
            found.setdefault(specialisation_of(kernel), kernel)
    return list(found.values())


def _made(entry: Entry) -> Iterator[Kernel]:
    """The kernel for any size of an entry, as it is launched at its sizes; of a record, the one for its sizes too."""
    record, problem = entry.record, _problem(entry)
    for make in (kernel_at,) if entry.any_size else (kernel_at, make_kernel):
        try:
            kernel = make(record.cascade, problem, record.schedule)
        except (ValueError, KeyError, RecursionError) as error:
            say_once(f"eintune: a kernel of {entry.path.name} is not compiled: {one_line(error)}", logging.WARNING)
            continue
        if kernel.emitter in ON_GPU:
            yield from kernel.launches
