"""Keys and values in pages, with a length a sequence: derived forms by every emitter, against float64."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_forms import errors
from page_forms import LENGTHS, pages_case, tensors_of

from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.space.plan.roles import Role

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("tile", [16, 32])
@pytest.mark.parametrize("page", [64, 32, 16, 24, 7, 128])
def test_pages_and_tiles(page: int, tile: int, emitter: str, execute) -> None:
    case = pages_case(emitter, page, tile)
    kernel = case.kernel
    tensors = tensors_of(case.problem, kernel)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)
    assert not tensors[-1][0].any(), "a sequence without keys is 0"


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("more", [{"dtype": "bf16"}, {"dtype": "fp16", "seq": 3}, {"kv_heads": 6, "value_dim": 16}])
def test_other_problems(more: dict[str, object], emitter: str, execute) -> None:
    case = pages_case(emitter, 32, 16, **more)  # type: ignore[arg-type]
    if "g" not in case.problem.sizes:
        roles = tuple((r, x) for r, x in case.schedule.roles if r not in "gp")
        case = replace(case, schedule=replace(case.schedule, roles=(*roles, ("p", Role("grid", 16)))))
    kernel = case.kernel
    tensors = tensors_of(case.problem, kernel)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("filters", ["every", "segments", "branch"])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_lies_beyond_a_length_is_not_visited(parts: int, filters: str, emitter: str, execute) -> None:
    """Pages that no key of a sequence lies in hold NaN, which any weight, 0 too, would carry into the result."""
    case = pages_case(emitter, 32, 16, parts=parts, filters=filters)
    kernel = case.kernel
    tensors = tensors_of(case.problem, kernel)
    named = {a.name: t for a, t in zip(kernel.arguments, tensors, strict=True)}
    finite = {n: named[n].clone() for n in ("KC", "VC")}
    for b, length in enumerate(LENGTHS):
        for page in named["BT"][b, -(-length // 32) :]:
            named["KC"][page], named["VC"][page] = torch.nan, torch.nan
    execute(kernel, tensors)
    for n, t in finite.items():
        named[n].copy_(t)
    assert not errors(case, kernel, tensors)


@pytest.mark.parametrize("emitter", EMITTERS)
def test_a_table_that_points_nowhere_reads_nothing(emitter: str, execute) -> None:
    """What a sequence does not reach may be padded with anything."""
    case = pages_case(emitter, 32, 16)
    kernel = case.kernel
    tensors = tensors_of(case.problem, kernel)
    execute(kernel, tensors)
    table = next(t for a, t in zip(kernel.arguments, tensors, strict=True) if a.name == "BT")
    made, used = tensors[-1].clone(), torch.tensor([-(-n // 32) for n in LENGTHS])
    beyond = torch.arange(table.shape[1]) >= used[:, None]
    for padding in (-1, 2**31 - 1):
        table[beyond] = padding
        execute(kernel, tensors)
        assert torch.equal(tensors[-1], made)


def test_a_tile_within_a_page_looks_its_page_up_once() -> None:
    within = pages_case("triton", 64, 32).kernel.source
    assert "bt = tl.load(BT_part + tl.cast(m_first // 64, tl.int64) * stride_BT_j)" in within
    assert "(i_m %" not in within and "lane_m[:, None] * stride_KC_s" in within
    across = pages_case("triton", 16, 32).kernel.source
    assert "tl.cast(bt, tl.int64)[:, None] * stride_KC_n + (i_m % 16)[:, None] * stride_KC_s" in across
    looked_up = r"KC\[bt\.clamp\(0, \d+\), m_first % 64:m_first % 64 \+ \(m_end - m_first\), h, :\]"
    assert re.search(looked_up, pages_case("torch", 64, 32).kernel.source)


@pytest.mark.offline
@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile")
@pytest.mark.parametrize("tile", [64, 128])
def test_compiled_loads_run_ahead_16_bytes_at_a_time(tile: int, tmp_path: Path) -> None:
    case = pages_case("triton", 64, tile, "bf16", kv_seq=8192, heads=32, kv_heads=8, batch=16, head_dim=128)
    made = compile_kernel(replace(case.kernel, stages=2), "sm_90", cache_dir=tmp_path)
    widths = re.findall(r"cp\.async\.\w+\.shared\.global[^\n]*, (0x\w+|\d+),", made.assembly)
    assert widths and {int(n, 0) for n in widths} == {16}
    assert "mma" in made.assembly and made.resources.spill_bytes == 0
