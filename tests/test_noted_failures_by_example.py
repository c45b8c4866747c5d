"""Failures that are only noted at first, one case at a time: exactly at the threshold, whatever the errors are like."""

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from aiobreaker import (
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    FailureRate,
    FailureSummary,
    HeldPermit,
    LastCalls,
    LastSeconds,
    Outcome,
    SlowCallRate,
    State,
)
from aiobreaker.core.conditions import AnyOf, Condition
from aiobreaker.locking import LOCK
from aiobreaker.testing import ManualClock, record_events


class DownError(Exception):
    pass


async def fine() -> None:
    pass


async def down(message: str = "") -> None:
    raise DownError(message)


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(DownError):
            await breaker.call(down)


EXACT: list[tuple[Condition | AnyOf, int, int]] = [
    (ConsecutiveFailures(50), 30, 50),
    (FailureCount(50, LastCalls(50)), 0, 50),
    (FailureCount(50, LastCalls(80)), 30, 50),
    (FailureCount(200, LastSeconds(10)), 30, 200),
    (FailureRate(0.5, LastCalls(100), minimum_calls=40), 30, 30),
    (FailureRate(0.5, LastSeconds(10), minimum_calls=40), 10, 30),
    (FailureRate(1.0, LastCalls(150), minimum_calls=150), 0, 150),
    (FailureRate(0.1, LastCalls(100), minimum_calls=100), 99, 10),
    (SlowCallRate(0.5, 1.0, LastCalls(100), minimum_calls=40) | ConsecutiveFailures(70), 30, 70),
    (ConsecutiveFailures(20) | FailureCount(15, LastCalls(90)), 5, 15),
    (ConsecutiveFailures(20) | FailureRate(0.25, LastSeconds(60), minimum_calls=10), 30, 10),
]


@pytest.mark.parametrize("looking", [False, True], ids=["", "looked at"])
@pytest.mark.parametrize("way", ["decorated", "call", "guard"])
@pytest.mark.parametrize(("trip", "successes", "failures"), EXACT, ids=lambda value: str(value))
async def test_it_opens_at_the_very_failure(trip: Any, successes: int, failures: int, way: str, looking: bool) -> None:
    breaker = CircuitBreaker("exact", trip=trip, clock=ManualClock())
    functions = {fn: breaker(fn) for fn in (fine, down)}

    async def call(fn: Any) -> None:
        if way == "guard":
            async with breaker.guard():
                await fn()
        else:
            await (functions[fn]() if way == "decorated" else breaker.call(fn))

    for _ in range(successes):
        await call(fine)
    for number in range(failures):
        assert breaker.state is State.CLOSED, number
        if looking:
            assert breaker.snapshot().failures == number
        with pytest.raises(DownError):
            await call(down)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().totals[:2] == (successes, failures)


@pytest.mark.parametrize("window", [LastCalls(20), LastSeconds(60)], ids=str)
async def test_a_success_that_makes_the_calls_enough_finds_what_was_noted(window: LastCalls | LastSeconds) -> None:
    breaker = CircuitBreaker("success", trip=FailureRate(0.5, window, minimum_calls=20), clock=ManualClock())
    await fail(breaker, 10)
    for _ in range(9):
        await breaker.call(fine)
    assert breaker.state is State.CLOSED
    await breaker.call(fine)
    assert breaker.state is State.OPEN
    assert (breaker.snapshot().totals.successes, breaker.snapshot().totals.failures) == (10, 10)


async def test_noted_failures_leave_a_time_window_when_their_time_is_over() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("window", trip=FailureCount(10, LastSeconds(10, buckets=5)), clock=clock)
    await fail(breaker, 9)
    clock.advance(10)
    await fail(breaker, 9)
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().readings[0].count == 9
    clock.advance(2)
    await fail(breaker)
    assert breaker.state is State.OPEN


async def test_slow_failures_that_were_noted_stand_behind_slow_calls_that_were_cancelled() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("slow", trip=SlowCallRate(1.0, 1.0, LastCalls(30), minimum_calls=30), clock=clock)

    async def fail_slowly() -> None:
        clock.advance(1)
        raise DownError

    await fail(breaker, 2)
    for _ in range(5):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await breaker.call(wait_slowly, clock)
        assert scope.cancelled_caught
    for _ in range(10):
        with pytest.raises(DownError):
            await breaker.call(fail_slowly)
    for _ in range(21):
        await breaker.call(fine)
    reading = breaker.snapshot().readings[0]
    assert (reading.count, reading.calls) == (9, 30)  # the quick ones, the cancelled ones and the first slow one have left


async def wait_slowly(clock: ManualClock) -> None:
    clock.advance(1)
    await anyio.sleep(0)


async def test_of_errors_of_very_many_types_none_is_missed_and_few_are_remembered() -> None:
    breaker = CircuitBreaker("types", trip=ConsecutiveFailures(1000), clock=ManualClock())

    async def raises(kind: type[Exception]) -> None:
        raise kind("new")

    for number in range(400):
        kind = type(f"Error{number}", (Exception,), {})
        for _ in range(2):
            with pytest.raises(kind):
                await breaker.call(raises, kind)
        if number % 100 == 99:
            assert breaker.snapshot().failures == 2 * (number + 1)
            assert breaker.snapshot().last_failure == FailureSummary(f"Error{number}", "new", 0.0)
    assert len(breaker._gate.plain_failures) <= 64
    for _ in range(199):
        with pytest.raises(kind):
            await breaker.call(raises, kind)
    assert breaker.state is State.CLOSED
    with pytest.raises(kind):
        await breaker.call(raises, kind)
    assert breaker.state is State.OPEN


async def test_a_refusal_tells_of_the_newest_failure_though_it_was_only_noted() -> None:
    breaker = CircuitBreaker("told", clock=ManualClock(7.0))
    for message in ("first", "second", "third"):
        with pytest.raises(DownError):
            await breaker.call(down, message)
    breaker.force_open()
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.call(fine)
    assert refusal.value.last_failure == FailureSummary("DownError", "third", 7.0)


async def test_what_was_noted_is_in_the_event_of_the_transition() -> None:
    breaker = CircuitBreaker("event", trip=FailureRate(0.5, LastCalls(20), minimum_calls=20), clock=ManualClock())
    with record_events(breaker) as events:
        await fail(breaker, 9)
        breaker.force_open()
    (event,) = events
    (reading,) = event.readings  # type: ignore[attr-defined]
    assert (reading.count, reading.calls) == (9, 9)
    assert breaker.snapshot().totals.failures == 9


@pytest.mark.parametrize("way", ["decorated", "call", "guard"])
async def test_a_call_from_before_an_order_is_late_though_its_failures_could_be_noted(way: str) -> None:
    breaker = CircuitBreaker("late", clock=ManualClock())
    await fail(breaker, 2)
    breaker.reset()
    await fail(breaker, 2)  # from now on they are noted

    async def reset_and_fail() -> None:
        breaker.reset()
        raise DownError

    decorated = breaker(reset_and_fail)
    with pytest.raises(DownError):
        if way == "guard":
            async with breaker.guard():
                await reset_and_fail()
        else:
            await (decorated() if way == "decorated" else breaker.call(reset_and_fail))
    seen = breaker.snapshot()
    assert (seen.calls, seen.failures, seen.in_flight, seen.totals.late) == (0, 0, 0, 1)
    await fail(breaker, 4)
    assert breaker.state is State.CLOSED
    await fail(breaker)
    assert breaker.state is State.OPEN


# -- whoever comes in between


class TalkingError(DownError):
    def __init__(self, talk: Callable[[], object]) -> None:
        self.talk = talk

    def __str__(self) -> str:
        self.talk()
        return "talked"


async def talk(what: Callable[[], object]) -> None:
    raise TalkingError(what)


@pytest.mark.parametrize("noted", [False, True], ids=["first of its type", "noted"])
@pytest.mark.parametrize("locked", [False, True], ids=["", "in the middle of a transition"])
async def test_a_permit_that_is_dropped_as_a_failure_is_noted_counts_for_itself(noted: bool, locked: bool) -> None:
    breaker = CircuitBreaker("dropped", trip=ConsecutiveFailures(20), clock=ManualClock())
    if noted:
        for _ in range(3):
            with pytest.raises(TalkingError):
                await breaker.call(talk, lambda: None)
    held: list[HeldPermit] = [await breaker.acquire()]

    def drop() -> None:
        if locked:
            with LOCK:
                held.clear()
        else:
            held.clear()

    before = breaker.snapshot().failures
    with pytest.warns(ResourceWarning, match="never settled"), suppress(TalkingError):
        await breaker.call(talk, drop)
    gc.collect()
    seen = breaker.snapshot()
    assert (seen.failures, seen.totals.ignored, seen.in_flight) == (before + 1, 1, 0)


@pytest.mark.parametrize("order", ["force_open", "reset", "disable", "metrics_only", "half_open", "open"])
async def test_an_order_given_as_a_failure_is_noted_makes_it_late(order: str) -> None:
    breaker = CircuitBreaker("ordered", trip=ConsecutiveFailures(20), clock=ManualClock())
    for _ in range(5):
        with pytest.raises(TalkingError):
            await breaker.call(talk, lambda: None)
    orders = [getattr(breaker, order)]
    with pytest.raises(TalkingError):
        await breaker.call(talk, lambda: orders and orders.pop()())
    seen = breaker.snapshot()
    assert (seen.failures, seen.totals.late, seen.in_flight) == (0, 1, 0)
    assert seen.totals.failures == 5
    assert seen.last_failure == FailureSummary("TalkingError", "talked", 0.0)


async def test_rules_by_functions_are_asked_each_time() -> None:
    asked: list[str] = []

    def fails(error: BaseException) -> bool:
        asked.append(str(error))
        return str(error) != "odd"

    breaker = CircuitBreaker("asked", failure_on=fails, trip=ConsecutiveFailures(50), clock=ManualClock())
    for message in ("a", "b", "odd", "c"):
        with pytest.raises(DownError):
            await breaker.call(down, message)
    assert asked == ["a", "b", "odd", "c"]
    assert breaker.snapshot().totals[:2] == (1, 3)


async def test_an_ignore_function_is_asked_each_time() -> None:
    breaker = CircuitBreaker("ignored", ignore=lambda error: str(error) == "never mind", clock=ManualClock())
    for message in ("a", "never mind", "b", "never mind"):
        with pytest.raises(DownError):
            await breaker.call(down, message)
    assert (breaker.snapshot().totals.failures, breaker.snapshot().totals.ignored) == (2, 2)


async def test_who_watches_calls_is_told_of_each_failure_from_then_on_and_not_of_those_before() -> None:
    breaker = CircuitBreaker("watched", trip=ConsecutiveFailures(50), clock=ManualClock())
    await fail(breaker, 5)
    for _ in range(2):
        with record_events(breaker, calls=True) as events:
            await fail(breaker, 3)
        assert [event.outcome for event in events] == [Outcome.FAILURE] * 3  # type: ignore[attr-defined]
        await fail(breaker, 5)
    assert breaker.snapshot().failures == 21
    assert breaker.snapshot().readings[0].count == 21


async def test_new_rules_judge_what_was_learned_under_the_old_ones() -> None:
    breaker = CircuitBreaker("learned", trip=ConsecutiveFailures(50), clock=ManualClock())
    await fail(breaker, 5)
    breaker.reconfigure(ignore=DownError)
    await fail(breaker, 5)
    breaker.reconfigure(ignore=(), failure_on=OSError)
    await fail(breaker, 5)
    breaker.reconfigure(failure_on=Exception)
    await fail(breaker, 5)
    assert breaker.snapshot().totals[:3] == (5, 10, 5)
    breaker.reconfigure(retry_after=lambda subject: 9.0)
    await fail(breaker)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().retry_after == 9.0
