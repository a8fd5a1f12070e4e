"""Any cascade as a function of tensors, served the same way as the built-in workloads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from eintune.host.notices import logger
from eintune.host.recent import Recent
from eintune.kernels.reference.agreement import check_tilings
from eintune.kernels.reference.eager import DTYPES
from eintune.kernels.reference.given import lengths_given, numbers_given
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import infer_sizes
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Expr, Fold, Gather, Map, Reduce, tensors, topological
from eintune.space.ir.expr import params as parameters
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS

from .errors import UnsupportedArgument
from .opaque import RECORDED, opaque
from .plain_tensors import check_plain, is_transformed, kind_of_tensor
from .recorders import called_by_scripts, refuse_scripting
from .serving import MOST_READY, Empty, Fill, dtype_name, serve

Dtype: TypeAlias = "str | Mapping[str, str] | None"


def compile(
    cascade: Cascade | str,
    *,
    params: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
    dtype: Dtype = None,
    name: str = "cascade",
) -> CompiledCascade:
    """A function that computes a cascade (or its text) on tensors.

    params: a number for each of the cascade's scalars. sizes: of ranks that index no input. dtype: of the
    outputs ("fp32", "bf16", …), or of some by name; by default that of the first floating input. name: the workload in
    the cache's keys. Raises CascadeError for a bad text and for what no kernel computes (naming the einsum and the
    construct), ValueError for a missing parameter or an unknown dtype.

    Where nothing is stored for a call's shapes and nothing similar, the definition's forms are derived (once, in a
    bounded time, and kept on disk) and the cost model picks one; else it runs as it is defined. Each is said once.
    """
    parsed = Cascade.parse(cascade) if isinstance(cascade, str) else cascade
    _check(parsed)
    wanted = parameters(e.expr for e in parsed.einsums)
    given = numbers_given(params)
    missing = [n for n in wanted if n not in given]
    if missing or set(given) - set(wanted):
        raise ValueError(f"`params` must give a number for each of {wanted}, but got {sorted(given)}")
    _check_dtype(dtype, parsed)
    if not isinstance(name, str):
        raise ValueError(f"`name` must be a text, but got {type(name).__name__}")
    check_tilings(parsed, given)
    return CompiledCascade(parsed, given, _lengths(sizes, parsed), dtype, name)


def _check_dtype(dtype: object, cascade: Cascade) -> None:
    """Raises ValueError for one that no output can have."""
    named = dtype if isinstance(dtype, Mapping) else {} if dtype is None else {"": dtype}
    for one in named.values():
        if not (isinstance(one, str) and one in DTYPES):
            raise ValueError(f"`dtype` must be one of {list(DTYPES)}, but got {str(one)[:80]!r}")
    if isinstance(dtype, Mapping) and (surplus := [n for n in dtype if n not in cascade.outputs]):
        raise ValueError(f"`dtype` must name outputs of {list(cascade.outputs)}, but got {str(surplus)[:80]}")


def _lengths(sizes: object, cascade: Cascade) -> dict[str, int]:
    """Raises ValueError for anything but numbers of elements by rank of the cascade, an input's own axes among them."""
    given = lengths_given(sizes)
    if surplus := [r for r in given if r not in cascade.same_sizes()]:
        known, more = list(cascade.same_sizes()), ", …" if surplus[3:] else ""
        raise ValueError(f"`sizes` must be of ranks of {known}, but got {', '.join(surplus[:3])[:80]}{more}")
    return given


def _check(cascade: Cascade) -> None:
    """Raises CascadeError for what the language does not have, and for what reads nothing."""
    if not isinstance(cascade, Cascade):
        raise CascadeError(f"a cascade is a Cascade or its text, but got {type(cascade).__name__}")
    if not cascade.inputs:
        raise CascadeError("a cascade reads at least one tensor, but this one reads none")
    for e in cascade.einsums:
        for x in topological([e.expr]):
            if problem := _unsupported(x):
                raise CascadeError(f"einsum {e.output.name}: {problem}")
        for t in (e.output, *tensors([e.expr]).values()):
            if t.kind not in ("float", "int", "bool"):
                raise CascadeError(
                    f"einsum {e.output.name}: a tensor is float, int or bool, but {t.name} is {t.kind!r}"
                )


def _unsupported(x: Expr) -> str:
    """What of an expression nothing computes, or ""."""
    match x:
        case Map() if x.op not in POINTWISE:
            return f"the pointwise operators are {', '.join(POINTWISE)}, but it has {x.op!r}"
        case Map() if len(x.args) != POINTWISE[x.op].arity:
            return f"{x.op} takes {POINTWISE[x.op].arity} operands, but it has {len(x.args)}"
        case Reduce() if x.op not in REDUCTIONS:
            return f"the reductions are {', '.join(REDUCTIONS)}, but it has {x.op!r}"
        case Fold() if x.action not in ACTIONS:
            return f"the folds are {', '.join(ACTIONS)}, but it has {x.action!r}"
        case Fold() if len(x.scores) != ACTIONS[x.action].references:
            return f"fold {x.action} has {ACTIONS[x.action].references} scores, but it has {len(x.scores)}"
        case Access() if len(set(x.index)) != len(x.index):
            return f"a rank indexes one axis only, but {x.tensor.name} is read at [{', '.join(x.index)}]"
        case _:
            return ""


class CompiledCascade:
    """A cascade that runs on tensors; made by `compile`.

    stated: what it was made of, as one text (JSON): a compiler takes numbers that change for symbols, and no text.
    """

    def __init__(
        self, cascade: Cascade, params: dict[str, float], sizes: dict[str, int], dtype: Dtype, name: str
    ) -> None:
        self.cascade = cascade
        self.params = params
        self.sizes = sizes
        self.dtype = dtype if dtype is None or isinstance(dtype, str) else dict(dtype)
        self.name = name
        self._text = str(cascade)
        made_of = {"cascade": self._text, "params": params, "sizes": sizes, "dtype": self.dtype, "name": name}
        self.stated = json.dumps(made_of, separators=(",", ":"), sort_keys=True)
        self.inputs = tuple(cascade.inputs)
        self.outputs = tuple(cascade.outputs)
        self._conditions = conditions_read(cascade.roots().values())
        self._ready: Recent[Any, tuple[Fill, list[Callable[[Tensor], Tensor]]]] = Recent(MOST_READY)

    def __reduce__(self) -> tuple[Callable[[str], CompiledCascade], tuple[str]]:
        """What it is made of is pickled and copied, and not what this process has ready: another finds its own."""
        return _made_again, (self.stated,)

    @opaque
    @called_by_scripts
    def __call__(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Inputs in the order of `cascade.inputs`, or by name, axes as the cascade indexes them, any strides.

        Returns the output tensor, or a tuple of them in the cascade's order. Raises ValueError for missing,
        surplus or mismatched tensors, and where a gradient would be recorded.
        """
        inputs = tensors if not named and len(tensors) == len(self.inputs) else self.bound(tensors, named)
        for n, x in zip(self.inputs, inputs, strict=True):
            if not isinstance(x, Tensor):
                raise UnsupportedArgument(f"{n} must be a torch.Tensor, but got {type(x).__name__}")
        key = tuple([kind_of_tensor(n, t) for n, t in zip(self.inputs, inputs, strict=True)])
        if is_transformed():
            self._check_plain(inputs)
        if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
            if (differentiable := RECORDED.get("eintune.CompiledCascade")) is None:
                raise ValueError(self.forward_only)
            return differentiable(self, *inputs)
        ready = self._ready.get(key)
        if ready is None:
            outputs = self._first(key, inputs)
        else:
            fill, makers = ready
            outputs = [new(inputs[0]) for new in makers]
            try:
                fill((*inputs, *outputs))
            except Exception:
                self._check_plain(inputs)
                raise
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def __prepare_scriptable__(self) -> NoReturn:
        """What TorchScript asks of an object before it compiles it."""
        refuse_scripting(self.name)()

    @property
    def forward_only(self) -> str:
        """What is said where a gradient would be recorded."""
        return f"{self.name} is forward only: call it under torch.no_grad() or detach its inputs"

    def bound(self, tensors: tuple[Tensor, ...], named: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Tensors by position and by name, in the order of the cascade's inputs. Raises ValueError."""
        given = dict(zip(self.inputs, tensors, strict=False)) | named
        if len(tensors) > len(self.inputs) or set(given) != set(self.inputs) or len(given) != len(tensors) + len(named):
            raise ValueError(
                f"{self.name} takes the inputs {list(self.inputs)} once each, but got {len(tensors)} by position "
                f"and {sorted(named)} by name"
            )
        return tuple(given[n] for n in self.inputs)

    def check_devices(self, inputs: Sequence[Tensor]) -> None:
        """Raises ValueError where the inputs are on several."""
        for n, t in zip(self.inputs, inputs, strict=True):
            if t.device != inputs[0].device:
                raise ValueError(f"all inputs must be on one device, but {n} is on {t.device}, not {inputs[0].device}")

    def _check_plain(self, inputs: tuple[Tensor, ...]) -> None:
        for n, t in zip(self.inputs, inputs, strict=True):
            check_plain(n, t)

    def _first(self, key: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        self.check_devices(inputs)
        self._check_plain(inputs)
        problem = self.problem(inputs)
        device = inputs[0].device
        shapes = [
            (tuple(problem.sizes[r] for r in t.ranks), DTYPES[problem.dtypes[n]])
            for n, t in self.cascade.outputs.items()
        ]
        outputs = [torch.zeros(shape, dtype=dtype, device=device) for shape, dtype in shapes]
        if 0 in problem.sizes.values():
            if any(0 not in shape for shape, _ in shapes):
                raise ValueError(
                    f"{self.name}: every reduced rank must have elements, but the sizes are {problem.sizes}"
                )
            return outputs
        fill = serve(problem, (*inputs, *outputs))
        logger.debug("%s is ready for %s", self.name, problem.sizes)
        self._ready[key] = fill, [Empty(shape, dtype, inputs[0]) for shape, dtype in shapes]
        return outputs

    def problem(self, inputs: tuple[Tensor, ...]) -> Problem:
        """The problem that these inputs pose: what `tune` takes. Raises ValueError where shapes disagree."""
        given = dict(zip(self.inputs, inputs, strict=True))
        self.check_devices(inputs)
        found = infer_sizes(self.cascade, {n: t.shape for n, t in given.items()}, self.sizes)
        missing = [r for r in self.cascade.ranks() if r not in found]
        if missing:
            raise ValueError(f"`sizes` must give the ranks that index no input, but {missing} have no size")
        return Problem(self.name, self._text, found, self.dtypes(given), self.params)

    def dtypes(self, given: Mapping[str, Tensor]) -> dict[str, str]:
        """Of inputs and outputs by name. Raises ValueError for those that the cascade does not read."""
        found = {n: dtype_name(t, n) for n, t in given.items()}
        self._check_kinds(given)
        floating = next((d for n, d in found.items() if given[n].is_floating_point()), "fp32")
        by_name = self.dtype if isinstance(self.dtype, dict) else {}
        every = self.dtype if isinstance(self.dtype, str) else floating
        return found | dict.fromkeys(self.cascade.outputs, every) | by_name

    def _check_kinds(self, given: Mapping[str, Tensor]) -> None:
        """Raises ValueError for an input of another kind than it is read as: numbers are no conditions."""
        for name, tensor in self.cascade.inputs.items():
            dtype = given[name].dtype
            whole = not dtype.is_floating_point and dtype != torch.bool
            if (tensor.kind == "bool" or name in self._conditions) and dtype != torch.bool:
                raise ValueError(f"{name} is read as a condition: its dtype must be torch.bool, but got {dtype}")
            if tensor.kind == "int" and not whole:
                raise ValueError(f"{name} is read as whole numbers: its dtype must be an integer's, but got {dtype}")


def _made_again(stated: str) -> CompiledCascade:
    """The compiled cascade that states this of itself, with all that `import eintune` registers."""
    import eintune

    made_of = json.loads(stated)
    return eintune.compile(made_of.pop("cascade"), **made_of)


def conditions_read(roots: Iterable[Expr]) -> frozenset[str]:
    """The names of the tensors whose elements stand where a condition does: in `select`, `and`, `or`, `not`."""
    found: list[Expr] = []
    for x in topological(list(roots)):
        match x:
            case Map("select", (condition, _, _)):
                found.append(condition)
            case Map("and" | "or" | "not", args):
                found += args
            case _:
                pass
    return frozenset(x.tensor.name for x in found if isinstance(x, (Access, Gather)))
