"""Measuring candidates: compiled in parallel, checked and timed one at a time in a worker that may die.

Every candidate ends as a `Measurement`; a failure is one too, with its status and one line of why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

import torch

from eintune.costmodel.counts.estimate import Resources
from eintune.host.worker import Child
from eintune.kernels.emit.kernel import ON_GPU, Kernel
from eintune.kernels.launch.compile_pool import CompileFailure, CompilePool
from eintune.space.cascade.problem import Problem

from .device_lock import device_lock
from .measurement import Measurement
from .memory import does_not_fit
from .policy import Policy
from .reference import contraction_points
from .tasks import Check, Checked, Peer, Prepare, Prepared, Subject, Time, Timing, label_of

Progress = Callable[[str, int, int], None]
"""Called with a stage ("compile", "check", "time"), how many are done, and of how many."""


SLOW = {"cpu": 2e9, "cuda": 1e12}
"""Multiply-adds per second, by device type, below which a run counts as hung once `Policy.run` is over."""
OVERHEAD = 2e-3
"""Seconds of a sample that are not the kernel: at most."""
FINAL = 3
"""Finalists and peers take this many times the rounds, within the same effort."""


ATTEMPTS = 3
"""So often a worker is started that dies or is late while it gets ready, each with more time."""


class MeasureError(RuntimeError):
    """Nothing can be measured for this problem on this device; the message says why."""


def _silent(stage: str, done: int, of: int) -> None:
    return None


class Measurer:
    """Measures candidates of one problem on one device. A context manager: it owns processes.

    progress: hears how far a batch is; may be set later. meanwhile: called while compilers are at work or a worker gets
    ready, never while anything is timed.
    """

    def __init__(
        self,
        problem: Problem,
        device: str | torch.device,
        policy: Policy | None = None,
        progress: Progress = _silent,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.problem = problem
        self.device = str(torch.device(device))
        self.policy = policy or Policy()
        self.progress = progress
        self._meanwhile = meanwhile
        self._run_timeout = self._longest_run()
        self._worker = Child("eintune.search.measure.worker")
        self._compilers = CompilePool(self.policy.compilers, self.policy.compile)
        self._preparing = False
        self._locked = False
        self._generation = 0
        self._budget = float("nan")
        self._bound: set[str] = set()
        self._estimated: dict[str, float] = {}
        self.beside: Mapping[str, Measurement] = {}

    def __enter__(self) -> Measurer:
        """Raises MeasureError for a problem that does not fit into memory."""
        if why := does_not_fit(self.problem, self.device):
            raise MeasureError(why)
        compiles = self._arch() is not None
        self._prepare()  # while the caller goes on with other things
        if compiles:
            self._compilers.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.stop()
        self._compilers.stop()

    def turn_to(self, problem: Problem) -> None:
        """Measure another problem from now on, in the same processes.

        Raises MeasureError for one that does not fit into memory.
        """
        if why := does_not_fit(problem, self.device):
            raise MeasureError(why)
        if self._preparing:  # nobody asked for what it gets ready for, which may take minutes
            self._worker.stop()
        self.problem, self._estimated = problem, {}
        self._run_timeout = self._longest_run()
        self._prepare()

    def _longest_run(self) -> float:
        points = contraction_points(self.problem.definition, self.problem.sizes)
        return self.policy.run + points / SLOW[torch.device(self.device).type]

    # ---- what callers use

    def measure(self, kernels: Sequence[Kernel], beside: Sequence[Peer] = ()) -> list[Measurement]:
        """One measurement a kernel, in order; the kernels that are right were timed in turns with each other. beside:
        peers that take turns with them, no longer than a kernel does; theirs are in `beside` afterwards.

        Raises MeasureError where the inputs or the reference cannot be made at all.
        """
        results = self._measure([*kernels, *beside], self.policy)
        self.beside = {p.label: results[p.label] for p in beside}
        return [results[k.digest] for k in kernels]

    def compare(
        self, kernels: Sequence[Kernel], peers: Sequence[Peer] = (), policy: Policy | None = None
    ) -> dict[str, Measurement]:
        """Kernels (by digest) and peers (by label) timed in turns in one run, none of them cut short.

        policy: how they are timed, as it is; without one, like the measurer's own with more rounds.
        """
        # More rounds than in the search, for all alike: here the order of the fastest is decided.
        low, high = self.policy.rounds
        everyone = replace(policy or replace(self.policy, rounds=(low, FINAL * high)), contender=float("inf"))
        return self._measure([*kernels, *peers], everyone)

    def compare_again(
        self, found: Mapping[str, Measurement], kernels: Sequence[Kernel], peers: Sequence[Peer], policy: Policy
    ) -> dict[str, Measurement]:
        """What `compare` found right, timed once more under another policy; the rest stays as it was found."""
        again = {label: replace(m) for label, m in found.items()}
        subjects: list[Subject] = [*kernels, *peers]
        distinct = {label_of(s): s for s in subjects}
        with self._alone():
            right = [s for label, s in distinct.items() if again[label].status == "ok"]
            self._time(right, again, replace(policy, contender=float("inf")))
        return again

    # ---- stages

    def _measure(self, subjects: list[Kernel | Peer], policy: Policy) -> dict[str, Measurement]:
        distinct = {label_of(s): s for s in subjects}
        # Outside the lock of the device: compiling needs processors only, and others may time meanwhile.
        found = self._compile(distinct)
        self._begin()
        for label, subject in distinct.items():
            # Outside as well: a peer may compile for seconds, and one run of it disturbs a median little.
            if isinstance(subject, Peer):
                found[label] = self._check(subject, found[label])
        with self._alone():
            for number, (label, subject) in enumerate(distinct.items()):
                if found[label].status == "ok" and not isinstance(subject, Peer):
                    found[label] = self._check(subject, found[label])
                self.progress("check", number + 1, len(distinct))
            self._time([s for label, s in distinct.items() if found[label].status == "ok"], found, policy)
        return found

    def _compile(self, subjects: Mapping[str, Subject]) -> dict[str, Measurement]:
        """Compile ahead what is compiled for a GPU; the worker then finds it in Triton's cache on disk."""
        found = {label: Measurement(label, "ok") for label in subjects}
        kernels = [s for s in subjects.values() if isinstance(s, Kernel) and s.emitter in ON_GPU]
        arch = self._arch()
        if arch is None or not kernels:
            return found
        self.progress("compile", 0, len(kernels))
        made = self._compilers.compile(kernels, arch, self._meanwhile)
        self.progress("compile", len(kernels), len(kernels))
        for kernel, compiled in zip(kernels, made, strict=True):
            found[kernel.digest] = _after_compiling(found[kernel.digest], compiled)
        return found

    def _arch(self) -> str | None:
        if not self.device.startswith("cuda") or torch.version.hip:
            return None
        major, minor = torch.cuda.get_device_capability(self.device)
        return f"sm_{major}{minor}"

    def _lock_name(self) -> str:
        """The physical device, whatever this process numbers it."""
        if not self.device.startswith("cuda"):
            return self.device
        properties = torch.cuda.get_device_properties(self.device)
        return f"cuda-{getattr(properties, 'uuid', self.device)}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the device to itself, among this user's searches."""
        with device_lock(self._lock_name(), lambda line: self.progress(line, 0, 0)):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def _begin(self) -> None:
        """Have a worker with inputs and reference: the first one, or a replacement for one that died. One that dies or
        is late while it prepares is replaced, too."""
        for attempt in range(1, ATTEMPTS + 1):
            if not self._preparing:
                self._worker.start()
                if self._generation == self._worker.generation:
                    return
                self._prepare()
            self._meanwhile()
            outcome = self._worker.receive(attempt * self.policy.startup)
            self._preparing = False
            if outcome.status == "ok":
                prepared: Prepared = outcome.value
                self._generation, self._budget = self._worker.generation, prepared.budget
                self._bound = set()
                return
            if outcome.status not in ("crashed", "timeout"):
                break
            self.progress(f"the worker was lost while it got ready ({outcome.message})", attempt, ATTEMPTS)
        raise MeasureError(f"the reference on {self.device} cannot be made: {outcome.message}")

    def _prepare(self) -> None:
        lock = "" if self._locked else self._lock_name()
        self._worker.send(Prepare(self.problem, self.device, self.policy, lock))
        self._preparing = True

    def _check(self, subject: Subject, before: Measurement) -> Measurement:
        self._begin()
        label = label_of(subject)
        # What was compiled ahead is in Triton's cache on disk; the rest is compiled within the check.
        compiling = 0.0 if before.registers is not None else self.policy.compile
        outcome = self._worker.call(Check(subject), compiling + self._run_timeout)
        if outcome.status != "ok":
            return replace(before, status=outcome.status, message=outcome.message)
        checked: Checked = outcome.value
        result = replace(
            before,
            status="wrong" if checked.fault else "ok",
            message=checked.fault,
            rms_error=checked.rms_error,
            max_error=checked.max_error,
            budget=self._budget,
            compile_seconds=checked.load_seconds,
            short_of=checked.short_of,
        )
        if result.status == "ok":
            self._bound.add(label)
            self._estimated[label] = checked.seconds
        return result

    def _time(self, subjects: list[Subject], found: dict[str, Measurement], policy: Policy) -> None:
        """Time in turns; a subject that brings the worker down is out, and the others start again."""
        left = list(subjects)
        while left:
            left = self._rebound(left, found)
            labels = tuple(label_of(s) for s in left)
            self.progress("time", 0, len(labels))
            outcome = self._worker.call(Time(labels, policy), self._patience(labels, policy))
            if outcome.status == "ok":
                for label, timing in outcome.value.items():
                    found[label] = _timed(found[label], timing)
                self.progress("time", len(labels), len(labels))
                return
            # The worker said whose turn it was before it died. Where it could not, everybody is suspect, or this
            # would never end.
            blamed = {outcome.at} & set(labels) or set(labels)
            for label in blamed:
                found[label] = replace(found[label], status=outcome.status, message=outcome.message)
            left = [s for s in left if label_of(s) not in blamed]

    def _rebound(self, subjects: list[Subject], found: dict[str, Measurement]) -> list[Subject]:
        """Check again what a replaced worker has not seen."""
        self._begin()
        good = []
        for subject in subjects:
            label = label_of(subject)
            while label not in self._bound and found[label].status == "ok":
                found[label] = self._check(subject, found[label])
            if found[label].status == "ok":
                good.append(subject)
        return good if all(label_of(s) in self._bound for s in good) else self._rebound(good, found)

    def _patience(self, labels: Sequence[str], policy: Policy) -> float:
        """Seconds until timing counts as hung: generous, but finite."""
        least, most = policy.rounds
        expected = 0.0
        for first in (self._estimated[label] for label in labels):
            turn = policy.burst * (first + OVERHEAD)
            expected += max(least * first, min(policy.effort + first, most * turn))
            expected += min(policy.effort, policy.warmup * first)
            expected += most * (policy.pause + first) if policy.pause else 0.0
        # Other processes may hold up a host by that much; a kernel that hangs never ends.
        return self._run_timeout + 4 * expected


def _after_compiling(before: Measurement, compiled: Resources | CompileFailure) -> Measurement:
    match compiled:
        case Resources():
            return replace(
                before,
                registers=compiled.registers_per_thread,
                spills=compiled.spill_bytes,
                shared_bytes=compiled.shared_bytes,
            )
        case CompileFailure(("timeout" | "crashed") as status, message):
            return replace(before, status=status, message=message)
        case _:
            return before  # the worker compiles it again and says what is wrong on the real device


def _timed(before: Measurement, timing: Timing) -> Measurement:
    if timing.fault:
        return replace(before, status="wrong", message=f"after timing: {timing.fault}")
    if not timing.seconds > 0:
        return replace(before, status="run-error", message="the clock was set back, or stood still, while it was timed")
    return replace(before, seconds=timing.seconds, low=timing.low, high=timing.high, samples=timing.samples)
