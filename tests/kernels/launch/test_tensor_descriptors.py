"""Tiles by tensor descriptor: right wherever pointers are, refused where memory does not allow it, cheap to launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_kernels import Compiled
from compiled_kernels import run as run_file
from kernel_errors import worst
from kernel_forms import Case, attention_case, errors, inputs
from plan_cases import Form, forms
from plan_checks import schedule_of

from eintune.costmodel.counts.resources import unsupported
from eintune.costmodel.machines.machine import load_machine
from eintune.kernels.generate.standalone import standalone
from eintune.kernels.launch.compile_pool import compile_many
from eintune.kernels.launch.launch import Launch, LaunchError
from eintune.kernels.launch.launchers import EitherLaunch, TritonLaunch, options_of
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel, contiguous, specialise
from eintune.kernels.launch.tensor_descriptors import LaunchDescriptors, fault
from eintune.kernels.serve import choices as choices_module
from eintune.kernels.serve import priced as priced_module
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.expr import Access, Reduce, Tensor
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

COMPILES = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")

CASES: dict[str, dict[str, Any]] = {
    "one of each": {"seq": 1, "kv_seq": 1, "rows": 16, "dtype": "bf16"},
    "17": {"seq": 17, "rows": 16, "dtype": "fp16"},
    "777": {"seq": 777, "heads": 1, "rows": 128, "columns": 64, "causal": "top_left", "dtype": "bf16"},
    "24 wide": {"head_dim": 24, "seq": 40, "dtype": "fp16"},
    "40 in, 80 out": {"head_dim": 40, "value_dim": 80, "seq": 33, "dtype": "bf16"},
    "256 wide": {"head_dim": 256, "seq": 33},
    "grouped": {"heads": 6, "kv_heads": 2, "seq": 33, "dtype": "bf16"},
    "filtered from the end": {"causal": "lower_right", "seq": 33, "kv_seq": 50},
    "empty rows": {"causal": "lower_right", "seq": 50, "kv_seq": 33, "dtype": "fp16"},
    "filtered, whole loop masked": {"causal": "top_left", "filters": "every", "seq": 50},
    "batches": {"batch": 3, "heads": 2, "seq": 33, "dtype": "bf16"},
}


def in_loops(passes: int = 1, **kw: Any) -> Case:
    return attention_case(passes, loads="loops", **kw)


def described(passes: int = 1, **kw: Any) -> Case:
    return attention_case(passes, loads="descriptor", **kw)


@pytest.mark.interpreter
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_forms(name: str, passes: int, execute) -> None:
    case = described(passes, **CASES[name])
    kernel, tensors = case.kernel, inputs(case)
    assert [kernel.arguments[d.argument].name for d in kernel.descriptors] == ["Q", "K", "V"]
    assert kernel.source.count("tl.load(") == 0
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),  # heads inside
        lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],  # rows apart
        lambda t: torch.cat([t, t], 2)[:, :, 8 : 8 + t.shape[2]],  # from the eighth row on
    ],
)
def test_strides_that_qualify(change: Callable[[torch.Tensor], torch.Tensor], execute) -> None:
    case = described(1, dtype="fp16", seq=33, causal="top_left", batch=2)
    kernel, tensors = case.kernel, inputs(case)
    tensors = [change(t) for t in tensors[:-1]] + tensors[-1:]
    assert not all(t.is_contiguous() for t in tensors)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.interpreter
@pytest.mark.parametrize("form", forms()[::5], ids=lambda f: f.name)
def test_tabled_computations(form: Form, execute) -> None:
    sizes = {"b": 1, "h": 2, "g": 2, "p": 19, "m": 37, "e": 24, "f": 24, "j": 24}
    schedule = replace(schedule_of(form, sizes, "triton"), loads="descriptor")
    assert worst(execute, form.definition, form.computed, sizes, form.params, schedule) < 3e-5


@pytest.mark.interpreter
@pytest.mark.parametrize("name", CASES)
def test_descriptors_in_loops_only(name: str, execute) -> None:
    case = in_loops(**CASES[name])
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


# ---- what is printed


def test_what_is_loaded_once_comes_by_pointer() -> None:
    shape = {"dtype": "bf16", "seq": 64}
    both, streamed = (
        sorted(case.kernel.arguments[d.argument].name for d in case.kernel.descriptors)
        for case in (described(1, **shape), in_loops(**shape))
    )
    assert (both, streamed) == (["K", "Q", "V"], ["K", "V"])
    pipelined = in_loops(**shape, pipelined="product")
    assert sorted(pipelined.kernel.arguments[d.argument].name for d in pipelined.kernel.descriptors) == ["K", "V"]


def test_no_load_qualifies_no_descriptor() -> None:
    for kw in ({"head_dim": 20, "dtype": "bf16"}, {"head_dim": 512}, {"dtype": "fp64"}):
        case = described(1, **kw)
        pointers = replace(case, schedule=replace(case.schedule, loads="pointer"))
        assert case.kernel == pointers.kernel and not case.kernel.descriptors


def test_only_tiles_in_the_order_of_the_tensor_are_described() -> None:
    """One number, one axis, a transposed tile and integers by pointer, the rest by descriptor."""
    x = Access(Tensor("X", ("a", "m")), ("a", "m")) * Access(Tensor("T", ("m", "a")), ("m", "a"))
    for name, kind in (("N", "float"), ("I", "int")):
        x = x * Access(Tensor(name, ("a", "m"), kind), ("a", "m"))
    x = x * Access(Tensor("R", ("a",)), ("a",)) * Access(Tensor("S", ("b",)), ("b",))
    cascade = Cascade((Einsum(Tensor("Y", ("b", "a")), Reduce("add", "m", x)),))
    dtypes = {"X": "fp32", "T": "fp32", "N": "bf16", "I": "int32", "R": "fp32", "S": "fp32", "Y": "fp32"}
    problem = Problem("order", str(cascade), {"b": 2, "a": 32, "m": 64}, dtypes)
    roles = (("b", Role("grid", None)), ("a", Role("grid", 16)), ("m", Role("loop", 32)))
    case = Case(cascade, problem, Schedule("triton", roles, loads="descriptor"))
    kernel = case.kernel
    assert {kernel.arguments[d.argument].name: d.block for d in kernel.descriptors} == {"X": (16, 32), "N": (16, 32)}
    assert ".reshape(" not in kernel.source


def test_descriptors_are_part_of_the_digest_and_of_json() -> None:
    kernel = described(1, seq=64).kernel
    assert kernel.digest != replace(kernel, descriptors=()).digest
    assert kernel.digest != replace(kernel, descriptors=kernel.descriptors[:2]).digest


# ---- tensors


def misfits() -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]]:
    return {
        "columns": (lambda t: t.mT.contiguous().mT, "K: .* a last stride of 1, but its strides are"),
        "expanded": (lambda t: t[:, :1].expand(t.shape), r"K: .* in whole units of 16 bytes, but they are \[.*0.*\]"),
        "rows apart": (lambda t: torch.cat([t, t[..., :1]], -1)[..., :-1], "K: .* strides in whole units of 16 bytes"),
        "shifted": (
            lambda t: torch.cat([t.flatten(), t.flatten()])[1 : 1 + t.numel()].view(t.shape),
            "K: .* an address in whole units of 16 bytes, but it is 2 bytes off",
        ),
    }


@pytest.mark.parametrize("name", misfits())
def test_tensors_that_do_not_qualify_are_refused_by_name(name: str) -> None:
    change, says = misfits()[name]
    kernel, tensors = (case := described(1, dtype="fp16", seq=32)).kernel, inputs(case)
    assert fault(kernel, tensors) is None
    tensors[1] = change(tensors[1])
    with pytest.raises(LaunchError, match=says):
        load(kernel)(tensors)
    assert fault(replace(kernel, descriptors=()), tensors) is None


@pytest.mark.parametrize("name", misfits())
@pytest.mark.interpreter
def test_what_is_refused_runs_by_pointer(name: str, execute) -> None:
    case = described(1, dtype="fp16", seq=32)
    plain = replace(case, schedule=replace(case.schedule, loads="pointer"))
    tensors = inputs(case)
    tensors[1] = misfits()[name][0](tensors[1])
    execute(plain.kernel, tensors)
    assert not errors(plain, plain.kernel, tensors)


class Taken:
    """A launch that notes its name, or refuses."""

    def __init__(self, name: str, notes: list[str], refuses: bool = False) -> None:
        self.name, self.notes, self.refuses = name, notes, refuses

    def __call__(self, tensors: Any) -> None:
        if self.refuses:
            raise LaunchError(f"{self.name} refuses")
        self.notes.append(self.name)

    def ready(self, layout: Any) -> Any:
        return None

    def bound(self, tensors: Any, order: Any = None, general: Any = None) -> Any:
        return self


@pytest.mark.parametrize("refuses", [False, True])
def test_the_second_of_two_runs_what_the_first_refuses(refuses: bool) -> None:
    notes: list[str] = []
    launch: Launch = EitherLaunch(Taken("first", notes, refuses), lambda: Taken("second", notes))
    launch([])
    launch.bound([])([])
    assert notes == ["second" if refuses else "first"] * 2
    with pytest.raises(LaunchError, match="second refuses"):
        EitherLaunch(Taken("first", notes, True), lambda: Taken("second", notes, True))([])


def test_an_axis_of_one_element_may_have_any_stride() -> None:
    case = described(1, dtype="fp16", seq=32, heads=1)
    kernel, tensors = case.kernel, inputs(case)
    tensors[1] = tensors[1].as_strided(tensors[1].shape, (3, 0, 32, 1))
    assert fault(kernel, tensors) is None
    (_, described_k, _) = LaunchDescriptors(kernel, tensors)([t.data_ptr() for t in tensors])
    assert described_k.strides == [16, 16, 32, 1]


# ---- the runtime


@pytest.mark.parametrize("same", [True, False])
def test_a_stored_winner_brings_its_form_by_pointer(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, which may have no descriptors, only that one."""
    case = described(1, dtype="fp16", seq=64, stages=2)
    record = Record(str(case.cascade), case.schedule, case.kernel.digest, 1e-3, 1e-3, 1e-3)
    shipped, key = Cache(tmp_path, None), Key.of(case.problem, platform_of("cpu"))
    shipped.store(key if same else replace(key, machine="another"), record)
    cache = Cache(tmp_path / "own", shipped.records)
    monkeypatch.setattr(choices_module, "emitter_for", lambda problem, device: "triton")
    first = next(choices_module.choices(case.problem, torch.device("cpu"), "rows", cache))
    if same:
        assert first.kernel == case.kernel and first.plain is not None
        plain = first.plain()
        assert not plain.descriptors and "descriptor" not in plain.source
    else:
        assert not first.kernel.descriptors and first.plain is None


def test_what_was_never_measured_has_a_form_for_any_tensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pick may load by descriptors and divide its warps; beside it stands what serves tensors that lie elsewhere."""
    problem = described(1, dtype="bf16", seq=2048, head_dim=128).problem
    monkeypatch.setattr(priced_module, "machine_of", lambda device: load_machine("h200"))
    monkeypatch.setattr(choices_module, "emitter_for", lambda problem, device: "triton")
    picks = list(choices_module.choices(problem, torch.device("cpu"), "rows", Cache(tmp_path, shipped=None)))
    assert picks and picks[0].kernel.uses_descriptors
    for pick in picks:
        assert pick.plain is not None or not pick.kernel.uses_descriptors
        assert pick.plain is None or not pick.plain().uses_descriptors
        assert pick.wide is not None and not pick.wide().reaches


@pytest.mark.parametrize(("machine", "offered"), [("h200", True), ("b200", True), ("a100", False), ("mi300x", False)])
def test_machines_without_descriptors_are_offered_none(machine: str, offered: bool) -> None:
    why = unsupported(described(1).schedule, load_machine(machine))
    assert why is None if offered else str(why) == f"tensor descriptors: {machine} has none in hardware"
    assert unsupported(attention_case(1).schedule, load_machine(machine)) is None


# ---- launching


def test_descriptors_of_a_launch_are_made_once_an_address() -> None:
    case = described(1, dtype="fp16", seq=32)
    kernel, tensors = case.kernel, inputs(case)
    made = LaunchDescriptors(kernel, tensors)
    first = made([64, 128, 256, 512])
    assert [d.base.data_ptr() for d in first] == [64, 128, 256]
    assert first is made([64, 128, 256, 1024]) and first is not made([64, 128, 512, 512])
    k = first[1]
    assert (k.shape, k.strides) == ([1, 2, 32, 32], [2048, 1024, 32, 1])
    assert (k.block_shape, k.padding) == ([1, 1, 16, 32], "zero")
    for n in range(3 * LaunchDescriptors.MOST):
        assert made([16 * n, 128, 256, 512])[0].base.data_ptr() == 16 * n
    assert len(made._made) <= LaunchDescriptors.MOST


def test_a_direct_launch_hands_over_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 70, raising=False)
    case = described(1, dtype="fp16", seq=32)
    kernel, tensors = case.kernel, inputs(case)
    launch, compiled = TritonLaunch(kernel), Compiled(takes=9 + 4 + 2 + 3)
    call = launch._bind(compiled, 0, [8, 1], LaunchDescriptors(kernel, tensors))
    call([64, 128, 256, 512])
    (args,) = compiled.direct
    assert args[9:15] == (64, 128, 256, 512, 8, 1) and [d.base.data_ptr() for d in args[15:]] == [64, 128, 256]
    # The quickest of many rounds: others run on this machine, too.
    rounds = []
    for _ in range(50):
        started = time.perf_counter()
        for _ in range(50):
            call([64, 128, 256, 512])
        rounds.append(time.perf_counter() - started)
    assert min(rounds) < 50 * 25e-6  # 2 microseconds a call where nobody else runs


# ---- compiling


@COMPILES
@pytest.mark.offline
@pytest.mark.parametrize("warps", ["none", "producer_consumer"])
def test_ahead_of_time_is_the_launchs_own_specialisation(warps: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    from eintune.kernels.launch.tensor_descriptors import descriptors

    case = described(1, dtype="bf16", seq=64, head_dim=64, rows=64, warps=4, stages=2, warp_specialisation=warps)
    kernel, tensors = case.kernel, inputs(case)
    function = TritonLaunch(kernel).function
    backend = make_backend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(function.signature, function.params, backend)
    options = options_of(kernel)
    strides = [s for t in tensors for s in t.stride()]
    bound, specialization, _ = bind(*tensors, *strides, *descriptors(kernel, tensors), debug=False, **options)
    _, signature, constants, attributes = function._pack_args(backend, options, bound, specialization, options)
    ahead = specialise(kernel, function, contiguous(kernel))
    assert (signature, constants) == ahead[:2]
    # Triton 3.9 lists arguments of which nothing is known too
    assert {k: v for k, v in attributes.items() if v} == {k: v for k, v in ahead[2].items() if v}
    assert signature["K_descriptor"].startswith("tensordesc<bf16[1, 1, 16, 64]")


LARGE: dict[str, Any] = {
    "rows": 64, "columns": 64, "heads": 32, "seq": 2048, "head_dim": 128, "dtype": "bf16", "warps": 4, "stages": 3,
    "causal": "top_left", "filters": "every",
}  # fmt: skip


@COMPILES
@pytest.mark.offline
def test_descriptors_compile_to_bulk_loads_and_take_fewer_registers(tmp_path: Path) -> None:
    made = {
        loads: compile_kernel(attention_case(1, loads=loads, **LARGE).kernel, "sm_90", cache_dir=tmp_path)
        for loads in ("pointer", "descriptor")
    }
    by = made["descriptor"]
    assert "cp.async.bulk.tensor" in by.assembly and "cp.async.cg" not in by.assembly
    assert "wgmma.mma_async" in by.assembly and by.resources.spill_bytes == 0
    assert by.resources.registers_per_thread < made["pointer"].resources.registers_per_thread


@COMPILES
@pytest.mark.offline
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("head_dim", [24, 128])
def test_widths_and_dtypes_compile(dtype: str, head_dim: int, tmp_path: Path) -> None:
    small = {"rows": 64, "columns": 32, "seq": 256, "heads": 4, "kv_heads": 2, "stages": 2}
    kernel = described(1, dtype=dtype, head_dim=head_dim, **small).kernel
    (found,) = compile_many([kernel], "sm_90", workers=1, cache_dir=tmp_path)
    assert found == compile_kernel(kernel, "sm_90", cache_dir=tmp_path).resources


# ---- one file


@pytest.mark.interpreter
def test_a_file_of_its_own(tmp_path: Path) -> None:
    case = described(1, dtype="fp16", seq=33, causal="top_left", heads=4, kv_heads=2)
    done = run_file(standalone(case.kernel, case.problem, Cascade.parse(case.problem.cascade)), tmp_path / "k.py")
    assert done.returncode == 0 and ": ok" in done.stdout, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("head_dim", [24, 64, 128])
def test_repeated_calls_on_a_gpu(dtype: str, head_dim: int) -> None:
    case = described(1, dtype=dtype, seq=300, causal="top_left", head_dim=head_dim, rows=64, columns=32)
    kernel = case.kernel
    run = load(kernel)
    for seed in range(3):  # the first through the front end, the others directly
        tensors = [t.cuda() for t in inputs(case, seed)]
        run(tensors)
        assert not errors(case, kernel, [t.cpu() for t in tensors])
    assert isinstance(run, TritonLaunch) and len(run._direct) == 1
