"""The emitters by name. Each is imported when it is first used: the torch emitter never imports Triton."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eintune.kernels.emit.kernel import Argument, Kernel
from eintune.kernels.gluon.work_queue import counters
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.plan.warp_specialisation import is_divided
from eintune.space.schedule.schedule import Schedule


@dataclass(frozen=True)
class Emitter:
    """One way to print a plan; call it with a plan and a schedule.

    name: what `Schedule.emitter` says. module: where its `emit` is.
    needs_cuda: whether what it prints runs on a GPU only. missing: the reason it cannot run here, or None.
    """

    name: str
    module: str
    needs_cuda: bool
    missing: Callable[[], str | None]

    def __call__(self, plan: LoopPlan | Program, schedule: Schedule, wide: bool = False) -> Kernel:
        """The kernel of a plan, or of all plans of a program. Raises ValueError for what the target cannot express.
        wide: for tensors whose strides are too large for offsets of 32 bits, where the target has such (`needs_cuda`).
        """
        program = Program.of(plan)
        queued = counters(program, schedule)
        options: list[dict[str, Any]] = [{"counter": n} if n else {} for n in queued]
        if wide and self.needs_cuda:
            options = [{**given, "wide": True} for given in options]
        clears = [n for n in queued if n]
        if clears:
            options[0]["clears"] = clears
        each = zip(program.kernels, _entries(), options, strict=False)
        kernels = [self._emit(p, schedule, entry, given) for p, entry, given in each]
        return _joined(program, kernels, clears) if len(kernels) > 1 else kernels[0]

    def _emit(self, plan: LoopPlan, schedule: Schedule, entry: str, given: dict[str, Any]) -> Kernel:
        """One plan's kernel; specialised warps have a printer of their own, where there are products to divide."""
        module = importlib.import_module(self.module)
        if plan.repairs or (plan.doubt and self.name == "triton"):
            module = importlib.import_module("eintune.kernels.emit.repair_printer")
        elif schedule.is_specialised and is_divided(plan):
            module.check_tiles(plan)
            module = importlib.import_module("eintune.kernels.gluon.module")
            given = {k: v for k, v in given.items() if k == "counter"}
        kernel: Kernel = module.emit(plan, schedule, entry, **given)
        return kernel

    @property
    def available(self) -> bool:
        """Whether this machine can run what it prints."""
        return self.missing() is None


def _entries() -> Iterator[str]:
    """What the functions of one module are called."""
    yield "kernel"
    yield from (f"kernel_{n}" for n in itertools.count(2))


def _joined(program: Program, kernels: Sequence[Kernel], counters: Sequence[str]) -> Kernel:
    """Several kernels as one: their functions in one module, and what is passed between them, counters too."""
    first, *rest = [k.source for k in kernels]
    source = first
    for text in rest:
        there = source.splitlines()
        own = (x for x in text.splitlines() if not (x.startswith("import ") and x in there))
        source += "\n\n" + "\n".join(own)
    source += "\n"
    kernels = [replace(k, arguments=tuple(_laid_out(a, program) for a in k.arguments)) for k in kernels]
    known = {a.name: a for k in kernels for a in k.arguments}
    names = [*program.inputs, *program.outputs]
    return replace(
        kernels[0],
        source=source,
        arguments=tuple(replace(known[n], output=n in program.outputs) for n in names),
        derived=tuple({name: d for k in kernels for name, d in k.derived}.items()),
        workspaces=tuple(known[n] for n in (*program.workspaces, *counters)),
        steps=tuple(replace(k, source=source) for k in kernels),
    )


def _laid_out(argument: Argument, program: Program) -> Argument:
    """A workspace as it lies in memory. Strides of tiled axes are constants of what is compiled, so those axes are the
    innermost, and of them those of any size the outermost: then no stride that is a constant follows from a size that
    is not known."""
    if argument.name not in program.workspaces or not any(argument.axes):
        return argument
    ranks = program.workspaces[argument.name].outputs[argument.name]
    users = [k for k in program.kernels if argument.name in (*k.inputs, *k.outputs)]
    roles = [[k.roles[r] for k in users if r in k.roles] for r in ranks]
    tiled = [any(role.tile or role.pack for role in every) for every in roles]
    order = sorted(range(len(ranks)), key=lambda axis: (tiled[axis], tiled[axis] and not argument.axes[axis]))
    return replace(argument, order=tuple(order))


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it exists for Linux)"
    from eintune.kernels.launch.module import interpreted

    if interpreted():
        return None
    import torch

    return None if torch.cuda.is_available() else "no CUDA device, and Triton's interpreter is off"


EMITTERS: dict[str, Emitter] = {
    e.name: e
    for e in (
        Emitter("torch", "eintune.kernels.emit.torch_printer", needs_cuda=False, missing=lambda: None),
        Emitter("triton", "eintune.kernels.emit.triton_printer", needs_cuda=True, missing=_triton_missing),
    )
}


def emit(plan: LoopPlan | Program, schedule: Schedule, wide: bool = False) -> Kernel:
    """The kernel of a plan or a program by the schedule's own emitter (`wide`: see there). Raises ValueError for an
    unknown one."""
    if schedule.emitter not in EMITTERS:
        raise ValueError(f"`emitter` must be one of {sorted(EMITTERS)}, but got {schedule.emitter!r}")
    return EMITTERS[schedule.emitter](plan, schedule, wide)
