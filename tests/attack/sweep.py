"""All drawn programs, in batches: `python tests/attack/sweep.py OUT.jsonl [FIRST [LAST]]`, which goes on where it was.

Prints a table at the end; each line of OUT.jsonl is one program.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from drawn_cascades import draw
from four_ways import forked_saturation, verdict


def main() -> None:
    out, first, last = Path(sys.argv[1]), *(int(a) for a in [*sys.argv[2:], *["0", "4000"][len(sys.argv) - 2 :]])
    torch.set_num_threads(1)
    logging.getLogger("eintune").propagate = False
    logging.getLogger("eintune").addHandler(logging.NullHandler())
    done = {json.loads(line)["seed"] for line in out.read_text().splitlines()} if out.exists() else set()
    with out.open("a") as file, forked_saturation():
        for seed in range(first, last):
            if seed in done:
                continue
            start = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
            with tempfile.TemporaryDirectory() as cache:
                found = verdict(draw(seed), Path(cache))
            seconds = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - start
            peak = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            record = {"seed": seed, **vars(found), "seconds": round(seconds, 3), "mib": peak // 1024}
            file.write(json.dumps(record) + "\n")
            file.flush()
            if found.kind == "fault":
                print(seed, found.says[:600], flush=True)
    table([json.loads(line) for line in out.read_text().splitlines()])


def table(rows: list[dict[str, object]]) -> None:
    """How many programs came to what, and what it took."""
    seconds, mib = [float(str(r["seconds"])) for r in rows], max(int(str(r["mib"])) for r in rows)
    print(f"{len(rows)} programs, {sum(seconds):.0f} s of processor time, the longest {max(seconds):.1f} s, {mib} MiB")
    for kind, n in Counter(str(r["kind"]) for r in rows).most_common():
        print(f"{n:6} {kind}")
    forms, served = sum(int(str(r["forms"])) for r in rows), Counter(str(r["served"]) for r in rows)
    print(f"{forms:6} forms; served by {dict(served)}")
    refusals = Counter(" ".join(str(r["says"]).split()[:2]) for r in rows if r["kind"] == "refused")
    for says, n in refusals.most_common():
        print(f"{n:6} refused by {says}")


if __name__ == "__main__":
    main()
