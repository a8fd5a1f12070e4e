"""Eintune: the fastest kernel for an attention-like computation, derived from its naive definition."""

from __future__ import annotations

__version__ = "0.1.0"
