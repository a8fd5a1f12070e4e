"""Workloads over rows: reductions, normalisations, losses, each as one writes it on paper."""

from __future__ import annotations

from collections.abc import Mapping

from eintune.space.cascade.builder import Writer, apply, exp, given, top, total
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Values
from eintune.space.ir.expr import Expr, Iota, Param, Rank, Size

from .workload import size, workload

ROWS, COLUMNS = size("rows", "p", 4096), size("cols", "m", 4096, words="columns")
EPSILON = {"eps": 1e-5}


@workload(ROWS, COLUMNS)
def softmax() -> Cascade:
    """Y = exp(X - max X) / sum exp(X - max X) along m."""
    let = Writer()
    x = given("X", "pm")
    sn = let("SN", "pm", exp(x - let("GM", "p", top("m", x))))
    let("Y", "pm", sn / let("SD", "p", total("m", sn)))
    return let.done()


@workload(ROWS, COLUMNS, wide=("L",))
def logsumexp() -> Cascade:
    """L = log sum exp X along m, relative to the maximum."""
    let = Writer()
    x = given("X", "pm")
    gm = let("GM", "p", top("m", x))
    sd = let("SD", "p", total("m", exp(x - gm)))
    let("L", "p", apply("log", sd) + gm)
    return let.done()


def _moments(let: Writer, x: Expr) -> tuple[Expr, Expr]:
    mean = let("MU", "p", total("m", x) / Size("m"))
    centred = let("C", "pm", x - mean)
    return centred, let("VAR", "p", total("m", centred * centred) / Size("m"))


@workload(ROWS, COLUMNS, wide=("VAR",))
def variance() -> Cascade:
    """VAR = mean of (X - mean X)^2 along m."""
    let = Writer()
    _moments(let, given("X", "pm"))
    return let.done()


@workload(ROWS, COLUMNS, params=EPSILON)
def layernorm() -> Cascade:
    """Y = (X - mean) / sqrt(variance + eps) * W + B along m."""
    let = Writer()
    centred, variance = _moments(let, given("X", "pm"))
    sigma = let("SIG", "p", apply("sqrt", variance + Param("eps")))
    let("Y", "pm", centred / sigma * given("W", "m") + given("B", "m"))
    return let.done()


def _rms(let: Writer, x: Expr) -> Expr:
    ms = let("MS", "p", total("m", x * x) / Size("m"))
    return let("RMS", "p", apply("sqrt", ms + Param("eps")))


@workload(ROWS, COLUMNS, params=EPSILON)
def rmsnorm() -> Cascade:
    """Y = X / sqrt(mean X^2 + eps) * W along m."""
    let = Writer()
    x = given("X", "pm")
    let("Y", "pm", x / _rms(let, x) * given("W", "m"))
    return let.done()


@workload(ROWS, COLUMNS, size("outputs", "f", 4096, short="n", words="outputs"), params=EPSILON)
def rmsnorm_matmul() -> Cascade:
    """Y = (X / sqrt(mean X^2 + eps) * W) U: the norm of a row, then a product with it."""
    let = Writer()
    x = given("X", "pm")
    n = let("N", "pm", x / _rms(let, x) * given("W", "m"))
    let("Y", "pf", total("m", n * given("U", "mf")))
    return let.done()


# ---- losses


def _labels(sizes: Mapping[Rank, int]) -> dict[str, Values]:
    return {"T": Values(0, sizes["m"])}


def _cross_entropy(let: Writer, logits: Expr) -> Cascade:
    """The loss of each row from its logits, relative to their maximum; T[p] is the right column."""
    gm = let("GM", "p", top("m", logits))
    sd = let("SD", "p", total("m", exp(logits - gm)))
    right = apply("select", apply("eq", given("T", "p", "int"), Iota("m")), logits, 0.0)
    let("L", "p", apply("log", sd) + gm - let("XT", "p", total("m", right)))
    return let.done()


VOCABULARY = size("vocab", "m", 128256, short="v", words="words")


@workload(ROWS, VOCABULARY, values=_labels, wide=("L",))
def cross_entropy() -> Cascade:
    """L = log sum exp X - X[T] along m: the loss of each row, T its right column."""
    return _cross_entropy(Writer(), given("X", "pm"))


@workload(ROWS, VOCABULARY, size("hidden", "e", 1024, short="d", words="hidden"), values=_labels, wide=("L",))
def linear_cross_entropy() -> Cascade:
    """The cross-entropy of X = H E^T: hidden states H[p,e], embedding E[m,e]; the logits need no memory."""
    let = Writer()
    x = let("X", "pm", total("e", given("H", "pe") * given("E", "me")))
    return _cross_entropy(let, x)
