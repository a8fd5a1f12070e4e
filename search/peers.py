"""Other people's implementations, to be timed in the same run: PyTorch's own, by backend.

The first part of this file knows nothing of workloads; `attention_peers` names those that compute attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


def attention_peers(device: str, causal: str | None, names: tuple[str, ...] | None = None) -> list[Peer]:
    """PyTorch's backends for attention on a device ("cpu", "cuda"); `causal` as the workload's.

    Raises ValueError for a name that is not in BACKENDS.
    """
    chosen = ON_DEVICE[torch.device(device).type] if names is None else names
    for name in chosen:
        if name not in BACKENDS:
            raise ValueError(f"a peer is one of {list(BACKENDS)}, but got {name!r}")
    return [Peer(n, f"{__name__}:sdpa", {"backend": n, "causal": causal}) for n in chosen]


def sdpa(
    problem: Problem, inputs: Mapping[str, Tensor], *, backend: str, causal: str | None
) -> Callable[[], dict[str, Tensor]]:
    """PyTorch's scaled_dot_product_attention on Q, K, V, with one backend or PyTorch's own choice."""
    q, k, v = (inputs[name] for name in "QKV")
    (name,) = Cascade.parse(problem.cascade).outputs
    grouped = q.ndim == 5
    shape = (*q.shape[:-1], v.shape[-1])
    flat = q.flatten(1, 2) if grouped else q
    mask = None
    if causal == "lower_right" and q.shape[-2] != k.shape[-2]:
        rows, columns = (torch.arange(t.shape[-2], device=q.device) for t in (q, k))
        mask = columns[None, :] <= rows[:, None] + (len(columns) - len(rows))
    is_causal = causal is not None and mask is None
    scale, only = problem.params["scale"], BACKENDS[backend]

    def attend() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            flat, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=grouped
        )

    def run() -> dict[str, Tensor]:
        if only is None:
            return {name: attend().view(shape)}
        with sdpa_kernel(only):
            return {name: attend().view(shape)}

    return run
