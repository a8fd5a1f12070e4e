"""`eintune.compile` for any cascade: derived where nothing is stored, kept, and refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eintune
from eintune.kernels.serve.compiled import compile
from eintune.kernels.store.kept_forms import Kept
from eintune.space.cascade.builder import given
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import Access, Expr, Fold, Map, Reduce, Tensor
from eintune.space.workloads.builtin import WORKLOADS, logsumexp

X = given("X", "pm")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    return tmp_path


def test_what_cannot_be_derived_runs_as_it_is_defined(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(cascade: Cascade) -> Kept:
        raise RuntimeError("no time")

    monkeypatch.setattr("eintune.kernels.store.kept_forms.derived_forms", fails)
    run = eintune.compile(str(logsumexp()).replace("X", "XX"))
    x = torch.randn(5, 70)
    torch.testing.assert_close(run(x), torch.logsumexp(x, -1))
    assert "it cannot be derived, so it is computed as it is defined: RuntimeError: no time" in caplog.text


@pytest.mark.parametrize("name", ["six_operators", "swiglu_mlp", "rmsnorm_matmul", "cross_entropy", "long_chain"])
def test_chains_are_served(name: str, cache: Path) -> None:
    from eintune.kernels.reference.eager import run_eager
    from eintune.search.measure.inputs import draw_inputs

    row = WORKLOADS[name]
    small = {o.name: 24 for o in row.options if o.kind == "size"}
    problem = row.posed(small, "fp64").problem
    inputs = draw_inputs(problem, "cpu")
    cascade = problem.definition
    made = compile(cascade, params=problem.params)(**inputs)
    want = run_eager(cascade, inputs, problem.sizes, problem.params, torch.float64)
    torch.testing.assert_close(made, next(iter(want.values())), rtol=1e-9, atol=1e-9)


CODE = """
import sys, torch, eintune
run = eintune.compile("Lp = log(sum[m](e^(Xp,m - max[m](Xp,m)))) + max[m](Xp,m)")
x = torch.randn(6, 300)
assert (run(x) - torch.logsumexp(x, -1)).abs().max() < 1e-4
print([n for n in ("egglog", "optuna", "pulp", "pandas", "seaborn") if n in sys.modules])
"""


def test_kept_forms_need_none_of_the_algebra(cache: Path) -> None:
    said = [
        subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert said[0] != "[]" and said[1] == "[]"


@pytest.mark.parametrize(
    ("expr", "says"),
    [
        (Map("cosh", (X,)), "einsum Y: the pointwise operators are add, .*but it has 'cosh'"),
        (Map("add", (X,)), "einsum Y: add takes 2 operands, but it has 1"),
        (Reduce("median", "m", X), "einsum Y: the reductions are add, max, min, mul, but it has 'median'"),
        (Fold("rotate", "m", X, X), "einsum Y: the folds are .*, but it has 'rotate'"),
        (
            Access(Tensor("Q", ("p", "m")), ("m", "m")),
            r"einsum Y: a rank indexes one axis only, but Q is read at \[m, m",
        ),
        (given("Q", "pm", "complex"), "einsum Y: a tensor is float, int or bool, but Q is 'complex'"),
    ],
)
def test_what_no_kernel_computes_is_named(expr: Expr, says: str) -> None:
    with pytest.raises(CascadeError, match=says):
        eintune.compile(Cascade((Einsum(Tensor("Y", ("p", "m")), expr),)))


def test_what_is_no_cascade_or_no_tensor_is_named() -> None:
    for given_, says in [
        (None, "a cascade is a Cascade or its text, but got NoneType"),
        ("", "a cascade reads at least one tensor, but this one reads none"),
        ("Zm = index(m)", "a cascade reads at least one tensor, but this one reads none"),
    ]:
        with pytest.raises(CascadeError, match=says):
            compile(given_)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"X must be a torch\.Tensor, but got list"):
        compile("Zp = Xp,m")(X=[1.0])


PER_TILE = """
BXp,m1,m0 = split[m -> m1,m0](Xp,m)
LMp,m1 = BXp,m1,m0 :: \\/m0 max
"""


@pytest.mark.parametrize(("last", "name"), [("Zp = LMp,m1", "Z"), ("", "LM")])
def test_what_depends_on_the_tiling_is_refused(last: str, name: str) -> None:
    """A schedule chooses the tiles, so that a sum of tiles' maxima would be any number."""
    says = f"einsum {name}: its value must not depend on how ranks are divided .m into m1 and m0."
    with pytest.raises(CascadeError, match=says):
        compile(PER_TILE + last, sizes={"m1": 4, "m0": 2})
    with pytest.raises(CascadeError, match=says):
        eintune.generate_kernel(Cascade.parse(PER_TILE + last), {"p": 3, "m": 8, "m1": 4, "m0": 2})
    compile(PER_TILE + "Zp = LMp,m1 :: \\/m1 max")


def test_rows_that_a_filter_on_sizes_empties_are_zero(cache: Path) -> None:
    softmax = """
    Sp,m = where(|m| <= |p|, Xp,m, -inf)
    GMp = Sp,m :: \\/m max
    SNp,m = e^(Sp,m - GMp)
    SDp = SNp,m
    Yp = SNp,m / SDp * Vm
    """
    run = compile(softmax)
    for rows, want in ((5, 0.0), (7, 1.0)):
        made = run(X=torch.zeros(rows, 7), V=torch.ones(7))
        torch.testing.assert_close(made, torch.full((rows,), want))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Zm = select(Cm, Am, 0.0)", "C"),
        ("input Cm : bool\nZm = select(Cm, Am, 0.0)", "C"),
        ("Dm = Cm & (Am > 0.0)\nZm = select(Dm, Am, 0.0)", "C"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_numbers_are_no_conditions(text: str, names: str, dtype: torch.dtype) -> None:
    run, a, c = eintune.compile(text), torch.tensor([1.0, -2.0, 3.0]), torch.tensor([True, True, False])
    with pytest.raises(ValueError, match=rf"^{names} is read as a condition: .* but got {dtype}$"):
        run(A=a, C=c.to(dtype))
    assert run(A=a, C=c)[2] == 0.0


def test_whole_numbers_are_integers() -> None:
    run = eintune.compile("input Im : int\nZm = select(Im == 2, Am, 0.0)")
    a = torch.arange(3.0)
    assert run(A=a, I=torch.arange(3)).tolist() == [0.0, 0.0, 2.0]
    with pytest.raises(ValueError, match=r"^I is read as whole numbers: .* but got torch.float32$"):
        run(A=a, I=a)


def test_a_size_of_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`sizes` must be of ranks of \['m'\], but got z"):
        compile("Zm = Am * 2", sizes={"z": 3})
    with pytest.raises(ValueError, match=r"`sizes` must be of ranks of \['m'\], but got z"):
        eintune.generate_kernel(Cascade.parse("Zm = Am * 2"), {"m": 4, "z": 3})
    assert compile("input Xv\nZm = X[m] * 2", sizes={"v": 2})(torch.ones(2)).tolist() == [2.0, 2.0]
