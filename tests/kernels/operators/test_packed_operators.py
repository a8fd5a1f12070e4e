"""Packed and paged attention as operators: PyTorch's own checks, whole graphs at any length, export, autocast, vmap."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_reference import drawn, in_cache, packed
from torch import Tensor
from torch.func import vmap
from torch.library import opcheck

import eintune.operators
from eintune.kernels.serve.errors import UnsupportedArgument

attend, in_pages = torch.ops.eintune.varlen_attention, torch.ops.eintune.paged_attention


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "packed-operators"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def cumulated(*lengths: int) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


H, KV, D, PAGE = 4, 2, 16, 8
CU_Q, CU_K = cumulated(5, 0, 7, 3), cumulated(9, 7, 0, 11)
Q, K, V = drawn(15, H, D), drawn(27, KV, D, seed=1), drawn(27, KV, 8, seed=2)
BY_HEAD = drawn(H, seed=3)
KC, VC, TABLE, USED = in_cache([K[:9], K[:0], K[9:]], [V[:9], V[:0], V[9:]], PAGE)
ROWS = drawn(3, 2, H, D)

VARLEN: dict[str, tuple[Any, ...]] = {
    "plain": (Q, K, V, CU_Q, CU_K, [], "{}"),
    "options": (Q, K, V, CU_Q, CU_K, [], '{"causal":true,"window":4,"softcap":3.0,"scale":0.3,"return_lse":true}'),
    "tensors": (
        Q, K, V, CU_Q, CU_K, [BY_HEAD, CU_Q[1:].clone(), BY_HEAD * 2],
        '{"causal":"top_left","window_size":[3,-1],"inputs":{"alibi":0,"seqused_k":1,"sinks":2}}',
    ),
    "bf16, published slopes": (
        Q.bfloat16(), K.bfloat16(), V.bfloat16(), CU_Q.long(), CU_K, [], '{"alibi":true,"return_lse":true}'
    ),
    "fp64": (Q.double(), K.double(), V.double(), CU_Q, CU_K, [], '{"return_lse":true}'),
    "nothing": (Q[:0], K, V, CU_Q * 0, CU_K, [], '{"return_lse":true}'),
}  # fmt: skip
PAGED: dict[str, tuple[Any, ...]] = {
    "several queries": (ROWS, KC, VC, TABLE, USED, [], '{"causal":true,"return_lse":true}'),
    "packed": (Q, KC, VC, TABLE, USED, [cumulated(5, 0, 9)], '{"return_lse":true,"inputs":{"cu_seq_q":0}}'),
    "one query": (ROWS[:, 0].contiguous(), KC, VC, TABLE, USED, [BY_HEAD], '{"return_lse":true,"inputs":{"sinks":0}}'),
}  # fmt: skip


@pytest.mark.parametrize("name", VARLEN)
def test_pytorch_checks_packed(name: str) -> None:
    opcheck(attend.default, VARLEN[name])


@pytest.mark.parametrize("name", PAGED)
def test_pytorch_checks_paged(name: str) -> None:
    opcheck(in_pages.default, PAGED[name])


def test_schemas() -> None:
    assert str(attend.default._schema) == (
        "eintune::varlen_attention(Tensor q, Tensor k, Tensor v, Tensor cu_seq_q, Tensor cu_seq_k, Tensor[] others, "
        "str program) -> Tensor[]"
    )
    assert str(in_pages.default._schema) == (
        "eintune::paged_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_table, Tensor cache_seqlens, "
        "Tensor[] others, str program) -> Tensor[]"
    )


WRONG: dict[str, tuple[int, Any, str]] = {
    "no program": (6, "{", "an operator's program must be what this version writes"),
    "another option": (6, '{"dropout":0.1}', "an operator's program must be what this version writes"),
    "an input that there is not": (6, '{"inputs":{"bias":0}}', "an operator's inputs are seqused_k, cu_seq_q"),
    "inputs that are not given": (6, '{"inputs":{"sinks":0}}', "the operator's program reads 1 inputs, but got 0"),
    "one input twice": (6, '{"inputs":{"sinks":0,"alibi":0}}', "must read each input once"),
    "a window": (6, '{"window":0}', "`window` must be a positive integer"),
    "axes": (0, Q[None], "`q` must have 3 axes"),
    "lengths": (3, CU_Q[1:], "`cu_seq_q` and `cu_seq_k` must have sequences + 1 elements each"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_wrong_arguments_of_an_operator(name: str, device: str) -> None:
    place, wrong, said = WRONG[name]
    given = [*VARLEN["plain"]]
    given[place] = wrong
    with pytest.raises(UnsupportedArgument) as caught:
        attend(*[t.to(device) if isinstance(t, Tensor) else t for t in given])
    assert said in str(caught.value)


# ---- compilers


class Counting:
    """A backend that counts the graphs that it is given."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


def step(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, sinks: Tensor
) -> tuple[Tensor, Tensor]:
    out, log = eintune.varlen_attention(
        q * 2, k, v, cu_q, cu_k, max_q, max_k=max_q, causal=True, window_size=(9, 0), sinks=sinks, return_lse=True
    )
    return out.sin(), log


def test_fifty_lengths_are_one_graph() -> None:
    backend = Counting()
    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=True)
    for n in range(50):
        # No two sizes are equal at first: PyTorch would take them for one.
        lengths = [3 + n, 11 + (n * 7) % 13, 20] + [5] * ((n + 2) % 3)
        keys = [a + b for a, b in zip(lengths, itertools.cycle([0, 4, 9]), strict=False)]
        cu_q, cu_k = cumulated(*lengths), cumulated(*keys)
        given = drawn(sum(lengths), H, D), drawn(sum(keys), KV, D, seed=1), drawn(sum(keys), KV, 8, seed=2)
        out, log = compiled(*given, cu_q, cu_k, max(lengths), BY_HEAD)
        if n % 10 == 0:
            exact, logs = packed(
                given[0] * 2, *given[1:], cu_q.tolist(), cu_k.tolist(), causal=True, window_size=(9, 0), sinks=BY_HEAD
            )
            torch.testing.assert_close(out, exact.sin().float(), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(log, logs.float(), atol=1e-4, rtol=1e-5)
    assert len(backend.graphs) == 1


def decode(q: Tensor, k: Tensor, v: Tensor, table: Tensor, used: Tensor) -> Tensor:
    return eintune.paged_attention(q + 1, k, v, table, used, causal=True, alibi=True).cos()


def test_a_growing_batch_over_pages_is_one_graph() -> None:
    backend = Counting()
    compiled = torch.compile(decode, backend=backend, fullgraph=True, dynamic=True)
    for lengths in ([9, 5, 33, 3, 8], [10, 6, 34, 4, 9], [1, 2, 3], [40, 7, 30, 9, 1, 2, 3]):
        caches = in_cache(*[[drawn(n, KV, D, seed=n + i) for n in lengths] for i in (0, 50)], PAGE)
        q = drawn(len(lengths), 1, H, D)
        torch.testing.assert_close(compiled(q, *caches), decode(q, *caches))
    assert len(backend.graphs) == 1


def test_a_program_runs_by_inductor() -> None:
    compiled = torch.compile(step, fullgraph=True)
    given = Q, K, V, CU_Q, CU_K, 7, BY_HEAD
    for made, wanted in zip(compiled(*given), step(*given), strict=True):
        torch.testing.assert_close(made, wanted)


REASONS: dict[str, tuple[Callable[..., Any], str]] = {
    "a window": (lambda q: eintune.varlen_attention(q, K, V, CU_Q, CU_K, window=0), "`window` must be a positive"),
    "a number of a tensor's": (
        lambda q: eintune.varlen_attention(q, K, V, CU_Q, CU_K, scale=q.sum()), "`scale` must be a number, and no"
    ),
    "no tensor": (lambda q: eintune.varlen_attention(q, K, V, [0, 15]), "`cu_seq_q` must be a torch.Tensor"),
    "another argument": (
        lambda q: eintune.paged_attention(q, KC, VC, TABLE, USED, cu_seq_q=CU_Q, dropout=0.1), "dropout"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_recorded_says_why(name: str) -> None:
    f, said = REASONS[name]
    with pytest.raises(Exception, match=said):
        torch.compile(f, backend="eager", fullgraph=True)(Q)


class Model(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
        return eintune.varlen_attention(q, k, v, cu_q, cu_k, causal=True, softcap=5.0)


LOADING = """
import sys, torch, eintune.operators
program = torch.export.load(sys.argv[1]).module()
given = torch.load(sys.argv[2])
torch.save(program(*given), sys.argv[3])
"""


def test_a_program_is_exported_and_loaded_by_another_process(tmp_path: Path) -> None:
    queries, keys, sequences = (torch.export.Dim(n, min=2) for n in ("queries", "keys", "sequences"))
    given = Q, K, V, CU_Q, CU_K
    shapes = ({0: queries}, {0: keys}, {0: keys}, {0: sequences}, {0: sequences})
    torch.export.save(torch.export.export(Model(), given, dynamic_shapes=shapes), tmp_path / "model.pt2")
    q, cu_q, cu_k = drawn(20, H, D), cumulated(4, 9, 3, 0, 4), cumulated(4, 9, 5, 5, 4)
    torch.save((q, K, V, cu_q, cu_k), tmp_path / "given.pt")
    files = [str(tmp_path / n) for n in ("model.pt2", "given.pt", "made.pt")]
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-P", "-c", LOADING, *files], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    exact, _ = packed(q, K, V, cu_q.tolist(), cu_k.tolist(), causal=True, softcap=5.0)
    torch.testing.assert_close(torch.load(files[2]).double(), exact, atol=2e-6, rtol=2e-6)


# ---- the rest


def test_gradients_are_refused_in_one_line() -> None:
    q = Q.clone().requires_grad_()
    with pytest.raises(UnsupportedArgument, match=r"eintune\.varlen_attention is forward only"):
        attend(q, *VARLEN["plain"][1:])
    with pytest.raises(UnsupportedArgument, match=r"eintune\.paged_attention is forward only"):
        in_pages(ROWS.clone().requires_grad_(), *PAGED["several queries"][1:])
    with torch.no_grad():
        assert attend(q, *VARLEN["plain"][1:])[0].shape == (15, H, 8)


def test_autocast_gives_floats_its_dtype_and_leaves_lengths() -> None:
    wanted, _ = packed(Q, K, V, CU_Q.tolist(), CU_K.tolist())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for out in (eintune.varlen_attention(Q, K, V, CU_Q, CU_K), attend(*VARLEN["plain"])[0]):
            assert out.dtype == torch.bfloat16
            torch.testing.assert_close(out.double(), wanted, atol=3e-2, rtol=3e-2)
        assert eintune.paged_attention(ROWS, KC, VC.bfloat16(), TABLE, USED).dtype == torch.bfloat16


def test_vmap_makes_one_call_after_another() -> None:
    every = torch.stack([Q, Q * 2, Q * 3])
    made = vmap(lambda q: eintune.varlen_attention(q, K, V, CU_Q, CU_K, causal=True, return_lse=True))(every)
    for n, q in enumerate(every):
        for a, b in zip(made, eintune.varlen_attention(q, K, V, CU_Q, CU_K, causal=True, return_lse=True), strict=True):
            torch.testing.assert_close(a[n], b)
    lengths = torch.stack([USED, USED.clamp(max=5)])
    by_lengths = vmap(lambda used: eintune.paged_attention(ROWS, KC, VC, TABLE, used))(lengths)
    torch.testing.assert_close(by_lengths[1], eintune.paged_attention(ROWS, KC, VC, TABLE, lengths[1]))
