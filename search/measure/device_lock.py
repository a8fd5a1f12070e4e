"""One process of a user times on one device at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eintune.host.locks import lock_name, open_lock


@contextmanager
def device_lock(device: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold this user's lock of a device ("cpu", "cuda:0"); `waiting` hears one line if it is taken.

    The operating system releases it when the process ends, however it ends. Where the user has no folder for it,
    timing goes on without the lock.
    """
    handle = open_lock(lock_name("device", device))
    if handle is None:
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting(f"another process is timing on {device}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
