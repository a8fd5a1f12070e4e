"""What `doctor` has each dependency do, in another process: what dies there is a finding, not the end of doctor.

The process prints a JSON line for each exercise. One takes a dependency through what Eintune does with it, on something
small whose answer is known, and returns what to say; any error is its failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 600.0
"""After which an exercise has failed: the slowest takes seconds, and a busy machine may be a hundred times as slow."""


class Wrong(Exception):
    """A dependency computes something else than it should."""


class NotNeeded(Exception):
    """A thing is not there, which most do without."""


@dataclass(frozen=True)
class Finding:
    """What came of one exercise. works: None where it is not needed on this machine."""

    name: str
    works: bool | None
    text: str


def _expect(what: str, made: object, wanted: object) -> None:
    if made != wanted:
        raise Wrong(f"{what} must be {wanted}, but got {made}")


# ---- exercises


def _torch() -> str:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.arange(64, dtype=torch.float32, device=device).reshape(8, 8)
    _expect("the trace of a product", int((x @ x.mT).trace()), sum(n * n for n in range(64)))
    return f"multiplies matrices on {'the GPU' if device == 'cuda' else 'the CPU'}"


def _numpy() -> str:
    import numpy as np
    import torch

    shared = torch.from_numpy(np.arange(12.0)).reshape(3, 4).sum(0)
    _expect("a sum of columns", shared.numpy().tolist(), [12.0, 15.0, 18.0, 21.0])
    return "shares memory with torch"


def _triton() -> str:
    import torch

    if torch.cuda.is_available():
        _runs("cuda")
        return "compiles a kernel and runs it on the GPU"
    from eintune.kernels.launch.offline import compile_offline

    with tempfile.TemporaryDirectory(prefix="eintune-doctor-") as folder:
        resources = compile_offline(_kernel(), "sm_90", cache_dir=Path(folder))
    return f"compiles a kernel for sm_90: {resources.registers_per_thread} registers, {resources.spill_bytes} spilled"


def _cuobjdump() -> str:
    from triton import knobs

    tool = Path(str(knobs.nvidia.cuobjdump.path))
    if not tool.exists():
        raise NotNeeded("missing: no exact registers")
    return str(tool)


def _interpreter() -> str:
    _runs("cpu")
    return "TRITON_INTERPRET=1 runs a kernel on the CPU"


def _kernel() -> Any:
    from eintune.kernels.generate.emitters import emit
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.cascade.problem import Problem
    from eintune.space.lowering.lower import build_program
    from eintune.space.schedule.space import schedules

    text, sizes = "Zm,n = Ak,m * Bk,n", {"m": 64, "n": 64, "k": 64}
    problem = Problem("a product", text, sizes, dict.fromkeys(("A", "B", "Z"), "fp32"), {})
    cascade = Cascade.parse(text)
    schedule = next(s for s in schedules(cascade, problem, "triton") if s.loads == "pointer" and not s.is_specialised)
    return emit(build_program(cascade, problem, schedule), schedule)


def _runs(device: str) -> None:
    import torch

    from eintune.kernels.launch.load import load

    a, b = (torch.randn(64, 64, generator=torch.Generator().manual_seed(n)).to(device) for n in (1, 2))
    z = torch.empty(64, 64, device=device)
    kernel = _kernel()
    given = {"A": a, "B": b, "Z": z}
    load(kernel)([given[argument.name] for argument in kernel.arguments])
    error = float((z.double() - a.double().mT @ b.double()).abs().max())
    if not error < 1e-3:
        raise Wrong(f"a kernel's result must be right to 1e-3, but is off by {error:.3g}")


def _msgspec() -> str:
    from eintune.host.data import BadData, Count, Name, from_json

    _expect("numbers in a file", from_json(b'{"x": [3, 4]}', dict[Name, list[Count]]), {"x": [3, 4]})
    try:
        from_json(b'{"x": ["3"]}', dict[Name, list[Count]])
    except BadData:
        return "reads a file and refuses a wrong one"
    raise Wrong("a text must be refused where a number belongs, but was read")


def _platformdirs() -> str:
    from eintune.host.directories import cache_directory

    return f"the cache is {cache_directory()}"


def _egglog() -> str:
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.egraph.graph import saturate
    from eintune.space.laws.laws import laws

    roots = list(Cascade.parse("Zp = Ap,k * Bk * Cp").roots().values())
    graph = saturate(roots, laws())
    if graph.statistics.nodes <= len(graph.defined):
        raise Wrong(f"the laws must find another form of (a * b) * c, but the graph has {graph.statistics.nodes} nodes")
    return f"saturates a graph: {graph.statistics.classes} classes, {graph.statistics.nodes} nodes"


def _solves(name: str) -> str:
    import pulp

    from eintune.space.derivation.solver import solve, solver

    engine = solver(30.0)
    if name and type(engine).__name__ != name:
        raise Wrong(f"the solver must be {name}, but {type(engine).__name__} is used")
    model: Any = pulp.LpProblem("doctor", pulp.LpMinimize)
    x = [model.add_variable(f"x{i}", cat="Binary") for i in range(4)]
    model += pulp.lpSum(x)
    model += pulp.lpSum(weight * v for weight, v in zip((5, 3, 2, 2), x, strict=True)) == 7
    _expect("a small program", solve(model, engine), "optimal")
    _expect("its answer", sum(round(v.value()) for v in x), 2)
    return f"solves a small program with {type(engine).__name__}"


def _pulp() -> str:
    return _solves("")


def _highspy() -> str:
    return _solves("HiGHS")


def _optuna() -> str:
    import optuna

    from eintune.search.study.journal import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="eintune-doctor-") as folder:
        storage, _ = open_storage(Path(folder) / "journal.log")
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=2)
        study = optuna.create_study(storage=storage, sampler=sampler, study_name="doctor")
        study.optimize(lambda trial: abs(trial.suggest_categorical("x", [4, 2, 8]) - 2), n_trials=6)
        _expect("trials in the journal", len(study.trials), 6)
    return "searches a small space and keeps its journal"


def _filelock() -> str:
    import filelock

    with tempfile.TemporaryDirectory(prefix="eintune-doctor-") as folder:
        path = Path(folder) / "lock"
        with filelock.FileLock(path):
            try:
                filelock.FileLock(path).acquire(timeout=0)
            except filelock.Timeout:
                return "locks a file"
    raise Wrong("a file that is locked must not be locked again, but was")


def _pandas() -> str:
    import pandas as pd

    frame = pd.DataFrame({"kind": ["a", "b", "a"], "seconds": [1.0, 2.0, 3.0]})
    _expect("a mean by kind", frame.groupby("kind")["seconds"].mean().to_dict(), {"a": 2.0, "b": 2.0})
    return "groups a table"


def _jinja2() -> str:
    from eintune.search.report.page import lead

    _expect("a text of a page", str(lead("<1>")), '<p class="lead">&lt;1&gt;</p>')
    return "escapes the text of a page"


def _scipy() -> str:
    import numpy as np

    from eintune.costmodel.pricing.fit import least

    centre, wide, free = np.zeros(1), np.full(1, 1e3), np.full(1, np.inf)
    slope = least(lambda x: x[0] * np.arange(1.0, 6.0) - 2 * np.arange(1.0, 6.0), centre, wide, free)
    if abs(float(slope[0]) - 2) > 1e-3:
        raise Wrong(f"the slope of five points must be 2, but is {float(slope[0])}")
    return "fits a line"


def _rich() -> str:
    from eintune.search.text.tables import text_table

    _expect("a table's last line", text_table(["a", "b"], [["x", "1"]], right=(1,)).splitlines()[-1], "  x  1")
    return "lays out a table"


def _draws() -> str:
    from eintune.search.report.plots import stages, style

    style()
    with tempfile.TemporaryDirectory(prefix="eintune-doctor-") as folder:
        path = Path(folder) / "stages.svg"
        stages({"derive": 1.0, "measure": 2.0}).savefig(path)
        if b"<svg" not in path.read_bytes():
            raise Wrong("a picture must be an SVG, but is none")
    return "draws a picture"


EXERCISES: Mapping[str, Callable[[], str]] = {
    "torch": _torch, "numpy": _numpy, "triton": _triton, "cuobjdump": _cuobjdump, "platformdirs": _platformdirs,
    "msgspec": _msgspec, "egglog": _egglog, "filelock": _filelock, "highspy": _highspy, "pulp": _pulp,
    "optuna": _optuna, "pandas": _pandas, "jinja2": _jinja2, "rich": _rich, "scipy": _scipy, "matplotlib": _draws,
    "seaborn": _draws,
    "interpreter": _interpreter,
}  # fmt: skip
"""By the package that is tried, in the order of the report; the last needs a process of its own."""
NEEDS = {"cuobjdump": "triton", "interpreter": "triton"}
"""The package of an exercise that is not called after it."""


# ---- the process


def findings(names: Sequence[str]) -> Iterator[Finding]:
    """Try each; where the process dies, that is said and the rest is tried in another."""
    left = list(names)
    while left:
        done = 0
        for finding in _together(left):
            yield finding
            done += 1
        left = left[done:]


def _together(names: Sequence[str]) -> Iterator[Finding]:
    """Findings in order, ending early with the one that ended the process. What interprets cannot compile."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    these = [name for name in names if name != "interpreter"]
    if not these:
        these, env = ["interpreter"], {**env, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", "-m", f"{__package__}.exercises", *these]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as heard:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=heard, text=True, env=env)
        assert child.stdout is not None
        try:
            output, _ = child.communicate(timeout=SECONDS * len(these))
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
        heard.seek(0)
        last = (heard.read().strip().splitlines() or [""])[-1]
    answers = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    for answer in answers:
        yield Finding(answer["name"], answer["works"], answer["text"])
    if len(answers) < len(these):
        late = time.monotonic() - started >= SECONDS * len(these)
        why = "it did not end" if late else f"its process ended with code {child.returncode}"
        yield Finding(these[len(answers)], False, f"{why}{': ' if last else ''}{last}")


def main(names: Sequence[str]) -> None:
    """Try each by name; a JSON line each, nothing else on stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no finding
    for name in names:
        works: bool | None
        try:
            works, text = True, EXERCISES[name]()
        except NotNeeded as error:
            works, text = None, str(error)
        except Exception as error:  # a package may be broken in any way; that is the finding
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            works, text = False, f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        print(json.dumps({"name": name, "works": works, "text": text}), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
