"""Definitions from papers and from practice, each as it is written there, with the passes that it should have.

`definitions.edge` is the table: sections that start with `== name | passes | why`, then a computation in any notation
(an iteration is solved), or `workload NAME` for one that is built in. `measured` derives one, checks its best form in
float64 and runs it by both emitters, Triton's kernel in Triton's interpreter, in a process of its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import Split, Unsplit, topological
from eintune.space.ir.expr import params as parameters
from eintune.space.ir.gathers import completed, limits, reach, shapes, trusted
from eintune.space.operators.formats import as_cascade, read_computation
from eintune.space.workloads.builtin import WORKLOADS

FILE = Path(__file__).parent / "definitions.edge"
_MARK, _BUILT_IN = "== ", "workload "
SIZES = (20, 33, 17, 24, 18)
"""Sizes of ranks in order of appearance: none is a tile, most differ."""
SHORT = 4
"""Of the first ranks where there are more: batches, heads."""
TILES, TILE = 3, 8
"""Of a rank that the definition divides."""
ROWS = 5
"""Length of an axis that an index tensor addresses."""
EMITTERS = ("torch", "triton")
FP32_ERROR = 2e-4
"""Of a kernel in fp32 that is right, relative to the largest value of an output."""


@dataclass(frozen=True)
class Definition:
    """One row: what it is called, the passes that its best form should have, and why."""

    name: str
    passes: int
    why: str
    cascade: Cascade


@dataclass(frozen=True)
class Measured:
    """What one derivation gave.

    naive, passes: of the definition and of the best form. every: of any form. classes, nodes: of the e-graph. seconds:
    of processor time, all processes. error: of the best form in float64, relative to the definition's largest value.
    kernels: by emitter the error of its fp32 kernel, or why there is none.
    """

    definition: Definition
    naive: int
    passes: int
    every: tuple[int, ...]
    forms: int
    classes: int
    nodes: int
    seconds: float
    error: float
    kernels: Mapping[str, float | str]

    @property
    def runs(self) -> bool:
        """Whether both emitters run it, and right."""
        return all(isinstance(e, float) and e <= FP32_ERROR for e in self.kernels.values())


def definitions() -> tuple[Definition, ...]:
    """All rows of the table. Raises ValueError for a section without `name | passes | why`."""
    text = FILE.read_text(encoding="utf-8")
    found = []
    for section in ("\n" + text).split("\n" + _MARK)[1:]:
        title, _, body = section.partition("\n")
        parts = title.split(" | ")
        if len(parts) != 3 or not parts[1].isdigit():
            raise ValueError(f"a section must start with `== name | passes | why`, but got {title!r}")
        body = body.strip()
        cascade = (
            WORKLOADS[body.removeprefix(_BUILT_IN)]()
            if body.startswith(_BUILT_IN)
            else as_cascade(read_computation(body))
        )
        found.append(Definition(parts[0], int(parts[1]), parts[2], cascade))
    return tuple(found)


def measured(wanted: Sequence[Definition]) -> Iterator[Measured]:
    """Derive and run each in turn, in one process that is kept."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, initializer=_interpret) as pool:
        yield from pool.imap(_measured, wanted)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported


def _measured(one: Definition) -> Measured:
    from eintune.space.cascade.timing import passes
    from eintune.space.derivation.derive import derive

    before = _processor()
    found = derive(one.cascade)
    seconds = _processor() - before
    best = found.cascades[0]
    return Measured(
        one,
        naive=passes(list(one.cascade.roots().values())),
        passes=best.passes,
        every=tuple(sorted({d.passes for d in found.cascades})),
        forms=len(found.cascades),
        classes=found.statistics.classes,
        nodes=found.statistics.nodes,
        seconds=seconds,
        error=best.error,
        kernels={emitter: _run(one.cascade, best.cascade, emitter) for emitter in EMITTERS},
    )


def _processor() -> float:
    import resource

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


# ---- its kernels


def _run(definition: Cascade, best: Cascade, emitter: str) -> float | str:
    """The largest relative error of the best form's kernel in fp32, or why it does not run."""
    import torch

    from eintune.kernels.generate.generate import problem_of
    from eintune.kernels.launch.load import load
    from eintune.space.cascade.run import run_cascade

    sizes = _sizes(definition)
    random = np.random.default_rng(0)
    params = {name: float(random.uniform(0.3, 1.2)) for name in parameters(e.expr for e in definition.einsums)}
    data = _data(definition, sizes, random)
    try:
        exact = run_cascade(definition, data, sizes, params)
        problem = problem_of(best, _all_sizes(best, sizes), params, "fp32")
        kernel = _kernel(best, problem, emitter)
        tensors = {
            a.name: torch.full(a.shape, float("nan")) if a.output else _tensor(data[a.name]) for a in kernel.arguments
        }
        load(kernel)(list(tensors.values()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return max(_error(tensors[n].double().numpy(), exact[n]) for n in exact)


def _all_sizes(best: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """With the sizes of what divides a rank."""
    views = [x for x in topological(list(best.roots().values())) if isinstance(x, (Split, Unsplit))]
    new = [x for x in views if x.outer not in sizes]
    return dict(sizes) | {x.outer: 1 for x in new} | {x.inner: sizes[x.rank] for x in new}


def _kernel(best: Cascade, problem: Any, emitter: str) -> Any:
    """The first kernel of the schedule space that can be planned and emitted."""
    from eintune.kernels.generate.emitters import emit
    from eintune.space.lowering.lower import build_program
    from eintune.space.schedule.space import schedules

    refused: ValueError | None = None
    for schedule in itertools.islice(schedules(best, problem, emitter), 40):
        if schedule.is_specialised:
            continue
        try:
            return emit(build_program(best, problem, schedule), schedule)
        except ValueError as error:
            refused = refused or error
    raise refused or ValueError("no schedule fits")


def _tensor(array: Any) -> Any:
    import torch

    kind = {"f": torch.float32, "i": torch.int32, "b": torch.bool}[array.dtype.kind]
    return torch.as_tensor(array).to(kind)


def _sizes(cascade: Cascade) -> dict[str, int]:
    bodies = [e.expr for e in cascade.einsums]
    ranks, kept = cascade.ranks(), len(SIZES)
    numbers = itertools.chain([SHORT] * (len(ranks) - kept), itertools.cycle(SIZES))
    sizes = dict(zip(ranks, numbers, strict=False))
    for x in topological(bodies):
        if isinstance(x, (Split, Unsplit)):
            sizes |= {x.outer: TILES, x.inner: TILE, x.rank: TILES * TILE}
    least = reach(bodies)
    sizes = {r: max(n, least.get(r, n)) for r, n in sizes.items()}
    return completed(bodies, cascade.equalised(sizes), ROWS)


def _data(cascade: Cascade, sizes: Mapping[str, int], random: np.random.Generator) -> dict[str, Any]:
    bodies = [e.expr for e in cascade.einsums]
    below, shape_of, within = limits(bodies, sizes), shapes(bodies, sizes), trusted(bodies)
    data: dict[str, Any] = {}
    for name, tensor in cascade.inputs.items():
        match tensor.kind:
            case "int":
                beyond = int(name not in within)
                data[name] = random.integers(-beyond, below.get(name, 3) + beyond, shape_of[name])
            case "bool":
                data[name] = random.random(shape_of[name]) < 0.6
            case _:
                data[name] = random.normal(size=shape_of[name]).astype(np.float32).astype(np.float64)
    return data


def _error(made: Any, exact: Any) -> float:
    finite = np.isfinite(exact)
    if not np.array_equal(made[~finite], exact[~finite]) or not np.isfinite(made[finite]).all():
        return float("inf")
    return float(np.abs(made - exact)[finite].max(initial=0.0) / max(1.0, np.abs(exact[finite]).max(initial=0.0)))


# ---- how it is told


HEADER = (
    *("definition", "passes as written", "should be", "derived", "of all forms", "forms", "classes", "nodes", "s"),
    *("error in float64", "torch", "Triton"),
)


def to_markdown(rows: Sequence[Measured], machine: str) -> str:
    """The page `docs/definitions.md`."""
    seconds = [r.seconds for r in rows]
    reached = sum(r.passes == r.definition.passes for r in rows)
    lines = [
        "# Definitions and their passes",
        "",
        "Made by `eintune definitions --markdown docs/definitions.md`; `tests/search/evaluation/test_definitions.py`",
        "checks it. Each definition of `search/evaluation/definitions.edge`, as its paper or PyTorch's users write it,",
        "with the passes that its best form should have, and those of the form that was derived.",
        "",
        f"{len(rows)} definitions; {reached} have the passes that they should have; {sum(r.runs for r in rows)} run by",
        "both emitters (PyTorch, and Triton in its interpreter, fp32). Processor seconds of a derivation: median",
        f"{statistics.median(seconds):.2f}, most {max(seconds):.2f} ({machine}).",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{' --- |' * len(HEADER)}",
    ]
    for r in rows:
        d = r.definition
        every = ", ".join(map(str, r.every))
        kernels = " | ".join(_told(r.kernels[e]) for e in EMITTERS)
        lines.append(
            f"| {d.name} | {r.naive} | {d.passes} | {r.passes} | {every} | {r.forms} | {r.classes} | {r.nodes} "
            f"| {r.seconds:.2f} | {r.error:.0e} | {kernels} |"
        )
    lines += ["", "## Why", "", *(f"- **{r.definition.name}**: {r.definition.why}." for r in rows), ""]
    return "\n".join(lines)


def _told(error: float | str) -> str:
    return "none" if isinstance(error, str) else f"{error:.0e}"
