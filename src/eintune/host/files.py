"""Files as strangers leave them, read within bounds; files for others, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

ATTEMPTS = 5
"""How often a file is written anew whose half was taken away meanwhile."""
TEMPORARY = ".eintune-"
"""How the name of a file begins that is not whole yet; it ends in `.tmp`."""
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _flag(name: str) -> int:
    """A flag of `os.open` that not every system has."""
    return int(getattr(os, name, 0))


class UnfitFile(OSError):
    """Something that is not read although it is there: not a regular file, or too large."""


def read_whole(path: Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes.

    Never waits for a writer: a FIFO, a socket, a device and a directory are refused as soon as they are opened. Raises
    UnfitFile for those, OSError (FileNotFoundError, PermissionError, …) where the system does; `strerror` of either is
    the fault in words.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _flag("O_NONBLOCK") | _flag("O_NOCTTY") | _flag("O_BINARY"))
    except ValueError as error:  # a zero byte in the name
        raise UnfitFile(errno.EINVAL, str(error), str(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise UnfitFile(errno.EINVAL, "must be a regular file, but is a socket or a device", str(path)) from None
        raise
    try:
        return _read(handle, path, limit)
    finally:
        os.close(handle)


def _read(handle: int, path: Path, limit: int) -> bytes:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "none")
        raise UnfitFile(errno.EINVAL, f"must be a regular file, but is {kind}", str(path))
    parts: list[bytes] = []
    left = limit + 1 if found.st_size <= limit else 0
    while left and (part := os.read(handle, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UnfitFile(errno.EFBIG, f"must be at most {limit} bytes", str(path))
    return b"".join(parts)


def read_utf8(path: Path, limit: int) -> str:
    """The same as text. Raises UnfitFile for bytes that are not UTF-8 too."""
    try:
        return read_whole(path, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise UnfitFile(errno.EILSEQ, "must be UTF-8 text", str(path)) from None


def write_whole(path: Path, data: bytes) -> None:
    """Make or replace a file (and its folders) in one step, flushed to the disk.

    Readers see what was there or all of `data`; whatever fails leaves nothing behind. The umask says who may read it,
    as for any file. Raises OSError.
    """
    with _named(path):
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):  # another process has removed what it took for a leftover
                _write_once(path, data)
                return
        _write_once(path, data)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors name the file that was to be written: a write that fails names none, a temporary file is nobody's."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _write_once(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.urandom(8).hex()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_BINARY"), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """The new name on the disk too, where the system can; the file is there in any case."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_named(path: Path, data: bytes) -> None:
    """Write what somebody asked for under a name of theirs: whole or not at all, but into what is no regular file (a
    terminal, a pipe) as it comes; a link stays a link. Raises OSError."""
    if path.exists() and not path.is_file():
        with _named(path), path.open("wb") as file:
            file.write(data)
        return
    write_whole(Path(os.path.realpath(path)), data)


def names_in(folder: Path, suffix: str, most: int) -> list[str]:
    """The names in a folder that end so, in order, `most` of them; none where there is no such folder.

    Raises OSError where it cannot be looked into.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.endswith(suffix) and not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return names[:most]


def remove_leftovers(folder: Path) -> None:
    """Remove what a writer that was killed left in a folder half-written."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY) and entry.name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
