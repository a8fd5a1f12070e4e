"""The peers that a tuned kernel is always compared with: those that compute the same problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eintune.search.measure.tasks import Peer

from .peers import ON_DEVICE, missing_peers, peers_of

if TYPE_CHECKING:
    from eintune.space.workloads.workload import Posed

ELSE = {"cuda": ("flex", "compiled", "eager"), "cpu": ("eager",)}
"""Of what no library has a kernel for: PyTorch as one writes it, and compiled."""


def tuning_peers(posed: Posed, device: str) -> list[Peer]:
    """PyTorch's own kernels for attention that is plain or causal, else PyTorch's operators.

    None for functions of the user's: they cannot be sent to another process.
    """
    from eintune.space.workloads.attention import Attention
    from eintune.space.workloads.builtin import WORKLOADS
    from eintune.space.workloads.function_modifiers import Function
    from eintune.space.workloads.modifiers import Causal

    about = posed.about
    if posed.problem.workload not in WORKLOADS and about is None:
        return []  # a stage of a gradient, say: no function of PyTorch's computes that alone
    names = ELSE[device]
    if isinstance(about, Attention):
        if any(isinstance(m, Function) for m in about.modifiers):
            return []
        if about == Attention(tuple(m for m in about.modifiers if isinstance(m, Causal))):
            names = ON_DEVICE[device]
    there = [n for n in names if n not in missing_peers(names, device)]
    return peers_of(posed.problem, about, there)[0]
