"""Slots of a breaker that others share: exact for a crowd, and given back whatever becomes of a call."""

import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from aiobreaker import (
    BreakerRegistry,
    CallFinished,
    CallRefused,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Event,
    LastCalls,
    Outcome,
    SlowCallRate,
    State,
    StateChanged,
    Trials,
    TrialsForfeited,
)
from aiobreaker.locking import LOCK
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, record_events

from ..loops.test_dropped import TRIALS, Dropped, begin

Clock = Callable[[], float]


def pair(lower: dict[str, Any], upper: dict[str, Any], clock: Clock | None = None) -> tuple[CircuitBreaker, CircuitBreaker]:
    """One breaker under another one."""
    clock = clock or ManualClock()
    settings = {"lower": lower, "upper": upper}
    registry = BreakerRegistry(
        lambda key: CircuitBreaker(key, **{"clock": clock, **settings[key]}), parent={"lower": "upper"}.get
    )
    return registry["lower"], registry["upper"]


async def fine() -> str:
    return "fine"


async def fail() -> None:
    raise OSError("down")


# -- a crowd


@pytest.mark.parametrize("concurrent", [1, 3])
async def test_of_ten_thousand_callers_through_a_hundred_children_exactly_the_trials_pass(
    concurrent: int, clock: Clock
) -> None:
    registry: BreakerRegistry[int] = BreakerRegistry(
        lambda key: CircuitBreaker(f"{key}", clock=clock, trials=Trials(3, concurrent)), parent=lambda key: -1
    )
    parent = registry[-1]
    parent.open(5)
    await anyio.sleep(5)
    dependency = ScriptedDependency(Answer("fine", after=1.0))
    refused = 0

    async def caller(number: int) -> None:
        nonlocal refused
        try:
            await registry[number % 100].call(dependency)
        except CircuitOpenError as refusal:
            refused += refusal.name == "-1"

    async with anyio.create_task_group() as tasks:
        for number in range(10_000):
            tasks.start_soon(caller, number)
    assert (len(dependency.calls), dependency.most_running) == (concurrent, concurrent)
    assert refused == 10_000 - concurrent
    totals = parent.snapshot().totals
    assert (totals.successes, totals.refused) == (concurrent, refused)
    children = [registry[number].snapshot() for number in range(100)]
    assert sum(child.totals.successes for child in children) == concurrent
    assert [child.in_flight for child in children] == [0] * 100
    assert parent.snapshot().in_flight == 0


# -- dropped and interrupted calls


def both_on_trial() -> tuple[CircuitBreaker, CircuitBreaker]:
    trials = {"trials": Trials(1, max_inconclusive=1000)}
    lower, upper = pair(trials, trials)
    lower.half_open()
    upper.half_open()
    return lower, upper


def check_both_slots_are_free(lower: CircuitBreaker, upper: CircuitBreaker) -> None:
    assert [breaker.state for breaker in (lower, upper)] == [State.HALF_OPEN] * 2
    assert [breaker.snapshot().in_flight for breaker in (lower, upper)] == [0, 0]
    permit = anyio.run(lower.acquire)
    assert [breaker.snapshot().in_flight for breaker in (lower, upper)] == [1, 1]
    for breaker in (lower, upper):
        with pytest.raises(CircuitOpenError):
            anyio.run(breaker.acquire)
    permit.success()
    assert [breaker.state for breaker in (lower, upper)] == [State.CLOSED] * 2


@pytest.mark.parametrize("way", TRIALS)
def test_a_trial_dropped_half_way_gives_both_slots_back(way: Dropped) -> None:
    lower, upper = both_on_trial()
    running = begin(way(lower))
    assert upper.snapshot().in_flight == 1
    del running
    gc.collect()
    check_both_slots_are_free(lower, upper)


@pytest.mark.parametrize("way", TRIALS)
def test_a_trial_dropped_in_the_middle_of_a_transition_gives_both_slots_back(way: Dropped) -> None:
    lower, upper = both_on_trial()
    running = begin(way(lower))
    with LOCK:
        del running
        gc.collect()
    check_both_slots_are_free(lower, upper)


def test_a_permit_thrown_away_gives_both_slots_back() -> None:
    lower, upper = both_on_trial()
    with pytest.warns(ResourceWarning, match="never settled"):
        anyio.run(lower.acquire)
    check_both_slots_are_free(lower, upper)


class StoppedError(BaseException):
    """Such as a KeyboardInterrupt."""


@pytest.mark.parametrize("where", [0, 1], ids=["lower", "upper"])
def test_an_observer_that_is_interrupted_at_an_admission_loses_no_slot(where: int) -> None:
    both = pair({"trials": Trials(1, max_inconclusive=9)}, {"trials": Trials(1, max_inconclusive=9)}, clock := ManualClock())
    for breaker in both:
        breaker.open(1)
    clock.advance(1)

    def interrupt(event: Event) -> None:
        unsubscribe()
        raise StoppedError

    unsubscribe = both[where].subscribe(interrupt)
    with pytest.raises(StoppedError):
        anyio.run(both[0].call, fine)
    assert [breaker.snapshot().totals.ignored for breaker in both] == [1, 1]
    check_both_slots_are_free(*both)


@pytest.mark.parametrize("where", [0, 1], ids=["lower", "upper"])
def test_an_observer_that_is_interrupted_at_an_end_loses_no_slot_and_no_event(where: int) -> None:
    both = both_on_trial()
    told: list[str] = []
    for breaker in both:
        breaker.subscribe(lambda event: told.append(event.name))

    def interrupt(event: Event) -> None:
        unsubscribe()
        raise StoppedError

    unsubscribe = both[where].subscribe(interrupt)
    with pytest.raises(StoppedError):
        anyio.run(both[0].call, fine)
    assert [breaker.state for breaker in both] == [State.CLOSED] * 2
    assert [breaker.snapshot().in_flight for breaker in both] == [0, 0]
    anyio.run(both[0].call, fine)
    assert sorted(told) == ["lower", "upper"]


def test_an_observer_of_either_that_raises_is_logged_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def rage(event: Event) -> None:
        raise ValueError("not my day")

    both = both_on_trial()
    for breaker in both:
        breaker.subscribe(rage, calls=True)
    with caplog.at_level(logging.CRITICAL, logger="aiobreaker"):
        assert anyio.run(both[0].call, fine) == "fine"
    assert [breaker.state for breaker in both] == [State.CLOSED] * 2
    assert [breaker.snapshot().in_flight for breaker in both] == [0, 0]


def test_an_observer_of_one_may_give_orders_to_the_other() -> None:
    lower, upper = pair({"trip": ConsecutiveFailures(1)}, {})
    lower.subscribe(lambda event: upper.force_open("with the lower one"))
    upper.subscribe(lambda event: lower.reset() if getattr(event, "new", None) is State.CLOSED else None)
    with suppress(OSError):
        anyio.run(lower.call, fail)
    assert (lower.state, upper.state) == (State.OPEN, State.FORCED_OPEN)
    upper.reset()
    assert (lower.state, upper.state) == (State.CLOSED, State.FORCED_OPEN)


# -- what is told


async def test_both_tell_of_a_call_each_to_its_own_watchers() -> None:
    lower, upper = pair({}, {"trip": ConsecutiveFailures(1)})
    with record_events(lower, calls=True) as low, record_events(upper, calls=True) as up:
        with pytest.raises(OSError, match="down"):
            await lower.call(fail)
        with pytest.raises(CircuitOpenError):
            await lower.call(fine)
    assert [type(event) for event in low] == [CallFinished]
    assert [type(event) for event in up] == [CallFinished, StateChanged, CallRefused]
    assert {event.name for event in low} == {"lower"}
    assert {event.name for event in up} == {"upper"}
    ended = [event for event in low + up if isinstance(event, CallFinished)]
    assert [event.outcome for event in ended] == [Outcome.FAILURE] * 2
    assert all(event.failure is not None and event.failure.message == "down" for event in ended)


async def test_watchers_may_come_and_go_while_a_call_is_running() -> None:
    for first, second in ((0, 1), (1, 0)):
        both = pair({}, {})
        release = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(both[0].call, release.wait)
            await anyio.wait_all_tasks_blocked()
            with record_events(both[first], calls=True) as early:
                tasks.start_soon(both[0].call, release.wait)
                await anyio.wait_all_tasks_blocked()
            with record_events(both[second], calls=True) as late:
                release.set()
                await anyio.wait_all_tasks_blocked()
        assert early == []
        assert [type(event) for event in late] == [CallFinished] * 2
        for breaker in both:
            seen = breaker.snapshot()
            assert (seen.totals.successes, seen.in_flight) == (2, 0)


# -- leases


async def test_a_lease_that_is_over_below_leaves_the_slot_above_to_the_call_that_still_runs() -> None:
    clock = ManualClock()
    lower, upper = pair({"trials": Trials(1, lease=5)}, {"trials": Trials(1, lease=50)}, clock)
    lower.half_open()
    upper.half_open()
    trial = await lower.acquire()
    clock.advance(5)
    with record_events(lower) as events, pytest.raises(CircuitOpenError) as refusal:
        await lower.call(fine)
    assert refusal.value.name == "upper"  # the lower one could have let it in, had it not looked for its lease
    assert [type(event) for event in events] == []
    assert upper.snapshot().in_flight == 1
    trial.success()
    assert upper.state is State.CLOSED
    assert (lower.state, lower.snapshot().totals.late) == (State.OPEN, 1)
    assert (lower.snapshot().in_flight, upper.snapshot().in_flight) == (0, 0)


async def test_a_lease_that_is_over_above_takes_no_trial_of_the_breaker_below() -> None:
    clock = ManualClock()
    lower, upper = pair({}, {"trials": Trials(1, lease=5)}, clock)
    upper.half_open()
    trial = await lower.acquire()
    lower.half_open()
    clock.advance(5)
    with record_events(upper) as events, pytest.raises(CircuitOpenError) as refusal:
        await lower.call(fine)
    assert (refusal.value.name, refusal.value.state) == ("upper", State.OPEN)
    assert [type(event) for event in events] == [TrialsForfeited, StateChanged]
    assert lower.snapshot().in_flight == 1  # of the trial from before
    trial.success()
    assert [breaker.snapshot().totals.late for breaker in (lower, upper)] == [1, 1]
    clock.advance(30)
    assert await lower.call(fine) == "fine"
    assert [breaker.state for breaker in (lower, upper)] == [State.CLOSED] * 2
    assert [breaker.snapshot().in_flight for breaker in (lower, upper)] == [0, 0]


async def test_a_call_that_a_slow_one_above_refuses_is_not_in_flight_below() -> None:
    clock = ManualClock()
    watching = {"trip": SlowCallRate(1.0, 2.0, LastCalls(9), minimum_calls=1, count_in_flight=True)}
    still = {"trip": SlowCallRate(1.0, 100.0, LastCalls(9), minimum_calls=1, count_in_flight=True)}
    lower, upper = pair(still, watching, clock)
    hung = await upper.acquire()
    clock.advance(2)
    with pytest.raises(CircuitOpenError) as refusal:
        await lower.call(fine)
    assert refusal.value.name == "upper"
    assert lower.snapshot().in_flight == 0
    upper.reset()
    permit = await lower.acquire()
    assert lower.snapshot().in_flight == 1
    clock.advance(1)
    permit.success()
    hung.success()
    clock.advance(1000)
    assert lower.snapshot().readings[0].count == 0  # nothing is left that could become slow
    assert await lower.call(fine) == "fine"
    assert lower.state is State.CLOSED
