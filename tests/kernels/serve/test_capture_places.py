"""Where functions find tensors and functions: objects, containers, partials, defaults; read at each call wherever."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import and_masks, or_masks

import eintune
from eintune.kernels.serve import modified_attention as modified

B, H, P, M, E = 2, 2, 11, 13, 8
ROWS, KEYS = torch.arange(P)[:, None], torch.arange(M)[None, :]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "capture-places"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = drawn(B, H, P, E), drawn(B, H, M, E, seed=1), drawn(B, H, M, E, seed=2)
SCORES = Q @ K.mT / math.sqrt(E)


def attend(scores: Tensor, seen: Tensor | None = None) -> Tensor:
    scores = scores if seen is None else scores.masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ V


def close(made: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(made, want, rtol=1e-9, atol=1e-9)


class Biased(nn.Module):
    """A module whose methods and attributes functions use."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.register_buffer("table", drawn(H, seed=seed))
        self.tables = [drawn(H, seed=seed + 1), drawn(H, seed=seed + 2)]
        self.which, self.scale = 0, np.float32(0.5)

    def score(self, s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        return self.scaled(s) + self.tables[self.which][h]

    def scaled(self, s: Any) -> Any:
        return s * self.scale

    def forward(self) -> Tensor:
        return eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s * self.table[h])

    def __call__(self, *args: Any) -> Any:
        return self.score(*args) if args else self.forward()


def weighed(s: Any, b: Any, h: Any, p: Any, m: Any, *, table: Tensor, times: float) -> Any:
    return s * times + table[h]


def test_attributes_of_objects_are_read_at_each_call() -> None:
    for seed in (3, 4):
        module = Biased(seed)
        close(module(), attend(SCORES * module.table[:, None, None]))
        close(
            eintune.attention(Q, K, V, score_mod=module.score), attend(SCORES * 0.5 + module.tables[0][:, None, None])
        )
    module.table.mul_(2)
    close(module(), attend(SCORES * module.table[:, None, None]))
    module.which, module.scale = 1, np.float32(0.25)
    close(eintune.attention(Q, K, V, score_mod=module.score), attend(SCORES * 0.25 + module.tables[1][:, None, None]))
    module.tables.reverse()
    close(eintune.attention(Q, K, V, score_mod=module.score), attend(SCORES * 0.25 + module.tables[1][:, None, None]))
    close(eintune.attention(Q, K, V, score_mod=module), attend(SCORES * 0.25 + module.tables[1][:, None, None]))


def test_partials_are_known_by_what_they_hold() -> None:
    for seed, times in ((5, 1.0), (6, 1.0), (6, 2.0)):
        table = drawn(H, seed=seed)
        given = functools.partial(weighed, table=table, times=times)
        close(eintune.attention(Q, K, V, score_mod=given), attend(SCORES * times + table[:, None, None]))
    first = functools.partial(lambda table, s, b, h, p, m: s + table[h], drawn(H, seed=7))
    close(eintune.attention(Q, K, V, score_mod=first), attend(SCORES + drawn(H, seed=7)[:, None, None]))


def test_a_partial_that_was_seen_is_not_traced_again() -> None:
    given = functools.partial(weighed, table=drawn(H, seed=8), times=3.0)
    eintune.attention(Q, K, V, score_mod=given)
    known = len(modified._ready)
    eintune.attention(Q, K, V, score_mod=functools.partial(weighed, table=drawn(H, seed=9), times=3.0))
    assert len(modified._ready) == known


def test_defaults_are_read_at_each_call() -> None:
    def biased(table: Tensor) -> Callable[..., Any]:
        return lambda s, b, h, p, m, t=table: s + t[h]

    for seed in (10, 11):
        table = drawn(H, seed=seed)
        close(eintune.attention(Q, K, V, score_mod=biased(table)), attend(SCORES + table[:, None, None]))


def causal(b: Any, h: Any, p: Any, m: Any) -> Any:
    return p >= m


def near(width: int) -> Callable[..., Any]:
    return lambda b, h, p, m: p - m < width


def same(document: Tensor) -> Callable[..., Any]:
    return lambda b, h, p, m: document[b, p] == document[b, m]


def test_masks_that_are_put_together() -> None:
    document = torch.arange(M)[None].repeat(B, 1) // torch.tensor([[4], [6]])
    agree = (document[:, :P, None] == document[:, None, :])[:, None]
    for width in (3, 5):
        mask = and_masks(causal, near(width), same(document))
        close(
            eintune.attention(Q, K, V, mask_mod=mask),
            attend(SCORES, (ROWS >= KEYS) & (width > ROWS - KEYS) & agree),
        )
    other = or_masks(and_masks(causal, near(2)), same(document))
    close(eintune.attention(Q, K, V, mask_mod=other), attend(SCORES, ((ROWS >= KEYS) & (ROWS - KEYS < 2)) | agree))


def test_elements_at_numbers() -> None:
    table = drawn(B, 3, H, seed=12)
    for n in (0, 2, -1):
        made = eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m, n=n: s + table[b, n, h])
        close(made, attend(SCORES + table[:, n, :, None, None]))
    limits = torch.tensor([[2, 7], [5, 9]])
    made = eintune.attention(Q, K, V, mask_mod=lambda b, h, p, m: (m >= limits[b, 0]) & (m < limits[b, 1]))
    low, high = limits.T[:, :, None, None, None]
    close(made, attend(SCORES, (low <= KEYS) & (high > KEYS)))
