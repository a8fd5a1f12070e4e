"""Where a figure comes from: the machine, the versions, the folder that is named after them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from eintune.kernels.store.platform import Platform, triton_version
from eintune.space.cascade.problem import Problem

if TYPE_CHECKING:
    from eintune.costmodel.machines.machine import Machine


def describe(machine: Machine, problem: Problem) -> dict[str, Any]:
    """What a report says of the machine; the matrix rate is that of the problem's narrowest dtype."""
    rates = dict(machine.tensor_flops)
    used = [d for d in dict.fromkeys(problem.dtypes.values()) if d in rates]
    return {
        "name": machine.name,
        "title": machine.title,
        "kind": machine.kind,
        "sms": machine.sms,
        "cores": machine.cores,
        "hbm_bytes_per_second": machine.hbm_bytes_per_second,
        "matrix_flops": max((rates[d] for d in used), default=machine.fma_flops),
        "fma_flops": machine.fma_flops,
    }


def versions(platform: Platform | None = None) -> dict[str, str]:
    """Of everything whose version may change a result."""
    from importlib import metadata

    from eintune import __version__

    found = {"eintune": __version__, "python": sys.version.split()[0], "triton": triton_version()}
    for name in ("torch", "optuna", "egglog", "numpy"):
        found[name] = metadata.version(name)
    if platform is not None:
        found |= {"emitter": platform.emitter, "driver": platform.driver}
    return found


def machine_folder(name: str, title: str) -> str:
    """The folder of a machine's results: its short name, but the title of one of the many CPUs."""
    text = title if name == "cpu" else name
    return "-".join("".join(c.lower() if c.isalnum() else " " for c in text).split())
