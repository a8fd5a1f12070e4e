"""Reads a computation in whichever notation it is written."""

from __future__ import annotations

import re

from .cascade import Cascade
from .iterative import IterativeCascade
from .operators import OperatorGraph

_ITERATIVE = re.compile(r"^[ \t]*(?:until\b|⋄)", re.MULTILINE)
_OPERATORS = re.compile(r"=\s*[MRTF]_[a-z]\w*\s*\(")
_PROGRAM = re.compile(r"(?:\s|;[^\n]*\n)*\(")


def read_computation(text: str) -> Cascade | IterativeCascade | OperatorGraph:
    """EDGE notation, an iteration, operator assignments, an egglog program, or a serialised e-graph in JSON.

    The form is told from the text. Raises CascadeError as that notation's reader does.
    """
    if text.lstrip().startswith("{"):
        from .operator_egg import read_egglog_json

        return read_egglog_json(text)
    if _PROGRAM.match(text):
        from .operator_egg import read_egg

        return read_egg(text)
    if _OPERATORS.search(text):
        from .operator_text import read_operators

        return read_operators(text)
    return IterativeCascade.parse(text) if _ITERATIVE.search(text) else Cascade.parse(text)
