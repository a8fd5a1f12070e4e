"""Tune, ship what was found beside a model, and serve from it on a machine that has tuned nothing.

    python examples/ship_a_cache.py

Two caches stand for two machines: one tunes two lengths and exports, the other is empty. What is exported is unpacked
into the model's folder; a process with the empty cache finds it by `EINTUNE_SHIPPED`, and serves.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROBLEM = "--heads 2 --head-dim 16 --causal --dtype fp32 --device cpu"
SERVES = """
import torch, eintune
for length in (32, 64):
    q, k, v = (torch.randn(1, 2, length, 16) for _ in range(3))
    o = eintune.attention(q, k, v, causal=True)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(o, expected, atol=1e-5)
print("served lengths 32 and 64")
"""


def run(*command: str, cache: Path, shipped: Path | None = None) -> str:
    """What a process prints; it runs on the machine whose cache is given."""
    env = {**os.environ, "EINTUNE_CACHE": str(cache)}
    env.pop("EINTUNE_SHIPPED", None)
    if shipped:
        env["EINTUNE_SHIPPED"] = str(shipped)
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout + done.stderr


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tuning, serving, model = (Path(folder, name) for name in ("tuning", "serving", "model"))
        file = str(Path(folder, "mine.zip"))
        tune = ["-m", "eintune", "tune", "--seq", "32,64", *PROBLEM.split(), "--trials", "2", "--no-peers", "--quiet"]
        run(*tune, cache=tuning)
        print("exported", run("-m", "eintune", "cache", "export", file, cache=tuning).strip().partition(": ")[2])

        with zipfile.ZipFile(file) as exported:  # what is in it is checked when it is read, not here
            exported.extractall(model / "eintune")
        shipped = model / "eintune"
        said = run("-c", SERVES, cache=serving, shipped=shipped)
        print(said.strip())
        if "never tuned" in said:
            raise SystemExit("what was shipped did not serve")
        without = run("-c", SERVES, cache=serving)
        if "never tuned" not in without:
            raise SystemExit("without it, nothing should have been tuned")


if __name__ == "__main__":
    main()
