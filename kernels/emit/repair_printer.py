"""Prints what computes tiles again that values spoilt which a row does not see (`space/plan/repair.py`), for Triton.

What decides by row is a function of a tile's first indices, in pieces of a program's tile: it sums several times, and
must take no registers that the kernel does without. The kernel whose tiles they are calls it in a branch. Where
specialised warps are that kernel it is called by one after theirs, of plain warps. Usually there is nothing to do, and
then that must be fast: thousands of programs that end at once would still be started one after the other. So few are
launched. Each reads the notes on many tiles at once, and goes over them only if one is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import Loop, LoopPlan
from eintune.space.plan.repair import GROUPS, LAUNCHED, PROGRAMS, tiles_each
from eintune.space.schedule.schedule import Schedule

from .kernel import Kernel
from .source_lines import INDENT, SourceScope
from .triton_printer import TritonPrinter
from .triton_printer import emit as emit_triton

DEPTH = 4
"""Levels that the body of a program is nested: in the function, the test of all its tiles, their loop, that of one."""


def emit(
    plan: LoopPlan, schedule: Schedule, entry: str = "kernel", clears: Sequence[str] = (), wide: bool = False
) -> Kernel:
    """The kernel of a plan that repairs, or of one that may compute tiles again: a function `entry`. Raises ValueError
    for what Triton cannot express."""
    if plan.repairs is None:
        return emit_triton(plan, schedule, entry, clears, wide, AgainPrinter)
    return emit_triton(plan, _plain(schedule), entry, clears, wide, RepairPrinter)


def _plain(schedule: Schedule) -> Schedule:
    """Warps that are alike, as many; by pointers and without a pipeline: little shared memory, and no descriptor to be
    made for a call that needs none."""
    return replace(schedule, warp_specialisation="none", rescaling="eager", pipelined="none", loads="pointer", stages=1)


class RowPrinter(TritonPrinter):
    """A function that computes one tile of a plan, given its first indices."""

    def _program(self) -> None:
        """Nothing to print: places are parameters."""

    def header(self, loop: Loop, low: str, high: str) -> str:
        # Without a pipeline, whatever the kernel has: each stage of one would take shared memory.
        return super().header(loop, low, high).removesuffix("):") + ", num_stages=1):"

    def function_lines(self) -> list[str]:
        """The lines of the function."""
        self.root()
        lines = [", ".join(line) for line in ([self.tensor[n] for n in self.strides], *self.parameters()) if line]
        names = [*self.places().values()]
        lines += [", ".join(names)] if names else []
        # Called, not inlined: what it shares with the kernel (offsets, places in tables) would be kept in registers all
        # along, up to a quarter more of them.
        return [
            "@triton.jit(noinline=True)",
            f"def {self.entry}(",
            *(f"    {line}," for line in lines),
            "):",
            *self.finish(),
            "\n",
        ]


class AgainPrinter(TritonPrinter):
    """A kernel that may compute its tile again: it calls such a function, of a plan with the same tensors or fewer."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, entry: str, counters: Sequence[str], wide: bool) -> None:
        super().__init__(plan, schedule, entry, counters, wide)
        again = plan.doubt.again if plan.doubt else plan
        self._rows = RowPrinter(again, _plain(schedule), self.names.fresh(f"{entry}_by_row"), (), wide)
        self._function = self._rows.function_lines()
        self.helpers |= self._rows.helpers
        self.found_reaches |= self._rows.found_reaches
        for name, strides in self._rows.strides.items():
            own = zip(self.strides[name], strides, strict=True)
            self.static |= {mine for mine, theirs in own if theirs in self._rows.static}

    def again(self) -> None:
        names = list(self._rows.strides)
        strides = [s for n in names for s in self.strides[n]]
        self.called(self._rows, [*(self.tensor[n] for n in names), *strides], self.place)

    def functions(self) -> list[str]:
        return self._function

    def counting(self, variable: str, low: str, high: str, step: int) -> str:
        return f"for {variable} in tl.range({low}, {high}, {step}):"


class RepairPrinter(AgainPrinter):
    """A plain kernel in a loop over the tiles that are in doubt."""

    reserved = (*TritonPrinter.reserved, "start", "places", "doubts", "here", "programs")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._each = tiles_each(self.plan)
        self._programs = str(self.plan.sizes[PROGRAMS]) if PROGRAMS in self.plan.sizes else ""
        """How many tiles there are, where that is known."""
        self.scopes = [SourceScope(None, DEPTH if self._programs else DEPTH + 1)]

    def _program_number(self) -> None:
        """Nothing to print: `program` is the variable of the loop over tiles."""

    def root(self) -> None:
        self.again()

    def place(self, rank: Rank) -> str:
        return "0" if self._count(rank) == "1" else super().place(rank)

    def geometry(self) -> dict[str, Any]:
        launched = -(-int(self._programs) // self._each) if self._programs else LAUNCHED
        return {**super().geometry(), "grid": (launched,), "counts": ()}

    def finish(self) -> list[str]:
        assert self.plan.repairs
        notes, each, groups = self.tensor[self.plan.repairs], self._each, self.plan.sizes[GROUPS]
        notes_in_all = f"{int(self._programs) * groups}" if self._programs else f"programs * {groups}"
        lines = [
            f"places = tl.cast(start, tl.int64) * {groups} + tl.arange(0, {each * groups})",
            f"doubts = tl.load({notes} + places, mask=places < {notes_in_all}, other=0)",
            "if tl.max(doubts, 0) != 0:",
            f"{INDENT}for program in tl.range(start, tl.minimum(start + {each}, {self._programs or 'programs'})):",
            f"{INDENT * 2}here = tl.cast(program, tl.int64) * {groups} + tl.arange(0, {groups})",
            f"{INDENT * 2}if tl.max(tl.load({notes} + here), 0) != 0:",
        ]
        if self._programs:
            before = [f"start = tl.program_id(0) * {each}"]
        else:
            tiles = ((self.size(r), self.plan.program_tile(r)) for r in self.plan.grid)
            counts = (size if n == 1 else f"(({size} + {n - 1}) // {n})" for size, n in tiles)
            before = [
                f"programs = {' * '.join(counts)}",
                f"for start in tl.range(tl.program_id(0) * {each}, programs, {LAUNCHED * each}):",
            ]
            lines = [INDENT + line for line in lines]
        return [*(INDENT + line for line in (*before, *lines)), *super().finish()]
