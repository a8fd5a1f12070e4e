"""Where a library was measured to be faster it is called, for no more than what it computes as our kernels do."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune
from eintune.host import notices
from eintune.kernels.libraries import attention as module
from eintune.kernels.libraries import policy as policies
from eintune.kernels.libraries.fastest import MARGIN, Faster, faster_at, fastest_known, turns_of
from eintune.kernels.libraries.policy import policy
from eintune.kernels.libraries.versions import version_of
from eintune.kernels.serve import attention as runtime
from eintune.kernels.serve.choices import choices, make_kernel
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import (
    MeasuredPoint,
    Portfolio,
    PortfolioKernel,
    portfolio_key,
    store_portfolio,
)
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention_problem

HERE = version_of("sdpa", "cpu")
# Times that nobody measured: what is tested is what follows from them.
OURS, LOW = 2e-3, 1.9e-3
FAST = PeerTime(1e-3, 0.9e-3, 1.1e-3, HERE, 1e-8, 1e-7, 2e-8)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, nothing ready, everything unsaid, no policy set."""
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(policies.VARIABLE, raising=False)
    runtime._ready.clear()
    notices.forget()
    yield tmp_path
    runtime._ready.clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for each call of the library."""
    made: list[str] = []
    attend = module.LIBRARIES["cpu"]["sdpa"]

    def spy(*given: Any) -> Tensor:
        made.append("sdpa")
        return attend(*given)

    monkeypatch.setitem(module.LIBRARIES["cpu"], "sdpa", spy)
    return made


def problem(length: int = 32, **options: Any) -> Problem:
    sizes = {"batch": 1, "heads": 2, "kv_heads": 2, "seq": length, "kv_seq": length, "head_dim": 16, "dtype": "fp32"}
    return attention_problem(**{**sizes, **options})


def key_of(posed: Problem) -> Key:
    return Key.of(posed, platform_of("cpu"))


def stored(posed: Problem, cache: Cache | None = None, **peers: PeerTime) -> Key:
    """A record of a problem with these peers."""
    schedule = schedules(posed.definition, posed, "torch")[0]
    digest = make_kernel(posed.cascade, posed, schedule).digest
    record = Record(posed.cascade, schedule, digest, OURS, LOW, 2.1e-3, peers=peers)
    (cache or Cache()).store(key_of(posed), record)
    return key_of(posed)


def drawn(length: int = 32, heads: int = 2, kv_heads: int = 2, dim: int = 16, **of: Any) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn((1, h, length, dim), generator=g, **of) for h in (heads, kv_heads, kv_heads))


def own(*given: Any, **options: Any) -> Any:
    with eintune.configure(policy="own"):
        return eintune.attention(*given, **options)


# ---- calls


@pytest.mark.parametrize("causal", [False, True, "top_left", "lower_right"])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_a_faster_library_serves_and_it_is_said_once(
    causal: Any, kv_heads: int, calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    mode = "top_left" if causal is True else causal or None
    stored(problem(causal=mode, kv_heads=kv_heads), sdpa=FAST)
    q, k, v = drawn(kv_heads=kv_heads)
    with caplog.at_level(logging.DEBUG, logger="eintune"):
        made = [eintune.attention(q, k, v, causal=causal) for _ in range(3)]
    assert len(calls) == 3
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(said) == 1 and "served by PyTorch's kernel sdpa, which was 2.00x as fast" in said[0]
    assert "EINTUNE_POLICY=own" in said[0]
    ours = own(q, k, v, causal=causal)
    assert len(calls) == 3
    for o in made:
        assert o.is_contiguous() and o.dtype == ours.dtype and torch.allclose(o, ours, atol=2e-6)


def test_another_length_is_no_news(calls: list[str], caplog: pytest.LogCaptureFixture) -> None:
    stored(problem(32), sdpa=FAST)
    with caplog.at_level(logging.WARNING, logger="eintune"):
        for length in (32, 40, 24):
            eintune.attention(*drawn(length))
    assert len(calls) == 3 and len(caplog.records) == 1


UNLIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a log-sum-exp": ({}, {"return_lse": True}),
    "a modifier": ({}, {"window": 8}),
    "another scale": ({}, {"scale": 0.5}),
    "another dtype": ({"dtype": torch.bfloat16}, {}),
    "another head dim": ({"dim": 8}, {}),
    "more heads to a key head": ({"kv_heads": 1}, {}),
    "another filter": ({}, {"causal": True}),
    "more than a doubling away": ({"length": 80}, {}),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_was_not_measured_is_ours(name: str, calls: list[str]) -> None:
    stored(problem(), sdpa=FAST)
    of, options = UNLIKE[name]
    eintune.attention(*drawn(**of), **options)
    assert not calls
    eintune.attention(*drawn())
    assert calls


def test_a_library_is_called_only_where_it_computes_the_same(calls: list[str]) -> None:
    """Queries that see nothing, results laid out otherwise, scales that turn the order around."""
    causal = problem(causal="top_left")
    stored(causal, sdpa=FAST)
    for mode, rows, columns in (("top_left", 32, 24), ("lower_right", 32, 24), ("lower_right", 24, 32)):
        posed = problem(causal=mode, seq=rows, kv_seq=columns)
        stored(posed, sdpa=FAST)
        q, (_, k, v) = drawn(rows)[0], drawn(columns)
        made = eintune.attention(q, k, v, causal=mode)
        assert not calls and bool((made[:, :, : rows - columns] == 0).all() or mode == "top_left" or rows < columns)
    stored(problem(), sdpa=FAST)
    q, k, v = drawn()
    laid = q.transpose(1, 2).contiguous().transpose(1, 2)
    assert eintune.attention(laid, k, v).is_contiguous() and not calls
    for scale in (-0.25, 0.0):
        stored(problem(scale=scale), sdpa=FAST)
        eintune.attention(q, k, v, scale=scale)
    stored(problem(value_dim=8), sdpa=FAST)
    eintune.attention(q, k, v[..., :8].contiguous())
    assert not calls


def test_what_is_a_mask_or_none_in_pytorchs_function(calls: list[str]) -> None:
    stored(problem(), sdpa=FAST)
    q, k, v = drawn()
    made = eintune.scaled_dot_product_attention(q, k, v)
    assert calls and torch.allclose(made, own(q, k, v), atol=2e-6)
    hidden = torch.ones(32, 32, dtype=torch.bool)
    hidden[3] = False
    masked = eintune.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
    assert len(calls) == 1 and bool((masked[:, :, 3] == 0).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_numbers_that_are_none_and_large_ones_come_out_alike(
    causal: bool, dtype: torch.dtype, calls: list[str]
) -> None:
    """NaN in what is seen, infinities, scores far beyond what an exponential takes; as much off as our kernel is."""
    name = "fp32" if dtype == torch.float32 else "bf16"
    stored(problem(dtype=name, causal="top_left" if causal else None), sdpa=FAST)
    for change in ("nan in q", "nan in k", "nan in v", "inf in v", "1e4", "1e8", "1e20"):
        q, k, v = (t.to(dtype) for t in drawn())
        if change[0].isdigit():
            q, k = q * math.sqrt(float(change)), k * math.sqrt(float(change))
        else:
            {"q": q, "k": k, "v": v}[change[-1]][:, :, -1, 3] = float(change[:3])
        made, ours = eintune.attention(q, k, v, causal=causal), own(q, k, v, causal=causal)
        assert torch.equal(made.isnan(), ours.isnan()), change
        wanted = _exact(q, k, v, causal)
        off = [float(torch.nan_to_num((o - wanted).abs(), nan=0.0, posinf=0.0).max()) for o in (made, ours)]
        assert off[0] <= 2 * off[1] + torch.finfo(dtype).eps, (change, off)
    assert len(calls) == 7


def _exact(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return torch.softmax(scores, -1) @ v.double()


def test_a_recorded_gradient_is_ours(calls: list[str]) -> None:
    stored(problem(), sdpa=FAST)
    q, k, v = drawn()
    q.requires_grad_()
    made = eintune.attention(q, k, v)
    made.sum().backward()
    assert q.grad is not None and not calls
    with torch.no_grad():
        eintune.attention(q, k, v)
    assert calls


def test_compiled_programs_keep_the_operator(calls: list[str]) -> None:
    """The graph has the operator; what it runs is what the eager call runs."""
    stored(problem(), sdpa=FAST)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda q, k, v: eintune.attention(q, k, v) + 1, backend=backend, fullgraph=True)
    q, k, v = drawn()
    made = compiled(q, k, v)
    assert calls and torch.equal(made, eintune.attention(q, k, v) + 1)
    assert "eintune.attention" in graphs[0].code
    operator = torch.ops.eintune.attention.default
    torch.library.opcheck(operator, (q, k, v, [], "{}"), test_utils=("test_schema", "test_faketensor"))


def test_a_library_that_fails_is_said_and_ours_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored(problem(), sdpa=FAST)
    q, k, v = drawn()

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no engine for this")

    monkeypatch.setitem(module.LIBRARIES["cpu"], "sdpa", broken)
    with caplog.at_level(logging.INFO, logger="eintune"):
        made = eintune.attention(q, k, v)
    assert torch.allclose(made, own(q, k, v))
    assert "sdpa, which was faster, does not serve attention: RuntimeError: no engine" in caplog.text
    runtime._ready.clear()
    monkeypatch.setitem(module.LIBRARIES["cpu"], "sdpa", lambda q, *_: torch.empty_like(q).mT)
    assert eintune.attention(q, k, v).is_contiguous()


# ---- the policy


def test_the_policy_is_one_of_two(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    assert policy() == "fastest"
    stored(problem(), sdpa=FAST)
    monkeypatch.setenv(policies.VARIABLE, "own")
    q, k, v = drawn()
    eintune.attention(q, k, v)
    assert policy() == "own" and not calls
    with eintune.configure(policy="fastest"):  # calls that were served before, too
        eintune.attention(q, k, v)
        assert len(calls) == 1
        with eintune.configure(policy="own"):
            eintune.attention(q, k, v)
        assert len(calls) == 1
        eintune.attention(q, k, v)
        assert len(calls) == 2
    eintune.attention(q, k, v)
    assert len(calls) == 2
    monkeypatch.setenv(policies.VARIABLE, "")
    assert policy() == "fastest"


@pytest.mark.parametrize("given", ["slowest", "", "Own", 1, True, b"own", "own\n\x1b[31m" * 20])
def test_another_policy_is_one_line(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"\A`policy` must be one of fastest, own, but got [^\n\x1b]{1,120}\Z"):
        eintune.configure(policy=given)
    assert policy() == "fastest"
    if isinstance(given, str) and given:
        monkeypatch.setenv(policies.VARIABLE, given)
        with pytest.raises(ValueError, match=r"\A`EINTUNE_POLICY` must be one of fastest, own, but got [^\n\x1b]+\Z"):
            eintune.attention(*drawn())


def test_a_call_in_flight_when_the_policy_changes_is_ours_next_time(calls: list[str]) -> None:
    """What a thread made ready before the change, and kept after it, asks again."""
    stored(problem(), sdpa=FAST)
    q, k, v = drawn()
    eintune.attention(q, k, v)
    (run,) = runtime._ready._new.values()
    with eintune.configure(policy="own"):
        run(q, k, v)
    assert len(calls) == 1


def test_while_pytorchs_function_is_ours_no_library_is_called(calls: list[str]) -> None:
    """It would be what serves it."""
    if not hasattr(torch.nn.attention, "register_flash_attention_impl"):
        pytest.skip("needs PyTorch's registry of flash-attention implementations")
    stored(problem(), sdpa=FAST)
    q, k, v = drawn()
    with eintune.activate():
        eintune.attention(q, k, v)
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert not calls
    eintune.attention(q, k, v)
    assert calls


def test_what_choices_give_is_generated_whatever_the_policy(calls: list[str]) -> None:
    """What benchmarks call ours is taken from these."""
    posed = problem()
    stored(posed, sdpa=FAST)
    assert policy() == "fastest"
    for choice in choices(posed, torch.device("cpu"), "rows"):
        assert "scaled_dot_product" not in choice.kernel.source
    assert not calls


# ---- the choice


@pytest.mark.parametrize(
    ("change", "called"),
    [
        ({}, True),
        ({"high": LOW}, False),  # the spreads touch
        ({"seconds": 1.85e-3, "low": 1.8e-3, "high": 1.89e-3}, True),
        ({"seconds": 1.85e-3, "high": 1.95e-3}, False),
        ({"high": None, "seconds": OURS / MARGIN * 1.001}, False),
        ({"high": None, "seconds": OURS / MARGIN * 0.999}, True),
        ({"version": ""}, False),
        ({"version": "torch 1.0"}, False),
        ({"short_of": "AV: error rms 1, max 1, but the budget is rms 0.1, max 0.1"}, False),
    ],
)
def test_faster_is_beyond_the_noise_and_as_measured(change: dict[str, Any], called: bool) -> None:
    key = stored(problem(), sdpa=replace(FAST, **change))
    found = fastest_known(Cache(), key, ["sdpa"], module.FIXED)
    assert (found is not None) == called
    assert fastest_known(Cache(), key, ["sdpa-math"], module.FIXED) is None


def test_a_record_in_doubt_says_nothing(calls: list[str]) -> None:
    key = stored(problem(), sdpa=FAST)
    record = Cache().load(key)
    assert record is not None
    Cache().store(key, replace(record, statistics={"doubt": "something else kept this machine busy"}))
    eintune.attention(*drawn())
    assert not calls


def portfolio(*points: tuple[int, float, float]) -> Portfolio:
    """Of points at lengths, with the seconds of our kernel and of the library."""
    text, schedule = problem().cascade, schedules(problem().definition, problem(), "torch")[0]
    made = [
        MeasuredPoint(key_of(problem(n)).sizes, {0: ours}, {"sdpa": PeerTime(theirs, version=HERE)})
        for n, ours, theirs in points
    ]
    return Portfolio(portfolio_key(key_of(problem())), (PortfolioKernel(text, schedule),), tuple(made))


def test_the_nearest_points_decide_and_a_record_of_the_sizes_before_them() -> None:
    cache = Cache()
    store_portfolio(cache, portfolio((64, 1.0, 0.5), (128, 1.0, 0.8), (256, 1.0, 1.2), (1024, 1.0, 0.5)))

    def at(length: int) -> Faster | None:
        return fastest_known(cache, key_of(problem(length)), ["sdpa"], module.FIXED)

    assert at(64) == Faster("sdpa", 2.0, key_of(problem(64)).sizes)
    assert at(80) == Faster("sdpa", 1.25, key_of(problem(64)).sizes)  # as at the worse of the two nearest
    assert at(128) == Faster("sdpa", 1.25, key_of(problem(128)).sizes)
    assert at(150) is None and at(256) is None and at(200) is None
    assert at(1024) is not None and at(1200) is not None and at(4000) is None
    stored(problem(64), cache, sdpa=replace(FAST, seconds=3e-3, low=2.9e-3, high=3.1e-3))
    assert at(64) is None


def test_a_portfolio_is_compared_with_its_fastest_kernel() -> None:
    """At each point, and by the margin, since its kernels have no spread of their own."""
    text, (one, other, *_) = problem().cascade, schedules(problem().definition, problem(512), "torch")
    kernels = PortfolioKernel(text, one), PortfolioKernel(text, other)
    for fastest, called in ((1.04e-3, False), (1.06e-3, True)):
        seconds = {0: 5e-3, 1: fastest}
        point = MeasuredPoint(key_of(problem()).sizes, seconds, {"sdpa": PeerTime(1e-3, version=HERE)})
        store_portfolio(Cache(), Portfolio(portfolio_key(key_of(problem())), kernels, (point,)))
        found = fastest_known(Cache(), key_of(problem()), ["sdpa"], module.FIXED)
        assert (found is not None) == called


@pytest.mark.parametrize("name", ["machine", "processors", "emitter", "torch", "triton", "driver"])
def test_another_machine_or_version_says_nothing_here(name: str) -> None:
    """A record of any of these is another's: the library's or our kernel's time would be another one now."""
    key = stored(problem(48), sdpa=FAST)
    near = key_of(problem(40))
    assert fastest_known(Cache(), near, ["sdpa"], module.FIXED) is not None
    other = replace(near, **{name: 999 if name == "processors" else "other"})
    assert fastest_known(Cache(), other, ["sdpa"], module.FIXED) is None
    assert key.machine == near.machine


def test_the_same_choice_every_time(tmp_path: Path) -> None:
    """A function of the problem, the machine and what is stored: the same on every rank of a distributed job, whichever
    sizes came before, and however the files came there."""
    first = Cache(tmp_path / "a", shipped=None)
    draw = random.Random(0)
    lengths = [24, 32, 40, 56, 64, 100, 128]
    for n in lengths:
        seconds = draw.choice([1e-3, 1.85e-3, 3e-3])
        stored(problem(n), first, sdpa=PeerTime(seconds, 0.99 * seconds, 1.01 * seconds, HERE))
    store_portfolio(first, portfolio((48, 1.0, 0.9), (80, 1.0, 1.1), (300, 1.0, 0.5)))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = Cache(tmp_path / "b", shipped=None)
    asked = [*range(16, 160, 3), *lengths, 300, 290]
    found = {n: fastest_known(first, key_of(problem(n)), ["sdpa"], module.FIXED) for n in asked}
    draw.shuffle(asked)
    assert {n: fastest_known(second, key_of(problem(n)), ["sdpa"], module.FIXED) for n in asked} == found
    assert {f is None for f in found.values()} == {True, False}


def test_libraries_are_compared_within_a_run_and_the_best_is_called() -> None:
    key = stored(problem(), one=FAST, two=replace(FAST, seconds=0.8e-3), three=replace(FAST, seconds=0.1, high=0.1))
    record = next(Cache().stored(key))
    turns = turns_of([record])
    versions = {n: replace(p, version=version_of(n, "cpu")) for n, p in turns[0].peers.items()}
    best = faster_at([replace(turns[0], peers=versions)], ["one", "two", "three"], "cpu")
    assert best is not None and (best.library, best.times) == ("two", pytest.approx(2.5))


def test_a_cache_from_elsewhere_may_hold_any_peers(calls: list[str]) -> None:
    """A record names a library; what is called is what this table has."""
    key = stored(problem(), sdpa=FAST)
    path = Cache().records / key.file_name
    raw = json.loads(path.read_text())
    raw["record"]["peers"] = {"os.system": {"seconds": 1e-9, "version": HERE}}
    path.write_text(json.dumps(raw))
    assert torch.allclose(eintune.attention(*drawn()), own(*drawn())) and not calls
