"""The clock that a GPU runs at, as its driver reports it."""

from __future__ import annotations

import os
import shutil
import subprocess

PATIENCE = 10.0
"""Seconds to wait for the driver's tool."""


def sm_clock(device: str) -> list[int]:
    """[MHz] of the multiprocessors now; [] for a CPU and where the driver's tool is missing or does not say."""
    kind, _, number = device.partition(":")
    tool = shutil.which("nvidia-smi")
    if kind != "cuda" or tool is None:
        return []
    command = [tool, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", f"--id={_physical(int(number or 0))}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(said[0])] if said and said[0].isdigit() else []


def _physical(index: int) -> str:
    """What the driver calls a process's `index`-th GPU."""
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    return visible[index] if index < len(visible) else str(index)
