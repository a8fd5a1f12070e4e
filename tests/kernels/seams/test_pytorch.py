"""Programs of PyTorch's that run by Eintune: its registry, its operators' results, what falls back, compilers.

A GPU's operators have no kernel for a CPU, so that the functions which serve them can stand in that place here.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from packed_reference import drawn, in_cache, packed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import bias as biases
from torch.nn.attention import current_flash_attention_impl, varlen
from torch.nn.attention.varlen import AuxRequest, varlen_attn

import eintune
from eintune.host import notices
from eintune.kernels.seams import aten as functions
from eintune.kernels.seams import pytorch as seam
from eintune.kernels.serve.errors import UnsupportedArgument

aten = torch.ops.aten
B, H, KV, P, M, D = 2, 4, 2, 9, 13, 16


@pytest.fixture(autouse=True)
def _around(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "seam"))
    notices.forget()
    torch._dynamo.reset()
    yield
    eintune.restore()
    torch._dynamo.reset()
    assert current_flash_attention_impl() is None


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators that were served, as they are."""
    served: list[str] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            made = function(*args, **named)
            served.append(name)
            return made

        return run

    every = {name: (counting(name, f), devices) for name, (f, devices) in seam.SERVED.items()}
    monkeypatch.setattr(seam, "SERVED", every)
    return served


@pytest.fixture
def as_a_gpu() -> Iterator[None]:
    """All functions in the place of kernels for a CPU."""
    handle = seam.put_in_place({name: (f, ("CPU",)) for name, (f, _) in seam.SERVED.items()})
    yield
    handle.remove()


FOR_CPU, FORWARD = "_scaled_dot_product_flash_attention_for_cpu", "_flash_attention_forward"
Q, K, V = drawn(B, H, P, D), drawn(B, H, M, D, seed=1), drawn(B, H, M, D, seed=2)
SQUARE = drawn(B, H, M, D, seed=3)
MASK = drawn(B, 1, P, M, seed=4) > 0

WITHOUT_GROUPS = "enable_gqa" not in inspect.signature(varlen_attn).parameters
needs_groups = pytest.mark.skipif(WITHOUT_GROUPS, reason="PyTorch 2.11's `varlen_attn` has no grouped heads")

# ---- on and off


def test_nothing_is_registered_by_an_import() -> None:
    import subprocess
    import sys

    code = (
        "import torch.nn.attention as a, eintune; eintune.attention; eintune.activate\n"
        "assert 'eintune' not in a.list_flash_attention_impls() and a.current_flash_attention_impl() is None"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_from_activation_to_restoration(counted: list[str]) -> None:
    wanted = F.scaled_dot_product_attention(Q, K, V)
    assert not counted
    eintune.activate()
    assert current_flash_attention_impl() == "eintune"
    torch.testing.assert_close(F.scaled_dot_product_attention(Q, K, V), wanted)
    assert counted == [FOR_CPU]
    eintune.activate()
    eintune.restore()
    eintune.restore()
    assert current_flash_attention_impl() is None
    assert torch.equal(F.scaled_dot_product_attention(Q, K, V), wanted) and len(counted) == 1


def test_a_block_ends_what_it_began(counted: list[str]) -> None:
    with eintune.activate():
        F.scaled_dot_product_attention(Q, K, V)
        with eintune.activate():
            F.scaled_dot_product_attention(Q, K, V)
        assert current_flash_attention_impl() == "eintune"
        F.scaled_dot_product_attention(Q, K, V)
    F.scaled_dot_product_attention(Q, K, V)
    assert len(counted) == 3
    with pytest.raises(KeyError), eintune.activate():
        raise KeyError
    assert current_flash_attention_impl() is None


def test_what_was_active_before_is_again() -> None:
    class Nothing:
        def remove(self) -> None:
            pass

    torch.nn.attention.register_flash_attention_impl("another", register_fn=Nothing)
    torch.nn.attention.activate_flash_attention_impl("another")
    try:
        with eintune.activate():
            assert current_flash_attention_impl() == "eintune"
        assert current_flash_attention_impl() == "another"
        eintune.restore()
        assert current_flash_attention_impl() == "another"
    finally:
        torch.nn.attention.restore_flash_attention_impl()


def test_a_pytorch_without_a_registry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.delattr(torch.nn.attention, "register_flash_attention_impl")
        with pytest.raises(UnsupportedArgument, match=r"needs PyTorch's registry .* \(2\.11 and later\), but this is"):
            eintune.activate()


# ---- scaled_dot_product_attention on a CPU

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "plain": ((Q, K, V), {}),
    "a scale": ((Q, K, V), {"scale": 0.3}),
    "causal": ((SQUARE, K, V), {"is_causal": True}),
    "causal, more keys": ((Q, K, V), {"is_causal": True}),
    "causal, fewer keys": ((K, Q, Q), {"is_causal": True}),
    "a mask": ((Q, K, V), {"attn_mask": MASK.expand(B, H, P, M)}),
    "a mask of keys": ((Q, K, V), {"attn_mask": MASK[:, :, :1]}),
    "a mask of two axes": ((Q, K, V), {"attn_mask": MASK[0, 0]}),
    "a bias": ((Q, K, V), {"attn_mask": drawn(B, H, P, M, seed=5)}),
    "key heads shared": ((Q, K[:, :KV], V[:, :KV]), {"enable_gqa": True}),
    "bf16": ((Q.bfloat16(), K.bfloat16(), V.bfloat16()), {}),
    "fp64": ((Q.double(), K.double(), V.double()), {}),
    "odd head dims": ((Q[..., :11], K[..., :11], V[..., :11]), {}),
    "strides": ((drawn(B, P, H, D).transpose(1, 2), drawn(B, M, H, D).transpose(1, 2), V), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_pytorch(name: str, counted: list[str]) -> None:
    args, named = CALLS[name]
    wanted = F.scaled_dot_product_attention(*args, **named)
    with eintune.activate():
        made = F.scaled_dot_product_attention(*args, **named)
    near = {"atol": 2e-2, "rtol": 2e-2} if wanted.dtype == torch.bfloat16 else {"atol": 2e-6, "rtol": 2e-6}
    torch.testing.assert_close(made, wanted, **near)
    assert made.stride() == wanted.stride()
    assert counted == [FOR_CPU]


def test_an_operator_leaves_what_pytorchs_leaves() -> None:
    for args, named in CALLS.values():
        if named.get("enable_gqa") or not set(named) <= {"is_causal", "scale"}:
            continue
        given = (*args, 0.0, named.get("is_causal", False))
        wanted = aten._scaled_dot_product_flash_attention_for_cpu(*given, scale=named.get("scale"))
        with eintune.activate():
            made = aten._scaled_dot_product_flash_attention_for_cpu(*given, scale=named.get("scale"))
        for a, b in zip(made, wanted, strict=True):
            assert (a.dtype, a.stride()) == (b.dtype, b.stride())
            torch.testing.assert_close(a, b, atol=2e-2 if args[0].dtype == torch.bfloat16 else 1e-5, rtol=2e-2)


def test_gradients_are_pytorchs(counted: list[str]) -> None:
    def gradients() -> tuple[Tensor, ...]:
        given = [t.clone().requires_grad_() for t in (SQUARE, K, V)]
        out = F.scaled_dot_product_attention(*given, is_causal=True, scale=0.4)
        return torch.autograd.grad((out * drawn(*out.shape, seed=8)).sum(), given)

    wanted = gradients()
    with eintune.activate():
        made = gradients()
    assert counted == [FOR_CPU]
    for a, b in zip(made, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_model_stays_as_it_is(counted: list[str]) -> None:
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    x = drawn(2, 10, 32)
    wanted = layer(x)
    with eintune.activate():
        torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    assert counted


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_programs_run_by_eintune(backend: str, counted: list[str]) -> None:
    """Whether they were compiled before or after."""

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q * 2, k, v, is_causal=True).sin()

    wanted = f(Q, K, V)
    compiled = torch.compile(f, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(Q, K, V), wanted)
    assert not counted
    with eintune.activate():
        torch.testing.assert_close(compiled(Q, K, V), wanted)
        assert len(counted) == 1
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(f, backend=backend, fullgraph=True)(Q, K, V), wanted)
        assert len(counted) == 2


def test_other_tools_find_what_they_found_before(counted: list[str]) -> None:
    def f(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, K, V)

    wanted = f(Q)
    with eintune.activate():
        torch.testing.assert_close(torch.jit.trace(f, (Q,))(Q), wanted)
        torch.testing.assert_close(torch.func.vmap(f)(torch.stack([Q, Q]))[1], wanted)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert f(Q).dtype == torch.bfloat16
        gradient = torch.func.grad(lambda q: f(q).sum())(Q)
        counted.clear()
        program = torch.export.export(Attending(), (Q,))
        assert not counted
        torch.testing.assert_close(program.module()(Q), wanted)
        assert counted == [FOR_CPU]
    torch.testing.assert_close(gradient, torch.func.grad(lambda q: f(q).sum())(Q), atol=1e-5, rtol=1e-5)


class Attending(torch.nn.Module):
    def forward(self, q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, K, V)


def test_around_a_break_of_the_graph_nothing_is_compiled_that_is_ours(counted: list[str]) -> None:
    @torch.compile(backend="eager")
    def f(q: Tensor) -> Tensor:
        q = q + 1
        torch._dynamo.graph_break()
        return F.scaled_dot_product_attention(q, K, V)

    with eintune.activate():
        torch.testing.assert_close(f(Q), F.scaled_dot_product_attention(Q + 1, K, V))
    assert len(counted) == 2


# ---- what falls back


def test_what_is_not_taken_runs_by_pytorch_and_is_said_once(
    counted: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eintune.kernels.seams.dense.MOST_READY", 1)

    def refused(*args: Any, **named: Any) -> Any:
        raise UnsupportedArgument(f"head_dim must be 1 to 512, but the shapes are {args[0].shape}")

    monkeypatch.setitem(seam.SERVED, FOR_CPU, (refused, ("CPU",)))
    wanted = F.scaled_dot_product_attention(Q, K, V)
    with caplog.at_level(logging.WARNING, "eintune"), eintune.activate():
        for q in (Q, Q, Q[:1], Q[:, :, :3]):
            k, v = K[: len(q)], V[: len(q)]
            torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), wanted[: len(q), :, : q.shape[2]])
    said = [r.getMessage() for r in caplog.records]
    assert said == [f"eintune: {FOR_CPU} runs by PyTorch: head_dim must be 1 to 512, but the shapes are {Q.shape}"]


def test_wide_heads_and_dropout_run_by_pytorch(counted: list[str], caplog: pytest.LogCaptureFixture) -> None:
    wide = drawn(1, 2, 5, 520)
    wanted = F.scaled_dot_product_attention(wide, wide, wide)
    with caplog.at_level(logging.WARNING, "eintune"), eintune.activate():
        assert torch.equal(F.scaled_dot_product_attention(wide, wide, wide), wanted)
        torch.manual_seed(0)
        dropped = F.scaled_dot_product_attention(Q, K, V, dropout_p=0.5)
    torch.manual_seed(0)
    assert torch.equal(dropped, F.scaled_dot_product_attention(Q, K, V, dropout_p=0.5))
    assert not counted and ["head_dim must be 1 to 512" in r.getMessage() for r in caplog.records] == [True]


DROPPED = "dropout must be 0, but got 0.1"
NOT_TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "dropout": (lambda: functions.flash(Q, K, V, 0.1), DROPPED),
    "dropout of cuDNN": (lambda: functions.cudnn(Q, K, V, None, False, 0.1), DROPPED),
    "dropout, memory-efficient": (lambda: functions.efficient(Q, K, V, None, False, 0.1), DROPPED),
    "a debug mask": (lambda: functions.flash(Q, K, V, 0.0, False, True), "`return_debug_mask` must be False"),
    "a gradient of cuDNN": (lambda: functions.cudnn(Q, K, V, None, True), "a gradient may be recorded"),
    "a gradient, memory-efficient": (lambda: functions.efficient(Q, K, V, None, True), "a gradient may be recorded"),
    "float64": (lambda: functions.flash(Q.double(), K.double(), V.double()), "query must be float16, bfloat16 or"),
    "slopes": (lambda: forward(alibi_slopes=drawn(H)), "`alibi_slopes` must be None"),
    "one part": (lambda: forward(num_splits=1), "`num_splits` must not be 1"),
    "a table without lengths": (lambda: forward(block_table=TABLE), "`seqused_k` must be given beside `block_table`"),
    "no lengths of keys": (lambda: forward(cum_seq_k=None), "`cum_seq_k` must be given where there is no"),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_the_operators_do_not_take(name: str) -> None:
    call, said = NOT_TAKEN[name]
    with pytest.raises(UnsupportedArgument) as caught:
        call()
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_where_pytorch_has_no_kernel_the_reason_is_the_error() -> None:
    with eintune.activate(), pytest.raises(UnsupportedArgument, match="`alibi_slopes` must be None"):
        aten._flash_attention_forward(*PACKED, 8, 21, 0.0, False, False, alibi_slopes=drawn(H))


# ---- operators of a GPU


def layout(made: Any) -> list[Any]:
    """Of an operator's results shapes, strides and dtypes."""
    return [(tuple(t.shape), t.stride(), t.dtype) if isinstance(t, Tensor) else t for t in made]


def by_shapes(operator: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What PyTorch says of an operator's results: compiled programs rely on it."""
    with FakeTensorMode() as mode:
        args, named = torch.utils._pytree.tree_map_only(Tensor, mode.from_tensor, (args, named))
        return operator(*args, **named)


def exact(q: Tensor, k: Tensor, v: Tensor, mode: object, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    s = q @ k.mT / math.sqrt(q.shape[3])
    s = s if bias is None else s + bias
    rows, keys = s.shape[2:]
    shift = keys - rows if mode == "lower_right" else 0
    seen = torch.arange(keys) <= torch.arange(rows)[:, None] + shift
    s = s if mode is None else s.masked_fill(~seen, -math.inf)
    return torch.softmax(s, -1).nan_to_num(0.0) @ v, torch.logsumexp(s, -1)


LYING = drawn(B, P, H, D).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("q", [Q, LYING], ids=["in order", "heads after lengths"])
@pytest.mark.parametrize("kv_heads", [H, KV])
def test_flash(kv_heads: int, q: Tensor, is_causal: bool, dtype: torch.dtype, as_a_gpu: None) -> None:
    q, k, v = q.to(dtype), K[:, :kv_heads].to(dtype), V[:, :kv_heads].to(dtype)
    made = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, scale=1 / math.sqrt(D))
    assert layout(made) == layout(by_shapes(aten._scaled_dot_product_flash_attention, (q, k, v, 0.0, is_causal), {}))
    out, log = exact(q, k, v, "lower_right" if is_causal else None)
    near = 2e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(made[0].double(), out, atol=near, rtol=near)
    torch.testing.assert_close(made[1].double(), log, atol=1e-5, rtol=near)


def test_lower_right_biases_of_pytorch(as_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They call the operator by themselves, with causal for lower right, and pad head dims."""
    monkeypatch.setattr(biases, "can_use_flash_attention", lambda params: True)
    q, k, v = (t[..., :11] for t in (Q, K, V))
    made = F.scaled_dot_product_attention(q, k, v, biases.causal_lower_right(P, M))
    torch.testing.assert_close(made.double(), exact(q, k, v, "lower_right")[0], atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", ["cudnn", "efficient"])
@pytest.mark.parametrize(
    ("is_causal", "bias"),
    [
        (False, None),
        (True, None),
        (False, drawn(B, H, P, M, seed=7)),
        (False, drawn(1, 1, 1, M, seed=7).expand(B, H, P, M)),
    ],
)
def test_of_other_libraries(name: str, is_causal: bool, bias: Tensor | None, as_a_gpu: None) -> None:
    operator = getattr(aten, f"_scaled_dot_product_{name}_attention")
    for q, v in itertools.product((Q, LYING), (V, V[..., :8])):
        args = (q, K, v, bias, False, 0.0, is_causal)
        made = operator(*args)
        assert layout(made) == layout(by_shapes(operator, args, {}))
        out, _ = exact(q, K, v, "top_left" if is_causal else None, bias)
        torch.testing.assert_close(made[0].double(), out, atol=2e-6, rtol=2e-6)


# ---- varlen_attn


def cumulated(*lengths: int) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


QUERIES, KEYS = [5, 0, 7, 1, 8, 3], [9, 7, 0, 8, 21, 2]
CU_Q, CU_K = cumulated(*QUERIES), cumulated(*KEYS)
PQ, PK, PV = drawn(24, H, D), drawn(47, KV, D, seed=1), drawn(47, KV, D, seed=2)
PACKED = (PQ, PK, PV, CU_Q, CU_K)
LISTS = CU_Q.tolist(), CU_K.tolist()
K_CACHE, V_CACHE, TABLE, USED = in_cache(*[[t[a:b] for a, b in itertools.pairwise(LISTS[1])] for t in (PK, PV)], 8)


def forward(**changed: Any) -> Any:
    given: dict[str, Any] = {"cum_seq_q": CU_Q, "cum_seq_k": CU_K, "max_q": 8, "max_k": 21, "dropout_p": 0.0}
    given |= {"is_causal": False, "return_debug_mask": False} | changed
    return functions.flash_forward(PQ, PK, PV, **given)


def unseen_is_inf(log: Tensor) -> Tensor:
    return log.masked_fill(log == -math.inf, math.inf)


@needs_groups
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (3, 0), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_varlen_attn(window: tuple[int, int], dtype: torch.dtype, counted: list[str]) -> None:
    q, k, v = (t.to(dtype) for t in (PQ, PK, PV))
    wanted, logs = packed(q, k, v, *LISTS, window_size=window, scale=0.3)
    given: dict[str, Any] = {"scale": 0.3, "window_size": window, "enable_gqa": True}
    near = {"atol": 2e-6, "rtol": 2e-6} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    with eintune.activate():
        out, log = varlen_attn(q, k, v, CU_Q, CU_K, 8, 21, return_aux=AuxRequest(lse=True), **given)
        torch.testing.assert_close(out.double(), wanted, **near)
        torch.testing.assert_close(log.double(), unseen_is_inf(logs), atol=2e-2, rtol=2e-2)
        assert counted == [FORWARD]
        filled = torch.full_like(q, torch.nan)
        made = varlen.varlen_attn_out(filled, q, k, v, CU_Q, CU_K, 8, 21, return_aux=AuxRequest(lse=True), **given)
    assert made[0] is filled and torch.equal(filled, out) and torch.equal(made[1], log)
    assert counted == [FORWARD, f"{FORWARD}_no_dropout_inplace"]


@needs_groups
def test_varlen_attn_over_pages_and_over_part_of_the_keys(counted: list[str]) -> None:
    with eintune.activate():
        in_pages = varlen_attn(
            PQ, K_CACHE, V_CACHE, CU_Q, None, 8, 21, window_size=(-1, 0), enable_gqa=True, seqused_k=USED,
            block_table=TABLE,
        )  # fmt: skip
        used = torch.tensor([4, 7, 0, 2, 20, 1], dtype=torch.int32)
        part = varlen_attn(*PACKED, 8, 21, enable_gqa=True, seqused_k=used)
    torch.testing.assert_close(in_pages.double(), packed(PQ, PK, PV, *LISTS, causal=True)[0], atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(part.double(), packed(PQ, PK, PV, *LISTS, used.tolist())[0], atol=2e-6, rtol=2e-6)
    assert counted == [FORWARD] * 2


@needs_groups
def test_varlen_attn_in_compiled_programs(counted: list[str]) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
        return varlen_attn(q * 2, k, v, cu_q, cu_k, 8, 21, window_size=(-1, 0), enable_gqa=True).sin()

    compiled = torch.compile(f, fullgraph=True)
    with eintune.activate():
        torch.testing.assert_close(compiled(*PACKED), f(*PACKED))
    assert counted == [FORWARD] * 2


@pytest.mark.parametrize("window", [(None, None), (-1, 0), (3, 2)])
@pytest.mark.parametrize("used", [None, [13, 4]])
def test_flash_forward_of_a_batch(
    window: tuple[int | None, int | None], used: list[int] | None, as_a_gpu: None
) -> None:
    q, k, v = (t.transpose(1, 2) for t in (Q, K, V))
    given: dict[str, Any] = {"window_size_left": window[0], "window_size_right": window[1]}
    given |= {"seqused_k": torch.tensor(used)} if used else {}
    args = (q, k, v, None, None, P, M, 0.0, False, False)
    made = aten._flash_attention_forward(*args, **given)
    assert layout(made) == layout(by_shapes(aten._flash_attention_forward, args, given))
    left, right = (-1 if n is None else n for n in window)
    for n in range(B):
        keys = (used or [M, M])[n]
        wanted, logs = packed(q[n], k[n, :keys], v[n, :keys], [0, P], [0, keys], window_size=(left, right))
        torch.testing.assert_close(made[0][n].double(), wanted, atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(made[1][n].double(), unseen_is_inf(logs), atol=1e-5, rtol=1e-5)


def test_flash_forward_says_what_pytorch_says_of_its_results(as_a_gpu: None) -> None:
    args = (*PACKED, 8, 21, 0.0, True, False)
    assert layout(aten._flash_attention_forward(*args)) == layout(by_shapes(aten._flash_attention_forward, args, {}))
