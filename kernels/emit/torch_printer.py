"""Prints a loop plan as tiled PyTorch: the executable meaning of a plan, and the kernel where there is no GPU.

Tiles are slices, so they are never padded and no tail needs a mask. Axes that are whole (all heads, say) are
batch axes of one matrix product. A temporary that is not used again is overwritten by what is computed from it.
With float64 tensors everything is float64, which is how plans are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeGuard

from eintune.host.quoting import python_comment
from eintune.space.ir import dtypes
from eintune.space.ir.approximations import APPROXIMATIONS
from eintune.space.ir.expr import Part, Rank
from eintune.space.ir.row_factor import RowFactor
from eintune.space.plan.plan import Loop, LoopPlan
from eintune.space.plan.sizes import MOST, tail_predicate
from eintune.space.plan.values import (
    Addressed,
    Constant,
    Dot,
    Elementwise,
    Index,
    IndexPart,
    Lane,
    Load,
    Mask,
    Scale,
    SizeOf,
    Store,
    TileStart,
    Value,
    Within,
)
from eintune.space.schedule.schedule import Schedule

from .bound_text import parenthesised
from .buffer_reuse import Storage
from .kernel import Argument, Kernel
from .plan_facts import is_integer, summary
from .printer import Printer
from .source_lines import INDENT
from .spans import check_ranks, counted
from .value_printer import Fact, affine, literal

DTYPES = {name: f"torch.{d.torch}" for name, d in dtypes.DTYPES.items()}

FUNCTIONS = {
    "max": "torch.maximum({}, {})",
    "min": "torch.minimum({}, {})",
    "not": "~{}",
    "silu": "torch.nn.functional.silu({})",
    **{a.op: f"torch.{name}({{}})" for name, a in APPROXIMATIONS.items()},
}
"""Operators that are not infix and not called torch.<name>. Where hardware would approximate, the function itself."""

BOUNDS = {"max": "min", "min": "max"}
"""What the greater of something and a number is bounded by."""

REDUCTIONS = {"add": "sum", "max": "amax", "min": "amin", "mul": "prod"}

IN_PLACE = {
    "add": "add_",
    "sub": "sub_",
    "mul": "mul_",
    "div": "div_",
    "scale": "mul_",
    "exp2": "exp2_",
    "log2": "log2_",
    "sin": "sin_",
    "cos": "cos_",
    "tanh": "tanh_",
    "erf": "erf_",
    "sigmoid": "sigmoid_",
    "sqrt": "sqrt_",
    "abs": "abs_",
    "floor": "floor_",
    "neg": "neg_",
}
"""Operators whose first operand may be overwritten by the result."""

Item: TypeAlias = tuple[str, tuple[Rank, ...], bool]
"""What stands for one axis of a tensor, the tile axes that it gives, and whether it is a list of indices."""


def emit(plan: LoopPlan, schedule: Schedule, entry: str = "kernel") -> Kernel:
    """The kernel of a plan: a function `entry` of the tensors (outputs last) that fills the outputs. Raises ValueError
    for a rank whose indices are taken for numbers of 32 bits and are more."""
    check_ranks(plan, counted(plan))
    printer = TorchPrinter(plan, schedule, entry)
    return Kernel(
        emitter="torch",
        source=printer.source(),
        entry=entry,
        arguments=tuple(Argument.of(n, printer.shapes[n], plan.dtypes[n], n in plan.outputs) for n in printer.tensor),
        **printer.geometry(),
    )


class TorchPrinter(Printer):
    """The PyTorch dialect."""

    reserved = ("torch", "range", "min", "max", "float")

    def __init__(self, plan: LoopPlan, schedule: Schedule, entry: str = "kernel", *, called: bool = False) -> None:
        """called: whether it is a function of the variables that say where in the grid a program is."""
        super().__init__(plan, schedule, entry)
        self._rows: TorchPrinter | None = None
        if plan.doubt:
            self._rows = TorchPrinter(plan.doubt.again, schedule, self.names.fresh(f"{entry}_by_row"), called=True)
        self._compute = "fp64" if "fp64" in plan.dtypes.values() else "fp32"
        self._storage = Storage(plan)
        self._decided: dict[Value, bool] = {}
        self._iterated = [] if called else [r for r in reversed(plan.grid) if r in self.places()]
        self._called = called
        self.scopes[0].depth += len(self._iterated)

    # ---- the module

    def source(self) -> str:
        """The whole module."""
        again = [*self._rows._function(), "\n"] if self._rows else []  # first, as only then its sizes are known
        function = self._function()
        return "\n".join(
            [
                *(python_comment(line) for line in summary(self.plan, self.schedule.emitter)),
                "import torch",
                "\n",
                *again,
                *function,
                "",
            ]
        )

    def _function(self) -> list[str]:
        """The lines of the function."""
        self.root()
        loops, body = self._programs(), self.finish()
        places = list(self.places().values()) if self._called else []
        names = [*self.tensor.values(), *self.size_names.values(), *places]
        return ["@torch.inference_mode()", f"def {self.entry}({', '.join(names)}):", *loops, *body]

    def again(self) -> None:
        assert self._rows
        self.called(self._rows, [self.tensor[n] for n in self._rows.tensor], self.place)

    def _programs(self) -> list[str]:
        """One `for` a grid rank, the slowest outermost."""
        lines = []
        for depth, r in enumerate(self._iterated):
            size, tile = self.size(r), self.plan.roles[r].tile
            text = f"{self.start[r]} in range(0, {size}, {tile})" if tile else f"{self.scalar[r]} in range({size})"
            lines.append(f"{INDENT * (depth + 1)}for {text}:")
        return lines

    def limited(self, number: str, most: int) -> str:
        return f"{number}.clamp({-most}, {most})"

    def always(self) -> frozenset[Fact]:
        sizes = self.plan.sizes
        return frozenset(affine(tail_predicate(r, sizes), sizes) for r in (*sizes, *sizes.ranges))

    # ---- indices

    def _span(self, rank: Rank) -> tuple[str, str]:
        """The first index of a rank's tile and the one after its last."""
        role, size, start = self.plan.roles[rank], self.size(rank), self.start[rank]
        if start == "0":
            return "0", size
        end = f"{start} + {role.tile}"
        end = end if self.plan.sizes.is_multiple(rank, role.tile or 1) else f"min({end}, {size})"
        return start, self.define(f"{rank}_end", end, rank if role.outer == "loop" else None)

    def _slice(self, rank: Rank) -> str:
        role = self.plan.roles[rank]
        if role.tile is None:
            return self.scalar[rank]
        return ":" if self.start[rank] == "0" else ":".join(self._span(rank))

    def index(self, axis: Rank) -> str:
        home = axis if self.plan.roles[axis].outer == "loop" else None
        return self.define(f"i_{axis}", f"torch.arange({', '.join(self._span(axis))})", home)

    def iota(self, v: Index) -> str:
        rank = v.rank
        if v.axes:
            return f"torch.arange({', '.join(self._span(rank))}, dtype={DTYPES[v.dtype]})"
        return f"torch.tensor({self.scalar[rank]}, dtype={DTYPES[v.dtype]})"

    def part(self, v: IndexPart) -> str:
        return super().part(v) if v.axes else f"torch.tensor({super().part(v)})"

    def size_of(self, v: SizeOf) -> str:
        return f"torch.tensor({self.size(v.rank)}, dtype={DTYPES[v.dtype]})"

    def lane(self, v: Lane) -> str:
        length = self.plan.length(v.rank)
        text = self._length(v.rank) if length == MOST else str(length)
        return f"torch.arange({text}, dtype={DTYPES[v.dtype]})"

    def first(self, v: TileStart) -> str:
        return f"torch.tensor({self.start[v.rank]}, dtype={DTYPES[v.dtype]})"

    def name(self, v: Value) -> str:
        """A value; of one that stands outside the loop over its axis, the part that the current tile is as long as."""
        text = super().name(v)
        for q in v.axes:
            full = self.plan.sizes.is_multiple(q, self.plan.length(q)) if self._storage.is_around(v, q) else True
            if not full and self._is_inside(q):
                text = self.define(f"{text}_part", f"{text}[{self._cut(v, q)}]", q)
        return text

    def _is_inside(self, rank: Rank) -> bool:
        return any(scope.rank == rank for scope in self.scopes)

    def _cut(self, v: Value, axis: Rank) -> str:
        length = parenthesised(self._length(axis))
        return ", ".join(f":{length}" if q == axis else ":" for q in v.axes)

    # ---- memory

    def load(self, v: Load) -> str:
        tensor, index = v.tensor, v.index
        if not index:
            return self.tensor[tensor]
        numbers = iter(v.args)
        addressed = zip(index, self.shapes[tensor], strict=True)
        items = [self._item(i, n, next(numbers) if i is None or isinstance(i, Within) else None) for i, n in addressed]
        wide = tuple(q for q in v.axes if any(q in axes for _, axes, looked_up in items if looked_up))
        items = [self._listed(i, item, wide) for i, item in zip(index, items, strict=True)]
        texts = [text + (self.broadcast(axes, wide) if looked_up else "") for text, axes, looked_up in items]
        axes = self._axes_of([(found, looked_up) for _, found, looked_up in items if found], wide)
        loaded = self._arranged(
            f"{self.tensor[tensor]}[{', '.join(texts)}]", axes, tuple(q for q in v.axes if q in axes)
        )
        if len(axes) == len(v.axes):
            return loaded
        lengths = ", ".join(self._length(q) for q in v.axes)
        return f"{loaded}{self.broadcast(tuple(q for q in v.axes if q in axes), v.axes)}.expand({lengths})"

    def _item(self, i: Addressed, length: int | Rank, number: Value | None) -> Item:
        """One axis of a tensor, of some length. A number that was looked up is never trusted: PyTorch counts a negative
        one from the end."""
        match i:
            case None | Within():
                assert number is not None
                last = str(length - 1) if isinstance(length, int) else f"{self.size(length)} - 1"
                least = length if isinstance(length, int) else self.plan.sizes.least(length)
                if isinstance(number, Constant) and isinstance(length, int):
                    return str(min(max(int(number.number), 0), length - 1)), (), False
                if isinstance(number, Constant):
                    return f"min({max(int(number.number), 0)}, {last})", (), False
                text, safe = self.name(number), i is not None and i.inside(least)
                return text if safe else f"{text}.clamp(0, {last})", number.axes, bool(number.axes)
            case Part() if self.tiled(i.rank) and not self.within(i):
                return self.part_at(i, (i.rank,)), (i.rank,), True
            case Part() if i.op == "%" and self.tiled(i.rank):
                first = self.part_of_first(i)
                return f"{first}:{first} + {parenthesised(self._length(i.rank))}", (i.rank,), False
            case Part():
                return self.part_of_first(i), (), False
            case _:
                return self._slice(i), self._axes((i,)), False

    def _listed(self, i: Addressed, item: Item, wide: tuple[Rank, ...]) -> Item:
        """An item as a list of indices too where some list runs along its axis."""
        _, axes, looked_up = item
        if looked_up or i is None or isinstance(i, Within) or not set(axes) & set(wide):
            return item
        return self.part_at(i, axes) if isinstance(i, Part) else self.index(i), axes, True

    @staticmethod
    def _axes_of(found: Sequence[tuple[tuple[Rank, ...], bool]], wide: tuple[Rank, ...]) -> tuple[Rank, ...]:
        """The axes of what PyTorch's indexing gives: lists of indices become the axes `wide`, where they stand
        side by side, and else in front."""
        lists = [n for n, (_, looked_up) in enumerate(found) if looked_up]
        plain = [(axes[0], n) for n, (axes, looked_up) in enumerate(found) if not looked_up]
        if not lists:
            return tuple(q for q, _ in plain)
        together = lists == list(range(lists[0], lists[0] + len(lists)))
        place = lists[0] if together else 0
        return (*(q for q, n in plain if n < place), *wide, *(q for q, n in plain if n >= place))

    def _axes(self, index: Sequence[Rank]) -> tuple[Rank, ...]:
        return tuple(r for r in index if self.plan.roles[r].tile)

    def store(self, v: Store) -> str:
        output, index = v.tensor, v.index
        (value,) = v.args
        text = self.use(value, v.axes)
        items = [self._item(i, n, None) for i, n in zip(index, self.shapes[output], strict=True)]
        wide = tuple(q for q in v.axes if any(q in axes for _, axes, looked_up in items if looked_up))
        if value.axes:
            text = self._arranged(text, v.axes, self._axes_of([(a, listed) for _, a, listed in items if a], wide))
        return f"{self.tensor[output]}[{', '.join(place for place, _, _ in items) or '...'}] = {text}"

    # ---- operations

    def value(self, v: Value) -> None:
        if self._storage.merged_into(v):
            return
        if v.op == "sub" and self._storage.merged_into(v.args[0]) is v:
            self.write(f"{self.name(v)} = {self._difference(v)}")
        elif not isinstance(v, Store) and (text := self._overwriting(v)):
            self.write(f"{self.name(v)} = {text}")
        else:
            super().value(v)

    def _difference(self, v: Value) -> str:
        """`x * k - y` in one pass over memory."""
        product, y = v.args
        x, *factors = product.args
        where = f", out={self.name(x)}" if self._storage.may_overwrite(x, v, self._may_share) else ""
        if not isinstance(product, Scale):
            return f"torch.addcmul(-{self.use(y, v.axes)}, {self.name(x)}, {self.use(factors[0], v.axes)}{where})"
        return f"torch.add(-{self.use(y, v.axes)}, {self.name(x)}, alpha={literal(product.factor)}{where})"

    def _overwriting(self, v: Value) -> str | None:
        """The operation as a method that overwrites an operand, where one may be overwritten."""
        if self._may_share(v):
            return None
        operands = list(v.args[::-1] if v.op in ("add", "mul") else v.args[:1])
        if isinstance(v, Dot):
            operands = list(v.args[2:])
        for a in reversed(operands):
            if self._storage.may_overwrite(a, v, self._may_share):
                return self._method(v, a)
        return None

    def _may_share(self, v: Value) -> bool:
        """Whether a value may be what it passes on: a filter or selection that holds, or one that is a plain `bool`."""
        return self._is_decided(v) or self.passes(v)

    def passes(self, v: Value) -> bool:
        return v.op == "rounded" or super().passes(v)  # PyTorch fuses nothing

    def row_factor(self, maximum: str, factors: RowFactor) -> str:
        magnitude = f"{maximum}.abs()"
        text = f"torch.full_like({maximum}, {literal(factors.factor)})"
        text += f".masked_fill_({magnitude} >= {literal(factors.limit)}, {literal(factors.beyond)})"
        if factors.far_limit is None:
            return text
        return text + f".masked_fill_({magnitude} >= {literal(factors.far_limit)}, {literal(factors.far)})"

    def _is_decided(self, v: Value) -> TypeGuard[Mask]:
        """Whether it is a filter on scalar indices only."""
        if v not in self._decided:
            self._decided[v] = isinstance(v, Mask) and not any(self.tiled(r) for r in v.predicate.ranks)
        return self._decided[v]

    def _method(self, v: Value, target: Value) -> str | None:
        name, others = self.name(target), [a for a in v.args if a is not target]
        if isinstance(v, Mask):
            return f"{name}.masked_fill_(~({self.condition(v, v.axes)}), {literal(v.fill)})"
        if isinstance(v, Dot):
            return self._accumulated(v, name)
        if v.op not in IN_PLACE or len(others) != len(v.args) - 1:
            return None
        args = [literal(v.factor)] if isinstance(v, Scale) else [self.use(a, v.axes) for a in others]
        return f"{name}.{IN_PLACE[v.op]}({', '.join(args)})"

    def _accumulated(self, v: Dot, accumulator: str) -> str:
        a, b = self._operands(v)
        if len(v.axes) == 3 and a:
            return f"{accumulator}.baddbmm_({a}, {b})"
        if len(v.axes) == 2 and a:
            return f"{accumulator}.addmm_({a}, {b})"
        return f"{accumulator}.add_({self._product(v)})"

    def expression(self, v: Value) -> str:
        if self._is_decided(v):
            arg = self.name(v.args[0])
            return f"{arg} if {self.condition(v, ())} else torch.full_like({arg}, {literal(v.fill)})"
        if not isinstance(v, Dot):
            return super().expression(v)
        product = self._product(v)
        return f"{self.name(v.args[2])} + {product}" if len(v.args) > 2 else product

    def _product(self, v: Dot) -> str:
        a, b = self._operands(v)
        return f"{a} @ {b}" if a else self._einsum(v)

    def _operands(self, v: Dot) -> tuple[str, str]:
        """Both operands of a batched matrix product in `v.axes`, or empty where it is none."""
        contracted, batch = v.contracted, v.batch
        sides = []
        for x in v.args[:2]:
            own = tuple(q for q in x.axes if q != contracted and q not in batch)
            sides.append((x, own))
        (a, own_a), (b, own_b) = sides
        if len(own_a) != 1 or len(own_b) != 1 or v.axes[: len(batch)] != batch:
            return "", ""
        if v.axes[-2:] == (*own_b, *own_a):
            a, own_a, b, own_b = b, own_b, a, own_a
        left = self._arranged(self._exact(a), a.axes, (*batch, *own_a, contracted))
        right = self._arranged(self._exact(b), b.axes, (*batch, contracted, *own_b))
        return left, right

    def _einsum(self, v: Dot) -> str:
        letters = {q: chr(ord("a") + i) for i, q in enumerate(self.plan.order)}
        a, b, out = ("".join(letters[q] for q in x.axes) for x in (*v.args[:2], v))
        return f"torch.einsum('{a},{b}->{out}', {self._exact(v.args[0])}, {self._exact(v.args[1])})"

    def _exact(self, x: Value) -> str:
        """An operand in the compute dtype: products of narrow numbers are exact there, and sums are wide."""
        return self.name(x) if x.dtype == self._compute else self.cast(self.name(x), self._compute)

    def matmul(self, a: str, b: str, accumulator: str | None, v: Dot) -> str:
        return f"{accumulator} + {a} @ {b}" if accumulator else f"{a} @ {b}"

    def pointwise(self, op: str, args: Sequence[str], v: Elementwise) -> str:
        constants = [n for n, a in enumerate(v.args) if isinstance(a, Constant)]
        if op in BOUNDS and is_integer(v) and constants:
            n = constants[0]
            return f"{args[1 - n]}.clamp({BOUNDS[op]}={args[n]})"  # a number in the text is no tensor
        return super().pointwise(op, args, v)

    def function(self, op: str, args: Sequence[str]) -> str:
        return FUNCTIONS[op].format(*args) if op in FUNCTIONS else f"torch.{op}({', '.join(args)})"

    def choose(self, condition: str, then: str, other: str) -> str:
        return f"torch.where({condition}, {then}, {other})"

    def reduce(self, op: str, arg: str, position: int) -> str:
        return f"{arg}.{REDUCTIONS[op]}({position})"

    def permute(self, arg: str, positions: Sequence[int]) -> str:
        n = len(positions)
        if list(positions) == [*range(n - 2), n - 1, n - 2]:
            return f"{arg}.mT"
        return f"{arg}.permute({', '.join(map(str, positions))})"

    def cast(self, arg: str, dtype: str) -> str:
        return f"{arg}.to({DTYPES[dtype]})"

    def full(self, axes: tuple[Rank, ...], value: float, dtype: str) -> str:
        lengths = [self._length(q) if self._has_tile(q) else str(self.plan.length(q)) for q in axes]
        return f"torch.full([{', '.join(lengths)}], {literal(value)}, dtype={DTYPES[dtype]})"

    def _has_tile(self, axis: Rank) -> bool:
        """Whether there is a tile at hand: of a loop's rank only inside the loop. All tiles are full else
        (`loop_pass.Pass.carry`)."""
        return self.plan.roles[axis].outer != "loop" or self.start[axis] == "0" or self._is_inside(axis)

    def _length(self, axis: Rank) -> str:
        start, end = self._span(axis)
        return end if start == "0" else f"{end} - {start}"

    def header(self, loop: Loop, low: str, high: str) -> str:
        if self.plan.roles[loop.rank].tile is None:
            return f"for {self.scalar[loop.rank]} in range({low}, {high}):"
        return f"for {self.start[loop.rank]} in range({low}, {high}, {loop.tile}):"
