"""Lock files in the user's own runtime folder, where nobody else can put anything in their place."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import warnings
from hashlib import sha256
from pathlib import Path


def lock_name(kind: str, of: Path | str) -> str:
    """A lock file's name for what it guards: a kind, and a hash of a path or of a device's name."""
    place = os.path.realpath(of) if isinstance(of, Path) else of
    return f"{kind}-{sha256(os.fsencode(place)).hexdigest()[:32]}.lock"


def open_lock(name: str) -> int | None:
    """A descriptor of this user's lock file of that name, made if missing, for `fcntl.flock`; None where this user has
    no folder that is theirs alone.

    Neither follows a link nor waits for a FIFO: the folder is opened, found to be this user's and closed to others, and
    only what lies in it is opened.
    """
    for folder in _folders():
        handle = _own(folder)
        if handle is None:
            continue
        try:
            return _regular(name, handle)
        except OSError:
            continue
        finally:
            os.close(handle)
    return None


def lock_path(name: str) -> Path | None:
    """The place of a lock file in this user's folder, for who opens it by itself; None where `open_lock` has none."""
    for folder in _folders():
        handle = _own(folder)
        if handle is not None:
            os.close(handle)
            return folder / name
    return None


def _folders() -> list[Path]:
    from platformdirs import user_runtime_path

    user = os.getuid() if hasattr(os, "getuid") else "user"
    found = [Path(tempfile.gettempdir()) / f"eintune-{user}"]
    with contextlib.suppress(OSError, RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is none but a temporary one
        found.insert(0, user_runtime_path("eintune", appauthor=False))
    return found


def _own(folder: Path) -> int | None:
    """A descriptor of the folder (made if missing) if it is this user's, and nobody else's to write."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    found = os.fstat(handle)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return handle
    os.close(handle)
    return None


def _regular(name: str, folder: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(name, flags, 0o600, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{name} is not a regular file")
    return handle
