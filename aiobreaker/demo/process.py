"""The service as a process: start it, break it, mend it, and end it whatever happens. An outage here is a real one."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Process, TaskGroup

from .plot import Fault

_START_WITHIN = 20.0  # seconds
_POLL = 0.02  # seconds

Healthy = Callable[[str], Awaitable[bool]]


class ServiceError(Exception):
    """The payment service cannot be started."""


class ServiceProcess:
    """The payment service. `reached` are the numbers of the payments that have arrived there, in its own words."""

    def __init__(self, tasks: TaskGroup, healthy: Healthy, seed: int) -> None:
        self.reached: set[int] = set()
        self.port = 0
        self._tasks = tasks
        self._healthy = healthy
        self._seed = seed
        self._process: Process | None = None
        self._silent = anyio.Event()
        self._last_words = ""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process that serves; None while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until it answers. After the first time it comes back on the same port.

        Raises:
            ServiceError: it has ended, or it does not answer in time.
        """
        command = [sys.executable, "-m", "aiobreaker.demo.service", "--port", str(self.port), "--seed", str(self._seed)]
        # a session of its own: Ctrl-C in the terminal is for the demo, which then ends the service
        session = os.name == "posix"
        self._process = await anyio.open_process(command, stderr=subprocess.STDOUT, start_new_session=session)
        self._silent = anyio.Event()
        self._last_words = ""
        self._tasks.start_soon(self._hear, self._process, self._silent)
        with anyio.move_on_after(_START_WITHIN):
            while not (self.port and await self._healthy(self.url)):
                if self._silent.is_set():
                    raise ServiceError(f"the payment service did not start: {self._last_words or 'it said nothing'}")
                await anyio.sleep(_POLL)
            return
        raise ServiceError(f"the payment service did not answer within {_START_WITHIN:g} s")

    async def break_down(self, fault: Fault) -> None:
        """Take it down in this way."""
        if fault is Fault.REFUSED:
            await self.kill()
        else:
            await self._order(fault)

    async def mend(self) -> None:
        """Make it well again; this returns when it is."""
        if self._process is None:
            await self.start()
        else:
            await self._order("")

    async def kill(self) -> None:
        """End the process at once. Nothing that it said is lost."""
        process, self._process = self._process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await self._silent.wait()
            await process.aclose()

    async def _order(self, order: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise ServiceError("the payment service is not running")
        try:
            await self._process.stdin.send(f"{order}\n".encode())
        except anyio.BrokenResourceError:
            raise ServiceError(f"the payment service has died: {self._last_words or 'it said nothing'}") from None

    async def _hear(self, process: Process, silent: anyio.Event) -> None:
        assert process.stdout is not None
        with anyio.CancelScope(shield=True):  # it ends with the process, and that is killed in any case
            rest = b""
            try:
                async for chunk in process.stdout:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        self._note(line.decode(errors="replace").strip())
            finally:
                silent.set()

    def _note(self, line: str) -> None:
        match line.split():
            case ["port", port]:
                self.port = int(port)
            case ["payment", number]:
                self.reached.add(int(number))
            case _:
                self._last_words = line or self._last_words


@asynccontextmanager
async def serving(healthy: Healthy, seed: int) -> AsyncGenerator[ServiceProcess, None]:
    """The service, up and well; at the end of the block it is gone."""
    async with anyio.create_task_group() as tasks:
        service = ServiceProcess(tasks, healthy, seed)
        try:
            await service.start()
            yield service
        finally:
            await service.kill()
