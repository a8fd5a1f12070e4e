"""Tables for a terminal, laid out by rich."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import zip_longest

from eintune.host.printable import printable

UNBOUNDED = 10_000
"""Columns of a file, a pipe or a log: nothing is wrapped there but what a table wraps itself."""
NARROWEST = 60
"""Below so many columns a table scrolls rather than breaks every word."""


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    indent: int = 2,
    widest: Mapping[int, int] | None = None,
) -> str:
    """Columns aligned, two blanks apart. right: columns of numbers. widest: columns whose texts are wrapped at so many
    characters; others are where the terminal has no room for them. Where it has no room for the words, the cells of a
    row are below each other."""
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    limits, numbers = widest or {}, set(right)
    for i, title in enumerate(header):
        table.add_column(
            Text(printable(title)),
            justify="right" if i in numbers else "left",
            no_wrap=i in numbers,
            max_width=limits.get(i),
        )
    kept = [list(row) for row in rows]
    for row in kept:
        table.add_row(*(Text(printable(cell)) for cell in row))
    text = StringIO()
    console = Console(file=text, width=_width(), color_system=None, legacy_windows=False)
    least = (_least(column, i in numbers) for i, column in enumerate(zip_longest(header, *kept, fillvalue="")))
    if indent + sum(least) + 2 * (len(header) - 1) > console.width:
        return "\n".join(line for row in kept for line in _stacked(header, row, indent))
    console.print(Padding(table, (0, 0, 0, indent)))
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _least(cells: Iterable[str], whole: bool) -> int:
    """Columns that cells need: for all of each, or for its longest word."""
    from rich.cells import cell_len

    return max(cell_len(part) for cell in cells for part in ([cell] if whole else cell.split() or [""]))


def _stacked(header: Sequence[str], row: Sequence[str], indent: int) -> Iterator[str]:
    """A row whose first cell is its head, the others below it with their titles, as many to a line as there is room
    for."""
    room = _width() - indent - 2
    yield from wrapped(f"{header[0]} {row[0]}".strip(), " " * indent, indent=indent + 4)
    line = ""
    for title, cell in zip(header[1:], row[1:], strict=False):
        if not cell.strip():
            continue
        part = printable(f"{title} {cell}".strip())
        if line and len(line) + 2 + len(part) > room:
            yield from wrapped(line, " " * (indent + 2), indent=indent + 4)
            line = ""
        line = f"{line}  {part}" if line else part
    if line:
        yield from wrapped(line, " " * (indent + 2), indent=indent + 4)


TEXT_WIDTH = 96
"""Columns of running text, at most: longer lines are read badly."""


def wrapped(text: str, head: str = "", *, indent: int | None = None, most: int = TEXT_WIDTH) -> list[str]:
    """Running text in lines that fit the terminal and have `most` columns, beside a head (or with another indent). No
    word is broken: paths and names can be copied."""
    return textwrap.wrap(
        printable(text),
        min(_width(), most),
        initial_indent=head,
        subsequent_indent=" " * (len(head) if indent is None else indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width() -> int:
    """Columns that there are."""
    if sys.stdout is None or sys.stdout.closed or not sys.stdout.isatty():
        return UNBOUNDED
    return max(shutil.get_terminal_size().columns, NARROWEST)
