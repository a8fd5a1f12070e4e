"""PyTorch as it is where nothing was set around a call: what a program sets for its own is not for what serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def plain_surroundings(device: torch.device) -> Iterator[None]:
    """Inside, new tensors lie on `device` unless they say otherwise, and products have the dtype of their operands.

    A default device ("meta", say, while a model is built) would take indices and constants with it, and what is
    written from "meta" is nothing, without a word; autocast would round fp32 products to 16 bits.
    """
    import torch  # launching knows this module, and is imported by processes that compile without PyTorch

    with contextlib.ExitStack() as stack:
        if torch.get_default_device() != device:
            stack.enter_context(device)
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield
