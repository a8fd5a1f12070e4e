"""Saturation: sound (random terms equal the definition), bounded, reported, and killed when it runs away."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from algebra_cases import different_terms
from attention_variants import ALONE

from eintune.space.cascade.cascade import Cascade
from eintune.space.egraph.encoding import Symbols, program
from eintune.space.egraph.graph import HOLE, EGraph, Limits, SaturationError, saturate
from eintune.space.egraph.safety import safe_part, unsafe
from eintune.space.ir.expr import NEG_INF, Access, Const, Expr, Map, Param, Reduce, Split, Tensor, Where, topological
from eintune.space.ir.splits import SplitOf
from eintune.space.laws.law import Law, variable
from eintune.space.laws.laws import laws
from eintune.space.laws.one_hot import one_hots
from eintune.space.workloads.builtin import WORKLOADS, attention
from eintune.space.workloads.chains import CHAINS

SPLIT = SplitOf("m", "m1", "m0")
OWN_SIZES = {"six_operators": {"e": 6}, "paged_attention": {"n": 4, "s": 64, "j": 1}, "embedding": {"v": 5}}
"""Of workloads that read one tensor along two ranks, or have axes that no rank goes over."""
OF_MODIFIERS = {"w": 3, "r": 9, "s": 2}
"""A window, a table of distances, the steps of the standard slopes."""
LETTERS = [f"T{a}{b}" for a in "ABC" for b in "ABCDEFGHIJKLMNOPQRST"]
FEW = {"gemm": 1, "embedding": 1, "linear": 1, "same_operand": 1, "six_operators": 1, "gelu": 2, "swiglu": 2}
"""Workloads whose graphs hold only so many terms that differ."""


def graph_of(roots: Sequence[Expr], *, reference: bool = False, without: frozenset[str] = frozenset()) -> EGraph:
    filters = {(x.predicate, x.fill): None for x in topological(roots) if isinstance(x, Where)}
    table = laws([SPLIT], filters, one_hots(roots), reference=reference, without=without)
    return saturate(roots, table, [SPLIT])


def whole_graph(roots: Sequence[Expr]) -> EGraph:
    """As `derive` sees it: with a reference where the definition has none, and safe where whole tiles are filtered
    (an unsafe term divides by their factor, exp(-inf))."""
    graph = graph_of(roots, reference=any(True for _ in unsafe(EGraph.of(roots))))
    filtered = any(isinstance(x, Where) or (isinstance(x, Const) and x.value == NEG_INF) for x in topological(roots))
    return safe_part(graph)[0] if filtered else graph


@pytest.mark.parametrize("name", WORKLOADS)
def test_random_terms_of_each_workload(name: str) -> None:
    roots = list(WORKLOADS[name]().roots().values())
    found = different_terms(roots, whole_graph(roots), 300, 600, OWN_SIZES.get(name))
    assert found >= min(FEW.get(name, 3), 300)


@pytest.mark.parametrize("name", ALONE)
def test_random_terms_of_each_modifier(name: str) -> None:
    roots = list(ALONE[name].cascade(grouped=True).roots().values())
    assert different_terms(roots, whole_graph(roots), 40, 80, OF_MODIFIERS) >= 3


def test_a_row_that_sees_nothing_is_divided_after_its_weights() -> None:
    # w * (v / sum w) is 0 * inf where no element is left; (w * v) / sum w is 0 / 0, which is 0
    roots = list(ALONE["documents"].cascade().roots().values())
    graph = graph_of(roots)
    reasons = {u.reason for u in unsafe(graph)}
    assert "the divisor is 0 in an empty row, and the dividend is not" in reasons
    unfiltered = graph_of(list(ALONE["plain"].cascade().roots().values()))
    assert not any("empty row" in u.reason for u in unsafe(unfiltered))


def test_most_terms_of_a_large_graph_differ() -> None:
    roots = list(attention().roots().values())
    assert different_terms(roots, graph_of(roots), 300, 800) == 300


def test_random_terms_with_the_law_that_adds_a_reference() -> None:
    roots = list(WORKLOADS["softmax"]().roots().values())
    assert different_terms(roots, graph_of(roots, reference=True), 40, 200) > 5


@pytest.mark.soak
def test_ten_thousand_random_terms() -> None:
    definitions = {name: (w().roots(), OWN_SIZES.get(name)) for name, w in WORKLOADS.items()}
    for name, variant in ALONE.items():
        for grouped in (False, True):
            definitions[f"{name} {grouped}"] = variant.cascade(grouped=grouped).roots(), OF_MODIFIERS
    found = {}
    for name, (outputs, sizes) in definitions.items():
        roots = list(outputs.values())
        found[name] = different_terms(roots, whole_graph(roots), 500, 2000, sizes)
    assert sum(found.values()) >= 10_000, found


@pytest.mark.soak
@pytest.mark.parametrize("operators", [6, 12, 24])
@pytest.mark.parametrize("name", CHAINS)
def test_random_terms_of_chains(name: str, operators: int) -> None:
    roots = list(CHAINS[name](operators).roots().values())
    sizes = {f"r{i}": 2 + i % 3 for i in range(operators + 2)} | ({"e": 6} if name == "pointwise" else {})
    different_terms(roots, whole_graph(roots), 100, 200, sizes)


def test_saturates_quickly_and_says_what_it_did() -> None:
    roots = list(attention(causal="lower_right", grouped=True).roots().values())
    start = time.monotonic()
    graph = graph_of(roots)
    assert graph.statistics.seconds < 3
    assert graph.statistics.stopped in ("saturated", "steps")
    assert graph.statistics.matches["composite-fold"] > 0
    assert graph.statistics.matches["split"] > 0
    assert 100 < graph.statistics.nodes < 2000
    assert time.monotonic() - start < 20  # with the start of the process, on a busy machine


def test_the_definition_is_in_its_graph() -> None:
    roots = list(attention(causal="top_left").roots().values())
    graph = graph_of(roots)
    assert graph.original <= set(graph.nodes())
    assert graph.roots == tuple(graph.defined[r] for r in roots)
    # what is free in a class is free in each of its members
    assert all(graph.free[c] <= {"b", "h", "p", "m", "m1", "m0", "e", "f"} for c in graph.classes)


def test_a_number_that_is_used_often_is_one_number() -> None:
    """The engine numbers the uses of a name by appending to it: `$n3`, used for the 32nd time, was `$n33`."""
    lines = ["TAAm = Am * 2", *(f"{b}m = {a}m + 1" for a, b in itertools.pairwise(LETTERS))]
    roots = list(Cascade.parse("\n".join(lines)).roots().values())
    graph = saturate(roots, [])
    assert len(set(graph.defined.values())) == len(graph.classes) == len(topological(roots)) == len(LETTERS) + 3
    assert graph.original <= set(graph.nodes())


def test_no_name_in_a_program_is_another_and_digits() -> None:
    """Of functions either, in a rule: the third `M_exp` was `M_exp2`."""
    symbols, roots = Symbols(), list(attention(causal="top_left").roots().values())
    for i in range(12):
        symbols.view(Split(HOLE, "m", f"m{2 * i + 1}", f"m{2 * i}"))
    commands, _ = program(symbols, roots, laws([SPLIT], {}, one_hots(roots)))
    text = "\n".join(commands)
    names = set(re.findall(r"\((?:let )?(\$?\w+)", text))
    assert {"M_exp2_", "V11_", "$n11_"} <= names
    assert not [n for n in names if n.rstrip("0123456789") != n]


def test_json_is_plain_data() -> None:
    roots = list(WORKLOADS["softmax"]().roots().values())
    data = json.loads(json.dumps(graph_of(roots).to_json()))
    assert set(data) == {"roots", "classes", "statistics"}
    nodes = [n for c in data["classes"].values() for n in c["nodes"]]
    assert {"op": "X[p,m]", "children": []} in nodes
    assert any(n["op"] == "F_scale_m" for n in nodes)
    assert all(k in data["classes"] for n in nodes for k in n["children"])


def test_stops_at_its_bounds() -> None:
    roots = list(attention().roots().values())
    table = laws([SPLIT])
    assert saturate(roots, table, [SPLIT], Limits(steps=3)).statistics.steps == 3
    few = saturate(roots, table, [SPLIT], Limits(rows=60)).statistics
    assert few.stopped == "rows"
    assert few.steps < 6
    with pytest.raises(ValueError, match="`rows` must be greater than 0, but got 0"):
        Limits(rows=0)


def test_a_step_that_runs_away_is_killed() -> None:
    a, b = variable("a"), variable("b")
    growing = [Law("growing", a * b, (a * Map("exp", (b,))) * (b * Map("exp", (a,))))]
    limits = Limits(steps=10_000, rows=10**12, seconds=10**6, timeout=2.5)
    roots = list(attention().roots().values())
    start = time.monotonic()
    with pytest.raises(SaturationError, match=r"saturation must end within 2.5 s, but was killed .*`steps` \(10000\)"):
        saturate(roots, growing, [], limits)
    assert time.monotonic() - start < 30  # by the clock, on a busy machine


@pytest.mark.skipif(sys.platform != "linux", reason="reads how much memory a process had from /proc")
def test_memory_is_what_the_graph_needs_and_not_its_programs_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Asked(Exception):
        pass

    def ask(request: dict[str, Any], limits: Limits) -> None:
        asked.append(request)
        raise Asked

    monkeypatch.setattr("eintune.space.egraph.graph._run", ask)
    with pytest.raises(Asked):
        graph_of(list(attention(causal="lower_right", grouped=True).roots().values()))
    measured = (
        "import sys; from eintune.space.egraph.engine import main; main(); "
        "print(open('/proc/self/status').read(), file=sys.stderr)"
    )
    command = [sys.executable, "-P", "-c", measured]
    done = subprocess.run(command, input=json.dumps(asked[0]), capture_output=True, text=True, check=True)
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert peak and int(peak[1]) < 150_000  # 43 MB; 525 MB where the program is parsed as one text


def test_a_program_that_the_engine_refuses_is_one_line() -> None:
    unbound = Law("unbound", variable("a") * variable("b"), variable("z"))
    with pytest.raises(SaturationError, match="the saturating process ended with code") as error:
        saturate(list(attention().roots().values()), [unbound])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("factor", "moves"), [(0.125, True), (-0.125, False), (Param("scale"), False)])
def test_a_factor_leaves_a_maximum_only_if_it_is_positive(factor: float | Param, moves: bool) -> None:
    x = Access(Tensor("X", ("p", "m")), ("p", "m"))
    root = Reduce("max", "m", x * factor)
    graph = saturate([root], laws())
    outside = [n for n in graph.classes[graph.roots[0]] if n.head == Map("mul", (HOLE, HOLE))]
    assert bool(outside) == moves
