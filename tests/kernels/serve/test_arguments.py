"""Arguments of every odd kind: one line that says which and why, or the right result; never another error."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import eintune
from eintune import UnsupportedArgument

B, H, P, E = 2, 2, 6, 8


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "arguments"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Q = drawn(B, H, P, E)


class Subclass(Tensor):
    """As a library may have one: what it means is its own."""


ODD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "sparse": (lambda t: t.to_sparse(), "layout torch.sparse_coo"),
    "sparse rows": (lambda t: t[0, 0].to_sparse_csr(), "layout torch.sparse_csr"),
    "mkldnn": (lambda t: t.to_mkldnn(), "layout torch._mkldnn"),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "a nested tensor"),
    "jagged": (lambda t: torch.nested.nested_tensor(list(t[:, 0]), layout=torch.jagged), "a nested tensor"),
    "meta": (lambda t: t.to("meta"), "on a CPU or CUDA device, but is on meta"),
    "subclass": (lambda t: t.as_subclass(Subclass), "a subclass of torch.Tensor \\(Subclass\\)"),
    "zeros without memory": (lambda t: torch._efficientzerotensor(t.shape), "without memory"),
    "negated": (lambda t: torch.complex(t, t).conj().imag, "lazily negated"),
    "complex": (lambda t: torch.complex(t, t), "must have a dtype among"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "must have a dtype among"),
    "text": (lambda t: "q", "must be a torch.Tensor, but got str"),
    "nothing": (lambda t: None, "must be a torch.Tensor, but got NoneType"),
    "an array": (lambda t: t.numpy(), "must be a torch.Tensor, but got ndarray"),
}


def one_line(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(UnsupportedArgument, match=says) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD)
def test_tensors_of_other_kinds(name: str) -> None:
    make, says = ODD[name]
    odd = make(Q)
    dense = torch.zeros(1).expand(B, H, P, E)
    eintune.attention(dense, dense, dense)  # ready for strides of 0, which sparse tensors say they have
    for which in range(3):
        given = [Q, Q, Q]
        given[which] = odd
        one_line(lambda given=given: eintune.attention(*given), says if which == 0 or "dtype" not in says else "dtype")
        one_line(lambda given=given: eintune.attention(*given, window=3), says if which == 0 else "")
        one_line(lambda given=given: eintune.scaled_dot_product_attention(*given), "")
    with pytest.raises(ValueError) as error:
        eintune.compile("Zb,h,p = Qb,h,p,e")(odd)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("argument", ["bias", "alibi", "sinks", "documents", "mask", "score_mod", "softcap"])
def test_modifiers_of_other_kinds(name: str, argument: str) -> None:
    odd = ODD[name][0](Q if argument != "alibi" else Q[:, :1, :1, :1].expand(B, H, P, E))
    if odd is None:
        return  # as if it were not given
    given: Any = (lambda s, b, h, p, m: s + odd[b, h, p, m]) if argument == "score_mod" else odd
    one_line(lambda: eintune.attention(Q, Q, Q, **{argument: given}), "")


def test_tensors_under_a_transform() -> None:
    eintune.attention(Q[0][None], Q[0][None], Q[0][None])
    one_line(lambda: torch.func.jvp(lambda q: eintune.attention(q, q, q), (Q,), (Q,)), "transformed|dual")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(Q, Q)
        one_line(lambda: eintune.attention(dual, Q, Q), "dual")
        one_line(lambda: eintune.attention(Q, Q, Q, sinks=dual[0, :, 0, 0]), "dual")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scale": 10**400}, "`scale` must be a finite number"),
        ({"scale": 10**5000}, "`scale` must be a finite number"),
        ({"scale": 1e300}, "must be a float32 number"),
        ({"scale": drawn(2)}, "`scale` must be a finite number"),
        ({"scale": "2"}, "`scale` must be a finite number"),
        ({"bias": torch.zeros(P, P, dtype=torch.complex64)}, "`bias` must have a dtype among"),
        ({"causal": drawn(2)}, "`causal` must be False, True"),
        ({"causal": {}}, "`causal` must be False, True"),
        ({"window": 10**20}, "`window` must be at most 2147483647"),
        ({"window": 10**5000}, "`window` must be at most 2147483647, but got a number of 16610 bits"),
        ({"prefix": 2**31}, "`prefix` must be at most 2147483647"),
        ({"window": {}}, "`window` must be a number, a tensor or a pair of tensors, but got dict"),
        ({"softcap": 10**400}, "`softcap` must be from 1e-30 to"),
        ({"softcap": drawn()}, "`softcap` must be a positive number"),
        ({"sigmoid": "yes"}, "`sigmoid` must be True or False, but got str"),
        ({"return_lse": drawn()}, "`return_lse` must be True or False, but got Tensor"),
        ({"documents": [1, 2, 3]}, "`documents` must be"),
        ({"mask_mod": lambda b, h, p, m: p - m < 10**20}, "mask_mod compares positions with numbers beyond 2147483647"),
        ({"mask_mod": lambda b, h, p, m: p * 10**9 < m}, "mask_mod compares positions with numbers beyond 2147483647"),
        ({"score_mod": lambda s, b, h, p, m: s * 10**400}, "OverflowError"),
        ({"score_mod": lambda s, b, h, p, m: s ** (10**4000)}, "whole powers go from 1 to 16"),
    ],
)
def test_numbers_that_are_none(given: dict[str, Any], says: str) -> None:
    one_line(lambda: eintune.attention(Q, Q, Q, **given), says)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"attn_mask": "x"}, "`attn_mask` must be a torch.Tensor, but got str"),
        ({"dropout_p": "x"}, "`dropout_p` must be 0.0, but got 'x'"),
        ({"dropout_p": drawn(2)}, "`dropout_p` must be 0.0, but got 'Tensor'"),
        ({"is_causal": "yes"}, "`is_causal` must be True or False, but got str"),
        ({"scale": "x"}, "`scale` must be a finite number"),
        ({"scale": "0.5"}, "`scale` must be a finite number or None, but got '0.5'"),
        ({"scale": b"1"}, "`scale` must be a finite number"),
        ({"enable_gqa": "no"}, "`enable_gqa` must be True or False, but got str"),
        ({"enable_gqa": None}, "`enable_gqa` must be True or False, but got NoneType"),
        ({"enable_gqa": drawn(2)}, "`enable_gqa` must be True or False, but got Tensor"),
        ({"attn_mask": Q[..., :P].to_sparse()}, "layout torch.sparse_coo"),
    ],
)
def test_other_arguments_of_pytorchs_signature(given: dict[str, Any], says: str) -> None:
    one_line(lambda: eintune.scaled_dot_product_attention(Q, Q, Q, **given), says)


def test_numbers_at_the_bounds_are_right() -> None:
    want = eintune.attention(Q, Q, Q)
    assert torch.equal(eintune.attention(Q, Q, Q, window=2**31 - 1), want)
    torch.testing.assert_close(eintune.attention(Q, Q, Q, prefix=2**31 - 1), want)
    torch.testing.assert_close(eintune.attention(Q, Q, Q, softcap=1e6), want, rtol=1e-4, atol=1e-4)
    for window in (P, P + 1, 3 * P):
        torch.testing.assert_close(eintune.attention(Q, Q, Q, window=window, window_both=True), want)


def test_a_scale_is_read_of_a_tensor_at_each_call() -> None:
    scale = torch.tensor(0.0)
    for x in (0.5, 0.25, 2.0):
        scale.fill_(x)
        want = torch.softmax(Q @ Q.mT * x, -1) @ Q
        torch.testing.assert_close(eintune.attention(Q, Q, Q, scale=scale), want)
        lse = eintune.attention(Q, Q, Q, scale=scale, return_lse=True)[1]
        torch.testing.assert_close(lse, torch.logsumexp(Q @ Q.mT * x, -1))
    with pytest.raises(UnsupportedArgument, match="`scale` has no gradient"):
        eintune.attention(Q, Q, Q, scale=scale.requires_grad_())


def test_a_parameter_is_a_tensor() -> None:
    weights = torch.nn.Parameter(Q, requires_grad=False)
    assert torch.equal(eintune.attention(weights, Q, Q), eintune.attention(Q, Q, Q))
    assert math.isfinite(float(eintune.compile("Zb = Qb,h,p,e")(weights).sum()))
