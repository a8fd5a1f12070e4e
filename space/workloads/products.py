"""Workloads around matrix products: with an activation, gated, in chains."""

from __future__ import annotations

import math
from collections.abc import Callable

from eintune.space.cascade.builder import Writer, apply, exp, given, total
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import Access, Expr

from .workload import Option, size, workload

ROWS = size("rows", "p", 4096)
INNER = size("inner", "e", 1024, short="k", words="inner")
COLUMNS = size("cols", "m", 4096, words="columns")
OUT = size("outputs", "f", 1024, short="n", words="outputs")


def _gelu(x: Expr) -> Expr:
    """The exact GELU (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return x * 0.5 * (apply("erf", x * (1 / math.sqrt(2))) + 1.0)


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "gelu": _gelu,
    "relu": lambda x: apply("max", x, 0.0),
    "silu": lambda x: apply("silu", x),
    "tanh": lambda x: apply("tanh", x),
    "sigmoid": lambda x: apply("sigmoid", x),
    "none": lambda x: x,
}
ACTIVATION = Option(
    "activation",
    f"one of {', '.join(ACTIVATIONS)}; default: gelu",
    "choice",
    default="gelu",
    choices=tuple(ACTIVATIONS),
)


@workload(size("rows", "m", 4096), size("inner", "k", 4096, words="inner"), size("cols", "n", 4096, words="columns"))
def gemm() -> Cascade:
    """Z = A B, summed over k."""
    let = Writer()
    let("Z", "mn", total("k", given("A", "mk") * given("B", "kn")))
    return let.done()


@workload(ROWS, INNER, COLUMNS, ACTIVATION)
def linear(*, activation: str = "gelu") -> Cascade:
    """Y = activation(X U + B): a product, a bias and an activation."""
    let = Writer()
    h = let("H", "pm", total("e", given("X", "pe") * given("U", "em")) + given("B", "m"))
    let("Y", "pm", ACTIVATIONS[activation](h))
    return let.done()


@workload(ROWS, size("cols", "m", 4096, words="columns"))
def gelu() -> Cascade:
    """Y = X / 2 * (1 + erf(X / sqrt 2))."""
    let = Writer()
    let("Y", "pm", _gelu(given("X", "pm")))
    return let.done()


@workload(ROWS, INNER, COLUMNS, OUT)
def gelu_mlp() -> Cascade:
    """Y = gelu(X U + B) W: two products with the exact GELU between them."""
    let = Writer()
    h = let("H", "pm", total("e", given("X", "pe") * given("U", "em")) + given("B", "m"))
    g = let("G", "pm", _gelu(h))
    let("Y", "pf", total("m", g * given("W", "mf")))
    return let.done()


def _gated(let: Writer) -> Expr:
    gate = let("G", "pm", total("e", given("X", "pe") * given("WG", "em")))
    up = let("U", "pm", total("e", given("X", "pe") * given("WU", "em")))
    return apply("silu", gate) * up


@workload(ROWS, INNER, COLUMNS)
def swiglu() -> Cascade:
    """Y = silu(X WG) * (X WU): a gate and what it lets through (Shazeer, arXiv 2002.05202)."""
    let = Writer()
    let("Y", "pm", _gated(let))
    return let.done()


@workload(ROWS, INNER, COLUMNS, OUT)
def swiglu_mlp() -> Cascade:
    """Y = (silu(X WG) * (X WU)) WD: the gate, then a product that brings it down again."""
    let = Writer()
    h = let("H", "pm", _gated(let))
    let("Y", "pf", total("m", h * given("WD", "mf")))
    return let.done()


@workload(
    size("queries", "p", 2048),
    size("keys", "m", 2048),
    size("head_dim", "e", 64, short="d", words="head dim"),
    size("value_dim", "f", 64, short="f", words="value dim"),
)
def linear_attention() -> Cascade:
    """AV = (Q K^T) V without a softmax, written in the order that is quadratic in the length."""
    let = Writer()
    qk = let("QK", "mp", total("e", given("Q", "pe") * given("K", "me")))
    let("AV", "pf", total("m", qk * given("V", "mf")))
    return let.done()


@workload(ROWS, size("cols", "em", 64, words="columns"))
def six_operators() -> Cascade:
    """Y = recip(sqrt(exp(Q K^T - Q))): transpose, product, minus, exp, sqrt, reciprocal, over square K.

    Its exponential has no bound, by definition: it is kept and reported.
    """
    let = Writer()
    kt = let("KT", "em", given("K", "me"))
    s = let("S", "pm", total("e", given("Q", "pe") * kt))
    q = given("Q", "pe")
    d = let("D", "pm", s - _reindexed(q, "pm"))
    let("Y", "pm", apply("recip", let("R", "pm", apply("sqrt", let("E", "pm", exp(d))))))
    return let.done()


def _reindexed(x: Expr, ranks: str) -> Expr:
    """The same tensor read along other ranks."""
    assert isinstance(x, Access)
    return Access(x.tensor, tuple(ranks))


@workload(ROWS, COLUMNS)
def same_operand() -> Cascade:
    """Y = exp(S - S) + S * S: both operands of one operator are the same tensor."""
    let = Writer()
    s = given("S", "pm")
    let("Y", "pm", exp(let("D", "pm", s - s)) + let("P", "pm", s * s))
    return let.done()


@workload(
    ROWS,
    size("inner", "e", 64, short="k", words="inner"),
    size("cols", "m", 256, words="columns"),
    size("mid", "n", 64, words="middle"),
    size("outputs", "f", 64, short="f", words="outputs"),
)
def long_chain() -> Cascade:
    """Twenty operators, three of them products: Y = silu(tanh(gelu(X U + B) V * C + D) * |..| W) / 2 + Z."""
    let = Writer()
    h = let("H", "pm", total("e", given("X", "pe") * given("U", "em")) + given("B", "m"))
    g = let("G", "pm", _gelu(h))
    k = let("K", "pn", total("m", g * given("V", "mn")) * given("C", "n") + given("D", "n"))
    bent = apply("tanh", k) * apply("sqrt", apply("abs", k) + 1.0)
    r = let("R", "pn", apply("max", bent - 0.25, -0.5))
    s = let("S", "pf", total("n", r * given("W", "nf")))
    let("Y", "pf", apply("silu", s) * 0.5 + apply("neg", apply("sigmoid", given("Z", "pf"))))
    return let.done()
