"""The records that come with the package: what they say is what is generated today, for the problems they are of."""

from __future__ import annotations

import pytest

from eintune.kernels.emit.kernel import EMITTER_VERSION
from eintune.kernels.generate.emitters import emit
from eintune.kernels.store.cache import SHIPPED, Entry, Key, read_entry
from eintune.kernels.store.platform import Platform
from eintune.search.suites.suite import built_in, load_suite, stated
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import build_program

ENTRIES = {p.stem: entry for p in sorted(SHIPPED.glob("*.json")) if (entry := read_entry(p, "shipped"))}
CURRENT = {name: entry for name, entry in ENTRIES.items() if entry.key.emitter == str(EMITTER_VERSION)}


def test_every_file_is_a_record_under_its_own_name() -> None:
    assert ENTRIES and all(entry.key.file_name == f"{name}.json" for name, entry in ENTRIES.items())
    assert len(ENTRIES) == len(list(SHIPPED.iterdir()))


@pytest.mark.parametrize("name", CURRENT)
def test_its_kernel_is_what_is_generated(name: str) -> None:
    key, record = CURRENT[name].key, CURRENT[name].record
    problem = Problem(key.workload, record.cascade, dict(key.sizes), dict(key.dtypes), dict(key.params))
    program = build_program(Cascade.parse(record.cascade), problem, record.schedule)
    assert emit(program, record.schedule).digest == record.digest


def test_each_is_of_a_problem_of_the_suites() -> None:
    """A definition whose text changes loses what was measured of it: say so here, not in a user's program."""
    problems = [case.problem for suite in built_in() for case in stated(load_suite(suite).cases, "bf16")]
    platforms = {_platform(entry) for entry in ENTRIES.values()}
    known = {Key.of(problem, platform).file_name for problem in problems for platform in platforms}
    assert {f"{name}.json" for name in ENTRIES} <= known


def _platform(entry: Entry) -> Platform:
    key = entry.key
    return Platform(key.machine, key.processors, key.emitter, key.torch, key.triton, key.driver)
