"""Prints a loop plan as a Gluon kernel for Hopper, whose groups of warps do different things.

One group of warps, the loader, only copies: for every tile that a loop streams into a product there is a ring of
buffers in shared memory, and a tile is copied as soon as the products that read the one before it in its buffer are
done. The others compute, each on 64 rows of the program's tile (the rows of one asynchronous matrix instruction), and
wait for nothing but tiles. A loop's last product runs one iteration later (`space.plan.pipelined_product`): while the
matrix unit works on it, a group computes what stands between the products.

Few programs are launched, as many as run at once, and each does the work of several: its loader runs ahead. Where data
says how long each is, they are taken from a queue (`work_queue`), or all launched where nothing before could clear its
counter.

A tile of rows and columns has the layout of a matrix instruction's result, a vector of rows or of columns a slice of
it; all else is printed as for Triton, whose names Gluon shares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from eintune.costmodel.counts.resources import RegisterDivision, division, needs
from eintune.host.quoting import python_comment
from eintune.kernels.emit.kernel import Descriptor, Kernel
from eintune.kernels.emit.plan_facts import summary
from eintune.kernels.emit.source_lines import INDENT, Names
from eintune.kernels.emit.spans import fits
from eintune.kernels.emit.triton_dialect import DTYPES, HELPERS
from eintune.kernels.emit.triton_printer import jit
from eintune.space.plan.lazy_rescaling import fault as no_lazy_rescaling
from eintune.space.plan.lazy_rescaling import lazy_rescalings
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.refusals import RuleError
from eintune.space.plan.warp_specialisation import GROUP_ROWS, GROUP_WARPS, fault, groups, row_of
from eintune.space.schedule.schedule import Schedule

from .compute import Compute
from .helpers import GLUON_HELPERS
from .printer import RESERVED, Loader
from .shared_tiles import shared_tiles, shared_vectors
from .work_queue import WorkQueue, varies

LOADER_WARPS = 1
ASYNC_COPY = "from triton.experimental.gluon.language.nvidia.ampere import async_copy"
RENAMED = (
    'load_block = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared',
    'store_block = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global',
    'group_barrier = getattr(gl, "barrier", None) or gl.thread_barrier',
)
"""What has one name in Triton 3.9 and had another in 3.6."""


def emit(plan: LoopPlan, schedule: Schedule, entry: str = "kernel", counter: str | None = None) -> Kernel:
    """The kernel of a plan, a function `entry`. counter: the workspace that counts its programs as they are taken
    (`work_queue`). Raises ValueError, naming the rule and the value, for products that these warps cannot divide among
    them."""
    module = _Module(plan, schedule, entry, counter)
    source = module.source()
    # After printing, since reaches are found by printing; before the kernel, since wrong offsets would not fail but
    # read elsewhere.
    if not fits(module.compute.reaches(), module.compute.arguments()):
        raise RuleError("specialised warps add offsets of 32 bits", "a tile of some tensor spans more")
    return Kernel(
        emitter="gluon",
        source=source,
        entry=entry,
        arguments=module.compute.arguments(),
        **module.compute.geometry(),
        warps=GROUP_WARPS,
        stages=schedule.stages,
        descriptors=module.descriptors(),
        reaches=module.compute.reaches(),
        registers=module.division.each,
        # As many CTAs as run at once, each in a loop over programs. Where programs differ and no counter deals them
        # out, a fixed share each would make all wait for the unluckiest: then every program is launched, and the
        # hardware deals.
        resident=module.division.programs if counter or not varies(plan) else None,
    )


class _Module:
    """The whole module: what loads, what computes, and the kernel that starts both."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, entry: str, counter: str | None) -> None:
        for why in (fault(plan), no_lazy_rescaling(plan) if schedule.rescaling == "lazy" else None):
            if why:
                raise RuleError(str(why))
        row = row_of(plan)
        self.plan, self.schedule, self.entry = plan, schedule, entry
        self._load, self._compute = f"{entry}_load", f"{entry}_compute"
        self.groups = groups(schedule.warps)
        # More warps than rows would leave a group without work, yet counted among the readers that a buffer waits
        # for.
        if plan.length(row) != self.groups * GROUP_ROWS:
            raise RuleError(
                f"specialised warps compute {GROUP_ROWS} rows a group of {GROUP_WARPS}",
                f"{schedule.warps} warps have {plan.length(row)}",
            )
        self.division: RegisterDivision = division(needs(plan), schedule.warps, schedule.stages)
        names = Names((*RESERVED, *plan.inputs))
        self.tiles = shared_tiles(plan, row, schedule.stages, self.division.copies, self.groups, names)
        self.queue = WorkQueue.of(plan, counter, self.groups, GROUP_WARPS, LOADER_WARPS, names) if counter else None
        lazy = lazy_rescalings(plan) if schedule.rescaling == "lazy" else {}
        self.vectors = shared_vectors(plan, row, self.tiles, names, lazy)
        self.compute = Compute(plan, schedule, row, self.tiles, self.vectors, entry, self.queue)
        self.loader = Loader(plan, schedule, row, self.tiles, self.vectors, entry, self.queue)

    def source(self) -> str:
        # Computing is printed first: layouts, staging buffers and parameters become known on the way, and the entry
        # function lists them.
        self.compute.block(self.plan.root)
        self.compute.note()
        works = {self._load: self.loader.lines(), self._compute: self.compute.finish()}
        # What the loader addresses by itself is part of what is known of the kernel's arguments.
        self.compute.static |= self.loader.static
        self.compute.found_reaches |= self.loader.found_reaches
        strides = self.compute.parameters()
        described = [name for *_, name in self._described()]
        every = [*self.compute.tensor.values(), *(s for line in strides for s in line), *described, *self._buffers()]
        # Each function gets what its text names and no more: arguments of warp-specialised regions are passed through
        # shared memory.
        given = {name: _used(every, lines) for name, lines in works.items()}
        tensors = list(self.compute.tensor.values())
        signature = [tensors, *filter(None, [*strides, described])]
        made = [f"{name} = gl.constexpr({text})" for name, text in self.compute.layouts.items()]
        helpers = [
            (HELPERS | GLUON_HELPERS)[h].replace("@triton.jit", "@gluon.jit") for h in sorted(self.compute.helpers)
        ]
        lines = [
            *(python_comment(line) for line in summary(self.plan, "gluon")),
            "from triton.experimental import gluon",
            "from triton.experimental.gluon import language as gl",
            "from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma",
            "from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait",
            *([ASYNC_COPY] if self.vectors else []),
            "",
            *RENAMED,
            *made,
            "",
            *(f"\n{h}" for h in helpers),
        ]
        for name, body in works.items():
            first = ["group: gl.constexpr"] if name == self._compute else []
            lines += ["", "@gluon.jit", f"def {name}({', '.join([*first, *given[name]])}):", *body, ""]
        head = jit([*self.compute.size_names.values(), *self.compute.divisors.values()], "gluon")
        lines += ["", head, f"def {self.entry}(", *(f"    {', '.join(line)}," for line in signature), "):"]
        # Barriers are made by the whole CTA before it divides, so that no group waits for one that is not there yet.
        lines += [INDENT + line for line in self._start(given)]
        return re.sub(r"\btl\.", "gl.", "\n".join([*lines, ""]))

    def _described(self) -> list[tuple[str, tuple[int, ...], str]]:
        """(Tensor, block, variable) of every descriptor, those of loads before those of stores."""
        loaded = [(t.tensor, t.block, t.descriptor) for t in self.tiles]
        return list(dict.fromkeys([*loaded, *((*key, name) for key, (name, _) in self.compute.staged.items())]))

    def descriptors(self) -> tuple[Descriptor, ...]:
        """The descriptors in the order of the parameters; complete once the source is printed."""
        position = {a.name: i for i, a in enumerate(self.compute.arguments())}
        return tuple(Descriptor(position[tensor], block) for tensor, block, _ in self._described())

    def _buffers(self) -> list[str]:
        names = [name for t in self.tiles for name in t.names] + [x.vectors for x in self.vectors]
        names += self.queue.names if self.queue else []
        return list(dict.fromkeys([*names, *(buffers for _, buffers in self.compute.staged.values())]))

    def _start(self, given: dict[str, list[str]]) -> Iterator[str]:
        """The kernel's own statements: shared memory, barriers, and who does what."""
        for t in self.tiles:
            yield from t.allocation()
        yield from (x.allocation() for x in self.vectors)
        if self.queue:
            yield from self.queue.allocation()
        for (output, block), (descriptor, buffers) in self.compute.staged.items():
            dtype = DTYPES[self.plan.dtypes[output]]
            yield f"{buffers} = gl.allocate_shared_memory({dtype}, {[self.groups, *block]}, {descriptor}.layout)"
        arguments = {name: [s.split(":")[0] for s in line] for name, line in given.items()}
        yield "gl.warp_specialize(["
        # The first entry runs on the kernel's own four warps, the others on warps that are started beside them: that
        # is why warps and registers below name one group fewer.
        for group in range(self.groups):
            yield f"    ({self._compute}, ({', '.join([str(group), *arguments[self._compute]])})),"
        yield f"    ({self._load}, ({', '.join(arguments[self._load])},)),"
        warps = [GROUP_WARPS] * (self.groups - 1) + [LOADER_WARPS]
        # The register file is given out evenly at launch; then the loader gives back what it does not need
        # (`setmaxnreg`), and the computing groups take it up. The first group gets what is left.
        registers = [self.division.computing] * (self.groups - 1) + [self.division.loading]
        yield f"], {warps}, {registers})"


def _used(parameters: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The parameters that some lines name."""
    words = set(re.findall(r"\w+", "\n".join(lines)))
    return [p for p in parameters if p.split(":")[0] in words]
