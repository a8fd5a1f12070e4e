"""How much memory this process may still take."""

from __future__ import annotations

import contextlib
from pathlib import Path

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
GROUPS = Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """Bytes that are free on this host, within the limits of this process's group; None where nobody says."""
    found = (_of_host(Path("/proc/meminfo")), _of_group(GROUPS, Path("/proc/self/cgroup")))
    return min((n for n in found if n is not None), default=None)


def take_no_more() -> None:
    """From now on what this process allocates beyond what is free fails in it, and where memory runs out all the same
    it is the first to be ended, not whoever waits for it. For processes that run what nobody knows."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    there, taken = free_bytes(), _taken()
    if there is None or taken is None:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = taken + there
    if all(bound == resource.RLIM_INFINITY or wanted < bound for bound in (soft, hard)):
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _taken() -> int | None:
    """Bytes that this process has allocated, as RLIMIT_DATA counts them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return None


def in_words(amount: float) -> str:
    """ "21.4 GiB"."""
    power = 0
    while amount >= 1024 and power < len(UNITS) - 1:
        amount, power = amount / 1024, power + 1
    return f"{amount:.0f} bytes" if power == 0 else f"{amount:.1f} {UNITS[power]}"


def _of_host(place: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in place.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_group(root: Path, place: Path) -> int | None:
    """What is left of the tightest limit of the groups around this process (version 2 of control groups, and 1)."""
    left: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in place.read_text("utf-8").splitlines():
            _, kinds, name = line.split(":", 2)
            if kinds in ("", "memory"):
                base = root / kinds
                top = base / name.lstrip("/")
                for group in [top, *top.parents]:
                    if group == base.parent:
                        break
                    left += _left(group)
    return min(left, default=None)


def _left(group: Path) -> list[int]:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):
            most = int((group / limit).read_text("ascii"))  # "max" where there is none
            return [max(0, most - int((group / used).read_text("ascii")) + _reclaimable(group))]
    return []


def _reclaimable(group: Path) -> int:
    """Of what is in use, the files that are only kept in memory while there is room."""
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text("ascii").splitlines():
            name, _, amount = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(amount)
    return 0
