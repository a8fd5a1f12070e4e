"""Collects an operator graph from whatever spells it: assignments, an egglog program, a serialised e-graph."""

from __future__ import annotations

import re
from dataclasses import replace

from eintune.host.quoting import short
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Const, Gather, Param, Predicate, Rank, Tensor
from eintune.space.ir.names import MAX_NAME, RANK, wrong_name
from eintune.space.notation.cursor import Cursor
from eintune.space.notation.expressions import Expressions, ReaderScope
from eintune.space.notation.filters import read_predicate
from eintune.space.notation.grammar import KINDS
from eintune.space.notation.lexer import MAX_RANKS, statements

from .fused import steps
from .graph import OperatorGraph, with_found_ranks
from .operators import PART, Operand, Operation, Operator

NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?")
NUMBERS = ("inf", "nan", "NaN")
"""Words that are read as numbers where an operand stands."""
MAX_OPERATIONS = 1_000
MAX_SIZE = 2**40


class GraphBuilder:
    """Operations in the order in which they are added. All methods raise CascadeError without a place."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.operations: dict[str, Operation] = {}
        self.sizes: dict[Rank, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.spaces: dict[str, frozenset[Rank]] = {}
        """What the operands of reductions range over, by their outputs, where their spelling says it."""
        self._steps: set[str] = set()
        """Names that no text gave: values between the steps of one operator."""
        self.results: tuple[str, ...] = ()

    def declare(self, name: str, ranks: tuple[Rank, ...], kind: str = "float") -> Tensor:
        """An input whose ranks are written; saying the same twice is fine."""
        check_name(name)
        check_ranks(name, ranks)
        if kind not in KINDS:
            raise CascadeError(f"{name}: a tensor's kind is one of {list(KINDS)}, but got {kind!r}")
        tensor = Tensor(name, ranks, kind)
        if name in self.operations or self.tensors.setdefault(name, tensor) != tensor:
            raise CascadeError(f"{name} is declared once, but here again with ranks {list(ranks)}")
        return tensor

    def sized(self, name: str, sizes: tuple[float, ...]) -> None:
        """The sizes of an input's axes; saying the same twice is fine."""
        check_name(name)
        if wrong := [n for n in sizes if not 1 <= n <= MAX_SIZE or n != int(n)]:
            raise CascadeError(f"{name}: sizes are whole numbers from 1 to {MAX_SIZE}, but got {wrong[0]:g}")
        shape = tuple(map(int, sizes))
        if self.shapes.setdefault(name, shape) != shape:
            raise CascadeError(f"{name} has the sizes {list(self.shapes[name])}, but here {list(shape)}")

    def read(self, name: str, ranks: tuple[Rank, ...] | None = None) -> Operand:
        """An operand by name, perhaps with its ranks as a subscript."""
        check_name(name)
        if name in self.operations:
            if ranks is not None and self.operations[name].ranks not in (None, ranks):
                raise CascadeError(f"{name} has ranks {self.operations[name].ranks}, but is read with {ranks}")
            return name
        if ranks is not None:
            check_ranks(name, ranks)
            tensor = self.tensors.get(name) or self.declare(name, ranks)
            if len(tensor.ranks) != len(ranks):
                raise CascadeError(f"{name} has ranks {list(tensor.ranks)}, but is read with {list(ranks)}")
            return Access(tensor, ranks)
        known = self.tensors.get(name)
        return Access(known, known.ranks) if known else name

    def add(
        self, output: str, operator_name: str, operands: list[Operand], ranks: tuple[Rank, ...] | None = None
    ) -> str:
        """One operation. A split's constant is its number of tiles, the size of the outer rank."""
        check_name(output)
        if len(operator_name) > MAX_NAME:
            raise CascadeError(f"{short(operator_name)} is no operator: it has over {MAX_NAME} characters")
        said = steps(operator_name)
        *before, operator = said.operators
        if ranks is not None:
            check_ranks(output, ranks)
        if operator.op == "split" and operator.kind == "T" and len(operands) == 2:
            self._tiles(operator, operands.pop())
        if output in self._steps:
            self._rename(output)
        if output in self.operations or output in self.tensors:
            raise CascadeError(f"{output} is defined once, but here again")
        if len(self.operations) + len(before) >= MAX_OPERATIONS:
            raise CascadeError(f"a graph has at most {MAX_OPERATIONS} operations")
        for step in before:
            name = self._step_name(output)
            self._steps.add(name)
            self.operations[name] = Operation(name, step, tuple(operands))
            operands = [name]
        if said.space is not None:
            self.spaces[output] = said.space
        self.operations[output] = Operation(output, operator, tuple(operands), ranks)
        return output

    def _step_name(self, output: str) -> str:
        number = 1
        while (name := f"{output}_temp{number if number > 1 else ''}") in (*self.operations, *self.tensors, output):
            number += 1
        return name

    def _rename(self, name: str) -> None:
        """Give way to a name that the text gives."""
        self._steps.remove(name)
        new = self._step_name(re.sub(f"{PART.pattern}$", "", name))
        self._steps.add(new)
        called = {name: new}

        def renamed(o: Operation) -> Operation:
            operands = tuple(called.get(x, x) if isinstance(x, str) else x for x in o.operands)
            return replace(o, output=called.get(o.output, o.output), operands=operands)

        self.operations = {o.output: o for o in map(renamed, self.operations.values())}

    def _tiles(self, operator: Operator, count: Operand) -> None:
        value = count.value if isinstance(count, Const) else 0.0
        if not 1 <= value <= MAX_SIZE or value != int(value):
            raise CascadeError(f"{operator}: the number of tiles is a positive whole number, but got {short(count)}")
        rank = operator.ranks[1]
        if self.sizes.setdefault(rank, int(value)) != int(value):
            raise CascadeError(f"rank {rank} must have one size, but got {self.sizes[rank]} and {int(value)}")

    def graph(self) -> OperatorGraph:
        """Raises CascadeError for a graph in the wrong order or with unknown results."""
        known = {r for o in self.operations.values() for r in o.operator.ranks}
        if len(known) > MAX_RANKS:
            raise CascadeError(f"a graph has at most {MAX_RANKS} ranks, but this has {len(known)}")
        graph = OperatorGraph(tuple(self.operations.values()), self.results, self.sizes, self.shapes)
        return with_found_ranks(graph, self.spaces)


def check_name(name: str) -> None:
    if name in NUMBERS:
        raise CascadeError(f"{name} is a number, so it names no tensor")
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise CascadeError(f"a name has letters, digits and _ between them, but got {short(repr(name))}")


def parameter(name: str) -> Param:
    """A parameter by name; raises CascadeError."""
    if wrong := wrong_name(name):
        raise CascadeError(f"a parameter's name: {wrong}")
    return Param(name)


def check_ranks(name: str, ranks: tuple[Rank, ...]) -> None:
    wrong = [r for r in ranks if not RANK.fullmatch(r)]
    if wrong or len(set(ranks)) != len(ranks):
        raise CascadeError(f"{name}: ranks are [a-z][0-9]* and different from each other, but got {short(list(ranks))}")


def gather_of(text: str, tensors: dict[str, Tensor]) -> Access | Gather:
    """`KC[BT[b,m//64],m%64]`, an access to inputs that are declared; raises CascadeError."""
    lines = statements(text)
    if len(lines) != 1 or not lines[0][1] or lines[0][1][0].kind != "bracketed":
        raise CascadeError(f"an indexed access is a tensor and its index in brackets, but got {short(repr(text))}")
    line = Expressions(*lines[0], ReaderScope(tensors=dict(tensors)))
    x = line.indexed()
    line.end()
    return x


def filter_of(text: str) -> Predicate:
    """`m <= p` as a predicate; raises CascadeError."""
    lines = statements(text)
    if len(lines) != 1:
        raise CascadeError(f"a filter is one comparison of ranks, but got {short(repr(text))}")
    line = Cursor(*lines[0], ranks=set())
    predicate = read_predicate(line)
    line.end()
    return predicate
