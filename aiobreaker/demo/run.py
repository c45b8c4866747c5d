"""The performance: service, callers and breaker, act by act. Whatever ends it, the service is gone afterwards."""

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from typing import Protocol

import anyio

from ..breaker import CircuitBreaker, Snapshot
from ..core.eras import State
from ..hub import EventStream
from . import traffic
from .clock import now, sleep_until
from .plot import Fault
from .process import ServiceProcess, serving
from .record import Record

_FRAME = 0.1  # seconds


class Picture(Protocol):
    """What shows the present, several times a second."""

    def draw(self, record: Record, seen: Snapshot) -> object:
        """Show it."""


async def perform(record: Record, picture: Picture) -> None:
    """Play the whole plot into the record; a signal ends it early.

    Raises:
        ServiceError: the service cannot be run.
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_heed_signals, record, tasks.cancel_scope)
        async with _stage(record, picture) as (breaker, service):
            for fault in Fault:
                await _act(record, breaker, service, fault)
            await sleep_until(record.began_at + record.plot.duration)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _stage(record: Record, picture: Picture) -> AsyncGenerator[tuple[CircuitBreaker, ServiceProcess], None]:
    """Everything up and running for the length of a block; at its end the callers stop and their last calls are waited for."""
    random = Random(record.seed)
    breaker = record.plot.breaker(traffic.FAILURE_ON, traffic.failure_if, random.random)
    async with traffic.callers(random, record) as callers:
        try:
            async with serving(callers.healthy, record.seed) as service, breaker.events() as events:
                record.service_url, record.reached = service.url, service.reached
                record.began_at = now()
                record.note("service", f"serves payments at {service.url} (process {service.pid})")
                async with anyio.create_task_group() as background:
                    background.start_soon(_listen, events, record)
                    background.start_soon(_draw, breaker, picture, record)
                    async with anyio.create_task_group() as foreground:
                        foreground.start_soon(callers.pay, breaker, service.url)
                        yield breaker, service
                        callers.stopped = True
                    background.cancel_scope.cancel()
        finally:
            record.ended_at = now()


async def _act(record: Record, breaker: CircuitBreaker, service: ServiceProcess, fault: Fault) -> None:
    """One outage, from a while before it until the circuit is closed again."""
    plot = record.plot
    begins = max(now(), record.began_at + len(record.outages) * plot.share)
    await sleep_until(begins + plot.fine)
    record.breaks(fault)
    await service.break_down(fault)
    await sleep_until(begins + plot.fine + plot.broken)
    await service.mend()
    record.mended()
    with anyio.move_on_after(plot.patience):
        await breaker.wait_for(State.CLOSED)


async def _listen(events: EventStream, record: Record) -> None:
    async for event in events:
        record.saw(event)


async def _draw(breaker: CircuitBreaker, picture: Picture, record: Record) -> None:
    while True:
        picture.draw(record, breaker.snapshot())
        await anyio.sleep(_FRAME)


async def _heed_signals(record: Record, scope: anyio.CancelScope) -> None:
    if sys.platform == "win32":
        return  # there Ctrl-C arrives as KeyboardInterrupt
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            record.interrupted_by = number
            scope.cancel()
            return
