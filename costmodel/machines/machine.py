"""Machines as data: one frozen description each, read from `machines/<name>.toml`.

Every rate is in SI units (FLOP/s, bytes/s, seconds) for the whole machine, everything about a program in bytes
or counts. A TOML holds the vendor's numbers in `[datasheet]` and what was measured in `[measured]`; what was
measured wins. A CPU is a machine with one "SM" that runs one program at a time with all its cores.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from eintune.host.data import BadData, Count, Finite, Name, Positive, Size, converted
from eintune.host.printable import printable


class MachineError(ValueError):
    """An unknown machine or a malformed description; one line with the rule, the value and the valid options."""


@dataclass(frozen=True)
class CoreGrid:
    """A grid of cores, each with a memory of its own, that work on square tiles (`cores`).

    rows, columns: of cores. tile: elements along a side. destination_tiles: tiles that a core's registers hold.
    l1_bytes: of a core. l1_bytes_per_clock, noc_bytes_per_clock: of a core, to its memory and to the network.
    multicast: whether one read from memory can serve a row of cores. target: whose tile sizes are tried.
    """

    rows: Size
    columns: Size
    tile: Size
    destination_tiles: Size
    l1_bytes: Size
    l1_bytes_per_clock: Positive
    noc_bytes_per_clock: Positive
    multicast: bool
    target: Name


@dataclass(frozen=True)
class Machine:
    """What a cost model needs to know of one machine.

    name: the key it is loaded by. title: the vendor's name, as a driver reports it. architecture: what a
    compiler calls it ("sm_90", "gfx942", "" for a CPU). sms: multiprocessors that run programs independently
    (a CPU: 1). cores: CPU cores (a GPU: 0). clock_hz: sustained under load. fma_flops counts an FMA as two.
    tensor_flops: FLOP/s of a matrix product by operand dtype. matrix_rows: rows one group of `group_warps` warps
    must own for the full matrix rate; fewer run at `narrow_matrix_fraction` of it. special_per_clock: exp, log,
    reciprocal per clock and SM. operator_seconds: overhead of one PyTorch operator (CPU; 0 on a GPU).
    tensor_descriptors: whether the hardware loads tiles by tensor descriptor. approximate_functions: whether it has
    an instruction for each of `space.ir.approximations`.
    calibration: this machine's starting values of the model's parameters, by name. grid: of a machine of cores.
    """

    name: Name
    title: Name
    kind: Literal["gpu", "cpu", "cores"]
    architecture: Name
    sms: Size
    cores: Count
    clock_hz: Positive
    warp_size: Size
    group_warps: Size
    shared_bytes_per_program: Count
    shared_bytes_per_sm: Count
    shared_bytes_reserved: Count
    registers_per_sm: Count
    registers_per_thread: Count
    warps_per_sm: Count
    programs_per_sm: Count
    l2_bytes: Count
    tensor_flops: tuple[tuple[Name, Positive], ...]
    matrix_rows: Size
    narrow_matrix_fraction: Positive
    fma_flops: Positive
    special_per_clock: Positive
    hbm_bytes_per_second: Positive
    l2_bytes_per_second: Positive
    shared_bytes_per_clock: Positive
    launch_seconds: Finite
    operator_seconds: Finite = 0.0
    power: Name = ""
    tensor_descriptors: bool = False
    approximate_functions: bool = False
    calibration: tuple[tuple[Name, Finite], ...] = field(default=())
    grid: CoreGrid | None = None

    def tensor_rate(self, dtype: str) -> float:
        """FLOP/s of a matrix product of this dtype. Raises MachineError for a dtype it has no unit for."""
        rates = dict(self.tensor_flops)
        if dtype not in rates:
            raise MachineError(f"machine {self.name}: no matrix rate for dtype {dtype!r} (has: {', '.join(rates)})")
        return rates[dtype]

    @property
    def special_rate(self) -> float:
        """Special-function operations per second of the whole machine."""
        return self.special_per_clock * self.clock_hz * self.sms

    @property
    def shared_bytes_per_second(self) -> float:
        """Shared-memory bandwidth of the whole machine."""
        return self.shared_bytes_per_clock * self.clock_hz * self.sms

    def threads(self, warps: int) -> int:
        """Threads of a program of `warps` warps."""
        return warps * self.warp_size

    def with_measured(self, measured: Mapping[str, Any]) -> Machine:
        """The same machine with probed ceilings in place of its own. Raises MachineError for an unknown field, or for
        a value that no machine has."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "grid"}
        return replace(_made(self.name, own | {k: _frozen(v) for k, v in measured.items()}), grid=self.grid)


def _frozen(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, Mapping) else value


def _made(name: str, data: dict[str, Any]) -> Machine:
    """A machine of these fields. Raises MachineError for one that it does not have, lacks, or that is out of range."""
    known = {f.name for f in fields(Machine)}
    if unknown := sorted(map(str, set(data) - known)):
        raise MachineError(printable(f"machine {name}: unknown fields {unknown} (known: {sorted(known)})"))
    try:
        return converted(data, Machine)
    except BadData as error:
        raise MachineError(printable(f"machine {name}: {error}")) from None


def machine_names() -> list[str]:
    """The machines that ship with Eintune."""
    folder = resources.files(__package__)
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load_machine(name: str) -> Machine:
    """The machine described in `machines/<name>.toml`. Raises MachineError listing the valid names."""
    if not isinstance(name, str):
        raise MachineError(f"machine must be one of {', '.join(machine_names())}, but got {type(name).__name__}")
    return _loaded(name)


@cache
def _loaded(name: str) -> Machine:
    return parse_machine(name, _read(name))


def _read(name: str) -> dict[str, Any]:
    if name not in (valid := machine_names()):
        raise MachineError(f"machine must be one of {', '.join(valid)}, but got {name!r}")
    return tomllib.loads(resources.files(__package__).joinpath(f"{name}.toml").read_text("utf-8"))


def parse_machine(name: str, data: Mapping[str, Any]) -> Machine:
    """A machine from TOML data: top-level fields, then `[datasheet]`, then `[measured]` over it."""
    merged: dict[str, Any] = {k: v for k, v in data.items() if k not in ("datasheet", "measured", "devices", "grid")}
    for part in ("datasheet", "measured"):
        table = data.get(part, {})
        if not isinstance(table, Mapping):
            raise MachineError(f"machine {name}: [{part}] must be a table")
        for key, value in table.items():
            below = merged.get(key, {}) if isinstance(merged.get(key, {}), Mapping) else {}
            merged[key] = {**below, **value} if isinstance(value, Mapping) else value
    grid = {"grid": data["grid"]} if "grid" in data else {}
    return _made(name, {**{k: _frozen(v) for k, v in merged.items()}, "name": name, **grid})


@cache
def machine_for_device(title: str) -> str | None:
    """The shipped machine whose `devices` prefixes fit a driver's device name best, or None."""
    found = [
        (len(prefix), name)
        for name in machine_names()
        for prefix in _read(name).get("devices", ())
        if title.startswith(prefix)
    ]
    return max(found)[1] if found else None
