"""A program under `torch.compile`, in a process of its own: which is well afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, sys, torch, eintune
logging.disable()

def drawn(seed):
    return torch.randn(1, 2, 24, 16, generator=torch.Generator().manual_seed(seed))

q, k, v = map(drawn, range(3))
if "before" in sys.argv:
    eintune.attention(q, k, v, causal=True)
slopes = torch.rand(2)

def plain(q, k, v):
    return eintune.attention(q * 2, k, v, causal=True).sin()

def modified(q, k, v):
    out, lse = eintune.attention(q, k, v, score_mod=lambda s, b, h, p, m: s + slopes[h] * (m - p), return_lse=True)
    return out + 1, lse

def pytorchs(q, k, v):
    return eintune.scaled_dot_product_attention(q, k, v) + eintune.scaled_dot_product_attention(q, k, v, is_causal=True)

norm = eintune.compile("Nb,h,p = Qb,h,p,e * Qb,h,p,e")

def cascade(q, k, v):
    return norm(q + k) * 2

for f in (plain, modified, pytorchs, cascade):
    compiled = torch.compile(f, backend=sys.argv[1])
    for n in range(3):
        given = [drawn(seed) for seed in range(n, n + 3)]
        torch.testing.assert_close(compiled(*given), f(*given))
        torch.randn(2)
try:
    torch.compile(lambda q: eintune.attention(q, q, q, colour=1), backend=sys.argv[1])(q)
except eintune.UnsupportedArgument as error:
    assert "colour" in str(error)
breaks = torch._dynamo.explain(plain)(q, k, v)
assert breaks.graph_break_count == 0, breaks
assert torch.randn(2).shape == (2,)
assert torch.compile(lambda x: x * 2, backend=sys.argv[1], fullgraph=True)(q).equal(q * 2)
"""


@pytest.mark.parametrize("arguments", [pytest.param(["eager"], marks=pytest.mark.soak), ["aot_eager", "before"]])
def test_a_program_that_is_compiled(arguments: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path)}
    command = [sys.executable, "-P", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_calling_imports_no_compiler(tmp_path: Path) -> None:
    code = "import sys, torch, eintune; q = torch.randn(1, 1, 4, 8); eintune.attention(q, q, q)\n"
    code += "assert 'torch._dynamo' not in sys.modules"
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=env)
