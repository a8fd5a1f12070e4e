"""The runtime serves the stored winner, or the next best thing, and is never silently wrong."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune
from eintune.host import notices
from eintune.host.directories import cache_directory
from eintune.kernels.serve import attention as runtime
from eintune.kernels.serve import priced as priced_module
from eintune.kernels.serve import serving
from eintune.kernels.serve.adapted import nearest_schedule, unlikeness
from eintune.kernels.serve.attention import UnsupportedArgument
from eintune.kernels.serve.choices import choices, make_kernel
from eintune.kernels.serve.priced import CASCADES, ranked
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.shipped_forms import derived_texts
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import WORKLOADS, attention_problem

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, nothing ready, everything unsaid."""
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime, "_ready", {})
    notices.forget()
    yield tmp_path


def exact(q: Tensor, k: Tensor, v: Tensor, causal: str | None = None, scale: float | None = None) -> Tensor:
    """Attention in float64; a query without keys gets zeros."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    rows, columns = (torch.arange(n)[:, None] for n in scores.shape[-2:])
    if causal is not None:
        offset = len(columns) - len(rows) if causal == "lower_right" else 0
        scores = scores.masked_fill(rows + offset < columns.T, -math.inf)
    return torch.nan_to_num(torch.softmax(scores, -1)) @ v


def tensors(
    b: int, heads: int, kv: int, p: int, m: int, e: int, f: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((b, heads, p, e), (b, kv, m, e), (b, kv, m, f))
    q, k, v = (torch.randn(s, generator=g).to(dtype) for s in shapes)
    return q, k, v


def close(made: Tensor, wanted: Tensor) -> bool:
    return bool((made.double() - wanted).abs().max() <= TOLERANCE[made.dtype] * wanted.abs().max().clamp(min=1.0))


def problem_of(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Problem:
    (b, heads, p, e), kv, m, f = q.shape, k.shape[1], k.shape[2], v.shape[3]
    return attention_problem(
        batch=b, heads=heads, kv_heads=kv, seq=p, kv_seq=m, head_dim=e, value_dim=f, dtype="fp32", **options
    )


def stored(problem: Problem, *, which: int = 0, cascade: str | None = None) -> tuple[Key, Record]:
    """Store one of the legal schedules of the definition as the winner of a problem."""
    text = cascade or problem.cascade
    schedule = schedules(Cascade.parse(text), problem, "torch")[which]
    record = Record(text, schedule, make_kernel(text, problem, schedule).digest, 1e-3, 1e-3, 1e-3)
    key = Key.of(problem, platform_of("cpu"))
    Cache().store(key, record)
    return key, record


# ---- results


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("causal", [False, True, "top_left", "lower_right"])
@pytest.mark.parametrize(
    "sizes", [(1, 2, 2, 64, 64, 16, 16), (2, 4, 2, 17, 33, 24, 40), (1, 3, 1, 40, 9, 8, 8), (1, 2, 1, 1, 50, 8, 16)]
)
def test_attention_is_attention(sizes: tuple[int, ...], causal: Any, dtype: torch.dtype) -> None:
    q, k, v = tensors(*sizes, dtype=dtype)
    mode = {False: None, True: "top_left"}.get(causal, causal)
    for scale in (None, -0.3, 0.0):
        made = eintune.attention(q, k, v, causal=causal, scale=scale)
        assert made.dtype == dtype and made.is_contiguous() and made.shape == (*q.shape[:3], v.shape[3])
        assert close(made, exact(q, k, v, mode, scale))
        assert torch.equal(made, eintune.attention(q, k, v, causal=causal, scale=scale))


def test_any_strides() -> None:
    q, k, v = tensors(2, 4, 2, 12, 20, 16, 16)
    wanted = exact(q, k, v)
    for change in (
        lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        assert close(eintune.attention(change(q), change(k), change(v)), wanted)
    expanded = k[:1].expand(2, -1, -1, -1)
    assert close(eintune.attention(q, expanded, v), exact(q, expanded, v))


@pytest.mark.parametrize("empty", ["b", "p", "m", "f"])
def test_empty_tensors_give_empty_or_zero_outputs(empty: str) -> None:
    sizes = {"b": 2, "p": 5, "m": 6, "f": 8} | {empty: 0}
    q, k, v = tensors(sizes["b"], 2, 2, sizes["p"], sizes["m"], 8, sizes["f"])
    made = eintune.attention(q, k, v)
    assert made.shape == (sizes["b"], 2, sizes["p"], sizes["f"])
    assert made.numel() == 0 or not made.any()


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 3, 6, 8), (2, 2, 3, 6, 8)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_scaled_dot_product_attention_is_pytorchs(shape: tuple[int, ...], is_causal: bool) -> None:
    q, k, v = (torch.randn(shape) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=0.2)
    made = eintune.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=0.2)
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


def test_grouped_heads_as_in_pytorch() -> None:
    q, k, v = tensors(2, 6, 2, 9, 11, 8, 8)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(eintune.scaled_dot_product_attention(q, k, v, enable_gqa=True), wanted)


# ---- arguments that are refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"causal": "bottom"}, "`causal` must be False, True, 'top_left' or 'lower_right', but got 'bottom'"),
        ({"causal": ["top_left"]}, "`causal` must be"),
        ({"scale": math.nan}, "`scale` must be a finite number or None, but got nan"),
        ({"scale": "large"}, "`scale` must be"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedArgument, match=says):
        eintune.attention(*tensors(1, 1, 1, 4, 4, 8, 8), **options)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q, k, v: (q[0], k, v), r"`q` must have 4 axes .*\(1, 4, 8\)"),
        (lambda q, k, v: (q, k.double(), v), "`k` must have the dtype and device of `q`"),
        (lambda q, k, v: (q.int(), k.int(), v.int()), "`q` must have a dtype among .*but got torch.int32"),
        (lambda q, k, v: (q, k[..., :4], v), "agree in head_dim"),
        (lambda q, k, v: (q, k[:, :, :3], v), "`k` and `v` must agree"),
        (lambda q, k, v: (q.expand(2, -1, -1, -1), k, v), "agree in batch"),
        (lambda q, k, v: (q, k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1)), "must be a multiple of heads"),
        (lambda q, k, v: (q.repeat(1, 1, 1, 65), k.repeat(1, 1, 1, 65), v), "head_dim must be 1 to 512"),
        (lambda q, k, v: (q.to("meta"), k.to("meta"), v.to("meta")), "must be on a CPU or CUDA device, but is on meta"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: Any, says: str) -> None:
    with pytest.raises(UnsupportedArgument, match=says):
        eintune.attention(*change(*tensors(1, 1, 1, 4, 4, 8, 8)))


def test_gradients_are_recorded_on_repeat_calls_too_and_not_under_no_grad() -> None:
    q, k, v = tensors(1, 1, 1, 4, 4, 8, 8)
    wanted = eintune.attention(q, k, v)
    q.requires_grad_()
    torch.testing.assert_close(made := eintune.attention(q, k, v), wanted)
    assert made.requires_grad
    with torch.no_grad():
        assert torch.equal(again := eintune.attention(q, k, v), wanted)
    assert not again.requires_grad


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout_p": 0.1}, "`dropout_p` must be 0.0, but got 0.1"),
    ],
)
def test_pytorchs_other_arguments_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedArgument, match=says):
        eintune.scaled_dot_product_attention(*tensors(1, 1, 1, 4, 4, 8, 8), **options)
    with pytest.raises(UnsupportedArgument, match="same batch axes unless `enable_gqa`"):
        eintune.scaled_dot_product_attention(*tensors(1, 4, 2, 4, 4, 8, 8))


# ---- what serves


def served(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_exact_record_is_what_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = tensors(1, 2, 2, 256, 512, 16, 16)
    _, record = stored(problem_of(q, k, v), which=1)
    monkeypatch.setattr(priced_module, "priced", lambda *_: pytest.fail("the cost model was asked on a hit"))
    loaded: list[str] = []
    monkeypatch.setattr(serving, "load", lambda kernel: loaded.append(kernel.digest) or _load(kernel))
    for _ in range(3):
        assert close(eintune.attention(q, k, v), exact(q, k, v))
    assert loaded == [record.digest]
    assert served(caplog) == []


def _load(kernel: Any) -> Any:
    from eintune.kernels.launch.load import load

    return load(kernel)


def test_a_neighbour_serves_and_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(problem_of(*tensors(1, 2, 2, 64, 64, 16, 16)))
    monkeypatch.setattr(priced_module, "_picks", lambda *_: [])
    q, k, v = tensors(1, 2, 2, 64, 96, 16, 16)
    for _ in range(2):
        assert close(eintune.attention(q, k, v), exact(q, k, v))
    (line,) = served(caplog)
    assert "sizes.m 96, stored 64" in line and "was not tuned here" in line


def test_a_strided_call_is_served_by_the_contiguous_record_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = tensors(1, 2, 2, 64, 64, 16, 16)
    stored(problem_of(q, k, v))
    q = q.mT.contiguous().mT
    assert close(eintune.attention(q, k, v), exact(q, k, v))
    assert served(caplog) == []


def test_without_records_the_cost_model_picks_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = tensors(1, 2, 2, 64, 64, 16, 16)
    for _ in range(2):
        assert close(eintune.attention(q, k, v), exact(q, k, v))
    (line,) = served(caplog)
    assert "never tuned on this machine" in line and "m=64" in line


@pytest.mark.parametrize("causal", [None, "lower_right"])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_the_cost_models_picks_are_derived_and_all_right(causal: Any, kv_heads: int) -> None:
    """Without tuning, forms of fewer passes than the definition are served; each pick is right on its own."""
    q, k, v = tensors(1, 4, kv_heads, 300, 400, 16, 16)
    problem = problem_of(q, k, v, causal=causal)
    picked = [(p.text, p.schedule) for p in ranked(problem, torch.device("cpu"), "torch", cache_directory())]
    assert {text for text, _ in picked} <= set(derived_texts(problem.cascade)) and len(dict(picked)) == CASCADES
    given = q.unflatten(1, (1, 4)) if kv_heads == 1 else q
    for text, schedule in {text: (text, schedule) for text, schedule in reversed(picked)}.values():
        out = torch.full_like(given, math.nan)
        kernel = make_kernel(text, problem, schedule)
        by_name = {"Q": given, "K": k, "V": v, "AV": out}
        _load(kernel)([by_name[a.name] for a in kernel.arguments])
        assert close(out.reshape(q.shape), exact(q, k, v, causal))


def tampered(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data["record"])
    path.write_text(json.dumps(data))


def test_a_record_of_another_computation_is_never_run(caplog: pytest.LogCaptureFixture) -> None:
    """A valid file whose cascade computes something else, with the digest to match."""
    q, k, v = tensors(1, 2, 2, 64, 64, 16, 16)
    problem = problem_of(q, k, v)
    other = Cascade.parse(problem.cascade.replace("scale", "scale * 2"))
    assert str(other) != problem.cascade
    stored(problem, cascade=str(other))
    assert close(eintune.attention(q, k, v), exact(q, k, v))
    assert any("is none that follows from the definition" in line for line in served(caplog))


def test_a_record_whose_kernel_is_another_now_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = tensors(1, 2, 2, 64, 64, 16, 16)
    key, _ = stored(problem_of(q, k, v))
    tampered(Cache().records / key.file_name, lambda record: record.update(digest="0" * 64))
    assert close(eintune.attention(q, k, v), exact(q, k, v))
    assert any("its kernel is generated with digest" in line for line in served(caplog))


def test_a_broken_cache_file_is_said_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = tensors(1, 2, 2, 64, 64, 16, 16)
    key, _ = stored(problem_of(q, k, v))
    path = Cache().records / key.file_name
    path.write_text(path.read_text()[:100])
    assert close(eintune.attention(q, k, v), exact(q, k, v))
    assert sum("is not used" in line for line in served(caplog)) == 1
    assert len(path.read_text()) == 100


@pytest.mark.parametrize("breaks", ["choices", "load", "run"])
def test_nothing_is_thrown_into_a_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, breaks: str
) -> None:
    """Whatever fails on the way to a kernel, the call gives the right result by plain operators, and says so."""

    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("out of luck\nsecond line")

    match breaks:
        case "choices":
            monkeypatch.setattr(serving, "choices", lambda *_: (broken() for _ in range(1)))
        case "load":
            monkeypatch.setattr(serving, "load", broken)
        case "run":
            monkeypatch.setattr(serving, "load", lambda kernel: broken)
    q, k, v = tensors(1, 4, 2, 20, 30, 16, 16, dtype=torch.bfloat16)
    for _ in range(2):
        assert close(eintune.attention(q, k, v, causal=True), exact(q, k, v, "top_left"))
    lines = served(caplog)
    assert sum("plain PyTorch operators" in line for line in lines) == 1
    assert any("RuntimeError: out of luck" in line for line in lines) and not any("\n" in line for line in lines)


def test_a_lost_gpu_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(tensors: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(serving, "load", lambda kernel: lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        eintune.attention(*tensors(1, 2, 2, 16, 16, 16, 16))


def test_the_nearest_schedule_is_legal_and_itself_where_it_can_be() -> None:
    small, large = (problem_of(*tensors(1, 2, 2, n, n, 16, 16)) for n in (64, 512))
    cascade = Cascade.parse(small.cascade)
    of_large = schedules(cascade, large, "torch")
    for schedule in of_large:
        assert nearest_schedule(schedule, cascade, large) == schedule
        assert unlikeness(schedule, schedule) == 0
        assert nearest_schedule(schedule, cascade, small) in schedules(cascade, small, "torch")
    assert unlikeness(of_large[0], replace(of_large[0], order="reverse")) == 4


def test_choices_come_best_first() -> None:
    problem = problem_of(*tensors(1, 2, 2, 256, 512, 16, 16))
    _, record = stored(problem, which=1)
    found = list(choices(problem, torch.device("cpu"), "rows"))
    assert found[0].kernel.digest == record.digest and found[0].level < logging.WARNING
    assert all("never tuned" in c.notice or "similar problem" in c.notice for c in found[1:])


# ---- any cascade


@pytest.mark.parametrize("name", ["gemm", "softmax", "layernorm", "linear_attention", "gelu_mlp", "logsumexp"])
def test_a_cascade_is_compiled_and_served(name: str) -> None:
    cascade = WORKLOADS[name]()
    sizes = dict(zip(cascade.ranks(), (24, 40, 16, 8), strict=False))
    given = {
        n: torch.randn([sizes[r] for r in t.ranks], generator=torch.Generator().manual_seed(1)) * 0.3
        for n, t in cascade.inputs.items()
    }
    params = {"eps": 1e-3} if "norm" in name else {}
    run = eintune.compile(cascade, params=params)
    from eintune.kernels.reference.eager import run_eager

    wanted = run_eager(cascade, {n: t.double() for n, t in given.items()}, sizes, params, torch.float64)
    for _ in range(2):
        made = run(**given)
        assert close(made, next(iter(wanted.values())))
    assert torch.equal(run(*given.values()), made)


def test_a_cascades_text_is_enough() -> None:
    run = eintune.compile("Zm,n = Ak,m · Bk,n", dtype="fp64")
    a, b = torch.randn(7, 5), torch.randn(7, 3)
    made = run(a, b)
    assert made.dtype == torch.float64
    torch.testing.assert_close(made, (a.mT @ b).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f: f(torch.ones(2, 2)), r"takes the inputs \['A', 'B'\] once each, but got 1"),
        (lambda f: f(torch.ones(2, 2), torch.ones(2, 2), A=torch.ones(2, 2)), "once each"),
        (lambda f: f(torch.ones(2, 3), torch.ones(4, 5)), "rank k must have one size"),
        (lambda f: f(torch.ones(2, 3, 1), torch.ones(2, 5)), "its shape is"),
        (lambda f: f(torch.ones(2, 3), torch.ones(2, 5, device="meta")), "on one device"),
        (lambda f: f(torch.ones(2, 3).to(torch.complex64), torch.ones(2, 5)), "must have a dtype among"),
        (lambda f: f(torch.ones(0, 3), torch.ones(0, 5)), "reduced rank must have elements"),
    ],
)
def test_what_a_cascade_cannot_take(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(eintune.compile("Zm,n = Ak,m · Bk,n"))


def test_an_empty_output_of_a_cascade() -> None:
    assert eintune.compile("Zm,n = Ak,m · Bk,n")(torch.ones(2, 0), torch.ones(2, 5)).shape == (0, 5)


def test_compiling_checks_its_options() -> None:
    with pytest.raises(ValueError, match=r"`params` must give a number for each of \['eps'\], but got \[\]"):
        eintune.compile(WORKLOADS["layernorm"]())
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        eintune.compile(WORKLOADS["gemm"](), dtype="fp8")


# ---- the package's front


def test_a_hit_imports_none_of_the_search(tmp_path: Path) -> None:
    """In a fresh process: a stored winner is served without the libraries that found it."""
    stored(problem_of(*tensors(1, 2, 2, 64, 64, 16, 16)))
    script = (
        "import sys, torch, eintune\n"
        "assert 'eintune.kernels' not in sys.modules\n"
        "q = torch.randn(1, 2, 64, 16); o = eintune.attention(q, q, q)\n"
        "w = torch.nn.functional.scaled_dot_product_attention(q, q, q)\n"
        "assert (o - w).abs().max() < 1e-5\n"
        "heavy = {'egglog', 'optuna', 'pulp', 'pandas', 'seaborn', 'matplotlib', 'highspy'}\n"
        "print(sorted(heavy & set(sys.modules)), [m for m in sys.modules if m.startswith('eintune.search')])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[] []", done.stderr
    assert done.stderr == ""


def test_names_are_lazy_and_listed() -> None:
    named = {"Cascade", "UnsupportedArgument", "__version__", "attention", "compile", "scaled_dot_product_attention"}
    assert set(dir(eintune)) == named | {
        "activate", "analyse", "configure", "flex_attention", "generate_kernel", "paged_attention", "read", "restore",
        "varlen_attention", "warm",
    }  # fmt: skip
    assert eintune.Cascade is Cascade
    with pytest.raises(AttributeError, match="has no attribute 'fastest'"):
        eintune.fastest  # noqa: B018


def test_a_repeat_call_costs_microseconds() -> None:
    """The way to the launch, without the kernel: less than what one PyTorch call costs on a slow host."""
    q, k, v = tensors(1, 4, 2, 8, 8, 8, 8)
    eintune.attention(q, k, v)
    (key,) = runtime._ready
    shape = (1, 4, 8, 8)
    runtime._ready[key] = lambda q, k, v: shape
    best = math.inf
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(100):
            eintune.attention(q, k, v)
        best = min(best, (time.perf_counter() - started) / 100)
    assert best < 20e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("causal", [None, "top_left", "lower_right"])
def test_on_a_gpu(dtype: torch.dtype, causal: str | None) -> None:
    for sizes in ((2, 4, 2, 130, 200, 64, 64), (1, 2, 2, 777, 777, 80, 80), (1, 4, 1, 1, 1000, 128, 128)):
        q, k, v = (t.cuda() for t in tensors(*sizes, dtype=dtype))
        for change in (lambda t: t, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)):
            made = eintune.attention(change(q), change(k), change(v), causal=causal or False)
            wanted = exact(q.cpu(), k.cpu(), v.cpu(), causal)
            assert close(made.cpu(), wanted)
