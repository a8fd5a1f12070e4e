"""One process at a time searches for a problem's winner; the others wait and read the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from eintune.host.locks import lock_name, lock_path
from eintune.kernels.store.cache import Key


def journal_of(cache: Path, key: Key) -> Path:
    """Where the search for a key's winner is kept."""
    return cache / "journals" / f"{Path(key.file_name).stem}.jsonl"


@contextmanager
def only_search(cache: Path, key: Key, waiting: Callable[[str], None]) -> Iterator[bool]:
    """Hold this user's lock of the search for a key's winner in a cache; gives whether another process had it, and may
    have found the answer. `waiting` hears one line if so.

    The operating system releases it when its holder ends, however that happens: who waits then goes on with what was
    measured. Where the user has no folder for locks, the search runs without one.
    """
    path = lock_path(lock_name("search", journal_of(cache, key)))
    if path is None:
        yield False
        return
    lock = FileLock(path, thread_local=False)
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waited = True
        waiting("another process searches for this problem's winner; waiting for it")
        lock.acquire()
    try:
        yield waited
    finally:
        lock.release()
