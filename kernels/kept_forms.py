"""The forms of a definition that nothing ships, for a program that asks: kept, or derived in a bounded time.

Kept in the cache directory under a hash of the definition and of the code that derives; a file is untrusted, so each
form is compared with the definition before it is used.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..costmodel.directories import cache_directory
from ..space.cascade import Cascade
from .derived import read_sections, sections
from .notices import one_line, say_once

SECONDS = 10.0
"""About how long a program waits for a derivation."""
MAX_BYTES = 4 * 2**20


def kept_name(text: str) -> str:
    """What the file of a definition's forms is called, without its ending."""
    return sha256((code_digest() + text).encode()).hexdigest()[:32]


@functools.cache
def code_digest() -> str:
    """A hash of all code that decides what is derived: the `space` package's sources."""
    folder = Path(__file__).resolve().parent.parent / "space"
    if not folder.is_dir():
        from .. import space

        folder = Path(str(space.__file__)).parent
    total = sha256()
    for path in sorted(folder.glob("*.py")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def forms_of(definition: str, params: Mapping[str, float]) -> tuple[str, ...]:
    """The forms of a definition (given as text), fewest passes first; empty where none can be had.

    Kept ones if they compute the definition; else derived, which is said once and takes seconds.
    """
    cascade = Cascade.parse(definition)
    folder = cache_directory() / "derived"
    name = kept_name(str(cascade))
    for read in (_from_search(folder / f"{name}.json"), _from_text(folder / f"{name}.edge")):
        good = tuple(text for text in read if _computes(text, cascade, params))
        if good:
            return good
    say_once("eintune: a definition without stored forms is derived, once, in a few seconds")
    try:
        written = derived_text(cascade)
    except Exception as error:
        say_once(f"eintune: it cannot be derived, so it is computed as it is defined: {one_line(error)}")
        return ()
    _keep(folder / f"{name}.edge", written)
    return tuple(read_sections(written)[1:])


def derived_text(cascade: Cascade) -> str:
    """Derive in a bounded time; the sections of a file of forms. Raises what `derive` raises."""
    from ..space.egraph import Limits

    return sections(cascade, Limits(seconds=SECONDS / 4, timeout=SECONDS, solving=SECONDS / 2))


def _from_search(path: Path) -> tuple[str, ...]:
    """What a search on this machine has kept."""
    try:
        data = json.loads(_bounded(path))
        return tuple(str(v["text"]) for v in data["variants"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def _from_text(path: Path) -> tuple[str, ...]:
    try:
        return tuple(read_sections(_bounded(path))[1:])
    except (OSError, ValueError):
        return ()


def _bounded(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{path}: must be at most {MAX_BYTES} bytes")
    return raw.decode("utf-8")


def _computes(text: str, definition: Cascade, params: Mapping[str, float]) -> bool:
    from .agreement import agrees

    try:
        return agrees(Cascade.parse(text), definition, params)
    except (ValueError, RecursionError):
        return False


def _keep(path: Path, text: str) -> None:
    """A directory that cannot be written costs only the time of deriving again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        return
