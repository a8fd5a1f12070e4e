"""What may be left out of an installation, and the one line that says what is missing.

Serving needs the package alone; deriving, searching and reporting need the extra `tune`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

SERVING = ("numpy", "torch", "triton", "platformdirs", "msgspec")
"""What the package alone brings (Triton on Linux)."""
TUNE = ("egglog", "filelock", "highspy", "jinja2", "matplotlib", "optuna", "pandas", "pulp", "rich", "scipy", "seaborn")
"""What the extra brings; a test compares both with pyproject.toml."""
BROUGHT_BY_TORCH = frozenset({"filelock", "jinja2"})
"""Of the extra's, what PyTorch needs too: that it is there says nothing of whether the extra is installed."""
INSTALL = "pip install 'eintune[tune]'"


class MissingPart(ImportError):
    """Something needs a package of an extra that is not installed; one line with what installs it."""

    def __init__(self, purpose: str, names: Sequence[str]) -> None:
        lacks = "is" if len(names) == 1 else "are"
        super().__init__(f"{purpose} needs eintune[tune], but {', '.join(names)} {lacks} not installed: {INSTALL}")


def missing(names: Sequence[str] = TUNE) -> list[str]:
    """Those of the packages that are not installed; nothing is imported."""
    return [name for name in names if find_spec(name) is None]


def require(purpose: str, *names: str) -> None:
    """Raise MissingPart where one of the extra's packages (`names`, or any) is not installed."""
    if lacking := missing(names or TUNE):
        raise MissingPart(purpose, lacking)


def missing_part(purpose: str, error: ModuleNotFoundError) -> MissingPart | None:
    """What an import that failed lacks of the extra; None where it failed for another reason."""
    name = (error.name or "").partition(".")[0]
    return MissingPart(purpose, missing()) if name in TUNE and find_spec(name) is None else None
