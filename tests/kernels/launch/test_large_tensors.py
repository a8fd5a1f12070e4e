"""Tensors of more than 2**31 elements, on a GPU that holds them: in batch, heads, length and strides, outputs too.

The same functions run at small sizes anywhere, so that a GPU's hours are not needed to know that they say what they
mean. Of a large result the last part is looked at (and the first), against float32 or float64 of that part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import eintune
from eintune.host import notices
from eintune.space.workloads.builtin import WORKLOADS

GIBIBYTES = 60
"""Of memory that a GPU needs: four tensors of 2**31 elements in 16 bits, and one in float32 beside them."""
MANY = 2**31


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "modified"))
    notices.forget()
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def drawn(device: str, *shape: int, seed: int = 0) -> Tensor:
    """In bfloat16, as scores and values of attention are: of unit variance."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)


def check(made: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(made.float(), want.float(), rtol=2e-2, atol=2e-2)


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """Of a part: (rows, d), (keys, d), (keys, d)."""
    scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    scores = scores if bias is None else scores + bias.float()
    scores = scores if seen is None else scores.masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v.float()


def check_heads(o: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """The first and the last head of the first and the last sequence."""
    for b, h in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        check(o[b, h], attended(q[b, h], k[b, h], v[b, h]))


def batch(device: str, large: bool) -> int:
    q, k, v = (drawn(device, 1040 if large else 3, 16, 1024 if large else 40, 128, seed=i) for i in range(3))
    check_heads(eintune.attention(q, k, v), q, k, v)
    return q.numel()


def heads(device: str, large: bool) -> int:
    """More of them than the second axis of a grid has."""
    q, k, v = (drawn(device, 1, 66_000 if large else 20, 256 if large else 40, 128, seed=i) for i in range(3))
    check_heads(eintune.attention(q, k, v), q, k, v)
    return q.numel()


def expanded(device: str, large: bool) -> int:
    """Keys and values without a stride along the batch; the output is what is large."""
    q = drawn(device, 1, 16, 1024 if large else 40, 128).expand(1040 if large else 3, -1, -1, -1)
    k, v = (t[:1].expand(q.shape) for t in (drawn(device, *q[:1].shape, seed=i) for i in (1, 2)))
    o = eintune.attention(q, k, v)
    check_heads(o, q, k, v)
    return o.numel()


def packed(device: str, large: bool) -> int:
    """Queries, keys and values as views of one tensor, heads beside each other."""
    qkv = drawn(device, 22 if large else 2, 8192 if large else 40, 3, 32, 128)
    q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
    o = eintune.attention(q, k, v)
    for b, h in ((0, 0), (-1, -1)):
        check(o[b, h, -64:], attended(q[b, h, -64:], k[b, h], v[b, h]))
    return qkv.numel()


def length(device: str, large: bool) -> int:
    n, window = (2**24 + 4096, 512) if large else (200, 16)
    q, k, v = (drawn(device, 1, 1, n, 128, seed=i) for i in range(3))
    o = eintune.attention(q, k, v, causal=True, window=window)
    rows, keys = torch.arange(n - 64, n, device=device)[:, None], torch.arange(n - 64 - window, n, device=device)
    seen = (keys <= rows) & (rows - keys < window)
    first = n - 64 - window
    check(o[0, 0, -64:], attended(q[0, 0, -64:], k[0, 0, first:], v[0, 0, first:], seen=seen))
    return q.numel()


def strides(device: str, large: bool) -> int:
    """Keys that lie along the last axis: a tile of 64 of them spans the tensor."""
    n = 2**24 + 1024 if large else 200
    q, k, v = (drawn(device, 1, 1, rows, 128, seed=i) for i, rows in enumerate((48, 1, n)))
    k = drawn(device, 1, 1, 128, n, seed=4).mT
    o = eintune.attention(q, k, v)
    check(o[0, 0], attended(q[0, 0], k[0, 0], v[0, 0]))
    return k.numel()


def bias(device: str, large: bool) -> int:
    n = 46_400 if large else 100
    q, k, v = (drawn(device, 1, 1, n, 64, seed=i) for i in range(3))
    b = drawn(device, n, n, seed=4)
    o = eintune.attention(q, k, v, bias=b)
    check(o[0, 0, -64:], attended(q[0, 0, -64:], k[0, 0], v[0, 0], bias=b[-64:]))
    return b.numel()


def mask(device: str, large: bool) -> int:
    """Of which the queries are the axis that lies together: a tile of them is apart by rows of all queries."""
    n = 46_400 if large else 100
    q, k, v = (drawn(device, 1, 1, n, 64, seed=i) for i in range(3))
    seen = (drawn(device, n, n, seed=4) > -0.5).mT
    o = eintune.attention(q, k, v, mask=seen)
    check(o[0, 0, -64:], attended(q[0, 0, -64:], k[0, 0], v[0, 0], seen=seen[-64:]))
    return seen.numel()


def softmax(device: str, large: bool) -> int:
    """By rows, and with rows that stand in columns: a whole row is a tile."""
    shape = (2**16 + 40, 2**15) if large else (40, 300)
    x, run = drawn(device, *shape), eintune.compile(WORKLOADS["softmax"]())
    for given in (x, x.view(shape[1], shape[0]).mT):
        y = run(X=given)
        check(y[-3:] * shape[1], torch.softmax(given[-3:].float(), -1) * shape[1])
        del y
    return x.numel()


def cross_entropy(device: str, large: bool) -> int:
    rows, words = (16_500, 2**17) if large else (40, 300)
    x, labels = drawn(device, rows, words), torch.randint(0, words, (rows,), device=device)
    loss = eintune.compile(WORKLOADS["cross_entropy"]())(X=x, T=labels)
    check(loss[-40:], torch.nn.functional.cross_entropy(x[-40:].float(), labels[-40:], reduction="none"))
    return x.numel()


def product(device: str, large: bool) -> int:
    n = 46_400 if large else 100
    a, b = drawn(device, 16, n), drawn(device, 16, n, seed=1)
    z = eintune.compile("Zm,n = Ak,m * Bk,n")(A=a, B=b)
    check(z[-64:, -64:], a[:, -64:].float().mT @ b[:, -64:].float())
    return z.numel()


def pages(device: str, large: bool) -> int:
    """A cache of which the last pages are those that are read."""
    count, page, kv_heads, d, keys = (2**31 // (64 * 8 * 128) + 64 if large else 20), 64, 8, 128, 1000
    cascade = WORKLOADS["paged_attention"]()
    run = eintune.compile(cascade, params={"scale": 1 / math.sqrt(d)}, sizes={"m": keys})
    kc, vc = (drawn(device, count, page, kv_heads, d, seed=i) for i in range(2))
    table = count - 1 - torch.arange(-(-keys // page), device=device, dtype=torch.int32)[None]
    q = drawn(device, 1, kv_heads, 1, d, seed=3)
    used = torch.tensor([keys - 77], device=device, dtype=torch.int32)
    o = run(Q=q, KC=kc, VC=vc, BT=table, L=used)
    k, v = (c[table[0].long()].flatten(0, 1)[: keys - 77] for c in (kc, vc))
    for h in (0, -1):
        check(o[0, h], attended(q[0, h], k[:, h], v[:, h]))
    return kc.numel()


CASES: dict[str, Callable[[str, bool], int]] = {
    f.__name__: f
    for f in [batch, heads, expanded, packed, length, strides, bias, mask, softmax, cross_entropy, product, pages]
}
SHIPPED = ("batch", "heads", "expanded", "packed", "strides")
"""What needs no derivation."""


def large_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory >= GIBIBYTES * 2**30


@pytest.mark.parametrize("name", [n if n in SHIPPED else pytest.param(n, marks=pytest.mark.soak) for n in CASES])
def test_the_checks_at_small_sizes(name: str) -> None:
    CASES[name]("cpu", False)


@pytest.mark.gpu
@pytest.mark.skipif(not large_gpu(), reason=f"needs a CUDA GPU of {GIBIBYTES} GiB")
@pytest.mark.parametrize("name", CASES)
def test_more_elements_than_32_bits_count(name: str, caplog: pytest.LogCaptureFixture) -> None:
    elements = CASES[name]("cuda", True)
    assert elements > MANY, "the case is no large one"
    assert "plain PyTorch operators" not in caplog.text
