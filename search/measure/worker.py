"""The measuring worker: a process of its own that runs generated code, so that nothing else has to.

`python -m eintune.search.measure.worker FD` reads tasks from a socket until it closes. It may be killed at any time.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, assert_never

import torch
from torch import Tensor

from eintune.host.memory import take_no_more
from eintune.host.notices import one_line
from eintune.host.worker import Answer, At, answer_tasks
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.launch.load import load
from eintune.kernels.libraries.policy import configure
from eintune.kernels.reference.eager import DTYPES

from .device_lock import device_lock
from .inputs import draw_inputs
from .reference import Reference, reference
from .tasks import Check, Checked, Peer, Prepare, Prepared, Subject, Task, Time, Timing, label_of
from .timing import Sampler, in_turns

Status: TypeAlias = Literal["compile-error", "run-error", "out-of-resources"]
Outputs: TypeAlias = Mapping[str, Tensor]


LONG = 0.25
"""Seconds of a first call on a CPU that is not repeated before timing."""


class SubjectError(Exception):
    """A subject failed; `status` says at what, the cause says how."""

    def __init__(self, status: Status, cause: BaseException) -> None:
        super().__init__(status)
        self.status: Status = status
        self.cause = cause


PEER_SLACK = 4.0
"""How many budgets the error of a peer may be: it is there to be compared with, and its numerics are its own."""


@dataclass
class Bench:
    """What `Prepare` sets up: inputs, their untouched copies, the reference, and the subjects that passed."""

    task: Prepare
    device: torch.device
    inputs: dict[str, Tensor]
    untouched: dict[str, Tensor]
    reference: Reference
    sampler: Sampler
    buffers: dict[str, Tensor] = field(default_factory=dict)
    subjects: dict[str, Callable[[], Outputs]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    slack: dict[str, float] = field(default_factory=dict)

    @classmethod
    def prepare(cls, task: Prepare) -> Bench:
        device = torch.device(task.device)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
            torch.cuda.set_device(device)
        else:
            take_no_more()
        inputs = draw_inputs(task.problem, device, task.policy.seed)
        # A kernel that writes to its inputs would spoil those of all after it, and pass its own check.
        untouched = {name: t.clone() for name, t in inputs.items()}
        made = reference(task.problem, inputs, task.policy.seed)
        return cls(task, device, inputs, untouched, made, Sampler(device))

    # ---- subjects

    def bind(self, subject: Subject) -> Callable[[], Outputs]:
        """A function without arguments that runs the subject and returns its outputs."""
        if isinstance(subject, Peer):
            module, _, function = subject.factory.partition(":")
            factory = getattr(importlib.import_module(module), function)
            run: Callable[[], Outputs] = factory(self.task.problem, self.inputs, **subject.options)
            return run
        launch = load(subject)
        outputs = {a.name: self.buffer(a.name, a.shape, DTYPES[a.dtype]) for a in subject.arguments if a.output}
        tensors = [outputs[a.name] if a.output else self.inputs[a.name] for a in subject.arguments]

        def call() -> Outputs:
            launch(tensors)
            return outputs

        return call

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The output tensor of a name; all kernels write to the same one, in turn."""
        t = self.buffers.get(name)
        if t is None or tuple(t.shape) != shape or t.dtype != dtype:
            t = self.buffers[name] = torch.empty(shape, dtype=dtype, device=self.device)
        return t

    def poison(self) -> None:
        """Fill the outputs with what no kernel writes: NaN, or the lowest integer."""
        for t in self.buffers.values():
            t.fill_(torch.nan if t.is_floating_point() else 1 if t.dtype == torch.bool else torch.iinfo(t.dtype).min)

    def check(self, subject: Subject) -> Checked:
        try:
            run = self.bind(subject)
        except Exception as error:
            raise SubjectError("compile-error", error) from error
        # An output that is not written must not look right because the kernel before wrote it.
        self.poison()
        self.wait()
        started = time.perf_counter()
        outputs = run()
        self.wait()
        load_seconds = time.perf_counter() - started
        slack = _slack(subject)
        fault, rms, most = "", math.nan, math.nan
        if not math.isinf(slack):
            fault = self.fault(outputs, slack)
            errors = self.reference.error(outputs).values()
            rms, most = max(e.rms for e in errors), max(e.max for e in errors)
        checked = Checked(fault, rms, most, load_seconds, 0.0)
        if not fault:
            label = label_of(subject)
            self.subjects[label] = run
            self.slack[label] = slack
            # the first call may have compiled: it counts only where a second one would cost too much
            long = load_seconds > LONG and self.device.type == "cpu" and isinstance(subject, Kernel)
            self.first[label] = load_seconds if long else self.sampler.once(run)
            checked = replace(checked, seconds=self.first[label], short_of=self.short_of(outputs, slack))
        return checked

    def short_of(self, outputs: Outputs, slack: float) -> str:
        """Why right outputs of a peer are not what a kernel's have to be, or ""."""
        if slack == 1.0 or math.isinf(slack):
            return ""
        if loose := [name for name, t in outputs.items() if not t.is_contiguous()]:
            return f"{', '.join(loose)}: not contiguous"
        return self.reference.fault(outputs)

    def fault(self, outputs: Outputs, slack: float) -> str:
        """Why the outputs are wrong, or "". Inputs that were written to are put back."""
        wanted = {n: self.reference.exact[n] for n in self.reference.exact}
        if set(outputs) != set(wanted):
            return f"the outputs are {sorted(wanted)}, but it wrote {sorted(outputs)}"
        for name, t in self.inputs.items():
            if not torch.equal(t, self.untouched[name]):
                t.copy_(self.untouched[name])
                return f"input {name} was written to"
        return self.reference.fault(outputs, slack)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, task: Time, at: Callable[[str], None]) -> dict[str, Timing]:
        runs = {label: self.subjects[label] for label in task.labels}
        first = {label: self.first[label] for label in task.labels}
        timings = in_turns(runs, first, task.policy, self.sampler, at)
        # Checked once more after timing: a race shows in some of many runs, if at all.
        for label, run in runs.items():
            at(label)
            self.poison()
            if not math.isinf(self.slack[label]):
                timings[label] = replace(timings[label], fault=self.fault(run(), self.slack[label]))
        return timings


def _slack(subject: Subject) -> float:
    """How many budgets an error may be; infinite for what is compared with nothing."""
    if isinstance(subject, Peer):
        return PEER_SLACK if subject.computes else math.inf
    return 1.0


# ---- the loop


class Worker:
    """Runs tasks; `send` takes progress notes."""

    def __init__(self, send: Callable[[At], None]) -> None:
        self._send = send
        self._bench: Bench | None = None

    def answer(self, task: Task) -> Answer:
        try:
            return Answer("ok", self.run(task))
        except SubjectError as error:
            return _failure(error.cause, error.status)
        except Exception as error:
            return _failure(error, "run-error")

    def run(self, task: Task) -> object:
        match task:
            case Prepare():
                self._bench = None
                with device_lock(task.lock) if task.lock else nullcontext():
                    self._bench = Bench.prepare(task)
                    self._bench.wait()
                return Prepared(max((b.rms for b in self._bench.reference.budget.values()), default=0.0))
            case Check():
                self._at(label_of(task.subject))
                return self.bench.check(task.subject)
            case Time():
                return self.bench.time(task, self._at)
            case _:
                assert_never(task)

    @property
    def bench(self) -> Bench:
        if self._bench is None:
            raise RuntimeError("`Prepare` comes before `Check` and `Time`")
        return self._bench

    def _at(self, label: str) -> None:
        self._send(At(label))


_OUT_OF = ("OutOfResources", "OutOfMemoryError", "MemoryError")
_COMPILING = ("CompilationError", "CompileTimeAssertionFailure", "UnsupportedLanguageConstruct", "PTXASError")


def _failure(error: BaseException, status: Status) -> Answer:
    names = {c.__name__ for c in type(error).__mro__}
    text = one_line(error)
    if names & set(_OUT_OF) or "can't allocate memory" in text:
        status = "out-of-resources"
    elif names & set(_COMPILING):
        status = "compile-error"
    # after an illegal access every later call of the CUDA context fails
    lost = status == "run-error" and ("[CUDA]" in text or "CUDA error" in text or "AcceleratorError" in names)
    return Answer(status, message=text, sound=not lost)


if __name__ == "__main__":
    # What is timed as ours is ours, whatever a program beside is told, and whichever way it is called.
    configure(policy="own")
    sys.exit(answer_tasks(sys.argv[1:], lambda send: Worker(send).answer))
