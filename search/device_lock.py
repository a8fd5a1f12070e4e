"""One process times on one device at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def device_lock(device: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the machine-wide lock of a device ("cpu", "cuda:0"); `waiting` hears one line if it is taken.

    The operating system releases it when the process ends, however it ends. Where the file cannot be opened,
    timing goes on without the lock.
    """
    path = Path(tempfile.gettempdir()) / f"eintune-{device.replace(':', '-')}.lock"
    handle = _open(path)
    if handle is None:
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting(f"another process is timing on {device}; waiting for it ({path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int | None:
    # another user's file in a sticky directory may be opened for reading only, which flock accepts
    for flags in (os.O_RDONLY | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(path, flags | os.O_CLOEXEC, 0o666)
        except OSError:
            continue
    return None
