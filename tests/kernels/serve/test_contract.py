"""The layouts and the combinations of arguments that are promised (`contract.py`), by PyTorch and by Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import contract
import pytest
import torch

from eintune.kernels.serve import attention as runtime
from eintune.kernels.serve import modified_attention as modified
from eintune.kernels.serve import serving

HELPERS = Path(__file__).parents[2] / "helpers"


def by_torch(monkeypatch: pytest.MonkeyPatch, forms: str, combinations: int) -> dict[str, str]:
    for module in (modified, runtime):
        monkeypatch.setattr(module, "_ready", {})
    monkeypatch.setattr(serving, "choices", contract.served_by("torch", forms))
    monkeypatch.setattr(serving, "by_operators", contract.refuse)
    return contract.wrong("torch", 1, combinations)


def by_triton(forms: str, layouts: int, combinations: int) -> dict[str, str]:
    """In a process of its own, which interprets."""
    folders = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(HELPERS)])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": folders}
    command = [sys.executable, "-P", str(HELPERS / "contract.py"), "triton", forms, str(layouts), str(combinations)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_there_are_as_many_as_are_promised() -> None:
    assert len(contract.LAYOUTS) == 52 and len(contract.COMBINATIONS) == 120
    pairs = {(c.change, c.seen) for c in contract.COMBINATIONS}
    assert len(pairs) == len(contract.CHANGES) * len(contract.FILTERS)
    for kinds, field in ((contract.GIVES, "gives"), (tuple(contract.NEAR), "dtype"), ((1, 3), "groups")):
        assert {getattr(c, field) for c in contract.COMBINATIONS} == set(kinds)


def test_layouts_are_what_they_say() -> None:
    """The same numbers elsewhere in memory, but for those that repeat some."""
    t = torch.randn(2, 2, 19, 16)
    strides = set()
    for name, lay in contract.LAYOUTS.items():
        q, k, v = lay((t, t + 1, t + 2))
        strides.add((q.stride(), k.stride(), v.stride(), q.storage_offset() % 16, q.shape))
        if not name.startswith(("expanded", "overlapping", "of one head")):
            assert torch.equal(q, t) and torch.equal(k, t + 1) and torch.equal(v, t + 2), name
    assert len(strides) >= 50


def test_a_wrong_result_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.eintune, "attention", lambda q, k, v, **_: q.new_zeros(*q.shape[:-1], v.shape[-1]))
    assert contract.check_layout("mixed") and contract.check_combination(5)


def test_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_torch(monkeypatch, "defined", 5) == {}


@pytest.mark.interpreter
def test_by_triton() -> None:
    assert by_triton("defined", 6, 9) == {}


@pytest.mark.soak
def test_all_derived_forms_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_torch(monkeypatch, "derived", 1) == {}


@pytest.mark.soak
@pytest.mark.interpreter
@pytest.mark.parametrize("forms", ["defined", "derived"])
def test_all_by_triton(forms: str) -> None:
    assert by_triton(forms, 1, 1) == {}
