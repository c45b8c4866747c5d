"""What scripts are made of: answers, behaviours, a circuit that they call, and calls that end when they are told to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..peers import Made, Peer
from .clock import later

OPEN_FOR = 30.0  # seconds, wherever nothing else is said

DASH = "\N{EN DASH}"

Act = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Answer:
    """What was measured, in a few words or a number, and what a reader must know of it."""

    text: str
    note: str = ""


def cannot(why: str) -> Answer:
    """The question does not arise."""
    return Answer(DASH, why)


Script = Callable[[Peer], Awaitable[Answer]] | Callable[[Peer, str], Answer]


@dataclass(frozen=True)
class Behaviour:
    """One question, and the script that puts it, which is async or runs its own loops. Its docstring tells what it does."""

    question: str
    script: Script

    @property
    def key(self) -> str:
        """What it is called where no question fits."""
        return self.script.__name__

    @property
    def how(self) -> str:
        """What the script does."""
        return " ".join((self.script.__doc__ or "").split())

    def answer(self, peer: Peer, backend: str) -> Answer:
        """Run the script."""
        script: Any = self.script
        if iscoroutinefunction(script):
            answer: Answer = anyio.run(script, peer, backend=backend)
            return answer
        own_loops: Answer = script(peer, backend)
        return own_loops


@dataclass(frozen=True)
class Section:
    """Behaviours that belong together."""

    title: str
    behaviours: list[Behaviour] = field(default_factory=list)

    def behaviour(self, question: str) -> Callable[[Any], Any]:
        """A decorator for a script."""

        def add(script: Script) -> Script:
            self.behaviours.append(Behaviour(question, script))
            return script

        return add


class DownError(Exception):
    """What the dependency raises."""


async def succeed() -> str:
    """The dependency answers."""
    return "fine"


async def fail() -> None:
    """The dependency is down."""
    raise DownError


async def _perform(act: Act) -> Any:
    return await act()


async def pause() -> None:
    """Let every other task go as far as it can."""
    for _ in range(20):
        await checkpoint()


@dataclass(frozen=True)
class Attempt:
    """One call: whether the function ran, and what came of it."""

    ran: bool
    error: Exception | None


class Circuit:
    """The circuit in question, around one function that does what it is given. A peer's own faults are raised."""

    def __init__(self, peer: Peer, made: Made) -> None:
        self.peer = peer
        self.guarded = made.decorate(_perform)

    async def attempt(self, act: Act = succeed) -> Attempt:
        """Make one call and see."""
        ran = False

        async def seen() -> Any:
            nonlocal ran
            ran = True
            return await act()

        try:
            await self.guarded(seen)
        except Exception as error:
            if not ran and not isinstance(error, self.peer.refusals):
                raise
            return Attempt(ran, error)
        return Attempt(ran, None)

    async def admits(self, act: Act = succeed) -> bool:
        """Make one call; True if its function ran."""
        return (await self.attempt(act)).ran

    async def open(self, failures: int = 3) -> None:
        """Have it opened by so many failures."""
        for _ in range(failures):
            await self.attempt(fail)
        if await self.admits():
            raise AssertionError(f"it is not open after {failures} failures")

    async def open_and_wait(self, failures: int = 3) -> None:
        """Have it opened, and let its open time pass."""
        await self.open(failures)
        later(OPEN_FOR)

    async def refusal(self) -> Exception:
        """The error of a call that is refused."""
        attempt = await self.attempt()
        if attempt.ran or attempt.error is None:
            raise AssertionError("it was not refused")
        return attempt.error


class Call:
    """A call in a task of its own. If it is admitted, it is under way until it is told how to end."""

    def __init__(self, circuit: Circuit) -> None:
        self.ran = False
        self.over = False
        self._circuit = circuit
        self._told = anyio.Event()
        self._fails = False
        self._scope = anyio.CancelScope()

    @property
    def waits(self) -> bool:
        """Neither admitted nor refused: it waits for something."""
        return not self.ran and not self.over

    async def run(self) -> None:
        """Make the call."""
        try:
            with self._scope, suppress(DownError, *self._circuit.peer.refusals):
                await self._circuit.guarded(self._act)
        finally:
            self.over = True

    async def _act(self) -> None:
        self.ran = True
        await self._told.wait()
        if self._fails:
            raise DownError

    async def succeed(self) -> None:
        """End it well."""
        self._told.set()
        await pause()

    async def fail(self) -> None:
        """End it badly."""
        self._fails = True
        self._told.set()
        await pause()

    async def cancel(self) -> None:
        """Cancel it from outside."""
        self._scope.cancel()
        await pause()


class Calls:
    """Calls under way in a task group."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    async def start(self, circuit: Circuit) -> Call:
        """Begin one, and let it go as far as it can."""
        call = Call(circuit)
        self._tasks.start_soon(call.run)
        await pause()
        return call

    async def start_trial(self, circuit: Circuit) -> Call:
        """Begin one that must be admitted."""
        call = await self.start(circuit)
        if not call.ran:
            raise AssertionError("no trial was admitted")
        return call


@asynccontextmanager
async def under_way() -> AsyncIterator[Calls]:
    """For calls under way in this block; what is still running at its end is dropped."""
    async with anyio.create_task_group() as tasks:
        yield Calls(tasks)
        tasks.cancel_scope.cancel()
