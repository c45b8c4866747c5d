# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[httpx2]", "anthropic>=2.12", "uvicorn>=0.38"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""The Anthropic SDK with a circuit breaker as its middleware, against a service on loopback that is overloaded for a while."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import anyio
import uvicorn

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures

claude = CircuitBreaker(
    "claude",
    trip=ConsecutiveFailures(5),
    open_for=1,
    failure_on=anthropic.APIConnectionError,
    failure_if=lambda answer: answer.status_code in {500, 502, 503, 504, 529},
)


async def guarded(request: anthropic.APIRequest, call_next: anthropic.AsyncCallNext) -> anthropic.AsyncAPIResponse[Any]:
    """The breaker around every attempt of the SDK."""
    return await claude.call(call_next, request)


class Service:
    """Answers messages, or is overloaded; and counts."""

    overloaded = False
    requests = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer one request."""
        self.requests += 1
        said = [{"type": "text", "text": "hello"}]
        usage = {"input_tokens": 1, "output_tokens": 1}
        answer = {"id": "1", "type": "message", "role": "assistant", "model": "small", "content": said, "usage": usage}
        headers = [(b"content-type", b"application/json"), (b"retry-after-ms", b"50")]
        await send({"type": "http.response.start", "status": 529 if self.overloaded else 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({} if self.overloaded else answer).encode()})


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


async def ask(client: anthropic.AsyncAnthropic) -> str:
    """Say hello, and say what came of it."""
    try:
        answer = await client.messages.create(model="small", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
    except CircuitOpenError as refusal:
        return str(refusal)
    except anthropic.APIStatusError as error:
        return f"failed: {error.status_code}"
    return "".join(block.text for block in answer.content if block.type == "text")


async def main() -> None:
    """Well, overloaded, and well again."""
    service = Service()
    async with (
        running(service) as url,
        anthropic.AsyncAnthropic(api_key="none", base_url=url, middleware=[guarded]) as client,
    ):
        for service.overloaded in (False, True, False):
            if (wait := claude.snapshot().retry_after) is not None:
                await anyio.sleep(wait)
            for _ in range(4):
                before = service.requests
                said = await ask(client)
                print(f"{'overloaded' if service.overloaded else 'well      '}  {service.requests - before} requests  {said}")


if __name__ == "__main__":
    anyio.run(main)
