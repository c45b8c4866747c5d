"""The lines of a log: each transition once and in order, and every refusal and every fallback in exactly one sum."""

import gc
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import (
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Event,
    Fallback,
    State,
    StateChanged,
)
from aiobreaker.journal import Journal, Line
from aiobreaker.testing import ManualClock


async def fine() -> None:
    """Succeed."""


async def broken() -> None:
    raise ConnectionError("down")


def ending(call: Coroutine[Any, Any, object]) -> BaseException | None:
    """How a call ends that never waits, run without a loop."""
    try:
        call.send(None)
    except StopIteration:
        return None
    except (ConnectionError, CircuitOpenError) as error:
        return error
    raise AssertionError("it waits")


CALLS = st.sampled_from([fine, broken])
ORDERS = st.sampled_from(["open", "half_open", "force_open", "reset", "disable", "metrics_only"])
STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(CALLS, ORDERS, st.sampled_from([1.0, 4.0, 9.0]))), max_size=40)


@given(before=STEPS, during=STEPS)
def test_each_refusal_of_a_registry_is_in_one_line(before: Any, during: Any) -> None:
    clock = ManualClock()
    registry: BreakerRegistry[str] = BreakerRegistry(
        lambda key: CircuitBreaker(key, trip=ConsecutiveFailures(2), open_for=3, clock=clock),
        max_size=2,
        idle_for=5,
        clock=clock,
    )
    refused: Counter[str] = Counter()

    def go(steps: list[tuple[str, Any]]) -> None:
        for key, step in steps:
            if isinstance(step, float):
                clock.advance(step)
            elif isinstance(step, str):
                getattr(registry[key], step)()
            else:
                refused[key] += isinstance(ending(registry[key].call(step)), CircuitOpenError)

    go(before)
    refused.clear()
    lines: list[Line] = []
    events: list[Event] = []
    with Journal((registry,), lines.append):
        unsubscribe = registry.subscribe(events.append)
        go(during)
        unsubscribe()
    told: Counter[str] = Counter()
    for line in lines:
        told[str(line.about["guard"])] += int(str(line.about.get("refused", 0)))
    assert +told == +refused
    moves = [(event.name, event.old, event.new) for event in events if isinstance(event, StateChanged)]
    about = [line.about for line in lines if line.event == "state changed"]
    assert [(each["guard"], each["from"], each["to"]) for each in about] == moves
    opened = [new in (State.OPEN, State.FORCED_OPEN) for *_, new in moves]
    assert [line.warning for line in lines if line.event == "state changed"] == opened


@given(steps=st.lists(st.one_of(CALLS, st.sampled_from([1.0, 7.0])), max_size=60), every=st.sampled_from([0.0, 5.0, 20.0]))
def test_each_call_that_fell_back_is_in_one_line(steps: list[Any], every: float) -> None:
    clock = ManualClock()
    fallback = Fallback("none", on=ConnectionError)
    lines: list[Line] = []
    written: list[float] = []
    fell_back = 0

    def write(line: Line) -> None:
        lines.append(line)
        written.append(clock())

    with Journal((fallback,), write, every=every, clock=clock):
        for step in steps:
            if isinstance(step, float):
                clock.advance(step)
            else:
                fell_back += step is broken
                assert ending(fallback.call(step)) is None
        assert all(later - earlier >= every for earlier, later in pairwise(written))
    assert sum(int(str(line.about["times"])) for line in lines) == fell_back


def test_what_is_gone_is_forgotten() -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker, max_size=2)
    with Journal((registry,), lambda _: None) as journal:
        for number in range(50):
            registry[f"tenant {number}"].force_open()
            registry[f"tenant {number}"].reset()
        gc.collect()
        assert len(journal._past) <= 2


@pytest.mark.parametrize("left", [0, 3])
def test_a_refusal_that_is_told_at_the_end(left: int) -> None:
    breaker, lines = CircuitBreaker("pears"), list[Line]()
    stop = Journal((breaker,), lines.append)
    breaker.force_open()
    for _ in range(left):
        assert ending(breaker.call(fine))
    stop()
    assert [line.about.get("refused") for line in lines] == [0, 3][: 1 + bool(left)]


def observer_that_fails(_: Line) -> None:
    raise RuntimeError("the disk is full")


def test_a_writer_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker("pears", trip=ConsecutiveFailures(1))
    stop: Callable[[], None] = Journal((breaker,), observer_that_fails)
    assert isinstance(ending(breaker.call(broken)), ConnectionError)
    stop()
    assert "the disk is full" in caplog.text
