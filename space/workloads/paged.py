"""Workloads that read by index: keys and values in pages that a table names, rows of an embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eintune.space.cascade.builder import Writer, apply, exp, given, top, total
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem, Values
from eintune.space.ir.expr import NEG_INF, Access, Iota, Param, Rank, Tensor, access

from .attention import check_sizes
from .pages import in_pages
from .workload import INTEGERS, WORKLOADS, Option, Posed, Workload, counted, size, workload

PAGE = 64

OPTIONS = (
    Option("seq", "queries a head; default: 1", default=1),
    Option("heads", "query heads"),
    Option("kv_seq", "keys a head, at most: what the lengths are drawn from"),
    Option("head_dim", "default: 128", default=128),
    Option("batch", "default: 1", default=1),
    Option("kv_heads", "default: as many as --heads", default=""),
    Option("value_dim", "columns of V; default: as many as --head-dim", default=""),
    Option("scale", "of the scores; default: 1/sqrt(head dim)", "number", default=""),
    Option("page", f"keys of a page; default: {PAGE}", default=PAGE),
    Option("full", "every sequence has all its keys", "flag", default=False),
)


def paged_attention(*, page: int = PAGE, grouped: bool = False) -> Cascade:
    """AV = softmax_m(scale * Q K^T) V over the keys m < L[b], keys and values in pages: decoding from a cache.

    Q[b,h,(g,)p,e], KC[n,s,h,e], VC[n,s,h,f], BT[b,j], L[b] -> AV[b,h,(g,)p,f]: n pages of `page` keys, BT the pages of
    each sequence in order, L how many keys it has (a sequence without keys gives 0); g is there if `grouped`: the
    query heads of one key head.
    """
    heads = ("h", "g") if grouped else ("h",)
    rows, let = ("b", *heads, "p"), Writer()
    scores = (*rows[:-1], "m", "p")
    k, v = in_pages("KC", "nshe", page), in_pages("VC", "nshf", page)
    qk = let("QK", scores, total("e", given("Q", (*rows, "e")) * k))
    length = Access(Tensor("L", ("b",), "int"), ("b",))
    s = let("S", scores, apply("select", apply("lt", Iota("m"), length), qk * Param("scale"), NEG_INF))
    gm = let("GM", rows, top("m", s))
    sn = let("SN", scores, exp(s - gm))
    sd = let("SD", rows, total("m", sn))
    a = let("A", scores, sn / sd)
    let("AV", (*rows, "f"), total("m", a * v))
    return let.done()


def _pose(wanted: Mapping[str, Any], dtype: str) -> Posed:
    heads, batch, keys, page = wanted["heads"], wanted["batch"], wanted["kv_seq"], wanted["page"]
    kv_heads, head_dim = wanted["kv_heads"] or heads, wanted["head_dim"]
    value_dim = wanted["value_dim"] or head_dim
    numbers = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "seq": wanted["seq"], "kv_seq": keys}
    check_sizes({**numbers, "head_dim": head_dim, "value_dim": value_dim})
    if isinstance(page, bool) or not isinstance(page, int) or page < 1:
        raise ValueError(f"`page` must be a positive integer, but got {page!r}")
    scale = 1 / math.sqrt(head_dim) if wanted["scale"] == "" else float(wanted["scale"])
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be a finite number, but got {scale!r}")
    grouped = heads != kv_heads
    pages = -(-keys // page)
    sizes: dict[Rank, int] = {"b": batch, "h": kv_heads, **({"g": heads // kv_heads} if grouped else {})}
    sizes |= {"p": wanted["seq"], "m": keys, "e": head_dim, "f": value_dim, "n": batch * pages, "s": page, "j": pages}
    cascade = paged_attention(page=page, grouped=grouped)
    kinds = {"float": dtype, "int": INTEGERS}
    dtypes = {n: kinds[t.kind] for n, t in {**cascade.inputs, **cascade.outputs}.items()}
    lengths = Values(keys if wanted["full"] else 1, keys + 1)
    problem = Problem("paged_attention", str(cascade), sizes, dtypes, {"scale": scale}, {"L": lengths})
    groups = f"kv{kv_heads}" if grouped else ""
    columns = f"v{value_dim}" if value_dim != head_dim else ""
    full = "-full" if wanted["full"] else ""
    size_words = f"b{batch}-h{heads}{groups}-s{wanted['seq']}k{keys}-d{head_dim}{columns}-page{page}"
    folder = f"paged-attention-{size_words}{full}-{dtype}"
    of_keys = f"{counted(kv_heads, 'kv heads')}, " if grouped else ""
    title = (
        f"Paged attention: batch {batch}, {counted(heads, 'heads')}, {of_keys}"
        f"{counted(wanted['seq'], 'queries')}, {counted(keys, 'keys')} in pages of "
        f"{page}, head dim {head_dim}, {dtype}"
    )
    return Posed(problem, title, folder)


WORKLOADS["paged_attention"] = Workload("paged_attention", paged_attention, OPTIONS, pose=_pose)


@workload(
    size("rows", "p", 4096),
    size("vocab", "v", 128256, short="v", words="words"),
    size("hidden", "m", 1024, short="d", words="hidden"),
)
def embedding() -> Cascade:
    """Y = E[T] + P: the rows of a table that T names, and one of each position."""
    let = Writer()
    row = Access(Tensor("T", ("p",), "int"), ("p",))
    let("Y", "pm", access(Tensor("E", ("v", "m")), (row, "m")) + given("P", "pm"))
    return let.done()
