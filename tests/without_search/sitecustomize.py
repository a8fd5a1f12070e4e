"""In a process that has this folder on PYTHONPATH, and in its children, the packages of the extra `tune` are as absent
as where they are not installed."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

ABSENT = {"egglog", "highspy", "matplotlib", "optuna", "pandas", "pulp", "seaborn"}


class Without(PathFinder):
    """Finds all but those."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in ABSENT else PathFinder.find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
