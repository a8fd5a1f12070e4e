"""What this user's programs wrote, told from what came from elsewhere: signed with a key of the user's own."""

from __future__ import annotations

import contextlib
import errno
import functools
import hmac
import os
import secrets
import stat
from hashlib import sha256
from pathlib import Path

from .files import UnfitFile, read_whole

ENVIRONMENT_VARIABLE = "EINTUNE_KEY"
BYTES = 32
MAX_BYTES = 4096


def key_path() -> Path:
    """The file of the key: `$EINTUNE_KEY`, else `key` in the folder of the user's state. An empty variable is unset."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if chosen:
        return Path(os.path.expanduser(chosen))
    from platformdirs import user_state_path

    return user_state_path("eintune", appauthor=False) / "key"


def signature(message: bytes) -> str:
    """This user's signature of a message. Raises OSError where there is no key and none can be made."""
    return hmac.new(_key(key_path()), message, sha256).hexdigest()


def is_signed(message: bytes, given: str) -> bool:
    """Whether this user has signed the message. Raises OSError as `signature` does."""
    return hmac.compare_digest(signature(message).encode(), given.encode("utf-8", "replace"))


def signer() -> str:
    """A name for the key that does not give it away: files of two users beside each other differ by it."""
    return signature(b"eintune: the name of this key")[:16]


@functools.lru_cache(maxsize=8)
def _key(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    _make(path)
    return _read(path)


def _read(path: Path) -> bytes:
    key = read_whole(path, MAX_BYTES)
    if len(key) < BYTES:
        raise UnfitFile(errno.EINVAL, f"a key must have {BYTES} bytes at least, but has {len(key)}", str(path))
    mode = path.stat().st_mode
    open_to = stat.S_IWGRP | stat.S_IWOTH | (0 if os.environ.get(ENVIRONMENT_VARIABLE) else stat.S_IRGRP | stat.S_IROTH)
    if os.name == "posix" and mode & open_to:
        raise UnfitFile(
            errno.EPERM, f"a key must be its user's alone (mode 600), but has mode {stat.S_IMODE(mode):o}", str(path)
        )
    return key


def _make(path: Path) -> None:
    """A new key, whole from the first moment; of several processes one makes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
