"""Compiling for a GPU that is not there: exact shared memory, registers and spills of a Triton kernel.

Triton compiles for any target it has a back end for. The specialisation is that of the real launch: pointers on
16 bytes, strides of 1 and static strides as constants, multiples of 16 marked. `compile_many` compiles in
killable child processes, so that a compiler that hangs or dies is one failed result.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eintune.costmodel.counts.estimate import Resources, most
from eintune.kernels.emit.kernel import ON_GPU, Kernel
from eintune.space.ir.dtypes import DTYPES

from .compiled_cache import compiled_folder, triton_cache, triton_variables
from .launchers import fusing, options_of
from .module import interpreted, module_of
from .tensor_descriptors import layout_of_block

Strides = tuple[tuple[int, ...], ...]


class CompileError(RuntimeError):
    """A kernel that the compiler refuses, or a target that it does not have; the message is the compiler's."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler made: resources of one program, the assembly and Triton's last portable form."""

    resources: Resources
    assembly: str
    ttgir: str
    seconds: float


def compile_offline(
    kernel: Kernel, architecture: str, *, strides: Strides | None = None, cache_dir: Path | None = None
) -> Resources:
    """Exact resources of a Triton kernel on an architecture ("sm_90", "gfx942"), compiled in this process.

    strides: one tuple a tensor, in elements (default: contiguous). cache_dir: Triton's compile cache (default:
    the one that programs use). Raises CompileError.
    """
    return compile_kernel(kernel, architecture, strides=strides, cache_dir=cache_dir).resources


def compile_kernel(
    kernel: Kernel, architecture: str, *, strides: Strides | None = None, cache_dir: Path | None = None
) -> Compiled:
    """As `compile_offline`, with the assembly."""
    if kernel.emitter not in ON_GPU:
        raise CompileError(
            f"a kernel that compiles offline is of {' or '.join(ON_GPU)}, but got one of the {kernel.emitter} emitter"
        )
    if interpreted():
        raise CompileError("Triton interprets in this process (TRITON_INTERPRET is set), so it cannot compile")
    # Several launches: each compiles by itself, the neediest decides whether a machine can hold them.
    if kernel.steps:
        if strides is not None:
            raise CompileError("strides are given for one kernel, but several steps have workspaces between them")
        return _together([compile_kernel(step, architecture, cache_dir=cache_dir) for step in kernel.steps])
    started = time.perf_counter()
    made = compiled_form(kernel, architecture, strides or contiguous(kernel), cache_dir)
    seconds = time.perf_counter() - started
    if made.metadata.target.backend == "cuda":
        return Compiled(
            _cuda_resources(made, int(made.metadata.num_warps)), made.asm["ptx"], made.asm["ttgir"], seconds
        )
    return Compiled(_hip_resources(made, kernel.warps), made.asm["amdgcn"], made.asm["ttgir"], seconds)


def compiled_form(kernel: Kernel, architecture: str, strides: Strides, cache_dir: Path | None = None) -> Any:
    """Triton's compiled kernel, from its cache if it is there; of a kernel that is one launch. Raises CompileError."""
    import triton

    # Triton compiles for what it is told, not for what is there: its back ends are cross compilers, and ptxas comes
    # with it.
    target = _target(architecture)
    function = getattr(module_of(kernel), kernel.entry)
    signature, constants, attributes = specialise(kernel, function, strides)
    try:
        with triton_cache(cache_dir or compiled_folder()):
            # The same specialisation as the JIT would choose at a call, since registers and vector widths follow from
            # it.
            source = _source_class(kernel)(function, signature, constants, attributes)
            return triton.compile(source, target, options_of(kernel) | fusing())
    except Exception as error:  # the compiler's own classes are many and private
        raise CompileError(f"{type(error).__name__}: {error}") from error


def _source_class(kernel: Kernel) -> Any:
    if kernel.emitter == "gluon":
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    from triton.compiler import ASTSource

    return ASTSource


def _together(made: Sequence[Compiled]) -> Compiled:
    """Several steps as one: of each resource what the neediest step takes."""
    return Compiled(
        most([m.resources for m in made]),
        "\n".join(m.assembly for m in made),
        "\n".join(m.ttgir for m in made),
        sum(m.seconds for m in made),
    )


def _target(architecture: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if number := re.fullmatch(r"sm_(\d+)a?", architecture):
        return GPUTarget("cuda", int(number[1]), 32)
    if re.fullmatch(r"gfx\w+", architecture):
        return GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32)
    raise CompileError(f"`architecture` must be sm_<number> or gfx<name>, but got {architecture!r}")


# ---- specialisation


def contiguous(kernel: Kernel) -> Strides:
    """Strides of every argument, in elements: row-major, of workspaces as they lie in memory."""
    return tuple(a.strides for a in kernel.arguments)


def specialise(
    kernel: Kernel, function: Any, strides: Strides
) -> tuple[dict[str, str], dict[tuple[int, ...], int], dict[tuple[int, ...], list[list[Any]]]]:
    """The signature, constants and attributes that a launch with these strides would compile for."""
    multiple: list[list[Any]] = [["tt.divisibility", 16]]
    names: list[str] = list(function.arg_names)
    taken = len(names) - len(kernel.descriptors)
    sized = taken - len(kernel.values)
    signature = {n: DTYPES[a.dtype].pointer for n, a in zip(names, kernel.arguments, strict=False)}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {(i,): multiple for i in range(len(kernel.arguments))}
    constants: dict[tuple[int, ...], int] = {}
    flat = [s for tensor in strides for s in tensor]
    for i, (name, value) in enumerate(
        zip(names[len(kernel.arguments) : sized], flat, strict=True), len(kernel.arguments)
    ):
        # The JIT makes a constant of every argument that is 1, which is what lets the compiler see rows that lie side
        # by side.
        if value == 1 or function.params[i].is_constexpr:
            signature[name], constants[i,] = "constexpr", value
            continue
        # Integers are typed by their value.
        signature[name] = _integer(value)
        if value % 16 == 0:
            attributes[i,] = multiple
    numbers = zip(names[sized:taken], kernel.values, strict=True)
    signature |= {name: _integer(value) for name, value in numbers}  # of one class, whatever they are
    for name, d in zip(names[taken:], kernel.descriptors, strict=True):
        element = DTYPES[kernel.arguments[d.argument].dtype].pointer.removeprefix("*")
        layout = f",{layout_of_block(d.block, element)!r}" if kernel.emitter == "gluon" else ""
        signature[name] = f"tensordesc<{element}{list(d.block)}{layout}>"
    return signature, constants, attributes


def specialisation_of(kernel: Kernel) -> Hashable:
    """What the compiler sees of a kernel that is given contiguous tensors: of two that agree in it one is compiled."""
    function = getattr(module_of(kernel), kernel.entry)
    signature, constants, attributes = specialise(kernel, function, contiguous(kernel))
    options = (kernel.warps, kernel.stages, kernel.registers)
    return kernel.source, options, tuple(signature.items()), tuple(constants.items()), tuple(attributes)


def _integer(value: int) -> str:
    return "i32" if -(2**31) <= value < 2**31 else "i64"


# ---- resources


def _cuda_resources(made: Any, warps: int) -> Resources:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        # ptxas decides registers and spills, so they are read off its output; the metadata of a compile without a
        # device has none.
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", text)
    if not found:
        raise CompileError(f"cuobjdump reported no resource usage: {text.strip()[:200]!r}")
    registers, stack, local = map(int, found.groups())
    return Resources(int(made.metadata.shared), registers, stack + local, warps, exact=True)


def _hip_resources(made: Any, warps: int) -> Resources:
    def count(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", made.asm["amdgcn"])
        return int(found[1]) if found else 0

    return Resources(int(made.metadata.shared), count("vgpr_count"), 4 * count("vgpr_spill_count"), warps, exact=True)


def environment(cache_dir: Path | None) -> dict[str, str]:
    """This process's environment for a child that compiles: no interpreter, the given cache."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return env | triton_variables(cache_dir or compiled_folder())
