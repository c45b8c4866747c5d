"""Behaviours that turn on what stands around a breaker: event loops, threads, the wall clock, and what it decorates."""

import inspect
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, Lock

import anyio
from anyio.lowlevel import checkpoint

from ..peers import Peer
from .clock import later, set_wall_clock
from .script import OPEN_FOR, Answer, Call, Circuit, DownError, Section, pause

SECTION = Section("Surroundings")

HOUR = 3600.0
ROUNDS = 20
CALLERS = 100


@SECTION.behaviour("A breaker that has served one event loop serves the next")
def loop_after_loop(peer: Peer, backend: str) -> Answer:
    """In a first asyncio loop ten callers meet a half-open circuit, and the trial fails. That loop ends. In a second loop, of
    the backend in question, ten callers meet it half-open again, and the trial succeeds. Is the next call admitted?
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    anyio.run(circuit.open_and_wait, backend="asyncio")
    anyio.run(_ten_callers, circuit, False, backend="asyncio")
    later(OPEN_FOR)
    return Answer("works" if anyio.run(_ten_callers, circuit, True, backend=backend) else "it stays open")


async def _ten_callers(circuit: Circuit, well: bool) -> bool:
    calls = [Call(circuit) for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(call.run)
        await pause()
        for call in calls:
            await (call.succeed() if well else call.fail())
    return await circuit.admits()


@SECTION.behaviour("How many of 200 callers reach the dependency when they come in two threads and one trial is wanted")
def two_threads(peer: Peer, backend: str) -> Answer:
    """Two threads with a loop each make 100 calls each, at the same moment, when an open circuit's time is over. The dependency
    does not answer before all have come. The most of 20 rounds.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        return Answer(str(max(_threads_at_once(peer, backend) for _ in range(ROUNDS))))
    finally:
        sys.setswitchinterval(interval)


def _threads_at_once(peer: Peer, backend: str) -> int:
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    anyio.run(circuit.open_and_wait, backend=backend)
    together, lock = Barrier(2, timeout=10), Lock()
    reached = 0
    answered = False

    async def act() -> None:
        nonlocal reached
        with lock:
            reached += 1
        while not answered:
            await checkpoint()

    async def caller() -> None:
        with suppress(*peer.refusals):
            await circuit.guarded(act)

    async def crowd() -> int:
        nonlocal answered
        together.wait()
        async with anyio.create_task_group() as tasks:
            for _ in range(CALLERS):
                tasks.start_soon(caller)
            await pause()
            together.wait()
            seen = reached
            together.wait()
            answered = True
        return seen

    with ThreadPoolExecutor(2) as threads:
        crowds = [threads.submit(lambda: anyio.run(crowd, backend=backend)) for _ in range(2)]
    return max(crowd.result() for crowd in crowds)


@SECTION.behaviour("The wall clock is set while it is open: is its open time what it should be")
async def wall_clock(peer: Peer) -> Answer:
    """The wall clock is set back by an hour while a circuit is open; after its 30 seconds a call should be admitted. The wall
    clock is put forward by an hour; the next call should be refused.
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    await circuit.open()
    set_wall_clock(-HOUR)
    later(OPEN_FOR)
    in_time = await circuit.admits()
    set_wall_clock(0)
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    await circuit.open()
    set_wall_clock(HOUR)
    too_soon = await circuit.admits()
    set_wall_clock(0)
    wrong = (["an hour longer"] if not in_time else []) + (["over at once"] if too_soon else [])
    return Answer("; ".join(wrong) or "yes")


@SECTION.behaviour(
    "A decorated function keeps its name, its documentation and its signature, and is still a coroutine function"
)
async def signature(peer: Peer) -> Answer:
    """As `inspect` sees it."""

    async def price(sku: str, *, count: int = 1) -> float:
        """What it costs."""
        return 9.5 * count

    decorated = peer.plain(3, OPEN_FOR, 1).decorate(price)
    kept = (
        decorated.__name__ == "price"
        and decorated.__doc__ == "What it costs."
        and inspect.signature(decorated) == inspect.signature(price)
        and inspect.iscoroutinefunction(decorated)
    )
    return Answer("yes" if kept else "no")


@SECTION.behaviour("An async generator function that fails half way")
async def async_generator(peer: Peer) -> Answer:
    """Three failures open it. Three times a decorated async generator function gives an item and then raises. Is the fourth
    refused?
    """
    begun = 0

    async def items() -> AsyncIterator[int]:
        nonlocal begun
        begun += 1
        yield 1
        raise DownError

    try:
        decorated = peer.plain(3, OPEN_FOR, 1).decorate(items)
    except TypeError:
        return Answer("`TypeError` at decoration")
    for _ in range(4):
        try:
            with suppress(DownError, *peer.refusals):
                async for _item in decorated():
                    pass
        except TypeError:
            return Answer("`TypeError` when it is read")
    return Answer("not guarded" if begun == 4 else "guarded")
