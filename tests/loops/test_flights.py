"""Shared calls, and a cache, in several event loops and threads: calls are shared within a loop only, results by all."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from aiobreaker.locking import process
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce, CoalesceSnapshot

from .stage import LONG, in_loops, in_threads
from .test_fork import play


async def several(times: int, main: Callable[[], Any]) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(main)


# -- threads


@pytest.mark.usefixtures("hasty_threads")
def test_calls_are_shared_within_each_loop_and_counted_exactly() -> None:
    coalesce = Coalesce()
    inside: dict[tuple[int, int], int] = {}

    @coalesce
    async def work(number: int) -> tuple[int, int]:
        place = threading.get_ident(), number
        assert place not in inside
        inside[place] = 1
        try:
            await checkpoint()
            await checkpoint()
        finally:
            del inside[place]
        return place

    async def caller() -> None:
        for number in range(300):
            with anyio.CancelScope() as scope:
                if not number % 7:
                    scope.cancel()
                assert await work(number % 3) == (threading.get_ident(), number % 3)

    in_threads(*in_loops(*[partial(several, 5, caller)] * 4))
    seen = coalesce.snapshot()
    assert (seen.calls, seen.running) == (4 * 5 * 300, 0)
    assert 0 < seen.shared < seen.calls


@pytest.mark.usefixtures("hasty_threads")
def test_a_cache_stays_bounded_and_counts_exactly_over_all_threads() -> None:
    cache = Cache(3600, max_size=8)

    @cache
    async def work(number: int) -> int:
        await checkpoint()
        return number

    async def caller() -> None:
        for number in range(1000):
            assert await work(number * 7 % 12) == number * 7 % 12
            if not number % 50:
                cache.invalidate(number % 12)
            if not number % 300:
                cache.clear()

    in_threads(*in_loops(*[caller] * 4))
    seen = cache.snapshot()
    assert seen.hits + seen.misses == 4 * 1000
    assert seen.hits
    assert 8 - 4 <= seen.size <= 8  # each thread may let one more go


@pytest.mark.usefixtures("hasty_threads")
def test_nothing_outdated_is_served_after_an_order_to_forget() -> None:
    version = 0
    cache = Cache(3600)

    @cache
    async def read() -> int:
        seen = version
        await checkpoint()
        return seen

    over = threading.Event()

    async def reader() -> None:
        while not over.is_set():
            least = forgotten
            assert await read() >= least

    forgotten = 0

    def writer() -> None:
        nonlocal version, forgotten
        try:
            for number in range(1, 3_000):
                version = number
                if number % 2:
                    cache.invalidate()
                else:
                    cache.clear()
                forgotten = number
        finally:
            over.set()

    in_threads(writer, *in_loops(*[reader] * 3))


# -- loops that stand still, end, or share a thread


@pytest.mark.parametrize("way", ["decorated", "called"])
def test_nobody_waits_for_a_loop_that_stands_still(way: str) -> None:
    coalesce = Coalesce()

    async def wait() -> str:
        await asyncio.sleep(0 if answer.is_set() else 3600)
        return "fine"

    decorated = coalesce(wait)

    async def work() -> str:
        return await (decorated() if way == "decorated" else coalesce.call(wait))

    answer = threading.Event()
    paused, running = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        left = paused.create_task(work())
        for _ in range(3):
            paused.run_until_complete(asyncio.sleep(0))
        answer.set()
        assert running.run_until_complete(asyncio.wait_for(work(), LONG)) == "fine"
        left.cancel()
        with suppress(asyncio.CancelledError):
            paused.run_until_complete(left)
        assert coalesce.snapshot().running == 0
    finally:
        paused.close()
        running.close()


def test_calls_that_are_left_behind_by_a_loop_are_no_longer_running() -> None:
    coalesce = Coalesce()
    shared = coalesce(anyio.sleep_forever)
    left: list[asyncio.Task[None]] = []

    async def leave_them() -> None:
        left.extend(asyncio.create_task(shared()) for _ in range(3))
        await anyio.wait_all_tasks_blocked()
        assert coalesce.snapshot().running == 1

    asyncio.run(leave_them())
    assert all(task.cancelled() for task in left)
    assert coalesce.snapshot().running == 0


def test_a_leader_that_is_collected_in_another_thread_hands_over_in_its_own_loop() -> None:
    """Its loop may be idle: it is asked to wake the follower."""
    coalesce = Coalesce()
    answers = iter(["never", "fine"])

    @coalesce
    async def work() -> str:
        answer = next(answers)
        while answer == "never":
            await checkpoint()
        assert threading.get_ident() == home
        return answer

    async def main() -> str:
        leader = work()
        copy_context().run(leader.send, None)  # its first step, in no task of its own
        follower = asyncio.create_task(work())
        await asyncio.sleep(0.001)
        assert not follower.done()
        threading.Timer(0.01, leader.close).start()
        return await asyncio.wait_for(follower, LONG)

    home = threading.get_ident()
    assert asyncio.run(main(), debug=True) == "fine"  # it tells of a wake-up that is not safe
    assert coalesce.snapshot().running == 0


def test_under_guest_mode_nobody_hangs() -> None:
    """Host and guest take turns in one thread, and count as one loop: each is woken in its own way."""
    coalesce = Coalesce()
    made: list[str] = []

    @coalesce
    async def work() -> str:
        made.append("made")
        await anyio.sleep(0.02)
        return "fine"

    async def guest_main() -> list[str]:
        with anyio.fail_after(LONG):
            return [await work() for _ in range(3)]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[str]] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest_main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda outcome: done.set_result(outcome.unwrap()),
        )
        with anyio.fail_after(LONG):
            for _ in range(20):
                assert await work() == "fine"
            assert await done == ["fine"] * 3

    asyncio.run(main())
    assert coalesce.snapshot().running == 0
    assert len(made) <= 23


def test_a_call_from_a_thread_of_its_own_course_is_not_shared() -> None:
    depths: list[int] = []

    @Coalesce()
    async def descend() -> int:
        depths.append(len(depths))
        if len(depths) == 1:
            return await anyio.to_thread.run_sync(anyio.run, descend) + 1
        return 0

    async def main() -> int:
        with anyio.fail_after(LONG):
            return await descend()

    assert anyio.run(main) == 1


async def test_no_task_is_left_and_no_loop_is_held() -> None:
    coalesce = Coalesce()

    @coalesce
    async def work() -> None:
        await checkpoint()

    await several(5, work)
    assert coalesce._flights.running == {}
    gc.collect()


# -- forks


@pytest.mark.parametrize("looked_at", [True, False])
async def test_after_a_fork_the_calls_of_the_parent_do_not_count(monkeypatch: pytest.MonkeyPatch, looked_at: bool) -> None:
    coalesce = Coalesce()
    answers = iter([anyio.sleep_forever, checkpoint, checkpoint])

    @coalesce
    async def work() -> None:
        await next(answers)()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        assert coalesce.snapshot().running == 1
        here = process()
        monkeypatch.setattr("aiobreaker.flights.process", lambda: here + 1)
        if looked_at:
            assert coalesce.snapshot().running == 0
        with anyio.fail_after(1):
            await several(2, work)
        assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=3, shared=1, running=0)
        tasks.cancel_scope.cancel()


CACHED = """
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce

cache, coalesce = Cache(3600), Coalesce()
hang = threading.Event()

@cache
@coalesce
async def work(number):
    while hang.is_set():
        await anyio.sleep(0.001)
    return number

def use_them():
    hang.clear()
    for backend in ("asyncio", "trio"):
        for number in (1, 2):
            assert anyio.run(work, number, backend=backend) == number
    assert coalesce.snapshot().running == 0, coalesce.snapshot()

anyio.run(work, 1)
hang.set()
threads = [threading.Thread(target=lambda each=each: anyio.run(work, 2, backend=each)) for each in ("asyncio", "trio")]
for thread in threads:
    thread.start()
while coalesce.snapshot().running < 2:
    pass
failed = sum(fork(use_them) != 0 for _ in range(3))
hang.clear()
for thread in threads:
    thread.join()
sys.exit(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_uses_a_cache_and_shares_calls_at_once() -> None:
    play(CACHED)
