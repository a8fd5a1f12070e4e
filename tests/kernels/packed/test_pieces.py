"""Packed queries in pieces of one sequence each: whatever the lengths are, each query stands at one place, once."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from packed_reference import drawn, in_cache, packed

import eintune
from eintune.kernels.packed.lengths import Reach
from eintune.kernels.packed.pieces import length_of, pieces_of


def cumulated(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


@pytest.mark.parametrize(
    ("total", "sequences", "length"),
    [(60, 60, 1), (61, 60, 1), (0, 3, 1), (0, 0, 1), (100, 60, 16), (1060, 61, 32), (1024, 32, 32), (9000, 9, 128)],
)
def test_pieces_are_as_long_as_sequences_are(total: int, sequences: int, length: int) -> None:
    assert length_of(total, sequences) == length


@pytest.mark.parametrize("seed", range(40))
def test_each_query_stands_at_one_place_beside_its_own_keys(seed: int) -> None:
    draw = random.Random(seed)
    queries = [draw.choice([0, 1, 1, draw.randint(0, 70)]) for _ in range(draw.randint(1, 9))]
    used = [draw.choice([0, n, n + draw.randint(0, 50), max(n - 2, 0)]) for n in queries]
    total, length = sum(queries) + draw.choice([0, 0, 5]), draw.choice([1, 16, 32])
    reach = Reach(draw.choice([None, 3]), draw.choice([None, 0, 2]), draw.random() < 0.3)
    made = pieces_of(total, length, cumulated(queries), torch.tensor(used, dtype=torch.int32), reach, True)
    pieces = len(made.sequence)
    places = [t.reshape(pieces, length) for t in made.stretches if t is not None]
    first, end, place = (t.flatten().tolist() for t in places)
    rows, sequence = made.queries.reshape(-1).tolist(), made.sequence.tolist()
    back = made.back.tolist()
    assert len(back) == total and all(0 <= r < max(total, 1) for r in rows)
    token = 0
    for n, count in enumerate(queries):
        for i in range(count):
            at = back[token]
            assert rows[at] == token and sequence[at // length] == n
            stands = i if reach.top_left else used[n] - count + i
            seen = range(used[n])
            if reach.before is not None:
                seen = range(max(stands - reach.before, 0), seen.stop)
            if reach.beyond is not None:
                seen = range(seen.start, min(stands + reach.beyond + 1, seen.stop))
            assert place[at] == stands and [*range(max(first[at], 0), end[at])] == [*seen]
            token += 1
    beyond = set(back[token:])
    assert len(set(back[:token])) == token and all(end[at] <= first[at] for at in beyond)
    # What a piece has beyond its sequence is one of that sequence's queries, which hold numbers.
    for n, piece in enumerate(sequence):
        if any(end[at] > first[at] for at in range(n * length, (n + 1) * length)):
            last = sum(queries[: piece + 1]) - 1
            assert all(r <= last for r in rows[n * length : (n + 1) * length])


def test_lengths_that_do_not_fit_address_nothing_beyond() -> None:
    for cu in ([0, 500, 900], [0, -7, 5], [3, 1, 0]):
        made = pieces_of(20, 16, torch.tensor(cu), torch.tensor([5, 9], dtype=torch.int32), Reach(), False)
        for t, end in ((made.queries, 20), (made.sequence, 2), (made.back, made.queries.numel())):
            assert t.min() >= 0 and t.max() < end


@pytest.mark.parametrize("queries", [[1] * 7, [1, 1, 40, 1, 0, 1], [33, 20, 0, 60, 1], [130, 300]])
def test_mixed_batches_of_any_lengths(queries: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    keys = [n + 3 * i for i, n in enumerate(queries)]
    k, v = ([drawn(n, 2, 16, seed=n + s) for n in keys] for s in (0, 50))
    caches, cu = in_cache(k, v, 8), cumulated(queries)
    q = torch.cat([drawn(sum(queries), 4, 16), torch.full((3, 4, 16), torch.nan)])
    out, log = eintune.paged_attention(q, *caches, cu_seq_q=cu, causal=True, window=50, return_lse=True)
    wanted, logs = packed(q, torch.cat(k), torch.cat(v), cu.tolist(), cumulated(keys).tolist(), causal=True, window=50)
    torch.testing.assert_close(out.double(), wanted, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(log.double(), logs, atol=1e-5, rtol=1e-5)
    assert out.is_contiguous() and log.shape == (4, len(q))
