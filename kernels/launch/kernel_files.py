"""Triton's files of a compiled kernel, as they are kept in a cache directory: found by name, and whole.

Triton lists the files of a kernel by their paths when it was compiled. A directory that was copied or moved would be of
no use then, or have what lies at the old paths loaded, whoever put it there. And a file that was cut off is an error of
every later process. So files are looked for beside their list, which has a digest of each; what is not as it was is
compiled again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from triton.runtime.cache import FileCacheManager

from eintune.host.data import BadData, Strict, from_json
from eintune.host.files import read_whole

MAX_LIST = 2**16
MAX_FILE = 2**28
"""Bytes of a list of files, and of one of them; the largest seen has 2 MiB."""


class _List(Strict):
    digests: Annotated[dict[str, str], Meta(max_length=64)]


class KernelFiles(FileCacheManager):  # type: ignore[misc]
    """Where Triton keeps and looks for the files of one kernel; `TRITON_CACHE_MANAGER` names it to other processes."""

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The files by name; None where any is missing or not as it was."""
        try:
            digests = from_json(read_whole(self._place(_list_of(filename)), MAX_LIST), _List).digests
            whole = all(sha256(read_whole(self._place(n), MAX_FILE)).hexdigest() == d for n, d in digests.items())
        except (OSError, BadData):
            return None
        return {name: str(self._place(name)) for name in digests} if whole else None

    def put_group(self, filename: str, group: Mapping[str, str]) -> str:
        """Write the list of files that are there."""
        digests = {name: sha256(read_whole(Path(path), MAX_FILE)).hexdigest() for name, path in group.items()}
        return str(self.put(json.dumps({"digests": digests}), _list_of(filename), binary=False))

    def _place(self, name: str) -> Path:
        return Path(self.cache_dir) / Path(name).name  # beside the list, whatever it says


def _list_of(filename: str) -> str:
    return f"__grp__{filename}"
