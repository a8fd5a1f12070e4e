"""What 32 bits can count inside a kernel: offsets inside a tile, and the indices of a rank.

A program's part of a tensor and a loop's are addressed in 64 bits. What is added inside a tile is 32 bits wide, which
is cheaper by far and enough unless strides are large: of tensors of more than 2**31 elements whose axes lie in another
order, say. A kernel says how far those offsets go; where the strides of a call take them further than 32 bits hold,
the kernel is printed once more with offsets of 64 bits. An index is a number of 32 bits in any kernel for a GPU: a rank
that needs more is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import LoopPlan, all_values
from eintune.space.plan.refusals import RuleError
from eintune.space.plan.values import Index, IndexPart

from .kernel import Argument, Kernel, Reach

if TYPE_CHECKING:
    import torch

FARTHEST = 2**31 - 1
"""Elements: the greatest offset of 32 bits."""
LONGEST = 2**31 - 2**24
"""Elements of a rank. What is left is for the tiles beyond its end that a pipelined loop counts to."""


def span(reach: Reach, strides: Sequence[int]) -> int:
    """The greatest offset inside a tile of a tensor with these strides, in elements."""
    # Strides of either sign: what counts is the distance from the tile's first element.
    return sum([n * abs(s) for n, s in zip(reach.steps, strides, strict=True)])


def too_wide(kernel: Kernel, tensors: Sequence[torch.Tensor]) -> str | None:
    """Why the tensors' strides are too large for the kernel, as one line; None where they are not."""
    for reach in kernel.reaches:
        strides = tensors[reach.argument].stride()
        if (farthest := span(reach, strides)) > FARTHEST:
            return (
                f"{kernel.arguments[reach.argument].name}: a tile must span less than 2**31 elements, but with the "
                f"strides {list(strides)} one spans {farthest + 1}"
            )
    return None


def fits(reaches: Sequence[Reach], arguments: Sequence[Argument]) -> bool:
    """Whether offsets of 32 bits are enough for contiguous tensors: all tiles span at most FARTHEST elements."""
    shapes = (arguments[r.argument].shape for r in reaches)
    # Where a size is not known, strides are: they are looked at in every call (`too_wide`).
    known = ((r, [n for n in shape if isinstance(n, int)]) for r, shape in zip(reaches, shapes, strict=True))
    return all(span(r, _contiguous(shape)) <= FARTHEST for r, shape in known if len(shape) == len(r.steps))


def _contiguous(shape: Sequence[int]) -> list[int]:
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def counted(plan: LoopPlan) -> set[Rank]:
    """The ranks whose indices are values of 32 bits: on the way to a computed index, say."""
    whole = [v for v in all_values(plan.root) if isinstance(v, Index | IndexPart) and v.dtype == "int32"]
    return {v.rank if isinstance(v, Index) else v.part.rank for v in whole} & set(plan.roles)


def check_ranks(plan: LoopPlan, ranks: Iterable[Rank]) -> None:
    """Raises RuleError for one of these ranks whose indices 32 bits do not count."""
    for rank in ranks:
        if (most := plan.sizes.most(rank)) > LONGEST:
            raise RuleError(f"a kernel counts a rank's elements in 32 bits, at most {LONGEST}", f"{rank} has {most}")
