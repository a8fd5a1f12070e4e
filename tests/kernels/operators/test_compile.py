"""Programs that `torch.compile` compiles whole: one graph, whatever their lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune
from eintune.space.tracing.functions import clamp, where

norm = eintune.compile("Nb,h,p = Qb,h,p,e * Kb,h,p,e\nDb,h,p,e = Qb,h,p,e + Qb,h,p,e\nresults: N, D", name="norm")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    assert torch.randn(2).shape == (2,)


class Counting:
    """A backend that counts the graphs that it is given."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward

    @property
    def operators(self) -> list[str]:
        return [str(n.target) for g in self.graphs for n in g.graph.nodes if "eintune" in str(n.target)]


BY_HEAD = drawn(4)
CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "plain": lambda q, k, v: eintune.attention(q * 2, k, v).sin(),
    "causal": lambda q, k, v: eintune.attention(q, k, v, causal=True, scale=0.3),
    "lower right, window": lambda q, k, v: eintune.attention(q, k, v, causal="lower_right", window=5),
    "softcap, alibi": lambda q, k, v: eintune.attention(q, k, v, causal=True, softcap=3.0, alibi=True),
    "sinks, lse": lambda q, k, v: eintune.attention(q, k, v, sinks=BY_HEAD * 2, return_lse=True),
    "slopes, lse": lambda q, k, v: eintune.attention(q, k, v, alibi=q[0, :, 0, 0], return_lse=True),
    "sigmoid": lambda q, k, v: eintune.attention(q, k, v, sigmoid=True, causal=None),
    "documents": lambda q, k, v: eintune.attention(
        q, k, v, documents=((q[:, 0, :, 0] > 0).int(), (k[:, 0, :, 0] > 0).int())
    ),
    "bias": lambda q, k, v: eintune.attention(q, k, v, bias=q[:, :, :, :1] * 2),
    "score_mod": lambda q, k, v: eintune.attention(q, k, v, score_mod=lambda s, b, h, p, m: s.tanh() + (m - p) * 0.1),
    "mask_mod": lambda q, k, v: eintune.attention(q, k, v, mask_mod=lambda b, h, p, m: (p >= m) & (p - m < 9)),
    "grouped": lambda q, k, v: eintune.attention(
        q, k[:, :2], v[:, :2], causal=True, score_mod=lambda s, b, h, p, m: s * (h + 1)
    ),
    "pytorch's": lambda q, k, v: eintune.scaled_dot_product_attention(q, k, v, is_causal=True),
    "pytorch's, three axes": lambda q, k, v: eintune.scaled_dot_product_attention(q[0], k[0], v[0], q[0, :, :, :1] > 0),
    "pytorch's, grouped": lambda q, k, v: eintune.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True),
    "a cascade": lambda q, k, v: norm(q, K=q * 2),
    "two": lambda q, k, v: eintune.attention(eintune.attention(q, k, v), k, v) + norm(q, q)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_part_of_one_graph_at_any_sizes(name: str) -> None:
    """Two graphs at most: PyTorch takes the first sizes for constants, and symbols for those that change."""
    f, backend = CALLS[name], Counting()
    compiled = torch.compile(f, backend=backend, fullgraph=True)
    for batch, queries, keys in ((2, 12, 12), (2, 9, 21), (3, 17, 5), (4, 6, 33)):
        q, k, v = drawn(batch, 4, queries, 16), drawn(batch, 4, keys, 16, seed=1), drawn(batch, 4, keys, 16, seed=2)
        torch.testing.assert_close(compiled(q, k, v), f(q, k, v))
    assert len(backend.graphs) <= 3  # the batch changes after the lengths
    assert set(backend.operators) <= {"eintune.attention", "eintune.cascade"}


def test_a_fifth_length_is_compiled_no_more_than_the_fiftieth() -> None:
    backend = Counting()

    def prefill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return eintune.attention(q, k, v, causal=True, window=16) + 1

    compiled = torch.compile(prefill, backend=backend, fullgraph=True, dynamic=True)
    for n in range(3, 53):
        q, k, v = (drawn(1, 2, n, 8, seed=s) for s in range(3))
        torch.testing.assert_close(compiled(q, k, v), prefill(q, k, v))
    assert len(backend.graphs) == 1


def test_decoding_is_compiled_once() -> None:
    """One query, and a cache that grows."""
    backend = Counting()

    def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return eintune.attention(q, k, v, causal="lower_right", window=16)

    compiled = torch.compile(decode, backend=backend, fullgraph=True)
    for n in range(3, 53):
        q, k, v = drawn(1, 4, 1, 8), drawn(1, 2, n, 8, seed=1), drawn(1, 2, n, 8, seed=2)
        for t in (k, v):
            torch._dynamo.mark_dynamic(t, 2)
        torch.testing.assert_close(compiled(q, k, v), decode(q, k, v))
    assert len(backend.graphs) == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_backends(backend: str) -> None:
    if backend == "inductor":
        pytest.importorskip("torch._inductor.cpp_builder").get_cpp_compiler()

    def block(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, lse = eintune.attention(q * 2, k, v, causal=True, sinks=q[0, :, 0, 0], return_lse=True)
        return (
            eintune.scaled_dot_product_attention(out.cos(), k, v) * 3,
            lse.exp(),
            norm(out.transpose(1, 2), out.transpose(1, 2))[0],
        )

    compiled = torch.compile(block, backend=backend, fullgraph=True, dynamic=True)
    for n in (12, 7, 19):
        given = [drawn(2, 4, n, 16, seed=s) for s in range(3)]
        for a, b in zip(compiled(*given), block(*given), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
            assert a.stride() == b.stride()


def test_numbers_that_change_are_those_of_the_call() -> None:
    def f(q: Tensor, window: int, scale: float | None) -> Tensor:
        return eintune.attention(q, q, q, causal=True, window=window, scale=scale)

    compiled, q = torch.compile(f, backend="eager", fullgraph=True), drawn(1, 2, 12, 8)
    for window, scale in ((3, 0.1), (5, 0.1), (7, 0.1), (7, 0.2), (7, 0.3), (3, 0.1), (4, None)):
        torch.testing.assert_close(compiled(q, window, scale), f(q, window, scale))


def test_numbers_of_a_cascade_are_those_of_the_one_that_is_called() -> None:
    """Several come to one place of a program, and differ in numbers that the compiler would take for symbols."""
    q = drawn(4, 8)
    for several in (
        [eintune.compile("Zm = Am,k * factor", params={"factor": n}) for n in (1.0, 2.0, 3.0, 4.0)],
        [eintune.compile("Zm,j = Am,k + index(j)", sizes={"j": n}) for n in (2, 3, 4, 5)],
    ):
        compiled = torch.compile(lambda q, run: run(q), backend="eager", fullgraph=True)
        for run in several:
            torch.testing.assert_close(compiled(q, run), run(q))


def test_autocast_is_recorded() -> None:
    def f(q: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return eintune.attention(q, q, v)

    q = drawn(1, 2, 12, 8)
    got = torch.compile(f, backend="aot_eager", fullgraph=True)(q, q.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, f(q, q.bfloat16()))


# ---- what a compiled program does not have


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": 1}, "modifiers are head_scale"),
        ({"causal": "left"}, "`causal` must be False, True"),
        ({"window": "wide"}, "`window` must be"),
        ({"softcap": float("inf")}, "`softcap` must be"),
        ({"scale": torch.ones(())}, "`scale` must be a number"),
        ({"score_mod": lambda s, b, h, p, m: torch.sort(s)}, "a traced function cannot use sort|what may change"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], says: str) -> None:
    q = drawn(1, 2, 12, 8)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=says):
        torch.compile(lambda q: eintune.attention(q, q, q, **options), backend="eager", fullgraph=True)(q)
    if "scale" not in options:
        with pytest.raises(eintune.UnsupportedArgument):
            torch.compile(lambda q: eintune.attention(q, q, q, **options), backend="eager")(q)


def test_bad_shapes_are_named() -> None:
    q = drawn(1, 2, 12, 8)
    with pytest.raises(
        torch._dynamo.exc.TorchRuntimeError, match="`q` and `k` must agree in batch, but the shapes are"
    ):
        torch.compile(lambda q: eintune.attention(q, q[:0], q[:0]), backend="eager")(q)


# ---- what functions see


class Seen:
    """What functions see besides their arguments, each of which may change from call to call."""

    width, factor = 3, 0.5
    slopes, temperature = drawn(4), torch.tensor(0.5)
    of_query = torch.arange(12) // 4
    table = drawn(4, 23)

    def change(self) -> None:
        self.width += 2
        self.factor *= 2
        self.slopes = self.slopes * 2
        self.temperature.add_(1)
        self.of_query = self.of_query // 2
        self.table.mul_(2)


def close(p: Any, m: Any) -> Any:
    return abs(p - m) < 2


def functions(seen: Seen) -> dict[str, tuple[str, Callable[..., Any]]]:
    width, slopes, temperature, of_query, table = (
        seen.width, seen.slopes, seen.temperature, seen.of_query, seen.table
    )  # fmt: skip

    def near(p: Any, m: Any) -> Any:
        return abs(p - m) < width

    return {
        "nothing": ("score_mod", lambda s, b, h, p, m: s),
        "a constant": ("score_mod", lambda s, b, h, p, m: 1.0),
        "a number": ("score_mod", lambda s, b, h, p, m: s * width),
        "a number that is compared": ("mask_mod", lambda b, h, p, m: p - m < width),
        "an attribute": ("score_mod", lambda s, b, h, p, m: s * seen.factor + m // 4 - h % 2),
        "a function": ("mask_mod", lambda b, h, p, m: near(p, m) & (p >= m) | (m < 2)),
        "a function that sees nothing": ("mask_mod", lambda b, h, p, m: ~close(p, m) & (p >= m)),
        "a tensor": ("score_mod", lambda s, b, h, p, m: s + slopes[h] * (m - p)),
        "a tensor, twice": ("score_mod", lambda s, b, h, p, m: slopes[h] * s.tanh() - abs(slopes[h])),
        "a tensor without axes": ("score_mod", lambda s, b, h, p, m: temperature * s - temperature / 2),
        "whole numbers": ("mask_mod", lambda b, h, p, m: of_query[p] == of_query[m]),
        "ours": ("score_mod", lambda s, b, h, p, m: where(p > m, clamp(s, min=-1.0, max=1.0), torch.exp(s.tanh()))),
        "PyTorch's": ("score_mod", lambda s, b, h, p, m: torch.clamp(s**2 - -s, max=2.0) + p.float() / 3),
        "a table": ("score_mod", lambda s, b, h, p, m: s + table[h, p - m + 11]),
        "not": ("mask_mod", lambda b, h, p, m: ~(p < m)),
    }


BREAKING = ("a number that is compared", "an attribute", "a function", "a table")
"""PyTorch's compiler does not read these, or not rightly: a call with one is an eager one."""


@pytest.mark.parametrize("name", functions(Seen()))
def test_what_a_function_sees_is_that_of_the_call(name: str) -> None:
    """Never an old number: numbers are guarded, tensors are inputs of the graph."""
    seen, backend = Seen(), Counting()

    def f(q: Tensor, kv: Tensor, options: dict[str, Any]) -> Tensor:
        return eintune.attention(q, kv, kv, **options) + 1

    compiled = torch.compile(f, backend=backend, fullgraph=name not in BREAKING)
    q = drawn(2, 4, 12, 16)
    for _ in range(4):
        argument, function = functions(seen)[name]
        for kv in (drawn(2, 4, 12, 16, seed=1), drawn(2, 2, 12, 16, seed=2)):
            torch.testing.assert_close(compiled(q, kv, {argument: function}), f(q, kv, {argument: function}))
        seen.change()
    assert bool(backend.operators) == (name not in BREAKING)


def test_a_function_made_within_the_program() -> None:
    def f(q: Tensor, slopes: Tensor, width: int, factor: float) -> Tensor:
        slopes = slopes * 2
        return eintune.attention(
            q, q, q, score_mod=lambda s, b, h, p, m: s * factor + slopes[h] * (m - p),
            mask_mod=lambda b, h, p, m: p - m < 6, window=width,
        )  # fmt: skip

    compiled = torch.compile(f, backend="eager", fullgraph=True)
    for n, width, factor in ((12, 3, 0.1), (9, 5, 0.1), (13, 7, 0.2), (14, 7, 0.3)):
        given = drawn(1, 2, n, 8), drawn(2, seed=n), width, factor
        torch.testing.assert_close(compiled(*given), f(*given))


@pytest.mark.parametrize("dynamic", [None, True])
def test_symbols_are_never_compared_with_positions(dynamic: bool | None) -> None:
    """PyTorch's compiler would say at once that an object is not equal to a symbol."""

    def f(q: Tensor, of: Tensor, one: int) -> Tensor:
        last = q.shape[2] - 2
        seen = eintune.attention(q, q, q, mask_mod=lambda b, h, p, m: (of[m] == one) | (p == m))
        return seen + eintune.attention(q, q, q, mask_mod=lambda b, h, p, m: (m == last) | (p > m))

    compiled = torch.compile(f, backend="eager", dynamic=dynamic)
    for n, one in ((12, 1), (9, 2), (13, 0), (14, 1)):
        given = drawn(1, 2, n, 8), torch.arange(n) // 4, one
        torch.testing.assert_close(compiled(*given), f(*given))


def test_what_a_function_asks_of_pythons_truth_is_told() -> None:
    def chosen(q: Tensor) -> Tensor:
        return eintune.attention(q, q, q, score_mod=lambda s, b, h, p, m: s if p > m else -s)

    with pytest.raises(torch._dynamo.exc.Unsupported, match="true or false"):
        torch.compile(chosen, backend="eager", fullgraph=True)(drawn(1, 2, 12, 8))
    torch._dynamo.reset()
    with pytest.raises(eintune.UnsupportedArgument, match="true or false"):
        torch.compile(chosen, backend="eager")(drawn(1, 2, 12, 8))
