"""The callers: payments sent with httpx2 through the breaker, at random moments, whether or not earlier ones have ended."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random

import anyio
import httpx2

from ..breaker import CircuitBreaker
from ..errors import CircuitOpenError
from .clock import now, sleep_until
from .plot import CALLER_TIMEOUT, CALLS_PER_SECOND, SLOW_AFTER
from .record import Call, Ending, Record

FAILURE_ON = (httpx2.TransportError,)  # timeouts are among them


def failure_if(response: httpx2.Response) -> bool:
    """The service's own fault."""
    return response.status_code >= 500


class Callers:
    """Many callers of one service, with one client and one breaker between them. What they do goes on record."""

    def __init__(self, client: httpx2.AsyncClient, random: Random, record: Record) -> None:
        self._client = client
        self._random = random
        self._record = record
        self.stopped = False

    async def healthy(self, url: str) -> bool:
        """Whether the service is there. Not a guarded call."""
        try:
            return (await self._client.get(f"{url}/health")).is_success
        except httpx2.TransportError:
            return False

    async def pay(self, breaker: CircuitBreaker, url: str) -> None:
        """Send payments until `stopped`, then see those under way to their end."""
        due = now()
        async with anyio.create_task_group() as tasks:
            while not self.stopped:
                due += self._random.uniform(0.5, 1.5) / CALLS_PER_SECOND
                await sleep_until(due)
                self._record.sent += 1
                tasks.start_soon(self._pay_once, breaker, url, self._record.sent)

    async def _pay_once(self, breaker: CircuitBreaker, url: str, number: int) -> None:
        amount = round(self._random.uniform(1, 500), 2)
        sent_at = now()
        try:
            response = await breaker.call(self._client.put, f"{url}/payments/{number}", json={"amount": amount})
        except CircuitOpenError:
            ending = Ending.REFUSED
        except httpx2.TransportError:
            ending = Ending.FAILED
        else:
            slow = now() - sent_at >= SLOW_AFTER
            ending = Ending.FAILED if failure_if(response) else Ending.SLOW if slow else Ending.FINE
        self._record.call_ended(Call(number, sent_at, now(), ending))


@asynccontextmanager
async def callers(random: Random, record: Record) -> AsyncGenerator[Callers, None]:
    """Callers with a client that is closed at the end of the block."""
    limits = httpx2.Limits(max_connections=None)  # a shortage here would not be the service's fault
    async with httpx2.AsyncClient(timeout=CALLER_TIMEOUT, limits=limits, trust_env=False) as client:
        yield Callers(client, random, record)
