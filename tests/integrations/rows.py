"""The rows of the matrix: for each integration, how to make one guarded call."""

import itertools
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import anthropic
import anyio
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
import hishel
import hishel.httpx2
import httpx
import httpx2
import hypercorn
import hypercorn.asyncio
import hypercorn.trio
import mcp.client.streamable_http
import mcp.server
import mcp.types
import openai
import stamina
import tenacity
import trio.lowlevel

import aiobreaker.integrations.httpx
import aiobreaker.integrations.httpx2
import aiobreaker.integrations.stamina
import aiobreaker.integrations.tenacity
from aiobreaker import BreakerRegistry, CircuitBreaker
from aiobreaker.integrations.aiohttp import BreakerMiddleware
from aiobreaker.integrations.asgi import RefusalMiddleware
from aiobreaker.integrations.grpc import breaker_interceptors
from tests.integrations import rows_of_databases as databases
from tests.integrations.matrix import NO_TRIO, PATIENT, TROUBLES, Bench, Call, Opened, Row, Shape, World
from tests.integrations.service import bound


class HttpWorld:
    """The loopback service, and what it answers when all is well."""

    def __init__(self, bench: Bench, **ok: Any) -> None:
        self._service = bench.service
        self._clock = bench.clock
        self._ok = ok
        self._service.behave("ok", **ok)

    @property
    def seen(self) -> int:
        return len(self._service.requests)

    async def trouble(self, kind: str) -> None:
        if kind == "refused":
            self._service.close_port()
        elif kind == "5xx":
            self._service.behave("error", status=503)
        elif kind == "hang":
            self._service.behave("hang")
        elif kind == "slow":
            self._service.behave("ok", before=partial(self._clock.advance, 2.0), **self._ok)
        else:
            self._service.behave("die", **self._ok)

    async def heal(self) -> None:
        self._service.open_port()
        self._service.behave("ok", **self._ok)


def registry_of(breaker: CircuitBreaker) -> BreakerRegistry[Any]:
    """A registry that has but this breaker: more than one key is a mistake."""
    return BreakerRegistry(lambda _: breaker)


# -- without an integration


@asynccontextmanager
async def by_hand(bench: Bench) -> AsyncGenerator[Opened]:
    timeout = httpx2.Timeout(PATIENT, read=bench.answer_timeout)
    async with httpx2.AsyncClient(timeout=timeout, trust_env=False) as client:

        @bench.breaker
        async def call() -> int:
            response = await client.get(bench.service.url)
            return response.raise_for_status().status_code

        yield HttpWorld(bench), call


# -- httpx2, httpx: the same, twice


def over_httpx(library: Any, transport: Callable[..., Any], **settings: Any) -> Shape:
    @asynccontextmanager
    async def open_client(bench: Bench) -> AsyncGenerator[Opened]:
        timeout = library.Timeout(PATIENT, read=bench.answer_timeout)
        guarded = transport(registry=registry_of(bench.breaker), **settings)
        async with library.AsyncClient(transport=guarded, timeout=timeout) as client:

            async def call() -> object:
                return (await client.get(bench.service.url)).status_code

            yield HttpWorld(bench), call

    return Shape(open_client, f'`on_open="{settings["on_open"]}"`')


def both_ways(make: Callable[[str], Shape]) -> tuple[Shape, ...]:
    return make("raise"), make("response")


HTTPX2 = aiobreaker.integrations.httpx2.BreakerTransport
HTTPX = aiobreaker.integrations.httpx.BreakerTransport

# -- aiohttp


@asynccontextmanager
async def over_aiohttp(bench: Bench) -> AsyncGenerator[Opened]:
    timeout = aiohttp.ClientTimeout(total=PATIENT, sock_read=bench.answer_timeout)
    guard = BreakerMiddleware(registry=registry_of(bench.breaker))
    async with aiohttp.ClientSession(middlewares=(guard,), timeout=timeout) as session:

        async def call() -> int:
            async with session.get(bench.service.url) as response:
                await response.read()
                return response.status

        yield HttpWorld(bench), call


# -- SDKs over httpx2


def over_sdk(make: Callable[[Bench, httpx2.AsyncClient], tuple[World, Call]], on_open: Any) -> Shape:
    """An SDK over a guarded transport. SDKs close the client that they are given, if they are closed; here nobody else does."""

    @asynccontextmanager
    async def open_client(bench: Bench) -> AsyncGenerator[Opened]:
        timeout = httpx2.Timeout(PATIENT, read=bench.answer_timeout)
        guarded = HTTPX2(registry=registry_of(bench.breaker), on_open=on_open)
        async with httpx2.AsyncClient(transport=guarded, timeout=timeout) as client:
            yield make(bench, client)

    return Shape(open_client, f'`on_open="{on_open}"`')


COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
}
MESSAGE = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
JSON = {"content-type": "application/json"}


def with_openai(bench: Bench, client: httpx2.AsyncClient) -> Opened:
    sdk = openai.AsyncOpenAI(api_key="k", base_url=bench.service.url, http_client=client, timeout=client.timeout)
    # in trouble it retries, which takes its time; a refusal it must not retry by itself
    calm = sdk.with_options(max_retries=0)

    async def call() -> object:
        chosen = sdk if bench.breaker.snapshot().retry_after else calm
        answer = await chosen.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
        return answer.choices[0].message.content

    return HttpWorld(bench, body=json.dumps(COMPLETION), headers=JSON), call


def with_anthropic(bench: Bench, client: httpx2.AsyncClient) -> Opened:
    sdk = anthropic.AsyncAnthropic(api_key="k", base_url=bench.service.url, http_client=client, timeout=client.timeout)
    calm = sdk.with_options(max_retries=0)

    async def call() -> object:
        chosen = sdk if bench.breaker.snapshot().retry_after else calm
        answer = await chosen.messages.create(max_tokens=9, model="m", messages=[{"role": "user", "content": "hello"}])
        return answer.content[0].type

    return HttpWorld(bench, body=json.dumps(MESSAGE), headers=JSON), call


class McpWorld(HttpWorld):
    """A server of mcp's own, made anew for each request, in which nothing is left behind."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, body='{"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}', headers=JSON)
        self._service.behave("app", app=serve_mcp)

    async def heal(self) -> None:
        await super().heal()
        self._service.behave("app", app=serve_mcp)

    async def trouble(self, kind: str) -> None:
        await super().trouble(kind)
        if kind == "slow":
            self._service.behave("app", app=self._serve_slowly)

    async def _serve_slowly(self, scope: Any, receive: Any, send: Any) -> None:
        self._clock.advance(2.0)
        await serve_mcp(scope, receive, send)


async def serve_mcp(scope: Any, receive: Any, send: Any) -> None:
    server: mcp.server.Server[Any] = mcp.server.Server("empty", on_list_tools=no_tools)
    app = server.streamable_http_app(stateless_http=True, json_response=True)
    async with server.session_manager.run():
        await app(scope, receive, send)


async def no_tools(context: Any, params: object) -> mcp.types.ListToolsResult:
    return mcp.types.ListToolsResult(tools=[])


def with_mcp(bench: Bench, client: httpx2.AsyncClient) -> Opened:
    async def call() -> object:
        url = f"{bench.service.url}/mcp"
        async with (
            mcp.client.streamable_http.streamable_http_client(url, http_client=client) as (reading, writing),
            mcp.ClientSession(reading, writing) as session,
        ):
            # nothing before it, so that one call is one request; a server without sessions does not mind
            return len((await session.list_tools()).tools)

    return McpWorld(bench), call


def over_hishel(on_open: Any) -> Shape:
    @asynccontextmanager
    async def open_client(bench: Bench) -> AsyncGenerator[Opened]:
        timeout = httpx2.Timeout(PATIENT, read=bench.answer_timeout)
        guarded = HTTPX2(registry=registry_of(bench.breaker), on_open=on_open)
        with tempfile.TemporaryDirectory(prefix="pages") as folder:
            storage = hishel.AsyncSqliteStorage(database_path=f"{folder}/pages.db")
            cached = hishel.httpx2.AsyncCacheTransport(next_transport=guarded, storage=storage)
            async with httpx2.AsyncClient(transport=cached, timeout=timeout) as client:
                pages = itertools.count()

                async def call() -> object:  # a new page each time: one that is kept would be no call
                    return (await client.get(f"{bench.service.url}/{next(pages)}")).status_code

                yield HttpWorld(bench), call

    return Shape(open_client, f'`on_open="{on_open}"`')


# -- grpc, with a server of its own


class GrpcWorld:
    def __init__(self, bench: Bench) -> None:
        self.seen = 0
        self._clock = bench.clock
        self._kind = ""
        self._server: grpc.aio.Server | None = None
        self._held = bound(0)
        self.port = self._held.getsockname()[1]

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handlers = {"Stream": grpc.unary_stream_rpc_method_handler(self._stream)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Service", handlers),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def close(self) -> None:
        await self.stop()
        self._held.close()

    async def _stream(self, request: bytes, context: Any) -> AsyncGenerator[bytes]:
        self.seen += 1
        if self._kind == "hang":
            await anyio.sleep_forever()
        if self._kind == "5xx":
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        if self._kind == "slow":
            self._clock.advance(2.0)
        yield b"first"
        if self._kind == "dies":
            await context.abort(grpc.StatusCode.DATA_LOSS)
        yield b"second"

    async def trouble(self, kind: str) -> None:
        self._kind = kind
        if kind == "refused":
            await self.stop()

    async def heal(self) -> None:
        self._kind = ""
        if self._server is None:
            await self.start()


@asynccontextmanager
async def over_grpc(bench: Bench) -> AsyncGenerator[Opened]:
    world = GrpcWorld(bench)
    await world.start()
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{world.port}", interceptors=breaker_interceptors(bench.breaker)
        ) as channel:
            await channel.channel_ready()

            async def call() -> object:
                messages = channel.unary_stream("/Service/Stream")(b"", timeout=bench.answer_timeout)
                return b" ".join([message async for message in messages]).decode()

            yield world, call
    finally:
        await world.close()


# -- retries, outside of a breaker


def retried(retry: Callable[[Call], Call]) -> Shape:
    @asynccontextmanager
    async def open_client(bench: Bench) -> AsyncGenerator[Opened]:
        async with by_hand(bench) as (world, call):
            yield world, retry(call)

    return Shape(open_client)


LONGEST = 0.5
"""Seconds that a refusal is waited for: less than what the open circuits here ask for."""


def by_stamina(call: Call) -> Call:
    hook = aiobreaker.integrations.stamina.wait_when_refused(httpx2.HTTPError, max_wait=LONGEST)

    @stamina.retry(on=hook, attempts=2, wait_initial=0, wait_max=0, wait_jitter=0)
    async def again() -> object:
        return await call()

    return again


def by_tenacity(call: Call) -> Call:
    kit = aiobreaker.integrations.tenacity

    @tenacity.retry(
        retry=kit.retry_when_refused(tenacity.retry_if_exception_type(httpx2.HTTPError), max_wait=LONGEST),
        wait=kit.wait_when_refused(tenacity.wait_none()),
        stop=tenacity.stop_after_attempt(2),
        reraise=True,
    )
    async def again() -> object:
        return await call()

    return again


# -- servers


@asynccontextmanager
async def in_asgi(bench: Bench) -> AsyncGenerator[Opened]:
    """An app that asks the service, under hypercorn, in this loop."""
    async with by_hand(bench) as (world, ask):

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                raise RuntimeError("there is no lifespan here")
            await ask()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with served(RefusalMiddleware(app)) as url, httpx2.AsyncClient(timeout=PATIENT, trust_env=False) as client:

            async def call() -> object:
                response = await client.get(url)
                hint = response.headers.get("retry-after")
                return f"{response.status_code}, Retry-After: {hint}" if hint else response.status_code

            yield world, call


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[str]:
    stop = anyio.Event()
    config = hypercorn.Config()
    config.errorlog = config.accesslog = None
    config.graceful_timeout = PATIENT
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    config.bind = [f"fd://{listening.detach()}"]
    serve: Any = hypercorn.trio.serve if trio.lowlevel.in_trio_run() else hypercorn.asyncio.serve
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(serve, shutdown_trigger=stop.wait, mode="asgi"), app, config)
        yield f"http://{host}:{port}"
        stop.set()


# -- all of them

NOT_A_CLIENT = "the middleware answers refusals and judges no calls; what trips the breaker inside is in the row of that"

ROWS: tuple[Row, ...] = (
    Row("a breaker by hand", "guide.md", (Shape(by_hand),)),
    Row("httpx2", "integrations/httpx.md", both_ways(lambda way: over_httpx(httpx2, HTTPX2, on_open=way))),
    Row("httpx", "integrations/httpx.md", both_ways(lambda way: over_httpx(httpx, HTTPX, on_open=way))),
    Row("aiohttp", "integrations/aiohttp.md", (Shape(over_aiohttp),), {"trio": f"aiohttp {NO_TRIO}"}),
    Row("openai", "integrations/sdks.md", both_ways(lambda way: over_sdk(with_openai, way))),
    Row("anthropic", "integrations/sdks.md", (over_sdk(with_anthropic, "response"),)),
    Row("hishel", "integrations/sdks.md", both_ways(over_hishel)),
    Row("mcp", "integrations/sdks.md", both_ways(lambda way: over_sdk(with_mcp, way))),
    Row("grpc", "integrations/grpc.md", (Shape(over_grpc),), {"trio": f"grpc.aio {NO_TRIO}"}),
    Row(
        "asgi",
        "integrations/asgi.md",
        (Shape(in_asgi),),
        {**dict.fromkeys(TROUBLES, NOT_A_CLIENT), "cancellation": "the middleware holds no permit that could be lost"},
    ),
    *databases.ROWS,
    Row("stamina", "integrations/retries.md", (retried(by_stamina),)),
    Row("tenacity", "integrations/retries.md", (retried(by_tenacity),)),
)
