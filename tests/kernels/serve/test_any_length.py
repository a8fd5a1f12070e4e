"""A program whose lengths grow: what is generated for it, and that it is right at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eintune
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.serve import any_size
from eintune.kernels.store.cache import Cache
from eintune.kernels.store.portfolio import every_entry
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering import lower
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.schedule.any_size import for_any_size
from eintune.space.schedule.schedule import Schedule


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The sources that are generated, in an empty cache."""
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    sources: list[str] = []
    emit = any_size.emit

    def listed(plan: LoopPlan | Program, schedule: Schedule, wide: bool = False) -> Kernel:
        kernel = emit(plan, schedule, wide)
        sources.append(kernel.source)
        return kernel

    monkeypatch.setattr(any_size, "emit", listed)
    any_size._kernels.clear()
    return sources


def test_200_lengths_have_one_source(generated: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    for n in range(260, 460):
        q, k, v = (torch.randn(1, 4, m, 32, generator=generator) for m in (1, n, n))
        made = eintune.attention(q, k, v)
        torch.testing.assert_close(
            made, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-4
        )
    assert len(set(generated)) == len(generated) == 1


def test_batch_heads_and_both_lengths_may_differ(generated: list[str]) -> None:
    for b, h, p, m in [(2, 4, 300, 300), (2, 4, 310, 310), (2, 4, 301, 301), (2, 4, 320, 320)]:
        q, k, v = (torch.randn(b, h, n, 32) for n in (p, m, m))
        made = eintune.attention(q, k, v, causal=True)
        exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(made, exact, atol=1e-5, rtol=1e-4)
    assert len(generated) == 1


def test_an_index_of_records_is_read_again_when_the_folder_changes(tmp_path: Path) -> None:
    shipped = Cache(tmp_path).entries()
    records = tmp_path / "records"
    records.mkdir()
    assert Cache(tmp_path).entries() == shipped
    one = shipped[0]
    other = replace(one.key, machine="another")
    Cache(tmp_path).store(other, one.record)
    assert other in {e.key for e in Cache(tmp_path).entries()}


def test_what_is_open_is_found_without_the_rest() -> None:
    """For what ships, at sizes as measured, without elements, and on either side of what is short."""
    seen = 0
    for e in every_entry(Cache(Path("nowhere"))):
        cascade, schedule = Cascade.parse(e.record.cascade), for_any_size(e.record.schedule)
        for n in (None, 0, lower.SHORT - 1, lower.SHORT, 2**27):
            sizes = {r: n if n is not None and r in "pm" else size for r, size in e.key.sizes}
            problem = Problem(e.key.workload, e.record.cascade, sizes, dict(e.key.dtypes))
            ranges = lower.unknown_sizes(cascade, problem, schedule).ranges
            assert lower.open_ranks(cascade, problem, schedule) == frozenset(ranges), (e.path.name, sizes)
            seen += 1
    assert seen > 500
