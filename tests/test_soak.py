"""200,000 calls through all policies at once, half of them under each event loop, to a dependency that misbehaves.

Law: every call ends in exactly one way, the books balance to the last call, and nothing is left of them. And it is shown that
the books find faults: each of those that are planted here comes out in the line that is about it.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import anyio
import pytest
from anyio.abc import TaskGroup

from aiobreaker.core.entries import Entry
from aiobreaker.core.rates import Rate
from aiobreaker.core.throttling import Acceptance
from aiobreaker.flights import Flights
from aiobreaker.lines import Line
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.fallback import Fallback
from aiobreaker.policies.hedge import Hedge
from aiobreaker.policies.retry import Course
from aiobreaker.policies.timeout import Timeout

from .books import KINDS, errors
from .core.strategies import THOROUGHNESS
from .misbehaving import Answer, Call, OverloadedError
from .soak import Soak, count_tasks

P = ParamSpec("P")
T = TypeVar("T")

CALLS = int(100_000 * THOROUGHNESS)  # under each event loop; far fewer do not show everything
FEW = 2_000  # in which a fault must come out
SPARE_BLOCKS = 600  # of memory: what there is by chance differs by half of that; a leak of one per fifty calls would be 1000


async def memory(soak: Soak) -> int:
    """How many blocks of memory are in use between calls, when all is forgotten and collected that can be."""
    await soak.forget()
    gc.collect()
    return sys.getallocatedblocks()


class Unhandled:
    """What asyncio says of exceptions that nobody has retrieved."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        loop: Any = anyio.lowlevel.current_token().native_token
        if isinstance(loop, asyncio.AbstractEventLoop):
            loop.set_exception_handler(lambda loop, context: self.told.append(context))


@pytest.mark.no_cover  # it would take four times as long, and everything is covered elsewhere
async def test_two_hundred_thousand_calls(anyio_backend_name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    unhandled, tasks = Unhandled(), count_tasks()
    soak = Soak(seed=sum(anyio_backend_name.encode()))
    soak.build()
    with anyio.fail_after(CALLS / 10):
        await soak.run(CALLS // 2)
        before = await memory(soak)
        await soak.run(CALLS - CALLS // 2)
        grown = await memory(soak) - before

    assert errors(soak) == []
    assert soak.ends.total() == soak.calls == CALLS
    assert grown < SPARE_BLOCKS, f"{grown} more blocks of memory are in use"
    assert count_tasks() == tasks
    assert (unhandled.told, caplog.records) == ([], [])
    if CALLS >= 50_000:
        check_that_all_has_happened(soak)


def check_that_all_has_happened(soak: Soak) -> None:
    """Otherwise the books would balance for nothing."""
    least = CALLS // 10_000
    assert {end for end in KINDS if soak.ends[end] < least} <= {"raised OverloadedError"}
    assert min(soak.ends[end] for end in ("own", "shared", "fresh", "stale", "last good", "mirror", "cancelled")) > 100 * least
    kinds = {
        *(("fallback", "FellBack"), ("cache", "StaleServed"), ("cache", "LeaderReplaced"), ("coalesce", "LeaderReplaced")),
        *(("deadline", "TimedOut"), ("retry", "Retrying"), ("retry", "GaveUp"), ("throttle", "GuardRefused")),
        *(("rate limit", "GuardRefused"), ("breaker", "StateChanged"), ("adaptive limit", "GuardRefused")),
        *(("adaptive limit", "LimitChanged"), ("bulkhead", "GuardRefused"), ("hedge", "Hedged"), ("hedge", "HedgeWon")),
        *(("timeout", "TimedOut"), ("chaos", "ChaosMade")),
    }
    assert {kind for kind in kinds if soak.events[kind] < 2 * least} == set()
    assert set(soak.events) <= kinds
    retry, totals = soak.retry.snapshot(), soak.breaker.snapshot().totals
    assert min(retry.gave_up[reason] for reason in ("attempts", "total_time", "deadline", "budget")) >= least
    assert min(retry.recovered, *totals) > 10 * least
    assert min(soak.hedge.snapshot().wins) > 10 * least
    assert soak.hedge.snapshot().unaffordable > 5 * least
    assert soak.coalesce.snapshot().shared > 100 * least
    assert soak.dependency.stubborn > 10 * least
    assert soak.samples > 100 * least
    waited = {name: soak.gauges[name].cancelled - soak.gauges[inside].cancelled for name, inside in LINES.items()}
    assert min(waited.values()) > least, waited  # callers were cancelled while they stood in line


LINES = {"rate_limit": "breaker", "adaptive_limit": "bulkhead", "bulkhead": "hedge"}


# -- faults


def lose_a_place(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    class LeakyBulkhead(Bulkhead):
        async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await super().call(fn, *args, **kwargs)
            except anyio.get_cancelled_exc_class():
                self._places.taken += 1
                raise

    soak.bulkhead = LeakyBulkhead(7)


def count_a_retry_twice(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    wait = Course.wait

    async def wait_and_count(self: Course, delay: float) -> None:
        await wait(self, delay)
        self._policy._retries += 1

    patch.setattr(Course, "wait", wait_and_count)


def leave_a_loser_running(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    class CarelessHedge(Hedge):
        async def call(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
            async def attempt() -> None:
                try:
                    await fn(*args)
                except Exception:
                    return

            tasks.start_soon(attempt)
            return await super().call(fn, *args, **kwargs)

    soak.hedge = CarelessHedge(1.0)


def hedge_past_the_budget(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    soak.hedge = Hedge(0.05, clock=anyio.current_time)


def serve_what_is_too_old(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    patch.setattr(Entry, "serves_stale", lambda self, now: True)


def pass_for_nothing(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    patch.setattr(Rate, "take", lambda self, meter, now: 0.0)


def forget_refusals(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    patch.setattr(Acceptance, "reject", Acceptance.accept)


def remember_a_waiter(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    wait = Line.wait

    async def wait_for_ever(self: Line, *args: Any) -> str | None:
        try:
            return await wait(self, *args)
        except anyio.get_cancelled_exc_class():
            self.waiting += 1
            raise

    patch.setattr(Line, "wait", wait_for_ever)


def take_cancellation_for_time_out(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    class RashTimeout(Timeout):
        async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await super().call(fn, *args, **kwargs)
            except anyio.get_cancelled_exc_class():
                raise self._expired() from None

    soak.timeout = RashTimeout(0.25)


def answer_cancellation(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    class RashFallback(Fallback[Answer]):
        async def call(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().call(fn, *args, **kwargs)
            except anyio.get_cancelled_exc_class():
                return Answer(args[-1].item, 0, mirrored=True)

    soak.fallback = RashFallback(Answer(0, 0, mirrored=True), on=OverloadedError)


def overlook_a_failure(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    soak.breaker.reconfigure(ignore=OverloadedError)


def hand_out_another_answer(soak: Soak, patch: pytest.MonkeyPatch, tasks: TaskGroup) -> None:
    soak.coalesce._key = lambda call: call.tenant


Fault = Callable[[Soak, pytest.MonkeyPatch, TaskGroup], None]

FAULTS: dict[Fault, str] = {
    lose_a_place: "bulkhead: running",
    count_a_retry_twice: "retry: retries",
    leave_a_loser_running: "an attempt of a hedge runs when its call has ended",
    hedge_past_the_budget: "budget: granted",
    serve_what_is_too_old: "a stale answer that is too old",
    pass_for_nothing: "more calls passed the rate limit than it allows",
    forget_refusals: "other calls in the throttle's window than were made",
    remember_a_waiter: "rate_limit: waiting",
    take_cancellation_for_time_out: "an error of the timeout before its time",
    answer_cancellation: "fallback: answered",
    overlook_a_failure: "breaker: totals",
    hand_out_another_answer: "an answer to another question",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_books_find_a_fault(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await found(fault, monkeypatch)


async def found(fault: Fault, patch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the books that a fault comes out in, among them the one that is about it."""
    soak = Soak(seed=1)
    async with anyio.create_task_group() as tasks:
        fault(soak, patch, tasks)
        soak.build()
        with anyio.fail_after(1_000):
            await soak.run(FEW)
    return [error for error in errors(soak) if error.startswith(FAULTS[fault])]


async def test_without_a_fault_so_few_calls_balance_too() -> None:
    soak = Soak(seed=1)
    soak.build()
    await soak.run(FEW)
    assert errors(soak) == []


async def test_a_caller_who_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flights, "end", lambda self, key, flight, result: self.running.pop(key))
    soak = Soak(seed=1)
    soak.build()
    with pytest.raises(TimeoutError), anyio.fail_after(100):
        await soak.run(FEW)


async def test_what_is_kept_of_every_call_is_found() -> None:
    soak = Soak(seed=1)
    soak.build()
    await soak.run(FEW)
    kept: list[Call] = []
    soak.gauges["fallback"].enter = kept.append
    before = await memory(soak)
    await soak.run(FEW // 2)
    assert await memory(soak) - before > SPARE_BLOCKS
