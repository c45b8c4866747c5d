"""Concurrent policies where anyio did not start the loop, and with tasks that asyncio cancels in its own way."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import pytest

from aiobreaker.core.limits import AIMD
from aiobreaker.core.quantiles import Quantile
from aiobreaker.errors import ShortageError
from aiobreaker.policies.adaptive_limit import AdaptiveLimit
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce
from aiobreaker.policies.hedge import Hedge
from aiobreaker.policies.rate_limit import RateLimit
from aiobreaker.policy import NamedPolicy
from aiobreaker.testing import VirtualTimeLoop

Clock = Callable[[], float]
Make = Callable[[Clock], NamedPolicy[Any]]

EVERY: dict[str, Make] = {
    "bulkhead": lambda clock: Bulkhead(1, max_waiters=9, max_wait=2, clock=clock),
    "rate limit": lambda clock: RateLimit(1, burst=1, max_wait=2, clock=clock),
    "adaptive limit": lambda clock: AdaptiveLimit(AIMD(initial_limit=1), max_waiters=9, max_wait=2, clock=clock),
    "coalesce": lambda clock: Coalesce(clock=clock),
    "cache": lambda clock: Cache(0.5, clock=clock),
    "hedge": lambda clock: Hedge(0.5, attempts=3, clock=clock),
}

ANYIO_SWALLOWS = tuple(map(int, version("anyio").split(".")[:2])) < (4, 16)
"""`Task.cancel()` in the very turn of the loop in which a scope of anyio's ran out was lost (agronholm/anyio#1214)."""

every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())


def run(main: Callable[[], Any]) -> None:
    """As a program of asyncio's own does: nothing has told anyone that it is asyncio that runs."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("delay", [1.0, Quantile(0.5, initial=1.0)], ids=["fixed", "quantile"])
def test_a_hedge_hedges_in_a_loop_that_anyio_did_not_start(delay: float | Quantile) -> None:
    begun: list[float] = []

    async def call() -> int:
        loop = asyncio.get_running_loop()
        begun.append(loop.time())
        number = len(begun)
        await asyncio.sleep(9 if number < 3 else 1)
        return number

    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, fault: faults.append(fault))
        hedge = Hedge(delay, attempts=3, clock=loop.time)
        assert await hedge.call(call) == 3
        assert [moment - begun[0] for moment in begun] == pytest.approx([0, 1, 2])
        assert hedge.snapshot().wins == (0, 0, 1)
        assert faults == []
        assert len(asyncio.all_tasks()) == 1

    run(main)


@every
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_a_task_that_is_cancelled_at_any_time_is_and_leaves_nothing(make: Make, at: float, times: int) -> None:
    """Also at the very moment at which its turn has come, and a second time while it cleans up."""
    if ANYIO_SWALLOWS and make is EVERY["rate limit"] and at == 1.0:
        pytest.skip("anyio before 4.16 swallows a cancellation that comes at the very end of a wait")
    inside = 0

    async def call(key: str) -> str:
        nonlocal inside
        inside += 1
        try:
            await asyncio.sleep(1)
        finally:
            inside -= 1
        return key

    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = make(loop.time)
        guarded = policy(call)

        async def use() -> None:
            with suppress(ShortageError):
                await guarded("key")

        tasks = [loop.create_task(use()) for _ in range(3)]
        await asyncio.sleep(at)
        wanted = [task for task in tasks[:2] if task.cancel()]
        for task in wanted[: times - 1]:
            task.cancel()
        await asyncio.wait(tasks, timeout=30)
        assert all(task.done() for task in tasks)
        assert all(task.cancelled() for task in wanted)
        seen = policy.snapshot()
        assert (inside, getattr(seen, "running", 0), getattr(seen, "waiting", 0)) == (0, 0, 0)
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(9)
        assert await asyncio.wait_for(guarded("another"), 3) == "another"

    run(main)
