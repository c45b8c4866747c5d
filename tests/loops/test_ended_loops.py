"""A loop that ends with calls running gives back what they held."""

import asyncio
import gc
import logging
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from math import inf
from typing import Any

import anyio
import pytest

from aiobreaker import CircuitBreaker, State

from .stage import breaker_on_trial, check_slot_is_free, fine


def generated(breaker: CircuitBreaker) -> Callable[[], AsyncGenerator[None, None]]:
    @breaker
    async def items() -> AsyncGenerator[None, None]:
        await anyio.sleep_forever()
        yield

    return items


async def hang_in_a_function(breaker: CircuitBreaker) -> None:
    await breaker(anyio.sleep_forever)()


async def hang_in_a_generator(breaker: CircuitBreaker) -> None:
    async for _ in generated(breaker)():
        pass


async def hang_in_a_call(breaker: CircuitBreaker) -> None:
    await breaker.call(anyio.sleep_forever)


async def hang_in_a_block(breaker: CircuitBreaker) -> None:
    async with breaker.guard():
        await anyio.sleep_forever()


async def hang_with_a_permit(breaker: CircuitBreaker) -> None:
    permit = await breaker.acquire()
    with suppress(ZeroDivisionError):
        await anyio.sleep_forever()
    permit.success()


async def hang_in_a_stream(breaker: CircuitBreaker) -> None:
    async def source() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    async with breaker.stream(source()) as items:
        async for _ in items:
            pass


async def hang_in_a_probe(breaker: CircuitBreaker) -> None:
    breaker.reconfigure(probe=anyio.sleep_forever)
    await breaker.call(fine)


Hanging = Callable[[CircuitBreaker], Coroutine[Any, Any, None]]
HANGING: list[Hanging] = [
    hang_in_a_function,
    hang_in_a_generator,
    hang_in_a_call,
    hang_in_a_block,
    hang_with_a_permit,
    hang_in_a_stream,
    hang_in_a_probe,
]


@pytest.mark.parametrize("hang", HANGING)
def test_a_loop_that_ends_gives_back_the_slot_of_its_running_trial(hang: Hanging) -> None:
    breaker = breaker_on_trial()
    left: list[asyncio.Task[None]] = []

    async def leave_it_running() -> None:
        left.append(asyncio.create_task(hang(breaker)))
        await anyio.wait_all_tasks_blocked()
        assert breaker.snapshot().in_flight == 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a permit in hand says so
        asyncio.run(leave_it_running())
        left.clear()
        gc.collect()
    check_slot_is_free(breaker)


@pytest.mark.parametrize("hang", [hang_in_a_function, hang_in_a_generator, hang_in_a_call, hang_in_a_block, hang_with_a_permit])
def test_a_trial_that_is_collected_with_its_closed_loop_gives_its_slot_back(
    hang: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="asyncio")  # it complains, rightly
    breaker = breaker_on_trial()
    loop = asyncio.new_event_loop()
    task = loop.create_task(hang(breaker))
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert breaker.snapshot().in_flight == 1
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a permit in hand says so
        del task, loop
        gc.collect()
    check_slot_is_free(breaker)


def test_waiters_left_by_a_loop_are_out_of_the_line() -> None:
    breaker = CircuitBreaker("left")
    breaker.force_open()
    left: list[asyncio.Task[None]] = []

    async def wait_in_line() -> None:
        async with breaker.guard(max_wait=inf):
            pass

    async def leave_them_waiting() -> None:
        left.extend(asyncio.create_task(wait_in_line()) for _ in range(3))
        left.append(asyncio.create_task(breaker.wait_for(State.CLOSED)))
        await anyio.wait_all_tasks_blocked()
        assert breaker.snapshot().waiting == 3

    asyncio.run(leave_them_waiting())
    assert breaker.snapshot().waiting == 0
    breaker.reset()
    assert anyio.run(breaker.call, fine, backend="trio") == "fine"
