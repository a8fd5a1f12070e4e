"""Scores of any size: additive masks, -inf and NaN in inputs, values that nobody sees; every emitter.

What is expected is computed here, from scores that are rounded to fp32 as any program's are.
"""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from gluon_interpreter import run as interpret_gluon
from kernel_forms import Case, derived, power

from eintune.host.notices import forget
from eintune.kernels.launch.load import load
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.kernels.serve.attention import attention
from eintune.kernels.serve.compiled import compile as compile_cascade
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.ir.row_factor import RowFactor
from eintune.space.plan.plan import all_values
from eintune.space.plan.roles import Role
from eintune.space.plan.values import RowScale
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Bias, Causal, Mask, Softcap

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
LOWEST = torch.finfo(torch.float32).min
SIZES = {"b": 1, "h": 2, "p": 40, "m": 70, "e": 16, "f": 16}
LARGE = SIZES | {"p": 130, "m": 300, "e": 64, "f": 64}
BIASED = Attention((Bias("pm"),), lse=True)
SCALE = 0.25
BUDGET = {"fp32": 3e-5, "bf16": 4e-2, "fp16": 6e-3}
"""Of values drawn from a normal distribution; a weight that is off by a factor of two is far beyond it."""


def hidden(p: int, m: int, value: float, some: str) -> torch.Tensor:
    """A bias of `value` where a query does not see a key, 0 elsewhere."""
    bias = torch.zeros(p, m)
    match some:
        case "padding":
            bias[:, -6:] = value
        case "row":
            bias[3] = value
        case "first half":
            bias[:, : m // 2] = value
        case "every":
            bias[:] = value
        case "rising":
            bias[:] = torch.linspace(-1.0, 1.0, m) * value
        case "one key":
            bias[:, m // 3] = value
    return bias


KINDS = [
    *((some, LOWEST) for some in ("padding", "row", "first half", "every")),
    *((some, -math.inf) for some in ("padding", "row", "first half", "every")),
    *(("every", value) for value in (-1e10, -1e12, -1e30, 1e10, 1e30, -3e8, 7e8)),
    *(("row", value) for value in (-1e5, -1e8, -2e9, -1e12)),
    *(("rising", value) for value in (1e3, 1e6, 1e9, 2e9, 1e10, 1e38)),
    *(("one key", value) for value in (1e6, 7e8, 1.6e9, 1e12, 3e38)),
    ("first half", -1e30),
]


def case_of(emitter: str, dtype: str, passes: int = 1, variant: Attention = BIASED, parts: int = 1) -> Case:
    problem = posed(variant, SIZES, dtype, {"scale": SCALE})
    forms = derived(problem.cascade)
    roles = {r: Role("grid", None) for r in "bh"} | {"p": Role("grid", 16), "m": Role("loop", 16, parts)}
    roles |= {r: Role(None, power(SIZES[r])) for r in "ef"}
    return Case(forms[0 if passes == 1 else -1], problem, Schedule(emitter, tuple(roles.items())))


def tensors_of(case: Case, bias: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for a in case.kernel.arguments:
        if a.output:
            made.append(torch.full(a.shape, math.nan, dtype=DTYPES[a.dtype]))
        elif a.name == "BIAS":
            made.append(bias.to(DTYPES[a.dtype]))
        else:
            made.append(torch.randn(a.shape, generator=generator).to(DTYPES[a.dtype]))
    return made


def expected(case: Case, tensors: list[torch.Tensor], causal: bool = False) -> torch.Tensor:
    """softmax in float64 of scores in fp32; rows that see nothing are 0."""
    known = dict(zip((a.name for a in case.kernel.arguments), tensors, strict=True))
    q, k, v = (known[n].double() for n in "QKV")
    scores = (q @ k.mT * SCALE).float() + known["BIAS"].float()
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    weights = torch.softmax(scores.double(), -1)
    return torch.where(scores.isneginf().all(-1, keepdim=True), 0.0, weights) @ v


def output_of(case: Case, tensors: list[torch.Tensor], name: str = "AV") -> torch.Tensor:
    return next(t for a, t in zip(case.kernel.arguments, tensors, strict=True) if a.name == name)


EVERY = [None, pytest.param("all", marks=pytest.mark.soak)]
"""One of three kinds of scores, other ones in each case, and all in long runs."""


def kinds(which: object, every: str | None) -> list[tuple[str, float]]:
    """The kinds for a case."""
    return KINDS if every else KINDS[zlib.crc32(repr(which).encode()) % 3 :: 3]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("passes", [1, 3])
def test_scores_of_any_size(passes: int, dtype: str, emitter: str, every: str | None, execute) -> None:
    case = case_of(emitter, dtype, passes)
    for some, value in kinds((passes, dtype), every):
        tensors = tensors_of(case, hidden(SIZES["p"], SIZES["m"], value, some))
        execute(case.kernel, tensors)
        off = (output_of(case, tensors).double() - expected(case, tensors)).abs().max()
        assert off <= BUDGET[dtype] + unfused(emitter, value), f"{some} at {value}: {off}"


def unfused(emitter: str, value: float) -> float:
    """What Triton's interpreter adds, and no GPU: it rounds the products that a difference is made of."""
    interpreted = emitter == "triton" and not torch.cuda.is_available()
    return abs(value) * 2.0**-22 if interpreted and abs(value) < 1e6 else 0.0


@pytest.mark.parametrize("emitter", EMITTERS)
def test_equal_scores_weigh_the_same(emitter: str, execute) -> None:
    """From tile to tile too: a compiler that fuses one of two products of a difference makes it the other's rounding,
    by which an accumulator would shrink in each tile."""
    case = case_of(emitter, "fp32")
    for step in range(0, 24, 1 if torch.cuda.is_available() or emitter == "torch" else 8):
        value = (-1) ** step * 100 * 1.87**step
        tensors = tensors_of(case, torch.full((SIZES["p"], SIZES["m"]), value))
        next(t for a, t in zip(case.kernel.arguments, tensors, strict=True) if a.name == "Q").zero_()
        execute(case.kernel, tensors)
        off = (output_of(case, tensors).double() - expected(case, tensors)).abs().max()
        assert off <= BUDGET["fp32"], f"{value}: {off}"


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("emitter", EMITTERS)
def test_keys_in_parts(emitter: str, every: str | None, execute) -> None:
    """What each part hands over is relative to a reference of its own."""
    case = case_of(emitter, "fp32", variant=Attention((Bias("pm"),)), parts=3)
    assert case.kernel.steps
    for some, value in kinds("parts", every):
        tensors = tensors_of(case, hidden(SIZES["p"], SIZES["m"], value, some))
        known = [*tensors]
        perform(case, known, execute)
        off = (output_of(case, known).double() - expected(case, known)).abs().max()
        assert off <= BUDGET["fp32"], f"{some} at {value}: {off}"


def perform(case: Case, tensors: list[torch.Tensor], execute) -> None:
    """Run a kernel's steps; workspaces hold anything at first."""
    kernel = case.kernel
    known = dict(zip((a.name for a in kernel.arguments), tensors, strict=True))
    known |= {a.name: torch.full(a.shape, 77, dtype=DTYPES[a.dtype]) for a in kernel.workspaces}
    for step in kernel.launches:
        execute(step, [known[a.name] for a in step.arguments])


def specialised_case(dtype: str, rescaling: str) -> Case:
    """Without a bias, which these warps do not divide: large scores come from queries and keys."""
    problem = posed(Attention((Causal(),)), LARGE | {"p": 300}, dtype, {"scale": SCALE})
    cascade = derived(problem.cascade)[0]
    legal = (s for s in schedules(cascade, problem, "triton") if s.is_specialised)
    found = [s for s in legal if s.rescaling == rescaling and s.filters == "branch" and s.pipelined == "none"]
    return Case(cascade, problem, min(found, key=lambda s: (s.role("m").tile, s.role("p").tile, s.warps)))


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("rescaling", ["eager", "lazy"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_large_scores_of_specialised_warps(dtype: str, rescaling: str, every: str | None) -> None:
    """Powers of two, so that scores are exact: one key that outweighs all, keys that are alike, keys that rise."""
    case = specialised_case(dtype, rescaling)
    kernel = case.kernel
    most = 2.0**13 if dtype == "fp16" else 2.0**60
    for size in (2.0**6, 2.0**12, most) if every else (most,):
        for shape in ("alike", "one", "rising", "falling", "negative"):
            tensors = [torch.zeros(a.shape, dtype=DTYPES[a.dtype]) for a in kernel.arguments]
            known = dict(zip((a.name for a in kernel.arguments), tensors, strict=True))
            n = known["K"].shape[2]
            keys = {
                "alike": torch.ones(n),
                "one": torch.zeros(n).index_fill(0, torch.tensor([n // 2]), 1.0),
                "rising": torch.arange(n) // 64 + 1.0,
                "falling": (n - torch.arange(n)) // 64 + 1.0,
                "negative": -torch.ones(n),
            }[shape]
            known["Q"][..., 0], known["K"][..., 0] = size, (keys * size).to(known["K"].dtype)
            known["V"].copy_(torch.randn(known["V"].shape, generator=torch.Generator().manual_seed(1)))
            q, k, v = (known[name].double() for name in "QKV")
            scores = (q @ k.mT * SCALE).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -math.inf)
            exact = torch.softmax(scores, -1) @ v
            if torch.cuda.is_available():
                there = [t.cuda() for t in tensors]
                load(kernel)(there)
                made = output_of(case, there).cpu()
            else:
                interpret_gluon(kernel, tensors, 3)
                made = output_of(case, tensors)
            off = (made.double() - exact).abs().max()
            assert off <= BUDGET[dtype], f"{shape} at {size}: {off}"


@pytest.mark.parametrize("emitter", EMITTERS)
def test_nan_stays_and_minus_infinity_hides(emitter: str, execute) -> None:
    case = case_of(emitter, "fp32")
    bias = torch.zeros(SIZES["p"], SIZES["m"])
    bias[5, 7], bias[6, 7], bias[7] = math.nan, -math.inf, -math.inf
    tensors = tensors_of(case, bias)
    execute(case.kernel, tensors)
    rows = output_of(case, tensors)[0, 0]
    assert rows.isnan().all(-1).nonzero().flatten().tolist() == [5]
    assert (rows[7] == 0).all() and output_of(case, tensors, "L")[0, 0, 7] == -math.inf


LOGITS = "GMp = Lp,m :: \\/m max\nNp,m = e^(Lp,m - GMp)\nDp = Np,m\n"
OF_LOGITS = {
    "softmax": LOGITS + "Ap,m = Np,m / Dp",
    "log-sum-exp": LOGITS + "Zp = GMp + log(Dp)",
    "weights": LOGITS + "Ap,m = Np,m * 1",
    "sum of weights": LOGITS + "Zp = Dp * 1",
    "less infinity": "GMp = Lp,m :: \\/m max\nAp,m = e^(Lp,m - inf - inf - GMp)",
    "written as a quotient": "GMp = Lp,m :: \\/m max\nNp,m = e^(Lp,m)\nDp = e^(GMp)\nAp,m = Np,m / Dp",
}


def of_logits(name: str, logits: torch.Tensor) -> torch.Tensor:
    x = logits.double()
    top = x.amax(1, keepdim=True)
    weights = torch.where(top.isneginf(), 0.0, torch.exp(x - top))
    total = weights.sum(1, keepdim=True)
    match name:
        case "softmax":
            return torch.where(total == 0, 0.0, weights / total)
        case "log-sum-exp":
            return torch.logsumexp(x, 1)
        case "sum of weights":
            return total[:, 0]
        case "less infinity":
            return torch.zeros_like(weights)
        case _:
            return weights


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("name", OF_LOGITS)
def test_logits_that_are_filtered_out(name: str, emitter: str, execute) -> None:
    """Most are -inf, as after a choice of the k largest; one row is as a whole; others are enormous."""
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(2))
    logits[:, 5:] = -math.inf
    logits[2], logits[3] = -math.inf, LOWEST
    logits[4, :5] *= 1e9
    logits[5, :5] += 3e4
    exact = of_logits(name, logits)
    cascade = Cascade.parse(OF_LOGITS[name])
    problem = Problem(
        "cascade", str(cascade), {"p": 8, "m": 50}, {"L": "fp32", **dict.fromkeys(cascade.outputs, "fp32")}
    )
    for form in derived(str(cascade)):
        for role in (Role("loop", 16), Role(None, 64)):
            case = Case(form, problem, Schedule(emitter, (("p", Role("grid", 8)), ("m", role))))
            tensors = [torch.full(a.shape, math.nan) if a.output else logits.clone() for a in case.kernel.arguments]
            execute(case.kernel, tensors)
            torch.testing.assert_close(tensors[-1].double(), exact, rtol=2e-6, atol=1e-30, equal_nan=False)


@pytest.mark.parametrize("causal", [False, True])
def test_what_no_query_sees_may_be_anything(causal: bool) -> None:
    """Keys beyond a length, and beyond the last query of a causal attention."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 2, n, 16, generator=generator) for n in (30, 40, 40))
    lengths = torch.tensor([17, 40], dtype=torch.int32)

    def run(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, causal=causal, mask_mod=lambda b, h, p, m: m < lengths[b])

    clean = run(k, v)
    k[0, :, 17:], v[0, :, 17:] = math.nan, math.inf
    if causal:
        k[:, :, 30:], v[:, :, 30:] = math.inf, math.nan
    assert torch.equal(run(k, v), clean)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("passes", [1, 3])
def test_the_padding_of_keys_does_not_reach_a_sum(passes: int, emitter: str, execute) -> None:
    case = case_of(emitter, "fp32", passes, Attention((Causal(),)))
    tensors = tensors_of(case, torch.zeros(0))
    known = dict(zip((a.name for a in case.kernel.arguments), tensors, strict=True))
    execute(case.kernel, tensors)
    clean = known["AV"].clone()
    known["K"][:, :, SIZES["p"] :], known["V"][:, :, SIZES["p"] :] = math.nan, math.nan
    execute(case.kernel, tensors)
    assert torch.equal(known["AV"], clean)


SEEN_KEYS = {
    "a mask of keys": Attention((Mask("bm"),)),
    "a mask of keys, causal": Attention((Mask("bm"), Causal())),
    "a mask of keys and heads": Attention((Mask("bhm"),)),
    "a mask beside a softcap": Attention((Softcap(5.0), Mask("bm")), lse=True),
    "weights by sigmoid": Attention((Mask("bm"),), "sigmoid"),
}


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", SEEN_KEYS)
def test_keys_that_a_tensor_hides_may_be_anything(name: str, passes: int, emitter: str, execute) -> None:
    """The padding of a batch, which a boolean mask says where it is."""
    case = case_of(emitter, "fp32", passes, SEEN_KEYS[name])
    tensors = tensors_of(case, torch.zeros(0))
    known = dict(zip((a.name for a in case.kernel.arguments), tensors, strict=True))
    known["MASK"].fill_(True)[..., 33:] = False
    known["K"][:, :, 33:], known["V"][:, :, 33:] = 0.0, 0.0
    execute(case.kernel, tensors)
    clean = known["AV"].clone()
    assert clean.isfinite().all() and clean.any()
    known["K"][:, :, 33:], known["V"][:, :, 33:] = math.nan, math.inf
    execute(case.kernel, tensors)
    assert torch.equal(known["AV"], clean)


@pytest.mark.parametrize("which", ["mask", "mask_mod", "score_mod", "ids"])
def test_padding_that_a_program_masks_may_be_anything(which: str) -> None:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, 2, n, 16, generator=generator) for n in (30, 40, 40))
    seen = torch.arange(40) < torch.tensor([[17], [40]])
    ids = seen.long() - 1
    given = {
        "mask": {"mask": seen[:, None, None]},
        "mask_mod": {"mask_mod": lambda b, h, p, m: seen[b, m] & (m <= p + 10)},
        "score_mod": {"score_mod": lambda s, b, h, p, m: torch.where(seen[b, m], s * 2, -math.inf)},
        "ids": {"mask_mod": lambda b, h, p, m: ids[b, m] >= 0},
    }[which]
    clean = attention(q, k, v, **given)
    k[0, :, 17:], v[0, :, 17:] = math.nan, math.inf
    assert torch.equal(attention(q, k, v, **given), clean)


def test_the_hot_loop_keeps_one_fused_operation() -> None:
    plan = case_of("triton", "bf16", variant=Attention((Causal(),))).plan
    (loop,) = plan.loops()
    tiles = [v.op for v in loop.body.items if getattr(v, "axes", ()) == ("p", "m")]
    assert [op for op in tiles if op in ("mul", "sub", "scale", "exp2", "rounded")] == ["mul", "sub", "exp2"]
    (factor,) = {v.factors for v in all_values(plan.root) if isinstance(v, RowScale)}
    assert isinstance(factor, RowFactor)


@pytest.mark.parametrize("k", [1e-30, 0.01, 0.1275, 0.5, 1.0, 1.4427, 2.0, 14.4, 1e4])
@pytest.mark.parametrize("compute", ["fp32", "fp64"])
def test_a_row_factor(k: float, compute: str) -> None:
    """Large products are exact and finite, and what is weighed relative to another maximum is negligible."""
    factors = RowFactor.of(k, compute)
    biggest = torch.finfo(DTYPES[compute]).max
    for m in (0.0, 1.0, factors.limit / 2, factors.limit, factors.limit * 4, biggest / 4, biggest):
        if not math.isfinite(m) or m > biggest:
            continue
        used = factors(m)
        assert used == factors(-m)
        if m >= factors.limit:
            assert math.frexp(used)[0] == 0.5 and used * m <= biggest
            spacing = m * 2.0 ** -(24 if compute == "fp32" else 53)
            assert spacing * used >= 15
        else:
            assert used == k


def test_a_definition_without_a_safe_form_says_so(caplog: pytest.LogCaptureFixture) -> None:
    forget()
    with caplog.at_level("WARNING", "eintune"):
        compile_cascade("Np,m = e^(Lp,m)\nDp = Np,m")(torch.zeros(3, 4))
        assert "the exponent is not bounded above" in caplog.text
        caplog.clear()
        compile_cascade(OF_LOGITS["written as a quotient"])(torch.zeros(3, 4))
        assert "inf or NaN" not in caplog.text
    assert not derive(Cascade.parse(OF_LOGITS["written as a quotient"])).unstable


LARGEST = 2**31 - 1
STARTS, ENDS = (torch.tensor(t, dtype=torch.int32) for t in ([LARGEST, -LARGEST - 1, 5, 3], [-5, LARGEST, LARGEST, 6]))
SEEN = {
    "index(m) + Ab < Bb": lambda m, a, b: m + a < b,
    "index(m) - Ab < Bb": lambda m, a, b: m - a < b,
    "Ab - Bb <= index(m)": lambda m, a, b: a - b <= m,
    "index(m) + 2147483640 >= Ab": lambda m, a, b: m + 2147483640 >= a,
    "Ab + Bb > index(m) * 2": lambda m, a, b: a + b > m * 2,
    "abs(Ab) > index(m)": lambda m, a, b: a.abs() > m,
}


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("seen", SEEN)
def test_whole_numbers_at_the_ends_of_32_bits(seen: str, emitter: str, execute) -> None:
    """Sums of them need more: in a filter of several, in values, in the run by plain operators."""
    cascade = Cascade.parse(f"input Ab : int\ninput Bb : int\nZb = sum[m](select({seen}, Xb,m, 0)) + 0 * (Ab + Bb)")
    x = torch.randn(4, 40, generator=torch.Generator().manual_seed(4))
    data = {"A": STARTS, "B": ENDS, "X": x}
    m, a, b = torch.arange(40), STARTS.long()[:, None], ENDS.long()[:, None]
    exact = (x.double() * SEEN[seen](m, a, b)).sum(1)
    sizes = {"b": 4, "m": 40}
    (eager,) = run_eager(cascade, data, sizes, {}, torch.float32).values()
    torch.testing.assert_close(eager.double(), exact, rtol=1e-5, atol=1e-5)
    problem = Problem("cascade", str(cascade), sizes, {"A": "int32", "B": "int32", "X": "fp32", "Z": "fp32"})
    for role in (Role("loop", 16), Role(None, 64)):
        case = Case(cascade, problem, Schedule(emitter, (("b", Role("grid", None)), ("m", role))))
        known = data | {"Z": torch.full((4,), math.nan)}
        execute(case.kernel, [known[a.name] for a in case.kernel.arguments])
        torch.testing.assert_close(known["Z"].double(), exact, rtol=1e-5, atol=1e-5)
