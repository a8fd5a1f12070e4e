"""Functions of generated Gluon modules in PTX: what a warp decides by itself, and what the compiler must not move."""

from __future__ import annotations

import struct

from eintune.kernels.emit.triton_dialect import DTYPES
from eintune.space.plan.lazy_rescaling import LIMIT

NARROWED = {"bf16": "narrowed_bf16", "fp16": "narrowed_fp16"}
"""The functions that convert fp32 to a half, by its dtype."""


def _bits(x: float) -> str:
    """An fp32 number as PTX writes it."""
    return f"0f{struct.pack('>f', x).hex().upper()}"


GLUON_HELPERS = {
    "rescaled": '''\
@gluon.constexpr_function
def rescaling(n):
    """PTX for n numbers of a thread times their factors. They lie in two rows, so two factors say whether all are 1 and
    the numbers stay as they are, in all threads of a warp."""
    lines = [
        ".reg .pred mine, any;",
        f"setp.neu.f32 mine, ${2 * n}, 0f3F800000;",
        f"setp.neu.or.f32 mine, ${2 * n + 2}, 0f3F800000, mine;",
        "vote.sync.any.pred any, mine, 0xffffffff;",
        "@!any bra SAME;",
        *[f"mul.f32 ${i}, ${i}, ${2 * n + i};" for i in range(n)],
        "SAME:",
    ]
    return "{ " + " ".join(lines) + " }"


@gluon.constexpr_function
def rescaling_operands(n):
    return ",".join(["=f"] * n + [str(i) for i in range(n)] + ["f"] * n)


@gluon.jit
def rescaled(x, factors, n: gl.constexpr):
    """Each row of x times its factor; n: numbers of a thread."""
    code: gl.constexpr = rescaling(n)
    operands: gl.constexpr = rescaling_operands(n)
    factors, _ = gl.broadcast(factors, x)
    return gl.inline_asm_elementwise(code, operands, [x, factors], gl.float32, is_pure=True, pack=n)
''',
    "watched": '''\
@gluon.constexpr_function
def watching(place):
    """PTX that says in a register of the whole kernel whether a sum of weights in a warp, of which a thread has two, is
    beyond what a stale reference may leave, or no number."""
    lines = [
        f".reg .b32 BEYOND_{place};",
        "{ .reg .pred mine, any;",
        "setp.gtu.f32 mine, $2, LIMIT;",
        "setp.gtu.or.f32 mine, $3, LIMIT, mine;",
        "vote.sync.any.pred any, mine, 0xffffffff;",
        f"selp.b32 BEYOND_{place}, 1, 0, any; }}",
        "mov.f32 $0, $2; mov.f32 $1, $3;",
    ]
    return " ".join(lines)


@gluon.jit
def watched(totals, place: gl.constexpr):
    """Sums of weights as they are, looked at for `is_beyond`."""
    code: gl.constexpr = watching(place)
    return gl.inline_asm_elementwise(code, "=f,=f,f,f", [totals], gl.float32, is_pure=False, pack=2)
'''.replace("LIMIT", _bits(LIMIT)),
    "is_beyond": '''\
@gluon.constexpr_function
def beyond(place):
    return f"mov.b32 $0, BEYOND_{place};"


@gluon.jit
def is_beyond(turn, place: gl.constexpr):
    """What `watched` found, for each warp by itself: 0 or 1."""
    code: gl.constexpr = beyond(place)
    return gl.inline_asm_elementwise(code, "=r,r", [turn], gl.int32, is_pure=False, pack=1)
''',
    **{
        NARROWED[half]: f'''\
@gluon.jit
def {NARROWED[half]}(x):
    """A conversion that stays where it is: else the compiler moves it behind a branch, and keeps what is wide."""
    code: gl.constexpr = "cvt.rn.{ptx}x2.f32 $0, $2, $1;"
    return gl.inline_asm_elementwise(code, "=r,f,f", [x], {DTYPES[half]}, is_pure=True, pack=2)
'''
        for half, ptx in {"bf16": "bf16", "fp16": "f16"}.items()
    },
}
