"""What programs call, with its operators registered."""

from __future__ import annotations

from eintune.kernels.packed.attention import paged_attention as paged_attention
from eintune.kernels.packed.attention import varlen_attention as varlen_attention
from eintune.kernels.serve.attention import attention as attention
from eintune.kernels.serve.attention import scaled_dot_product_attention as scaled_dot_product_attention
from eintune.kernels.serve.compiled import compile as compile
from eintune.kernels.serve.opaque import RECORDED

from . import attention as _attention
from . import attention_gradients as _attention_gradients  # noqa: F401
from . import cascade as _cascade
from . import packed as _packed

RECORDED["eintune.attention"] = _attention.recorded
RECORDED["eintune.scaled_dot_product_attention"] = scaled_dot_product_attention.__wrapped__  # type: ignore[attr-defined]
RECORDED["eintune.CompiledCascade"] = _cascade.recorded
RECORDED["eintune.varlen_attention"] = _packed.recorded_varlen
RECORDED["eintune.paged_attention"] = _packed.recorded_paged
