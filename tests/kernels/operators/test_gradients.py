"""Gradients through `eintune.attention` and `eintune.compile`: right, the same bits each time, and as PyTorch asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import eintune
import eintune.operators

attend, run_cascade = torch.ops.eintune.attention.default, torch.ops.eintune.cascade.default
LAYERNORM = """
Mt = Xt,c / |c|
VRt = (Xt,c - Mt) * (Xt,c - Mt) / |c|
Yt,c = (Xt,c - Mt) / sqrt(VRt + eps) * Wc + Bc
"""


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def qkv(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Four query heads over two key heads, 5 queries, 6 keys."""
    return tuple(drawn(*s, dtype=dtype, seed=seed) for s in ((1, 4, 5, 3), (1, 2, 6, 3), (1, 2, 6, 2)))  # type: ignore[return-value]


MASK = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 1], [0] * 6, [1] * 6, [0, 0, 0, 1, 0, 0]]).bool()
DOCUMENTS = torch.tensor([[0, 0, 1, 1, 3]]), torch.tensor([[0, 0, 0, 1, 1, 2]])
WAYS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "plain": (lambda q, k, v: eintune.attention(q, k, v), ()),
    "lower right": (lambda q, k, v: eintune.attention(q, k, v, causal="lower_right"), ()),
    "window, softcap, lse": (
        lambda q, k, v: eintune.attention(q, k, v, causal=True, window=2, softcap=2.0, return_lse=True), ()
    ),
    "rows that see nothing": (lambda q, k, v: eintune.attention(q, k, v, mask=MASK), ()),
    "documents": (lambda q, k, v: eintune.attention(q, k, v, documents=DOCUMENTS), ()),
    "slopes and sinks": (
        lambda q, k, v, a, s: eintune.attention(q, k, v, causal=True, alibi=a, sinks=s), (drawn(4), drawn(4, seed=1))
    ),
    "head scale": (lambda q, k, v, x: eintune.attention(q, k, v, head_scale=x), (drawn(4),)),
    "bias of keys": (lambda q, k, v, x: eintune.attention(q, k, v, bias=x), (drawn(4, 1, 6),)),
    "bias": (lambda q, k, v, x: eintune.attention(q, k, v, bias=x), (drawn(1, 4, 5, 6),)),
    "relative bias": (lambda q, k, v, x: eintune.attention(q, k, v, relative_bias=x), (drawn(4, 10),)),
    "sigmoid": (lambda q, k, v: eintune.attention(q, k, v, sigmoid=True), ()),
    "score function": (
        lambda q, k, v, x: eintune.attention(
            q, k, v, causal=True, score_mod=lambda s, b, h, p, m: torch.tanh(s * x[h]) + x[h] * (m - p)
        ), (drawn(4),),
    ),
    "flex": (
        lambda q, k, v, x: eintune.flex_attention(
            q, k, v, lambda s, b, h, p, m: s + x[h] * (m - p), enable_gqa=True
        ), (drawn(4),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_against_finite_differences(name: str) -> None:
    call, more = WAYS[name]
    assert torch.autograd.gradcheck(call, (*qkv(), *more), nondet_tol=0.0)


@pytest.mark.parametrize("name", ["lower right", "slopes and sinks"])
def test_gradients_of_gradients(name: str) -> None:
    call, more = WAYS[name]
    assert torch.autograd.gradgradcheck(call, (*qkv(), *more))


def test_a_gradient_of_a_gradient_where_all_arguments_are_one_tensor() -> None:
    def second(attention: Callable[..., Tensor], q: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(attention(q, q, q).square().sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum(), q)[0]

    q = drawn(1, 2, 5, 3)
    by_hand = lambda q, k, v: torch.softmax(q @ k.mT * 3**-0.5, -1) @ v  # noqa: E731
    torch.testing.assert_close(second(eintune.attention, q), second(by_hand, q))


def test_a_row_that_sees_nothing_has_no_gradient() -> None:
    q, k, v = qkv()
    made = eintune.attention(q, k, v, mask=MASK)
    gradients = torch.autograd.grad(made.sum(), (q, k, v))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert not gradients[0][:, :, 2].any()


@pytest.mark.parametrize("number", [-1e10, -1e30, torch.finfo(torch.float32).min, 1e8, 3e6])
def test_scores_beside_which_the_logarithm_of_a_sum_is_nothing(number: float) -> None:
    """Two rows are hidden as a whole by a finite mask, as those of padded batches are: each key weighs the same."""
    q, k, v = (drawn(1, 2, 12, 8, dtype=torch.float32, seed=n) for n in range(3))
    seen = torch.ones(12, 12).tril().bool()
    seen[3], seen[7] = False, False
    mask = torch.zeros(12, 12).masked_fill(~seen, number)
    score = (q.double() @ k.double().mT * 8**-0.5).float() + mask
    wanted = torch.autograd.grad((torch.softmax(score.double(), -1) @ v.double()).square().sum(), (q, k, v))
    found = torch.autograd.grad(eintune.attention(q, k, v, bias=mask).square().sum(), (q, k, v))
    for g, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(g, w, atol=2e-6 * float(w.abs().max()), rtol=0)


@pytest.mark.parametrize("shape", [((1, 2, 0, 4), (1, 2, 6, 4)), ((1, 2, 5, 4), (1, 2, 0, 4))])
def test_nothing_to_attend_to(shape: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    q, k = (drawn(*s) for s in shape)
    sinks = drawn(2)
    made, lse = eintune.attention(q, k, k, sinks=sinks, return_lse=True)
    found = torch.autograd.grad(made.sum() + lse.sum(), (q, k, sinks))
    assert [tuple(g.shape) for g in found] == [tuple(q.shape), tuple(k.shape), (2,)]
    assert not found[0].any() and not found[1].any()
    assert found[2].tolist() == [float(lse.numel() // 2)] * 2


def _errors(attention: Callable[..., Tensor], given: tuple[Tensor, ...], cotangent: Tensor, exact: Any) -> list[float]:
    found = torch.autograd.grad(attention(*given), given, cotangent)
    return [float((g.double() - e).abs().max()) for g, e in zip(found, exact, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_errors_are_at_most_twice_eager_pytorchs(causal: bool, dtype: torch.dtype) -> None:
    q, k, v = (drawn(2, 3, 70, 32, seed=n) for n in range(3))
    given = tuple(t.detach().to(dtype).requires_grad_() for t in (q, k, v))
    wide = tuple(t.detach().double().requires_grad_() for t in given)
    hidden = torch.ones(70, 70, dtype=torch.bool).tril().logical_not() if causal else torch.zeros(70, 70).bool()

    def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        score = (q @ k.mT * 32**-0.5).masked_fill(hidden, -torch.inf)
        return torch.softmax(score, -1) @ v

    cotangent = torch.randn(2, 3, 70, 32, generator=torch.Generator().manual_seed(9)).to(dtype)
    exact = torch.autograd.grad(by_hand(*wide), wide, cotangent.double())
    eager = _errors(by_hand, given, cotangent, exact)
    made = _errors(lambda *t: eintune.attention(*t, causal=causal), given, cotangent, exact)
    for ours, theirs, e in zip(made, eager, exact, strict=True):
        assert ours <= 2 * theirs + torch.finfo(dtype).eps * float(e.abs().max())


def test_gradients_are_the_same_bits_each_time() -> None:
    q, k, v = (drawn(2, 4, 130, 32, dtype=torch.float32, seed=n) for n in range(3))
    slopes, sinks = drawn(4, dtype=torch.float32), drawn(4, dtype=torch.float32, seed=1)
    given = (q, k, v, slopes, sinks)

    def once() -> tuple[Tensor, ...]:
        return torch.autograd.grad(eintune.attention(q, k, v, causal=True, alibi=slopes, sinks=sinks).sum(), given)

    first = once()
    for _ in range(20):
        assert all(map(torch.equal, once(), first))


def test_only_what_is_needed_is_computed() -> None:
    q, k, v = (t.detach() for t in qkv())
    v.requires_grad_()
    made = eintune.attention(q, k, v)
    made.sum().backward()
    assert q.grad is None and k.grad is None and v.grad is not None


def test_strided_and_expanded_inputs() -> None:
    base = drawn(1, 6, 2, 4)
    q, k, v = base.transpose(1, 2), base[:, :1].transpose(1, 2).expand(1, 2, 6, 4), base.transpose(1, 2)[..., :3]
    found = torch.autograd.grad(eintune.attention(q, k, v).square().sum(), base)[0]
    wanted = torch.autograd.grad(scaled_dot_product_attention(q, k, v).square().sum(), base)[0]
    torch.testing.assert_close(found, wanted)


def test_a_bias_that_is_broadcast_gets_the_sum() -> None:
    q, k, v = qkv()
    bias = drawn(1, 1, 5, 1)
    found = torch.autograd.grad(eintune.attention(q, k, v, bias=bias).sum(), bias)[0]
    assert found.shape == bias.shape
    assert found.abs().max() < 1e-12  # a number that all keys of a row have in common changes nothing


# ---- cascades


@pytest.mark.parametrize(
    ("text", "shapes", "params"),
    [
        ("Zm,n = Ak,m * Bk,n", [(5, 3), (5, 4)], {}),
        (LAYERNORM, [(4, 6), (6,), (6,)], {"eps": 1e-5}),
        ("Rt = sqrt(sum[c](Xt,c * Xt,c) / |c| + eps)\nYt,c = Xt,c / Rt * Wc", [(4, 6), (6,)], {"eps": 1e-5}),
        ("Mt = Xt,c :: \\/c max\nEt,c = e^(Xt,c - Mt)\nYt,c = Et,c / sum[c](Et,c)", [(4, 6)], {}),
        (
            "Ht,f = silu(sum[e](Xt,e * We,f)) * sum[e](Xt,e * Ue,f)\nZt,o = Ht,f * Af,o",
            [(4, 3), (3, 5), (3, 5), (5, 2)],
            {},
        ),
        ("Zt = Xt,c :: \\/c max", [(4, 6)], {}),
    ],
)
def test_cascades_against_finite_differences(
    text: str, shapes: list[tuple[int, ...]], params: dict[str, float]
) -> None:
    run = eintune.compile(text, params=params)
    given = tuple(drawn(*s, seed=n) for n, s in enumerate(shapes))
    assert torch.autograd.gradcheck(run, given, nondet_tol=0.0)


def test_gradients_of_gradients_of_a_cascade() -> None:
    run = eintune.compile(LAYERNORM, params={"eps": 1e-5})
    assert torch.autograd.gradgradcheck(run, (drawn(3, 4), drawn(4), drawn(4)))


def test_cross_entropy() -> None:
    run = eintune.compile(
        "input Xt,c\ninput Tt : int\nMt = Xt,c :: \\/c max\nLt = log(sum[c](e^(Xt,c - Mt))) + Mt - X[t,T[t]]"
    )
    logits, labels = drawn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    loss = run(X=logits, T=labels)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    found = torch.autograd.grad(loss.mean(), logits)[0]
    torch.testing.assert_close(found, torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), logits)[0])


def test_a_forward_without_gradients_writes_no_residuals() -> None:
    run = eintune.compile(LAYERNORM, params={"eps": 1e-5})
    given = [t.detach() for t in (drawn(4, 6), drawn(6), drawn(6))]
    assert len(run_cascade(given, run.stated)) == 1
    given[0].requires_grad_()
    made = run(*given)
    assert len(made.grad_fn.next_functions) and made.requires_grad


def test_some_dtypes_by_name() -> None:
    run = eintune.compile("Zm = Am\nYm = Am * 2\nresults: Z, Y", dtype={"Y": "fp32"})
    assert [t.dtype for t in run(torch.ones(3, dtype=torch.bfloat16))] == [torch.bfloat16, torch.float32]
    for wrong in ({"X": "fp32"}, {"Y": "fp3"}):
        with pytest.raises(ValueError, match="`dtype` must"):
            eintune.compile("Zm = Am\nYm = Am * 2\nresults: Z, Y", dtype=wrong)


# ---- PyTorch's tools


def test_pytorch_checks_the_operators_with_gradients() -> None:
    q, k, v = (t.detach().float().requires_grad_() for t in qkv())
    slopes = drawn(4, dtype=torch.float32)
    opcheck(attend, (q, k, v, [], '{"causal":"top_left","options":{"return_lse":true}}'))
    opcheck(attend, (q, k, v, [slopes], '{"inputs":{"alibi":0},"options":{"return_lse":true}}'))
    norm = eintune.compile(LAYERNORM, params={"eps": 1e-5})
    opcheck(run_cascade, ([drawn(4, 6), drawn(6), drawn(6)], norm.stated))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_training_step_takes_any_length(backend: str) -> None:
    """One graph, and no other for another length."""
    weights = torch.nn.Parameter(drawn(8, 8, dtype=torch.float32).detach() * 0.3)
    slopes = torch.nn.Parameter(torch.rand(2))
    graphs = CompileCounterWithBackend(backend)

    def loss(x: Tensor) -> Tensor:
        q = (x @ weights).unflatten(-1, (2, 4)).transpose(1, 2)
        return eintune.attention(q, q, q, causal=True, alibi=slopes).square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=graphs, fullgraph=True, dynamic=True)
    for length in (7, 12, 20, 33):
        x = drawn(2, length, 8, dtype=torch.float32, seed=length).detach()
        found = torch.autograd.grad(compiled(x), (weights, slopes))
        wanted = torch.autograd.grad(loss(x), (weights, slopes))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
    assert graphs.frame_count == 1


def test_a_compiled_cascade_in_a_compiled_training_step() -> None:
    norm = eintune.compile(LAYERNORM, params={"eps": 1e-5})
    w, b = drawn(8, dtype=torch.float32), drawn(8, dtype=torch.float32, seed=1)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: norm(x, w, b).square().mean(), backend="aot_eager", fullgraph=True)
    x = drawn(5, 8, dtype=torch.float32)
    wanted = torch.autograd.grad(torch.nn.functional.layer_norm(x, (8,), w, b).square().mean(), (x, w, b))
    for a, c in zip(torch.autograd.grad(compiled(x), (x, w, b)), wanted, strict=True):
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    q, k, v = qkv()
    f = lambda q, k, v: eintune.attention(q, k, v, causal=True)  # noqa: E731
    wanted = torch.autograd.grad(f(q, k, v).sum(), (q, k, v))
    checkpoint(f, q, k, v, use_reentrant=reentrant).sum().backward()
    for t, w in zip((q, k, v), wanted, strict=True):
        torch.testing.assert_close(t.grad, w)


def test_autocast() -> None:
    q, k, v = qkv(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = eintune.attention(q, k, v)
    assert made.dtype == torch.bfloat16
    for g, t in zip(torch.autograd.grad(made.float().sum(), (q, k, v)), (q, k, v), strict=True):
        assert g.dtype == t.dtype == torch.float32


def test_transforms() -> None:
    q = drawn(3, 1, 2, 5, 4).detach()
    wanted = torch.stack(
        [
            torch.autograd.grad(scaled_dot_product_attention(x, x, x).square().sum(), x)[0]
            for x in (t.clone().requires_grad_() for t in q)
        ]
    )
    f = lambda x: eintune.attention(x, x, x).square().sum()  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(f))(q), wanted)
    torch.testing.assert_close(torch.stack([torch.func.grad(f)(x) for x in q]), wanted)
    each = lambda q: torch.func.vmap(f)(q).sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(each)(q), wanted)


def test_under_no_grad_nothing_is_recorded() -> None:
    q, k, v = qkv()
    with torch.no_grad():
        assert not eintune.attention(q, k, v).requires_grad
        assert not eintune.attention(q, k, v, window=2).requires_grad


def test_what_has_no_gradient_is_said() -> None:
    q, k, v = qkv()
    with pytest.raises(eintune.UnsupportedArgument, match="`scale` has no gradient: multiply `q` by it"):
        eintune.attention(q, k, v, scale=torch.tensor(1.0, requires_grad=True))


# ---- masks and logits as programs have them


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.bfloat16).min, -1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_additive_masks(dtype: torch.dtype, hidden: float) -> None:
    """Padding on the right, causal: each row sees a key."""
    q, k, v = (drawn(2, 2, 24, 16, dtype=dtype, seed=n) for n in range(3))
    seen = torch.ones(2, 1, 24, 24, dtype=torch.bool).tril()
    seen[0, :, :, 18:] = False
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, hidden)
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    cotangent = drawn(2, 2, 24, 16, seed=7).detach()
    score = (wide[0] @ wide[1].mT * 0.25).masked_fill(~seen, -torch.inf)
    exact = torch.autograd.grad(torch.softmax(score, -1) @ wide[2], wide, cotangent.to(dtype).double())
    made = torch.autograd.grad(eintune.attention(q, k, v, bias=mask), (q, k, v), cotangent.to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for g, e in zip(made, exact, strict=True):
        assert float((g.double() - e).abs().max()) <= tolerance * float(e.abs().max())


def test_logits_of_which_most_are_filtered_out() -> None:
    """Top-k filtering leaves -inf; a row may be all of it."""
    drawn_logits = drawn(6, 50, dtype=torch.float32).detach()
    kept = torch.topk(drawn_logits, 8).indices
    logits = torch.full((6, 50), -torch.inf).scatter(1, kept, drawn_logits.gather(1, kept))
    logits[5] = -torch.inf
    logits.requires_grad_()
    softmax = eintune.compile("Mt = Xt,c :: \\/c max\nEt,c = e^(Xt,c - Mt)\nYt,c = Et,c / sum[c](Et,c)")
    logsumexp = eintune.compile("Mt = Xt,c :: \\/c max\nLt = log(sum[c](e^(Xt,c - Mt))) + Mt")
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    for made, wanted in (
        ((softmax(logits) * weights)[:5].sum(), (torch.softmax(logits[:5], -1) * weights[:5]).sum()),
        (logsumexp(logits)[:5].sum(), torch.logsumexp(logits[:5], -1).sum()),
    ):
        found, exact = (torch.autograd.grad(x, logits)[0] for x in (made, wanted))
        torch.testing.assert_close(found[:5], exact[:5], atol=1e-6, rtol=1e-5)
        assert not found[5].any()
    assert not torch.autograd.grad(softmax(logits)[5].sum(), logits)[0].any()
