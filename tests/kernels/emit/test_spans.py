"""What 32 bits count inside a kernel: offsets of a tile, indices of a rank, programs of a grid."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_variants import ALONE
from kernel_forms import Case, attention_case, errors, folded, inputs

from eintune.kernels.emit.kernel import Reach
from eintune.kernels.emit.spans import FARTHEST, LONGEST, fits, span, too_wide
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.launch.tensor_descriptors import fault, strides
from eintune.space.cascade.problem import Problem
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.function_modifiers import MaskMod
from eintune.space.workloads.modifiers import RelativeBias, Window

HELPERS = Path(__file__).parents[2] / "helpers"


@pytest.fixture(scope="module")
def interpreted_cases() -> dict[str, list[str]]:
    """What was wrong with each case of `large_strides.py`."""
    folders = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(HELPERS)])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": folders}
    command = [sys.executable, "-P", str(HELPERS / "large_strides.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


CASES = ["keys", "values", "rows of queries", "rows of the output", "heads along the rows", "keys in parts"]


@pytest.mark.interpreter
@pytest.mark.parametrize("name", [*CASES, "within a page", "in a program"])
def test_tiles_that_span_as_many_elements_as_an_offset_holds(
    name: str, interpreted_cases: dict[str, list[str]]
) -> None:
    """Refused before anything is launched, and right in a wide kernel; one step less is right as it is."""
    assert interpreted_cases[name] == []


@pytest.mark.parametrize("axis", [2, 3])
def test_plain_pytorch_takes_any_strides(axis: int) -> None:
    case = attention_case(1, emitter="torch", seq=32, kv_seq=32, head_dim=16, heads=1, dtype="fp16")
    tensors = inputs(case)
    stride = FARTHEST // 15 + 1
    storage = torch.empty(31 * stride + 16, dtype=torch.float16)
    far = (0, 0, stride, 1) if axis == 2 else (0, 0, 1, stride)
    tensors[1] = storage.as_strided(tensors[1].shape, far).copy_(tensors[1])
    kernel = case.kernel
    load(kernel)(tensors)
    assert not errors(case, kernel, tensors)


# ---- what a kernel says of itself


def test_a_kernel_says_how_far_its_tiles_reach() -> None:
    kernel = attention_case(1, rows=32, columns=16, seq=64, head_dim=24).kernel
    names = [a.name for a in kernel.arguments]
    found = {(names[r.argument], r.steps) for r in kernel.reaches}
    # no further than the 24 elements that there are, in a tile of 32
    assert found == {("Q", (0, 0, 31, 23)), ("K", (0, 0, 15, 23)), ("V", (0, 0, 15, 23)), ("AV", (0, 0, 31, 23))}
    assert span(Reach(0, (0, 0, 31, 23)), (9, 9, 24, 1)) == 31 * 24 + 23
    tensors = [torch.empty(1, device="meta").expand(a.shape) for a in kernel.arguments]
    assert too_wide(kernel, tensors) is None
    tensors[1] = torch.empty_strided(tensors[1].shape, (0, 0, 1, FARTHEST // 23), device="meta")
    assert "K: a tile must span less than 2**31 elements" in str(too_wide(kernel, tensors))


def test_what_is_loaded_by_descriptor_reaches_nowhere() -> None:
    """Its indices are those of the tensor, and its strides have 64 bits."""
    kernel = attention_case(1, rows=64, columns=64, seq=128, head_dim=64, dtype="bf16", loads="descriptor").kernel
    assert {kernel.arguments[r.argument].name for r in kernel.reaches} == {"AV"}


@pytest.mark.parametrize("loads", ["pointer", "descriptor"])
def test_a_wide_kernel_is_the_same_but_for_its_offsets(loads: str) -> None:
    case = attention_case(1, rows=64, columns=64, seq=128, head_dim=64, dtype="bf16", loads=loads)
    kernel, wide = case.kernel, emit(case.program, case.schedule, wide=True)
    assert not wide.reaches and wide.arguments == kernel.arguments
    back = re.sub(r"(lane_[pmef])_wide", r"\1", wide.source)
    lines = [x for x in back.splitlines() if "= tl.cast(lane_" not in x]
    assert lines == kernel.source.splitlines()


def test_contiguous_tensors_decide_while_a_kernel_is_printed() -> None:
    """Rows of 2**28 elements, 16 of them in a tile; of 2**27, 16 fit."""
    for size, wide in ((2**28, True), (2**27, False)):
        problem = Problem("s", "Zp = Xp,m", {"p": 64, "m": size}, {"X": "fp32", "Z": "fp32"})
        schedule = Schedule("triton", (("p", Role("grid", 16)), ("m", Role("loop", 64))))
        kernel = Case(problem.definition, problem, schedule).kernel
        assert ("lane_p_wide[:, None] * stride_X_p" in kernel.source) == wide
        assert fits(kernel.reaches, kernel.arguments)


@pytest.mark.offline
@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile")
def test_a_wide_kernel_compiles(tmp_path: Path) -> None:
    case = attention_case(1, rows=64, columns=32, head_dim=64, seq=256, dtype="bf16")
    made = compile_kernel(emit(case.program, case.schedule, wide=True), "sm_90", cache_dir=tmp_path)
    assert "wgmma.mma_async" in made.assembly and made.resources.spill_bytes == 0


# ---- indices, grids, descriptors, filters


def test_a_rank_that_32_bits_do_not_count_is_refused() -> None:
    for size in (LONGEST, LONGEST + 1, 2**33):
        problem = Problem("s", "Zp = Xp,m", {"p": 1, "m": size}, {"X": "fp16", "Z": "fp32"})
        schedule = Schedule("triton", (("p", Role("grid", None)), ("m", Role("loop", 64))))
        case = Case(problem.definition, problem, schedule)
        if size == LONGEST:
            assert f"tl.range(0, {size}, 64)" in case.kernel.source
            continue
        with pytest.raises(ValueError, match=rf"^a kernel counts .* at most {LONGEST}, but m has {size}$"):
            emit(case.program, case.schedule)


def test_an_index_that_is_taken_for_a_number_has_32_bits_by_pytorch_too() -> None:
    """A plain one has 64 there."""
    for variant, refused in ((Attention((RelativeBias(2**32 + 16),)), True), (Attention((Window(9),)), False)):
        sizes = {"b": 1, "h": 1, "p": 16, "m": 2**32, "e": 16, "f": 16}
        roles = {r: Role("grid", None) for r in "bh"} | {"p": Role("grid", 16), "m": Role("loop", 16)}
        roles |= {r: Role(None, 16) for r in "ef"}
        problem = posed(variant, sizes, "fp32", {"scale": 1.0})
        case = Case(problem.definition, problem, Schedule("torch", tuple(roles.items())))
        if refused:
            with pytest.raises(ValueError, match=r"^a kernel counts a rank's elements in 32 bits"):
                emit(case.program, case.schedule)
        else:
            assert "4294967296" in case.kernel.source


def test_programs_are_counted_along_the_first_axis_of_a_grid() -> None:
    """Which holds 2**31 - 1 of them; the others hold 65,535."""
    sizes = {"b": 70_000, "h": 3, "p": 1, "m": 64, "e": 16, "f": 16}
    roles = {r: Role("grid", None) for r in "bhp"} | {"m": Role("loop", 16), "e": Role(None, 16), "f": Role(None, 16)}
    problem = posed(Attention(), sizes, "bf16", {"scale": 1.0})
    case = Case(problem.definition, problem, Schedule("triton", tuple(roles.items())))
    assert case.kernel.grid == (210_000,)
    many = replace(case, problem=replace(problem, sizes={**sizes, "h": 40_000}))
    with pytest.raises(ValueError, match=r"at most 2\*\*31 - 1 programs, but got 2800000000"):
        emit(many.program, many.schedule)


def test_a_stride_that_no_index_uses_does_not_matter_to_a_descriptor() -> None:
    tiles = {"rows": 64, "columns": 64, "seq": 64, "heads": 1, "head_dim": 64}
    kernel = attention_case(1, **tiles, dtype="bf16", loads="descriptor").kernel
    t = torch.empty(64 * 64, dtype=torch.bfloat16).as_strided((1, 1, 64, 64), (2**40, 2**60, 64, 1))
    tensors = [t if a.name == "K" else torch.empty(a.shape, dtype=torch.bfloat16) for a in kernel.arguments]
    assert fault(kernel, tensors) is None
    assert all(s * 2 < 2**40 for s in strides(t))


@pytest.mark.parametrize("emitter", ["torch", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("size", [2**31 - 1, 2**31 - 20])
def test_a_window_that_is_wider_than_any_sequence(size: int, both: bool, emitter: str, execute) -> None:
    """Its size plus an index would need more than 32 bits."""
    sizes = {"b": 1, "h": 1, "p": 37, "m": 21, "e": 16, "f": 16}
    roles = {r: Role("grid", None) for r in "bh"} | {"p": Role("grid", 16), "m": Role("loop", 16)}
    roles |= {r: Role(None, 16) for r in "ef"}
    made = []
    for variant in (Attention((Window(size, both),)), ALONE["plain"]):
        problem = posed(variant, sizes, "fp32", {"scale": 0.3})
        case = Case(problem.definition, problem, Schedule(emitter, tuple(roles.items())))
        tensors = inputs(case)
        execute(case.kernel, tensors)
        assert not errors(case, case.kernel, tensors)
        made.append(tensors[-1])
    assert torch.equal(*made)


LENGTHS = torch.zeros(2, dtype=torch.int32)
BY_LENGTH = {
    "below": lambda b, h, p, m: m < LENGTHS[b],
    "at most": lambda b, h, p, m: m <= LENGTHS[b],
    "above": lambda b, h, p, m: m > LENGTHS[b],
    "at least": lambda b, h, p, m: m >= LENGTHS[b],
    "aligned to the end": lambda b, h, p, m: m <= p + LENGTHS[b] - 5,
    "at a distance": lambda b, h, p, m: p - m < LENGTHS[b],
    "added to a key": lambda b, h, p, m: m + LENGTHS[b] >= p + 3,
    "added to both": lambda b, h, p, m: m - LENGTHS[b] > 2 - p,
}
LARGE = ([2, 9], [2**31 - 1, 2**31 - 4], [-(2**31), -(2**31) + 3], [2**31 - 30, -(2**31) + 30])


@pytest.mark.parametrize(
    ("emitter", "filters"),
    [
        ("torch", "segments"),
        pytest.param("triton", "segments", marks=pytest.mark.interpreter),
        pytest.param("triton", "branch", marks=[pytest.mark.interpreter, pytest.mark.soak]),
    ],
)
@pytest.mark.parametrize("name", BY_LENGTH)
def test_lengths_that_stand_for_no_limit(name: str, filters: str, emitter: str, execute) -> None:
    """The least and the greatest integers, from which nothing may be taken and to which nothing added."""
    sizes = {"b": 2, "h": 1, "p": 21, "m": 37, "e": 16, "f": 16}
    roles = {r: Role("grid", None) for r in "bh"} | {"p": Role("grid", 16), "m": Role("loop", 16)}
    roles |= {r: Role(None, 16) for r in "ef"}
    problem = posed(Attention((MaskMod(BY_LENGTH[name]),)), sizes, "fp32", {"scale": 0.3})
    schedule = Schedule(emitter, tuple(roles.items()), filters=filters)
    case = Case(folded(problem.definition, 1), problem, schedule)
    kernel, tensors = case.kernel, inputs(case)
    position = next(i for i, a in enumerate(kernel.arguments) if a.dtype == "int32")
    for lengths in LARGE:
        tensors[position] = torch.tensor(lengths, dtype=torch.int32)
        execute(kernel, tensors)
        assert not errors(case, kernel, tensors), lengths
