"""The gradient of a cascade, as a cascade: naive, and derived from there as every other definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Const, Expr, Gather, Rank, Tensor, free

from .adjoints import adjoints, leaves_of, summed, unfolded
from .exchanges import exchanged
from .renaming import fresh, renamed
from .rules import op, where
from .scatter import selections
from .spelling import relative_to_logarithms, without_references

PREFIX = "D"
"""What the gradient of a tensor is called: D and its name."""


@dataclass(frozen=True)
class Gradient:
    """The gradient of a cascade.

    cascade: reads the definition's inputs and a cotangent of each of its results, and gives the gradients. cotangents:
    what it calls that of each result. gradients: what it calls that of each input.
    """

    cascade: Cascade
    cotangents: Mapping[str, str]
    gradients: Mapping[str, str]


@dataclass(frozen=True)
class Reverse:
    """A gradient as expressions.

    definition: each of the cascade's tensors, as it is spelled to be differentiated; own: as it is written. seeds: the
    cotangents of results. roots: the gradient of each input, with its axes. called: their names. names: of expressions.
    taken: the names in use.
    """

    definition: Mapping[str, Expr]
    own: Mapping[str, Expr]
    seeds: Mapping[str, Tensor]
    roots: Mapping[str, tuple[Expr, tuple[Rank, ...]]]
    called: Mapping[str, str]
    names: Mapping[Expr, str]
    taken: Names


def gradient(cascade: Cascade, *, of: Iterable[str] | None = None, wrt: Iterable[str] | None = None) -> Gradient:
    """The gradient of results with respect to inputs: sum over `of` of (cotangent . d result / d input), naively.

    of: names of results whose cotangents are given, all floating ones by default. wrt: names of floating inputs, all by
    default. The results are the gradients in the order of `wrt`, each over the axes of its input; that of Q is called
    DQ, and so is a cotangent. Reverse mode, a rule a row (`rules`, `adjoints`); a maximum that is only a reference has
    none (`references`), any other gives its own to where it is attained. The gradient of a gradient is one, too.
    Raises CascadeError for names that are no results or no inputs, for integers and conditions, and where an input that
    is read by several names of its ranks cannot be given one.
    """
    found = reverse(cascade, of=of, wrt=wrt)
    plain = without_references([x for x, _ in found.roots.values()] + list(found.names))
    roots = {
        n: (x, ranks) for n, x, (_, ranks) in zip(found.called.values(), plain, found.roots.values(), strict=False)
    }
    named = dict(zip(plain[len(roots) :], found.names.values(), strict=True))
    return Gradient(from_roots(roots, named), {n: t.name for n, t in found.seeds.items()}, found.called)


def reverse(cascade: Cascade, *, of: Iterable[str] | None = None, wrt: Iterable[str] | None = None) -> Reverse:
    """`gradient`, as expressions over the definition's."""
    results = _chosen("of", "results", cascade.outputs, of)
    inputs = _chosen("wrt", "inputs", cascade.inputs, wrt)
    names = Names({*cascade.inputs, *(e.output.name for e in cascade.einsums)})
    seeds = {n: Tensor(names.new(PREFIX + n), cascade.outputs[n].ranks) for n in results}
    called = {n: names.new(PREFIX + n) for n in inputs}

    every = Cascade(cascade.einsums, tuple(e.output.name for e in cascade.einsums)).roots()
    plain = dict(zip(every, relative_to_logarithms(unfolded(every.values())), strict=True))
    cotangents: dict[Expr, Expr] = {}
    for n in results:
        root, ranks = plain[n], cascade.outputs[n].ranks
        share = summed(Access(seeds[n], ranks), [r for r in ranks if r not in free(root)])
        cotangents[root] = op("add", cotangents[root], share) if root in cotangents else share
    reads = leaves_of(cotangents, inputs)
    found = adjoints(cotangents, [x for leaves in reads.values() for x in leaves])

    taken = {*cascade.ranks(), *(r for t in cascade.inputs.values() for r in t.ranks)}
    made = [_together(cascade.inputs[n], [(x, found[x]) for x in reads[n] if x in found], taken) for n in inputs]
    shorter = exchanged([*(x for x, _ in made), *found.values()], [plain[n] for n in cascade.outputs])
    called_so: dict[Expr, str] = {}
    for n, x in plain.items():
        _name(called_so, x, n)
    moved = dict(zip(found, shorter[len(made) :], strict=True))
    for n, x in plain.items():
        if x in moved and x not in cotangents:
            _name(called_so, moved[x], PREFIX + n, names)
    roots = {n: (x, ranks) for n, x, (_, ranks) in zip(inputs, shorter, made, strict=False)}
    return Reverse(plain, every, seeds, roots, called, called_so, names)


def _name(names: dict[Expr, str], x: Expr, name: str, new: Names | None = None) -> None:
    if x not in names and not isinstance(x, (Access, Gather, Const)):
        names[x] = new.new(name) if new else name


def _together(
    tensor: Tensor, shares: Sequence[tuple[Access | Gather, Expr]], taken: set[Rank]
) -> tuple[Expr, tuple[Rank, ...]]:
    """The gradient of a tensor from those of its accesses, over one name for each of its axes."""
    ranks = _axes(tensor, [x for x, _ in shares])
    total: Expr = Const(0.0)
    for x, g in shares:
        if isinstance(x, Access):
            share = renamed(g, {a: b for a, b in zip(x.index, ranks, strict=True) if a != b}, taken)
        else:
            share = _scattered(x, g, ranks, taken)
        total = op("add", total, share)
    return total, ranks


def _axes(tensor: Tensor, reads: Sequence[Access | Gather]) -> tuple[Rank, ...]:
    """The names of a gradient's axes: the ranks of an access that has one for each, else the tensor's own."""
    whole = next((x.index for x in reads if isinstance(x, Access) and len(set(x.index)) == len(x.index)), None)
    if whole is not None:
        return whole
    if len(set(tensor.ranks)) != len(tensor.ranks):
        raise CascadeError(f"{tensor.name}: a gradient has one name for each axis, but its axes are {tensor.ranks}")
    return tensor.ranks


def _scattered(x: Gather, g: Expr, ranks: Sequence[Rank], taken: set[Rank]) -> Expr:
    """What an indexed access leaves at each element of its tensor: the sum of those that read it."""
    # An axis that a rank iterates is where that rank is; the element's own index along another may have its name.
    kept = {r for r, i in zip(ranks, x.index, strict=True) if r == i}
    clash = {r: fresh(r, taken) for r in sorted((free(x) & set(ranks)) - kept)}
    moved = renamed(x, clash, taken)
    assert isinstance(moved, Gather)
    return summed(where(selections(moved, ranks, kept), renamed(g, clash, taken)), sorted(free(moved) - kept))


def _chosen(argument: str, what: str, known: Mapping[str, Tensor], wanted: Iterable[str] | None) -> list[str]:
    floating = [n for n, t in known.items() if t.kind == "float"]
    if not floating:
        kinds = ", ".join(f"{n} is {t.kind}" for n, t in [*known.items()][:4])
        raise CascadeError(f"a gradient is of floating {what}, but {kinds or 'there are none'}")
    if wanted is None:
        return floating
    names = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    if wrong := [n for n in names if n not in floating]:
        raise CascadeError(f"`{argument}` must name floating {what} of {floating}, but got {wrong}")
    return names


class Names:
    """Names that are not in use."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken

    def new(self, name: str) -> str:
        """This name, or the first that goes on with a letter."""
        more = (f"{name}{a}{b}" for a in ("", *ascii_uppercase) for b in ascii_uppercase)
        found = next(n for n in (name, *more) if n not in self.taken)
        self.taken.add(found)
        return found
