"""The process that runs egglog: a JSON request on stdin, one JSON line a step and one with the graph on stdout.

It is a process of its own because the engine has no limit of its own: a step that runs away cannot be stopped
from within, but a process can (see `egraph.saturate`).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

MEMORY_BYTES = 8 * 2**30
"""Address space of this process: a graph that needs more ends it, not the machine."""

_STEP = "(run-schedule (saturate (run analysis)) (run laws))"
_OPENING = "(run-schedule (saturate (run analysis)) (run opening) (run laws))"
_CLOSING = "(run-schedule (saturate (run analysis)))"


def _tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def main() -> None:
    """Run the request {program, steps, rows, seconds}; the engine's own messages go to stderr."""
    _bound_memory()
    from egglog import bindings

    request = json.load(sys.stdin)
    graph = bindings.EGraph()
    graph.run_program(*graph.parse_program(request["program"]))
    matches: Counter[str] = Counter()
    start, rows, still, stopped = time.monotonic(), 0, 0, "steps"
    for step in range(request["steps"]):
        reports = graph.run_program(*graph.parse_program(_STEP if step else _OPENING))
        for output in reports:
            if isinstance(output, bindings.RunScheduleOutput):
                for rule, count in output.report.num_matches_per_rule.items():
                    if "#" in rule:
                        matches[rule.partition("#")[0]] += count
        before, rows = rows, _rows(graph, bindings)
        seconds = time.monotonic() - start
        _tell(step=step + 1, rows=rows, seconds=seconds)
        still = still + 1 if rows == before else 0
        if still == 2:  # once may be a union that hides a new row
            stopped = "saturated"
            break
        if rows > request["rows"]:
            stopped = "rows"
            break
        if seconds > request["seconds"]:
            stopped = "seconds"
            break
    graph.run_program(*graph.parse_program(_CLOSING))
    data = json.loads(graph.serialize([], max_functions=None, max_calls_per_function=None).to_json())
    seconds = time.monotonic() - start
    statistics = {"steps": step + 1, "rows": rows, "seconds": seconds, "stopped": stopped, "matches": matches}
    _tell(nodes=data["nodes"], statistics=statistics)


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # not a Unix
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    bound = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (bound, most))


def _rows(graph: Any, bindings: Any) -> int:
    (sizes,) = graph.run_program(*graph.parse_program("(print-size)"))
    assert isinstance(sizes, bindings.PrintAllFunctionsSize)
    return sum(n for name, n in sizes.sizes if name not in ("free", "positive"))


if __name__ == "__main__":
    main()
