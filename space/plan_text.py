"""A loop plan as text, for people and for golden tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .expr import Part, Predicate
from .plan import (
    Block,
    Bound,
    CeilTo,
    First,
    FloorTo,
    Greatest,
    Last,
    Least,
    Lit,
    Loop,
    LoopPlan,
    Number,
    Program,
    Sum,
    Value,
    Within,
)


def format_plan(plan: LoopPlan) -> str:
    """The grid, then one line a value, loops indented."""
    roles = ", ".join(f"{r}={plan.sizes[r]}:{_role(plan, r)}" for r in plan.order)
    return "\n".join([f"ranks {roles}", f"grid {' '.join(plan.grid) or '-'}", *_block(plan.root, "")])


def format_program(program: Program) -> str:
    """The plans in order, each under what it writes where there are several."""
    if len(program.kernels) == 1:
        return format_plan(program.kernels[0])
    titles = [f"kernel {i}: {' '.join(k.outputs)}" for i, k in enumerate(program.kernels, 1)]
    return "\n\n".join(f"{title}\n{format_plan(k)}" for title, k in zip(titles, program.kernels, strict=True))


def _role(plan: LoopPlan, rank: str) -> str:
    role = plan.roles[rank]
    return "/".join(str(x) for x in (role.outer or "axis", role.tile) if x is not None)


def _block(block: Block, indent: str) -> Iterator[str]:
    for item in block.items:
        if isinstance(item, Value):
            yield indent + format_value(item)
            continue
        carries = ", ".join(f"{c.value.name}[{' '.join(c.value.axes)}] = {c.init:g}" for c in item.carries)
        joined = ", filters in a branch" if item.joined else ""
        yield f"{indent}loop {item.rank} by {item.tile}" + (f" carrying {carries}" if carries else "") + joined
        yield from (f"{indent}  segment {_segment(item, i)}" for i in range(len(item.segments)))
        yield from _block(item.body, indent + "  ")
        if item.carries:
            yield f"{indent}  next " + ", ".join(f"{c.value.name} <- {c.next.name}" for c in item.carries)


def _segment(loop: Loop, i: int) -> str:
    s = loop.segments[i]
    known = " and ".join(sorted(k.name if isinstance(k, Value) else format_predicate(k) for k in s.known))
    return f"[{format_bound(s.lo)}, {format_bound(s.hi)})" + (f" where {known}" if known else "")


def format_value(v: Value) -> str:
    """`d_4[p m]:fp32 = dot(q_2, k_3) over e`."""
    args = ", ".join(a.name for a in v.args)
    head = f"{v.name}[{' '.join(v.axes)}]:{v.dtype} = " if v.op != "store" else ""
    match v.op, v.attr:
        case (("load" | "store"), (str() as name, tuple() as ranks)):
            place = f"{name}[{' '.join(_index(ranks, v))}]"
            args = v.args[0].name if v.op == "store" else ""
            return f"{head}load {place}" if v.op == "load" else f"store {place} = {args}"
        case "where", (Predicate() as p, fill):
            kept, *numbers = (a.name for a in v.args)
            return f"{head}where({format_predicate(p, numbers)}, {kept}, {fill})"
        case "dot", (axis, _):
            return f"{head}dot({args}) over {axis}"
        case "reduce", (op, axis):
            return f"{head}{op}({args}) over {axis}"
        case "scale", k:
            return f"{head}{args} * {k!r}"
        case "row_factor", factors:
            return f"{head}{factors}({args})"
        case "part", Part() as part:
            return f"{head}part {part.rank}{part.op}{part.by}"
        case _, None:
            return f"{head}{v.op}({args})"
        case _, attr:
            return f"{head}{v.op} {attr}"


def _index(index: tuple[object, ...], v: Value) -> Iterator[str]:
    """What addresses each axis: a rank, a part of one, or a value."""
    args = iter(v.args)
    for i in index:
        match i:
            case None | Within():
                yield next(args).name
            case Part():
                yield f"{i.rank}{i.op}{i.by}"
            case _:
                yield str(i)


def format_predicate(p: Predicate, numbers: Sequence[str] = ()) -> str:
    """`m <= p + 3`: negative terms on the left. numbers: names of the numbers that it reads (their tensors' by
    default)."""
    named = list(zip(numbers or [x.tensor.name for x, _ in p.numbers], (c for _, c in p.numbers), strict=True))
    left = [_term(-t.coef, t.rank) for t in p.terms if t.coef < 0] + [_term(-c, f"|{r}|") for r, c in p.sizes if c < 0]
    right = [_term(t.coef, t.rank) for t in p.terms if t.coef > 0] + [_term(c, f"|{r}|") for r, c in p.sizes if c > 0]
    left += [_term(-c, name) for name, c in named if c < 0]
    right += [_term(c, name) for name, c in named if c > 0]
    (right if p.const > 0 else left).extend([str(abs(p.const))] if p.const else [])
    return f"{' + '.join(left) or '0'} <= {' + '.join(right) or '0'}"


def _term(coef: int, name: str) -> str:
    return name if coef == 1 else f"{coef} {name}"


def format_bound(b: Bound) -> str:
    """`floor(last(p) + 1, 64)`."""
    match b:
        case Lit():
            return str(b.value)
        case First():
            return f"first({b.rank})"
        case Last():
            return f"last({b.rank})"
        case Sum():
            return " + ".join(format_bound(t) if c == 1 else f"{c} * {format_bound(t)}" for c, t in b.terms)
        case Least():
            return f"min({', '.join(map(format_bound, b.args))})"
        case Greatest():
            return f"max({', '.join(map(format_bound, b.args))})"
        case FloorTo():
            return f"floor({format_bound(b.arg)}, {b.step})"
        case CeilTo():
            return f"ceil({format_bound(b.arg)}, {b.step})"
        case Number():
            return b.value.name
