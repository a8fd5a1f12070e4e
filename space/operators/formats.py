"""Reads a computation in whichever notation it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from eintune.host.files import UnfitFile, read_utf8
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Rank

from .cascades import to_cascade
from .graph import OperatorGraph, check_computation, extents
from .graph_builder import check_ranks

_ITERATIVE = re.compile(r"^[ \t]*(?:until\b|⋄|◇|\\diamond\b)", re.MULTILINE)
_OPERATORS = re.compile(r"=\s*[MRTF]_[a-z]\w*\s*\(")
_PROGRAM = re.compile(r"(?:\s|;[^\n]*\n)*\(")


Computation: TypeAlias = Cascade | IterativeCascade | OperatorGraph
MAX_FILE_BYTES = 20 * 2**20


def read(path: str | Path, *, ranks: Mapping[str, str] | None = None) -> Computation:
    """What a file holds, in any notation (docs/notation.md); its form is told from its text.

    ranks: of inputs for which an operator graph does not say them, `{"Q": "e,p"}`. Raises CascadeError for text
    that is no computation, OSError for a file that cannot be read.
    """
    if not isinstance(path, (str, Path)):
        raise CascadeError(f"a computation is read from a path, but got {type(path).__name__}")
    file = Path(path)
    try:
        text = read_utf8(file, MAX_FILE_BYTES)
    except UnfitFile as error:
        raise CascadeError(f"{file}: {error.strerror}") from None
    found = read_computation(text)
    return with_ranks(found, {n: rank_list(n, text) for n, text in (ranks or {}).items()})


def rank_list(name: str, text: str) -> tuple[Rank, ...]:
    """`e,p` as ranks. Raises CascadeError."""
    found = tuple(r.strip() for r in text.split(",") if r.strip())
    check_ranks(name, found)
    return found


def with_ranks(computation: Computation, ranks: Mapping[str, tuple[Rank, ...]]) -> Computation:
    """An operator graph with the ranks of inputs that its text does not say. Raises CascadeError for other names."""
    if not ranks:
        return computation
    if not isinstance(computation, OperatorGraph):
        raise CascadeError("ranks are given for an operator graph's inputs; a cascade says those of all its tensors")
    return computation.with_ranks(ranks)


def stated_sizes(computation: Computation, given: Mapping[Rank, int]) -> dict[Rank, int]:
    """The sizes given, with those that an operator graph says (a split's constant is its number of tiles) and what
    follows of them for the parts of a divided rank; else those of its inputs.

    Raises CascadeError where they disagree.
    """
    sizes = dict(given)
    if not isinstance(computation, OperatorGraph):
        return sizes
    for rank, n in computation.sizes.items():
        if sizes.setdefault(rank, n) != n:
            raise CascadeError(f"rank {rank} must have one size, but the graph says {n} and {sizes[rank]} is given")
    _complete_views(computation, sizes)
    for rank, n in extents(computation).items():
        sizes.setdefault(rank, n)
    _complete_views(computation, sizes)
    return sizes


def _complete_views(graph: OperatorGraph, sizes: dict[Rank, int]) -> None:
    for o in graph.operations:
        if o.operator.kind == "T":
            views = o.operator.ranks
            whole, outer, inner = views if o.operator.op == "split" else (views[2], *views[:2])
            _complete(whole, outer, inner, sizes, f"{o.output} = {o.operator}")


def _complete(whole: Rank, outer: Rank, inner: Rank, sizes: dict[Rank, int], where: str) -> None:
    for part, other in ((outer, inner), (inner, outer)):
        if whole in sizes and part in sizes and other not in sizes:
            if sizes[whole] % sizes[part]:
                raise CascadeError(
                    f"{where}: |{whole}| must be a multiple of |{part}|, but {sizes[whole]} is none of {sizes[part]}"
                )
            sizes[other] = sizes[whole] // sizes[part]
    if outer in sizes and inner in sizes and whole not in sizes:
        sizes[whole] = sizes[outer] * sizes[inner]


def as_cascade(computation: Computation) -> Cascade:
    """A computation as a cascade; an iteration is solved (`closed_form.closed`).

    Raises CascadeError for a graph whose inputs have no ranks, for an iteration that cannot be solved, and for what is
    none of these.
    """
    check_computation(computation)
    match computation:
        case OperatorGraph():
            return to_cascade(computation)
        case IterativeCascade():
            from eintune.space.cascade.closed_form import closed

            return closed(computation)
        case Cascade():
            return computation


def read_computation(text: str) -> Computation:
    """EDGE notation, an iteration, operator assignments, an egglog program, or a serialised e-graph in JSON.

    The form is told from the text. Raises CascadeError as that notation's reader does, and for a text without any.
    """
    found = _in_its_notation(text)
    if found in (Cascade(()), OperatorGraph(())):
        raise CascadeError("the text holds no einsum and no operator")
    return found


def _in_its_notation(text: str) -> Computation:
    if text.lstrip().startswith("{"):
        from .egglog_programs import read_egglog_json

        return read_egglog_json(text)
    if _PROGRAM.match(text):
        from .egglog_programs import read_egg

        return read_egg(text)
    if _OPERATORS.search(text):
        from .assignments import read_operators

        return read_operators(text)
    return IterativeCascade.parse(text) if _ITERATIVE.search(text) else Cascade.parse(text)
