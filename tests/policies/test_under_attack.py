"""Concurrent policies that are used in ways nobody should: with a clock that raises, and observers who meddle."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import Event
from aiobreaker.core.limits import AIMD
from aiobreaker.policies.adaptive_limit import AdaptiveLimit

Way = Callable[[AdaptiveLimit], Awaitable[None]]


async def work() -> None:
    await checkpoint()


async def called(limit: AdaptiveLimit) -> None:
    await limit.call(work)


async def decorated(limit: AdaptiveLimit) -> None:
    await limit(work)()


async def in_a_block(limit: AdaptiveLimit) -> None:
    async with limit.guard():
        await work()


class BrokenClock:
    """Stands still, and raises when it is read for the n-th time."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> float:
        self.left -= 1
        if not self.left:
            raise RuntimeError("no time")
        return 0.0


@pytest.mark.parametrize("way", [called, decorated, in_a_block])
@pytest.mark.parametrize("n", [1, 2])
async def test_a_clock_that_raises_takes_no_place_of_an_adaptive_limit(way: Way, n: int) -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=1), clock=BrokenClock(n))
    with pytest.raises(RuntimeError, match="no time"):
        await way(limit)
    assert limit.snapshot().running == 0
    await way(limit)  # there is one place, and it is free


@pytest.mark.parametrize("way", [called, decorated, in_a_block])
@pytest.mark.parametrize("n", [2, 3, 4])
async def test_a_clock_that_raises_holds_up_none_of_those_who_wait(way: Way, n: int) -> None:
    """Read by the one that runs and by those who were let in after it."""
    limit = AdaptiveLimit(AIMD(initial_limit=1, max_limit=1), max_waiters=2, clock=BrokenClock(n))
    ended: list[bool] = []

    async def use() -> None:
        try:
            await way(limit)
        except RuntimeError:
            ended.append(False)
        else:
            ended.append(True)

    with anyio.fail_after(9):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use)
    assert sorted(ended) == [False, True, True]
    assert (limit.snapshot().running, limit.snapshot().waiting) == (0, 0)


@pytest.mark.parametrize("way", [called, decorated, in_a_block])
async def test_observers_may_raise_and_use_the_policy_whose_event_they_got(way: Way) -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=1, window=0), max_waiters=1, clock=anyio.current_time)
    seen: list[Any] = []

    def meddle(event: Event) -> None:
        seen.append(limit.snapshot())
        limit.call(work).close()
        raise ValueError(event)

    limit.subscribe(meddle)
    with anyio.fail_after(9):
        for _ in range(3):
            await way(limit)
    assert [snapshot.limit for snapshot in seen] == [2, 3]
    assert limit.snapshot().running == 0
