"""Candidates: what is kept, what is left out, and that every loss is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.costmodel.machines.machine import load_machine
from eintune.kernels.store.shipped_forms import derived_texts
from eintune.search.measure.measurement import Measurement
from eintune.search.study.samplers import distributions
from eintune.search.study.study import Trial
from eintune.search.text.schedules import schedule_text
from eintune.search.tune import derivations as derivations_module
from eintune.search.tune.candidates import REASONS, Candidate, Candidates, Model, candidates
from eintune.search.tune.derivations import Derivations, Variant, derivations, short_label, written
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.signature import Feature, Signature, StreamSignature
from eintune.space.derivation import extraction as extract
from eintune.space.ir.expr import Expr, Reduce, free, topological
from eintune.space.workloads.builtin import WORKLOADS, attention_problem, softmax


def problem(seq: int = 2048, dtype: str = "bf16", causal: bool = False) -> Problem:
    return attention_problem(
        batch=1,
        heads=4,
        kv_heads=4,
        seq=seq,
        kv_seq=seq,
        head_dim=64,
        dtype=dtype,
        causal="top_left" if causal else None,
    )


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Derivations:
    return derivations(Cascade.parse(problem().cascade), tmp_path_factory.mktemp("derived"))


@pytest.fixture(scope="module")
def on_h200(derived: Derivations) -> Candidates:
    return candidates(derived.variants, problem(), load_machine("h200"), "triton")


@pytest.fixture(scope="module")
def on_cpu(derived: Derivations) -> Candidates:
    return candidates(derived.variants, problem(dtype="fp32"), load_machine("cpu"), "torch")


@pytest.mark.parametrize("name", ["on_h200", "on_cpu"])
def test_every_candidate_is_kept_or_counted(name: str, request: pytest.FixtureRequest) -> None:
    found: Candidates = request.getfixturevalue(name)
    assert len(found.kept) + sum(found.left_out.values()) == found.considered
    assert 0 < len(found.kept) < found.considered
    assert set(found.left_out) <= {*REASONS.values(), "same generated source as another"}


@pytest.mark.parametrize("name", ["on_h200", "on_cpu"])
def test_kept_ones_are_ranked_and_differ_in_source_and_knobs(name: str, request: pytest.FixtureRequest) -> None:
    kept = request.getfixturevalue(name).kept
    seconds = [c.estimate.seconds for c in kept]
    assert seconds == sorted(seconds)
    assert len({c.key for c in kept}) == len({tuple(sorted(c.knobs.items())) for c in kept}) == len(kept)
    assert all(c.kernel.digest == c.key for c in kept[:5])
    assert set(distributions(kept)) == set(kept[0].knobs)


def test_every_kind_of_cascade_has_a_witness(on_h200: Candidates, derived: Derivations) -> None:
    kept = {c.variant.passes for c in on_h200.kept}
    assert kept == {v.passes for v in derived.variants} == {1, 2, 3}


def test_fewer_passes_are_predicted_faster(on_h200: Candidates) -> None:
    best = {n: min(c.estimate.seconds for c in on_h200.kept if c.variant.passes == n) for n in (1, 2, 3)}
    assert best[1] < best[2] < best[3]


def test_at_most_so_many_are_kept_but_every_cascade(derived: Derivations, on_cpu: Candidates) -> None:
    few = candidates(derived.variants, problem(dtype="fp32"), load_machine("cpu"), "torch", at_most=3)
    groups = {c.group for c in on_cpu.kept}
    assert groups <= {c.group for c in few.kept}
    assert 3 < len(few.kept) <= 3 + len(derived.variants) < len(on_cpu.kept)
    first, same = ([(c.variant, c.schedule, c.estimate) for c in kept[:3]] for kept in (few.kept, on_cpu.kept))
    assert first == same
    assert len(few.kept) + sum(few.left_out.values()) == few.considered


def test_the_model_is_fitted_to_what_ran(on_h200: Candidates) -> None:
    points = on_h200.kept
    model = Model(points, load_machine("h200"))
    before = model(())
    assert all(before(p) == pytest.approx(p.estimate.seconds) for p in points)
    after = model([ran(p, 2 * before(p)) for p in points[:8]])
    grown = [after(p) / before(p) for p in points]
    assert 1.5 < sum(grown) / len(grown) < 2.5
    failed = Trial(points[0], Measurement(points[0].key, "timeout"), 1.0, 1.0, "model", 0, 0.0)
    assert model([failed])(points[0]) == pytest.approx(before(points[0]))


def ran(point: Candidate, seconds: float) -> Trial[Candidate]:
    return Trial(point, Measurement(point.key, "ok", seconds, seconds, seconds), seconds, seconds, "model", 0, 0.0)


def test_a_schedule_in_one_line(on_h200: Candidates) -> None:
    causal = candidates(
        derivations(Cascade.parse(problem(causal=True).cascade), Path("/nonexistent")).variants[:1],
        problem(causal=True),
        load_machine("h200"),
        "triton",
    )
    text = schedule_text(causal.kept[0].schedule)
    assert text.startswith("grid b h p:") and "warps" in text
    assert any("filters in a branch" in schedule_text(c.schedule) for c in causal.kept)
    assert any("loop m:" in schedule_text(c.schedule) for c in causal.kept)


@pytest.mark.parametrize(("machine", "emitter", "dtype"), [("h200", "triton", "bf16"), ("cpu", "torch", "fp32")])
def test_the_order_of_products_is_decided_by_cost(machine: str, emitter: str, dtype: str, tmp_path: Path) -> None:
    posed = WORKLOADS["linear_attention"].posed({"queries": 8192, "keys": 8192}, dtype).problem
    variants = derivations(Cascade.parse(posed.cascade), tmp_path).variants
    best, *_ = candidates(variants, posed, load_machine(machine), emitter).kept
    sums = [frozenset(free(x)) for x in topological(Cascade.parse(best.variant.text).roots().values()) if is_sum(x)]
    assert frozenset("ef") in sums  # K^T V first, a product of the narrow sides: linear in the length
    assert frozenset("pm") not in sums
    written = next(v for v in variants if v.text == posed.cascade)
    assert best.variant.digest != written.digest


def is_sum(x: Expr) -> bool:
    return isinstance(x, Reduce) and x.op == "add"


# ---- derivations


def test_shipped_forms_are_used_where_they_match(derived: Derivations) -> None:
    assert derived.origin == "shipped"
    assert [v.text for v in derived.variants] == list(derived_texts(problem().cascade))
    assert (
        len({v.label for v in derived.variants}) == len({v.digest for v in derived.variants}) == len(derived.variants)
    )


def test_other_definitions_are_derived_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = derivations(softmax(), tmp_path)
    assert first.origin == "derived" and "statistics" in first.statistics
    monkeypatch.setattr(derivations_module, "_derive", lambda definition: pytest.fail("derived twice"))
    second = derivations(softmax(), tmp_path)
    assert second.origin == "kept" and second.variants == first.variants


def test_a_derivation_that_was_cut_short_is_used_but_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = derivations(softmax(), tmp_path / "other")

    def cut(self: extract.ExtractionProblem, seconds: float) -> None:
        raise extract.OutOfTime("a form must be proven the best within 0 s")

    monkeypatch.setattr(extract.ExtractionProblem, "solve", cut)
    first = derivations(softmax(), tmp_path)
    assert first.variants and not first.complete and "cut short" in first.origin
    assert [json.loads(p.read_text())["complete"] for p in tmp_path.glob("*.json")] == [False]
    monkeypatch.undo()
    second = derivations(softmax(), tmp_path)
    assert second.origin == "derived" and second.complete and second.variants == whole.variants
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.parametrize("content", ["", '{"format": 2, "defin', "[]", '{"format": 1}', "\x00"])
def test_a_kept_file_that_cannot_be_used_is_derived_again(tmp_path: Path, content: str) -> None:
    first = derivations(softmax(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert derivations(softmax(), tmp_path).variants == first.variants
    assert json.loads(path.read_text())["complete"]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert derivations(softmax(), tmp_path / "file").origin == "derived"


def test_short_labels() -> None:
    after, inside = (Feature("division", "", where, 1) for where in ("after", "inside"))
    tiled, corrected = (Feature(kind, "", "", 1) for kind in ("tiled", "correction"))

    def label(passes: int, *features: Feature, over: dict[str, int] | None = None) -> str:
        return short_label(passes, Signature((StreamSignature(passes, features),)), over)

    assert label(1, after, Feature("fold", "scale", "whole", 2)) == "1-pass, deferred division"
    assert label(2, corrected, Feature("fold", "scale", "outer", 1), tiled) == "2-pass tiled corrected, 1 fold"
    assert label(3, inside, Feature("reduce", "add", "whole", 2)) == "3-pass"
    assert label(1, after, over={"m": 1}) == "1-pass, deferred division"
    assert label(1, tiled, over={"m": 1, "n": 1}) == "1-pass over m and n tiled"


def test_a_label_has_the_passes_over_each_rank_that_is_streamed() -> None:
    """Attention in one pass over m, then a norm that goes over f twice."""
    form = written(
        Cascade.parse(
            "Sp,m = Qp,e * Ke,m\nDp = fold_scale[m](Sp,m, 1)\nOp,f = fold_scale[m](Sp,m, Vm,f) / Dp\n"
            "Np = sum[f](Op,f * Op,f)\nZp,f = Op,f / sqrt(Np)"
        )
    )
    assert form.passes == 2
    assert form.label.startswith("2-pass over f, 1-pass over m, ")
    assert written(Cascade.parse("Dp = fold_scale[m](Sp,m, 1)")).label == "1-pass"


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (16, 1), (16, 4)])
def test_few_queries_over_many_keys(batch: int, seq: int) -> None:
    """A group's heads are the rows of one product, and programs share the keys where they are few: each key is read
    once, and the model says that little else takes time."""
    size = attention_problem(batch=batch, heads=32, kv_heads=8, seq=seq, kv_seq=8192, head_dim=128, dtype="bf16")
    text = derived_texts(size.cascade)[0]
    h200 = load_machine("h200")
    kept = candidates([Variant(text, "one", 1, "1-pass", Signature(()))], size, h200, "triton").kept
    parts = {c.schedule.role("m").num_splits for c in kept}
    bound = 2 * batch * 8 * 8192 * 128 * 2 / h200.hbm_bytes_per_second
    if batch == 1:
        assert min(parts) > 1
    else:
        assert {1, 2, 8} <= parts and kept[0].estimate.seconds < 1.1 * bound
    roles = dict(kept[0].schedule.roles)
    assert roles["g"].pack == "p" if seq > 1 else roles["g"].tile == 16
