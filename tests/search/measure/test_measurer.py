"""The measuring worker survives what it runs: every candidate ends as one measurement."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from eintune.host.worker import Child
from eintune.kernels.emit.kernel import Argument, Kernel
from eintune.kernels.launch.module import interpreted
from eintune.kernels.serve.choices import make_kernel
from eintune.search.measure.device_lock import device_lock
from eintune.search.measure.inputs import draw_inputs
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.measurer import ATTEMPTS, MeasureError, Measurer
from eintune.search.measure.policy import Policy
from eintune.search.measure.reference import reference
from eintune.search.measure.tasks import Check, Peer, Prepare
from eintune.search.peers.attention import sdpa
from eintune.search.peers.peers import attention_peers
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention_problem

QUICK = Policy(run=2.0, compile=2.0, rounds=(2, 5), effort=0.05)

RIGHT = "O.copy_(torch.softmax(Q.float() @ K.float().mT * 0.25, -1) @ V.float())"
BODIES = {
    "right": RIGHT,
    "right-too": RIGHT + "  # other text, other digest",
    "raises": "raise RuntimeError('no such thing\\nsecond line')",
    "hangs": "while True: pass",
    "exits": "import os; os._exit(1)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "wrong": RIGHT + "; O.mul_(1.5)",
    "unwritten": RIGHT + "; O[..., -1, 3] = float('nan')",
    "writes-inputs": RIGHT + "; Q[0, 0, 0, 0] += 1",
    "no-memory": "raise MemoryError('3 TiB')",
    "later": "import pathlib, os\n    if calls.append(1) or len(calls) > 2: os._exit(3)\n    " + RIGHT,
}


def problem(dtype: str = "fp32") -> Problem:
    return attention_problem(batch=2, heads=2, kv_heads=2, seq=24, kv_seq=33, head_dim=16, value_dim=8, dtype=dtype)


def kernel(body: str, dtype: str = "fp32", header: str = "calls = []") -> Kernel:
    shapes = {"Q": (2, 2, 24, 16), "K": (2, 2, 33, 16), "V": (2, 2, 33, 8), "O": (2, 2, 24, 8)}
    names = {"Q": "Q", "K": "K", "V": "V", "O": "AV"}
    arguments = tuple(Argument(names[n], s, dtype, n == "O") for n, s in shapes.items())
    source = f"import torch\n{header}\n\n\ndef kernel(Q, K, V, O):\n    {body}\n"
    return Kernel("torch", source, "kernel", arguments)


@pytest.fixture(scope="module", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """These tests wait for nobody who is really timing on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("locks")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    with Measurer(problem(), "cpu", QUICK) as measurer:
        yield measurer


@pytest.fixture(scope="module")
def measured(measurer: Measurer) -> dict[str, Measurement]:
    """One batch with everything that can go wrong in it."""
    return dict(zip(BODIES, measurer.measure([kernel(body) for body in BODIES.values()]), strict=True))


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("raises", "run-error", "RuntimeError: no such thing"),
        ("hangs", "timeout", "no answer within 4 s"),
        ("exits", "crashed", "exit code 1"),
        ("crashes", "crashed", "SIGSEGV"),
        ("wrong", "wrong", "but the budget is"),
        ("unwritten", "wrong", "4 of 768 elements are not written"),
        ("writes-inputs", "wrong", "input Q was written to"),
        ("no-memory", "out-of-resources", "3 TiB"),
        ("later", "crashed", "exit code 3"),
    ],
)
def test_a_failure_is_a_result(measured: dict[str, Measurement], name: str, status: str, says: str) -> None:
    assert (measured[name].status, says in measured[name].message) == (status, True), measured[name]
    assert "\n" not in measured[name].message
    assert math.isnan(measured[name].seconds)


@pytest.mark.parametrize("name", ["right", "right-too"])
def test_the_right_ones_are_timed_beside_the_failures(measured: dict[str, Measurement], name: str) -> None:
    result = measured[name]
    assert result.status == "ok", result
    assert 0 < result.low <= result.seconds <= result.high < 1
    assert 0 < result.rms_error <= result.budget
    assert result.compile_seconds > 0


def test_generated_kernels_are_right() -> None:
    """The whole way from a definition: plans, sources, the worker, the budget."""
    posed = attention_problem(
        batch=2, heads=4, kv_heads=2, seq=70, kv_seq=300, head_dim=24, dtype="bf16", causal="lower_right"
    )
    kernels = [
        make_kernel(posed.cascade, posed, schedule)
        for schedule in schedules(Cascade.parse(posed.cascade), posed, "torch")[:4]
    ]
    with Measurer(posed, "cpu", QUICK) as measurer:
        results = measurer.measure(kernels)
    assert [(r.status, r.message) for r in results] == [("ok", "")] * len(kernels) and kernels


def test_measurements_come_in_order_and_once_a_digest(measurer: Measurer) -> None:
    right, wrong = kernel(BODIES["right"]), kernel(BODIES["wrong"])
    results = measurer.measure([right, wrong, right])
    assert [r.digest for r in results] == [right.digest, wrong.digest, right.digest]
    assert results[0] == results[2]
    assert [r.status for r in results] == ["ok", "wrong", "ok"]


def test_peers_are_timed_in_the_same_run(measurer: Measurer) -> None:
    mine = kernel(BODIES["right"])
    results = measurer.compare(
        [mine], [*attention_peers("cpu", None, ("sdpa", "sdpa-math")), Peer("missing", "no.such.module:peer")]
    )
    assert set(results) == {mine.digest, "sdpa", "sdpa-math", "missing"}
    assert [r.status for r in results.values()] == ["ok", "ok", "ok", "compile-error"]
    assert "ModuleNotFoundError" in results["missing"].message
    assert all(results[n].seconds > 0 for n in (mine.digest, "sdpa", "sdpa-math"))


@pytest.mark.parametrize("causal", [None, "top_left", "lower_right"])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_peers_compute_what_the_problem_says(causal: str | None, kv_heads: int) -> None:
    wanted = attention_problem(
        batch=1, heads=4, kv_heads=kv_heads, seq=5, kv_seq=9, head_dim=8, dtype="fp32", causal=causal, scale=0.3
    )
    inputs = draw_inputs(wanted, "cpu")
    (peer,) = attention_peers("cpu", causal)
    outputs = sdpa(wanted, inputs, **peer.options)()
    assert reference(wanted, inputs).fault(outputs) == ""
    assert "but the budget is" in reference(wanted, inputs).fault({"AV": outputs["AV"] * 1.01})


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \['sdpa', .*but got 'fastest'"):
        attention_peers("cpu", None, ("fastest",))


def test_a_problem_without_a_reference_is_one_error() -> None:
    bad = problem()
    bad = Problem(bad.workload, bad.cascade, bad.sizes, bad.dtypes, {})
    with (
        pytest.raises(MeasureError, match="the reference on cpu cannot be made: KeyError"),
        Measurer(bad, "cpu", QUICK) as measurer,
    ):
        measurer.measure([kernel(RIGHT)])


def test_there_is_time_for_something_else_while_the_worker_gets_ready() -> None:
    ready: list[bool] = []
    with Measurer(problem(), "cpu", QUICK, meanwhile=lambda: ready.append(not measurer._preparing)) as measurer:
        for _ in range(2):
            assert measurer.measure([kernel(RIGHT)])[0].status == "ok"
    assert ready == [False]


def test_a_worker_that_is_killed_while_it_gets_ready_is_replaced() -> None:
    said: list[str] = []
    with Measurer(problem(), "cpu", QUICK, lambda line, done, of: said.append(line)) as measurer:
        assert measurer._worker._process is not None
        measurer._worker._process.kill()
        (found,) = measurer.measure([kernel(RIGHT)])
    assert found.status == "ok" and measurer._worker.generation == 2
    assert any("SIGKILL" in line and "lost while it got ready" in line for line in said)


def test_a_worker_that_is_never_ready_is_one_error() -> None:
    with (
        Measurer(problem(), "cpu", replace(QUICK, startup=1e-3)) as measurer,
        pytest.raises(MeasureError, match="cannot be made: no answer within"),
    ):
        measurer.measure([kernel(RIGHT)])
    assert measurer._worker.generation == ATTEMPTS


def test_leaving_ends_the_processes() -> None:
    with Measurer(problem(), "cpu", QUICK) as measurer:
        process = measurer._worker._process
        assert process is not None and process.poll() is None
    assert process.poll() is not None


@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
def test_compilers_start_ahead_and_stay_from_batch_to_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a GPU, but for running what was compiled."""
    monkeypatch.setattr(Measurer, "_arch", lambda self: "sm_90")
    posed = problem("bf16")
    cascade = Cascade.parse(posed.cascade)
    kernels = [make_kernel(posed.cascade, posed, s) for s in schedules(cascade, posed, "triton")[:3]]
    with Measurer(posed, "cpu", replace(QUICK, compile=60.0, compilers=2)) as measurer:
        started = [child.pid for child in measurer._compilers._children]
        assert len(started) == 2 and None not in started
        for batch in (kernels[:2], kernels[2:]):
            made = measurer.measure(batch)
            assert all(m.registers and m.shared_bytes is not None and m.status != "ok" for m in made)
        assert [child.pid for child in measurer._compilers._children] == started
    for pid in filter(None, started):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_hung_child_is_killed_in_time() -> None:
    child = Child("eintune.search.measure.worker")
    try:
        assert child.call(Prepare(problem(), "cpu", QUICK), 60).status == "ok"
        started = time.monotonic()
        outcome = child.call(Check(kernel(BODIES["hangs"])), 0.5)
        assert (outcome.status, outcome.at) == ("timeout", kernel(BODIES["hangs"]).digest)
        assert time.monotonic() - started < 2
        assert child.call(Prepare(problem(), "cpu", QUICK), 60).status == "ok"
        assert child.generation == 2
    finally:
        child.stop()


def test_the_lock_keeps_others_out() -> None:
    heard: list[str] = []
    script = (
        "import sys; from eintune.search.measure.device_lock import device_lock\n"
        "with device_lock('test-device', lambda s: print(s, flush=True)): print('mine', flush=True)"
    )
    with device_lock("test-device", heard.append):
        other = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert "another process is timing on test-device" in other.stdout.readline()
    assert other.stdout.readline().strip() == "mine"
    assert other.wait(10) == 0 and heard == []


@pytest.mark.parametrize(
    "change", [{"rounds": (3, 2)}, {"run": 0.0}, {"minor_rounds": 0}, {"effort": -1.0}, {"compilers": 0}]
)
def test_a_policy_checks_its_values(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` must be"):
        Policy(**change)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_an_illegal_access_replaces_the_worker() -> None:
    poke = "torch.zeros(4, device=Q.device)[torch.full((1,), 10**9, device=Q.device)].sum().item()"
    bodies = [RIGHT, poke, RIGHT + "  # again"]
    with Measurer(problem(), "cuda", Policy(rounds=(5, 20))) as measurer:
        results = measurer.measure([kernel(b) for b in bodies])
        peers = measurer.compare([kernel(RIGHT)], attention_peers("cuda", None, ("sdpa", "sdpa-math")))
    assert [r.status for r in results] == ["ok", "run-error", "ok"], results
    assert "CUDA error" in results[1].message or "AcceleratorError" in results[1].message
    assert 1e-6 < results[0].seconds < 1e-2
    assert all(m.status == "ok" for m in peers.values()), peers


def test_nothing_is_left_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with Measurer(problem(), "cpu", QUICK) as measurer:
        measurer.measure([kernel("print('noise'); " + RIGHT)])
    assert capfd.readouterr().out == ""
