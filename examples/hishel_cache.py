# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[httpx2]", "hishel[async]>=2.0", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""The cache hishel above a circuit breaker: while the service on loopback is down, what is cached is still served."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx2
import uvicorn
from hishel import AsyncSqliteStorage
from hishel.httpx2 import AsyncCacheTransport

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures
from aiobreaker.integrations.httpx2 import BreakerTransport

breakers = BreakerRegistry[str](lambda origin: CircuitBreaker(origin, trip=ConsecutiveFailures(2), open_for=1))


class Service:
    """Serves pages, or is down; and counts."""

    down = False
    requests = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer one request."""
        self.requests += 1
        await send({"type": "http.response.start", "status": 503 if self.down else 200, "headers": []})
        await send({"type": "http.response.body", "body": f"page {self.requests}".encode()})


@asynccontextmanager
async def running(service: Service) -> AsyncGenerator[str]:
    """Run the service for the length of a block; the value is where it is."""
    server = uvicorn.Server(uvicorn.Config(service, host="127.0.0.1", port=0, lifespan="off", log_level="critical"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110 - nothing to wait for
            await anyio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True


async def look(client: httpx2.AsyncClient, url: str) -> str:
    """Ask for one page, and say what came of it."""
    try:
        response = await client.get(url)
    except CircuitOpenError as refusal:
        return f"refused: {refusal.reason}"
    whence = "the cache" if response.extensions["caching"]["from_cache"] else "the service"
    return f"{response.status_code} {response.text!r} from {whence}"


async def main() -> None:
    """Up, down, and up again."""
    service = Service()
    with TemporaryDirectory() as directory:
        storage = AsyncSqliteStorage(database_path=Path(directory) / "pages.db")
        transport = AsyncCacheTransport(next_transport=BreakerTransport(registry=breakers), storage=storage)
        async with running(service) as url, httpx2.AsyncClient(transport=transport) as client:
            for service.down in (False, True, False):
                if (wait := breakers[url].snapshot().retry_after) is not None:
                    await anyio.sleep(wait)
                for path in ("/home", *["/news"] * 3, "/home") if service.down else ("/home",):
                    print(f"{'down' if service.down else 'up  '}  {path}  {await look(client, url + path)}")
            print(f"up    /news  {await look(client, f'{url}/news')}")
    print(f"{service.requests} requests reached the service")


if __name__ == "__main__":
    anyio.run(main)
