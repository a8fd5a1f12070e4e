"""Sizes on the command line: of ranks (`--sizes b=1,h=32,p=2048`), lists (`512,2048`) and ranges (`128:16384`)."""

from __future__ import annotations

import argparse
import re

from eintune.space.ir.expr import Rank

from .command import MAX_NUMBER, Options, positive

_SIZE = re.compile(r"([a-z][0-9]{0,6})=([0-9]{1,10})")


def add_sizes(parser: Options, help_text: str) -> None:
    parser.add_argument("--sizes", type=sizes, default={}, metavar="R=N,…", help=help_text)


def sizes(text: str) -> dict[Rank, int]:
    """ "b=1,h=32" as a mapping."""
    found: dict[Rank, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = _SIZE.fullmatch(part)
        if not match or not 0 < int(match[2]) <= MAX_NUMBER:
            raise argparse.ArgumentTypeError(
                f"must be ranks with sizes from 1 to {MAX_NUMBER}, such as b=1,h=32, but got {part!r}"
            )
        if found.setdefault(match[1], int(match[2])) != int(match[2]):
            raise argparse.ArgumentTypeError(f"rank {match[1]} must have one size, but got two")
    return found


SEVERAL = 256
"""How many sizes a list may have, and how many points a set."""


def several_sizes(text: str) -> int | tuple[int, ...]:
    """ "2048" as a number; "512,2048" and "128:1024" (each twice the one before) as what they stand for, in order."""
    if "," not in text and ":" not in text:
        return positive(text)
    found: dict[int, None] = {}
    for part in text.split(","):
        low, colon, high = part.partition(":")
        first = positive(low)
        found[first] = None
        if not colon:
            continue
        last = positive(high)
        if last < first:
            raise argparse.ArgumentTypeError(f"a range begins with its least size, but got {part!r}")
        while 2 * first < last:
            first *= 2
            found[first] = None
        found[last] = None
    if len(found) > SEVERAL:
        raise argparse.ArgumentTypeError(f"must be at most {SEVERAL} sizes, but got {len(found)}")
    return tuple(sorted(found))
