# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[httpx2]", "mcp>=2.3", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A client of the Model Context Protocol behind a circuit breaker, and a server on loopback that goes away and comes back."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import uvicorn
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures
from aiobreaker.integrations.httpx2 import BreakerTransport

breakers = BreakerRegistry[str](lambda origin: CircuitBreaker(origin, trip=ConsecutiveFailures(3), open_for=1))
tools = MCPServer("calculator", log_level="CRITICAL")


@tools.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Service:
    """The server, behind a front that can be told to say that it is down; and counts."""

    def __init__(self) -> None:
        self.inside = tools.streamable_http_app()
        self.down = False
        self.requests = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer one request."""
        self.requests += scope["type"] == "http"
        if self.down and scope["type"] == "http":
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.inside(scope, receive, send)


@asynccontextmanager
async def running(service: Service) -> AsyncGenerator[str]:
    """Run the service for the length of a block; the value is where it is."""
    server = uvicorn.Server(uvicorn.Config(service, host="127.0.0.1", port=0, log_config=None, log_level="critical"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110 - nothing to wait for
            await anyio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True


async def calculate(url: str) -> str:
    """Connect, add one and two, and say what came of it."""
    said = ""
    try:
        async with (
            httpx2.AsyncClient(transport=BreakerTransport(registry=breakers)) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
        ):
            said = str((await client.call_tool("add", {"a": 1, "b": 2})).structured_content)
    except* CircuitOpenError as refusals:  # a client sends from tasks of its own
        said = f"refused: {', '.join(map(str, refusals.exceptions))}"
    except* MCPError:
        said = "failed: MCPError"
    return said


async def main() -> None:
    """Up, down, and up again."""
    service = Service()
    async with running(service) as url:
        for service.down in (False, True, False):
            if (wait := breakers[url].snapshot().retry_after) is not None:
                await anyio.sleep(wait)
            for _ in range(3):
                before = service.requests
                said = await calculate(url)
                print(f"{'down' if service.down else 'up  '}  {service.requests - before} requests  {said}")


if __name__ == "__main__":
    anyio.run(main)
