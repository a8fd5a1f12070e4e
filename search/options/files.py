"""Files that a user names, of bounded size."""

from __future__ import annotations

from pathlib import Path

from eintune.host.files import UnfitFile, read_utf8

from .command import Failure

MAX_FILE_BYTES = 16 * 2**20


def read_text(path: Path) -> str:
    """A file's text. Raises Failure for one that is no regular file, too large or no text."""
    try:
        return read_utf8(path, MAX_FILE_BYTES)
    except UnfitFile as error:
        raise Failure(f"{path}: {error.strerror}") from None
