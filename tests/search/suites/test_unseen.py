"""Drawn shapes that nothing was tuned for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.search.cli.main import main
from eintune.search.suites import unseen as module
from eintune.search.suites.suite import stated
from eintune.search.suites.unseen import MOST_SCORES, unseen


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_seed_draws_the_same_cases_and_all_can_be_stated(seed: int) -> None:
    suite = unseen(60, seed)
    assert suite == unseen(60, seed) and suite.cases != unseen(60, seed + 1).cases
    assert suite.cases[:20] == unseen(20, seed).cases
    cases = stated(suite.cases, "bf16")
    assert len(cases) == 60
    for case in cases:
        sizes = case.problem.sizes
        heads = sizes["h"] * sizes.get("g", 1)
        assert 4 <= heads <= 64 and 1 <= sizes["b"] <= 32 and sizes["m"] <= 16384 and 64 <= sizes["e"] <= 256
        assert sizes["b"] * heads * sizes["p"] * sizes["m"] <= MOST_SCORES


def test_what_is_drawn_is_of_all_kinds() -> None:
    cases = unseen(100, 3).cases
    causal, chunks = (sum(word in c for c in cases) for word in ("--causal", "--kv-seq"))
    modified = sum(any(m.split()[0] in c for m in module.MODIFIERS) for c in cases)
    assert 25 < causal < 75 and 20 < chunks < 70 and 20 < modified < 50
    lengths = [int(c.split("--seq ")[1].split()[0]) for c in cases]
    assert sum(n % 16 == 0 for n in lengths) < 25 and max(lengths) > 4000 and min(lengths) < 10


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "LONGEST", 6)
    monkeypatch.setattr(module, "MOST_ELEMENTS", 2**16)
    options = ["--device", "cpu", "--peers", "sdpa", "--iters", "3", "--warmup", "1"]
    folders = ["--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "results")]
    assert main(["bench", "--unseen", "2", "--seed", "5", *options, *folders, "--json", str(tmp_path / "x.json")]) == 0
    told = capsys.readouterr().out
    assert "nothing was tuned for (seed 5)" in told and "geometric mean" in told and "least" in told
    kept = json.loads((tmp_path / "x.json").read_text())["result"]
    assert kept["settings"]["served"] is True
    assert not list((tmp_path / "cache").rglob("records/*.json"))  # nothing was tuned on the way
