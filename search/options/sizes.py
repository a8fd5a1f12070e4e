"""The option that gives ranks their sizes: `--sizes b=1,h=32,p=2048`."""

from __future__ import annotations

import argparse
import re

from eintune.space.ir.expr import Rank

from .command import MAX_NUMBER, Options

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
