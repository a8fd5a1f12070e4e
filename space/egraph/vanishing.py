"""What is 0 wherever an exponent is -inf, as rules of the e-graph's analysis.

`(A e^C) / (B e^C) = A / B` holds where C is -inf only if A is 0 there, since the left side is 0 / 0 = 0. So it is with
weights and their own reference: C = g - u is -inf only where the maximum g is, and then nothing is left of what is
weighed relative to it. For each such g that a quotient has (`wanted`):

    (only c g)      c is -inf only where g is
    (hidden x g)    x is -inf wherever g is
    (zero a g)      a is 0 wherever g is -inf
    (vanishes a c)  a is 0 wherever c is -inf: of a dividend and its factor's exponent, which may be finite

They say it of each element: a reduction over a rank that g varies with has other elements in it. Infinities that are no
value (+inf, and what a pole gives) are left out, as in all laws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eintune.space.ir.expr import NEG_INF, Predicate

_QUOTIENT = "(= e (M_exp c)) (= t (M_div (M_mul a e) (M_mul b e)))"
_ONCE = "(= z (free g)) (= 0 (& z r))"
"""g does not vary with what a reduction goes over."""

_ONLY = (
    ("(= t (R_max r x))", "(only t t)"),
    ("(= t (M_max x y))", "(only t t)"),
    ("(= t (M_sub c u)) (only c g)", "(only t g)"),
    ("(= t (M_add c u)) (only c g) (finite u)", "(only t g)"),
    ("(= t (M_add u c)) (only c g) (finite u)", "(only t g)"),
    (f"{_QUOTIENT} (only c g)", "(wanted g)"),
    (f"{_QUOTIENT} (finite c)", "(vanishes a c)"),
    (f"{_QUOTIENT} (only c g) (zero a g)", "(vanishes a c)"),
)
_HIDDEN = (
    ("(wanted g)", "(hidden g g)"),
    ("(hidden t g) (= t (R_max r x))", "(hidden x g)"),
    ("(hidden t g) (= t (M_max x y))", "(hidden x g)"),
    ("(hidden t g) (= t (M_max y x))", "(hidden x g)"),
    ("(hidden x g) (= t (M_sub x u))", "(hidden t g)"),
    ("(hidden x g) (= t (M_add x u))", "(hidden t g)"),
    ("(hidden x g) (= t (M_add u x))", "(hidden t g)"),
)
_ZERO = (
    *((f"(hidden x g) (= t ({op} x))", "(zero t g)") for op in ("M_exp", "M_exp2_")),
    (f"(hidden c g) (= t (F_scale r c y)) {_ONCE}", "(zero t g)"),
    (f"(zero y g) (= t (F_scale r c y)) {_ONCE}", "(zero t g)"),
    (f"(zero a g) (= t (R_add r a)) {_ONCE}", "(zero t g)"),
    ("(zero a g) (= t (M_mul a b))", "(zero t g)"),
    ("(zero a g) (= t (M_mul b a))", "(zero t g)"),
    ("(zero a g) (= t (M_div a b))", "(zero t g)"),
    ("(zero a g) (= t (M_neg a))", "(zero t g)"),
    ("(zero a g) (zero b g) (= t (M_add a b))", "(zero t g)"),
    ("(zero a g) (zero b g) (= t (M_sub a b))", "(zero t g)"),
)


def declarations() -> Iterator[str]:
    """The tables, which hold what is so. No relations: a tuple of one takes a number of those that terms have."""
    yield "(function wanted (T) Unit :no-merge)"
    yield from (f"(function {name} (T T) Unit :no-merge)" for name in ("only", "hidden", "zero", "vanishes"))


def rules(filters: Sequence[tuple[Predicate, float]], views: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(facts, what follows). filters: predicates and fills by index. views: the ranks of each view, as a mask."""
    yield from (*_ONLY, *_HIDDEN, *_ZERO)
    for i, (_, fill) in enumerate(filters):
        if fill == NEG_INF:
            yield f"(hidden x g) (= t (filter {i} k x))", "(hidden t g)"
        elif fill == 0.0:
            yield f"(zero x g) (= t (filter {i} k x))", "(zero t g)"
    for i, ranks in enumerate(views):
        for relation in ("hidden", "zero"):
            yield f"({relation} x g) (= t (V{i}_ x)) (= z (free g)) (= 0 (& z {ranks}))", f"({relation} t g)"
