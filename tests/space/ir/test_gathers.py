"""Indexed accesses: axes addressed by parts of ranks and by elements of integer tensors, from text to meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eintune.kernels.reference.agreement import agrees
from eintune.kernels.reference.eager import run_eager
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.canonical import digest
from eintune.space.cascade.cascade import Cascade, rename
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import infer_sizes, run_cascade
from eintune.space.derivation.derive import derive
from eintune.space.egraph.graph import label
from eintune.space.ir.einsum import CascadeError, Update
from eintune.space.ir.expr import Access, Gather, Part, Tensor, access, free, reads, tensors
from eintune.space.ir.gathers import completed, limits, numbers, shapes
from eintune.space.ir.index_arithmetic import span
from eintune.space.lowering.lower import IllegalPlan, build_plan
from eintune.space.operators.assignments import read_operators, write_operators
from eintune.space.operators.cascades import from_cascade, to_cascade
from eintune.space.operators.egglog_programs import write_egg
from eintune.space.operators.passes import analyse
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

PAGED = """
input KCn,s,h,e
input VCn,s,h,f
input BTb,j : int
input Lb : int
QKb,h,p,m = Qb,h,p,e * KC[BT[b,m//4],m%4,h,e]
Sb,h,p,m = select(index(m) < Lb, QKb,h,p,m * scale, -inf)
GMb,h,p = Sb,h,p,m :: \\/m max
SNb,h,p,m = e^(Sb,h,p,m - GMb,h,p)
SDb,h,p = SNb,h,p,m
Ab,h,p,m = SNb,h,p,m / SDb,h,p
AVb,h,p,f = Ab,h,p,m * VC[BT[b,m//4],m%4,h,f]
"""
SIZES = {"b": 3, "h": 2, "p": 2, "m": 12, "e": 5, "f": 6, "n": 11, "s": 4, "j": 3}
LENGTHS = [0, 5, 12]


def paged_data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "Q": random.normal(size=(3, 2, 2, 5)),
        "KC": random.normal(size=(11, 4, 2, 5)),
        "VC": random.normal(size=(11, 4, 2, 6)),
        "BT": random.permutation(11)[:9].reshape(3, 3),
        "L": np.array(LENGTHS),
    }


def attention_over_gathered(data: dict[str, np.ndarray], scale: float) -> np.ndarray:
    """The same by hand: pages put side by side, each row over its own length; a row without keys is 0."""
    keys, values = (data[n][data["BT"]].reshape(3, 12, 2, -1) for n in ("KC", "VC"))
    out = np.zeros((3, 2, 2, 6))
    for b, n in enumerate(LENGTHS):
        if n:
            score = np.einsum("hpe,mhe->hpm", data["Q"][b], keys[b, :n]) * scale
            weight = np.exp(score - score.max(-1, keepdims=True))
            out[b] = np.einsum("hpm,mhf->hpf", weight / weight.sum(-1, keepdims=True), values[b, :n])
    return out


def test_pages_mean_what_they_mean_side_by_side() -> None:
    cascade, data = Cascade.parse(PAGED), paged_data()
    exact = attention_over_gathered(data, 0.3)
    assert np.abs(run_cascade(cascade, data, params={"scale": 0.3})["AV"] - exact).max() < 1e-14
    given = {n: torch.as_tensor(a) for n, a in data.items()}
    eager = run_eager(cascade, given, SIZES, {"scale": 0.3}, torch.float64)["AV"]
    assert np.abs(eager.numpy() - exact).max() < 1e-14
    some = {"b": torch.tensor([2, 1]), "p": torch.tensor([1])}
    part = run_eager(cascade, given, SIZES, {"scale": 0.3}, torch.float64, some)["AV"]
    assert np.abs(part.numpy() - exact[[2, 1]][:, :, [1]]).max() < 1e-14


@pytest.mark.parametrize(
    "text",
    [
        PAGED,
        "input EMBv,e\ninput Tp : int\nZp,e = EMB[T[p],e]",
        "input Bias[v,w]\ninput pos[p] : int\nZp,m = Bias[pos[p],m%7]",
        "input Xu,v\ninput Ab,j : int\ninput Bk : int\nZp,b = X[A[b,B[p]],p//3]",
        "input Kb,k,m,e\nZb,h,m,e = K[b,h//4,m,e]",
        "input Tr,q\ninput Nu : int\nZp,m = T[2*p-m*3+(-1),N[p-m+|m|-1] else 0]",
        "input Tr\ninput Nu : int\nZp,m = T[min(N[p]-N[m],|p|*2)*3-(p-m)-(-m) else 0]",
        "input Tr\nZp,m = T[-p+abs(-(p*2))+max(p//3,m%2)-(-2)]",
    ],
)
def test_text_and_cascade_determine_each_other(text: str) -> None:
    cascade = Cascade.parse(text)
    assert Cascade.parse(str(cascade)) == cascade
    assert any(isinstance(x, Gather) for e in cascade.einsums for x in reads([e.expr]))


@pytest.mark.parametrize(
    ("index", "low", "high"),
    [
        ("p-m+3", -2, 6),
        ("p-m+m", 0, 3),
        ("abs(p-m)*2-1", -1, 9),
        ("min(max(p-m,-2),|m|)+2*|p|", 6, 11),
        ("-(p//2)*3+m%4", -3, 3),
        ("(p+1)*|m|-p*|m|", 6, 6),
        ("2*(3-(p-m))", 0, 16),
    ],
)
def test_what_a_computed_index_lies_within(index: str, low: int, high: int) -> None:
    cascade = Cascade.parse(f"input Xr\nZp,m = X[{index}] * Yp,m")
    (_, i, own), *_ = numbers([cascade.einsums[0].expr])
    assert span(i, {"p": 4, "m": 6}) == (low, high) and own == "r"
    y = np.ones((4, 6))
    if low < 0:
        with pytest.raises(ValueError, match=rf"X is addressed within {low}\.\.{high} by a computed index"):
            run_cascade(cascade, {"X": np.zeros(99), "Y": y})
        return
    found = run_cascade(cascade, {"X": np.arange(high + 1.0), "Y": y})["Z"]
    assert found.min() == low and found.max() == high
    with pytest.raises(ValueError, match=f"its axis has {high} elements"):
        run_cascade(cascade, {"X": np.arange(float(high)), "Y": y})


def test_an_index_is_no_longer_than_can_be_read() -> None:
    with pytest.raises(CascadeError, match="an index is computed of at most 64 operands"):
        Cascade.parse(f"input Xr\nZp = X[{'+'.join(['p'] * 65)}] * Yp")
    assert Cascade.parse(f"input Xr\nZp = X[{'+'.join(['p'] * 64)}] * Yp")


def test_derivations_try_what_is_addressed() -> None:
    """The axis is as long as needed, up to a limit for all that are computed together."""
    bodies = [Cascade.parse("input Xr\nZp = X[p+5000] * Yp").einsums[0].expr]
    assert completed(bodies, {"p": 5}, 9)["r"] == 5005
    bodies = [Cascade.parse("input Xr,q\nZp = X[p+5000,p+2] * Yp").einsums[0].expr]
    assert completed(bodies, {"p": 5}, 9) == {"p": 5, "r": 512, "q": 9}


HEAD = "input Xv,e\ninput Tp : int\nYp = Tp\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Zp,e = X[T[p],e]", r"X is addressed by more than ranks, so its axes need names: declare `input X\[…\]`"),
        (HEAD + "Zp,e = X[T[p]]", r"X has ranks \['v', 'e'\], but 1 axes are addressed"),
        (HEAD + "Zp,e = X[Tp,e]", r"inside an index a tensor's ranks stand in brackets: T\[…\]"),
        ("input Xv,e\nZp,e = X[F[p],e]", r"addressed by elements of an int tensor, but F is float"),
        (HEAD + "Zp,e = X[p*p,e]", r"a product in an index has a whole number \(or a size\) as one of its factors"),
        (HEAD + "Zp,e = X[p*2147483648,e]", r"a number in an index is less than 2\*\*31"),
        (HEAD + "Zp,e = X[3,e]", r"varies with a rank or an element: a number alone addresses nothing"),
        (HEAD + "Zp,e = X[max(p),e]", r"max needs ',' here, but got '\)'"),
        (HEAD + "Zp,e = X[(p+1)//2,e]", r"a tensor's index needs '\]' here, but got '//'"),
        (HEAD + "Zp,e = X[T[p]+1,e]", r"computed of elements may lie beyond its axis, so it says `else 0`"),
        (HEAD + "Zp,e = X[p//0,e]", r"quotient // or remainder % by a positive number, but got p // 0"),
        (HEAD + "Zp,e = X[p//q,e]", r"whole numbers of at most 18 digits, but got 'q'"),
        (HEAD + "Ue,p = Xe,p * 2\nZp,e = U[p//2,T[p]]", r"reads inputs only, but an einsum defines U"),
        (HEAD + "Ze = X[e,e%3] * X[T[e],e]\nUe,p = X[p,p,e//2]", r"X: a rank indexes one axis only"),
    ],
)
def test_errors_name_the_construct(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        Cascade.parse(text)


def test_free_ranks_tensors_and_names() -> None:
    cascade = Cascade.parse(PAGED)
    assert list(cascade.inputs) == ["Q", "KC", "BT", "L", "VC"]
    key = next(x for e in cascade.einsums for x in reads([e.expr]) if x.tensor.name == "KC")
    assert free(key) == {"b", "m", "h", "e"}
    assert key is access(key.tensor, key.index) and list(tensors([key])) == ["KC", "BT"]
    moved = rename(key, {"m": "q", "b": "a"})
    assert label(moved) == "KC[BT[a,q//4],q%4,h,e]"
    assert access(Tensor("X", ("p",)), ("p",)) is Access(Tensor("X", ("p",)), ("p",))
    assert set(cascade.ranks()) == set("bhpmef")


def test_sizes_follow_from_shapes() -> None:
    cascade = Cascade.parse(PAGED)
    given = {n: a.shape for n, a in paged_data().items()}
    assert infer_sizes(cascade, given) == SIZES
    assert infer_sizes(cascade, given, {"m": 10})["m"] == 10
    with pytest.raises(ValueError, match=r"m // 4 addresses 4 elements of axis j for \|m\| = 13, but the axis has 3"):
        infer_sizes(cascade, given, {"m": 13})
    with pytest.raises(ValueError, match=r"m % 4 addresses 4 elements of axis s .*, but the axis has 2"):
        infer_sizes(cascade, given | {"KC": (11, 2, 2, 5), "VC": (11, 2, 2, 6)})
    bodies = [e.expr for e in cascade.einsums]
    assert shapes(bodies, SIZES)["KC"] == (11, 4, 2, 5)
    assert limits(bodies, SIZES) == {"BT": 11, "L": 13}


def test_an_index_beyond_its_axis_is_refused() -> None:
    cascade, data = Cascade.parse(PAGED), paged_data()
    for wrong in (-1, 11):
        data["BT"][2, 1] = wrong
        with pytest.raises(IndexError, match=r"KC: axis n is addressed within 0\.\.10 only"):
            run_cascade(cascade, data, params={"scale": 1.0})
        given = {n: torch.as_tensor(a) for n, a in data.items()}
        with pytest.raises(IndexError, match=r"KC: axis n is addressed within 0\.\.10 only"):
            run_eager(cascade, given, SIZES, {"scale": 1.0}, torch.float64)


def test_one_pass_is_derived_and_every_form_agrees() -> None:
    cascade = Cascade.parse(PAGED)
    derived = derive(cascade).cascades
    assert derived[0].passes == 1 and "2 scale folds" in derived[0].description
    for d in derived:
        assert Cascade.parse(str(d.cascade)) == d.cascade
        assert agrees(d.cascade, cascade, {"scale": 0.7})
    other = Cascade.parse(PAGED.replace("m//4", "m//8").replace("m%4", "m%8"))
    assert not agrees(derived[0].cascade, other, {"scale": 0.7})
    assert digest(cascade) != digest(other)
    assert digest(cascade) == digest(Cascade.parse(PAGED.replace("BT", "TABLE").replace("KC", "KEYS")))


def test_operator_text_says_the_same() -> None:
    cascade = Cascade.parse(PAGED)
    graph = from_cascade(cascade)
    again = read_operators(write_operators(graph))
    assert again.operations == graph.operations
    data = paged_data()
    exact = run_cascade(cascade, data, params={"scale": 0.3})["AV"]
    assert np.abs(run_cascade(to_cascade(again), data, params={"scale": 0.3})["AV"] - exact).max() < 1e-14
    with pytest.raises(CascadeError, match="KC is addressed by more than ranks, which egglog notation cannot say"):
        write_egg(graph)


def test_passes_load_the_pages_and_the_table() -> None:
    report = str(analyse(Cascade.parse(PAGED), "m"))
    assert "loads: KC, BT" in report and "VC" in report


def test_iterations_address_by_ranks_only() -> None:
    c = IterativeCascade.parse("Rp,0 = -inf\nRp,m+1 = max(Rp,m, Xp,m)\nZp = Rp,|m|\nuntil m >= |m|")
    x = Tensor("X", ("p", "m"))
    step = Update(c.step[0].output, c.step[0].index, Gather(x, ("p", Part("//", "m", 2))))
    with pytest.raises(CascadeError, match="R: an iteration addresses axes by ranks only, but X is looked up"):
        IterativeCascade(c.rank, c.before, c.initial, (step,), c.after, c.until)


def test_a_plan_refuses_parts_beyond_their_axis() -> None:
    cascade = Cascade.parse(PAGED)
    dtypes = dict.fromkeys((*cascade.inputs, "AV"), "fp32") | {"BT": "int32", "L": "int32"}
    roles = {"m": Role("loop", 16), "p": Role("grid", 16), "e": Role(None, 16), "f": Role(None, 16)}
    schedule = Schedule("torch", tuple({"b": Role("grid", None), "h": Role("grid", None), **roles}.items()))
    for wrong, message in (({"j": 2}, "m // 4 addresses 3 elements of axis j"), ({"n": 0}, r"but \['n'\] have none")):
        problem = Problem("pages", PAGED, SIZES | wrong, dtypes, {"scale": 1.0})
        with pytest.raises(IllegalPlan, match=message):
            build_plan(cascade, problem, schedule)


def test_drawn_tables_are_permutations_and_lengths_lie_within_range() -> None:
    dtypes = dict.fromkeys(("Q", "KC", "VC", "AV"), "fp32") | {"BT": "int32", "L": "int32"}
    data = draw_inputs(Problem("pages", PAGED, SIZES, dtypes, {"scale": 1.0}), "cpu")
    assert data["KC"].shape == (11, 4, 2, 5) and data["BT"].dtype == torch.int32
    assert len(data["BT"].unique()) == 9 and data["BT"].max() < 11
    assert data["L"].min() >= 0 and data["L"].max() <= 12
