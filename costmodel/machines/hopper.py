"""What compute capability 9.0 has that a program with specialised warps is divided by.

Such a program is printed for this architecture alone, and its source says how its registers are shared out: so these
are facts of the architecture and not of one machine, whose description (`h200.toml`) says what else it has. Numbers
are those of NVIDIA's CUDA C++ Programming Guide (compute capabilities, 9.0) and of PTX's `setmaxnreg`.
"""

from __future__ import annotations

ARCHITECTURE = "sm_90"
"""Where a group of four warps drives the matrix unit (`wgmma`) and a program divides its registers anew."""

REGISTERS = 65536
"""32-bit registers of a multiprocessor."""

MOST_REGISTERS = 240
"""Of a thread, where a program divides them: `setmaxnreg` takes multiples of 8, and Triton keeps some of 255."""

SHARED_BYTES = 228 * 1024
"""Shared memory of a multiprocessor, in bytes; what the driver keeps for each program (1 KiB) included."""

LOADER_REGISTERS = 24
"""Of a thread of the group that loads: the fewest that `setmaxnreg` is sure of, and copies need no more."""
