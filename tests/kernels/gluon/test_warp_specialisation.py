"""Programs whose groups of warps do different things: what is printed, what it takes, and on a GPU that it is right."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_variants import ALONE, combinations
from gluon_interpreter import perform, run
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernel_forms import Case, attention_case, derived, errors, inputs

from eintune.costmodel.counts.resources import programs_per_sm, resources, unsupported
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.time import estimate
from eintune.kernels.emit.kernel import Argument
from eintune.kernels.gluon.module import emit
from eintune.kernels.launch.compile_pool import CompileFailure, compile_many
from eintune.kernels.launch.launch import LaunchError
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.serve import choices
from eintune.kernels.serve.adapted import nearest_schedule, plain_schedule
from eintune.kernels.store.cache import Entry, Key, Record
from eintune.kernels.store.platform import Platform, triton_version
from eintune.space.lowering.lower import build_program
from eintune.space.plan import lazy_rescaling as lazy_rescaling
from eintune.space.plan.lazy_rescaling import RESCALING
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.warp_specialisation import fault, is_divided
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Documents, Window

COMPILES = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
USUAL: dict[str, Any] = {
    "rows": 128,
    "columns": 64,
    "warps": 8,
    "stages": 2,
    "seq": 300,
    "kv_seq": 200,
    "head_dim": 64,
    "dtype": "bf16",
    "filters": "branch",
}

CASES: dict[str, dict[str, Any]] = {
    "no filter, no tail": {"seq": 256, "kv_seq": 256},
    "tails": {},
    "causal": {"causal": "top_left", "kv_seq": 300},
    "causal from the end": {"causal": "lower_right"},
    "filters everywhere": {"causal": "top_left", "filters": "every"},
    "rows without a tile": {"causal": "lower_right", "seq": 300, "kv_seq": 40},
    "rows without a column": {"causal": "lower_right", "seq": 200, "kv_seq": 100},
    "one group": {"rows": 64, "warps": 4, "causal": "top_left"},
    "three buffers": {"stages": 3, "causal": "top_left", "kv_seq": 1000, "seq": 1000},
    "long": {"head_dim": 128, "columns": 128, "kv_seq": 2000, "seq": 1000},
    "half precision": {"dtype": "fp16", "columns": 128},
    "grouped heads": {"heads": 6, "kv_heads": 2, "causal": "top_left"},
    "narrow values": {"head_dim": 128, "value_dim": 64},
    "two passes": {"passes": 2, "causal": "top_left"},
    "lazy rescaling": {"rescaling": "lazy", "kv_seq": 1000},
    "lazy, causal": {"rescaling": "lazy", "causal": "top_left", "seq": 1000, "kv_seq": 1000, "columns": 128},
    "lazy, one group": {"rescaling": "lazy", "rows": 64, "warps": 4, "causal": "lower_right", "kv_seq": 500},
    "lazy, half precision": {"rescaling": "lazy", "dtype": "fp16", "head_dim": 128, "kv_seq": 700},
    "lazy, few tiles": {"rescaling": "lazy", "rows": 64, "warps": 4, "seq": 192, "kv_seq": 192},
    "lazy, rows without a column": {"rescaling": "lazy", "causal": "lower_right", "seq": 200, "kv_seq": 100},
    "one tile": {"seq": 64, "kv_seq": 64},
    "short": {"seq": 5, "kv_seq": 3},
}


def specialised(passes: int = 1, **kw: Any) -> Case:
    return attention_case(passes, **{**USUAL, "loads": "descriptor", "warp_specialisation": "producer_consumer", **kw})


TRITON = tuple(int(x) for x in triton_version().split(".")[:2]) if triton_version() != "none" else ()
ALIKE = {
    *("filters everywhere", "rows without a tile", "rows without a column", "grouped heads", "one tile"),
    *("lazy, few tiles", "lazy, rows without a column"),
}
"""Cases that differ in lengths, or in which loop masks, from others here: compiled in long runs."""
SPILLED = {"lazy, causal": 32, "lazy, one group": 64}
"""Bytes a thread that Triton 3.9 keeps in memory, and those before it do not: measured, so that more is noticed."""


@COMPILES
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] if n in ALIKE else []) for n in CASES])
def test_it_compiles(name: str, tmp_path: Path) -> None:
    case = specialised(**CASES[name])
    assert case.kernel.emitter == "gluon"
    compiled = compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path)
    predicted = resources(case.plan, case.schedule, load_machine("h200"))
    assert compiled.resources.spill_bytes <= (SPILLED.get(name, 0) if TRITON >= (3, 9) else 0)
    assert compiled.resources.registers_per_thread <= predicted.registers_per_thread
    assert compiled.resources.warps == predicted.warps
    assert predicted.shared_bytes <= compiled.resources.shared_bytes <= predicted.shared_bytes + 2**10


OFTEN = [(name, (1, 3)[i % 2]) for i, name in enumerate(CASES)]
"""Each case by one number of programs; by the other in long runs."""
SELDOM = [pytest.param(name, 4 - n, marks=pytest.mark.soak) for name, n in OFTEN]


@pytest.mark.parametrize(("name", "launched"), [*OFTEN, *SELDOM])
def test_the_numbers(name: str, launched: int) -> None:
    case = specialised(**CASES[name])
    kernel, tensors = case.kernel, inputs(case)
    tensors[-1].fill_(float("nan"))
    run(kernel, tensors, launched)
    assert not errors(case, kernel, tensors)


@pytest.mark.parametrize("line", ["mbarrier.wait(k_full", "mbarrier.wait(v_full", "mbarrier.wait(q_full"])
def test_the_interpreter_sees_a_tile_that_nobody_waited_for(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluon_interpreter.DELAY", 0.05)  # longer than a busy machine takes for anything else
    case = specialised(seq=128, kv_seq=512)
    kernel, tensors = case.kernel, inputs(case)
    kept = [x for x in kernel.source.splitlines() if not x.strip().startswith(line)]
    try:
        run(replace(kernel, source="\n".join(kept)), tensors, 1)
    except AssertionError as error:  # the buffers are out of step
        assert "arrivals" in str(error)
    else:
        assert errors(case, kernel, tensors)


SIZES = {"b": 2, "h": 2, "g": 1, "p": 130, "m": 130, "e": 64, "f": 32}


def legal(variant: Attention, sizes: dict[str, int], which: int = 0) -> list[Case]:
    """A variant in one of its forms, by the schedules that its space has for these warps."""
    problem = posed(variant, sizes, "bf16", {"scale": 0.3})
    forms = derived(problem.cascade)
    cascade = forms[which % len(forms)]
    return [Case(cascade, problem, s) for s in schedules(cascade, problem, "triton") if s.is_specialised]


def divided(cases: Iterable[Case]) -> Iterator[Case]:
    """Those whose plans can be divided."""
    return (
        c for c in cases if not any(fault(k) or no_lazy_rescaling(c, k) for k in c.program.kernels if is_divided(k))
    )


def no_lazy_rescaling(case: Case, plan: LoopPlan) -> str | None:
    return lazy_rescaling.fault(plan) if case.schedule.rescaling == "lazy" else None


def modified(variant: Attention, rescaling: str = "eager") -> Case:
    """A variant in one pass, by the smallest tiles; rescaled so where it can be."""
    by_size = sorted(
        (c for c in legal(variant, SIZES) if c.schedule.filters != "every"),
        key=lambda c: (c.schedule.rescaling != rescaling, c.schedule.role("m").tile, c.schedule.warps),
    )
    return next(divided(by_size))


def check(execute, variant: Attention, p: int, m: int, which: int, number: int) -> None:
    alike = any(isinstance(x, Documents) for x in variant.modifiers)
    cases = legal(variant, SIZES | {"p": p, "m": p if alike else m}, which)
    first = number % max(len(cases), 1)
    case = next(divided([*cases[first:], *cases[:first]]), None)
    assume(case)
    assert case
    kernel, tensors = case.kernel, inputs(case)
    perform(kernel, tensors, execute)
    assert not errors(case, kernel, tensors, times=2.0)


DRAWN = (combinations(), st.integers(1, 200), st.integers(1, 200), st.integers(0, 9), st.integers(0, 999))


@pytest.mark.interpreter
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*DRAWN)
def test_any_modifiers(execute, variant: Attention, p: int, m: int, which: int, number: int) -> None:
    check(execute, variant, p, m, which, number)


@pytest.mark.soak
@pytest.mark.interpreter
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*DRAWN)
def test_many_modifiers(execute, variant: Attention, p: int, m: int, which: int, number: int) -> None:
    check(execute, variant, p, m, which, number)


HIDING_KEYS = ("mask of keys", "spans of a batch")
DIVIDED = [name for name in ALONE if name not in HIDING_KEYS]
BY_TURNS = [(name, RESCALING[i % 2]) for i, name in enumerate(DIVIDED)]
"""Each modifier with one way of rescaling; with the other in long runs."""
THE_OTHERS = [pytest.param(name, RESCALING[(i + 1) % 2], marks=pytest.mark.soak) for i, name in enumerate(DIVIDED)]


@pytest.mark.parametrize("name", HIDING_KEYS)
def test_values_that_a_mask_of_keys_hides_are_not_multiplied_as_they_were_loaded(name: str) -> None:
    """They may be anything, also where keys run in parts or are written in tiles: these warps cannot make them 0."""
    for which in range(3):
        assert next(divided(legal(ALONE[name], SIZES, which)[::9]), None) is None


@pytest.mark.interpreter
@pytest.mark.parametrize(("name", "rescaling"), [*BY_TURNS, *THE_OTHERS])
def test_modifiers(name: str, rescaling: str, execute) -> None:
    case = modified(ALONE[name], rescaling)
    kernel, tensors = case.kernel, inputs(case)
    perform(kernel, tensors, execute)
    assert not errors(case, kernel, tensors)


@pytest.mark.parametrize("launched", [1, 3])
def test_a_loop_that_runs_from_its_end_may_be_empty(launched: int) -> None:
    """More queries than keys, of which each sees none before it: some programs load no tile at all."""
    window = Attention((Window(size=1, both=False, align="top_left"),))
    every = divided(c for c in legal(window, SIZES | {"p": 200, "m": 17}) if c.schedule.rescaling == "lazy")
    cases = [c for c in every if not c.kernel.steps]
    assert cases
    for case in cases:
        kernel, tensors = case.kernel, inputs(case)
        tensors[-1].fill_(float("nan"))
        run(kernel, tensors, launched)
        assert not errors(case, kernel, tensors)


RISES = {"slowly": 0.05, "by tiles": 3.0, "beyond fp16": 40.0, "beyond fp32": 500.0, "falling": -40.0}
"""By how much a score grows with the key."""


def rising(case: Case, by: float) -> list[torch.Tensor]:
    """Inputs whose scores grow with the key, of some queries only."""
    tensors = inputs(case)
    known = dict(zip((a.name for a in case.kernel.arguments), tensors, strict=True))
    keys = torch.arange(known["K"].shape[2], dtype=torch.float32)
    known["Q"][..., 0] = torch.where(torch.arange(known["Q"].shape[2]) % 3 == 0, 1.0, 0.0)
    known["K"][..., 0] = (keys * by).to(known["K"].dtype)
    return tensors


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("by", RISES)
def test_scores_that_lazy_rescaling_does_not_serve(by: str, dtype: str) -> None:
    case = specialised(rescaling="lazy", causal="top_left", kv_seq=300, dtype=dtype, scale=0.5)
    tensors = rising(case, min(RISES[by], 200.0) if dtype == "fp16" else RISES[by])
    run(case.kernel, tensors, 1)
    assert not errors(case, case.kernel, tensors, times=2.0)


def test_infinite_values_stay_infinite() -> None:
    for causal, rescaling in itertools.product((None, "top_left"), RESCALING):
        case = specialised(seq=128, kv_seq=128, causal=causal, rescaling=rescaling)
        tensors = inputs(case)
        value = next(t for a, t in zip(case.kernel.arguments, tensors, strict=True) if a.name == "V")
        value[..., 0, :] = float("inf")
        run(case.kernel, tensors, 1)
        assert tensors[-1].isposinf().all()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"warps": 4}, "64 rows a group"),
        ({"dtype": "fp32"}, "whole tiles of fp16 or bf16"),
        ({"packed": True, "heads": 4, "kv_heads": 2}, "divided work"),
        ({"passes": 3, "rescaling": "lazy"}, "lazy rescaling"),
        ({"passes": 2, "rescaling": "lazy"}, "lazy rescaling"),  # weights in one loop, their sum in another
    ],
)
def test_what_they_cannot_divide_is_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        _ = specialised(**change).kernel


def test_a_schedule_with_lazy_rescaling_has_a_plain_form() -> None:
    plain = plain_schedule(specialised(rescaling="lazy").schedule)
    assert (plain.warp_specialisation, plain.rescaling) == ("none", "eager")


def test_lazy_rescaling_costs_less() -> None:
    machine = load_machine("h200")
    shape = {"heads": 32, "batch": 4, "seq": 2048, "kv_seq": 2048, "columns": 128}
    eager, lazy = (specialised(**shape, rescaling=r) for r in RESCALING)
    first, second = (estimate(c.plan, c.schedule, machine).seconds for c in (lazy, eager))
    assert 0.75 < first / second < 0.98


def test_where_they_are_offered() -> None:
    large = specialised(heads=32, seq=2048, kv_seq=2048, head_dim=128)
    offered = [s for s in schedules(large.cascade, large.problem, "triton") if s.is_specialised]
    assert offered and all(s.loads == "descriptor" and s.stages > 1 and s.pipelined == "none" for s in offered)
    assert {(s.role("p").tile, s.warps) for s in offered} == {(64, 4), (128, 8)}
    assert all(not s.is_specialised for s in schedules(large.cascade, large.problem, "torch"))
    assert unsupported(offered[0], load_machine("h100")) is None
    for machine in ("a100", "b200", "mi300x"):
        assert "specialised warps" in str(unsupported(replace(offered[0], loads="pointer"), load_machine(machine)))


@pytest.mark.parametrize(
    ("rows", "columns", "head_dim", "most"), [(128, 128, 128, 1), (64, 64, 128, 2), (64, 64, 64, 3)]
)
def test_how_many_run_at_once(rows: int, columns: int, head_dim: int, most: int) -> None:
    """What the kernel launches on a multiprocessor is what the model places there."""
    case = specialised(rows=rows, warps=rows // 16, columns=columns, head_dim=head_dim, seq=2048, kv_seq=2048)
    assert case.kernel.resident == most
    assert programs_per_sm(resources(case.plan, case.schedule, load_machine("h200")), load_machine("h200")) == most


@pytest.mark.parametrize(("rows", "columns", "stages", "copies"), [(128, 128, 2, 2), (64, 64, 2, 2), (128, 128, 3, 1)])
def test_what_stays_is_loaded_ahead_where_there_is_room(rows: int, columns: int, stages: int, copies: int) -> None:
    shape = {"head_dim": 128, "seq": 2048, "kv_seq": 2048}
    case = specialised(rows=rows, warps=rows // 16, columns=columns, stages=stages, **shape)
    assert f"[{copies * rows // 64}, 1, 1, 64, 128], Q_descriptor.layout" in case.kernel.source
    predicted = resources(case.plan, case.schedule, load_machine("h200"))
    assert predicted.shared_bytes == 2 * 128 * (rows * copies + 2 * columns * stages + rows)


def test_the_model_prefers_them_where_they_were_measured_faster() -> None:
    machine = load_machine("h200")
    shape = {"heads": 32, "batch": 4, "seq": 2048, "kv_seq": 2048, "head_dim": 128, "loads": "descriptor"}
    alike = attention_case(1, **shape, rows=64, columns=64, stages=3, dtype="bf16")
    divided = specialised(**shape, columns=128)
    first, second = (estimate(c.plan, c.schedule, machine).seconds for c in (divided, alike))
    assert 0.7 < first / second < 0.95


def test_what_serves_tensors_and_machines_of_another_kind() -> None:
    """A winner of specialised warps has a plain form, which a neighbour's machine without them gets at once."""
    case = specialised(head_dim=128, columns=128, stages=3, seq=2048, kv_seq=2048)
    plain = plain_schedule(case.schedule)
    kernel = replace(case, schedule=plain).kernel
    assert kernel.emitter == "triton" and not kernel.uses_descriptors and kernel.stages == 2
    same = nearest_schedule(plain, case.cascade, case.problem)
    assert same.role("p") == plain.role("p") and same.role("m") == plain.role("m") and same == plain_schedule(same)
    smaller = specialised(head_dim=128, seq=40, kv_seq=3000)
    near = nearest_schedule(plain, smaller.cascade, smaller.problem)
    assert not near.is_specialised and near.loads == "pointer"
    assert nearest_schedule(case.schedule, smaller.cascade, smaller.problem).warp_specialisation == "producer_consumer"


@pytest.mark.parametrize(("dtype", "emitter"), [("bf16", "gluon"), ("fp32", "triton")])
def test_a_neighbours_record_serves_what_these_warps_cannot_divide(dtype: str, emitter: str, tmp_path: Path) -> None:
    case = specialised(head_dim=128, columns=128, seq=2048, kv_seq=2048, rescaling="lazy")
    text = str(case.cascade)
    record = Record(text, case.schedule, case.kernel.digest, 1e-3, 1e-3, 1e-3)
    problem = replace(case.problem, cascade=text, dtypes=dict.fromkeys(case.problem.dtypes, dtype))
    key = Key.of(problem, Platform("a GPU", 132, "8", "2.11", "3.6", "580"))
    entry = Entry(key, record, tmp_path / "a record", shipped=True)
    kernels = choices._from_record(entry, problem, "triton", tmp_path, exact=False)
    assert kernels is not None and kernels.kernel.emitter == emitter


def test_two_kernels_of_one_module_keep_apart() -> None:
    case = specialised(seq=64, kv_seq=256, rows=64, warps=4)
    first, second = (emit(case.plan, case.schedule, entry) for entry in ("kernel", "kernel_2"))
    names = [set(re.findall(r"^(?:def )?(\w+)(?: =|\()", k.source, re.MULTILINE)) for k in (first, second)]
    assert names[0] & names[1] == {
        "load_block",
        "store_block",
        "group_barrier",
        "rescaled",
        "rescaling",
        "rescaling_operands",
    }


@pytest.mark.interpreter
def test_parts_and_what_merges_them(execute) -> None:
    """Both dialects in one module: the parts by specialised warps, their merging by Triton."""
    case = specialised(parts=2, seq=100, kv_seq=500, rows=64, warps=4)
    kernel, tensors = case.kernel, inputs(case)
    assert [step.emitter for step in kernel.steps] == ["gluon", "triton"] and "\nimport triton\n" in kernel.source
    perform(kernel, tensors, execute)
    assert not errors(case, kernel, tensors)


def test_loops_whose_ends_are_computed_are_not_divided() -> None:
    """The group that loads computes nothing: it knows no more than numbers that a kernel before has left."""
    variant = ALONE["documents, causal"]
    case = modified(variant)
    (look,) = build_program(case.cascade, case.problem, replace(case.schedule, bounds="program")).kernels
    assert "where loops of specialised warps end" in str(fault(look))
    assert [fault(plan) for plan in case.program.kernels if is_divided(plan)] == [None]


def test_programs_whose_length_data_says_are_taken_from_a_queue() -> None:
    packed = modified(ALONE["documents, causal"])
    assert [step.emitter for step in packed.kernel.steps] == ["triton", "gluon", "triton"]
    assert packed.kernel.steps[1].resident is not None and "atomic_add" in packed.kernel.source
    assert packed.kernel.workspaces[-1] == Argument("TAKEN", (1,), "int32", True)
    assert "atomic_add" not in modified(ALONE["causal"]).kernel.source
    # nothing runs before it that could clear a counter: each of its programs is launched
    assert emit(packed.program.kernels[1], packed.schedule).resident is None


@COMPILES
@pytest.mark.parametrize(
    ("columns", "head_dim"),
    [
        pytest.param(columns, head_dim, marks=[pytest.mark.soak] if i != j and (i, j) != (2, 0) else [])
        for i, columns in enumerate((16, 64, 128))
        for j, head_dim in enumerate((64, 128, 256))
    ],
)
def test_there_are_registers_for_every_instruction(head_dim: int, columns: int, tmp_path: Path) -> None:
    """A small tile leaves room for three programs of few registers each, which a wide product may not start with."""
    case = specialised(rows=64, warps=4, columns=columns, head_dim=head_dim, seq=2048, kv_seq=2048)
    made = compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path).resources
    assert made.registers_per_thread <= (case.kernel.registers or 0)


@COMPILES
def test_a_compiler_that_fails_says_so_once(capfd: pytest.CaptureFixture[str]) -> None:
    kernel = specialised(rows=64, warps=4, head_dim=128).kernel
    (made,) = compile_many([replace(kernel, registers=40)], "sm_90")
    assert isinstance(made, CompileFailure) and "registers" in made.message
    assert "ptxas" not in "".join(capfd.readouterr())


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_says_so() -> None:
    case = specialised()
    with pytest.raises(LaunchError, match="CUDA device"):
        load(case.kernel)(inputs(case))


@pytest.mark.gpu
@ON_GPU
@pytest.mark.parametrize("by", RISES)
def test_rising_scores_on_a_gpu(by: str) -> None:
    case = specialised(rescaling="lazy", causal="top_left", seq=1000, kv_seq=1000, head_dim=128, columns=128, scale=0.5)
    tensors = [t.cuda() for t in rising(case, RISES[by])]
    load(case.kernel)(tensors)
    assert not errors(case, case.kernel, [t.cpu() for t in tensors], times=2.0)


@pytest.mark.gpu
@ON_GPU
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu(name: str) -> None:
    case = specialised(**CASES[name])
    tensors = [t.cuda() for t in inputs(case)]
    launch = load(case.kernel)
    for _ in range(2):  # by the front end, then directly
        tensors[-1].fill_(float("nan"))
        launch(tensors)
        assert not errors(case, case.kernel, [t.cpu() for t in tensors])
