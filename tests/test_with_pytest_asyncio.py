"""For people who test with pytest-asyncio: the library works in its event loops, in real time, beside anyio's plugin."""

import asyncio

import pytest
import pytest_asyncio

from aiobreaker import CircuitBreaker, CircuitOpenError, State

breaker = CircuitBreaker("made at import time", open_for=0.01)


@pytest.fixture
def anyio_backend() -> str:
    """Only asyncio here, and an ordinary loop."""
    return "asyncio"


@pytest_asyncio.fixture
async def opened() -> CircuitBreaker:
    await asyncio.sleep(0)
    breaker.open()
    return breaker


@pytest.mark.asyncio
async def test_a_fixture_and_a_test_share_a_breaker(opened: CircuitBreaker) -> None:
    with pytest.raises(CircuitOpenError):
        await opened.call(asyncio.sleep, 0)
    async with opened.guard(max_wait=5):
        await asyncio.sleep(0)
    assert opened.state is State.CLOSED


@pytest.mark.asyncio
async def test_the_next_loop_uses_it_too() -> None:
    async with breaker.events() as events:
        waiting = asyncio.create_task(breaker.wait_for(State.FORCED_OPEN))
        await asyncio.sleep(0.01)
        breaker.force_open()
        await asyncio.wait_for(waiting, 5)
        assert (await anext(events)).seq
    breaker.reset()
    assert asyncio.get_running_loop() is not None
