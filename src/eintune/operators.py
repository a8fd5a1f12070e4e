"""Importing this registers Eintune's operators with PyTorch: what a process needs that loads an exported program and
calls nothing else of this package. Their schemas: `torch.ops.eintune.attention`, `varlen_attention`, `paged_attention`
and `cascade`."""

from __future__ import annotations

from eintune.kernels.operators import served as _served  # noqa: F401
