"""What type checkers say of programs that call the public names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
PROGRAM = """
import torch
import eintune

q = torch.randn(1, 2, 8, 16)
reveal_type(eintune.attention(q, q, q, window=3))
reveal_type(eintune.attention(q, q, q, causal=True, return_lse=True))
eintune.attention(q, q, q, windw=3)
eintune.attention(q, q, q, window="wide")
eintune.nope
"""


def test_modifiers_and_names_are_typed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = silent\nignore_missing_imports = true\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(SOURCE)}, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("program.py")]
    assert 'program.py:6: note: Revealed type is "torch._tensor.Tensor"' in lines
    assert any(line.startswith("program.py:7: note: Revealed type is ") and "uple[" in line for line in lines)
    wrong = [line for line in lines if ": error: " in line]
    assert any(line.startswith("program.py:8") and "windw" in line for line in wrong)
    assert any(line.startswith("program.py:9") for line in wrong)
    assert any(line.startswith("program.py:10") and "nope" in line for line in wrong)
