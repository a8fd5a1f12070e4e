"""Functions of scores and positions become expressions; what has none is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eintune.space.cascade.builder import given as tensor
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import Const, free
from eintune.space.notation.printer import write_expression
from eintune.space.tracing.conditions import Condition
from eintune.space.tracing.functions import clamp, cos, maximum, minimum, tanh, where
from eintune.space.tracing.refusals import Untraceable
from eintune.space.tracing.site import Site
from eintune.space.tracing.trace import trace_mask, trace_score
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.function_modifiers import MaskMod, ScoreMod

SLOPES = torch.arange(4.0)
FACTOR = torch.tensor(0.5)
DOC = torch.zeros(2, 7, dtype=torch.int32)
TABLE = torch.zeros(4, 12)
BUCKETS = torch.zeros(12, dtype=torch.int64)
SCORE = tensor("S", "bhpm")


def helper(x: Any, h: Any) -> Any:
    return x * SLOPES[h]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda s, b, h, p, m: s + SLOPES[h] * (m - p), "Sb,h,p,m + USSLOPESh * (index(m) - index(p))"),
        (lambda s, b, h, p, m: 30 * torch.tanh(s / 30), "30 * tanh(Sb,h,p,m / 30)"),
        (lambda s, b, h, p, m: maximum(tanh(s), -0.5), "max(tanh(Sb,h,p,m), -0.5)"),
        (lambda s, b, h, p, m: helper(s, h), "Sb,h,p,m * USSLOPESh"),
        (
            lambda s, b, h, p, m: where(m <= p, s, -1),
            "select(index(m) * -1 + index(p) >= 0, Sb,h,p,m, -1)",
        ),
        (lambda s, b, h, p, m: s.abs() ** 2, "abs(Sb,h,p,m) * abs(Sb,h,p,m)"),
        (lambda s, b, h, p, m: s * FACTOR - FACTOR, "Sb,h,p,m * USFACTOR - USFACTOR"),
        (lambda s, b, h, p, m: (lambda x: x * SLOPES[h])(s), "Sb,h,p,m * USSLOPESh"),
        (lambda s, b, h, p, m: s * (p // 41), "Sb,h,p,m * floor((index(p) + 0.5) / 41)"),
        (lambda s, b, h, p, m: s // 41, "floor(Sb,h,p,m / 41)"),
        (lambda s, b, h, p, m: s + TABLE[h, p - m + 3], "Sb,h,p,m + USTABLE[h,p-m+3]"),
        (lambda s, b, h, p, m: s + TABLE[h, -m], "Sb,h,p,m + USTABLE[h,-m]"),
        (lambda s, b, h, p, m: s + TABLE[h, abs(m - p)], "Sb,h,p,m + USTABLE[h,abs(m-p)]"),
        (
            lambda s, b, h, p, m: s + TABLE[h, torch.clamp(p - m, -2, 2) + 2],
            "Sb,h,p,m + USTABLE[h,min(max(p-m,-2),2)+2]",
        ),
        (lambda s, b, h, p, m: s + TABLE[h, (p - m).clamp(max=2)], "Sb,h,p,m + USTABLE[h,min(p-m,2)]"),
        (lambda s, b, h, p, m: s + TABLE[h, BUCKETS[p - m + 3]], "Sb,h,p,m + USTABLE[h,USBUCKETS[p-m+3] else 0]"),
        (
            lambda s, b, h, p, m: s + TABLE[h, DOC[b, p] * 2 - DOC[b, m]],
            "Sb,h,p,m + USTABLE[h,USDOC[b,p]*2-USDOCB[b,m] else 0]",
        ),
        (
            lambda s, b, h, p, m: s + SLOPES[(p // 4 - m // 4 + 1) * 3 + m % 4],
            "Sb,h,p,m + USSLOPES[(p//4-m//4+1)*3+m%4]",
        ),
        (lambda s, b, h, p, m: clamp(s, min=-1, max=2), "min(max(Sb,h,p,m, -1), 2)"),
        (lambda s, b, h, p, m: torch.sin(s) + cos(s), "sin(Sb,h,p,m) + cos(Sb,h,p,m)"),
        (lambda s, b, h, p, m: s**3, "Sb,h,p,m * Sb,h,p,m * Sb,h,p,m"),
        (lambda s, b, h, p, m: torch.pow(s, 5), "Sb,h,p,m * Sb,h,p,m * (Sb,h,p,m * Sb,h,p,m) * Sb,h,p,m"),
    ],
)
def test_scores(function: Callable[..., Any], text: str) -> None:
    assert write_expression(trace_score(function, SCORE, Site())[0]) == text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda b, h, p, m: m <= p, "where(m <= p, Sb,h,p,m, -inf)"),
        (lambda b, h, p, m: (m <= p) & (p - m < 4), "where(p <= m + 3 & m <= p, Sb,h,p,m, -inf)"),
        (lambda b, h, p, m: ~(m > p), "where(m <= p, Sb,h,p,m, -inf)"),
        (lambda b, h, p, m: torch.logical_and(2 * m < p + 3, m >= 0), "where(m >= 0 & 2*m <= p + 2, Sb,h,p,m, -inf)"),
        (
            lambda b, h, p, m: (m <= p) | (m < 10),
            "max(where(m <= p, Sb,h,p,m, -inf), where(m <= 9, Sb,h,p,m, -inf))",
        ),
        (lambda b, h, p, m: m == p, "where(p <= m & m <= p, Sb,h,p,m, -inf)"),
        (lambda b, h, p, m: DOC[b, p] == DOC[b, m], "select(UMDOCb,p == UMDOCBb,m, Sb,h,p,m, -inf)"),
        (lambda b, h, p, m: p // 4 == m // 4, "select(floor(index(p) / 4) == floor(index(m) / 4), Sb,h,p,m, -inf)"),
    ],
)
def test_masks(function: Callable[..., Any], text: str) -> None:
    assert write_expression(trace_mask(function, Site())[0].keep(SCORE, float("-inf"))) == text


def _if(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
    return s if s > 0 else -s


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_if, "true or false (if, and, or, not): use where"),
        (lambda s, b, h, p, m: s * SLOPES, "SLOPES without an index: a captured tensor is indexed by positions"),
        (
            lambda s, b, h, p, m: s * SLOPES[s],
            "SLOPES with an index that is no whole number of positions: index",
        ),
        (lambda s, b, h, p, m: s * SLOPES[(p - m) // 2], "SLOPES with an index that is no whole number of positions"),
        (lambda s, b, h, p, m: s * SLOPES[p * m], "SLOPES with an index that is no whole number of positions"),
        (lambda s, b, h, p, m: s * SLOPES[DOC[b, DOC[b, p]]], "SLOPES with an index that is no whole number"),
        (lambda s, b, h, p, m: s * SLOPES[99], "SLOPES with the index 99: that axis has"),
        (lambda s, b, h, p, m: s * DOC[b, -99], "DOC with the index -99: that axis has"),
        (lambda s, b, h, p, m: s * DOC[b, 3:], "DOC with a slice that is no whole number of positions"),
        (lambda s, b, h, p, m: s * DOC[b], "DOC with 1 of its 2 indices: give one index for each axis"),
        (lambda s, b, h, p, m: s * DOC[m, m], "DOC[m, m]: a position indexes one axis only"),
        (lambda s, b, h, p, m: s.softmax(-1), ".softmax: the functions are abs"),
        (lambda s, b, h, p, m: torch.cumsum(s, 0), "cumsum: the functions are abs"),
        (lambda s, b, h, p, m: SLOPES.sum() + s, "SLOPES.sum: a captured tensor is indexed by positions"),
        (lambda s, b, h, p, m: float(s), "a traced value as a number"),
        (lambda s, b, h, p, m: s[0], "an index on a traced value"),
        (lambda s, b, h, p, m: s**17, "** 17: whole powers go from 1 to 16"),
        (lambda s, b, h, p, m: s**-1, "** -1: whole powers go from 1 to 16"),
        (lambda s, b, h, p, m: s**0.5, "** 0.5: whole powers go from 1 to 16"),
        (lambda s, b, h, p, m: torch.clamp(s), "clamp with 0: its bounds are min and max"),
        (lambda s, b, h, p, m: s + cos(1.0), "a function of numbers alone: use math"),
        (lambda s, b, h, p, m: [x for x in s], "a loop over a traced value"),  # noqa: C416
        (lambda s, b, h, p, m: m <= p, "a result that is a condition: a score function returns the changed score"),
        (lambda s, b, h, p, m: s + "x", "a str: values are numbers"),
        (lambda s, b, h, p, m: (m <= p) + s, "add of a condition: use where"),
        (lambda s, b, h, p: s, "cannot be traced"),
        (
            torch.tanh,
            "must be a function, a method or a partial of one in Python, but got a builtin_function_or_method",
        ),
    ],
)
def test_what_has_no_expression_is_named(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(Untraceable) as error:
        trace_score(function, SCORE, Site())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_mask_is_a_condition() -> None:
    with pytest.raises(Untraceable, match="a mask function returns a comparison"):
        trace_mask(lambda b, h, p, m: m - p, Site())


def _comparisons() -> st.SearchStrategy[tuple[str, Callable[..., Any]]]:
    """Comparisons of affine positions, and what they are joined to, as source text and as a function."""
    index = st.sampled_from(["p", "m", "h", "p - m", "m + 2", "2*m - p", "m - 3*h"])
    operator = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    atom = st.builds(lambda a, op, n: f"({a} {op} {n})", index, operator, st.integers(-2, 5))
    joined = st.recursive(
        atom,
        lambda inner: st.one_of(
            st.builds(lambda a, b, op: f"({a} {op} {b})", inner, inner, st.sampled_from("&|")),
            inner.map(lambda a: f"(~{a})"),
        ),
        max_leaves=4,
    )
    return joined.map(lambda text: (text, eval(f"lambda b, h, p, m: {text}")))


@settings(max_examples=150, deadline=None)
@given(_comparisons(), st.booleans())
def test_conditions_are_what_python_says(made: tuple[str, Callable[..., Any]], grouped: bool) -> None:
    text, function = made
    site = Site(("h", "g")) if grouped else Site()
    sizes = {"b": 1, "h": 2, "g": 3, "p": 4, "m": 5}
    ranks = ("h", "g", "p", "m") if grouped else ("h", "p", "m")
    heads = 6 if grouped else 2
    h, p, m = np.ogrid[:heads, :4, :5]
    wanted = np.broadcast_to(function(0, h, p, m), (heads, 4, 5)).reshape([sizes[r] for r in ranks])
    full = tensor("X", sorted(ranks))
    data = {"X": np.zeros([sizes[r] for r in sorted(ranks)])}
    try:
        condition, _ = trace_mask(function, site)
        forms = condition.keep(full + 1.0, 0.0), full + condition.boolean()
    except ValueError as error:  # one that is not worth a kernel
        assert "a condition has at most" in str(error)
        return
    for kept in forms:
        ((array, order),) = evaluate([kept], data, sizes)
        np.testing.assert_array_equal(array.transpose([order.index(r) for r in ranks]) != 0, wanted, err_msg=text)


def _indices() -> st.SearchStrategy[str]:
    """Whole numbers of positions, and of elements of integer tensors, as source text."""
    atom = st.sampled_from(["p", "m", "h", "(p - m)", "IDS[p + 1]", "IDS[abs(p - m)]", "(p // 2)", "m % 3", "2", "-3"])
    return st.recursive(
        atom,
        lambda inner: st.one_of(
            st.builds(lambda a, b, op: f"({a} {op} {b})", inner, inner, st.sampled_from("+-")),
            st.builds(lambda a, n: f"({a} * {n})", inner, st.integers(-2, 3)),
            st.builds(lambda a, n, f: f"{f}({a}, {n})", inner, inner, st.sampled_from(["maximum", "minimum"])),
            inner.map(lambda a: f"abs({a})"),
            inner.map(lambda a: f"(-{a})"),
        ),
        max_leaves=4,
    )


@settings(max_examples=200, deadline=None)
@given(_indices(), st.booleans())
def test_an_index_is_what_python_says(text: str, grouped: bool) -> None:
    sizes = {"b": 1, "h": 2, "g": 3 if grouped else 1, "p": 4, "m": 5}
    heads = sizes["h"] * sizes["g"]
    ids, table = torch.tensor([3, -1, 0, 2, 1, 4]), torch.arange(1.0, 7.0)
    names = {"IDS": ids.numpy(), "maximum": np.maximum, "minimum": np.minimum}
    h, p, m = np.ogrid[:heads, :4, :5]
    wanted = np.broadcast_to(eval(text, names, {"h": h, "p": p, "m": m}), (heads, 4, 5))
    wanted = np.where((wanted >= 0) & (wanted < 6), table.numpy()[np.clip(wanted, 0, 5)], 0)
    made: dict[str, Any] = {"IDS": ids, "TABLE": table, "maximum": maximum, "minimum": minimum}
    exec(f"def function(s, b, h, p, m):\n    return s + TABLE[{text}]", made)
    try:
        expr, trace = trace_score(made["function"], SCORE, Site(("h", "g")) if grouped else Site())
    except Untraceable as error:
        known = ("no whole number of positions", "of numbers alone", "that axis has 6 elements")
        assert any(words in str(error) for words in known)
        return
    if any("*" not in axes for _, axes in trace.tensors.values()):
        return  # a position as it is given has an axis of its own length
    data = {n: np.asarray(t) for n, (t, _) in trace.tensors.items()} | {"S": np.zeros((1, 2, 4, 5))}
    ((array, order),) = evaluate([expr], data, sizes | dict(trace.lengths))
    whole = ("b", "h", "g", "p", "m") if grouped else ("b", "h", "p", "m")
    found = array.transpose([order.index(r) for r in whole if r in order])
    found = np.broadcast_to(found.reshape([sizes[r] if r in order else 1 for r in whole]), [sizes[r] for r in whole])
    np.testing.assert_array_equal(found.reshape(1, heads, 4, 5), wanted[None], err_msg=text)


def test_an_empty_condition_always_holds() -> None:
    assert Condition().keep(SCORE, 0.0) is SCORE
    never = (~Condition()).keep(SCORE, -math.inf)
    (value, _), *_ = evaluate([never], {"S": np.ones((1, 2, 3, 4))}, {"b": 1, "h": 2, "p": 3, "m": 4})
    assert free(never) == free(SCORE) and (value == -math.inf).all()
    assert (~Condition()).keep(Const(1.0), 0.0) is Const(0.0)


def test_user_functions_are_modifiers() -> None:
    score, mask = ScoreMod(lambda s, b, h, p, m: s * SLOPES[h]), MaskMod(lambda b, h, p, m: (m <= p) & (DOC[b, m] > 0))
    variant = Attention((mask, score))
    assert variant.tensors == {"USSLOPES": "h", "UMDOC": "bm"}
    assert variant.words == "score_mod, mask_mod"
    assert "where(m <= p, QKb,h,g,m,p * scale * USSLOPESh,g, -inf)" in str(variant.cascade(grouped=True))
