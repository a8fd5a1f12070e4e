"""Compiling for GPUs that are not there: matrix units are used, nothing spills, failures are results."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_forms import attention_case

from eintune.costmodel.counts.estimate import Resources
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.launch.compile_pool import CompileFailure, CompilePool, compile_many
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import CompileError, compile_kernel, compile_offline, contiguous
from eintune.space.plan.roles import Role

pytestmark = [
    pytest.mark.offline,
    pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile"),
]

SHARED_LIMIT = 227 * 1024
GOOD = {
    "128 x 64 tiles, 128 wide": {"rows": 128, "columns": 64, "head_dim": 128, "warps": 4, "stages": 2},
    "64 x 64 tiles, 128 wide": {"rows": 64, "columns": 64, "head_dim": 128, "warps": 4, "stages": 3},
    "64 x 64, 128 wide, filtered": {
        "rows": 64,
        "columns": 64,
        "head_dim": 128,
        "warps": 4,
        "stages": 3,
        "causal": "top_left",
    },
    "64 x 128 tiles, 64 wide": {"rows": 64, "columns": 128, "head_dim": 64, "warps": 4, "stages": 2},
    "128 x 128 tiles, 8 warps": {"rows": 128, "columns": 128, "head_dim": 128, "warps": 8, "stages": 2},
}
SPILLED = {"128 x 64 tiles, 128 wide": 16}
"""Bytes of a thread that holds 192 numbers of its tiles: the factors of its two rows are too many (Triton 3.6)."""


def kernel(passes: int = 1, **kw: object) -> Kernel:
    return attention_case(passes, **{"heads": 32, "seq": 2048, "dtype": "bf16", **kw}).kernel  # type: ignore[arg-type]


SMALL: dict[str, object] = {"rows": 64, "columns": 32, "head_dim": 64, "seq": 256, "heads": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton-cache")


@pytest.mark.parametrize("name", GOOD)
def test_good_configurations_use_the_matrix_unit_and_do_not_spill(name: str, cache: Path) -> None:
    made = compile_kernel(kernel(**GOOD[name]), "sm_90", cache_dir=cache)
    assert "wgmma.mma_async" in made.assembly and "mma.sync" not in made.assembly
    assert "cp.async.cg.shared.global" in made.assembly  # loads run ahead of the products
    assert made.resources.exact and made.resources.spill_bytes <= SPILLED.get(name, 0)
    assert made.resources.registers_per_thread <= 255 and made.resources.shared_bytes <= SHARED_LIMIT


def test_one_query_over_keys_in_parts(cache: Path) -> None:
    """Eight programs for each key head; a group's queries are the rows of one product."""
    case = attention_case(heads=32, kv_heads=8, seq=1, kv_seq=8192, head_dim=128, dtype="bf16", columns=64, parts=8)
    roles = {**dict(case.schedule.roles), "g": Role("grid", 16), "p": Role("grid", None)}
    case = replace(case, schedule=replace(case.schedule, roles=tuple(roles.items()), stages=3))
    first, second = case.kernel.steps
    assert first.source.count("tl.dot(") == 2 and first.source == second.source == case.kernel.source
    made = [compile_kernel(step, "sm_90", cache_dir=cache) for step in (first, second)]
    assert "cp.async.cg.shared.global" in made[0].assembly and "mma" in made[0].assembly
    assert [m.resources.spill_bytes for m in made] == [0, 0]
    together = compile_offline(case.kernel, "sm_90", cache_dir=cache)
    assert together == made[0].resources and made[1].resources.shared_bytes < 2**14
    (pooled,) = compile_many([case.kernel], "sm_90", workers=1, cache_dir=cache)
    assert pooled == together


@pytest.mark.parametrize("passes", [2, 3])
def test_more_passes_keep_the_matrix_unit(passes: int, cache: Path) -> None:
    made = compile_kernel(kernel(passes, **GOOD["64 x 64 tiles, 128 wide"]), "sm_90", cache_dir=cache)
    assert "wgmma.mma_async" in made.assembly and made.resources.spill_bytes == 0


@pytest.mark.parametrize(
    ("architecture", "instruction"),
    [("sm_80", "mma.sync"), ("sm_90", "wgmma.mma_async"), ("sm_100", "mma"), ("gfx942", "v_mfma")],
)
def test_architectures(architecture: str, instruction: str, cache: Path) -> None:
    made = compile_kernel(kernel(**SMALL), architecture, cache_dir=cache)
    assert instruction in made.assembly
    assert made.resources.shared_bytes > 0 and made.resources.registers_per_thread > 16


def test_rows_of_40_still_load_16_bytes_at_a_time(cache: Path) -> None:
    made = compile_kernel(kernel(**{**SMALL, "head_dim": 40}), "sm_90", cache_dir=cache)
    loads = re.findall(r"cp\.async\.\w+\.shared\.global[^\n]*, (0x\w+|\d+),", made.assembly)
    assert loads and all(int(n, 0) == 16 for n in loads)


def test_strides_decide_the_code(cache: Path) -> None:
    k = kernel(**SMALL)
    rows = compile_kernel(k, "sm_90", cache_dir=cache)
    columns = tuple((*s[:-2], s[-1], a.shape[-2]) for s, a in zip(contiguous(k), k.arguments, strict=True))
    other = compile_kernel(k, "sm_90", strides=columns, cache_dir=cache)
    assert other.assembly != rows.assembly


def test_fp32_compiles_with_ieee_products(cache: Path) -> None:
    made = compile_kernel(kernel(**{**SMALL, "dtype": "fp32"}), "sm_90", cache_dir=cache)
    assert "tf32" not in made.assembly and "fma.rn.f32" in made.assembly


def test_refusals(cache: Path) -> None:
    with pytest.raises(CompileError, match="`architecture` must be sm_<number> or gfx<name>, but got 'h200'"):
        compile_offline(kernel(**SMALL), "h200")
    with pytest.raises(CompileError, match="a kernel that compiles offline is of triton or gluon"):
        compile_offline(replace(kernel(**SMALL), emitter="torch"), "sm_90")
    broken = replace(kernel(**SMALL), source=kernel(**SMALL).source.replace("tl.exp2", "tl.no_such"))
    with pytest.raises(CompileError, match="no_such"):
        compile_offline(broken, "sm_90", cache_dir=cache)


def test_many_at_once(cache: Path) -> None:
    good = kernel(**SMALL)
    broken = replace(good, source=good.source.replace("tl.exp2", "tl.no_such"))
    deadly = replace(good, source=good.source.replace("import triton\n", "import os\nos._exit(7)\n"))
    hangs = replace(good, source="while True: pass\n" + good.source)
    found = compile_many([good, broken, deadly, hangs, good], "sm_90", workers=2, timeout=10, cache_dir=cache)
    assert found[0] == found[4] == compile_offline(good, "sm_90", cache_dir=cache)
    statuses = [f.status for f in found if isinstance(f, CompileFailure)]
    assert statuses == ["compile-error", "crashed", "timeout"]
    messages = [f.message for f in found if isinstance(f, CompileFailure)]
    assert "no_such" in messages[0] and "exit code 7" in messages[1] and "10 s" in messages[2]


def test_a_pool_leaves_time_for_something_else(cache: Path) -> None:
    hangs = replace(kernel(**SMALL), source="while True: pass\n" + kernel(**SMALL).source)
    begun: list[float] = []
    with CompilePool(workers=1, timeout=3, cache_dir=cache) as pool:
        (found,) = pool.compile([hangs], "sm_90", lambda: begun.append(time.monotonic()))
    assert isinstance(found, CompileFailure) and found.status == "timeout"
    assert len(begun) == 1 and time.monotonic() - begun[0] > 2


def test_a_pool_keeps_its_children(cache: Path) -> None:
    good = kernel(**SMALL)
    hangs = replace(good, source="while True: pass\n" + good.source)
    with CompilePool(workers=2, timeout=10, cache_dir=cache) as pool:
        pool.start()
        first = [child.pid for child in pool._children]
        assert len(set(first)) == 2
        assert isinstance(pool.compile([good], "sm_90")[0], Resources)
        assert isinstance(pool.compile([hangs], "sm_90")[0], CompileFailure)
        assert [child.pid for child in pool._children] == [None, first[1]]
        assert isinstance(pool.compile([good, good], "sm_90")[1], Resources)
        last = [child.pid for child in pool._children if child.pid]
    assert len(last) == 2
    for pid in last:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_products_and_sums_are_fused_whatever_the_environment_says(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels are written and measured so; another default would change their times and their last digits."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    assert "fma.rn.f32" in compile_kernel(kernel(), "sm_90", cache_dir=cache).assembly
