"""The best-kernel cache: what is stored is read back whole, or not at all."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eintune.host import notices
from eintune.host.directories import cache_directory
from eintune.kernels.store.cache import (
    FORMAT,
    MAX_BYTES,
    Cache,
    Key,
    Record,
    decode,
    distance,
)
from eintune.kernels.store.files import BadRecord, CacheWriteError
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import Platform, platform_of
from eintune.space.cascade.problem import Problem
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

HERE = Platform("Test GPU", 132, "1", "2.13.0", "3.6.0", "cuda13.0")
SCHEDULE = Schedule("torch", (("p", Role("grid", 64)), ("m", Role("loop", 32)), ("n", Role(None, 16))))


def problem(**sizes: int) -> Problem:
    return Problem(
        "product of two",
        "Zm,n = Ak,m · Bk,n",
        {"m": 64, "n": 16, "p": 8} | sizes,
        {"A": "bf16", "Z": "bf16"},
        {"s": 0.1},
    )


def key(**sizes: int) -> Key:
    return Key.of(problem(**sizes), HERE)


def record(seconds: float = 1e-3) -> Record:
    return Record(
        cascade="Zm,n = Ak,m · Bk,n",
        schedule=SCHEDULE,
        digest="0123456789abcdef" * 4,
        seconds=seconds,
        low=seconds * 0.9,
        high=seconds * 1.1,
        estimate={"seconds": 2e-3, "unit_seconds": [["tensor", 1e-3]], "limiter": "tensor"},
        statistics={"measured": 12, "left_out": {"illegal": 3}, "note": None},
        peers={
            "sdpa": PeerTime(2e-3, 1.9e-3, 2.1e-3, "torch 9", 1e-4, 2e-4, 3e-4, "Z: not contiguous"),
            "old": PeerTime(2e-3),
        },
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, shipped=None)


@pytest.fixture(autouse=True)
def say_everything() -> None:
    notices.forget()


def test_a_record_comes_back_as_it_was(cache: Cache) -> None:
    assert cache.load(key()) is None
    path = cache.store(key(), record())
    assert cache.load(key()) == record() or cache.load(key()) == replace(
        record(), created=cache.entries()[0].record.created
    )
    assert json.loads(path.read_text())["key"]["sizes"] == {"m": 64, "n": 16, "p": 8}
    assert [e.path for e in cache.entries()] == [path]


def test_peers_of_an_earlier_version_are_seconds_alone(cache: Cache) -> None:
    """They are read as they were, and written again as they were."""
    path = cache.store(key(), record())
    raw = json.loads(path.read_text())
    assert raw["record"]["peers"]["old"] == 2e-3 and raw["record"]["peers"]["sdpa"]["short_of"] == "Z: not contiguous"
    raw["record"]["peers"] = {"sdpa": 2e-3, "eager": 1}
    path.write_text(json.dumps(raw))
    loaded = cache.load(key())
    assert loaded is not None and loaded.peers == {"sdpa": PeerTime(2e-3), "eager": PeerTime(1.0)}
    assert loaded.to_json()["peers"] == {"sdpa": 2e-3, "eager": 1.0}


def test_a_second_store_replaces_the_first(cache: Cache) -> None:
    cache.store(key(), record(1.0))
    cache.store(key(), record(0.5))
    loaded = cache.load(key())
    assert loaded is not None and loaded.seconds == 0.5
    assert len(os.listdir(cache.records)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"workload": "other"},
        {"cascade": "0" * 64},
        {"sizes": (("m", 65), ("n", 16), ("p", 8))},
        {"dtypes": (("A", "fp16"), ("Z", "bf16"))},
        {"params": (("s", 0.2),)},
        {"layout": "strided"},
        {"machine": "Other GPU"},
        {"processors": 131},
        {"emitter": "2"},
        {"torch": "2.14.0"},
        {"triton": "3.7.0"},
        {"driver": "cuda12.8"},
        {"policy": "warm"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_the_key_decides(cache: Cache, change: dict[str, Any]) -> None:
    cache.store(key(), record())
    other = replace(key(), **change)
    assert cache.load(other) is None
    name = next(iter(change))
    assert name in cache.explain_miss(other)
    assert len(key().differences(other)) == 1
    assert Key.from_json(json.loads(json.dumps(other.to_json()))) == other


def test_a_truncated_file_is_one_warning_and_a_miss(
    cache: Cache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache.store(key(), record())
    raw = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        notices.forget()
        caplog.clear()
        assert cache.load(key()) is None, length
        assert cache.load(key()) is None
        assert len(caplog.records) == 1 and str(path) in caplog.text
        assert path.read_bytes() == raw[:length]
    cache.store(key(), record())
    assert cache.load(key()) is not None


def test_flipped_bytes_never_give_another_record(cache: Cache) -> None:
    """Whatever a file holds, it is a valid record or a miss; and the key inside decides, not the name."""
    path = cache.store(key(), record())
    raw = path.read_bytes()
    draw = random.Random(0)
    for _ in range(500):
        at = draw.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :])
        loaded = cache.load(key())
        assert loaded is None or loaded.seconds > 0


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (("format",), FORMAT + 1, "format"),
        (("record", "digest"), "xyz", "digest"),
        (("record", "seconds"), -1.0, "`record.seconds`: expected `float` >= 1e-15"),
        (("record", "seconds"), "fast", "`record.seconds`: expected `float`, got `str`"),
        (("record", "seconds"), True, "`record.seconds`: expected `float`, got `bool`"),
        (("record", "seconds"), 10**400, "`record.seconds`: number out of range"),
        (("record", "peers"), {"sdpa": 0}, r"`record.peers\[...\]`: expected `float` >= 1e-15"),
        (("record", "peers"), {"sdpa": {"seconds": 0}}, "`record.peers.*expected `float` >= 1e-15"),
        (("record", "peers"), {"sdpa": {"version": "torch 9"}}, "`record.peers.*missing required field `seconds`"),
        (("record", "peers"), {"sdpa": {"seconds": 1.0, "faster": True}}, "`record.peers.*unknown field `faster`"),
        (("record", "peers"), {"sdpa": {"seconds": 1.0, "version": "\x1b[2J"}}, "`record.peers.*control characters"),
        (("record", "peers"), {"sdpa": {"seconds": 1.0, "rms_error": -1.0}}, "`record.peers.*expected `float` >= 0.0"),
        (("record", "cascade"), "x" * 100_000, "cascade"),
        (("record", "cascade"), 7, "cascade"),
        (("record", "schedule", "roles"), {"m": ["sideways", 32]}, "schedule"),
        (("record", "schedule", "warps"), 10**9, "schedule"),
        (("record", "schedule", "code"), "import os", "schedule"),
        (("record", "created"), "yesterday", "isoformat"),
        (("record", "statistics"), {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, "statistics.*got `object`"),
        (("record", "statistics"), {str(i): i for i in range(1000)}, "statistics`: expected `object` of length <= 256"),
        (("record", "estimate"), [1], "estimate`: expected `object`, got `array`"),
        (("record", "extra"), 1, "unknown field `extra`"),
        (("key", "sizes"), {"m": 0}, "key.sizes.*expected `int` >= 1"),
        (("key", "sizes"), {"m": 1.5}, "key.sizes.*expected `int`"),
        (("key", "sizes"), {f"m{i}": 2 for i in range(65)}, "key.sizes`: expected `object` of length <= 64"),
        (("key", "workload"), "\x1b[31mred", "key.workload`: expected a text without control characters"),
        (("key", "machine"), None, "machine"),
    ],
)
def test_a_field_out_of_bounds_is_refused(
    cache: Cache, caplog: pytest.LogCaptureFixture, where: tuple[str, ...], value: object, says: str
) -> None:
    path = cache.store(key(), record())
    data = json.loads(path.read_text())
    inner = data
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(BadRecord, match=says):
        decode(path.read_bytes())
    assert cache.load(key()) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b"1" * 10_000, b"NaN", b"\xff\xfe", b" " * (MAX_BYTES + 1), b"{}", b"[]"]
)
def test_hostile_bytes_are_a_miss(cache: Cache, raw: bytes) -> None:
    path = cache.store(key(), record())
    path.write_bytes(raw)
    assert cache.load(key()) is None
    assert cache.entries() == []


def test_a_record_beyond_the_limits_is_not_stored(cache: Cache) -> None:
    for bad in (replace(record(), seconds=math.nan), replace(record(), statistics={"x": object()})):
        with pytest.raises(BadRecord):
            cache.store(key(), bad)
    assert not cache.records.exists()


def test_a_file_under_another_name_is_a_miss(cache: Cache) -> None:
    path = cache.store(key(), record())
    path.rename(cache.records / key(m=128).file_name)
    assert cache.load(key(m=128)) is None
    assert cache.load(key()) is None


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_no_space_is_one_error_and_the_old_record_stays(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = cache.store(key(), record(1.0))
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "write":
        monkeypatch.setattr(os, "fdopen", full)
    else:
        monkeypatch.setattr(os, fails, full)
    with pytest.raises(CacheWriteError, match="No space left on device") as caught:
        cache.store(key(), record(0.5))
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(cache.records) == [path.name]


def test_a_directory_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheWriteError, match="what was stored is untouched"):
        Cache(tmp_path / "file", shipped=None).store(key(), record())


def test_writers_at_the_same_time_leave_one_whole_record(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_cache import Cache, key, record\n"
        "cache = Cache(Path(sys.argv[2]), shipped=None)\n"
        "for i in range(40): cache.store(key(), record(1.0 + i)); assert cache.load(key()) is not None\n"
    )
    command = [sys.executable, "-P", "-c", script, str(Path(__file__).parent), str(tmp_path)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], errors
    cache = Cache(tmp_path, shipped=None)
    assert cache.load(key()) is not None
    assert os.listdir(cache.records) == [key().file_name]


def test_neighbours_are_ordered_by_what_matters(cache: Cache) -> None:
    stored = {
        "twice": key(m=128),
        "four": key(m=256),
        "same, other torch": replace(key(), torch="2.12.0"),
        "same, other machine": replace(key(), machine="Other GPU"),
        "same, other width": replace(key(), dtypes=(("A", "fp32"), ("Z", "bf16"))),
        "same, other definition": replace(key(), cascade="0" * 64),
    }
    for each in stored.values():
        cache.store(each, record())
    names = {k: n for n, k in stored.items()}
    order = [names[e.key] for e in cache.neighbours(key())]
    assert order == ["same, other torch", "twice", "four", "same, other machine"]
    assert distance(key(), stored["same, other width"]) == (math.inf,)
    assert cache.neighbours(replace(key(), cascade="f" * 64)) == []


def test_a_neighbour_of_the_other_half_width_serves(cache: Cache) -> None:
    cache.store(key(), record())
    half = replace(key(), dtypes=(("A", "fp16"), ("Z", "fp16")))
    assert cache.neighbours(half)
    assert distance(half, key())[0] == 0


def test_shipped_records_are_read_only_and_yield_to_the_users(tmp_path: Path) -> None:
    maker = Cache(tmp_path / "made", shipped=None)
    maker.store(key(), record(1.0))
    cache = Cache(tmp_path / "mine", shipped=maker.records)
    loaded = cache.load(key())
    assert loaded is not None and loaded.seconds == 1.0 and cache.entries()[0].shipped
    cache.store(key(), record(0.25))
    loaded = cache.load(key())
    assert loaded is not None and loaded.seconds == 0.25
    assert [e.shipped for e in cache.entries()] == [False]
    assert len(cache.clear()) == 1
    assert cache.clear() == []
    assert cache.load(key()) is not None


def test_prune_removes_what_nothing_can_use(cache: Cache) -> None:
    kept = cache.store(key(), record())
    elsewhere = cache.store(replace(key(), machine="Other GPU", torch="1.0"), record())
    old = cache.store(replace(key(), torch="1.0"), record())
    broken = cache.store(key(m=1), record())
    broken.write_text("{")
    assert set(cache.prune(HERE)) == {old, broken}
    assert {e.path for e in cache.entries()} == {kept, elsewhere}


def test_an_empty_cache_says_so(cache: Cache) -> None:
    assert "has no records" in cache.explain_miss(key())
    cache.store(key(), record())
    assert "has this key" in cache.explain_miss(key())


def test_the_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    assert Cache().records == tmp_path / "records"
    monkeypatch.setenv("EINTUNE_CACHE", "")
    assert cache_directory().name == "eintune"


def test_the_platform_is_this_machine() -> None:
    here = platform_of("cpu")
    assert here.driver == "cpu" and here.processors >= 1 and here.machine
    with pytest.raises(ValueError, match="must be a CPU or a CUDA device, but got 'meta'"):
        platform_of("meta")


def test_notices_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eintune"):
        notices.say_once("a")
        notices.say_once("a")
        notices.say_once("b", logging.INFO)
    assert [(r.getMessage(), r.levelname) for r in caplog.records] == [("a", "WARNING"), ("b", "INFO")]
