"""A kernel as one file: it runs by itself, says ok, and exits with 1 when the kernel is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled_kernels import run
from kernel_forms import attention_case

from eintune.kernels.generate.standalone import standalone
from eintune.space.cascade.cascade import Cascade

FORMS = {
    "torch, bf16": {"emitter": "torch", "dtype": "bf16", "seq": 300},
    "triton, fp32": {"seq": 40, "causal": "top_left"},
    "torch, in parts": {"emitter": "torch", "seq": 5, "kv_seq": 300, "parts": 4},
    "triton, in parts": {"seq": 5, "kv_seq": 70, "parts": 2, "passes": 2},
    "triton, fp16, grouped": {"dtype": "fp16", "seq": 33, "heads": 4, "kv_heads": 2, "passes": 3},
}


def text(**kw: object) -> str:
    case = attention_case(**kw)  # type: ignore[arg-type]
    return standalone(case.kernel, case.problem, Cascade.parse(case.problem.cascade))


@pytest.mark.interpreter
@pytest.mark.parametrize("name", FORMS)
def test_it_checks_itself(name: str, tmp_path: Path) -> None:
    source = text(**FORMS[name])
    assert "eintune" not in "".join(line for line in source.splitlines() if "import" in line)
    good = run(source, tmp_path / "k.py")
    assert good.returncode == 0 and "AV: rms error" in good.stdout and ": ok" in good.stdout, good.stderr
    start = source.index("def kernel(")
    broken = source[:start] + source[start:].replace("float('-inf')", "float('inf')", 1)
    bad = run(broken, tmp_path / "broken.py")
    assert bad.returncode == 1 and "WRONG" in bad.stdout, bad.stderr


def test_it_says_what_it_needs(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU, so nothing is missing")
    missing = run(text(seq=20), tmp_path / "k.py", interpret=False)
    assert missing.returncode == 1 and "needs a CUDA GPU" in missing.stderr
    narrow = run(text(seq=20, dtype="bf16"), tmp_path / "k.py")
    assert narrow.returncode == 1 and "does not multiply bf16" in narrow.stderr
