"""Things a program should hear once: each step down from the best kernel, each file that could not be read."""

from __future__ import annotations

import logging
from collections.abc import Hashable

from .printable import printable
from .recent import Recent

logger = logging.getLogger("eintune")
_said: Recent[Hashable, bool] = Recent(4096)


def say_once(message: str, level: int = logging.WARNING, *, about: Hashable = None) -> None:
    """Log `message` unless this process lately did. Logging never raises, unlike warnings turned errors.

    about: what the message is about, where that is less than all it says: another size of a problem, say, is no news.
    """
    key = message if about is None else about
    if _said.get(key) is None:
        _said[key] = True
        logger.log(level, printable(message))


def was_said(about: Hashable) -> bool:
    """Whether something was said about it lately, so that nobody needs to find the words."""
    return _said.get(about) is not None


def forget() -> None:
    """Say everything again (for tests, and for programs that rotate their logs)."""
    _said.clear()


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])
