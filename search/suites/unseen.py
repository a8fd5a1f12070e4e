"""Attention at shapes that nothing was tuned for, drawn with a seed: what a program gets that never called `tune`."""

from __future__ import annotations

import random

from .suite import Suite

PEERS = ("sdpa-flash", "sdpa-cudnn", "flash-attn-4", "flex")
"""A library's kernels for what libraries have; FlexAttention, which is compiled, for what they have not."""
LONGEST = 14
"""The logarithm of the longest sequence."""
HEAD_DIMS = (64, 80, 96, 128, 128, 192, 256)
MOST_SCORES, MOST_ELEMENTS = 2**33, 2**28
"""Of one case: a definition in float64 is computed of each."""
MODIFIERS = ("--window {window}", "--softcap 30", "--alibi", "--sinks")


def unseen(count: int, seed: int) -> Suite:
    """So many cases, a third of them with a modifier. A seed draws the same cases for ever."""
    draw = random.Random(seed)
    cases: dict[str, None] = {}
    while len(cases) < count:
        if (case := _case(draw)) is not None:
            cases[case] = None
    title = f"Attention at {count} shapes that nothing was tuned for (seed {seed})"
    return Suite(f"unseen_{seed}", title, tuple(cases), PEERS, (), False, ("cool",))


def _case(draw: random.Random) -> str | None:
    """One case's options; None for one beyond the limits. Lengths are even on a logarithmic scale, and hardly ever
    round."""
    group, kv_heads = draw.choice((1, 1, 2, 4, 8)), draw.choice((1, 2, 4, 8, 16, 32))
    heads, batch, dim = group * kv_heads, int(2 ** draw.uniform(0, 5)), draw.choice(HEAD_DIMS)
    keys = int(2 ** draw.uniform(0, LONGEST))
    # A prompt, a prompt after others that are kept, or a few tokens more.
    kind = draw.choice(("prompt", "prompt", "chunk", "decode"))
    few, some = draw.randint(1, 16), int(2 ** draw.uniform(0, LONGEST))
    queries = {"prompt": keys, "chunk": min(keys, some), "decode": min(keys, few)}[kind]
    causal = kind != "decode" and draw.random() < 0.6
    modifier = draw.choice(MODIFIERS).format(window=draw.randint(1, keys)) if draw.random() < 1 / 3 else ""
    too_many = batch * heads * queries * keys > MOST_SCORES or batch * heads * max(queries, keys) * dim > MOST_ELEMENTS
    if not 4 <= heads <= 64 or too_many:
        return None
    parts = [f"--batch {batch} --heads {heads}", f"--kv-heads {kv_heads}" if group > 1 else "", f"--seq {queries}"]
    # Behind keys that are kept the last query sees the last key.
    aligned = "" if not causal else "--causal" if kind == "prompt" else "--causal lower_right"
    parts += [f"--kv-seq {keys}" if keys != queries else "", f"--head-dim {dim}", aligned, modifier]
    return " ".join(filter(None, parts))
