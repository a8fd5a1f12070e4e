"""What the Triton emitter prints, as Triton and as Gluon: golden sources, names, operators, addresses, refusals."""

from __future__ import annotations

import io
import keyword
import tokenize
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_forms import Case, attention_case, errors, inputs

from eintune.kernels.emit.triton_printer import emit
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.expr import Access, Const, Expr, Iota, Map, Predicate, Reduce, Tensor, Term, Where
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

GOLDEN = Path(__file__).parent / "golden"

FORMS = {
    "attention_3pass": {"passes": 3},
    "attention_2pass": {"passes": 2},
    "attention_1pass": {"passes": 1},
    "attention_1pass_causal": {"passes": 1, "causal": "top_left", "order": "reverse"},
    "attention_1pass_descriptors": {"passes": 1, "seq": 777, "kv_seq": 1000, "loads": "descriptor"},
    "attention_1pass_specialised": {
        "passes": 1,
        "causal": "top_left",
        "columns": 128,
        "warps": 8,
        "filters": "branch",
        "loads": "descriptor",
        "warp_specialisation": "producer_consumer",
    },
    "attention_1pass_lazy_rescaling": {
        "passes": 1,
        "causal": "top_left",
        "columns": 128,
        "warps": 8,
        "filters": "branch",
        "loads": "descriptor",
        "warp_specialisation": "producer_consumer",
        "rescaling": "lazy",
    },
    "attention_1pass_odd": {"passes": 1, "seq": 777, "kv_seq": 1000, "head_dim": 40},
}
LARGE = {"rows": 128, "columns": 64, "heads": 32, "seq": 2048, "head_dim": 128, "dtype": "bf16"}


@pytest.mark.parametrize("name", FORMS)
def test_golden_source(name: str, request: pytest.FixtureRequest) -> None:
    source = attention_case(**{**LARGE, **FORMS[name]}).kernel.source
    path = GOLDEN / f"{name}.py"
    if request.config.getoption("--refresh-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    assert source == path.read_text(), "the generated source changed: read it, then pytest --refresh-golden"


# ---- names


def renamed(text: str, tensors: dict[str, str], ranks: dict[str, str]) -> Cascade:
    """The cascade with every tensor and rank called something else, rebuilt node by node."""
    c = Cascade.parse(text)

    def tensor(t: Tensor) -> Tensor:
        return Tensor(tensors[t.name], tuple(ranks[r] for r in t.ranks), t.kind)

    def go(x: Expr) -> Expr:
        match x:
            case Access():
                return Access(tensor(x.tensor), tuple(ranks[r] for r in x.index))
            case Map():
                return Map(x.op, tuple(go(a) for a in x.args))
            case Reduce():
                return Reduce(x.op, ranks[x.rank], go(x.arg))
            case Where():
                p = x.predicate
                terms = tuple(Term(ranks[t.rank], t.coef) for t in p.terms)
                sizes = tuple((ranks[r], n) for r, n in p.sizes)
                return Where(Predicate(terms, sizes, p.const), go(x.arg), x.fill)
        return x

    return Cascade(tuple(Einsum(tensor(e.output), go(e.expr)) for e in c.einsums), c.results and (tensors["AV"],))


def tokens(source: str) -> list[tuple[bool, str]]:
    """(is a name of ours, text) of every token but comments; names after a dot and keywords are not ours."""
    found: list[tuple[bool, str]] = []
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type not in (tokenize.COMMENT, tokenize.NL):
            after_dot = bool(found) and found[-1][1] == "."
            ours = t.type == tokenize.NAME and not after_dot and not keyword.iskeyword(t.string)
            found.append((ours, t.string))
    return found


@pytest.mark.parametrize("emitter", ["torch", "triton"])
@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("causal", [None, "lower_right"])
def test_names_change_nothing_else(emitter: str, passes: int, causal: str | None) -> None:
    case = attention_case(passes, emitter=emitter, causal=causal, heads=4, kv_heads=2, seq=33, head_dim=24)
    names = ["Q", "K", "QK", "S", "GM", "SN", "SD", "A", "V", "AV"]
    tensors = dict(zip(names, ["ZA", "X", "B", "WW", "HH", "U", "R", "JJ", "C", "MEI"], strict=True))
    ranks = dict(zip("bhgpmef", ["z", "y2", "c", "a1", "k", "w", "d0"], strict=True))
    p = case.problem
    cascade = renamed(p.cascade, tensors, ranks)
    problem = replace(
        p,
        cascade=str(cascade),
        sizes={ranks[r]: n for r, n in p.sizes.items()},
        dtypes={tensors[t]: d for t, d in p.dtypes.items()},
    )
    from kernel_forms import folded

    schedule = replace(case.schedule, roles=tuple((ranks[r], role) for r, role in case.schedule.roles))
    other = Case(folded(cascade, passes), problem, schedule)
    mine, theirs = tokens(case.kernel.source), tokens(other.kernel.source)
    there: dict[str, str] = {}
    back: dict[str, str] = {}
    for (ours, a), (also, b) in zip(mine, theirs, strict=True):
        assert ours == also
        if ours:
            assert there.setdefault(a, b) == b and back.setdefault(b, a) == a
        else:
            assert a == b
    assert there["Q"] == "ZA" and there["AV"] == "MEI"


# ---- operators


def pointwise(op: str, arity: int, kind: str) -> Case:
    """Y[a, m] = op(X...) summed over nothing, on a tile that does not fit; a bool becomes a number by select."""
    ranks = ("a", "m")
    args = tuple(Access(Tensor(n, ranks), ranks) for n in ("X", "Z", "W")[:arity])
    args = tuple(Map("abs", (x,)) + 0.5 if op in ("log", "log2", "sqrt", "recip") else x for x in args)
    if op in ("and", "or", "not", "select"):
        n = 1 if op == "select" else arity
        args = (*(Map("gt", (x, Const(0.0))) for x in args[:n]), *args[n:])
    x: Expr = Map(op, args)
    if kind == "bool":
        x = Map("select", (x, Const(1.0), Const(-1.0)))
    cascade = Cascade((Einsum(Tensor("Y", ranks), x),))
    names = [*cascade.inputs, "Y"]
    problem = Problem("pointwise", str(cascade), {"a": 5, "m": 50}, dict.fromkeys(names, "fp32"))
    return Case(cascade, problem, Schedule("triton", (("a", Role("grid", 4)), ("m", Role("loop", 16)))))


def table() -> list[tuple[str, int, str]]:
    from eintune.space.ir.pointwise import POINTWISE

    return [(p.name, p.arity, "bool" if p.boolean else "float") for p in POINTWISE.values()]


@pytest.mark.interpreter
@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
@pytest.mark.parametrize("emitter", ["torch", "triton"])
def test_every_operator(row: tuple[str, int, str], emitter: str, execute) -> None:
    case = pointwise(*row).on(emitter)
    kernel, tensors = case.kernel, inputs(case, seed=3)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.interpreter
@pytest.mark.parametrize("op", ["add", "max", "min", "mul"])
@pytest.mark.parametrize("role", [Role("loop", 16), Role(None, 64), Role("loop", None)])
def test_every_reduction(op: str, role: Role, execute) -> None:
    x = Access(Tensor("X", ("a", "m")), ("a", "m"))
    cascade = Cascade((Einsum(Tensor("Y", ("a",)), Reduce(op, "m", x * 1.25 + 0.5)),))
    problem = Problem("reduction", str(cascade), {"a": 5, "m": 50}, {"X": "fp32", "Y": "fp32"})
    case = Case(cascade, problem, Schedule("triton", (("a", Role("grid", 4)), ("m", role))))
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.interpreter
@pytest.mark.parametrize("x", [0.0, 1e-6, 1e-3, 0.1, 0.3, 0.74, 0.76, 1.0, 5.0, 30.0, 200.0])
def test_tanh_and_sigmoid_keep_relative_accuracy(x: float, execute) -> None:
    for op, exact in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        case = pointwise(op, 1, "float")
        kernel = case.kernel
        tensors = inputs(case)
        tensors[0].fill_(x)
        tensors[0][::2] = -x
        execute(kernel, tensors)
        rounding = 2**-23 * (3 + 1.5 * x)  # of the quotient, and of the argument that the exponential is given
        assert torch.allclose(tensors[1].double(), exact(tensors[0].double()), rtol=rounding, atol=1e-30)


@pytest.mark.interpreter
def test_index_values_and_int_and_bool_tensors(execute) -> None:
    ranks = ("a", "m")
    chosen = Map("eq", (Access(Tensor("T", ("a",), "int"), ("a",)), Iota("m")))
    kept = Map("and", (chosen, Access(Tensor("B", ranks, "bool"), ranks)))
    x = Map("select", (kept, Access(Tensor("X", ranks), ranks), Const(0.0)))
    cascade = Cascade((Einsum(Tensor("Y", ("a",)), Reduce("add", "m", x)),))
    dtypes = {"T": "int32", "B": "bool", "X": "fp32", "Y": "fp32"}
    problem = Problem("select", str(cascade), {"a": 5, "m": 50}, dtypes)
    case = Case(cascade, problem, Schedule("triton", (("a", Role("grid", 4)), ("m", Role("loop", 16)))))
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    y = tensors[-1]
    data = {a.name: t for a, t in zip(kernel.arguments, tensors, strict=True)}
    wanted = torch.stack([data["X"][i, t] * data["B"][i, t] for i, t in enumerate(data["T"].tolist())])
    assert torch.equal(y, wanted) and y.abs().sum() > 0


# ---- the program


def test_reverse_order_and_layout_of_programs() -> None:
    case = attention_case(1, seq=128, rows=32, heads=3, batch=2)
    lines = case.kernel.source.splitlines()
    assert "    p_first = program % 4 * 32" in lines
    assert "    h = program // 4 % 3" in lines and "    b = program // 12" in lines
    assert case.kernel.grid == (24,)
    reverse = replace(case, schedule=replace(case.schedule, order="reverse")).kernel.source
    assert "    p_first = (3 - program % 4) * 32" in reverse.splitlines()


def test_masks_stand_only_where_a_size_does_not_fit() -> None:
    assert "mask" not in attention_case(1, seq=64, head_dim=32).kernel.source
    odd = attention_case(1, seq=64, kv_seq=70, head_dim=32).kernel.source
    whole, tail = odd.split("for m_first in ")[1:]
    assert "mask" not in whole and "tl.where(i_" not in whole
    assert tail.count("< 70") == 3  # K, V and the score


def test_offsets_of_programs_and_loops_are_64_bit() -> None:
    source = attention_case(1, seq=64, heads=2, batch=2).kernel.source
    for index in ("b", "h", "p_first", "m_first"):
        assert f"{index}_wide = tl.cast({index}, tl.int64)" in source
        assert f" {index} * stride" not in source


def test_fp32_products_are_ieee_unless_the_schedule_says_otherwise() -> None:
    case = attention_case(1)
    assert case.kernel.source.count("input_precision='ieee'") == 2
    loose = replace(case, schedule=replace(case.schedule, precision="tf32"))
    assert loose.kernel.source.count("input_precision='tf32'") == 2
    assert "input_precision" not in attention_case(1, dtype="bf16").kernel.source


def test_a_tile_is_a_power_of_two() -> None:
    case = attention_case(1, emitter="torch")
    roles = tuple((r, Role("grid", 48) if r == "p" else role) for r, role in case.schedule.roles)
    plan = replace(case, schedule=replace(case.schedule, roles=roles)).plan
    with pytest.raises(ValueError, match="a tile of a Triton kernel is a power of two, but rank p has 48"):
        emit(plan, case.schedule)
