"""`eintune doctor`: what works on this machine, one line each."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from eintune.host.directories import NAMED_VARIABLE, named_directories
from eintune.host.parts import BROUGHT_BY_TORCH, INSTALL, SERVING, TUNE, missing
from eintune.search.evaluation.exercises import EXERCISES, NEEDS, findings
from eintune.search.options.command import Command, add_cache, cache_of
from eintune.search.options.documents import add_json, write_json
from eintune.search.options.files import check_writable
from eintune.search.text.formatting import plural

ENOUGH_BYTES = 200 * 2**20
HELP = "Tries each thing that Eintune needs: packages compute, compile, solve, draw. Exit code 1 if one does not work."

Line = tuple[bool | None, str, str]
"""(works; None: not needed, name, what there is to say)."""


def options(parser: argparse.ArgumentParser) -> None:
    """Where the cache is."""
    add_cache(parser)
    add_json(parser)


def action(chosen: argparse.Namespace) -> int:
    """Print every check; 1 if one that is needed fails."""
    check_writable(chosen, "json")
    cache = cache_of(chosen)
    good, told = True, []
    checks: list[Callable[[], Iterator[Line]]] = [_versions, _device, _packages, _tools]
    checks += [lambda: _folders(cache), lambda: _served(cache)]
    for check in checks:
        for works, name, text in check():
            mark = {True: "ok", False: "FAIL", None: "--"}[works]
            print(f"{mark:<5}{name:<14}{text}", flush=True)
            good &= works is not False
            told.append({"name": name, "works": works, "text": text})
    write_json(chosen, {"works": good, "checks": told})
    return 0 if good else 1


def _versions() -> Iterator[Line]:
    from eintune import __version__

    yield True, "eintune", __version__
    inside = (3, 11) <= sys.version_info[:2] <= (3, 14)
    yield inside, "python", sys.version.split()[0] + ("" if inside else ": must be 3.11 to 3.14")


def _packages() -> Iterator[Line]:
    """Each dependency's version and what it does here; the extra's may all be absent, where nothing is searched."""
    absent = missing((*SERVING, *TUNE))
    unsearched = set(TUNE) - set(absent) <= BROUGHT_BY_TORCH
    for name in absent:
        if name in SERVING:
            needed = name != "triton" or sys.platform == "linux"
            yield (False if needed else None), name, "not installed: pip install eintune"
        elif not unsearched:
            yield False, name, f"not installed: {INSTALL}"
    if unsearched:
        yield None, "tune", f"not installed, so nothing is derived or searched here: {INSTALL}"
    present = [name for name in EXERCISES if NEEDS.get(name, name) not in absent]
    for finding in findings(present):
        version = _version(finding.name)
        yield finding.works, finding.name, f"{version}, {finding.text}" if version else finding.text


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _device() -> Iterator[Line]:
    try:
        import torch

        from eintune.kernels.store.platform import platform_of
    except Exception:  # what is wrong with it is said where it is tried
        return
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield True, "cpu", f"{platform_of('cpu').machine}, {threads}"
    if torch.cuda.is_available():
        gpu = platform_of("cuda")
        yield True, "gpu", f"{gpu.machine}, {gpu.processors} SMs, {gpu.driver}"
    else:
        built = torch.version.cuda or torch.version.hip
        reason = f"built for {built}, but sees no GPU" if built else "a CPU build of PyTorch"
        yield None, "gpu", f"none: {reason}; candidates run as tiled PyTorch on the CPU"


def _tools() -> Iterator[Line]:
    dot = shutil.which("dot")
    yield (
        (True if dot else None),
        "dot",
        dot or "missing (apt-get install graphviz): pictures become .dot files",
    )


def _folders(cache: Path) -> Iterator[Line]:
    from eintune.kernels.store.cache import RECORDS, SHIPPED
    from eintune.kernels.store.portfolio import FOLDER
    from eintune.kernels.store.portfolio import SHIPPED as SHIPPED_PORTFOLIOS

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache):
            pass
    except OSError as error:
        yield False, "cache", f"{cache}: {error.strerror}; set EINTUNE_CACHE or --cache"
        return
    yield True, "cache", f"{cache}, {_held(cache / RECORDS, cache / FOLDER)}"
    for named in named_directories():
        if named.is_dir():
            yield True, "named", f"{named}, {_held(named / RECORDS, named / FOLDER)}, read only"
        else:
            yield False, "named", f"{named}: {NAMED_VARIABLE} names it, but it is no directory"
    yield True, "shipped", _held(SHIPPED, SHIPPED_PORTFOLIOS)
    free = shutil.disk_usage(cache).free
    yield free > ENOUGH_BYTES, "disk", f"{free / 2**30:.1f} GiB free" + ("" if free > ENOUGH_BYTES else ": too little")


def _served(cache: Path) -> Iterator[Line]:
    """Whether libraries are called, and where they are because they were faster."""
    from eintune.kernels.libraries.policy import policy

    try:
        chosen = policy()
    except ValueError as error:
        yield False, "policy", str(error)
        return
    called = "a library is called where it was measured to be faster" if chosen == "fastest" else "no library is called"
    yield True, "policy", f"{chosen}: {called}"
    try:
        import torch

        from eintune.kernels.store.cache import Cache
        from eintune.kernels.store.platform import platform_of
        from eintune.search.caches.served import served_lines
    except Exception:  # what is wrong with it is said where it is tried
        return
    for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
        for line in served_lines(Cache(cache), platform_of(device)):
            yield (True if chosen == "fastest" else None), "served", line


def _held(records: Path, portfolios: Path) -> str:
    """How much that can be used is in two folders."""
    from eintune.kernels.store.cache import read_entry
    from eintune.kernels.store.files import bounded
    from eintune.kernels.store.portfolio import read_portfolios

    usable = sum(read_entry(path) is not None for path in bounded(records, "records"))
    return f"{plural(usable, 'record')}, {plural(len(read_portfolios(portfolios)), 'portfolio')}"


DOCTOR = Command("doctor", "what works on this machine", options, action, HELP)
