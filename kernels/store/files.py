"""Files of a cache's folders: regular, of bounded size and number, whole or not there.

A file that cannot be used is a miss, said once; a folder that cannot be read has no files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from eintune.host.data import BadData
from eintune.host.files import names_in, read_whole, write_whole
from eintune.host.notices import say_once

T = TypeVar("T")
MAX_FILES = 10_000
MAX_TOTAL = 64 * 2**20
"""Bytes of a folder that are read to look for something similar: what is beyond is left alone, said once."""
SETTLED_NS = 2 * 10**9
"""A folder that was written to more lately may be written to again without another time of its last change."""


class BadRecord(BadData):
    """Data that is not a usable record; the message says which rule it breaks."""


class CacheWriteError(OSError):
    """A record could not be stored; whatever was stored before is untouched."""


def folder_stamp(folder: Path) -> tuple[int, int] | None:
    """What changes when a folder does; None where it was written to so lately that it may change without."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if time.time_ns() - status.st_mtime_ns > SETTLED_NS else None


def bounded(folder: Path, what: str) -> Iterator[Path]:
    """The first of a folder's files, MAX_TOTAL bytes of them."""
    left = MAX_TOTAL
    for path in files_in(folder, what):
        yield path
        left -= _length(path)
        if left < 0:
            say_once(f"of the cache {folder} only the first {MAX_TOTAL >> 20} MiB of {what} are looked at")
            return


def read_kept(path: Path, decoded: Callable[[bytes], T], most: int) -> T | None:
    """What a file of a cache holds; None where there is none, and (said once) where it cannot be used. most: bytes."""
    try:
        return decoded(read_whole(path, most))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, BadRecord, BadData) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        say_once(f"cache file {path} is not used: {reason}")
        return None


def write_kept(path: Path, raw: bytes, what: str) -> Path:
    """Write a file of a cache whole or not at all. Raises CacheWriteError, which says that what was there stays."""
    try:
        write_whole(path, raw)
    except OSError as error:
        told = f"cannot store the {what} in {path}: {error.strerror or error}; what was stored is untouched"
        raise CacheWriteError(error.errno, told) from error
    return path


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def files_in(folder: Path, what: str) -> list[Path]:
    """A folder's files, none (said once for a cache that has several folders) where it cannot be read."""
    try:
        return [folder / name for name in names_in(folder, ".json", MAX_FILES)]
    except OSError as error:
        line = f"the cache {folder} cannot be read, so it has no {what}: {error.strerror or error}"
        say_once(line, about=("unreadable", folder.parent, error.errno))
        return []


def removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        say_once(f"cache file {path} cannot be removed: {error.strerror}")
        return False
    return True
