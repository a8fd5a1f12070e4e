"""Where Eintune keeps what it learns about this machine."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT_VARIABLE = "EINTUNE_CACHE"
NAMED_VARIABLE = "EINTUNE_SHIPPED"


def cache_directory() -> Path:
    """The directory of records and probed machines: `$EINTUNE_CACHE`, else the user's cache directory.

    It may not exist yet; whoever writes makes it. An empty variable counts as unset.
    """
    chosen = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if chosen:
        return Path(os.path.expanduser(chosen))  # of a user that there is not, the name as it stands, as in a shell
    from platformdirs import user_cache_path

    found = user_cache_path("eintune", appauthor=False)
    # by their specification, XDG's variables are ignored where they are not absolute
    return found if found.is_absolute() else Path(os.path.expanduser("~/.cache/eintune"))


def named_directories() -> tuple[Path, ...]:
    """The cache directories that `$EINTUNE_SHIPPED` names, several with `os.pathsep` between them, the first one first:
    what comes with a model, say. They are read and never written to; nor need they be there."""
    parts = os.environ.get(NAMED_VARIABLE, "").split(os.pathsep)
    return tuple(dict.fromkeys(Path(os.path.expanduser(part)) for part in parts if part))
