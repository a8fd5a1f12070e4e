"""A cascade run by PyTorch, operator by operator, in one dtype: slow, and right by construction.

In float64 it is the reference that kernels are checked against; in a kernel's own dtype it says how large an
error the definition itself makes there; and it is what a program falls back to when nothing else runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeAlias, assert_never

import torch
from torch import Tensor

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir import dtypes
from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Integer,
    Iota,
    Map,
    Param,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    children,
    indexing_ranks,
    is_padded,
)
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import REDUCTIONS
from eintune.space.ir.products import factors

from .operators import EXACT, REDUCE, SUMS, TORCH, WHOLE
from .surroundings import plain_surroundings

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, d.torch) for name, d in dtypes.DTYPES.items()}
"""PyTorch's dtypes under the project's names."""

Scalar: TypeAlias = float | bool
Operand: TypeAlias = Tensor | Scalar


@dataclass(frozen=True)
class EagerTile:
    """A tensor whose axes are `ranks`, or a number (no ranks)."""

    data: Operand
    ranks: tuple[Rank, ...] = ()


def run_eager(
    cascade: Cascade,
    data: Mapping[str, Tensor],
    sizes: Mapping[Rank, int],
    params: Mapping[str, float],
    dtype: torch.dtype,
    index: Mapping[Rank, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Evaluate a cascade's outputs, every intermediate rounded to `dtype`.

    data: one tensor per input, axes as the input is accessed, all on one device. index: for a rank that is
    never reduced or split, the positions to evaluate (int64); other ranks are evaluated whole. Returns each
    output in `dtype`, axes as it declares them. Raises KeyError for a missing tensor, size or parameter.
    """
    device = next(iter(data.values())).device if data else torch.device("cpu")
    run = _Run(data, sizes, params, dtype, device, dict(index or {}))
    with plain_surroundings(device):
        return {name: run.output(root, cascade.outputs[name].ranks) for name, root in cascade.roots().items()}


def _is_run(positions: Tensor) -> bool:
    """Whether positions follow each other."""
    return len(positions) > 0 and bool((positions.diff() == 1).all())


@dataclass
class _Run:
    data: Mapping[str, Tensor]
    sizes: Mapping[Rank, int]
    params: Mapping[str, float]
    dtype: torch.dtype
    device: torch.device
    index: dict[Rank, Tensor]
    done: dict[Expr, EagerTile] = field(default_factory=dict)

    def output(self, root: Expr, ranks: tuple[Rank, ...]) -> Tensor:
        tile = self(root)
        shape = [self.length(r) for r in ranks]
        return _aligned(tile, ranks, self.device).expand(shape).to(self.dtype).contiguous()

    def __call__(self, x: Expr) -> EagerTile:
        """The value; what it is computed of first, without recursion: a sum may have a thousand terms."""
        waiting = [(x, iter(_operands(x)))] if x not in self.done else []
        while waiting:
            node, rest = waiting[-1]
            operand = next((a for a in rest if a not in self.done), None)
            if operand is not None:
                waiting.append((operand, iter(_operands(operand))))
                continue
            waiting.pop()
            self.done[node] = self.compute(node)
        return self.done[x]

    def compute(self, x: Expr) -> EagerTile:
        match x:
            case Access():
                return self.read(x)
            case Gather():
                found = self.gather(x)
                return EagerTile(self.number(found), indexing_ranks(x))
            case Const():
                return EagerTile(x.value)
            case Param():
                return EagerTile(float(self.params[x.name]))
            case Size():
                return EagerTile(float(self.sizes[x.rank]))
            case Iota():
                return EagerTile(self.number(self.positions(x.rank)), (x.rank,))
            case Map():
                return self.map(x.op, [self(a) for a in x.args])
            case Reduce():
                return self.reduce(x)
            case Where():
                return self.filter(x.predicate, self(x.arg), x.fill)
            case Fold():
                return self.fold(x)
            case Split():
                return self.split(x)
            case Unsplit():
                return self.unsplit(x)
            case _:
                assert_never(x)

    def length(self, rank: Rank) -> int:
        return len(self.index[rank]) if rank in self.index else self.sizes[rank]

    def positions(self, rank: Rank) -> Tensor:
        if rank not in self.index:
            return torch.arange(self.sizes[rank], device=self.device)
        return self.index[rank].to(self.device)

    def number(self, t: Tensor) -> Tensor:
        """Floats in the run's dtype; integers stay exact, and sums of those of 32 bits too."""
        if t.dtype == torch.bool:
            return t
        return t.to(self.dtype if t.is_floating_point() or self.dtype == torch.float64 else torch.int64)

    def read(self, x: Access) -> EagerTile:
        t = self.data[x.tensor.name]
        for axis, rank in enumerate(x.index):
            if rank in self.index and _is_run(self.index[rank]):  # a view, while nothing was copied yet
                t = t.narrow(axis, int(self.index[rank][0]), len(self.index[rank]))
        for axis, rank in enumerate(x.index):
            if rank in self.index and not _is_run(self.index[rank]):
                t = t.index_select(axis, self.index[rank].to(t.device))
        return EagerTile(self.number(t), x.index)

    def gather(self, x: Access | Gather) -> Tensor:
        """The elements that an indexed access reads, axes in the order of its ranks."""
        t = self.data[x.tensor.name]
        ranks = indexing_ranks(x)
        places = []
        inside = torch.ones([1] * len(ranks), dtype=torch.bool, device=self.device)
        for axis, i in enumerate(x.index):
            place = self.place(i)
            if isinstance(i, Computed) or (is_padded(x) and isinstance(i, (Access, Gather))):
                assert isinstance(place.data, Tensor)
                within = (place.data >= 0) & (place.data < t.shape[axis])
                inside = inside & _aligned(EagerTile(within, place.ranks), ranks, self.device)
                place = EagerTile(place.data.clamp(0, t.shape[axis] - 1), place.ranks)
            self.check(place, t.shape[axis], f"{x.tensor.name}: axis {x.tensor.ranks[axis]}")
            places.append(_aligned(place, ranks, self.device))
        found = t[tuple(places)]
        padded = is_padded(x) or any(isinstance(i, Computed) for i in x.index)
        return torch.where(inside, found, torch.zeros((), dtype=t.dtype, device=t.device)) if padded else found

    def place(self, i: Integer) -> EagerTile:
        """The numbers that address an axis, int64."""
        match i:
            case str():
                return EagerTile(self.positions(i), (i,))
            case Part():
                at = self.positions(i.rank)
                return EagerTile(at // i.by if i.op == "//" else at % i.by, (i.rank,))
            case Access() | Gather():
                return EagerTile(self.gather(i).long(), indexing_ranks(i))
            case Computed():
                args = [self.place(a) for a in i.args]
                ranks = _union(args)
                wide = [_aligned(a, ranks, self.device) if a.ranks else a.data for a in args]
                return EagerTile(TORCH[i.op](*wide), ranks)
            case Size():
                return EagerTile(torch.tensor(self.sizes[i.rank], device=self.device))
            case int():
                return EagerTile(torch.tensor(i, device=self.device))

    @staticmethod
    def check(place: EagerTile, length: int, what: str) -> None:
        """Raises IndexError for an index beyond an axis: PyTorch would count a negative one from the end."""
        assert isinstance(place.data, Tensor)
        if place.data.numel() and not bool(((place.data >= 0) & (place.data < length)).all()):
            raise IndexError(f"{what} is addressed within 0..{length - 1} only")

    def map(self, op: str, args: Sequence[EagerTile]) -> EagerTile:
        ranks = _union(args)
        wide: list[Any] = []
        for is_condition, tile in zip(_conditions(op, len(args)), args, strict=True):
            data = _aligned(tile, ranks, self.device) if tile.ranks else tile.data
            wide.append(_condition(data) if is_condition else self.numeric(data, op in EXACT))
        if not any(isinstance(a, Tensor) for a in wide):
            exact = [torch.tensor(a, dtype=None if isinstance(a, bool) else torch.float64) for a in wide]
            return EagerTile(TORCH[op](*exact).item())
        if op in SUMS and not any(isinstance(a, Tensor) and a.is_floating_point() for a in wide):
            wide = [int(a) if isinstance(a, float) and a.is_integer() and abs(a) < WHOLE else a for a in wide]
        if op == "select":  # of numbers PyTorch makes tensors of its default dtype
            condition, *branches = wide
            wide = [self.tensor(condition), *map(self.tensor, branches)]
        return EagerTile(self.number(TORCH[op](*wide)), ranks)

    def numeric(self, data: Operand, exact: bool = True) -> Operand:
        """An operand of arithmetic: a boolean is 0 or 1, in the run's dtype. A whole number stays one if `exact`; else
        it has 32 bits at least, 16 are too few for an index."""
        if not isinstance(data, Tensor):
            return float(data)
        if data.dtype == torch.bool:
            return data.to(self.dtype)
        return data if exact or data.is_floating_point() else data.to(torch.promote_types(self.dtype, torch.float32))

    def tensor(self, data: Operand) -> Tensor:
        """A number as a tensor without axes: a boolean, or one in the run's dtype."""
        if isinstance(data, Tensor):
            return data
        dtype = torch.bool if isinstance(data, bool) else self.dtype
        return torch.full((), data, dtype=dtype, device=self.device)

    def reduce(self, x: Reduce) -> EagerTile:
        if x.op == "add":
            return self.contract(factors(x.arg, ones=True), x.rank)
        tile = self(x.arg)
        if x.rank not in tile.ranks:
            if not self.sizes[x.rank]:
                return EagerTile(REDUCTIONS[x.op].identity)
            return self.map("pow", [tile, EagerTile(float(self.sizes[x.rank]))]) if x.op == "mul" else tile
        return self.reduce_tile(x.op, tile, x.rank)

    def contract(self, factors: Sequence[Expr], rank: Rank, weight: EagerTile | None = None) -> EagerTile:
        """sum over `rank` of the product: as one matrix product where two factors each add ranks of their own.

        A weight of 0 takes no part, whatever the factors are there. Where something is not finite, nothing is taken
        out of the sum.
        """
        if not self.length(rank):
            return EagerTile(0.0)
        tiles = [self(f) for f in factors]
        if not all(map(_is_finite, tiles)):
            product = reduce(lambda a, b: self.map("mul", [a, b]), tiles)
            if weight is not None:
                nothing = self.map("eq", [weight, EagerTile(0.0)])
                product = self.map("mul", [weight, self.map("select", [nothing, EagerTile(0.0), product])])
            if rank in product.ranks:
                return self.reduce_tile("add", product, rank)
            return self.map("mul", [product, EagerTile(float(self.sizes[rank]))])
        tiles += [weight] if weight else []
        inside = [t for t in tiles if rank in t.ranks]
        outside = [t for t in tiles if rank not in t.ranks]
        if inside:
            outside.insert(0, self.sum_of_product(inside, rank))
        else:
            outside.append(EagerTile(float(self.sizes[rank])))
        return reduce(lambda a, b: self.map("mul", [a, b]), outside)

    def sum_of_product(self, tiles: list[EagerTile], rank: Rank) -> EagerTile:
        total = EagerTile(self.numeric(tiles[0].data), tiles[0].ranks)
        for other in tiles[1:-1]:
            total = self.map("mul", [total, other])
        last = tiles[-1]
        if len(tiles) > 1 and set(total.ranks) - set(last.ranks) and set(last.ranks) - set(total.ranks):
            return self.matmul(total, last, rank)
        if len(tiles) > 1:
            total = self.map("mul", [total, last])
        return self.reduce_tile("add", total, rank)

    def matmul(self, a: EagerTile, b: EagerTile, rank: Rank) -> EagerTile:
        assert isinstance(a.data, Tensor) and isinstance(b.data, Tensor)
        ranks = _without(_union([a, b]), rank)
        letter = {r: chr(97 + i) for i, r in enumerate((*ranks, rank))}
        spell = ["".join(letter[r] for r in names) for names in (a.ranks, b.ranks, ranks)]
        left, right = a.data.to(self.dtype), b.data.to(self.dtype)
        return EagerTile(torch.einsum(f"{spell[0]},{spell[1]}->{spell[2]}", left, right), ranks)

    def fold(self, x: Fold) -> EagerTile:
        if x.others:
            return self(ACTIONS[x.action].written(x.rank, x.scores, x.arg))
        score = self(x.ref)
        score = EagerTile(self.numeric(score.data), score.ranks)
        if x.rank not in score.ranks:  # each element counts, though all are equal
            ranks = (*score.ranks, x.rank)
            every = _aligned(score, ranks, self.device).expand([self.length(r) for r in ranks])
            score = EagerTile(self.number(every), ranks)
        match x.action:
            case "scale":
                top = self.reduce_tile("max", score, x.rank)
                assert isinstance(top.data, Tensor)
                safe = EagerTile(torch.where(torch.isneginf(top.data), 0.0, top.data), top.ranks)
                weight = self.map("exp", [self.map("sub", [score, safe])])
            case "translate":
                count = EagerTile(float(self.sizes[x.rank]))
                mean = self.map("div", [self.reduce_tile("add", score, x.rank), count])
                centred = self.map("sub", [score, mean])
                weight = self.map("mul", [centred, centred])
            case action:
                raise KeyError(f"fold action {action!r} has no eager meaning")
        return self.contract(factors(x.arg, ones=True), x.rank, weight)

    def reduce_tile(self, op: str, tile: EagerTile, rank: Rank) -> EagerTile:
        assert isinstance(tile.data, Tensor)
        if not self.length(rank):
            shape = [self.length(r) for r in _without(tile.ranks, rank)]
            nothing = torch.full(shape, REDUCTIONS[op].identity, dtype=self.dtype, device=self.device)
            return EagerTile(nothing, _without(tile.ranks, rank))
        return EagerTile(self.number(REDUCE[op](tile.data, tile.ranks.index(rank))), _without(tile.ranks, rank))

    def filter(self, p: Predicate, tile: EagerTile, fill: float) -> EagerTile:
        total = EagerTile(p.const + sum(c * self.sizes[r] for r, c in p.sizes))
        for t in p.terms:
            step = t.coef * (self.sizes[t.stride] if t.stride else 1)
            ranks = _union([total, EagerTile(0.0, (t.rank,))])
            term = _aligned(EagerTile(step * self.positions(t.rank), (t.rank,)), ranks, self.device)
            total = EagerTile(_aligned(total, ranks, self.device) + term, ranks)
        assert not p.numbers, "a cascade has no filter on elements of tensors"
        ranks = _union([tile, total])
        holds = _aligned(total, ranks, self.device) >= 0
        kept = _aligned(EagerTile(self.numeric(tile.data), tile.ranks), ranks, self.device)
        return EagerTile(self.number(torch.where(holds, kept, fill)), ranks)

    def split(self, x: Split) -> EagerTile:
        tile = self(x.arg)
        if x.rank not in tile.ranks:
            return tile
        assert isinstance(tile.data, Tensor)
        axis = tile.ranks.index(x.rank)
        ranks = (*tile.ranks[:axis], x.outer, x.inner, *tile.ranks[axis + 1 :])
        shape = [self.sizes[x.outer], self.sizes[x.inner]]
        return EagerTile(torch.unflatten(tile.data, axis, shape), ranks)

    def unsplit(self, x: Unsplit) -> EagerTile:
        tile = self(x.arg)
        rest = tuple(r for r in tile.ranks if r not in (x.outer, x.inner))
        if rest == tile.ranks:
            return tile
        ranks = (*rest, x.outer, x.inner)
        whole = _aligned(tile, ranks, self.device).expand([self.length(r) for r in ranks])
        return EagerTile(whole.flatten(-2), (*rest, x.rank))


def _conditions(op: str, count: int) -> Sequence[bool]:
    """Which operands of an operator are conditions: what is not 0 holds."""
    if op == "select":
        return (True, *[False] * (count - 1))
    return [op in ("and", "or", "not")] * count


def _condition(data: Operand) -> Operand:
    if isinstance(data, Tensor):
        return data if data.dtype == torch.bool else data != 0
    return bool(data)


def _is_finite(tile: EagerTile) -> bool:
    return bool(torch.isfinite(torch.as_tensor(tile.data)).all())


def _operands(x: Expr) -> Sequence[Expr]:
    """What a node is computed of, in the order in which it asks for them."""
    match x:
        case Reduce("add"):
            return factors(x.arg, ones=True)
        case Fold() if x.others:
            return []
        case Fold():
            return [x.ref, *factors(x.arg, ones=True)]
        case _:
            return children(x)


def _union(tiles: Sequence[EagerTile]) -> tuple[Rank, ...]:
    return tuple(dict.fromkeys(r for t in tiles for r in t.ranks))


def _without(ranks: tuple[Rank, ...], rank: Rank) -> tuple[Rank, ...]:
    return tuple(r for r in ranks if r != rank)


def _aligned(tile: EagerTile, ranks: tuple[Rank, ...], device: torch.device) -> Tensor:
    """The tile with one axis for each of `ranks`, of length 1 where it does not vary."""
    if not isinstance(tile.data, Tensor):
        kind = torch.bool if isinstance(tile.data, bool) else torch.int64 if isinstance(tile.data, int) else None
        return torch.full([1] * len(ranks), tile.data, device=device, dtype=kind or torch.float64)
    data = tile.data.permute([tile.ranks.index(r) for r in ranks if r in tile.ranks])
    for axis, r in enumerate(ranks):
        if r not in tile.ranks:
            data = data.unsqueeze(axis)
    return data
