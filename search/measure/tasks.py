"""What a child process can be asked to do, and what it answers. Plain data, pickled between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from eintune.kernels.emit.kernel import Kernel
from eintune.space.cascade.problem import Problem

from .policy import Policy


@dataclass(frozen=True)
class Peer:
    """Somebody else's implementation of the same problem, timed in the same run.

    label: what tables say. factory: "module:function", called in the worker with the problem, the inputs by
    name, and `options`; it returns a function without arguments that returns the outputs by name. computes: False
    for a ceiling (a copy of as many bytes), which is timed beside the others and compared with nothing.
    """

    label: str
    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    computes: bool = True


@dataclass(frozen=True)
class Prepare:
    """Draw the inputs, compute the reference and the budget. Answers with `Prepared`.

    lock: of the device that is computed on, taken by the worker meanwhile, since others may be timing there; "" where
    whoever asks has it.
    """

    problem: Problem
    device: str
    policy: Policy
    lock: str = ""


Subject: TypeAlias = Kernel | Peer
"""What can be checked and timed."""


@dataclass(frozen=True)
class Check:
    """Load a kernel or bind a peer, run it on poisoned outputs, compare. Answers with `Checked`."""

    subject: Subject


@dataclass(frozen=True)
class Time:
    """Time checked subjects, by label, in turns. Answers with a `Timing` for each label."""

    labels: tuple[str, ...]
    policy: Policy


Task: TypeAlias = Prepare | Check | Time
"""What a measuring worker does."""


@dataclass(frozen=True)
class Prepared:
    """The rms error that the worst-served output may have."""

    budget: float


@dataclass(frozen=True)
class Checked:
    """fault: why the outputs are wrong, or "". load_seconds: first call, compiling included. seconds: one call.
    short_of: why those of a peer are not what a kernel's have to be, or ""."""

    fault: str
    rms_error: float
    max_error: float
    load_seconds: float
    seconds: float
    short_of: str = ""


@dataclass(frozen=True)
class Timing:
    """Median, 20th and 80th percentile of the samples, in seconds; a fault found after timing."""

    seconds: float
    low: float
    high: float
    samples: int
    fault: str


def label_of(subject: Subject) -> str:
    """What a subject is called between the processes: a kernel's digest, a peer's label."""
    return subject.digest if isinstance(subject, Kernel) else subject.label
