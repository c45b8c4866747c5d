"""Two million guarded calls, half of them under each event loop: every one is accounted for, and nothing is left of them.

Law: the driver counts by itself what every call was, and when it was late. What the breaker says must add up to that exactly.
"""

import gc
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import (
    Cause,
    CircuitBreaker,
    CircuitOpenError,
    Event,
    FailureRate,
    LastCalls,
    Outcome,
    SlowCallRate,
    State,
    StateChanged,
    Trials,
    TrialsForfeited,
)
from aiobreaker.testing import ManualClock

CALLS = 1_000_000  # under each event loop
WARM_UP = 100_000  # of these; what is made once is made by then
WORKERS = 20
TRIALS = Trials(5, concurrent=3, required=3)
LEASE = 30.0  # seconds; the default, for an open time below it
SPARE_BLOCKS = 300  # of memory: a leak of one per thousand calls would be 900


class DownError(Exception):
    """The dependency failed."""


class IgnoredError(Exception):
    """An error that says nothing about the dependency."""


class Script(NamedTuple):
    """One call: by which way in, how it ends, and how many turns of the loop it takes."""

    way: str
    ending: Outcome
    turns: int


def scripts(seed: int) -> list[Script]:
    """Fair weather and foul by turns, in a cycle that is no multiple of anything."""
    random = Random(seed)
    drawn = []
    for number in range(9_973):
        down = 60 if number % 2_000 > 1_700 else 2
        ending = random.choices(list(Outcome), [96 - down, down, 2, 2])[0]
        way = random.choices(["decorator", "call", "guard", "acquire"], [85, 5, 5, 5])[0]
        turns = random.choices([0, 1, 3, 40], [900, 80, 19, 1])[0]
        drawn.append(Script(way, ending, turns))
    return drawn


class Driver:
    """Makes the calls, and keeps the books."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(
            "endurance",
            trip=FailureRate(0.5, LastCalls(20)) | SlowCallRate(0.9, 5.0, LastCalls(20)),
            open_for=5.0,
            trials=TRIALS,
            ignore=IgnoredError,
            clock=self.clock,
        )
        self.breaker.subscribe(self.hear)
        self.state = State.CLOSED
        self.changes = 0
        self.causes = dict.fromkeys(Cause, 0)
        self.forfeited = 0
        self.trials: list[float] = []  # when those of this round began that still hold a slot
        self.ended = dict.fromkeys(Outcome, 0)
        self.late = 0
        self.refused = 0
        self.ways: dict[str, Callable[[Script, anyio.CancelScope], Awaitable[None]]] = {
            "decorator": self.breaker(self.work),
            "call": self.by_call,
            "guard": self.by_guard,
            "acquire": self.by_token,
        }

    def hear(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            assert event.old is self.state
            self.state = event.new
            self.changes += 1
            self.causes[event.cause] += 1
            self.trials = []
        elif isinstance(event, TrialsForfeited):
            self.forfeited += event.trials

    # -- one call

    async def work(self, script: Script, scope: anyio.CancelScope) -> None:
        era, began, trial = self.changes, self.clock.now, self.state is State.HALF_OPEN
        if trial:
            self.take_slot(began)
        self.clock.now += 0.01
        ending = Outcome.CANCELLED
        try:
            for _ in range(script.turns):
                await checkpoint()
            if script.ending is Outcome.CANCELLED:
                scope.cancel()
                await checkpoint()
            ending = script.ending
        finally:
            self.book(
                ending if script.way != "acquire" or ending is not Outcome.CANCELLED else Outcome.IGNORED, era, began, trial
            )
        if ending is Outcome.FAILURE:
            raise DownError
        if ending is Outcome.IGNORED:
            raise IgnoredError

    def take_slot(self, began: float) -> None:
        self.trials = [each for each in self.trials if began - each < LEASE]
        self.trials.append(began)
        assert len(self.trials) <= TRIALS.concurrent

    def book(self, ending: Outcome, era: int, began: float, trial: bool) -> None:
        """What the breaker will do in the next moment: between here and there nothing can happen."""
        if era != self.changes or (trial and self.clock.now - began >= LEASE):
            self.late += 1
            return
        self.ended[ending] += 1
        if trial:
            self.trials.remove(began)

    async def by_call(self, script: Script, scope: anyio.CancelScope) -> None:
        await self.breaker.call(self.work, script, scope)

    async def by_guard(self, script: Script, scope: anyio.CancelScope) -> None:
        async with self.breaker.guard():
            await self.work(script, scope)

    async def by_token(self, script: Script, scope: anyio.CancelScope) -> None:
        permit = await self.breaker.acquire()
        try:
            await self.work(script, scope)
        except DownError as error:
            permit.failure(error)
            raise
        except BaseException:
            permit.ignore()
            raise
        permit.success()

    # -- many

    async def make(self, calls: int, script: Iterator[Script]) -> None:
        """So many calls, by workers that stand in each other's way; then none is in flight."""
        async with anyio.create_task_group() as tasks:
            for _ in range(WORKERS):
                tasks.start_soon(self.live, calls // WORKERS, script)
        assert self.breaker.snapshot().in_flight == 0

    async def live(self, calls: int, script: Iterator[Script]) -> None:
        unused = anyio.CancelScope()
        for each in islice(script, calls):
            try:
                if each.ending is Outcome.CANCELLED:
                    with anyio.CancelScope() as scope:
                        await self.ways[each.way](each, scope)
                else:
                    await self.ways[each.way](each, unused)
            except CircuitOpenError:
                self.refused += 1
                self.clock.now += 0.1
            except (DownError, IgnoredError):
                continue

    def check_books(self) -> None:
        seen = self.breaker.snapshot()
        assert seen.totals == (*(self.ended[outcome] for outcome in Outcome), self.late, self.refused)
        assert (seen.state, seen.transitions, seen.in_flight, seen.waiting) == (self.state, self.changes, 0, 0)

    async def check_slots(self) -> None:
        """Every slot is there, and not one more."""
        self.breaker.half_open()
        held = [await self.breaker.acquire() for _ in range(TRIALS.concurrent)]
        with pytest.raises(CircuitOpenError):
            await self.breaker.acquire()
        for permit in held:
            permit.success()
        assert self.breaker.state is State.CLOSED
        assert self.breaker.snapshot().in_flight == 0


def memory() -> int:
    """How many blocks of memory are in use, when all is collected that can be."""
    gc.collect()
    return sys.getallocatedblocks()


async def test_a_million_calls(anyio_backend_name: str) -> None:
    driver = Driver()
    script = cycle(scripts(seed=sum(anyio_backend_name.encode())))
    await driver.make(WARM_UP, script)
    driver.breaker.reset()
    before = memory()
    await driver.make(CALLS - WARM_UP, script)
    driver.breaker.reset()
    grown = memory() - before
    driver.check_books()
    assert sum(driver.ended.values()) + driver.late + driver.refused == CALLS
    assert grown < SPARE_BLOCKS, f"{grown} more blocks of memory are in use"
    for cause in (Cause.TRIPPED, Cause.DUE, Cause.RECOVERED, Cause.TRIAL_FAILED):
        assert driver.causes[cause] > 100, driver.causes
    assert min(driver.ended.values()) > 1_000, driver.ended
    assert driver.late > 100
    assert driver.forfeited > 10
    await driver.check_slots()
