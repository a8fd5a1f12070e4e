"""A definition of your own, from its text to a kernel: differential attention.

    python examples/own_cascade.py

Two softmaxes over the same values, of which one is taken from the other (Ye et al., arXiv 2410.05258), written down as
the paper has it, in three passes over the keys. Forms of one pass are derived; what runs is compared with PyTorch.
"""

from __future__ import annotations

import argparse

import torch

import eintune
from eintune.space.derivation.derive import derive

DEFINITION = """
Sh,p,m = Qh,p,e * Kh,m,e * scale
Th,p,m = Rh,p,e * Lh,m,e * scale
GSh,p = max[m](Sh,p,m)
GTh,p = max[m](Th,p,m)
NSh,p,m = e^(Sh,p,m - GSh,p)
NTh,p,m = e^(Th,p,m - GTh,p)
DSh,p = NSh,p,m
DTh,p = NTh,p,m
Ah,p,m = NSh,p,m / DSh,p - lam * (NTh,p,m / DTh,p)
Oh,p,f = Ah,p,m * Vh,m,f
"""
"""Q and K, R and L: queries and keys of either softmax."""
SCALE, LAM = 32**-0.5, 0.8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()

    cascade = eintune.Cascade.parse(DEFINITION)
    print(f"as it is written: {eintune.analyse(cascade).passes} passes over the keys")
    for form in derive(cascade).cascades:
        print(f"derived: {form.description}")

    torch.manual_seed(0)
    q, r = (torch.randn(4, 96, 32, device=given.device) for _ in range(2))
    k, l, v = (torch.randn(4, 160, 32, device=given.device) for _ in range(3))
    run = eintune.compile(cascade, params={"scale": SCALE, "lam": LAM})
    o = run(Q=q, K=k, R=r, L=l, V=v)

    expected = (torch.softmax(q @ k.mT * SCALE, -1) - LAM * torch.softmax(r @ l.mT * SCALE, -1)) @ v
    error = (o - expected).abs().max().item()
    print(f"off from PyTorch by at most {error:.1e}")
    if error > 1e-4:
        raise SystemExit("this is not what PyTorch computes")


if __name__ == "__main__":
    main()
