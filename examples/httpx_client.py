# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[httpx]", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""An httpx client that is told to come again later: by the service with a 429, and by its own transport with a 503."""

import asyncio
import socket
from typing import Any

import httpx
import uvicorn

from aiobreaker import BreakerRegistry, CircuitBreaker
from aiobreaker.integrations.httpx import BreakerTransport

breakers = BreakerRegistry[str](lambda origin: CircuitBreaker(origin, open_for=10))


class Service:
    """A service on loopback that has enough after two requests, and counts."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        self.requests += 1
        answer: dict[str, Any] = {"status": 200, "headers": []}
        if self.requests == 3:
            answer = {"status": 429, "headers": [(b"retry-after", b"1")]}
        await send({"type": "http.response.start", **answer})
        await send({"type": "http.response.body"})


async def main() -> None:
    """Calls until the service asks to be left alone, calls that leave it alone, and one when the time has come."""
    service = Service()
    listener = socket.create_server(("127.0.0.1", 0))
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(service, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve([listener]))
    transport = BreakerTransport(registry=breakers, on_open="response")
    async with httpx.AsyncClient(transport=transport) as client:
        for _ in range(5):
            response = await client.get(url)
            print(response.status_code, "come again in", response.headers.get("retry-after"), response.text)
        await asyncio.sleep(1.05)
        response = await client.get(url)
        print(response.status_code, f"the service has seen {service.requests} requests")
    print(breakers[url].explain())
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
