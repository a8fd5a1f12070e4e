"""One einsum, and what is raised for a cascade that breaks a rule of the language."""

from __future__ import annotations

from dataclasses import dataclass

from eintune.host.quoting import MAX_MESSAGE, short

from .expr import Expr, Tensor, free


class CascadeError(ValueError):
    """A cascade that breaks a rule of the language; the message names the einsum, the rule and the value, in a line."""

    def __init__(self, message: str) -> None:
        super().__init__(short(message, MAX_MESSAGE))


class TooLarge(CascadeError):
    """A computation beyond a limit; the message names the limit and the value."""


@dataclass(frozen=True)
class Einsum:
    """`output[ranks] = expr`. Every rank free in `expr` stands in `output.ranks` (sums are explicit here)."""

    output: Tensor
    expr: Expr

    def __post_init__(self) -> None:
        extra = free(self.expr) - set(self.output.ranks)
        if extra:
            raise CascadeError(
                f"einsum {self.output.name}: every rank on the right must be reduced or stand on the left, "
                f"but {sorted(extra)} do neither (left: {list(self.output.ranks)})"
            )


@dataclass(frozen=True)
class Update:
    """`output[index] = expr`. `output.ranks` has the iterated rank where `index` may have "m1+1" or "0".

    A result's index is its ranks.
    """

    output: Tensor
    index: tuple[str, ...]
    expr: Expr
