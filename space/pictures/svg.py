"""SVG through Graphviz: text in the DOT language to a picture, and what all pictures share."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

from eintune.host.files import write_whole
from eintune.host.quoting import dot, html

CHOSEN, LEFT, INPUT, BARRIER = "#a5d6a7", "#eeeeee", "#e3f2fd", "#ffcc80"
CHOSEN_EDGE, LEFT_EDGE = "#2e7d32", "#bdbdbd"
FONT = "fontname=Helvetica"
BOX = f"shape=box, style=filled, {FONT}, fontsize=11"
DRAW_SECONDS = 60.0
WIDEST = 56
"""Characters of a line in a box."""
BREAK = '<BR ALIGN="LEFT"/>'


def title_line(title: str) -> str:
    """A graph's title, above it; lines are separated by newlines."""
    return f"label={dot(title)}; labelloc=t; labeljust=l; {FONT}; fontsize=13;" if title else ""


def table(rows: list[str], border: str = "1") -> str:
    """An HTML-like label: one row (`cell`) below the other."""
    body = "".join(f"<TR>{row}</TR>" for row in rows)
    return f'<<TABLE BORDER="0" CELLBORDER="{border}" CELLSPACING="0" CELLPADDING="4">{body}</TABLE>>'


def cell(text: str, colour: str, *, bold: bool = False, small: str = "", right: str | None = None) -> str:
    """A row of a label: text, perhaps bold, with a small addition, and perhaps a second column at the right."""
    lines = textwrap.wrap(text, WIDEST, break_long_words=False, break_on_hyphens=False) or [""]
    shown = BREAK.join(html(line) for line in lines) + (BREAK if len(lines) > 1 else "")
    shown = f"<B>{shown}</B>" if bold else shown
    shown += f' <FONT POINT-SIZE="9" COLOR="#616161">{html(small)}</FONT>' if small else ""
    span = ' COLSPAN="2"' if right is None else ""
    left = f'<TD ALIGN="LEFT" BGCOLOR="{colour}"{span}>{shown}</TD>'
    return left if right is None else f'{left}<TD ALIGN="RIGHT" BGCOLOR="{colour}">{html(right)}</TD>'


def draw(picture: str, path: Path) -> tuple[Path, str | None]:
    """Write an SVG of DOT text to `path`. Returns the file written, and a line for the user if it is not one.

    Without Graphviz, or if it does not end in time, the file is the DOT text with the suffix `.dot`.
    """
    program = shutil.which("dot")
    if program is None:
        why = "Graphviz's `dot` is not installed (apt-get install graphviz)"
    else:
        try:
            command = [program, "-Tsvg"]
            done = subprocess.run(
                command, input=picture.encode(), capture_output=True, timeout=DRAW_SECONDS, check=False
            )
            if done.returncode == 0:
                write_whole(path, done.stdout)
                return path, None
            why = f"`dot` failed: {done.stderr.decode(errors='replace').strip()[:200]}"
        except subprocess.TimeoutExpired:
            why = f"`dot` did not end within {DRAW_SECONDS:g} s"
    kept = path.with_suffix(".dot")
    write_whole(kept, picture.encode())
    return kept, f"no picture, as {why}: wrote {kept.name}"
