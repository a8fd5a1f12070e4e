"""Builds the loop tree: every value is asked for where it is used and placed as far out as its loops allow.

Nothing is scheduled explicitly. A value goes into the outermost scope that holds its loops, so what does not
vary with a loop leaves it, and what is used after a loop is computed after it. Loop bodies share nothing but
their enclosing scopes, so what a later pass over the same rank needs is computed again in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from eintune.space.analysis.layout import Layout, Shape
from eintune.space.analysis.masks import Masks
from eintune.space.ir.approximations import approximate
from eintune.space.ir.dtypes import INTEGERS, SIXTEEN_BIT
from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Integer,
    Iota,
    Map,
    Part,
    Rank,
    Reduce,
    Size,
    Where,
    children,
    is_padded,
    topological,
)
from eintune.space.ir.index_arithmetic import Total, span, total
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS
from eintune.space.ir.products import factors
from eintune.space.plan.plan import Block, Carry
from eintune.space.plan.roles import IllegalPlan
from eintune.space.plan.values import (
    Addressed,
    Constant,
    Dot,
    Index,
    IndexPart,
    Lane,
    Load,
    Mask,
    Scale,
    SizeOf,
    TileStart,
    Value,
    Within,
)

from .contraction import Product, arrange
from .node_builder import NodeBuilder
from .scope import PlanScope, Sink, Work, loop_rank


class PlanBuilder(NodeBuilder):
    """Places values. `run_loop` fills one loop for a group of works; it is given by `loops` to break the cycle.
    functions: as in `Schedule`. low_precision: whether all that the program writes is narrow. precise: whether what it
    writes depends on the references of folds, so that their rounding would show."""

    def __init__(
        self,
        layout: Layout,
        masks: Masks,
        dtypes: Mapping[str, str],
        compute: str,
        run_loop: Callable[[PlanBuilder, Rank, list[Work], PlanScope], None],
        stored: Mapping[str, tuple[Rank | Part, ...]] | None = None,
        functions: str = "exact",
        low_precision: bool = False,
        precise: bool = False,
    ) -> None:
        super().__init__(layout, compute)
        self.masks, self.dtypes = masks, dtypes
        self.stored = dict(stored or {})
        self._run_loop = run_loop
        self._functions = functions
        self.low_precision, self.precise = low_precision, precise
        self.references: dict[Carry, tuple[float, bool]] = {}
        """Each running maximum that is multiplied before it is subtracted, with the number by which, and whether its
        scores are inputs (and not sums, which are rounded anyway). The product is rounded, so nothing that the plan
        stores may depend on it."""
        self._levels: dict[Rank, dict[Expr, int]] = {}

    # ---- scopes

    def scope(
        self, ranks: frozenset[Rank], parent: PlanScope | None, targets: Iterable[Expr], sinks: Iterable[Sink]
    ) -> PlanScope:
        """A new scope in which `targets` will be asked for."""
        wanted = [*targets, *(s.value for s in sinks)]
        # What loops of this scope will have to compute, known before any of them is opened, so that one pass can
        # serve all that it can.
        work: list[Work] = [
            x
            for x in topological(wanted)
            if isinstance(x, (Reduce, Fold))
            and (loop := self.layout.loop_of(x.rank)) is not None
            and loop not in ranks
            and self.layout.shape(x).loops <= ranks
        ]
        return PlanScope(Block(ranks), parent, [*work, *sinks])

    def level(self, x: Expr, rank: Rank) -> int:
        """How many loops over `rank` must have ended before `x` is known."""
        known = self._levels.setdefault(rank, {})
        for node in topological([x], stop=known):
            # FuseMax's count of passes: a reduction ends a loop, and what reads its result and goes over the rank
            # again needs another one.
            below = max((known[a] for a in children(node)), default=0)
            ends = isinstance(node, (Reduce, Fold)) and self.layout.loop_of(node.rank) == rank
            known[node] = below + ends
        return known[x]

    def work_level(self, work: Work, rank: Rank) -> int:
        if isinstance(work, Sink):
            return self.level(work.value, rank) + 1
        return self.level(work, rank)

    def run(self, work: Work, scope: PlanScope) -> None:
        """Run the loop that `work` needs, for all the work of its scope that the same pass can do."""
        rank = loop_rank(work, self.layout)
        assert rank is not None
        level = self.work_level(work, rank)
        # All reductions of one rank and level share a loop: none of them waits for another.
        group = [w for w in scope.work if loop_rank(w, self.layout) == rank and self.work_level(w, rank) == level]
        self._run_loop(self, rank, group, scope)
        scope.work = [w for w in scope.work if w not in group]

    # ---- values of expressions

    def value(self, x: Expr, scope: PlanScope) -> Value:
        """The value of an expression, as it is used in `scope`.

        Operands are placed before what reads them, without recursion: a sum may have a thousand terms.
        """
        waiting: list[tuple[Expr, PlanScope, Iterator[Expr]]] = []
        found = self._asked(x, scope, waiting)
        while waiting:
            node, home, rest = waiting[-1]
            operand = next(rest, None)
            if operand is not None:
                self._asked(operand, home, waiting)
                continue
            waiting.pop()
            found = home.values[node] = self._make(node, self.layout.shape(node), home)
        assert found is not None
        return found

    def _asked(self, x: Expr, scope: PlanScope, waiting: list[tuple[Expr, PlanScope, Iterator[Expr]]]) -> Value | None:
        """The value of an expression, if it is there or a loop can give it now; else None, and the expression is put on
        `waiting` with the operands to ask for first."""
        # From the inside out. A value of an enclosing scope is reused; one of a sibling loop is out of reach, and is
        # computed again.
        for s in scope.chain():
            if x in s.values:
                return s.values[x]
        shape = self.layout.shape(x)
        home = scope.outermost(shape.loops)
        if isinstance(x, (Reduce, Fold)) and (rank := self.layout.loop_of(x.rank)):
            # A reduction over the very rank whose loop is open: it would be a pass inside each iteration.
            if rank in home.ranks:
                raise IllegalPlan(
                    f"a pass over {rank} cannot stand in another one",
                    f"the loops {sorted(home.ranks)} need its result at every {sorted(shape.loops)}",
                )
            self.run(x, home)
            return home.values[x]
        waiting.append((x, home, iter(_operands(x))))
        return None

    def number(self, x: Expr, scope: PlanScope) -> Value:
        """The value of an expression in the compute dtype."""
        return self.widened(self.value(x, scope))

    def _make(self, x: Expr, shape: Shape, home: PlanScope) -> Value:
        axes = self.layout.ordered(shape.axes)
        match x:
            case Access():
                name = x.tensor.name
                return self.emit(Load(tensor=name, index=x.index, dtype=self.dtypes[name]), home, axes=axes)
            case Gather():
                return self._gather(x, axes, home)
            case Const():
                return self.emit(Constant(number=x.value), home)
            case Iota():
                return self.emit(Index(rank=x.rank), home, axes=axes)
            case Size():
                return self.emit(SizeOf(rank=x.rank), home)
            case Map("lane", (Iota(rank),)):
                return self.emit(Lane(rank=rank), home, axes=axes)
            case Map("first", (Iota(rank),)):
                return self.emit(TileStart(rank=rank), home, axes=axes)
            # In the tensor's own dtype, as an operand of a matrix product is: where the condition is known to hold the
            # tile is the one that was loaded.
            case Map("select", (condition, Access() as a, Const(0.0))):
                kept = self.value(a, home)
                zero = self.emit(Constant(number=0.0, dtype=kept.dtype), home)
                return self.apply(
                    "select",
                    self._condition(self.value(condition, home), home),
                    kept,
                    zero,
                    scope=home,
                    dtype=kept.dtype,
                )
            case Map("tile_greatest", (a, _)):
                return self.greatest(self.value(a, home), axes)
            case Where():
                numbers = [self.value(n, home) for n, _ in x.predicate.numbers]
                arg = self.number(x.arg, home)
                return self.emit(Mask(predicate=x.predicate, fill=x.fill, args=(arg, *numbers)), home, axes=axes)
            case Map("mul", (a, Const(k))):
                return self.emit(Scale(factor=k, args=(self.number(a, home),)), home)
            case Map():
                return self._map(x, home)
            case Reduce("add"):
                return self.contract(Product(factors(x.arg)), self._tile_axis(x), home)
            case Reduce():
                axis = self._tile_axis(x)
                arg = self.number(self.masks.masked(x.arg, axis, REDUCTIONS[x.op].identity), home)
                return self.reduce(x.op, arg, axis)
            case _:
                raise IllegalPlan(f"{type(x).__name__} over a tile is not expanded")

    def _gather(self, x: Access | Gather, axes: tuple[Rank, ...], home: PlanScope) -> Value:
        """A load whose address needs numbers that are loaded first, each as wide and as far out as it can be."""
        args: list[Value] = []
        index: list[Addressed] = []
        beyond: list[tuple[Value, int]] = []
        for i, own in zip(x.index, x.tensor.ranks, strict=True):
            if isinstance(i, (str, Part)):
                index.append(i)
                continue
            args.append(self._integer(i, home))
            within = Within(*span(i, self.layout.sizes)) if isinstance(i, Computed) else None
            index.append(within)
            if is_padded(x) and (within is None or not within.inside(self.layout.sizes[own])):
                beyond.append((args[-1], self.layout.sizes[own]))
        name = x.tensor.name
        load = Load(tensor=name, index=tuple(index), args=tuple(args), dtype=self.dtypes[name])
        found = self.emit(load, home, axes=axes)
        return self._padded(found, beyond, home) if beyond else found

    def _integer(self, i: Integer, home: PlanScope) -> Value:
        """A number that addresses an axis, as wide and as far out as it can be."""
        shape = self.layout.of_index(i)
        # As far out as it may stand, so that a table is not looked up in each iteration.
        axes, home = self.layout.ordered(shape.axes), home.outermost(shape.loops)
        if isinstance(i, (str, Computed)):
            low, high = span(i, self.layout.sizes)
            if low == high:
                return self._whole(low, home, self._is_wide(i))
        match i:
            case str():
                return self.emit(Index(rank=i, dtype="int32"), home, axes=axes, name=f"{i}_index")
            case Part():
                return self.emit(IndexPart(part=i, dtype="int32"), home, axes=axes, name=f"{i.rank}_part")
            case Access() | Gather():
                return self._gather(i, axes, home)
            case Computed("abs" | "max" | "min"):
                args = [self._integer(a, home) for a in i.args]
                return self._computed(i.op, args, i)
            case _:
                return self._total(total(i, self.layout.sizes), i, home)

    def _total(self, sum_: Total, of: Integer, home: PlanScope) -> Value:
        """A sum: what varies least first, so that a loop adds what varies with it."""
        wide = self._is_wide(of)
        # Loop-invariant terms first: their partial sum is hoisted, and one addition stays in the loop.
        terms = sorted(sum_.terms, key=lambda t: (len((s := self.layout.of_index(t[0])).loops), len(s.axes), -t[1]))
        const, found = sum_.const, None
        for x, coef in terms:
            term = self._integer(x, home)
            if abs(coef) != 1:
                term = self._computed("mul", [term, self._whole(abs(coef), home, wide)], of)
            if found is None and coef < 0:
                found, const = self._whole(const, home, wide), 0
            found = term if found is None else self._computed("add" if coef > 0 else "sub", [found, term], of)
            if const:
                found = self._computed("add" if const > 0 else "sub", [found, self._whole(abs(const), home, wide)], of)
                const = 0
        return self._whole(sum_.const, home, wide) if found is None else found

    def _is_wide(self, i: Integer) -> bool:
        """Whether a number, or what it is summed of, may need 64 bits."""
        most = abs(total(i, self.layout.sizes).const)
        for x, coef in total(i, self.layout.sizes).terms:
            most += abs(coef) * max(map(abs, span(x, self.layout.sizes)))
        # Partial sums are bounded too, whatever their order.
        return most >= 2**31

    def _computed(self, op: str, args: Sequence[Value], of: Integer) -> Value:
        """An operation on whole numbers on the way to `of`."""
        wide = self._is_wide(of) or any(a.dtype == "int64" for a in args)
        dtype = "int64" if wide else "int32"
        return self.apply(op, *(self._as_wide(a, dtype) for a in args), dtype=dtype)

    def _as_wide(self, v: Value, dtype: str) -> Value:
        """A whole number in another dtype; one that stands in the text is written anew."""
        if v.dtype == dtype:
            return v
        if isinstance(v, Constant):
            return self.emit(Constant(number=v.number, dtype=dtype), self.home[v])
        return self.cast(v, dtype)

    def _whole(self, n: int, home: PlanScope, wide: bool = False) -> Value:
        scope = home.outermost(frozenset())
        return self.emit(Constant(number=float(n), dtype="int64" if wide else "int32"), scope)

    def _padded(self, load: Value, beyond: Sequence[tuple[Value, int]], home: PlanScope) -> Value:
        """What is loaded, 0 (false) where one of these numbers lies beyond the axis, of some length, that it addresses;
        floats in the compute dtype."""
        inside: Value | None = None
        for v, n in beyond:
            for op, end in (("ge", 0), ("lt", n)):
                number = self.emit(Constant(number=float(end), dtype=v.dtype), home)
                holds = self.apply(op, v, number, dtype="bool")
                inside = holds if inside is None else self.apply("and", inside, holds, dtype="bool")
        assert inside is not None, f"{load.name}: a padded access looks a number up"
        if load.dtype == "bool":
            return self.apply("and", inside, load, dtype="bool")
        found = load if load.dtype in INTEGERS else self.widened(load)
        zero = self.emit(Constant(number=0.0, dtype=found.dtype), home)
        return self.apply("select", inside, found, zero, dtype=found.dtype)

    def _map(self, x: Map, home: PlanScope) -> Value:
        args = tuple(self.value(a, home) for a in x.args)
        match x.op:
            case "and" | "or" | "not":
                return self.apply(x.op, *(self._condition(a, home) for a in args), scope=home, dtype="bool")
            case "select":
                condition, *branches = args
                return self.apply(x.op, self._condition(condition, home), *map(self.widened, branches), scope=home)
            case _ if x.op in POINTWISE and POINTWISE[x.op].boolean:
                # Comparing int32 as floats would take neighbours above 2^24 for equal.
                exact = len({a.dtype for a in args}) == 1 and args[0].dtype not in SIXTEEN_BIT
                args = args if exact else tuple(map(self.widened, args))
                return self.apply(x.op, *args, scope=home, dtype="bool")
            case _:
                return self.apply(self._function(x.op, args), *map(self.widened, args), scope=home)

    def _condition(self, v: Value, home: PlanScope) -> Value:
        """A boolean: of a number, whether it is not 0."""
        if v.dtype == "bool":
            return v
        v = self.widened(v) if v.dtype in SIXTEEN_BIT else v
        zero = self.emit(Constant(number=0.0, dtype=v.dtype), home)
        return self.apply("ne", v, zero, dtype="bool")

    def _function(self, op: str, args: tuple[Value, ...]) -> str:
        """The operation for a function: its approximation where that is asked for and may stand for it."""
        found = approximate(op, self.all_sources(args)) if self._functions == "approximate" else None
        return found or op

    def _tile_axis(self, x: Reduce) -> Rank:
        axis = self.layout.axis_of(x.rank)
        assert axis is not None, f"a reduction over {x.rank} has neither a loop nor an axis"
        return axis

    def contract(
        self, product: Product, axis: Rank | None, scope: PlanScope, accumulator: Value | None = None
    ) -> Value:
        """`accumulator + sum over axis of product`: a matrix product where two operands have axes of their own."""
        # With weights that are 0 in invalid lanes already, other factors only must not be NaN or infinite there.
        masked = self.masks.finite_parts if product.weights else self.masks.masked_product
        parts = masked(product.parts, axis)
        values = [self.value(f, scope) for f in parts] + [*product.weights]
        inside = [v for v in values if axis in v.axes] if axis else values
        outside = [self.widened(v) for v in values if v not in inside]
        if axis and not inside:
            raise IllegalPlan(f"a sum over the tile axis {axis} needs a factor with that axis")
        # Two operands with axes of their own are a matrix product; else it is elementwise work and a reduction.
        operands = [self._multiplied(group) for group in arrange(inside, axis, self.layout.order)]
        if len(operands) == 2 and axis:
            # With a factor outside the sum the accumulator must be added after it.
            direct = accumulator if not outside else None
            total = self._dot(operands[0], operands[1], axis, direct)
            accumulator = None if direct else accumulator
        else:
            total = self._multiplied(operands) if operands else self.emit(Constant(number=1.0), scope)
            total = self.widened(total)
            total = self.reduce("add", total, axis) if axis else total
        for v in outside:
            total = self.apply("mul", total, v)
        return self.add(accumulator, total)

    def _multiplied(self, values: list[Value]) -> Value:
        if len(values) == 1:
            return values[0]
        result = self.widened(values[0])
        for v in values[1:]:
            result = self.apply("mul", result, self.widened(v))
        return result

    def _dot(self, a: Value, b: Value, axis: Rank, accumulator: Value | None) -> Value:
        batch = self.layout.ordered((set(a.axes) & set(b.axes)) - {axis})
        dtype = self._product_dtype(a, b)
        operands = tuple(v if v.dtype == dtype else self.cast(v, dtype) for v in (a, b))
        axes = self.layout.ordered((set(a.axes) | set(b.axes)) - {axis})
        args = (*operands, accumulator) if accumulator else operands
        return self.emit(Dot(contracted=axis, batch=batch, args=args), axes=axes)

    def _product_dtype(self, a: Value, b: Value) -> str:
        """As narrow as the tensors that are multiplied, or, if both operands are computed, that they come from."""
        # Weights are computed in fp32 and multiplied by values of 16 bits: they are rounded to that, as
        # FlashAttention does, or the matrix unit could not be used at its rate.
        tensors = {v.dtype for v in (a, b) if isinstance(v, Load)} or self.sources[a] | self.sources[b]
        narrow = tensors.pop() if len(tensors) == 1 else None
        return narrow if narrow in SIXTEEN_BIT and self.compute == "fp32" else self.compute


def _operands(x: Expr) -> tuple[Expr, ...]:
    """What `PlanBuilder._make` asks for first, in that order."""
    match x:
        case Map("lane" | "first"):
            return ()
        case Map("tile_greatest", (a, _)):
            return (a,)
        case Map("mul", (a, Const())):
            return (a,)
        case Map("select", (condition, Access() as a, Const(0.0))):
            return condition, a
        case Map():
            return x.args
        case Where() if not x.predicate.numbers:
            return (x.arg,)
        case _:
            return ()
