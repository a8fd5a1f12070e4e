"""Launching without Triton's launcher in Python: what its function in C is called with is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compiled_kernels import Compiled
from kernel_forms import attention_case, inputs

from eintune.kernels.launch.direct import MOST_ADDRESSES, DirectLaunch, Launchable
from eintune.kernels.launch.tensor_descriptors import LaunchDescriptors

driver = pytest.importorskip("triton.backends.nvidia.driver")

KERNEL = attention_case(1, loads="descriptor", dtype="fp16", seq=32)
META = {"swizzle": 3, "elem_size": 2, "elem_type": 6, "block_size": [1, 1, 16, 32], "fp4_padded": False}
SIGNATURE = dict(enumerate(["*fp16"] * 4 + ["i32"] * 2 + ["tensordesc<fp16[1,1,16,32]>"] * 3))
GRID = (5, 1, 1)


class TensorMap:
    """Stands for an encoded tensor descriptor."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorMap) and other.address == self.address


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The addresses of the descriptors that were encoded."""
    found: list[int] = []

    def encode(address: int, *rest: Any) -> TensorMap:
        found.append(int(address))
        return TensorMap(int(address))

    import triton

    utils = SimpleNamespace(fill_tma_descriptor=encode, fill_tma_descriptor_tiled=encode)
    monkeypatch.setattr(triton.runtime.driver, "_active", SimpleNamespace(utils=utils))
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 70, raising=False)
    return found


class Nested:
    """As Triton's launchers of 3.7 and later are: what a kernel takes is one argument of their function."""

    def __init__(self, launch: Any) -> None:
        self.launch = launch
        self.global_scratch_size = self.profile_scratch_size = 0
        self.arg_annotations, self.kernel_signature = ["a"], b"s"

    def __call__(self, x: int, y: int, z: int, stream: int, function: Any, *rest: Any) -> None:
        metadata, launching, enter, leave, *given = rest
        self.launch(
            x, y, z, stream, function, False, False, metadata, launching, enter, leave, None, None,
            self.arg_annotations, self.kernel_signature, given,
        )  # fmt: skip


def nested(launcher: Callable[..., Any], described: bool) -> Any:
    if not described:
        return Nested(launcher)

    def inner(*args: Any) -> Any:
        given: list[Any] = []
        for x in args[-1]:
            given += driver.make_tensordesc_arg(x, META, *[None] * arity) if hasattr(x, "base") else [x]
        return launcher(*args[:-1], given)

    arity = driver.make_tensordesc_arg.__code__.co_argcount - 2
    return Nested(inner)


def of_triton(launcher: Callable[..., Any], described: bool) -> Any:
    """Triton's own launcher, as it is installed, before any driver."""
    made = object.__new__(driver.CudaLauncher)
    made.num_ctas, made.launch_cooperative_grid, made.launch_pdl = 1, False, False
    made.global_scratch_size = made.profile_scratch_size = 0
    made.global_scratch_align = made.profile_scratch_align = 1
    if "arg_annotations" in driver.CudaLauncher.__call__.__code__.co_names:
        made.arg_annotations, made.kernel_signature, made.gsan_enabled = ["a"], b"s", False
    signature = SIGNATURE if described else {i: s for i, s in SIGNATURE.items() if i < 6}
    made.launch = driver.wrap_handle_tensordesc(launcher, signature, [META] * 3 if described else None)
    return made


LAUNCHERS = {"Triton's": of_triton, "nested": nested}


def launched(make: Callable[..., Any], described: bool, **more: Any) -> tuple[Any, list[Any], Any]:
    """A launcher by addresses, what its function in C gets, and the compiled kernel."""
    calls: list[Any] = []
    compiled = Compiled(takes=0)
    compiled.run = make(lambda *args: calls.append(args), described)  # type: ignore[method-assign]
    vars(compiled.run).update(more)
    descriptors = LaunchDescriptors(KERNEL.kernel, inputs(KERNEL)) if described else None
    return DirectLaunch(Launchable(compiled, GRID, (8, 1), descriptors), 0), calls, compiled


def plainly(compiled: Any, pointers: Sequence[int], described: bool) -> None:
    """The launch as Triton does it."""
    more = LaunchDescriptors(KERNEL.kernel, inputs(KERNEL))(pointers) if described else []
    compiled.run(*GRID, 70, "function", "metadata", None, None, None, *pointers, 8, 1, *more)


def flat(args: tuple[Any, ...]) -> list[Any]:
    """A sequence among arguments is read as a sequence, whatever its type."""
    return [list(x) if isinstance(x, (list, tuple)) else x for x in args]


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("make", LAUNCHERS.values(), ids=LAUNCHERS)
def test_the_function_gets_what_the_launcher_would_pass_on(
    make: Callable[..., Any], described: bool, encoded: list[int]
) -> None:
    launch, calls, compiled = launched(make, described)
    every = [[64, 128, 256, 512], [64, 128, 1024, 512], [16, 32, 48, 64], [64, 128, 256, 512]]
    for pointers in every:
        launch(pointers)
        plainly(compiled, pointers, described)
        made, wanted = calls[-2:]
        assert flat(made) == flat(wanted)
    assert len(calls) == 2 * len(every)


@pytest.mark.parametrize("make", LAUNCHERS.values(), ids=LAUNCHERS)
def test_a_descriptor_is_encoded_once_an_address(make: Callable[..., Any], encoded: list[int]) -> None:
    launch, calls, _ = launched(make, True)
    for _ in range(3):
        launch([64, 128, 256, 512])
    assert encoded == [64, 128, 256]
    launch([64, 128, 1024, 512])
    launch([64, 128, 1024, 16])
    assert encoded[3:] == [64, 128, 1024]  # all of a launch at once
    del encoded[:]
    for n in range(3 * MOST_ADDRESSES):
        launch([64, 128, 16 * (n + 100), 512])
    assert len(encoded) == 3 * 3 * MOST_ADDRESSES and len(calls) == 5 + 3 * MOST_ADDRESSES


@pytest.mark.parametrize("more", [{"global_scratch_size": 16}, {"profile_scratch_size": 1}, {"novelty": None}])
def test_a_launcher_that_may_do_more_is_called_as_it_is(more: dict[str, Any], encoded: list[int]) -> None:
    """Scratch memory is allocated at each launch; what is not known here might be anything."""
    launch, calls, compiled = launched(nested, True, **more)
    for _ in range(3):
        launch([64, 128, 256, 512])
        plainly(compiled, [64, 128, 256, 512], True)
    assert encoded == [64, 128, 256] * 6 and calls[0::2] == calls[1::2]


def test_a_launcher_that_changes_what_it_is_given_is_called_as_it_is(encoded: list[int]) -> None:
    class Adding(Nested):
        def __call__(self, *args: Any) -> None:
            super().__call__(*args[:-1], args[-1] + 1)

    launch, calls, _ = launched(lambda launcher, described: Adding(launcher), False)
    launch([64, 128, 256, 512])
    launch([64, 128, 256, 512])
    assert [c[-1] for c in calls] == [[64, 128, 256, 512, 8, 2]] * 2


@pytest.mark.parametrize("make", LAUNCHERS.values(), ids=LAUNCHERS)
def test_who_listens_gets_the_public_way(
    make: Callable[..., Any], encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    launch, calls, compiled = launched(make, False)
    launch([64, 128, 256, 512])
    with monkeypatch.context() as patched:
        patched.setattr(knobs.runtime, "launch_exit_hook", lambda metadata: None)
        launch([64, 128, 256, 512])
    assert len(calls) == 1 and compiled.public == [(GRID, 64, 128, 256, 512, 8, 1)]
    launch([64, 128, 256, 512])
    assert len(calls) == 2 and len(compiled.public) == 1
