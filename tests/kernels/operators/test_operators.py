"""The operators by themselves: schemas, PyTorch's own checks, gradients, autocast, vmap, fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap
from torch.library import opcheck

import eintune

norm = eintune.compile("Nb,h,p = Qb,h,p,e * Kb,h,p,e\nDb,h,p,e = Qb,h,p,e + Qb,h,p,e\nresults: N, D", name="norm")
attend, run_cascade = torch.ops.eintune.attention.default, torch.ops.eintune.cascade.default


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


Q, K, V = (drawn(2, 4, 12, 16, seed=n) for n in range(3))
BY_HEAD, DOCUMENTS = drawn(4), torch.arange(12, dtype=torch.int32).expand(2, 12) // 5


def test_schemas() -> None:
    assert str(attend._schema) == (
        "eintune::attention(Tensor q, Tensor k, Tensor v, Tensor[] others, str program) -> Tensor[]"
    )
    assert str(run_cascade._schema) == "eintune::cascade(Tensor[] inputs, str program) -> Tensor[]"


LAST_AXIS_STRIDED = drawn(2, 4, 16, 12).transpose(2, 3)
CHECKED: dict[str, tuple[Any, ...]] = {
    "plain": (Q, K, V, [], "{}"),
    "options": (Q, K, V, [], '{"causal":"lower_right","options":{"softcap":3.0,"window":5},"scale":0.3}'),
    "lse": (Q, K, V, [], '{"causal":"top_left","options":{"return_lse":true}}'),
    "lse, fp64": (Q.double(), K.double(), V.double(), [], '{"options":{"return_lse":true}}'),
    "bf16": (Q.bfloat16(), K.bfloat16(), V.bfloat16(), [], '{"options":{"return_lse":true}}'),
    "grouped": (Q, K[:, :2], V[:, :2], [BY_HEAD], '{"inputs":{"sinks":0}}'),
    "tensors": (Q, K, V, [BY_HEAD, DOCUMENTS, DOCUMENTS], '{"inputs":{"alibi":0,"documents":[1,2]}}'),
    "function": (Q, K, V, [BY_HEAD], '{"functions":{"score_mod":{"axes":{"USX":"h"},"tensors":{"USX":0},'
                 '"text":"Rb,h,p,m = score + USXh * index(p)"}}}'),
    "strides": (LAST_AXIS_STRIDED, K.transpose(0, 1).contiguous().transpose(0, 1), V[..., :8], [], "{}"),
    "no queries": (Q[:, :, :0], K, V, [], '{"options":{"return_lse":true}}'),
    "no keys": (Q, K[:, :, :0], V[:, :, :0], [], '{"options":{"return_lse":true}}'),
    "no values": (Q, K, V[..., :0], [], '{"options":{"return_lse":true}}'),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKED)
def test_pytorch_checks_attention(name: str) -> None:
    opcheck(attend, CHECKED[name])
    with torch.no_grad():
        opcheck(attend, tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in CHECKED[name]))


def test_pytorch_checks_a_cascade() -> None:
    for given in ([Q, K], [Q.bfloat16(), K], [Q[:, :, :0], K[:, :, :0]], [LAST_AXIS_STRIDED, K]):
        opcheck(run_cascade, (given, norm.stated))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_pytorchs_attention(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        for q, k, v in ((Q, K, V.to(dtype)), (Q.to(dtype), K, V), (Q.double(), K.double(), V.double())):
            wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            for got in (attend(q, k, v, [], "{}")[0], eintune.attention(q, k, v)):
                assert got.dtype == wanted.dtype
                torch.testing.assert_close(got, wanted, atol=2e-2, rtol=2e-2)
        assert eintune.attention(Q, K, V, bias=drawn(12, 12)).dtype == dtype
        assert eintune.scaled_dot_product_attention(Q[0], K[0], V[0], drawn(12, 12)).dtype == dtype
        assert run_cascade([Q, K], norm.stated)[0].dtype == torch.float32  # a cascade says what its dtypes are
    assert eintune.attention(Q, K, V).dtype == torch.float32


# ---- vmap


def modified(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, documents: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return eintune.attention(q, k, v, sinks=sinks, documents=documents, bias=bias, return_lse=True)


def by_hand(function: Callable[..., Any], dims: Sequence[int | None], given: Sequence[Tensor]) -> Any:
    made = [function(*[t if d is None else t.select(d, n) for t, d in zip(given, dims, strict=True)]) for n in range(3)]
    return torch.stack(made) if isinstance(made[0], Tensor) else tuple(map(torch.stack, zip(*made, strict=True)))


@pytest.mark.parametrize("dims", [(0, 0, 0), (2, None, None), (None, 1, 4), (None, None, 0)])
def test_vmap_of_attention(dims: tuple[int | None, ...]) -> None:
    given = [
        (Q, K, V)[n] if d is None else torch.stack([(Q, K, V)[n] * x for x in (1, 2, 3)], d) for n, d in enumerate(dims)
    ]

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return eintune.attention(q, k, v, causal=True)

    torch.testing.assert_close(vmap(causal, in_dims=dims)(*given), by_hand(causal, dims, given))


BIAS = drawn(12, 12)
BATCHED = {
    "sinks": (drawn(3, 4), 0),
    "documents": (torch.randint(0, 2, (2, 3, 12)), 1),
    "documents without a batch": (torch.randint(0, 2, (3, 12)), 0),
    "bias": (drawn(3, 12, 12), 0),
    "bias with a batch": (drawn(2, 1, 12, 3, 12), 3),
}


@pytest.mark.parametrize("name", ["", *BATCHED])
def test_vmap_of_modifiers(name: str) -> None:
    """What is given by head differs from call to call: these are made one after another."""
    usual: dict[str, tuple[Tensor, int | None]] = {
        "sinks": (BY_HEAD, None), "documents": (DOCUMENTS, None), "bias": (BIAS, None)
    }  # fmt: skip
    if name:
        usual[name.split()[0]] = BATCHED[name]
    given, dims = zip(
        (torch.stack([Q, K, V]), 0), (K, None), (V, None), *(usual[n] for n in ("sinks", "documents", "bias")),
        strict=True,
    )  # fmt: skip
    got = vmap(modified, in_dims=dims)(*given)
    for a, b in zip(got, by_hand(modified, dims, given), strict=True):
        torch.testing.assert_close(a, b)


def test_vmap_of_functions_of_cascades_and_of_vmap() -> None:
    def by_batch(q: Tensor) -> Tensor:
        return eintune.attention(q, K, V, score_mod=lambda s, b, h, p, m: s * (b + 1))

    given = torch.stack([Q, K, V])
    torch.testing.assert_close(vmap(by_batch)(given), by_hand(by_batch, (0,), (given,)))
    for a, b in zip(vmap(norm, in_dims=(0, None))(given, K), by_hand(norm, (0, None), (given, K)), strict=True):
        torch.testing.assert_close(a, b)

    def plain(q: Tensor) -> Tensor:
        return eintune.attention(q, K, V)

    twice = vmap(vmap(plain))(torch.stack([given, given]))
    torch.testing.assert_close(twice, by_hand(plain, (0,), (given,)).expand(2, *given.shape))


def test_vmap_of_pytorchs_function() -> None:
    def padded(q: Tensor, mask: Tensor) -> Tensor:
        return eintune.scaled_dot_product_attention(q, K, V, mask)

    given, masks = torch.stack([Q, K, V]), drawn(3, 2, 1, 1, 12) > -1
    torch.testing.assert_close(vmap(padded)(given, masks), by_hand(padded, (0, 0), (given, masks)))


def test_gradients_through_vmap() -> None:
    def summed(q: Tensor) -> Tensor:
        return vmap(lambda q: eintune.attention(q, q, q))(q).sum()

    given = torch.stack([Q, K]).double()
    wanted = given.clone().requires_grad_()
    torch.nn.functional.scaled_dot_product_attention(wanted, wanted, wanted).sum().backward()
    torch.testing.assert_close(torch.func.grad(summed)(given), wanted.grad)


# ---- shapes without numbers


def test_fake_tensors_have_a_calls_shapes() -> None:
    given = (Q, K, V[..., :8])
    wanted = eintune.attention(*given, return_lse=True, causal=True)
    with FakeTensorMode() as mode:
        q, k, v = (mode.from_tensor(t) for t in given)
        got = eintune.attention(q, k, v, return_lse=True, causal=True)
        assert [(t.shape, t.dtype, t.stride()) for t in got] == [(t.shape, t.dtype, t.stride()) for t in wanted]
        assert norm(q, k)[0].shape == Q.shape[:3]
        with pytest.raises(eintune.UnsupportedArgument, match="`q` and `k` must agree in batch"):
            eintune.attention(q[:1], k, v)
        with pytest.raises(eintune.UnsupportedArgument, match="rank p must have one size"):
            norm(q, k[:, :, :5])
        with pytest.raises(eintune.UnsupportedArgument, match="reads 2 inputs, but got 1"):
            run_cascade([q], norm.stated)
        with pytest.raises(ValueError, match="on one device"):
            run_cascade([q, torch.empty(Q.shape, device="cuda")], norm.stated)


# ---- programs


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("", "must be what this version writes"),
        ('{"colour":1}', "must be what this version writes"),
        ('{"causal":"left"}', "must be what this version writes"),
        ('{"options":{"colour":1}}', "modifiers are head_scale"),
        ('{"inputs":{"sinks":3}}', "must read each input once"),
        ('{"inputs":{"sinks":0}}', "reads 1 inputs, but got 0"),
        ('{"functions":{"bias":{"text":"Rb,h,p,m = score"}}}', "functions are score_mod, mask_mod"),
        ('{"functions":{"score_mod":{"text":"Rb,h,p,m = score +"}}}', "must be one einsum"),
        ('{"functions":{"score_mod":{"text":"Rp,m = score"}}}', "must be over all positions"),
        ('{"functions":{"score_mod":{"text":"Rb,h,p,m = score * other"}}}', "the score alone, but reads other"),
        ('{"functions":{"score_mod":{"text":"Rb,h,p,m = score * Xh"}}}', "reads \\['X'\\], but its inputs are"),
        ('{"functions":{"score_mod":{"grouped":true,"text":"Rb,h,g,p,m = score"}}}', "was traced for heads"),
    ],
)
def test_programs_that_are_none(program: str, says: str) -> None:
    with pytest.raises(eintune.UnsupportedArgument, match=says) as refused:
        attend(Q, K, V, [], program)
    assert "\n" not in str(refused.value)
    if says == "was traced for heads":
        return  # a compiler may have heads as symbols: that is looked at in a call
    with pytest.raises(eintune.UnsupportedArgument, match=says), FakeTensorMode(allow_non_fake_inputs=True):
        attend(Q, K, V, [], program)


def test_a_cascades_program_that_is_none() -> None:
    for program, says in (("{}", "what this version writes"), ('{"cascade":"Z = "}', "must have a cascade")):
        with pytest.raises(eintune.UnsupportedArgument, match=says):
            run_cascade([Q, K], program)
