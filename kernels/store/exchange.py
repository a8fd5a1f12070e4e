"""Caches that travel: records, portfolios and kept forms as one file, and out of one.

The file is a zip with a manifest: the path, size and digest of all that it holds. Unpacked it is a cache directory.
Nothing is ever unpacked by the names in it: each thing is read into memory within bounds, must be what the store itself
would read (a record, a portfolio, forms that this user's own programs signed), and is written under the name that
follows from its key. What does not pass is one line, and harms nothing else.

Compiled kernels stay: they are native code, and a name that only the key knows protects them no longer once it has been
handed around. `warm` makes them again. Journals and probed machines say something of one machine only.
"""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from eintune.host.data import BadData, Count, Digest, Name, Strict, check_format, from_json
from eintune.host.files import names_in, read_whole
from eintune.host.printable import printable

from . import cache as records
from . import kept_forms, portfolio
from .cache import Cache, Key, Record
from .files import MAX_FILES, CacheWriteError, write_kept
from .portfolio import Portfolio

FORMAT = 1
MANIFEST = "manifest.json"
MAX_BYTES = 64 * 2**20
"""Of a file, and of all that it holds."""
MAX_HELD = 2 * MAX_FILES
"""Things in a file."""
MAX_MANIFEST = 8 * 2**20
MOMENT = (1980, 1, 1, 0, 0, 0)
"""The time that all things in a file have: the same things make the same file."""

Kind: TypeAlias = Literal["records", "portfolios", "derived"]
KINDS: tuple[Kind, ...] = ("records", "portfolios", "derived")
"""What travels, by its folder in a cache directory."""
MOST: dict[Kind, int] = {
    "records": records.MAX_BYTES,
    "portfolios": portfolio.MAX_BYTES,
    "derived": kept_forms.MAX_BYTES,
}
"""Bytes of one thing."""


class BadArchive(ValueError):
    """A file that is no exported cache, or one that goes beyond what is read; one line that names it and the fault."""


@dataclass(frozen=True)
class Held:
    """One thing that travels: the file that a cache directory would have it in, the digest of its definition, and what
    it is (None: kept forms)."""

    kind: Kind
    name: str
    raw: bytes = field(repr=False)
    definition: str
    key: Key | None = None
    content: Record | Portfolio | None = None

    @property
    def path(self) -> str:
        """Below a cache directory."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Contents:
    """What a file or a directory holds. refused: a line for each thing in it that is not used, and why."""

    held: tuple[Held, ...]
    refused: tuple[str, ...]


class _Listed(Strict):
    path: Name
    bytes: Count
    sha256: Digest


class _Manifest(Strict):
    format: Count
    eintune: Name
    entries: Annotated[list[_Listed], Meta(max_length=MAX_HELD)]


# ---- out


def packed(held: Iterable[Held]) -> bytes:
    """The file that holds these, each path once. Raises BadArchive beyond its bounds."""
    from eintune import __version__

    found = sorted({h.path: h for h in held}.values(), key=lambda h: h.path)
    if len(found) > MAX_HELD or sum(len(h.raw) for h in found) > MAX_BYTES:
        raise BadArchive(f"an exported cache has at most {MAX_HELD:,} things in {MAX_BYTES >> 20} MiB")
    listed = [{"path": h.path, "bytes": len(h.raw), "sha256": sha256(h.raw).hexdigest()} for h in found]
    manifest = json.dumps({"format": FORMAT, "eintune": __version__, "entries": listed}, indent=1).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, raw in ((MANIFEST, manifest), *((h.path, h.raw) for h in found)):
            info = zipfile.ZipInfo(name, MOMENT)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, raw)
    return out.getvalue()


# ---- in


def contents(source: Path) -> Contents:
    """What travels of an exported file or of a cache directory, each thing checked as the store checks it.

    Raises BadArchive for a file that is none, OSError where nothing can be read.
    """
    return _checked(_in_directory(source) if source.is_dir() else _in_file(source))


_Found: TypeAlias = tuple[str, bytes | str]
"""A path, and what is there, or why nothing is."""


def _checked(found: Iterable[_Found]) -> Contents:
    held: dict[str, Held] = {}
    refused: list[str] = []
    for path, raw in found:
        try:
            if isinstance(raw, str):
                raise BadData(raw)
            one = _held(path, raw)
            if one.path in held:
                raise BadData(f"{one.path} is there already")
            held[one.path] = one
        except (BadData, OSError) as error:
            refused.append(f"{printable(path[:200])}: {(isinstance(error, OSError) and error.strerror) or error}")
    return Contents(tuple(held.values()), tuple(refused))


def _held(path: str, raw: bytes) -> Held:
    """Raises BadData for what no cache has, OSError without a key to check signatures with."""
    kind = _kind(path)
    if len(raw) > MOST[kind]:
        raise BadData(f"must be at most {MOST[kind]} bytes")
    match kind:
        case "records":
            key, record = records.decode(raw)
            return Held(kind, key.file_name, raw, key.cascade, key, record)
        case "portfolios":
            found = portfolio.decode(raw)
            return Held(kind, found.key.file_name, raw, found.key.cascade, found.key, found)
        case "derived":
            definition = kept_forms.own_definition(raw)
            name = kept_forms.kept_path(Path(), definition).name
            return Held(kind, name, raw, sha256(definition.encode()).hexdigest())


def _kind(path: str) -> Kind:
    """The kind of thing that lies there. Raises BadData for any path but a folder's of a cache directory."""
    parts = PurePosixPath(path).parts
    kind = next((k for k in KINDS if parts[:1] == (k,)), None)
    if kind is None or len(parts) != 2 or not path.endswith(".json") or path != "/".join(parts):
        raise BadData(f"must be a .json file in one of {', '.join(KINDS)}")
    return kind


def _in_directory(folder: Path) -> Iterator[_Found]:
    left = MAX_BYTES
    for kind in KINDS:
        for name in names_in(folder / kind, ".json", MAX_FILES):
            try:
                raw: bytes | str = read_whole(folder / kind / name, min(MOST[kind], left))
                left -= len(raw)
            except OSError as error:
                raw = error.strerror or str(error)
            yield f"{kind}/{name}", raw


_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError),
    *(OSError, ValueError, OverflowError, IndexError, KeyError),
)
"""What Python's reader of zips raises for files that are none, or that use what is not read here."""


def _in_file(path: Path) -> Iterator[_Found]:
    data = read_whole(path, MAX_BYTES)
    _check_directory(path, data)
    try:
        file = zipfile.ZipFile(io.BytesIO(data))
        infos = file.infolist()
    except _BROKEN as error:
        raise BadArchive(f"{path}: is no exported cache: {printable(str(error)[:200])}") from None
    members = {i.filename: i for i in infos if not i.is_dir()}
    listed = _manifest(path, file, members.pop(MANIFEST, None))
    left = MAX_BYTES
    for name, entry in listed.items():
        info = members.pop(name, None)
        raw = "is in the manifest, but not in the file" if info is None else _member(file, info, entry, left)
        left -= len(raw) if isinstance(raw, bytes) else 0
        yield name, raw
    for name in members:
        yield name, "is not in the manifest"


END = struct.Struct("<4s4H2LH")
"""How a zip ends: signature, two numbers of disks, two of entries, size and place of the directory, and a comment's."""
MOST_NAMED = 46 + 512
"""Bytes of a directory for one thing in it, at most."""


def _check_directory(path: Path, data: bytes) -> None:
    """Raises BadArchive unless a zip ends as an exported one does: its directory is read into memory whole, and a file
    may state any size."""
    end = data[-END.size :]
    whole = len(end) == END.size and end[:4] == b"PK\5\6" and data[-42:-38] != b"PK\6\7"
    if not whole:
        raise BadArchive(f"{path}: is no exported cache, or was cut off: it does not end as a zip does")
    *_, entries, size, _, comment = END.unpack(end)
    if comment or entries > MAX_HELD + 1 or size > (entries + 1) * MOST_NAMED:
        raise BadArchive(f"{path}: is no exported cache: its directory is larger than that of {MAX_HELD:,} things")


def _manifest(path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> dict[str, _Listed]:
    if info is None:
        raise BadArchive(f"{path}: is no exported cache: it has no {MANIFEST}")
    raw = _read(file, info, MAX_MANIFEST)
    try:
        if isinstance(raw, str):
            raise BadData(raw)
        check_format(raw, FORMAT)
        return {e.path: e for e in from_json(raw, _Manifest).entries}
    except BadData as error:
        raise BadArchive(f"{path}: is no exported cache: {MANIFEST}: {error}") from None


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo, entry: _Listed, left: int) -> bytes | str:
    raw = _read(file, info, min(entry.bytes, left))
    if isinstance(raw, str):
        return raw
    if len(raw) != entry.bytes or sha256(raw).hexdigest() != entry.sha256:
        return "has another digest than the manifest says: it was changed or cut off"
    return raw


def _read(file: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes | str:
    """What a member of a zip holds, or why it is not read."""
    mode = info.external_attr >> 16
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return "must be a regular file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "must be stored or deflated"
    try:
        with file.open(info) as opened:
            raw = opened.read(most + 1)
    except _BROKEN as error:
        return f"cannot be read: {printable(str(error)[:200])}"
    return raw if len(raw) <= most else f"must be at most {most} bytes"


# ---- into a cache


@dataclass(frozen=True)
class Taken:
    """What an import did: written, left as it was because the cache has its own, and what could not be written."""

    written: tuple[Held, ...]
    kept: tuple[Held, ...]
    refused: tuple[str, ...]


def take_in(cache: Cache, held: Sequence[Held], *, instead: bool = False) -> Taken:
    """Write into a cache what it lacks. What is the cache's own stays (with `instead`: goes); portfolios of one key are
    united, the cache's own times where both have some. Each thing is written whole or not at all."""
    written, kept, refused = [], [], []
    for h in held:
        place = cache.directory / h.path
        own = _own(place, h)
        try:
            merged = h if own is None else _united(*((own, h) if instead else (h, own)))
            if own is not None and merged.raw == own.raw:
                kept.append(h)
                continue
            write_kept(place, merged.raw, h.kind)
            written.append(merged)
        except CacheWriteError as error:
            refused.append(str(error.strerror))
        except BadData as error:
            refused.append(f"{h.path}: {error}")
    return Taken(tuple(written), tuple(kept), tuple(refused))


def _own(place: Path, like: Held) -> Held | None:
    """What the cache has under that name, if it can be used."""
    try:
        return _held(like.path, read_whole(place, MOST[like.kind]))
    except (BadData, OSError):
        return None


def _united(first: Held, last: Held) -> Held:
    """Of two things under one key: the last one; a portfolio with the points that only the first has, too. Raises
    BadData beyond a portfolio's bounds."""
    if not (isinstance(first.content, Portfolio) and isinstance(last.content, Portfolio)):
        return last
    there = {p.sizes for p in last.content.points}
    more = [p for p in first.content.points if p.sizes not in there]
    if not more:
        return last
    raw = last.content.with_points(first.content.kernels, more).to_text().encode()
    return replace(last, raw=raw, content=portfolio.decode(raw))


def merged(sources: Sequence[Contents]) -> Contents:
    """What several hold, each key once: the record that was made last, portfolios with the points of all (the last
    source's times where several have some)."""
    found: dict[str, Held] = {}
    refused = [line for s in sources for line in s.refused]
    for h in (h for s in sources for h in s.held):
        before = found.get(h.path)
        try:
            found[h.path] = h if before is None else _united(*sorted((before, h), key=_created))
        except BadData as error:
            refused.append(f"{h.path}: {error}")
    return Contents(tuple(found.values()), tuple(refused))


def _created(h: Held) -> float:
    return datetime.fromisoformat(h.content.created).timestamp() if isinstance(h.content, Record) else 0.0
