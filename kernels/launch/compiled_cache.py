"""Where compiled kernels are kept: beside the records, so that a copied cache directory has them too.

They are native code, and Triton runs what it finds. So they lie in a folder that nobody else can look into or write to,
under a name that follows from the user's key: what comes with a cache from elsewhere is under another name, and never
looked at. Where the environment names a folder for all of Triton (`TRITON_CACHE_DIR`), that is used.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from eintune.host import signing
from eintune.host.directories import cache_directory

FOLDER = "compiled"
TRITON_VARIABLE = "TRITON_CACHE_DIR"
MANAGER_VARIABLE = "TRITON_CACHE_MANAGER"
MANAGER = f"{__package__}.kernel_files:KernelFiles"


def compiled_folder(cache: Path | None = None) -> Path | None:
    """The folder in a cache directory (default: the user's), made if need be; None where Triton's own is to be used."""
    return None if os.environ.get(TRITON_VARIABLE) else _folder(cache or cache_directory())


@functools.lru_cache(maxsize=16)
def _folder(cache: Path) -> Path | None:
    try:
        around = cache / FOLDER
        folder = around / signing.signature(b"compiled kernels")[:32]
        for made in (around, folder):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = made.stat()
            if status.st_uid != os.getuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                return None
        return folder if os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        return None


@contextlib.contextmanager
def triton_cache(directory: Path | None) -> Iterator[None]:
    """Triton's compiled kernels are looked for and kept in a directory; None: in its own."""
    from triton import knobs

    # Put back at the end: what others compile is theirs to keep.
    with knobs.cache.scope():
        if directory is not None:
            from .kernel_files import KernelFiles

            knobs.cache.dir = str(directory)
            knobs.cache.manager_class = KernelFiles
        yield


def triton_variables(directory: Path | None) -> dict[str, str]:
    """The same for another process, as variables of its environment."""
    return {} if directory is None else {TRITON_VARIABLE: str(directory), MANAGER_VARIABLE: MANAGER}
