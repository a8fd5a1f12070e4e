"""Which version of a library is here, as a text that is kept beside what it took."""

from __future__ import annotations

import functools
from importlib import metadata

import torch


@functools.cache
def version_of(peer: str, device: str) -> str:
    """Of a peer that is a package of its own, that package's; of any other PyTorch's, with cuDNN's on a GPU, to which
    PyTorch hands calls. device: "cpu" or "cuda"."""
    try:
        return f"{peer} {metadata.version(peer)}"
    except metadata.PackageNotFoundError:
        pass
    found = f"torch {torch.__version__}"
    if device == "cuda" and torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        found += f", cudnn {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return found
