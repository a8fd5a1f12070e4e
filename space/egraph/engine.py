"""The process that runs egglog: a JSON request on stdin, one JSON line a step and one with the graph on stdout.

It is a process of its own because the engine has no limit of its own: a step that runs away cannot be stopped
from within, but a process can (see `graph.saturate`).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any

from eintune.host.child_process import end_with_parent

MEMORY_BYTES = 3 * 2**29
"""Memory of this process: a graph that needs more ends it, not the machine. (The largest measured needs 200 MB.)"""
ADDRESS_BYTES = 8 * 2**30
"""Address space, of which threads reserve much that they never use."""
MOST_ROWS = 4
"""Times the limit of rows that one step may reach: beyond, the graph is not worth handing over."""

ANALYSES = ("free", "reduced", "sums", "positive", "negative", "finite", "wanted", "only", "hidden", "zero", "vanishes")
"""Tables that say something of values and are none themselves."""

_CLOSING = "(run-schedule (saturate (run analysis)))"


def _tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def _engine() -> Any:
    """The engine's extension module alone: its package brings in what only a person at a prompt needs."""
    package = PathFinder.find_spec("egglog")
    found = PathFinder.find_spec("bindings", package.submodule_search_locations) if package else None
    if found is None or found.loader is None:
        from egglog import bindings

        return bindings
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _schedule(step: int, arranging: bool, opening: int) -> str:
    """The command for one step: analyses first, then every ruleset that takes part."""
    # Analyses are saturated before each round, since the conditions of laws read them.
    parts = [f"opening{n}" for n in range(step + 1, opening + 1)] + ["laws"] + ["arranging"] * arranging
    return f"(run-schedule (saturate (run analysis)) {' '.join(f'(run {p})' for p in parts)})"


def main() -> None:
    """Run the request {program, opening, steps, rows, arranged, seconds, timeout}, whose program is a list of commands;
    the engine's messages go to stderr."""
    end_with_parent()
    request = json.load(sys.stdin)
    _bound(request["timeout"])
    bindings = _engine()
    graph = bindings.EGraph()
    for command in request["program"]:
        # each node of what is parsed holds the whole text that it came from: the bindings copy it for every node, so
        # that a program parsed at once takes time and memory that grow with its square (4 s and 500 MB for attention)
        graph.run_program(*graph.parse_program(command))
    matches: Counter[str] = Counter()
    # Processor time: what is found must not depend on what else the machine does.
    start, rows, still, stopped = time.process_time(), 0, 0, "steps"
    growth = 0.0  # by what factor the last step that rearranged did grow
    for step in range(request["steps"]):
        # Laws of associativity and commutativity alone make exponentially many terms. They rest when the next round,
        # growing like the last, would pass the bound; the others go on, and what shrinks may wake them again.
        arranging = rows * growth <= request["arranged"]
        reports = graph.run_program(*graph.parse_program(_schedule(step, arranging, request["opening"])))
        for output in reports:
            if isinstance(output, bindings.RunScheduleOutput):
                for rule, count in output.report.num_matches_per_rule.items():
                    if "#" in rule:
                        matches[rule.partition("#")[0]] += count
        before, rows = rows, _rows(graph, bindings)
        growth = rows / before if arranging and before else growth
        seconds = time.process_time() - start
        _tell(step=step + 1, rows=rows, seconds=seconds)
        still = still + 1 if rows == before else 0
        if still == 2:  # once may be a union that hides a new row
            stopped = "saturated" if arranging else "arranged"
            break
        if rows > MOST_ROWS * request["rows"]:
            raise SystemExit(f"a step made {rows} rows, where at most {MOST_ROWS * request['rows']} are handed over")
        if rows > request["rows"]:
            stopped = "rows"
            break
        if seconds > request["seconds"]:
            stopped = "seconds"
            break
    # The last round's new nodes have no analyses yet, and the reader needs the ranks of all classes.
    graph.run_program(*graph.parse_program(_CLOSING))
    data = json.loads(graph.serialize([], max_functions=None, max_calls_per_function=None).to_json())
    seconds = time.process_time() - start
    statistics = {"steps": step + 1, "rows": rows, "seconds": seconds, "stopped": stopped, "matches": matches}
    _tell(nodes=data["nodes"], statistics=statistics)


def _bound(seconds: float) -> None:
    """Of this process: its memory, and its processor time, so that a busy machine ends nothing early."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    wanted_of = {
        resource.RLIMIT_DATA: MEMORY_BYTES,
        resource.RLIMIT_AS: ADDRESS_BYTES,
        resource.RLIMIT_CPU: math.ceil(seconds),
    }
    for limit, wanted in wanted_of.items():
        _, most = resource.getrlimit(limit)
        resource.setrlimit(limit, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def _rows(graph: Any, bindings: Any) -> int:
    (sizes,) = graph.run_program(*graph.parse_program("(print-size)"))
    assert isinstance(sizes, bindings.PrintAllFunctionsSize)
    return sum(n for name, n in sizes.sizes if name not in ANALYSES)


if __name__ == "__main__":
    main()
