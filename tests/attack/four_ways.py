"""One drawn program through the four ways: the evaluator, plain operators, every derived form, a compiled kernel.

All in float64. The budget of an output's element is derived from the program: how far the element moves when every
number on the way to it is wrong by a part in 2**40, which leaves 2**13 roundings to sums and to other orders of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from drawn_cascades import Case

from eintune.host import notices
from eintune.kernels.reference.eager import run_eager
from eintune.kernels.serve import priced
from eintune.kernels.serve.compiled import compile
from eintune.kernels.store import kept_forms
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import infer_sizes, run_cascade
from eintune.space.derivation.derive import DerivationError, derive
from eintune.space.derivation.extraction import ExtractionError
from eintune.space.egraph import engine as saturate
from eintune.space.egraph import graph as egraph
from eintune.space.egraph.graph import Limits, SaturationError
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.exact import JUMPS, exact_operands, rewrite_around
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Unsplit,
    free,
    rewrite,
    topological,
)
from eintune.space.ir.pointwise import POINTWISE, Array
from eintune.space.plan.roles import IllegalPlan

LIMITS = Limits(steps=5, rows=700, arranged=300, seconds=1.0, timeout=20.0, solving=1.0)
KEEP = 4
WRONG = 2.0**-40
SAMPLES = 4
UNROUNDED = frozenset(
    {"max", "min", "neg", "abs", "select", "floor", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"}
)
"""Operators whose value is no rounding of another number, if their operands are none."""
SLACK = 16.0
"""Times what the samples show: they are few, and their signs may cancel."""
REFUSALS = (CascadeError, IllegalPlan, SaturationError, ExtractionError, DerivationError, ValueError, IndexError)

Values = Mapping[str, Array]


@dataclass(frozen=True)
class Verdict:
    """What came of one program. kind: "agreed", "undefined" (some number on the way is NaN or infinite, so that laws
    need not hold; evaluator and operators agree there too), "refused", or "fault". served: by a "kernel" or
    "operators". says: the error in one line."""

    kind: str
    says: str = ""
    forms: int = 0
    served: str = ""


class Fault(AssertionError):
    """A way that disagrees, or that ends in an error which is no refusal."""


def verdict(case: Case, cache: Path) -> Verdict:
    """Run a program in all ways. cache: an empty folder for kept forms."""
    try:
        return _verdict(case, cache)
    except Fault as fault:
        return Verdict("fault", str(fault))


def _verdict(case: Case, cache: Path) -> Verdict:
    refused: list[str] = []
    exact = _way("evaluator", lambda: run_cascade(case.cascade, case.data, case.given, case.params), refused)
    eager = _way("operators", lambda: _operators(case), refused)
    if exact is None:
        if eager is None or 0 in case.sizes.values():
            return Verdict("refused", refused[0])
        raise Fault(f"the evaluator refuses what operators compute: {refused[0]}")
    if eager is None:
        raise Fault(f"operators refuse what the evaluator computes: {refused[0]}")
    budget = budgets(case, exact)
    compare("operators", eager, exact, budget)
    defined = is_defined(case)
    forms = _way("derive", lambda: _forms(case), refused)
    for text, made in _evaluated(case, forms) if forms and defined else ():
        compare("derived form", made, exact, budget, text)
    served: list[str] = []
    kernel = _way("compile", lambda: _compiled(case, forms or [], cache, served), refused)
    if kernel is not None and defined:
        compare("compiled", kernel, exact, budget)
    if kernel is None:
        return Verdict("refused", refused[-1], len(forms or []))
    return Verdict("agreed" if defined else "undefined", "", len(forms or []), *served[:1])


def _way(name: str, run: Callable[[], Any], refused: list[str]) -> Any:
    """What a way gives, or None where it refuses in one line."""
    try:
        return run()
    except REFUSALS as error:
        says = str(error)
        multiline = "\n" in says and not isinstance(error, DerivationError)
        if type(error) not in REFUSALS or multiline or not says or _is_from_a_library(error):
            raise Fault(f"{name}: {type(error).__name__}: {says}{_place(error)}") from error
        refused.append(f"{name}: {type(error).__name__}: {says}")
        return None
    except Fault:
        raise
    except Exception as error:
        raise Fault(f"{name}: {type(error).__name__}: {error}{_place(error)}") from error


def _is_from_a_library(error: BaseException) -> bool:
    """Whether a ValueError or IndexError is another package's, about its own affairs."""
    tail = error.__traceback__
    while tail is not None and tail.tb_next is not None:
        tail = tail.tb_next
    return tail is not None and "eintune" not in tail.tb_frame.f_code.co_filename


def _place(error: BaseException) -> str:
    tail = error.__traceback__
    own = ""
    while tail is not None:
        if "eintune" in tail.tb_frame.f_code.co_filename:
            own = f" ({Path(tail.tb_frame.f_code.co_filename).name}:{tail.tb_lineno})"
        tail = tail.tb_next
    return own


# ---- the ways


def _tensors(case: Case) -> dict[str, torch.Tensor]:
    return {n: torch.as_tensor(a) for n, a in case.data.items()}


def _operators(case: Case) -> dict[str, Array]:
    sizes = infer_sizes(case.cascade, {n: a.shape for n, a in case.data.items()}, case.given)
    made = run_eager(case.cascade, _tensors(case), sizes, case.params, torch.float64)
    return {n: t.numpy() for n, t in made.items()}


def _forms(case: Case) -> list[str]:
    found = derive(case.cascade, limits=LIMITS, keep=KEEP)
    if found.failed and "inf" not in str(case.cascade):  # no law minds what infinities leave
        raise Fault(f"derive: {found.failed} forms computed something else")
    return [str(d.cascade) for d in found.cascades]


def _evaluated(case: Case, forms: Sequence[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Each form's outputs, its own splits at any tile."""
    for n, text in enumerate(forms):
        form = Cascade.parse(text)
        given = dict(case.sizes)
        for x in topological(list(form.roots().values())):
            if isinstance(x, (Split, Unsplit)) and x.outer not in case.sizes:
                length = case.sizes.get(x.rank) or case.sizes[form.same_sizes()[x.rank]]
                divisors = [d for d in range(1, length + 1) if length % d == 0]
                given[x.outer] = divisors[(case.seed + n) % len(divisors)] if divisors else 0
                given[x.inner] = length // given[x.outer] if divisors else 1
        own = {r for t in form.inputs.values() for r in t.ranks}
        given = {r: n for r, n in given.items() if r not in own and r in form.ranks()}
        data = {name: case.data[name] for name in form.inputs}
        try:
            made = run_cascade(form, data, given, case.params)
        except Exception as error:
            raise Fault(f"derived form: {type(error).__name__}: {error}{_place(error)}: {text}") from error
        yield text, made


def _compiled(case: Case, forms: Sequence[str], cache: Path, served: list[str]) -> dict[str, Array]:
    """By what `eintune.compile` serves on a CPU, of forms that were derived already."""
    known = {str(case.cascade): tuple(forms)}
    log = _Log()
    notices.forget()
    notices.logger.addHandler(log)
    try:
        with (
            mock.patch.dict(os.environ, EINTUNE_CACHE=str(cache)),
            mock.patch.dict(kept_forms._derived, known),
            mock.patch.object(priced, "SCHEDULES", 4),
            mock.patch.object(priced, "CLIMBS", 0),
        ):
            given = {r: n for r, n in case.given.items() if r in case.cascade.ranks()}
            made = compile(case.cascade, params=case.params, sizes=given, dtype="fp64")(**_tensors(case))
    finally:
        notices.logger.removeHandler(log)
    if broken := [m for m in log.messages if "does not run here" in m or "failed:" in m]:
        raise Fault(f"compile: {broken[0]}")
    served.append("operators" if any("plain PyTorch operators" in m for m in log.messages) else "kernel")
    outputs = made if isinstance(made, tuple) else (made,)
    return {n: t.numpy() for n, t in zip(case.cascade.outputs, outputs, strict=True)}


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# ---- what may differ


def is_defined(case: Case) -> bool:
    """Whether every number on the way is finite, or -inf where something was left out; and whether nothing is divided
    by nothing where exponentials are too small to be told from nothing: no law knows of that."""
    sizes = infer_sizes(case.cascade, {n: a.shape for n, a in case.data.items()}, case.given)
    nodes = topological(list(case.cascade.roots().values()))
    made = evaluate(nodes, case.data, sizes, case.params)
    found = {x: a for x, (a, _) in zip(nodes, made, strict=True)}
    vanished = {
        x
        for x in nodes
        if isinstance(x, Map) and x.op in ("exp", "exp2")
        if np.any((found[x] == 0) & np.isfinite(_beside(found[x.args[0]], found[x])))
    }
    divisors = (x.args[1] for x in nodes if isinstance(x, Map) and x.op == "div")
    if any(np.any(found[d] == 0) and not vanished.isdisjoint(topological([d])) for d in divisors):
        return False
    return all(bool(np.all(a < np.inf)) for a, _ in made)  # NaN is not below it either


def _beside(a: Array, b: Array) -> Array:
    """An operand of an operator of one, in the shape of its value."""
    return a.reshape(b.shape)


def budgets(case: Case, exact: Values) -> dict[str, Array]:
    """How far each element of the outputs may be off."""
    roots = case.cascade.roots()
    sizes = infer_sizes(case.cascade, {n: a.shape for n, a in case.data.items()}, case.given)
    random = np.random.default_rng(0)
    found: dict[str, Array] = {}
    noise: dict[str, tuple[Rank, ...]] = {}
    shaken = rewrite_around(list(roots.values()), lambda x: _shaken(x, noise))
    settled = [rewrite(shaken, lambda x, by=by: _settled(x, by)) for by in (WRONG, -WRONG)]
    for forms in [shaken] * SAMPLES + settled:
        errors = {n: 1.0 + WRONG * random.uniform(-1, 1, [sizes[r] for r in ranks]) for n, ranks in noise.items()}
        for (name, _), (array, ranks) in zip(
            roots.items(), evaluate(forms, {**case.data, **errors}, sizes, case.params), strict=True
        ):
            want = case.cascade.outputs[name].ranks
            wide = array.reshape([*array.shape, *[1] * (len(want) - array.ndim)])
            have = [*ranks, *(r for r in want if r not in ranks)]
            moved = wide.transpose([have.index(r) for r in want]).astype(np.float64)
            with np.errstate(all="ignore"):
                off = np.nan_to_num(np.abs(moved - exact[name].astype(np.float64)), nan=0.0, posinf=0.0)
            found[name] = np.maximum(found.get(name, 0.0), off)
    finite = {n: np.where(np.isfinite(a), np.abs(a), 0.0) for n, a in exact.items()}
    nodes = evaluate(topological(list(roots.values())), case.data, sizes, case.params)
    largest = max(float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0)) for a, _ in nodes)
    least = min(WRONG * max(largest, 1.0), 1e-9**0.5) ** 2  # what roundings leave of nothing, squared
    return {n: SLACK * found[n] + WRONG * (a + 2.0**-6 * a.max(initial=0.0)) + least for n, a in finite.items()}


def _shaken(x: Expr, noise: dict[str, tuple[Rank, ...]]) -> Expr | None:
    """A number times one that is nearly 1; what is exact stays: whole numbers, indices, booleans."""
    match x:
        case Const() | Size() | Iota():
            return None
        case Map() if POINTWISE[x.op].boolean:
            return None
        case Access() if x.tensor.kind != "float":
            return None
        case _:
            ranks = tuple(sorted(free(x)))
            name = f"NOISE{len(noise)}"
            noise[name] = ranks
            return Map("mul", (x, Access(Tensor(name, ranks), ranks)))


def _settled(x: Expr, shift: float) -> Expr | None:
    """What tells two numbers apart that are nearly the same, as one that tells them apart a little above or below:
    how they were rounded decides there."""
    if not isinstance(x, Map):
        return None
    if x.op in ("lt", "le", "gt", "ge") and any(map(_is_rounded, topological(x.args))):
        return Map(x.op, (x.args[0] + shift, x.args[1]))
    if x.op in JUMPS or not any(exact := exact_operands(x)):
        return None
    pairs = zip(x.args, exact, strict=True)
    return Map(x.op, tuple(Map("gt", (Map("abs", (a,)), Const(WRONG))) if number else a for a, number in pairs))


def _is_rounded(x: Expr) -> bool:
    """Whether a number may have been rounded on its way: what is compared as it was read is exact."""
    match x:
        case Map(op):
            return op not in UNROUNDED and any(map(_is_float, topological([x])))
        case Reduce(op) if op in ("max", "min"):
            return False
        case Reduce() | Fold():
            return any(map(_is_float, topological([x])))
        case _:
            return False


def _is_float(x: Expr) -> bool:
    return isinstance(x, (Access, Gather)) and x.tensor.kind == "float" and not x.tensor.name.startswith("NOISE")


def compare(way: str, made: Values, exact: Values, budget: Values, text: str = "") -> None:
    """Raises Fault where an output is off by more than its budget, or not a number elsewhere."""
    if list(made) != list(exact):
        raise Fault(f"{way}: has the outputs {list(made)}, but the definition {list(exact)}")
    for name, want in exact.items():
        got, want = np.asarray(made[name], np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            raise Fault(f"{way}: {name} has the shape {got.shape}, but the definition {want.shape}")
        with np.errstate(all="ignore"):
            same = (got == want) | (np.isnan(got) & np.isnan(want)) | (np.abs(got - want) <= budget[name])
        if not same.all():
            at = tuple(int(i) for i in np.argwhere(~same)[0])
            allowed = float(np.broadcast_to(budget[name], want.shape)[at])
            raise Fault(
                f"{way}: {name}{list(at)} is {got[at]!r}, but the definition {want[at]!r} (budget {allowed:.3g})"
                + (f": {text}" if text else "")
            )


# ---- saturation by a fork: a process that imports its engine anew takes longer than most of these programs


@contextlib.contextmanager
def forked_saturation() -> Iterator[None]:
    """Inside, the saturating process is a fork of this one, which has read the engine."""
    engine = saturate._engine()
    with mock.patch.object(egraph, "_run", _forked), mock.patch.object(saturate, "_engine", lambda: engine):
        yield


def _forked(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            sys.stdin, sys.stdout = io.StringIO(json.dumps(request)), os.fdopen(write, "w")
            with mock.patch.object(saturate, "_tell", _tell_and_end):
                saturate.main()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as answer:
        lines = answer.read().splitlines()
    _, code = os.waitpid(child, 0)
    if code or not lines:
        raise SaturationError(f"the saturating process ended with code {code}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _tell_and_end(**record: Any) -> None:
    """The engine never comes back from giving its memory up in a fork: the process ends with its last word."""
    print(json.dumps(record), flush=True)
    if "nodes" in record:
        os._exit(0)
