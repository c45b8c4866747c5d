# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker", "httpx2>=2.16", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""An app gets more requests than it bears: without a limit all wait, with one some are quick and the others are refused."""

import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import uvicorn

from aiobreaker import Bulkhead, RateLimit
from aiobreaker.integrations.asgi import LoadSheddingMiddleware, client_address

CAPACITY = 5
REQUESTS = 60


class Shop:
    """An app with as many workers as it has, and a queue in front of them that has no end."""

    def __init__(self) -> None:
        self.workers = anyio.Semaphore(CAPACITY)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        async with self.workers:
            await anyio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"fine"})


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    """Serve an app, and hand over a client that asks it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(REQUESTS)  # who comes before the server is up waits
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listening])
            async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
                await client.get("/")
                yield client
            server.should_exit = True


async def rush(client: httpx2.AsyncClient) -> tuple[Counter[int], float]:
    """All requests at once: their statuses, and how long the slowest that was served took, in seconds."""
    statuses: Counter[int] = Counter()
    slowest = 0.0

    async def request() -> None:
        nonlocal slowest
        began = time.monotonic()
        status = (await client.get("/")).status_code
        statuses[status] += 1
        if status == 200:
            slowest = max(slowest, time.monotonic() - began)

    async with anyio.create_task_group() as tasks:
        for _ in range(REQUESTS):
            tasks.start_soon(request)
    return statuses, slowest


async def main() -> None:
    """The same rush, three times."""
    limits = {
        "no limit": Shop(),
        "a bulkhead": LoadSheddingMiddleware(Shop(), Bulkhead(CAPACITY, max_waiters=CAPACITY, max_wait=0.5)),
        "a rate for each client": LoadSheddingMiddleware(Shop(), RateLimit(20, per=60, key=client_address)),
    }
    for name, app in limits.items():
        async with served(app) as client:
            statuses, slowest = await rush(client)
            told = ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items()))
            hint = (await client.get("/")).headers.get("retry-after", "none")
        print(f"{name}: {told}; the slowest took {slowest:.2f} s; Retry-After afterwards: {hint}")


if __name__ == "__main__":
    anyio.run(main)
