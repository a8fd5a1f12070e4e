"""Eintune's attention in the models of Hugging Face transformers.

>>> from eintune.integrations import transformers
>>> transformers.register()
>>> model = AutoModel.from_pretrained(name, attn_implementation="eintune")
"""

from __future__ import annotations

from eintune.kernels.seams.transformers import NAME, register

__all__ = ["NAME", "register"]
