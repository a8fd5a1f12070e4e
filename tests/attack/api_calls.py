"""Drawn calls of the public functions, benign and hostile: each is right against float64, or refused in one line.

    python tests/attack/api_calls.py --calls 500 --seed 0

prints what became of them, as JSON, and ends with 1 where one was neither. A call that takes more than `--limit`
seconds ends the process with a traceback of where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import math
import random
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import eintune
from eintune.kernels.launch.launch import LaunchError

REFUSED = object()
"""What a hostile argument means, where nothing else may come of it."""
LONGEST = 10.0
"""Seconds that two calls may take, of which the first may derive."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}


@dataclass
class Call:
    """One drawn call. run: makes it. want: the exact answer; REFUSED where there is none."""

    words: str
    run: Callable[[], Any]
    want: Any
    dtype: torch.dtype = torch.float32


@dataclass
class Counts:
    """What became of all calls."""

    right: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


# ---- what is exact


def exact(q: Tensor, k: Tensor, v: Tensor, causal: Any, scale: float | None, given: dict[str, Any]) -> Any:
    """Attention with modifiers as it is documented, in float64."""
    heads, rows, keys = q.shape[1], q.shape[2], k.shape[2]
    q, k, v = q.double(), *(t.double().repeat_interleave(heads // k.shape[1], 1) for t in (k, v))
    s = q @ k.mT * (1 / math.sqrt(q.shape[3]) if scale is None else float(scale))
    b, h, p, m = (torch.arange(n).view([-1 if i == a else 1 for a in range(4)]) for i, n in enumerate(s.shape))
    aligned = p + keys - rows if causal == "lower_right" else p
    per_head = {n: given[n].double()[:, None, None] for n in ("head_scale", "alibi", "sinks") if _is_tensor(given, n)}
    s = s * per_head["head_scale"] if "head_scale" in per_head else s
    s = given["softcap"] * torch.tanh(s / given["softcap"]) if "softcap" in given else s
    s = s + per_head["alibi"] * (m - aligned) if "alibi" in per_head else s
    s = s + given["bias"].double() if "bias" in given else s
    s = s + given["relative_bias"].double()[h, p - m + keys - 1] if "relative_bias" in given else s
    s = given["score_mod"](s, b, h, p, m) if "score_mod" in given else s
    seen = torch.ones_like(s, dtype=torch.bool)
    if causal and "prefix" not in given:
        seen &= m <= aligned
    if "window" in given:
        seen &= aligned - m < given["window"]
        seen &= (m - aligned < given["window"]) if given.get("window_both") else True
    if "prefix" in given:
        seen &= (m <= aligned) | (m < given["prefix"])
    if "documents" in given:
        of_q, of_k = given["documents"] if isinstance(given["documents"], tuple) else (given["documents"],) * 2
        seen &= of_q.expand(q.shape[0], -1)[:, None, :, None] == of_k.expand(q.shape[0], -1)[:, None, None]
    seen = seen & given["mask"] if "mask" in given else seen
    seen = seen & given["mask_mod"](b, h, p, m) if "mask_mod" in given else seen
    s = s.masked_fill(~seen, -math.inf)
    if given.get("sigmoid"):
        return torch.sigmoid(s) @ v
    sink = per_head["sinks"].expand(*s.shape[:3], 1) if "sinks" in per_head else s[..., :0]
    whole = torch.cat([s, sink], -1)
    empty = (whole == -math.inf).all(-1, keepdim=True)
    out = torch.softmax(whole, -1).masked_fill(empty, 0.0)[..., :keys] @ v  # a score of inf leaves no numbers
    return (out, torch.logsumexp(whole, -1)) if given.get("return_lse") else out


def _is_tensor(given: dict[str, Any], name: str) -> bool:
    return isinstance(given.get(name), Tensor)


# ---- what is drawn


class Draw:
    """Tensors, numbers and functions, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.box, self.holder = [1.0], SimpleNamespace(number=1.0, whole=2)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.laid_out(torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype))

    def laid_out(self, t: Tensor) -> Tensor:
        """The same numbers, somewhere else in memory."""
        match self.random.randrange(5):
            case 0 if t.ndim > 1:
                return t.mT.contiguous().mT
            case 1:
                return torch.stack([t, t], -1)[..., 1]
            case 2 if t.ndim:
                return torch.cat([t.new_zeros(3), t.flatten()])[3:].view(t.shape)
            case 3 if t.ndim > 2:
                return t[:, :1].expand_as(t)
            case _:
                return t

    def score_mod(self, heads: int) -> Callable[..., Any]:
        slopes, other = ((self.tensor(heads) * 64).round() / 64 for _ in range(2))  # exact times a position
        x = self.random.choice([0.5, 1.25, -2.0, 3.0])
        both = self.random.choice([slopes, other])
        self.box[0] = self.holder.number = x
        return self.random.choice([
            lambda s, b, h, p, m: s * x,
            lambda s, b, h, p, m: s + slopes[h] * (m - p),
            lambda s, b, h, p, m: s * slopes[h] + both[h],
            lambda s, b, h, p, m: torch.where(p - m < 3, s, -x),
            lambda s, b, h, p, m: s * self.box[0],
            lambda s, b, h, p, m: torch.tanh(s * self.holder.number) * x,
        ])  # fmt: skip

    def mask_mod(self, batch: int, rows: int, keys: int) -> Callable[..., Any]:
        of_q = torch.randint(0, 3, (batch, rows), generator=self.generator)
        of_k = torch.randint(0, 3, (batch, keys), generator=self.generator)
        n = self.holder.whole = self.random.randint(1, 6)
        return self.random.choice([
            lambda b, h, p, m: p - m < n,
            lambda b, h, p, m: (m <= p) | (m < n),
            lambda b, h, p, m: of_q[b, p] == of_k[b, m],
            lambda b, h, p, m: (m <= p) & (of_k[b, m] > 0),
            lambda b, h, p, m: p // n == m // n,
            lambda b, h, p, m: m < self.holder.whole,
        ])  # fmt: skip

    def modifiers(self, batch: int, heads: int, rows: int, keys: int) -> dict[str, Any]:
        """Up to three of them."""
        length = (batch, rows), (batch, keys)
        broadcast = [(rows, keys), (heads, 1, keys), (batch, 1, 1, keys)]
        every: dict[str, Callable[[], Any]] = {
            "head_scale": lambda: self.tensor(heads),
            "softcap": lambda: self.random.choice([1.5, 20, 50.0]),
            "alibi": lambda: self.tensor(heads),
            "bias": lambda: self.hidden(self.tensor(*self.random.choice(broadcast))),
            "relative_bias": lambda: self.tensor(heads, rows + keys - 1),
            "score_mod": lambda: self.score_mod(heads),
            "window": lambda: self.random.randint(1, 2 * keys),
            "prefix": lambda: self.random.randint(1, 2 * keys),
            "documents": lambda: tuple(torch.randint(0, 3, n, generator=self.generator) for n in length),
            "mask": lambda: torch.rand(rows, keys, generator=self.generator) > 0.3,
            "mask_mod": lambda: self.mask_mod(batch, rows, keys),
            "sinks": lambda: self.tensor(heads),
            "return_lse": lambda: True,
        }
        names = self.random.sample(list(every), self.random.choice([0, 1, 1, 2, 2, 3]))
        return {n: every[n]() for n in every if n in names}

    def hidden(self, t: Tensor) -> Tensor:
        return t.masked_fill(t > 1.5, -math.inf) if self.random.random() < 0.5 else t


def benign(draw: Draw) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """Tensors and arguments of `eintune.attention` that it takes."""
    r = draw.random
    batch, kv, groups, rows, keys = (
        r.choice([1, 2]),
        r.choice([1, 2]),
        r.choice([1, 1, 3]),
        r.randint(1, 14),
        r.randint(1, 14),
    )
    dtype = r.choice(list(TOLERANCE))
    e, f = r.choice([4, 8, 16]), r.choice([4, 8])
    tensors = tuple(
        draw.tensor(*shape, dtype=dtype)
        for shape in ((batch, kv * groups, rows, e), (batch, kv, keys, e), (batch, kv, keys, f))
    )
    given = draw.modifiers(batch, kv * groups, rows, keys)
    given["causal"] = r.choice([False, False, True, "lower_right"])
    given["scale"] = r.choice([None, None, 0.3, 1])
    return tensors, given  # type: ignore[return-value]


class Subclass(Tensor):
    """Another library's."""


def odd_tensors(t: Tensor) -> list[tuple[str, Any]]:
    """What stands where a tensor should; all are refused."""
    return [
        ("sparse", t.to_sparse()), ("mkldnn", t.float().to_mkldnn()), ("meta", t.to("meta")), ("None", None),
        ("nested", torch.nested.nested_tensor([t[0], t[0]])), ("subclass", t.as_subclass(Subclass)), ("text", "q"),
        ("zeros", torch._efficientzerotensor(t.shape)), ("negated", torch.complex(t.float(), t.float()).conj().imag),
        ("int", t.int()), ("complex", torch.complex(t.float(), t.float())), ("list", t.tolist()), ("number", 3.0),
        ("five axes", t[None]), ("array", t.float().numpy()),
        ("a head too many", torch.cat([t, t, t[:, :1]], 1)), ("bools", t > 0), ("quantised",
        torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)),
    ]  # fmt: skip


def _broken(s: Any, *positions: Any) -> Any:
    raise RuntimeError("several\nlines")


HOSTILE: list[tuple[str, Any, Any]] = [
    ("scale", 10**400, REFUSED), ("scale", "x", REFUSED), ("scale", math.nan, REFUSED), ("scale", True, REFUSED),
    ("scale", torch.tensor(0.5), 0.5), ("scale", 1e300, REFUSED), ("scale", [1], REFUSED), ("scale", -0.0, -0.0),
    ("causal", "bottom", REFUSED), ("causal", [True], REFUSED), ("causal", 2, REFUSED), ("causal", None, None),
    ("window", 10**20, REFUSED), ("window", 2**31 - 1, 2**31 - 1), ("window", 0, REFUSED), ("window", -3, REFUSED),
    ("window", 2.5, REFUSED), ("window", True, REFUSED), ("window", "3", REFUSED), ("window", {}, REFUSED),
    ("prefix", 10**5000, REFUSED), ("prefix", 2**31 - 1, 2**31 - 1), ("prefix", torch.tensor(3), REFUSED),
    ("softcap", 0, REFUSED), ("softcap", 10**400, REFUSED), ("softcap", math.inf, REFUSED), ("softcap", "x", REFUSED),
    ("softcap", torch.ones(3, 3), REFUSED), ("softcap", {}, REFUSED), ("softcap", 1j, REFUSED),
    ("alibi", 3, REFUSED), ("alibi", torch.ones(7), REFUSED), ("alibi", "x", REFUSED), ("alibi", None, None),
    ("bias", torch.ones(3, 5, 7, 9, 11), REFUSED), ("bias", torch.ones(1, 1), torch.ones(1, 1)),
    ("bias", [1.0], REFUSED),
    ("bias", torch.ones(1, 1).double(), torch.ones(1, 1)), ("bias", torch.ones(1, 1).int(), REFUSED),
    ("bias", torch.nn.Parameter(torch.ones(1, 1)), torch.ones(1, 1)), ("bias", torch.ones(1, 1).to_sparse(), REFUSED),
    ("mask", torch.ones(1, 1).bool(), torch.ones(1, 1).bool()), ("mask", torch.ones(1, 1), REFUSED),
    ("mask", 1, REFUSED),
    ("documents", (1, 2), REFUSED), ("documents", "ab", REFUSED), ("documents", torch.ones(3), REFUSED),
    ("documents", [None, None], REFUSED), ("sinks", torch.ones(9, 9), REFUSED), ("sinks", {}, REFUSED),
    ("relative_bias", torch.ones(2, 2), REFUSED), ("relative_bias", True, REFUSED),
    ("sigmoid", "yes", REFUSED), ("return_lse", 3, REFUSED), ("colour", 1, REFUSED), ("window_both", 1, REFUSED),
    ("score_mod", 3, REFUSED), ("score_mod", torch.tanh, REFUSED), ("score_mod", _broken, REFUSED),
    ("score_mod", lambda s, b, h, p, m: s if s > 0 else -s, REFUSED), ("score_mod", lambda: 0, REFUSED),
    ("score_mod", lambda s, b, h, p, m: s * 10**400, REFUSED), ("score_mod", lambda s, b, h, p, m: None, REFUSED),
    ("score_mod", lambda s, b, h, p, m: eval("s * 2"), lambda s, b, h, p, m: s * 2),
    ("score_mod", lambda s, b, h, p, m: torch.randn(3)[h] * s, REFUSED), ("mask_mod", lambda b, h, p, m: 3, REFUSED),
    ("mask_mod", lambda b, h, p, m: p - m < 10**20, REFUSED), ("mask_mod", lambda b, h, p, m: 1 / 0, REFUSED),
    ("mask_mod", lambda b, h, p, m: p * 2**40 < m, REFUSED), ("mask_mod", "x", REFUSED),
]  # fmt: skip
"""Argument, what is given for it, and what that means."""

TEXTS = [
    "",
    "Zm",
    "Zm,n = ",
    "Zm = Am,m",
    "Zm = Am :: nothing",
    "Zm = \x00",
    "Zm = foo(Am)",
    "é" * 50,
    "Zm = Am * (" * 30,
]
SIZES: list[Any] = [{"n": 10**20}, {"n": -1}, {"n": "x"}, {3: 3}, 3, {}]
CASCADES: list[tuple[str, Callable[..., Tensor]]] = [
    ("Zm,n = Ak,m * Bk,n", lambda a, b: a.mT @ b),
    ("Zm = Ak,m * Bk,n", lambda a, b: (a[:, :, None] * b[:, None]).sum((0, 2))),
    ("Zk,m = Ak,m + Bk,n :: \\/n max", lambda a, b: a + b.amax(1, keepdim=True)),
    ("Sm,n = Ak,m * Bk,n\nZm = e^(Sm,n * 0.1)", lambda a, b: torch.exp(a.mT @ b * 0.1).sum(1)),
]


def attention_call(draw: Draw) -> Call:
    tensors, given = benign(draw)
    words, want = "benign", None
    meant = dict(given)
    if draw.random.random() < 0.55:
        if draw.random.random() < 0.35:
            which = draw.random.randrange(3)
            shared = tensors[1].shape[1] == 1  # by any number of heads
            every = [o for o in odd_tensors(tensors[which]) if not (shared and o[0] == "a head too many")]
            name, odd = draw.random.choice(every)
            tensors = tuple(odd if i == which else t for i, t in enumerate(tensors))  # type: ignore[assignment]
            words, want = f"{'qkv'[which]} is {name}", REFUSED
        else:
            name, value, meaning = draw.random.choice(HOSTILE)
            given[name] = meant[name] = value
            words = f"{name} {type(value).__name__!s}"
            wide = isinstance(value, float) and value == 1e300 and tensors[0].dtype == torch.float64
            if meaning is REFUSED and not wide:  # float64 has that number
                want = REFUSED
            elif meaning is REFUSED:
                meant[name] = value
            else:
                meant[name] = meaning
                meant = {n: x for n, x in meant.items() if x is not None or n == "scale"}
    if want is not REFUSED:
        rest = {n: x for n, x in meant.items() if n not in ("causal", "scale")}
        want = exact(*tensors, meant.get("causal"), meant.get("scale"), rest)
    dtype = getattr(tensors[0], "dtype", torch.float32)
    return Call(f"attention: {words}, {sorted(given)}", lambda: eintune.attention(*tensors, **given), want, dtype)


def sdpa_call(draw: Draw) -> Call:
    r = draw.random
    lead = r.choice([(), (2,), (2, 3), (2, 2, 3)])
    rows, keys = r.randint(1, 9), r.randint(1, 9)
    q, k, v = draw.tensor(*lead, rows, 8), draw.tensor(*lead, keys, 8), draw.tensor(*lead, keys, 4)
    given: dict[str, Any] = {}
    if r.random() < 0.4:
        given["attn_mask"] = r.choice([draw.tensor(rows, keys) > 0, draw.hidden(draw.tensor(rows, keys))])
    elif r.random() < 0.5:
        given["is_causal"] = True
    wide = {n: x.double() if _is_tensor(given, n) and x.dtype != torch.bool else x for n, x in given.items()}
    want: Any = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), **wide).nan_to_num(
        0.0
    )
    hostile = [
        ("attn_mask", "x"), ("attn_mask", 3), ("attn_mask", draw.tensor(rows, keys).int()), ("dropout_p", 0.5),
        ("dropout_p", None), ("is_causal", "yes"), ("is_causal", None), ("scale", "x"), ("scale", 10**400),
        ("query", None), ("query", "q"), ("key", draw.tensor(3)), ("value", 5), ("key", k.to_sparse()),
    ]  # fmt: skip
    words = "benign"
    arguments = {"query": q, "key": k, "value": v, **given}
    if r.random() < 0.5:
        name, value = r.choice(hostile)
        arguments[name], words, want = value, f"{name} {type(value).__name__}", REFUSED
    return Call(f"sdpa: {words}", lambda: eintune.scaled_dot_product_attention(**arguments), want)


def compile_call(draw: Draw) -> Call:
    r = draw.random
    text, meaning = r.choice(CASCADES)
    a, b = draw.tensor(5, r.randint(1, 6)), draw.tensor(5, r.randint(1, 6))
    if r.random() < 0.5:
        return Call("compile: benign", lambda: eintune.compile(text)(a, b), meaning(a.double(), b.double()))
    hostile: list[tuple[str, Callable[[], Any]]] = [
        ("text", lambda: eintune.compile(r.choice(TEXTS))(a)),
        ("no text", lambda: eintune.compile(r.choice([None, 3, b"Zm = Am"]))),
        ("params", lambda: eintune.compile(text, params=r.choice([{"x": 10**400}, {"x": "y"}, [1], {"k": None}]))),
        ("param", lambda: eintune.compile("Zm = Am * x", params={"x": 10**400})(a[0])),
        (
            "sizes",
            lambda: eintune.compile("Zm,n = Am", sizes=r.choice([{"n": 10**20}, {"n": -1}, {"n": "x"}, 3]))(a[0]),
        ),
        ("dtype", lambda: eintune.compile(text, dtype=r.choice([[], "fp3", 3, torch.float32]))(a, b)),
        ("tensor", lambda: eintune.compile(text)(a, r.choice([None, "b", b.to_sparse(), b.to("meta"), b[0], b[:3]]))),
        ("surplus", lambda: eintune.compile(text)(a, b, a)),
        ("names", lambda: eintune.compile(text)(a, C=b)),
    ]
    words, run = r.choice(hostile)
    return Call(f"compile: {words}", run, REFUSED)


def kernel_call(draw: Draw) -> Call:
    """Of what makes a kernel without deriving: `Cascade.parse`, `read`, `analyse`, `generate_kernel` and `warm`."""
    r = draw.random
    text, meaning = r.choice(CASCADES)
    a, b = draw.tensor(5, r.randint(1, 6)), draw.tensor(5, r.randint(1, 6))
    cascade = eintune.Cascade.parse(text)
    sizes: dict[Any, Any] = {"k": 5, "m": a.shape[1], "n": b.shape[1]}
    if r.random() < 0.4:
        return Call(
            "generate_kernel: benign",
            lambda: eintune.generate_kernel(cascade, sizes, machine="cpu")(a, b),
            meaning(a.double(), b.double()),
        )
    odd: list[Any] = [None, 3, b"Zm = Am", ["Zm = Am"], object(), 0.5]
    lengths: list[Any] = [0, -1, 2.5, "4", True, 10**30, None, 2**31]
    hostile: dict[str, Callable[[], Any]] = {
        "parse": lambda: eintune.Cascade.parse(r.choice([*odd, *TEXTS[1:]])),
        "read": lambda: eintune.read(r.choice([*odd, "\0", "/dev/null"])),
        "analyse": lambda: eintune.analyse(r.choice([*odd, text])),
        "stream": lambda: eintune.analyse(cascade, r.choice(["z", 3, ["k"], ""])),
        "no graph": lambda: eintune.generate_kernel(r.choice([*odd, text]), sizes),
        "sizes": lambda: eintune.generate_kernel(cascade, {**sizes, "k": r.choice(lengths)}),
        "more sizes": lambda: eintune.generate_kernel(cascade, r.choice([3, {}, {**sizes, "z": 3}, {**sizes, 3: 3}])),
        "params": lambda: eintune.generate_kernel(cascade, sizes, params=r.choice([3, [1], {"x": 1}, {3: "x"}])),
        "dtype": lambda: eintune.generate_kernel(cascade, sizes, dtype=r.choice([None, "fp3", 3, [], torch.float32])),
        "emitter": lambda: eintune.generate_kernel(cascade, sizes, emitter=r.choice(["x", 3, [], "Torch"])),
        "machine": lambda: eintune.generate_kernel(cascade, sizes, machine=r.choice(["x", 3, "../h200", [], ""])),
        "tensor": lambda: eintune.generate_kernel(cascade, sizes, machine="cpu")(
            a, r.choice([None, "b", b.to_sparse(), b.to("meta"), b[0], b[:3], b.int(), b.as_subclass(Subclass)])
        ),
        "gradient": lambda: eintune.generate_kernel(cascade, sizes, machine="cpu")(a, b.clone().requires_grad_()),
        "names": lambda: eintune.generate_kernel(cascade, sizes, machine="cpu")(a, C=b),
        "warm": lambda: eintune.warm(r.choice([3, [], b"x"]), machine="h200"),
        "warm machine": lambda: eintune.warm(machine=r.choice(["", "x", 3, "cpu", "wormhole", "../h200", []])),
        "warm cache": lambda: eintune.warm("nothing", machine="h200", cache=r.choice([3, [], "\0"])),
    }
    words = r.choice(list(hostile))
    return Call(f"{words} of a kernel: hostile", hostile[words], REFUSED)


# ---- what becomes of them


def tried(call: Call, counts: Counts) -> None:
    """Make the call, twice, and judge it."""
    counts.kinds[call.words.split(":")[0]] += 1
    for _ in range(2):  # as the first of its kind, and as one that is ready
        try:
            with torch.no_grad() if call.want is not REFUSED else contextlib.nullcontext():
                made = call.run()
        except (ValueError, LaunchError) as error:
            if call.want is not REFUSED:
                counts.faults.append(f"{call.words}: refused: {error}")
            elif "\n" in str(error) or len(str(error)) > 600 or not str(error):
                counts.faults.append(f"{call.words}: not one line: {error!r}"[:300])
            else:
                counts.refused += 1
                return
            return
        except Exception as error:
            counts.faults.append(f"{call.words}: {type(error).__name__}: {error}"[:300])
            return
        if call.want is REFUSED:
            counts.faults.append(f"{call.words}: was taken")
            return
        if fault := differs(made, call.want, TOLERANCE.get(call.dtype, 0.0)):
            counts.faults.append(f"{call.words}: {fault}")
            return
    counts.right += 1


def differs(made: Any, want: Any, tolerance: float) -> str:
    """How far off an answer is, "" where it is right."""
    if isinstance(want, tuple):
        return "; ".join(filter(None, (differs(m, w, tolerance) for m, w in zip(made, want, strict=True))))
    if made.shape != want.shape:
        return f"shape {tuple(made.shape)}, not {tuple(want.shape)}"
    if not want.numel():
        return ""
    finite = want[torch.isfinite(want)]
    scale = 1.0 + (float(finite.abs().max()) if finite.numel() else 0.0)
    close = torch.isclose(made.double(), want, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return "" if bool(close.all()) else f"wrong by {float((made.double() - want).nan_to_num(9.9).abs().max()):.3g}"


CALLS = [attention_call, attention_call, attention_call, sdpa_call, compile_call, kernel_call]


def attacked(seed: int, calls: int, limit: float) -> Counts:
    counts, draw = Counts(), Draw(seed)
    for n in range(calls):
        call = draw.random.choice(CALLS)(draw)
        call.words = f"{call.words} (#{n} of seed {seed})"
        print(call.words, file=sys.stderr, flush=True)  # what a process was at when it is ended
        faulthandler.dump_traceback_later(limit, exit=True)
        started = time.process_time()
        tried(call, counts)
        faulthandler.cancel_dump_traceback_later()
        spent = time.process_time() - started  # its own: others may be at work on this machine
        counts.kinds["slowest, ms"] = max(counts.kinds["slowest, ms"], int(1000 * spent))
        counts.faults += [f"{call.words}: took {spent:.1f} s"] if spent > LONGEST else []
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds a call may take")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("eintune").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    counts = attacked(options.seed, options.calls, options.limit)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        json.dumps(
            {
                "right": counts.right,
                "refused": counts.refused,
                "peak MiB": peak,
                **counts.kinds,
                "faults": counts.faults,
            }
        )
    )
    return 1 if counts.faults else 0


if __name__ == "__main__":
    sys.exit(main())
