"""What this very machine can do, measured in a second or two and remembered.

`probe_cpu` returns fields of `Machine` that override the template `cpu`; `probe_cuda` those that override a GPU's
datasheet. Both are kept as JSON in the cache directory, keyed by the device's name, cores and PyTorch's version,
so that a program measures once. A cache that cannot be read or written costs a measurement, never an error.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from eintune.host.data import BadData, Count, Name, Positive, Size, Strict, from_json
from eintune.host.directories import cache_directory
from eintune.host.files import read_whole, write_whole

from .machine import MachineError, load_machine

PROBE_VERSION = 2
MAX_BYTES = 64 * 1024
CACHED_ELEMENTS = 1 << 16
"""fp32 elements of a tile that fits any last-level cache with its operands (256 KiB each)."""
STREAMED_ELEMENTS = 1 << 24
"""fp32 elements of an array that fits none (64 MiB)."""


def cuda_is_available() -> bool:
    """Whether PyTorch sees a CUDA GPU."""
    import torch

    return bool(torch.cuda.is_available())


def probe_cpu(*, fresh: bool = False) -> dict[str, Any]:
    """This CPU's ceilings as fields of `Machine`: under two seconds, then from the cache. `fresh` measures again."""
    import torch

    key = f"cpu-{_cpu_title()}-{torch.get_num_threads()}-torch{torch.__version__}"
    return _remembered(key, _measure_cpu, fresh, keep=_undisturbed)


def _undisturbed(measured: dict[str, Any]) -> bool:
    """Whether a CPU measurement is worth keeping: on a busy machine the caches look no faster than memory."""
    return float(measured.get("l2_bytes_per_second", 0)) > 1.5 * float(measured.get("hbm_bytes_per_second", 0))


def probe_cuda(device: str = "cuda", *, fresh: bool = False) -> dict[str, Any]:
    """This GPU's ceilings: copy bandwidth, bf16 and fp16 matrix rates, launch latency. Needs PyTorch with CUDA."""
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    key = f"gpu-{properties.name}-{properties.multi_processor_count}-torch{torch.__version__}"
    return _remembered(key, lambda: _measure_cuda(device), fresh)


# ---- remembering


def _remembered(
    key: str,
    measure: Callable[[], dict[str, Any]],
    fresh: bool,
    keep: Callable[[dict[str, Any]], bool] = lambda measured: True,
) -> dict[str, Any]:
    path = cache_directory() / "machines" / f"{_file_name(key)}.json"
    if not fresh and (known := _load(path, key)) is not None:
        return known
    measured = measure()
    if keep(measured):
        _store(path, {"version": PROBE_VERSION, "key": key, "measured": measured})
    return measured


def _file_name(key: str) -> str:
    return "".join(c if c.isalnum() or c in ".-+" else "_" for c in key)[:150]


class _Measured(Strict, omit_defaults=True):
    """What a probe measures: fields of `Machine`."""

    title: Name | None = None
    cores: Size | None = None
    tensor_flops: Annotated[dict[Name, Positive], Meta(max_length=32)] | None = None
    fma_flops: Positive | None = None
    hbm_bytes_per_second: Positive | None = None
    l2_bytes_per_second: Positive | None = None
    l2_bytes: Count | None = None
    special_per_clock: Positive | None = None
    operator_seconds: Positive | None = None
    launch_seconds: Positive | None = None


class _Probe(Strict):
    version: Count
    key: Name
    measured: _Measured


def _load(path: Path, key: str) -> dict[str, Any] | None:
    """What was measured before; None where the file is none of ours, and it is measured again."""
    try:
        probe = from_json(read_whole(path, MAX_BYTES), _Probe)
        if probe.version != PROBE_VERSION or probe.key != key:
            return None
        measured = {n: v for n in _Measured.__struct_fields__ if (v := getattr(probe.measured, n)) is not None}
        load_machine("cpu").with_measured(measured)
        return measured
    except (OSError, BadData, MachineError):
        return None


def _store(path: Path, record: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(record, indent=1).encode())
    except OSError:
        return  # a read-only or full disk: measured again next time


# ---- CPU


def _cpu_title() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


MOST_CALLS = 100_000
"""Of what is measured, whatever the clock says."""


def _best(run: Callable[[], object], seconds: float, least: int = 3) -> float:
    """Least seconds of one call, over at least `least` calls and about `seconds` in all."""
    run()
    best, calls, start = float("inf"), 0, time.perf_counter()
    for _ in range(MOST_CALLS):
        if calls >= least and time.perf_counter() - start >= seconds:
            return best
        before = time.perf_counter()
        run()
        taken = time.perf_counter() - before
        if taken > 0:  # else the clock was set back meanwhile, or stands still
            best, calls = min(best, taken), calls + 1
    if calls:
        return best
    raise OSError("this machine cannot be measured: its clock stands still")


def _measure_cpu() -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        matrix = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
        rates = {name: _matrix_rate(dtype, 512 if name == "fp32" else 192) for name, dtype in matrix.items()}
        times = _elementwise_times()
    bandwidth = {n: 3 * 4 * n / t for n, t in times.add.items()}
    stream = 2 * 4 * STREAMED_ELEMENTS / times.copy
    cached = max(bandwidth[CACHED_ELEMENTS], stream)
    held = [n for n, rate in bandwidth.items() if rate >= (cached * stream) ** 0.5]
    clock = load_machine("cpu").clock_hz
    # the exp's own reading and writing is priced as bytes: what is left is the special function
    exp = max(times.exp - 2 * 4 * CACHED_ELEMENTS / cached, times.exp / 4)
    return {
        "title": _cpu_title(),
        "cores": torch.get_num_threads(),
        "tensor_flops": rates,
        "fma_flops": rates["fp32"],
        "hbm_bytes_per_second": stream,
        "l2_bytes_per_second": cached,
        "l2_bytes": 3 * 4 * max(held, default=CACHED_ELEMENTS),
        "special_per_clock": CACHED_ELEMENTS / exp / clock,
        "operator_seconds": times.overhead,
    }


@dataclass(frozen=True)
class _Times:
    """Seconds of one operator: on a few elements, an exp on `CACHED_ELEMENTS`, a copy of `STREAMED_ELEMENTS`, and
    additions by the number of elements."""

    overhead: float
    exp: float
    copy: float
    add: dict[int, float]


def _elementwise_times(rounds: int = 3) -> _Times:
    """The best of several rounds, so that a busy neighbour does not spoil all of one measurement."""
    import torch

    a, b, out = torch.rand(STREAMED_ELEMENTS), torch.rand(STREAMED_ELEMENTS), torch.empty(STREAMED_ELEMENTS)
    tiny = torch.rand(8)
    sizes = [CACHED_ELEMENTS << shift for shift in (0, 2, 4, 6)]
    tile, made = a[:CACHED_ELEMENTS], out[:CACHED_ELEMENTS]
    found = []
    for _ in range(rounds):
        overhead = _best(lambda: torch.add(tiny, tiny, out=tiny), 0.01)
        exp = _best(lambda: torch.exp(tile, out=made), 0.02)
        copy = _best(lambda: out.copy_(a), 0.05)
        add = [_best(lambda n=n: torch.add(a[:n], b[:n], out=out[:n]), 0.02) for n in sizes]  # type: ignore[misc]
        found.append((overhead, exp, copy, *add))
    overhead, exp, copy, *add = (min(column) for column in zip(*found, strict=True))
    least = 1e-7
    return _Times(
        overhead,
        max(exp - overhead, least),
        copy,
        {n: max(t - overhead, least) for n, t in zip(sizes, add, strict=True)},
    )


def _matrix_rate(dtype: Any, n: int) -> float:
    import torch

    a = torch.rand(n, n).to(dtype)
    out = torch.empty_like(a)
    return 2 * n**3 / _best(lambda: torch.matmul(a, a, out=out), 0.1)


def _measure_cuda(device: str) -> dict[str, Any]:
    import torch

    with torch.inference_mode(), torch.cuda.device(device):
        free, _ = torch.cuda.mem_get_info(device)
        elements = max(min(1 << 28, free // 32), 1 << 20)  # 1 GiB, or an eighth of what is free
        array = torch.empty(elements, dtype=torch.float32, device=device)
        copy = torch.empty_like(array)
        stream = _cuda_seconds(lambda: copy.copy_(array))
        n = 4096
        rates = {}
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            a = torch.randn(n, n, device=device, dtype=dtype)
            rates[name] = 2 * n**3 / _cuda_seconds(lambda a=a: torch.matmul(a, a))  # type: ignore[misc]
        tiny = torch.zeros(1, device=device)
        launch = _cuda_seconds(lambda: tiny.add_(1), 50)
    return {
        "hbm_bytes_per_second": 2 * 4 * elements / stream,
        "launch_seconds": launch,
        "tensor_flops": rates,
    }


def _cuda_seconds(run: Callable[[], object], repeats: int = 10) -> float:
    """Median seconds of one call between two events, after three warm-ups."""
    import torch

    event: Any = torch.cuda.Event
    for _ in range(3):
        run()
    times: list[float] = []
    for _ in range(repeats):
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return sorted(times)[len(times) // 2]
