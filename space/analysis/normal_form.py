"""One normal form for planning: constants outermost, exponentials to base two, no reduction of a constant fiber.

A number that multiplies moves out of products, sums, filters and (if it is positive) maxima, and stops at an
exponential, where it meets log2(e): `exp(k*s - max(k*s))` becomes `exp2((s - max(s))*k')` with one literal k'.
A negative or unknown factor stays inside its maximum. All rules hold in real arithmetic with `0/0 = 0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from eintune.space.ir.exact import QUOTIENT, rewrite_around
from eintune.space.ir.expr import (
    NEG_INF,
    Const,
    Expr,
    Fold,
    Map,
    Predicate,
    Rank,
    Reduce,
    Size,
    Term,
    Where,
    children,
    rewrite,
)
from eintune.space.ir.folds import LN_2, LOG2_E
from eintune.space.ir.products import product
from eintune.space.plan.roles import IllegalPlan
from eintune.space.plan.sizes import Sizes

from .layout import Layout

FARTHEST = 2**31

ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a if a == b == NEG_INF else a - b,  # as the language has it: an empty row stays empty
    "mul": lambda a, b: a * b,
}


def times(x: Expr, k: float) -> Expr:
    """`x * k` with the constants merged."""
    core, already = scaled(x)
    k *= already
    match core:
        case _ if k == 1.0:
            return core
        case Const():
            return Const(core.value * k)
        case _:
            return Map("mul", (core, Const(k)))


def scaled(x: Expr) -> tuple[Expr, float]:
    """`x` as (core, k): x = core * k."""
    match x:
        case Map("mul", (core, Const(k))) if math.isfinite(k):
            return core, k
        case _:
            return x, 1.0


def oriented(x: Expr) -> tuple[Expr, float]:
    """`x` as (core, k) with k >= 0: a negative number leaves its sign on the core, where negation is exact.

    So a maximum gives up a negative factor too, and all that is relative to it shares one rounding of `core * k`.
    """
    core, k = scaled(x)
    return (Map("neg", (core,)), -k) if k < 0 else (core, k)


def bind_sizes(roots: Iterable[Expr], sizes: Mapping[Rank, int]) -> list[Expr]:
    """Sizes as numbers where they are known, in expressions and in filters; a filter that holds everywhere or nowhere
    goes."""
    known = Sizes.of(sizes)

    def step(x: Expr) -> Expr | None:
        match x:
            case Size():
                return None if x.rank in known.ranges else Const(float(known[x.rank]))
            case Where():
                bound = _bind_predicate(x.predicate, known)
                if not bound.terms and not bound.numbers:
                    return x.arg if bound.const >= 0 else Const(x.fill)
                return Where(bound, x.arg, x.fill)
            case _:
                return None

    return rewrite(roots, step)


def _bind_predicate(p: Predicate, sizes: Sizes) -> Predicate:
    total: dict[Rank, int] = {}
    for t in p.terms:
        total[t.rank] = total.get(t.rank, 0) + t.coef * (sizes[t.stride] if t.stride else 1)
    terms = tuple(Term(r, c) for r, c in total.items() if c)
    const, unknown = p.const, dict[Rank, int]()
    for r, c in p.sizes:
        # Of sizes alone, without an index, a filter is true or false as a whole, which takes numbers.
        if r in sizes.ranges and (terms or p.numbers):
            unknown[r] = unknown.get(r, 0) + c
        else:
            const += c * sizes[r]
    const = const if p.numbers else _near(const, total, unknown, sizes)
    return Predicate(terms, tuple((r, c) for r, c in unknown.items() if c), const, p.numbers)


def _near(const: int, coefs: Mapping[Rank, int], unknown: Mapping[Rank, int], sizes: Sizes) -> int:
    """The constant of a filter, or one that says the same of all indices where it is so large (a window that is wider
    than any sequence) that a sum with it might need more than the 32 bits of an index."""
    least, most = (
        sum(pick(c * (sizes.most(r) - 1), 0) for r, c in coefs.items() if c)
        + sum(pick(c * sizes.least(r), c * sizes.most(r)) for r, c in unknown.items())
        for pick in (min, max)
    )
    # Clamped to just beyond what the indices can make up for: the filter is true of the same of them.
    return const if abs(const) + most - least < FARTHEST else min(max(const, -most - 1), -least)


def normalise(roots: Iterable[Expr], layout: Layout) -> list[Expr]:
    """The normal form of expressions whose sizes and parameters are bound."""
    return rewrite_around(roots, lambda x: _step(x, layout), lambda x: _exact_step(x, layout))


def _step(x: Expr, layout: Layout) -> Expr | None:
    match x:
        case Map():
            return _map(x)
        case Where():
            # -inf times a positive number is -inf, times a negative one it is not: the sign must stay inside. 0 stays
            # 0 either way.
            core, k = scaled(x.arg) if x.fill == 0.0 else oriented(x.arg)
            return times(Where(x.predicate, core, x.fill), k) if _fill_keeps(x.fill, k) else None
        case Reduce() if not layout.varies(x.arg, x.rank):
            return _repeated(x.op, x.arg, x.rank, layout)
        case Reduce("add", rank, arg):
            core, k = scaled(arg)
            return times(Reduce("add", rank, core), k) if k != 1.0 else None
        case Reduce("max" | "min" as op, rank, arg):
            core, k = oriented(arg)
            return times(Reduce(op, rank, core), k) if k not in (0.0, 1.0) else None
        case Fold():
            if not any(layout.varies(a, x.rank) for a in children(x)):
                raise IllegalPlan(f"a fold over {x.rank} needs a score or an argument that varies with it")
            core, k = scaled(x.arg)
            return times(Fold(x.action, x.rank, x.ref, core, x.others), k) if k != 1.0 else None
        case _:
            return None


def _exact_step(x: Expr, layout: Layout) -> Expr | None:
    """The normal form of what must be computed as it is written: nothing here changes how a number is rounded."""
    match x:
        case Map(("add" | "sub" | "mul") as op, (Const(a), Const(b))):
            return Const(ARITHMETIC[op](a, b))
        case Map("div", (Const(a), Const(b))) if b:
            return Const(a / b)
        case Map("add" | "sub", (a, Const(0.0))) | Map("add", (Const(0.0), a)):
            return a
        case Map("mul" | "div", (a, Const(1.0))) | Map("mul", (Const(1.0), a)):
            return a
        case Map("mul", (Const() as k, a)):
            return Map("mul", (a, k))
        # Exact: only the exponent changes.
        case Map("div", (a, Const(k))) if _is_power_of_two(k):
            return Map("mul", (a, Const(1.0 / k)))
        case Map("div", (a, b)):
            return Map(QUOTIENT, (a, b))
        case Map("recip", (a,)):
            return Map(QUOTIENT, (Const(1.0), a))
        case Reduce("add") if not layout.varies(x.arg, x.rank):
            return Map("mul", (x.arg, layout.number_of(x.rank)))
        case Reduce() if not layout.varies(x.arg, x.rank):
            return _repeated(x.op, x.arg, x.rank, layout)
        case _:
            return None


def _is_power_of_two(k: float) -> bool:
    """Of a size whose reciprocal is as exact in any of the dtypes that kernels compute in."""
    return math.frexp(abs(k))[0] == 0.5 and 2.0**-64 <= abs(k) <= 2.0**64


def _fill_keeps(fill: float, k: float) -> bool:
    """Whether `fill = fill * k`, so that the factor may leave the filter."""
    return k != 1.0 and (fill == 0.0 or (math.isinf(fill) and k > 0))


def _repeated(op: str, x: Expr, rank: Rank, layout: Layout) -> Expr:
    """A reduction over a rank that `x` does not vary with."""
    match op:
        case "add":
            count = layout.number_of(rank)
            return times(x, count.value) if isinstance(count, Const) else Map("mul", (x, count))
        case "mul":
            return _power(x, layout.count(rank))
        case _:
            return x


def _power(x: Expr, n: int) -> Expr:
    if n == 1:
        return x
    half = _power(x, n // 2)
    return product([half, half, x][: 2 + n % 2])


def _map(x: Map) -> Expr | None:
    match x.op, x.args:
        case (("add" | "sub" | "mul"), (Const(a), Const(b))):
            return Const(ARITHMETIC[x.op](a, b))
        case (("add" | "sub"), (a, Const(0.0))):
            return a
        case "add", (Const(0.0), b):
            return b
        case "mul", (Const(k), b) if math.isfinite(k):
            return times(b, k)
        case "mul", (a, Const(k)) if math.isfinite(k):
            return times(a, k)
        case "mul", (a, b):
            (core_a, ka), (core_b, kb) = scaled(a), scaled(b)
            return times(Map("mul", (core_a, core_b)), ka * kb) if ka * kb != 1.0 else None
        case (("max" | "min"), (a, b)) if scaled(a)[1] == scaled(b)[1] > 0 and scaled(a)[1] != 1.0:
            (core_a, k), (core_b, _) = scaled(a), scaled(b)
            return times(Map(x.op, (core_a, core_b)), k)
        case "neg", (a,):
            return times(a, -1.0)
        # Here real arithmetic holds, so a division by a number is a multiplication, which is an instruction instead
        # of many.
        case "div", (a, Const(k)) if k and math.isfinite(1.0 / k):
            return times(a, 1.0 / k)
        case "div", (a, b):
            core, k = scaled(a)
            # nothing by nothing is 0, so a factor of 0 stays where it makes nothing of the dividend
            return times(Map("div", (core, b)), k) if k not in (0.0, 1.0) and not isinstance(core, Const) else None
        # Hardware has 2^x (ex2.approx); e^x is that after a multiplication, which is merged with the score's own
        # factor.
        case "exp", (a,):
            return Map("exp2", (_exponent(a),))
        case "log", (a,):
            return times(Map("log2", (a,)), LN_2)
        case "select", (condition, a, Const(fill)):
            core, k = scaled(a) if fill == 0.0 else oriented(a)
            return times(Map("select", (condition, core, Const(fill))), k) if _fill_keeps(fill, k) else None
        case _:
            return None


def _exponent(x: Expr) -> Expr:
    """`x` to base two. A difference is taken before it is multiplied: a number on both sides leaves it, and products
    in it are rounded, so that a maximum less itself is 0 however large it is."""
    core, k = scaled(x)
    match core:
        # What is relative to a reference already stays a difference of its own; a second one, a logarithm, is small, so
        # its product may be rounded: one multiply-add an element takes both.
        case Map("sub", (Map("sub") as a, Map("reference") as b)):
            return Map("sub", (times(_relative(a), k * LOG2_E), times(b, k * LOG2_E)))
        case Map("sub", (a, b)):
            pass
        case Map("add", (a, b)) if scaled(b)[1] < 0:
            b = times(b, -1.0)
        case _:
            return times(x, LOG2_E)
    return times(_relative(Map("sub", (a, b))), k * LOG2_E)


def _relative(x: Map) -> Expr:
    """A difference as its exponent is made of."""
    a, b = x.args
    (core_a, ka), (core_b, kb) = scaled(a), scaled(b)
    # k a - k b = k (a - b): one multiplication, and none before the difference.
    if ka == kb and ka != 1.0:
        return times(Map("sub", (_rounded(core_a), _rounded(core_b))), ka)
    return Map("sub", (_rounded(a), _rounded(b)))


def _rounded(x: Expr) -> Expr:
    """A product that no compiler fuses with the difference that it stands in."""
    return Map("rounded", (x,)) if isinstance(x, Map) and x.op == "mul" else x
