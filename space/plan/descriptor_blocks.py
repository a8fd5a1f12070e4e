"""Which tiles a tensor descriptor can load: the rules that do not depend on where a tensor lies in memory.

A descriptor says where a tensor is, its shape and its strides, once; the hardware then fetches whole blocks of it,
and reads elements beyond the shape as 0. It takes two to five axes, the last one contiguous, rows and blocks of
whole 16-byte units, and blocks of at most 256 elements an axis (CUDA driver API, cuTensorMapEncodeTiled).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eintune.space.ir.dtypes import DTYPES, SIXTEEN_BIT
from eintune.space.ir.expr import Access, Expr, Rank, indexing_ranks, reads

from .sizes import Sizes

UNIT = 16
"""Bytes: what addresses, strides and innermost blocks are multiples of."""
LONGEST = 256
"""Elements of a block along one axis."""
LOADED = ("fp32", *SIXTEEN_BIT)
"""The dtypes that descriptors are used for."""


@dataclass(frozen=True)
class Read:
    """A tensor that is read: the ranks that index it, in the order of its axes, and its dtype."""

    index: tuple[Rank, ...]
    dtype: str


def block_of(read: Read, sizes: Mapping[Rank, int], tile: Callable[[Rank], int | None]) -> tuple[int, ...] | None:
    """The block that loads one tile of a tensor, in elements an axis of the tensor; None where none can.

    sizes: of the ranks of the index. tile: the tile length of a rank, None for an index that is one number. A tile
    of one axis is not worth a descriptor.
    """
    if read.dtype not in LOADED:
        return None
    tiles = [tile(r) for r in read.index]
    block, width = tuple(t or 1 for t in tiles), DTYPES[read.dtype].bytes
    if not 2 <= len(block) <= 5 or sum(t is not None for t in tiles) < 2 or tiles[-1] is None:
        return None
    last = read.index[-1]
    unknown = sizes.ranges.get(last) if isinstance(sizes, Sizes) else None
    rows_fit = (unknown.multiple if unknown else sizes[last]) * width % UNIT == 0
    return block if rows_fit and block[-1] * width >= UNIT and max(block) <= LONGEST else None


def reads_of(roots: Sequence[Expr], dtypes: Mapping[str, str]) -> tuple[Read, ...]:
    """What some expressions read, each once. An indexed access is of no dtype that a descriptor loads: its rows lie
    where a table says."""
    found = (
        Read(indexing_ranks(x), dtypes.get(x.tensor.name, "") if isinstance(x, Access) else "") for x in reads(roots)
    )
    return tuple(dict.fromkeys(found))
