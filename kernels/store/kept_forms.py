"""The derived forms of a definition that nothing ships: kept from an earlier derivation, or derived in a bounded time.

What may be computed in a definition's stead is what follows from it, so a list of forms is used only if this user's own
programs wrote it: it lies in the cache directory, under a hash of the definition and of the code that derives, and is
signed. A list from elsewhere is as good as none, and the forms are derived again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from eintune.host import signing
from eintune.host.data import BadData, Lines, Strict, from_json
from eintune.host.directories import named_directories
from eintune.host.files import read_whole, write_whole
from eintune.host.notices import one_line, say_once
from eintune.host.parts import MissingPart, require
from eintune.host.recent import Recent
from eintune.space.cascade.cascade import Cascade

from .cache import Entry
from .shipped_forms import derived_texts

SECONDS = 10.0
"""About how long a program waits for a derivation."""
MAX_BYTES = 4 * 2**20
FORMAT = 3
FOLDER = "derived"
"""Where in the cache directory the lists lie."""


@dataclass(frozen=True)
class Kept:
    """Forms as text, fewest passes first. complete: False if a limit of time cut their derivation short."""

    forms: tuple[str, ...]
    complete: bool


class _File(Strict):
    format: int
    definition: Lines
    complete: bool
    forms: Annotated[list[Lines], Meta(max_length=256)]
    signature: Annotated[str, Meta(max_length=128)]

    @property
    def message(self) -> bytes:
        """What is signed: all of it, and the code that derived it."""
        return json.dumps([self.format, code_digest(), self.definition, self.complete, self.forms]).encode()


def kept_path(folder: Path, definition: str) -> Path:
    """The file of a definition's forms; this user's own, where several share a folder. Raises OSError without a key."""
    name = sha256("\n".join((code_digest(), signing.signer(), definition)).encode()).hexdigest()
    return folder / f"{name[:32]}.json"


DERIVING = ("ir", "notation", "laws", "egraph", "cascade", "derivation")
"""The subpackages of `space` that decide what is derived."""


@functools.cache
def code_digest() -> str:
    """A hash of all code that decides what is derived."""
    folder = Path(__file__).resolve().parents[2] / "space"
    if not folder.is_dir():
        from eintune import space

        folder = Path(str(space.__file__)).parent
    total = sha256()
    for path in sorted(path for name in DERIVING for path in (folder / name).rglob("*.py")):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def read_kept(folder: Path, definition: str) -> Kept | None:
    """The forms kept for a definition (its text), or None; what is not this user's is said once."""
    try:
        path = kept_path(folder, definition)
        file = from_json(read_whole(path, MAX_BYTES), _File)
        fits = file.format == FORMAT and file.definition == definition
        # Forms are run in a definition's stead. A file that another program put in the folder could make them compute
        # anything, so only what this user's own programs signed is read.
        if not (fits and signing.is_signed(file.message, file.signature)):
            raise BadData("it was not written by this user's programs")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        say_once(f"eintune: forms that were kept are not used: {error.filename}: {error.strerror}")
        return None
    except BadData as error:
        say_once(f"eintune: forms that were kept are not used: {path}: {error}")
        return None
    return Kept(tuple(file.forms), file.complete)


def own_definition(raw: bytes) -> str:
    """The definition, as text, whose kept forms these bytes are. Raises BadData for what is no such file and for forms
    that this user's programs, with the code that derives now, did not sign; OSError without a key."""
    file = from_json(raw, _File)
    if file.format != FORMAT or not signing.is_signed(file.message, file.signature):
        raise BadData("was not signed with this user's key by this version: it is derived again where it is needed")
    return file.definition


def keep(folder: Path, definition: str, kept: Kept) -> None:
    """Keep forms; a directory that cannot be written costs only the time of deriving again."""
    plain = _File(FORMAT, definition, kept.complete, list(kept.forms), "")
    try:
        data = {name: getattr(plain, name) for name in plain.__struct_fields__}
        data["signature"] = signing.signature(plain.message)
        write_whole(kept_path(folder, definition), json.dumps(data, indent=1).encode())
    except OSError:
        return


# ---- for programs

_derived: dict[str, tuple[str, ...]] = {}
"""What this process derived, by definition."""
MOST_DERIVED = 256


def forms_of(definition: str, directory: Path) -> tuple[str, ...]:
    """The forms of a definition (given as text), fewest passes first; empty where none can be had.

    Those that ship, else those kept in the cache directory, else derived, which is said once and takes seconds.
    """
    for forms in _known(definition, directory / FOLDER):
        return forms
    cascade = Cascade.parse(definition)
    try:
        require("deriving", "egglog", "highspy", "pulp")
        say_once("eintune: a definition without stored forms is derived, once, in a few seconds")
        found = derived_forms(cascade)
    except MissingPart as error:
        say_once(f"eintune: what is not tuned or stored is computed as it is defined: {error}")
        found = Kept((), False)
    except Exception as error:
        say_once(f"eintune: it cannot be derived, so it is computed as it is defined: {one_line(error)}")
        found = Kept((), False)
    while len(_derived) >= MOST_DERIVED:
        del _derived[next(iter(_derived))]
    _derived[definition] = found.forms
    if found.forms:
        keep(directory / FOLDER, str(cascade), found)
    return found.forms


def is_form(text: str, definition: str, directory: Path) -> bool:
    """Whether a cascade (as text) is among the forms that follow from a definition, letter by letter; for a definition
    that cannot be derived, whether it is the definition."""
    asked = text, definition, directory
    if not _follow.get(asked):
        known = list(_known(definition, directory / FOLDER)) or [forms_of(definition, directory)]
        _follow[asked] = any(text in (forms or (definition,)) for forms in known)
    return bool(_follow.get(asked))


_follow: Recent[tuple[str, str, Path], bool] = Recent(1024)
"""What was found to follow from what, with the cache that was looked into: what follows once follows for ever."""


def follows(entry: Entry, definition: str, directory: Path) -> bool:
    """Whether a record's cascade is one that follows from the definition, as a shipped one's does; said once if not."""
    good = entry.shipped or is_form(entry.record.cascade, definition, directory)
    if not good:
        say_once(
            f"eintune: the record {entry.path.name} is not used: its cascade is none that follows from the definition"
        )
    return good


def _known(definition: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Lists of forms that are there already."""
    if shipped := derived_texts(definition):
        yield shipped
    text = str(Cascade.parse(definition))
    for place in (folder, *(named / FOLDER for named in named_directories())):
        kept = read_kept(place, text)
        if kept is not None and kept.forms:
            yield kept.forms
    if definition in _derived:
        yield _derived[definition]


def derived_forms(cascade: Cascade) -> Kept:
    """Derive in a bounded time. Raises what `derive` raises."""
    from eintune.space.derivation.derive import derive
    from eintune.space.egraph.graph import Limits

    found = derive(cascade, limits=Limits(seconds=SECONDS / 4, timeout=SECONDS, solving=SECONDS / 2))
    if found.failed:
        say_once(f"eintune: forms that fail their check against the definition are left out: {found.failed}")
    return Kept(tuple(str(d.cascade) for d in found.cascades), found.complete)
