# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[httpx2]", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""An httpx2 client that calls a service through a guarded transport, while the service breaks and comes back."""

import asyncio
import socket
from typing import Any

import httpx2
import uvicorn

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Event, StateChanged
from aiobreaker.integrations.httpx2 import BreakerTransport

breakers = BreakerRegistry[str](lambda origin: CircuitBreaker(origin, trip=ConsecutiveFailures(3), open_for=0.3))


def show(event: Event) -> None:
    """Print every change of state."""
    if isinstance(event, StateChanged):
        print(f"  {event.old.value} -> {event.new.value}: {event.reason}")


class Service:
    """A service on loopback that does as it is told, and counts."""

    def __init__(self) -> None:
        self.mood = "well"
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        self.requests += 1
        status = 503 if self.mood == "down" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"half ", "more_body": True})
        if self.mood != "dying":
            await send({"type": "http.response.body", "body": b"whole"})


async def call(client: httpx2.AsyncClient, url: str) -> None:
    """One request, and what comes of it."""
    try:
        response = await client.get(url)
    except httpx2.TransportError as error:
        print(f"{type(error).__name__}: {error}")
    except CircuitOpenError as refusal:
        print(f"refused, come again in {refusal.retry_after:.1f} s")
    else:
        print(response.status_code, response.text)


async def main() -> None:
    """Calls to a service that is well, dies in the middle of its answers, and is well again."""
    breakers.subscribe(show)
    service = Service()
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(service, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve([listener]))
    async with httpx2.AsyncClient(transport=BreakerTransport(registry=breakers)) as client:
        for mood, calls in (("well", 2), ("dying", 3), ("down", 3)):
            service.mood = mood
            for _ in range(calls):
                await call(client, url)
        await asyncio.sleep(0.35)
        service.mood = "well"
        await call(client, url)
    print(f"the service has seen {service.requests} requests")
    print(breakers[url].explain())
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
