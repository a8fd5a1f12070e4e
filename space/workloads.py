"""Workloads: naive definitions, written as one writes them on paper, and nothing else.

A new workload is one function here that returns a cascade; `@workload` puts it into `WORKLOADS` under the
function's name. Everything fast is derived from these definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from .cascade import Cascade, Einsum
from .expr import NEG_INF, Access, Expr, Map, Param, Predicate, Rank, Reduce, Size, Tensor, Term, Where
from .schedule import Problem

Causal: TypeAlias = Literal["top_left", "lower_right"] | None
CAUSAL: tuple[Causal, ...] = (None, "top_left", "lower_right")
DTYPES = ("fp32", "fp16", "bf16", "fp64")
MAX_HEAD_DIM = 512
MAX_ELEMENTS = 2**36
"""The largest tensor, in elements: 128 GiB in a 2-byte type."""

WORKLOADS: dict[str, Callable[..., Cascade]] = {}


def workload(define: Callable[..., Cascade]) -> Callable[..., Cascade]:
    """Register a definition under its function's name."""
    WORKLOADS[define.__name__] = define
    return define


class _Writer:
    """Writes a cascade einsum by einsum; each call returns the new tensor, ready to be read."""

    def __init__(self) -> None:
        self.einsums: list[Einsum] = []

    def __call__(self, name: str, ranks: str, expr: Expr) -> Expr:
        tensor = Tensor(name, tuple(ranks))
        self.einsums.append(Einsum(tensor, expr))
        return Access(tensor, tensor.ranks)

    def done(self) -> Cascade:
        return Cascade(tuple(self.einsums), (self.einsums[-1].output.name,))


def _input(name: str, ranks: str) -> Expr:
    return Access(Tensor(name, tuple(ranks)), tuple(ranks))


def _sum(rank: Rank, x: Expr) -> Expr:
    return Reduce("add", rank, x)


def _max(rank: Rank, x: Expr) -> Expr:
    return Reduce("max", rank, x)


def _exp(x: Expr) -> Expr:
    return Map("exp", (x,))


@workload
def attention(*, causal: Causal = None, grouped: bool = False) -> Cascade:
    """AV = softmax_m(scale * Q K^T) V, with every step of the stable softmax written out (3 passes over m).

    Q[b,h,(g,)p,e], K[b,h,m,e], V[b,h,m,f] -> AV[b,h,(g,)p,f]; g is there if `grouped`. "top_left" keeps
    m <= p, "lower_right" keeps m <= p + |m| - |p|. Raises ValueError for another `causal`.
    """
    if causal not in CAUSAL:
        raise ValueError(f"`causal` must be one of {list(CAUSAL)}, but got {causal!r}")
    heads = "bhg" if grouped else "bh"
    let = _Writer()
    qk = let("QK", heads + "mp", _sum("e", _input("Q", heads + "pe") * _input("K", "bhme")))
    scaled = qk * Param("scale")
    if causal is not None:
        sizes = (("m", 1), ("p", -1)) if causal == "lower_right" else ()
        scaled = Where(Predicate((Term("m", -1), Term("p", 1)), sizes), scaled, NEG_INF)
    s = let("S", heads + "mp", scaled)
    gm = let("GM", heads + "p", _max("m", s))
    sn = let("SN", heads + "mp", _exp(s - gm))
    sd = let("SD", heads + "p", _sum("m", sn))
    a = let("A", heads + "mp", sn / sd)
    let("AV", heads + "pf", _sum("m", a * _input("V", "bhmf")))
    return let.done()


@workload
def softmax() -> Cascade:
    """Y = exp(X - max X) / sum exp(X - max X) along m."""
    let = _Writer()
    x = _input("X", "pm")
    sn = let("SN", "pm", _exp(x - let("GM", "p", _max("m", x))))
    let("Y", "pm", sn / let("SD", "p", _sum("m", sn)))
    return let.done()


@workload
def logsumexp() -> Cascade:
    """L = log sum exp X along m, relative to the maximum."""
    let = _Writer()
    x = _input("X", "pm")
    gm = let("GM", "p", _max("m", x))
    sd = let("SD", "p", _sum("m", _exp(x - gm)))
    let("L", "p", Map("log", (sd,)) + gm)
    return let.done()


def _moments(let: _Writer, x: Expr) -> tuple[Expr, Expr]:
    mean = let("MU", "p", _sum("m", x) / Size("m"))
    centred = let("C", "pm", x - mean)
    return centred, let("VAR", "p", _sum("m", centred * centred) / Size("m"))


@workload
def variance() -> Cascade:
    """VAR = mean of (X - mean X)^2 along m."""
    let = _Writer()
    _moments(let, _input("X", "pm"))
    return let.done()


@workload
def layernorm() -> Cascade:
    """Y = (X - mean) / sqrt(variance + eps) * W + B along m."""
    let = _Writer()
    centred, variance = _moments(let, _input("X", "pm"))
    sigma = let("SIG", "p", Map("sqrt", (variance + Param("eps"),)))
    let("Y", "pm", centred / sigma * _input("W", "m") + _input("B", "m"))
    return let.done()


@workload
def rmsnorm() -> Cascade:
    """Y = X / sqrt(mean X^2 + eps) * W along m."""
    let = _Writer()
    x = _input("X", "pm")
    ms = let("MS", "p", _sum("m", x * x) / Size("m"))
    rms = let("RMS", "p", Map("sqrt", (ms + Param("eps"),)))
    let("Y", "pm", x / rms * _input("W", "m"))
    return let.done()


@workload
def gemm() -> Cascade:
    """Z = A B, summed over k."""
    let = _Writer()
    let("Z", "mn", _sum("k", _input("A", "mk") * _input("B", "kn")))
    return let.done()


@workload
def linear_attention() -> Cascade:
    """AV = (Q K^T) V without a softmax, written in the order that is quadratic in the length."""
    let = _Writer()
    qk = let("QK", "mp", _sum("e", _input("Q", "pe") * _input("K", "me")))
    let("AV", "pf", _sum("m", qk * _input("V", "mf")))
    return let.done()


@workload
def gelu_mlp() -> Cascade:
    """Y = gelu(X U + B) W: two products with the exact GELU between them."""
    let = _Writer()
    h = let("H", "pm", _sum("e", _input("X", "pe") * _input("U", "em")) + _input("B", "m"))
    g = let("G", "pm", h * 0.5 * (Map("erf", (h * (1 / math.sqrt(2)),)) + 1.0))
    let("Y", "pf", _sum("m", g * _input("W", "mf")))
    return let.done()


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, but got {value!r}")
    return value


def attention_problem(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    seq: int,
    kv_seq: int,
    head_dim: int,
    value_dim: int | None = None,
    dtype: str,
    causal: Causal = None,
    scale: float | None = None,
) -> Problem:
    """The attention problem at one size: `heads` query heads over `kv_heads` key heads.

    `value_dim` defaults to `head_dim`, `scale` to 1/sqrt(head_dim). Raises ValueError with the rule, the
    value and the valid options.
    """
    value_dim = head_dim if value_dim is None else value_dim
    numbers = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "seq": seq, "kv_seq": kv_seq}
    for name, value in (*numbers.items(), ("head_dim", head_dim), ("value_dim", value_dim)):
        _positive(name, value)
    for name, value in (("head_dim", head_dim), ("value_dim", value_dim)):
        if value > MAX_HEAD_DIM:
            raise ValueError(f"`{name}` must be at most {MAX_HEAD_DIM}, but got {value}")
    if heads % kv_heads:
        divisors = [n for n in range(1, min(heads, 4096) + 1) if heads % n == 0]
        raise ValueError(
            f"`heads` must be a multiple of `kv_heads`, but got (heads={heads}, kv_heads={kv_heads}); "
            f"for {heads} heads `kv_heads` may be one of {divisors}"
        )
    elements = batch * max(heads * seq, kv_heads * kv_seq) * max(head_dim, value_dim)
    if elements > MAX_ELEMENTS:
        shape = " x ".join(f"{name} {value}" for name, value in (*numbers.items(), ("head_dim", head_dim)))
        raise ValueError(f"a tensor must have at most 2**36 elements, but {shape} gives {elements}")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {list(DTYPES)}, but got {dtype!r}")
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be a finite number, but got {scale!r}")
    grouped = heads != kv_heads
    sizes = {
        "b": batch,
        "h": kv_heads,
        "g": heads // kv_heads,
        "p": seq,
        "m": kv_seq,
        "e": head_dim,
        "f": value_dim,
    }
    if not grouped:
        del sizes["g"]
    cascade = attention(causal=causal, grouped=grouped)
    dtypes = dict.fromkeys((*cascade.inputs, *cascade.outputs), dtype)
    return Problem("attention", str(cascade), sizes, dtypes, {"scale": float(scale)})


SHIPPED: dict[str, Cascade] = {
    "_".join(filter(None, ("attention", causal, "grouped" if grouped else None))): attention(
        causal=causal, grouped=grouped
    )
    for causal in CAUSAL
    for grouped in (False, True)
}
"""The definitions whose derived forms ship as text."""
