"""Live footprint and traffic, in symbols and in numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.derivation.derive import derive
from eintune.space.derivation.needed_laws import needed_laws
from eintune.space.operators.assignments import read_operators
from eintune.space.operators.footprint import Elements, footprint
from eintune.space.workloads.builtin import WORKLOADS, attention, softmax

TESTS = Path(__file__).resolve().parents[2]
ONE_PASS = """
TAp,f = fold_scale[m](Sp,m, Vm,f)
SDp = fold_scale[m](Sp,m, 1)
AVp,f = TAp,f / SDp
"""


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ([], "0"),
        (["mp"], "m·p"),
        (["mp", "mp"], "2·m·p"),
        (["bme", "bpe", "bp"], "b·(e·m + e·p + p)"),
        (["bp", "bpf", "bp"], "b·p·(f + 2)"),
        (["m", "p"], "m + p"),
        ([""], "1"),
        (["", "m"], "m + 1"),
    ],
)
def test_sums_of_products_are_written_with_common_ranks_before_the_bracket(tensors: list[str], text: str) -> None:
    assert str(Elements.of(tensors)) == text
    sizes = {"b": 2, "m": 3, "p": 5, "e": 7, "f": 11}
    want = 0
    for t in tensors:
        product = 1
        for r in t:
            product *= sizes[r]
        want += product
    assert Elements.of(tensors).count(sizes) == want
    assert Elements.of(tensors[:1]) + Elements.of(tensors[1:]) == Elements.of(tensors)


def test_softmax_reads_its_input_once_a_pass_and_holds_a_maximum_and_a_sum() -> None:
    f = footprint(softmax())
    assert (f.passes, f.stream) == (3, "m")
    assert f.reads == {"X": 3}
    assert str(f.traffic) == "4·m·p"
    assert str(f.held) == "2·p"
    assert "SN" in f.again
    assert str(f.instead) == "m·p"


def test_attention_reads_keys_three_times_and_values_once() -> None:
    f = footprint(attention())
    assert f.reads == {"Q": 1, "K": 3, "V": 1}
    assert str(f.traffic) == "b·h·(3·e·m + e·p + f·m + f·p)"
    assert str(f.instead) == "b·h·m·p"


def test_folds_with_one_reference_share_it() -> None:
    f = footprint(Cascade.parse(ONE_PASS))
    assert (f.passes, f.again, f.instead) == (1, (), Elements())
    assert str(f.held) == "p·(f + 2)"  # two sums and one maximum
    two = footprint(Cascade.parse(ONE_PASS + "Lp = fold_scale[m](Tp,m, 1)\n results: AV, L"))
    assert str(two.held) == "p·(f + 4)"


def test_tiles_that_are_held_for_a_correction_are_counted() -> None:
    graph = read_operators((TESTS / "operators" / "attention_2pass_deferred.txt").read_text())
    f = footprint(graph)
    assert (f.passes, f.writes) == (2, ("AV",))
    assert frozenset({"m1", "p"}) in dict(f.held.terms)  # one maximum a tile lives across the passes
    assert f.reads == {"K": 2, "Q": 1, "V": 1}


@pytest.mark.parametrize(
    ("text", "over", "reads"),
    [
        # the product over m is made in each of the two passes over f
        (
            "AVp,f = Ap,m * Vf,m\nSSp = AVp,f * AVp,f\nZp,f = AVp,f / sqrt(SSp)\nresults: Z",
            {"f": 2},
            {"A": 1, "V": 2},
        ),
        # each of two passes over f needs the softmax over m, whose sums are over all of m for each f
        (
            "Gf = max[m](Xm,f)\nSm,f = e^(Xm,f - Gf)\nDf = Sm,f\nAm,f = Sm,f / Df\nNm = Am,f * Am,f\nZm,f = Am,f / Nm",
            {"m": 3, "f": 2},
            {"X": 6},
        ),
        # a sum over both is in the first pass over each, beside the other
        ("T = Xm,f * Xm,f\nGm = max[f](Xm,f)\nZm,f = (Xm,f - Gm) * T", {"f": 2, "m": 2}, {"X": 3}),
        # a query and a key: as a query it is read beside the first pass over keys
        ("Sp,m = Xp,e * Xm,e\nGp = max[m](Sp,m)\nZp = sum[m](e^(Sp,m - Gp))", {"m": 2}, {"X": 2}),
    ],
)
def test_an_input_is_read_once_in_each_combination_of_passes(
    text: str, over: dict[str, int], reads: dict[str, int]
) -> None:
    f = footprint(Cascade.parse(text))
    assert (dict(f.over), f.reads) == (over, reads)
    assert [f.passes, f.stream] == [over[f.stream], next(iter(over))]


def test_too_many_combinations_are_those_of_one_rank() -> None:
    lines = ["Am,f = Xm,f"]
    for i in range(60):
        a, b = ("A" * (i + 1), "A" * (i + 2))
        rank, kept = ("m", "f") if i % 2 else ("f", "m")
        lines.append(f"B{a}{kept} = max[{rank}]({a}m,f)\n{b}m,f = {a}m,f - B{a}{kept}")
    f = footprint(Cascade.parse("\n".join(lines)))
    assert f.reads["X"] >= max(f.over.values()) > 20


def test_traffic_is_unknown_where_ranks_are() -> None:
    f = footprint(read_operators("A = M_sub_mp(SN, GM_{p})\nB = R_add_m(A)"))
    assert f.traffic is None


def test_an_iteration_has_a_footprint() -> None:
    f = footprint(IterativeCascade.parse((TESTS / "cascades" / "attention_1pass_iterative.edge").read_text()))
    assert f.passes == 1
    assert f.reads == {"Q": 1, "K": 1, "V": 1}


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_every_workload_moves_its_inputs_and_outputs_at_least_once(name: str) -> None:
    cascade = WORKLOADS[name]()
    f = footprint(cascade)
    assert set(f.reads) == set(cascade.inputs)
    assert min(f.reads.values()) >= 1
    assert f.traffic is not None
    sizes = dict.fromkeys(f.traffic.ranks, 2)
    once = Elements.of(t.ranks for t in (*cascade.inputs.values(), *cascade.outputs.values()))
    assert f.traffic.count(sizes) >= once.count(sizes)


def test_a_form_needs_the_laws_without_which_it_is_not_found() -> None:
    derivation = derive(softmax())
    laws = dict(zip((d.passes for d in derivation.cascades), needed_laws(derivation), strict=True))
    assert laws == {2: ("composite-fold",), 3: ()}
