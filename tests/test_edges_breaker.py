"""The breaker's public face to the letter: its defaults, what every order says and when, every word of a snapshot."""

from collections.abc import AsyncIterator, Callable
from dataclasses import FrozenInstanceError

import anyio
import pytest

from aiobreaker import (
    CallEvent,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Event,
    EventsLost,
    FailureCount,
    FailureRate,
    LastCalls,
    LastSeconds,
    Reconfigured,
    SlowCallRate,
    State,
    StateChanged,
    Trials,
)
from aiobreaker.settings import Settings
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, record_events

Clock = Callable[[], float]


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="down"):
            await breaker.call(ScriptedDependency(OSError("down")))


def test_the_defaults() -> None:
    assert CircuitBreaker("default")._gate.settings == Settings(
        trip=ConsecutiveFailures(5),
        open_for=30.0,
        jitter=None,
        trials=1,
        failure_on=Exception,
        ignore=(),
        failure_if=None,
        retry_after=None,
        max_retry_after=300.0,
        probe=None,
        max_waiters=1000,
    )


@pytest.mark.parametrize("argument", ["clock", "random"])
def test_what_must_be_a_function(argument: str) -> None:
    with pytest.raises(TypeError) as refused:
        CircuitBreaker("name", **{argument: 5})  # type: ignore[arg-type]
    assert str(refused.value) == f"{argument} must be a function without arguments that returns a number, not 5"


def test_what_must_be_a_name() -> None:
    with pytest.raises(TypeError) as refused:
        CircuitBreaker(5)  # type: ignore[arg-type]
    assert str(refused.value) == "name must be a string, not 5"
    with pytest.raises(ValueError) as refused_value:
        CircuitBreaker("")
    assert str(refused_value.value) == "name must not be empty, it is what errors and metrics call the breaker"


@pytest.mark.parametrize(
    ("order", "state", "reason", "retry_after"),
    [
        (CircuitBreaker.open, State.OPEN, "opened by hand", 30.0),
        (lambda breaker: breaker.open(5, reason="deployment"), State.OPEN, "deployment", 5.0),
        (CircuitBreaker.half_open, State.HALF_OPEN, "by hand", 0.0),
        (CircuitBreaker.force_open, State.FORCED_OPEN, "forced open", None),
        (lambda breaker: breaker.force_open("maintenance"), State.FORCED_OPEN, "maintenance", None),
        (CircuitBreaker.disable, State.DISABLED, "disabled", None),
        (CircuitBreaker.metrics_only, State.METRICS_ONLY, "only measuring", None),
        (CircuitBreaker.reset, State.CLOSED, "reset", None),
    ],
)
def test_an_order_and_what_it_leaves(
    order: Callable[[CircuitBreaker], None], state: State, reason: str, retry_after: float | None
) -> None:
    clock = ManualClock(100.0)
    breaker = CircuitBreaker("ordered", clock=clock)
    clock.advance(5)
    order(breaker)
    clock.advance(2)
    seen = breaker.snapshot()
    assert (seen.state, seen.reason, seen.since, seen.at) == (state, reason, 105.0, 107.0)
    assert seen.retry_after == (retry_after and retry_after - 2)
    assert repr(breaker) == f"<CircuitBreaker 'ordered' {state.value}>"


async def test_isolation_says_when_and_why_and_does_not_wait_unless_asked_to(clock: Clock) -> None:
    breaker = CircuitBreaker("isolated", clock=clock)
    began = clock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, ScriptedDependency(Answer("fine", after=9)))
        await anyio.sleep(1)
        async with breaker.isolated():
            seen = breaker.snapshot()
            assert (seen.state, seen.reason, seen.since) == (State.FORCED_OPEN, "isolated", began + 1)
            assert seen.in_flight == 1
            await anyio.sleep(2)
        seen = breaker.snapshot()
        assert (seen.state, seen.reason, seen.since) == (State.CLOSED, "the hold was released", began + 3)
        async with breaker.isolated("maintenance", drain=True):
            assert clock() == began + 9
            assert breaker.snapshot().reason == "maintenance"


async def test_nobody_waits_unless_asked_to(clock: Clock) -> None:
    breaker = CircuitBreaker("impatient", open_for=0.5, clock=clock)
    breaker.open()
    with pytest.raises(CircuitOpenError):
        await breaker.acquire()
    with pytest.raises(CircuitOpenError):
        async with breaker.guard():
            pass

    async def source() -> AsyncIterator[str]:
        yield "never"

    with pytest.raises(CircuitOpenError):
        async with breaker.stream(source()):
            pass
    with pytest.raises(CircuitOpenError):
        await breaker.call(ScriptedDependency("fine"))
    assert breaker.snapshot().waiting == 0


def test_new_settings_are_told_and_apply_at_that_moment() -> None:
    clock = ManualClock(100.0)
    breaker = CircuitBreaker("changed", trials=Trials(2, concurrent=1), clock=clock)
    breaker.half_open()
    with record_events(breaker) as events:
        clock.advance(3)
        breaker.reconfigure(trials=2, open_for=5)
        clock.advance(4)
        breaker.reset()
    told = events[0]
    assert isinstance(told, Reconfigured)
    assert (told.changed, told.at, told.name, told.seq) == (("trials", "open_for"), 103.0, "changed", 1)
    assert isinstance(events[1], StateChanged)
    assert (events[1].at, events[1].seq) == (107.0, 2)


async def test_what_has_left_the_window_is_not_kept_by_new_settings(clock: Clock) -> None:
    breaker = CircuitBreaker("windows", trip=FailureCount(9, LastSeconds(10)), clock=clock)
    await fail(breaker, 3)
    await anyio.sleep(6)
    await fail(breaker)
    await anyio.sleep(6)
    breaker.reconfigure(trip=FailureCount(9, LastSeconds(60)))
    assert breaker.snapshot().readings[0].count == 1


async def test_new_trials_may_decide_at_once_and_it_says_when(clock: Clock) -> None:
    breaker = CircuitBreaker("decided", trials=3, clock=clock)
    breaker.half_open()
    await breaker.call(ScriptedDependency("fine"))
    await anyio.sleep(1)
    breaker.reconfigure(trials=1)
    seen = breaker.snapshot()
    assert (seen.state, seen.since) == (State.CLOSED, seen.at)


async def test_a_snapshot_in_full(clock: Clock) -> None:
    breaker = CircuitBreaker(
        "seen",
        trip=FailureRate(0.9, LastCalls(20)) | SlowCallRate(0.9, 2.0, LastCalls(20)),
        trials=Trials(2, concurrent=1),
        ignore=KeyError,
        clock=clock,
    )
    breaker.half_open()
    breaker.reset()
    await anyio.sleep(1)
    await fail(breaker, 2)
    await breaker.call(ScriptedDependency(Answer("fine", after=2.0)))
    with pytest.raises(KeyError):
        await breaker.call(ScriptedDependency(KeyError()))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, ScriptedDependency(Answer("fine", after=5)))
        await anyio.sleep(1)
        seen = breaker.snapshot()
    assert (seen.name, seen.state, seen.reason, seen.at - seen.since) == ("seen", State.CLOSED, "reset", 4.0)
    assert (seen.calls, seen.failures, seen.in_flight, seen.waiting, seen.refused) == (3, 2, 1, 0, 0)
    assert (seen.failure_rate, seen.slow_rate) == (2 / 3, 1 / 3)
    assert seen.totals._asdict() == {"successes": 1, "failures": 2, "ignored": 1, "cancelled": 0, "late": 0, "refused": 0}
    assert [(reading.count, reading.calls) for reading in seen.readings] == [(2, 3), (1, 3)]
    assert seen.transitions == 2
    assert seen.last_failure is not None
    assert seen.at - seen.last_failure.at == 3.0
    breaker.open(10)
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            await breaker.call(ScriptedDependency("fine"))
    seen = breaker.snapshot()
    assert (seen.refused, seen.totals.refused, seen.calls, seen.retry_after) == (3, 3, 0, 10.0)


async def test_a_disabled_breaker_has_counted_nothing() -> None:
    breaker = CircuitBreaker("disabled")
    breaker.disable()
    await fail(breaker, 2)
    await breaker.call(ScriptedDependency("fine"))
    seen = breaker.snapshot()
    assert (seen.calls, seen.failures, seen.in_flight, seen.readings) == (0, 0, 0, ())
    assert not any(seen.totals)


def test_a_snapshot_is_a_value() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("value", clock=clock)
    seen = breaker.snapshot()
    assert seen == breaker.snapshot()
    assert not hasattr(seen, "__dict__")
    with pytest.raises(FrozenInstanceError):
        seen.calls = 5  # type: ignore[misc]


async def test_an_explanation_in_full(clock: Clock) -> None:
    breaker = CircuitBreaker("explained", trip=FailureRate(0.9, LastCalls(20), minimum_calls=2), clock=clock)
    await anyio.sleep(10)
    breaker.half_open()
    await anyio.sleep(2)
    assert breaker.explain() == "explained is half open for 2 s: by hand.\nA call could be admitted in 0 s."
    breaker.reset()
    await fail(breaker)
    await breaker.call(ScriptedDependency("fine"))
    await anyio.sleep(3)
    assert breaker.explain().splitlines() == [
        "explained is closed for 3 s: reset.",
        "1 of 2 calls in the last 20 calls failed, 50.0% (trips at 90.0% of at least 2 calls).",
        "The last failure was OSError: down, 3 s ago.",
    ]


async def test_by_default_a_reader_may_be_256_events_behind_and_hears_of_no_single_call() -> None:
    breaker = CircuitBreaker("buffered")
    heard: list[Event] = []
    leave = breaker.subscribe(heard.append)
    async with breaker.events() as events:
        for _ in range(129):
            breaker.force_open()
            breaker.reset()
        lost = await anext(events)
        assert isinstance(lost, EventsLost)
        assert lost.count == 2
        for _ in range(256):
            assert isinstance(await anext(events), StateChanged)
        await breaker.call(ScriptedDependency("fine"))
        breaker.force_open()
        assert isinstance(await anext(events), StateChanged)
    leave()
    assert not [event for event in heard if isinstance(event, CallEvent)]
    assert len(heard) == 259


async def test_waiting_for_a_state_passes_over_other_events(clock: Clock) -> None:
    breaker = CircuitBreaker("awaited", clock=clock)
    arrived: list[float] = []
    began = clock()

    async def wait() -> None:
        await breaker.wait_for(State.FORCED_OPEN)
        arrived.append(clock() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(1)
        breaker.reconfigure(open_for=5)
        breaker.open()
        await anyio.sleep(1)
        assert not arrived
        breaker.force_open()
        breaker.reset()
    assert arrived == [2.0], "also when it is in that state for a moment only"
    await breaker.wait_for(State.CLOSED)
