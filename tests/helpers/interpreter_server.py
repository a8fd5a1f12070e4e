"""Runs Triton kernels in the interpreter, in a process of its own.

The interpreter is chosen when Triton is imported, so a process either interprets or compiles. Reads pickled
(kernel, tensors) on stdin, answers pickled outputs or an error's text on stdout.
"""

import os
import pickle
import sys

from eintune.kernels.launch.load import load


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            kernel, tensors = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            load(kernel)(tensors)
            answer: object = [t for t, a in zip(tensors, kernel.arguments, strict=True) if a.output]
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    main()
