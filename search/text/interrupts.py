"""Ctrl-C, from the first moment on: one line and 130, also where an import or a library swallows the exception.

Imports nothing that takes time: it is what stands between the start of the process and everything else.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

CODE = 130
"""The exit code of a program that Ctrl-C ended: 128 and the signal's number."""
_seen = False


def watch() -> None:
    """From now on remember that there was a Ctrl-C. What cannot be raised where it arrived (in a destructor, in a
    callback of the interpreter's) is raised a moment later instead of being printed."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: whoever did wants it so
        return
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable


def was_interrupted() -> bool:
    """Whether there was a Ctrl-C. Extension modules that one arrives in end with errors of their own."""
    return _seen


def is_over() -> None:
    """The process ends: another Ctrl-C would only break what tidies up."""
    if _seen:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt


def _again() -> None:
    time.sleep(0.01)  # what is raised at once is raised in the hook, and lost too
    os.kill(os.getpid(), signal.SIGINT)


def _unraisable(lost: Any) -> None:
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _thread.start_new_thread(_again, ())
    else:
        sys.__unraisablehook__(lost)
