"""Operator notation in egglog: programs of `(let NAME (M_mul_emp Q K))`, and serialised e-graphs in JSON.

A leaf is any other constructor: `(Tensor "Q" "e,p")` is an input (its ranks and its kind may be left out), and so is
`(CreateTensor 64 1024 "Q")`, whose numbers are sizes of its axes, and one without arguments, by the name that it is
bound to (`(let Q (Input))`, else its own, `(Q)`);
`(Num 0.5)`, `(Param "scale")`, `(Size "m")` and `(Index "m")` are values; M_where reads its filter from a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from eintune.host.data import BadData, NotNegative, from_json
from eintune.host.quoting import egglog, short
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Const, Gather, Iota, Param, Predicate, Size
from eintune.space.notation.filters import write_predicate
from eintune.space.notation.grammar import KINDS
from eintune.space.notation.lexer import MAX_CHARACTERS
from eintune.space.notation.s_expressions import NUMBER, Call, Name, Term, commands, string_of

from .graph import OperatorGraph
from .graph_builder import Builder, check_ranks, filter_of, parameter
from .operators import Operand

MAX_JSON_CHARACTERS = 20_000_000
_OPERATOR = re.compile(r"[MRTF]_[a-z0-9]+(?:_(?:R|[a-z0-9]+))*")
_UNKNOWN = "?"
"""Stands for the ranks of an input that are not written."""
_COMMANDS = re.compile(
    r"datatype\*?|sort|function|constructor|relation|ruleset|unstable-combined-ruleset|rewrite|birewrite|rule"
    r"|run|run-schedule|check|extract|query-extract|print-function|print-size|print-stats|union|set|delete|subsume"
    r"|push|pop|include|set-option|fail"
)


# ---- programs


def read_egg(text: str) -> OperatorGraph:
    """The graph that a program's `let`s build; declarations, rules and schedules are passed over.

    Raises CascadeError naming the command that is wrong.
    """
    if len(text) > MAX_CHARACTERS:
        raise CascadeError(f"a program has at most {MAX_CHARACTERS} characters, but this has {len(text)}")
    builder = Builder()
    reader = _Reader(builder)
    for number, command in enumerate(commands(text), 1):
        try:
            match command:
                case Call("let", (Name(name), value)):
                    reader.let(name.removeprefix("$"), value)
                case Call("declare", (Name(name), Name(_))):
                    reader.bound[name.removeprefix("$")] = builder.read(name.removeprefix("$"))
                case Call(head) if _COMMANDS.fullmatch(head):
                    pass
                case _:
                    raise CascadeError(
                        f"expected (let NAME (OPERATOR …)) or a command of egglog, but got {short(command)}"
                    )
        except CascadeError as error:
            raise CascadeError(f"command {number}: {error}") from None
    return builder.graph()


class _Reader:
    """Turns terms into a builder's operations; equal subterms become one operation."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.bound: dict[str, Operand] = {}
        self.made: dict[tuple[str, tuple[Operand, ...]], str] = {}

    def let(self, name: str, value: Term) -> None:
        if name in self.bound:
            raise CascadeError(f"{name} is bound once, but here again")
        self.bound[name] = self.operand(value, name)

    def operand(self, term: Term, name: str | None = None) -> Operand:
        match term:
            case float():
                return Const(term)
            case str():
                return filter_of(term)
            case Name(text):
                text = text.removeprefix("$")
                if text not in self.bound:
                    raise CascadeError(f"{short(text)} is not bound above")
                return self.bound[text]
            case Call(head) if _OPERATOR.fullmatch(head):
                return self.operation(term, name)
            case Call(head, ()):
                return self.builder.read(name or head)
            case Call(head, children):
                return leaf(head, children, self.builder)

    def operation(self, call: Call, name: str | None) -> str:
        operands = [self.operand(c) for c in call.children]
        key = call.head, tuple(operands)
        if key not in self.made or name:
            self.made[key] = self.builder.add(name or self._fresh(), call.head, operands)
        return self.made[key]

    def _fresh(self) -> str:
        n = len(self.builder.operations) + 1
        while f"t{n}" in self.builder.operations:
            n += 1
        return f"t{n}"


def leaf(head: str, children: Iterable[Term], builder: Builder) -> Operand:
    """A constructor that is no operator: a value, or an input by its name."""
    match head, list(children):
        case "Num", [float() as value]:
            return Const(value)
        case "Param", [str() as name]:
            return parameter(name)
        case (("Size" | "Index"), [str() as rank]):
            check_ranks(head, (rank,))
            return Size(rank) if head == "Size" else Iota(rank)
        case _, list() as parts if texts := [x for x in parts if isinstance(x, str)]:
            name, *rest = texts
            if sizes := tuple(x for x in parts if isinstance(x, float)):
                builder.sized(name, sizes)
            words = [w for text in rest for w in re.split(r"[,\s]+", text) if w]
            if words == [_UNKNOWN] or not rest:
                return builder.read(name)
            kind = words.pop() if words and words[-1] in KINDS else "float"
            return builder.read(builder.declare(name, tuple(words), kind).name)
        case _:
            raise CascadeError(f'({short(head)} …) is no operator and no leaf such as (Tensor "Q" "e,p") or (Num 0.5)')


def write_egg(graph: OperatorGraph) -> str:
    """A program that egglog runs and `read_egg` reads back; one `let` an input and an operation."""
    names: dict[Operand, str] = {}
    lines: list[str] = []
    for o in graph.operations:
        children = []
        for x in o.operands:
            if isinstance(x, Access) and x not in names:
                if x.index != x.tensor.ranks:
                    raise CascadeError(f"{x.tensor.name} is read with renamed ranks, which egglog notation cannot say")
                names[x] = f"${x.tensor.name}"
                lines.append(f"(let {names[x]} {_written_leaf(x)})")
            children.append(names.get(x) or _written_leaf(x))
        if tiles := graph.tiles(o):
            children.append(str(tiles))
        lines.append(f"(let ${o.output} ({o.operator} {' '.join(children)}))")
        names[o.output] = f"${o.output}"
    return "\n".join([_datatype(graph), *lines])


def _written_leaf(x: Operand) -> str:
    match x:
        case str():
            return f"(Tensor {egglog(x)} {egglog(_UNKNOWN)})"
        case Access():
            kind = "" if x.tensor.kind == "float" else f",{x.tensor.kind}"
            return f"(Tensor {egglog(x.tensor.name)} {egglog(','.join(x.tensor.ranks) + kind)})"
        case Gather():
            raise CascadeError(f"{x.tensor.name} is addressed by more than ranks, which egglog notation cannot say")
        case Const():
            return f"(Num {repr(x.value).replace('nan', 'NaN')})"
        case Param():
            return f"(Param {egglog(x.name)})"
        case Size():
            return f"(Size {egglog(x.rank)})"
        case Iota():
            return f"(Index {egglog(x.rank)})"
        case Predicate():
            return egglog(write_predicate(x))


def _datatype(graph: OperatorGraph) -> str:
    signatures: dict[str, str] = {}
    for o in graph.operations:
        sorts = ["String" if isinstance(x, Predicate) else "Op" for x in o.operands]
        sorts += ["i64"] if graph.tiles(o) else []
        signatures[str(o.operator)] = " ".join(sorts)
    rows = "".join(f"\n  ({name} {sorts})" for name, sorts in signatures.items())
    return f"(datatype Op\n  (Tensor String String) (Num f64) (Param String) (Size String) (Index String){rows})"


# ---- serialised e-graphs


def read_egglog_json(text: str) -> OperatorGraph:
    """The cheapest graph in a serialised e-graph (nodes with op, children, eclass and cost).

    Of each class the node with the least tree cost is taken. Outputs are the root classes, or what nothing
    reads. Raises CascadeError for data of another form and for classes without a finite term.
    """
    if len(text) > MAX_JSON_CHARACTERS:
        raise CascadeError(f"a serialised e-graph has at most {MAX_JSON_CHARACTERS} characters, but got {len(text)}")
    try:
        file = from_json(text, _GraphFile)
    except BadData as error:
        raise CascadeError(f"not a serialised e-graph (nodes with op, children and eclass): {error}") from None
    nodes = {name: _node(n) for name, n in file.nodes.items()}
    lets = {c: d.let for c, d in file.class_data.items() if d.let}
    roots = [str(c) for c in file.root_eclasses]
    return _Extraction(nodes, {c: name.removeprefix("$") for c, name in lets.items()}).graph(roots)


class _NodeFile(msgspec.Struct):
    op: str
    eclass: str | int
    children: list[str | int] = msgspec.field(default_factory=list)
    cost: NotNegative = 1.0
    subsumed: bool = False


class _ClassFile(msgspec.Struct):
    let: str | None = None


class _GraphFile(msgspec.Struct):
    """What is read of a serialised e-graph; it may have more."""

    nodes: dict[str, _NodeFile]
    class_data: dict[str, _ClassFile] = msgspec.field(default_factory=dict)
    root_eclasses: list[str | int] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class _Node:
    op: str
    children: tuple[str, ...]
    eclass: str
    cost: float


def _node(n: _NodeFile) -> _Node:
    cost = float("inf") if n.subsumed else n.cost
    return _Node(n.op, tuple(map(str, n.children)), str(n.eclass), cost)


class _Extraction:
    """The cheapest node of each class, by bottom-up relaxation."""

    def __init__(self, nodes: dict[str, _Node], lets: dict[str, str]) -> None:
        for name, n in nodes.items():
            if missing := [c for c in n.children if c not in nodes]:
                raise CascadeError(f"node {name}: its child {missing[0]!r} is not in the e-graph")
        self.nodes, self.lets = nodes, lets
        self.best: dict[str, tuple[float, _Node]] = {}
        self._relax()

    def _relax(self) -> None:
        readers: dict[str, list[_Node]] = {}
        for n in self.nodes.values():
            for c in {self.nodes[c].eclass for c in n.children}:
                readers.setdefault(c, []).append(n)
        todo = [n for n in self.nodes.values() if not n.children]
        while todo:
            n = todo.pop()
            below = [self.best.get(self.nodes[c].eclass) for c in n.children]
            total = n.cost + sum(b[0] for b in below if b)
            old = self.best.get(n.eclass)
            if None in below or total == float("inf") or (old and old[0] <= total):
                continue
            self.best[n.eclass] = total, n
            todo += readers.get(n.eclass, [])

    def graph(self, roots: list[str]) -> OperatorGraph:
        operators = [c for c, (_, n) in self.best.items() if _OPERATOR.fullmatch(n.op)]
        read = {self.nodes[c].eclass for k in operators for c in self.best[k][1].children}
        named = [c for c in operators if c in self.lets and c not in read]
        outputs = [c for c in roots if c in self.best] or named or [c for c in operators if c not in read]
        if not outputs:
            raise CascadeError("the e-graph has no operator (M_…, R_…, T_…, F_…) with a finite term")
        return self._build(outputs)

    def _build(self, outputs: list[str]) -> OperatorGraph:
        """The chosen terms as one `let` an operation, operands first."""
        builder = Builder()
        reader = _Reader(builder)
        names: dict[str, str] = {}
        stack = outputs[::-1]
        while stack:
            n = self.best[stack[-1]][1]
            missing = [c for c in self._below(n) if c not in names and _OPERATOR.fullmatch(self.best[c][1].op)]
            if missing:
                stack += missing[::-1]
            elif (c := stack.pop()) not in names:
                names[c] = self._name(c, names)
                reader.let(names[c], Call(n.op, tuple(self._term(k, names) for k in self._below(n))))
        builder.results = tuple(names[c] for c in outputs)
        return builder.graph()

    def _below(self, n: _Node) -> list[str]:
        return [self.nodes[c].eclass for c in n.children]

    def _name(self, c: str, names: dict[str, str]) -> str:
        taken, number = {*names.values(), *self.lets.values()}, len(names) + 1
        while f"t{number}" in taken:
            number += 1
        return self.lets.get(c) or f"t{number}"

    def _term(self, c: str, names: dict[str, str]) -> Term:
        """A chosen class as an operand: the name of its operation, a primitive, or a leaf with its primitives."""
        if c in names:
            return Name(names[c])
        op, below = self.best[c][1].op, self._below(self.best[c][1])
        if op.startswith('"'):
            return string_of(op)
        if NUMBER.fullmatch(op):
            return float(op)
        if not below:
            return Call(self.lets.get(c, op), ())
        primitives = [self.best[k][1].op for k in below]
        return Call(op, tuple(string_of(p) if p.startswith('"') else float(p) for p in primitives if _is_primitive(p)))


def _is_primitive(op: str) -> bool:
    return op.startswith('"') or bool(NUMBER.fullmatch(op))
