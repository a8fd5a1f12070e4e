"""`WORKLOADS` is imported from here too, as programs have always done."""

from .builtin import WORKLOADS

__all__ = ["WORKLOADS"]
