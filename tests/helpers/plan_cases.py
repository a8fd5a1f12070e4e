"""Computations that plans are tested on: a row is one function that yields definitions and derived forms.

A form is checked against the definition in float64. Nothing but this file changes for a new row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.ir.expr import (
    NEG_INF,
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Index,
    Iota,
    Map,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Term,
    Where,
    access,
)
from eintune.space.ir.folds import comoment_of
from eintune.space.operators.graph_builder import gather_of

Roots = dict[str, tuple[Expr, str]]
"""Output name -> (expression, its ranks as letters)."""


@dataclass(frozen=True)
class Form:
    """A definition and one way to compute it. whole: ranks that are one tile; scalar: ranks without a tile;
    loop: ranks that a loop iterates; every other rank is tiled over programs."""

    name: str
    definition: Cascade
    computed: Cascade
    loop: str = "m"
    whole: str = "ef"
    scalar: str = "bhg"
    params: dict[str, float] = field(default_factory=dict)


ROWS: list[Callable[[], Iterator[Form]]] = []


def row(function: Callable[[], Iterator[Form]]) -> Callable[[], Iterator[Form]]:
    ROWS.append(function)
    return function


def forms() -> list[Form]:
    return [f for r in ROWS for f in r()]


# ---- shorthand


def t(name: str, ranks: str, kind: str = "float") -> Expr:
    return Access(Tensor(name, tuple(ranks), kind), tuple(ranks))


def at(name: str, ranks: str, *index: Index, kind: str = "float") -> Expr:
    """A tensor addressed by parts of ranks and by elements of integer tensors."""
    return access(Tensor(name, tuple(ranks), kind), index)


def number(name: str, ranks: str, *index: Index) -> Access | Gather:
    return access(Tensor(name, tuple(ranks), "int"), index or tuple(ranks))


def add(rank: Rank, x: Expr) -> Expr:
    return Reduce("add", rank, x)


def top(rank: Rank, x: Expr) -> Expr:
    return Reduce("max", rank, x)


def f(op: str, *args: Expr | float) -> Expr:
    return Map(op, tuple(Const(float(a)) if isinstance(a, (int, float)) else a for a in args))


def exp(x: Expr) -> Expr:
    return f("exp", x)


def keep(
    x: Expr, const: int = 0, sizes: tuple[tuple[Rank, int], ...] = (), fill: float = NEG_INF, **coefs: int
) -> Expr:
    """`x` where sum(coef * rank) + const >= 0."""
    return Where(Predicate(tuple(Term(r, c) for r, c in coefs.items()), sizes, const), x, fill)


def cascade(roots: Roots) -> Cascade:
    return from_roots({n: (x, tuple(ranks)) for n, (x, ranks) in roots.items()})


def form(name: str, definition: Roots, computed: Roots | None = None, **layout: str) -> Form:
    return Form(name, cascade(definition), cascade(computed or definition), **layout)  # type: ignore[arg-type]


# ---- the ways to compute a normalised weighted sum


def three(s: Expr, v: Expr) -> Expr:
    n = exp(s - top("m", s))
    return add("m", n / add("m", n) * v)


def two(s: Expr, v: Expr) -> Expr:
    n = exp(s - top("m", s))
    return add("m", n * v) / add("m", n)


def one(s: Expr, v: Expr) -> Expr:
    return Fold("scale", "m", s, v) / Fold("scale", "m", s, Const(1.0))


def split(x: Expr) -> Expr:
    return Split(x, "m", "m1", "m0")


def local(s: Expr, v: Expr) -> Expr:
    """Two passes: a maximum of each tile, then the tiles corrected to the whole."""
    peaks = top("m0", split(s))
    whole = top("m1", peaks)
    weight = exp(split(s) - peaks) * exp(peaks - whole)
    total = add("m1", add("m0", weight))
    return add("m1", add("m0", weight * split(v))) / total


def tiled(s: Expr, v: Expr) -> Expr:
    """One pass over tiles, each with its own maximum."""
    peaks = top("m0", split(s))
    weight = exp(split(s) - peaks)
    sums = Fold("scale", "m1", peaks, add("m0", weight))
    return Fold("scale", "m1", peaks, add("m0", weight * split(v))) / sums


WAYS = {"three": three, "two": two, "one": one, "local": local, "tiled": tiled}

Q, K, V = t("Q", "bhpe"), t("K", "bhme"), t("V", "bhmf")
SCORE = add("e", Q * K)


def all_ways(name: str, score: Expr, v: Expr = V, ranks: str = "bhpf") -> Iterator[Form]:
    definition: Roots = {"O": (three(score, v), ranks)}
    for way, compute in WAYS.items():
        yield form(f"{name} {way}", definition, {"O": (compute(score, v), ranks)})


@row
def scaled_scores() -> Iterator[Form]:
    yield from all_ways("plain", SCORE * 0.3)
    yield from all_ways("negative scale", SCORE * -0.3)
    yield from all_ways("zero scale", SCORE * 0.0)
    yield from all_ways("scale on Q", add("e", Q * 0.3 * K))
    yield from all_ways("scale of a head", SCORE * t("W", "h"))


@row
def filtered_scores() -> Iterator[Form]:
    s = SCORE * 0.3
    lower_right = (("m", 1), ("p", -1))
    yield from all_ways("triangle", keep(s, m=-1, p=1))
    yield from all_ways("triangle from below", keep(s, sizes=lower_right, m=-1, p=1))
    yield from all_ways("triangle, negative scale", keep(SCORE * -0.3, m=-1, p=1))
    yield from all_ways("triangle, zero scale", keep(SCORE * 0.0, m=-1, p=1))
    yield from all_ways("window", keep(keep(s, m=-1, p=1), 9, m=1, p=-1))
    yield from all_ways("window both sides", keep(keep(s, 7, m=-1, p=1), 9, m=1, p=-1))
    yield from all_ways("prefix", keep(s, 10, m=-1))
    yield from all_ways("upper triangle", keep(s, m=1, p=-1))
    yield from all_ways("strict triangle", keep(s, -1, m=-1, p=1))
    yield from all_ways("every second", keep(s, m=-2, p=1))


@row
def modified_scores() -> Iterator[Form]:
    s = SCORE * 0.3
    yield from all_ways("capped", keep(f("tanh", s * 0.2) * 5.0, m=-1, p=1))
    yield from all_ways("slopes", keep(s + (Iota("m") - Iota("p")) * t("W", "h"), m=-1, p=1))
    yield from all_ways("bias", s + t("B", "pm"))
    yield from all_ways("bias of a head", s + t("B", "hpm") * 0.5)
    same = f("eq", t("DP", "p", "int"), t("DM", "m", "int"))
    yield from all_ways("documents", f("select", same, s, NEG_INF))
    yield from all_ways("documents, triangle", keep(f("select", same, s, NEG_INF), m=-1, p=1))
    yield from all_ways("boolean mask", f("select", t("MASK", "pm", "bool"), s, NEG_INF))


@row
def grouped() -> Iterator[Form]:
    score = add("e", t("Q", "bhgpe") * K) * 0.3
    yield from all_ways("grouped", score, ranks="bhgpf")
    yield from all_ways("grouped triangle", keep(score, m=-1, p=1), ranks="bhgpf")


@row
def with_statistics() -> Iterator[Form]:
    for name, s in (("plain", SCORE * 0.3), ("triangle", keep(SCORE * 0.3, m=-1, p=1))):
        peak = top("m", s)
        total = add("m", exp(s - peak))
        definition: Roots = {"O": (three(s, V), "bhpf"), "L": (f("log", total) + peak, "bhp")}
        running = Fold("scale", "m", s, Const(1.0))
        yield form(f"statistics {name} three", definition)
        yield form(
            f"statistics {name} one", definition, {"O": (one(s, V), "bhpf"), "L": (f("log", running) + peak, "bhp")}
        )


@row
def sinks() -> Iterator[Form]:
    s, sink = SCORE * 0.3, t("SINK", "h")
    peak = f("max", top("m", s), sink)
    n = exp(s - peak)
    definition: Roots = {"O": (add("m", n * V) / (add("m", n) + exp(sink - peak)), "bhpf")}
    yield form("sink two", definition)
    inner = top("m", s)
    share = Fold("scale", "m", s, Const(1.0))
    yield form("sink one", definition, {"O": (Fold("scale", "m", s, V) / (share + exp(sink - inner)), "bhpf")})


@row
def unnormalised() -> Iterator[Form]:
    for name, s in (("plain", SCORE * 0.3), ("triangle", keep(SCORE * 0.3, m=-1, p=1))):
        yield form(f"sigmoid {name}", {"O": (add("m", f("sigmoid", s) * V), "bhpf")})
        spelt = Const(1.0) / (Const(1.0) + exp(-s))
        yield form(f"sigmoid spelt {name}", {"O": (add("m", spelt * V), "bhpf")})
    zeroed = f("sigmoid", keep(SCORE, fill=0.0, m=-1, p=1))
    yield form("sigmoid of zeros", {"O": (add("m", zeroed * V), "bhpf")})
    both: Roots = {"O": (add("m", f("sigmoid", keep(SCORE, m=-1, p=1)) * V), "bhpf"), "S": (add("m", V), "bhf")}
    yield form("filtered beside unfiltered", both, scalar="bhgp")
    yield form("chain", {"O": (add("m", SCORE * V), "bhpf")})
    yield form("silu", {"O": (add("m", f("silu", SCORE) * V), "bhpf")})


@row
def linear() -> Iterator[Form]:
    definition: Roots = {"O": (add("m", SCORE * V), "bhpf")}
    yield form("state first", definition, {"O": (add("e", Q * add("m", K * V)), "bhpf")})
    k = f("max", K, 0.0) + 0.01
    q = f("max", Q, 0.0) + 0.01
    ratio = add("m", add("e", q * k) * V) / add("m", add("e", q * k))
    yield form("positive features", {"O": (ratio, "bhpf")})


@row
def rows() -> Iterator[Form]:
    x = t("X", "pm")
    for name, y in (("plain", x), ("triangle", keep(x, m=-1, p=1)), ("never", keep(x, -1000, m=-1, p=1))):
        n = exp(y - top("m", y))
        definition: Roots = {"Y": (n / add("m", n), "pm")}
        yield form(f"rows {name}", definition)
        yield form(f"rows {name} online", definition, {"Y": (n / Fold("scale", "m", y, Const(1.0)), "pm")})
        yield form(f"rows {name} whole", definition, loop="", whole="m")
        log = {"L": (f("log", add("m", n)) + top("m", y), "p")}
        yield form(f"log-sum {name}", log)
        fold = Fold("scale", "m", y, Const(1.0))
        yield form(f"log-sum {name} online", log, {"L": (f("log", fold) + top("m", y), "p")})


@row
def moments() -> Iterator[Form]:
    x = t("X", "pm")
    mean = add("m", x) / Size("m")
    centred = x - mean
    spread = add("m", centred * centred)
    norm = centred / f("sqrt", spread / Size("m") + 1e-5) * t("W", "m") + t("B", "m")
    definition: Roots = {"Y": (norm, "pm")}
    yield form("norm three passes", definition)
    yield form("norm whole", definition, loop="", whole="m")
    moved = Fold("translate", "m", x, Const(1.0))
    online = centred / f("sqrt", moved / Size("m") + 1e-5) * t("W", "m") + t("B", "m")
    yield form("norm two passes", definition, {"Y": (online, "pm")})
    yield form("variance", {"S": (spread / Size("m"), "p")}, {"S": (moved / Size("m"), "p")})
    both: Roots = {"S": (spread, "p"), "M": (mean, "p")}
    yield form("variance whole", both, {"S": (moved, "p"), "M": (mean, "p")}, loop="", whole="m")
    rms = f("recip", f("sqrt", add("m", x * x) / Size("m") + 1e-5))
    product: Roots = {"Y": (add("m", x * rms * t("W", "m") * t("B", "mj")), "pj")}
    yield form("rms product", product)
    yield form("rms product deferred", product, {"Y": (add("m", x * t("W", "m") * t("B", "mj")) * rms, "pj")})


@row
def comoments() -> Iterator[Form]:
    x, y, z = t("X", "pm"), t("Y", "mj"), t("Z", "mf")
    apart = (x - add("m", x) / Size("m")) * (y - add("m", y) / Size("m"))
    one = Const(1.0)
    yield form("covariance", {"C": (add("m", apart), "pj")}, {"C": (Fold("comoment", "m", x, one, (y,)), "pj")})
    w = f("sigmoid", t("W", "m"))
    spread = comoment_of("m", (x, x), w)
    yield form("weighted variance", {"S": (spread, "p")}, {"S": (Fold("comoment", "m", x, w, (x,)), "p")})
    score = keep(t("S", "pm"), -1, m=-1, p=1)  # the first row has nothing
    soft = comoment_of("m", (z, z), exp(score - top("m", score)))
    folded = Fold("softcomoment", "m", score, one, (z, z)) / Fold("scale", "m", score, one)
    yield form("attentive spread", {"Y": (soft / add("m", exp(score - top("m", score))), "pf")}, {"Y": (folded, "pf")})


@row
def products() -> Iterator[Form]:
    a, b = t("A", "pm"), t("B", "mj")
    gelu = a_b = add("m", a * b) + t("C", "j")
    gelu = a_b * 0.5 * (f("erf", a_b * (1 / math.sqrt(2))) + 1.0)
    yield form("product bias", {"Y": (gelu, "pj")})
    yield form("product whole", {"Y": (gelu, "pj")}, loop="", whole="m")
    yield form("product turned", {"Y": (add("m", t("A", "mp") * t("B", "jm")), "jp")})
    yield form("batched product", {"Y": (add("m", t("A", "bpm") * t("B", "bmj")), "bpj")})
    yield form("shared weight", {"Y": (add("m", t("A", "bpm") * t("B", "mj")), "bpj")})
    yield form("matrix-vector", {"Y": (add("m", a * t("X", "m")), "p")})
    yield form("outer", {"Y": (t("X", "p") * t("Z", "m"), "pm")})
    yield form("three factors", {"Y": (add("m", a * b * t("X", "m")), "pj")})
    gate, up = add("m", a * b), add("m", a * t("U", "mj"))
    yield form("gated", {"Y": (f("silu", gate) * up, "pj")})
    mlp: Roots = {"Y": (add("j", f("silu", gate) * up * t("D", "jf")), "pf")}
    yield form("gated and down, nested loops", mlp, loop="mj", whole="f")
    yield form("gated and down, one loop", mlp, loop="m", whole="jf")


@row
def scalars() -> Iterator[Form]:
    x = t("X", "pm")
    yield form("sum of all", {"Y": (add("p", add("m", x * t("Z", "p"))), "")}, loop="pm")
    yield form(
        "spread of all", {"Y": (top("p", top("m", x)) - Reduce("min", "p", Reduce("min", "m", x)), "")}, loop="pm"
    )
    peak = top("p", top("m", x))
    total = add("p", add("m", exp(x - peak)))
    yield form("shares of all", {"Y": (exp(x - peak) / total, "pm")}, loop="pm")


@row
def losses() -> Iterator[Form]:
    logits = add("e", t("H", "pe") * t("W", "me"))
    peak = top("m", logits)
    chosen = add("m", f("select", f("eq", t("T", "p", "int"), Iota("m")), logits, 0.0))
    definition: Roots = {"L": (f("log", add("m", exp(logits - peak))) + peak - chosen, "p")}
    fold = Fold("scale", "m", logits, Const(1.0))
    yield form("loss two", definition)
    yield form("loss one", definition, {"L": (f("log", fold) + peak - chosen, "p")})


@row
def nested_streams() -> Iterator[Form]:
    definition: Roots = {"O": (three(SCORE * 0.3, V), "bhpf")}
    for name in ("three", "one"):
        computed: Roots = {"O": (WAYS[name](SCORE * 0.3, V), "bhpf")}
        yield form(f"nested {name}", definition, computed, loop="me", whole="f")
        yield form(f"columns tiled {name}", definition, computed, whole="e")


@row
def reductions() -> Iterator[Form]:
    x = t("X", "pm")
    yield form("least", {"Y": (Reduce("min", "m", x), "p")})
    yield form("product of a row", {"Y": (Reduce("mul", "m", f("tanh", x) * 1.5), "p")})
    yield form("constant row", {"Y": (add("m", t("Z", "p")) + top("m", t("Z", "p")), "p")})
    yield form("broadcast", {"Y": (add("m", x), "pm")})
    yield form("count", {"Y": (add("m", keep(Const(1.0), fill=0.0, m=-1, p=1)), "p")})
    yield form("position", {"Y": (add("m", x * Iota("m")) / add("m", f("abs", x) + Iota("p")), "p")})
    yield form("two outputs", {"Y": (f("exp", x * 0.1), "pm"), "Z": (top("m", x), "p"), "S": (add("m", x), "p")})
    logic = f("and", f("lt", x, 0.5), f("not", f("gt", x, t("Z", "p"))))
    yield form("logic", {"Y": (f("select", logic, f("floor", x), f("neg", x)), "pm")})


@row
def pages() -> Iterator[Form]:
    """Keys and values in pages that a table names: pages that hold several tiles, one, a part of one, and neither."""
    for page in (64, 32, 8, 24, 128):
        lookup = number("BT", "bj", "b", Part("//", "m", page))
        k = at("KC", "nshe", lookup, Part("%", "m", page), "h", "e")
        v = at("VC", "nshf", lookup, Part("%", "m", page), "h", "f")
        score = add("e", Q * k) * 0.3
        yield from (
            all_ways(f"pages of {page}", score, v)
            if page == 64
            else [form(f"pages of {page}", {"O": (three(score, v), "bhpf")}, {"O": (one(score, v), "bhpf")})]
        )
        inside = f("select", f("lt", Iota("m"), t("LEN", "b", "int")), score, NEG_INF)
        yield form(f"lengths, pages of {page}", {"O": (three(inside, v), "bhpf")}, {"O": (one(inside, v), "bhpf")})


@row
def lookups() -> Iterator[Form]:
    x = at("EMB", "ve", number("TOKEN", "p"), "e")
    yield form("embedding", {"Y": (x, "pe")})
    yield form("embedding product", {"Y": (add("e", x * t("W", "ej")), "pj")}, loop="e", whole="")
    yield form("bag", {"Y": (add("m", at("EMB", "vf", number("TOKEN", "pm"), "f")), "pf")})
    yield form(
        "bag of a page", {"Y": (add("m", at("EMB", "vf", number("TOKEN", "pj", "p", Part("//", "m", 64)), "f")), "pf")}
    )
    yield form("lookup of a lookup", {"Y": (at("EMB", "vf", number("A", "w", number("B", "p")), "f"), "pf")})
    yield form("repeated rows", {"Y": (add("m", t("X", "pm") * at("R", "kf", Part("//", "m", 5), "f")), "pf")})
    yield form("cyclic rows", {"Y": (add("m", t("X", "pm") * at("R", "kf", Part("%", "m", 5), "f")), "pf")})
    yield form("repeated heads", {"Y": (Q * at("R", "bke", "b", Part("//", "h", 2), "e"), "bhpe")})
    yield form("two tables", {"Y": (at("X", "uvf", number("A", "p"), number("B", "m"), "f"), "pmf")})
    yield form("two tables apart", {"Y": (at("X", "ufv", number("A", "p"), "f", number("B", "m")), "pmf")})
    yield form("transposed rows", {"Y": (add("m", at("X", "fv", "f", number("A", "m")) * t("Z", "pm")), "pf")})


@row
def bounds_from_data() -> Iterator[Form]:
    """Filters by elements of integer tensors: from above, from below, both, a row's own, with other conditions."""
    s, index = SCORE * 0.3, Iota("m")
    below, above = f("lt", index, t("LEN", "b", "int")), f("ge", index, t("FROM", "b", "int"))
    yield from all_ways("length", f("select", below, s, NEG_INF))
    conditions = {
        "start": above,
        "start and end": f("and", above, below),
        "length from the other side": f("ge", t("LEN", "b", "int"), index),
        "length of a row": f("le", index, t("LEN", "p", "int")),
        "length of a head": f("gt", t("LEN", "bh", "int"), index),
        "length looked up": f("lt", index, number("LEN", "w", number("WHICH", "b"))),
        "later queries see more": f("le", index - Iota("p"), t("LEN", "b", "int") - Size("p")),
        "length and documents": f("and", f("eq", t("DP", "p", "int"), t("DM", "m", "int")), below),
        "length of a key": f("lt", index, t("LEN", "m", "int")),
        "length of a distance": f("lt", index, read("LEN[abs(p-m)]", LEN="R")),
        "length of the next row": f("lt", index, read("LEN[b,p+1]", LEN="BR")),
        "length by number": f("lt", index, read("LEN[WHICH[b]+2 else 0]", LEN="R", WHICH="B")),
    }
    for name, condition in conditions.items():
        x = f("select", condition, s, NEG_INF)
        yield form(name, {"O": (three(x, V), "bhpf")}, {"O": (one(x, V), "bhpf")})
    yield form("length, triangle", {"O": (one(keep(f("select", below, s, NEG_INF), m=-1, p=1), V), "bhpf")})
    summed = add("m", f("select", below, t("X", "bpm"), 0.0))
    yield form("sum of a length", {"Y": (summed, "bp")})
    rest = add("m", f("select", below, t("X", "bpm"), 1.0))
    yield form("ones beyond a length", {"Y": (rest, "bp")})
    yield form("a length that is stored", {"Y": (f("select", below, t("X", "bpm"), 0.0), "bpm")})


def read(text: str, *, kind: str = "float", **tensors: str) -> Expr:
    """An indexed access as it is written; tensors: the ranks of each, those of integers in capitals."""
    known = {n: Tensor(n, tuple(r.lower()), "int" if r.isupper() else kind) for n, r in tensors.items()}
    return gather_of(text, known)


@row
def computed_indices() -> Iterator[Form]:
    """Axes that are addressed by numbers computed of indices, sizes, parts and elements; inside the axis and beyond."""
    s, causal = SCORE * 0.3, {"m": -1, "p": 1}
    distance = s + read("T[h,p-m+|m|-1]", T="hr")
    yield from all_ways("distance", distance)
    yield from all_ways("distance, triangle", keep(distance, **causal))
    biases = {
        "clipped": read("T[h,min(max(p-m,-3),3)+3]", T="hr"),
        "to both sides": read("T[h,abs(p-m)]", T="hr"),
        "in buckets": read("T[h,N[p-m+|m|-1] else 0]", T="hr", N="U"),
        "in trusted buckets": read("T[h,N[min(abs(p-m),7)]]", T="hr", N="U"),
        "of numbers": read("T[h,N[b,p]*2-L[m]+3 else 0]", T="hr", N="BP", L="M"),
        "of clipped numbers": read("T[h,min(max(N[b,p]-L[m],-3),3)+3 else 0]", T="hr", N="BP", L="M"),
        "of nothing in the end": read("T[h,0*N[b,p]+min(L[m],2)*2-min(L[m],2)*2+p else 0]", T="hr", N="BP", L="M"),
        "of a constant": read("T[h,p-p+2]", T="hr"),
        "of the nearer": read("T[h,min(N[b,p],abs(2-m)) else 0]", T="hr", N="BP"),
        "beyond": read("T[h,p-m else 0]", T="hr"),
        "far beyond": read("T[h,(p-m)*100-7 else 0]", T="hr"),
        "in 64 bits": read("T[h,p*2000000000-m*2000000000+4 else 0]", T="hr"),
        "two": read("T[p-m+|m|-1,max(p,m)]", T="ru"),
        "of a picture": read("T[h,(p//8-m//8+9)*15+p%8-m%8+7 else 0]", T="hr"),
        "outermost": read("T[p-m+|m|-1,h,m]", T="rhm"),
        "of a head": read("T[h*2+1,p]", T="rp"),
    }
    for name, bias in biases.items():
        yield form(name, {"O": (three(s + bias, V), "bhpf")}, {"O": (one(s + bias, V), "bhpf")})
    seen = f("select", read("T[abs(p-m)]", kind="bool", T="r"), s, NEG_INF)
    yield form("seen by distance", {"O": (three(seen, V), "bhpf")}, {"O": (one(seen, V), "bhpf")})
    grouped = add("e", t("Q", "bhgpe") * K) * 0.3
    for name, bias in {"grouped": read("T[h,g,p-m+|m|-1]", T="hgr"), "by number": read("T[h*|g|+g,p]", T="rp")}.items():
        x = keep(grouped + bias, **causal)
        yield form(f"distance, {name}", {"O": (three(x, V), "bhgpf")}, {"O": (one(x, V), "bhgpf")})
    waves = f("sin", t("X", "pm") * 3.0) * f("cos", t("X", "pm") - Iota("m"))
    yield form("waves of a distance", {"Y": (add("m", waves), "p")})
    yield form("diagonals", {"Y": (t("X", "pm") * read("T[p-m+|m|-1]", T="r"), "pm")})
    yield form("convolution", {"Y": (add("m", read("T[p-m+|m|-1,f]", T="rf") * t("X", "mf")), "pf")})
    yield form("constant", {"Y": (t("X", "pm") * read("T[p,|m|*0+2]", T="pr"), "pm")})
