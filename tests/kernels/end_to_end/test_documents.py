"""Packed sequences: whatever numbers queries and keys hold, tiles that are said to agree throughout do."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_forms import DTYPES, Case, derived, errors

from eintune.costmodel.counts.work import work
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.serve.attention import attention
from eintune.search.measure.inputs import draw_inputs
from eintune.space.plan.bounds_prepass import BOUNDS
from eintune.space.plan.roles import Role
from eintune.space.plan.values import Load
from eintune.space.plan.warp_specialisation import products_of
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Causal, Documents, Modifier, Prefix, Window

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
BESIDE: dict[str, tuple[Modifier, ...]] = {
    "alone": (),
    "causal": (Causal(),),
    "lower right": (Causal("lower_right"),),
    "causal window": (Causal(), Window(20)),
    "window to both sides": (Window(9, both=True),),
    "prefix": (Prefix(18),),
}


def numbers(kind: str, count: int, random: torch.Generator) -> torch.Tensor:
    """Documents of two sequences: two rows of `count` whole numbers, negative ones too."""
    match kind:
        case "one":
            return torch.full((2, count), int(torch.randint(-1, 2, (1,), generator=random)))
        case "packed" | "shuffled":
            documents = int(torch.randint(1, 4, (1,), generator=random))
            rows = torch.randint(0, documents, (2, count), generator=random).sort(-1).values
            if kind == "shuffled":  # runs in no order, which may come again
                rows = torch.randint(-2, 2, (documents,), generator=random)[rows]
            return rows
        case _:
            return torch.randint(-1, 2, (2, count), generator=random)


@dataclass(frozen=True)
class Packed:
    """A kernel and the numbers that it sees. queries, keys: kinds of numbers."""

    beside: str
    lengths: tuple[int, int]
    tiles: tuple[int, int]
    queries: str
    keys: str
    same: bool
    filters: str
    seed: int
    bounds: str = "program"


def case_of(packed: Packed, emitter: str, dtype: str = "fp32") -> Case:
    queries, keys = packed.lengths
    sizes = {"b": 2, "h": 2, "p": queries, "m": keys, "e": 16, "f": 16}
    problem = posed(Attention((*BESIDE[packed.beside], Documents())), sizes, dtype, {"scale": 0.3})
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", packed.tiles[0])}
    roles |= {"m": Role("loop", packed.tiles[1]), "e": Role(None, 16), "f": Role(None, 16)}
    schedule = Schedule(emitter, tuple(roles.items()), filters=packed.filters, bounds=packed.bounds)
    return Case(derived(problem.cascade)[0], problem, schedule)


KINDS = st.sampled_from(["one", "packed", "packed", "shuffled", "random"])
LENGTHS = st.sampled_from([16, 37, 64, 97, 128])
TILES = st.sampled_from([16, 32])
drawn = st.builds(
    Packed,
    st.sampled_from(list(BESIDE)),
    st.tuples(LENGTHS, LENGTHS),
    st.tuples(TILES, TILES),
    KINDS,
    KINDS,
    st.booleans(),
    st.sampled_from(["every", "segments", "branch", "branch"]),
    st.integers(0, 999),
    st.sampled_from(BOUNDS),
)


def check(execute: Callable[..., None], packed: Packed, emitter: str, times: float = 1.0) -> None:
    case = case_of(packed, emitter)
    kernel, data = case.kernel, draw_inputs(case.problem, "cpu", packed.seed)
    random = torch.Generator().manual_seed(packed.seed)
    data["DOCQ"] = numbers(packed.queries, packed.lengths[0], random)
    data["DOCK"] = numbers(packed.keys, packed.lengths[1], random)
    if packed.same:  # a sequence that attends to itself
        shared = min(packed.lengths)
        data["DOCK"][:, :shared] = data["DOCQ"][:, :shared]
    tensors = [
        torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype]) if a.output else data[a.name].to(DTYPES[a.dtype])
        for a in kernel.arguments
    ]
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors, times), packed


@pytest.mark.parametrize("emitter", EMITTERS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(packed=drawn)
def test_any_numbers(emitter: str, execute, packed: Packed) -> None:
    check(execute, packed, emitter)


@pytest.mark.soak
@pytest.mark.parametrize("emitter", EMITTERS)
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(packed=drawn)
def test_many_numbers(emitter: str, execute, packed: Packed) -> None:
    check(execute, packed, emitter, times=2.0)


PADDED = {"end": [0, 0, 1, 1, 2, -1], "start": [-1, 0, 0, 1, 1, 2], "between": [0, -1, 1, 1, 9, 2], "all": [-1] * 6}
"""Documents of stretches of keys, of which -1 and 9 are those of no query."""


def padded(case: Case, where: str, value: float) -> dict[str, torch.Tensor]:
    """Inputs of one batch, in which keys and values of such stretches are `value`."""
    data, count = draw_inputs(case.problem, "cpu", 0), case.problem.sizes["m"]
    stretches = torch.tensor(PADDED[where])[torch.arange(count) * 6 // count]
    data["DOCK"][:] = stretches
    data["DOCQ"][:] = torch.arange(data["DOCQ"].shape[1]) * 3 // data["DOCQ"].shape[1]
    data["K"][:, :, (stretches < 0) | (stretches > 2)] = value
    data["V"][:, :, (stretches < 0) | (stretches > 2)] = value
    return data


def output(execute: Callable[..., None], case: Case, data: dict[str, torch.Tensor]) -> torch.Tensor:
    kernel = case.kernel
    known = data | {a.name: torch.full(a.shape, 77, dtype=DTYPES[a.dtype]) for a in kernel.workspaces}
    known |= {a.name: torch.full(a.shape, torch.nan, dtype=DTYPES[a.dtype]) for a in kernel.arguments if a.output}
    for step in kernel.launches:
        tensors = [known[a.name].to(DTYPES[a.dtype]) for a in step.arguments]
        execute(step, tensors)
        known |= dict(zip((a.name for a in step.arguments), tensors, strict=True))
    return known["AV"]


def check_padding(execute: Callable[..., None], case: Case) -> None:
    for where in PADDED:
        clean = output(execute, case, padded(case, where, 0.0))
        assert clean.isfinite().all() and (where == "all" or clean.any())
        for value in (torch.nan, -torch.inf):
            made = output(execute, case, padded(case, where, value))
            torch.testing.assert_close(made, clean, msg=f"{where}, {value}")


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("filters", ["every", "segments", "branch"])
@pytest.mark.parametrize(("beside", "dtype"), [("alone", "bf16"), ("window to both sides", "fp32")])
def test_the_padding_of_a_packed_batch_may_be_anything(
    beside: str, dtype: str, filters: str, emitter: str, execute
) -> None:
    bounds = BOUNDS[filters == "segments"]
    packed = Packed(beside, (37, 48), (16, 16), "packed", "packed", False, filters, 0, bounds)
    case = case_of(packed, emitter, dtype)
    check_padding(execute, case)
    if emitter == "torch":
        for form in derived(case.problem.cascade)[1:]:
            check_padding(execute, replace(case, cascade=form))
        roles = tuple((r, Role("loop", 16, 2) if r == "m" else role) for r, role in case.schedule.roles)
        check_padding(execute, replace(case, schedule=replace(case.schedule, roles=roles, bounds="program")))


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("by", [1, -9])
def test_lanes_beyond_the_end_are_of_no_document(by: int, emitter: str, execute) -> None:
    """Their number reads as 0, as that of padding may be: beside documents from 1 on, or up to -1."""
    case = case_of(Packed("alone", (37, 48), (16, 16), "packed", "packed", False, "every", 0), emitter)
    data = padded(case, "end" if by > 0 else "between", torch.nan)
    data["DOCK"] += by
    data["DOCQ"] += by
    assert (data["DOCK"] == 0).any() and not (data["DOCQ"] == 0).any()
    assert output(execute, case, data).isfinite().all()


def test_numbers_that_a_function_compares_hide_padding_too() -> None:
    data = padded(
        case_of(Packed("alone", (37, 48), (16, 16), "", "", False, "every", 0), "torch"), "between", torch.nan
    )
    queries, keys = data["DOCQ"], data["DOCK"]
    made = attention(*(data[n] for n in "QKV"), mask_mod=lambda b, h, p, m: queries[b, p] == keys[b, m])
    torch.testing.assert_close(made, attention(*(data[n] for n in "QKV"), documents=(queries, keys)))
    assert made.isfinite().all()


@pytest.mark.parametrize("filters", ["segments", "branch", "every"])
def test_tiles_are_multiplied_as_they_were_loaded(filters: str) -> None:
    """What a row does not see of them is weighted by 0; where that was not enough a tile is computed again."""
    source = case_of(Packed("alone", (256, 256), (64, 64), "", "", True, filters, 0), "triton", "bf16").kernel.source
    kernel = source.split("def kernel(")[1]
    _, *loops = kernel.split("for m_first")
    assert len(loops) == (3 if filters == "segments" else 1)
    for loop in loops:
        assert re.search(r"tl\.dot\(power_bf16, v, ", loop)


def test_specialised_warps_multiply_what_was_loaded() -> None:
    """A kernel after theirs repairs what padding spoils (`test_repair`); warps that are alike do it themselves."""
    sizes = {"b": 1, "h": 2, "p": 256, "m": 256, "e": 64, "f": 64}
    problem = posed(Attention((Documents(),)), sizes, "bf16", {"scale": 0.3})
    form = derived(problem.cascade)[0]
    divided = next(s for s in schedules(form, problem, "triton") if s.is_specialised)
    alike = replace(divided, warp_specialisation="none", rescaling="eager")
    for schedule, special in ((divided, True), (alike, False)):
        kernels = Case(form, problem, schedule).program.kernels
        (plan,) = (k for k in kernels if products_of(k) and not k.repairs)
        assert isinstance(products_of(plan)[-1].args[1], Load)
        assert bool(kernels[-1].repairs) == special and bool(plan.doubt) != special


@functools.cache
def printed(beside: str, filters: str) -> str:
    packed = Packed(beside, (256, 256), (64, 64), "packed", "packed", True, filters, 0)
    return case_of(packed, "triton", "bf16").kernel.source.split("def kernel(")[1]


@pytest.mark.parametrize("beside", ["alone", "causal", "causal window"])
def test_the_branch_holds_what_only_the_selection_needs(beside: str) -> None:
    """In a tile of one document nothing of the keys' documents is loaded or compared."""
    loop = printed(beside, "branch").split("for m_first", 1)[1]
    (branch,) = re.findall(r"\n {8}if m_first.*((?:\n {12}.*)+)", loop)
    common = loop.replace(branch, "")
    assert re.search(r"\n {12}dock = tl\.load\(", branch) and " == dock[None, :]" in branch
    assert re.search(r"\n {12}select = tl\.where\(eq, ", branch)
    assert branch.count("tl.where") == {"alone": 1, "causal": 2, "causal window": 3}[beside]
    assert "dock" not in common and "select = tl.where" not in common


def test_every_tile_compares_where_the_schedule_says_so() -> None:
    source = printed("causal", "every")
    assert "if m_first" not in source and "m_agree_count" not in source
    assert source.split("for m_first", 1)[1].count("dock = tl.load(") == 1


@pytest.mark.parametrize("keys", [32, 48])
def test_queries_and_keys_of_one_sequence_are_drawn_alike(keys: int) -> None:
    problem = posed(Attention((Documents(),)), {"b": 2, "h": 1, "p": 32, "m": keys, "e": 8, "f": 8}, "fp32", {})
    data = draw_inputs(problem, "cpu")
    assert torch.equal(data["DOCQ"], data["DOCK"]) == (keys == 32)
    assert all((data[n].diff(dim=-1) >= 0).all() and len(data[n].unique()) > 1 for n in ("DOCQ", "DOCK"))


@pytest.mark.offline
@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process interprets, it cannot compile")
@pytest.mark.parametrize(("rows", "columns", "warps"), [(64, 64, 4), (128, 128, 8)])
def test_nothing_spills(rows: int, columns: int, warps: int, tmp_path: Path) -> None:
    """The branch takes the comparisons of numbers out of the loop's common path, and their registers."""
    tile = rf"arith\.cmpi .*tensor<{rows}x{columns}x"
    compared = {}
    for filters in ("every", "branch"):
        case = case_of(
            Packed("causal", (2048, 2048), (rows, columns), "one", "one", True, filters, 0), "triton", "bf16"
        )
        case = replace(case, schedule=replace(case.schedule, warps=warps, stages=2, loads="descriptor"))
        made = compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path)
        assert made.resources.spill_bytes == 0
        assert "redux.sync" in made.assembly  # whole numbers are reduced by an instruction of their own
        loop = made.ttgir[made.ttgir.index("scf.for") :]
        common = re.sub(r"scf\.if [^\n]*-> \(tensor.*?\} else \{", "", loop, flags=re.DOTALL)
        compared[filters] = len(re.findall(tile, common)), len(re.findall(tile, loop))
    assert compared == {"every": (2, 2), "branch": (0, 2)}


@pytest.mark.parametrize("filters", ["segments", "branch"])
def test_tiles_of_one_document_are_priced_without_its_numbers(filters: str) -> None:
    """Four documents are assumed: of the 4 tiles of keys in each a tile of queries sees 2.5, all but the last clear."""
    packed = Packed("causal", (1024, 1024), (64, 64), "one", "one", True, filters, 0)
    every, clear, last = work(case_of(packed, "triton", "bf16").plan, Schedule("triton", ())).phases[1:]
    assert (every.executions, clear.executions, last.executions) == (0.0, 1.5, 1.0)
    assert (clear.block.loads, last.block.loads) == (2, 3)  # keys and values, and the keys' documents
    compared = 64 * 64 * (2 + 1 + 1)  # slots: filter, comparison, selection
    assert last.traffic.fma_flops - clear.traffic.fma_flops == 2 * compared
