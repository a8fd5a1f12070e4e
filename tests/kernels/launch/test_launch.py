"""From source to a call: checks of tensors, modules, the direct launch of a compiled kernel, the interpreter."""

from __future__ import annotations

import inspect
import linecache
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from compiled_kernels import Compiled
from hypothesis import given
from hypothesis import strategies as st
from kernel_forms import attention_case, errors, inputs

from eintune.kernels.generate.emitters import EMITTERS, emit
from eintune.kernels.launch.interpreter_fixes import rounded, widened
from eintune.kernels.launch.launch import LaunchError, layout_of
from eintune.kernels.launch.launchers import EitherLaunch, TritonLaunch
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted, module_of
from eintune.kernels.launch.steps import StepsLaunch

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")


def test_wrong_tensors_are_refused_by_name() -> None:
    case = attention_case(1, emitter="torch", seq=20)
    kernel, tensors = case.kernel, inputs(case)
    run = load(kernel)
    with pytest.raises(LaunchError, match=r"the kernel takes 4 tensors \['Q', 'K', 'V', 'AV'\], but got 3"):
        run(tensors[:3])
    with pytest.raises(LaunchError, match=r"K: the shape must be \[1, 2, 20, 32\], but got \[1, 2, 19, 32\]"):
        run([tensors[0], tensors[1][:, :, :19], *tensors[2:]])
    with pytest.raises(LaunchError, match=r"V: the dtype must be fp32, but got torch\.float16"):
        run([*tensors[:2], tensors[2].half(), tensors[3]])
    with pytest.raises(LaunchError, match="an emitter is one of torch, triton, gluon, but got 'fortran'"):
        load(replace(kernel, emitter="fortran"))


@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: CPU tensors are fine")
def test_a_triton_kernel_refuses_cpu_tensors() -> None:
    case = attention_case(1, seq=20)
    with pytest.raises(LaunchError, match="needs tensors on a CUDA device, but got cpu"):
        load(case.kernel)(inputs(case))


def test_a_module_is_made_once_from_the_given_source_only() -> None:
    kernel = attention_case(1, emitter="torch", seq=20).kernel
    module = module_of(kernel)
    assert module is module_of(kernel) and module_of(replace(kernel, source=kernel.source + "\n")) is not module
    linecache.checkcache()
    assert kernel.source.endswith(inspect.getsource(getattr(module, kernel.entry)))


def test_importing_and_loading_the_torch_emitter_leaves_triton_alone() -> None:
    modules = "eintune.kernels.launch.load, eintune.kernels.generate.emitters"
    code = f"import sys, {modules}; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_registry() -> None:
    assert set(EMITTERS) == {"torch", "triton"}
    assert EMITTERS["torch"].available and not EMITTERS["torch"].needs_cuda and EMITTERS["triton"].needs_cuda
    if not torch.cuda.is_available() and not interpreted():
        assert "no CUDA device" in (EMITTERS["triton"].missing() or "")
    case = attention_case(1)
    with pytest.raises(ValueError, match=r"`emitter` must be one of \['torch', 'triton'\], but got 'gluon'"):
        emit(case.plan, replace(case.schedule, emitter="gluon"))


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 70 + device, raising=False)


def test_direct_launch_passes_pointers_and_strides(one_gpu: None) -> None:
    launch = TritonLaunch(replace(attention_case(1).kernel, grid=(5,)))
    compiled = Compiled(takes=9 + 4)
    launch._bind(compiled, 0, [8, 1])([64, 128])
    assert compiled.direct == [(5, 1, 1, 70, "function", "metadata", None, None, None, 64, 128, 8, 1)]


def test_another_launcher_or_a_hook_takes_the_public_way(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = TritonLaunch(replace(attention_case(1).kernel, grid=(5,)))
    other = Compiled(takes=3)
    launch._bind(other, 0, [8, 1])([64, 128])
    assert other.public == [((5, 1, 1), 64, 128, 8, 1)] and not other.direct

    from triton import knobs

    hooked = Compiled(takes=9 + 4)
    call = launch._bind(hooked, 0, [8, 1])
    monkeypatch.setattr(knobs.runtime, "launch_enter_hook", lambda metadata: None)
    call([64, 128])
    assert hooked.public and not hooked.direct


def test_a_bound_launch_looks_at_alignment_only(one_gpu: None) -> None:
    case = attention_case(1, seq=20)
    launch, tensors = TritonLaunch(case.kernel), inputs(case)
    general: list[Any] = []
    call = launch.bound(tensors, None, general.append)
    call(tensors)
    assert general == [tensors]  # nothing compiled for this layout yet
    compiled = Compiled(takes=9 + 4 + 16)
    strides = [s for t in tensors for s in t.stride()]
    pointers = [t.data_ptr() for t in tensors]
    launch._direct[layout_of(tensors, pointers)] = launch._bind(compiled, 0, strides)
    call(tensors)  # the general way, as far as it knows, and the last time
    call(tensors)
    launch.bound(tensors)(tensors)
    assert len(general) == 2 and [args[9:] for args in compiled.direct] == [(*pointers, *strides)] * 2
    shifted = torch.zeros(tensors[0].numel() + 1)[1:].view(tensors[0].shape)
    assert shifted.data_ptr() % 16
    call([shifted, *tensors[1:]])
    assert len(general) == 3 and len(compiled.direct) == 2
    if not interpreted():
        with pytest.raises(LaunchError, match="needs tensors on a CUDA device"):
            launch.bound(tensors)([shifted, *tensors[1:]])


def test_a_bound_launch_puts_tensors_in_the_kernels_order(one_gpu: None) -> None:
    case = attention_case(1, seq=20)
    launch, tensors = TritonLaunch(case.kernel), inputs(case)
    compiled = Compiled(takes=9 + 4)
    pointers = [t.data_ptr() for t in tensors]
    launch._direct[layout_of(tensors, pointers)] = launch._bind(compiled, 0, [])
    v, out, q, k = (tensors[i] for i in (2, 3, 0, 1))
    launch.bound([v, out, q, k], [2, 3, 0, 1], launch)([v, out, q, k])
    assert compiled.direct[0][9:] == tuple(pointers)


def test_of_two_kernels_the_one_that_took_such_tensors_is_bound(one_gpu: None) -> None:
    case = attention_case(1, seq=20)
    first, second, tensors = TritonLaunch(case.kernel), TritonLaunch(case.kernel), inputs(case)
    compiled = Compiled(takes=9 + 4)
    pointers = [t.data_ptr() for t in tensors]
    second._direct[layout_of(tensors, pointers)] = second._bind(compiled, 0, [])
    EitherLaunch(first, lambda: second).bound(tensors)(tensors)
    assert compiled.direct[0][9:] == tuple(pointers)


def test_steps_share_one_buffer_and_launch_by_address(one_gpu: None) -> None:
    case = attention_case(1, seq=20, kv_seq=80, parts=2)
    kernel, tensors = case.kernel, inputs(case)
    assert [a.name for a in kernel.arguments] == ["Q", "K", "V", "AV"]
    assert [a.name for a in kernel.workspaces] == ["REFERENCE", "SUM", "SUMB"]
    launch = load(kernel)
    assert isinstance(launch, StepsLaunch)
    given: list[Sequence[int]] = []
    pointers = [t.data_ptr() for t in tensors]
    launch._direct[layout_of(tensors, pointers)] = launch._launcher([given.append] * 2, torch.device("cpu"))
    launch.bound(tensors)(tensors)
    launch(tensors)
    first, second = given[:2]
    assert len(given) == 4
    q, k, v, out = pointers
    assert first[:3] == [q, k, v] and second[-1] == out
    assert sorted(first[3:]) == sorted(second[:-1]) and len(set(first[3:])) == 3
    starts = dict(zip([a.name for a in kernel.steps[0].arguments[3:]], first[3:], strict=True))
    sizes = {a.name: prod(a.shape) * 4 for a in kernel.workspaces}
    ends = sorted((at, at + sizes[name]) for name, at in starts.items())
    assert all(at % 16 == ends[0][0] % 16 for at, _ in ends)
    assert all(end <= after for (_, end), (after, _) in pairwise(ends))


def test_steps_are_ready_once_each_of_them_is() -> None:
    case = attention_case(1, seq=20, kv_seq=80, parts=2)
    tensors, given = inputs(case), list[Sequence[int]]()

    class Step:
        def __init__(self) -> None:
            self.direct: Any = None

        def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
            self.direct = given.append

        def ready(self, layout: Any) -> Any:
            return self.direct

    class Never(Step):
        def ready(self, layout: Any) -> Any:
            return None

    for steps, direct in (([Step(), Step()], 2), ([Step(), Never()], 0)):
        del given[:]
        launch = StepsLaunch(case.kernel, steps)
        layout = layout_of(tensors, [t.data_ptr() for t in tensors])
        launch(tensors)
        assert (launch.ready(layout) is not None) == bool(direct) and not given
        launch(tensors)
        assert len(given) == direct


@pytest.mark.gpu
@CUDA
def test_repeated_steps_on_a_gpu_and_in_a_graph() -> None:
    case = attention_case(1, dtype="fp16", heads=4, kv_heads=2, seq=3, kv_seq=700, head_dim=64, parts=4, rows=16)
    kernel = case.kernel
    run = load(kernel)
    for seed in range(3):
        tensors = [t.cuda() for t in inputs(case, seed)]
        run(tensors)
        assert not errors(case, kernel, [t.cpu() for t in tensors])
    assert isinstance(run, StepsLaunch) and len(run._direct) == 1
    tensors[-1].fill_(float("nan"))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run.bound(tensors)(tensors)
    graph.replay()
    assert not errors(case, kernel, [t.cpu() for t in tensors])


def test_a_bound_torch_kernel_runs() -> None:
    case = attention_case(1, emitter="torch", seq=20)
    kernel, tensors = case.kernel, inputs(case)
    load(kernel).bound(tensors)(tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("strided", [False, True])
def test_repeated_calls_on_a_gpu(strided: bool) -> None:
    case = attention_case(1, dtype="fp16", seq=100, causal="top_left", head_dim=64)
    kernel = case.kernel
    run = load(kernel)
    for seed in range(3):  # the first through the front end, the others directly
        tensors = [t.cuda() for t in inputs(case, seed, strided)]
        run(tensors)
        assert not errors(case, kernel, [t.cpu() for t in tensors])
    assert isinstance(run, TritonLaunch) and len(run._direct) == 1
    tensors[-1].fill_(float("nan"))
    run.bound(tensors)(tensors)
    assert not errors(case, kernel, [t.cpu() for t in tensors])


@given(st.floats(width=32, allow_nan=False, allow_infinity=True))
def test_bf16_in_the_interpreter_rounds_to_nearest(x: float) -> None:
    mine = widened(rounded(np.array([x], dtype=np.float32)))
    theirs = torch.tensor([x], dtype=torch.float32).to(torch.bfloat16).float().numpy()
    assert np.array_equal(mine, theirs)


def test_bf16_nan_stays_nan() -> None:
    assert np.isnan(widened(rounded(np.array([np.nan], dtype=np.float32))))[0]
