"""EDGE notation, both ways: `parse_cascade(format_cascade(c)) == c`.

    QKm,p = Qp,e * Ke,m * scale          # a name in capitals, then its ranks; sums over ranks absent on the left
    GMp = QKm,p :: \\/m max               # a reduce action; EDGE's own ∨m max(∪) is read as well
    SNm,p = e^(QKm,p - GMp)
    Zm,n = Ak,m · Bk,n :: ∧k ×(∩) ∨k +(∪)  /* · computes what the map action ∧ says */

A line is one of

    einsum       NAMEranks [: int|bool] = expression [:: action …]
    declaration  input NAMEranks [: int|bool]   (only where the first use does not say it)
    results      results: NAME, …               (absent: every tensor that no einsum reads)

An expression has `|`, `&`, comparisons, `+ -`, `* / ×` and `·`, a sign, and of what binds tightest

    Am,p   Bias[m,p]   2.5   -inf   scale   param(S)   |m|   index(m)   e^(x)   max(x, y) and all of `POINTWISE`
    sum[m](x)  max[m](x)  min[m](x)  prod[m](x)  fold_scale[m](ref, x)  fold_translate[m](ref, x)
    where(m <= p + |m| - |p| & …, x, -inf)  split[m -> m1,m0](x)  unsplit[m1,m0 -> m](x)

Implicit sums stand inside of the reduce actions, and the actions apply from left to right. A filter on a tensor,
`Zp = Am,p:m<=p`, restricts the iteration space of the whole einsum: a filtered point takes no part in its reduction.
"""

from __future__ import annotations

from .cascade import Cascade
from .notation_printer import write_cascade
from .notation_reader import read_cascade


def parse_cascade(text: str) -> Cascade:
    """The cascade that `text` writes. The text may be untrusted: nothing is evaluated and its size is bounded.

    Raises CascadeError with the line, the construct and what is allowed there.
    """
    return read_cascade(text)


def format_cascade(cascade: Cascade, *, unicode: bool = False) -> str:
    """The cascade's text, in ASCII, or with EDGE's own symbols if `unicode`. Parameters keep their names.

    Raises CascadeError for a cascade that the notation cannot say (names that are no names).
    """
    return write_cascade(cascade, unicode=unicode)
