"""Plays a plan on a real breaker, in a real event loop, beside the model; after every step they must be the same.

Law: calls go in by the public ways in and run as tasks of their own. Time is a number that moves by hand.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from aiobreaker import (
    CallFinished,
    CallRefused,
    CircuitBreaker,
    CircuitOpenError,
    Event,
    FailureRate,
    FailureSummary,
    Outcome,
    Reconfigured,
    SlowCallRate,
    State,
    StateChanged,
    TrialsForfeited,
    WouldOpen,
)
from aiobreaker.core.conditions import any_of
from aiobreaker.core.tallies import Reading
from aiobreaker.core.transitions import Forfeit, Transition
from aiobreaker.settings import Shape
from aiobreaker.testing import ManualClock

from . import plans, virtual
from .core import records
from .core.circuit_model import CircuitModel
from .plans import KINDS, LONGEST_HINT, AbortedError, DownError, Ending, IgnoredError, Plan, Reply

DRAW = 0.75
FLOWING = (State.CLOSED, State.METRICS_ONLY, State.DISABLED)


@dataclass(eq=False)
class Flight:
    """A call in a task of its own."""

    way: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    told: anyio.Event = field(default_factory=anyio.Event)
    landed: anyio.Event = field(default_factory=anyio.Event)
    end: Reply | BaseException | None = None
    ran: int = 0
    refusal: CircuitOpenError | None = None
    call: records.Call | None = None

    async def work(self, task_status: TaskStatus[None]) -> Reply:
        self.ran += 1
        task_status.started()
        await self.told.wait()
        if isinstance(self.end, Reply):
            return self.end
        assert self.end is not None
        raise self.end


_Isolation = AbstractAsyncContextManager[None]
Guarded = Callable[[Callable[[], Awaitable[Reply]]], Awaitable[Reply]]


def ways_in(breaker: CircuitBreaker) -> dict[str, Guarded]:
    async def run(work: Callable[[], Awaitable[Reply]]) -> Reply:
        return await work()

    async def guard(work: Callable[[], Awaitable[Reply]]) -> Reply:
        async with breaker.guard():
            return await work()

    async def checked_guard(work: Callable[[], Awaitable[Reply]]) -> Reply:
        async with breaker.guard() as call:
            return call.check(await work())

    async def acquire(work: Callable[[], Awaitable[Reply]]) -> Reply:
        permit = await breaker.acquire()
        try:
            reply = await work()
        except DownError as error:
            permit.failure(error)
            raise
        except BaseException:
            permit.ignore()
            raise
        return permit.check(reply)

    return {
        "decorator": breaker(run),
        "new decorator": lambda work: breaker(run)(work),
        "call": breaker.call,
        "guard": guard,
        "checked guard": checked_guard,
        "acquire": acquire,
    }


class Beside:
    """A breaker and the model."""

    def __init__(self, plan: Plan, tasks: TaskGroup) -> None:
        self.plan = plan
        self.clock = ManualClock()
        self.model = CircuitModel(plan.rules, 0.0, DRAW)
        self.breaker = CircuitBreaker(
            "beside",
            **self._changes(plan.rules),
            failure_on=DownError,
            ignore=IgnoredError,
            failure_if=(lambda reply: reply.bad) if plan.judged else None,
            retry_after=(lambda subject: subject.hint) if plan.judged else None,
            max_retry_after=LONGEST_HINT,
            clock=self.clock,
            random=lambda: DRAW,
        )
        self.door = self.breaker._gate.circuit.door
        self.shape = self.breaker._gate.settings.shape
        self.ways = ways_in(self.breaker)
        self.tasks = tasks
        self.flights: list[Flight] = []
        self.holds: list[tuple[_Isolation, records.Hold]] = []
        self.last_failure: FailureSummary | None = None
        self.events: list[Event] = []
        self.watched: list[Event] = []
        self.watched_from = 0
        self.unwatch: Callable[[], None] | None = None
        if plan.observed:
            self.breaker.subscribe(self.events.append)

    @staticmethod
    def _changes(rules: Any) -> Any:
        return {"trip": any_of(*rules.conditions), "open_for": rules.schedule, "jitter": rules.jitter, "trials": rules.trials}

    # -- the steps

    async def take(self, step: plans.Step) -> None:
        """Do the same to both."""
        match step:
            case plans.Start(way):
                await self.start(way)
            case plans.End(which, ending) if self.flights:
                await self.end(self.flights[which % len(self.flights)], ending)
            case plans.Cancel(which) if self.flights:
                await self.cancel(self.flights[which % len(self.flights)])
            case plans.AtOnce(way, ending):
                flight = await self.start(way)
                if flight.call is not None:
                    await self.end(flight, ending)
            case plans.Wait(seconds):
                self.clock.advance(seconds)
            case plans.WaitUntilDue(more):
                self.clock.advance(max(0.0, (self.model.retry_after(self.clock()) or 0.0) + more))
            case plans.Order(state, seconds):
                self.order(state, seconds)
            case plans.Isolate():
                isolation: _Isolation = self.breaker.isolated()
                await isolation.__aenter__()
                self.holds.append((isolation, self.model.hold(self.clock())))
            case plans.Release(which) if self.holds:
                isolation, hold = self.holds.pop(which % len(self.holds))
                await isolation.__aexit__(None, None, None)
                self.model.release(hold, self.clock())
            case plans.Reconfigure(rules):
                self.breaker.reconfigure(**self._changes(rules))
                self.model.reconfigure(rules, self.clock())
            case plans.Watch():
                self.watch()

    async def start(self, way: str) -> Flight:
        flight = Flight(way)
        timed = self._reads_the_clock(way)
        expected = self.model.start(self.clock(), timed=timed)
        await self.tasks.start(self._fly, flight)
        if isinstance(expected, records.Refused):
            assert flight.refusal is not None, "it was not refused"
            assert flight.ran == 0, "a refused call has run"
            self._check_refusal(flight.refusal, expected)
        else:
            assert flight.refusal is None, flight.refusal
            assert flight.ran == 1, "an admitted call has not run"
            flight.call = expected
            self.flights.append(flight)
        return flight

    def _reads_the_clock(self, way: str) -> bool:
        """The plainest decorators do not, where they need not ask."""
        gate = self.breaker._gate
        shape = self.shape if way == "decorator" else gate.settings.shape
        asks = self.model.state not in FLOWING or (self.unwatch is not None and self.model.state is not State.DISABLED)
        outdated = way == "decorator" and gate.circuit.door is not self.door
        return asks or outdated or "decorator" not in way or shape not in (Shape.PLAIN, Shape.TIMED)

    def _check_refusal(self, refusal: CircuitOpenError, expected: records.Refused) -> None:
        assert (refusal.name, refusal.state, refusal.retry_after) == ("beside", expected.state, expected.retry_after)
        assert refusal.last_failure == self.last_failure
        assert refusal.reason

    async def _fly(self, flight: Flight, *, task_status: TaskStatus[None]) -> None:
        try:
            with flight.scope:
                got = await self.ways[flight.way](partial(flight.work, task_status))
                assert got is flight.end
        except CircuitOpenError as refusal:
            flight.refusal = refusal
            task_status.started()
        except (Exception, AbortedError) as error:
            if error is not flight.end:
                raise
        finally:
            flight.landed.set()

    async def end(self, flight: Flight, ending: Ending) -> None:
        flight.end = ending.make()
        self._finish(flight, *self._meaning(flight.way, ending))
        flight.told.set()
        await flight.landed.wait()

    def _meaning(self, way: str, ending: Ending) -> tuple[Outcome, float | None]:
        """The outcome and the hint that count."""
        reply = ending.kind in ("reply", "bad reply")
        outcome = KINDS[ending.kind]
        if ending.kind == "bad reply" and (not self.plan.judged or way == "guard"):
            outcome = Outcome.SUCCESS
        if way == "acquire" and not reply and ending.kind != "down":
            outcome = Outcome.IGNORED
        deaf = not self.plan.judged or ending.kind == "aborted" or (way == "guard" if reply else way == "acquire")
        return outcome, None if deaf or not ending.hint else min(ending.hint, LONGEST_HINT)

    async def cancel(self, flight: Flight) -> None:
        self._finish(flight, Outcome.IGNORED if flight.way == "acquire" else Outcome.CANCELLED, None)
        flight.scope.cancel()
        await flight.landed.wait()
        assert flight.scope.cancelled_caught

    def _finish(self, flight: Flight, outcome: Outcome, hint: float | None) -> None:
        assert flight.call is not None
        self.flights.remove(flight)
        self.model.finish(flight.call, outcome, self.clock(), hint)
        if outcome is Outcome.FAILURE:
            self.last_failure = FailureSummary.of(flight.end, self.clock())

    def order(self, state: State, seconds: float | None) -> None:
        breaker, model, now = self.breaker, self.model, self.clock()
        if state is State.OPEN:
            breaker.open(seconds)
            model.open_by_hand(now, seconds)
        elif state is State.HALF_OPEN:
            breaker.half_open()
            model.half_open_by_hand(now)
        else:
            orders: dict[State, Callable[[], None]] = {
                State.CLOSED: breaker.reset,
                State.FORCED_OPEN: breaker.force_open,
                State.DISABLED: breaker.disable,
                State.METRICS_ONLY: breaker.metrics_only,
            }
            orders[state]()
            model.put(state, now)

    def watch(self) -> None:
        if self.unwatch is None:
            self.watched, self.watched_from = [], len(self.model.log)
            self.unwatch = self.breaker.subscribe(self.watched.append, calls=True)
        else:
            self.unwatch()
            self.unwatch = None

    # -- the comparison

    def same(self) -> None:
        """Same state, same counts, same events."""
        seen, model, now = self.breaker.snapshot(), self.model, self.clock()
        assert (seen.name, seen.at, seen.waiting) == ("beside", now, 0)
        assert (seen.state, seen.since) == (model.state, model.since)
        assert self.breaker.state is model.state
        assert seen.retry_after == model.retry_after(now)
        assert seen.in_flight == len(model.running) == len(self.flights)
        assert seen.totals == model.totals
        assert seen.readings == model.readings(now)
        assert (seen.failure_rate, seen.slow_rate) == (_rate(seen.readings, FailureRate), _rate(seen.readings, SlowCallRate))
        assert (seen.calls, seen.failures, seen.refused) == (model.calls, model.failures, model.refused)
        assert seen.transitions == len(model.transitions)
        assert seen.moves == Counter((entry.old, entry.new) for entry in model.transitions)
        assert seen.refusals == Counter(entry.state for entry in model.log if isinstance(entry, records.Refused))
        assert seen.last_failure == self.last_failure
        if self.plan.observed:
            assert [_bare(event) for event in self.events] == [_told(entry) for entry in model.log if not _is_of_a_call(entry)]
        if self.unwatch is not None:
            self._check_watched()

    def _check_watched(self) -> None:
        assert all(two.seq == one.seq + 1 for one, two in pairwise(self.watched))
        told = [_bare(event) for event in self.watched]
        for entry in self.model.log[self.watched_from :]:
            if isinstance(entry, records.Ended) and entry.era in self.model.disabled_eras:
                continue
            assert told[:1] == [_told(entry)]
            del told[0]
        assert not told


def _is_of_a_call(entry: records.Entry) -> bool:
    return isinstance(entry, records.Ended | records.Refused)


def _told(entry: records.Entry) -> records.Entry:
    """What an observer can know of it."""
    return entry._replace(era=0) if isinstance(entry, records.Ended | records.Refused) else entry


def _rate(readings: tuple[Reading, ...], kind: type) -> float | None:
    rates = [
        reading.count / reading.calls if reading.calls else None for reading in readings if isinstance(reading.condition, kind)
    ]
    return rates[0] if rates else None


def _bare(event: Event) -> object:
    """An event in the words of the model, without its reason."""
    match event:
        case StateChanged():
            told = (event.old, event.new, event.cause, "", event.at, event.readings, event.open_for, event.attempt)
            return Transition(*told)
        case WouldOpen():
            told_so = (event.cause, "", event.at, event.readings, event.open_for)
            return Transition(State.CLOSED, State.OPEN, *told_so, shadow=True)
        case TrialsForfeited():
            return Forfeit(event.trials, event.at)
        case CallRefused():
            return records.Refused(event.state, event.retry_after, 0, event.at)
        case CallFinished():
            return records.Ended(event.outcome, event.elapsed, event.slow, event.trial, event.late, 0, event.at)
        case Reconfigured():
            return records.Reconfigured(event.at)
    raise AssertionError(event)


async def _play(plan: Plan) -> None:
    with anyio.fail_after(1e6):  # in virtual time: at once, when every task waits for another
        async with anyio.create_task_group() as tasks:
            beside = Beside(plan, tasks)
            if plan.observed:
                async with beside.breaker.events(buffer=10_000) as stream:
                    await _take_all(beside, plan)
                    assert [await anext(stream) for _ in beside.events] == beside.events
            else:
                await _take_all(beside, plan)


async def _take_all(beside: Beside, plan: Plan) -> None:
    beside.same()
    for step in plan.steps:
        await beside.take(step)
        beside.same()
    while beside.flights:
        await beside.cancel(beside.flights[-1])
        beside.same()
    while beside.holds:
        await beside.take(plans.Release(0))
        beside.same()


def play(plan: Plan, backend: str) -> None:
    """The whole plan, in an event loop of its own. What is wrong comes out as one AssertionError."""
    try:
        virtual.run(backend, _play, plan)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
