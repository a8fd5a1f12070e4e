"""Lines of generated source: nesting, and names for what is defined on demand where it is known."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from eintune.space.ir.expr import Rank

INDENT = "    "


OUTSIDE = frozenset(
    {*dir(builtins), "num_warps", "num_stages", "num_ctas", "maxnreg", "grid", "warmup", "stream", "device", "debug"}
)
"""What generated code calls, and what a launch takes besides its tensors: no tensor's variable is called so."""


class Names:
    """Identifiers, each given out once: a wanted name that is taken gets a number."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._taken = {*keyword.kwlist, *keyword.softkwlist, *reserved}

    def fresh(self, wanted: str) -> str:
        base = re.sub(r"\W", "_", wanted) or "x"
        base = base if base[0].isidentifier() else f"_{base}"
        name, n = base, 1
        while name in self._taken:
            n += 1
            name = f"{base}_{n}"
        self._taken.add(name)
        return name

    def parameter(self, name: str) -> str:
        """The variable of a tensor, which a definition named: none that stands for something else in source."""
        return self.fresh(f"{name}_" if name in OUTSIDE else name)


@dataclass
class SourceScope:
    """The lines of one nesting level: definitions made on demand stand before the rest of the body."""

    rank: Rank | None
    depth: int
    head: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    named: dict[tuple[str, str], str] = field(default_factory=dict)
    """(Wanted name, text) of an expression -> the name that holds it in this scope."""


class SourceLines:
    """The lines of one program, written from the top; `names` are given out once in all of it."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.names = Names(reserved)
        self.scopes: list[SourceScope] = [SourceScope(None, 1)]
        self._defined: dict[tuple[str, str], str] = {}

    def write(self, line: str) -> None:
        """One line at the current nesting."""
        self.scopes[-1].body.append(INDENT * self.scopes[-1].depth + line)

    def prologue(self, line: str) -> None:
        """One line at the top of the program, before what is defined on demand there."""
        self.scopes[0].head.append(INDENT * self.scopes[0].depth + line)

    @contextmanager
    def nested(self, rank: Rank | None, deeper: bool = True) -> Iterator[None]:
        """A nesting level inside the loop over `rank`, what is defined on demand at its top; `deeper`: indented."""
        depth = self.scopes[-1].depth
        self.scopes.append(SourceScope(rank, depth + deeper))
        yield
        inner = self.scopes.pop()
        self.scopes[-1].body += [*inner.head, *inner.body]

    def define(self, name: str, text: str, home: Rank | None) -> str:
        """Name an expression once, at the top of the loop over `home` (None, or no such loop: the program)."""
        scope = next((s for s in reversed(self.scopes) if s.rank == home), self.scopes[0])
        key = name, text
        # One name for one text, wherever it is defined: printing it in another branch must not invent a second.
        if key not in self._defined:
            self._defined[key] = self.names.fresh(name)
        if key not in scope.named:
            scope.named[key] = self._defined[key]
            scope.head.append(f"{INDENT * scope.depth}{self._defined[key]} = {text}")
        return self._defined[key]

    def here(self, name: str, text: str) -> str:
        """Name an expression at this point, unless an enclosing scope has named it already. Atoms stay."""
        if text.isidentifier() or text.isdigit():
            return text
        key = "", text
        for scope in reversed(self.scopes):
            if key in scope.named:
                return scope.named[key]
        given = self.scopes[-1].named[key] = self.names.fresh(name)
        self.write(f"{given} = {text}")
        return given

    def finish(self) -> list[str]:
        """All lines of the program, once the root block is printed."""
        (root,) = self.scopes
        return [*root.head, *root.body]
