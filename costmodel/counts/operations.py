"""What one element of each operation costs, by unit: the table behind every count of operations.

`slots` are issue slots of the fp32 lanes (an FMA, an add and a compare take one each); `special` are operations
of the special-function unit (exp2, log2, reciprocal, tanh approximations). Counts are of the code that Triton
3.6 emits for sm_90; other back ends differ by less than the model's error.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOPS_PER_SLOT = 2.0
"""A slot could have been an FMA: rates count it as two FLOP whatever it held."""


@dataclass(frozen=True)
class ElementCost:
    """Slots of the fp32 lanes and special-function operations of one element."""

    slots: float
    special: float = 0.0


FREE = ElementCost(0.0)
ONE = ElementCost(1.0)

ELEMENT_COST: dict[str, ElementCost] = {
    "load": FREE,  # priced as bytes
    "store": FREE,
    "const": FREE,
    "carry": FREE,
    "iota": FREE,
    "lane": FREE,
    "first": FREE,
    "cast": ElementCost(0.5),  # two elements a conversion
    "where": ElementCost(2.0),  # compare the indices, select
    "guard": ElementCost(2.0),
    "row_factor": ElementCost(2.0),  # compare, select
    "tile_reference": ElementCost(2.0),
    "row_reference": ElementCost(3.0),
    "rounded": FREE,  # a product becomes a multiply-add of 0
    "exp": ElementCost(1.0, 1.0),  # ex2.approx after a multiply
    "exp2": ElementCost(0.0, 1.0),
    "log": ElementCost(1.0, 1.0),
    "log2": ElementCost(0.0, 1.0),
    "div": ElementCost(2.0, 1.0),  # div.full: reciprocal and a correction
    "div_rn": ElementCost(8.0, 1.0),
    "quotient": ElementCost(8.0, 1.0),
    "recip": ElementCost(1.0, 1.0),
    "sqrt": ElementCost(1.0, 1.0),
    "tanh": ElementCost(20.0, 3.0),  # both of a fraction and a quotient of exponentials, one chosen
    "tanh_approximate": ElementCost(0.0, 1.0),
    "sin": ElementCost(20.0),  # two polynomials, one chosen; the branch for large arguments apart
    "cos": ElementCost(20.0),
    "erf": ElementCost(20.0, 1.0),
    "sigmoid": ElementCost(3.0, 2.0),
    "silu": ElementCost(4.0, 2.0),
    "part": ElementCost(5.0),  # of whole numbers, by a constant: a wide product and a shift
    "reduce": ONE,  # per element of the argument
}
"""By operation, as `op` of a plan's value names it. An operation that is not listed takes one slot an element."""


def element_cost(op: str) -> ElementCost:
    """The cost of one element."""
    return ELEMENT_COST.get(op, ONE)
