"""The definitions compute what they say, and the attention problem refuses bad sizes in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from eintune.space.cascade import Cascade
from eintune.space.evaluate import run_cascade
from eintune.space.workloads import CAUSAL, SHIPPED, WORKLOADS, attention, attention_problem

T = {"b": 2, "h": 2, "g": 3, "p": 5, "m": 7, "e": 4, "f": 6, "k": 3, "n": 4}


def outputs(cascade: Cascade, params: dict[str, float] | None = None) -> tuple[dict[str, Any], np.ndarray]:
    rng = np.random.default_rng(0)
    data = {n: rng.normal(size=[T[r] for r in t.ranks]) for n, t in cascade.inputs.items()}
    (result,) = run_cascade(cascade, data, params=params).values()
    return {n: torch.from_numpy(a) for n, a in data.items()}, result


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("causal", CAUSAL)
def test_attention_is_pytorchs(causal: Any, grouped: bool) -> None:
    data, got = outputs(attention(causal=causal, grouped=grouped), {"scale": 0.3})
    q, k, v = (data[n] for n in "QKV")
    if grouped:
        k, v = k[:, :, None], v[:, :, None]
    keep = torch.ones(T["p"], T["m"], dtype=torch.bool)
    if causal is not None:
        keep = keep.tril(0 if causal == "top_left" else T["m"] - T["p"])
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=keep, scale=0.3)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-12)


def test_the_other_definitions_are_pytorchs() -> None:
    functional = torch.nn.functional
    size = (T["m"],)
    wanted = {
        "softmax": lambda d: torch.softmax(d["X"], -1),
        "logsumexp": lambda d: torch.logsumexp(d["X"], -1),
        "variance": lambda d: d["X"].var(-1, unbiased=False),
        "layernorm": lambda d: functional.layer_norm(d["X"], size, d["W"], d["B"], 0.1),
        "rmsnorm": lambda d: functional.rms_norm(d["X"], size, d["W"], 0.1),
        "gemm": lambda d: d["A"] @ d["B"],
        "linear_attention": lambda d: d["Q"] @ d["K"].T @ d["V"],
        "gelu_mlp": lambda d: functional.gelu(d["X"] @ d["U"] + d["B"]) @ d["W"],
    }
    assert set(wanted) | {"attention"} == set(WORKLOADS)
    for name, want in wanted.items():
        data, got = outputs(WORKLOADS[name](), {"eps": 0.1})
        np.testing.assert_allclose(got, want(data).numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_definitions_survive_their_text() -> None:
    for cascade in (*(w() for w in WORKLOADS.values()), *SHIPPED.values()):
        assert Cascade.parse(str(cascade)) == cascade


GOOD: dict[str, Any] = {
    "batch": 2,
    "heads": 8,
    "kv_heads": 2,
    "seq": 16,
    "kv_seq": 32,
    "head_dim": 64,
    "dtype": "bf16",
}


def test_a_problem_has_all_sizes_and_types() -> None:
    problem = attention_problem(**GOOD)
    assert problem.sizes == {"b": 2, "h": 2, "g": 4, "p": 16, "m": 32, "e": 64, "f": 64}
    assert problem.dtypes == dict.fromkeys(("Q", "K", "V", "AV"), "bf16")
    assert problem.params == {"scale": 0.125}
    assert Cascade.parse(problem.cascade) == attention(grouped=True)
    plain = attention_problem(**{**GOOD, "kv_heads": 8, "value_dim": 32, "scale": -2.0, "causal": "top_left"})
    assert "g" not in plain.sizes
    assert plain.sizes["f"] == 32
    assert plain.params == {"scale": -2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq": 0}, r"`seq` must be a positive integer, but got 0"),
        ({"batch": -1}, r"`batch` must be a positive integer, but got -1"),
        ({"heads": True}, r"`heads` must be a positive integer, but got True"),
        ({"seq": 2.0}, r"`seq` must be a positive integer, but got 2.0"),
        ({"head_dim": 513}, r"`head_dim` must be at most 512, but got 513"),
        ({"value_dim": 1024}, r"`value_dim` must be at most 512, but got 1024"),
        ({"kv_heads": 3}, r"`heads` must be a multiple of `kv_heads`.*kv_heads=3.*one of \[1, 2, 4, 8\]"),
        ({"seq": 2**40}, r"at most 2\*\*36 elements, but batch 2 x heads 8 .* gives \d+"),
        ({"dtype": "int4"}, r"`dtype` must be one of \['fp32', 'fp16', 'bf16', 'fp64'\], but got 'int4'"),
        ({"scale": float("inf")}, r"`scale` must be a finite number, but got inf"),
        ({"causal": "bottom"}, r"`causal` must be one of \[None, 'top_left', 'lower_right'\], but got 'bottom'"),
    ],
)
def test_bad_problems_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        attention_problem(**{**GOOD, **change})
    assert "\n" not in str(error.value)
