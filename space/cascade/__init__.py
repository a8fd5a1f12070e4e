"""`Cascade` is imported from here too, as programs have always done; without a circle, so when it is asked for."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Cascade":
        from .cascade import Cascade

        return Cascade
    if name == "CascadeError":
        from eintune.space.ir.einsum import CascadeError

        return CascadeError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
