"""Two subjects behind one face: the pure core, with time in a variable, and the async breaker, by each of its ways in.

Law: a driver only acts and shows. What must be seen is the interpreter's to say.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import anyio
from anyio.abc import TaskStatus

from aiobreaker import CircuitBreaker, CircuitOpenError, Outcome, Reading, State, StateChanged
from aiobreaker.core.circuit import Circuit
from aiobreaker.core.eras import Permit, Refusal
from aiobreaker.core.outcomes import Judge
from aiobreaker.core.transitions import Transition
from aiobreaker.testing import ManualClock, record_events

from .translation import Setup


class FailedError(Exception):
    """The dependency failed."""


class ExcludedError(Exception):
    """An error that says nothing about the dependency."""


class AbortedError(BaseException):
    """What the core's calls are cancelled with."""


class Refused(NamedTuple):
    """A call was refused, and its function did not run."""

    retry_after: float | None


class Change(NamedTuple):
    """One transition, with the conditions as they stood before it."""

    old: State
    new: State
    readings: tuple[Reading, ...]


class View(NamedTuple):
    """One look at the circuit. The counts are those of its present state."""

    state: State
    retry_after: float | None
    calls: int
    failures: int
    refused: int
    ignored: int
    readings: tuple[Reading, ...]


class Driver(Protocol):
    """What the interpreter can do with a circuit."""

    async def call(self, outcome: str, *, slow: bool = False) -> Refused | None:
        """One guarded call from beginning to end."""

    async def start(self, name: str) -> Refused | None:
        """Begin a call that goes on while others happen."""

    async def finish(self, name: str, outcome: str) -> None:
        """End it."""

    async def order(self, command: str) -> None:
        """Control by hand."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""

    def look(self) -> View:
        """The circuit as it is."""

    def changes(self) -> list[Change]:
        """All transitions since the start."""


# -- the core


class CoreDriver:
    """`Circuit` alone. It counts refusals, as the shell does."""

    def __init__(self, setup: Setup) -> None:
        self._now = 0.0
        self._setup = setup
        self._circuit = Circuit(setup.rules, self._now, lambda: 0.5)
        self._judge = Judge(setup.failure_on, ExcludedError, None)
        self._running: dict[str, Permit] = {}
        self._holds: list[object] = []
        if setup.measures_only:
            self._circuit.let_flow(self._now, State.METRICS_ONLY, "only measuring")
            self._circuit.log = ()

    async def call(self, outcome: str, *, slow: bool = False) -> Refused | None:
        permit = self._admit()
        if isinstance(permit, Refused):
            return permit
        if slow:
            self.advance(self._setup.slow_call)
        self._settle(permit, outcome)
        return None

    async def start(self, name: str) -> Refused | None:
        permit = self._admit()
        if isinstance(permit, Refused):
            return permit
        self._running[name] = permit
        return None

    async def finish(self, name: str, outcome: str) -> None:
        self._settle(self._running.pop(name), outcome)

    def _admit(self) -> Permit | Refused:
        answer = self._circuit.admit(self._now)
        if isinstance(answer, Refusal):
            self._circuit.era.refused += 1
            return Refused(answer.retry_after)
        return answer

    def _settle(self, permit: Permit, outcome: str) -> None:
        self._circuit.settle(permit, self._verdict(outcome), self._now, permit.began)

    def _verdict(self, outcome: str) -> Outcome:
        errors = {"failure": FailedError(), "excluded": ExcludedError(), "cancel": AbortedError()}
        return Outcome.SUCCESS if outcome == "success" else self._judge.error(errors[outcome], AbortedError)

    async def order(self, command: str) -> None:
        circuit, now = self._circuit, self._now
        if command == "open":
            circuit.open(now, None, "by hand")
        elif command == "half_open":
            circuit.half_open(now)
        elif command in ("close", "reset"):
            circuit.let_flow(now, State.CLOSED, "by hand")
        elif command == "isolate":
            self._holds.append(circuit.hold(now, "isolated"))
        else:
            assert command == "unisolate"
            circuit.release(self._holds.pop(), now)

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def look(self) -> View:
        circuit, era = self._circuit, self._circuit.era
        return View(
            era.state,
            circuit.retry_after(self._now),
            era.n,
            era.failures,
            era.refused,
            circuit.totals.ignored,
            circuit.readings(self._now),
        )

    def changes(self) -> list[Change]:
        return [Change(each.old, each.new, each.readings) for each in self._circuit.log if isinstance(each, Transition)]


# -- the breaker


Work = Callable[[], Awaitable[None]]
Guarded = Callable[[Work], Awaitable[None]]


def by_decorator(breaker: CircuitBreaker) -> Guarded:
    @breaker
    async def guarded(work: Work) -> None:
        await work()

    return guarded


def by_call(breaker: CircuitBreaker) -> Guarded:
    async def guarded(work: Work) -> None:
        await breaker.call(work)

    return guarded


def by_guard(breaker: CircuitBreaker) -> Guarded:
    async def guarded(work: Work) -> None:
        async with breaker.guard():
            await work()

    return guarded


def by_token(breaker: CircuitBreaker) -> Guarded:
    async def guarded(work: Work) -> None:
        permit = await breaker.acquire()
        try:
            await work()
        except FailedError as error:
            permit.failure(error)
            raise
        except BaseException:
            permit.ignore()
            raise
        permit.success()

    return guarded


WAYS_IN = (by_decorator, by_call, by_guard, by_token)


class _Flight:
    """A call that goes on while others happen."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.told = anyio.Event()
        self.landed = anyio.Event()
        self.outcome = ""


class BreakerDriver:
    """`CircuitBreaker` by one of its ways in, on a clock that moves by hand. Cancellation is a real one."""

    def __init__(self, setup: Setup, way_in: Callable[[CircuitBreaker], Guarded]) -> None:
        self._setup = setup
        self._clock = ManualClock()
        self._breaker = CircuitBreaker(
            "vector",
            trip=setup.trip,
            open_for=setup.open_for,
            jitter=0,
            trials=setup.trials,
            failure_on=setup.failure_on,
            ignore=ExcludedError,
            clock=self._clock,
        )
        if setup.measures_only:
            self._breaker.metrics_only()
        self._guarded = way_in(self._breaker)
        self._ran = 0
        self._flights: dict[str, _Flight] = {}
        self._holds: list[AbstractAsyncContextManager[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._events = self._stack.enter_context(record_events(self._breaker))
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._holds:
            await self._release()
        self._tasks.cancel_scope.cancel()
        await self._stack.aclose()

    async def call(self, outcome: str, *, slow: bool = False) -> Refused | None:
        scope = anyio.CancelScope()
        ran = self._ran
        try:
            with suppress(FailedError, ExcludedError), scope:
                await self._guarded(partial(self._work, outcome, scope, slow))
        except CircuitOpenError as refusal:
            assert self._ran == ran, "a refused call ran its function"
            return Refused(refusal.retry_after)
        assert self._ran == ran + 1, "an admitted call did not run its function once"
        assert scope.cancelled_caught == (outcome == "cancel")
        return None

    async def _work(self, outcome: str, scope: anyio.CancelScope, slow: bool = False) -> None:
        self._ran += 1
        if slow:
            self.advance(self._setup.slow_call)
        await _end(outcome, scope)

    async def start(self, name: str) -> Refused | None:
        ran = self._ran
        self._flights[name] = flight = _Flight()
        refusal: Refused | None = await self._tasks.start(self._fly, flight)
        assert self._ran == ran + (refusal is None)
        return refusal

    async def _fly(self, flight: _Flight, *, task_status: TaskStatus[Refused | None]) -> None:
        try:
            with suppress(FailedError, ExcludedError), flight.scope:
                await self._guarded(partial(self._work_until_told, flight, task_status))
        except CircuitOpenError as refusal:
            task_status.started(Refused(refusal.retry_after))
        finally:
            flight.landed.set()

    async def _work_until_told(self, flight: _Flight, task_status: TaskStatus[Refused | None]) -> None:
        self._ran += 1
        task_status.started(None)
        await flight.told.wait()
        await _end(flight.outcome, flight.scope)

    async def finish(self, name: str, outcome: str) -> None:
        flight = self._flights.pop(name)
        flight.outcome = outcome
        flight.told.set()
        await flight.landed.wait()

    async def order(self, command: str) -> None:
        breaker = self._breaker
        if command == "isolate":
            self._holds.append(breaker.isolated())
            await self._holds[-1].__aenter__()
        elif command == "unisolate":
            await self._release()
        else:
            {"open": breaker.open, "half_open": breaker.half_open, "close": breaker.reset, "reset": breaker.reset}[command]()

    async def _release(self) -> None:
        await self._holds.pop().__aexit__(None, None, None)

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def look(self) -> View:
        seen = self._breaker.snapshot()
        assert seen.state is self._breaker.state
        return View(seen.state, seen.retry_after, seen.calls, seen.failures, seen.refused, seen.totals.ignored, seen.readings)

    def changes(self) -> list[Change]:
        return [Change(each.old, each.new, each.readings) for each in self._events if isinstance(each, StateChanged)]


async def _end(outcome: str, scope: anyio.CancelScope) -> None:
    if outcome == "failure":
        raise FailedError("down")
    if outcome == "excluded":
        raise ExcludedError("not its fault")
    if outcome == "cancel":
        scope.cancel()
        await anyio.sleep_forever()
    assert outcome == "success"
