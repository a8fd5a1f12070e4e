"""What serves sizes that nothing is stored for: priced for the H200, which need not be here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eintune
from eintune.costmodel.machines.machine import load_machine
from eintune.host.recent import Recent
from eintune.kernels.serve import priced as module
from eintune.kernels.serve.any_size import kernel_at
from eintune.kernels.serve.priced import Priced, among, priced, priced_near, ranked
from eintune.kernels.store.cache import Cache, Entry, Key, Record
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import Platform
from eintune.kernels.store.portfolio import MeasuredPoint, Portfolio, PortfolioKernel, portfolio_key
from eintune.space.cascade.problem import Problem
from eintune.space.plan.roles import IllegalPlan
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.spread import spread
from eintune.space.workloads.builtin import attention_problem

H200 = Platform("NVIDIA H200", 132, "0", "2.11.0", "3.6.0", "cuda13.0")
DEVICE = torch.device("cuda")
DECODE = {"batch": 16, "heads": 32, "kv_heads": 8, "seq": 1, "kv_seq": 8192}
PREFILL = {"batch": 2, "heads": 32, "kv_heads": 8, "seq": 1500, "kv_seq": 1500}
NEAR_BY_SIZES = {"batch": 16, "heads": 32, "kv_heads": 8, "seq": 512, "kv_seq": 8192}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_of", lambda device: load_machine("h200"))


def grouped(**sizes: int) -> Problem:
    return attention_problem(head_dim=128, dtype="bf16", **sizes)


def entry_of(problem: Problem, chosen: Priced, seconds: float, machine: str = "NVIDIA H200") -> Entry:
    platform = Platform(machine, 132, "0", "2.11.0", "3.6.0", "cuda13.0")
    record = Record(chosen.text, chosen.schedule, "0" * 64, seconds, seconds, seconds)
    return Entry(Key.of(problem, platform), record, Path("x.json"), shipped=True)


def choose(problem: Problem, entries: list[Entry], folder: Path) -> list[Priced]:
    return priced(problem, Key.of(problem, H200), entries, DEVICE, "triton", folder)


@pytest.fixture(scope="module")
def best_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Priced]:
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "machine_of", lambda device: load_machine("h200"))
    folder = tmp_path_factory.mktemp("cache")
    sizes = {"decode": DECODE, "prefill": PREFILL, "near": NEAR_BY_SIZES}
    found = {name: ranked(grouped(**s), DEVICE, "triton", folder)[0] for name, s in sizes.items()}
    patch.undo()
    return found


def test_the_model_picks_all_that_the_machine_has(best_of: dict[str, Priced]) -> None:
    assert best_of["prefill"].schedule.is_specialised and best_of["prefill"].schedule.loads == "descriptor"
    assert best_of["decode"].schedule.role("m").num_splits > 1 or best_of["decode"].schedule.role("g").tile == 16


@pytest.mark.parametrize("name", ["near", "prefill"])
def test_a_winner_for_one_query_serves_no_prefill(name: str, best_of: dict[str, Priced], tmp_path: Path) -> None:
    """However near its sizes are: at these it is predicted to be slow."""
    wanted = grouped(**{"near": NEAR_BY_SIZES, "prefill": PREFILL}[name])
    decode = best_of["decode"]
    first, *others = choose(wanted, [entry_of(grouped(**DECODE), decode, decode.seconds)], tmp_path)
    assert first.entry is None and first.seconds < 1.3 * best_of[name].seconds
    (stored,) = (p for p in others if p.entry)
    assert stored.seconds > 2 * first.seconds


def test_a_stored_winner_is_preferred_where_it_is_as_fast(best_of: dict[str, Priced], tmp_path: Path) -> None:
    wanted, stored = grouped(**(PREFILL | {"seq": 1000, "kv_seq": 1700})), best_of["prefill"]
    first, *_ = choose(wanted, [entry_of(grouped(**PREFILL), stored, stored.seconds)], tmp_path)
    assert first.entry is not None and first.schedule.is_specialised


@pytest.mark.parametrize("off", [0.5, 1.0, 3.0])
def test_what_the_model_is_off_by_everywhere_changes_no_choice(
    off: float, best_of: dict[str, Priced], tmp_path: Path
) -> None:
    wanted, stored = grouped(**(PREFILL | {"seq": 777})), best_of["prefill"]
    found = choose(wanted, [entry_of(grouped(**PREFILL), stored, off * stored.seconds)], tmp_path)
    plain = choose(wanted, [entry_of(grouped(**PREFILL), stored, stored.seconds)], tmp_path)
    assert [(p.text, p.schedule) for p in found[:5]] == [(p.text, p.schedule) for p in plain[:5]]
    assert found[0].seconds == pytest.approx(off * plain[0].seconds)


def test_a_winner_that_was_slow_where_it_was_measured_is_slow_here(best_of: dict[str, Priced], tmp_path: Path) -> None:
    """Of two stored winners the one that measured worse than predicted is corrected by itself."""
    good, other = best_of["prefill"], best_of["decode"]
    entries = [
        entry_of(grouped(**PREFILL), good, 4 * good.seconds),
        entry_of(grouped(**DECODE), other, other.seconds),
    ]
    found = choose(grouped(**(PREFILL | {"seq": 1400})), entries, tmp_path)
    slow = next(p for p in found if p.entry is entries[0])
    alone = choose(grouped(**(PREFILL | {"seq": 1400})), entries[1:], tmp_path)
    same = next(p for p in alone if p.schedule == slow.schedule)
    assert slow.seconds == pytest.approx(4 * same.seconds / module.UNCONFIRMED, rel=1e-6)


def test_another_machines_winner_comes_in_its_plain_form(best_of: dict[str, Priced], tmp_path: Path) -> None:
    stored = best_of["prefill"]
    found = choose(grouped(**PREFILL), [entry_of(grouped(**PREFILL), stored, 1.0, "NVIDIA B200")], tmp_path)
    (theirs,) = (p for p in found if p.entry)
    assert not theirs.schedule.is_specialised and theirs.schedule.loads == "pointer"
    assert math.isfinite(theirs.seconds) and theirs.seconds < 0.1  # the time of another machine says nothing here


def test_the_same_choice_every_time(best_of: dict[str, Priced], tmp_path: Path) -> None:
    """A function of the problem, the machine and what is stored: the same on every rank of a distributed job."""
    wanted, stored = grouped(**(PREFILL | {"seq": 321})), best_of["prefill"]
    entries = [entry_of(grouped(**PREFILL), stored, stored.seconds)]
    first, second = (choose(wanted, entries, tmp_path / n) for n in "ab")
    assert [(p.text, p.schedule, p.seconds) for p in first] == [(p.text, p.schedule, p.seconds) for p in second]
    # What peers took decides who serves (tests/kernels/libraries), under each policy alike, and no kernel of ours.
    beside = [replace(e, record=replace(e.record, peers={"sdpa-cudnn": PeerTime(1e-9)})) for e in entries]
    for policy in ("own", "fastest", None):
        with eintune.configure(policy=policy):
            third = choose(wanted, beside, tmp_path / "c")
        assert [(p.text, p.schedule, p.seconds) for p in third] == [(p.text, p.schedule, p.seconds) for p in first]


def test_what_a_record_asks_for_is_a_schedule_that_is_legal_here(best_of: dict[str, Priced], tmp_path: Path) -> None:
    odd: list[Schedule] = [
        p.schedule
        for p in choose(
            grouped(**(PREFILL | {"seq": 7, "kv_seq": 5})),
            [entry_of(grouped(**PREFILL), best_of["prefill"], 1e-3)],
            tmp_path,
        )
        if p.entry
    ]
    assert odd and all(s.role("m").num_splits == 1 for s in odd)


def test_nothing_stored_and_nothing_derived(tmp_path: Path) -> None:
    assert Cache(tmp_path, shipped=None).neighbours(Key.of(grouped(**PREFILL), H200)) == []
    assert choose(grouped(**PREFILL), [], tmp_path)[0].seconds == pytest.approx(
        ranked(grouped(**PREFILL), DEVICE, "triton", tmp_path)[0].seconds
    )


def test_another_head_dim_gets_a_schedule_of_its_own(best_of: dict[str, Priced], tmp_path: Path) -> None:
    """A tile that held all of a head dim holds none that is longer; nor would any plan be made of it."""
    stored = [entry_of(grouped(**s), best_of[n], 1e-4) for n, s in (("prefill", PREFILL), ("decode", DECODE))]
    for dim in (64, 80, 192, 256):
        wanted = attention_problem(head_dim=dim, dtype="bf16", **PREFILL)
        found = priced_near(wanted, Key.of(wanted, H200), stored, DEVICE, "triton", tmp_path)
        assert found
        for p in found:
            assert all((p.schedule.role(r).tile or dim) >= dim for r in "ef")
    with pytest.raises(IllegalPlan, match="holds all of a rank"):
        kernel_at(
            best_of["prefill"].text,
            attention_problem(head_dim=192, dtype="bf16", **PREFILL),
            best_of["prefill"].schedule,
        )


def near(problem: Problem, entries: list[Entry], folder: Path) -> list[Priced]:
    return priced_near(problem, Key.of(problem, H200), entries, DEVICE, "triton", folder)


FAR = DECODE | {"batch": 1, "heads": 8}
"""More doublings away from what is stored than is trusted."""


def test_sizes_of_one_step_are_planned_once_whichever_comes_first(
    best_of: dict[str, Priced], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []
    monkeypatch.setattr(module, "_remembered", Recent(64))
    monkeypatch.setattr(module, "among", lambda problem, *rest: asked.append(problem.sizes) or among(problem, *rest))
    entries = [entry_of(grouped(**s), best_of[n], 1e-4) for n, s in (("prefill", PREFILL), ("decode", DECODE))]
    lengths = (5000, 4700, 5120)
    found = [near(grouped(**(FAR | {"kv_seq": m})), entries, tmp_path) for m in lengths]
    assert found[0] == found[1] == found[2] and len(asked) == 1
    assert asked[0]["m"] == 5120 and asked[0]["e"] == 128 and asked[0]["p"] == 1
    monkeypatch.setattr(module, "_remembered", Recent(64))
    assert near(grouped(**(FAR | {"kv_seq": 4700})), entries[::-1], tmp_path) == found[0]
    near(grouped(**(FAR | {"kv_seq": 5121})), entries, tmp_path)
    assert len(asked) == 3


def test_within_a_doubling_a_space_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all forms whose spaces are alike, and at all steps; and what is found plans at each of them."""
    asked: list[object] = []
    monkeypatch.setattr(module, "_remembered", Recent(64))
    monkeypatch.setattr(module, "_spreads", Recent(64))
    monkeypatch.setattr(module, "spread", lambda space, *rest: asked.append(space.key) or spread(space, *rest))
    for batch, m in ((16, 5000), (16, 6000), (13, 7100)):
        found = near(grouped(**(FAR | {"batch": batch, "kv_seq": m})), [], tmp_path)
        assert len(found) == module.KEPT
    assert len(asked) == len(set(asked)) == 1
    near(grouped(**(FAR | {"batch": 16, "kv_seq": 9000})), [], tmp_path)
    assert len(asked) == 2


def test_close_to_what_was_measured_nothing_is_planned(
    best_of: dict[str, Priced], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels that were measured are priced at the sizes themselves, whatever length a program comes with."""
    monkeypatch.setattr(module, "_remembered", Recent(64))
    monkeypatch.setattr(module, "_picks", lambda *_: pytest.fail("close to a point the model picked"))
    entries = [entry_of(grouped(**DECODE), best_of[n], s) for n, s in (("near", 1e-3), ("decode", 1e-4))]
    for m in (4700, 4701, 20000):
        first, *others = near(grouped(**(DECODE | {"kv_seq": m})), entries, tmp_path)
        assert first.entry is entries[1] and len(others) == 1
    assert [p.seconds for p in near(grouped(**DECODE), entries, tmp_path)] == pytest.approx([1e-4, 1e-3])


def test_at_a_point_the_best_of_a_portfolio_is_what_was_measured(best_of: dict[str, Priced], tmp_path: Path) -> None:
    """Whatever the model says of the two."""
    kernels = tuple(PortfolioKernel(best_of[n].text, best_of[n].schedule) for n in ("near", "decode"))
    keys = [Key.of(grouped(**s), H200) for s in (DECODE, NEAR_BY_SIZES)]
    times = {keys[0]: {0: 1e-4, 1: 2e-4}, keys[1]: {0: 3e-4, 1: 1e-4}}
    points = tuple(MeasuredPoint(k.sizes, seconds) for k, seconds in times.items())
    entries = Portfolio(portfolio_key(keys[0]), kernels, points).entries(tmp_path / "x.json", "shipped")
    chosen = [near(grouped(**s), entries, tmp_path)[0] for s in (DECODE, NEAR_BY_SIZES)]
    assert [c.schedule for c in chosen] == [k.schedule for k in kernels]
    assert [c.seconds for c in chosen] == pytest.approx([1e-4, 1e-4], rel=0.02)


def test_what_is_stored_meanwhile_is_asked_for(best_of: dict[str, Priced], tmp_path: Path) -> None:
    wanted = grouped(**(PREFILL | {"seq": 900, "kv_seq": 900}))
    assert all(p.entry is None for p in near(wanted, [], tmp_path))
    stored = entry_of(grouped(**PREFILL), best_of["prefill"], 1e-6)
    assert any(p.entry for p in near(wanted, [stored], tmp_path))
