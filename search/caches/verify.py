"""Whether what a cache or an exported file holds is what it says: kernels are generated again and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from eintune.host.notices import one_line
from eintune.kernels.emit.kernel import EMITTER_VERSION
from eintune.kernels.serve.any_size import kernel_at
from eintune.kernels.serve.choices import make_kernel
from eintune.kernels.store.cache import Key, Record
from eintune.kernels.store.exchange import Held
from eintune.kernels.store.portfolio import Portfolio
from eintune.space.cascade.problem import Problem


def faults(held: Held) -> Iterator[str]:
    """A line for each thing that keeps this from being used as it was stored: a kernel that is not made any more, or
    not as it was measured. That a form follows from its definition is found out by whoever runs the definition."""
    match held.key, held.content:
        case Key() as key, Record() as record:
            yield from _of_record(key, record)
        case Key() as key, Portfolio() as portfolio:
            yield from _of_portfolio(key, portfolio)
        case _:
            return


def _of_record(key: Key, record: Record) -> Iterator[str]:
    if key.emitter != str(EMITTER_VERSION):
        yield f"is of emitter {key.emitter}, and this is {EMITTER_VERSION}: its schedule is a guess now"
    try:
        digest = make_kernel(record.cascade, _problem(key, record.cascade), record.schedule).digest
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        yield f"its kernel cannot be made: {one_line(error)}"
        return
    if digest != record.digest:
        yield f"its kernel has digest {digest[:12]} now, and {record.digest[:12]} was measured"


def _of_portfolio(key: Key, portfolio: Portfolio) -> Iterator[str]:
    for point in portfolio.points:
        at = replace(key, sizes=point.sizes)
        for number in point.seconds:
            kernel = portfolio.kernels[number]
            try:
                kernel_at(kernel.cascade, _problem(at, kernel.cascade), kernel.schedule)
            except (ValueError, KeyError, IndexError, RecursionError) as error:
                sizes = " ".join(f"{r}{n}" for r, n in point.sizes)
                yield f"kernel {number} cannot be made at {sizes}: {one_line(error)}"


def _problem(key: Key, form: str) -> Problem:
    """What a stored form computes, at its sizes."""
    return Problem(key.workload, form, dict(key.sizes), dict(key.dtypes), dict(key.params))
