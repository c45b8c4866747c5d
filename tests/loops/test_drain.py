"""A drain waits for the calls from before it and for nothing else, whatever orders come meanwhile."""

import anyio
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker
from aiobreaker.testing import ManualClock

from .stage import LONG, fine


async def maintain(breaker: CircuitBreaker) -> None:
    async with breaker.isolated(drain=True):
        pass


async def test_a_drain_ends_with_the_last_call_also_after_an_order_has_ended_its_hold() -> None:
    breaker = CircuitBreaker("drained", clock=ManualClock())
    first, second = anyio.Event(), anyio.Event()

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.call, first.wait)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(maintain, breaker)
            await anyio.wait_all_tasks_blocked()
            breaker.reset()
            tasks.start_soon(breaker.call, second.wait)
            await anyio.wait_all_tasks_blocked()
            first.set()
            await anyio.wait_all_tasks_blocked()
            second.set()


async def test_a_drain_keeps_no_probe_waiting() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("drained", clock=clock, probe=checkpoint)

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.call, anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(maintain, breaker)
            await anyio.wait_all_tasks_blocked()
            breaker.open(1)
            clock.advance(1)
            assert await breaker.call(fine) == "fine"
            tasks.cancel_scope.cancel()
