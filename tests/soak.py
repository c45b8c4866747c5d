"""A soak: callers who use a pipeline of all policies at once, each in a way of its own, for many calls.

Law: callers know by themselves how each of their calls has ended. What must hold between that, the gauges of the pipeline and
the policies stands in `books.py`.
"""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import anyio
import trio

from aiobreaker import RefusedError

from .gauges import GOOD_FOR, ITEMS, STALE_FOR, THROTTLED, TTL, Gauged
from .misbehaving import Answer, Call, MistakeError


def count_tasks() -> int:
    """How many tasks there are in this event loop."""
    if isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop):
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


class Soak(Gauged):
    """The callers, and how their calls have ended."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.calls = 0
        self.ends: Counter[str] = Counter()
        self.shared_in_cache = 0
        self.samples = 0
        self._open_scopes: dict[int, anyio.CancelScope] = {}

    async def run(self, calls: int, callers: int = 60) -> None:
        """So many calls, by callers who know nothing of one another; then none is running."""
        left = iter(range(calls))
        async with anyio.create_task_group() as others:
            others.start_soon(self._sample)
            others.start_soon(self._cancel_some)
            async with anyio.create_task_group() as tasks:
                for number in range(callers):
                    tasks.start_soon(self._live, left, Random(self.random.random()), name=f"caller {number}")
            others.cancel_scope.cancel()

    async def forget(self) -> None:
        """What is remembered for a while, and how much of it that is, is chance."""
        await anyio.sleep(2 * GOOD_FOR)
        self.cache.clear()
        self.kept.clear()
        self.good.clear()
        self.judged.clear()

    async def _live(self, left: Any, random: Random) -> None:
        for _ in left:
            if random.random() < 0.9:
                await anyio.sleep(random.expovariate(4))
            self.calls += 1
            item = min(int(random.expovariate(8 / ITEMS)), ITEMS - 1)
            way = random.choice(("decorator", "call"))
            call = self.new_call(item, random.choice((1, 1, 2)), way)
            await self._make(call, random)
            self.book(call)

    def new_call(self, item: int, variant: int, way: str) -> Call:
        """A call that begins now."""
        self.tick += 1
        return Call(self.tick, item, variant, way, self.tick)

    def book(self, call: Call) -> None:
        """A call has ended; if it does not know how, its caller has cancelled it."""
        call.end = call.end or "cancelled"
        self.ends[call.end] += 1

    async def _make(self, call: Call, random: Random) -> None:
        """With patience, or without: a deadline that is known inside, one that is not, or somebody else who cancels."""
        patience = random.random()
        if patience < 0.1:
            with anyio.move_on_after(random.expovariate(5)):
                await self.ask(call)
        elif patience < 0.2:
            await self._ask_natively(call, random.expovariate(5))
        elif patience < 0.4:
            with anyio.CancelScope() as scope:
                self._open_scopes[call.number] = scope
                try:
                    await self.ask(call)
                finally:
                    del self._open_scopes[call.number]
        else:
            await self.ask(call)

    async def _ask_natively(self, call: Call, seconds: float) -> None:
        """With the event loop's own way to cancel."""
        if not isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop):
            with trio.move_on_after(seconds):
                await self.ask(call)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.ask(call)
        except TimeoutError:
            return

    async def ask(self, call: Call) -> None:
        """Make the call."""
        try:
            answer = await self.ways[call.way](call)
        except (RefusedError, OSError, MistakeError) as error:
            end = f"raised {type(error).__name__}"
        else:
            end = self._kind(call, answer)
        if call.end:
            self.complain("a call that ended twice")
        call.end = end

    def _kind(self, call: Call, answer: Answer) -> str:
        """Whose answer it is."""
        if answer.item != call.item:
            self.complain("an answer to another question")
        if answer.mirrored:
            return "mirror"
        if call.failed:
            if self.clock() - self.good[call.way, call.key] > GOOD_FOR:
                self.complain("a last good answer that is too old")
            return "last good"
        if call.behind_cache and self.kept[call.way, call.key][1] > call.began:
            return "own" if answer.maker == call.number else "shared"
        return self._kind_of_kept(call)

    def _kind_of_kept(self, call: Call) -> str:
        at, tick = self.kept[call.way, call.key]
        if tick > call.began:
            self.shared_in_cache += 1
            return "shared"
        now = self.clock()
        if now < at + TTL:  # summed as in the cache: differences are rounded otherwise
            return "fresh"
        if now >= at + TTL + STALE_FOR:
            self.complain("a stale answer that is too old")
        return "stale"

    async def _cancel_some(self) -> None:
        while True:
            await anyio.sleep(self.random.expovariate(30))
            scopes = list(self._open_scopes.values())
            if scopes:
                self.random.choice(scopes).cancel()

    async def _sample(self) -> None:
        """In the middle of it all: what the policies say of now is what there is."""
        gauges = self.gauges
        while True:
            await anyio.sleep(self.random.expovariate(20))
            self.samples += 1
            limit, bulkhead = self.adaptive_limit.snapshot(), self.bulkhead.snapshot()
            rate_limit, breaker = self.rate_limit.snapshot(), self.breaker.snapshot()
            for name, said, seen in (
                ("calls in the breaker", breaker.in_flight, gauges["adaptive_limit"].running),
                ("calls in the adaptive limit", limit.running, gauges["bulkhead"].running),
                ("calls in the bulkhead", bulkhead.running, gauges["hedge"].running),
                ("calls of the dependency", self.dependency.running, gauges["dependency"].running),
            ):
                if said != seen:
                    self.complain(f"another number of {name} than there are")
            for name, waiting, present in (
                ("rate limit", rate_limit.waiting, gauges["rate_limit"].running - gauges["breaker"].running),
                ("adaptive limit", limit.waiting, gauges["adaptive_limit"].running - gauges["bulkhead"].running),
                ("bulkhead", bulkhead.waiting, gauges["bulkhead"].running - gauges["hedge"].running),
            ):
                if waiting > present:
                    self.complain(f"more callers wait for the {name} than there are")
            self._sample_throttle()

    def _sample_throttle(self) -> None:
        """Its window: a call leaves it up to a sixtieth early."""
        now, seen = self.clock(), self.throttle.snapshot()
        surely = [accepted for at, accepted in self.judged if at > now - THROTTLED * 59 / 60]
        perhaps = [accepted for at, accepted in self.judged if at > now - THROTTLED]
        if not len(surely) <= seen.requests <= len(perhaps) or not sum(surely) <= seen.accepts <= sum(perhaps):
            self.complain("other calls in the throttle's window than were made")
