"""Operators whose names say several steps: `M_mul_emp_R_add_e`, `M_none_mp_R_max_m`, `M_subexp_mp_R_none`.

After the iteration space comes the reduction, or `R_none`. The map may be `none`, and it may be a pointwise operator
and unary ones that are applied to its value: `subexp` is the exponential of a difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Rank
from eintune.space.ir.pointwise import POINTWISE

from .operators import Operator

_FUSED = re.compile(r"M_([a-z0-9]+)_((?:[a-z][0-9]{0,6})+)(?:_R_(?:(none)|([a-z0-9]+)_([a-z0-9]+)))?")
_RANK = re.compile(r"[a-z][0-9]{0,6}")
_ANY = "|".join(sorted(POINTWISE, key=lambda name: -len(name)))
_UNARY = "|".join(sorted((n for n, p in POINTWISE.items() if p.arity == 1), key=lambda name: -len(name)))
_COMPOUND = re.compile(rf"({_ANY})((?:{_UNARY})+)")
FORMS = "M_<op>_<ranks>_R_<op>_<rank>, M_none_<ranks>_R_<op>_<rank>, M_<op>_<ranks>_R_none"


@dataclass(frozen=True)
class Steps:
    """The operators in order. space: what a reduction without a map iterates."""

    operators: tuple[Operator, ...]
    space: frozenset[Rank] | None = None


def steps(name: str) -> Steps:
    """What an operator's name says to do, one step where it is a plain one. Raises CascadeError."""
    match = _FUSED.fullmatch(name)
    maps = [] if match is None else _maps(match[1], match[2])
    if match is None or (match[3] is None and match[4] is None and len(maps) < 2):
        return Steps((Operator.parse(name),))
    if match[4] is None:
        if not maps:
            raise CascadeError(f"{name} does nothing; the forms are {FORMS}")
        return Steps(tuple(maps))
    reduction = Operator.parse(f"R_{match[4]}_{match[5]}")
    space = frozenset(_RANK.findall(match[2]))
    if reduction.ranks[0] not in space:
        raise CascadeError(f"{name} reduces {reduction.ranks[0]}, but iterates {_RANK.findall(match[2])}")
    return Steps((*maps, reduction), None if maps else space)


def _maps(op: str, space: str) -> list[Operator]:
    if op == "none":
        return []
    compound = None if op in POINTWISE else _COMPOUND.fullmatch(op)
    names = [compound[1], *re.findall(_UNARY, compound[2])] if compound else [op]
    return [Operator.parse(f"M_{name}_{space}") for name in names]
