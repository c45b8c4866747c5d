"""Starts the processes that measure, one after another, and keeps the best of those that measured the same."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from .measure import KINDS, Measured
from .rows import best

ROOT = Path(__file__).parent.parent
OLDER = "aiobreaker 1.2.0"

# its import name is ours: what is installed comes before this checkout, which gives only the benchmarks
_OLDER_FIRST = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module("benchmarks.measure", run_name="__main__", alter_sys=True)
"""


def measured(loop: str, rounds: int, processes: int) -> Measured:
    """Our breaker and the peers that are installed beside it."""
    command = [sys.executable, "-m", "benchmarks.measure", loop, str(rounds)]
    return _best([_read(command) for _ in range(processes)])


def older(loop: str, rounds: int, processes: int) -> Measured | None:
    """The older project of our name, in an environment of its own. None if there is no uv, or nothing to install it from."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    packages = [OLDER.replace(" ", "=="), *(f"{name}=={metadata.version(name)}" for name in ("anyio", "trio", "uvloop"))]
    environment = [uv, "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable]
    environment += [word for package in packages for word in ("--with", package)]
    if subprocess.run([*environment, "python", "-c", ""], check=False, capture_output=True).returncode:
        return None
    command = [*environment, "python", "-P", "-c", _OLDER_FIRST, str(ROOT), loop, str(rounds), "--peers-only"]
    return _best([_read(command) for _ in range(processes)])


def joined(ours: Measured, other: Measured | None) -> Measured:
    """With the peers of another environment."""
    if other is None:
        return ours
    return replace(ours, peers=ours.peers + other.peers, about=ours.about + other.about)


def _best(runs: list[Measured]) -> Measured:
    kinds = {kind: best(getattr(run, kind) for run in runs) for kind in KINDS}
    return Measured(**kinds, about=runs[0].about, toolkits=runs[0].toolkits)


def _read(command: list[str]) -> Measured:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Measured.read(done.stdout)
