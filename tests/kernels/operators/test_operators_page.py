"""The page's programs run as they are written, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operators.md"


def test_the_programs_of_the_page_run(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(programs) == 3
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path / "cache")}
    for n, program in enumerate(programs):
        (tmp_path / f"program{n}.py").write_text(program)  # the compiler reads sources
        done = subprocess.run(
            [sys.executable, f"program{n}.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]


def test_the_schemas_of_the_page_are_those_of_the_operators() -> None:
    import torch

    import eintune.operators  # noqa: F401

    for name in ("attention", "varlen_attention", "paged_attention", "cascade"):
        assert str(getattr(torch.ops.eintune, name).default._schema) in PAGE.read_text()
