"""Small plans for tests: two chained products written by hand, and three forms of one computation, lowered."""

from __future__ import annotations

from typing import Literal

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.expr import NEG_INF, Access, Const, Expr, Fold, Map, Param, Predicate, Reduce, Tensor, Term, Where
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.bounds import Lit
from eintune.space.plan.plan import Block, Carry, Loop, LoopPlan, Segment
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import Sizes
from eintune.space.plan.values import Carried, Dot, Load, Scale, Store, Value
from eintune.space.schedule.schedule import Schedule

Passes = Literal["one", "two", "three"]


def chained_products(*, store_each_iteration: bool, scaled: bool = True) -> LoopPlan:
    """`(scale * Q K) V` as in seed 001: Q 128x64, K 64x128, V 128x64 in fp16, 8 iterations of 128."""
    q = Load(tensor="Q", index=("p", "e"), axes=("p", "e"), dtype="fp16", name="q")
    k = Load(tensor="K", index=("e", "m"), axes=("m", "e"), dtype="fp16", name="k")
    v = Load(tensor="V", index=("m", "f"), axes=("m", "f"), dtype="fp16", name="v")
    total = Carried(axes=("p", "f"), dtype="fp32", name="total")
    s = Dot(contracted="e", args=(q, k), axes=("p", "m"), dtype="fp32", name="s")
    a = Scale(factor=0.125, args=(s,), axes=("p", "m"), dtype="fp32", name="a") if scaled else s
    o = Dot(contracted="m", args=(a, v, total), axes=("p", "f"), dtype="fp32", name="o")
    inner: list[Value | Loop] = [k, s, *([a] if scaled else []), v, o]
    stored = o if store_each_iteration else total
    store = Store(tensor="O", index=("p", "f"), args=(stored,), axes=("p", "f"), dtype="fp32", name="store")
    if store_each_iteration:
        inner.append(store)
    body = Block(frozenset("m"), inner)
    loop = Loop("m", 128, (Segment(Lit(0), Lit(1024), frozenset()),), (Carry(total, 0.0, o),), body)
    root = Block(frozenset(), [q, loop, *([] if store_each_iteration else [store])])
    return LoopPlan(
        roles={"p": Role(None, 128), "m": Role("loop", 128), "e": Role(None, 64), "f": Role(None, 64)},
        sizes=Sizes({"p": 128, "m": 1024, "e": 64, "f": 64}),
        order=("p", "m", "e", "f"),
        grid=(),
        root=root,
        inputs={n: Tensor(n, r) for n, r in (("Q", ("p", "e")), ("K", ("e", "m")), ("V", ("m", "f")))},
        outputs={"O": ("p", "f")},
        dtypes={"Q": "fp16", "K": "fp16", "V": "fp16", "O": "fp32"},
    )


def form(passes: Passes, *, filtered: bool = False) -> Cascade:
    """A normalised weighted sum in one, two or three passes over m; `filtered` keeps only m <= p."""

    def read(name: str, ranks: str) -> Expr:
        return Access(Tensor(name, tuple(ranks)), tuple(ranks))

    q, k, v = read("Q", "bhpe"), read("K", "bhme"), read("V", "bhmf")
    score: Expr = Map("mul", (Reduce("add", "e", q * k), Param("scale")))
    if filtered:
        score = Where(Predicate((Term("m", -1), Term("p", 1))), score, NEG_INF)
    weight = Map("exp", (score - Reduce("max", "m", score),))
    total = Fold("scale", "m", score, Const(1.0))
    result = {
        "one": lambda: Fold("scale", "m", score, v) / total,
        "two": lambda: Reduce("add", "m", weight * v) / total,
        "three": lambda: Reduce("add", "m", weight / Reduce("add", "m", weight) * v),
    }[passes]()
    return Cascade((Einsum(Tensor("O", ("b", "h", "p", "f")), result),))


def problem(batch: int = 4, heads: int = 32, length: int = 2048, width: int = 128, dtype: str = "bf16") -> Problem:
    """Sizes and dtypes for `form`."""
    sizes = {"b": batch, "h": heads, "p": length, "m": length, "e": width, "f": width}
    return Problem("test", "", sizes, dict.fromkeys("QKVO", dtype), {"scale": width**-0.5})


def schedule(
    p: int = 64, m: int = 64, *, warps: int = 4, stages: int = 3, width: int = 128, order: str = "forward"
) -> Schedule:
    """Programs over b, h and tiles of p; a loop over tiles of m."""
    roles = {
        "b": Role("grid", None),
        "h": Role("grid", None),
        "p": Role("grid", p),
        "m": Role("loop", m),
        "e": Role(None, width),
        "f": Role(None, width),
    }
    return Schedule("triton", tuple(roles.items()), warps, stages, True, order)


def whole_batch_schedule(batch: int, heads: int, p: int, m: int, width: int) -> Schedule:
    """As a CPU wants it: all of b and h at once, tiles of p and m."""
    roles = {
        "b": Role(None, batch),
        "h": Role(None, heads),
        "p": Role("grid", p),
        "m": Role("loop", m),
        "e": Role(None, width),
        "f": Role(None, width),
    }
    return Schedule("torch", tuple(roles.items()))


def plan(passes: Passes, problem: Problem, schedule: Schedule, *, filtered: bool = False) -> LoopPlan:
    """`form` lowered."""
    return build_plan(form(passes, filtered=filtered), problem, schedule)
