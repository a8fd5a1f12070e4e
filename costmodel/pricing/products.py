"""How a matrix product lies on a program's warps, and what follows from it on one multiprocessor.

A unit that groups of warps drive (`Machine.group_warps` > 1) takes `matrix_rows` rows of the result a group; it
reads operands from shared memory, the right one anew for each such set of rows. Groups that find no rows of their
own share rows and split columns: a left operand that was computed must then go through shared memory, where every
group reads it, and row reductions cross groups. Smaller tiles (and other machines) use the unit that each warp
drives for itself, in fragments of 16 x 8: warps lie along the longer side, and where the tile is shorter than
that they repeat each other's work, products and elementwise operations alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from eintune.costmodel.counts.block_work import ProductCost
from eintune.costmodel.machines.machine import Machine

FRAGMENT = (16, 8)
"""Rows and columns of a result that one warp computes at least."""
DEPTH_BYTES = 32
"""Bytes of a row of the left operand that one instruction contracts."""


@dataclass(frozen=True)
class WarpLayout:
    """seconds: of one product on an SM at its full rate, or of reading its operands where that takes longer.

    copies: how many warps hold (and compute) each element. exchanged: bytes that cross between groups through
    shared memory. crossing: reductions along a row cross warps. instructions: that one group issues one after the
    other into the same accumulator (0 where warps issue them).
    """

    seconds: float
    copies: float
    exchanged: float
    crossing: bool
    instructions: float = 0.0


def layout(p: ProductCost, warps: int, machine: Machine) -> WarpLayout:
    """A product on a GPU. Raises MachineError for a dtype without a matrix unit."""
    if machine.group_warps > 1 and p.rows >= machine.matrix_rows:
        return _by_groups(p, warps, machine)
    return _by_warps(p, warps, machine)


def _by_groups(p: ProductCost, warps: int, machine: Machine) -> WarpLayout:
    # wgmma: four warps compute 64 rows of the result. Both operands come from shared memory (or the left from
    # registers), so the right one is read again for each 64 rows, whoever computes them.
    groups = max(warps / machine.group_warps, 1)
    sharing = max(groups / (p.rows / machine.matrix_rows), 1)
    read = (0 if p.computed else p.left_bytes * sharing) + p.right_bytes * -(-p.rows // machine.matrix_rows)
    # Written once by those who computed it and read by every group that shares its rows: registers are private to
    # threads.
    exchanged = p.left_bytes * (1 + sharing) if p.computed and sharing > 1 else 0.0
    # One instruction contracts 32 bytes of a row, 16 elements of 16 bits.
    instructions = p.left_bytes / p.rows / DEPTH_BYTES * max(p.rows / machine.matrix_rows / groups, 1)
    return WarpLayout(_seconds(p.flops, read, p, machine, 1.0), 1.0, exchanged, sharing > 1, instructions)


def _by_warps(p: ProductCost, warps: int, machine: Machine) -> WarpLayout:
    # mma.sync fragments: warps are laid along the longer side; each reads the operand of the other side whole.
    by_rows = p.rows >= p.columns
    fragments = p.rows / FRAGMENT[0] if by_rows else p.columns / FRAGMENT[1]
    # More warps than fragments: some compute the same fragment again, as a tile's layout has to give each warp
    # something.
    copies = max(warps / fragments, 1)
    left, right = (1, warps) if by_rows else (warps, 1)
    read = (0 if p.computed and by_rows else p.left_bytes * left) + p.right_bytes * right
    exchanged = 0.0 if by_rows or not p.computed else float(p.left_bytes)
    share = 1.0 if machine.group_warps == 1 and p.rows >= machine.matrix_rows else machine.narrow_matrix_fraction
    return WarpLayout(_seconds(p.flops * copies, read, p, machine, share), copies, exchanged, not by_rows)


def _seconds(flops: float, read: float, p: ProductCost, machine: Machine, share: float) -> float:
    """On one SM."""
    computing = flops / (machine.tensor_rate(p.dtype) * share)
    return max(computing, read / machine.shared_bytes_per_second) * machine.sms
