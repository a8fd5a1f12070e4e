"""Operator notation in egglog: programs of `(let NAME (M_mul_emp Q K))`, and serialised e-graphs in JSON.

A leaf is any other constructor: `(Tensor "Q" "e,p")` is an input (its ranks and its kind may be left out), and so is
`(CreateTensor 64 1024 "Q")`, whose numbers are sizes of its axes, and one without arguments, by the name that it is
bound to (`(let Q (Input))`, else its own, `(Q)`);
`(Num 0.5)`, `(Param "scale")`, `(Size "m")` and `(Index "m")` are values; M_where reads its filter from a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from eintune.host.data import BadData, NotNegative, from_json
from eintune.host.quoting import egglog, short
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Const, Gather, Iota, Param, Predicate, Size
from eintune.space.notation.filters import write_predicate
from eintune.space.notation.grammar import KINDS
from eintune.space.notation.lexer import MAX_CHARACTERS
from eintune.space.notation.s_expressions import NUMBER, Call, Name, Term, commands, string_of

from .cheapest_terms import TermKind, TermNode, cheapest, unfit
from .graph import OperatorGraph
from .graph_builder import GraphBuilder, check_ranks, filter_of, parameter
from .operators import Operand, in_order

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
    builder = GraphBuilder()
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

    def __init__(self, builder: GraphBuilder) -> None:
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


def leaf(head: str, children: Iterable[Term], builder: GraphBuilder) -> Operand:
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
                lines.append(f"(let {names[x]} {_written_leaf(x, graph)})")
            children.append(names.get(x) or _written_leaf(x, graph))
        if tiles := graph.tiles(o):
            children.append(str(tiles))
        lines.append(f"(let ${o.output} ({o.operator} {' '.join(children)}))")
        names[o.output] = f"${o.output}"
    return "\n".join([_datatype(graph), *lines])


def _written_leaf(x: Operand, graph: OperatorGraph) -> str:
    match x:
        case str():
            return _input(x, _UNKNOWN, graph)
        case Access():
            kind = "" if x.tensor.kind == "float" else f",{x.tensor.kind}"
            return _input(x.tensor.name, ",".join(x.tensor.ranks) + kind, graph)
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


def _input(name: str, ranks: str, graph: OperatorGraph) -> str:
    """With its sizes, if the graph says them; a constructor has one number of arguments."""
    sizes = graph.shapes.get(name, ())
    return f"({' '.join([_constructor(len(sizes)), egglog(name), egglog(ranks), *map(str, sizes)])})"


def _constructor(sizes: int) -> str:
    return f"Tensor{sizes or ''}"


def _datatype(graph: OperatorGraph) -> str:
    counts = sorted({len(shape) for shape in graph.shapes.values()} - {0})
    signatures = {_constructor(n): " ".join(["String String", *["i64"] * n]) for n in counts}
    for o in graph.operations:
        sorts = ["String" if isinstance(x, Predicate) else "Op" for x in o.operands]
        sorts += ["i64"] if graph.tiles(o) else []
        signatures[str(o.operator)] = " ".join(sorts)
    rows = "".join(f"\n  ({name} {sorts})" for name, sorts in signatures.items())
    return f"(datatype Op\n  (Tensor String String) (Num f64) (Param String) (Size String) (Index String){rows})"


# ---- serialised e-graphs


def read_egglog_json(text: str) -> OperatorGraph:
    """The cheapest graph in a serialised e-graph (nodes with op, children, eclass and cost).

    Of each class the term with the least tree cost is taken, among those whose operators fit their operands. Outputs
    are the root classes, or what nothing reads. Raises CascadeError for data of another form and for classes without
    such a term.
    """
    if len(text) > MAX_JSON_CHARACTERS:
        raise CascadeError(f"a serialised e-graph has at most {MAX_JSON_CHARACTERS} characters, but got {len(text)}")
    try:
        file = from_json(text, _GraphFile)
    except BadData as error:
        raise CascadeError(f"not a serialised e-graph (nodes with op, children and eclass): {error}") from None
    return _extracted(file)


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


def _extracted(file: _GraphFile) -> OperatorGraph:
    for name, n in file.nodes.items():
        if missing := [c for c in n.children if str(c) not in file.nodes]:
            raise CascadeError(f"node {name}: its child {str(missing[0])!r} is not in the e-graph")
    class_of = {name: str(n.eclass) for name, n in file.nodes.items()}
    nodes = [
        TermNode(
            n.op, tuple(class_of[str(c)] for c in n.children), str(n.eclass), float("inf") if n.subsumed else n.cost
        )
        for n in file.nodes.values()
    ]
    lets = {c: d.let.removeprefix("$") for c, d in file.class_data.items() if d.let}
    return _Extraction(nodes, lets).graph([str(c) for c in file.root_eclasses])


class _Extraction:
    """The cheapest terms of the outputs as a graph."""

    def __init__(self, nodes: list[TermNode], lets: dict[str, str]) -> None:
        self.nodes, self.lets = nodes, lets
        self.terms, self.best = cheapest(nodes)

    def graph(self, roots: list[str]) -> OperatorGraph:
        operators = dict.fromkeys(n.eclass for n in self.nodes if _OPERATOR.fullmatch(n.op))
        below = {c for n in self.nodes for c in n.children}
        read = {k.eclass for c in operators if c in self.best for k in self.terms[self.best[c]].operands}
        last = [c for c in operators if c not in below] or [c for c in operators if c not in read]
        known = {n.eclass for n in self.nodes}
        outputs = [c for c in roots if c in known] or [c for c in last if c in self.lets] or last
        if lacking := [c for c in outputs if c not in self.best]:
            raise CascadeError(self._why_none(lacking[0]))
        if not outputs:
            raise CascadeError("the e-graph has no operator (M_…, R_…, T_…, F_…) with a finite term")
        return self._build([self.best[c] for c in outputs])

    def _is_operation(self, kind: TermKind) -> bool:
        return bool(_OPERATOR.fullmatch(self.terms[kind].node.op))

    def _why_none(self, c: str) -> str:
        """The first operator below, if any, that its operands do not fit."""
        said = short(self.lets.get(c, c))
        for n in unfit(self.terms, self.nodes):
            below = " and ".join(" or ".join(self._ranks(k)) for k in n.children)
            return f"no term of {said} has operators that fit: {short(n.op)} takes no operands over {below}"
        return f"{said} has no finite term"

    def _ranks(self, c: str) -> list[str]:
        """What a class ranges over, each as `m,p`, or `?` where its operators do not tell."""
        return [
            "?" if k.ranks is None else ",".join(in_order(k.ranks)) or "nothing" for k in self.terms if k.eclass == c
        ]

    def _build(self, outputs: list[TermKind]) -> OperatorGraph:
        """The chosen terms as one `let` an operation, operands first."""
        builder = GraphBuilder()
        reader = _Reader(builder)
        names: dict[TermKind, str] = {}
        stack = outputs[::-1]
        while stack:
            term = self.terms[stack[-1]]
            missing = [k for k in term.operands if k not in names and self._is_operation(k)]
            if missing:
                stack += missing[::-1]
            elif (kind := stack.pop()) not in names:
                names[kind] = self._name(kind.eclass, names)
                reader.let(names[kind], Call(term.node.op, tuple(self._term(k, names) for k in term.operands)))
        builder.results = tuple(dict.fromkeys(names[k] for k in outputs))
        return builder.graph()

    def _name(self, c: str, names: dict[TermKind, str]) -> str:
        taken, number = {*names.values(), *self.lets.values()}, len(names) + 1
        while f"t{number}" in taken:
            number += 1
        said = self.lets.get(c)
        return said if said and said not in names.values() else f"t{number}"

    def _term(self, kind: TermKind, names: dict[TermKind, str]) -> Term:
        """A chosen term as an operand: the name of its operation, a primitive, or a leaf with its primitives."""
        if kind in names:
            return Name(names[kind])
        op, below = self.terms[kind].node.op, self.terms[kind].operands
        if op.startswith('"'):
            return string_of(op)
        if NUMBER.fullmatch(op):
            return float(op)
        if not below:
            return Call(self.lets.get(kind.eclass, op), ())
        primitives = [self.terms[k].node.op for k in below]
        return Call(op, tuple(string_of(p) if p.startswith('"') else float(p) for p in primitives if _is_primitive(p)))


def _is_primitive(op: str) -> bool:
    return op.startswith('"') or bool(NUMBER.fullmatch(op))
