"""What one program needs of a multiprocessor, predicted from the plan, and whether a machine can give it.

Exact numbers come from compiling for a GPU that need not be there (`kernels.launch.offline`); these formulas rank
thousands of candidates without it. Registers: every tile that is live at once, in 32-bit words, plus a fixed
overhead of addresses and indices. Shared memory: the tiles that stay, and a buffer a pipeline stage for each tile
that a loop streams into a product. Checked against Triton 3.6 for sm_90, sm_80 and sm_100: where an asynchronous
matrix unit reads shared memory itself the bytes are exact, elsewhere within about 20 %; registers within about 15 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from eintune.costmodel.machines.hopper import (
    ARCHITECTURE,
    LOADER_REGISTERS,
    MOST_REGISTERS,
    REGISTERS,
    SHARED_BYTES,
)
from eintune.costmodel.machines.machine import Machine
from eintune.space.ir.dtypes import DTYPES
from eintune.space.plan.pipelined_product import pipelined_product
from eintune.space.plan.plan import Block, Carry, Loop, LoopPlan, all_values
from eintune.space.plan.refusals import Refusal
from eintune.space.plan.values import Cast, Constant, Dot, Index, Lane, Load, Store, Value
from eintune.space.plan.warp_specialisation import GROUP_WARPS, groups, streamed_vectors
from eintune.space.schedule.schedule import Schedule
from eintune.space.tile_ir.tiles import Region

from .estimate import Resources

REGISTER_OVERHEAD = 26
"""Registers of a thread for addresses, indices and constants."""
FRAGMENT_REGISTERS = 16
"""Registers of a thread for fragments of operands, where the matrix unit reads registers only."""
SPILLED_SHARE = 0.25
"""The share of the excess that is spilled: a compiler works a tile too large in parts before it spills."""
PASSING_SHARE = 0.5
"""The share of the largest tile that is in registers at once on its way to shared memory, without a pipeline."""
KEPT_SHARE = 0.75
"""The share of what is kept for a software-pipelined product that takes registers of its own: 161 to 138 at
64 x 64 x 128, where 32 are kept; the rest takes the place of what the product in time would have needed at the peak."""
SHARED_ROWS_COPIES = 3
"""Copies of a computed left operand where groups share its rows: each holds it whole, and it is converted in two."""
ROW_COPIES = 4
"""A vector along the rows of a product's result is held by four lanes at once."""
BARRIER_BYTES = 2048
"""Shared memory of barriers, and what a program takes beside its tiles."""
INSTRUCTION_REGISTERS = 32
"""What a matrix instruction takes beside its result, for which a thread must have registers before they are divided
(ptxas says so: C7602)."""
MOST_PROGRAMS = 3
"""Of specialised warps on a multiprocessor: more would leave each too few registers."""


@dataclass(frozen=True)
class ResourceNeeds:
    """A program's needs, free of any machine, in bytes.

    registers: tiles live there at once. resident: tiles that stay in shared memory. streamed: tiles that one
    iteration of the largest loop loads there, `largest` the largest of them, and `rings` those of all loops together.
    computed: left operands that are computed. stored: tiles of outputs. result: the largest of a product. kept: what a
    loop keeps for a software-pipelined product. rows: the fewest rows of a product (0 without one).
    """

    registers: float
    resident: int
    streamed: int
    largest: int
    rings: int
    computed: int
    stored: int
    result: int
    kept: int
    rows: int


def tile_elements(plan: LoopPlan, value: Value) -> int:
    """Elements of a value's tile, padding included."""
    elements = 1  # asked hundreds of times for a plan: a loop takes half as long as a product of a generator
    for axis in value.axes:
        elements *= plan.length(axis)
    return elements


def tile_bytes(plan: LoopPlan, value: Value) -> int:
    """Bytes of a value's tile, padding included."""
    return tile_elements(plan, value) * DTYPES[value.dtype].bytes


def regions(plan: LoopPlan) -> dict[Value, Region]:
    """Where each value sits: a loaded tile that a product reads is in shared memory, all else in registers."""
    values = all_values(plan.root)
    fed = {a for v in values if isinstance(v, Dot) for a in v.args[:2]}
    carried = (c.value for loop in plan.loops() for c in loop.carries)
    place = dict.fromkeys((*values, *carried), Region.REGISTERS)
    for v in values:
        if v in fed and isinstance(v, Load):
            place[v] = Region.SHARED
    return place


def needs(plan: LoopPlan) -> ResourceNeeds:
    """Predicted needs of one program."""
    place = regions(plan)
    products = [v for v in all_values(plan.root) if isinstance(v, Dot)]
    # What a computed left operand costs besides its own registers depends on the matrix unit, so it is kept apart
    # (`fit_needs`).
    computed = [tile_bytes(plan, v.args[0]) for v in products if place[v.args[0]] == Region.REGISTERS]
    streamed = [_shared_tiles(plan, loop, place) for loop in _outer(plan.root)]
    return ResourceNeeds(
        registers=_peak(plan, plan.root, place),
        resident=sum(_shared_tiles(plan, _straight(plan.root), place)),
        streamed=max(map(sum, streamed), default=0),
        largest=max((t for tiles in streamed for t in tiles), default=0),
        rings=sum(map(sum, streamed)) + _vector_bytes(plan),
        computed=max(computed, default=0),
        stored=sum(_stored_bytes(plan, v) for v in all_values(plan.root) if isinstance(v, Store)),
        result=max((tile_bytes(plan, v) for v in products), default=0),
        kept=max(_kept(plan), default=0),
        rows=min((product_rows(plan, v) for v in products), default=0),
    )


def _vector_bytes(plan: LoopPlan) -> int:
    """Bytes of what comes with the tiles of specialised warps."""
    rows = {v.axes[0] for v in all_values(plan.root) if isinstance(v, Dot) and v.axes}
    if len(rows) != 1:  # no such warps
        return 0
    (row,) = rows
    return sum(tile_bytes(plan, v) for loop in plan.loops() for v in streamed_vectors(plan, loop, row))


def _stored_bytes(plan: LoopPlan, store: Store) -> int:
    """Bytes of a result of two axes."""
    (value,) = store.args
    width = DTYPES[plan.dtypes.get(store.tensor, value.dtype)].bytes
    return tile_elements(plan, value) * width if len(value.axes) > 1 else 0


def _kept(plan: LoopPlan) -> Iterator[int]:
    """Bytes that each loop would keep for a software-pipelined product."""
    for loop in plan.loops():
        if found := pipelined_product(loop):
            yield sum(tile_bytes(plan, v) for v in found.kept)


def product_rows(plan: LoopPlan, product: Dot) -> int:
    """Rows of a product's left operand: those of its axes that are neither contracted nor shared."""
    kept = [a for a in product.args[0].axes if a != product.contracted and a not in product.batch]
    return prod(map(plan.length, kept))


def resources(plan: LoopPlan, schedule: Schedule, machine: Machine) -> Resources:
    """Predicted resources of one program on a machine."""
    pipelined, specialised = schedule.pipelined == "product", schedule.is_specialised
    return fit_needs(needs(plan), schedule.warps, schedule.stages, machine, pipelined, specialised)


@dataclass(frozen=True)
class RegisterDivision:
    """Registers of a thread where groups of warps divide them: `each` has so many at the start, then those that compute
    and those that load. wanted: what computing takes. programs: that a multiprocessor holds at once. copies: buffers of
    each tile that stays, two where there is room, so that the next one's is loaded before this one's is done with."""

    each: int
    computing: int
    loading: int
    wanted: int
    programs: int
    copies: int


def division(need: ResourceNeeds, warps: int, stages: int) -> RegisterDivision:
    """How a program of specialised warps divides the registers, for as many programs on a multiprocessor as shared
    memory holds and registers allow. warps: those that compute. stages: buffers of each ring."""
    threads = warps * 32
    computing, all_groups = groups(warps), groups(warps) + 1
    wanted = round(REGISTER_OVERHEAD + need.registers / 4 / threads)
    least = INSTRUCTION_REGISTERS + need.result // 4 // threads
    # As many programs as shared memory holds, fewer where they would leave threads without the registers that they
    # need: another program on the SM hides latency, but spilling costs more than that brings.
    fitting = SHARED_BYTES // (divided_bytes(need, stages, 1) + BARRIER_BYTES)
    for programs in range(max(min(fitting, MOST_PROGRAMS), 1), 0, -1):
        # Registers are allocated to a kernel's warps alike at launch, in units of 8 a thread; the loader is counted
        # as a whole group, since `setmaxnreg` moves registers by groups of four warps.
        each = min(REGISTERS // (programs * all_groups * GROUP_WARPS * 32) // 8 * 8, MOST_REGISTERS)
        left = (each * all_groups - LOADER_REGISTERS) // computing // 8 * 8
        # `each` is what the compiler may use before registers are divided, and a matrix instruction's result must fit
        # in that already.
        if left >= wanted and each >= least:
            break
    room = SHARED_BYTES // programs - BARRIER_BYTES
    copies = 2 if divided_bytes(need, stages, 2) <= room else 1
    return RegisterDivision(each, min(left, MOST_REGISTERS), LOADER_REGISTERS, wanted, programs, copies)


def divided_bytes(need: ResourceNeeds, stages: int, copies: int) -> int:
    """Shared memory of a program whose warps do different things: every loop has rings of its own, and results are put
    together there too. copies: of tiles that stay."""
    return copies * need.resident + need.rings * stages + need.stored


def fit_needs(
    need: ResourceNeeds, warps: int, stages: int, machine: Machine, pipelined: bool = False, specialised: bool = False
) -> Resources:
    """Needs as a machine counts them. Spills are bytes of a thread. pipelined: whether products are. specialised:
    whether `warps` are those that compute, beside a group that loads.

    An asynchronous matrix unit (one that a group of warps drives) reads shared memory while the next tiles arrive:
    a buffer for each stage. Other units read registers: one buffer fewer, but the tiles that stay take registers.
    """
    if specialised:
        shares = division(need, warps, stages)
        spills = round(max(shares.wanted - shares.computing, 0) * 4 * SPILLED_SHARE)
        shared = divided_bytes(need, stages, shares.copies)
        return Resources(shared, shares.each, spills, warps + GROUP_WARPS)
    threads = machine.threads(warps)
    direct = machine.group_warps > 1 and need.rows >= machine.matrix_rows
    # Without a pipeline one buffer is used again for each tile in turn: only the largest counts.
    if stages < 2:
        shared = need.resident + need.largest
    else:
        # wgmma reads a buffer while it works, so the one in use is no room for the next tile; mma.sync has read its
        # fragments into registers before.
        shared = need.resident + need.streamed * (stages if direct else stages - 1)
    # A unit that reads registers has tiles that stay loaded into them once, before the loop.
    held = need.registers if direct else need.registers + need.resident
    if pipelined:
        held += KEPT_SHARE * need.kept
    if direct and stages < 2:  # loaded by way of registers
        held += PASSING_SHARE * need.largest
    if direct and warps / machine.group_warps > max(need.rows / machine.matrix_rows, 1):
        held += SHARED_ROWS_COPIES * need.computed
    # Registers hold 32 bits: bytes over 4, shared out among the threads.
    wanted = round(REGISTER_OVERHEAD + (0 if direct else FRAGMENT_REGISTERS) + held / 4 / threads)
    # no program may have more than the SM's whole register file
    limit = min(machine.registers_per_thread, machine.registers_per_sm // threads)
    spills = round(max(wanted - limit, 0) * 4 * SPILLED_SHARE)
    return Resources(shared if direct else shared + need.computed, min(wanted, limit), spills, warps)


def programs_per_sm(need: Resources, machine: Machine) -> int:
    """How many programs one multiprocessor holds at once; 0 where not even one fits."""
    # Occupancy: hardware gives registers out in units of 8 a thread, and reserves some shared memory for each
    # program.
    registers = -(-max(need.registers_per_thread, 1) // 8) * 8 * machine.threads(need.warps)
    shared = need.shared_bytes + machine.shared_bytes_reserved
    return min(
        machine.programs_per_sm,
        machine.warps_per_sm // need.warps,
        machine.registers_per_sm // registers,
        machine.shared_bytes_per_sm // shared if shared else machine.programs_per_sm,
    )


def illegal(need: Resources, machine: Machine, spill_limit: int = 256) -> Refusal | None:
    """Why a program cannot (or should not) run on a machine; None where it can."""
    if need.shared_bytes > machine.shared_bytes_per_program:
        has = machine.shared_bytes_per_program
        return Refusal("shared memory", f"needs {need.shared_bytes} bytes, {machine.name} has {has}")
    if need.warps > machine.warps_per_sm:
        return Refusal("warps", f"needs {need.warps}, {machine.name} runs {machine.warps_per_sm} on an SM")
    if need.spill_bytes > spill_limit:
        return Refusal("registers", f"spills {need.spill_bytes} bytes a thread, at most {spill_limit} is allowed")
    return None


def unsupported(schedule: Schedule, machine: Machine) -> Refusal | None:
    """Why a machine does not have what a schedule asks for; None where it has."""
    if schedule.loads != "pointer" and not machine.tensor_descriptors:
        return Refusal("tensor descriptors", f"{machine.name} has none in hardware")
    if schedule.is_specialised and machine.architecture != ARCHITECTURE:
        it_is = f"{machine.name} is {machine.architecture}"
        return Refusal("specialised warps", f"they are printed for {ARCHITECTURE}, {it_is}")
    if schedule.functions == "approximate" and not machine.approximate_functions:
        return Refusal("approximate functions", f"{machine.name} has none in hardware")
    return None


# ---- registers: the most bytes live at once


def _peak(
    plan: LoopPlan, block: Block, place: Mapping[Value, Region], outside: float = 0.0, carries: Sequence[Carry] = ()
) -> float:
    """The most register bytes live at any point of a block; `outside`: bytes of values that live through it."""
    # Linear scan of live ranges: at each operation what lives through it, and its result. A loop's carries are live
    # throughout its body, what they become until its end.
    last = _last_uses(block)
    last.update((c.next, len(block.items)) for c in carries)
    held = {c.value: _held(plan, c.value, place) for c in carries}

    def live(position: int) -> float:
        return outside + sum(b for v, b in held.items() if last.get(v, -1) >= position)

    most = outside + sum(held.values())
    for i, item in enumerate(block.items):
        before = live(i)
        if isinstance(item, Loop):
            most = max(most, _peak(plan, item.body, place, before, item.carries))
            held.update((c.value, _held(plan, c.value, place)) for c in item.carries)
            continue
        result = _held(plan, item, place)
        if isinstance(item, Dot):  # operands and result at once; an accumulator is added into
            # The accumulator's registers become the result's: the matrix unit adds in place.
            added = _held(plan, item.args[2], place) if len(item.args) > 2 else 0.0
            most = max(most, before + result - added)
        elif isinstance(item, Cast):  # another width, another layout: nothing is taken over
            most = max(most, before + result)
        else:  # an elementwise result takes its argument's registers as it goes
            most = max(most, before, live(i + 1) + result)
        held[item] = result
    return most


def _last_uses(block: Block) -> dict[Value, int]:
    """Position in the block of each value's last use (a use inside a loop counts at the loop)."""
    last: dict[Value, int] = {}
    for i, item in enumerate(block.items):
        users = all_values(item.body) if isinstance(item, Loop) else [item]
        for user in users:
            last.update(dict.fromkeys(user.args, i))
    return last


def _held(plan: LoopPlan, value: Value, place: Mapping[Value, Region]) -> float:
    """Register bytes of a value: none for tiles in shared memory, scalars, indices, filters and what is stored."""
    if place.get(value) == Region.SHARED or not value.axes or isinstance(value, Index | Lane | Constant | Store):
        return 0.0
    if value.dtype == "bool":
        # A predicate a lane: eight in a byte.
        return tile_elements(plan, value) / 8
    # In the layout of a product's result the four lanes of a quad hold one row's elements, so each of them has the
    # row's number.
    return float(tile_bytes(plan, value) * (ROW_COPIES if len(value.axes) == 1 else 1))


# ---- shared memory


def _outer(block: Block) -> list[Loop]:
    return [item for item in block.items if isinstance(item, Loop)]


def _straight(block: Block) -> Block:
    return Block(block.ranks, [item for item in block.items if not isinstance(item, Loop)])


def _shared_tiles(plan: LoopPlan, where: Block | Loop, place: Mapping[Value, Region]) -> list[int]:
    """Bytes of each tile that a block or a loop (inner loops too) puts into shared memory."""
    values = all_values(where.body if isinstance(where, Loop) else where)
    loaded = [v for v in values if isinstance(v, Load) and place[v] == Region.SHARED]
    # a right operand that was computed is written to shared memory, from which it is read
    written = [v.args[1] for v in values if isinstance(v, Dot) and place.get(v.args[1]) == Region.REGISTERS]
    return [tile_bytes(plan, v) for v in (*loaded, *written)]
