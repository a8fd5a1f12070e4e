"""The peers that a tuned kernel is always compared with: those that compute the same problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .peers import attention_peers
from .tasks import Peer

if TYPE_CHECKING:
    from ..space.workload import Posed


def tuning_peers(posed: Posed, device: str) -> list[Peer]:
    """PyTorch's own for attention that is plain or causal; none for what none of them computes."""
    from ..space.attention import Attention
    from ..space.modifiers import Causal

    about = posed.about
    if not isinstance(about, Attention) or about != Attention(about.modifiers):
        return []
    match about.modifiers:
        case ():
            return attention_peers(device, None)
        case (Causal(align),):
            return attention_peers(device, align)
        case _:
            return []
