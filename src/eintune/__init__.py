"""Eintune: the fastest kernel for an attention-like computation, derived from its naive definition.

Names are imported when they are first used, so that `import eintune` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes longer to load than this, and a Ctrl-C meanwhile is nobody's yet
if TYPE_CHECKING:
    from typing import Any

    from eintune.kernels.generate.generate import generate_kernel
    from eintune.kernels.libraries.policy import configure
    from eintune.kernels.packed.attention import paged_attention, varlen_attention
    from eintune.kernels.seams.flex_attention import flex_attention
    from eintune.kernels.seams.pytorch import activate, restore
    from eintune.kernels.serve.attention import attention, scaled_dot_product_attention
    from eintune.kernels.serve.compiled import compile
    from eintune.kernels.serve.errors import UnsupportedArgument
    from eintune.kernels.serve.warm import warm
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.operators.formats import read
    from eintune.space.operators.passes import analyse

__version__ = "0.1.0"
__all__ = [
    "Cascade",
    "UnsupportedArgument",
    "__version__",
    "activate",
    "analyse",
    "attention",
    "compile",
    "configure",
    "flex_attention",
    "generate_kernel",
    "paged_attention",
    "read",
    "restore",
    "scaled_dot_product_attention",
    "varlen_attention",
    "warm",
]

_HOMES = {
    "Cascade": ".space.cascade.cascade",
    "UnsupportedArgument": ".kernels.serve.errors",
    "activate": ".kernels.seams.pytorch",
    "analyse": ".space.operators.passes",
    "attention": ".kernels.operators.served",
    "compile": ".kernels.operators.served",
    "configure": ".kernels.libraries.policy",
    "flex_attention": ".kernels.seams.flex_attention",
    "generate_kernel": ".kernels.generate.generate",
    "paged_attention": ".kernels.operators.served",
    "read": ".space.operators.formats",
    "restore": ".kernels.seams.pytorch",
    "scaled_dot_product_attention": ".kernels.operators.served",
    "varlen_attention": ".kernels.operators.served",
    "warm": ".kernels.serve.warm",
}


if not TYPE_CHECKING:  # type checkers then know a name that there is not

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'eintune' has no attribute {name!r} (it has: {', '.join(sorted(__all__))})")
        from importlib import import_module

        import_module(".host.forks", __name__)  # before what takes long: a fork meanwhile waits
        value = getattr(import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
