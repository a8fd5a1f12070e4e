"""A kernel's source as a module of this process (never a file found elsewhere: records hold no code).

Triton reads a kernel's source through `inspect`, which finds it among the lines that Python keeps for tracebacks: no
file is written, so none is lost when a forked child ends, and none is left."""

from __future__ import annotations

import hashlib
import itertools
import linecache
import os
import sys
import weakref
from types import ModuleType

from eintune.kernels.emit.kernel import Kernel


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter in this process (it decides when it is imported)."""
    if "triton" in sys.modules:
        return bool(sys.modules["triton"].knobs.runtime.interpret)
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


# ---- source


_modules: weakref.WeakValueDictionary[str, ModuleType] = weakref.WeakValueDictionary()
_count = itertools.count(1)


def module_of(kernel: Kernel) -> ModuleType:
    """The kernel's source as a module of this process. One kernel has one module as long as anything of that is in use;
    after that the module and its source lines are dropped."""
    # A kernel for any size has one source at all of them, and so one compiled form.
    digest = hashlib.sha256(f"{kernel.emitter} {kernel.source}".encode()).hexdigest()
    module = _modules.get(digest)
    if module is None:
        module = _modules[digest] = _made(f"eintune_{kernel.emitter}_{digest[:20]}", kernel.source)
    return module


def _made(name: str, source: str) -> ModuleType:
    file = f"<{name} {next(_count)}>"
    # An entry without a modification time is never read again, so tracebacks and Triton see this very text.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = ModuleType(name)
    module.__file__ = file
    weakref.finalize(module, linecache.cache.pop, file, None).atexit = False
    module.__dict__["_eintune_module"] = module  # so a function of it that is in use keeps all of it
    exec(compile(source, file, "exec"), module.__dict__)
    return module
