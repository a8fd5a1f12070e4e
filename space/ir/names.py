"""What names may be: they stand in generated source, programs, tables and pictures as they are, so they are no more
than names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .expr import (
    Access,
    Expr,
    Fold,
    Gather,
    Iota,
    Param,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Unsplit,
    Where,
    indexing_ranks,
    indexing_sizes,
    reads,
    topological,
)

RANK = re.compile(r"[a-z][0-9]{0,6}")
INDEX = re.compile(r"[a-z][0-9]{0,6}(?:\+1)?|\|[a-z][0-9]{0,6}\||0")
"""A rank, or an iteration's index: the next value `m1+1`, the first `0`, the last `|m1|`."""
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_NAME = 200
"""Characters of a name."""


@lru_cache(maxsize=4096)
def wrong_name(name: str) -> str | None:
    """Why this names no tensor and no parameter; None if it does."""
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters, but {name[:20]}… has {len(name)}"
    return None if IDENTIFIER.fullmatch(name) else f"a name has letters, digits and _ only, but got {name!r}"


@lru_cache(maxsize=4096)
def wrong_rank(rank: Rank) -> str | None:
    """Why this is no rank and no iteration's index."""
    good = len(rank) <= MAX_NAME and INDEX.fullmatch(rank)
    return None if good else f"a rank is one lower-case letter and at most 6 digits, but got {rank[:MAX_NAME]!r}"


def wrong_names(output: Tensor, expr: Expr) -> str | None:
    """Why one of an einsum's names or ranks is none."""
    names, ranks = [output.name], [*output.ranks]
    for x in topological([expr]):
        match x:
            case Param():
                names.append(x.name)
            case _:
                ranks += _ranks(x)
    for read in reads([expr]):
        names.append(read.tensor.name)
        ranks += (*read.tensor.ranks, *indexing_ranks(read), *indexing_sizes(read))
    return next(filter(None, (*map(wrong_name, names), *map(wrong_rank, ranks))), None)


def _ranks(x: Expr) -> Iterator[Rank]:
    """The ranks that a node names itself."""
    match x:
        case Iota() | Size() | Reduce() | Fold():
            yield x.rank
        case Split() | Unsplit():
            yield from (x.rank, x.outer, x.inner)
        case Where():
            for t in x.predicate.terms:
                yield t.rank
                if t.stride is not None:
                    yield t.stride
            yield from (r for r, _ in x.predicate.sizes)
        case Access() | Gather():  # read with their tensors
            return
