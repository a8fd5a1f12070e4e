"""What each emitter can lay out: the tile sizes and options that are worth trying for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What an emitter can lay out. Tile sizes in elements.

    rows, streams: tile sizes to try for a row and for a streamed rank. longest_axis: a rank of at most so many
    elements may be one whole axis. padded: tiles are powers of two of at least 16. batched: batch ranks may be axes
    too. temporary: least and most elements of the largest tile between two products. num_splits: of a streamed rank, to
    be run by programs of their own where there are fewer than `few` without; merged: most elements of a tile that
    merges them. descriptors: whether tiles can be loaded by tensor descriptor. approximate: whether there is code
    for functions that the hardware approximates. pipelined_products: whether there is code for these. specialised:
    whether there is code for warps that do different things. plain: what holds instead where nothing is multiplied as
    a matrix. side: tiles are made of squares of so many elements a side.
    """

    name: str
    rows: tuple[int, ...]
    streams: tuple[int, ...]
    warps: tuple[int, ...]
    stages: tuple[int, ...]
    longest_axis: int
    padded: bool
    batched: bool
    temporary: tuple[int, int]
    descriptors: bool = False
    approximate: bool = False
    pipelined_products: bool = False
    data_dependent_bounds: bool = False
    specialised: bool = False
    plain: Target | None = None
    side: int = 0
    num_splits: tuple[int, ...] = (1,)
    few: int = 0
    merged: int = 2**13

    def axis(self, size: int) -> int:
        """The tile length of a whole axis."""
        if self.side:
            return -(-size // self.side) * self.side
        return max(16, 1 << (size - 1).bit_length()) if self.padded else size


PLAIN_TRITON = Target(
    name="triton",
    rows=(1, 4, 16),
    streams=(512, 1024, 2048, 4096),
    warps=(4, 8, 16),
    stages=(1, 2, 3),
    longest_axis=2**14,
    padded=True,
    batched=False,
    temporary=(512, 2**14),
    num_splits=(1, 2, 4, 8, 16, 32, 64),
    few=512,
    merged=2**13,
    approximate=True,
)
"""Without products nothing asks for square tiles: few rows, and of each as much as fits into the registers."""

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            name="triton",
            rows=(16, 32, 64, 128),
            streams=(16, 32, 64, 128),
            warps=(4, 8),
            stages=(1, 2, 3, 4),
            longest_axis=512,
            padded=True,
            batched=False,
            temporary=(256, 2**15),
            num_splits=(1, 2, 4, 8, 16, 32, 64),
            few=512,
            merged=2**13,
            descriptors=True,
            approximate=True,
            pipelined_products=True,
            data_dependent_bounds=True,
            specialised=True,
            plain=PLAIN_TRITON,
        ),
        Target(
            name="tensix",
            rows=(32, 64, 128, 256),
            streams=(32, 64, 128, 256),
            warps=(1,),
            stages=(1, 2),
            longest_axis=512,
            padded=True,
            batched=False,
            temporary=(32, 2**16),
            side=32,
        ),
        Target(
            name="torch",
            rows=(64, 128, 256, 512),
            streams=(128, 256, 512, 1024),
            warps=(1,),
            stages=(1,),
            longest_axis=4096,
            padded=False,
            batched=True,
            temporary=(2**13, 2**23),
            num_splits=(1, 2),
            few=2,
            merged=2**21,
        ),
    )
}


def merged_elements(emitter: str) -> int:
    """Most elements of a tile that merges parts."""
    return TARGETS[emitter].merged if emitter in TARGETS else min(t.merged for t in TARGETS.values())
