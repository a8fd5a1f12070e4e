"""Tables for a terminal, laid out by rich."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

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
    characters; others are where the terminal has no room for them."""
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
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    text = StringIO()
    console = Console(file=text, width=_width(), color_system=None, legacy_windows=False)
    console.print(Padding(table, (0, 0, 0, indent)))
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _width() -> int:
    """Columns that there are."""
    if sys.stdout is None or sys.stdout.closed or not sys.stdout.isatty():
        return UNBOUNDED
    return max(shutil.get_terminal_size().columns, NARROWEST)
