"""Tile programs as text: the tiles, the operations on them, and the result.

    (tile Q 128 64 fp16)                      ; rows, columns, dtype; loaded once
    (tile K 64 128 fp16 8)                    ; loaded in each of 8 iterations
    (accumulate fp32)                         ; what products accumulate in; fp32 if it is not said
    (let S (WGMMA (LDS Q) (LDS K)))
    (result (STG (STS (Elementwise scale S))))

An operation is LDS, LDR, STS, STG, WGMMA, Elementwise, Cast or Final; see `tile_ir`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from eintune.host.quoting import short
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.names import wrong_name
from eintune.space.notation.s_expressions import Call, Name, Term, commands

from .tiles import (
    ACCUMULATOR_BYTES,
    ELEMENT_BYTES,
    UNARY,
    Cast,
    Elementwise,
    Final,
    Input,
    Ldr,
    Lds,
    Stg,
    Sts,
    TileError,
    TileExpr,
    Wgmma,
    facts,
    operands,
)

MAX_CHARACTERS = 20_000
MAX_SIZE = 2**20
"""Rows, columns and iterations of a tile."""
MAX_OPERATIONS = 500
"""Operations of a term, shared ones counted as often as they are read."""
_MOVES: dict[str, Callable[[TileExpr], TileExpr]] = {"LDS": Lds, "LDR": Ldr, "STS": Sts, "STG": Stg, "Final": Final}
_BYTES = {4: "fp32", 8: "fp64", 2: "fp16", 1: "fp8"}
_FORMS = (
    "(tile NAME ROWS COLUMNS DTYPE [TIMES]), (accumulate DTYPE), (let NAME TERM) or (result TERM), where a term is a "
    "name, (LDS t), (LDR t), (STS t), (STG t), (Final t), (WGMMA a b), (Elementwise OP t) or (Cast DTYPE t)"
)

TWO_PRODUCTS = """\
(tile Q {rows} {width} {dtype})
(tile K {width} {columns} {dtype} {times})
(tile V {columns} {width} {dtype} {times})
(accumulate {accumulator})
(let S (WGMMA (LDS Q) (LDS K)))
(let O (WGMMA (Elementwise scale S) (LDS V)))
(result (STG (STS {result})))
"""
"""Two products with a scaled result between them: the main loop of attention without its softmax."""


def two_products(
    *,
    rows: int = 128,
    columns: int = 128,
    width: int = 64,
    times: int = 8,
    dtype: str = "fp16",
    accumulator: str = "fp32",
    stored: str = "each",
) -> str:
    """`TWO_PRODUCTS` with its sizes: rows of Q, columns of K in each of `times` iterations, width of a row.

    stored: the result "each" iteration, or "once" after the loop.
    """
    result = "O" if stored == "each" else "(Final O)"
    sizes = {"rows": rows, "columns": columns, "width": width, "times": times}
    return TWO_PRODUCTS.format(**sizes, dtype=dtype, accumulator=accumulator, result=result)


def read_tiles(text: str) -> TileExpr:
    """The result's term. Raises TileError with the command and what is allowed there."""
    if len(text) > MAX_CHARACTERS:
        raise TileError(f"a tile program has at most {MAX_CHARACTERS} characters, but got {len(text)}")
    reader = _Reader()
    try:
        program = commands(text)
    except CascadeError as error:
        raise TileError(str(error)) from None
    for number, command in enumerate(program, 1):
        try:
            reader.command(command)
        except TileError as error:
            raise TileError(f"command {number}: {error}") from None
    if reader.result is None:
        raise TileError("a tile program needs a (result TERM)")
    return reader.result


class _Reader:
    def __init__(self) -> None:
        self.bound: dict[str, TileExpr] = {}
        self.sizes: dict[TileExpr, int] = {}
        self.accumulator = ACCUMULATOR_BYTES
        self.result: TileExpr | None = None

    def command(self, command: Term) -> None:
        match command:
            case Call("tile", (Name(name), float() as rows, float() as cols, Name(dtype), *times)) if len(times) < 2:
                sizes = [_whole(n) for n in (rows, cols, *(times or (1.0,)))]
                self.bind(name, Input(name, sizes[0], sizes[1], _dtype(dtype), sizes[2]))
            case Call("accumulate", (Name(dtype),)):
                self.accumulator = _dtype(dtype)
            case Call("let", (Name(name), term)):
                self.bind(name, self.term(term))
            case Call("result", (term,)) if self.result is None:
                self.result = self.term(term)
                facts(self.result)
            case Call("result"):
                raise TileError("a tile program has one result, but this is its second")
            case _:
                raise TileError(f"expected {_FORMS}; but got {short(command)}")

    def bind(self, name: str, term: TileExpr) -> None:
        if wrong := wrong_name(name):
            raise TileError(f"a tile's name: {wrong}")
        if name in self.bound:
            raise TileError(f"{short(name)} is bound once, but here again")
        facts(term)
        self.bound[name] = term

    def term(self, term: Term) -> TileExpr:
        match term:
            case Name(name) if name in self.bound:
                return self.bound[name]
            case Name(name):
                raise TileError(f"{short(name)} is not bound above")
            case Call(move, (arg,)) if move in _MOVES:
                found = _MOVES[move](self.term(arg))
            case Call("WGMMA", (left, right)):
                found = Wgmma(self.term(left), self.term(right), self.accumulator)
            case Call("Elementwise", (Name(op), arg)):
                if op not in UNARY:
                    raise TileError(f"Elementwise computes one of {', '.join(UNARY)}, but got {short(op)}")
                found = Elementwise(op, self.term(arg))
            case Call("Cast", (Name(dtype), arg)):
                found = Cast(_dtype(dtype), self.term(arg))
            case _:
                raise TileError(f"expected {_FORMS}; but got {short(term)}")
        self.sizes[found] = 1 + sum(self.sizes.get(a, 1) for a in operands(found))
        if self.sizes[found] > MAX_OPERATIONS:
            raise TileError(f"a term has at most {MAX_OPERATIONS} operations, shared ones counted again")
        return found


def _whole(value: float) -> int:
    if not 0 < value <= MAX_SIZE or value != int(value):
        raise TileError(f"rows, columns and times are whole numbers from 1 to {MAX_SIZE}, but got {value:g}")
    return int(value)


def _dtype(name: str) -> int:
    if name not in ELEMENT_BYTES:
        raise TileError(f"a dtype is one of {', '.join(ELEMENT_BYTES)}, but got {short(name)}")
    return ELEMENT_BYTES[name]


def write_tiles(root: TileExpr) -> str:
    """A program that `read_tiles` reads back; dtypes are written as the usual one of their width."""
    inputs: dict[str, str] = {}
    widths: set[int] = set()
    result = _written(root, inputs, widths)
    accumulate = [f"(accumulate {_BYTES[w]})" for w in sorted(widths - {ACCUMULATOR_BYTES})]
    if len(widths) > 1:
        raise TileError(f"a program's products accumulate in one width, but these do in {sorted(widths)} bytes")
    return "\n".join([*inputs.values(), *accumulate, f"(result {result})"])


def _written(x: TileExpr, inputs: dict[str, str], widths: set[int]) -> str:
    below = " ".join(_written(a, inputs, widths) for a in operands(x))
    match x:
        case Input():
            times = f" {x.iterations}" if x.iterations > 1 else ""
            inputs[x.name] = f"(tile {x.name} {x.rows} {x.cols} {_BYTES[x.element_bytes]}{times})"
            return x.name
        case Elementwise():
            return f"(Elementwise {x.op} {below})"
        case Cast():
            return f"(Cast {_BYTES[x.element_bytes]} {below})"
        case Wgmma():
            widths.add(x.element_bytes)
            return f"(WGMMA {below})"
        case Final():
            return f"(Final {below})"
        case Lds() | Ldr() | Sts() | Stg():
            return f"({type(x).__name__.upper()} {below})"
        case _:
            assert_never(x)
