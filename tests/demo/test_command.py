"""The demo as a user starts it: real processes, real HTTP, real time. Its numbers must add up, and nothing may stay behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals and opens pseudo-terminals")

BACKENDS = ("asyncio", "trio")
MODES = ("json", "plain", "live")
FAULTS = ["connection refused", "answers 500", "hanging", "slow"]


class Demo:
    """One demo in a process of its own; `live` has a pseudo-terminal, the others a pipe."""

    def __init__(self, backend: str, mode: str, *more: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "aiobreaker", "demo", "--backend", backend, *more]
        command += ["--json"] if mode == "json" else []
        self._read_from, write_to = os.openpty() if mode == "live" else os.pipe()
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(command, stdout=write_to, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(write_to)
        self.seen = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def read_until(self, words: str) -> None:
        """Wait for these words, or for the end."""
        while words not in self.seen and self._reader.is_alive():
            time.sleep(0.02)

    def end(self) -> "Ended":
        """Wait for the end."""
        _, errors = self.process.communicate(timeout=40)
        self._reader.join(20)
        return Ended(self.process.returncode, self.seen.replace("\r\n", "\n"), errors)

    def _read(self) -> None:
        with suppress(OSError):  # so a pseudo-terminal says that the other side has gone
            while chunk := os.read(self._read_from, 65536):
                self.seen += chunk.decode(errors="replace")
        os.close(self._read_from)


@dataclass(frozen=True)
class Ended:
    status: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        """The output without the codes for colours and places."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.output)

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.output)
        return facts


@pytest.fixture(scope="module")
def whole() -> dict[tuple[str, str], Ended]:
    """Demos that ran to their end: JSON under each backend, plain under asyncio, live under trio."""
    asked = [("asyncio", "json"), ("trio", "json"), ("asyncio", "plain"), ("trio", "live")]
    demos = {(backend, mode): Demo(backend, mode, "--duration", "8", "--seed", "7") for backend, mode in asked}
    return {key: demo.end() for key, demo in demos.items()}


@pytest.fixture(scope="module")
def interrupted() -> dict[tuple[str, str], Ended]:
    """Demos that got a SIGINT while payments were under way."""
    demos = {(backend, mode): Demo(backend, mode) for backend in BACKENDS for mode in MODES}
    for (_, mode), demo in demos.items():
        if mode != "json":
            demo.read_until("http://127.0.0.1")
    time.sleep(1.5)  # those with JSON say nothing before the end
    for demo in demos.values():
        demo.process.send_signal(signal.SIGINT)
    return {key: demo.end() for key, demo in demos.items()}


def is_served(url: str) -> bool:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname, address.port)) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_outage_is_detected_and_recovered_from(whole: dict[tuple[str, str], Ended], backend: str) -> None:
    ended = whole[backend, "json"]
    assert (ended.status, ended.errors) == (0, "")
    facts = ended.facts
    assert facts["backend"] == backend
    assert facts["seed"] == 7
    assert not facts["interrupted"]
    assert [outage["fault"] for outage in facts["outages"]] == FAULTS
    for outage in facts["outages"]:
        assert outage["time_to_detect"] > 0
        assert outage["time_to_recover"] >= 0
        assert outage["refused"] > 0
        assert outage["waiting_saved"] > 0
        assert outage["broken_at"] < outage["detected_at"] < outage["recovered_at"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_numbers_add_up(whole: dict[tuple[str, str], Ended], backend: str) -> None:
    facts = whole[backend, "json"].facts
    totals, parts = facts["totals"], [*facts["outages"], facts["in_between"]]
    for part in (*parts, totals):
        assert part["sent"] == part["fine"] + part["slow"] + part["failed"] + part["refused"]
    for name in ("sent", "fine", "slow", "failed", "refused"):
        assert totals[name] == sum(part[name] for part in parts)
    assert totals["unfinished"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_refused_calls_never_reach_the_service(whole: dict[tuple[str, str], Ended], backend: str) -> None:
    totals = whole[backend, "json"].facts["totals"]
    assert totals["refused_but_reached_service"] == 0
    assert totals["fine"] + totals["slow"] <= totals["reached_service"] <= totals["sent"] - totals["refused"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_events_are_one_unbroken_chain(whole: dict[tuple[str, str], Ended], backend: str) -> None:
    events = whole[backend, "json"].facts["events"]
    assert events[0]["old"] == "closed"
    assert events[-1]["new"] == "closed"
    for earlier, later in pairwise(events):
        assert earlier["new"] == later["old"]
        assert earlier["seq"] < later["seq"]
        assert earlier["at"] <= later["at"]


def test_a_terminal_that_is_none_gets_plain_lines_and_the_table(whole: dict[tuple[str, str], Ended]) -> None:
    ended = whole["asyncio", "plain"]
    assert (ended.status, ended.errors) == (0, "")
    assert "\x1b" not in ended.output
    assert re.search(r"^ +\d+\.\d\d s  circuit  closed -> open: ", ended.output, re.MULTILINE)
    for name in (*FAULTS, "in between", "total"):
        assert re.search(rf"^{name} +\d", ended.output, re.MULTILINE), name


def test_a_terminal_gets_the_live_screen_and_then_the_table(whole: dict[tuple[str, str], Ended]) -> None:
    ended = whole["trio", "live"]
    assert (ended.status, ended.errors) == (0, "")
    live, _, after = ended.output.rpartition("\x1b[?1049l")  # leaves the alternate screen
    assert "HALF-OPEN" in live
    assert "trips at 50%" in live
    for name in (*FAULTS, "in between", "total"):
        assert name in after


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_ends_it_cleanly(interrupted: dict[tuple[str, str], Ended], backend: str, mode: str) -> None:
    ended = interrupted[backend, mode]
    assert (ended.status, ended.errors) == (130, "")
    if mode == "json":
        facts = ended.facts
        assert facts["interrupted"]
        assert facts["totals"]["sent"] == facts["totals"]["unfinished"] + sum(
            facts["totals"][name] for name in ("fine", "slow", "failed", "refused")
        )
        url = facts["service_url"]
    else:
        assert "nterrupted" in ended.output
        assert re.search(r"^total +\d", ended.text, re.MULTILINE)
        found = re.search(r"http://127\.0\.0\.1:\d+", ended.text)
        assert found is not None
        url = found.group()
    assert not is_served(url)


def test_the_service_does_not_outlive_a_demo_that_is_killed() -> None:
    demo = Demo("asyncio", "plain")
    demo.read_until("(process")
    found = re.search(r"http://127\.0\.0\.1:\d+", demo.seen)
    assert found is not None
    assert is_served(found.group())
    demo.process.kill()
    demo.end()
    until = time.monotonic() + 10
    while is_served(found.group()):
        assert time.monotonic() < until, "the service is still there"
        time.sleep(0.05)


def test_nobody_reading_on_ends_it_without_a_word() -> None:
    command = [sys.executable, "-m", "aiobreaker", "demo", "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", demo.stdout.readline())
        demo.stdout.close()
        assert demo.stderr.read() == ""
        assert demo.wait(20) == 1
    assert found is not None
    assert not is_served(found.group())
