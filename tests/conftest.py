"""Lets tests import the helper modules that stand in this folder, and gives them a key of their own to sign with and
one thread each."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

# before anything imports PyTorch: tests run in as many processes as there are cores, and threads of several that wait
# for each other by spinning take ten times as long as one thread of each
os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.pop("EINTUNE_SHIPPED", None)  # what somebody ships with a model is none of the tests'
if "EINTUNE_KEY" not in os.environ:  # the workers of one run share it
    folder = tempfile.mkdtemp(prefix="eintune-tests-")
    os.environ["EINTUNE_KEY"] = str(Path(folder) / "key")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
