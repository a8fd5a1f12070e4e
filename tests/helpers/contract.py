"""What `eintune.attention` promises of any layout in memory and any combination of arguments, by one emitter.

52 layouts of Q, K and V, and 120 combinations of what changes scores, what is seen, what is returned, dtypes and
shapes: every pair of a change and a filter stands among them. Each is compared with a definition in float64 that is
written down here. `test_contract.py` runs them by PyTorch; as a program, started with TRITON_INTERPRET=1, they run by
Triton.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kernel_forms import derived, power
from torch import Tensor

import eintune
from eintune.kernels.serve import serving
from eintune.kernels.serve.choices import KernelChoice, make_kernel
from eintune.space.cascade.problem import Problem
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

NEAR = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}

Triple = tuple[Tensor, Tensor, Tensor]
Layout = Callable[[Tensor], Tensor]
Score = Callable[[Tensor], Tensor]

# ---- layouts: the same numbers, or numbers that a layout repeats


def in_order(*order: int) -> Layout:
    """The axes lie in memory in this order."""
    back = [order.index(i) for i in range(4)]
    return lambda t: t.permute(order).contiguous().permute(back)


def sliced(axis: int, step: int) -> Layout:
    """A part of a larger tensor, from its second element along an axis, every so many."""

    def lay(t: Tensor) -> Tensor:
        shape = list(t.shape)
        shape[axis] = shape[axis] * step + 1
        return (
            torch.full(shape, math.nan, dtype=t.dtype)
            .narrow(axis, 1, shape[axis] - 1)[(slice(None),) * axis + (slice(None, None, step),)]
            .copy_(t)
        )

    return lay


def offset(elements: int, padding: int = 0) -> Layout:
    """So many elements into its storage, rows so much longer than they are."""

    def lay(t: Tensor) -> Tensor:
        *outer, d = t.shape
        row = d + padding
        storage = torch.full((elements + math.prod(outer) * row,), math.nan, dtype=t.dtype)
        return storage[elements:].view(*outer, row)[..., :d].copy_(t)

    return lay


def expanded(axis: int) -> Layout:
    """One element along the axis, with stride 0."""
    return lambda t: t.narrow(axis, 0, 1).expand(t.shape)


def overlapping(t: Tensor) -> Tensor:
    """Rows that share elements: each begins three elements after the one before."""
    b, h, s, d = t.shape
    return t.reshape(-1)[: h * s * 3 + d].as_strided((b, h, s, d), (3, s * 3, 3, 1))


def of_single_elements(t: Tensor) -> Tensor:
    """An axis of one element, of a stride that is no multiple of anything."""
    return t[:, :1].as_strided((t.shape[0], 1, *t.shape[2:]), (t.stride(0), 7, *t.stride()[2:]))


def real_parts(t: Tensor) -> Tensor:
    """Every other element: the real parts of complex numbers."""
    return torch.stack([t, torch.full_like(t, math.nan)], -1)[..., 0]


def each(lay: Layout) -> Callable[[Triple], Triple]:
    return lambda qkv: (lay(qkv[0]), lay(qkv[1]), lay(qkv[2]))


def stacked(position: int, order: Sequence[int], only: int = 3) -> Callable[[Triple], Triple]:
    """Views of one tensor that holds the last so many of Q, K and V along a new axis, the others in some order."""

    def lay(qkv: Triple) -> Triple:
        alone, together = qkv[: 3 - only], [t.permute(*order) for t in qkv[3 - only :]]
        whole = torch.stack(together, position)
        back = [order.index(i) for i in range(4)]
        q, k, v = (*alone, *(t.permute(back) for t in whole.unbind(position)))
        return q, k, v

    return lay


def mixed(qkv: Triple) -> Triple:
    return qkv[0], in_order(0, 1, 3, 2)(qkv[1]), in_order(2, 0, 1, 3)(qkv[2])


LAYOUTS: dict[str, Callable[[Triple], Triple]] = {
    **{"in order " + "".join("bhsd"[i] for i in o): each(in_order(*o)) for o in itertools.permutations(range(4))},
    **{f"every {n} along {'bhsd'[i]}": each(sliced(i, n)) for i in range(4) for n in (1, 2)},
    **{f"from element {n}": each(offset(n)) for n in (1, 3, 7, 8)},
    **{f"rows {n} longer": each(offset(0, n)) for n in (1, 8)},
    **{f"expanded along {'bhsd'[i]}": each(expanded(i)) for i in range(4)},
    **{f"packed at {n} of {''.join('bhsd'[i] for i in o)}": stacked(n, o) for n, o in (
        (2, (0, 2, 1, 3)), (3, (0, 2, 1, 3)), (3, (0, 1, 2, 3)), (0, (0, 1, 2, 3)),
    )},
    **{f"keys and values at {n}": stacked(n, (0, 2, 1, 3), only=2) for n in (0, 2)},
    "overlapping": each(overlapping),
    "of one head": each(of_single_elements),
    "real parts": each(real_parts),
    "mixed": mixed,
}  # fmt: skip


# ---- combinations


@dataclass(frozen=True)
class Combination:
    """What is asked for. change: what scores become. seen: what hides keys. gives: what becomes of scores."""

    change: str
    seen: str
    gives: str
    dtype: torch.dtype
    rows: int
    keys: int
    groups: int

    def __str__(self) -> str:
        heads = "shared heads" if self.groups > 1 else "heads"
        return f"{self.change}, {self.seen}, {self.gives}, {self.dtype}, {self.rows} x {self.keys}, {heads}"


CHANGES = (
    "plain", "softcap", "slopes", "standard slopes", "bias", "bias of -inf", "relative bias", "head scale", "function",
)  # fmt: skip
FILTERS = (
    "all", "causal", "lower right", "window", "window to both sides", "prefix", "documents", "mask", "empty rows",
    "function",
)  # fmt: skip
GIVES = ("softmax", "log-sum-exp", "sinks", "sinks, log-sum-exp", "sigmoid")
SIZES = ((19, 19), (13, 21), (21, 13), (1, 21))


def combinations() -> list[Combination]:
    """Every change with every filter, and 30 more; what else there is in turn, each time shuffled."""
    drawn = random.Random(12)
    pairs = list(itertools.product(CHANGES, FILTERS))
    pairs += drawn.sample(pairs, 120 - len(pairs))
    turns = [_in_turn(drawn, kinds, len(pairs)) for kinds in (GIVES, tuple(NEAR), SIZES, (1, 3))]
    return [Combination(*pair, g, d, *sizes, n) for pair, g, d, sizes, n in zip(pairs, *turns, strict=True)]


def _in_turn(drawn: random.Random, kinds: Sequence[Any], count: int) -> list[Any]:
    found = [kinds[i % len(kinds)] for i in range(count)]
    drawn.shuffle(found)
    return found


COMBINATIONS = combinations()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def operands(c: Combination, seed: int) -> Triple:
    def made(n: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator(seed + n), dtype=torch.float64).to(c.dtype)

    heads = 2 * c.groups
    return made(0, 2, heads, c.rows, 16), made(1, 2, 2, c.keys, 16), made(2, 2, 2, c.keys, 24)


def asked(c: Combination, seed: int) -> tuple[dict[str, Any], Score, Tensor]:
    """The arguments of a combination, and what they mean: scores changed, and (b, h, p, m) where a key is seen."""
    heads, stands = 2 * c.groups, torch.arange(c.rows)[:, None] + _shift(c)
    keys, rows = torch.arange(c.keys), torch.arange(c.rows)[:, None]
    each = torch.randn(heads, generator=generator(seed), dtype=torch.float64).float()
    wide = each.double()[:, None, None]
    arguments, change = _changed(c, seed, each, wide, rows, stands, keys)
    given, seen = _hidden(c, seed, rows, stands, keys)
    return {**arguments, **given}, change, seen


def _shift(c: Combination) -> int:
    return c.keys - c.rows if c.seen in ("lower right", "window to both sides") else 0


def _changed(
    c: Combination, seed: int, each: Tensor, wide: Tensor, rows: Tensor, stands: Tensor, keys: Tensor
) -> tuple[dict[str, Any], Score]:
    heads = len(each)
    bias = torch.randn(2, 1, c.rows, c.keys, generator=generator(seed + 1), dtype=torch.float64).to(c.dtype)
    match c.change:
        case "softcap":
            return {"softcap": 1.5}, lambda s: 1.5 * torch.tanh(s / 1.5)
        case "slopes":
            return {"alibi": each}, lambda s: s + wide * (keys - stands)
        case "standard slopes":
            slopes = {2: [2**-4, 2**-8], 6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]}[heads]
            return {"alibi": True}, lambda s: s + torch.tensor(slopes).double()[:, None, None] * (keys - stands)
        case "bias":
            return {"bias": bias}, lambda s: s + bias.double()
        case "bias of -inf":
            holes = bias.masked_fill(bias > 0.8, -math.inf)
            return {"bias": holes}, lambda s: s + holes.double()
        case "relative bias":
            table = torch.randn(heads, c.rows + c.keys - 1, generator=generator(seed + 2))
            return {"relative_bias": table}, lambda s: s + table.double()[:, rows - keys + c.keys - 1]
        case "head scale":
            return {"head_scale": each}, lambda s: s * wide
        case "function":
            return {
                "score_mod": lambda s, b, h, p, m: s + each[h] * (p - m) * 0.125
            }, lambda s: s + wide * (rows - keys) * 0.125
        case _:
            return {}, lambda s: s


def _hidden(c: Combination, seed: int, rows: Tensor, stands: Tensor, keys: Tensor) -> tuple[dict[str, Any], Tensor]:
    everywhere = torch.ones(1, 1, c.rows, c.keys, dtype=torch.bool)
    drawn = torch.rand(2, 1, c.rows, c.keys, generator=generator(seed + 3)) < 0.6
    match c.seen:
        case "causal":
            return {"causal": True}, everywhere & (keys <= rows)
        case "lower right":
            return {"causal": "lower_right"}, everywhere & (keys <= stands)
        case "window":
            return {"causal": True, "window": 5}, everywhere & (keys <= rows) & (rows - keys < 5)
        case "window to both sides":
            both = (keys <= stands) & (stands - keys < 4) & (keys - stands < 4)
            return {"causal": "lower_right", "window": 4, "window_both": True}, everywhere & both
        case "prefix":
            return {"prefix": 6}, everywhere & ((keys <= rows) | (keys < 6))
        case "documents":
            ids = [torch.arange(n).mul(3).floor_divide(n).expand(2, n) for n in (c.rows, c.keys)]
            kind = torch.int32 if seed % 2 else torch.int64
            same = ids[0][:, None, :, None] == ids[1][:, None, None, :]
            return {"documents": (ids[0].to(kind), ids[1].to(kind))}, everywhere & same
        case "mask":
            return {"mask": drawn}, drawn
        case "empty rows":
            some = drawn & (rows % 3 > 0)
            return {"mask": some}, some
        case "function":
            return {"mask_mod": lambda b, h, p, m: (p - m < 7) | (m < 2)}, everywhere & ((rows - keys < 7) | (keys < 2))
        case _:
            return {}, everywhere


def defined(c: Combination, qkv: Triple, change: Score, seen: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs and the logarithm of the softmax's denominator, in float64."""
    q, k, v = (t.double() for t in qkv)
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = change(q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
    if c.gives == "sigmoid":
        return torch.sigmoid(scores) @ v, scores
    shape = (*scores.shape[:-1], 1)
    whole = scores if sinks is None else torch.cat([scores, sinks.double()[:, None, None].expand(shape)], -1)
    lse = torch.logsumexp(whole, -1)
    weights = torch.exp(scores - lse[..., None]).masked_fill(~seen, 0.0).nan_to_num(0.0)
    return weights @ v, lse


def check_combination(number: int) -> str | None:
    """What is wrong with a combination; None for nothing."""
    c, seed = COMBINATIONS[number], 100 * number
    qkv = operands(c, seed)
    arguments, change, seen = asked(c, seed + 10)
    sinks = torch.randn(qkv[0].shape[1], generator=generator(seed + 50)) if "sinks" in c.gives else None
    arguments |= {"sinks": sinks} if sinks is not None else {}
    arguments |= {"return_lse": True} if "log-sum-exp" in c.gives else {}
    arguments |= {"sigmoid": True} if c.gives == "sigmoid" else {}
    made = eintune.attention(*qkv, **arguments)
    out, lse = made if isinstance(made, tuple) else (made, None)
    want, want_lse = defined(c, qkv, change, seen, sinks)
    return _far(out, want, c.dtype) or (None if lse is None else _far(lse, want_lse, c.dtype))


def check_layout(name: str, dtype: torch.dtype = torch.float32) -> str | None:
    """What is wrong with a layout; None for nothing."""
    c = Combination("plain", "causal", "softmax", dtype, 19, 21, 1)
    whole = operands(c, 7)
    qkv = LAYOUTS[name]((whole[0][..., :19, :], whole[1][..., :19, :], whole[2][..., :19, :16]))
    everywhere = torch.arange(19) <= torch.arange(19)[:, None]
    for _ in range(2):  # once to choose a kernel, once by what was chosen
        made = eintune.attention(*qkv, causal=True)
        want, _ = defined(c, qkv, lambda s: s, everywhere, None)
        if wrong := _far(made, want, dtype):
            return wrong
    return None


def _far(made: Tensor, want: Tensor, dtype: torch.dtype) -> str | None:
    near = NEAR[dtype]
    if torch.allclose(made.double(), want, rtol=near, atol=near):
        return None
    return f"off by {(made.double() - want).abs().nan_to_num(math.inf).max().item():.3g}"


# ---- by one emitter


def served_by(emitter: str, forms: str) -> Callable[..., Iterator[KernelChoice]]:
    """What stands for `choices`: one kernel a problem, of small tiles. forms: "defined", or one that is "derived"."""

    def choices(problem: Problem, device: torch.device, layout: str) -> Iterator[KernelChoice]:
        text = problem.cascade if forms == "defined" else str(derived(problem.cascade)[0])
        roles = {r: Role("grid", None) for r in "bhg"} | {"p": Role("grid", 16), "m": Role("loop", 16)}
        roles |= {r: Role(None, power(problem.sizes[r])) for r in "ef"}
        schedule = Schedule(emitter, tuple((r, role) for r, role in roles.items() if r in problem.sizes))
        yield KernelChoice(make_kernel(text, problem, schedule), "")

    return choices


def refuse(*_: object) -> Any:
    raise AssertionError("it ran by plain operators")


def wrong(emitter: str, layouts: int, combinations: int) -> dict[str, str]:
    """What is wrong, by the names of layouts and combinations, of every so many of them. Triton has no float64."""
    every = [n for n in range(0, 120, combinations) if emitter == "torch" or COMBINATIONS[n].dtype != torch.float64]
    found = {name: check_layout(name) for name in list(LAYOUTS)[::layouts]}
    found |= {str(COMBINATIONS[n]): check_combination(n) for n in every}
    return {name: why for name, why in found.items() if why}


def main(emitter: str, forms: str, layouts: str, combinations: str) -> None:
    """Prints `wrong` as JSON."""
    serving.choices, serving.by_operators = served_by(emitter, forms), refuse
    print(json.dumps(wrong(emitter, int(layouts), int(combinations))))


if __name__ == "__main__":
    main(*sys.argv[1:])
