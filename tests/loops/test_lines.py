"""Bulkheads, rate limits and the lines before them, shared by several event loops and threads, dead ones too."""

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import Any

import anyio
import pytest

from aiobreaker.errors import BulkheadFullError, RateLimitedError
from aiobreaker.lines import Line
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.rate_limit import RateLimit
from aiobreaker.testing import ManualClock

from .. import virtual
from .stage import LONG, Room, fine, in_loops, in_threads

pytestmark = pytest.mark.usefixtures("hasty_threads")

Work = Callable[[], Coroutine[Any, Any, Any]]


async def decorated(policy: Bulkhead | RateLimit, work: Work, times: int) -> None:
    async def function() -> None:
        await work()

    guarded = policy(function)
    for _ in range(times):
        with suppress(BulkheadFullError, RateLimitedError):
            await guarded()


async def called(policy: Bulkhead | RateLimit, work: Work, times: int) -> None:
    for _ in range(times):
        with suppress(BulkheadFullError, RateLimitedError):
            await policy.call(work)


async def in_blocks(policy: Bulkhead | RateLimit, work: Work, times: int) -> None:
    for _ in range(times):
        with suppress(BulkheadFullError, RateLimitedError):
            async with policy.guard():
                await work()


every_way = pytest.mark.parametrize("way", [decorated, called, in_blocks])


async def several(number: int, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with anyio.fail_after(6 * LONG):
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(main)


# -- exact over all threads


async def at_once() -> None:
    """The shortest of functions: the guards of several threads run into each other all the time."""


@every_way
@pytest.mark.parametrize("work", [at_once, fine])
def test_no_place_of_a_bulkhead_is_lost_or_made(way: Callable[..., Coroutine[Any, Any, None]], work: Work) -> None:
    bulkhead = Bulkhead(3, max_waiters=2)
    in_threads(*in_loops(*[partial(several, 2, partial(way, bulkhead, work, 500))] * 4))
    seen = bulkhead.snapshot()
    assert (seen.running, seen.waiting) == (0, 0)


@every_way
@pytest.mark.parametrize("max_waiters", [0, 3, 100])
def test_never_are_more_inside_than_allowed(way: Callable[..., Coroutine[Any, Any, None]], max_waiters: int) -> None:
    bulkhead = Bulkhead(2, max_waiters=max_waiters)
    room = Room()

    async def caller() -> None:
        for number in range(60):
            with anyio.CancelScope() as scope:
                if not number % 3:
                    cancel_soon(scope)
                await way(bulkhead, room.visit, 1)

    in_threads(*in_loops(*[partial(several, 3, caller)] * 4))
    seen = bulkhead.snapshot()
    assert (seen.running, seen.waiting) == (0, 0)
    assert room.visits
    assert room.most <= 2
    if max_waiters:
        assert room.most == 2
    if max_waiters == 100:
        assert seen.refused == 0


def cancel_soon(scope: anyio.CancelScope) -> None:
    """Cancel it at its first or second await."""
    scope.deadline = anyio.current_time()


@every_way
@pytest.mark.parametrize("keyed", [False, True])
def test_a_rate_holds_over_all_threads(way: Callable[..., Coroutine[Any, Any, None]], keyed: bool) -> None:
    key = (lambda: "a") if keyed and way is not in_blocks else None
    limit = RateLimit(1_000, key=key, clock=ManualClock())
    passed: list[None] = []

    async def work() -> None:
        passed.append(None)

    in_threads(*in_loops(*[partial(way, limit, work, 500)] * 4))
    assert len(passed) == 1_000
    assert limit.snapshot().refused == 1_000


def test_every_key_has_one_meter_whichever_thread_asks_first_and_whatever_is_dropped() -> None:
    clock = ManualClock()
    limit = RateLimit(10, key=lambda key: key, clock=clock)
    passed: list[int] = []

    async def work(key: int) -> None:
        passed.append(key)

    guarded = limit(work)
    together = threading.Barrier(4, action=lambda: clock.advance(100))  # all that was used is over

    async def caller() -> None:
        for turn in range(40):
            together.wait(LONG)
            for _ in range(5):
                for key in range(5):
                    with suppress(RateLimitedError):
                        await guarded(100 * (turn % 2) + key)

    in_threads(*in_loops(*[caller] * 4))
    assert sorted(passed) == sorted([100 * (turn % 2) + key for turn in range(40) for key in range(5) for _ in range(10)])


def test_only_so_many_wait_over_all_threads() -> None:
    line = Line(3)
    most = 0
    room = Room()

    async def caller() -> None:
        nonlocal most
        for _ in range(100):
            with anyio.move_on_after(0.0001):
                await line.wait(lambda: inf, inf)
            await room.visit()

    def watch() -> None:
        nonlocal most
        while room.visits < 8 * 100:
            most = max(most, line.waiting)

    in_threads(watch, *in_loops(*[partial(several, 2, caller)] * 4))
    assert 0 < most <= 3
    assert (line.waiting, line._queues) == (0, {})


# -- every waiter gets its turn


@pytest.mark.parametrize("places", [1, 3])
def test_everybody_gets_in_however_fast_places_change_hands(places: int) -> None:
    bulkhead = Bulkhead(places, max_waiters=1_000)
    room = Room()
    in_threads(*in_loops(*[partial(several, 5, partial(called, bulkhead, room.visit, 30))] * 4))
    assert (room.visits, room.most) == (600, places)
    assert bulkhead.snapshot().refused == bulkhead.snapshot().waiting == 0


def test_everybody_passes_a_rate_limit_in_turn() -> None:
    limit = RateLimit(20_000, burst=1, max_wait=inf)
    room = Room()
    in_threads(*in_loops(*[partial(several, 5, partial(called, limit, room.visit, 10))] * 3))
    assert room.visits == 150
    assert limit.snapshot().refused == limit.snapshot().waiting == 0


class Crowd:
    """A line before nothing yet; and who was let in, by loop."""

    def __init__(self) -> None:
        self.line = Line(100)
        self.room: list[None] = []
        self.asked = 0
        self.entered: list[str] = []
        self.blocked, self.unblocked = threading.Event(), threading.Event()

    def ask(self) -> float:
        self.asked += 1
        try:
            self.room.pop()
        except IndexError:
            return inf
        return 0.0

    async def visit(self, name: str) -> None:
        with anyio.fail_after(LONG):
            assert await self.line.wait(self.ask, inf) is None
        self.entered.append(name)

    async def visit_and_block(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.visit, "blocked")
            await anyio.wait_all_tasks_blocked()
            self.blocked.set()
            self.unblocked.wait(LONG)

    def line_up(self, name: str) -> threading.Thread:
        """Come in another thread; and go on here when the head has asked: after that it looks when it is called."""
        asked = self.asked
        thread = threading.Thread(target=anyio.run, args=(self.visit, name))
        thread.start()
        while self.asked == asked:
            pass
        return thread

    def open_places(self, number: int) -> None:
        self.room += [None] * number
        self.line.move()


def test_of_several_loops_the_one_that_came_first_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiobreaker.lines._COURTESY", LONG)  # so that no loop of a busy machine is ever late
    for _ in range(20):
        crowd = Crowd()
        threads = [crowd.line_up(name) for name in ("first", "second", "third", "fourth")]
        crowd.open_places(1)
        while not crowd.entered:
            pass
        crowd.open_places(3)
        for thread in threads:
            thread.join(LONG)
        assert crowd.entered[0] == "first"
        assert sorted(crowd.entered[1:]) == ["fourth", "second", "third"]


def test_a_loop_that_does_not_come_when_its_turn_has_come_is_passed_over() -> None:
    crowd = Crowd()
    first = threading.Thread(target=anyio.run, args=(crowd.visit_and_block,))
    first.start()
    crowd.blocked.wait(LONG)
    for name in ("second", "third"):
        thread = crowd.line_up(name)
        crowd.open_places(1)
        thread.join(LONG)
    assert crowd.entered == ["second", "third"]
    crowd.unblocked.set()
    crowd.open_places(1)
    first.join(LONG)
    assert crowd.entered[2:] == ["blocked"]


# -- loops that died


@contextmanager
def a_loop_with_tasks(*mains: Callable[[], Coroutine[Any, Any, Any]]) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that was stopped while its tasks hung."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(main()) for main in mains]
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    try:
        yield loop
    finally:
        if not loop.is_closed():
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()


async def hang(bulkhead: Bulkhead) -> None:
    async with bulkhead.guard():
        await anyio.sleep_forever()


def test_waiters_of_a_loop_that_was_stopped_take_no_place_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiobreaker.lines._COURTESY", 1000)
    bulkhead = Bulkhead(1, max_waiters=2)
    entered: list[str] = []

    async def visit(name: str) -> None:
        async with bulkhead.guard():
            entered.append(name)

    async def be_among_them() -> None:
        assert bulkhead.snapshot().waiting == 2
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit, "one")
            tasks.start_soon(visit, "two")
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BulkheadFullError):
                await visit("three")
            await hold.__aexit__(None, None, None)
        with anyio.fail_after(1):
            await visit("newcomer")

    hold = bulkhead.guard()
    anyio.run(hold.__aenter__)
    with a_loop_with_tasks(partial(visit, "left"), partial(visit, "left")) as loop:
        virtual.run("asyncio", be_among_them)
        assert entered == ["one", "two", "newcomer"]
        for _ in range(10):
            loop.run_until_complete(asyncio.sleep(0))  # it goes on, and they are still there
        assert entered[3:] == ["left"] * 2
    assert bulkhead.snapshot().running == bulkhead.snapshot().waiting == 0


def test_waiters_of_a_loop_that_was_closed_are_forgotten_and_its_callers_once_collected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="asyncio")  # it complains, rightly
    bulkhead = Bulkhead(1, max_waiters=1)
    waiter = hang(bulkhead)  # anyio keeps tasks for ever that hang in a scope
    with a_loop_with_tasks(partial(hang, bulkhead), lambda: waiter) as loop:
        assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (1, 1)
        loop.close()

        async def wait_in_their_place() -> None:
            with anyio.move_on_after(1):
                await hang(bulkhead)

        virtual.run("asyncio", wait_in_their_place)
        assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting, bulkhead.snapshot().refused) == (1, 0, 0)
    del loop
    with suppress(RuntimeError):  # a scope does not like to be left so
        waiter.close()
    gc.collect()
    assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (0, 0)
    assert anyio.run(bulkhead.call, fine, backend="trio") == "fine"
    assert bulkhead._line._queues == {}


def test_a_dead_loop_does_not_make_the_wait_at_a_rate_limit_longer() -> None:
    clock = ManualClock()
    limit = RateLimit(1, max_wait=2, clock=clock)

    async def come() -> None:
        with pytest.raises(RateLimitedError, match=r"there was no room within 2 s; retry after 1 s"):
            await limit.call(fine)
        clock.advance(1)
        assert await limit.call(fine) == "fine"

    anyio.run(limit.call, fine)
    with a_loop_with_tasks(*[partial(limit.call, fine)] * 2):
        assert limit.snapshot().waiting == 2
        virtual.run("asyncio", come)
    assert limit.snapshot().waiting == 0


# -- after a fork


def test_what_waits_and_runs_in_the_parent_is_not_counted_in_the_child_even_when_it_ends_there() -> None:
    bulkhead = Bulkhead(1, max_waiters=1)

    async def become_a_child() -> None:
        async with anyio.create_task_group() as tasks, bulkhead.guard():
            tasks.start_soon(hang, bulkhead)
            await anyio.wait_all_tasks_blocked()
            assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (1, 1)
            bulkhead._line._begin_as_child()
            bulkhead._begin_as_child()
            assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (0, 0)
            tasks.cancel_scope.cancel()
        assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (0, 0)
        assert await bulkhead.call(fine) == "fine"

    for backend in ("asyncio", "trio"):
        anyio.run(become_a_child, backend=backend)


FORKING = """
import asyncio, os, signal, sys, threading
import anyio, trio
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.rate_limit import RateLimit

bulkhead = Bulkhead(2, max_waiters=2)
limit = RateLimit(1, max_wait=1000, max_waiters=2, clock=lambda: 0.0)
over = threading.Event()

async def fine():
    return "fine"

async def hang():
    while not over.is_set():
        await anyio.sleep(0.001)

def fork(body):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.alarm(4)  # ends a child that hangs
    try:
        body()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)

def touched(*args):
    raise AssertionError("the child has called into a loop of its parent")

async def crowd():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bulkhead.call, hang)
        tasks.start_soon(hang_in_line)
        await hang()
        tasks.cancel_scope.cancel()

async def hang_in_line():
    await limit.call(fine)  # its clock stands still

async def all_places_are_free():
    async with bulkhead.guard(), bulkhead.guard():
        assert bulkhead.snapshot().running == 2
        with anyio.move_on_after(0.01):
            await bulkhead.call(fine)
    assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (0, 0), bulkhead.snapshot()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(hang_in_line)
        await anyio.wait_all_tasks_blocked()
        assert limit.snapshot().waiting == 2, limit.snapshot()
        tasks.cancel_scope.cancel()
    assert limit.snapshot().waiting == 0, limit.snapshot()

def use_it():
    real = asyncio.BaseEventLoop.call_soon_threadsafe
    asyncio.BaseEventLoop.call_soon_threadsafe = trio.lowlevel.TrioToken.run_sync_soon = touched
    assert (bulkhead.snapshot().running, limit.snapshot().waiting) == (0, 0), (bulkhead.snapshot(), limit.snapshot())
    limit._meter.queue.move()
    asyncio.BaseEventLoop.call_soon_threadsafe = real
    anyio.run(all_places_are_free)

anyio.run(limit.call, fine)
threads = [threading.Thread(target=anyio.run, args=(crowd,), kwargs={"backend": each}) for each in ("asyncio", "trio")]
for thread in threads:
    thread.start()
while bulkhead.snapshot().running < 2 or limit.snapshot().waiting < 2:
    pass
failed = fork(use_it) != 0

async def fork_in_a_block():
    own = Bulkhead(1)
    async with own.guard():
        child = os.fork()
    assert own.snapshot().running == 0, own.snapshot()
    if not child:
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0

failed += trio.run(fork_in_a_block)
assert bulkhead.snapshot().running == 2  # the parent forgets nothing
over.set()
for thread in threads:
    thread.join()
sys.exit(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_begins_with_all_places_free_and_leaves_the_loops_of_its_parent_alone() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]  # forks beside threads are the point
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")
