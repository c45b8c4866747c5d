"""Behaviours of an open circuit towards those whom it refuses."""

import gc
import tracemalloc
from types import TracebackType

import anyio
from anyio.lowlevel import checkpoint

from ..peers import Peer
from .clock import later
from .script import OPEN_FOR, Answer, Circuit, Section, succeed

SECTION = Section("Refusals")

MANY = 100_000
TRIES = 10_000


async def _opened(peer: Peer) -> Circuit:
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    await circuit.open()
    return circuit


def _frames(traceback: TracebackType | None) -> int:
    count = 0
    while traceback is not None:
        count, traceback = count + 1, traceback.tb_next
    return count


@SECTION.behaviour("Frames that a refusal's traceback has grown by after 1,000 refusals")
async def traceback_growth(peer: Peer) -> Answer:
    """The tracebacks of the first and of the last of 1,000 refused calls in a row are compared."""
    circuit = await _opened(peer)
    first = _frames((await circuit.refusal()).__traceback__)
    for _ in range(998):
        await circuit.refusal()
    last = _frames((await circuit.refusal()).__traceback__)
    return Answer(f"{last - first:,}")


@SECTION.behaviour("Memory kept after 100,000 refusals")
async def memory(peer: Peer) -> Answer:
    """By tracemalloc, after a collection of garbage, to the nearest 10 kB or MB."""
    circuit = Circuit(peer, peer.plain(3, 3600, 1))
    await circuit.open()
    await _refuse(circuit, 1000)
    gc.collect()
    tracemalloc.start()
    try:
        await _refuse(circuit, 10)
        before, _ = tracemalloc.get_traced_memory()
        await _refuse(circuit, MANY)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = max(0, after - before)
    return Answer(f"{kept / 1e6:,.0f} MB" if kept >= 1e6 else f"{round(kept / 1e4) * 10} kB")


async def _refuse(circuit: Circuit, times: int) -> None:
    refused = 0
    for _ in range(times):
        try:
            await circuit.guarded(succeed)
        except circuit.peer.refusals:
            refused += 1
    if refused != times:
        raise AssertionError(f"{refused} of {times} were refused")


@SECTION.behaviour("Refusals in a row that a loop of immediate retries gets before another task has its turn")
async def starvation(peer: Peer) -> Answer:
    """One task calls again as soon as it is refused, 10,000 times; another one only wants to run now and then. Counted is the
    longest run.
    """
    circuit = await _opened(peer)
    run = longest = 0

    async def neighbour() -> None:
        nonlocal run
        while True:
            run = 0
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(neighbour)
        await checkpoint()
        for _ in range(TRIES):
            await circuit.refusal()
            run += 1
            longest = max(longest, run)
        tasks.cancel_scope.cancel()
    return Answer("all 10,000" if longest == TRIES else f"{longest:,}")


@SECTION.behaviour("A refusal says when to come back")
async def retry_after(peer: Peer) -> Answer:
    """The circuit is open for 30 seconds, of which 10 have passed."""
    circuit = await _opened(peer)
    later(10)
    refusal = await circuit.refusal()
    seconds = None if peer.retry_after is None else peer.retry_after(refusal)
    return Answer("no" if seconds is None else f"in {seconds:.0f} s")
