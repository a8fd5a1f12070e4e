"""From lengths of sequences to what each query sees: a stretch of keys, from one to another.

Every filter that serving knows (causal, a window, a cache that is not full) is such a stretch, so that one kernel
serves them all, and no length is ever read by the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FARTHEST = 2**30
"""Keys of a call, at most: places and what is added to them are 32 bits wide."""


class Reach(NamedTuple):
    """How far a query sees before the key that it stands at, and beyond it; None: as far as there are keys. top_left:
    whether the first query stands at the first key, and not the last at the last."""

    before: int | None = None
    beyond: int | None = None
    top_left: bool = False


class Stretches(NamedTuple):
    """Of each query the first key that it sees, the one after the last, and the one that it stands at, in int32: none
    is seen where `end` is not beyond `first`."""

    first: Tensor
    end: Tensor
    place: Tensor


def of_packed(total: int, cu_queries: Tensor, starts: Tensor, used: Tensor, reach: Reach) -> Stretches:
    """Of `total` queries, packed one sequence after another as `cu_queries` (sequences + 1,) says, (total,) each.

    starts, used: where each sequence's keys begin among all, and how many they are. What lies beyond the last sequence
    sees nothing.
    """
    ends = cu_queries[1:].int()
    token = torch.arange(total, dtype=torch.int32, device=ends.device)
    stop = starts + used
    # What a query's number is moved by to be that of the key that it stands at.
    moved = starts - cu_queries[:-1].int() if reach.top_left else stop - ends
    sequence = torch.searchsorted(ends, token, right=True).clamp_(max=len(ends) - 1)
    first, end, place = torch.stack([starts, stop, moved])[:, sequence].unbind()
    place = place + token
    first, end = _reached(first, end, place, reach)
    return Stretches(first, torch.where(token < ends[-1], end, first), place)


def of_batch(queries: int, used: Tensor, reach: Reach) -> Stretches:
    """Of as many queries of each sequence, whose keys begin at 0 and are `used` (batch,): (batch, queries) each, or
    (batch,) where it is one query."""
    token = torch.arange(queries, dtype=torch.int32, device=used.device)
    moved = torch.zeros_like(used) if reach.top_left else used - queries
    place = moved if queries == 1 else moved[:, None] + token
    end = used if queries == 1 else used[:, None].expand(place.shape)
    return Stretches(*_reached(torch.zeros_like(place), end, place, reach), place)


def _reached(first: Tensor, end: Tensor, place: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    if reach.before is not None:
        first = torch.maximum(first, place - min(reach.before, FARTHEST))
    if reach.beyond is not None:
        end = torch.minimum(end, place + (min(reach.beyond, FARTHEST) + 1))
    return first, end
