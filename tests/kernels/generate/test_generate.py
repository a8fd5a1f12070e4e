"""Kernels straight from graphs, as a user asks for them: each with its graph's passes, all of them right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import eintune
from eintune.kernels.generate.generate import Generated
from eintune.kernels.launch.launch import LaunchError
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.operators.egglog_programs import write_egg
from eintune.space.operators.formats import as_cascade, read_computation
from eintune.space.operators.graph import OperatorGraph
from eintune.space.plan.roles import IllegalPlan

OPERATORS = Path(__file__).resolve().parents[2] / "operators"
FILES = sorted(p.stem for p in OPERATORS.glob("*.txt"))
SIZES = {"e": 16, "p": 40, "m": 96, "f": 8}


def graph(name: str) -> OperatorGraph:
    found = eintune.read(OPERATORS / f"{name}.txt")
    assert isinstance(found, OperatorGraph)
    return found


def generated(name: str) -> Generated:
    return eintune.generate_kernel(graph(name), SIZES, emitter="torch")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"Q": torch.randn(16, 40), "K": torch.randn(16, 96), "V": torch.randn(8, 96)}


def expected(t: dict[str, torch.Tensor]) -> torch.Tensor:
    q, k, v = (t[n].double() for n in "QKV")
    return (torch.softmax(q.T @ k, -1) @ v.T).T


@pytest.mark.parametrize("name", FILES)
def test_every_graph_gives_a_kernel_that_is_right(name: str, tensors: dict[str, torch.Tensor]) -> None:
    made = generated(name)(**tensors)
    torch.testing.assert_close(made.double(), expected(tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_triton_kernels_have_the_graphs_loops(name: str) -> None:
    long = {**SIZES, "m": 2048}  # no tile holds it
    kernel = eintune.generate_kernel(graph(name), long, emitter="triton", machine="h200")
    loops = sum(len(list(k.loops())) for k in kernel.plan.kernels)
    assert kernel.source.count("tl.range(") == loops
    assert loops == eintune.analyse(graph(name)).passes


def test_sizes_that_a_graph_says_need_not_be_given() -> None:
    kernel = eintune.generate_kernel(eintune.read(OPERATORS / "attention_2pass.egg"), emitter="torch")
    assert kernel.problem.sizes == {"e": 64, "p": 1024, "m": 1024, "f": 64}
    assert len(list(kernel.plan.kernels[0].loops())) == 2


def test_positional_and_named_inputs_and_wrong_ones(tensors: dict[str, torch.Tensor]) -> None:
    kernel = generated("attention_3pass")
    q, k, v = tensors.values()
    assert torch.equal(kernel(q, k, v), kernel(V=v, Q=q, K=k))
    with pytest.raises(ValueError, match=r"takes the inputs \['Q', 'K', 'V'\] once each"):
        kernel(q, k)
    with pytest.raises(ValueError, match="once each"):
        kernel(q, k, v, Q=q)
    with pytest.raises(RuntimeError, match="V: the shape must be"):
        kernel(q, k, k)


def test_an_egglog_program_makes_the_same_kernel(tmp_path: Path) -> None:
    (tmp_path / "a.egg").write_text(write_egg(graph("attention_2pass")))
    again = eintune.generate_kernel(eintune.read(tmp_path / "a.egg"), SIZES, emitter="torch")
    assert again.kernel.digest == generated("attention_2pass").kernel.digest


X, Z = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(0.5, 2, 12).reshape(3, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Y_{p,m} = M_exp_mp(X)", torch.exp(X)),
        ("Y_{p,m} = M_sqrt_mp(Z)", torch.sqrt(Z)),
        ("Y_{p,m} = M_recip_mp(Z)", 1 / Z),
        ("Y_{p,m} = M_add_mp(X, Z)", X + Z),
        ("Y_{p,m} = M_sub_mp(X, Z)", X - Z),
        ("Y_{p,m} = M_mul_mp(X, Z)", X * Z),
        ("Y_{p,m} = M_div_mp(X, Z)", X / Z),
        ("Y_{p,m} = M_sub_mp(X, X)", X - X),
        ("Y_{p,m} = M_mul_mp(X, X)", X * X),
        ("Y_{p,m} = M_max_mp(X, 0.25)", X.clamp(min=0.25)),
        ("Y_{m,p} = M_exp_mp(X)", torch.exp(X).T),
        ("Y_{p} = R_max_m(X)", X.amax(1)),
        ("Y_{p} = R_add_m(X)", X.sum(1)),
        ("A = M_mul_mpq(X, W_{q,m})\nY_{p,q} = R_add_m(A)", X @ Z.T),
        ("A = M_exp_mp(X)\nB = M_sqrt_mp(A)\nC = M_recip_mp(B)\nY_{p,m} = M_sub_mp(C, Z)", torch.exp(-X / 2) - Z),
    ],
    ids=lambda v: v.replace("\n", "; ") if isinstance(v, str) else "",
)
def test_every_operator_of_a_graph(text: str, expected: torch.Tensor) -> None:
    graph = read_computation(f"X_{{p,m}}\nZ_{{p,m}}\n{text}")
    sizes = {r: n for r, n in {"p": 3, "m": 4, "q": 3}.items() if r in as_cascade(graph).same_sizes()}
    kernel = eintune.generate_kernel(graph, sizes, emitter="torch")
    given = {n: t for n, t in {"X": X, "Z": Z, "W": Z}.items() if n in kernel.definition.inputs}
    torch.testing.assert_close(kernel(**given), expected)


def test_what_egglog_writes_is_read(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from egglog.bindings import EGraph

    program = """
    (sort Tensor)
    (constructor Q () Tensor) (constructor K () Tensor) (constructor V () Tensor)
    (constructor M_mul_emp (Tensor Tensor) Tensor) (constructor R_add_e (Tensor) Tensor)
    (constructor R_max_m (Tensor) Tensor) (constructor M_sub_mp (Tensor Tensor) Tensor)
    (constructor M_exp_mp (Tensor) Tensor) (constructor R_add_m (Tensor) Tensor)
    (constructor M_div_mp (Tensor Tensor) Tensor) (constructor M_mul_fmp (Tensor Tensor) Tensor)
    (let $qk (R_add_e (M_mul_emp (Q) (K))))
    (let $sn (M_exp_mp (M_sub_mp $qk (R_max_m $qk))))
    (let $av (R_add_m (M_mul_fmp (M_div_mp $sn (R_add_m $sn)) (V))))
    (rewrite (M_mul_emp a b) (M_mul_emp b a))
    (run 2)
    """
    engine = EGraph()
    engine.run_program(*engine.parse_program(program))
    (tmp_path / "a.egg").write_text(program)
    (tmp_path / "a.json").write_text(engine.serialize([], max_functions=None, max_calls_per_function=None).to_json())
    for name in ("a.egg", "a.json"):
        found = eintune.read(tmp_path / name, ranks={"Q": "e,p", "K": "e,m", "V": "f,m"})
        assert eintune.analyse(found).passes == 3
        made = eintune.generate_kernel(found, SIZES, emitter="torch")(**tensors)
        torch.testing.assert_close(made.double(), expected(tensors), rtol=1e-4, atol=1e-5)


def test_the_file_that_stands_alone_is_the_kernel() -> None:
    kernel = generated("attention_1pass")
    assert kernel.source.strip() in kernel.standalone()


def test_scalars_and_other_dtypes() -> None:
    cascade = eintune.Cascade.parse("Sp,m = Ap,e * Bm,e * scale\nZp,m = e^(Sp,m)")
    kernel = eintune.generate_kernel(
        cascade, {"p": 8, "m": 8, "e": 4}, params={"scale": 0.5}, dtype="fp64", emitter="torch"
    )
    a, b = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 4, dtype=torch.float64)
    torch.testing.assert_close(kernel(a, b), torch.exp(0.5 * a @ b.T))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sizes": {"e": 4}}, "`sizes` must give every rank"),
        ({"sizes": {**SIZES, "m": 0}}, "must be whole numbers from 1"),
        ({"params": {"scale": 1.0}}, r"`params` must give a number for each of \[\]"),
        ({"dtype": "int4"}, "`dtype` must be one of"),
        ({"emitter": "cuda"}, "`emitter` must be one of"),
        ({"machine": "h900"}, "machine must be one of"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, object], says: str) -> None:
    arguments: dict[str, object] = {"sizes": SIZES, "emitter": "torch", **given}
    with pytest.raises(ValueError, match=says):
        eintune.generate_kernel(graph("attention_3pass"), **arguments)  # type: ignore[arg-type]


def test_an_iteration_is_solved_and_run(tensors: dict[str, torch.Tensor]) -> None:
    path = OPERATORS.parent / "cascades" / "attention_1pass_iterative.edge"
    kernel = eintune.generate_kernel(eintune.read(path), SIZES, emitter="torch")
    torch.testing.assert_close(kernel(**tensors).double(), expected(tensors), rtol=1e-4, atol=1e-5)
    assert eintune.analyse(kernel.definition).passes == 1


def test_graphs_without_ranks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "g.egg").write_text('(let $Z (R_add_m (M_mul_mp (Input "A") (Input "B"))))')
    path = tmp_path / "g.egg"
    with pytest.raises(CascadeError, match="the ranks of A, B are not written"):
        eintune.generate_kernel(eintune.read(path), {"m": 4, "p": 4})
    whole = eintune.read(path, ranks={"A": "m,p", "B": "m"})
    a, b = torch.randn(4, 6), torch.randn(4)
    made = eintune.generate_kernel(whole, {"m": 4, "p": 6}, emitter="torch")(A=a, B=b)
    torch.testing.assert_close(made, (a * b[:, None]).sum(0))
    with pytest.raises(CascadeError, match=r"inputs without \(\['A', 'B'\]\), but got \['C'\]"):
        eintune.read(path, ranks={"C": "m"})
    with pytest.raises(CascadeError, match="A: ranks are"):
        eintune.read(path, ranks={"A": "m,M"})


def test_no_schedule_is_an_error_of_its_own() -> None:
    cascade = eintune.Cascade.parse("Zp,m = Ap,m * Bp,m")
    kernel = eintune.generate_kernel(cascade, {"p": 1, "m": 1}, emitter="torch")
    assert kernel(torch.ones(1, 1), torch.ones(1, 1)).item() == 1.0
    assert issubclass(IllegalPlan, ValueError)


PRODUCT = Cascade.parse("Zm,n = Ak,m * Bk,n")
LENGTHS = {"k": 3, "m": 4, "n": 5}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: eintune.Cascade.parse(3), "a cascade is read from a text, but got int"),
        (lambda: eintune.read(None), "a computation is read from a path, but got NoneType"),
        (lambda: eintune.analyse("Zm = Am"), "a computation is a Cascade, an IterativeCascade or .*, but got str"),
        (lambda: eintune.analyse(PRODUCT, ["k"]), "`stream` must be a rank of the computation"),
        (lambda: eintune.generate_kernel("Zm = Am", LENGTHS), "a computation is a Cascade, .*, but got str"),
        (lambda: eintune.generate_kernel(PRODUCT, 3), "`sizes` must be a mapping of ranks to numbers, but got int"),
        (lambda: eintune.generate_kernel(PRODUCT, LENGTHS | {"k": 2.5}), "whole numbers from 1 to 2147483647"),
        (lambda: eintune.generate_kernel(PRODUCT, LENGTHS | {"k": 10**30}), "whole numbers from 1 to 2147483647"),
        (lambda: eintune.generate_kernel(PRODUCT, LENGTHS, emitter=[]), "`emitter` must be one of"),
        (lambda: eintune.generate_kernel(PRODUCT, LENGTHS, machine=[]), "machine must be one of .*, but got list"),
        (lambda: eintune.warm(3), "`workload` must be a name or None, but got int"),
    ],
)
def test_arguments_of_other_types_are_refused_in_one_line(function: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        function()
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (None, "B: must be a torch.Tensor, but got NoneType"),
        (torch.ones(3, 5).to_sparse(), "B: must not be of layout torch.sparse_coo"),
        (torch.ones(3, 5, requires_grad=True), "B: kernels are forward only"),
    ],
)
def test_tensors_that_a_kernel_cannot_read_are_refused(tensor: object, says: str) -> None:
    with pytest.raises(LaunchError, match=says):
        eintune.generate_kernel(PRODUCT, LENGTHS, emitter="torch")(torch.ones(3, 4), tensor)
