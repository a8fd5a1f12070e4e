"""Files that a user names, of bounded size."""

from __future__ import annotations

from pathlib import Path

from .cli_options import Failure

MAX_FILE_BYTES = 16 * 2**20


def read_text(path: Path) -> str:
    """A file's text. Raises Failure for one that is too large or no text."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Failure(f"{path}: must be at most {MAX_FILE_BYTES} bytes")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Failure(f"{path}: must be UTF-8 text") from None
