"""Draws the layers, their subpackages and what these import: python docs/pictures/architecture.py [--check]

An arrow that others imply is left out. Writes `architecture.dot` and, where graphviz is installed, `architecture.svg`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAYERS = {"space": "#e8f1e4", "costmodel": "#fdf3d8", "kernels": "#e3edf7", "search": "#f3e6ef"}


def reduced(table: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What each imports, less what it imports through another."""

    def through(name: str) -> set[str]:
        return {below for other in table[name] for below in {other} | through(other)}

    return {
        name: [other for other in sorted(others) if not any(other in through(x) for x in others)]
        for name, others in table.items()
    }


def dot() -> str:
    """The picture's text."""
    may_import = tomllib.loads((ROOT / "tests" / "layers.toml").read_text())
    lines = [
        "digraph architecture {",
        "  rankdir = BT; compound = true; bgcolor = white;",
        '  node [shape = box, style = "rounded,filled", fillcolor = white, fontname = "Helvetica", fontsize = 12];',
        '  edge [color = "#888888", arrowsize = 0.6];',
        '  host [label = "host", fillcolor = "#eeeeee"];',
    ]
    for layer, colour in LAYERS.items():
        lines += [f"  subgraph cluster_{layer} {{", f'    label = "{layer}"; style = filled; color = "{colour}";']
        lines += ['    fontname = "Helvetica-Bold"; fontsize = 14; labeljust = l;']
        for name in sorted(may_import[layer]):
            count = len([p for p in (ROOT / layer / name).glob("*.py") if p.name != "__init__.py"])
            lines.append(f'    {layer}_{name} [label = "{name}\\n{count} modules"];')
        for name, others in sorted(reduced(may_import[layer]).items()):
            lines += [f"    {layer}_{other} -> {layer}_{name};" for other in others]
        lines.append("  }")
    below = ["host"]
    for layer in LAYERS:
        first = next(name for name, others in may_import[layer].items() if not others)
        lines.append(f"  {below[-1]} -> {layer}_{first} [lhead = cluster_{layer}, penwidth = 2];")
        below.append(f"{layer}_{[*may_import[layer]][-1]}")
    return "\n".join([*lines, "}", ""])


def main() -> int:
    source = HERE / "architecture.dot"
    if "--check" in sys.argv:
        return 0 if source.read_text() == dot() else 1
    source.write_text(dot())
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg", str(source), "-o", str(HERE / "architecture.svg")], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
