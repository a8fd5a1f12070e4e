"""What stands for a compiled kernel, and a file that runs by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Compiled:
    """Stands for Triton's compiled kernel; records what it is launched with."""

    function = "function"
    packed_metadata = "metadata"

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.direct: list[tuple[Any, ...]] = []
        self.public: list[tuple[Any, ...]] = []

    def run(self, *args: Any) -> None:
        if len(args) != self.takes:
            raise TypeError("another signature")
        self.direct.append(args)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.public.append((grid, *args))


def run(source: str, path: Path, interpret: bool = True) -> subprocess.CompletedProcess[str]:
    path.write_text(source)
    env = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
    return subprocess.run([sys.executable, "-P", str(path)], capture_output=True, text=True, env=env, check=False)
