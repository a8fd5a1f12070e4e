"""When products that run in the background are started, and what is waited for before a result is read."""

from __future__ import annotations

from eintune.kernels.gluon.product_order import Start, Step, Wait, in_background
from eintune.space.plan.values import Dot, Elementwise, Load, Value


def load(tensor: str, *axes: str) -> Load:
    return Load(tensor=tensor, index=axes, axes=axes, dtype="fp32", name=tensor.lower())


def dot(name: str, contracted: str, *args: Value) -> Dot:
    return Dot(contracted=contracted, args=args, axes=("m", "p"), dtype="fp32", name=name)


def pointwise(name: str, *args: Value) -> Elementwise:
    return Elementwise(operator="mul", args=args, axes=("m", "p"), dtype="fp32", name=name)


K, V = load("K", "m", "e"), load("V", "m", "f")
"""Tiles that stay: of no iteration."""
Q, DO, ROW, BIAS = load("Q", "p", "e"), load("DO", "p", "f"), load("R", "p"), load("BIAS", "m", "p")
SCORES = dot("scores", "e", K, Q)
WEIGHTS = pointwise("weights", SCORES, BIAS, ROW)
ADJOINTS = dot("adjoints", "f", V, DO)
CHANGES = pointwise("changes", WEIGHTS, ADJOINTS)
KEYS, VALUES = dot("keys", "p", CHANGES, Q), dot("values", "p", WEIGHTS, DO)
BODY: list[Value] = [Q, SCORES, BIAS, ROW, WEIGHTS, DO, ADJOINTS, CHANGES, KEYS, VALUES]


def written(steps: list[Step]) -> list[str]:
    found = []
    for step in steps:
        match step:
            case Start(product):
                found.append(f"start {product.name}")
            case Wait(products, running):
                found.append(f"wait {' '.join(p.name for p in products)}, {running} running")
            case list(some):
                found.append(" ".join(v.name for v in some))
    return found


def test_the_backward_of_an_attention() -> None:
    """The second product hides behind the exponentials of the first, and the values' behind what the keys' is made of;
    numbers of columns are asked for first, whole tiles once the first products run."""
    assert written(in_background(BODY, {Q, DO})) == [
        "r", "q", "start scores", "do", "start adjoints", "bias", "wait scores, 1 running", "weights", "start values",
        "wait adjoints, 1 running", "changes", "start keys", "wait values keys, 0 running",
    ]  # fmt: skip


def test_every_value_once_and_after_what_it_is_made_of() -> None:
    done: set[Value] = set()
    ready: set[Value] = set()
    for step in in_background(BODY, {Q, DO}):
        match step:
            case Start(product):
                assert all(a in ready or a not in BODY for a in product.args) and product not in done
                done.add(product)
            case Wait(products, _):
                ready |= set(products)
            case list(some):
                for v in some:
                    assert v not in done and all(a in ready or a not in BODY for a in v.args)
                    done.add(v)
                    ready.add(v)
    assert done == ready == set(BODY)


def test_an_accumulator_that_another_product_adds_to_is_waited_for() -> None:
    first = dot("first", "e", K, Q)
    second = dot("second", "f", V, DO, first)
    assert written(in_background([Q, first, DO, second], {Q, DO})) == [
        "q", "start first", "do", "wait first, 0 running", "start second", "wait second, 0 running",
    ]  # fmt: skip
