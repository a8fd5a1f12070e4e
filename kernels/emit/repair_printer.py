"""Prints a plan that repairs tiles of the kernel before it (`space/plan/repair.py`), as a Triton kernel.

Usually there is nothing to do, and then it must be fast: a program has large tiles, so that only one or two run on a
multiprocessor at once, and thousands that end at once would still be started one after the other. So few programs are
launched. Each reads the notes on many tiles at once, and goes over them only if one is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.repair import GROUPS, PROGRAMS, tiles_each
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
    """The kernel of a plan that repairs, a function `entry`, by plain warps: as many rows as under `schedule`, its
    programs in the same order. Raises ValueError for what Triton cannot express."""
    # By pointers and without a pipeline: little shared memory, and no descriptor to be made for a call that needs
    # none.
    plain = replace(
        schedule, warp_specialisation="none", rescaling="eager", pipelined="none", loads="pointer", stages=1
    )
    return emit_triton(plan, plain, entry, clears, wide, RepairPrinter)


class RepairPrinter(TritonPrinter):
    """A plain kernel in a loop over the tiles that are in doubt."""

    reserved = (*TritonPrinter.reserved, "start", "places", "doubts", "here")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.scopes = [SourceScope(None, DEPTH)]

    def _program_number(self) -> None:
        """Nothing to print: `program` is the variable of the loop over tiles."""

    def geometry(self) -> dict[str, Any]:
        return {**super().geometry(), "grid": (-(-self.plan.sizes[PROGRAMS] // tiles_each(self.plan)),), "counts": ()}

    def finish(self) -> list[str]:
        assert self.plan.repairs
        notes, each = self.tensor[self.plan.repairs], tiles_each(self.plan)
        programs, groups = self.plan.sizes[PROGRAMS], self.plan.sizes[GROUPS]
        lines = [
            f"start = tl.program_id(0) * {each}",
            f"places = tl.cast(start, tl.int64) * {groups} + tl.arange(0, {each * groups})",
            f"doubts = tl.load({notes} + places, mask=places < {programs * groups}, other=0)",
            "if tl.max(doubts, 0) != 0:",
            f"{INDENT}for program in tl.range(start, tl.minimum(start + {each}, {programs})):",
            f"{INDENT * 2}here = tl.cast(program, tl.int64) * {groups} + tl.arange(0, {groups})",
            f"{INDENT * 2}if tl.max(tl.load({notes} + here), 0) != 0:",
        ]
        return [*(INDENT + line for line in lines), *super().finish()]
