"""A derivation beside: the same forms, and a process that ends however things go."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eintune.search.tune.derivations import derivations
from eintune.search.tune.deriver import Deriver
from eintune.space.cascade.cascade import Cascade
from eintune.space.workloads.builtin import WORKLOADS

DEFINITION = "Yp = sum[m](e^(Xp,m - max[m](Xp,m)))"


def test_it_derives_what_this_process_would(tmp_path: Path) -> None:
    here = derivations(Cascade.parse(DEFINITION), tmp_path / "here", shipped=False)
    with Deriver(DEFINITION, tmp_path / "there") as deriver:
        deriver.start()
        found = deriver.result()
        assert found is not None and found is deriver.result()
        assert found.variants == here.variants and found.origin == here.origin == "derived"
        assert found.statistics["statistics"]["nodes"] == here.statistics["statistics"]["nodes"]
        assert not deriver._child.running
    assert [p.name for p in (tmp_path / "there").iterdir()] == [p.name for p in (tmp_path / "here").iterdir()]


def test_kept_forms_need_no_process_unless_they_are_wanted_fresh(tmp_path: Path) -> None:
    derivations(Cascade.parse(DEFINITION), tmp_path, shipped=False)
    with Deriver(DEFINITION, tmp_path) as deriver:
        deriver.start()
        assert not deriver._child.running and deriver.result() is None
    with Deriver(DEFINITION, tmp_path, fresh=True) as deriver:
        deriver.start()
        assert deriver._child.running


def test_what_fails_or_dies_gives_nothing(tmp_path: Path) -> None:
    with Deriver("no definition", tmp_path, fresh=True) as deriver:
        deriver.start()
        assert deriver.result() is None
    with Deriver(DEFINITION, tmp_path) as deriver:
        deriver.start()
        assert deriver._child._process is not None
        deriver._child._process.kill()
        assert deriver.result() is None


def test_leaving_ends_the_process(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Deriver(DEFINITION, tmp_path) as deriver:
        deriver.start()
        process = deriver._child._process
        assert process is not None and process.poll() is None
        raise KeyboardInterrupt
    assert process.poll() == -signal.SIGKILL


KILLED = """
import os, signal, sys
from pathlib import Path
from eintune.search.tune.deriver import Deriver
deriver = Deriver(sys.argv[1], Path(sys.argv[2]))
deriver.start()
os.kill(deriver._child._process.pid, signal.SIGSTOP)  # whatever it does, it takes long
print(deriver._child._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", KILLED, DEFINITION, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    number = int(done.stdout)
    held = os.pidfd_open(number)
    try:
        os.kill(number, signal.SIGCONT)
        assert select.select([held], [], [], 20)[0], "it outlives its owner"
    finally:
        os.close(held)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_definition_is_the_same_for_every_dtype(name: str) -> None:
    """So that deriving may begin before it is known which device there is, which decides the dtype."""
    row = WORKLOADS[name]
    given = {o.name: 64 for o in row.options if o.kind == "size" and o.default is None}
    assert len({row.posed(given, dtype).problem.cascade for dtype in ("fp32", "bf16", "fp16")}) == 1
