"""Eintune: the fastest kernel for an attention-like computation, derived from its naive definition.

Names are imported when they are first used, so that `import eintune` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kernels.compiled import compile
    from .kernels.errors import UnsupportedArgument
    from .kernels.generate import generate_kernel
    from .kernels.runtime import attention, scaled_dot_product_attention
    from .space.cascade import Cascade
    from .space.formats import read
    from .space.passes import analyse

__version__ = "0.1.0"
__all__ = [
    "Cascade",
    "UnsupportedArgument",
    "__version__",
    "analyse",
    "attention",
    "compile",
    "generate_kernel",
    "read",
    "scaled_dot_product_attention",
]

_HOMES = {
    "Cascade": ".space.cascade",
    "UnsupportedArgument": ".kernels.errors",
    "analyse": ".space.passes",
    "attention": ".kernels.runtime",
    "compile": ".kernels.compiled",
    "generate_kernel": ".kernels.generate",
    "read": ".space.formats",
    "scaled_dot_product_attention": ".kernels.runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eintune' has no attribute {name!r} (it has: {', '.join(sorted(__all__))})")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
