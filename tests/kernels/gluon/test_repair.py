"""Values that no query sees under specialised warps: a kernel that takes them for finite, and one that repairs."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gluon_interpreter import perform
from kernel_forms import Case, derived, errors

from eintune.costmodel.counts.work import CountedProgram, work
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.time import estimate
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.reference.eager import DTYPES
from eintune.search.measure.inputs import draw_inputs
from eintune.space.lowering.lower import build_for_any_size
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.plan.repair import GROUPS, LAUNCHED, NOTES, PROGRAMS, tiles_each
from eintune.space.plan.roles import Role
from eintune.space.plan.warp_specialisation import fault, is_divided
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Causal, Documents, Mask, Modifier

COMPILES = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
BESIDE: dict[str, tuple[Modifier, ...]] = {"alone": (), "causal": (Causal(),)}
PADDING = -1
STRETCHES = {
    "start": ([-1, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2]),
    "end": ([0, 0, 1, 1, 2, -1], [0, 0, 1, 1, 2, 2]),
    "between": ([0, 0, -1, 1, -1, 2], [0, 0, 0, 1, 1, 2]),
    "within": ([1, 1, 2, 3, 2, 3], [1, 1, 1, 3, 3, 3]),  # numbers between those of a tile's queries
    "rows too": ([0, 0, 1, 1, -1, -1], [0, 0, 1, 1, -1, -1]),  # a sequence with itself: padding sees padding
    "all": ([-1] * 6, [0, 0, 0, 1, 1, 2]),
}
"""Documents of six stretches of keys, and of queries. What stands for padding is -1, and 2 where keys lie `within`."""


@functools.cache
def case_of(
    beside: str, count: int = 200, rows: int = 64, columns: int = 32, rescaling: str = "eager", form: int = 0, **kw: int
) -> Case:
    """Documents under a schedule of specialised warps; 64 rows a group."""
    sizes = {"b": 1, "h": 2, "p": count, "m": count, "e": 64, "f": 64} | kw
    problem = posed(Attention((*BESIDE[beside], Documents())), sizes, "bf16", {"scale": 0.3})
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", rows), "m": Role("loop", columns)}
    roles |= {r: Role(None, sizes[r]) for r in "ef"}
    schedule = Schedule(
        "triton",
        tuple(roles.items()),
        warps=rows // 16,
        filters="branch",
        order="reverse",
        loads="descriptor",
        bounds="kernel",
        warp_specialisation="producer_consumer",
        rescaling=rescaling,
    )
    return Case(derived(problem.cascade)[form], problem, schedule)


def masked_case(**options: int) -> Case:
    """The same with a mask in place of documents."""
    case = case_of("causal", **options)
    problem = posed(Attention((Causal(), Mask("pm"))), case.problem.sizes, "bf16", {"scale": 0.3})
    return Case(derived(problem.cascade)[0], problem, replace(case.schedule, bounds="program"))


def masked_data(case: Case) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs, and which keys are padding: the mask hides them, and others from some rows."""
    data, count = draw_inputs(case.problem, "cpu", 0), case.problem.sizes["m"]
    padding = torch.arange(count) % 50 > 40
    data["MASK"] = (torch.rand(count, count, generator=torch.Generator().manual_seed(1)) < 0.7) & ~padding
    return data, padding


def main_of(case: Case) -> LoopPlan:
    (main,) = (k for k in case.program.kernels if k.notes)
    return main


def data_of(case: Case, where: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs, and which keys are padding."""
    data, count = draw_inputs(case.problem, "cpu", 0), case.problem.sizes["m"]
    stretches = torch.arange(count) * 6 // count
    keys, queries = (torch.tensor(numbers)[stretches] for numbers in STRETCHES[where])
    data["DOCK"][:], data["DOCQ"][:] = keys, queries
    return data, keys == (2 if where == "within" else PADDING)


def tensors_of(kernel: Kernel, data: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [
        torch.full(a.shape, torch.nan, dtype=DTYPES[a.dtype]) if a.output else data[a.name].to(DTYPES[a.dtype])
        for a in kernel.arguments
    ]


def spoilt(
    data: dict[str, torch.Tensor], keys: torch.Tensor, value: float, names: str = "KV"
) -> dict[str, torch.Tensor]:
    made = {n: t.clone() for n, t in data.items()}
    for n in names:
        made[n][:, :, keys] = value
    return made


VALUES = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}
USUAL = [(b, w, list(VALUES)[(i + j) % 3]) for i, b in enumerate(BESIDE) for j, w in enumerate(STRETCHES)]


@pytest.mark.interpreter
@pytest.mark.parametrize(("beside", "where", "value"), USUAL)
def test_what_no_query_sees_may_be_anything(beside: str, where: str, value: str, execute) -> None:
    case = case_of(beside)
    kernel, (data, padding) = case.kernel, data_of(case, where)
    tensors = tensors_of(kernel, spoilt(data, padding, VALUES[value], "V" if where == "rows too" else "KV"))
    known = perform(kernel, tensors, execute)
    # Where all is padding no tile of it is loaded.
    assert known[NOTES].any() == (where != "all") and set(known[NOTES].unique().tolist()) <= {0, 1}
    real = data["DOCQ"][0] != PADDING
    assert known["AV"][:, :, real].isfinite().all()
    if where == "rows too":  # what padding sees of padding is no number
        assert not known["AV"][:, :, ~real].isfinite().any()
        known["AV"][:, :, ~real] = 0.0
    clean = tensors_of(kernel, data if where == "rows too" else spoilt(data, padding, 0.0))
    clean[-1] = known["AV"]
    if where == "rows too":
        perform(kernel, reference := tensors_of(kernel, data), execute)
        clean[-1][:, :, ~real] = reference[-1][:, :, ~real]
    assert not errors(case, kernel, clean, times=2.0)


FORMS = [
    pytest.param({"rows": 128, "columns": 64}, id="two groups"),
    pytest.param({"rescaling": "lazy", "rows": 128}, id="lazy"),
    pytest.param({"form": 1}, id="another form"),
    pytest.param({"count": 64}, id="one tile"),
    pytest.param({"count": 5}, id="short"),
]


@pytest.mark.interpreter
@pytest.mark.parametrize("options", FORMS)
def test_other_schedules_and_forms(options: dict, execute) -> None:
    case = case_of("causal", **options)
    kernel, (data, padding) = case.kernel, data_of(case, "between")
    if options.get("count") == 5:
        padding = torch.tensor([False, True, False, False, False])
        data["DOCK"][0], data["DOCQ"][0] = torch.tensor([0, -1, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1])
    known = perform(kernel, tensors_of(kernel, spoilt(data, padding, torch.nan)), execute)
    clean = tensors_of(kernel, spoilt(data, padding, 0.0))
    clean[-1] = known["AV"]
    assert known[NOTES].any() and not errors(case, kernel, clean, times=2.0)


@pytest.mark.interpreter
@pytest.mark.parametrize("splits", [1, 2])
def test_sequences_too_long_for_a_look(splits: int, execute) -> None:
    """No kernel finds bounds before, so the one that takes notes is the first; where keys are in parts, what merges
    them comes after the repair."""
    case = case_of("alone", count=64, m=8320, h=1, columns=128)
    roles = tuple((r, Role("loop", 128, splits) if r == "m" else role) for r, role in case.schedule.roles)
    case = replace(case, schedule=replace(case.schedule, roles=roles))
    kernel, data = case.kernel, draw_inputs(case.problem, "cpu", 0)
    assert [step.emitter for step in kernel.steps] == ["gluon", "triton", *["triton"] * (splits - 1)]
    data["DOCQ"][:], data["DOCK"][:] = torch.arange(64) // 40, torch.arange(8320) // 5000
    padding = (torch.arange(8320) % 1000 < 9) | (torch.arange(8320) > 8000)
    data["DOCK"][:, padding] = PADDING
    known = perform(kernel, tensors_of(kernel, spoilt(data, padding, torch.nan)), execute)
    clean = tensors_of(kernel, spoilt(data, padding, 0.0))
    clean[-1] = known["AV"]
    assert known[NOTES].all() and not errors(case, kernel, clean, times=2.0)


@pytest.mark.interpreter
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("value", VALUES)
def test_what_is_seen_stays_what_it_is_in_the_rows_that_see_it(beside: str, value: str, execute) -> None:
    """Others of the same tile have a weight of 0 for it, and are right."""
    case = case_of(beside)
    kernel, (data, _) = case.kernel, data_of(case, "end")
    at = 45
    data["V"][:, :, at, 7] = VALUES[value]
    known = perform(kernel, tensors_of(kernel, data), execute)
    sees = data["DOCQ"][0] == data["DOCK"][0, at]
    sees &= (torch.arange(len(sees)) >= at) | (beside == "alone")
    assert 0 < sees.sum() < len(sees)
    column = known["AV"][:, :, :, 7].float()
    wanted = torch.full_like(column, VALUES[value])
    assert torch.equal(torch.where(sees, column, wanted).nan_to_num(7.0), wanted.nan_to_num(7.0))
    finite = {n: t.clone() for n, t in data.items()}
    finite["V"][:, :, at, 7] = 0.0
    clean = tensors_of(kernel, finite)
    clean[-1] = known["AV"].clone()
    perform(kernel, reference := tensors_of(kernel, finite), execute)
    clean[-1][:, :, sees, 7] = reference[-1][:, :, sees, 7]
    assert not errors(case, kernel, clean, times=2.0)


@pytest.mark.interpreter
@pytest.mark.parametrize("value", VALUES)
def test_a_mask_hides_values_from_rows(value: str, execute) -> None:
    case = masked_case()
    kernel, (data, _) = case.kernel, masked_data(case)
    at = 30
    data["V"][:, :, at, 7], data["V"][:, :, at, 9] = VALUES[value], torch.nan
    known = perform(kernel, tensors_of(kernel, data), execute)
    sees = data["MASK"][:, at] & (torch.arange(len(data["MASK"])) >= at)
    assert known[NOTES].any() and 0 < sees.sum() < len(sees)
    wanted = torch.where(sees, VALUES[value], 0.0).expand(known["AV"].shape[:3])
    column = known["AV"][..., 7].float()
    assert torch.equal(torch.where(sees, column, 0.0).nan_to_num(7.0), wanted.nan_to_num(7.0))
    assert known["AV"][:, :, sees, 9].isnan().all() and known["AV"][:, :, ~sees].isfinite().all()
    others = [f for f in range(64) if f not in (7, 9)]
    assert known["AV"][..., others].isfinite().all()


@pytest.mark.interpreter
@pytest.mark.parametrize("rescaling", ["eager", "lazy"])
def test_what_is_finite_is_what_it_was(rescaling: str, execute) -> None:
    """To the bit what the kernel without notes stores; the repair touches nothing."""
    case = case_of("causal", rescaling=rescaling)
    kernel, (data, _) = case.kernel, data_of(case, "end")
    known = perform(kernel, tensors_of(kernel, data), execute)
    assert known[NOTES].shape == (8, 1) and not known[NOTES].any()
    look, main, _ = case.program.kernels
    outputs = {n: ranks for n, ranks in main.outputs.items() if n != NOTES}
    before = emit(Program((look, replace(main, notes=None, outputs=outputs))), case.schedule)
    assert torch.equal(perform(before, tensors_of(before, data), execute)["AV"], known["AV"])
    repair = kernel.steps[-1]
    known["AV"].fill_(3.0)
    execute(repair, [known[a.name] for a in repair.arguments])
    assert (known["AV"] == 3.0).all()


@pytest.mark.interpreter
def test_only_tiles_in_doubt_are_computed_again(execute) -> None:
    """Of one program's several tiles, too, and the last program's, of which there may be fewer."""
    case = case_of("causal", count=512, h=70)
    kernel, (data, _) = case.kernel, data_of(case, "end")
    repair, main = kernel.steps[-1], main_of(case)
    assert tiles_each(main) == 4 and repair.grid == (140,) and main.sizes[PROGRAMS] == 560
    known = {a.name: t for a, t in zip(kernel.arguments, tensors_of(kernel, data), strict=True)}
    known[NOTES] = torch.zeros(560, 1, dtype=torch.int32)
    known[NOTES][[5, 559]] = 1
    known["AV"].fill_(3.0)
    execute(repair, [known[a.name] for a in repair.arguments])
    # Programs run along the queries first, the last of them first.
    touched = (known["AV"] != 3.0).view(70, 8, 64, 64).any(-1).all(-1)
    assert touched.nonzero().tolist() == [[0, 2], [69, 0]]


def test_where_there_is_one() -> None:
    """Under specialised warps, where values are left that each row hides for itself."""
    look, main, repair = case_of("causal").program.kernels
    assert [bool(k.unfiltered) for k in (look, main, repair)] == [True, True, False]
    assert main.sizes[PROGRAMS] == main.programs() == repair.programs() and main.grid == repair.grid
    assert main.notes and repair.repairs == main.notes.tensor and "note in_doubt__ in DOUBTS" in str(main)
    assert [is_divided(k) for k in (look, main, repair)] == [False, True, False]
    plain = replace(case_of("causal").schedule, warp_specialisation="none")
    kernels = replace(case_of("causal"), schedule=plain).program.kernels
    assert [bool(k.doubt) for k in kernels] == [False, True] and not any(k.notes or k.repairs for k in kernels)
    sizes = {"b": 1, "h": 2, "p": 256, "m": 256, "e": 64, "f": 64}
    causal = posed(Attention((Causal(),)), sizes, "bf16", {"scale": 0.3})
    special = next(s for s in schedules(derived(causal.cascade)[0], causal, "triton") if s.is_specialised)
    assert len(Case(derived(causal.cascade)[0], causal, special).program.kernels) == 1


def test_every_specialised_schedule_of_documents_repairs() -> None:
    problem = case_of("causal").problem
    for form in derived(problem.cascade):
        for schedule in [s for s in schedules(form, problem, "triton") if s.is_specialised][::20]:
            kernels = Case(form, problem, schedule).program.kernels
            divided = [k for k in kernels if is_divided(k)]
            assert all(fault(k) or k.notes for k in divided)
            assert kernels[-1].repairs or any(fault(k) for k in divided)


def test_a_name_that_is_taken() -> None:
    case = case_of("alone")
    text = str(case.cascade).replace("AV", NOTES)
    problem = replace(case.problem, cascade=case.problem.cascade.replace("AV", NOTES))
    problem = replace(problem, dtypes={n.replace("AV", NOTES): d for n, d in problem.dtypes.items()})
    renamed = Case(type(case.cascade).parse(text), problem, case.schedule)
    assert [a.name for a in renamed.kernel.workspaces][-2:] == [f"{NOTES}_", "TAKEN"]


@pytest.mark.interpreter
@pytest.mark.parametrize("heads", [2, 70])
def test_kernels_for_any_size_count_their_programs(heads: int, execute) -> None:
    case = masked_case(h=heads)
    made = build_for_any_size(case.cascade, case.problem, case.schedule)
    assert all(r in made.kernels[-1].sizes.ranges for r in "bhp") and made.kernels[-1].repairs
    kernel, (data, padding) = emit(made, case.schedule).at(case.problem.sizes), masked_data(case)
    assert kernel.steps[-1].grid == (LAUNCHED,) and kernel.workspaces[0].shape == (1, heads, 4, 1)
    known = perform(kernel, tensors_of(kernel, spoilt(data, padding, torch.nan)), execute)
    clean = tensors_of(kernel, spoilt(data, padding, 0.0))
    clean[-1] = known["AV"]
    assert known[NOTES].any() and not errors(case, kernel, clean, times=2.0)


def test_it_costs_next_to_nothing() -> None:
    """It is priced as what it usually does: a launch in which notes are read."""
    case, h200 = case_of("causal", count=4096, rows=128, columns=128, h=32), load_machine("h200")
    *before, repair = work(case.program, case.schedule).launches
    assert (
        repair.traffic.tensor_flops == 0
        and repair.traffic.hbm_bytes
        == 4 * case.program.kernels[-1].sizes[PROGRAMS] * case.program.kernels[-1].sizes[GROUPS]
    )
    alone = Program(case.program.kernels[:-1])
    with_it, without = (estimate(p, case.schedule, h200).seconds for p in (case.program, alone))
    assert len(before) == 2 and 0 < with_it - without < 4e-6


def test_it_is_priced_where_programs_are_not_counted() -> None:
    case = masked_case(count=4096, rows=128, columns=128, h=32)
    counted = CountedProgram(build_for_any_size(case.cascade, case.problem, case.schedule), case.schedule)
    main, repair = (counted.at(case.problem.sizes), *counted.at(case.problem.sizes).then)
    assert main.programs == 32 * 32 and repair.traffic.hbm_bytes == 4 * 2 * main.programs
    assert repair.traffic.tensor_flops == 0 and repair.programs <= LAUNCHED


@COMPILES
@pytest.mark.offline
@pytest.mark.parametrize("rescaling", ["eager", "lazy"])
def test_notes_take_next_to_nothing(rescaling: str, tmp_path: Path) -> None:
    """Where the tile is as large as it can be: a few registers more, of which lazy rescaling has none to spare."""
    case = case_of("causal", count=4096, rows=128, columns=128, h=32, e=128, f=128, rescaling=rescaling)
    look, main, repair = case.program.kernels
    outputs = {n: ranks for n, ranks in main.outputs.items() if n != NOTES}
    before = emit(Program((look, replace(main, notes=None, outputs=outputs))), case.schedule).steps[1]
    _, noting, repairing = emit(Program((look, main, repair)), case.schedule).steps
    made = [compile_kernel(k, "sm_90", cache_dir=tmp_path).resources for k in (before, noting, repairing)]
    assert made[1].registers_per_thread == made[0].registers_per_thread
    assert made[1].spill_bytes <= made[0].spill_bytes + (16 if rescaling == "lazy" else 0) and made[2].spill_bytes == 0
    assert made[1].shared_bytes <= made[0].shared_bytes + 64
