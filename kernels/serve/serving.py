"""From a problem and its first tensors to a function that serves every later call of the same shapes.

The first call chooses a kernel and proves that it runs here; what fails is said once and the next choice is
tried, down to plain PyTorch, which always runs. Nothing is thrown into a program for a problem that it may ask.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from eintune.host.forks import importing
from eintune.host.notices import logger, one_line, say_once
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.launch.launch import Launch, TileTooWide
from eintune.kernels.launch.launchers import EitherLaunch
from eintune.kernels.launch.load import load
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.kernels.store.cache import ROWS, STRIDED
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.egraph.safety import hazards
from eintune.space.ir.exact import Hidden
from eintune.space.ir.expr import bind
from eintune.space.ir.gathers import limits, trusted

from .choices import KernelChoice, choices, signature

Fill: TypeAlias = Callable[[Sequence[Tensor]], None]
"""Runs a problem: inputs in the definition's order, then outputs to fill, in its order."""
View: TypeAlias = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From the tensors of a call to those that a problem is stated for, at the same addresses."""

MOST_READY = 1024
"""Kinds of calls kept ready by each table of a process; what was not used among the last half of as many is forgotten,
and its generated code with it."""

_first_calls = threading.RLock()


def _forget_who_waits() -> None:
    """In a forked child: the thread that was choosing a kernel is not there, and would hold the lock for ever."""
    global _first_calls
    _first_calls = threading.RLock()


os.register_at_fork(after_in_child=_forget_who_waits)


def serve(problem: Problem, tensors: Sequence[Tensor], view: View | None = None) -> Fill:
    """Run a problem for the first time, and return what runs it again on tensors of the same shapes, strides, dtypes
    and devices, none of which is looked at again.

    tensors: in the order of the definition's `inputs`, then of its `outputs`, with the axes that it declares. view:
    such tensors of those that a later call is given, where these are not the same.
    """
    definition = problem.definition
    inputs = tensors[: len(definition.inputs)]
    names = (*definition.inputs, *definition.outputs)
    with _first_calls, importing():
        for choice in _guarded(choices(problem, inputs[0].device, layout_of(inputs)), problem):
            fill = _try(choice, names, tensors, view, signature(problem))
            if fill is not None:
                say_once(choice.notice, choice.level, about=choice.about)
                _warn_of_hazards(choice.form, problem)
                return fill
        say_once(
            f"eintune: no generated kernel serves {problem.workload} {problem.sizes} {problem.dtypes}; "
            "it runs by plain PyTorch operators",
            about=("operators", *signature(problem)),
        )
        _warn_of_hazards(problem.cascade, problem)
        fill = by_operators(definition, problem)
        fill(tensors)
        return fill if view is None else _viewed(fill, view)


def _warn_of_hazards(form: str, problem: Problem) -> None:
    """Say, once, what of the form that runs can overflow or cancel: its definition has no safe form, or none was
    looked for."""
    found = _hazards(form, tuple(sorted(problem.params.items())))
    if found:
        say_once(
            f"eintune: {problem.workload} runs a form that may give inf or NaN, or lose its digits: {'; '.join(found)}",
            about=("hazards", *signature(problem)),
        )


@functools.lru_cache(maxsize=256)
def _hazards(form: str, params: tuple[tuple[str, float], ...]) -> tuple[str, ...]:
    roots = bind(list(Cascade.parse(form).roots().values()), dict(params))
    return tuple(hazards(Hidden.of(roots).hide(roots)))


def layout_of(inputs: Iterable[Tensor]) -> str:
    """ROWS where every input's last axis has stride 1, as measured inputs have."""
    return ROWS if all(t.ndim == 0 or t.stride(-1) == 1 or t.shape[-1] == 1 for t in inputs) else STRIDED


def _guarded(every: Iterable[KernelChoice], problem: Problem) -> Iterable[KernelChoice]:
    """The choices, ending early (said once) where making one fails in a way that nobody foresaw."""
    try:
        yield from every
    except Exception as error:
        about = ("choosing", type(error), *signature(problem))
        say_once(f"eintune: choosing a kernel for {problem.workload} failed: {one_line(error)}", about=about)
        logger.debug("choosing a kernel failed", exc_info=True)


def _try(
    choice: KernelChoice,
    names: Sequence[str],
    tensors: Sequence[Tensor],
    view: View | None,
    about: tuple[str, ...],
) -> Fill | None:
    """A function that runs the choice, after its first run; None (said once) where it does not run here."""
    try:
        try:
            return _filled(_launch(choice), choice.kernel, names, tensors, view)
        except TileTooWide:
            if choice.wide is None:
                raise
            wide = choice.wide()
            return _filled(load(wide), wide, names, tensors, view)
    except Exception as error:
        if _lost(error):
            raise
        said = f"eintune: a kernel does not run here, another is tried: {one_line(error)}"
        say_once(said, about=("does not run", type(error), *about))
        return None


def _launch(choice: KernelChoice) -> Launch:
    launch = load(choice.kernel)
    return launch if choice.plain is None else EitherLaunch(launch, functools.partial(_plain_launch, choice.plain))


def _plain_launch(make: Callable[[], Kernel]) -> Launch:
    return load(make())


def _filled(launch: Launch, kernel: Kernel, names: Sequence[str], tensors: Sequence[Tensor], view: View | None) -> Fill:
    """What runs a kernel on tensors in the order of these names, after its first run."""
    order = [names.index(a.name) for a in kernel.arguments]
    launch([tensors[i] for i in order])
    fill: Fill = launch
    if order != list(range(len(order))):
        fill = _viewed(launch, lambda given: [given[i] for i in order])
    return launch.bound(tensors, order, fill if view is None else _viewed(fill, view))


def _viewed(fill: Fill, view: View) -> Fill:
    return lambda tensors: fill(view(tensors))


def _lost(error: Exception) -> bool:
    """Whether the CUDA context is gone: every later call would fail, so hiding it helps nobody."""
    text = str(error)
    return "CUDA error" in text or "illegal memory access" in text


def by_operators(definition: Cascade, problem: Problem) -> Fill:
    """The definition by PyTorch operators, in float32 at least: slow, and never wrong."""
    inputs, outputs = tuple(definition.inputs), tuple(definition.outputs)
    wide = "fp64" in problem.dtypes.values()
    roots = [e.expr for e in definition.einsums]
    below = limits(roots, problem.sizes)
    addressing = trusted(roots)

    def fill(tensors: Sequence[Tensor]) -> None:
        data = dict(zip(inputs, tensors[: len(inputs)], strict=True))
        # As kernels do: what nothing sees of a table may point anywhere.
        data |= {n: data[n].clamp(0, below[n] - 1) for n in addressing}
        dtype = torch.float64 if wide else torch.float32
        results = run_eager(definition, data, problem.sizes, problem.params, dtype)
        for name, target in zip(outputs, tensors[len(inputs) :], strict=True):
            target.copy_(results[name])

    return fill


class Empty:
    """Makes a contiguous tensor of a shape, uninitialised, given any of the kind of `beside`, on its device."""

    __slots__ = ("_device", "_dtype", "_is_like", "_size", "_strides")

    def __init__(self, size: tuple[int, ...], dtype: torch.dtype, beside: Tensor) -> None:
        strides = torch.empty(size, dtype=dtype, device="meta").stride()
        self._size, self._strides, self._dtype, self._device = size, strides, dtype, beside.device
        self._is_like = (size, strides, dtype) == (tuple(beside.shape), beside.stride(), beside.dtype)

    def __call__(self, beside: Tensor) -> Tensor:
        if self._is_like:
            return torch.empty_like(beside)  # the quickest of PyTorch's ways, and `torch.empty` the slowest
        return torch.empty_strided(self._size, self._strides, dtype=self._dtype, device=self._device)


def dtype_name(t: Tensor, name: str, allowed: Iterable[str] = DTYPES) -> str:
    """The project's name of a tensor's dtype. Raises ValueError naming the tensor, its dtype and the valid ones."""
    found = next((n for n in allowed if DTYPES[n] == t.dtype), None)
    if found is None:
        raise ValueError(f"`{name}` must have a dtype among {list(allowed)}, but got {t.dtype}")
    return found
