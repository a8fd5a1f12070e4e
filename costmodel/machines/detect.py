"""The machine that this process runs on: what is described, what the device says, what is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .machine import Machine, MachineError, load_machine, machine_for_device, parse_machine
from .probe import probe_cuda


def cuda_machine(device: str = "cuda") -> Machine:
    """The machine behind a CUDA device: a shipped description by name, else one from its properties; then probed."""
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    name = machine_for_device(properties.name)
    machine = load_machine(name) if name else _unknown_gpu(properties)
    sms = int(properties.multi_processor_count)
    if sms != machine.sms:  # a smaller variant or a slice of the same chip
        share = sms / machine.sms
        rates = tuple((d, r * share) for d, r in machine.tensor_flops)
        machine = replace(machine, sms=sms, tensor_flops=rates, fma_flops=machine.fma_flops * share)
    return machine.with_measured(_with_rates(machine, probe_cuda(device)))


# ---- GPU


def _unknown_gpu(properties: Any) -> Machine:
    """A GPU that no description fits, from what its driver says, with Ampere's ratios where it says nothing."""
    data = {
        "title": properties.name,
        "kind": "gpu",
        "architecture": f"sm_{properties.major}{properties.minor}",
        "sms": properties.multi_processor_count,
        "cores": 0,
        "clock_hz": float(getattr(properties, "clock_rate", 1.4e6)) * 1e3,
        "warp_size": getattr(properties, "warp_size", 32),
        "group_warps": 1,
        "shared_bytes_per_program": getattr(properties, "shared_memory_per_block_optin", 101376),
        "shared_bytes_per_sm": getattr(properties, "shared_memory_per_multiprocessor", 102400),
        "shared_bytes_reserved": 1024,
        "registers_per_sm": getattr(properties, "regs_per_multiprocessor", 65536),
        "registers_per_thread": 255,
        "warps_per_sm": properties.max_threads_per_multi_processor // getattr(properties, "warp_size", 32),
        "programs_per_sm": 16,
        "tensor_descriptors": properties.major >= 9,
        "approximate_functions": (properties.major, properties.minor) >= (7, 5),
        "l2_bytes": properties.L2_cache_size,
        "matrix_rows": 16,
        "narrow_matrix_fraction": 1.0,
        "special_per_clock": 16,
        "shared_bytes_per_clock": 128,
        "hbm_bytes_per_second": 1e12,
        "l2_bytes_per_second": 4e12,
        "launch_seconds": 4e-6,
    }
    lanes = 128 * 2 * float(data["sms"]) * float(data["clock_hz"])
    rates = {"bf16": 8 * lanes, "fp16": 8 * lanes, "tf32": 4 * lanes, "fp32": lanes, "fp64": lanes / 2}
    return parse_machine("gpu", {**data, "fma_flops": lanes, "tensor_flops": rates})


def _with_rates(machine: Machine, measured: dict[str, Any]) -> dict[str, Any]:
    """A probe measures some dtypes' matrix rates; the others keep the machine's own."""
    rates = {**dict(machine.tensor_flops), **measured.get("tensor_flops", {})}
    return {**measured, "tensor_flops": rates}


def detect_machine(device: str = "auto") -> Machine:
    """The machine that `device` ("auto", "cpu", "cuda", "cuda:1") names, with its probed ceilings.

    A CUDA device is matched by name to a shipped description, else built from its properties; a CPU is the
    template `cpu` overridden by the probe. Raises MachineError where there is no such device.
    """
    from .probe import cuda_is_available, probe_cpu

    if device == "auto":
        device = "cuda" if cuda_is_available() else "cpu"
    if device == "cpu":
        return load_machine("cpu").with_measured(probe_cpu())
    if device.split(":")[0] == "cuda" and cuda_is_available():
        return cuda_machine(device)
    raise MachineError(f"device must be auto, cpu or cuda (with a CUDA GPU present), but got {device!r}")
