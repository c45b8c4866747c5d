# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker", "httpx2>=2.16", "starlette>=1.0", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A service whose dependency fails: callers get 503 and are told when to come again, and its health is degraded, not dead."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from aiobreaker import CircuitBreaker, ConsecutiveFailures
from aiobreaker.integrations.asgi import HealthEndpoint, RefusalMiddleware

payments = CircuitBreaker("payments", trip=ConsecutiveFailures(3), open_for=0.5)
down = True


@payments
async def charge() -> str:
    """Ask the payment service."""
    await anyio.sleep(0.01)
    if down:
        raise ConnectionError("connection refused")
    return "paid"


async def order(request: Request) -> PlainTextResponse:
    """Charge an order, and look up the price beside it: what is refused in there arrives in an exception group."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0.01)
        tasks.start_soon(charge)
    return PlainTextResponse("paid")


app = Starlette(
    routes=[Route("/order", order), Route("/health", HealthEndpoint(payments))],
    middleware=[Middleware(RefusalMiddleware)],
)


@asynccontextmanager
async def served() -> AsyncGenerator[str]:
    """Serve the app, and say where."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # who comes before the server is up waits
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listening])
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            server.should_exit = True


async def main() -> None:
    """Five orders while the payment service is down, and one after it has come back."""
    global down  # noqa: PLW0603 - the example's switch
    async with served() as url, httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        for number in range(5):
            response = await client.get("/order")
            print(f"order {number}: {response.status_code}, Retry-After: {response.headers.get('retry-after')}")
        print("health:", (await client.get("/health")).text)
        down = False
        await anyio.sleep(0.6)
        print("later:", (await client.get("/order")).status_code)
        print("health:", (await client.get("/health")).text)


if __name__ == "__main__":
    anyio.run(main)
