"""What goes is the longest unused that is closed, idle and under nobody's orders; what is in use stays."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from math import inf
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import BreakerRegistry, CircuitBreaker, Event, State
from aiobreaker.testing import ManualClock, in_state

from .stage import DAY, Factory, alive


def test_the_longest_unused_goes(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=3)
    for key in "abcabdae":
        registry[key]
    assert list(registry) == ["d", "a", "e"]
    assert alive(registry) == {"d", "a", "e"}


def test_what_was_idle_for_too_long_goes_at_the_next_request(factory: Factory) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(factory, idle_for=60, clock=clock)
    for key in range(200):
        registry[key]
    clock.advance(59)
    registry["b"]
    clock.advance(1)
    assert len(registry) == 201, "nothing happens by itself"
    registry["c"]
    assert list(registry) == ["b", "c"]
    clock.advance(inf)
    registry["b"]
    assert list(registry) == ["b"], "what is asked for stays"


def test_with_infinite_patience_only_the_size_counts(factory: Factory) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(factory, idle_for=inf, clock=clock)
    registry["a"]
    clock.advance(1e300)
    registry["b"]
    assert list(registry) == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=60), st.integers(1, 6))
def test_requests_at_random_leave_what_an_obvious_model_has(requests: list[tuple[int, int]], max_size: int) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(Factory(), max_size=max_size, idle_for=10, clock=clock)
    model: OrderedDict[int, float] = OrderedDict()
    for key, pause in requests:
        clock.advance(pause)
        registry[key]
        model.pop(key, None)
        model[key] = clock()
        for old, used in list(model.items()):
            if len(model) > max_size or used <= clock() - 10:
                del model[old]
        assert list(registry) == list(model)


# -- what stays


async def running_a_function(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    await _in_background(breaker(anyio.sleep_forever), tasks)


async def in_a_block(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    async def block() -> None:
        async with breaker.guard():
            await anyio.sleep_forever()

    await _in_background(block, tasks)


async def with_a_permit(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    hold.callback((await breaker.acquire()).ignore)


async def waiting_for_a_state(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    await _in_background(partial(breaker.wait_for, State.OPEN), tasks)


async def in_maintenance(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    await tasks.enter_async_context(breaker.isolated())


async def reading_events(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    await tasks.enter_async_context(breaker.events())


async def observed(breaker: CircuitBreaker, hold: ExitStack, tasks: AsyncExitStack) -> None:
    hold.callback(breaker.subscribe(print, calls=True))


async def _in_background(function: Callable[[], Any], tasks: AsyncExitStack) -> None:
    group = await tasks.enter_async_context(anyio.create_task_group())
    tasks.callback(group.cancel_scope.cancel)
    group.start_soon(function)
    await anyio.wait_all_tasks_blocked()


USES = [
    running_a_function,
    in_a_block,
    with_a_permit,
    waiting_for_a_state,
    in_maintenance,
    reading_events,
    observed,
]


@pytest.mark.parametrize("by_size", [True, False], ids=["size", "idleness"])
@pytest.mark.parametrize("use", USES)
async def test_what_is_in_use_stays_until_it_is_not(use: Any, by_size: bool, factory: Factory) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(factory, max_size=1 if by_size else 100, idle_for=inf if by_size else 60, clock=clock)
    registry["used"]
    async with AsyncExitStack() as tasks:
        with ExitStack() as hold:
            await use(registry["used"], hold, tasks)
            for key in range(5):
                clock.advance(60)
                registry[key]
                assert list(registry) == ["used", key]
    clock.advance(60)
    registry["new"]
    assert list(registry) == ["new"]


async def test_what_somebody_waits_for_stays(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)

    async def wait() -> None:
        async with registry["waited for"].guard(max_wait=DAY):
            pass

    registry["waited for"].force_open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        registry["waited for"].reset()  # it waits still, until its loop wakes it
        registry["new"]
        assert list(registry) == ["waited for", "new"]
    registry["new"]
    assert list(registry) == ["new"]


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_what_is_not_closed_stays_until_it_is(state: State, factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    with in_state(registry["stays"], state):
        for key in range(5):
            registry[key]
            assert list(registry) == ["stays", key]
    registry["new"]
    assert list(registry) == ["new"]


def test_an_open_circuit_whose_time_is_over_stays(factory: Factory) -> None:
    clock = ManualClock()
    factory.clock = clock
    registry = BreakerRegistry(factory, clock=clock)
    registry["a"].open(60)
    clock.advance(DAY)
    registry["b"]
    assert registry.snapshot()["a"].state is State.OPEN


def test_observers_that_the_factory_brings_in_keep_nothing() -> None:
    seen: list[Event] = []

    def make(key: str) -> CircuitBreaker:
        breaker = CircuitBreaker(key)
        breaker.subscribe(seen.append)
        return breaker

    registry = BreakerRegistry(make, max_size=1)
    registry["a"], registry["b"]
    assert list(registry) == ["b"]
    unsubscribe = registry["b"].subscribe(seen.append)
    registry["c"]
    assert list(registry) == ["b", "c"]
    unsubscribe()
    registry["c"]
    assert list(registry) == ["c"]
