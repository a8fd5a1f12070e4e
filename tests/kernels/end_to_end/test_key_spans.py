"""Stretches of keys that integers name, a number for each row: loops run from the least to the greatest of a tile's, as
far as data says, and mask nothing where all rows see a tile."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_forms import DTYPES, Case, derived, errors

from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.search.measure.inputs import draw_inputs
from eintune.space.plan.bounds import Number, bound_value, numbers
from eintune.space.plan.bounds_prepass import BOUNDS
from eintune.space.plan.plan import Loop
from eintune.space.plan.roles import Role
from eintune.space.plan.values import Load
from eintune.space.schedule.schedule import FILTERS, Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.spans import Spans

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
QUERIES, KEYS = 37, 101


def case_of(
    emitter: str, tiles: tuple[int, int] = (16, 16), dtype: str = "fp32", lengths: tuple[int, int] = (QUERIES, KEYS),
    page: int | None = None, parts: int = 1, axes: str = "bp", width: int = 16, **schedule: object,
) -> Case:  # fmt: skip
    sizes = {"b": 2, "h": 2, "p": lengths[0], "m": lengths[1], "e": width, "f": width}
    if page:
        sizes |= {"x": 60, "o": page, "j": -(-lengths[1] // page)}
    problem = posed(Attention((Spans(axes),), page=page), sizes, dtype, {"scale": 0.3})
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", tiles[0])}
    roles |= {"m": Role("loop", tiles[1], parts), "e": Role(None, width), "f": Role(None, width)}
    return Case(derived(problem.cascade)[0], problem, Schedule(emitter, tuple(roles.items()), **schedule))  # type: ignore[arg-type]


def documents(case: Case) -> dict[str, torch.Tensor]:
    """Inputs whose rows see documents up to where they stand, and some nothing: with numbers beyond both ends."""
    data = draw_inputs(case.problem, "cpu", 1)
    rows, keys = data["FIRST"].shape[-1], case.problem.sizes["m"]
    at = torch.arange(rows) * keys // rows
    data["FIRST"][:], data["END"][:] = at // 25 * 25, at + 1
    data["FIRST"][0, 3], data["END"][0, 5] = -50, keys + 999
    data["FIRST"][0, 20], data["END"][0, 7] = 2**31 - 1, -(2**31)
    data["END"][1, 16:32] = 0  # a whole tile of rows
    return data


def run(execute, case: Case, data: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    kernel = case.kernel
    known = data | {a.name: torch.full(a.shape, 77, dtype=DTYPES[a.dtype]) for a in kernel.workspaces}
    known |= {a.name: torch.full(a.shape, torch.nan, dtype=DTYPES[a.dtype]) for a in kernel.arguments if a.output}
    for step in kernel.launches:
        tensors = [known[a.name].to(DTYPES[a.dtype]) for a in step.arguments]
        execute(step, tensors)
        known |= dict(zip((a.name for a in step.arguments), tensors, strict=True))
    return [known[a.name] for a in kernel.arguments]


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize(("bounds", "parts", "page"), [("program", 1, None), ("kernel", 1, None), ("program", 3, 8)])
def test_rows_see_their_own_stretches(
    bounds: str, parts: int, page: int | None, filters: str, emitter: str, execute
) -> None:
    case = case_of(emitter, filters=filters, bounds=bounds, parts=parts, page=page)
    assert not errors(case, case.kernel, run(execute, case, documents(case)))


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("page", [None, 8])
def test_what_no_row_sees_may_be_anything(page: int | None, emitter: str, execute) -> None:
    case = case_of(emitter, page=page, filters="segments")
    clean = documents(case)
    clean["END"].clamp_(max=90)
    made = run(execute, case, clean)[-1]
    spoiled = {n: t.clone() for n, t in clean.items()}
    for n in ("K", "V") if page is None else ("KC", "VC"):
        if page is None:
            spoiled[n][:, :, 90:] = torch.nan
        else:
            for b in range(2):  # the pages of keys 96 and beyond: each is used once
                spoiled[n][spoiled["BT"][b, 12:].long()] = torch.nan
    assert any(t.isnan().any() for t in spoiled.values() if t.is_floating_point())
    torch.testing.assert_close(run(execute, case, spoiled)[-1], made)
    assert made.isfinite().all()


def test_a_loop_runs_over_what_some_row_sees_and_unmasked_over_what_all_see() -> None:
    (loop,) = (x for x in case_of("triton", filters="segments").plan.root.items if isinstance(x, Loop))
    found = {v.name: v for s in loop.segments for b in (s.lo, s.hi) for v in numbers(b)}
    values = dict(zip(found, range(len(found)), strict=True))
    assert set(values) == {"first_least", "first_greatest", "end_least", "end_greatest"}
    rows = {"first_least": 20, "first_greatest": 37, "end_least": 70, "end_greatest": 90}

    def at(segment: object) -> tuple[int, int]:
        ends = (segment.lo, segment.hi)  # type: ignore[attr-defined]
        return tuple(bound_value(b, {}, {}, lambda v: rows[v.name]) for b in ends)  # type: ignore[return-value]

    assert [at(s) for s in loop.segments] == [(16, 48), (48, 64), (64, 90)]
    assert [len(s.known) for s in loop.segments] == [0, 3, 0]


def test_a_start_is_taken_for_the_first_key_where_it_is_priced() -> None:
    (loop,) = (x for x in case_of("triton", filters="segments").plan.root.items if isinstance(x, Loop))
    assumed: dict[str, object] = {}

    def walk(b: object) -> None:
        if isinstance(b, Number):
            assumed[b.value.name] = b.assumed
        for part in getattr(b, "args", ()) or [t for _, t in getattr(b, "terms", ())] or [getattr(b, "arg", None)]:
            if part is not None:
                walk(part)

    for s in loop.segments:
        walk(s.lo)
        walk(s.hi)
    assert assumed == {"first_least": 0, "first_greatest": 0, "end_least": KEYS, "end_greatest": KEYS}


def test_specialised_warps_are_told_by_a_kernel_before() -> None:
    problem = case_of("triton", dtype="bf16", lengths=(512, 512), width=64).problem
    form = derived(problem.cascade)[0]
    every = schedules(form, problem, "triton")
    assert {s.bounds for s in every} == set(BOUNDS) and any(s.is_specialised for s in every)
    assert {s.bounds for s in every if s.is_specialised} == {"kernel"}
    divided = next(s for s in every if s.is_specialised)
    look, main, *_ = Case(form, problem, divided).program.kernels
    assert not [x for x in look.root.items if isinstance(x, Loop)]
    (loop,) = (x for x in main.root.items if isinstance(x, Loop))
    assert all(isinstance(v, Load) for s in loop.segments for b in (s.lo, s.hi) for v in numbers(b))


def test_a_number_for_each_program_is_no_reason_for_a_kernel_before() -> None:
    problem = case_of("triton", dtype="bf16", lengths=(1, 512), axes="b", width=64, page=16).problem
    assert {s.bounds for s in schedules(derived(problem.cascade)[0], problem, "triton")} == {"program"}


@pytest.mark.offline
@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile")
@pytest.mark.parametrize("page", [None, 64])
def test_nothing_spills(page: int | None, tmp_path: Path) -> None:
    case = case_of("triton", (128, 64), "bf16", (2048, 2048), page, width=128, filters="segments", warps=8, stages=2)
    made = compile_kernel(replace(case.kernel, stages=2), "sm_90", cache_dir=tmp_path)
    assert made.resources.spill_bytes == 0 and re.search("wgmma|mma", made.assembly)
