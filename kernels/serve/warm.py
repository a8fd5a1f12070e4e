"""Compile what records and portfolios hold ahead of a program, for the machine that is here or for another one."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eintune.costmodel.machines.machine import load_machine, machine_for_device
from eintune.host.notices import one_line, say_once
from eintune.kernels.emit.kernel import ON_GPU, Kernel
from eintune.kernels.launch.compile_pool import CompileFailure, CompilePool
from eintune.kernels.launch.compiled_cache import compiled_folder
from eintune.kernels.launch.offline import specialisation_of
from eintune.kernels.store.cache import Cache, Entry
from eintune.kernels.store.portfolio import every_entry
from eintune.space.cascade.problem import Problem

from .any_size import kernel_at
from .choices import make_kernel


@dataclass(frozen=True)
class Warmed:
    """What was compiled. architecture: such as "sm_90". compiled: kernels that are in the cache now; failed: why others
    are not; folder: where they are (None: Triton's own cache); seconds: that it took."""

    architecture: str
    compiled: int
    failed: tuple[str, ...]
    folder: Path | None
    seconds: float


def warm(
    workload: str | None = None,
    *,
    machine: str | None = None,
    cache: str | Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Warmed:
    """Compile the kernels of all records and portfolios that are stored or shipped for a machine, so that no call waits
    for a compiler.

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
    with CompilePool(max(1, min(len(kernels), os.cpu_count() or 1)), cache_dir=folder) as pool:
        every = pool.compile(kernels, architecture)
    failed = [f"{m.status}: {_first_line(m.message)}" for m in every if isinstance(m, CompileFailure)]
    seconds = time.perf_counter() - started
    return Warmed(architecture, len(kernels) - len(failed), tuple(failed), folder, seconds)


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


def _kernels(cache: Cache, machine: str, workload: str | None) -> list[Kernel]:
    """The kernels of a machine's portfolios and records, each specialisation once: those that differ in nothing that a
    compiler sees are one."""
    found: dict[object, Kernel] = {}
    for entry in [*every_entry(cache), *cache.entries()]:
        if machine_for_device(entry.key.machine) != machine or workload not in (None, entry.key.workload):
            continue
        for kernel in _made(entry):
            found.setdefault(specialisation_of(kernel), kernel)
    return list(found.values())


def _made(entry: Entry) -> Iterator[Kernel]:
    """The kernel for any size of an entry, as it is launched at its sizes; of a record, the one for its sizes too."""
    key, record = entry.key, entry.record
    problem = Problem(key.workload, record.cascade, dict(key.sizes), dict(key.dtypes), dict(key.params))
    for make in (kernel_at,) if entry.any_size else (kernel_at, make_kernel):
        try:
            kernel = make(record.cascade, problem, record.schedule)
        except (ValueError, KeyError, RecursionError) as error:
            say_once(f"eintune: a kernel of {entry.path.name} is not compiled: {one_line(error)}", logging.WARNING)
            continue
        if kernel.emitter in ON_GPU:
            yield from kernel.launches
