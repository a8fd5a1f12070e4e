"""What an H200 would be served for packed and paged calls that nothing was tuned for, chosen here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eintune.costmodel.machines.machine import load_machine
from eintune.kernels.serve import choices as choices_module
from eintune.kernels.serve import priced as priced_module
from eintune.kernels.serve.choices import KernelChoice, choices
from eintune.kernels.store.cache import Cache
from eintune.kernels.store.platform import Platform
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.spans import PlacedSlopes, Spans

H200 = Platform("NVIDIA H200", 132, "8", "2.11.0+cu130", "3.6.0", "cuda13.0")
HEADS = {"h": 8, "g": 4, "e": 128, "f": 128}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priced_module, "machine_of", lambda device: load_machine("h200"))
    monkeypatch.setattr(choices_module, "platform_of", lambda device: H200)
    monkeypatch.setattr(choices_module, "emitter_for", lambda problem, device: "triton")


def first(variant: Attention, sizes: dict[str, int], folder: Path, dtype: str = "bf16") -> KernelChoice:
    problem = posed(variant, HEADS | sizes, dtype, {"scale": 0.1})
    return next(iter(choices(problem, torch.device("cuda"), "rows", Cache(folder))))


@pytest.mark.parametrize("more", [(), (PlacedSlopes(),)], ids=["plain", "slopes"])
def test_packed_sequences_are_served_by_specialised_warps(more: tuple[PlacedSlopes, ...], tmp_path: Path) -> None:
    kernel = first(Attention((*more, Spans())), {"b": 1, "p": 3000, "m": 5000}, tmp_path).kernel
    look, main, *_ = kernel.launches
    assert {"FIRST_LEAST", "END_GREATEST"} <= {a.name for a in look.arguments if a.output}
    assert "warp_specialize" in main.source and "Q[b, h, g, p, 128] bf16" in kernel.source  # at any length


PAGES = {"x": 1024, "o": 16}
PAGED = {
    "one query": (Spans("b"), {"b": 16, "p": 1, "m": 4096, "j": 256}),
    "a few": (Spans(), {"b": 16, "p": 5, "m": 4096, "j": 256}),
    "mixed": (Spans(), {"b": 94, "p": 32, "m": 4096, "j": 256}),
}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", PAGED)
def test_pages_are_served_by_a_kernel(name: str, dtype: str, tmp_path: Path) -> None:
    spans, sizes = PAGED[name]
    kernel = first(Attention((spans,), page=16), PAGES | sizes, tmp_path, dtype).kernel
    assert "tl.load(BT_part" in kernel.source
    # the keys that no sequence has are not gone over
    assert "end" in next(line for line in kernel.source.splitlines() if "for m_first in" in line or "m_to" in line)
