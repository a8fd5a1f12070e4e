"""What functions capture is read at each call, whatever holds it; or it is refused."""

from __future__ import annotations

import math
import sys
import types
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import eintune
from eintune.kernels.serve import modified_attention as modified
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.space.tracing.functions import where

B, H, P, M, E = 2, 2, 11, 13, 8
ROWS, KEYS = torch.arange(P)[:, None], torch.arange(M)[None, :]
SECOND = types.ModuleType("eintune_test_settings")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests here, so that what was derived is derived once."""
    folder = tmp_path_factory.getbasetemp() / "captures"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = drawn(B, H, P, E), drawn(B, H, M, E, seed=1), drawn(B, H, M, E, seed=2)
SCORES = Q @ K.mT / math.sqrt(E)


def attend(scores: Tensor, seen: Tensor | None = None) -> Tensor:
    scores = scores if seen is None else scores.masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ V


def close(made: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(made, want, rtol=1e-9, atol=1e-9)


# ---- names of tensors


def _same(one: Tensor, two: Tensor) -> Callable[..., Any]:
    return lambda b, h, p, m: one[b, p] == two[b, m]


def _same_by_letters(ids1: Tensor, ids2: Tensor) -> Callable[..., Any]:
    return lambda b, h, p, m: ids1[b, p] == ids2[b, m]


def _same_by_helpers(one: Tensor, two: Tensor) -> Callable[..., Any]:
    def reading(t: Tensor) -> Callable[..., Any]:
        return lambda b, p: t[b, p]

    left = reading(one)
    right = left if one is two else reading(two)
    return lambda b, h, p, m: left(b, p) == right(b, m)


@pytest.mark.parametrize("same", [_same, _same_by_letters, _same_by_helpers])
@pytest.mark.parametrize("alias_first", [True, False])
def test_names_of_one_tensor_and_of_two(same: Callable[..., Any], alias_first: bool) -> None:
    both, of_q, of_k = (torch.arange(M).expand(B, M) // n for n in (3, 4, 6))
    pairs = [(both, both), (of_q, of_k), (of_k, of_k)]
    modified._ready.clear()
    for one, two in pairs if alias_first else pairs[::-1]:
        made = eintune.attention(Q, K[:, :, :P], V[:, :, :P], mask_mod=same(one[:, :P], two[:, :P]))
        seen = one[:, None, :P, None] == two[:, None, None, :P]
        want = torch.softmax(SCORES[..., :P].masked_fill(~seen, -math.inf), -1).nan_to_num(0.0) @ V[:, :, :P]
        close(made, want)
        shared = (one if one is two else None, one[:, :P])[1]
        made = eintune.attention(Q, K[:, :, :P], V[:, :, :P], mask_mod=same(shared, shared))
        seen = shared[:, None, :, None] == shared[:, None, None]
        close(made, torch.softmax(SCORES[..., :P].masked_fill(~seen, -math.inf), -1).nan_to_num(0.0) @ V[:, :, :P])


# ---- numbers, by what holds them


def _in_a_module_of_torch(x: float) -> Callable[..., Any]:
    layer = torch.nn.Softplus(beta=x)  # a new object each time, which may have the address of one before
    return lambda s, b, h, p, m: s * layer.beta


def _in_a_parameterless_layer(x: float) -> Callable[..., Any]:
    layer = torch.nn.Identity()
    layer.factor = x
    return lambda s, b, h, p, m: s * layer.factor


HELD = {"factor": 1.0}
GET = HELD.get


def _by_a_method_of_a_dict(x: float) -> Callable[..., Any]:
    HELD["factor"] = x
    return lambda s, b, h, p, m: s * GET("factor")


class Number(float):
    """A float with something of its own."""

    other = 1.0


NUMBER = Number(1.0)


def _in_an_attribute_of_a_number(x: float) -> Callable[..., Any]:
    NUMBER.other = x
    return lambda s, b, h, p, m: s * NUMBER.other


def _attributed(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
    return s * _attributed.factor


def _in_an_attribute_of_the_function(x: float) -> Callable[..., Any]:
    _attributed.factor = x
    return _attributed


def _in_a_module_that_is_imported(x: float) -> Callable[..., Any]:
    SECOND.factor = x
    sys.modules[SECOND.__name__] = SECOND

    def score(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        import eintune_test_settings

        return s * eintune_test_settings.factor

    return score


Pair = namedtuple("Pair", "factor other")


def _in_a_named_tuple(x: float) -> Callable[..., Any]:
    pair = Pair(x, 1.0)
    return lambda s, b, h, p, m: s * pair.factor


def _in_a_tensor_of_a_tuple(x: float) -> Callable[..., Any]:
    several = (torch.tensor(x),)
    return lambda s, b, h, p, m: s * several[0]


def _in_a_tensor_by_default(x: float) -> Callable[..., Any]:
    factor = torch.tensor(x)
    return lambda s, b, h, p, m, factor=factor: s * factor


def _in_a_tensor(x: float) -> Callable[..., Any]:
    factor = torch.tensor(x)
    return lambda s, b, h, p, m: s * factor


def _by_eval(x: float) -> Callable[..., Any]:
    HELD["factor"] = x
    return lambda s, b, h, p, m: s * eval("HELD['factor']")


def _by_pytorchs_state(x: float) -> Callable[..., Any]:
    torch.set_printoptions(precision=int(x))
    return lambda s, b, h, p, m: s * float(torch._tensor_str.PRINT_OPTS.precision)


def _by_globals(x: float) -> Callable[..., Any]:
    HELD["factor"] = x
    return lambda s, b, h, p, m: s * globals()["HELD"]["factor"]


def _in_a_number_of_numpys(x: float) -> Callable[..., Any]:
    factor = np.float64(x)
    return lambda s, b, h, p, m: s * factor


def _in_a_short_number_of_numpys(x: float) -> Callable[..., Any]:
    factor = np.float32(x)
    return lambda s, b, h, p, m: factor * s


def _in_a_whole_number_of_numpys(x: float) -> Callable[..., Any]:
    holder = types.SimpleNamespace(factor=np.int64(x))
    return lambda s, b, h, p, m: holder.factor * s + np.float32(0.0)


def _in_an_attribute_of_math(x: float) -> Callable[..., Any]:
    math.factor = x  # type: ignore[attr-defined]
    return lambda s, b, h, p, m: s * math.factor  # type: ignore[attr-defined]


HOLDERS = [
    _in_a_module_of_torch, _in_a_parameterless_layer, _by_a_method_of_a_dict, _in_an_attribute_of_a_number,
    _in_an_attribute_of_the_function, _in_a_module_that_is_imported, _in_a_named_tuple, _in_a_tensor_of_a_tuple,
    _in_a_tensor_by_default, _in_a_tensor, _by_eval, _by_pytorchs_state, _by_globals, _in_a_number_of_numpys,
    _in_a_short_number_of_numpys, _in_a_whole_number_of_numpys, _in_an_attribute_of_math,
]  # fmt: skip


@pytest.mark.parametrize("made", HOLDERS, ids=lambda f: f.__name__)
def test_a_number_is_read_at_each_call(made: Callable[[float], Callable[..., Any]]) -> None:
    try:
        for x in (2.0, 3.0, 5.0, 2.0, 7.0, 4.0):
            close(eintune.attention(Q, K, V, score_mod=made(x)), attend(SCORES * x))
    finally:
        torch.set_printoptions(precision=4)
        vars(math).pop("factor", None)


def test_a_function_is_run_once_a_call() -> None:
    """One that draws: what is computed is what was drawn, at the first call of a kind too."""
    draws = [2.0, 3.0, 4.0, 2.0]
    rest = iter(draws)
    for x in draws:
        close(eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s * next(rest) + 0.25), attend(SCORES * x))
    drawn_by_torch: list[float] = []

    def score(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        drawn_by_torch.append(torch.rand(()).item())
        return s * drawn_by_torch[-1]

    for n in range(3):
        made = eintune.attention(Q, K, V, score_mod=score)
        assert len(drawn_by_torch) == n + 1
        close(made, attend(SCORES * drawn_by_torch[-1]))


# ---- numbers that change


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The problems for which a kernel is chosen."""
    problems: list[Any] = []
    serve = modified.serve
    monkeypatch.setattr(modified, "serve", lambda p, *rest: problems.append(p) or serve(p, *rest))
    modified._ready.clear()
    modified._served.clear()
    return problems


def test_a_number_that_changes_is_given_to_one_kernel(served: list[Any]) -> None:
    for x in (0.5, 0.75, -1.0, 2.5, 1e-3, 0.5):
        made = eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s * x + x * 0.125 * (p - m))  # noqa: B023
        close(made, attend(SCORES * x + x * 0.125 * (ROWS - KEYS)))
    assert len(served) == 2  # as a constant, and as what is given
    assert served[0].cascade != served[1].cascade and not served[1].sizes.keys() - served[0].sizes.keys()


def test_a_distance_that_changes_is_derived_twice(served: list[Any]) -> None:
    for n in (3, 4, 5, 9, 40):
        made = eintune.attention(Q, K, V, mask_mod=lambda b, h, p, m: (m <= p) & (p - m < n))  # noqa: B023
        close(made, attend(SCORES, (KEYS <= ROWS) & (n > ROWS - KEYS)))
    assert len({p.cascade for p in served}) == 2 and len(served) == 5


def test_numbers_of_two_functions_and_of_grouped_heads(served: list[Any]) -> None:
    q, v = torch.cat([Q, -Q], 1), V
    scores = torch.cat([SCORES, -SCORES], 1).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
    q = q.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
    for x, fill, n in ((1.5, 0.0, 4), (2.5, -1e30, 4), (2.5, -math.inf, 5), (0.5, -2.0, 7), (3.5, 40.0, 7)):
        made = eintune.attention(
            q, K, v,
            score_mod=lambda s, b, h, p, m: where(m <= p, s * x, fill) - x * h,  # noqa: B023
            mask_mod=lambda b, h, p, m: p - n < m,  # noqa: B023
        )  # fmt: skip
        heads = torch.arange(4.0).double()[:, None, None]
        want = torch.where(KEYS <= ROWS, scores * x, fill) - x * heads
        want = torch.softmax(want.masked_fill(ROWS - n >= KEYS, -math.inf), -1).nan_to_num(0.0)
        close(made, want @ v.repeat_interleave(2, 1))


# ---- what is refused


def test_a_parameter_that_a_function_captures_gets_its_gradient() -> None:
    slopes = torch.nn.Parameter(torch.rand(H, dtype=torch.float64))
    by_head = slopes[:, None, None]
    made = eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s + slopes[h] * (m - p))
    distance = torch.arange(SCORES.shape[-1]) - torch.arange(SCORES.shape[-2])[:, None]
    wanted = attend(SCORES + by_head * distance)
    close(made, wanted)
    close(torch.autograd.grad(made.sum(), slopes)[0], torch.autograd.grad(wanted.sum(), slopes)[0])


def test_a_number_that_a_function_captures_gets_its_gradient() -> None:
    holder = types.SimpleNamespace(temperature=torch.nn.Parameter(torch.tensor(2.0).double()))
    wanted = attend(SCORES * holder.temperature)
    gradient = torch.autograd.grad(wanted.sum(), holder.temperature)[0]
    for score in (
        lambda s, b, h, p, m: s * holder.temperature,
        lambda s, b, h, p, m, factor=holder.temperature: s * factor,
    ):
        for _ in range(2):
            made = eintune.attention(Q, K, V, score_mod=score)
            close(made, wanted)
            close(torch.autograd.grad(made.sum(), holder.temperature)[0], gradient)
            with torch.no_grad():
                assert not eintune.attention(Q, K, V, score_mod=score).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float64_beside_another_type_is_made_float32(
    served: list[Any], dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    slopes, bias = drawn(H, seed=5), drawn(P, M, seed=6)
    q, k, v = (t.to(dtype) for t in (Q, K, V))
    made = eintune.attention(q, k, v, score_mod=lambda s, b, h, p, m: s + slopes[h] * (m - p), bias=bias)
    scores = q.double() @ k.double().mT / math.sqrt(E) + bias + slopes[:, None, None] * (KEYS - ROWS)
    want = torch.softmax(scores, -1) @ v.double()
    torch.testing.assert_close(made.double(), want, rtol=0.03, atol=0.03 if dtype == torch.bfloat16 else 1e-4)
    assert "fp64" not in served[0].dtypes.values()
    said = [r.getMessage() for r in caplog.records if "made float32" in r.getMessage()]
    assert len(said) == 2


FLAG, LIMIT = torch.tensor(False), torch.tensor(4)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda s, b, h, p, m: s * 2 if FLAG else s, "FLAG where Python needs true or false"),
        (lambda s, b, h, p, m: s * 2 if LIMIT == 3 else s, "true or false"),
        (lambda s, b, h, p, m: s * (1 / 0), "ZeroDivisionError"),
        (lambda s, b, h, p, m: s * HELD["other"], "KeyError"),
        (lambda s, b, h, p, m: s * undefined, "NameError"),  # type: ignore[name-defined]  # noqa: F821
        (lambda s, b, h, p: s, "TypeError"),
        (torch.tanh, "must be a function, a method or a partial of one in Python"),
    ],
)
def test_what_a_function_cannot_do_is_one_line(function: Any, says: str) -> None:
    with pytest.raises(UnsupportedArgument, match=says) as error:
        eintune.attention(Q, K, V, score_mod=function)
    assert "\n" not in str(error.value)


def test_a_tensor_without_axes_is_compared() -> None:
    close(
        eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: where((m == LIMIT) | FLAG, s, -s)),
        attend(torch.where(KEYS == 4, SCORES, -SCORES)),
    )
