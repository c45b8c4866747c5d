"""Limits before, during and after a call that is cancelled: with room, without, and refusing."""

from math import inf
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from aiobreaker import RefusedError
from aiobreaker.core.limits import AIMD
from aiobreaker.errors import RateLimitedError
from aiobreaker.policies.adaptive_limit import AdaptiveLimit
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.rate_limit import RateLimit
from aiobreaker.policies.throttle import Throttle
from aiobreaker.policy import Policy

from .stages import CLOCK, Stage, failing, fine


class BulkheadStage(Stage):
    places = 2

    def make(self) -> Policy[Any]:
        return Bulkhead(self.places, max_waiters=5, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        """There is every place, and not one more."""
        blocks = [self.policy.guard() for _ in range(self.places)]
        for block in blocks:
            await block.__aenter__()
        assert self.policy.snapshot().running == self.places
        with pytest.raises(TimeoutError), anyio.fail_after(1):
            await self.policy.call(fine, "one more")
        for block in blocks:
            await block.__aexit__(None, None, None)


class FullBulkheadStage(BulkheadStage):
    """The victim stands in line, the first or between two others."""

    ahead = 0

    async def prepare(self, tasks: TaskGroup) -> None:
        self.blocks = [self.policy.guard() for _ in range(self.places)]
        for block in self.blocks:
            await block.__aenter__()
        for _ in range(self.ahead):
            await self.stand_in_line(tasks)

    def follow(self, tasks: TaskGroup) -> None:
        self.expected_others += 1
        tasks.start_soon(self.other, fine)

    async def stand_in_line(self, tasks: TaskGroup) -> None:
        self.follow(tasks)
        await anyio.wait_all_tasks_blocked()

    def release(self) -> None:
        for block in self.blocks:
            with pytest.raises(StopIteration):
                block.__aexit__(None, None, None).send(None)


class SecondInLineStage(FullBulkheadStage):
    ahead = 1


class AdaptiveLimitStage(BulkheadStage):
    def make(self) -> Policy[Any]:
        algorithm = AIMD(initial_limit=2, min_limit=1, max_limit=2, window=0)
        return AdaptiveLimit(algorithm, max_waiters=5, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        assert self.policy.snapshot().limit == 2
        await super().check_more(end)


class FullAdaptiveLimitStage(AdaptiveLimitStage, FullBulkheadStage):
    pass


class SecondInAdaptiveLineStage(FullAdaptiveLimitStage):
    ahead = 1


class RateLimitStage(Stage):
    """One call per 1.2 s: whoever is cancelled in line has used nothing."""

    passed = -inf

    def make(self) -> Policy[Any]:
        return RateLimit(1, per=1.2, max_wait=3.0, key=lambda key: 0, clock=CLOCK)

    async def by_block(self) -> None:
        async with self.policy.guard(0):
            await self.work.run("key")

    async def check_more(self, end: str) -> None:
        last = max([self.passed, *self.work.begun])
        expected = last + 1.2 - CLOCK()
        if expected > 0:
            with pytest.raises(RateLimitedError) as refusal, anyio.fail_after(expected / 2):
                await self.policy.call(fine, "next")
            assert refusal.value.retry_after == pytest.approx(expected, abs=1e-4)
            await anyio.sleep(expected)


class UsedUpRateLimitStage(RateLimitStage):
    async def prepare(self, tasks: TaskGroup) -> None:
        await self.policy.call(fine, "key")
        self.passed = CLOCK()


class ThrottleStage(Stage):
    def make(self) -> Policy[Any]:
        return Throttle(2.0, clock=CLOCK, random=lambda: 0.0)

    async def check_more(self, end: str) -> None:
        seen = self.policy.snapshot()
        accepted = end == "returned"
        assert (seen.requests, seen.accepts, seen.refused) == (accepted, accepted, 0)


# -- the 64th refusal in a row gives way to the event loop, before it is raised


class GivingWayStage(Stage):
    least = 2
    end = "refused"

    async def prepare(self, tasks: TaskGroup) -> None:
        await self.fill()
        for _ in range(63):
            with pytest.raises(RefusedError):
                await self.policy.call(fine, "key")

    async def fill(self) -> None:
        """Take what there is."""
        self.block = self.policy.guard()
        await self.block.__aenter__()

    async def check(self, end: str) -> None:
        assert end in {"cancelled", "refused"}
        assert self.work.begun == []
        assert self.policy.snapshot().refused == 63 + self.started
        await self.block.__aexit__(None, None, None)
        await super().check(end)


class RefusingBulkheadStage(GivingWayStage):
    def make(self) -> Policy[Any]:
        return Bulkhead(1, clock=CLOCK)


class RefusingAdaptiveLimitStage(GivingWayStage):
    def make(self) -> Policy[Any]:
        return AdaptiveLimit(AIMD(initial_limit=1, min_limit=1, max_limit=2), clock=CLOCK)


class RefusingRateLimitStage(GivingWayStage):
    def make(self) -> Policy[Any]:
        return RateLimit(1, per=20.0, clock=CLOCK)

    async def check(self, end: str) -> None:
        await anyio.sleep(20)
        await super().check(end)


class RefusingThrottleStage(GivingWayStage):
    def make(self) -> Policy[Any]:
        return Throttle(2.0, window=10, clock=CLOCK, random=lambda: 0.0)

    async def fill(self) -> None:
        self.block = self.policy.guard()
        await self.block.__aenter__()
        with pytest.raises(OSError, match="down"):
            await self.policy.call(failing, "key")

    async def check(self, end: str) -> None:
        assert self.policy.snapshot().requests == 1 + 63 + self.started
        await anyio.sleep(20)
        await super().check(end)
