"""What is timed: every way in, closed and succeeding, and the paths beside it, each with the bar it must stay under."""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from aiobreaker import CircuitBreaker, ConsecutiveFailures, FailureRate, LastCalls, LastSeconds, SlowCallRate
from aiobreaker.core.conditions import Condition

from .harness import Case, fails, noop, pass_through

COUNT = FailureRate(0.5, LastCalls(100), minimum_calls=10)
TIME = FailureRate(0.5, LastSeconds(60), minimum_calls=10)
SLOW_COUNT = SlowCallRate(0.5, slower_than=60, window=LastCalls(100), minimum_calls=10)
SLOW_TIME = SlowCallRate(0.5, slower_than=60, window=LastSeconds(60), minimum_calls=10)
IN_FLIGHT = SlowCallRate(0.5, slower_than=60, window=LastSeconds(60), minimum_calls=10, count_in_flight=True)
NEVER = FailureRate(1.0, LastCalls(1_000_000), minimum_calls=1_000_000)
NEVER_SLOW = NEVER | SLOW_TIME

Awaitables = Callable[..., Coroutine[Any, Any, Any]]


def breaker(trip: Any = COUNT, **settings: Any) -> CircuitBreaker:
    """A breaker that stays closed."""
    return CircuitBreaker("timed", trip=trip, **settings)


def called(guarding: CircuitBreaker) -> Awaitables:
    """Through `call`."""

    async def step() -> None:
        await guarding.call(noop)

    return step


def block(guarding: CircuitBreaker) -> Awaitables:
    """Through `guard`."""

    async def step() -> None:
        async with guarding.guard():
            await noop()

    return step


def direct() -> Awaitables:
    """The pass-through in a function of its own, as `called` and `block` are."""
    passing = pass_through(noop)

    async def step() -> None:
        await passing()

    return step


def mixed(fn_ok: Awaitables, fn_fail: Awaitables) -> Awaitables:
    """One failure in twenty calls."""
    turn = 0

    async def step() -> None:
        nonlocal turn
        turn += 1
        if turn % 20:
            await fn_ok()
            return
        with contextlib.suppress(ValueError):
            await fn_fail()

    return step


def _decorated(trip: Condition | Any, fn: Awaitables = noop, **settings: Any) -> Awaitables:
    return breaker(trip, **settings)(fn)


def closed_cases() -> list[Case]:
    """The closed path and what is next to it."""
    passing, failing = pass_through(noop), pass_through(fails)
    mixing = breaker(NEVER_SLOW)
    refusing = breaker()
    refusing.force_open()
    opened = breaker()
    opened.open(3600)
    return [
        Case("decorator, consecutive", _decorated(ConsecutiveFailures(5)), passing, 1.5),
        Case("decorator, count window", _decorated(COUNT), passing, 1.5),
        Case("decorator, time window", _decorated(TIME), passing, 2.1),
        Case("decorator, count window and slow calls", _decorated(COUNT | SLOW_COUNT), passing, 2.1),
        Case("decorator, time window and slow calls", _decorated(TIME | SLOW_TIME), passing, 2.1),
        Case("call, time window and slow calls", called(breaker(TIME | SLOW_TIME)), direct(), 2.2),
        Case("guard, time window and slow calls", block(breaker(TIME | SLOW_TIME)), direct(), 3.2),
        Case("decorator, slow calls in flight", _decorated(TIME | IN_FLIGHT), passing, 3.0),
        Case("decorator, results judged", _decorated(TIME | SLOW_TIME, failure_if=lambda result: result is not None), passing),
        Case("failing call, count window", _decorated(NEVER, fails), failing, 3.0, raises=True),
        Case("failing call, slow calls", _decorated(NEVER_SLOW, fails), failing, 3.0, raises=True),
        Case("refusal while open", opened(noop), failing, 1.4, raises=True),
        Case("refusal while forced open", refusing(noop), failing, 1.4, raises=True),
        Case("5 % failures", mixed(mixing(noop), mixing(fails)), mixed(passing, failing), 2.3),
    ]
