"""What a traced function has read, and what is raised for what has no expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eintune.space.ir.expr import (
    Access,
    Gather,
    Index,
    Rank,
    Tensor,
    access,
    leaves,
)

from .captures import follow
from .refusals import refuse
from .site import Site

AXES = ("b", "h", "p", "m")


@dataclass(eq=False)
class TraceRecord:
    """What one tracing has met: the ranks of each position, and the tensors that were read."""

    site: Site
    prefix: str
    """What the names of its tensors begin with, so that they meet no other tensor."""
    letter: str = "t"
    """What the names of its tensors' own axes begin with."""
    tensors: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """name -> (the tensor, its axes: some of b, h, p, m, and "*" for one of its own)."""
    paths: dict[str, Any] = field(default_factory=dict)
    """name -> the way from the function to the tensor."""
    views: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    """the way to a view -> its name and itself."""
    own: dict[tuple[str, int], Rank] = field(default_factory=dict)
    """(name, axis) -> what an axis of a tensor's own is called."""
    elements: list[Any] = field(default_factory=list)
    """Tensors without axes that were taken for their number."""

    def view(self, name: str, tensor: Any, path: Any) -> tuple[str, Any]:
        """The view of a tensor that the last step of a way to it is, made once, and its name."""
        if path not in self.views:
            self.views[path] = name, follow(tensor, path[-1:])
        return self.views[path]

    def read(self, name: str, tensor: Any, axes: str, path: Any, numbers: tuple[Index, ...] = ()) -> Access | Gather:
        """The tensor read at some positions; numbers: what addresses the axes of its own, in order. path: the way to it
        (`captures`)."""
        wanted = self.prefix + "".join(c for c in name.upper() if "A" <= c <= "Z")
        for n in range(1, 27):
            given = wanted if n == 1 else wanted + chr(64 + n)
            known = self.tensors.setdefault(given, (tensor, axes))
            if known[0] is tensor and known[1] == axes:
                self.paths.setdefault(given, path)
                return self._read(given, numbers)
        refuse(f"{name} in more than 26 ways", "copy it")

    def _read(self, given: str, numbers: tuple[Index, ...]) -> Access | Gather:
        tensor, axes = self.tensors[given]
        ranks: list[Rank] = []
        index: list[Index] = []
        rest = iter(numbers)
        for n, axis in enumerate(axes):
            own = axis == "*"
            called = (self.own.setdefault((given, n), f"{self.letter}{len(self.own) + 1}"),)
            ranks += called if own else self.site.ranks(axis)
            index += (next(rest),) if own else self.site.ranks(axis)
        looked_up = any(isinstance(i, (Access, Gather)) for number in numbers for i in leaves(number))
        return access(Tensor(given, tuple(ranks), kind_of(tensor)), tuple(index), looked_up)

    def lengths(self) -> dict[Rank, int]:
        """Of the tensors' own axes."""
        return {rank: int(self.tensors[name][0].shape[axis]) for (name, axis), rank in self.own.items()}


def kind_of(tensor: Any) -> str:
    """ "float", "int" or "bool", from the dtype's name."""
    name = str(tensor.dtype)
    return "bool" if "bool" in name else "int" if "int" in name else "float"
