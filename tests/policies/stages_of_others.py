"""The other policies before, during and after a call that is cancelled, and all of them around one call."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from aiobreaker import LastGood
from aiobreaker.budget import RetryBudget
from aiobreaker.core.quantiles import Quantile
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce
from aiobreaker.policies.deadline import Deadline
from aiobreaker.policies.fallback import Fallback
from aiobreaker.policies.hedge import Hedge
from aiobreaker.policies.retry import Retry
from aiobreaker.policies.timeout import Timeout
from aiobreaker.policy import Policy
from aiobreaker.testing import Chaos

from ..books import errors
from ..misbehaving import Call, Misbehaving
from ..soak import Soak
from .stages import CLOCK, Stage, Work


class RetryStage(Stage):
    script = ("fails", "answers")

    def make(self) -> Retry:
        self.budget = RetryBudget(1.0, clock=CLOCK)
        return Retry(OSError, attempts=2, backoff=0.7, budget=self.budget, clock=CLOCK)

    async def by_block(self) -> None:
        async for attempt in self.policy:
            with attempt:
                await self.work.run("key")

    async def check_more(self, end: str) -> None:
        seen, budget = self.policy.snapshot(), self.budget.snapshot()
        assert seen.calls == bool(self.work.begun)
        assert seen.retries == max(0, len(self.work.begun) - 1)
        assert 0 <= budget.granted - seen.retries <= (end == "cancelled")
        assert (seen.recovered, sum(seen.gave_up.values())) == (end == "returned", 0)
        again = Work("fails")
        with pytest.raises(OSError, match="down"):
            await self.policy.call(again.run, "key")
        assert len(again.begun) == 2


class TimeoutStage(Stage):
    kind: type[Timeout | Deadline] = Timeout
    seconds = 5.0

    def make(self) -> Timeout | Deadline:
        return self.kind(self.seconds, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        assert self.policy.snapshot().timed_out == (end == "timed out")


class LateTimeoutStage(TimeoutStage):
    script = ("hangs",)
    seconds = 1.6
    least = 30
    end = "timed out"


class DeadlineStage(TimeoutStage):
    kind = Deadline


class LateDeadlineStage(LateTimeoutStage):
    kind = Deadline


# -- hedge, fallback, cache, coalesce, chaos


class HedgeStage(Stage):
    """The first hangs until it is answered, and so does the second, which comes after 0.7 s."""

    has_block = False

    next_on: tuple[type[Exception], ...] = ()

    def make(self) -> Policy[Any]:
        self.budget = RetryBudget(1.0, clock=CLOCK)
        delay = Quantile(0.5, initial=0.7)
        return Hedge(delay, attempts=3, budget=self.budget, next_on=self.next_on, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        seen = self.policy.snapshot()
        assert seen.calls == (1 if self.work.begun else 0)
        extra = max(0, len(self.work.begun) - 1)
        assert self.budget.snapshot().granted == extra
        assert seen.hedged == (extra > 0)
        assert sum(seen.wins) == (end == "returned" and extra > 0)


class SecondWinsStage(HedgeStage):
    script = ("hangs", "answers", "hangs")


class CleaningUpStage(HedgeStage):
    """Attempts that take some steps to end when they are cancelled."""

    script = ("cleans up", "answers", "cleans up")


class NextAtOnceStage(HedgeStage):
    script = ("fails", "fails", "answers")
    next_on = (OSError,)


class FallbackStage(Stage):
    """The call fails; the second source takes until the answer comes."""

    has_block = False

    script = ("fails",)

    def make(self) -> Policy[Any]:
        self.mirror = Work("answers")
        self.mirror.answer = self.work.answer

        async def mirror(error: Exception, key: str) -> str:
            return await self.mirror.run(key)

        return Fallback(LastGood(), mirror, on=OSError, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        seen = self.policy.snapshot()
        assert self.mirror.ended == len(self.mirror.begun)
        assert (seen.answered, seen.unanswered, seen.remembered) == ((0, end == "returned"), 0, 0)


class CoalesceStage(Stage):
    """The victim leads, and others follow: if it is cancelled, the first of them makes the call again."""

    leads = True

    has_block = False

    def make(self) -> Policy[Any]:
        return Coalesce(clock=CLOCK)

    def follow(self, tasks: TaskGroup) -> None:
        self.expected_others += 2
        tasks.start_soon(self.other, self.work.run)
        tasks.start_soon(self.other, self.work.run)

    async def check_more(self, end: str) -> None:
        assert len(self.work.begun) - 1 in ((0, 1) if end == "cancelled" and self.leads else (0,))
        self.check_shared(end)
        again = Work("returns")
        assert await self.policy.call(again.run, "key") == "key"
        assert len(again.begun) == 1

    def check_shared(self, end: str) -> None:
        served = len(self.others) + (end == "returned")
        assert self.policy.snapshot().shared == served - self.work.returned


class FollowerStage(CoalesceStage):
    """The victim follows, and has others before and behind it."""

    leads = False

    async def prepare(self, tasks: TaskGroup) -> None:
        super().follow(tasks)
        await anyio.wait_all_tasks_blocked()


class CacheStage(CoalesceStage):
    def make(self) -> Policy[Any]:
        return Cache(100.0, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        kept, begun = self.policy.snapshot().size, len(self.work.begun)
        assert kept == bool(self.work.returned)
        assert await self.policy.call(self.work.run, "key") == "key"
        assert len(self.work.begun) == begun + 1 - kept
        await super().check_more(end)

    def check_shared(self, end: str) -> None:
        assert self.policy.snapshot().failed == 0


class CacheFollowerStage(CacheStage, FollowerStage):
    pass


class LonelyCacheStage(CacheStage):
    """Nobody follows, so that nothing is kept of a call that was cancelled."""

    def follow(self, tasks: TaskGroup) -> None:
        pass

    async def check_more(self, end: str) -> None:
        assert self.policy.snapshot().size == (end == "returned")
        assert len(self.work.begun) == self.started


class StaleStage(Stage):
    """There is an old result, and the call for a new one fails."""

    has_block = False

    script = ("returns", "fails")
    least = 2

    def make(self) -> Policy[Any]:
        return Cache(1.0, stale_for=100.0, clock=CLOCK)

    async def prepare(self, tasks: TaskGroup) -> None:
        await self.policy.call(self.work.run, "key")
        await anyio.sleep(2)

    async def check_more(self, end: str) -> None:
        seen = self.policy.snapshot()
        assert (seen.hits, seen.size, seen.stale) == (0, 1, end == "returned")
        assert await self.policy.call(self.work.run, "key") == "key"
        assert self.policy.snapshot().stale == seen.stale + 1


class ChaosStage(Stage):
    has_block = False

    def make(self) -> Policy[Any]:
        return Chaos(latency=0.7, clock=CLOCK)

    async def check_more(self, end: str) -> None:
        assert self.policy.snapshot().failed == self.policy.snapshot().hung == 0


# -- all of them


class Scripted(Misbehaving):
    """The dependency of a soak, that does what the script says."""

    def __init__(self, work: Work) -> None:
        super().__init__(seed=1)
        self._work = work

    def _phase(self) -> Callable[[Call], Awaitable[object]]:
        return lambda call: self._work.run("key")


class PipelineStage(Stage):
    """All of them: the first attempt fails, so that there is a retry; the next one hangs, so that there are hedges.

    Others ask the same, and others something else. The books are those of the soak.
    """

    script = ("fails", "cleans up", "answers")
    has_block = False
    tick = 0.02
    least = 30

    def make(self) -> Policy[Any]:
        self.soak = soak = Soak(seed=1)
        soak.dependency = Scripted(self.work)
        soak.chaos = Chaos(latency=0.005, clock=CLOCK)
        soak.hedge = Hedge(0.03, attempts=3, budget=soak.budget, clock=CLOCK)
        soak.build()
        self.victim = soak.new_call(0, 1, "call")
        return soak.pipeline

    async def by_decorator(self) -> None:
        self.victim.way = "decorator"
        await self.by_call()

    async def by_call(self) -> None:
        self.soak.calls += 1
        await self.soak.ask(self.victim)

    def follow(self, tasks: TaskGroup) -> None:
        self.followers = [self.soak.new_call(item, 1, self.victim.way) for item in (0, 0, 1, 2)]
        for call in self.followers:
            tasks.start_soon(self.ask, call)

    async def ask(self, call: Call) -> None:
        self.soak.calls += 1
        await self.soak.ask(call)
        self.soak.book(call)

    async def check(self, end: str) -> None:
        if self.started:
            self.soak.book(self.victim)
        assert (self.victim.end == "cancelled") is (end == "cancelled" and self.started)
        assert {call.end for call in self.followers} <= {"own", "shared", "fresh"}
        await self.ask(self.soak.new_call(3, 1, "call"))
        assert errors(self.soak) == []
