"""How Triton, and Gluon, spell dtypes, functions, helpers and reductions."""

from __future__ import annotations

from eintune.space.ir import dtypes

DTYPES = {name: f"tl.{d.triton}" for name, d in dtypes.DTYPES.items()}

FUNCTIONS = {
    "max": "tl.maximum({}, {})",
    "min": "tl.minimum({}, {})",
    "abs": "tl.abs({})",
    "exp": "tl.exp({})",
    "log": "tl.log({})",
    "exp2": "tl.exp2({})",
    "log2": "tl.log2({})",
    "sqrt": "tl.sqrt_rn({})",
    "floor": "tl.floor({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
    "erf": "tl.erf({})",
    "not": "~{}",
    "tanh": "tanh({})",
    "tanh_approximate": "tanh_approximate({})",
    "sigmoid": "sigmoid({})",
    "silu": "{0} * sigmoid({0})",
}
"""Operators that are not infix. `tanh` and `sigmoid` are printed into the module when they are used: the
compiler's own are in a device library that the interpreter cannot call."""

HELPERS = {
    "count_quotient": '''\
@triton.jit
def count_quotient(n, divisor):
    """n // count, of which `divisor` holds the reciprocal in fixed point and, in its lowest six bits, how far that is
    shifted to the left."""
    return tl.cast(tl.cast(n, tl.int64) * (divisor >> 6) >> (divisor & 63), tl.int32)
''',
    "sigmoid": """\
@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))
""",
    "tanh": '''\
@triton.jit
def tanh(x):
    """Lambert's fraction near 0, where the quotient of exponentials would cancel."""
    square = x * x
    less = square * (3465.0 + square * (189.0 + square))
    near = x - x * (less / (10395.0 + square * (4725.0 + square * (210.0 + square))))
    far = 1.0 - 2.0 / (1.0 + tl.exp2(tl.abs(x) * 2.8853900817779268))
    return tl.where(square < 0.5625, near, tl.where(x < 0.0, -far, far))
''',
    "tanh_approximate": """\
@triton.jit
def tanh_approximate(x):
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
""",
    "multiply": """\
@triton.jit
def multiply(a, b):
    return a * b
""",
}

REDUCTIONS = {
    "add": "tl.sum({}, {})",
    "max": "tl.max({}, {})",
    "min": "tl.min({}, {})",
    "mul": "tl.reduce({}, {}, multiply)",
}
