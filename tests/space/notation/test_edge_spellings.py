"""The spellings of EDGE, TeAAL and FuseMax, in Unicode, in ASCII and as LaTeX writes them: all are one cascade."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.closed_form import closed
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.operators.formats import as_cascade, read_computation

CASCADE_FILES = Path(__file__).parents[2] / "cascades"
RNG = np.random.default_rng(3)

SPELLINGS = {
    "Zm = Am / nonzero(Bm)": (
        *("Zm = Am · Bm :: ∧m ÷(←)", "Zm = Am · Bm :: /\\m /(<-)", "Zm = Am / Bm :: ∧m /(←)", "Zm = Am ÷ Bm"),
        *(r"Z_m = A_m \cdot B_m :: \bigwedge_m \div(\leftarrow)", r"Z_{m} = \frac{A_{m}}{B_{m}}"),
        *("Zm = Am · Bm :: ∧ ÷", "Zm = Am · Bm :: ∧m ÷(∩)", "Zm = Am · Bm :: ÷(←)", "Zm = Am · Bm :: /(<-)"),
        *(
            "Zm = Am ÷(←) Bm",
            "Zm = Am /(←) Bm",
            "Zm = Am /(<-) Bm",
            "Zm = Am ÷(∩) Bm",
            r"Z_m = A_m \div(\leftarrow) B_m",
        ),
    ),
    "Zm = e^(Am - Bm)": (
        *(
            "Zm = Am · Bm :: ∧m sub-then-exp(1)",
            "Zm = Am · Bm :: /\\m sub-then-exp",
            "Zm = Am · Bm :: ∧_m sub-then-exp(𝟙)",
        ),
        *("Zm = Am · Bm :: sub-then-exp(1)", "Zm = Am sub-then-exp(1) Bm"),
        *(r"Z_m = A_m \cdot B_m :: \bigwedge_{m} \text{sub-then-exp}(\mathbb{1})", "Z_m = e^{A_m - B_m}"),
    ),
    "Zm = sigmoid(Am)": (
        *("Zm = σ(Am)", "Zm = sigmoid(Am)", r"Z_m = \sigma(A_m)", r"Z_{m} = \sigma\left(A_{m}\right)"),
        *(
            "Zm = Am :: σ()",
            "Zm = Am :: σ",
            "Zm = Am :: ∧m σ(1)",
            "Zm = Am :: ∧ σ(𝟙)",
            r"Z_m = A_m :: \bigwedge_m \sigma()",
        ),
    ),
    "Zm = sigmoid(sum[k](Ak,m * Bk))": (
        *("Zm = Ak,m · Bk :: ∧k ×(∩) ∨k +(∪) σ()", "Zm = Ak,m × Bk :: σ()", "Zm = Ak,m ×(∩) Bk :: ∨k +(∪) ∧m σ()"),
    ),
    "Zm = sigmoid(Ak,m) :: \\/k max": ("Zm = Ak,m :: σ() ∨k max(∪)",),
    "Zm = max(Am, Bm) / Am + Am * 1 - Bm": ("Zm = Am max(∪) Bm /(1) Am +(∪) Am *(1) - Bm",),
    "BKe,m1,m0 = split[m -> m1,m0](Ke,m)": (
        *("BK_{e,m1,m0} = K_{e,m1×M0+m0}", "BKe,m1,m0 = Ke,m1×M0+m0", "BKe,m1,m0 = Ke,m1*M0+m0"),
        *(
            "BKe,m1,m0 = Ke,M0×m1+m0",
            "BKe,m1,m0 = Ke,m0+m1×M0",
            "BKe,m1,m0 = Ke,(m1·M0+m0)",
            "BK_{e,m1,m0} = K_{e,(m0+M0×m1)}",
        ),
        *("BKe,m1,m0 = Ke,m1*|m0|+m0", r"BK_{e,m1,m0} = K_{e,m1 \times M0 + m0}", "BKe,m1,m0 = Ke,m1 × M0 + m0"),
    ),
    "Am,p = unsplit[m1,m0 -> m](BAm1,m0,p)": (
        *("Am1×M0+m0,p = BAm1,m0,p", "A_{m1×M0+m0,p} = BA_{m1,m0,p}", "Am0+m1*|m0|,p = BAm1,m0,p"),
    ),
    "Si = where(k <= i - 1, Ak, 0)": (
        *("S_{i+1} = A_{k:k≤i}", "Si+1 = Ak:k≤i", "Si+1 = Ak:k<=i", "S_i+1 = A_k:k≤i", r"S_{i+1} = A_{k:k \le i}"),
    ),
    "Zi = where(k <= i, Ak * Bk, 0)": ("Zi = Ak:k<=i * Bk:k<=i", r"Z_i = A_{k:k \leq i} \times B_{k:k \leq i}"),
    "GMp = QKm,p :: \\/m max": ("GMp = QKm,p :: ∨m max(∪)", r"GM_p = QK_{m,p} :: \bigvee_{m} \max(\cup)"),
    "Zm,n = Ak,m * Bk,n": (
        *(
            "Zm,n = Ak,m · Bk,n :: ∧k ×(∩) ∨k +(∪)",
            "Zm,n = Ak,m × Bk,n",
            "Z_{m,n} = A_{k,m} · B_{k,n} :: ⋀_k ×(∩) ⋁_k +(∪)",
        ),
        r"Z_{m,n} = A_{k,m} \cdot B_{k,n} :: \bigwedge_{k} \times (\cap) \bigvee_{k} + (\cup)",
    ),
    "Zm = where(m <= |m| - 2, Am, 0)": ("Zm = Am:m<=M-2", "Z_m = A_{m:m≤|m|-2}"),
}


@pytest.mark.parametrize("text", [(c, s) for c, found in SPELLINGS.items() for s in found], ids=lambda p: p[1])
def test_a_spelling_is_read_and_printed_as_the_notation_has_it(text: tuple[str, str]) -> None:
    canonical, spelled = text
    cascade = Cascade.parse(spelled)
    assert str(cascade) == canonical
    assert Cascade.parse(canonical) == cascade
    assert Cascade.parse(cascade.text(unicode=True)) == cascade


def test_a_culled_point_is_zero() -> None:
    a, b = np.array([3.0, 0.0, 3.0, -2.0, 0.0]), np.array([0.0, 0.0, 2.0, 0.0, 5.0])
    for text in ("Zm = Am · Bm :: ∧m ÷(←)", "Zm = Am / Bm :: ∧m /(<-)"):
        assert run_cascade(Cascade.parse(text), {"A": a, "B": b})["Z"].tolist() == [0, 0, 1.5, 0, 0]
    plain = run_cascade(Cascade.parse("Zm = Am / Bm"), {"A": a, "B": b})["Z"]
    assert plain.tolist() == [np.inf, 0, 1.5, -np.inf, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Zm = Am · Bm :: ∧m sub-then-exp(∪)",
            "a map action by sub-then-exp cannot merge by ∪, which skips .* are \\['1'\\]",
        ),
        ("Zm = Am · Bm :: ∧m -(←)", r"a map action by - cannot merge by ←, which skips points that count"),
        ("Zm = Am · Bm :: ∧m then-exp(1)", r"a map action computes by one of \[.*'sub-then-exp'\], but got 'then'"),
        (
            "BKe,m1,m0 = Ke,m1×M1+m0",
            r"tile, times the size of one, plus the place in it \(m1\*\|m0\|\+m0\), but got m1\*\|m1\|",
        ),
        ("BKe,m,n = K_{e,m×N+n}", r"K: its axis in tiles m and n needs a name of its own: declare `input K\[…\]`"),
        ("BKm,m1,m0 = K_{m,m1×M0+m0}", r"Km,m: a rank indexes one axis only"),
        (
            "Si+1 = Ai",
            r"where i\+1 stands on the left, filters alone read i on the right; else it is a step",
        ),
        (
            "Zm = Am -(←) Bm",
            r"- by - cannot merge by ←, which skips .*; those that fit are \['∪', '1'\]",
        ),
        ("Zm = Am :: σ(∪)", r"an action by sigmoid cannot merge by ∪, which skips .* are \['1'\]"),
        ("Zm = Am :: ∧k σ()", r"a map action is over ranks of the right side, but \['k'\] are not"),
        ("Zp = Am,p:m<=p :: σ() ∨m max(∪)", r"with a filter on a tensor, sigmoid applies behind all reductions"),
        ("Zm,p = Am,p:m<=p :: σ()", r"with a filter on a tensor, sigmoid applies behind all reductions"),
        ("Am1×M0+m0,p = Bm,p", r"where m1\*\|m0\|\+m0 stands on the left, the right side is over m1 and m0, but got"),
        ("Am×N+n,p = Bm,n,p", r"an axis in tiles is called as its parts are without digits, but got m and n"),
        (r"Zm = \foo(Am)", r"line 1, column 6: \\foo is no command of the notation; there are \\bigvee \\bigwedge"),
        ("Z_{m = Am", r"a tensor's subscript needs '}' here, but got '='"),
        ("Zm = A_{m", r"a tensor's subscript needs '}' here, but got 'end of line'"),
        (r"Zm = \frac{Am}", r"\\frac needs '\{' here, but got 'end of line'"),
    ],
)
def test_errors_say_the_rule(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message) as found:
        Cascade.parse(text)
    assert "\n" not in str(found.value)


def test_tiles_of_an_axis_that_has_a_name() -> None:
    cascade = Cascade.parse("input Kr\nBm,n = K_{m×N+n}")
    assert str(cascade) == "input Kr\nBm,n = split[r -> m,n](Kr)" or str(cascade) == "Bm,n = split[r -> m,n](Kr)"
    x = np.arange(6.0)
    got = run_cascade(cascade, {"K": x}, {"m": 2, "n": 3})["B"]
    np.testing.assert_array_equal(got, x.reshape(2, 3))


def test_other_arithmetic_in_a_subscript_is_that_of_brackets() -> None:
    assert Cascade.parse("input Kr\nZm,b = K_{m-b else 0}") == Cascade.parse("input Kr\nZm,b = K[m-b else 0]")
    assert Cascade.parse("input Kr\nZm,n = K[m*N+n]") == Cascade.parse("input Kr\nZm,n = K[m*|n|+n]")


def test_prefix_sums_by_a_filter() -> None:
    a = RNG.normal(size=5)
    got = run_cascade(Cascade.parse("S_{i+1} = A_{k:k≤i}"), {"A": a}, {"i": 6})["S"]
    np.testing.assert_allclose(got, [0, *np.cumsum(a)])


# ---- iterations

PREFIX = {
    "Unicode": "S_{i:i=0} = 0\nS_{i+1} = S_i + A_i\nZ = S_K\n⋄: i ≥ K",
    "ASCII": "Si:i=0 = 0\nSi+1 = Si + Ai\nZ = S|i|\nuntil i >= |i|",
    "LaTeX": "S_{i:i=0} = 0\nS_{i+1} = S_{i} + A_{i}\nZ = S_{K}\n\\diamond: i \\geq K",
    "short": "S0 = 0\nSi+1 = Si + Ai\nZ = S|i|\nuntil i >= |i|",
    "plain text": "Si:i=0 = 0\nSi+1 = Si + Ai\nZ = SK\n⋄: i ≥ K",
}


@pytest.mark.parametrize("name", PREFIX)
def test_an_iteration_in_every_spelling(name: str) -> None:
    found = read_computation(PREFIX[name])
    assert found == IterativeCascade.parse(PREFIX["short"])
    assert IterativeCascade.parse(str(found)) == found


def test_a_state_and_its_last_index_in_plain_text() -> None:
    text = """
        Rm1:m1=0,p = -∞
        Rm1+1,p = max(Rm1,p, Xm1,p)
        {}
        ⋄: m1 ≥ M1
    """
    assert read_computation(text.format("Zp = RM1,p × 2")) == read_computation(text.format("Zp = R|m1|,p × 2"))
    with pytest.raises(CascadeError, match=r"a result must read what the iteration .* but got \['RI'\]"):
        read_computation(text.format("Zp = RIp"))  # no size at which the iteration stops
    declared = "input SK\nS0 = 0\nSi+1 = Si + Ai\nZ = SK × S_K\n⋄: i ≥ K"  # a tensor of that name is that tensor
    assert str(closed(read_computation(declared))) == "S = Ai\nZ = SK * S\nresults: Z"


CASCADES = {
    "FuseMax, Cascade 3 in plain text": """
        RYi:i=0 = 0
        RZi:i=0 = 0
        RYi+1 = RYi + Ai × Bi
        RZi+1 = RZi × (RYi+1 ÷ RYi) + RYi+1 × Ai
        Z = RZK
        ⋄: i ≥ K
    """,
    "FuseMax, Cascade 3": r"""
        RY_{i:i=0} = 0
        RZ_{i:i=0} = 0
        RY_{i+1} = RY_i + A_i \times B_i
        RZ_{i+1} = RZ_i \times \frac{RY_{i+1}}{RY_i} + RY_{i+1} \times A_i
        Z = RZ_K
        \diamond: i \ge K
    """,
    "FuseMax, Einsums 16 and 17": """
        RYi:i=0 = 0
        RZi:i=0 = 0
        RYi+1 = Ak:k≤i × Bk:k≤i
        RZi+1 = RYi+1 × Ak:k≤i
        Z = RZ_K
        ⋄: i ≥ K
    """,
}


@pytest.mark.parametrize("name", CASCADES)
def test_the_papers_iterations_mean_what_the_paper_says(name: str) -> None:
    iteration = read_computation(CASCADES[name])
    assert isinstance(iteration, IterativeCascade)
    assert IterativeCascade.parse(str(iteration)) == iteration
    a, b = RNG.normal(size=7), RNG.normal(size=7)
    wanted = (a @ b) * a.sum()
    np.testing.assert_allclose(iteration.run({"A": a, "B": b})["Z"], wanted)
    np.testing.assert_allclose(run_cascade(as_cascade(iteration), {"A": a, "B": b})["Z"], wanted)


def test_an_initial_value_stands_at_0() -> None:
    with pytest.raises(CascadeError, match="an initial value stands at i=0, but got i=2"):
        IterativeCascade.parse("Si:i=2 = 0\nSi+1 = Si + Ai\nZ = S|i|\nuntil i >= |i|")


def test_an_iteration_that_forgets_is_not_solved_by_shares() -> None:
    # RZ's term lacks the factor RY at i+1
    with pytest.raises(CascadeError, match="RZ: cannot be solved; a step is"):
        as_cascade(
            read_computation(
                "RY0 = 0\nRZ0 = 0\nRYi+1 = RYi + Ai\nRZi+1 = RZi × (RYi+1 ÷ RYi) + Ai\nZ = RZ|i|\nuntil i >= |i|"
            )
        )


# ---- the examples of seed 004, as they stand

SEED = {
    "Zm,n = Ak,m × Bk,n": "gemm",
    "Zm,n = Ak,m · Bk,n :: ∧k ×(∩) ∨k +(∪)": "gemm",
    """QKm,p = Qe,p × Ke,m        /* Pass 1 */
GMp = QKm,p :: ∨m max(∪)
SNm,p = e^(QKm,p - GMp)     /* Pass 2 */
SDp = SNm,p
Am,p = SNm,p / SDp          /* Pass 3 */
AVf,p = Am,p × Vf,m""": "attention",
}


@pytest.mark.parametrize("text", SEED, ids=["gemm", "gemm with actions", "attention"])
def test_the_seeds_examples_are_read_as_they_stand(text: str) -> None:
    cascade = Cascade.parse(text)
    assert Cascade.parse(str(cascade)) == cascade
    sizes = {"m": 6, "p": 3, "e": 2, "f": 4, "k": 5, "n": 3}
    data = {n: RNG.normal(size=[sizes[r] for r in t.ranks]) for n, t in cascade.inputs.items()}
    got = run_cascade(cascade, data)
    if SEED[text] == "gemm":
        np.testing.assert_allclose(got["Z"], data["A"].T @ data["B"])
    else:
        s = data["K"].T @ data["Q"]
        w = np.exp(s - s.max(0))
        np.testing.assert_allclose(got["AV"], data["V"] @ (w / w.sum(0)))


@pytest.mark.parametrize("name", ["attention_1pass_iterative_latex", "attention_3pass_actions"])
def test_the_papers_attentions_as_they_are_printed(name: str) -> None:
    found = read_computation((CASCADE_FILES / f"{name}.edge").read_text("utf-8"))
    assert isinstance(found, Cascade | IterativeCascade) and type(found).parse(str(found)) == found
    q, k, v = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 12)), RNG.normal(size=(2, 12))
    got = run_cascade(as_cascade(found), {"Q": q, "K": k, "V": v}, {"m1": 4, "m0": 3, "m": 12})["AV"]
    s = k.T @ q
    w = np.exp(s - s.max(0))
    np.testing.assert_allclose(got, v @ (w / w.sum(0)), rtol=1e-12)
