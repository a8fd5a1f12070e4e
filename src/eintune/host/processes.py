"""Which process did something, told so that a later one can find out whether it still lives."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from pathlib import Path

SEPARATOR = "|"
"""Between the host, its boot, the process's number and the moment it started."""


def identity(pid: int | None = None) -> str:
    """A process (this one unless given): numbers are used again, the moment of the start tells which was meant."""
    number = os.getpid() if pid is None else pid
    return SEPARATOR.join((_host(), _boot(), str(number), _started(number) or ""))


def lives(who: str) -> bool | None:
    """Whether the process that `identity` named so still runs; None where that cannot be known: on another host, and
    in a text that is no identity."""
    host, _, rest = who.partition(SEPARATOR)
    boot, number, started = (*rest.split(SEPARATOR), "", "")[:3]
    if host != _host() or not (number.isascii() and number.isdigit()) or len(number) > 10:
        return None
    if boot != _boot():
        return False
    now = _started(int(number))
    if now is not None:
        return now == started
    return _is_there(int(number)) if not started else False


@functools.cache
def _host() -> str:
    """The host, and which of its spaces of process numbers."""
    space = ""
    with contextlib.suppress(OSError):
        space = f"-{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname().replace(SEPARATOR, "-") + space


@functools.cache
def _boot() -> str:
    """The kernel's name of this boot; "" where it has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def _started(number: int) -> str | None:
    """Clock ticks from the boot to the start of a process that runs; None where there is none, or no /proc."""
    try:
        fields = Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
