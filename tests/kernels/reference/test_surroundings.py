"""What a program sets around a call, a default device or dtype or autocast, changes no answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch

import eintune
from eintune.kernels.reference.agreement import agrees
from eintune.kernels.reference.eager import run_eager
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "a model that is built without memory": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default dtype of 16 bits": lambda: default_dtype(torch.bfloat16),
    "a default dtype of 64 bits": lambda: default_dtype(torch.float64),
}
ONE = "Zm = silu(Am) + sqrt(abs(Am)) + e^(-abs(Am)) + index(m) / 3"


@pytest.mark.parametrize("name", [name for name in AROUND if name != "autocast"])  # which gives attention its dtype
def test_attention_is_right_in_any_surroundings(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    q, k, v = torch.randn(3, 1, 2, 33, 16, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(33, 33, dtype=torch.bool).tril()
    want = torch.softmax((q @ k.mT / 4).masked_fill(~seen, float("-inf")), -1) @ v
    with AROUND[name]():
        made = eintune.attention(q, k, v, causal=True)
        again = eintune.attention(q, k, v, causal=True)
    torch.testing.assert_close(made, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(made, again)


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.float32])
def test_operators_are_right_in_any_surroundings_and_take_any_number(name: str, dtype: torch.dtype) -> None:
    cascade, a = Cascade.parse(ONE), torch.tensor([0, 1, -3, 300]).to(dtype)
    (want,) = run_cascade(cascade, {"A": a.numpy()}).values()
    with AROUND[name]():
        for wide, rtol in ((torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2.0**-6)):
            made = run_eager(cascade, {"A": a}, {"m": 4}, {}, wide)["Z"]
            np.testing.assert_allclose(made.double().numpy(), want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", AROUND)
def test_what_agrees_does_so_in_any_surroundings(name: str) -> None:
    one, other = Cascade.parse("Zm,n = Ak,m * Bk,n / 3"), Cascade.parse("Zm,n = (Ak,m / 3) * Bk,n")
    wrong = Cascade.parse("Zm,n = Ak,m * Bk,n / 3.001")
    with AROUND[name]():
        assert agrees(other, one, {}) and not agrees(wrong, one, {})
