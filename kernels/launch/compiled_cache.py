"""Where compiled kernels are kept: beside the records, so that a copied cache directory has them too.

They are native code. A folder is used only if nobody but this user can write to it; and where the environment names a
folder for all of Triton (`TRITON_CACHE_DIR`), that is used.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from eintune.host.directories import cache_directory

FOLDER = "compiled"
TRITON_VARIABLE = "TRITON_CACHE_DIR"


def compiled_folder() -> Path | None:
    """The folder, made if need be; None where Triton's own is to be used."""
    if os.environ.get(TRITON_VARIABLE):
        return None
    folder = cache_directory() / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever may write there may have this process run what they like: `folder` itself, and what is in it is made
        # by this user.
        status = folder.stat()
        mine = status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return folder if mine and os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        return None


@contextlib.contextmanager
def triton_cache(directory: Path | None) -> Iterator[None]:
    """Triton's compiled kernels are looked for and kept in a directory; None: in its own."""
    from triton import knobs

    # Put back at the end: what others compile is theirs to keep.
    with knobs.cache.scope():
        if directory is not None:
            knobs.cache.dir = str(directory)
        yield
