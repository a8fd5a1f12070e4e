"""One contract for every emitter: what it prints computes what the definition means, within the derived budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_forms import attention_case, errors, inputs

from eintune.kernels.store.shipped_forms import derived_texts
from eintune.space.cascade.cascade import Cascade

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]

CASES = {
    "plain": {},
    "square tiles": {"rows": 16, "columns": 16},
    "columns wider than rows": {"rows": 16, "columns": 64},
    "odd lengths": {"seq": 77, "kv_seq": 100},
    "one query": {"seq": 1, "kv_seq": 50, "rows": 16},
    "one key": {"seq": 17, "kv_seq": 1},
    "one of each": {"seq": 1, "kv_seq": 1, "rows": 16},
    "17": {"seq": 17, "rows": 16},
    "24-wide": {"head_dim": 24},
    "40 in, 80 out": {"head_dim": 40, "value_dim": 80},
    "80 in, 24 out": {"head_dim": 80, "value_dim": 24},
    "filtered": {"causal": "top_left"},
    "filtered, odd": {"causal": "top_left", "seq": 77, "kv_seq": 53},
    "filtered, more keys": {"causal": "top_left", "seq": 33, "kv_seq": 100},
    "filtered from the end": {"causal": "lower_right", "seq": 33, "kv_seq": 100},
    "empty rows": {"causal": "lower_right", "seq": 100, "kv_seq": 33},
    "filtered, whole loop masked": {"causal": "top_left", "filters": "every", "seq": 50},
    "filtered in a branch": {"causal": "top_left", "filters": "branch", "seq": 100},
    "filtered in a branch, from the end": {"causal": "lower_right", "filters": "branch", "seq": 33, "kv_seq": 77},
    "filtered in a branch, empty rows": {"causal": "lower_right", "filters": "branch", "seq": 100, "kv_seq": 33},
    "only the tail, in a branch": {"filters": "branch", "seq": 40, "kv_seq": 53},
    "filtered, reverse order": {"causal": "top_left", "order": "reverse", "seq": 100},
    "grouped": {"heads": 6, "kv_heads": 2},
    "grouped and filtered": {"heads": 4, "kv_heads": 1, "causal": "top_left", "seq": 45},
    "negative scale": {"scale": -0.7},
    "zero scale": {"scale": 0.0},
    "negative scale, filtered, odd": {"scale": -0.7, "causal": "top_left", "seq": 39},
    "fp16": {"dtype": "fp16", "seq": 50},
    "bf16": {"dtype": "bf16", "seq": 50, "causal": "top_left"},
    "batches": {"batch": 3, "heads": 2, "seq": 33},
    "in parts": {"parts": 3, "seq": 40, "kv_seq": 100},
    "in parts, filtered": {"parts": 4, "causal": "top_left", "seq": 70, "heads": 1},
    "in parts, filtered in a branch": {
        "parts": 2,
        "causal": "lower_right",
        "filters": "branch",
        "seq": 33,
        "kv_seq": 77,
    },
    "in parts, empty rows": {"parts": 2, "causal": "lower_right", "seq": 100, "kv_seq": 33, "heads": 1},
    "in parts, one query a head": {"parts": 8, "heads": 4, "kv_heads": 1, "seq": 1, "kv_seq": 500, "rows": 16},
    "packed": {"packed": True, "heads": 6, "kv_heads": 2, "seq": 7, "kv_seq": 40, "rows": 16},
    "packed, filtered, in parts": {
        "packed": True,
        "parts": 2,
        "causal": "lower_right",
        "heads": 4,
        "kv_heads": 1,
        "seq": 5,
        "kv_seq": 77,
        "rows": 16,
    },
    "in parts, of which there is one": {"parts": 5, "seq": 20, "kv_seq": 10, "dtype": "fp16"},
}


BY_TURNS = [
    pytest.param(name, passes, marks=[pytest.mark.soak] if passes == 2 + i % 2 else [])
    for i, name in enumerate(CASES)
    for passes in (1, 2, 3)
]
"""Each case in one pass, and in two or three by turns; in the third way in long runs."""


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize(("name", "passes"), BY_TURNS)
def test_forms(name, passes, emitter, execute) -> None:
    case = attention_case(passes, emitter=emitter, **CASES[name])
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("passes", [1, 3])
def test_strided(passes, emitter, execute) -> None:
    case = attention_case(passes, emitter=emitter, seq=45, kv_seq=70, head_dim=40, batch=2, causal="top_left")
    kernel, tensors = case.kernel, inputs(case, strided=True)
    assert not any(t.is_contiguous() for t in tensors)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("causal", [None, "top_left", "lower_right"])
def test_every_derived_cascade(causal, kv_heads, emitter, execute) -> None:
    case = attention_case(
        3, emitter=emitter, causal=causal, heads=2, kv_heads=kv_heads, seq=35, kv_seq=41, head_dim=24, dtype="fp16"
    )
    texts = derived_texts(case.problem.cascade)
    assert len(texts) > 3
    for text in texts:
        derived = replace(case, cascade=Cascade.parse(text))
        kernel, tensors = derived.kernel, inputs(derived)
        execute(kernel, tensors)
        assert not errors(derived, kernel, tensors), text
