"""What `tune --plan-only` says of a machine of cores: the ranking, what fits and why, and how grids scale."""

from __future__ import annotations

from typing import Any

from eintune.costmodel.cores.cores import grid_of, grids, price
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.tables import text_table
from eintune.search.tune.core_plans import CorePlan, CorePlans, block_text

SHOWN_GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8), (8, 10))


def core_text(title: str, plans: CorePlans, cascades: int, top: int) -> str:
    """All of it; there must be a plan that fits."""
    machine, grid = plans.machine, grid_of(plans.machine)
    lines = [
        title,
        f"on {machine.title}, priced and not measured",
        f"{grid.rows}x{grid.columns} cores, each with {grid.destination_tiles} destination slots for "
        f"tiles of {grid.tile}x{grid.tile} and {grid.l1_bytes // 1024:,} KiB of L1",
        "",
        _ranking(plans, top),
        "",
        f"destination slots that a block needs ({plans.kept[0].variant.label}); a core has {grid.destination_tiles},",
        "and a tile of 32-bit elements takes two",
        _fits(plans),
        "",
        f"the first plan on smaller grids{', a row sharing its reads by multicast' if grid.multicast else ''}",
        _grids(plans),
        "",
        f"{plural(cascades, 'cascade')}: {plural(plans.considered, 'plan')} x {len(list(grids(machine)))} grids, "
        f"{len(plans.kept):,} plans fit; left out:",
        *(f"  {count:>7,}  {reason}" for reason, count in plans.left_out.items()),
    ]
    return "\n".join(lines)


def distinct(plans: CorePlans) -> list[CorePlan]:
    """The best plan of each cascade, block and way to hold intermediates, fastest first."""
    found: dict[tuple[object, ...], CorePlan] = {}
    for p in plans.kept:
        found.setdefault((p.variant.digest, p.tiles, p.work.blocked), p)
    return list(found.values())


def _ranking(plans: CorePlans, top: int) -> str:
    grid = grid_of(plans.machine)
    rows = []
    for i, p in enumerate(distinct(plans)[:top]):
        e = p.estimate
        rows.append(
            [
                f"{i + 1}",
                p.variant.label,
                p.block,
                _held(p.work.blocked),
                "double" if p.work.buffered else "single",
                f"{e.rows}x{e.columns}",
                f"{p.work.destination}/{grid.destination_tiles}",
                f"{p.work.l1_bytes / 1024:.0f} KiB",
                milliseconds(e.seconds),
                e.limiter,
            ]
        )
    header = ["", "cascade", "tiles a core", "intermediates", "buffer", "cores", "slots", "L1", "predicted", "limiter"]
    return text_table(header, rows, right=(0, 6, 7, 8), widest={1: 18})


def _held(blocked: bool) -> str:
    return "sub-blocked" if blocked else "unblocked"


def _fits(plans: CorePlans) -> str:
    most = grid_of(plans.machine).destination_tiles
    first = plans.kept[0].variant.digest
    fits = sorted((f for f in plans.fits if f.variant.digest == first), key=lambda f: [n for _, n in f.tiles])
    rows = [
        [
            block_text(f.tiles),
            *(f"{n} {'fits' if n <= most else 'no'}" for n in (f.whole, f.blocked)),
        ]
        for f in fits
    ]
    table = text_table(["tiles a core", "unblocked", "sub-blocked"], rows)
    over = min((f for f in fits if f.whole > most), key=lambda f: f.whole, default=None)
    if over is None:
        return table
    taken = ", ".join(f"{name} {n}" for name, n in sorted(over.fullest, key=lambda x: -x[1]))
    return f"{table}\n{block_text(over.tiles)} unblocked takes {over.whole} at its fullest: {taken}"


def _grids(plans: CorePlans) -> str:
    best, machine = plans.kept[0], plans.machine
    whole = grid_of(machine)
    shown = [(r, c) for r, c in SHOWN_GRIDS if r <= whole.rows and c <= whole.columns]
    shown += [(whole.rows, whole.columns)] if (whole.rows, whole.columns) not in shown else []
    rows = []
    for r, c in shown:
        e = price(best.work, machine, r, c)
        rows.append([f"{r}x{c}", milliseconds(e.seconds), f"{e.dram_bytes / 1e6:,.1f} MB", e.limiter])
    return text_table(["cores", "predicted", "DRAM", "limiter"], rows, right=(1, 2))


def core_json(plans: CorePlans, top: int) -> dict[str, Any]:
    """The same as plain data."""
    ranking = [
        {
            "label": p.variant.label,
            "digest": p.variant.digest,
            "passes": p.variant.passes,
            "tiles": dict(p.tiles),
            "intermediates": _held(p.work.blocked),
            "buffered": p.work.buffered,
            "schedule": p.schedule.to_json(),
            "cores": [p.estimate.rows, p.estimate.columns],
            "destination_tiles": p.work.destination,
            "l1_bytes": p.work.l1_bytes,
            "seconds": p.estimate.seconds,
            "dram_bytes": p.estimate.dram_bytes,
            "limiter": p.estimate.limiter,
            "unit_seconds": dict(p.estimate.unit_seconds),
        }
        for p in distinct(plans)[:top]
    ]
    fits = [
        {"label": f.variant.label, "tiles": dict(f.tiles), "unblocked": f.whole, "sub-blocked": f.blocked}
        for f in plans.fits
    ]
    return {
        "machine": plans.machine.name,
        "ranking": ranking,
        "fits": fits,
        "considered": plans.considered,
        "fitting": len(plans.kept),
        "left_out": plans.left_out,
    }
