"""Workloads: naive definitions, written as one writes them on paper, and nothing else.

A new workload is one function that returns a cascade, under `@workload` with the options that state its size, in
one of the `workloads_*` modules. Everything fast is derived from these definitions.
"""

from __future__ import annotations

from . import attention_options as workloads_attention
from . import paged as workloads_paged
from . import products as workloads_products
from . import rows as workloads_rows
from .attention import CAUSAL, SHIPPED, Attention, attention, attention_problem
from .products import linear_attention
from .rows import logsumexp, softmax
from .workload import WORKLOADS, Option, Posed, Workload

__all__ = [
    "CAUSAL",
    "SHIPPED",
    "WORKLOADS",
    "Attention",
    "Option",
    "Posed",
    "Workload",
    "attention",
    "attention_problem",
    "linear_attention",
    "logsumexp",
    "softmax",
    "workloads_attention",
    "workloads_paged",
    "workloads_products",
    "workloads_rows",
]
