"""Tile programs as text, both ways, and every wrong one with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eintune.space.tile_ir.text import MAX_SIZE, read_tiles, two_products, write_tiles
from eintune.space.tile_ir.tiles import ELEMENT_BYTES, Elementwise, Final, Input, Lds, Stg, Sts, TileError, Wgmma, facts

Q, K, V = (Lds(Input(n, r, c, 2, i)) for n, r, c, i in (("Q", 128, 64, 1), ("K", 64, 128, 8), ("V", 128, 64, 8)))


def test_the_two_products() -> None:
    o = Wgmma(Elementwise("scale", Wgmma(Q, K)), V)
    assert read_tiles(two_products()) == Stg(Sts(o))
    assert read_tiles(two_products(stored="once")) == Stg(Sts(Final(o)))


@given(
    st.integers(1, 512),
    st.integers(1, 512),
    st.integers(1, 512),
    st.integers(1, 64),
    st.sampled_from(sorted(ELEMENT_BYTES)),
    st.sampled_from(sorted(ELEMENT_BYTES)),
    st.sampled_from(["each", "once"]),
)
def test_sizes_and_dtypes_are_arguments_and_programs_are_written_back(
    rows: int, columns: int, width: int, times: int, dtype: str, accumulator: str, stored: str
) -> None:
    term = read_tiles(
        two_products(
            rows=rows, columns=columns, width=width, times=times, dtype=dtype, accumulator=accumulator, stored=stored
        )
    )
    f = facts(term)
    assert (f.rows, f.cols, f.element_bytes) == (rows, width, ELEMENT_BYTES[accumulator])
    assert f.iterations == (times if stored == "each" else 1)
    assert read_tiles(write_tiles(term)) == term


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs a (result TERM)"),
        ("(tile Q 128 64 fp17)", "command 1: a dtype is one of fp64, fp32"),
        ("(tile Q 0 64 fp16)", "whole numbers from 1 to"),
        (f"(tile Q {MAX_SIZE + 1} 64 fp16)", "whole numbers from 1 to"),
        ("(tile Q 1.5 64 fp16)", "but got 1.5"),
        ("(tile Q 1 64 fp16) (tile Q 1 64 fp16)", "command 2: Q is bound once"),
        ("(tile Q 1 64 fp16) (let S (LDS R))", "R is not bound above"),
        ("(tile Q 1 64 fp16) (let S (MOVE Q))", "expected (tile NAME ROWS COLUMNS DTYPE [TIMES])"),
        ("(tile Q 1 64 fp16) (let S (LDS Q Q))", "expected (tile NAME"),
        ("(tile Q 1 64 fp16) (let S (Elementwise twist (LDR (LDS Q))))", "Elementwise computes one of"),
        ("(tile Q 1 64 fp16) (result (LDR Q))", "its operand must be in shared, but is in global"),
        ("(tile Q 1 64 fp16) (result Q) (result Q)", "has one result"),
        ("(tile Q 1 64 fp16", "1 brackets are never closed"),
        ("(tile Q inf 64 fp16)", "whole numbers"),
        ("print", "expected (tile NAME"),
    ],
)
def test_wrong_programs(text: str, says: str) -> None:
    with pytest.raises(TileError) as error:
        read_tiles(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_term_that_doubles_is_refused() -> None:
    lines = ["(tile A 64 64 fp32)", "(let S0 (LDS A))"]
    lines += [f"(let S{i + 1} (STS (WGMMA S{i} S{i})))" for i in range(40)]
    with pytest.raises(TileError, match="at most 500 operations"):
        read_tiles("\n".join(lines))


def test_two_widths_of_accumulation_cannot_be_written() -> None:
    with pytest.raises(TileError, match="accumulate in one width"):
        write_tiles(Wgmma(Elementwise("scale", Wgmma(Q, K, 4)), V, 2))
