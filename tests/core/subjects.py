"""What the explorer walks: a circuit by itself, or a breaker whose calls are coroutines, stepped by hand.

Law: whoever is refused has not run, whoever is admitted has, at once.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol

from aiobreaker import CircuitBreaker, CircuitOpenError, Event, Outcome, StateChanged, TrialsForfeited
from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import any_of
from aiobreaker.core.eras import Permit
from aiobreaker.core.transitions import Forfeit, Transition
from aiobreaker.testing import ManualClock


class Subject(Protocol):
    """What is walked: a circuit, or a breaker around one."""

    circuit: Circuit

    @property
    def log(self) -> Sequence[Transition | Forfeit]:
        """What it has told so far."""

    def admit(self, now: float) -> object | None:
        """What the call holds, if it is admitted."""

    def settle(self, held: object, outcome: Outcome, now: float, hint: float | None) -> bool | None:
        """Whether it was in time, if it is known."""


class Bare:
    """The circuit by itself."""

    def __init__(self, rules: Rules, kind: type[Circuit] = Circuit) -> None:
        self.circuit = kind(rules, 0.0, lambda: 0.5)

    @property
    def log(self) -> Sequence[Transition | Forfeit]:
        return self.circuit.log

    def admit(self, now: float) -> object | None:
        answer = self.circuit.admit(now)
        return answer if isinstance(answer, Permit) else None

    def settle(self, held: object, outcome: Outcome, now: float, hint: float | None) -> bool:
        assert isinstance(held, Permit)
        return self.circuit.settle(held, outcome, now, held.began, "why", hint)


class DownError(Exception):
    """The dependency failed."""


class IgnoredError(Exception):
    """An error that says nothing about the dependency."""


class Work:
    """What is guarded: it runs, is suspended once, and ends as it is told to."""

    def __init__(self) -> None:
        self.ran = False

    async def __call__(self) -> None:
        self.ran = True
        outcome = await _suspension()
        if outcome is Outcome.FAILURE:
            raise DownError
        if outcome is Outcome.IGNORED:
            raise IgnoredError


@types.coroutine
def _suspension() -> Generator[None, Outcome, Outcome]:
    return (yield)


WayIn = Callable[[CircuitBreaker], Callable[[Work], Coroutine[Any, Any, None]]]


def by_decorator(breaker: CircuitBreaker) -> Callable[[Work], Coroutine[Any, Any, None]]:
    @breaker
    async def guarded(work: Callable[[], Awaitable[None]]) -> None:
        await work()

    return guarded


def by_call(breaker: CircuitBreaker) -> Callable[[Work], Coroutine[Any, Any, None]]:
    return breaker.call


def by_guard(breaker: CircuitBreaker) -> Callable[[Work], Coroutine[Any, Any, None]]:
    async def guarded(work: Work) -> None:
        async with breaker.guard():
            await work()

    return guarded


class Stepped:
    """A `CircuitBreaker`, by one of its ways in. Must run inside an asyncio event loop, which it never waits for."""

    def __init__(self, rules: Rules, way_in: WayIn) -> None:
        self._clock = ManualClock()
        breaker = CircuitBreaker(
            "stepped",
            trip=any_of(*rules.conditions),
            open_for=rules.schedule,
            jitter=0,
            trials=rules.trials,
            ignore=IgnoredError,
            clock=self._clock,
        )
        self.circuit = breaker._gate.circuit
        self._log: list[Transition | Forfeit] = []
        breaker.subscribe(self._told)
        self._guarded = way_in(breaker)

    @property
    def log(self) -> Sequence[Transition | Forfeit]:
        return self._log

    def _told(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            told = (event.old, event.new, event.cause, event.reason, event.at, event.readings, event.open_for, event.attempt)
            self._log.append(Transition(*told))
        else:
            assert isinstance(event, TrialsForfeited)
            self._log.append(Forfeit(event.trials, event.at))

    def admit(self, now: float) -> object | None:
        self._clock.now = now
        work = Work()
        call = self._guarded(work)
        try:
            call.send(None)
        except CircuitOpenError:
            assert not work.ran, "a refused call has run"
            return None
        assert work.ran, "an admitted call has not run"
        return call

    def settle(self, held: object, outcome: Outcome, now: float, hint: float | None) -> None:
        assert isinstance(held, types.CoroutineType)
        self._clock.now = now
        try:
            if outcome is Outcome.CANCELLED:
                held.throw(asyncio.CancelledError())
            else:
                held.send(outcome)
        except (StopIteration, DownError, IgnoredError, asyncio.CancelledError):
            return
        raise AssertionError("the call goes on")
