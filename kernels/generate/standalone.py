"""A kernel as one file that checks itself: nothing but torch (and triton) is needed to run it.

The file holds the generated kernel and the definition printed twice as plain tiled PyTorch: in float64, which is
what the kernel is compared with, and in the kernel's own dtypes, which says how large an error is fair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from eintune.host.printable import printable
from eintune.host.quoting import python_docstring
from eintune.kernels.emit.kernel import Argument, Descriptor, Kernel
from eintune.kernels.emit.source_lines import Names
from eintune.kernels.emit.torch_printer import DTYPES, emit
from eintune.kernels.launch.launchers import options_of
from eintune.space.analysis.roots import roots_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.dtypes import FLOATS
from eintune.space.ir.expr import Fold, Rank, Reduce, topological
from eintune.space.ir.gathers import limits
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

ROWS = 256
"""Rows of an output that the definition computes at a time, which bounds its memory."""


_CALLED = ("torch", "tensors", "gl", "TensorDescriptor", "DescriptorWithLayout")
"""What `run` names besides tensors and kernels."""


def standalone(kernel: Kernel, problem: Problem, definition: Cascade) -> str:
    """The text of a Python file that runs `kernel` on random inputs; it exits with 0 if the outputs are right, else 1.

    definition: what is computed, as it was defined; its inputs and outputs are the kernel's arguments. Raises
    IllegalPlan for a definition that plain PyTorch tiles cannot express.
    """
    wide = {n: "fp64" if d in FLOATS else d for n, d in problem.dtypes.items()}
    exact = _definition(definition, replace(problem, dtypes=wide))
    rounded = _definition(definition, problem)
    parts = [
        _title(kernel, problem),
        kernel.source,
        _function(exact, "exact"),
        _function(rounded, "rounded"),
        _data(kernel, exact, _drawn(definition, problem)),
        _launch(kernel),
        CHECK,
    ]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _title(kernel: Kernel, problem: Problem) -> str:
    sizes = ", ".join(f"{r}={n}" for r, n in problem.sizes.items())
    title = printable(f"A {kernel.emitter} kernel that eintune generated for {problem.workload} ({sizes}).")
    text = f"{title}\n\nRun it: it checks itself against its definition in float64.\n"
    return f"{python_docstring(text)}\n\nimport sys\n\nimport torch"


def _definition(definition: Cascade, problem: Problem) -> Kernel:
    return emit(build_plan(definition, problem, _tiles(definition, problem)), Schedule("torch", ()))


def _function(printed: Kernel, name: str) -> str:
    """A torch kernel's function under another name, without the module around it."""
    lines = [x for x in printed.source.splitlines() if not x.startswith(("#", "import "))]
    return re.sub(rf"def {printed.entry}\(", f"def {name}(", "\n".join(lines), count=1)


def _tiles(definition: Cascade, problem: Problem) -> Schedule:
    """Reduced ranks and the last rank of an output whole, the rank before it in tiles, the others one by one; a rank
    that the definition itself goes over in tiles is a loop over two of them."""
    nodes = topological(definition.roots().values())
    outputs = [t.ranks for t in definition.outputs.values()]
    whole: set[Rank] = {x.rank for x in nodes if isinstance(x, (Reduce, Fold))}
    whole |= {ranks[-1] for ranks in outputs if ranks}
    whole |= {r for r in problem.sizes if not all(r in ranks for ranks in outputs)}
    split = roots_of(definition).halves
    rows = {ranks[-2] for ranks in outputs if len(ranks) > 1} - whole
    roles: dict[Rank, Role] = {}
    for rank, size in problem.sizes.items():
        tiled = Role("grid", min(size, ROWS)) if rank in rows else Role("grid", None)
        roles[rank] = Role(None, size) if rank in whole else tiled
        if rank in split:
            roles[rank] = Role("loop", -(-size // 2))
    return Schedule("torch", tuple(roles.items()))


def _drawn(definition: Cascade, problem: Problem) -> dict[str, tuple[float, float, bool]]:
    """From what, to below what, and whether in order, the inputs are drawn that do not take just anything."""
    below = limits((e.expr for e in definition.einsums), problem.sizes)
    found = {n: (0, below.get(n, 4), n not in below) for n, t in definition.inputs.items() if t.kind == "int"}
    return found | {n: v[:3] for n, v in problem.values.items()}


def _data(kernel: Kernel, definition: Kernel, drawn: Mapping[str, tuple[float, float, bool]]) -> str:
    names = [a.name for a in kernel.arguments]
    order = tuple(names.index(a.name) for a in definition.arguments)
    rows = [f"    ({a.name!r}, {a.shape}, {DTYPES[a.dtype]}, {a.output})," for a in kernel.arguments]
    return "\n".join(
        [
            "# name, shape, dtype, whether it is an output",
            "ARGUMENTS = [",
            *rows,
            "]",
            f"ORDER = {order}  # of the same tensors in the definition",
            f"DRAWN = {dict(sorted(drawn.items()))}  # from, below, whether in order; others from a standard normal",
        ]
    )


def _launch(kernel: Kernel) -> str:
    variables = _variables(kernel)
    made = [*_workspaces(kernel, variables), *(_step(step, variables) for step in kernel.launches)]
    steps = "\n".join(f"    {line}" for line in made)
    if kernel.emitter == "torch":
        return f"\ndef run(tensors):\n{_tensors(kernel, variables)}{steps}\n\n\nDEVICE = 'cpu'\n"
    described = {step.emitter for step in kernel.launches if step.descriptors}
    imports = "".join(f"\n{DESCRIPTORS[emitter]}\n" for emitter in sorted(described))
    needs = GPU if any(step.emitter == "gluon" for step in kernel.launches) else GPU_OR_INTERPRETER
    return TRITON.format(imports=imports, tensors=_tensors(kernel, variables), steps=steps) + needs


def _tensors(kernel: Kernel, variables: Mapping[str, str]) -> str:
    return f"    {', '.join(variables[a.name] for a in kernel.arguments)}, = tensors\n"


def _variables(kernel: Kernel) -> dict[str, str]:
    """Of the tensors and workspaces, in `run`."""
    names = Names([*_CALLED, *(step.entry for step in kernel.launches)])
    return {a.name: names.parameter(a.name) for a in (*kernel.arguments, *kernel.workspaces)}


def _workspaces(kernel: Kernel, variables: Mapping[str, str]) -> list[str]:
    def made(a: Argument) -> str:
        lies = f"empty_strided({a.shape}, {a.strides}" if a.order else f"empty({a.shape}"
        return f"torch.{lies}, dtype={DTYPES[a.dtype]}, device=tensors[0].device)"

    return [f"{variables[a.name]} = {made(a)}" for a in kernel.workspaces]


def _step(step: Kernel, variables: Mapping[str, str]) -> str:
    """The launch of one kernel of the module, as one line."""
    names = [variables[a.name] for a in step.arguments]
    if step.emitter == "torch":
        return f"{step.entry}({', '.join(names)})"
    strides = [f"*{n}.stride()" for n in names]
    made = [_descriptor(step, d, names[d.argument]) for d in step.descriptors]
    options = [f"{name}={n}" for name, n in options_of(step).items()]
    grid = ", ".join(map(str, step.grid))
    if step.resident is not None:
        held = "torch.cuda.get_device_properties(tensors[0].device).multi_processor_count"
        grid = f"min({grid}, {step.resident} * {held})"
    return f"{step.entry}[({grid},)]({', '.join([*names, *strides, *made, *options])})"


def _descriptor(step: Kernel, d: Descriptor, variable: str) -> str:
    given = f"{variable}, {list(d.block)}"
    if step.emitter != "gluon":
        return f"TensorDescriptor.from_tensor({given})"
    dtype = "gl.bfloat16" if step.arguments[d.argument].dtype == "bf16" else "gl.float16"
    layout = f"gl.NVMMASharedLayout.get_default_for({list(d.block)}, {dtype})"
    return f"DescriptorWithLayout.from_tensor({given}, {layout})"


DESCRIPTORS = {
    "gluon": "from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as DescriptorWithLayout",
    "triton": "from triton.tools.tensor_descriptor import TensorDescriptor",
}

TRITON = """{imports}

def run(tensors):
{tensors}{steps}
"""

GPU = """

if not torch.cuda.is_available():
    sys.exit('This kernel needs a CUDA GPU of compute capability 9.0.')
DEVICE = 'cuda'
"""

GPU_OR_INTERPRETER = """

MENDED = globals().get('MENDED', False)  # whether who runs this has mended the interpreter
if torch.cuda.is_available():
    DEVICE = 'cuda'
elif not triton.knobs.runtime.interpret:
    sys.exit('This kernel needs a CUDA GPU; without one, set TRITON_INTERPRET=1 to run it in the interpreter.')
elif any(dtype == torch.bfloat16 for _, _, dtype, _ in ARGUMENTS) and not MENDED:
    sys.exit("This kernel needs a CUDA GPU: Triton's interpreter does not multiply bf16 tiles correctly.")
else:
    DEVICE = 'cpu'
    if not MENDED:  # with NumPy 2.4, the interpreter of Triton 3.6 takes no tile of one element as a loop's bound
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def patch_bounds(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, '__index__', lambda self: int(self.handle.data.item()))

        interpreter._patch_lang_tensor = patch_bounds
"""

CHECK = '''
def tensor(name, shape, dtype, output):
    if name in DRAWN and not output:
        low, high, ordered = DRAWN[name]
        t = torch.rand(shape, device=DEVICE) * (high - low) + low
        t = t if dtype.is_floating_point else t.floor().clamp(low, high - 1)
        return (t.sort(-1).values if ordered and shape else t).to(dtype)
    if dtype.is_floating_point:
        t = torch.randn(shape, device=DEVICE).to(dtype)
        return t.fill_(float('nan')) if output else t
    return torch.randint(0, 2, shape, device=DEVICE).to(dtype)


def error(made, wanted):
    """Root mean square and maximum of the difference; equal infinities differ by 0, NaN by infinity."""
    difference = torch.where(made.double() == wanted, 0.0, made.double() - wanted).abs()
    difference = difference.nan_to_num(nan=float('inf'))
    return difference.square().mean().sqrt().item(), difference.max().item()


def main():
    torch.manual_seed(0)
    tensors = [tensor(*argument) for argument in ARGUMENTS]
    wide = [t.double() if t.is_floating_point() else t for t in tensors]
    same = [t.clone() for t in tensors]
    run(tensors)
    with torch.device(DEVICE):
        exact(*(wide[i] for i in ORDER))
        rounded(*(same[i] for i in ORDER))
    wrong = 0
    for (name, _, dtype, output), made, wanted, fair in zip(ARGUMENTS, tensors, wide, same, strict=True):
        if output:
            unit = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
            units = (unit * wanted.square().mean().sqrt().item(), unit * wanted.abs().max().item())
            allowed = [2 * f + u for f, u in zip(error(fair, wanted), units)]
            found = error(made, wanted)
            good = all(f <= a for f, a in zip(found, allowed))
            wrong += not good
            print(f"{name}: rms error {found[0]:.3g} (allowed {allowed[0]:.3g}), "
                  f"maximum {found[1]:.3g} (allowed {allowed[1]:.3g}): {'ok' if good else 'WRONG'}")
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
'''
