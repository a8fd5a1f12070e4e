"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def text_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), indent: int = 2
) -> str:
    """Columns aligned for a terminal, two blanks apart."""
    everything = [list(header), *(list(r) for r in rows)]
    widths = [max(len(r[i]) for r in everything) for i in range(len(header))]
    numbers = set(right)

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return (" " * indent + "  ".join(padded)).rstrip()

    rule = " " * indent + "  ".join("─" * w for w in widths)
    return "\n".join([line(everything[0]), rule, *(line(r) for r in everything[1:])])
