"""`eintune tiles`: where the tiles of one program sit, and the cheapest ways to move them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.search.options.command import Command, Usage, as_usage, path, positive
from eintune.search.options.documents import add_json, write_json
from eintune.search.options.files import check_writable, read_text

if TYPE_CHECKING:
    from eintune.costmodel.counts.tile_cost import TileChoice
    from eintune.space.tile_ir.graph import TileGraph

HELP = """\
Enumerates the ways of moving the tiles of one program between global memory, shared memory and registers, prices
each move in bytes over all iterations of its loop, and lists every cheapest way. Without FILE: two products with a
scaled result between them, Q K and (scale S) V, in the given sizes.
"""
EXAMPLES = """\
examples:
  eintune tiles                                   Q 128x64, K 64x128 and V 128x64 in fp16, 8 iterations
  eintune tiles --iterations 16 --dtype fp8 --result once
  eintune tiles --print > mine.tiles              the program, to change
  eintune tiles mine.tiles --svg pictures/
"""


def _options(parser: argparse.ArgumentParser) -> None:
    from eintune.space.tile_ir.tiles import ELEMENT_BYTES

    parser.add_argument("file", nargs="?", metavar="FILE", help="a tile program (docs/notation.md)")
    group = parser.add_argument_group("two products, where there is no FILE")
    group.add_argument("--rows", type=positive, metavar="N", help="rows of Q; default: 128")
    group.add_argument("--columns", type=positive, metavar="N", help="columns of K, rows of V; default: 128")
    group.add_argument("--width", type=positive, metavar="N", help="of a row of Q and V; default: 64")
    group.add_argument("--iterations", type=positive, metavar="N", dest="times", help="default: 8")
    group.add_argument("--dtype", choices=tuple(ELEMENT_BYTES), help="of the tiles; default: fp16")
    group.add_argument("--accumulator", choices=tuple(ELEMENT_BYTES), help="of products; default: fp32")
    group.add_argument(
        "--result", choices=("each", "once"), dest="stored", help="stored in each iteration (default), or once"
    )
    parser.add_argument("--print", action="store_true", help="only the program")
    parser.add_argument("--top", type=positive, default=16, metavar="N", help="cheapest ways to list; default: 16")
    add_json(parser)
    parser.add_argument("--svg", type=path, metavar="DIR", help="draw the graph, plain and with costs")


def _tiles(chosen: argparse.Namespace) -> int:
    from eintune.costmodel.counts.tile_cost import node_bytes, priced
    from eintune.space.tile_ir.extraction import cheapest
    from eintune.space.tile_ir.graph import saturate_tiles
    from eintune.space.tile_ir.text import read_tiles

    text = _program(chosen)
    check_writable(chosen, "svg", "json")
    if chosen.print:
        print(text, end="")
        return 0
    with as_usage():
        root = read_tiles(text)
    graph, naive = saturate_tiles(root), saturate_tiles(root, laws="")
    (first, *_) = cheapest(naive, node_bytes(naive), 1)
    choices = [priced(graph, c) for c in cheapest(graph, node_bytes(graph), chosen.top)]
    before = priced(naive, first).nbytes
    print(_words(graph, before, choices))
    write_json(chosen, _data(graph, before, choices))
    if chosen.svg:
        _draw(graph, choices[0], chosen.svg, Path(chosen.file).stem if chosen.file else "tiles")
    return 0


def _program(chosen: argparse.Namespace) -> str:
    from eintune.space.tile_ir.text import two_products

    names = ("rows", "columns", "width", "times", "dtype", "accumulator", "stored")
    given = {n: getattr(chosen, n) for n in names if getattr(chosen, n) is not None}
    if chosen.file is None:
        return two_products(**given)
    if given:
        spelt = {"times": "iterations", "stored": "result"}
        raise Usage(f"--{spelt.get(first := next(iter(given)), first)} is of the program without FILE")
    if not Path(chosen.file).is_file():
        raise Usage(f"FILE must be a tile program, but there is none at {chosen.file!r}")
    return read_text(Path(chosen.file))


def _words(graph: TileGraph, before: float, choices: list[TileChoice]) -> str:
    from eintune.costmodel.counts.tile_cost import transaction_table
    from eintune.search.text.formatting import plural

    best = choices[0].nbytes
    lines = [f"{plural(len(graph.classes), 'class', 'classes')} with {plural(len(graph.nodes), 'node')}"]
    lines.append(f"as written  {before:>14,.0f} bytes")
    lines.append(f"cheapest    {best:>14,.0f} bytes, {plural(len(choices), 'way')}")
    for i, choice in enumerate(choices, 1):
        lines += ["", f"way {i} of {len(choices)}", transaction_table(graph, choice)]
    return "\n".join(lines)


def _data(graph: TileGraph, before: float, choices: list[TileChoice]) -> dict[str, object]:
    from eintune.costmodel.counts.tile_cost import node_bytes

    costs = node_bytes(graph)
    data = graph.to_json()
    for c, nodes in graph.classes.items():
        for shown, node in zip(data["classes"][c]["nodes"], nodes, strict=True):
            shown["bytes"] = costs[c, node]
    ways = []
    for choice in choices:
        taken = {
            c: {"label": n.label, "children": list(n.children), "bytes": costs[c, n]} for c, n in choice.nodes.items()
        }
        moves = [{"from": str(a), "to": str(b), "bytes": n} for (a, b), n in choice.paths.items()]
        ways.append({"bytes": choice.nbytes, "nodes": taken, "moves": moves})
    return {"written_bytes": before, "cheapest": ways, "graph": data}


def _draw(graph: TileGraph, choice: TileChoice, folder: Path, name: str) -> None:
    from eintune.costmodel.counts.tile_cost import node_bytes
    from eintune.space.pictures.svg import draw
    from eintune.space.pictures.tiles import tile_dot

    plain = "a box is a tile, a row is one way to make it"
    title = f"bytes moved in all iterations; the cheapest way in green: {choice.nbytes:,.0f} bytes"
    texts = {"": tile_dot(graph, title=plain), "-costs": tile_dot(graph, node_bytes(graph), choice.nodes, title)}
    for suffix, dot in texts.items():
        path, problem = draw(dot, folder / f"{name}{suffix}.svg")
        print(problem or path, file=sys.stderr)


TILES = Command("tiles", "the cheapest ways to move one program's tiles", _options, _tiles, HELP, EXAMPLES)
