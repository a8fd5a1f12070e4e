"""Which peers compute a stated case, and with which options."""

from __future__ import annotations

from collections.abc import Sequence

from .ceilings import copy_peer
from .peers import PEERS
from .suite import Stated
from .tasks import Peer


def peers_of(case: Stated, names: Sequence[str], *, copy: bool) -> tuple[tuple[Peer, ...], dict[str, str]]:
    """The peers by name for a case, with `copy` a copy of as many bytes too; and why others are left out."""
    found: list[Peer] = []
    for name in names:
        kind = PEERS[name]
        found.append(Peer(name, kind.place, {**kind.options, "causal": case.causal}))
    return (*found, *([copy_peer()] if copy else [])), {}
