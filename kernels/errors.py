"""What the runtime raises for arguments that it does not take."""

from __future__ import annotations


class UnsupportedArgument(ValueError):
    """An argument that Eintune does not take; the message names the rule and the value."""
