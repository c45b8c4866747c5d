# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[httpx2]", "openai>=3.54", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""The OpenAI SDK behind a circuit breaker, and a service on loopback that breaks: a refused call costs one attempt, no wait."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import openai
import uvicorn

from aiobreaker import BreakerRegistry, CircuitBreaker, ConsecutiveFailures
from aiobreaker.integrations.httpx2 import BreakerTransport

breakers = BreakerRegistry[str](lambda origin: CircuitBreaker(origin, trip=ConsecutiveFailures(5), open_for=1))


class Service:
    """Answers chat completions, or breaks down; and counts."""

    down = False
    requests = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer one request."""
        self.requests += 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice]}
        headers = [(b"content-type", b"application/json"), (b"retry-after-ms", b"50")]
        await send({"type": "http.response.start", "status": 503 if self.down else 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({} if self.down else answer).encode()})


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


async def ask(client: openai.AsyncOpenAI) -> str | None:
    """Say hello, and say what came of it."""
    try:
        answer = await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hello"}])
    except openai.InternalServerError as error:
        if error.response.headers.get("x-should-retry") == "false":
            return f"refused, come again in {error.response.headers['retry-after']} s"
        return f"failed: {error.status_code}"
    return answer.choices[0].message.content


async def main() -> None:
    """Up, down, and up again."""
    service = Service()
    pool = httpx2.AsyncHTTPTransport(limits=openai.DEFAULT_CONNECTION_LIMITS)
    guarded = BreakerTransport(pool, registry=breakers, on_open="response")
    async with running(service) as url:
        http = openai.DefaultAsyncHttpxClient(transport=guarded)
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", http_client=http) as client:
            for service.down in (False, True, False):
                if (wait := breakers[url].snapshot().retry_after) is not None:
                    await anyio.sleep(wait)
                for _ in range(4):
                    before = service.requests
                    said = await ask(client)
                    print(f"{'down' if service.down else 'up  '}  {service.requests - before} requests  {said}")


if __name__ == "__main__":
    anyio.run(main)
