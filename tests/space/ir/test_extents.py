"""Computations of thousands of operations work, or are refused in one line that names the limit and the value."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from eintune.kernels.generate.generate import generate_kernel
from eintune.kernels.reference.eager import run_eager
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.einsum import CascadeError, TooLarge
from eintune.space.ir.extents import MAX_DEPTH, MAX_REDUCTIONS, MAX_WRITTEN_OUT
from eintune.space.operators.cascades import from_cascade
from eintune.space.operators.egglog_programs import read_egg, write_egg
from eintune.space.operators.footprint import footprint
from eintune.space.operators.formats import as_cascade, read_computation
from eintune.space.operators.passes import analyse
from eintune.space.pictures.cascades import cascade_dot


def names(count: int) -> list[str]:
    letters = ("".join(x) for x in itertools.product("ABCDEFGHIJKLMNOPQRSTUVWXYZ", repeat=3))
    return [f"T{x}" for x in itertools.islice(letters, count)]


def chain(count: int, first: str, step: str) -> str:
    """Lines, each of which reads the one above: `step` with X for its name."""
    called = names(count)
    below = itertools.pairwise(called)
    return "\n".join([f"{called[0]}m = {first}", *(f"{b}m = {step.replace('X', a)}" for a, b in below)])


SUM = "Zm = " + " + ".join(f"{x}m" for x in names(1000))
CASES = {
    "a sum of 1,000 terms": SUM,
    "999 lines, on the left": chain(999, "Am + 1", "Xm * 1.001"),
    "999 lines, on the right": chain(999, "Am + 1", "1.5 - Xm"),
    "2,000 filters": f"Zm = where({' & '.join(f'm <= {i}' for i in range(2000))}, Am, 0)",
    "1,000 factors": "Zm = " + " * ".join(["Am", "Bm"] * 500),
}


@pytest.mark.parametrize("name", CASES)
def test_large_computations_are_read_written_and_analysed(name: str) -> None:
    start = time.process_time()
    cascade = Cascade.parse(CASES[name])
    assert Cascade.parse(str(cascade)) == cascade
    assert analyse(cascade).passes == 1 and footprint(cascade).passes == 1
    assert cascade_dot(cascade).startswith("digraph")
    if "filters" not in name:  # whose program has more characters than are read
        assert read_egg(write_egg(from_cascade(cascade))).operations
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", ["a sum of 1,000 terms", "999 lines, on the left", "999 lines, on the right"])
def test_large_computations_have_kernels(name: str) -> None:
    cascade = Cascade.parse(CASES[name])
    random = np.random.default_rng(0)
    data = {n: random.normal(size=4) for n in cascade.inputs}
    (wanted,) = run_cascade(cascade, data).values()
    tensors = {n: torch.tensor(x) for n, x in data.items()}
    (eager,) = run_eager(cascade, tensors, {"m": 4}, {}, torch.float64).values()
    np.testing.assert_allclose(eager, wanted, rtol=1e-9)
    kernel = generate_kernel(cascade, {"m": 4}, dtype="fp64", emitter="torch")
    np.testing.assert_allclose(kernel(**tensors), wanted, rtol=1e-9)


SWAPPED = "\n".join(
    ["TAAAa,b,c,d,e,f = Xa,b,c,d,e,f"]
    + [f"{y}a,b,c,d,e,f = {x}a,b,c,d,e,f + {x}b,a,c,d,e,f + {x}b,c,d,e,f,a" for x, y in itertools.pairwise(names(40))]
)
REFUSED = {
    chain(999, "Am + 1", "2 * (3 + 4 * (Xm + 1))"): (
        f"at most {MAX_DEPTH} operations one after the other, but this has 2502"
    ),
    chain(40, "Am * Am", "Xm * Xm"): f"at most {MAX_WRITTEN_OUT} operations between two reductions",
    "\n".join(f"{x} = {'sum[m](Am * ' * 9}{y}{')' * 9}" for y, x in itertools.pairwise(["B[]", *names(200)])): (
        f"at most {MAX_REDUCTIONS} reductions and folds, but this has 1"
    ),
    SWAPPED: "",
    "input Ar : int\ninput Br\nZm = B[" + "A[" * 95 + "m" + "]" * 95 + "]": "an index nests at most 16 deep",
    "input Ar\nZm = A[" + "(" * 90 + "m-1" + ")" * 90 + " else 0] * Bm": "an index nests at most 16 deep",
    "Zm = " + "(" * 101 + "Am" + ")" * 101: "brackets nest at most 100 deep",
    "Zm = " + "A" * 500 + "m": "a name has at most 200 characters",
    "Zm = Am * 1" + "0" * 400: "a number is at most 1.8e308",
    "Zm = where(m <= " + "9" * 400 + ", Am, 0)": "whole numbers of at most 18 digits",
    "Zm = " + " + ".join(["Am"] * 40_000): "at most 100000 characters, but this has 200002",
    "\n".join(f"{x}m = Am" for x in names(1001)): "at most 1000 lines, but this has 1001",
}


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_larger_is_refused_in_one_line(number: int) -> None:
    text, says = list(REFUSED.items())[number]
    start = time.process_time()
    with pytest.raises(CascadeError) as caught:
        as_cascade(read_computation(text))
    told = str(caught.value)
    assert says in told and told.isprintable() and len(told) < 1_100, told
    assert time.process_time() - start < 10


def test_a_cascade_that_a_program_makes_has_the_same_limits() -> None:
    from eintune.space.cascade.builder import Writer, given

    write, x = Writer(), given("A", "m")
    for _ in range(MAX_DEPTH + 1):
        x = -x
    write("Z", "m", x)
    with pytest.raises(TooLarge, match="one after the other, but this has 2502"):
        write.done()
