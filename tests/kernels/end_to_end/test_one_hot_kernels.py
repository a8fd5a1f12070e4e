"""The loss of labelled rows: one element a row is loaded, whatever its label, by every emitter, against float64."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from kernel_errors import off
from kernel_forms import Case

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.builtin import WORKLOADS

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
ROWS, WORDS, HIDDEN = 37, 100, 24
LABELS = [-100, -1, 0, 5, 99, 100, 101, 2**31 - 1, -(2**31)]


@cache
def indexed(text: str) -> Cascade:
    """The first form of a definition that loads the labelled element."""
    return next(d.cascade for d in derive(Cascade.parse(text)).cascades if "else 0" in str(d.cascade))


def loss_case(name: str, emitter: str, row: Role, loop: Role, dtype: str = "fp32", **more: int) -> Case:
    sizes = {"rows": ROWS, "vocab": WORDS} | ({"hidden": HIDDEN} if name.startswith("linear") else {}) | more
    problem = WORKLOADS[name].posed(sizes, dtype).problem
    roles = {"p": row, "m": loop} | ({"e": Role(None, 32)} if "e" in problem.sizes else {})
    return Case(indexed(problem.cascade), problem, Schedule(emitter, tuple(roles.items())))


def tensors_of(problem: Problem, kernel: Kernel) -> dict[str, torch.Tensor]:
    """Inputs with the labels above in every third row or so; outputs of NaN."""
    data = draw_inputs(problem, "cpu")
    for i, label in enumerate(LABELS):
        data["T"][i::19] = label
    outputs = {a.name: torch.full(a.shape, torch.nan, dtype=DTYPES[a.dtype]) for a in kernel.arguments if a.output}
    return {a.name: (data | outputs)[a.name] for a in kernel.arguments}


def exact(problem: Problem, data: dict[str, torch.Tensor]) -> torch.Tensor:
    """The definition in float64: the labelled element of a row whose label is no word is 0."""
    cascade = problem.definition
    inputs = {n: data[n] for n in cascade.inputs}
    return run_eager(cascade, inputs, problem.sizes, problem.params, torch.float64)["L"]


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
@pytest.mark.parametrize(
    ("row", "loop"),
    [
        (Role("grid", 16), Role("loop", 16)),
        (Role("grid", 1), Role("loop", 64)),
        (Role("grid", None), Role("loop", 32)),
        (Role("grid", 16), Role("loop", 16, 3)),
    ],
    ids=["tiles", "one row", "no tile of rows", "parts"],
)
def test_any_label(row: Role, loop: Role, name: str, emitter: str, execute) -> None:
    if name.startswith("linear") and row.tile != 16 and emitter == "triton":
        row = Role("grid", 16)  # a product in Triton has tiles of at least 16
    case = loss_case(name, emitter, row, loop)
    kernel = case.kernel
    data = tensors_of(case.problem, kernel)
    execute(kernel, list(data.values()))
    want = exact(case.problem, data)
    assert ((data["L"] - want).abs() <= 1e-5 * want.abs().max()).all()


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("labels", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_other_dtypes(dtype: str, labels: torch.dtype, emitter: str, execute) -> None:
    case = loss_case("cross_entropy", emitter, Role("grid", 16), Role("loop", 16), dtype)
    case.problem.dtypes["T"] = str(labels).removeprefix("torch.")
    kernel = case.kernel
    data = tensors_of(case.problem, kernel)
    if labels == torch.int64:
        data["T"][:2] = torch.tensor([2**62, -(2**62)])
    execute(kernel, list(data.values()))
    want = exact(case.problem, data)
    assert ((data["L"] - want).abs() <= 1e-5 * want.abs().max()).all()


@pytest.mark.parametrize("emitter", EMITTERS)
def test_what_is_not_selected_does_not_matter(emitter: str, execute) -> None:
    text = "input Tp : int\nZp = select(Tp == index(m), Xp,m, 0) * Wp"
    sizes = {"p": 7, "m": 5}
    problem = Problem("case", text, sizes, {"X": "fp32", "T": "int32", "W": "fp32", "Z": "fp32"})
    case = Case(indexed(text), problem, Schedule(emitter, (("p", Role("grid", 16)),)))
    x = torch.full((7, 5), torch.inf)
    x[:, 0] = torch.nan
    x[2, 1], x[3, 4] = 2.0, 3.0
    made = torch.full((7,), torch.nan)
    given = {"X": x, "T": torch.tensor([-100, 5, 1, 4, -1, 2**31 - 1, 3], dtype=torch.int32), "W": torch.ones(7)}
    execute(case.kernel, [{**given, "Z": made}[a.name] for a in case.kernel.arguments])
    assert made.tolist() == [0, 0, 2, 3, 0, 0, torch.inf]


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize(
    "text",
    [
        "input Bp,m : bool\ninput Tp : int\nZp = select(Tp == index(m) & Bp,m, Xp,m, 0) * Wp",
        "input Ap,m : int\ninput Tp : int\nZp = select(Tp == index(m), Ap,m * Xp,m + index(m), 0) * Wp",
        "input Tp : int\nZp,q = select(Tp == index(m), Xq,m, 0) * Wp",
        "input Tp : int\nZp,q = select(Tp == index(m), sum[e](Hq,e * Em,e), 0) * Wp",
    ],
)
def test_what_else_is_selected(text: str, emitter: str, execute) -> None:
    definition = Cascade.parse(text)
    sizes = {r: {"p": 37, "m": 21, "q": 19, "e": 24}[r] for r in definition.ranks()}
    error = off(execute, definition, indexed(text), (emitter, "fp32"), "e" if "e" in sizes else "", sizes)
    assert error < 2e-5


def test_no_word_is_compared_with_a_label() -> None:
    case = loss_case("cross_entropy", "triton", Role("grid", 1), Role("loop", 4096), "bf16", rows=4096, vocab=128256)
    loops, after = case.kernel.source.split("for m_first", 1)[1].rsplit("running_max, ", 1)
    compared = [line for line in loops.splitlines() if "==" in line and "float('-inf')" not in line]
    assert not compared and "tl.load(T" not in loops and loops.count("tl.load(") == 2  # a body for the tail
    assert after.count("tl.load(") == 2 and "tl.cast(t, tl.int64) * stride_X_m" in after


@pytest.mark.offline
@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile")
def test_it_compiles_without_a_spill(tmp_path: Path) -> None:
    case = loss_case("cross_entropy", "triton", Role("grid", 1), Role("loop", 4096), "bf16", rows=4096, vocab=128256)
    made = compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path)
    assert made.resources.spill_bytes == 0 and "ld.global" in made.assembly
