"""What `eintune space` says of each derived cascade: what it moves and holds, and the laws that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eintune.search.text.formatting import plural
from eintune.search.tune.derivations import Derivations, Variant
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import Rank
from eintune.space.operators.footprint import Elements, Footprint, footprint
from eintune.space.operators.operators import PART

Sizes = Mapping[Rank, int]


def space_text(
    name: str, definition: Cascade, derived: Derivations, sizes: Sizes, laws: Sequence[Sequence[str]] | None = None
) -> str:
    """All cascades, best first, and what the derivation took. sizes: of ranks, for numbers beside the formulas.

    laws: those that each cascade needs.
    """
    parts = [_heading(name, derived)]
    for i, v in enumerate(derived.variants):
        lines = [f"{i + 1}. {v.label}", *(f"   {x}" for x in footprint_lines(footprint(Cascade.parse(v.text)), sizes))]
        if laws is not None:
            lines.append(f"   {_needed(laws[i], v.text == str(definition))}")
        lines += [f"     {line}" for line in v.text.strip().splitlines() if not line.startswith("results:")]
        parts.append("\n".join(lines))
    if matched := _matches(derived.statistics):
        parts.append(f"laws by matches: {matched}")
    return "\n\n".join(parts)


def _heading(name: str, derived: Derivations) -> str:
    cascades = plural(len(derived.variants), "cascade")
    if not (statistics := derived.statistics):
        return f"{name}: {cascades} ({derived.origin})"
    graph, seconds = statistics["statistics"], statistics["seconds"]
    times = ", ".join(f"{stage} {s:.2f} s" for stage, s in seconds.items())
    size = f"{graph['classes']:,} classes with {graph['nodes']:,} nodes"
    lines = [f"{name}: {cascades} from an e-graph of {size}"]
    lines.append(f"{graph['steps']} steps, stopped by {graph['stopped']}; {times}")
    lines += [f"left out: {why} ({_times(n)})" for why, n in statistics["dropped"].items()]
    lines += [f"kept although it is unsafe, as the definition has no other form: {u}" for u in statistics["unstable"]]
    return "\n".join(lines)


def _needed(laws: Sequence[str], defined: bool) -> str:
    if defined:
        return "is the definition"
    return f"is not found without {', '.join(laws)}" if laws else "is found without any one of the laws"


def footprint_lines(f: Footprint, sizes: Sizes) -> list[str]:
    """A computation's passes, traffic and live footprint, one line each."""
    times: dict[int, list[str]] = {}
    for tensor, n in f.reads.items():
        times.setdefault(n, []).append(tensor)
    reads = ", ".join(f"{' '.join(names)} {_times(n)}" for n, names in sorted(times.items()))
    lines = [", ".join(f"{plural(n, 'pass', 'passes')} over {rank}" for rank, n in f.over.items()) or "no pass"]
    if f.traffic is None:
        lines.append(
            f"moves an unknown number of elements (some input's ranks are not written); writes {' '.join(f.writes)}"
        )
    else:
        lines.append(f"moves {_counted(f.traffic, sizes)} elements: reads {reads}; writes {' '.join(f.writes)}")
    lines += [f"holds {_counted(f.held, sizes)}"] if f.held.terms else []
    if again := [name for name in f.again if not PART.search(name)]:
        lines.append(f"computes again {' '.join(again)}, else holds {_counted(f.instead, sizes)} too")
    return lines


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def _counted(elements: Elements, sizes: Sizes) -> str:
    """The formula, and its value where all of its ranks have sizes."""
    known = elements.ranks <= set(sizes) and elements.terms
    return f"{elements} = {elements.count(sizes):,}" if known else str(elements)


def _matches(statistics: Mapping[str, Any]) -> str:
    found = statistics.get("statistics", {}).get("matches", {})
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{law} {n:,}" for law, n in ordered if n)


def space_json(
    name: str, definition: Cascade, derived: Derivations, sizes: Sizes, laws: Sequence[Sequence[str]] | None
) -> dict[str, Any]:
    """The same as plain data."""
    cascades = [_variant_json(v, sizes) for v in derived.variants]
    if laws is not None:
        cascades = [{**c, "laws": list(needed)} for c, needed in zip(cascades, laws, strict=True)]
    return {
        "workload": name,
        "definition": str(definition),
        "origin": derived.origin,
        "cascades": cascades,
        "statistics": dict(derived.statistics),
    }


def _variant_json(v: Variant, sizes: Sizes) -> dict[str, Any]:
    named = {"signature": str(v.signature), "label": v.label, "digest": v.digest, "cascade": v.text}
    return {**named, **footprint_json(footprint(Cascade.parse(v.text)), sizes), "passes": v.passes}


def footprint_json(f: Footprint, sizes: Sizes) -> dict[str, Any]:
    """A footprint as plain data."""
    return {
        "passes": f.passes,
        "stream": f.stream,
        "over": dict(f.over),
        "reads": dict(f.reads),
        "writes": list(f.writes),
        "traffic": None if f.traffic is None else _elements_json(f.traffic, sizes),
        "holds": _elements_json(f.held, sizes),
        "again": list(f.again),
        "instead": _elements_json(f.instead, sizes),
    }


def _elements_json(elements: Elements, sizes: Sizes) -> dict[str, Any]:
    known = elements.ranks <= set(sizes)
    return {"formula": str(elements), "elements": elements.count(sizes) if known else None}
