"""What one transition costs its guarded call when 1,000 readers wait for it, beside a send to 1,000 anyio memory streams."""

import statistics

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from aiobreaker import CircuitBreaker

from .harness import clock

READERS = 1000
BAR = 1 / 3


async def fan_out_ratio(rounds: int) -> float:
    """Median over the rounds: publishing to all readers over sending to all streams, one after the other in each round."""
    breaker = CircuitBreaker("fan-out")
    streams = [anyio.create_memory_object_stream[object](256) for _ in range(READERS)]
    senders = [send for send, _ in streams]
    ratios: list[float] = []
    async with anyio.create_task_group() as tasks:
        for _, receive in streams:
            tasks.start_soon(_receive, receive)
            tasks.start_soon(_read, breaker)
        for turn in range(rounds):
            await _settle()
            sending = _send_all(senders)
            await _settle()
            ratios.append(_publish(breaker, turn) / sending)
        tasks.cancel_scope.cancel()
    for send in senders:
        send.close()
    return statistics.median(ratios)


async def _settle() -> None:
    for _ in range(8):
        await anyio.lowlevel.checkpoint()


def _send_all(senders: list[MemoryObjectSendStream[object]]) -> float:
    began = clock()
    for send in senders:
        send.send_nowait(None)
    return clock() - began


def _publish(breaker: CircuitBreaker, turn: int) -> float:
    order = breaker.reset if turn % 2 else breaker.force_open
    began = clock()
    order()
    return clock() - began


async def _receive(stream: MemoryObjectReceiveStream[object]) -> None:
    async with stream:
        async for _ in stream:
            pass


async def _read(breaker: CircuitBreaker) -> None:
    async with breaker.events() as events:
        async for _ in events:
            pass
