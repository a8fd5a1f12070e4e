"""What `eintune.compile` gives is pickled and copied as what it is made of; another process computes the same."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import eintune

SOFTMAX = "GMp = Xp,m :: \\/m max\nSNp,m = e^(tau * Xp,m - tau * GMp)\nSDp = SNp,m\nYp,m = SNp,m / SDp"
CHILD = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    run, inputs = pickle.load(file)
outputs = run(*inputs)
with open(sys.argv[2], "wb") as file:
    pickle.dump((outputs, run.stated), file)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "options", "shapes"),
    [
        (SOFTMAX, {"params": {"tau": 0.1}, "name": "tempered"}, [(24, 48)]),
        ("Zm,n = Ak,m * Bk,n\nYm = Zm,n :: \\/n max", {"dtype": "fp32"}, [(16, 24), (16, 8)]),
        ("Zm,n = Am", {"sizes": {"n": 5}}, [(7,)]),
    ],
)
def test_another_process_gives_the_same_numbers(
    text: str, options: dict[str, Any], shapes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    run = eintune.compile(text, **options)
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]
    expected = run(*inputs)  # it has kernels ready from here on
    (tmp_path / "in").write_bytes(pickle.dumps((run, inputs)))
    command = [sys.executable, "-P", "-c", CHILD, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    outputs, stated = pickle.loads((tmp_path / "out").read_bytes())
    assert stated == run.stated
    for got, want in zip(
        outputs if isinstance(outputs, tuple) else [outputs],
        expected if isinstance(expected, tuple) else [expected],
        strict=True,
    ):
        assert torch.equal(got, want)


def test_what_comes_back_has_all_that_was_stated_and_its_gradients(tmp_path: Path) -> None:
    run = eintune.compile("Zm,n = Ak,m * Bk,n * third", params={"third": 1.0 / 3.0}, dtype="fp64", name="scaled")
    run(torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64))
    for made in (pickle.loads(pickle.dumps(run)), copy.copy(run), copy.deepcopy([run])[0]):
        assert made is not run and made.stated == run.stated and made.cascade == run.cascade
        assert (made.params, made.dtype, made.name) == ({"third": 1.0 / 3.0}, "fp64", "scaled")
        a = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        b = torch.randn(4, 5, dtype=torch.float64)
        made(a, b).sum().backward()
        torch.testing.assert_close(a.grad, (b.sum(1) / 3)[:, None].expand(4, 3))


def test_it_is_small_however_much_is_ready() -> None:
    run = eintune.compile("Zm,n = Ak,m * Bk,n")
    before = len(pickle.dumps(run))
    for n in (3, 5, 9):
        run(torch.randn(4, n), torch.randn(4, n))
    assert len(pickle.dumps(run)) == before < 1000
