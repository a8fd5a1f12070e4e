"""Kernels that are loaded before they are called: the first call with such tensors launches, and does nothing else."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from compiled_kernels import Compiled
from kernel_forms import attention_case, inputs

from eintune.host.recent import Recent
from eintune.kernels.launch import launchers as launchers_module
from eintune.kernels.launch import preload as preload_module
from eintune.kernels.launch.launchers import TritonLaunch
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import CompileError
from eintune.kernels.launch.preload import preload

pytestmark = pytest.mark.skipif(interpreted(), reason="the interpreter launches nothing")


class OnGpu:
    """A tensor that says that it is on a GPU."""

    device = torch.device("cuda", 0)

    def __init__(self, t: torch.Tensor) -> None:
        self._t = t

    def __getattr__(self, name: str) -> Any:
        return getattr(self._t, name)

    def get_device(self) -> int:
        return 0


class Loading(Compiled):
    """Counts how often a launcher is asked for, which loads the kernel."""

    def __init__(self, takes: int, refuses: bool = False) -> None:
        super().__init__(takes)
        self.loads, self.refuses = 0, refuses

    @property
    def run(self) -> Any:
        if self.refuses:
            raise RuntimeError("out of resources")
        self.loads += 1
        return super().run


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the JIT front end was asked for, on a GPU that is not there."""
    asked: list[Any] = []
    monkeypatch.setattr(launchers_module, "compiled_kernels", Recent(8))
    monkeypatch.setattr(preload_module, "compiled_kernels", launchers_module.compiled_kernels)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 70, raising=False)
    monkeypatch.setattr(TritonLaunch, "_jit", lambda self, tensors: asked.append(self) or Loading(0))
    return asked


def test_a_first_call_of_what_was_loaded_launches(compiles: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case = attention_case(1, seq=20)
    tensors = [OnGpu(t) for t in inputs(case)]
    strides = [s for t in tensors for s in t.stride()]
    compiled = Loading(9 + 4 + len(strides))
    monkeypatch.setattr(preload_module, "compiled_form", lambda *args: compiled)
    preload(case.kernel, "sm_90", 0)
    preload(case.kernel, "sm_90", 0)
    assert compiled.loads == 1
    launch = TritonLaunch(case.kernel)
    launch(tensors)
    assert not compiles
    assert [args[9:] for args in compiled.direct] == [(*(t.data_ptr() for t in tensors), *strides)]
    # what the compiler would see differs: other strides, an address that is not aligned, another device
    launch([OnGpu(t.mT.contiguous().mT) for t in inputs(case)])
    assert len(compiles) == 1
    q = torch.zeros(tensors[0].numel() + 1)[1:].view(tensors[0].shape)
    launch([OnGpu(q), *tensors[1:]])
    assert len(compiles) == 2 and len(compiled.direct) == 1
    preload(case.kernel, "sm_90", 1)
    assert compiled.loads > 1


def test_another_size_of_one_source_is_loaded_once(compiles: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(preload_module, "compiled_form", lambda *args: made.append(args) or Loading(0))
    kernel = attention_case(1, seq=20).kernel
    preload(kernel, "sm_90", 0)
    preload(replace(kernel, grid=(7,)), "sm_90", 0)
    assert len(made) == 1


def test_what_a_gpu_does_not_hold_is_named(compiles: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Loading(0, refuses=True)
    monkeypatch.setattr(preload_module, "compiled_form", lambda *args: compiled)
    with pytest.raises(CompileError, match="RuntimeError: out of resources"):
        preload(attention_case(1, seq=20).kernel, "sm_90", 0)
    assert not len(launchers_module.compiled_kernels)
