"""What a row does not see does not reach it, whatever it is; what a row sees does, as it would alone."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from gluon_interpreter import perform
from kernel_forms import DTYPES, Case, Execute, derived

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.serve.attention import attention
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import build_for_any_size
from eintune.space.plan.roles import Role
from eintune.space.schedule.any_size import for_any_size
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Causal, Documents, Mask, Modifier, Prefix, Window

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
QUERIES, KEYS = 37, 48
VARIANTS: dict[str, tuple[Modifier, ...]] = {
    "documents": (Documents(),),
    "causal documents": (Causal(), Documents()),
    "mask": (Mask("pm"),),
    "mask of each head": (Causal(), Mask()),
    "window": (Causal(), Window(9), Mask("pm")),
    "both": (Prefix(5), Documents(), Mask("bpm")),
}
PACKED = torch.tensor([0, 0, 1, 1, -1, -1])
"""Documents of six stretches of a sequence: padding is of one number for queries and keys."""
VALUES = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}


@dataclass(frozen=True)
class Layout:
    """How a case is laid out. rows: of a tile; parts: of the keys; form: of those that are derived."""

    emitter: str
    rows: int = 64
    parts: int = 1
    form: int = 0
    filters: str = "branch"
    dtype: str = "fp32"


@functools.cache
def case_of(variant: str, layout: Layout) -> Case:
    sizes = {"b": 2, "h": 2, "p": QUERIES, "m": KEYS, "e": 16, "f": 16}
    problem = posed(Attention(VARIANTS[variant]), sizes, layout.dtype, {"scale": 0.3})
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", layout.rows)}
    roles |= {"m": Role("loop", 16, layout.parts), "e": Role(None, 16), "f": Role(None, 16)}
    schedule = Schedule(layout.emitter, tuple(roles.items()), filters=layout.filters)
    return Case(derived(problem.cascade)[layout.form], problem, schedule)


def seen(variant: str, data: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which query sees which key."""
    p, m = torch.arange(QUERIES)[:, None], torch.arange(KEYS)
    found = torch.ones(2, 2, QUERIES, KEYS, dtype=torch.bool)
    for x in VARIANTS[variant]:
        match x:
            case Documents():
                found = found & (data["DOCQ"][:, None, :, None] == data["DOCK"][:, None, None, :])
            case Mask("bpm"):
                found = found & data["MASK"][:, None]
            case Mask():
                found = found & data["MASK"]
            case Causal():
                found = found & (m <= p)
            case Window(size):
                found = found & (p - m < size)
            case Prefix(size):
                found = found & ((m <= p) | (m < size))
    return found


def inputs_of(case: Case, value: float) -> dict[str, torch.Tensor]:
    """Inputs whose last keys are NaN or infinite, and a few elements before them."""
    data, random = draw_inputs(case.problem, "cpu", 0), torch.Generator().manual_seed(1)
    if "DOCK" in data:
        data["DOCQ"][:] = PACKED[torch.arange(QUERIES) * 6 // QUERIES]
        data["DOCK"][:] = PACKED[torch.arange(KEYS) * 6 // KEYS]
    if "MASK" in data:
        data["MASK"] = torch.rand(data["MASK"].shape, generator=random) < 0.3
    v = data["V"]
    v[:, :, 40:] = value
    v[0, 0, 5, 3], v[0, 0, 7, 3], v[1, 1, 3] = value, -torch.inf, torch.nan
    return data


def wanted(case: Case, data: dict[str, torch.Tensor], sees: torch.Tensor) -> torch.Tensor:
    """In float64: a weight of 0 adds nothing, whatever it weighs."""
    q, k, v = (data[n].to(DTYPES[case.problem.dtypes[n]]).double() for n in "QKV")
    score = torch.where(sees, (q @ k.mT) * 0.3, -torch.inf)
    top = score.amax(-1, keepdim=True)
    weight = (score - torch.where(top == -torch.inf, 0.0, top)).exp()
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-300)
    return torch.where(weight[..., None] == 0, 0.0, weight[..., None] * v[:, :, None]).sum(-2)


def output(kernel: Kernel, data: dict[str, torch.Tensor], execute: Execute) -> torch.Tensor:
    tensors = [
        torch.full(a.shape, torch.nan, dtype=DTYPES[a.dtype]) if a.output else data[a.name].to(DTYPES[a.dtype])
        for a in kernel.arguments
    ]
    return perform(kernel, tensors, execute)["AV"].double()


def check(variant: str, layout: Layout, value: float, execute: Execute) -> None:
    case = case_of(variant, layout)
    data = inputs_of(case, value)
    sees = seen(variant, data)
    exact = wanted(case, data, sees)
    made = output(case.kernel, data, execute)
    assert exact.isfinite().any() and not exact.isfinite().all()  # NaN = NaN below, and inf = inf
    close = {"rtol": 2e-2, "atol": 2e-2} if layout.dtype == "bf16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(made, exact, equal_nan=True, **close)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_get_what_they_see(variant: str, value: str, emitter: str, execute: Execute) -> None:
    check(variant, Layout(emitter), VALUES[value], execute)


LAYOUTS = {
    "16 bits": Layout("", dtype="bf16", filters="every"),
    "segments": Layout("", filters="segments"),
    "parts": Layout("", parts=2),
    "short tiles": Layout("", rows=16),
    **{f"form {n}": Layout("", form=n) for n in range(1, 7)},
    "two passes in parts": Layout("", form=3, parts=2),
}


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_every_form(layout: str, emitter: str, execute: Execute) -> None:
    given = replace(LAYOUTS[layout], emitter=emitter)
    for variant in ("causal documents", "mask"):
        assert any(k.doubt for k in case_of(variant, given).program.kernels)
        check(variant, given, math.inf, execute)


@pytest.mark.parametrize("emitter", EMITTERS)
def test_kernels_for_any_size(emitter: str, execute: Execute) -> None:
    case = case_of("mask", Layout(emitter, rows=64))
    schedule = for_any_size(case.schedule)
    made = build_for_any_size(case.cascade, case.problem, schedule)
    assert all(r in made.kernels[0].sizes.ranges for r in "bhpm") and made.kernels[0].doubt
    kernel, data = emit(made, schedule).at(case.problem.sizes), inputs_of(case, torch.nan)
    found = output(kernel, data, execute)
    exact = wanted(case, data, seen("mask", data))
    torch.testing.assert_close(found, exact, equal_nan=True, rtol=1e-4, atol=1e-5)


LINEAR = """
input Mp,m : bool
QKp,m = Qp,e * Km,e
Sp,m = select(Mp,m, QKp,m, 0)
AVp,f = Sp,m * Vm,f
results: AV
"""


@pytest.mark.parametrize("emitter", EMITTERS)
def test_weights_of_either_sign(emitter: str, execute: Execute) -> None:
    """A weight below 0 turns inf around; both ends are no number."""
    sizes = {"p": 20, "m": 40, "e": 16, "f": 16}
    problem = Problem("linear", LINEAR, sizes, dict.fromkeys(("Q", "K", "V", "AV"), "fp32") | {"M": "bool"}, {})
    roles = {"p": Role("grid", 32), "m": Role("loop", 16), "e": Role(None, 16), "f": Role(None, 16)}
    case = Case(Cascade.parse(LINEAR), problem, Schedule(emitter, tuple(roles.items())))
    data, random = draw_inputs(problem, "cpu", 0), torch.Generator().manual_seed(2)
    data["M"] = torch.rand(20, 40, generator=random) < 0.5
    data["V"][3, 2], data["V"][30, 5], data["V"][9, 5], data["V"][38, 7] = torch.inf, -torch.inf, torch.inf, torch.nan
    weight = torch.where(data["M"], data["Q"].double() @ data["K"].double().mT, 0.0)[..., None]
    exact = torch.where(weight == 0, 0.0, weight * data["V"].double()).sum(1)
    assert {math.inf, -math.inf} <= set(exact[:, 2].tolist()) and exact[:, 5].isnan().any()
    found = output(case.kernel, data, execute)
    torch.testing.assert_close(found, exact, equal_nan=True, rtol=1e-4, atol=1e-4)


TWO_VALUES = """
QKp,m = Qp,e * Km,e
input Mp,m : bool
Sp,m = select(Mp,m, QKp,m, -inf)
GMp = Sp,m :: \\/m max
Wp,m = e^(Sp,m - GMp)
AVp,f,g = Wp,m * Am,f * Bm,g
results: AV
"""


@pytest.mark.parametrize("emitter", EMITTERS)
def test_rows_that_see_nothing_of_two_values(emitter: str, execute: Execute) -> None:
    """Of a product of two no sum of what is not finite is held: a row that sees some is no number in more columns."""
    sizes = {"p": 20, "m": 40, "e": 16, "f": 16, "g": 16}
    dtypes = dict.fromkeys(("Q", "K", "A", "B", "AV"), "fp32") | {"M": "bool"}
    problem = Problem("two", TWO_VALUES, sizes, dtypes, {})
    roles = {"p": Role("grid", 32), "m": Role("loop", 16), **dict.fromkeys("efg", Role(None, 16))}
    case = Case(Cascade.parse(TWO_VALUES), problem, Schedule(emitter, tuple(roles.items())))
    data, random = draw_inputs(problem, "cpu", 0), torch.Generator().manual_seed(2)
    data["M"] = torch.rand(20, 40, generator=random) < 0.5
    data["A"][3, 2], data["B"][9, 4] = torch.nan, torch.inf
    sees = data["M"][:, 3] | data["M"][:, 9]
    found = output(case.kernel, data, execute)
    assert 0 < sees.sum() < 20 and not found[sees].flatten(1).isfinite().all(1).any()
    data["A"][3, 2] = data["B"][9, 4] = 0.0
    torch.testing.assert_close(found[~sees], output(case.kernel, data, execute)[~sees])


def test_nothing_is_looked_at_where_data_hides_nothing() -> None:
    """Filters on positions, and on what belongs to keys alone, are what they were."""
    sizes = {"b": 2, "h": 2, "p": QUERIES, "m": KEYS, "e": 16, "f": 16}
    for modifiers in ((), (Causal(),), (Causal(), Window(9)), (Prefix(5),), (Mask("bm"),)):
        problem = posed(Attention(modifiers), sizes, "bf16", {"scale": 0.3})
        roles = case_of("mask", Layout("triton")).schedule.roles
        case = Case(derived(problem.cascade)[0], problem, Schedule("triton", roles))
        assert case.plan.doubt is None and "by_row" not in case.kernel.source


@pytest.mark.offline
@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile")
@pytest.mark.parametrize("variant", ["causal documents", "mask"])
@pytest.mark.parametrize(("rows", "columns", "warps", "dim"), [(64, 64, 4, 64), (128, 128, 8, 128), (64, 32, 4, 128)])
def test_it_takes_next_to_nothing(variant: str, rows: int, columns: int, warps: int, dim: int, tmp_path: Path) -> None:
    """Beside the same kernel that stores whatever it computed: a few registers, and nothing in the loop."""
    sizes = {"b": 2, "h": 8, "p": 2048, "m": 2048, "e": dim, "f": dim}
    problem = posed(Attention(VARIANTS[variant]), sizes, "bf16", {"scale": 0.3})
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", rows), "m": Role("loop", columns)}
    roles |= {r: Role(None, dim) for r in "ef"}
    schedule = Schedule("triton", tuple(roles.items()), warps=warps, stages=2, loads="descriptor", filters="branch")
    plan = Case(derived(problem.cascade)[0], problem, schedule).plan
    alone, whole = (
        compile_kernel(emit(p, schedule), "sm_90", cache_dir=tmp_path) for p in (replace(plan, doubt=None), plan)
    )
    assert whole.resources.spill_bytes == 0 and whole.resources.shared_bytes == alone.resources.shared_bytes
    assert whole.resources.registers_per_thread <= alone.resources.registers_per_thread + 8
    assert _loop(whole.ttgir) == _loop(alone.ttgir)


def _loop(ttgir: str) -> list[str]:
    """The operations of the loop over keys, by name, in order."""
    kernel = ttgir[ttgir.index("tt.func public") :]
    found = re.search(r"\n( *)\S+ = scf\.for.*?\n\1\}", kernel, re.DOTALL)
    assert found
    return re.findall(r"(?:= |\n *)\"?([a-z_]+\.[a-z_.]+)", found[0])


def test_padding_of_a_batch_that_is_padded_itself() -> None:
    """As programs call it: the padding's queries see the padding's keys, and nobody else does."""
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 2, 64, 16, generator=random) for _ in range(3))
    documents = torch.tensor([0] * 20 + [1] * 25 + [-1] * 19, dtype=torch.int32).expand(2, -1)
    real = documents[0] >= 0
    alone = attention(q[:, :, real], k[:, :, real], v[:, :, real], documents=documents[:, real])
    k[:, :, ~real], v[:, :, ~real] = torch.nan, torch.inf
    made = attention(q, k, v, documents=documents)
    torch.testing.assert_close(made[:, :, real], alone)
    assert not made[:, :, ~real].isfinite().any()
