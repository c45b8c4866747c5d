"""A breaker made at import time serves one event loop after another, and keeps none of them alive."""

import gc
import weakref
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint, current_token

from aiobreaker import CircuitBreaker, CircuitOpenError, State, StateChanged
from aiobreaker.testing import ManualClock

from .stage import fail, fine

CLOCK = ManualClock()
SHARED = CircuitBreaker("made at import time", clock=CLOCK)
PROBED = CircuitBreaker("made at import time too", probe=checkpoint, clock=CLOCK)


async def tour() -> "weakref.ref[Any]":
    """Everything that awaits, on breakers that other loops have used before. The answer is the loop."""
    for _ in range(5):
        with pytest.raises(OSError, match="down"):
            await SHARED.call(fail)
    with pytest.raises(CircuitOpenError):
        await SHARED.call(fine)
    CLOCK.advance(30)
    await visit_the_line()
    await visit_the_events()
    await visit_the_drain()
    for breaker in (SHARED, PROBED):
        breaker.open(1)
        CLOCK.advance(1)
        assert await breaker.call(fine) == "fine"
        assert breaker.state is State.CLOSED
        assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0
    return weakref.ref(current_token().native_token)


async def visit_the_line() -> None:
    served: list[int] = []

    async def wait_in_line(number: int) -> None:
        async with SHARED.guard(max_wait=inf):
            served.append(number)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        trial = await SHARED.acquire()
        for number in range(3):
            tasks.start_soon(wait_in_line, number)
            await anyio.wait_all_tasks_blocked()
        assert SHARED.snapshot().waiting == 3
        trial.success()
    assert served == [0, 1, 2]


async def visit_the_events() -> None:
    async with anyio.create_task_group() as tasks, SHARED.events() as events:
        tasks.start_soon(SHARED.wait_for, State.FORCED_OPEN)
        await anyio.wait_all_tasks_blocked()
        SHARED.force_open()
        event = await anext(events)
        assert isinstance(event, StateChanged)
        assert event.new is State.FORCED_OPEN
    SHARED.reset()


async def visit_the_drain() -> None:
    running = await SHARED.acquire()
    drained = anyio.Event()

    async def maintain() -> None:
        async with SHARED.isolated(drain=True):
            drained.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(maintain)
        await anyio.wait_all_tasks_blocked()
        assert not drained.is_set()
        running.success()
    assert drained.is_set()


def test_a_breaker_made_at_import_time_serves_one_loop_after_another() -> None:
    loops = [anyio.run(tour, backend=backend) for backend in ("asyncio", "trio", "asyncio")]
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3  # nothing keeps a loop alive
