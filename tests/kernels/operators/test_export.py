"""Exported programs: saved, loaded by another process, and run at other sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import Dim

import eintune

norm = eintune.compile("Nb,h,p = Qb,h,p,e * Kb,h,p,e\nDb,h,p,e = Qb,h,p,e + Qb,h,p,e\nresults: N, D", name="norm")
SIZES = ((2, 12, 24), (3, 7, 9), (5, 2, 40))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Program(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", drawn(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out, lse = eintune.attention(
            q, k, v, causal="lower_right", window=7, softcap=3.0, alibi=self.slopes, return_lse=True,
            score_mod=lambda s, b, h, p, m: torch.tanh(s) + (m - p) * 0.1, mask_mod=lambda b, h, p, m: m - p < 20,
        )  # fmt: skip
        total, _ = norm(q, q)
        return out.sin() + eintune.scaled_dot_product_attention(q, k, v), lse, total


LOADS = """
import logging, sys, torch
import eintune.operators
logging.disable()
program = torch.export.load(sys.argv[1]).module()
torch.save([program(*given) for given in torch.load(sys.argv[2])], sys.argv[3])
"""


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_is_exported_and_loaded_by_another_process(strict: bool, tmp_path: Path) -> None:
    given = [(drawn(b, 4, q, 16), drawn(b, 4, k, 16, seed=1), drawn(b, 4, k, 16, seed=2)) for b, q, k in SIZES]
    batch, queries, keys = Dim("batch"), Dim("queries"), Dim("keys")
    shapes = ({0: batch, 2: queries}, {0: batch, 2: keys}, {0: batch, 2: keys})
    program = Program()
    exported = torch.export.export(program, given[0], dynamic_shapes=shapes, strict=strict)
    named = [str(n.target) for n in exported.graph.nodes if "eintune" in str(n.target)]
    assert named == ["eintune.attention.default", "eintune.cascade.default", "eintune.attention.default"]
    torch.export.save(exported, tmp_path / "program.pt2")
    torch.save(given, tmp_path / "given.pt")
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path / "cache")}
    files = [str(tmp_path / name) for name in ("program.pt2", "given.pt", "made.pt")]
    done = subprocess.run([sys.executable, "-P", "-c", LOADS, *files], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    for tensors, made in zip(given, torch.load(tmp_path / "made.pt"), strict=True):
        for a, b in zip(made, program(*tensors), strict=True):
            assert torch.equal(a, b)


def test_captured_tensors_are_inputs_of_what_is_exported() -> None:
    """Without PyTorch's compiler a function is traced as it is: what it reads is read when the program runs."""

    class Biased(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("slopes", drawn(4))
            self.register_buffer("table", drawn(4, 64))

        def forward(self, q: Tensor) -> Tensor:
            slopes, table = self.slopes, self.table
            return eintune.attention(
                q, q, q, score_mod=lambda s, b, h, p, m: s * slopes[h] + table[h, p - m + 32], causal=True
            )

    program, q = Biased(), drawn(2, 4, 12, 16)
    exported = torch.export.export(program, (q,), dynamic_shapes=({2: Dim("length", max=30)},), strict=False).module()
    for n in (12, 20):
        q = drawn(2, 4, n, 16)
        assert torch.equal(exported(q), program(q))
    exported.slopes.mul_(2), exported.table.mul_(3)
    program.slopes.mul_(2), program.table.mul_(3)
    assert torch.equal(exported(q), program(q))


def test_what_cannot_be_exported_is_told() -> None:
    class Numbered(torch.nn.Module):
        def forward(self, q: Tensor, scale: Tensor) -> Tensor:
            return eintune.attention(q, q, q, scale=scale)

    with pytest.raises(eintune.UnsupportedArgument, match="`scale` must be a number, and no tensor's"):
        torch.export.export(Numbered(), (drawn(1, 2, 8, 16), torch.ones(())), strict=False)
