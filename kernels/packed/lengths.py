"""From lengths of sequences to what each query sees: a stretch of keys, from one to another.

Every filter that serving knows (causal, a window, a cache that is not full) is such a stretch, so that one kernel
serves them all, and no length is ever read by the host. Each operation here is a launch on a GPU, so they are few.
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

    @property
    def is_everything(self) -> bool:
        return self.before is None and self.beyond is None


class Stretches(NamedTuple):
    """Of each query the first key that it sees, the one after the last, and the one that it stands at (if it is asked
    for), in int32: none is seen where `end` is not beyond `first`."""

    first: Tensor
    end: Tensor
    place: Tensor | None


def of_packed(
    total: int, cu_queries: Tensor, starts: Tensor, used: Tensor | None, reach: Reach, places: bool
) -> Stretches:
    """Of `total` queries, packed one sequence after another as `cu_queries` (sequences + 1,) says, (1, total) each.

    starts: where each sequence's keys begin among all, and where the last one's end, (sequences + 1,) in int32. used:
    how many of each are keys, from the first, in int32; all unless given. places: whether they are asked for. What lies
    beyond the last sequence sees nothing.
    """
    after, until = cu_queries[1:].int(), starts[1:]
    # One more than a query's number: up to there, and without it, are the keys that one sees that stands there.
    number = torch.arange(1, total + 1, dtype=torch.int32, device=after.device)[None]
    sequence = torch.searchsorted(after, number)
    known = sequence.clamp(max=len(after) - 1)
    stop = until if used is None else torch.minimum(starts[:-1] + used, until)
    # Of no sequence: the last key of all and nothing after it.
    first, end = starts[sequence], stop[known]
    if reach.is_everything and not places:
        return Stretches(first, end, None)
    moved = starts[:-1] - cu_queries[:-1].int() if reach.top_left else stop - after
    return reached(first, end, number + moved[known], reach, places)


def of_batch(queries: int, used: Tensor, reach: Reach, places: bool) -> Stretches:
    """Of as many queries of each sequence, whose keys begin at 0 and are `used` (batch,) in int32: (batch, queries)
    each, or (batch,) where it is one query."""
    one = queries == 1
    after = torch.ones_like(used) if reach.top_left else used - (queries - 1)
    if not one:
        number = torch.arange(queries, dtype=torch.int32, device=used.device)
        after = after[:, None] + number
        used = used[:, None].expand(after.shape)
    return reached(torch.zeros_like(after), used, after, reach, places)


def reached(first: Tensor, end: Tensor, after: Tensor, reach: Reach, places: bool) -> Stretches:
    """after: the key after the one that a query stands at."""
    if reach.before is not None:
        first = torch.maximum(first, after - (min(reach.before, FARTHEST) + 1))
    if reach.beyond is not None:
        end = torch.minimum(end, after + min(reach.beyond, FARTHEST) if reach.beyond else after)
    return Stretches(first, end, after - 1 if places else None)
