"""What the runtime raises for arguments that it does not take."""

from __future__ import annotations


class UnsupportedArgument(ValueError):
    """An argument that Eintune does not take; the message names the rule and the value."""


FORWARD_ONLY = (
    "eintune.attention is forward only: call it under torch.no_grad() or detach its inputs, but an input "
    "has requires_grad=True"
)
