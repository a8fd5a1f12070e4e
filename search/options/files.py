"""Files that a user names: read within bounds, and found out about before a command begins that is to write them."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from pathlib import Path

from eintune.host.files import UnfitFile, read_utf8

from .command import Failure, cache_of

MAX_FILE_BYTES = 16 * 2**20


def read_text(path: Path) -> str:
    """A file's text. Raises Failure for one that is no regular file, too large or no text."""
    try:
        return read_utf8(path, MAX_FILE_BYTES)
    except UnfitFile as error:
        raise Failure(f"{path}: {error.strerror}") from None


FILES = ("json", "csv", "markdown", "file")
"""Options that name files; others name folders."""


def check_writable(chosen: argparse.Namespace, *options: str) -> None:
    """Raises Failure for the first of these options (by the names that they are kept under) where nothing can be
    written, so that it is known before minutes of work. Nothing is made."""
    for name in options:
        place = cache_of(chosen) if name == "cache" else getattr(chosen, name)
        if place is None or str(place) == "-":
            continue
        try:
            _check_file(place) if name in FILES else _check_folder(place)
        except OSError as error:
            raise Failure(f"--{name}: cannot write to {place}: {error.strerror or error}") from None


def _check_file(place: Path) -> None:
    """Raises OSError where no file can be made or replaced."""
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if place.exists() and not place.is_file():  # a terminal or a pipe, written to as it comes
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    _check_folder(Path(os.path.realpath(place)).parent)


def _check_folder(place: Path) -> None:
    """Raises OSError where no file can be made in a folder, or in one that is to be made there."""
    there = Path(os.path.realpath(place))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    with tempfile.TemporaryFile(dir=there):
        pass
