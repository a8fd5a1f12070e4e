"""Other people's implementations, to be timed in the same run: which there are, where they run, what they compute.

The factories stand in `attention`, `flex`, `rows` and `torch_compile`; each is called in the measuring worker with the
problem and its inputs (see `tasks.Peer`), and raises Unavailable where the peer cannot serve them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from eintune.search.measure.tasks import Peer
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import Attention, CausalMode, of_causal

from .attention import BACKENDS
from .torch_compile import MAX_AUTOTUNE

ON_DEVICE = {"cuda": ("sdpa", "sdpa-flash", "sdpa-cudnn"), "cpu": ("sdpa",)}
"""Those that a tuned kernel is always compared with."""


@dataclass(frozen=True)
class PeerKind:
    """A peer: what makes it ("module:function" of this package) and its options, for attention and, where it computes
    more than that, for anything else; the device it needs ("" for any) and the module."""

    attention: str
    options: Mapping[str, Any] = field(default_factory=dict)
    other: str = ""
    other_options: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    module: str = ""

    def missing(self, device: str) -> str:
        """Why this peer cannot run on a device at all, or ""."""
        if self.device and self.device != device:
            return f"needs a {self.device.upper()} GPU"
        return _not_installed(self.module) if self.module else ""


_ON_GPUS = {"sdpa-cudnn": "cuda", "sdpa-efficient": "cuda"}
_COMPILED = "rows:compiled_library"
PEERS: dict[str, PeerKind] = {
    **{name: PeerKind("attention:sdpa", {"backend": name}, device=_ON_GPUS.get(name, "")) for name in BACKENDS},
    "flash-attn-4": PeerKind("attention:flash_attention_4", device="cuda", module="flash_attn.cute"),
    "flex": PeerKind("flex:flex", {"mode": None}),
    "flex-max-autotune": PeerKind("flex:flex", {"mode": MAX_AUTOTUNE}),
    "compiled": PeerKind("attention:compiled", {}, _COMPILED, {"mode": None}),
    "eager": PeerKind("attention:eager", {}, "rows:library"),
}
"""Every peer by name. "eager" is PyTorch as one writes it, "compiled" the same under torch.compile."""


def attention_peers(device: str, about: Attention | CausalMode, names: Sequence[str] | None = None) -> list[Peer]:
    """Peers for attention on a device ("cpu", "cuda"), without `names` the few of ON_DEVICE; about: which attention,
    or just how it is causal.

    Raises ValueError for a name that is not in PEERS.
    """
    which = about if isinstance(about, Attention) else Attention(of_causal(about))
    return [
        Peer(n, _place(PEERS[n].attention), {**PEERS[n].options, "about": which})
        for n in _known(ON_DEVICE[torch.device(device).type] if names is None else names)
    ]


def peers_of(problem: Problem, about: object, names: Sequence[str]) -> tuple[list[Peer], dict[str, str]]:
    """The peers of these names that compute a problem, and why the others do not. about: as `workload.Posed` has it.

    Raises ValueError for a name that is not in PEERS.
    """
    if isinstance(about, Attention):
        return attention_peers("cpu", about, names), {}
    outputs = list(problem.definition.outputs)
    found, refused = [], {}
    for name in _known(names):
        kind = PEERS[name]
        if not kind.other or len(outputs) != 1:
            refused[name] = f"computes no {problem.workload}"
        else:
            found.append(Peer(name, _place(kind.other), {**kind.other_options, "output": outputs[0]}))
    return found, refused


def missing_peers(names: Iterable[str], device: str) -> dict[str, str]:
    """Those that cannot run on a device at all, with the reason."""
    return {name: reason for name in names if (reason := PEERS[name].missing(device))}


def _known(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in PEERS:
            raise ValueError(f"a peer is one of {list(PEERS)}, but got {name!r}")
    return names


def _place(factory: str) -> str:
    return f"{__package__}.{factory}"


def _not_installed(module: str) -> str:
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    return "" if there else f"not installed (no module {module})"
