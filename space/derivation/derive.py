"""Derivation: from a definition, the distinct stable cascades that compute it, each checked against it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eintune.space.cascade.canonical import canonical, digest, mixed, spelled, splits_of
from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.cascade.signature import Signature, description, signature
from eintune.space.cascade.timing import passes
from eintune.space.cascade.traits import Stream, levels, streams_of
from eintune.space.egraph.graph import ClassId, EGraph, Limits, Node, SaturationError, Statistics, label, saturate
from eintune.space.egraph.safety import HAZARDS, safe_part, unsafe
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.exact import Hidden, is_stand_in
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Param,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    free,
    rewrite,
    topological,
)
from eintune.space.ir.expr import params as parameters
from eintune.space.ir.gathers import completed, limits, reach, shapes, trusted
from eintune.space.ir.pointwise import Array, as_numbers
from eintune.space.ir.splits import SplitOf
from eintune.space.laws.laws import UNSPLIT, laws
from eintune.space.laws.one_hot import one_hots

from .extraction import Form, OutOfTime, forms
from .law_needs import needs_of
from .nearest import nearest
from .undone_views import undone

TOLERANCE = 1e-8
"""Largest relative error in float64 between a derived cascade and its definition."""
CANCELLED = 1e-6
"""An output this much smaller than the largest value on the way to it is what cancellation left: its error is taken
relative to that value times this."""
MASK = 1e6
"""A constant beyond this stands for infinity, as masks have it (-1e30): it is no value that rounding is relative to."""
_SIZES = (2, 3, 4, 5, 7, 6)
_OUTER, _INNER = 3, 5
FAILED = "fails its check against the definition"
"""Why a form is dropped that computes something else: a law does not hold for the definition's infinities, say."""
_ROWS = 4
UNDOING = 4_000
"""Nodes at which undoing stops: two definitions in a row, each in tiles with corrections, need 209."""
"""Length of an axis that an index tensor addresses."""


class DerivationError(RuntimeError):
    """No form is left: each that was derived computes something else than its definition."""


@dataclass(frozen=True)
class Derived:
    """One way to compute the definition.

    passes: over the rank that is gone over most often. signature: what tells it from the others, free of
    names. digest: of its canonical graph; two forms with one digest have the same plans. work: relative to
    the definition. error: largest relative error against the definition, in float64.
    """

    cascade: Cascade
    passes: int
    signature: Signature
    digest: str
    description: str
    work: float
    error: float

    def __str__(self) -> str:
        return f"# {self.description}\n{self.cascade}"


@dataclass(frozen=True)
class Derivation:
    """All that came of one definition: its forms by passes, then work; the graph; what was left out and why.

    graph: all that the laws reached; `safe`: what of it may be computed; `forms`: those taken from it, best first.
    unstable: nodes of the definition that can overflow or cancel and have no safe form. complete: False if a limit of
    time cut it short, so that a quieter machine may find more. seconds: by stage.
    """

    definition: Cascade
    cascades: tuple[Derived, ...]
    graph: EGraph
    safe: EGraph
    streams: tuple[Stream, ...]
    forms: tuple[Form, ...]
    unstable: tuple[str, ...]
    dropped: Mapping[str, int]
    complete: bool
    seconds: Mapping[str, float] = field(compare=False)

    @property
    def statistics(self) -> Statistics:
        return self.graph.statistics

    @property
    def failed(self) -> int:
        """How many forms were dropped because they compute something else than the definition."""
        return self.dropped.get(FAILED, 0)

    @property
    def best(self) -> Form | None:
        return next(iter(self.forms), None)

    def to_json(self) -> dict[str, object]:
        """Plain JSON data; `cascades` each have passes, signature and the cascade's text."""
        return {
            "cascades": [
                {
                    "passes": d.passes,
                    "signature": str(d.signature),
                    "description": d.description,
                    "digest": d.digest,
                    "work": round(d.work, 4),
                    "error": d.error,
                    "cascade": str(d.cascade),
                }
                for d in self.cascades
            ],
            "unstable": list(self.unstable),
            "dropped": dict(self.dropped),
            "complete": self.complete,
            "statistics": self.statistics.to_json(),
            "seconds": {k: round(v, 4) for k, v in self.seconds.items()},
        }


def derive(
    cascade: Cascade,
    *,
    without: frozenset[str] = frozenset(),
    allowed: frozenset[str] = frozenset(),
    limits: Limits | None = None,
    keep: int = 12,
) -> Derivation:
    """The distinct stable forms of a cascade that the laws reach, at most `keep` besides the definition.

    without: names of laws to leave out. allowed: hazards (`safety.HAZARDS`) that forms may have, such as the
    cancellation of raw moments. Raises SaturationError if saturation had to be killed, ValueError for
    an unknown law or a bad limit, DerivationError if all forms fail their check; one that does among others is
    dropped and counted (`Derivation.failed`).
    """
    if keep < 1:
        raise ValueError(f"`keep` must be at least 1, but got {keep}")
    limits = limits or Limits()
    clock = [time.monotonic()]
    written = list(cascade.roots().values())
    hidden = Hidden.of(written)
    exprs = hidden.hide(written)
    streams, splits = _streams(exprs, {r for x in topological(written) for r in _named(x)})
    filters = [(x.predicate, x.fill) for x in topological(exprs) if isinstance(x, Where)]
    own = {u.reason for u in unsafe(EGraph.of(exprs))}
    needs_reference = HAZARDS["overflow"] in own
    chosen, needs = one_hots(exprs), needs_of(exprs)
    table = laws(splits, dict.fromkeys(filters), chosen, needs, reference=needs_reference, without=without)
    same, reached = _undone(exprs, limits, without)
    graph = saturate(exprs, table, splits, limits, same)
    clock.append(time.monotonic())
    safe, unstable = safe_part(graph, allowed)
    unstable += _kept_hazards(hidden)
    found = _Distinct(cascade, safe, streams, hidden)
    if not own - {HAZARDS[name] for name in allowed}:
        found.offer(cascade, 1.0)
    elif like := nearest(safe):  # another safe form, or the only one, comes from the graph
        found.offer(_written(cascade, safe, like, found.names, hidden), 1.0)
    plain = [same.get(x, x) for x in exprs]
    if plain != exprs and safe.has(plain) and not any(True for _ in unsafe(EGraph.of(plain))):
        found.offer(found.written(plain), 1.0)  # what is in tiles of: it goes over the rank as often as any
    finished = found.extract(keep, limits.solving)
    if finished and not found.found:
        if found.failure:
            raise found.failure
        found.offer(cascade, 1.0)  # the graph has no form at all: the definition is one
    clock.append(time.monotonic())
    saturation, extraction = clock[1] - clock[0], clock[2] - clock[1] - found.checking
    seconds = {"saturation": saturation, "extraction": extraction, "checks": found.checking}
    complete = finished and reached and graph.statistics.stopped != "seconds"
    return Derivation(
        cascade, found.ordered(), graph, safe, streams, tuple(found.taken), unstable, found.dropped, complete, seconds
    )


def _kept_hazards(hidden: Hidden) -> tuple[str, ...]:
    """What may overflow or cancel of what is not derived anew, each with the reason."""
    return tuple(
        f"{label(u.node.head)} stays, as what a floor or a comparison depends on is computed as written: {u.reason}"
        for u in unsafe(EGraph.of(list(hidden.inputs)))
    )


def _undone(exprs: Sequence[Expr], limits: Limits, without: frozenset[str]) -> tuple[dict[Expr, Expr], bool]:
    """What is the same without views, folds and late divisions (`unsplit`), and whether the limits sufficed."""
    if UNSPLIT in without:
        return {}, True
    fewer = replace(limits, rows=min(limits.rows, UNDOING), arranged=min(limits.arranged, UNDOING // 4))
    try:
        return undone(exprs, fewer), True
    except SaturationError:
        return {}, False  # the definition as it is written still has forms


def _streams(exprs: Sequence[Expr], taken: set[Rank]) -> tuple[tuple[Stream, ...], tuple[SplitOf, ...]]:
    """The ranks that the definition goes over more than once (or folds), and how to split the one gone over most.

    A rank that is gone over once has nothing to gain from a split in the algebra: its tiles are the schedule's.
    taken: the names that parts of a rank cannot have.
    """
    folded = {x.rank for x in topological(exprs) if isinstance(x, Fold)}
    often = [s for s in streams_of(exprs) if levels(exprs, s) > 1 or folded & {s.rank, s.outer, s.inner}]
    if not often:
        return (), ()
    main = max(often, key=lambda s: levels(exprs, s))
    outer, inner = main.outer, main.inner
    if outer is None or inner is None:
        outer, inner = _parts(main.rank, taken)
    split = SplitOf(main.rank, outer, inner)
    return tuple(Stream(s.rank, outer, inner) if s == main else s for s in often), (split,)


def _named(x: Expr) -> frozenset[Rank]:
    own = {x.rank} if isinstance(x, (Size, Iota)) else set()
    return free(x) | own | ({x.outer, x.inner} if isinstance(x, Split) else set())


def _parts(rank: Rank, taken: set[Rank]) -> tuple[Rank, Rank]:
    """Two new ranks: m1 and m0 for m, or the next pair of digits that is free."""
    letter, n = rank[0], 1
    while {f"{letter}{n}", f"{letter}{n - 1}"} & taken:
        n += 2
    return f"{letter}{n}", f"{letter}{n - 1}"


class _Distinct:
    """Collects the forms that really differ, each checked, and counts what was dropped and why."""

    def __init__(self, definition: Cascade, graph: EGraph, streams: Sequence[Stream], hidden: Hidden) -> None:
        self.definition, self.graph, self.streams, self.hidden = definition, graph, streams, hidden
        self.names = class_names(definition, graph)
        self.check = _Check(definition, graph.splits)
        self.found: dict[tuple[str, bool], Derived] = {}
        self.dropped: Counter[str] = Counter()
        self.failure: DerivationError | None = None
        """The first form that computes something else."""
        self.taken: list[Form] = []
        self.checking = 0.0

    def extract(self, keep: int, seconds: float) -> bool:
        """Take forms from the graph until there are `keep`; whether time sufficed."""
        try:
            for form in forms(self.graph, self.streams, seconds):
                self.taken.append(form)
                self.offer(_written(self.definition, self.graph, form.choice, self.names, self.hidden), form.work)
                if len(self.found) >= keep:
                    break
        except OutOfTime:
            return False
        return True

    def written(self, exprs: Sequence[Expr]) -> Cascade:
        """The cascade of these outputs, with the definition's names."""
        called: dict[str, Expr] = {}
        for x in topological(exprs):
            if x in self.graph.defined and not isinstance(x, (Access, Gather, Param)):
                called.setdefault(self.names.get(self.graph.defined[x], ""), x)
        shown = self.hidden.show([*exprs, *called.values()])
        outputs = zip(shown, self.definition.outputs.items(), strict=False)
        named = {x: name for name, x in zip(called, shown[len(exprs) :], strict=True) if name}
        return from_roots({name: (x, tensor.ranks) for x, (name, tensor) in outputs}, named)

    def offer(self, candidate: Cascade, work: float) -> None:
        """Keep a form unless it is idle, known or computes something else."""
        why, tiled = _idle(candidate)
        if self._is_detached(candidate):
            why = "its tiling brings nothing"
        key = digest(candidate), tiled
        if key in self.found:
            why = "another spelling of a form"
        if why:
            self.dropped[why] += 1
            return
        start = time.monotonic()
        try:
            error = self.check(candidate)
        except DerivationError as failure:
            self.failure = self.failure or failure
            self.dropped[FAILED] += 1
            return
        finally:
            self.checking += time.monotonic() - start
        times = passes(list(candidate.roots().values()))
        self.found[key] = Derived(candidate, times, signature(candidate), key[0], description(candidate), work, error)

    def _is_detached(self, candidate: Cascade) -> bool:
        """Whether it goes over parts of a rank and no view says of which: those of a filter, or of an index, alone."""
        viewed = {x.outer for e in candidate.einsums for x in topological([e.expr]) if isinstance(x, (Split, Unsplit))}
        named = set(candidate.ranks()) - set(self.definition.ranks())
        return any({s.outer, s.inner} & named and s.outer not in viewed for s in self.graph.splits)

    def ordered(self) -> tuple[Derived, ...]:
        return tuple(sorted(self.found.values(), key=lambda d: (d.passes, d.work)))


def _idle(candidate: Cascade) -> tuple[str | None, bool]:
    """Why a form is not worth handing on (None if it is), and whether it is tiled."""
    roots = list(candidate.roots().values())
    tiled, short = spelled(roots), canonical(roots)
    splits = splits_of(tiled)
    if mixed(short):
        return "goes over a rank both whole and in tiles", True
    outer = {s.outer for s in splits}
    plain = any(isinstance(x, Reduce) and x.rank in outer for x in topological(tiled))
    if splits and plain and not splits_of(short):
        return "its tiling brings nothing", True
    return None, bool(splits)


def class_names(definition: Cascade, graph: EGraph) -> dict[ClassId, str]:
    """What the definition calls each class; a view of what it calls X is BX (its blocks)."""
    roots, hidden = _every(definition).roots(), Hidden.of(list(definition.roots().values()))
    names: dict[ClassId, str] = {}
    for name, x in zip(roots, hidden.hide(list(roots.values())), strict=True):
        if x in graph.defined:  # not what no result needs
            names.setdefault(graph.defined[x], name)
    for x, c in graph.defined.items():
        if isinstance(x, (Access, Gather)) and not is_stand_in(x):
            names.setdefault(c, x.tensor.name)
    for c, n in graph.nodes():
        if isinstance(n.head, Split) and n.children[0] in names and c not in names:
            names[c] = "B" + names[n.children[0]]
    return names


def _every(cascade: Cascade) -> Cascade:
    """The cascade with all its tensors as results."""
    return Cascade(cascade.einsums, tuple(e.output.name for e in cascade.einsums))


def _written(
    definition: Cascade, graph: EGraph, choice: Mapping[ClassId, Node], names: Mapping[ClassId, str], hidden: Hidden
) -> Cascade:
    decoded = graph.decode(choice)
    made = dict(zip(decoded, hidden.show(list(decoded.values())), strict=True))
    called: dict[Expr, str] = {}
    for c, x in made.items():
        if c in names and not isinstance(x, (Access, Gather, Param)):
            called.setdefault(x, names[c])
    if hidden.inputs:
        within = set(topological(hidden.inputs))
        for name, x in _every(definition).roots().items():
            if x in within:
                called.setdefault(x, name)
    outputs = {
        name: (made[root], tensor.ranks)
        for root, (name, tensor) in zip(graph.roots, definition.outputs.items(), strict=True)
    }
    return from_roots(outputs, called)


class _Check:
    """Evaluates cascades on the same random data as the definition, in float64."""

    def __init__(self, definition: Cascade, splits: Sequence[SplitOf]) -> None:
        self.definition = definition
        self.sizes = self._sizes(splits)
        self.trials = [t for t in self._trials() if t is not None]
        self.floors = [CANCELLED * self._largest(data, values) for data, values, _ in self.trials]

    def _sizes(self, splits: Sequence[SplitOf]) -> dict[Rank, int]:
        same = self.definition.same_sizes()
        sizes = {r: _SIZES[i % len(_SIZES)] for i, r in enumerate(self.definition.ranks())}
        bodies = [e.expr for e in self.definition.einsums]
        least = reach(bodies)
        sizes = {r: max(n, least.get(r, n)) for r, n in sizes.items()}
        for s in splits:
            tiles = max(_OUTER, -(-least.get(s.rank, 1) // _INNER))
            sizes |= {s.outer: tiles, s.inner: _INNER, same.get(s.rank, s.rank): tiles * _INNER}
        for x in reversed(topological(bodies)):  # the parts' parts first
            if isinstance(x, (Split, Unsplit)):
                sizes[same.get(x.rank, x.rank)] = sizes[x.outer] * sizes[x.inner]
        return completed(bodies, sizes | {r: sizes[first] for r, first in same.items()}, _ROWS)

    def _trials(self) -> Iterator[tuple[dict[str, Array], dict[str, float], list[Array]] | None]:
        inputs, bodies = self.definition.inputs, [e.expr for e in self.definition.einsums]
        shape_of, below, within = shapes(bodies, self.sizes), limits(bodies, self.sizes), trusted(bodies)
        scalars = parameters(bodies)
        for seed, sign in ((0, 1.0), (1, -1.0)):
            random = np.random.default_rng(seed)
            values = {p: sign * float(random.uniform(0.3, 1.5)) for p in scalars}
            data = {n: _draw(random, t.kind, shape_of[n], below.get(n, 3), n in within) for n, t in inputs.items()}
            wanted = self._values(self.definition, data, values)
            # a negative parameter may leave the definition's domain (a square root)
            yield (data, values, wanted) if all(np.isfinite(a).all() for a in wanted) else None

    def _largest(self, data: dict[str, Array], values: dict[str, float]) -> float:
        """The largest finite magnitude on the way to the outputs, masks aside."""
        nodes = topological(rewrite(list(self.definition.roots().values()), _masked))
        with np.errstate(all="ignore"):
            made = [as_numbers(a) for a, _ in evaluate(nodes, data, self.sizes, values)]
        return max((float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0)) for a in made), default=0.0)

    def _values(self, cascade: Cascade, data: dict[str, Array], values: dict[str, float]) -> list[Array]:
        """The outputs, each over the ranks that the definition declares for it."""
        found = []
        roots = cascade.roots()
        for (name, _), (array, ranks) in zip(
            roots.items(), evaluate(list(roots.values()), data, self.sizes, values), strict=True
        ):
            declared = sorted(self.definition.outputs[name].ranks)
            shape = [self.sizes[r] if r in ranks else 1 for r in declared]
            found.append(np.broadcast_to(as_numbers(array).reshape(shape), [self.sizes[r] for r in declared]))
        return found

    def __call__(self, candidate: Cascade) -> float:
        """The largest relative error. Raises DerivationError above TOLERANCE."""
        worst = 0.0
        for (data, values, wanted), floor in zip(self.trials, self.floors, strict=True):
            for got, want in zip(self._values(candidate, data, values), wanted, strict=True):
                scale = max(float(np.max(np.abs(want), initial=0.0)), floor, 1e-30)
                error = float(np.max(np.abs(got - want), initial=0.0)) / scale
                if not error <= TOLERANCE:  # so that NaN fails too
                    raise DerivationError(
                        f"a derived cascade must equal its definition, but differs by {error:.3g}:\n{candidate}"
                    )
                worst = max(worst, error)
        return worst


def _masked(x: Expr) -> Expr | None:
    """An infinity for a number that stands for it."""
    match x:
        case Const() if abs(x.value) > MASK:
            return Const(math.copysign(math.inf, x.value))
        case Where() if abs(x.fill) > MASK:
            return replace(x, fill=math.copysign(math.inf, x.fill))
        case _:
            return None


def _draw(random: np.random.Generator, kind: str, shape: tuple[int, ...], below: int, within: bool) -> Array:
    """below: what integers lie below where they must; others do so every other time."""
    match kind:
        case "bool":
            return random.integers(0, 2, shape).astype(np.bool_)
        case "int":
            inside = random.integers(0, below, shape)
            return inside if within else np.where(random.random(shape) < 0.5, inside, random.choice([-1, below], shape))
        case _:
            return random.normal(size=shape)
