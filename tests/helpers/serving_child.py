"""Serves a tuned problem, one whose forms ship, and one that must be derived; prints what it found as JSON."""

import json
import logging
import math
import sys
from collections.abc import Callable

import torch

import eintune
from eintune.kernels.serve.choices import make_kernel
from eintune.kernels.serve.priced import ranked
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.timing import passes
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention_problem

ABSENT = {"egglog", "highspy", "matplotlib", "optuna", "pandas", "pulp", "seaborn"}


class Lines(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    scores = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    return torch.softmax(change(scores), -1) @ v.double()


def main() -> None:
    heard = Lines()
    logger = logging.getLogger("eintune")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(heard)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 64, 16) for _ in range(3))
    sizes = {"batch": 1, "heads": 2, "kv_heads": 2, "seq": 64, "kv_seq": 64, "head_dim": 16}
    problem = attention_problem(**sizes, dtype="fp32")
    schedule = schedules(problem.definition, problem, "torch")[0]
    digest = make_kernel(problem.cascade, problem, schedule).digest
    Cache().store(Key.of(problem, platform_of("cpu")), Record(problem.cascade, schedule, digest, 1e-3, 1e-3, 1e-3))
    causal = attention_problem(
        batch=1, heads=2, kv_heads=2, seq=64, kv_seq=64, head_dim=16, dtype="fp32", causal="top_left"
    )
    later = torch.ones(64, 64, dtype=torch.bool).triu(1)
    calls = {
        "tuned": (lambda: eintune.attention(q, k, v), lambda s: s),
        "shipped": (lambda: eintune.attention(q, k, v, causal=True), lambda s: s.masked_fill(later, -math.inf)),
        "untuned": (lambda: eintune.attention(q, k, v, softcap=2.0), lambda s: 2.0 * torch.tanh(s / 2.0)),
        "untuned again": (lambda: eintune.attention(q, k, v, softcap=2.0), lambda s: 2.0 * torch.tanh(s / 2.0)),
    }
    errors, log = {}, {}
    for name, (call, change) in calls.items():
        heard.lines.clear()
        made = call()
        errors[name] = float((made.double() - exact(q, k, v, change)).abs().max())
        log[name] = list(heard.lines)
    first = ranked(causal, torch.device("cpu"), "torch", Cache().directory)[0].text
    found = passes(Cascade.parse(first).roots().values())
    loaded = sorted(ABSENT & set(sys.modules))
    json.dump({"errors": errors, "log": log, "passes": found, "loaded": loaded}, sys.stdout)


if __name__ == "__main__":
    main()
