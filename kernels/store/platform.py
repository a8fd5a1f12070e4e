"""Which machine and which software a measurement belongs to: the part of a cache key that is not the problem."""

from __future__ import annotations

import ctypes
import functools
import os
import platform as host
from dataclasses import dataclass
from importlib import metadata

import torch

from eintune.kernels.emit.kernel import EMITTER_VERSION


@dataclass(frozen=True)
class Platform:
    """A device and the software that drives it.

    machine: the device's name. processors: its SMs (a CPU's threads that PyTorch uses). emitter, torch,
    triton: versions. driver: the driver's class, such as "cuda13.0" or "cpu"; patch levels do not matter.
    """

    machine: str
    processors: int
    emitter: str
    torch: str
    triton: str
    driver: str


def platform_of(device: torch.device | str) -> Platform:
    """The platform of a device. Raises ValueError for a device that is neither CPU nor CUDA."""
    chosen = torch.device(device)
    match chosen.type:
        case "cuda":
            index = torch.cuda.current_device() if chosen.index is None else chosen.index
            return _cuda_platform(index)
        case "cpu":
            return _cpu_platform(torch.get_num_threads())
        case other:
            raise ValueError(f"`device` must be a CPU or a CUDA device, but got {other!r}")


@functools.cache
def _cuda_platform(index: int) -> Platform:
    properties = torch.cuda.get_device_properties(index)
    return _platform(properties.name, properties.multi_processor_count, _cuda_driver())


@functools.cache
def _cpu_platform(threads: int) -> Platform:
    return _platform(_cpu_name(), threads, "cpu")


def _platform(machine: str, processors: int, driver: str) -> Platform:
    # A plain text: PyTorch's own reads both as versions wherever it is compared.
    version = str(torch.__version__)
    return Platform(machine, processors, str(EMITTER_VERSION), version, triton_version(), driver)


def triton_version() -> str:
    """Triton's version without importing it, or "none"."""
    for distribution in ("triton", "pytorch-triton", "pytorch-triton-rocm"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _cuda_driver() -> str:
    if torch.version.hip:
        return f"hip{torch.version.hip.rsplit('.', 1)[0]}"
    # the driver's own answer: PyTorch keeps its accessor private, and not every build has it
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return f"cuda{torch.version.cuda}"
    return f"cuda{version.value // 1000}.{version.value % 1000 // 10}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return host.processor() or host.machine() or os.name
