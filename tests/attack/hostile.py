"""Hostile files, by a seed: valid ones with something changed, and things that are no files at all."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RAW = "raw text "
"""Marks a value that stands in the file as it is: JSON that Python would not write."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 2**31, 2**63, 2**64, 10**30, 1e300, 5e-324, "", "x", "1", [], {}, [[]]),
    *(RAW + text for text in ("1" + "0" * 400, "9" * 5000, "1e999", "-1e999", "NaN", "Infinity", "-Infinity")),
    *(RAW + text for text in ('"\\ud800"', '"\\udfff\\ud800"', '"\\u001b[31mred"', '"\\u202e"', '"\\u0000"')),
    *(RAW + text for text in ("[" * 5000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300)),
    *("x" * 100_000, "y" * 600, "\x1b]0;title\x07", "../../etc/passwd", "a\nb\r\tc", "ü漢", "m" * 17),
    *([0] * 3000, {f"k{i}": i for i in range(3000)}, {f"m{i}": 2 for i in range(18)}, ["x"] * 300),
)
BYTES = (b"\x00", b"\xff", b"\xed\xa0\x80", b"\x1b[2J", b"}", b"[", b'"', b"\n", b",", b"9" * 400)


def paths(data: Any, limit: int = 4000) -> list[tuple[Any, ...]]:
    """The places in plain data, down to every leaf."""
    found: list[tuple[Any, ...]] = [()]
    for path in found:
        at = data
        for step in path:
            at = at[step]
        if len(found) > limit:
            break
        if isinstance(at, dict):
            found += [(*path, key) for key in at]
        elif isinstance(at, list):
            found += [(*path, i) for i in range(len(at))]
    return found


def edited(data: Any, draw: random.Random) -> Any:
    """Plain data with one to three places changed: set, removed, renamed, added to, swapped."""
    made = copy.deepcopy(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = paths(made)
        path = draw.choice(places[1:] or places)
        if not path:
            return copy.deepcopy(draw.choice(VALUES))
        parent = made
        for step in path[:-1]:
            parent = parent[step]
        last = path[-1]
        match draw.randrange(6):
            case 0 if isinstance(parent, dict):
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[draw.choice(("extra", "\x1b[1m", "", "x" * 600, str(last) + " "))] = parent.pop(last)
            case 2 if isinstance(parent, dict):
                parent[draw.choice(("extra", "__class__", "format"))] = copy.deepcopy(draw.choice(VALUES))
            case 3:
                other = made
                for step in draw.choice(places):
                    other = other[step] if step in (other if isinstance(other, dict) else range(len(other))) else other
                parent[last] = copy.deepcopy(other)
            case _:
                parent[last] = copy.deepcopy(draw.choice(VALUES))
    return made


def nudged(data: Any, draw: random.Random) -> Any:
    """Plain data with a few leaves changed to others of their kind: most of it passes every check of types."""
    made = copy.deepcopy(data)
    leaves = [(path, at) for path in paths(made) if path and isinstance(at := found(made, path), (int, float, str))]
    texts = [at for _, at in leaves if isinstance(at, str)]
    for path, at in draw.sample(leaves, min(len(leaves), draw.choice((1, 2, 8)))):
        parent = found(made, path[:-1])
        match at:
            case bool():
                parent[path[-1]] = not at
            case int():
                parent[path[-1]] = draw.choice((at + 1, at - 1, at * 1000, at // 2, 0, 2**40))
            case float():
                parent[path[-1]] = at * draw.choice((0.5, 2.0, 1e6, 1e-6, 1e12, 1e-12))
            case _:
                parent[path[-1]] = draw.choice((draw.choice(texts), at[::-1], at[:-1], at * 2))
    return made


def found(data: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a place."""
    for step in path:
        data = data[step]
    return data


def written(data: Any) -> bytes:
    """As JSON, with what is marked RAW as it is."""
    text = json.dumps(data)
    while (start := text.find(f'"{RAW}')) >= 0:
        raw, end = json.decoder.scanstring(text, start + 1)  # type: ignore[attr-defined]
        text = text[:start] + raw[len(RAW) :] + text[end:]
    return text.encode()


def damaged(raw: bytes, draw: random.Random) -> bytes:
    """Bytes cut, doubled, flipped or with others among them."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, size = draw.randrange(len(raw) + 1), draw.choice((1, 7, 100, 5000))
        match draw.randrange(5):
            case 0:
                raw = raw[:at]
            case 1:
                raw = raw[:at] + raw[at + size :]
            case 2:
                raw = raw[:at] + raw[at : at + size] + raw[at:]
            case 3:
                raw = raw[:at] + draw.choice(BYTES) + raw[at:]
            case _:
                raw = raw[:at] + bytes(b ^ draw.randrange(256) for b in raw[at : at + size]) + raw[at + size :]
    return raw


# ---- things that are no files


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * 2**30)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bomb(path: Path) -> None:
    """A quarter of a gibibyte of one letter, packed."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(256):
            file.write(b" " * 2**20)


THINGS: tuple[Callable[[Path], None], ...] = (
    *(fifo, listening, loop, sparse, endless, Path.mkdir, Path.touch),
    lambda path: path.symlink_to("/nowhere"),
    lambda path: path.symlink_to("/dev/full"),
    lambda path: path.symlink_to("/proc/self/mem"),
    lambda path: path.symlink_to("/dev/tty"),
)


def removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def attacks(
    path: Path,
    data: Any,
    pack: Callable[[bytes], bytes],
    craft: Callable[[random.Random], bytes] | None,
    seed: int,
) -> Iterator[str]:
    """Puts one hostile file after another at `path`; what was done, for the record. data: what a valid one holds (None:
    bytes only). pack: from its text to the file. craft: makes the files, if given."""
    draw = random.Random(seed)
    valid = path.read_bytes()
    for make in THINGS if craft is None else ():
        removed(path)
        make(path)
        yield getattr(make, "__name__", "link")
    number = 0
    while True:
        number += 1
        removed(path)
        if craft is not None:
            path.write_bytes(craft(draw))
            yield f"crafted {number}"
        elif data is not None and draw.random() < 0.7:
            change = draw.choice((edited, nudged))
            path.write_bytes(pack(written(change(data, draw))))
            yield f"{change.__name__} {number}"
        else:
            path.write_bytes(damaged(valid, draw))
            yield f"damaged {number}"
