"""Refuses tensors that no kernel can read, in the words of the runtime."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from eintune.kernels.launch.plain_tensors import DENSE, is_transformed, not_plain

from .errors import UnsupportedArgument

__all__ = ["check_plain", "is_transformed", "kind_of_tensor"]


def kind_of_tensor(name: str, t: Tensor) -> Any:
    """What of a tensor decides how a call is served. Raises UnsupportedArgument for one that has no strides."""
    try:
        return t.shape, t.stride(), t.dtype, t.device, type(t), t.is_neg()
    except Exception as error:
        check_plain(name, t)
        raise UnsupportedArgument(f"`{name}` must be a tensor with a shape and strides: {_line(error)}") from error


def check_plain(name: str, t: Tensor) -> None:
    """Raise UnsupportedArgument, naming the tensor and what it is, for one that a kernel cannot read."""
    if t.device.type not in ("cpu", "cuda"):
        raise UnsupportedArgument(f"`{name}` must be on a CPU or CUDA device, but is on {t.device}")
    if what := not_plain(t):
        raise UnsupportedArgument(f"`{name}` must not be {what}: {DENSE}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
