"""Starts the processes that run the scripts, and goes on after a script that hangs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from .. import peers
from ..processes import OLDER
from .measure import OURS
from .script import Answer
from .sections import BEHAVIOURS

ROOT = Path(__file__).parent.parent.parent

# the older project's import name is ours: what is installed comes before this checkout, which gives only the benchmarks
_OLDER_FIRST = "import sys; sys.path.append(sys.argv.pop(1)); from benchmarks.behaviours.measure import main; main()"


@dataclass
class Subject:
    """One breaker and what it does, by backend and script."""

    name: str
    label: str = ""
    cannot: tuple[str, ...] = ()
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)

    def joined(self, key: str) -> Answer:
        """Under both backends; told apart only where they differ."""
        first = self.answers["asyncio"][key]
        other = self.answers.get("trio", {}).get(key, first)
        if other.text == first.text:
            return first
        return Answer(f"{first.text}; under trio {other.text}", first.note or other.note)


def everybody() -> list[Subject]:
    """Our breaker, and all peers that are there."""
    here = [sys.executable, "-m", "benchmarks.behaviours.measure"]
    found = [_measured(OURS, here)]
    found += [_measured(name, here) for name in peers.ADAPTERS if peers.find(name) is not None]
    older = _older()
    return found if older is None else [*found, _measured(OLDER, older)]


def _older() -> list[str] | None:
    """A command in an environment of the older project's own. None if there is no uv, or nothing to install it from."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    environment = [uv, "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable]
    for package in (OLDER.replace(" ", "=="), *(f"{name}=={metadata.version(name)}" for name in ("anyio", "trio"))):
        environment += ["--with", package]
    if subprocess.run([*environment, "python", "-c", ""], check=False, capture_output=True).returncode:
        return None
    return [*environment, "python", "-P", "-c", _OLDER_FIRST, str(ROOT)]


def _measured(name: str, command: list[str]) -> Subject:
    print(f"running the scripts: {name}", file=sys.stderr)
    subject = Subject(name)
    for backend in ("asyncio", "trio"):
        answers: dict[str, Answer] = {}
        while left := [key for key in BEHAVIOURS if key not in answers]:
            lines, hung = _run([*command, name, backend, *left])
            about = lines.pop(0)
            subject.label, subject.cannot = about["label"], tuple(about["cannot"])
            if backend not in about["backends"]:
                break
            answers |= {line["key"]: Answer(line["text"], line["note"]) for line in lines}
            if hung:
                answers[left[len(lines)]] = Answer("hangs", "the script was given half a minute")
        if answers:
            subject.answers[backend] = answers
    return subject


def _run(command: list[str]) -> tuple[list[dict[str, str]], bool]:
    """What a process has printed, and whether it ended itself because a script hung."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    hung = "Timeout (" in done.stderr
    if done.returncode and not hung:
        raise RuntimeError(f"{' '.join(command)} has failed:\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()], hung
