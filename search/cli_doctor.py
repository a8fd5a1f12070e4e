"""`eintune doctor`: what works on this machine, one line each."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from .cli_options import Command, add_cache, cache_of

PACKAGES = ("torch", "triton", "numpy", "egglog", "optuna", "pulp", "highspy", "pandas", "seaborn", "graphviz")
ENOUGH_BYTES = 200 * 2**20
HELP = "Prints versions, the device, and whether each thing that Eintune needs works here. Exit code 1 if one does not."

Line = tuple[bool | None, str, str]
"""(works; None: not needed, name, what there is to say)."""


def options(parser: argparse.ArgumentParser) -> None:
    """Where the cache is."""
    add_cache(parser)


def action(chosen: argparse.Namespace) -> int:
    """Print every check; 1 if one that is needed fails."""
    cache = cache_of(chosen)
    good = True
    checks: list[Callable[[], Iterator[Line]]] = [_versions, _device, _triton, _tools, lambda: _folders(cache)]
    for check in checks:
        for works, name, text in check():
            mark = {True: "ok", False: "FAIL", None: "--"}[works]
            print(f"{mark:<5}{name:<14}{text}")
            good &= works is not False
    return 0 if good else 1


def _versions() -> Iterator[Line]:
    from .. import __version__

    yield True, "eintune", __version__
    inside = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield inside, "python", sys.version.split()[0] + ("" if inside else ": must be 3.11 to 3.13")
    for name in PACKAGES:
        try:
            yield True, name, metadata.version(name)
        except metadata.PackageNotFoundError:
            needed = name != "triton" or sys.platform == "linux"
            yield (False if needed else None), name, "not installed"


def _device() -> Iterator[Line]:
    import torch

    from ..kernels.platform import platform_of

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield True, "cpu", f"{platform_of('cpu').machine}, {threads}"
    if torch.cuda.is_available():
        gpu = platform_of("cuda")
        yield True, "gpu", f"{gpu.machine}, {gpu.processors} SMs, {gpu.driver}"
    else:
        built = torch.version.cuda or torch.version.hip
        reason = f"built for {built}, but sees no GPU" if built else "a CPU build of PyTorch"
        yield None, "gpu", f"none: {reason}; candidates run as tiled PyTorch on the CPU"


def _triton() -> Iterator[Line]:
    if importlib.util.find_spec("triton") is None:
        yield None, "interpreter", "no triton"
        return
    import numpy
    import triton

    old = tuple(int(x) for x in triton.__version__.split(".")[:2]) < (3, 9)
    new = tuple(int(x) for x in numpy.__version__.split(".")[:2]) >= (2, 4)
    if old and new:
        text = f"triton {triton.__version__} needs numpy < 2.4 to interpret, but numpy is {numpy.__version__}"
        yield None, "interpreter", text
    else:
        yield True, "interpreter", "TRITON_INTERPRET=1 runs kernels on the CPU"
    tool = Path(str(triton.knobs.nvidia.cuobjdump.path))
    yield (True if tool.exists() else None), "cuobjdump", str(tool) if tool.exists() else "missing: no exact registers"


def _tools() -> Iterator[Line]:
    dot = shutil.which("dot")
    yield (True if dot else None), "dot", dot or "missing (graphviz): pictures are written as .dot files"
    solvers = []
    try:
        import pulp

        solvers = pulp.listSolvers(onlyAvailable=True)
    except Exception as error:  # a solver's own probe may fail in any way; that is the finding
        yield False, "solvers", str(error)
        return
    found = [s for s in ("HiGHS", "PULP_CBC_CMD", "HiGHS_CMD") if s in solvers]
    yield bool(found), "solvers", ", ".join(found) or "none: extraction needs HiGHS or CBC"


def _folders(cache: Path) -> Iterator[Line]:
    from ..kernels.cache import Cache

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache):
            pass
    except OSError as error:
        yield False, "cache", f"{cache}: {error.strerror}; set EINTUNE_CACHE or --cache"
        return
    yield True, "cache", f"{cache}, {len(Cache(cache).entries())} records"
    free = shutil.disk_usage(cache).free
    yield free > ENOUGH_BYTES, "disk", f"{free / 2**30:.1f} GiB free" + ("" if free > ENOUGH_BYTES else ": too little")


DOCTOR = Command("doctor", "what works on this machine", options, action, HELP)
