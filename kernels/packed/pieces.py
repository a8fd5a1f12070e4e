"""Packed queries cut into pieces of one length, each of one sequence, as a batch: the keys of a sequence lie in pages
of its own, so that what is computed together should be of one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lengths import Reach, Stretches, reached

LENGTHS = (16, 128)
"""The least and the most queries of a piece, where sequences have more than one."""


class Pieces(NamedTuple):
    """queries: which of the packed ones stand at each place, (pieces, length). sequence: of each piece, (pieces,).
    stretches: (pieces, length) each, or (pieces,) where that is one. back: at which of all places each packed query is,
    (total,): the last of all, which sees nothing, where it is of no sequence."""

    queries: Tensor
    sequence: Tensor
    stretches: Stretches
    back: Tensor


def length_of(total: int, sequences: int) -> int:
    """Of the pieces of so many queries: a power of two, by how many each sequence has in the mean. Where nearly all
    have one, pieces have one too."""
    mean = total / max(sequences, 1)
    if mean <= 1.5:
        return 1
    least, most = LENGTHS
    return min(max(1 << (int(mean) - 1).bit_length(), least), most)


def pieces_of(total: int, length: int, cu_queries: Tensor, used: Tensor, reach: Reach, places: bool) -> Pieces:
    """Of `total` queries, packed as `cu_queries` (sequences + 1,) says. used: how many keys each sequence has, in
    int32.

    As many pieces as there may be, whatever the lengths are, which no host reads, and one that is never used.
    """
    cu = cu_queries.int()
    begin, after = cu[:-1], cu[1:]
    count = len(begin)
    here = {"dtype": torch.int32, "device": cu.device}
    number = (after - begin + (length - 1)) // length
    upto = number.cumsum(0, dtype=torch.int32)
    # A query's place among all is its number less this.
    moved = begin - (upto - number) * length
    piece = torch.arange(total // length + count + 1, **here)  # type: ignore[call-overload]
    sequence = torch.searchsorted(upto, piece, right=True)
    known = sequence.clamp(max=count - 1)
    first = moved[known] + piece * length
    keys = torch.where(sequence < count, used[known], 0)
    stands = first + (1 - begin if reach.top_left else used + 1 - after)[known]
    query = first
    if length > 1:
        lane = torch.arange(length, **here)  # type: ignore[call-overload]
        query, stands, keys = query[:, None] + lane, stands[:, None] + lane, keys[:, None].expand(-1, length)
        known_after = after[known][:, None]
    else:
        known_after = after[known]
    stretches = reached(torch.zeros_like(stands), keys, stands, reach, places)
    # Lengths that do not fit the queries are nobody's to see, but nothing beyond them is addressed.
    queries = torch.minimum(query, known_after - 1).clamp(0, max(total - 1, 0))
    token = torch.arange(total, **here)  # type: ignore[call-overload]
    own = torch.searchsorted(after, token, right=True)
    last = len(piece) * length - 1
    back = torch.where(own < count, token - moved[own.clamp(max=count - 1)], last).clamp(0, last)
    return Pieces(queries, known, stretches, back)
