"""Observers may give orders, come and go, raise and be interrupted, and hold up nobody."""

from contextlib import suppress

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, Event, State, StateChanged
from aiobreaker.testing import ManualClock, record_events

from .stage import check_order, fail, fine, in_threads


def test_an_observer_that_gives_orders_is_told_of_them_afterwards() -> None:
    breaker = CircuitBreaker("obedient")
    first: list[Event] = []
    depth = deepest = 0

    def give_orders(event: Event) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        first.append(event)
        assert breaker.snapshot().name == "obedient"
        assert isinstance(event, StateChanged)
        match event.new:
            case State.OPEN:
                breaker.half_open()
                breaker.force_open("found to be down")
            case State.FORCED_OPEN:
                breaker.reset()
        depth -= 1

    breaker.subscribe(give_orders)
    with record_events(breaker) as second, suppress(OSError):
        for _ in range(5):
            with suppress(OSError):
                anyio.run(breaker.call, fail)
    states = [event.new for event in check_order(second)]
    assert states == [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.CLOSED]
    assert first == second
    assert deepest == 1
    assert breaker.state is State.CLOSED


def test_an_observer_of_calls_may_give_orders_too() -> None:
    breaker = CircuitBreaker("obedient")
    seen: list[str] = []

    def give_orders(event: Event) -> None:
        seen.append(type(event).__name__)
        if seen == ["CallFinished"]:
            breaker.force_open()

    breaker.subscribe(give_orders, calls=True)
    assert anyio.run(breaker.call, fine) == "fine"
    with pytest.raises(CircuitOpenError):
        anyio.run(breaker.call, fine)
    assert seen == ["CallFinished", "StateChanged", "CallRefused"]


def test_an_observer_holds_up_no_other_thread() -> None:
    breaker = CircuitBreaker("told")
    breaker.subscribe(lambda event: in_threads(breaker.snapshot, breaker.disable))
    breaker.force_open()
    assert breaker.state is State.DISABLED


def test_an_observer_may_end_itself_and_bring_in_another() -> None:
    breaker = CircuitBreaker("relay")
    seen: list[str] = []

    def first(event: Event) -> None:
        seen.append("first")
        leave()
        breaker.subscribe(lambda event: seen.append("second"))

    leave = breaker.subscribe(first)
    breaker.force_open()
    breaker.reset()
    assert seen == ["first", "second"]


def test_an_observer_that_raises_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker("noisy")

    def raises(event: Event) -> None:
        raise ValueError("my own fault")

    breaker.subscribe(raises)
    with record_events(breaker) as events:
        breaker.force_open()
    assert len(events) == 1
    assert "my own fault" in caplog.text


def test_an_observer_that_is_interrupted_loses_no_slot() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("interrupted", clock=clock)
    breaker.open(1)
    clock.advance(1)

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    leave = breaker.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        anyio.run(breaker.call, fine)
    leave()
    assert breaker.snapshot().in_flight == 0
    assert anyio.run(breaker.call, fine) == "fine"
    assert breaker.state is State.CLOSED
