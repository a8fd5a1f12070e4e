"""What a form is: its signature, which tells it from others free of names, and a line for people.

Both are read off the canonical spelling: how often each rank is gone over, what is folded and reduced there, whether in
tiles, and where divisions stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eintune.space.ir.expr import Expr, Rank, Reduce, children, free, topological

from .canonical import spelling
from .cascade import Cascade
from .timing import families, steps_of, timed
from .traits import Stream, Trait, streams_of, traits


@dataclass(frozen=True, order=True)
class Feature:
    """A trait of a form and how often it has it; as `Trait`, without the rank."""

    kind: str
    what: str
    where: str
    count: int

    def __str__(self) -> str:
        if self.kind in ("reduce", "fold"):
            return f"{self.kind}.{self.what}.{self.where}*{self.count}"
        return ".".join(filter(None, (self.kind, self.where)))


@dataclass(frozen=True)
class StreamSignature:
    """A rank that is reduced: the passes over it, and the features of what goes over it, in order."""

    passes: int
    features: tuple[Feature, ...]

    @property
    def is_telling(self) -> bool:
        """Whether it tells a form from its definition: more than one pass, a fold, or a tiling."""
        return self.passes > 1 or any(f.kind in ("fold", "tiled") for f in self.features)

    def __str__(self) -> str:
        return f"{self.passes}:{'+'.join(map(str, self.features))}"


@dataclass(frozen=True)
class Signature:
    """streams: of each rank that matters, most passes first. order: in which order products are summed, where no
    stream tells one form from another; else empty. As text: `1:division.after+fold.scale.whole*2+reduce.max.whole*1`.
    """

    streams: tuple[StreamSignature, ...]
    order: str = ""

    def has(self, kind: str, where: str = "") -> bool:
        """Whether a stream has a feature of this kind, there if a place is given."""
        return any(f.kind == kind and where in ("", f.where) for s in self.streams for f in s.features)

    @property
    def folds(self) -> int:
        """Composite folds, over all streams."""
        return sum(f.count for s in self.streams for f in s.features if f.kind == "fold")

    def __str__(self) -> str:
        return "|".join(map(str, self.streams)) if not self.order else f"1:{self.order}"


def signature(cascade: Cascade) -> Signature:
    """What tells this form from others, free of names: for each rank that matters its passes, folds and
    reductions (with how many of each), its tiling, and where divisions stand."""
    streams = tuple(s for _, s in _main_streams(spelling(cascade)))
    return Signature(streams) if any(s.is_telling for s in streams) else Signature(streams, orders(cascade))


def streamed(cascade: Cascade) -> tuple[Rank, ...]:
    """The ranks that a form goes over more than once, or in folds or tiles, most passes first: none if there are
    none."""
    return tuple(stream.rank for stream, s in _main_streams(spelling(cascade)) if s.is_telling)


def orders(cascade: Cascade) -> str:
    """In which order products are summed: the same for forms that differ in names, or in what is not summed.

    For each reduction: at which places of the outputs the ranks that it keeps stand, and how many more it keeps that
    are reduced later."""
    outputs = list(dict.fromkeys(r for t in cascade.outputs.values() for r in t.ranks))
    texts = []
    for x in topological(spelling(cascade)):
        if isinstance(x, Reduce):
            kept = free(x.arg) - {x.rank}
            places = ",".join(str(i) for i, r in enumerate(outputs) if r in kept)
            texts.append(f"{x.op}[{places};{len(kept - set(outputs))}]")
    return "+".join(sorted(texts))


def description(cascade: Cascade) -> str:
    """One line for people, from the structure: the ranks that are gone over, tiling, folds, divisions."""
    streams = _main_streams(spelling(cascade))
    if not streams:
        return "pointwise"
    telling = [(stream, s) for stream, s in streams if s.is_telling]
    over = [f"{s.passes} pass{'es' if s.passes > 1 else ''} over {stream.rank}" for stream, s in telling or streams[:1]]
    first = streams[0][1].features
    every = [*first, *(f for _, s in telling[1:] for f in s.features)]
    words, kinds = [" and ".join(over)], {f.kind for f in every}
    if "tiled" in kinds:
        words.append("tiled")
    if "correction" in kinds:
        words.append("local references with a correction")
    folds = Counter[str]()
    for f in every:
        if f.kind == "fold":
            folds[f.what] += f.count
    words += [f"{n} {action} fold{'s' if n > 1 else ''}" for action, n in sorted(folds.items())]
    where = {f.where for f in first if f.kind == "division"}
    if where:
        words.append("division " + ("inside the loop" if "inside" in where else "after the loop"))
    return ", ".join(words)


def _main_streams(roots: Sequence[Expr]) -> list[tuple[Stream, StreamSignature]]:
    """The streams that tell forms apart, most passes first; failing those, all."""
    found, steps = [], steps_of(roots)
    passes = {f.whole: timed(steps, f).passes for f in families(steps)}
    for s in streams_of(roots):
        counts = {t: n for t, n in _traits(roots, s).items() if t.stream == s.rank and t.kind != "sum"}
        features = tuple(Feature(t.kind, t.what, t.where, n) for t, n in sorted(counts.items()))
        found.append((s, StreamSignature(passes.get(s.rank, 1), features)))
    telling = [f for f in found if f[1].is_telling]
    return sorted(telling or found, key=lambda f: (-f[1].passes, [str(x) for x in f[1].features]))


def _traits(roots: Sequence[Expr], stream: Stream) -> Counter[Trait]:
    counts: Counter[Trait] = Counter()
    for x in topological(roots):
        counts.update(set(traits(x, free(x), [free(a) for a in children(x)], [stream])))
    return counts
