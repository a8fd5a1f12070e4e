"""A loop whose last product runs one iteration later, beside the elementwise work of the next tile.

In `acc = dot(weights, v, acc * factor)` nothing else of the iteration waits for the product: what it needs of the tile
may be kept for an iteration, and the matrix unit works on it while the next tile's weights are computed. Software
pipelining, read off the plan: which values move is a question of who uses them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .plan import Carry, Loop
from .values import Cast, Dot, Load, Value, is_product

Pipelined = Literal["none", "product"]
"""The settings of `Schedule.pipelined`."""

PIPELINED: tuple[Pipelined, ...] = get_args(Pipelined)


@dataclass(frozen=True)
class PipelinedProduct:
    """The parts of a loop with a pipelined product.

    carry: the accumulator, 0 before the loop. product: the matrix product that is its next value. values: all that
    runs one iteration later, in order, `product` last. kept: the values of an iteration that those read in the next."""

    carry: Carry
    product: Dot
    values: tuple[Value, ...]
    kept: tuple[Value, ...]


def pipelined_product(loop: Loop, casts: bool = True) -> PipelinedProduct | None:
    """The product of a loop that can run one iteration later; None where none can, or where the loop has no other
    product for it to run beside.

    casts: whether the conversion of the weights runs later too, so that wide ones are kept; else narrow ones are.
    """
    values = [v for v in loop.body.items if isinstance(v, Value)]
    # An iteration later must be an iteration of the same loop: nested loops, and segments printed as loops of their
    # own, would have the product cross from one to the next.
    if len(values) < len(loop.body.items) or (len(loop.segments) > 1 and not loop.joined):
        return None
    # The last product is the one that waits for everything else; another must stay in time for it to run beside.
    for carry in reversed(loop.carries):
        found = _moved_with(loop, carry, values, casts)
        if found and any(isinstance(v, Dot) for v in values if v not in found.values):
            return found
    return None


def _moved_with(loop: Loop, carry: Carry, values: Sequence[Value], casts: bool) -> PipelinedProduct | None:
    product = carry.next
    nexts = [c.next for c in loop.carries]
    users = {v: [u for u in values if v in u.args] for v in (carry.value, *values)}
    # An accumulator that starts at 0, so that the product of "the tile before the first" may be one of zeros.
    if not isinstance(product, Dot) or len(product.args) < 3 or carry.init:
        return None
    # Whoever reads the product within the iteration would have to wait for it there.
    if users[product] or nexts.count(product) > 1:
        return None
    # The product takes along what only it needs, such as the load of its tile: then the tile is asked for in time for
    # the later iteration, and not held in registers from the earlier.
    later: set[Value] = {product}
    for v in reversed(values):
        if users[v] and later.issuperset(users[v]) and v not in nexts and _may_move(v, carry, casts):
            later.add(v)
    moved = tuple(v for v in values if v in later)
    # What is read from before the loop is the same an iteration later; all else must be kept.
    inside: Collection[Value] = {*values, *(c.value for c in loop.carries)} - later - {carry.value}
    kept = tuple(dict.fromkeys(a for v in moved for a in v.args if a in inside))
    # A tile that was loaded and is kept would take registers or a buffer of its own: such a loop is left as it is.
    alone = later.issuperset(users[carry.value]) and all(not isinstance(v, Load) for v in kept)
    return PipelinedProduct(carry, product, moved, kept) if alone and kept else None


def _may_move(v: Value, carry: Carry, casts: bool) -> bool:
    """Whether a value that only the product needs may be computed an iteration later. It must turn zeros into zeros, as
    what is kept is 0 before the first iteration."""
    if isinstance(v, Load):
        return not v.args
    return (isinstance(v, Cast) and casts) or ((isinstance(v, Cast) or is_product(v)) and carry.value in v.args)
