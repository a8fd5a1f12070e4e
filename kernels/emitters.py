"""The emitters by name. Each is imported when it is first used: the torch emitter never imports Triton."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from ..space.plan import LoopPlan
from ..space.schedule import Schedule
from .kernel import Kernel


@dataclass(frozen=True)
class Emitter:
    """One way to print a plan; call it with a plan and a schedule.

    name: what `Schedule.emitter` says. module: where its `emit` is, inside this package.
    needs_cuda: whether what it prints runs on a GPU only. missing: the reason it cannot run here, or None.
    """

    name: str
    module: str
    needs_cuda: bool
    missing: Callable[[], str | None]

    def __call__(self, plan: LoopPlan, schedule: Schedule) -> Kernel:
        """The kernel of a plan. Raises ValueError for a plan that the target cannot express."""
        kernel = importlib.import_module(f".{self.module}", __package__).emit(plan, schedule)
        assert isinstance(kernel, Kernel)
        return kernel

    @property
    def available(self) -> bool:
        """Whether this machine can run what it prints."""
        return self.missing() is None


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it exists for Linux)"
    from .launch import interpreted

    if interpreted():
        return None
    import torch

    return None if torch.cuda.is_available() else "no CUDA device, and Triton's interpreter is off"


EMITTERS: dict[str, Emitter] = {
    e.name: e
    for e in (
        Emitter("torch", "torch_emitter", needs_cuda=False, missing=lambda: None),
        Emitter("triton", "triton_emitter", needs_cuda=True, missing=_triton_missing),
    )
}


def emit(plan: LoopPlan, schedule: Schedule) -> Kernel:
    """The kernel of a plan by the schedule's own emitter. Raises ValueError for one that does not exist."""
    if schedule.emitter not in EMITTERS:
        raise ValueError(f"`emitter` must be one of {sorted(EMITTERS)}, but got {schedule.emitter!r}")
    return EMITTERS[schedule.emitter](plan, schedule)
