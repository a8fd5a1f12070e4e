"""A kernel straight from a graph: as it is written, not derived, under the schedule that the cost model likes best.

graph = eintune.read("attention_2pass.egg")
print(eintune.analyse(graph))
kernel = eintune.generate_kernel(graph, {"e": 64, "p": 1024, "m": 1024, "f": 64})
print(kernel.source)
o = kernel(Q=q, K=k, V=v)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from eintune.costmodel.counts.estimate import Estimate
from eintune.costmodel.counts.resources import illegal, unsupported
from eintune.costmodel.counts.work import Work, work
from eintune.costmodel.machines.detect import detect_machine
from eintune.costmodel.machines.machine import Machine, load_machine
from eintune.costmodel.machines.probe import cuda_is_available
from eintune.costmodel.pricing.time import estimate_works
from eintune.host.forks import cached_property
from eintune.kernels.emit.kernel import ON_GPU, Kernel
from eintune.kernels.launch.launch import Launch, LaunchError
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.plain_tensors import DENSE, not_plain
from eintune.kernels.reference.agreement import check_tilings
from eintune.kernels.reference.eager import DTYPES
from eintune.kernels.reference.given import lengths_given, numbers_given
from eintune.space.analysis.roots import roots_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.expr import Rank, free, topological
from eintune.space.ir.expr import params as parameters
from eintune.space.lowering.lower import IllegalPlan, build_program
from eintune.space.operators.formats import as_cascade, stated_sizes
from eintune.space.operators.graph import OperatorGraph
from eintune.space.plan.plan import Program
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules

from .emitters import EMITTERS, emit
from .standalone import standalone

DTYPE_OF_KIND = {"int": "int32", "bool": "bool"}
PLANS = 200
"""How many schedules are planned and priced, evenly over all of them."""


@dataclass(frozen=True)
class Generated:
    """One kernel and what it came from. Call it on tensors, in the order of `definition.inputs` or by name."""

    definition: Cascade
    problem: Problem
    schedule: Schedule
    plan: Program
    kernel: Kernel
    estimate: Estimate

    @property
    def source(self) -> str:
        """The generated module's text."""
        return self.kernel.source

    def standalone(self) -> str:
        """A file that runs this kernel on random data and compares it with the definition in float64."""
        return standalone(self.kernel, self.problem, self.definition)

    @cached_property
    def _launch(self) -> Launch:
        return load(self.kernel)

    def __call__(self, *tensors: torch.Tensor, **named: torch.Tensor) -> Any:
        """The output tensor, or a tuple of them. Raises ValueError for missing or surplus inputs, LaunchError for
        a tensor of another shape, dtype or device than the kernel was generated for, and for one that it cannot
        read."""
        names = list(self.definition.inputs)
        given = dict(zip(names, tensors, strict=False)) | named
        if set(given) != set(names) or len(given) != len(tensors) + len(named):
            raise ValueError(
                f"the kernel takes the inputs {names} once each, but got {len(tensors)} and {sorted(named)}"
            )
        for name, t in given.items():
            _check_readable(name, t)
        on = torch.device("cuda" if self.kernel.emitter in ON_GPU and cuda_is_available() else "cpu")
        device = next((t.device for t in given.values()), on)
        made = {
            a.name: torch.empty(a.shape, dtype=DTYPES[a.dtype], device=device)
            for a in self.kernel.arguments
            if a.output
        }
        every = given | made
        self._launch([every[a.name] for a in self.kernel.arguments])
        outputs = tuple(made[name] for name in self.definition.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def _check_readable(name: str, t: object) -> None:
    """Raises LaunchError for what is no tensor in memory, and for one whose gradient would be wanted."""
    if not isinstance(t, torch.Tensor):
        raise LaunchError(f"{name}: must be a torch.Tensor, but got {type(t).__name__}")
    if what := not_plain(t):
        raise LaunchError(f"{name}: must not be {what}: {DENSE}")
    if t.requires_grad and torch.is_grad_enabled():
        raise LaunchError(
            f"{name}: kernels are forward only, but it has requires_grad=True: call under torch.no_grad()"
        )


def generate_kernel(
    computation: Cascade | OperatorGraph | IterativeCascade,
    sizes: Mapping[Rank, int] | None = None,
    *,
    params: Mapping[str, float] | None = None,
    dtype: str = "fp32",
    emitter: str | None = None,
    machine: str | None = None,
) -> Generated:
    """The kernel of a graph at one size: its passes are the graph's own.

    sizes: of every rank but those that the graph itself says. params: a number for each scalar. dtype: of inputs and
    outputs ("fp32", "bf16", …). emitter: "triton" or "torch"; by default Triton where there is a GPU. machine: whose
    costs choose the schedule ("h200", …); by default the GPU that is there, else an H200 for Triton and this CPU for
    PyTorch. Raises ValueError (CascadeError, IllegalPlan, MachineError) naming what does not fit.
    """
    definition = as_cascade(computation)
    lengths = lengths_given(sizes, least=1)
    problem = problem_of(definition, stated_sizes(computation, lengths), numbers_given(params), dtype)
    check_sizes(computation, definition, lengths)
    if emitter is None:
        emitter = "triton" if cuda_is_available() else "torch"
    if not isinstance(emitter, str) or emitter not in EMITTERS:
        raise ValueError(f"`emitter` must be one of {sorted(EMITTERS)}, but got {str(emitter)[:80]!r}")
    refused: ValueError | None = None
    for schedule, plan, estimate in _cheapest_first(definition, problem, _machine(machine, emitter), emitter):
        try:
            kernel = emit(plan, schedule)
        except ValueError as error:  # what the target cannot express
            refused = refused or error
            continue
        return Generated(definition, problem, schedule, plan, kernel, estimate)
    assert refused is not None
    raise refused


def check_sizes(
    computation: Cascade | OperatorGraph | IterativeCascade, definition: Cascade, sizes: Mapping[Rank, int]
) -> None:
    """Raises ValueError for sizes of ranks that neither a computation nor the definition that it is has."""
    roots = roots_of(definition)
    known = {*roots.ranks(), *roots.numbers(), *definition.same_sizes()}
    if isinstance(computation, IterativeCascade):
        known |= {r for s in computation.statements() for x in topological([s.expr]) for r in free(x)}
    if surplus := [r for r in sizes if r not in known]:
        raise ValueError(f"`sizes` must be of ranks of {sorted(known)}, but got {', '.join(surplus)[:80]}")


def problem_of(
    definition: Cascade, sizes: Mapping[Rank, int], params: Mapping[str, float], dtype: str, name: str = "graph"
) -> Problem:
    """The problem of a cascade at one size. Raises ValueError for missing sizes and missing or surplus parameters."""
    wanted = parameters(e.expr for e in definition.einsums)
    if set(wanted) != set(params):
        raise ValueError(f"`params` must give a number for each of {wanted}, but got {sorted(params)}")
    check_tilings(definition, params)
    roots = roots_of(definition)
    ranks = [*roots.ranks(), *roots.numbers()]
    if missing := [r for r in ranks if r not in sizes]:
        raise ValueError(f"`sizes` must give every rank ({', '.join(ranks)}), but {', '.join(missing)} have none")
    if wrong := {r: n for r, n in sizes.items() if n < 1}:
        raise ValueError(f"sizes are at least 1, but got {wrong}")
    if definition.equalised(sizes) != dict(sizes):
        raise ValueError(f"ranks that index one axis of an input must have one size, but got {dict(sizes)}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {list(DTYPES)}, but got {str(dtype)[:80]!r}")
    tensors = {**definition.inputs, **definition.outputs}
    dtypes = {n: DTYPE_OF_KIND.get(t.kind, dtype) for n, t in tensors.items()}
    return Problem(name, str(definition), {r: int(sizes[r]) for r in ranks}, dtypes, dict(params))


def _machine(name: str | None, emitter: str) -> Machine:
    if name is not None:
        return load_machine(name)
    if emitter == "torch":
        return load_machine("cpu")
    return detect_machine("cuda") if cuda_is_available() else load_machine("h200")


def _cheapest_first(
    definition: Cascade, problem: Problem, machine: Machine, emitter: str
) -> Iterator[tuple[Schedule, Program, Estimate]]:
    """At least one, or it raises ValueError."""
    every = schedules(definition, problem, emitter)
    if interpreted():  # specialised warps have no interpreter
        every = [s for s in every if not s.is_specialised]
    step = max(1, len(every) // PLANS)
    planned = list(_planned(definition, problem, [s for s in every[::step] if unsupported(s, machine) is None]))
    estimates = estimate_works([w for *_, w in planned], machine) if planned else []
    legal = [
        (e.seconds, i) for i, e in enumerate(estimates) if emitter == "torch" or illegal(e.resources, machine) is None
    ]
    if not legal:
        raise ValueError(f"no schedule of the graph fits {machine.name} at the sizes {problem.sizes}")
    for _, i in sorted(legal):
        schedule, plan, _ = planned[i]
        yield schedule, plan, estimates[i]


def _planned(definition: Cascade, problem: Problem, every: list[Schedule]) -> Iterator[tuple[Schedule, Program, Work]]:
    refused: IllegalPlan | None = None
    made = 0
    for schedule in every:
        try:
            plan = build_program(definition, problem, schedule)
        except IllegalPlan as error:
            refused = error
            continue
        made += 1
        yield schedule, plan, work(plan, schedule)
    if not made and refused is not None:
        raise refused
