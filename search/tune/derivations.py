"""The derived cascades of a definition as text: shipped with the package, kept from an earlier run, or derived.

Deriving takes seconds and always gives the same. The forms of the built-in definitions ship as text; of others
they are kept in the cache directory (`kernels.store.kept_forms`). A file that cannot be used is derived again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eintune.kernels.store.kept_forms import Kept, keep, read_kept
from eintune.kernels.store.shipped_forms import derived_texts
from eintune.search.text.formatting import plural
from eintune.space.cascade.canonical import digest
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.signature import Signature, orders, signature, streamed
from eintune.space.cascade.timing import passes
from eintune.space.ir.expr import Fold, Rank, topological
from eintune.space.operators.footprint import footprint


@dataclass(frozen=True)
class Variant:
    """One derived cascade as text. digest: of its canonical graph; passes: over the streamed rank; label: its kind
    in words; signature: its reductions, free of names."""

    text: str
    digest: str
    passes: int
    label: str
    signature: Signature


@dataclass(frozen=True)
class Derivations:
    """origin: "shipped", "kept" (from an earlier run) or "derived" and whether it was cut short; statistics: what
    a derivation counted; complete: False if a limit of time cut it short."""

    variants: tuple[Variant, ...]
    origin: str
    statistics: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True


def derivations(
    definition: Cascade,
    folder: Path,
    *,
    fresh: bool = False,
    shipped: bool = True,
    allowed: frozenset[str] = frozenset(),
) -> Derivations:
    """The derived cascades of `definition`; `folder` keeps them between runs. `fresh` derives in any case.

    A derivation that its limits of time cut short is kept for programs that serve its winner: the next run derives
    again.

    shipped: take the forms that come with the package, where it has them. allowed: hazards that forms may have (see
    `derive`); what is derived with them is not kept. Raises ValueError for an unknown hazard.
    """
    if allowed:
        return _derive(definition, allowed)
    text = str(definition)
    if shipped and not fresh and (texts := derived_texts(text)):
        return Derivations(_told_apart(tuple(_read_off(t) for t in texts), definition), "shipped")
    kept = None if fresh else _kept(folder, text)
    if kept is not None:
        return Derivations(_told_apart(tuple(_read_off(t) for t in kept.forms), definition), "kept")
    made = _derive(definition)
    keep(folder, text, Kept(tuple(v.text for v in made.variants), made.complete))
    return made


def are_kept(definition: str, folder: Path) -> bool:
    """Whether `derivations` would find a definition (its text) kept in a folder, and not derive it."""
    return _kept(folder, str(Cascade.parse(definition))) is not None


def _kept(folder: Path, text: str) -> Kept | None:
    """What is kept of a definition, if nothing cut its derivation short."""
    kept = read_kept(folder, text)
    return kept if kept is not None and kept.complete and kept.forms else None


def _derive(definition: Cascade, allowed: frozenset[str] = frozenset()) -> Derivations:
    from eintune.space.derivation.derive import derive

    derivation = derive(definition, allowed=allowed)
    variants = tuple(_variant(d.cascade, d.digest, d.signature) for d in derivation.cascades)
    report = derivation.to_json()
    del report["cascades"]
    origin = "derived" if derivation.complete else "derived, cut short by a limit of time"
    if derivation.failed:
        origin += f"; {plural(derivation.failed, 'form')} left out that failed the check against the definition"
    return Derivations(_told_apart(variants, definition), origin, report, derivation.complete)


def written(definition: Cascade) -> Variant:
    """The definition itself as the one form."""
    return _read_off(str(definition))


def _read_off(text: str) -> Variant:
    """A form from its text alone: what it is follows from its graph."""
    cascade = Cascade.parse(text)
    return _variant(cascade, digest(cascade), signature(cascade))


def _variant(cascade: Cascade, unique: str, kind: Signature) -> Variant:
    """A form with the passes of its graph over each rank that it streams."""
    roots = list(cascade.roots().values())
    over, most = {rank: passes(roots, rank) for rank in streamed(cascade)}, passes(roots)
    return Variant(str(cascade), unique, most, short_label(most, kind, over), kind)


def short_label(passes: int, signature: Signature, over: Mapping[Rank, int] | None = None) -> str:
    """A form's kind in a few words, for tables: "1-pass tiled, deferred division".

    over: the passes over each rank that is streamed; of several each is said, "1-pass over m, 2-pass over f".
    """
    kind = [_passes_text(passes, over or {})]
    kind += [word for trait, word in (("tiled", "tiled"), ("correction", "corrected")) if signature.has(trait)]
    extra = [plural(signature.folds, "fold")] if signature.folds and passes > 1 else []
    extra += ["deferred division"] if signature.has("division", "after") else []
    return ", ".join([" ".join(kind), *extra])


def _passes_text(passes: int, over: Mapping[Rank, int]) -> str:
    """ "2-pass"; of several ranks "1-pass over m and n", "2-pass over f, 1-pass over m"."""
    if len(over) < 2:
        return f"{passes}-pass"
    ranks: dict[int, list[Rank]] = {}
    for rank, times in sorted(over.items(), key=lambda item: (-item[1], item[0])):
        ranks.setdefault(times, []).append(rank)
    return ", ".join(f"{times}-pass over {' and '.join(names)}" for times, names in ranks.items())


def _told_apart(variants: tuple[Variant, ...], definition: Cascade) -> tuple[Variant, ...]:
    """Labels made unique by what differs, else by counting, as digests are: a form and its tiled spelling share one."""
    variants = _said_apart(variants, definition)
    labels: Counter[str] = Counter()
    digests: Counter[str] = Counter()
    told = []
    for v in variants:
        labels[v.label] += 1
        digests[v.digest] += 1
        label = v.label if labels[v.label] == 1 else f"{v.label} ({labels[v.label]})"
        unique = v.digest if digests[v.digest] == 1 else f"{v.digest}-{digests[v.digest]}"
        told.append(replace(v, label=label, digest=unique))
    return tuple(told)


def _said_apart(variants: tuple[Variant, ...], definition: Cascade) -> tuple[Variant, ...]:
    """Where several forms have one label, a word for what tells them apart in their graphs."""
    alike: dict[str, list[Variant]] = {}
    for v in variants:
        alike.setdefault(v.label, []).append(v)
    own = orders(definition)
    labels = {v: label for label, group in alike.items() if len(group) > 1 for v in group}
    for group in (g for g in alike.values() if len(g) > 1):
        for difference in (_folds, lambda c: "" if orders(c) == own else "reassociated", _stream):
            words = {v: difference(Cascade.parse(v.text)) for v in group}
            if len({labels[v] for v in group}) < len(group) and len(set(words.values())) > 1:
                labels |= {v: ", ".join(filter(None, (labels[v], words[v]))) for v in group}
    return tuple(replace(v, label=labels.get(v, v.label)) for v in variants)


def _stream(cascade: Cascade) -> str:
    """ "over m", the rank that is gone over most often."""
    rank = footprint(cascade).stream
    return f"over {rank}" if rank else ""


def _folds(cascade: Cascade) -> str:
    """ "1 fold" or "no fold"."""
    count = sum(isinstance(x, Fold) for x in topological(list(cascade.roots().values())))
    return plural(count, "fold") if count else "no fold"
