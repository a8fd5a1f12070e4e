"""The libraries of a GPU, each called for a record that names it: what it gives is what our kernel gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune
from eintune.host import notices
from eintune.kernels.libraries import attention as module
from eintune.kernels.libraries.versions import version_of
from eintune.kernels.serve import attention as runtime
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import platform_of
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention_problem

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
LENGTH, DIM = 256, 64


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, nothing ready, everything unsaid, no policy set."""
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    monkeypatch.delenv("EINTUNE_POLICY", raising=False)
    runtime._ready.clear()
    notices.forget()
    yield
    runtime._ready.clear()


def drawn(kv_heads: int = 8) -> tuple[Tensor, ...]:
    g = torch.Generator("cuda").manual_seed(0)
    made = {"generator": g, "device": "cuda", "dtype": torch.bfloat16}
    return tuple(torch.randn((2, h, LENGTH, DIM), **made) for h in (8, kv_heads, kv_heads))


@pytest.mark.parametrize("library", sorted(module.LIBRARIES["cuda"]))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_what_a_library_gives_is_what_our_kernel_gives(
    library: str, causal: bool, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in what is seen, and scores far beyond what an exponential takes, among them."""
    posed = attention_problem(
        batch=2, heads=8, kv_heads=kv_heads, seq=LENGTH, kv_seq=LENGTH, head_dim=DIM, dtype="bf16",
        causal="top_left" if causal else None,
    )  # fmt: skip
    peers = {library: PeerTime(1e-6, 1e-6, 1e-6, version_of(library, "cuda"))}  # times that nobody measured
    schedule = schedules(posed.definition, posed, "triton")[0]
    record = Record(posed.cascade, schedule, "0" * 64, 1e-3, 1e-3, 1e-3, peers=peers)
    Cache().store(Key.of(posed, platform_of("cuda")), record)
    calls: list[str] = []
    attend = module.LIBRARIES["cuda"][library]

    def spy(*given: Any) -> Tensor:
        calls.append(library)
        return attend(*given)

    monkeypatch.setitem(module.LIBRARIES["cuda"], library, spy)
    changes = ("nothing", "nan in q", "nan in k", "1e4", "1e8")
    for change in changes:
        q, k, v = drawn(kv_heads)
        if change[0].isdigit():
            q, k = q * math.sqrt(float(change)), k * math.sqrt(float(change))
        elif change != "nothing":
            {"q": q, "k": k}[change[-1]][:, :, -1, 3] = math.nan
        made = eintune.attention(q, k, v, causal=causal)
        with eintune.configure(policy="own"):
            ours = eintune.attention(q, k, v, causal=causal)
        assert made.is_contiguous() and torch.equal(made.isnan(), ours.isnan()), change
        # Both round their weights to bf16, whose sums are of numbers below 5.
        assert float(torch.nan_to_num(made.float() - ours.float()).abs().max()) <= 4e-2, change
    assert len(calls) >= len(changes)
