"""A child can use the breaker of its parent at once, and leaves the loops of its parent alone."""

import os
import subprocess
import sys

import pytest

from .stage import LONG

FORKING = """
import asyncio, os, signal, sys, threading
from functools import partial
import anyio, trio
from aiobreaker import CircuitBreaker, State
from aiobreaker.testing import record_events

breaker = CircuitBreaker("forked")
over = threading.Event()

async def fine():
    return "fine"

async def call():
    while not over.is_set():
        async with breaker.guard(max_wait=10):
            await anyio.sleep(0)

def start(*bodies):
    for backend in ("asyncio", "trio"):
        anyio.run(breaker.call, fine, backend=backend)  # or a fork might copy the lock of its import
    loops = [lambda backend=each: anyio.run(call, backend=backend) for each in ("asyncio", "trio")]
    threads = [threading.Thread(target=body) for body in [*bodies, *loops]]
    for thread in threads:
        thread.start()
    return threads

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

def end(threads):
    over.set()
    breaker.reset()
    for thread in threads:
        thread.join()
    anyio.run(breaker.call, fine)
"""

BUSY = """
sys.setswitchinterval(1e-5)
breaker.subscribe(lambda event: sum(range(1_000)))  # so that forks often come in the middle of a delivery

def give_orders():
    while not over.is_set():
        breaker.force_open()
        breaker.snapshot()
        breaker.reset()

def use_it_at_once():
    with record_events(breaker) as events:
        breaker.metrics_only()
        breaker.reset()
    assert [event.new for event in events][-2:] == [State.METRICS_ONLY, State.CLOSED], events
    for backend in ("asyncio", "trio"):
        assert anyio.run(breaker.call, fine, backend=backend) == "fine"

threads = start(give_orders)
failed = sum(fork(use_it_at_once) != 0 for _ in range(20))
end(threads)
sys.exit(failed)
"""

WAITING = """
def touched(*args):
    raise AssertionError("the child has called into a loop of its parent")

def give_an_order():
    asyncio.BaseEventLoop.call_soon_threadsafe = touched
    trio.lowlevel.TrioToken.run_sync_soon = touched
    breaker.reset()

threads = start()
breaker.force_open()
while breaker.snapshot().waiting < 2:
    pass
failed = fork(give_an_order)
end(threads)
sys.exit(failed != 0)
"""

CALLING = """
def look():
    seen = breaker.snapshot()
    assert (seen.in_flight, seen.waiting) == (0, 0), seen

async def maintain():
    async with breaker.isolated(drain=True):
        pass

def drain():
    for backend in ("asyncio", "trio"):
        anyio.run(maintain, backend=backend)

def forks_that_fail():
    return sum(fork(body) != 0 for body in (look, drain))

for each in ("asyncio", "trio"):
    call_for_ever = partial(anyio.run, breaker.call, anyio.sleep_forever, backend=each)
    threading.Thread(target=call_for_ever, daemon=True).start()
while breaker.snapshot().in_flight < 2:
    pass
failed = forks_that_fail()
threads = start()
breaker.force_open()  # so that the calls are from before the present state, and others wait
while breaker.snapshot().waiting < 2:
    pass
failed += forks_that_fail()
assert breaker.snapshot().in_flight == 2  # the parent forgets nothing
end(threads)
sys.exit(failed)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def play(scene: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING + scene]  # forks beside threads are the point
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("scene", [BUSY, WAITING], ids=["busy", "waiting"])
def test_a_child_can_use_the_breaker_at_once_and_leaves_the_loops_of_its_parent_alone(scene: str) -> None:
    play(scene)


def test_a_child_forgets_the_calls_of_its_parent() -> None:
    play(CALLING)
