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

from eintune.space.attention import Attention
from eintune.space.conditions import Condition
from eintune.space.evaluate import evaluate
from eintune.space.expr import Const, free
from eintune.space.modifiers import Site
from eintune.space.notation_printer import write_expression
from eintune.space.traced_functions import trace_mask, trace_score
from eintune.space.tracing import Untraceable, maximum, tanh, where
from eintune.space.user_modifiers import MaskMod, ScoreMod
from eintune.space.writer import given as tensor

SLOPES = torch.arange(4.0)
FACTOR = torch.tensor(0.5)
DOC = torch.zeros(2, 7, dtype=torch.int32)
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
        (lambda s, b, h, p, m: s * SLOPES[h + 1], "SLOPES with an index that is not one of b, h, p, m itself"),
        (lambda s, b, h, p, m: s * DOC[b, 3], "DOC with the index 3 that is not one of b, h, p, m"),
        (lambda s, b, h, p, m: s * DOC[b], "DOC with 1 of its 2 indices: give one index for each axis"),
        (lambda s, b, h, p, m: s * DOC[m, m], "DOC[m, m]: a position indexes one axis only"),
        (lambda s, b, h, p, m: s.softmax(-1), ".softmax: the functions are abs"),
        (lambda s, b, h, p, m: torch.cumsum(s, 0), "cumsum: the functions are abs"),
        (lambda s, b, h, p, m: SLOPES.sum() + s, "SLOPES.sum: a captured tensor is indexed by positions"),
        (lambda s, b, h, p, m: float(s), "a traced value as a number"),
        (lambda s, b, h, p, m: s[0], "an index on a traced value"),
        (lambda s, b, h, p, m: s**3, "** 3: write a product"),
        (lambda s, b, h, p, m: [x for x in s], "a loop over a traced value"),  # noqa: C416
        (lambda s, b, h, p, m: m <= p, "a result that is a condition: a score function returns the changed score"),
        (lambda s, b, h, p, m: s + "x", "a str: values are numbers"),
        (lambda s, b, h, p, m: (m <= p) + s, "add of a condition: use where"),
        (lambda s, b, h, p: s, "cannot be traced"),
        (torch.tanh, "must be a Python function, but got a builtin_function_or_method"),
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
