"""Recorded spaces: the draw, the file, what is refused."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from recorded_spaces import MACHINE, at_random, by_the_model, drawn, small, space

from eintune.costmodel.counts.resources import illegal
from eintune.search.cli.main import main
from eintune.search.evaluation.recorded_space import RecordedSpace, SpaceError, load, save
from eintune.search.measure.clocks import sm_clock

SPACES = Path(__file__).parents[3] / "results" / "h200" / "spaces"


def test_a_draw_is_the_same_for_a_seed_and_another_for_another() -> None:
    first, legal = drawn(small(), 12)
    again, _ = drawn(small(), 12)
    other, _ = drawn(small(), 12, seed=1)
    keys = [c.key for c in first]
    assert keys == [c.key for c in again]
    assert keys != [c.key for c in other]
    assert len(set(keys)) == 12 < legal
    assert all(illegal(c.estimate.resources, MACHINE) is None for c in first)


def test_a_draw_is_not_only_of_good_ones() -> None:
    chosen, _ = drawn(small(), 30)
    seconds = sorted(c.estimate.seconds for c in chosen)
    assert seconds[-1] > 2 * seconds[0]


def test_a_larger_draw_begins_with_the_smaller() -> None:
    few, many = (drawn(small(), n)[0] for n in (5, 15))
    assert [c.key for c in few] == [c.key for c in many][:5]


def test_a_space_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    kept = space(small(causal=True), by_the_model(), 6)
    save(kept, tmp_path / "new" / "a.json.gz")
    got = load(tmp_path / "new" / "a.json.gz")
    # as JSON, where a number that is none is equal to itself
    assert [e.measurement.to_json() for e in got.entries] == [e.measurement.to_json() for e in kept.entries]
    assert [(e.cascade, e.schedule.to_json()) for e in got.entries] == [
        (e.cascade, e.schedule.to_json()) for e in kept.entries
    ]
    assert (got.problem, got.clocks, got.peers) == (kept.problem, kept.clocks, kept.peers)
    assert [dict(c) for c in got.cascades] == [dict(c) for c in kept.cascades]
    assert got.works() == kept.works()
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "a.json.gz"]


def test_the_same_space_is_the_same_bytes(tmp_path: Path) -> None:
    kept = space(small(), by_the_model(), 4)
    for name in ("a", "b"):
        save(kept, tmp_path / f"{name}.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_a_failure_is_kept_as_one(tmp_path: Path) -> None:
    rule, count = at_random(), iter(range(100))
    kept = space(small(), lambda c: math.nan if next(count) == 2 else rule(c), 5)
    save(kept, tmp_path / "a.json.gz")
    got = load(tmp_path / "a.json.gz")
    assert got.ran == [0, 1, 3, 4]
    assert got.entries[2].measurement.status == "timeout"
    assert math.isnan(got.entries[2].measurement.seconds)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: b"not gzip at all",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: gzip.compress(b"{"),
        lambda raw: gzip.compress(b"[]"),
        lambda raw: gzip.compress(b"{}"),
        lambda raw: changed(raw, format=99),
        lambda raw: changed(raw, entries=[{"cascade": 0}]),
        lambda raw: changed(raw, problem={"workload": "x"}),
        lambda raw: changed(raw, surprise=1),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a.json.gz"
    save(space(small(), at_random(), 2), path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(SpaceError) as refused:
        load(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def changed(raw: bytes, **fields: object) -> bytes:
    return gzip.compress(json.dumps({**json.loads(gzip.decompress(raw)), **fields}).encode())


def test_a_cpu_has_no_sm_clock() -> None:
    assert sm_clock("cpu") == []


def test_the_command_records_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    size = ("--seq", "32", "--heads", "2", "--head-dim", "16", "--device", "cpu")
    assert main(["record", *size, "--count", "2", "--seed", "3", "--out", str(tmp_path), "--quiet"]) == 0
    assert "2 drawn of" in capsys.readouterr().out
    got = load(tmp_path / "b1-h2-s32-d16-fp32.json.gz")
    assert (len(got.ran), got.seed, got.machine) == (2, 3, "cpu")
    assert "--seed 3" in got.command and got.peers and all(t > 0 for t in got.peers.values())


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.json.gz")), ids=lambda p: p.name)
def test_recorded_ones_load_and_plan(path: Path) -> None:
    kept: RecordedSpace = load(path)
    assert len(kept.entries) >= 150 and len(kept.ran) > 100
    assert kept.versions["triton"] and kept.command and kept.clocks
    assert len({e.measurement.digest for e in kept.entries}) == len(kept.entries)
