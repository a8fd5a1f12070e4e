"""What is done with a text of anybody's: read, written, analysed, drawn, run as a kernel; and what may come of it."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch
from hostile_texts import text_of

from eintune.kernels.generate.generate import generate_kernel
from eintune.kernels.launch.launch import LaunchError
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.run import run_cascade
from eintune.space.derivation.derive import DerivationError, derive
from eintune.space.egraph.graph import SaturationError
from eintune.space.ir.expr import Const, params, topological
from eintune.space.operators.assignments import read_operators, write_operators
from eintune.space.operators.cascades import from_cascade
from eintune.space.operators.egglog_programs import read_egg, write_egg
from eintune.space.operators.footprint import footprint
from eintune.space.operators.formats import as_cascade, read_computation
from eintune.space.operators.graph import OperatorGraph
from eintune.space.operators.one_iteration import one_iteration
from eintune.space.operators.passes import analyse
from eintune.space.pictures.cascades import cascade_dot, operators_dot
from eintune.space.tile_ir.graph import saturate_tiles
from eintune.space.tile_ir.text import read_tiles, write_tiles

SECONDS = 10.0
MEMORY_BYTES = 2 * 2**30
LONGEST = 1_200
"""Characters of an error's line."""
REFUSALS = (ValueError, LaunchError, SaturationError, DerivationError, IndexError)


class Hang(BaseException):
    """Nothing came of it in time."""


@dataclass(frozen=True)
class Outcome:
    """kind: "right", "refused" or "fault". step: what was done last; says: the error's line."""

    kind: str
    made: str
    step: str = ""
    says: str = ""
    seconds: float = 0.0


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Raises Hang after so many seconds of this process's own time: a busy machine is no fault."""

    def late(_: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(seed: int, *, kernels: bool, forms: bool = False) -> Outcome:
    """What comes of the text of a seed."""
    made, text = text_of(seed)
    start, steps, held = time.process_time(), ["read"], _peak()
    try:
        with watched(SECONDS):
            _use(text, steps, kernels, forms)
        kind, says = "right", ""
    except UnicodeError as error:
        kind, says = "fault", repr(error)
    except REFUSALS as error:
        says = str(error)
        one_line = says.isprintable() and 0 < len(says) <= LONGEST
        kind = "refused" if one_line and (not isinstance(error, IndexError) or "addressed within" in says) else "fault"
    except (Exception, Hang) as error:
        kind, says = "fault", f"{type(error).__name__}: {error}"
    if held < MEMORY_BYTES < _peak():
        kind, says = "fault", "over 2 GiB"
    return Outcome(kind, made, steps[-1], says, time.process_time() - start)


def _peak() -> int:
    """The most bytes that this process, or one that it waited for, has held."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024


def _use(text: str, steps: list[str], kernels: bool, forms: bool) -> None:
    if text.lstrip().startswith("(tile"):
        root = read_tiles(text)
        steps.append("tiles")
        assert read_tiles(write_tiles(root)) == root
        saturate_tiles(root)
        return
    found = read_computation(text)
    steps.append("analyse")
    str(analyse(found)), str(footprint(found))
    steps.append("draw")
    if isinstance(found, Cascade):
        cascade_dot(found, text[:200]).encode()
    else:
        graph = one_iteration(found) if isinstance(found, IterativeCascade) else found
        operators_dot(graph, text[:200]).encode()
    steps.append("cascade")
    if isinstance(found, OperatorGraph):
        assert read_operators(write_operators(found)) == found
    if isinstance(found, IterativeCascade):
        assert IterativeCascade.parse(str(found)) == found
    cascade = as_cascade(found)
    steps.append("print")
    assert Cascade.parse(str(cascade)) == cascade
    assert Cascade.parse(cascade.text(unicode=True)) == cascade
    if kernels:
        _run(cascade, steps)
    if forms:
        steps.append("derive")
        found = derive(cascade)
        assert not found.failed or "inf" in str(cascade), f"{found.failed} forms computed something else"
    steps.append("operators")
    graph = from_cascade(cascade)
    steps.append("egg")
    program = write_egg(graph)
    assert len(program) > 100_000 or len(graph.operations) > 1_000 or read_egg(program).operations


def _run(cascade: Cascade, steps: list[str]) -> None:
    """The kernel of small sizes computes what the evaluator says."""
    if 3 ** len(cascade.ranks()) > 100_000:
        return  # what is asked for takes long
    steps.append("kernel")
    values = dict.fromkeys(params(e.expr for e in cascade.einsums), 0.5)
    sizes = cascade.equalised(dict.fromkeys(cascade.ranks(), 3))
    kernel = generate_kernel(cascade, sizes, params=values, dtype="fp64", emitter="torch", machine="cpu")
    kernel.standalone()
    data = _data(cascade, kernel.problem.sizes)
    steps.append("evaluate")
    with np.errstate(all="ignore"):
        wanted = run_cascade(cascade, data, kernel.problem.sizes, values)
    nodes = topological(e.expr for e in cascade.einsums)
    infinite = any(isinstance(x, Const) and abs(x.value) == np.inf for x in nodes)  # what they make: test_four_ways
    steps.append("run")
    made = kernel(**{n: torch.tensor(x) for n, x in data.items()})
    for got, (name, want) in zip(made if isinstance(made, tuple) else (made,), wanted.items(), strict=True):
        if not infinite and np.isfinite(want).all() and np.abs(want).max(initial=0.0) < 1e12:
            np.testing.assert_allclose(got.double().numpy(), want, rtol=1e-5, atol=1e-5, err_msg=name)


def _data(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    made = {}
    for name, t in cascade.inputs.items():
        shape = [sizes[r] for r in t.ranks]
        floats, conditions = random.normal(size=shape), random.random(shape) < 0.5
        numbers = {"float": floats, "bool": conditions, "int": np.zeros(shape, np.int32)}
        made[name] = numbers[t.kind]
    return made
