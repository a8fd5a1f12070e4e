"""The definitions compute what they say, and the attention problem refuses bad sizes in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Values
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.gathers import completed, limits, shapes
from eintune.space.workloads.builtin import CAUSAL, SHIPPED, WORKLOADS, Attention, attention, attention_problem
from eintune.space.workloads.modifiers import Causal, Documents, Softcap, Window

T = {"b": 2, "h": 2, "g": 3, "p": 5, "m": 7, "e": 4, "f": 6, "k": 3, "n": 4}


def outputs(cascade: Cascade, params: dict[str, float] | None = None) -> tuple[dict[str, Any], np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = cascade.equalised(T)
    bodies = [e.expr for e in cascade.einsums]
    sizes = completed(bodies, sizes, rows=9)
    below, shape_of = limits(bodies, sizes), shapes(bodies, sizes)
    data = {n: rng.normal(size=shape_of[n]) for n in cascade.inputs}
    integers = [n for n, t in cascade.inputs.items() if t.kind == "int"]
    data |= {n: rng.integers(0, below.get(n, T["m"]), shape_of[n]) for n in integers}
    (result,) = run_cascade(cascade, data, sizes, params=params).values()
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

    def six_operators(d: dict[str, Any]) -> Any:
        return torch.exp(d["Q"] @ d["K"].T - d["Q"]).sqrt().reciprocal()

    def long_chain(d: dict[str, Any]) -> Any:
        k = functional.gelu(d["X"] @ d["U"] + d["B"]) @ d["V"] * d["C"] + d["D"]
        r = (k.tanh() * (k.abs() + 1).sqrt() - 0.25).clamp(min=-0.5)
        return functional.silu(r @ d["W"]) * 0.5 - d["Z"].sigmoid()

    def paged(d: dict[str, Any]) -> Any:
        table, one = d["BT"].long(), torch.nn.functional.scaled_dot_product_attention
        k, v = (d[n][table].flatten(1, 2)[:, : T["m"]].transpose(1, 2) for n in ("KC", "VC"))
        keep = torch.arange(T["m"]) < d["L"][:, None, None, None]
        found = one(d["Q"], k, v, attn_mask=keep, scale=0.3)
        return torch.where(d["L"][:, None, None, None] > 0, found, 0.0)

    wanted = {
        "softmax": lambda d: torch.softmax(d["X"], -1),
        "logsumexp": lambda d: torch.logsumexp(d["X"], -1),
        "variance": lambda d: d["X"].var(-1, unbiased=False),
        "layernorm": lambda d: functional.layer_norm(d["X"], size, d["W"], d["B"], 0.1),
        "rmsnorm": lambda d: functional.rms_norm(d["X"], size, d["W"], 0.1),
        "rmsnorm_matmul": lambda d: functional.rms_norm(d["X"], size, d["W"], 0.1) @ d["U"],
        "cross_entropy": lambda d: functional.cross_entropy(d["X"], d["T"], reduction="none"),
        "linear_cross_entropy": lambda d: functional.cross_entropy(d["H"] @ d["E"].T, d["T"], reduction="none"),
        "gemm": lambda d: d["A"] @ d["B"],
        "linear": lambda d: functional.gelu(d["X"] @ d["U"] + d["B"]),
        "linear_attention": lambda d: d["Q"] @ d["K"].T @ d["V"],
        "gelu": lambda d: functional.gelu(d["X"]),
        "gelu_mlp": lambda d: functional.gelu(d["X"] @ d["U"] + d["B"]) @ d["W"],
        "swiglu": lambda d: functional.silu(d["X"] @ d["WG"]) * (d["X"] @ d["WU"]),
        "swiglu_mlp": lambda d: (functional.silu(d["X"] @ d["WG"]) * (d["X"] @ d["WU"])) @ d["WD"],
        "six_operators": six_operators,
        "same_operand": lambda d: torch.exp(d["S"] - d["S"]) + d["S"] * d["S"],
        "long_chain": long_chain,
        "embedding": lambda d: functional.embedding(d["T"], d["E"]) + d["P"],
        "paged_attention": paged,
    }
    assert set(wanted) | {"attention"} == set(WORKLOADS)
    for name, want in wanted.items():
        data, got = outputs(WORKLOADS[name](), {"eps": 0.1, "scale": 0.3})
        np.testing.assert_allclose(got, want(data).numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("activation", WORKLOADS["linear"].options[-1].choices)
def test_activations_are_pytorchs(activation: str) -> None:
    known = {**vars(torch.nn.functional), "tanh": torch.tanh, "sigmoid": torch.sigmoid, "none": lambda x: x}
    data, got = outputs(WORKLOADS["linear"](activation=activation))
    want = known[activation](data["X"] @ data["U"] + data["B"])
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-9, atol=1e-12)


def test_a_problem_follows_from_options() -> None:
    posed = WORKLOADS["cross_entropy"].posed({"rows": 8, "vocab": 1000}, "bf16")
    assert posed.problem.sizes == {"p": 8, "m": 1000}
    assert posed.problem.dtypes == {"X": "bf16", "T": "int32", "L": "fp32"}
    assert posed.problem.values == {"T": Values(0, 1000)}
    assert posed.title == "Cross entropy: 8 rows, 1000 words, bf16"
    assert posed.folder == "cross-entropy-r8-v1000-bf16"
    norm = WORKLOADS["layernorm"].posed({"rows": 8, "cols": 5}, "fp64").problem
    assert norm.params == {"eps": 1e-5} and set(norm.dtypes.values()) == {"fp64"}
    labels = draw_inputs(posed.problem, "cpu")["T"]
    assert labels.dtype == torch.int32 and int(labels.min()) >= 0 and 100 < int(labels.max()) < 1000


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("softmax", {"vocab": 3}, "softmax has the options rows, cols, but got vocab"),
        ("softmax", {"rows": 0}, r"`rows` must be a positive integer of at most 2\*\*31, but got 0"),
        ("softmax", {"rows": 2**20, "cols": 2**20}, r"at most 2\*\*36 elements, but X has \[1048576, 1048576\]"),
        ("linear", {"activation": "swish"}, r"`activation` must be one of \['gelu', .*but got 'swish'"),
        ("attention", {"heads": 4}, "attention needs the options seq"),
        ("attention", {"seq": 4, "heads": 4, "window_both": True}, "`window_both` needs a `window`"),
        ("attention", {"seq": 4, "heads": 4, "sigmoid": True, "lse": True}, "need weights by softmax"),
        ("attention", {"seq": 4, "heads": 4, "bias": "mp"}, "over some of the axes bhpm, in that order, but got 'mp'"),
        ("paged_attention", {"heads": 4, "kv_seq": 9, "page": 0}, "`page` must be a positive integer, but got 0"),
        ("paged_attention", {"heads": 4, "kv_seq": 9, "kv_heads": 3}, "`heads` must be a multiple of `kv_heads`"),
        ("attention", {"seq": 4, "heads": 4, "window": 0}, "`window` must be a positive integer, but got 0"),
        ("attention", {"seq": 4, "heads": 4, "softcap": -1.0}, "`softcap` must be a positive number, but got -1.0"),
    ],
)
def test_bad_options_are_one_line(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        WORKLOADS[name].posed(given, "fp32")
    assert "\n" not in str(error.value)


def test_titles_count_one_thing_as_one() -> None:
    one = {"heads": 1, "kv_seq": 64}
    assert (
        WORKLOADS["attention"]
        .posed({"seq": 1, **one}, "bf16")
        .title.startswith("Attention: batch 1, 1 head, 1 query, 64 keys, ")
    )
    shared = WORKLOADS["attention"].posed({"seq": 2, "heads": 8, "kv_heads": 1}, "bf16").title
    assert "8 heads, 1 kv head, length 2" in shared
    paged = WORKLOADS["paged_attention"].posed({"seq": 1, **one}, "bf16").title
    assert paged.startswith("Paged attention: batch 1, 1 head, 1 query, 64 keys in pages")
    assert WORKLOADS["softmax"].posed({"rows": 1}, "bf16").title.startswith("Softmax: 1 row, ")


def test_an_attention_is_named_by_its_modifiers() -> None:
    posed = WORKLOADS["attention"].posed(
        {"seq": 64, "heads": 8, "kv_heads": 2, "causal": "top_left", "window": 16, "softcap": 30.0, "documents": True},
        "bf16",
    )
    assert posed.title == (
        "Attention: batch 1, 8 heads, 2 kv heads, length 64, head dim 128, bf16, "
        "softcap 30, causal, window 16, documents"
    )
    assert posed.folder == "attention-b1-h8kv2-s64-d128-bf16-softcap-30-causal-w16-documents"
    assert posed.problem.sizes["w"] == 16 and posed.problem.params["cap"] == 30.0
    assert posed.about == Attention((Softcap(30.0), Causal(), Window(16), Documents()))


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
    assert problem.definition == attention(grouped=True)
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
        ({"dtype": "int4"}, r"`dtype` must be one of \['fp64', 'fp32', 'fp16', 'bf16'\], but got 'int4'"),
        ({"scale": float("inf")}, r"`scale` must be a finite number, but got inf"),
        ({"causal": "bottom"}, r"`causal` must be one of \[None, 'top_left', 'lower_right'\], but got 'bottom'"),
    ],
)
def test_bad_problems_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        attention_problem(**{**GOOD, **change})
    assert "\n" not in str(error.value)


REFUSED = {
    "a window": ({"seq": 8, "packed": 2, "window": 3}, "but not with ['window']"),
    "documents": ({"seq": 8, "packed": 2, "documents": True}, "but not with ['documents']"),
    "a batch": ({"seq": 8, "packed": 2, "batch": 3}, "`packed` sequences are one batch"),
    "causal of other lengths": ({"seq": 8, "kv_seq": 9, "packed": 2, "causal": "top_left"}, "as many queries as keys"),
    "packed over pages": ({"seq": 8, "packed": 2, "page": 4}, "`packed` queries over pages are pieces of one sequence"),
    "no pages": ({"seq": 8, "page": 0}, "`page` must be a positive integer, but got 0"),
    "less than none": ({"seq": 8, "packed": -1}, "`packed` must be a number of sequences, but got -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_packed_sequences_and_pages(name: str) -> None:
    options, said = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        WORKLOADS["attention"].posed({"heads": 2, "head_dim": 16, **options}, "fp32")
    assert said in str(caught.value)


def test_titles_and_folders_of_packed_sequences_and_pages() -> None:
    options = {"heads": 2, "head_dim": 16, "seq": 8, "causal": "top_left"}
    posed = WORKLOADS["attention"].posed({**options, "packed": 2}, "fp32")
    assert posed.title.endswith("fp32, 2 packed sequences, causal") and posed.folder.endswith("fp32-packed2-causal")
    posed = WORKLOADS["attention"].posed({**options, "page": 4}, "fp32")
    assert posed.title.endswith("fp32, all keys of each, causal, pages of 4")
    assert posed.folder.endswith("fp32-whole-causal-page4")
