"""Standard input, output and error as a process finds them: closed, full, without a reader, without Unicode.

A command does what it was asked all the same; only what it prints is lost or spelt in ASCII.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from eintune.host.printable import printable

SPELT = {
    **{"…": "...", "·": "*", "×": "x", "∪": "|", "∩": "&", "∨": "\\/", "∧": "/\\", "⋄": "*", "→": "->", "←": "<-"},
    **{"≥": ">=", "≤": "<=", "≠": "!=", "∞": "inf", "−": "-", "─": "-", "⌈": "ceil(", "⌉": ")"},
}
"""What stands for a character that an encoding lacks; others are written as Python would."""
HANDLER = "eintune-spelt"


def ready() -> None:
    """Make the three streams usable: a closed one reads and swallows nothing, no character is an error, and none moves
    a cursor or turns what follows, whosever name or text it comes from."""
    codecs.register_error(HANDLER, _spelt)
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # the next file that is opened would get this number, and what a child prints would end up in it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    out, err = (s.stream if isinstance(s, Shown) else s for s in (sys.stdout, sys.stderr))
    found = (_heedless(out), _heedless(err, at_once=True))
    for stream in found:
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=HANDLER)
    sys.stdout, sys.stderr = (cast(TextIO, Shown(stream)) for stream in found)


_before_words: Callable[[], None] | None = None


def before_words(call: Callable[[], None] | None) -> None:
    """What is called before anything is printed: what is drawn on the terminal, beside the streams, has to go first."""
    global _before_words
    _before_words = call


def underlying(stream: TextIO) -> TextIO:
    """The stream that a `Shown` writes to: for what may move a cursor, and takes no text of others as it is."""
    return stream.stream if isinstance(stream, Shown) else stream


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody reads along who can see a line change (not a pipe, a file, a dumb terminal)."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except ValueError:  # closed
        return False


class Shown:
    """A stream on which every character that is not printed as itself is spelled out (`printable`), lines aside."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """As that of any stream: how many characters were taken."""
        if _before_words is not None:
            _before_words()
        self.stream.write(printable(text, keep="\n\t"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each; they bring their own ends of line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Pipe(io.RawIOBase):
    """The writing end of a pipe that does not mind when its reader goes: what is written then goes nowhere."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """How many bytes were taken, as of any raw stream."""
        try:
            return os.write(self._descriptor, data)
        except BrokenPipeError:
            _to_nowhere(self._descriptor)
            return len(data)


def _heedless(stream: TextIO, at_once: bool = False) -> TextIO:
    """The stream, or where it is a pipe or a socket one like it that is no error without a reader (`| head`)."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # the buffer itself where nothing is buffered
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.FileIO):
        return stream
    with contextlib.suppress(OSError):
        mode = os.fstat(raw.fileno()).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            stream.flush()
            at_once = at_once or raw is buffer
            return io.TextIOWrapper(io.BufferedWriter(Pipe(raw.fileno())), stream.encoding, line_buffering=at_once)
    return stream


def say(text: str, stream: TextIO | None) -> bool:
    """Print a line; False where nobody takes it any more (a pipe without a reader, a full disk)."""
    if stream is None:
        return False
    try:
        print(text, file=stream, flush=True)
    except OSError:
        abandon(stream)
        return False
    return True


def settle() -> OSError | None:
    """Write what is still buffered; what cannot be written is dropped. Gives what happened to standard output."""
    lost: OSError | None = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            abandon(stream)
            lost = error if stream is sys.stdout else lost
    return lost


def abandon(stream: TextIO) -> None:
    """From now on the stream goes nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):
        _to_nowhere(stream.fileno())


def _to_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(SPELT.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in wrong), error.end
