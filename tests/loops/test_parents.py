"""Several threads share a breaker through others below it: slots and counts of all of them stay exact; and so after a fork."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, FailureCount, LastCalls, State, Trials

from .stage import LONG, Room, fine, in_loops, in_threads

NEVER = FailureCount(10**9, LastCalls(10**9))
THREADS = 4


class NeutralError(Exception):
    pass


class DownError(Exception):
    pass


async def down() -> None:
    raise DownError


async def at_once() -> None:
    pass


def children_of(**parent: Any) -> tuple[list[CircuitBreaker], CircuitBreaker]:
    """One child for each thread, and their parent."""
    registry: BreakerRegistry[int] = BreakerRegistry(
        lambda key: CircuitBreaker(f"{key}", ignore=NeutralError, trip=NEVER, **(parent if key < 0 else {})),
        parent=lambda key: -1,
    )
    return [registry[number] for number in range(THREADS)], registry[-1]


async def several(times: int, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(main)


@pytest.mark.usefixtures("hasty_threads")
def test_slots_of_a_parent_stay_exact_over_all_threads_and_children() -> None:
    children, parent = children_of(trials=Trials(3, concurrent=2, max_inconclusive=10**9))
    parent.half_open()
    room = Room()

    async def trial() -> None:
        await room.visit()
        raise NeutralError

    async def caller(child: CircuitBreaker) -> None:
        for number in range(200):
            with suppress(CircuitOpenError, NeutralError), anyio.CancelScope() as scope:
                if not number % 3:
                    scope.cancel()
                await child.call(trial)

    in_threads(*in_loops(*[partial(several, 3, partial(caller, child)) for child in children]))
    assert room.most == 2
    totals = [child.snapshot().totals for child in children]
    above = parent.snapshot().totals
    assert above.ignored == sum(each.ignored for each in totals)
    assert above.cancelled == sum(each.cancelled for each in totals)
    assert [each.snapshot().in_flight for each in (*children, parent)] == [0] * (THREADS + 1)
    held = [anyio.run(child.acquire) for child in children[:2]]
    with pytest.raises(CircuitOpenError):
        anyio.run(children[2].acquire)
    for permit in held:
        permit.ignore()


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("looking", [False, True], ids=["", "while somebody looks"])
def test_counts_add_up_over_all_threads_through_children_and_directly(looking: bool) -> None:
    children, parent = children_of()
    over = threading.Event()
    each, rounds = 300, 3

    async def caller(child: CircuitBreaker) -> None:
        for _ in range(each):
            for breaker in (child, parent):
                with suppress(DownError):
                    await breaker.call(down)
                await breaker.call(at_once)

    def look() -> None:
        while not over.is_set():
            assert parent.snapshot().state is State.CLOSED

    def work() -> None:
        try:
            in_threads(*in_loops(*[partial(several, rounds, partial(caller, child)) for child in children]))
        finally:
            over.set()

    in_threads(work, *[look] * looking)
    for child in children:
        assert child.snapshot().totals[:2] == (each * rounds, each * rounds)
    seen = parent.snapshot()
    assert seen.totals[:2] == (2 * THREADS * each * rounds, 2 * THREADS * each * rounds)
    assert [(reading.count, reading.calls) for reading in seen.readings] == [(seen.failures, seen.calls)]
    assert [breaker.snapshot().in_flight for breaker in (*children, parent)] == [0] * (THREADS + 1)


@pytest.mark.usefixtures("hasty_threads")
def test_orders_to_a_parent_in_the_midst_of_calls_leave_nothing_in_flight() -> None:
    children, parent = children_of(trials=Trials(2, max_inconclusive=10**9))
    over = threading.Event()
    done = [0] * THREADS

    async def caller(number: int) -> None:
        while not over.is_set():
            with suppress(CircuitOpenError):
                await children[number].call(checkpoint)
                done[number] += 1
            with suppress(CircuitOpenError):
                async with children[number].guard(max_wait=LONG):
                    await checkpoint()
                    done[number] += 1

    def order() -> None:
        for _ in range(300):
            parent.force_open()
            parent.half_open()
            parent.disable()
            parent.metrics_only()
            parent.reconfigure(trials=Trials(2, max_inconclusive=10**9))
            parent.reset()
        over.set()

    in_threads(order, *in_loops(*[partial(caller, number) for number in range(THREADS)]))
    assert [breaker.snapshot().in_flight for breaker in (*children, parent)] == [0] * (THREADS + 1)
    assert [child.snapshot().totals.successes for child in children] == done


def test_a_parent_wakes_those_who_wait_through_its_children_in_every_loop() -> None:
    children, parent = children_of()
    parent.force_open()
    admitted: list[int] = []

    async def caller(number: int) -> None:
        async with children[number].guard(max_wait=LONG):
            admitted.append(number)

    def order() -> None:
        while sum(child.snapshot().waiting for child in children) < THREADS:
            pass
        parent.reset()

    in_threads(order, *in_loops(*[partial(caller, number) for number in range(THREADS)]))
    assert sorted(admitted) == list(range(THREADS))


FORKED = """
import os, signal, sys, threading
import anyio
from aiobreaker import BreakerRegistry, CircuitBreaker, State

registry = BreakerRegistry(CircuitBreaker, parent=lambda key: key[0])
child, parent = registry["ab"], registry["a"]

async def fine():
    return "fine"

async def down():
    raise OSError

def fail(breaker, times):
    for _ in range(times):
        try:
            anyio.run(breaker.call, down)
        except OSError:
            pass

def use():
    assert child.snapshot().in_flight == parent.snapshot().in_flight == 0
    assert (parent.snapshot().failures, child.snapshot().failures) == (3, 1)
    fail(parent, 1)
    assert parent.state is State.CLOSED
    fail(child, 1)
    assert parent.state is State.OPEN
    assert child.state is State.CLOSED
    parent.half_open()
    assert anyio.run(child.call, fine) == "fine"
    assert parent.state is State.CLOSED
    assert child.snapshot().in_flight == parent.snapshot().in_flight == 0

threading.Thread(target=anyio.run, args=(child.call, anyio.sleep_forever), daemon=True).start()
while parent.snapshot().in_flight < 1:
    pass
fail(parent, 2)
fail(child, 1)
pid = os.fork()
if not pid:
    signal.alarm(4)
    try:
        use()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)
failed = os.waitpid(pid, 0)[1]
assert child.snapshot().in_flight == parent.snapshot().in_flight == 1
assert (parent.state, parent.snapshot().failures) == (State.CLOSED, 3)
os._exit(failed != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork_both_forget_the_calls_of_the_old_process_and_keep_their_counts() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_parent_serves_children_in_one_loop_after_another() -> None:
    children, parent = children_of()
    for backend in ("asyncio", "trio", "asyncio"):
        for child in children:
            assert anyio.run(child.call, fine, backend=backend) == "fine"
    assert parent.snapshot().totals.successes == 3 * THREADS
