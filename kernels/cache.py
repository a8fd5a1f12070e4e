"""The best-kernel cache: one JSON file per key, the whole key stored beside its value.

A record is bounded data, never code: kernels are generated again from the cascade and the schedule and compared
by hash. A file is written beside its place, flushed to disk and renamed, so that a reader sees the old record
or the new one. A file that cannot be used is a miss, said once.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..costmodel.directories import cache_directory
from ..space.schedule import Problem, Schedule
from . import bounded
from .bounded import BadRecord
from .notices import say_once

if TYPE_CHECKING:
    from .platform import Platform

FORMAT = 1
"""The file's layout; a file of another format is a miss."""
MAX_BYTES = 256 * 1024
MAX_TEXT = 64 * 1024
MAX_FILES = 10_000
SHIPPED = Path(__file__).parent / "shipped"
"""Read-only records of machines that were measured."""
DEFAULT_POLICY = "cold-median-1"
"""The id of the measurement policy whose records a program looks for (search/measure.py has the policies)."""
ROWS, STRIDED = "rows", "strided"
"""Layout classes: every input's last axis has stride 1, or not."""


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

    @property
    def file_name(self) -> str:
        """Readable, then unique: the workload and a hash of every field."""
        label = "".join(c if c.isalnum() else "-" for c in self.workload)[:40]
        return f"{label}-{sha256(json.dumps(self.to_json()).encode()).hexdigest()[:32]}.json"

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        return data | {name: dict(getattr(self, name)) for name in _PAIRS}

    @classmethod
    def from_json(cls, data: object) -> Key:
        """Raises BadRecord for anything that is not a key."""
        table = bounded.table(data, "key")
        if set(table) != {f.name for f in fields(cls)}:
            raise BadRecord(f"a key has the fields {[f.name for f in fields(cls)]}, but got {sorted(table)}")
        values: dict[str, Any] = {name: bounded.text(table[name], name) for name in table if name not in _NOT_TEXT}
        values["processors"] = bounded.integer(table["processors"], "processors")
        values["sizes"] = bounded.pairs(table["sizes"], "sizes", bounded.integer)
        values["dtypes"] = bounded.pairs(table["dtypes"], "dtypes", bounded.text)
        values["params"] = bounded.pairs(table["params"], "params", bounded.number)
        return cls(**values)

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
_NOT_TEXT = (*_PAIRS, "processors")


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

    def to_json(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"schedule": self.schedule.to_json()}

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Raises BadRecord for anything that is not a record within bounds."""
        table = bounded.table(data, "record")
        if set(table) != {f.name for f in fields(cls)}:
            raise BadRecord(f"a record has the fields {[f.name for f in fields(cls)]}, but got {sorted(table)}")
        seconds, low, high = (bounded.positive(table[name], name) for name in ("seconds", "low", "high"))
        digest = bounded.text(table["digest"], "digest")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise BadRecord(f"`digest` must be 64 hexadecimal digits, but got {digest[:80]!r}")
        return cls(
            cascade=bounded.text(table["cascade"], "cascade", MAX_TEXT),
            schedule=_schedule(table["schedule"]),
            digest=digest,
            seconds=seconds,
            low=low,
            high=high,
            estimate=bounded.data(table["estimate"], "estimate"),
            statistics=bounded.data(table["statistics"], "statistics"),
            peers={n: bounded.positive(s, f"peers.{n}") for n, s in bounded.table(table["peers"], "peers").items()},
            created=bounded.moment(table["created"], "created"),
        )


@dataclass(frozen=True)
class Entry:
    """A record with its key and its file. `shipped` entries are read-only."""

    key: Key
    record: Record
    path: Path
    shipped: bool


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
        for folder in self._folders():
            path = folder / key.file_name
            if path.exists():
                entry = read_entry(path, shipped=folder == self.shipped)
                if entry and entry.key == key:
                    return entry.record
        return None

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
        path = self.records / key.file_name
        try:
            _write_whole(path, text.encode())
        except OSError as error:
            raise CacheWriteError(
                error.errno,
                f"cannot store the record in {path}: {error.strerror or error}; what was stored is untouched",
            ) from error
        return path

    def entries(self) -> list[Entry]:
        """All usable entries, the user's first, each key once."""
        found: dict[Key, Entry] = {}
        for folder in self._folders():
            for path in _files(folder):
                entry = read_entry(path, shipped=folder == self.shipped)
                if entry:
                    found.setdefault(entry.key, entry)
        return list(found.values())

    def neighbours(self, key: Key) -> list[Entry]:
        """Entries for the same definition and element widths at any size, the nearest first."""
        near = [(distance(key, e.key), e.path.name, e) for e in self.entries()]
        return [e for d, _, e in sorted(near, key=lambda item: item[:2]) if math.isfinite(d[0])]

    def nearest(self, key: Key) -> Entry | None:
        """The first of `neighbours`."""
        return next(iter(self.neighbours(key)), None)

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
        return [path for path in _files(self.records) if self._stale(path, platform) and _removed(path)]

    def clear(self) -> list[Path]:
        """Remove all the user's records."""
        return [path for path in _files(self.records) if _removed(path)]

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


def distance(wanted: Key, stored: Key) -> tuple[float, ...]:
    """How far a stored key is from the wanted one, most important first; infinite where it cannot serve.

    Another definition or element width cannot serve. Then: another machine, how far the sizes are (the sum of
    |log2| of their ratios), other software, and the rest (scalars, layout, policy).
    """
    sizes, other = dict(wanted.sizes), dict(stored.sizes)
    widths = [{n: _width(d) for n, d in k.dtypes} for k in (wanted, stored)]
    if wanted.cascade != stored.cascade or set(sizes) != set(other) or widths[0] != widths[1]:
        return (math.inf,)
    apart = sum(abs(math.log2(max(n, 1) / max(other[r], 1))) for r, n in sizes.items())
    machine = (wanted.machine, wanted.processors) != (stored.machine, stored.processors)
    names = ("emitter", "triton", "torch", "driver")
    software = sum(getattr(wanted, n) != getattr(stored, n) for n in names)
    rest = sum(getattr(wanted, n) != getattr(stored, n) for n in ("dtypes", "params", "layout", "policy"))
    return (float(machine), apart, float(software), float(rest))


def _width(dtype: str) -> str:
    return "16" if dtype in ("fp16", "bf16") else dtype


def read_entry(path: Path, shipped: bool = False) -> Entry | None:
    """The entry in a file, or None (said once) where the file is truncated, unreadable or of another format."""
    try:
        with path.open("rb") as file:
            key, record = decode(file.read(MAX_BYTES + 1))
    except (OSError, BadRecord) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        say_once(f"cache file {path} is not used: {reason}")
        return None
    return Entry(key, record, path, shipped)


def decode(raw: bytes) -> tuple[Key, Record]:
    """Read a file's bytes. Raises BadRecord for anything but one whole, valid record."""
    if len(raw) > MAX_BYTES:
        raise BadRecord(f"a record has at most {MAX_BYTES} bytes")
    try:
        data = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON ({error}); the file may be truncated") from None
    table = bounded.table(data, "file")
    if table.get("format") != FORMAT:
        raise BadRecord(f"format {FORMAT} is read here, but it has format {table.get('format')!r}")
    return Key.from_json(table.get("key")), Record.from_json(table.get("record"))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a record may hold")


def _write_whole(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))[:MAX_FILES] if folder.is_dir() else []


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        say_once(f"cache file {path} cannot be removed: {error.strerror}")
        return False
    return True


def _schedule(value: object) -> Schedule:
    try:
        return Schedule.from_json(bounded.table(value, "schedule"))
    except (ValueError, TypeError) as error:
        raise BadRecord(f"`schedule`: {error}") from None


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
