"""Other people's implementations, to be timed in the same run: PyTorch's own, by backend, and FlashAttention.

`attention_peers` names those that compute attention; each factory here is called in the measuring worker with the
problem and its inputs (see `tasks.Peer`) and raises where the peer cannot serve them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..space.cascade import Cascade
from ..space.schedule import Problem
from .tasks import Peer

BACKENDS: dict[str, SDPBackend | None] = {
    "sdpa": None,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
ON_DEVICE = {"cuda": ("sdpa", "sdpa-flash", "sdpa-cudnn"), "cpu": ("sdpa",)}
"""Those that a tuned kernel is always compared with."""
RECOMPILES = 256
"""Shapes a process may compile one function for; beyond PyTorch's own limit it silently runs uncompiled."""

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """A peer: the factory in this module, its options, the device it needs ("" for any) and the module."""

    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    module: str = ""

    @property
    def place(self) -> str:
        """Where the factory is, as a `Peer` says it."""
        return f"{__name__}:{self.factory}"

    def missing(self, device: str) -> str:
        """Why this peer cannot run on a device at all, or ""."""
        if self.device and self.device != device:
            return f"needs a {self.device.upper()} GPU"
        return _not_installed(self.module) if self.module else ""


_ON_GPUS = {"sdpa-cudnn": "cuda", "sdpa-efficient": "cuda"}
PEERS: dict[str, Kind] = {
    **{name: Kind("sdpa", {"backend": name}, device=_ON_GPUS.get(name, "")) for name in BACKENDS},
    "flash-attn-4": Kind("flash_attention_4", device="cuda", module="flash_attn.cute"),
    "flex": Kind("flex", {"mode": None}),
    "flex-max-autotune": Kind("flex", {"mode": "max-autotune-no-cudagraphs"}),
    "compiled": Kind("compiled"),
    "eager": Kind("eager"),
}
"""Every peer by name. "eager" is the definition in PyTorch's operators, "compiled" the same under torch.compile."""


class Unavailable(RuntimeError):
    """A peer does not take this problem; the message says why."""


def attention_peers(device: str, causal: str | None, names: tuple[str, ...] | None = None) -> list[Peer]:
    """Peers for attention on a device ("cpu", "cuda"), without `names` the few of ON_DEVICE; `causal` as the
    workload's.

    Raises ValueError for a name that is not in PEERS.
    """
    chosen = ON_DEVICE[torch.device(device).type] if names is None else names
    for name in chosen:
        if name not in PEERS:
            raise ValueError(f"a peer is one of {list(PEERS)}, but got {name!r}")
    return [Peer(n, PEERS[n].place, {**PEERS[n].options, "causal": causal}) for n in chosen]


def missing_peers(names: Iterable[str], device: str) -> dict[str, str]:
    """Those that cannot run on a device at all, with the reason."""
    return {name: reason for name in names if (reason := PEERS[name].missing(device))}


def _not_installed(module: str) -> str:
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    return "" if there else f"not installed (no module {module})"


# ---- what all factories share


@dataclass(frozen=True)
class Tensors:
    """Q, K, V with all query heads on one axis; what the output is called and looks like."""

    q: Tensor
    k: Tensor
    v: Tensor
    name: str
    shape: tuple[int, ...]
    grouped: bool

    @classmethod
    def of(cls, problem: Problem, inputs: Mapping[str, Tensor]) -> Tensors:
        q, k, v = (inputs[name] for name in "QKV")
        (name,) = Cascade.parse(problem.cascade).outputs
        grouped = q.ndim == 5
        return cls(q.flatten(1, 2) if grouped else q, k, v, name, (*q.shape[:-1], v.shape[-1]), grouped)

    def hidden(self, causal: str | None) -> Tensor | None:
        """True where a query must not see a key, (queries, keys); None where all are seen."""
        if causal is None:
            return None
        rows, columns = (torch.arange(t.shape[-2], device=self.q.device) for t in (self.q, self.k))
        last = len(columns) - len(rows) if causal == "lower_right" else 0
        return columns[None, :] > rows[:, None] + last


# ---- PyTorch's operators


def eager(problem: Problem, inputs: Mapping[str, Tensor], *, causal: str | None) -> Callable[[], Outputs]:
    """The definition in PyTorch's operators, one by one: all scores are in memory."""
    t = Tensors.of(problem, inputs)
    hidden, scale = t.hidden(causal), problem.params["scale"]
    return lambda: {t.name: definition(t.q, t.k, t.v, hidden, scale).view(t.shape)}


def compiled(problem: Problem, inputs: Mapping[str, Tensor], *, causal: str | None) -> Callable[[], Outputs]:
    """The same under torch.compile (which may recognise it and call an SDPA backend)."""
    _allow_recompiling()
    t = Tensors.of(problem, inputs)
    hidden, scale = t.hidden(causal), problem.params["scale"]
    run = torch.compile(definition, dynamic=False)
    return lambda: {t.name: run(t.q, t.k, t.v, hidden, scale).view(t.shape)}


def definition(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T) v over (b, heads, rows, d); key heads are repeated where there are fewer."""
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = (q @ k.mT) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    return torch.softmax(scores, -1) @ v


def sdpa(problem: Problem, inputs: Mapping[str, Tensor], *, backend: str, causal: str | None) -> Callable[[], Outputs]:
    """PyTorch's scaled_dot_product_attention on Q, K, V, with one backend or PyTorch's own choice."""
    t = Tensors.of(problem, inputs)
    hidden = t.hidden(causal) if causal == "lower_right" and t.q.shape[-2] != t.k.shape[-2] else None
    mask = None if hidden is None else ~hidden
    is_causal = causal is not None and mask is None
    scale, only = problem.params["scale"], BACKENDS[backend]

    def attend() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            t.q, t.k, t.v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=t.grouped
        )

    def run() -> Outputs:
        if only is None:
            return {t.name: attend().view(t.shape)}
        with sdpa_kernel(only):
            return {t.name: attend().view(t.shape)}

    return _with_reasons(run)


def _with_reasons(run: Callable[[], Outputs]) -> Callable[[], Outputs]:
    """`run`, after one call: PyTorch says in warnings why a backend does not take its arguments.

    Raises Unavailable with what it said.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run()
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            told = [str(w.message).partition(" (Triggered internally")[0].strip() for w in said]
            reasons = [text for text in told if not text.endswith("because:")]
            raise Unavailable("; ".join(dict.fromkeys(reasons)) or str(error)) from None
    return run


# ---- FlexAttention


def flex(
    problem: Problem, inputs: Mapping[str, Tensor], *, mode: str | None, causal: str | None
) -> Callable[[], Outputs]:
    """FlexAttention compiled for these shapes; hidden keys as a block mask, so that whole blocks are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    _allow_recompiling()
    t = Tensors.of(problem, inputs)
    queries, keys = t.q.shape[-2], t.k.shape[-2]
    last = keys - queries if causal == "lower_right" else 0

    def seen(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return column <= row + last

    mask = create_block_mask(seen, None, None, queries, keys, device=t.q.device.type) if causal else None
    attend = torch.compile(flex_attention, dynamic=False, mode=mode)
    scale = problem.params["scale"]

    def run() -> Outputs:
        made = attend(t.q, t.k, t.v, block_mask=mask, scale=scale, enable_gqa=t.grouped)
        assert isinstance(made, Tensor)
        return {t.name: made.view(t.shape)}

    return run


def _allow_recompiling() -> None:
    """Beyond the limit torch.compile falls back to eager, which would be timed as if it were compiled."""
    config: Any = importlib.import_module("torch._dynamo.config")
    config.recompile_limit = max(config.recompile_limit, RECOMPILES)
    config.fail_on_recompile_limit_hit = True


# ---- other libraries


def flash_attention_4(problem: Problem, inputs: Mapping[str, Tensor], *, causal: str | None) -> Callable[[], Outputs]:
    """FlashAttention's CuTe kernels, on tensors in their own layout (batch, rows, heads, d).

    Raises Unavailable where its one kind of causal mask (the last query sees all keys) is not the wanted one.
    """
    t = Tensors.of(problem, inputs)
    if causal == "top_left" and t.q.shape[-2] != t.k.shape[-2]:
        raise Unavailable("its causal mask is aligned to the last query, but the problem's to the first")
    attend: Any = importlib.import_module("flash_attn.cute").flash_attn_func
    q, k, v = (x.transpose(1, 2).contiguous() for x in (t.q, t.k, t.v))
    scale = problem.params["scale"]

    def run() -> Outputs:
        made = attend(q, k, v, softmax_scale=scale, causal=causal is not None)
        out: Tensor = made[0] if isinstance(made, tuple) else made
        heads_first = out.transpose(1, 2)
        # a view, also of heads that came as groups
        return {t.name: heads_first.reshape(t.shape) if t.grouped else heads_first}

    return run
