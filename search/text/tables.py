"""Tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

from eintune.host.printable import printable


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    indent: int = 2,
    widest: Mapping[int, int] | None = None,
) -> str:
    """Columns aligned for a terminal, two blanks apart. right: columns of numbers. widest: columns whose texts are
    wrapped at so many characters."""
    limits = widest or {}
    numbers = set(right)
    wrapped = [[_wrap(printable(cell), limits.get(i)) for i, cell in enumerate(row)] for row in [list(header), *rows]]
    widths = [max(len(line) for row in wrapped for line in row[i]) for i in range(len(header))]

    def lines(row: Sequence[Sequence[str]]) -> Iterator[str]:
        for cells in zip_longest(*row, fillvalue=""):
            padded = (
                c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            )
            yield (" " * indent + "  ".join(padded)).rstrip()

    rule = " " * indent + "  ".join("─" * w for w in widths)
    return "\n".join([*lines(wrapped[0]), rule, *(line for row in wrapped[1:] for line in lines(row))])


def _wrap(text: str, width: int | None) -> list[str]:
    return (textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) if width else [text]) or [""]
