"""The best-kernel cache: one JSON file per key, the whole key stored beside its value.

A record is bounded data, never code: kernels are generated again from the cascade and the schedule and compared
by hash, and what a cascade may be is what follows from the definition (`kept_forms.is_form`). A file is written beside
its place, flushed to disk and renamed, so that a reader sees the old record or the new one. A file that cannot be used
is a miss, said once; a directory that cannot be read has no records.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from msgspec import Meta

from eintune.host.data import (
    BadData,
    Count,
    Digest,
    Finite,
    Lines,
    Name,
    Plain,
    Rank,
    Seconds,
    Size,
    Strict,
    check_format,
    converted,
    fault,
    from_json,
)
from eintune.host.directories import cache_directory
from eintune.host.files import names_in, read_whole, remove_leftovers, write_whole
from eintune.host.forks import cached_property
from eintune.host.notices import say_once
from eintune.space.cascade.problem import Problem
from eintune.space.ir.dtypes import SIXTEEN_BIT
from eintune.space.schedule.schedule import Schedule

if TYPE_CHECKING:
    from .platform import Platform

T = TypeVar("T")
FORMAT = 1
"""The file's layout; a file of another format is a miss."""
MAX_BYTES = 256 * 1024
MAX_FILES = 10_000
MAX_TOTAL = 64 * 2**20
"""Bytes of records that are read to look for a similar one: what is beyond is left alone, said once."""
SHIPPED = Path(__file__).parent / "shipped"
"""Read-only records of machines that were measured."""
DEFAULT_POLICY = "cold-median-1"
"""The id of the measurement policy whose records a program looks for (search/measure/measurer.py has the policies)."""
ROWS, STRIDED = "rows", "strided"
"""Layout classes: every input's last axis has stride 1, or not."""


class BadRecord(BadData):
    """Data that is not a usable record; the message says which rule it breaks."""


class CacheWriteError(OSError):
    """A record could not be stored; whatever was stored before is untouched."""


@dataclass(frozen=True)
class Key:
    """Everything that decides which kernel is best.

    cascade: sha256 of the definition's text. sizes, dtypes, params: sorted pairs, as in `Problem`.
    layout: ROWS or STRIDED. machine to driver: as in `Platform`. policy: how it was measured.
    """

    workload: str
    cascade: str
    sizes: tuple[tuple[str, int], ...]
    dtypes: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, float], ...]
    layout: str
    machine: str
    processors: int
    emitter: str
    torch: str
    triton: str
    driver: str
    policy: str

    @classmethod
    def of(cls, problem: Problem, platform: Platform, *, policy: str = DEFAULT_POLICY, layout: str = ROWS) -> Key:
        """The key under which a problem's winner on a platform is kept."""
        return cls(
            workload=problem.workload,
            cascade=sha256(problem.cascade.encode()).hexdigest(),
            sizes=tuple(sorted(problem.sizes.items())),
            dtypes=tuple(sorted(problem.dtypes.items())),
            params=tuple(sorted((name, float(value)) for name, value in problem.params.items())),
            layout=layout,
            policy=policy,
            **asdict(platform),
        )

    @cached_property
    def file_name(self) -> str:
        """Readable, then unique: the workload and a hash of every field."""
        label = "".join(c if c.isalnum() else "-" for c in self.workload)[:40]
        return f"{label}-{sha256(json.dumps(self.to_json()).encode()).hexdigest()[:32]}.json"

    @cached_property
    def widths(self) -> dict[str, str]:
        """How wide the elements of each tensor are."""
        return {n: _width(d) for n, d in self.dtypes}

    @cached_property
    def ranks(self) -> frozenset[str]:
        """The ranks that have a size."""
        return frozenset(r for r, _ in self.sizes)

    def to_json(self) -> dict[str, Any]:
        return {f.name: dict(v) if (v := getattr(self, f.name)).__class__ is tuple else v for f in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> Key:
        """Raises BadRecord for anything that is not a key."""
        return key_from(_converted(data, KeyFile))

    def differences(self, other: Key) -> list[str]:
        """One phrase a field that differs: `sizes.m 2048, stored 4096`."""
        mine, theirs = _flat(self.to_json()), _flat(other.to_json())
        names = dict.fromkeys([*mine, *theirs])
        return [
            f"{name} {mine.get(name, 'absent')}, stored {theirs.get(name, 'absent')}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


_PAIRS = ("sizes", "dtypes", "params")


@dataclass(frozen=True)
class Record:
    """The winner for one key.

    cascade: the derived cascade, as text. schedule: how it is laid out. digest: the generated kernel's
    (`Kernel.digest`). seconds, low, high: as in `Measurement`. estimate: the model's, as JSON data.
    statistics: what the search counted. peers: seconds of others in the same run. created: ISO 8601, UTC.
    """

    cascade: str
    schedule: Schedule
    digest: str
    seconds: float
    low: float
    high: float
    estimate: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, float] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def doubt(self) -> str:
        """Why the time may not hold, as the search says it; "" where it knows no reason."""
        return str(self.statistics.get("doubt", ""))

    def to_json(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"schedule": self.schedule.to_json()}

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Raises BadRecord for anything that is not a record within bounds."""
        return _recorded(_converted(data, _RecordFile))


# ---- the file


class KeyFile(Strict):
    """A key as a file holds it."""

    workload: Name
    cascade: Digest
    sizes: Annotated[dict[Rank, Size], Meta(max_length=64)]
    dtypes: Annotated[dict[Name, Name], Meta(max_length=256)]
    params: Annotated[dict[Name, Finite], Meta(max_length=256)]
    layout: Name
    machine: Name
    processors: Size
    emitter: Name
    torch: Name
    triton: Name
    driver: Name
    policy: Name


class _RecordFile(Strict):
    cascade: Lines
    schedule: Plain
    digest: Digest
    seconds: Seconds
    low: Seconds
    high: Seconds
    estimate: Plain
    statistics: Plain
    peers: Annotated[dict[Name, Seconds], Meta(max_length=256)]
    created: Name


class _File(Strict):
    format: Count
    key: KeyFile
    record: _RecordFile


def _converted(data: object, kind: type[T]) -> T:
    try:
        return converted(data, kind)
    except BadData as error:
        raise BadRecord(str(error)) from None


def key_from(file: KeyFile) -> Key:
    """The key that a file holds."""
    values: dict[str, Any] = {name: getattr(file, name) for name in file.__struct_fields__}
    values |= {name: tuple(sorted(values[name].items())) for name in _PAIRS}
    return Key(**values)


def _recorded(file: _RecordFile) -> Record:
    """Raises BadRecord for a schedule that no space holds, and for what is no moment."""
    values = {name: getattr(file, name) for name in file.__struct_fields__}
    try:
        datetime.fromisoformat(file.created)
        schedule = Schedule.from_json(file.schedule)
    except (ValueError, TypeError) as error:
        raise BadRecord(f"`created` or `schedule`: {fault(error)}") from None
    return Record(**{**values, "schedule": schedule})


@dataclass(frozen=True)
class Entry:
    """A record with its key and its file. `shipped` entries are read-only. any_size: what was measured was made for any
    sizes (one point of a portfolio), so there is no digest of a kernel for these."""

    key: Key
    record: Record
    path: Path
    shipped: bool
    any_size: bool = False


class Cache:
    """Records in a directory (the user's unless given), over the shipped ones."""

    def __init__(self, directory: Path | None = None, shipped: Path | None = SHIPPED) -> None:
        self.directory = cache_directory() if directory is None else directory
        self.shipped = shipped

    @property
    def records(self) -> Path:
        """The folder of the user's own records."""
        return self.directory / "records"

    def load(self, key: Key) -> Record | None:
        """The record stored for exactly this key, or None. A file that cannot be used is said once."""
        return next((entry.record for entry in self.stored(key)), None)

    def stored(self, key: Key) -> Iterator[Entry]:
        """The entries for exactly this key, the user's before the shipped one."""
        for folder in self._folders():
            entry = read_entry(folder / key.file_name, shipped=folder == self.shipped)
            if entry and entry.key == key:
                yield entry

    def store(self, key: Key, record: Record) -> Path:
        """Keep `record` under `key`, replacing what was there in one step.

        Raises CacheWriteError where the directory cannot be written (what was there stays), BadRecord for a
        record beyond the limits.
        """
        try:
            text = json.dumps({"format": FORMAT, "key": key.to_json(), "record": record.to_json()}, indent=1)
        except (TypeError, ValueError) as error:
            raise BadRecord(f"a record is JSON data: {error}") from None
        decode(text.encode())
        return write_kept(self.records / key.file_name, text.encode(), "record")

    def entries(self) -> list[Entry]:
        """All usable entries, the user's first, each key once."""
        return self._found(lambda index: index.entries)

    def _found(self, of: Callable[[_Index], Sequence[Entry]]) -> list[Entry]:
        """Entries of all folders' indices, the user's first, each key once."""
        found: dict[Key, Entry] = {}
        for folder in self._folders():
            for entry in of(_index(folder, shipped=folder == self.shipped)):
                found.setdefault(entry.key, entry)
        return list(found.values())

    def neighbours(self, key: Key) -> list[Entry]:
        """Entries for the same definition and element widths at any size, the nearest first."""
        same = self._found(lambda index: index.of_definition.get(key.cascade, ()))
        near = [(distance(key, e.key), e.path.name, e) for e in same]
        return [e for d, _, e in sorted(near, key=lambda item: item[:2]) if math.isfinite(d[0])]

    def explain_miss(self, key: Key) -> str:
        """Which fields keep the nearest entry from being a hit, in one line."""
        entries = self.entries()
        if not entries:
            return f"the cache {self.records} has no records"
        closest = min(entries, key=lambda e: (distance(key, e.key), len(key.differences(e.key))))
        differences = key.differences(closest.key)
        if not differences:
            return f"{closest.path.name} has this key"
        return f"nearest is {closest.path.name}, which differs in: {'; '.join(differences)}"

    def prune(self, platform: Platform) -> list[Path]:
        """Remove the user's files that cannot be read or belong to other versions on the platform's machine."""
        return [path for path in files_in(self.records, "records") if self._stale(path, platform) and _removed(path)]

    def clear(self) -> list[Path]:
        """Remove all the user's records, and what killed writers left of others."""
        remove_leftovers(self.records)
        return [path for path in files_in(self.records, "records") if _removed(path)]

    def _folders(self) -> Iterator[Path]:
        yield self.records
        if self.shipped is not None:
            yield self.shipped

    @staticmethod
    def _stale(path: Path, platform: Platform) -> bool:
        entry = read_entry(path)
        if entry is None:
            return True
        key = entry.key
        versions = (key.emitter, key.torch, key.triton, key.driver)
        current = (platform.emitter, platform.torch, platform.triton, platform.driver)
        return key.machine == platform.machine and versions != current


def same_definition(wanted: Key, stored: Key) -> bool:
    """Whether two keys are of one definition over elements as wide, at whatever sizes."""
    return wanted.cascade == stored.cascade and wanted.widths == stored.widths and wanted.ranks == stored.ranks


def distance(wanted: Key, stored: Key) -> tuple[float, ...]:
    """How far a stored key is from the wanted one, most important first; infinite where it cannot serve.

    Another definition or element width cannot serve. Then: another machine, how far the sizes are (the sum of
    |log2| of their ratios), other software, and the rest (scalars, layout, policy).
    """
    sizes, other = dict(wanted.sizes), dict(stored.sizes)
    if not same_definition(wanted, stored):
        return (math.inf,)
    apart = sum(abs(math.log2(max(n, 1) / max(other[r], 1))) for r, n in sizes.items())
    machine = (wanted.machine, wanted.processors) != (stored.machine, stored.processors)
    names = ("emitter", "triton", "torch", "driver")
    software = sum(getattr(wanted, n) != getattr(stored, n) for n in names)
    rest = sum(getattr(wanted, n) != getattr(stored, n) for n in ("dtypes", "params", "layout", "policy"))
    return (float(machine), apart, float(software), float(rest))


@dataclass(frozen=True)
class _Index:
    """The entries of a folder. stamp: what the folder was like when they were read, None if that is not sure."""

    stamp: tuple[int, int] | None
    entries: list[Entry]
    of_definition: dict[str, list[Entry]]


SETTLED_NS = 2 * 10**9
"""A folder that was written to more lately may be written to again without another time of its last change."""
_indices: dict[Path, _Index] = {}


def _index(folder: Path, shipped: bool) -> _Index:
    """The entries of a folder, read once and again when it has changed: a program asks at each size that is new."""
    stamp = folder_stamp(folder)
    known = _indices.get(folder)
    if known is not None and known.stamp is not None and known.stamp == stamp:
        return known
    entries = list(_read(folder, shipped))
    of_definition: dict[str, list[Entry]] = {}
    for e in entries:
        of_definition.setdefault(e.key.cascade, []).append(e)
    found = _indices[folder] = _Index(stamp, entries, of_definition)
    return found


def folder_stamp(folder: Path) -> tuple[int, int] | None:
    """What changes when a folder does; None where it was written to so lately that it may change without."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if time.time_ns() - status.st_mtime_ns > SETTLED_NS else None


def _read(folder: Path, shipped: bool) -> Iterator[Entry]:
    return (e for path in bounded(folder, "records") if (e := read_entry(path, shipped)))


def bounded(folder: Path, what: str) -> Iterator[Path]:
    """The first of a folder's files, MAX_TOTAL bytes of them."""
    left = MAX_TOTAL
    for path in files_in(folder, what):
        yield path
        left -= _length(path)
        if left < 0:
            say_once(f"of the cache {folder} only the first {MAX_TOTAL >> 20} MiB of {what} are looked at")
            return


def _width(dtype: str) -> str:
    return "16" if dtype in SIXTEEN_BIT else dtype


def read_entry(path: Path, shipped: bool = False) -> Entry | None:
    """The entry in a file, or None: where there is no file, and (said once) where it cannot be used."""
    found = read_kept(path, decode, MAX_BYTES)
    return None if found is None else Entry(*found, path, shipped)


def read_kept(path: Path, decoded: Callable[[bytes], T], most: int) -> T | None:
    """What a file of a cache holds; None where there is none, and (said once) where it cannot be used. most: bytes."""
    try:
        return decoded(read_whole(path, most))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, BadRecord, BadData) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        say_once(f"cache file {path} is not used: {reason}")
        return None


def write_kept(path: Path, raw: bytes, what: str) -> Path:
    """Write a file of a cache whole or not at all. Raises CacheWriteError, which says that what was there stays."""
    try:
        write_whole(path, raw)
    except OSError as error:
        told = f"cannot store the {what} in {path}: {error.strerror or error}; what was stored is untouched"
        raise CacheWriteError(error.errno, told) from error
    return path


def decode(raw: bytes) -> tuple[Key, Record]:
    """Read a file's bytes. Raises BadRecord for anything but one whole, valid record."""
    if len(raw) > MAX_BYTES:
        raise BadRecord(f"a record has at most {MAX_BYTES} bytes")
    try:
        check_format(raw, FORMAT)
        file = from_json(raw, _File)
    except BadData as error:
        raise BadRecord(f"{error}; the file may be truncated or edited") from None
    return key_from(file.key), _recorded(file.record)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def files_in(folder: Path, what: str) -> list[Path]:
    """A folder's files, none (said once for a cache that has several folders) where it cannot be read."""
    try:
        return [folder / name for name in names_in(folder, ".json", MAX_FILES)]
    except OSError as error:
        line = f"the cache {folder} cannot be read, so it has no {what}: {error.strerror or error}"
        say_once(line, about=("unreadable", folder.parent, error.errno))
        return []


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        say_once(f"cache file {path} cannot be removed: {error.strerror}")
        return False
    return True


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
