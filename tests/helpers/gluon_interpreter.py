"""Runs generated Gluon kernels on a CPU: groups of warps are threads, shared memory starts as NaN, copies arrive late
and in no order, a product is computed when it is waited for, and a wait that nobody ends is an error.

So a buffer that is read before it is full, or filled again before a product has read it, shows as wrong numbers, and a
barrier that is never passed as a failure. Layouts are not looked at: the compiler checks those.
"""

from __future__ import annotations

import ast
import re
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.reference.eager import DTYPES

PATIENCE = 30.0
"""Seconds after which a wait counts as endless."""


DELAY = 0.001
"""Seconds until the fastest copy arrives; the slowest takes ten times as long."""

Work: TypeAlias = "tuple[Callable[..., None], tuple[Any, ...]]"


class Stuck(RuntimeError):
    """A barrier that nobody passes."""


def run(kernel: Kernel, tensors: Sequence[Tensor], programs: int) -> None:
    """Launch a kernel as so many programs, one after the other, each of which does the work of several."""
    for program in range(min(programs, kernel.grid[0])):
        here = _Program(program, min(programs, kernel.grid[0]))
        space = _namespace(here)
        exec(compile(_without_triton(kernel.source), "<gluon kernel>", "exec"), space)
        strides = [s for t in tensors for s in t.stride()]
        described = [_Descriptor(tensors[d.argument], d.block) for d in kernel.descriptors]
        space[kernel.entry](*(_Pointer.to(t) for t in tensors), *strides, *kernel.values, *described)


def perform(kernel: Kernel, tensors: Sequence[Tensor], execute: Any, programs: int = 3) -> dict[str, Tensor]:
    """Run a kernel or its steps; those without specialised warps by Triton's own interpreter. Workspaces hold anything
    at first. Returns all tensors by name."""
    known = dict(zip((a.name for a in kernel.arguments), tensors, strict=True))
    known |= {a.name: torch.full(a.shape, 77, dtype=DTYPES[a.dtype]) for a in kernel.workspaces}
    for step in kernel.launches:
        given = [known[a.name] for a in step.arguments]
        if step.emitter == "gluon":
            run(step, given, programs)
        else:
            execute(step, given)
    return known


def _jit(function: Any = None, **options: object) -> Any:
    """The decorator, with options or without."""
    return function or _jit


def _without_triton(source: str) -> str:
    """Without its imports, and without other kernels of a program, which are Triton's."""
    tree = ast.parse(source)
    own = [x for x in tree.body if not isinstance(x, ast.Import | ast.ImportFrom) and "@triton.jit" not in _written(x)]
    return "\n\n".join(ast.unparse(x) for x in own)


def _written(x: ast.stmt) -> str:
    return "".join(f"@{ast.unparse(d)}\n" for d in x.decorator_list) if isinstance(x, ast.FunctionDef) else ""


@dataclass
class _Program:
    """One program: its number, how many there are, the products that each of its groups has not waited for, and what
    went wrong in them, the first first."""

    number: int
    launched: int
    running: threading.local = field(default_factory=threading.local)
    copies: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def next_copy(self) -> float:
        """Seconds until a copy that starts now arrives: in no order."""
        self.copies += 1
        return DELAY * (1 + 7 * self.copies % 10)

    def products(self) -> list[_Product]:
        if not hasattr(self.running, "products"):
            self.running.products = []
        found: list[_Product] = self.running.products
        return found

    def numbers(self) -> list[tuple[_Shared, Tensor]]:
        """The copies of single numbers that no barrier waits for so far, of the group that asks."""
        if not hasattr(self.running, "numbers"):
            self.running.numbers = []
        found: list[tuple[_Shared, Tensor]] = self.running.numbers
        return found


class _Barrier:
    """An mbarrier: a phase ends when all have arrived and all expected bytes are there."""

    def __init__(self, failures: list[BaseException]) -> None:
        self._failures = failures
        self._changed = threading.Condition()
        self._count = self._left = self._bytes = self._phases = 0

    def start(self, count: int) -> None:
        self._count = self._left = count

    def arrive(self, count: int = 1, expected: int = 0) -> None:
        with self._changed:
            self._left -= count
            self._bytes += expected
            assert self._left >= 0, "more arrivals than a barrier counts"
            self._end()

    def await_more(self) -> None:
        """Count one arrival more in this phase."""
        with self._changed:
            self._left += 1

    def receive(self, nbytes: int) -> None:
        with self._changed:
            self._bytes -= nbytes
            self._end()

    def _end(self) -> None:
        if self._left == 0 and self._bytes == 0:
            self._phases, self._left = self._phases + 1, self._count
            self._changed.notify_all()

    def wait(self, parity: int) -> None:
        """Until the phase of this parity has ended. Raises Stuck where nobody ends it, or another group has failed."""
        end = time.monotonic() + PATIENCE
        with self._changed:
            while not self._changed.wait_for(lambda: self._phases & 1 != parity, 0.1):
                if self._failures or time.monotonic() > end:
                    raise Stuck(f"nobody ended a phase of parity {parity}")


@dataclass
class _Barriers:
    each: list[_Barrier]

    def index(self, i: int) -> _Barrier:
        return self.each[i]


@dataclass
class _Shared:
    """A tile in shared memory, or a view of one."""

    data: Tensor

    def index(self, i: int) -> _Shared:
        return _Shared(self.data[i])

    def reshape(self, shape: Sequence[int]) -> _Shared:
        return _Shared(self.data.view(*shape))

    def permute(self, order: Sequence[int]) -> _Shared:
        return _Shared(self.data.permute(*order))

    def store(self, value: Tensor) -> None:
        assert value.dtype == self.data.dtype
        self.data.copy_(value)

    def load(self, layout: object) -> Tensor:
        return self.data.clone()


@dataclass
class _Descriptor:
    """A tensor and the block that a copy moves; elements beyond its end read as 0 and are not written."""

    tensor: Tensor
    block: tuple[int, ...]
    layout: None = None

    def load(self, first: Sequence[int], into: Tensor) -> None:
        into.zero_()
        here, there = self._overlap(first)
        into[there] = self.tensor[here]

    def store(self, first: Sequence[int], data: Tensor) -> None:
        here, there = self._overlap(first)
        self.tensor[here] = data[there]

    def _overlap(self, first: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        shape = self.tensor.shape
        ends = [max(min(int(f) + b, n), int(f)) for f, b, n in zip(first, self.block, shape, strict=True)]
        here = tuple(slice(int(f), e) for f, e in zip(first, ends, strict=True))
        return here, tuple(slice(0, e - int(f)) for f, e in zip(first, ends, strict=True))


@dataclass
class _Pointer:
    """Addresses in a tensor's memory, in elements."""

    memory: Tensor
    offset: Any = 0

    @classmethod
    def to(cls, t: Tensor) -> _Pointer:
        length = t.untyped_storage().nbytes() // t.element_size()
        return cls(torch.as_strided(t, (length,), (1,), 0), t.storage_offset())

    def __add__(self, other: Any) -> _Pointer:
        return _Pointer(self.memory, self.offset + other)


@dataclass
class _Product:
    """A product that runs in the background: its operands are read when it is waited for."""

    left: Tensor | _Shared
    right: _Shared
    added: Tensor | _Product
    use_acc: bool
    value: Tensor | None = None

    def end(self) -> None:
        left = self.left.data if isinstance(self.left, _Shared) else self.left
        made = left.float() @ self.right.data.float()
        added = self.added.value if isinstance(self.added, _Product) else self.added
        self.value = made + added if self.use_acc and added is not None else made


def _namespace(program: _Program) -> dict[str, Any]:
    def multiply(a: Any, b: Any, acc: Any, use_acc: bool = True, is_async: bool = False) -> _Product:
        assert is_async
        program.products().append(_Product(a, b, acc, use_acc))
        return program.products()[-1]

    def wait(most: int, given: Sequence[Any]) -> Any:
        running = program.products()
        while len(running) > most:
            running.pop(0).end()
        done = [x.value if isinstance(x, _Product) else x for x in given]
        assert all(x is not None for x in done), "a product is used that may still run"
        return done[0] if len(done) == 1 else tuple(done)

    def specialise(works: Sequence[Work], warps: object, registers: object) -> None:
        def work(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
            try:
                function(*arguments)
            except BaseException as error:
                program.failures.append(error)

        threads = [threading.Thread(target=work, args=w, daemon=True) for w in works]
        for t in threads:
            t.start()
        for t in threads:
            t.join(2 * PATIENCE)
        if program.failures:
            raise program.failures[0]

    def allocate(dtype: Any, shape: Sequence[int], layout: object) -> Any:
        if layout == "barrier":
            return _Barriers([_Barrier(program.failures) for _ in range(shape[0])])
        unset = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min
        return _Shared(torch.full(list(shape), unset, dtype=dtype))

    def copy_in(d: _Descriptor, first: Sequence[int], barrier: _Barrier, into: _Shared) -> None:
        def arrive() -> None:
            d.load(first, into.data)
            barrier.receive(into.data.numel() * into.data.element_size())

        threading.Timer(program.next_copy(), arrive).start()

    def copy_numbers(into: _Shared, p: _Pointer, mask: Any = None) -> None:
        program.numbers().append((into, _load(p, mask)))

    def arrive_after(barrier: _Barrier) -> None:
        copies, program.running.numbers = program.numbers(), []
        barrier.await_more()

        def arrive() -> None:
            for into, value in copies:
                into.data.copy_(value)
            barrier.arrive()

        threading.Timer(program.next_copy(), arrive).start()

    gl = SimpleNamespace(
        **_LANGUAGE,
        program_id=lambda axis: program.number,
        num_programs=lambda axis: program.launched,
        allocate_shared_memory=allocate,
        warp_specialize=specialise,
        thread_barrier=lambda: None,
        inline_asm_elementwise=_assembly(program.running),
    )
    return {
        "gluon": SimpleNamespace(jit=_jit, constexpr_function=lambda f: f),
        "gl": gl,
        "warpgroup_mma": multiply,
        "warpgroup_mma_wait": wait,
        "fence_async_shared": lambda: None,
        "mbarrier": SimpleNamespace(
            MBarrierLayout=lambda: "barrier",
            init=lambda b, count: b.start(count),
            wait=lambda b, phase: b.wait(int(phase)),
            expect=lambda b, nbytes: b.arrive(1, nbytes),
            arrive=lambda b, count: b.arrive(count),
        ),
        "async_copy": SimpleNamespace(async_copy_global_to_shared=copy_numbers, mbarrier_arrive=arrive_after),
        "tma": SimpleNamespace(
            async_copy_global_to_shared=copy_in,
            async_copy_shared_to_global=lambda d, first, data: d.store(first, data.data),
            store_wait=lambda pending: None,
        ),
    }


def _load(p: _Pointer, mask: Any = None, other: float = 0.0) -> Any:
    at = torch.as_tensor(p.offset)
    if mask is None:
        return p.memory[at]
    return torch.where(mask, p.memory[torch.where(mask, at, 0)], torch.tensor(other, dtype=p.memory.dtype))


def _store(p: _Pointer, value: Tensor, mask: Any = None) -> None:
    at = torch.as_tensor(p.offset)
    at, value = torch.broadcast_tensors(at, value)
    keep = torch.ones_like(at, dtype=torch.bool) if mask is None else mask.expand(at.shape)
    p.memory[at[keep]] = value[keep]


def _atomic_add(p: _Pointer, value: int, sem: str) -> int:
    before = int(p.memory[p.offset])
    p.memory[p.offset] += value
    return before


def _assembly(running: threading.local) -> Callable[..., Any]:
    """What PTX stands for. running: of the group that runs it; a warp's vote is its group's here."""

    def run(code: str, constraints: str, given: Sequence[Any], dtype: Any, **options: object) -> Any:
        if "tanh.approx" in code:
            return torch.tanh(given[0])
        if code.startswith("cvt.rn."):
            return given[0].to(dtype)
        if place := re.match(r"\.reg \.b32 (\w+);", code):
            (limit,) = set(re.findall(r"setp\.gtu[.\w]* mine, \$[23], 0f(\w{8})", code))
            setattr(running, place[1], not (given[0] <= struct.unpack(">f", bytes.fromhex(limit))[0]).all())
            return given[0]
        if place := re.fullmatch(r"mov\.b32 \$0, (\w+);", code):
            return int(getattr(running, place[1]))
        assert "vote.sync.any" in code, f"assembly that nothing here stands for: {code}"
        x, factors = given
        return x * factors

    return run


def _pair(f: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def both(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):
            return int(f(torch.tensor(a), torch.tensor(b)))
        return f(torch.as_tensor(a), torch.as_tensor(b))

    return both


def _cast(x: Any, dtype: Any) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype)


_LANGUAGE: dict[str, Any] = {
    "constexpr": lambda x: x,
    "static_range": range,
    "NVMMADistributedLayout": lambda *x: None,
    "SliceLayout": lambda *x: None,
    "BlockedLayout": lambda *x: None,
    "SwizzledSharedLayout": lambda *x: None,
    "DotOperandLayout": lambda *x: None,
    "arange": lambda low, high, layout: torch.arange(low, high),
    "full": lambda shape, value, dtype, layout=None: torch.full(shape, value, dtype=dtype),
    "convert_layout": lambda x, layout, assert_trivial=False: x,
    "broadcast": torch.broadcast_tensors,
    "where": lambda c, a, b: torch.where(c, torch.as_tensor(a), torch.as_tensor(b)),
    "maximum": _pair(torch.maximum),
    "minimum": _pair(torch.minimum),
    "max": torch.amax,
    "min": torch.amin,
    "sum": torch.sum,
    "abs": torch.abs,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "erf": torch.erf,
    "floor": torch.floor,
    "sqrt_rn": torch.sqrt,
    "cast": _cast,
    "load": _load,
    "store": _store,
    "atomic_add": _atomic_add,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int64": torch.int64,
    "int1": torch.bool,
}
