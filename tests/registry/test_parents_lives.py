"""A breaker above others lives, is configured, and hears of streams and methods, like any other one."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import (
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    LastCalls,
    SlowCallRate,
    State,
)
from aiobreaker.testing import ManualClock

from .stage import alive
from .test_parents_slots import fail, fine, pair

Clock = Callable[[], float]


# -- settings


FLOWING = {"metrics_only": State.METRICS_ONLY, "disable": State.DISABLED}


@pytest.mark.parametrize("order", FLOWING)
async def test_a_parent_that_only_measures_or_is_disabled_lets_all_pass(order: str) -> None:
    lower, upper = pair({"trip": ConsecutiveFailures(4)}, {"trip": ConsecutiveFailures(2)})
    getattr(upper, order)()
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            await lower.call(fail)
    assert (lower.state, upper.state) == (State.CLOSED, FLOWING[order])
    assert upper.snapshot().totals.failures == (3 if order == "metrics_only" else 0)
    assert upper.snapshot().in_flight == 0


@pytest.mark.parametrize("order", FLOWING)
async def test_a_child_that_only_measures_or_is_disabled_still_needs_its_parent(order: str) -> None:
    lower, upper = pair({"trip": ConsecutiveFailures(1)}, {"trip": ConsecutiveFailures(2)})
    getattr(lower, order)()
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            await lower.call(fail)
    assert (lower.state, upper.state) == (FLOWING[order], State.OPEN)
    with pytest.raises(CircuitOpenError) as refusal:
        await lower.call(fine)
    assert refusal.value.name == "upper"


SHAPES: list[dict[str, Any]] = [
    {"trip": ConsecutiveFailures(9)},
    {"trip": SlowCallRate(1.0, 50.0, LastCalls(99), minimum_calls=99)},
    {"trip": SlowCallRate(1.0, 50.0, LastCalls(99), minimum_calls=99, count_in_flight=True)},
    {"failure_if": lambda result: False},
    {"failure_if": None, "retry_after": lambda subject: None},
    {"retry_after": None},
]


@pytest.mark.parametrize("where", [0, 1], ids=["lower", "upper"])
async def test_either_may_change_its_shape_while_calls_are_running(where: int) -> None:
    both = pair({}, {})
    function = both[0](lambda_wait)
    events = [anyio.Event() for _ in SHAPES]
    async with anyio.create_task_group() as tasks:
        for event, shape in zip(events, SHAPES, strict=True):
            tasks.start_soon(both[0].call, event.wait)
            tasks.start_soon(function, event)
            await anyio.wait_all_tasks_blocked()
            both[where].reconfigure(**shape)
        assert [breaker.snapshot().in_flight for breaker in both] == [2 * len(SHAPES)] * 2
        for event in events:
            event.set()
    for breaker in both:
        seen = breaker.snapshot()
        assert (seen.state, seen.in_flight, seen.totals.successes) == (State.CLOSED, 0, 2 * len(SHAPES))


async def lambda_wait(event: anyio.Event) -> None:
    await event.wait()


def test_what_the_random_numbers_of_the_upper_one_raise_loses_no_slot_below() -> None:
    def unlucky() -> float:
        raise ValueError("no luck")

    lower, upper = pair({}, {"trip": ConsecutiveFailures(1), "random": unlucky})
    with pytest.raises(ValueError, match="no luck"):
        anyio.run(lower.call, fail)
    assert [breaker.snapshot().in_flight for breaker in (lower, upper)] == [0, 0]
    assert lower.snapshot().totals.failures == 1


# -- lives


def test_a_parent_lives_as_long_as_a_child_of_it_and_no_longer() -> None:
    registry = BreakerRegistry(CircuitBreaker, max_size=1, parent=lambda key: key[0])
    child = registry["ab"]
    registry["c"]
    assert list(registry) == ["c"]
    assert alive(registry) == {"ab", "a", "c"}
    assert registry["a"]._gate is child._gate.above[0]
    registry["c"]
    del child
    assert alive(registry) == {"c"}


def test_a_parent_that_had_gone_comes_back_when_the_calls_of_a_child_open_it() -> None:
    registry = BreakerRegistry(
        lambda key: CircuitBreaker(key, trip=ConsecutiveFailures(1)), max_size=1, parent=lambda key: key[0]
    )
    child = registry["ab"]
    registry["c"]
    assert "a" not in registry
    with suppress(OSError):
        anyio.run(child.call, fail)
    assert "a" in registry
    assert registry["a"].state is State.OPEN
    with pytest.raises(CircuitOpenError):
        anyio.run(registry["ax"].call, fine)


@pytest.mark.parametrize("running", ["child", "sibling"])
def test_a_parent_whose_children_have_calls_in_flight_stays(running: str) -> None:
    registry = BreakerRegistry(CircuitBreaker, max_size=2, parent=lambda key: key[0])
    child = registry["ab"]
    permit = anyio.run(registry["ac"].acquire if running == "sibling" else child.acquire)
    for number in range(9):
        registry[f"{number}"]
    assert "a" in registry
    permit.success()


def test_a_parent_that_is_used_through_its_children_all_the_time_is_not_idle() -> None:
    clock = ManualClock()
    registry = BreakerRegistry(
        lambda key: CircuitBreaker(key, clock=clock), idle_for=600, parent=lambda key: key[0], clock=clock
    )
    for _ in range(20):
        anyio.run(registry["ab"].call, fine)
        clock.advance(60)
    registry["c"]
    assert "ab" in registry
    assert "a" in registry


def test_a_hundred_thousand_calls_leave_nothing_behind() -> None:
    lower, upper = pair({"trip": FailureCount(10**6, LastCalls(10**6))}, {})
    upper.metrics_only()

    async def use() -> None:
        for number in range(1000):
            with suppress(OSError):
                await lower.call(fail if number % 2 else fine)
        gc.collect()
        before = len(gc.get_objects())
        for number in range(10_000):
            with suppress(OSError):
                await lower.call(fail if number % 2 else fine)
        gc.collect()
        assert len(gc.get_objects()) - before < 100

    anyio.run(use)
    assert lower.snapshot().totals == upper.snapshot().totals
    assert lower.snapshot().totals.successes == lower.snapshot().totals.failures == 5500


# -- streams


async def test_a_stream_is_slow_to_answer_for_both_and_ends_for_both(clock: Clock) -> None:
    slow = {"trip": SlowCallRate(1.0, 5.0, LastCalls(1), minimum_calls=1)}
    lower, upper = pair({}, slow, clock)

    async def items(first: float) -> AsyncIterator[int]:
        await anyio.sleep(first)
        yield 1
        await anyio.sleep(100)
        yield 2

    guarded = lower(items)
    assert [item async for item in guarded(1.0)] == [1, 2]
    assert upper.state is State.CLOSED
    async with lower.stream(items(1.0)) as stream:
        assert [item async for item in stream] == [1, 2]
    assert upper.state is State.CLOSED
    assert [item async for item in guarded(5.0)] == [1, 2]
    assert upper.state is State.OPEN
    assert [breaker.snapshot().in_flight for breaker in (lower, upper)] == [0, 0]
    assert lower.snapshot().totals.successes == 3


async def test_every_method_kind_passes_both() -> None:
    lower, upper = pair({}, {})

    class Client:
        @lower
        async def plain(self) -> int:
            await checkpoint()
            return 1

        @lower
        @classmethod
        async def of_class(cls) -> int:
            return 2

        @lower
        @staticmethod
        async def static() -> int:
            return 3

        @lower.with_fallback(4)
        async def safe(self) -> int:
            return 5

    client = Client()
    assert [await client.plain(), await client.of_class(), await client.static(), await client.safe()] == [1, 2, 3, 5]
    assert upper.snapshot().totals.successes == lower.snapshot().totals.successes == 4
    upper.force_open()
    assert await client.safe() == 4
    assert (upper.snapshot().refused, lower.snapshot().refused) == (1, 0)
