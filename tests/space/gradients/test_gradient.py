"""Gradients as cascades: what they are called, what has none, and what autograd says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.gradients.gradient import gradient
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Reduce, topological
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import Causal, Softcap, Window


def test_of_a_product() -> None:
    found = gradient(Cascade.parse("Zm,n = Ak,m * Bk,n"))
    assert str(found.cascade) == "DAk,m = DZm,n * Bk,n\nDBk,n = DZm,n * Ak,m\nresults: DA, DB"
    assert found.cotangents == {"Z": "DZ"}
    assert found.gradients == {"A": "DA", "B": "DB"}


def test_only_what_is_wanted() -> None:
    found = gradient(Cascade.parse("Zm,n = Ak,m * Bk,n\nYm = Ak,m\nresults: Z, Y"), of=["Y"], wrt=["A"])
    assert str(found.cascade).startswith("DAk,m = DYm\n")


def test_names_that_are_taken_go_on() -> None:
    assert gradient(Cascade.parse("Zm = Am * DAm")).gradients == {"A": "DAA", "DA": "DDA"}


def test_what_nothing_depends_on_has_gradient_zero() -> None:
    found = gradient(Cascade.parse("Zm = Am > 0\nYm = Am * 0 + Bm\nXm = floor(Bm)\nresults: X")).cascade
    assert run_cascade(found, {"DX": np.ones(3)}, {"m": 3})["DB"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"of": ["Q"]}, r"`of` must name floating results of \['Z'\], but got \['Q'\]"),
        ({"wrt": ["A", "T"]}, r"`wrt` must name floating inputs of \['A'\], but got \['T'\]"),
    ],
)
def test_names_that_are_none(options: dict[str, list[str]], said: str) -> None:
    cascade = Cascade.parse("input Ap,m\ninput Tp : int\nZp = A[p,T[p]]")
    with pytest.raises(CascadeError, match=said):
        gradient(cascade, **options)


def test_a_softmax_has_no_maximum_in_its_gradient() -> None:
    """It needs the log-sum-exp, and the place of no maximum."""
    found = gradient(Attention((Causal(), Softcap(3.0))).cascade()).cascade
    nodes = topological(found.roots().values())
    assert sum(isinstance(x, Reduce) and x.op == "max" for x in nodes) == 1
    assert "==" not in str(found)


def test_the_sum_of_weights_times_their_adjoint_goes_over_no_keys() -> None:
    """FlashAttention-2's D: the product of a row of the output with its cotangent."""
    found = gradient(Attention().cascade()).cascade
    assert "DAVb,h,p,f * AVb,h,p,f" in str(found)


@pytest.mark.parametrize("modifiers", [(), (Causal(),), (Causal("lower_right"), Window(2), Softcap(2.0))])
def test_attention_as_autograd_has_it(modifiers: tuple) -> None:
    torch.manual_seed(0)
    shapes = {"Q": (2, 2, 2, 5, 3), "K": (2, 2, 4, 3), "V": (2, 2, 4, 6)}
    data = {n: torch.randn(shape, dtype=torch.float64, requires_grad=True) for n, shape in shapes.items()}
    variant = Attention(modifiers)
    score = torch.einsum("bhgpe,bhme->bhgpm", data["Q"], data["K"]) * 0.5
    p, m = torch.arange(5)[:, None], torch.arange(4)
    seen = torch.ones(5, 4, dtype=torch.bool)
    for x in modifiers:
        match x:
            case Softcap(cap):
                score = cap * torch.tanh(score / cap)
            case Causal(align):
                seen &= m <= p + (-1 if align == "lower_right" else 0)
            case Window(size):
                seen &= p - m < size
    weights = torch.softmax(score.masked_fill(~seen, -torch.inf), -1)
    weights = torch.where(seen.any(1)[:, None], weights, 0.0)  # a row that sees nothing is 0
    out = torch.einsum("bhgpm,bhmf->bhgpf", weights, data["V"])
    cotangent = torch.randn_like(out)
    wanted = torch.autograd.grad(out, list(data.values()), cotangent)
    arrays = {n: t.detach().numpy() for n, t in data.items()} | {"DAV": cotangent.numpy()}
    cascade = gradient(variant.cascade(grouped=True)).cascade
    sizes = {"w": 2} if any(isinstance(x, Window) for x in modifiers) else {}
    made = run_cascade(cascade, arrays, sizes, {"scale": 0.5, "cap": 2.0})
    for name, want in zip(("DQ", "DK", "DV"), wanted, strict=True):
        assert np.abs(made[name] - np.nan_to_num(want.numpy())).max() < 1e-14


def test_what_is_read_by_index_gets_what_is_read_there() -> None:
    cascade = Cascade.parse("input Ev,e\ninput Tp : int\nZp,e = E[T[p],e] * Xp")
    data = {"E": np.arange(6.0).reshape(3, 2), "T": np.array([2, 0, 2]), "X": np.array([1.0, 10.0, 100.0])}
    made = run_cascade(gradient(cascade).cascade, data | {"DZ": np.ones((3, 2))})
    assert made["DE"].tolist() == [[10, 10], [0, 0], [101, 101]]
    assert made["DX"].tolist() == [9, 1, 9]


def test_a_table_of_distances_gets_the_sum_of_its_diagonal() -> None:
    cascade = Cascade.parse("input Th,r\nZh,p,m = T[h,p-m+|m|-1] * Qp,m")
    q = np.arange(12.0).reshape(3, 4)
    made = run_cascade(gradient(cascade).cascade, {"T": np.ones((1, 6)), "Q": q, "DZ": np.ones((1, 3, 4))})
    wanted = [sum(q[p, m] for p in range(3) for m in range(4) if p - m + 3 == r) for r in range(6)]
    assert made["DT"].tolist() == [wanted]


def test_one_tensor_by_two_names_of_its_ranks() -> None:
    """The sum that is renamed gives way to the rank whose name it had."""
    cascade = Cascade.parse("Ym = sum[e](Xm,e * Xm,e)\nZp,q = sum[e](Xp,e * Xq,e) / (Yq + 1)")
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(3, 2)), rng.normal(size=(3, 3))
    t = torch.tensor(x, requires_grad=True)
    (t @ t.T / ((t * t).sum(1) + 1)).backward(torch.tensor(g))
    made = run_cascade(gradient(cascade, of=["Z"]).cascade, {"X": x, "DZ": g})
    assert np.abs(made["DX"] - t.grad.numpy()).max() < 1e-14


def test_a_gradient_of_a_gradient() -> None:
    cascade = Attention().cascade()
    first = gradient(cascade)
    second = gradient(first.cascade, of=["DQ"], wrt=["Q", "K", "DAV"])
    torch.manual_seed(0)
    data = {n: torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True) for n in ("Q", "K", "V", "DAV")}
    out = torch.softmax(data["Q"] @ data["K"].mT * 0.5, -1) @ data["V"]
    (dq,) = torch.autograd.grad(out, data["Q"], data["DAV"], create_graph=True)
    cotangent = torch.randn_like(dq)
    wanted = torch.autograd.grad(dq, [data["Q"], data["K"], data["DAV"]], cotangent)
    arrays = {n: t.detach().numpy() for n, t in data.items()} | {second.cotangents["DQ"]: cotangent.numpy()}
    made = run_cascade(second.cascade, arrays, params={"scale": 0.5})
    for name, want in zip(("Q", "K", "DAV"), wanted, strict=True):
        assert np.abs(made[second.gradients[name]] - want.numpy()).max() < 1e-14
