"""Runs kernels on tensors whose tiles span 2**31 elements, in Triton's interpreter: a program of its own, started with
TRITON_INTERPRET=1 by `test_spans.py`. Prints a JSON object: for each case what was wrong.

Only the pages that are touched exist: the tensors are views of storages of which nearly all is never written.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator

import torch
from kernel_forms import Case, attention_case, errors, inputs
from page_forms import pages_case, tensors_of

import eintune
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.emit.spans import FARTHEST
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.launch import TileTooWide
from eintune.kernels.launch.load import load
from eintune.kernels.serve import choices, serving

SMALL: dict[str, object] = {"seq": 32, "kv_seq": 32, "head_dim": 16, "heads": 1, "dtype": "fp16"}
ATTENTION: dict[str, tuple[Case, str, int]] = {
    "keys": (attention_case(1, **SMALL), "K", 3),  # type: ignore[arg-type]
    "values": (attention_case(2, **SMALL), "V", 3),  # type: ignore[arg-type]
    "rows of queries": (attention_case(3, **SMALL), "Q", 2),  # type: ignore[arg-type]
    "rows of the output": (attention_case(1, **SMALL), "AV", 2),  # type: ignore[arg-type]
    "heads along the rows": (attention_case(1, **{**SMALL, "heads": 8, "kv_heads": 1, "packed": True}), "Q", 2),  # type: ignore[arg-type]
    "keys in parts": (attention_case(1, **{**SMALL, "parts": 2}), "K", 3),  # type: ignore[arg-type]
}
"""A case, the tensor whose tiles are far apart, and along which axis."""


def far(t: torch.Tensor, axis: int, steps: int, farthest: int) -> torch.Tensor:
    """The same numbers, the axis outermost, its stride so large that so many steps go to `farthest` or just beyond."""
    strides, packed = [0] * t.dim(), 1
    for i in reversed([i for i in range(t.dim()) if i != axis]):
        strides[i] = packed
        packed *= t.shape[i]
    strides[axis] = -(-farthest // steps)
    storage = torch.empty((t.shape[axis] - 1) * strides[axis] + packed, dtype=t.dtype)
    return storage.as_strided(t.shape, strides).copy_(t)


def run(case: Case, tensors: list[torch.Tensor], name: str, axis: int) -> list[str]:
    """What is wrong: a kernel that does not refuse, or a wide one that is not right."""
    kernel = case.kernel
    position = [a.name for a in kernel.arguments].index(name)
    steps = max(r.steps[axis] for k in kernel.launches for r in k.reaches if k.arguments[r.argument].name == name)
    plain = tensors[position]
    tensors[position] = far(plain, axis, steps, FARTHEST + 1)
    try:
        load(kernel)(tensors)
        return ["it was not refused"]
    except TileTooWide as error:
        if not str(error).startswith(f"{name}: a tile must span less than 2**31 elements"):
            return [str(error)]
    wide = emit(case.program, case.schedule, wide=True)
    load(wide)(tensors)
    found = errors(case, wide, tensors)
    layout = zip(plain.shape, tensors[position].stride(), strict=True)
    beside = sum(n * s for i, (n, s) in enumerate(layout) if i != axis)
    tensors[position] = far(plain, axis, steps, FARTHEST - beside - steps)
    load(kernel)(tensors)  # as far as 32 bits hold
    return found + errors(case, kernel, tensors)


def attention_cases() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    for name, (case, tensor, axis) in ATTENTION.items():
        yield name, lambda case=case, tensor=tensor, axis=axis: run(case, inputs(case), tensor, axis)


def within_a_page() -> list[str]:
    """Places in a page are remainders, which are 32 bits wide too."""
    case = pages_case("triton", 16, 32, "fp16", kv_heads=1, heads=1)
    return run(case, tensors_of(case.problem, case.kernel), "KC", 1)


def in_a_program() -> list[str]:
    """`eintune.attention` by Triton: what the cost model picks refuses, and is made wide."""
    choices.emitter_for = lambda problem, device: "triton"
    made: list[Kernel] = []
    serving.load = lambda kernel: made.append(kernel) or load(kernel)  # type: ignore[assignment,func-returns-value]
    q, k, v = (torch.randn(1, 1, 32, 16, generator=torch.Generator().manual_seed(i)).half() for i in range(3))
    k = far(k, 3, 15, FARTHEST + 1)
    want = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    found = [(eintune.attention(q, k, v).double() - want).abs().max().item() for _ in range(2)]
    wide = [e for e in made if e.emitter == "triton" and not e.reaches]
    return [f"off by {x}" for x in found if not x < 2e-3] + ([] if len(wide) == 1 else [f"{len(wide)} wide kernels"])


def main() -> None:
    os.environ["EINTUNE_CACHE"] = tempfile.mkdtemp()
    cases = dict(attention_cases()) | {"within a page": within_a_page, "in a program": in_a_program}
    print(json.dumps({name: case() for name, case in cases.items()}))


if __name__ == "__main__":
    main()
