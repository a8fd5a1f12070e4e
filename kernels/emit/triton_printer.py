"""Prints a loop plan as a Triton kernel.

Sizes are numbers in the source, strides are arguments; the strides of tile axes are compile-time ones, so that
offsets inside a tile become immediates (a register for each row otherwise, which spills) and rows of 24 or 40
elements still load 16 bytes at a time. A program's indices come from one program id, fastest grid rank first.
Each tensor gets a pointer to its part for this program, computed in 64 bits; what is added to
it inside a loop is one 64-bit scalar and one loop-invariant tile of 32-bit offsets, so a tile of one tensor
must span less than 2**31 elements and the whole tensor may be larger (`spans`; a wide kernel has offsets of 64 bits).
Where the schedule says so, tiles that a
tensor descriptor can load are loaded by one: it knows shape and strides, so a load names the tile's first indices
only, and lanes beyond the end read as 0 without a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from eintune.host.quoting import python_comment
from eintune.space.ir.expr import Part, Rank
from eintune.space.plan.descriptor_blocks import Read, block_of
from eintune.space.plan.pipelined_product import pipelined_product
from eintune.space.plan.plan import Loop, LoopPlan, Segment
from eintune.space.plan.refusals import RuleError
from eintune.space.plan.sizes import tail_predicate
from eintune.space.plan.values import Addressed, Dot, Index, Lane, Load, SizeOf, Store, TileStart, Value, Within
from eintune.space.schedule.schedule import Schedule

from .bound_text import shifted
from .kernel import MOST_PROGRAMS, Argument, Descriptor, Kernel, Reach
from .pipelined_loop import PipelinedLoop
from .plan_facts import summary
from .printer import LoopIterations, Printer
from .spans import FARTHEST, check_ranks, fits
from .triton_dialect import DTYPES, FUNCTIONS, HELPERS, REDUCTIONS
from .value_printer import affine, literal


def emit(
    plan: LoopPlan,
    schedule: Schedule,
    entry: str = "kernel",
    clears: Sequence[str] = (),
    wide: bool = False,
    printing: type[TritonPrinter] | None = None,
) -> Kernel:
    """The kernel of a plan, a function `entry`. clears: the workspaces that count the programs of kernels that run
    after it. wide: offsets inside a tile have 64 bits; they have too where tiles of contiguous tensors need it.
    printing: what prints it, if another than `TritonPrinter`.

    Raises ValueError for a tile that is not a power of two or a product of too many axes, which Triton cannot express,
    and for a rank of too many elements.
    """
    check_tiles(plan)
    printer = (printing or TritonPrinter)(plan, schedule, entry, clears, wide)
    source = printer.source()
    # Reaches are known once the kernel is printed. 64-bit offsets take twice the registers, so only where even
    # contiguous tensors need them.
    if not fits(printer.reaches(), printer.arguments()):
        return emit(plan, schedule, entry, clears, True, printing)
    return Kernel(
        emitter="triton",
        source=source,
        entry=entry,
        arguments=printer.arguments(),
        **printer.geometry(),
        warps=schedule.warps,
        stages=schedule.stages,
        descriptors=printer.descriptors(),
        reaches=printer.reaches(),
    )


def jit(sizes: Iterable[str], language: str = "triton") -> str:
    """The decorator of an entry. Sizes are of one class, whatever they are: else Triton would compile anew for those
    that are 1, and for those that 16 divides."""
    names = ", ".join(f'"{name}"' for name in sizes)
    return f"@{language}.jit(do_not_specialize=[{names}])" if names else f"@{language}.jit"


def check_tiles(plan: LoopPlan) -> None:
    """Raises ValueError for what no Triton kernel expresses: an axis of too many ranks or elements, a tile that is not
    a power of two, a grid of too many programs."""
    check_ranks(plan, plan.roles)
    for rank, role in plan.roles.items():
        if role.tile is not None and role.tile & (role.tile - 1):
            raise RuleError("a tile of a Triton kernel is a power of two", f"rank {rank} has {role.tile}")
    if not plan.sizes.ranges and plan.programs() >= MOST_PROGRAMS:
        raise RuleError("a Triton grid has at most 2**31 - 1 programs", f"got {plan.programs()}")


class TritonPrinter(Printer):
    """The Triton dialect."""

    reserved = ("triton", "tl", "float", "program", *HELPERS)
    branches = True

    def __init__(
        self,
        plan: LoopPlan,
        schedule: Schedule,
        entry: str = "kernel",
        counters: Sequence[str] = (),
        wide: bool = False,
    ) -> None:
        super().__init__(plan, schedule, entry)
        self._wide_offsets = wide
        self.found_reaches: dict[tuple[str, tuple[int, ...]], None] = {}
        """(Tensor, how many indices 32-bit offsets go along each of its axes) of every tile that is addressed."""
        self.counters = tuple(counters)
        """Workspaces of one integer each, which no value of the plan reads."""
        self.tensor |= {n: self.names.fresh(n) for n in self.counters}
        self.strides = {
            name: [self.names.fresh(f"stride_{self.tensor[name]}_{r}") for r in ranks]
            for name, ranks in self._argument_ranks().items()
        }
        self.static: set[str] = set()
        """Strides of tile axes."""
        self.helpers: set[str] = set()
        self._descriptors: dict[tuple[str, tuple[int, ...]], str] = {}
        """(Tensor, block) -> the name of the descriptor that loads such blocks."""

    def pipelined(self, loop: Loop, segment: Segment, ends: tuple[str, str]) -> LoopIterations | None:
        wanted = self.schedule.pipelined == "product" and self.tiled(loop.rank)
        found = pipelined_product(loop) if wanted else None
        return PipelinedLoop(self, loop, found, segment, ends) if found else None

    # ---- the module

    def source(self) -> str:
        """The whole module."""
        self._program()
        self.root()
        for n in self.counters:
            self.write(f"tl.store({self.tensor[n]}, 0)  # of the programs of a kernel after this one")
        descriptors = list(self._descriptors.values())
        parameters = [[self.tensor[n] for n in self.strides], *filter(None, [*self.parameters(), descriptors])]
        body = self.finish()
        helpers = [f"{HELPERS[h]}\n" for h in sorted(self.helpers)]
        return "\n".join(
            [
                *(python_comment(line) for line in summary(self.plan, self.schedule.emitter)),
                "import triton",
                "import triton.language as tl",
                "\n",
                *helpers,
                *self.functions(),
                jit([*self.size_names.values(), *self.divisors.values()]),
                f"def {self.entry}(",
                *(f"    {', '.join(line)}," for line in parameters),
                "):",
                *body,
                "",
            ]
        )

    def functions(self) -> list[str]:
        """The lines of what the entry calls, beside helpers."""
        return []

    def parameters(self) -> list[list[str]]:
        """The strides of each tensor, as they are declared; complete once the source is printed."""
        strides = [
            [f"{s}: tl.constexpr" if s in self.static else s for s in strides] for strides in self.strides.values()
        ]
        return [*strides, list(self.size_names.values()), list(self.divisors.values())]

    def arguments(self) -> tuple[Argument, ...]:
        """The tensors in the order of the parameters."""
        shapes: dict[str, tuple[int | Rank, ...]] = self.shapes | dict.fromkeys(self.counters, (1,))
        dtypes = dict.fromkeys(self.counters, "int32")
        dtypes |= self.plan.dtypes
        written = {*self.plan.outputs, *self.counters}
        return tuple(Argument.of(n, shapes[n], dtypes[n], n in written) for n in self.strides)

    def descriptors(self) -> tuple[Descriptor, ...]:
        """The descriptors in the order of the parameters; complete once the source is printed."""
        position = {n: i for i, n in enumerate(self.strides)}
        return tuple(Descriptor(position[tensor], block) for tensor, block in self._descriptors)

    def reaches(self) -> tuple[Reach, ...]:
        """What strides the kernel's tensors may have; complete once the source is printed."""
        position = {n: i for i, n in enumerate(self.strides)}
        return tuple(Reach(position[tensor], steps) for tensor, steps in self.found_reaches)

    def _argument_ranks(self) -> dict[str, tuple[Rank, ...]]:
        ranks = {n: t.ranks for n, t in self.plan.inputs.items()} | self.plan.outputs
        return ranks | dict.fromkeys(self.counters, ("place",))

    def _program(self) -> None:
        """The indices of this program, from its number."""
        if not self.plan.sizes.ranges and self.plan.programs() == 1:
            return
        self._program_number()
        slowest = next((r for r in reversed(self.plan.grid) if self.plan.roles[r].tile), None)
        for r, text in self._digits():
            tile = self.plan.roles[r].tile and self.plan.program_tile(r)
            if r == slowest and self.schedule.order == "reverse":
                # Longest first: under a causal mask the last rows have the most keys, and a long program that starts
                # last would end alone.
                text = f"({shifted(self._count(r), -1)} - {text})"
            self.prologue(f"{self.start[r]} = {text} * {tile}" if tile else f"{self.scalar[r]} = {text}")

    def _digits(self) -> Iterator[tuple[Rank, str]]:
        """The digits of the program's number in mixed radix, fastest rank first, of ranks with more than one tile."""
        counts = {r: self._count(r) for r in self.plan.grid}
        several = [r for r, count in counts.items() if count != "1"]
        # The last digit needs no remainder: the quotient is below its count.
        if all(count.isdigit() for count in counts.values()):
            below = 1
            for r in several:
                text = f"program // {below}" if below > 1 else "program"
                yield r, text if r == several[-1] else f"{text} % {counts[r]}"
                below *= int(counts[r])
            return
        # Digit by digit: a division by a variable takes a hundred cycles where nothing else of a program can begin, and
        # by a multiplication with a reciprocal a few.
        left = "program"
        for r in several[:-1]:
            above, count = self.names.fresh(f"above_{r}"), counts[r]
            text = f"{left} // {count}" if count.isdigit() else f"count_quotient({left}, {self._divisor(r)})"
            self.prologue(f"{above} = {text}")
            yield r, f"({left} - {above} * {count})"
            left = above
        yield from ((r, left) for r in several[-1:])

    def _divisor(self, rank: Rank) -> str:
        """The argument for divisions by the count of a rank's tiles."""
        self.helpers.add("count_quotient")
        return self.divisors.setdefault((rank, self.plan.program_tile(rank)), self.names.fresh(f"{rank}_divisor"))

    def _program_number(self) -> None:
        self.prologue("program = tl.program_id(0)")

    def _count(self, rank: Rank) -> str:
        """How many tiles of a rank there are, or indices where it has no tile: a number or a variable."""
        size, tile = self.size(rank), self.plan.program_tile(rank)
        if size.isdigit():
            return str(-(-int(size) // tile))
        return size if tile == 1 else self.define(f"{rank}_tiles", f"({size} + {tile - 1}) // {tile}", None)

    # ---- indices and addresses

    def index(self, axis: Rank) -> str:
        if self.start[axis] == "0":
            return self._lanes(axis)
        return self.define(f"i_{axis}", f"{self.start[axis]} + {self._lanes(axis)}", self._home(axis))

    def _lanes(self, axis: Rank) -> str:
        return self.define(f"lane_{axis}", f"tl.arange(0, {self.plan.length(axis)})", None)

    def _offsets(self, axis: Rank) -> str:
        """The places in a tile as they are multiplied with a stride."""
        lanes = self._lanes(axis)
        # Widened before the multiplication by a stride, which is what may overflow.
        return self.define(f"{lanes}_wide", f"tl.cast({lanes}, tl.int64)", None) if self._wide_offsets else lanes

    def _steps(self, axis: Rank) -> int:
        """How many indices a tile goes along an axis. At least one: a stride by itself has 32 bits too."""
        return max(min(self.plan.length(axis), self.plan.sizes.most(axis)) - 1, 1)

    def _home(self, rank: Rank) -> Rank | None:
        """The loop rank in whose scope the rank's index is known; None for the program."""
        return rank if self.plan.roles[rank].outer == "loop" else None

    def _address(self, tensor: str, index: Sequence[Addressed], v: Value) -> str:
        """Pointers to a tile: the program's part of the tensor, what is looked up, the loops' part, the tile's
        offsets."""
        # An address in four parts by how often it changes: once a program, once an iteration (a 64-bit scalar), with
        # what is looked up, and the tile's own 32-bit offsets, which never change and stay in registers or become
        # immediates.
        by_home: dict[Rank | None, list[str]] = {None: []}
        tile: dict[Rank, str] = {}
        looked_up: list[str] = []
        steps = [0] * len(index)
        numbers = iter(v.args)
        for n, (item, stride) in enumerate(zip(index, self.strides[tensor], strict=True)):
            match item:
                case None | Within():
                    number = next(numbers)
                    if item is not None and number.axes:
                        self.static.add(stride)
                    wide = f"tl.cast({self.name(number)}, tl.int64){self.broadcast(number.axes, v.axes)}"
                    looked_up.append(f"{wide} * {stride}")
                    tile |= {q: tile.get(q, "") for q in number.axes}
                case Part() if self.tiled(item.rank) and not self.within(item):
                    self.static.add(stride)
                    at = self.part_at(item, v.axes)
                    narrow = item.op == "%" and not self._wide_offsets
                    looked_up.append(f"{at if narrow else f'tl.cast({at}, tl.int64)'} * {stride}")
                    steps[n] = item.by - 1 if narrow else 0
                    tile.setdefault(item.rank, "")
                case _:
                    rank, wide = (item, self._wide(item)) if isinstance(item, str) else self._wide_part(item)
                    if wide != "0":
                        by_home.setdefault(self._home(rank), []).append(f"{wide} * {stride}")
                    # The stride of a tile axis is a compile-time constant (see above): offsets of rows are then
                    # immediates of the load.
                    if self.tiled(rank) and not (isinstance(item, Part) and item.op == "//"):
                        self.static.add(stride)
                        tile[rank] = f"{self.spread(self._offsets(rank), (rank,), v.axes)} * {stride}"
                        steps[n] = 0 if self._wide_offsets else self._steps(rank)
        for q in v.axes:  # nothing but a quotient that is one number for the whole tile
            # Pointers must have the tile's shape, also along an axis on which the address does not depend.
            tile.setdefault(q, f"{self.spread(self._lanes(q), (q,), v.axes)} * 0")
        if any(steps):
            self.found_reaches[tensor, tuple(steps)] = None
        name = self.tensor[tensor]
        base = name
        if by_home[None]:
            base = self.define(f"{name}_part", f"{name} + {' + '.join(by_home.pop(None))}", None)
        loops = [term for home, terms in by_home.items() if home for term in terms]
        lanes = " + ".join(filter(None, tile.values()))
        offsets = [self.define(f"{name}_tile", lanes, None)] if lanes else []
        return " + ".join([base, *looked_up, *loops, *offsets])

    def _wide_part(self, part: Part) -> tuple[Rank, str]:
        """A part that is one number for a tile (a remainder: of its first index), in 64 bits."""
        first = self.part_of_first(part)
        return part.rank, first if first == "0" else f"tl.cast({first}, tl.int64)"

    def _wide(self, rank: Rank) -> str:
        name = self.start[rank] if self.tiled(rank) else self.scalar[rank]
        return name if name == "0" else self.define(f"{name}_wide", f"tl.cast({name}, tl.int64)", self._home(rank))

    def _valid(self, tensor: str, index: Sequence[Addressed], v: Value) -> str:
        """The mask of a tile's valid lanes; empty where all are. A number that was looked up is never trusted."""
        ranks = [i.rank if isinstance(i, Part) else i for i in index if isinstance(i, (str, Part))]
        lanes = [r for r in dict.fromkeys([*ranks, *v.axes]) if r in v.axes and not self._fits(r)]
        conditions = [f"({self.at(r, v.axes)} < {self.size(r)})" for r in lanes]
        numbers = iter(v.args)
        for i, size in zip(index, self.shapes[tensor], strict=True):
            if isinstance(i, (str, Part)):
                continue
            number = next(numbers)
            text = self.use(number, v.axes)
            least, most = (size, size) if isinstance(size, int) else (self.plan.sizes.least(size), FARTHEST)
            if i is None or not i.inside(least):
                # A number of 32 bits cannot be beyond a longer axis, and the literal would not fit.
                end = str(size) if isinstance(size, int) else self.size(size)
                below = [f"({text} < {end})"] if number.dtype == "int64" or most <= FARTHEST else []
                conditions.append(" & ".join([f"({text} >= 0)", *below]))
        return " & ".join(conditions)

    def _fits(self, rank: Rank) -> bool:
        """Whether no lane of the current tile lies beyond the rank's end."""
        sizes, tile = self.plan.sizes, self.plan.roles[rank].tile
        tail = affine(tail_predicate(rank, sizes), sizes)
        # While a pipelined product is printed for the tile before, its rank may be one past the end as a whole.
        return rank != self.beyond and (tile is None or sizes.is_multiple(rank, tile) or tail in self.known)

    # ---- the dialect

    def load(self, v: Load) -> str:
        tensor, index = v.tensor, v.index
        if block := self._block(v):
            return self._described(tensor, tuple(i for i in index if isinstance(i, str)), block)
        address, valid = self.addressed(v)
        return f"tl.load({address}, mask={valid}, other=0.0)" if valid else f"tl.load({address})"

    def addressed(self, v: Load) -> tuple[str, str]:
        """The pointers of a load, and the mask of its valid lanes; empty where all are."""
        return self._address(v.tensor, v.index, v), self._valid(v.tensor, v.index, v)

    def ordered(self, items: Sequence[Value | Loop]) -> Sequence[Value | Loop]:
        """Loads by descriptor first: the compiler gives neighbours one barrier to wait for, not one each."""
        return sorted(items, key=lambda item: not self._is_described(item))

    def _is_described(self, item: Value | Loop) -> bool:
        return isinstance(item, Load) and self._block(item) is not None

    def _block(self, v: Load) -> tuple[int, ...] | None:
        """The block of a tensor that a load reads, where the schedule and the tile allow a descriptor."""
        tensor, index = v.tensor, v.index
        ranks = tuple(i for i in index if isinstance(i, str))
        in_order = tuple(r for r in ranks if r in v.axes) == v.axes and len(set(ranks)) == len(index)
        in_loop = self.scopes[-1].rank is not None
        wanted = self.schedule.loads == "descriptor" or (self.schedule.loads == "loops" and in_loop)
        if not wanted or not in_order or not all(r in self.plan.roles for r in ranks):
            return None
        read = Read(ranks, self.plan.dtypes[tensor])
        return block_of(read, self.plan.sizes, lambda r: self.plan.roles[r].tile)

    def _described(self, tensor: str, index: tuple[Rank, ...], block: tuple[int, ...]) -> str:
        """The load of a block by descriptor, reshaped to the tile's axes: a block has one for every axis of the
        tensor."""
        key = tensor, block
        if key not in self._descriptors:
            self._descriptors[key] = self.names.fresh(f"{self.tensor[tensor]}_descriptor")
        # TMA takes coordinates, not an address: it clips at the tensor's edge and fills in zeros itself, so there is
        # no mask.
        first = [self.start[r] if self.tiled(r) else self.scalar[r] for r in index]
        text = f"{self._descriptors[key]}.load([{', '.join(first)}])"
        shape = [n for n, r in zip(block, index, strict=True) if self.tiled(r)]
        return text if len(shape) == len(block) else f"{text}.reshape({shape})"

    def store(self, v: Store) -> str:
        output, index = v.tensor, v.index
        (value,) = v.args
        address, valid = self._address(output, index, v), self._valid(output, index, v)
        # Converted here and not before: everything else is computed in the compute dtype.
        text = self.use(value, v.axes)
        if value.dtype != self.plan.dtypes[output]:
            text = f"{text}.to({DTYPES[self.plan.dtypes[output]]})"
        return f"tl.store({address}, {text}, mask={valid})" if valid else f"tl.store({address}, {text})"

    def function(self, op: str, args: Sequence[str]) -> str:
        if op in HELPERS or op == "silu":
            self.helpers.add("sigmoid" if op == "silu" else op)
        return FUNCTIONS[op].format(*args)

    def quotient(self, a: str, b: str, v: Value) -> str:
        """`/` is an approximation in float32 (PTX's div.full)."""
        return f"tl.div_rn({a}, {b})" if v.dtype == "fp32" else super().quotient(a, b, v)

    def choose(self, condition: str, then: str, other: str) -> str:
        return f"tl.where({condition}, {then}, {other})"

    def reduce(self, op: str, arg: str, position: int) -> str:
        if op == "mul":
            self.helpers.add("multiply")
        return REDUCTIONS[op].format(arg, position)

    def matmul(self, a: str, b: str, accumulator: str | None, v: Dot) -> str:
        if len(v.axes) > 3:
            raise RuleError("a product in Triton has at most one batch axis", f"{v.name} has {v.axes}")
        # Of operands of 16 bits the matrix unit takes products exactly and sums in fp32; only for fp32 operands is
        # there a choice.
        precise = v.args[0].dtype == "fp32"
        options = [accumulator] if accumulator else []
        options += [f"input_precision='{self.schedule.precision}'"] if precise else []
        return f"tl.dot({', '.join([a, b, *options])})"

    def permute(self, arg: str, positions: Sequence[int]) -> str:
        if list(positions) == [1, 0]:
            return f"tl.trans({arg})"
        return f"tl.permute({arg}, ({', '.join(map(str, positions))}))"

    def cast(self, arg: str, dtype: str) -> str:
        return f"{arg}.to({DTYPES[dtype]})"

    def full(self, axes: tuple[Rank, ...], value: float, dtype: str) -> str:
        shape = ", ".join(str(self.plan.length(q)) for q in axes)
        return f"tl.full([{shape}], {literal(value)}, {DTYPES[dtype]})"

    def iota(self, v: Index) -> str:
        if v.dtype == "int32":
            return self.at(v.rank, v.axes)
        return f"tl.cast({self.at(v.rank, v.axes)}, {DTYPES[v.dtype]})"

    def lane(self, v: Lane) -> str:
        return f"tl.cast({self._lanes(v.rank)}, {DTYPES[v.dtype]})"

    def size_of(self, v: SizeOf) -> str:
        return f"tl.cast({self.size(v.rank)}, {DTYPES[v.dtype]})"

    def first(self, v: TileStart) -> str:
        return f"tl.cast({self.start[v.rank]}, {DTYPES[v.dtype]})"

    def header(self, loop: Loop, low: str, high: str) -> str:
        rank = loop.rank
        if self.plan.roles[rank].tile is None:
            return f"for {self.scalar[rank]} in tl.range({low}, {high}):"
        return f"for {self.start[rank]} in tl.range({low}, {high}, {loop.tile}):"

    def least(self, a: str, b: str) -> str:
        return f"tl.minimum({a}, {b})"

    def greatest(self, a: str, b: str) -> str:
        return f"tl.maximum({a}, {b})"
