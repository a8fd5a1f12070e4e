"""Portfolios as files: what is stored is read again, what is not whole and valid is a miss that is said once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eintune.host.data import BadData
from eintune.kernels.emit.kernel import ON_GPU
from eintune.kernels.launch.offline import compile_offline
from eintune.kernels.serve.any_size import kernel_at
from eintune.kernels.store import files as files_module
from eintune.kernels.store import portfolio as module
from eintune.kernels.store.cache import Cache, Key
from eintune.kernels.store.files import CacheWriteError
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import Platform
from eintune.kernels.store.portfolio import (
    FOLDER,
    SHIPPED,
    MeasuredPoint,
    Portfolio,
    PortfolioKernel,
    decode,
    every_entry,
    load_portfolio,
    portfolio_entries,
    portfolio_key,
    read_portfolios,
    store_portfolio,
)
from eintune.space.cascade.problem import Problem
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.builtin import attention_problem

PLATFORM = Platform("NVIDIA H200", 132, "8", "2.11.0", "3.6.0", "cuda13.0")


def key_at(length: int) -> Key:
    problem = attention_problem(batch=2, heads=4, kv_heads=4, seq=length, kv_seq=length, head_dim=64, dtype="bf16")
    return Key.of(problem, PLATFORM)


def kernel(tile: int) -> PortfolioKernel:
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", tile), "m": Role("loop", 64)}
    roles |= {"e": Role(None, 64), "f": Role(None, 64)}
    return PortfolioKernel(f"A = {tile}", Schedule("triton", tuple(roles.items())))


def point(length: int, *seconds: float) -> MeasuredPoint:
    return MeasuredPoint(key_at(length).sizes, dict(enumerate(seconds)), {"sdpa": PeerTime(1e-3)})


def made(*points: MeasuredPoint) -> Portfolio:
    return Portfolio(portfolio_key(key_at(8)), (kernel(64), kernel(128)), points)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, shipped=None)


def test_what_is_stored_is_read_again(cache: Cache) -> None:
    portfolio = made(point(512, 1e-4, 2e-4), point(2048, 3e-4, 2e-4))
    store_portfolio(cache, portfolio)
    assert load_portfolio(cache, portfolio.key) == portfolio
    found = portfolio_entries(cache, key_at(777))
    assert {(dict(e.key.sizes)["m"], e.record.cascade, e.record.seconds) for e in found} == {
        (512, "A = 64", 1e-4),
        (512, "A = 128", 2e-4),
        (2048, "A = 64", 3e-4),
        (2048, "A = 128", 2e-4),
    }
    assert all(e.any_size and e.record.peers == {"sdpa": PeerTime(1e-3)} for e in found)


def test_another_definition_width_or_machine_has_no_part_in_it(cache: Cache) -> None:
    store_portfolio(cache, made(point(512, 1e-4)))
    key = key_at(512)
    wide = tuple((n, "fp32") for n, _ in key.dtypes)
    fields = {"cascade": "0" * 64, "dtypes": wide, "machine": "NVIDIA B200", "processors": 100}
    for name, value in fields.items():
        assert portfolio_entries(cache, Key(**{**vars(key), name: value})) == []
    half = Key(**{**vars(key), "dtypes": tuple((n, "fp16") for n, _ in key.dtypes)})
    assert len(portfolio_entries(cache, half)) == 1


def test_points_that_are_added_stand_beside_those_that_were_there() -> None:
    first = Portfolio(portfolio_key(key_at(8)), (kernel(64),), (point(512, 1e-4), point(1024, 2e-4)))
    both = first.with_points([kernel(128), kernel(64)], [point(1024, 1.5e-4, 1.8e-4), point(4096, 5e-4)])
    named = {dict(p.sizes)["m"]: {both.kernels[n].cascade: s for n, s in p.seconds.items()} for p in both.points}
    assert named == {
        512: {"A = 64": 1e-4},
        1024: {"A = 128": 1.5e-4, "A = 64": 1.8e-4},
        4096: {"A = 128": 5e-4},
    }


def test_a_kernel_that_nothing_was_measured_of_any_more_is_dropped() -> None:
    first = Portfolio(portfolio_key(key_at(8)), (kernel(64),), (point(512, 1e-4),))
    assert first.with_points([kernel(128)], [point(512, 5e-5)]).kernels == (kernel(128),)


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda d: d.update(format=2), "format"),
        (lambda d: d.update(more=1), "more"),
        (lambda d: d["key"].update(sizes={"m": 4}), "sizes"),
        (lambda d: d["kernels"][0].update(schedule={"emitter": "perl"}), "kernels"),
        (lambda d: d["kernels"].clear(), "kernels"),
        (lambda d: d["points"].clear(), "points"),
        (lambda d: d["points"].append(d["points"][0]), "same sizes"),
        (lambda d: d["points"][0].update(seconds={}), "seconds"),
        (lambda d: d["points"][0].update(seconds={"7": 1e-4}), "seconds"),
        (lambda d: d["points"][0].update(seconds={"-1": 1e-4}), "seconds"),
        (lambda d: d["points"][0].update(seconds={"0": -1.0}), "seconds"),
        (lambda d: d["points"][0].update(sizes={"m": 0}), "sizes"),
        (lambda d: d["points"][0].update(sizes={"m": 2**60}), "sizes"),
        (lambda d: d["points"][0].update(peers={"\x1b[31m": 1.0}), "peers"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_with_the_rule(edit: Edit, told: str) -> None:
    data = json.loads(made(point(512, 1e-4)).to_text())
    edit(data)
    with pytest.raises(BadData, match=told):
        decode(json.dumps(data).encode())


def test_a_file_that_is_cut_off_is_said_once_and_harms_nothing(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    path = store_portfolio(cache, made(point(512, 1e-4)))
    other = path.with_name("attention-cut.json")
    for length in (0, 1, 100, path.stat().st_size - 2):
        other.write_bytes(path.read_bytes()[:length])
        assert list(read_portfolios(path.parent)) == [path]
    assert len(portfolio_entries(cache, key_at(100))) == 1
    assert sum("attention-cut.json" in r.getMessage() for r in caplog.records) >= 1


def test_what_was_stored_stays_where_it_cannot_be_written(cache: Cache) -> None:
    (cache.directory / FOLDER).write_text("in the way")
    with pytest.raises(CacheWriteError, match="untouched"):
        store_portfolio(cache, made(point(512, 1e-4)))


def test_a_folder_full_of_portfolios_is_looked_at_up_to_a_limit(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = store_portfolio(cache, made(point(512, 1e-4, 2e-4), point(2048, 1e-4)))
    for n in range(4):
        path.with_name(f"attention-{n}.json").write_bytes(path.read_bytes().replace(b"0.0001", b"0.0003"))
    monkeypatch.setattr(module, "MAX_ENTRIES", 7)
    assert sum(map(len, module._index(path.parent, "yours").values())) == 6
    assert "only the first 7 times" in caplog.text
    monkeypatch.setattr(files_module, "MAX_TOTAL", 2 * path.stat().st_size - 1)
    assert len(read_portfolios(path.parent)) == 2 and "of portfolios are looked at" in caplog.text


SHIPPED_ENTRIES = every_entry(Cache(Path("nowhere")))


def test_every_shipped_file_is_a_portfolio_under_its_own_name() -> None:
    found = read_portfolios(SHIPPED)
    assert found and len(found) == len(list(SHIPPED.iterdir()))
    assert all(path.name == p.key.file_name for path, p in found.items())
    assert SHIPPED_ENTRIES and all(e.shipped for e in SHIPPED_ENTRIES)


def test_shipped_kernels_are_made_for_any_size_and_compile_for_their_machine(tmp_path: Path) -> None:
    sources = {}
    for e in SHIPPED_ENTRIES:
        key = e.key
        problem = Problem(key.workload, e.record.cascade, dict(key.sizes), dict(key.dtypes), dict(key.params))
        found = kernel_at(e.record.cascade, problem, e.record.schedule)
        assert found.emitter in ON_GPU and all(k.sizes for k in found.launches), e.path.name
        sources[tuple(k.source for k in found.launches)] = found
    assert len(sources) <= len({(e.record.cascade, e.record.schedule, e.path) for e in SHIPPED_ENTRIES}) * 2
    for found in list(sources.values())[:: max(1, len(sources) // 4)]:
        assert compile_offline(found, "sm_90", cache_dir=tmp_path).spill_bytes < 64
