"""The growth table: its rows, what a row holds, and the file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from eintune.search.cli.main import main
from eintune.search.evaluation.growth import MODIFIERS, Grown, Task, attention_with, measure, tasks, to_csv, to_text
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import Map, Reduce, topological
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.chains import CHAINS


def test_every_row_is_there_once() -> None:
    every = [(t.group, t.name) for t in tasks()]
    assert len(set(every)) == len(every)
    counts = {g: sum(group == g for group, _ in every) for g in ("workload", "modifiers", "chain")}
    n = len(MODIFIERS)
    assert counts == {"workload": len(WORKLOADS), "modifiers": n * (n - 1) * (n - 2) // 6, "chain": len(CHAINS) * 4}


def test_a_row_has_its_own_definition() -> None:
    by_name = {t.name: t.definition() for t in tasks() if t.group != "workload"}
    assert len({str(c) for c in by_name.values()}) == len(by_name)
    assert "SLOPE" in by_name["alibi, sinks, grouped"].inputs
    assert set(attention_with(["log-sum-exp"]).outputs) == {"AV", "L"}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("length", [6, 12, 24, 48])
def test_a_chain_has_as_many_operators_as_it_says(name: str, length: int) -> None:
    cascade = CHAINS[name](length)
    nodes = topological(cascade.roots().values())
    sums = [x for x in nodes if isinstance(x, Reduce) and isinstance(x.arg, Map) and x.arg.op == "mul"]
    operators = sum(isinstance(x, (Map, Reduce)) for x in nodes) - len(sums) * (name != "factors")
    assert length - 2 <= operators <= length * 1.2  # a product and its sum are one operator


def test_a_row_is_measured_in_a_process_of_its_own() -> None:
    def broken() -> Cascade:
        raise ValueError("no definition")

    whole, lost = measure([Task("chain", "seven", lambda: CHAINS["pointwise"](7)), Task("chain", "none", broken)])
    assert whole.complete and not whole.error
    assert whole.forms >= 1 and whole.nodes >= whole.classes > 7
    assert whole.cpu > 0 and whole.peak > 10 * 2**20
    assert whole.wall >= whole.saturation + whole.extraction
    assert lost.error == "ValueError: no definition" and not lost.complete


def test_the_file_says_how_it_came_about() -> None:
    rows = [Grown("chain", "a, b", classes=3, nodes=4, cpu=0.5, complete=True), Grown("chain", "c", error="broke")]
    text = to_csv(rows, "eintune growth", 0.5)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert "# eintune growth" in comments and any("egglog" in c and "highspy" in c for c in comments)
    (first, second) = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    assert (first["name"], first["nodes"], first["cpu"]) == ("a, b", "4", "0.500")
    assert second["error"] == "broke"
    assert "c: broke" in to_text(rows) and "median 0.25" in to_text(rows)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "new" / "growth.csv"
    assert main(["growth", "--only", "chain products", "--lengths", "3", "--csv", str(kept)]) == 0
    assert "products 3" in capsys.readouterr().out
    assert "products 3" in kept.read_text()
    assert main(["growth", "--only", "no such row"]) == 2
    assert main(["growth", "--combined", "99"]) == 2


@pytest.mark.parametrize("names", [("softcap", "head scale", "sinks"), ("causal", "bias", "sinks")])
def test_any_three_modifiers_are_derived_in_seconds(names: tuple[str, ...]) -> None:
    (row,) = measure([Task("modifiers", ", ".join(names), lambda: attention_with(names))])
    assert row.complete and row.forms >= 5 and row.fewest == 1
    assert row.cpu < 5  # measured: 1.5 s for the slowest of all threes
