"""SDKs through the transport for httpx2: openai, anthropic, mcp and hishel as they are, against a server on loopback."""

import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anthropic
import anyio
import httpx2
import openai
import pytest
import uvicorn
from hishel import AsyncSqliteStorage
from hishel.httpx2 import AsyncCacheTransport
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer

from aiobreaker import AiobreakerError, BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, State
from aiobreaker.core.eras import Totals
from aiobreaker.integrations.httpx2 import BreakerTransport
from aiobreaker.testing import ManualClock
from tests.integrations.service import ASGI, Receive, Send, Service

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "sdks.md"

JSON = {"content-type": "application/json"}
AT_ONCE = {**JSON, "retry-after-ms": "1"}  # how long the SDKs wait before they try again
MODELS = json.dumps({"object": "list", "data": [{"id": "one"}, {"id": "two"}], "has_more": False}).encode()
ADDED = {"result": 3}


class Counting(httpx2.AsyncBaseTransport):
    """Counts how often a client tries."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self.wrapped = wrapped
        self.attempts = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.attempts += 1
        return await self.wrapped.handle_async_request(request)

    async def aclose(self) -> None:
        await self.wrapped.aclose()


class Guarded:
    """A guarded transport for one service, what has been tried, and the breaker."""

    def __init__(self, url: str, on_open: Any, trip: int) -> None:
        self.clock = ManualClock()
        registry = BreakerRegistry[str](
            lambda name: CircuitBreaker(name, trip=ConsecutiveFailures(trip), open_for=30, clock=self.clock)
        )
        self.breaker = registry[url]
        self.transport = Counting(BreakerTransport(registry=registry, on_open=on_open))
        self.http = httpx2.AsyncClient(transport=self.transport)
        self.url = url

    def attempts(self) -> int:
        """How often a client has tried since the last time."""
        attempts, self.transport.attempts = self.transport.attempts, 0
        return attempts

    def totals(self) -> Totals:
        return self.breaker.snapshot().totals


@contextlib.asynccontextmanager
async def guarding(service: "Service | Tools", on_open: str, trip: int = 1) -> AsyncGenerator[Guarded]:
    """What a test needs, for as long as it may take."""
    with anyio.fail_after(20):
        guarded = Guarded(service.url, on_open, trip)
        async with guarded.http:
            yield guarded


SDK: TypeAlias = Callable[..., "openai.AsyncOpenAI | anthropic.AsyncAnthropic"]


def an_openai(guarded: Guarded, **settings: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="key", base_url=f"{guarded.url}/v1", http_client=guarded.http, **settings)


def an_anthropic(guarded: Guarded, **settings: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="key", base_url=guarded.url, http_client=guarded.http, **settings)


both = pytest.mark.parametrize("sdk", [an_openai, an_anthropic])


# -- openai and anthropic, answers


@both
async def test_with_a_response_a_refused_call_makes_one_attempt(service: Service, sdk: SDK) -> None:
    async with guarding(service, "response") as guarded:
        guarded.breaker.open(20)
        async with sdk(guarded) as client:
            assert client.max_retries == 2
            with pytest.raises((openai.InternalServerError, anthropic.ServiceUnavailableError)) as raised:
                await client.models.list()
        error: Any = raised.value
        assert (error.status_code, error.response.headers["retry-after"]) == (503, "20")
        assert guarded.attempts() == 1
        assert service.requests == []


@both
async def test_the_sdks_own_retries_stop_when_the_circuit_opens(service: Service, sdk: SDK) -> None:
    service.behave("error", status=500, headers=AT_ONCE)
    async with guarding(service, "response", trip=5) as guarded:
        async with sdk(guarded) as client:
            tried = []
            for _ in range(4):
                with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
                    await client.models.list()
                tried.append(guarded.attempts())
        assert tried == [3, 3, 1, 1]  # of the sixth the refusal is the answer
        assert len(service.requests) == 5


@both
@pytest.mark.parametrize("on_open", ["raise", "response"])
async def test_it_recovers(service: Service, sdk: SDK, on_open: str) -> None:
    service.behave("error", status=503, headers=AT_ONCE)
    async with guarding(service, on_open) as guarded, sdk(guarded, max_retries=0) as client:
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
            await client.models.list()
        assert guarded.breaker.state is State.OPEN
        service.behave("ok", body=MODELS, headers=JSON)
        guarded.clock.advance(30)
        assert len((await client.models.list()).data) == 2
        assert guarded.breaker.state is State.CLOSED


async def test_raised_through_openai_it_arrives_as_it_is_after_one_attempt(service: Service) -> None:
    async with guarding(service, "raise") as guarded:
        guarded.breaker.open(20)
        async with an_openai(guarded) as client:
            with pytest.raises(CircuitOpenError) as raised:
                await client.models.list()
        assert (raised.value.name, raised.value.retry_after) == (service.url, 20)
        assert guarded.attempts() == 1
        assert service.requests == []


async def test_raised_through_anthropic_it_is_wrapped_and_repeated(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.001)
    async with guarding(service, "raise") as guarded:
        guarded.breaker.open(20)
        async with an_anthropic(guarded) as client:
            with pytest.raises(anthropic.APIConnectionError) as raised:
                await client.models.list()
        assert isinstance(raised.value.__cause__, CircuitOpenError)
        assert guarded.attempts() == 3
        assert service.requests == []


# -- openai and anthropic, streams


def streamed(*events: str, end: float | None) -> ASGI:
    """Sends these, and ends the body so many seconds later; or breaks off, if never."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        if end is None:
            return
        with anyio.move_on_after(end):
            while (await receive())["type"] != "http.disconnect":
                pass
        await send({"type": "http.response.body", "body": b""})

    return app


def openai_words(*words: str) -> list[str]:
    chunks: list[dict[str, Any]] = [
        {
            "id": "a",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": word}}],
        }
        for word in words
    ]
    return [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]


def anthropic_words(*words: str) -> list[str]:
    message = {"id": "a", "type": "message", "role": "assistant", "content": [], "model": "m"}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


async def openai_stream(guarded: Guarded) -> openai.AsyncStream[Any]:
    asked: Any = [{"role": "user", "content": "hello"}]
    return await an_openai(guarded, max_retries=0).chat.completions.create(model="m", messages=asked, stream=True)


async def anthropic_stream(guarded: Guarded) -> anthropic.AsyncStream[Any]:
    asked: Any = [{"role": "user", "content": "hello"}]
    return await an_anthropic(guarded, max_retries=0).messages.create(model="m", max_tokens=9, messages=asked, stream=True)


OPENAI_END = "data: [DONE]\n\n"
ANTHROPIC_END = 'event: message_stop\ndata: {"type": "message_stop"}\n\n'

Stream: TypeAlias = Callable[[Guarded], Awaitable[Any]]

streams = pytest.mark.parametrize(
    ("stream", "words", "end"),
    [(openai_stream, openai_words("a", "b"), OPENAI_END), (anthropic_stream, anthropic_words("a", "b"), ANTHROPIC_END)],
    ids=["openai", "anthropic"],
)
# trio says so when an SDK leaves its own generators to the collector
untidy = pytest.mark.filterwarnings("ignore:Exception ignored in.*async_generator:pytest.PytestUnraisableExceptionWarning")


@untidy
@streams
@pytest.mark.parametrize("later", [0.0, 0.02], ids=["at once", "a moment later"])
async def test_a_stream_that_is_read_to_its_end_is_a_success(
    service: Service, stream: Stream, words: list[str], end: str, later: float
) -> None:
    service.behave("app", app=streamed(*words, end, end=later))
    async with guarding(service, "raise") as guarded:
        async with await stream(guarded) as pieces:
            assert len([piece async for piece in pieces]) >= len(words)
        assert guarded.totals() == Totals(successes=1)


@untidy
@streams
async def test_a_stream_that_dies_half_way_is_a_failure(service: Service, stream: Stream, words: list[str], end: str) -> None:
    service.behave("app", app=streamed(*words, end=None))
    async with guarding(service, "raise") as guarded:
        with pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
            async with await stream(guarded) as pieces:
                async for _ in pieces:
                    pass
        with pytest.raises((CircuitOpenError, anthropic.APIConnectionError)):
            await stream(guarded)
        assert len(service.requests) == 1


@untidy
@streams
async def test_a_stream_that_is_left_early_says_nothing(service: Service, stream: Stream, words: list[str], end: str) -> None:
    service.behave("app", app=streamed(*words, end, end=5))
    async with guarding(service, "raise") as guarded:
        async with await stream(guarded) as pieces:
            async for _ in pieces:
                break
        assert guarded.totals() == Totals(ignored=1)


# -- mcp


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an app that needs its lifespan, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.001)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Tools:
    """An MCP server with one tool, that counts the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.requests = 0
        tools = MCPServer("tools", log_level="CRITICAL")

        @tools.tool()
        def add(a: int, b: int) -> int:
            return a + b

        inside = tools.streamable_http_app()

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            self.requests += scope["type"] == "http"
            await inside(scope, receive, send)

        self.app = app


@pytest.fixture
def tools() -> Iterator[Tools]:
    tools = Tools()
    with served(tools.app) as tools.url:
        yield tools


def connection(tools: Tools, guarded: Guarded) -> Any:
    return streamable_http_client(f"{tools.url}/mcp", http_client=guarded.http)


async def add(client: Client) -> object:
    return (await client.call_tool("add", {"a": 1, "b": 2})).structured_content


def leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]


async def test_through_mcp_a_refusal_arrives_in_a_group(tools: Tools) -> None:
    async with guarding(tools, "raise") as guarded:
        with pytest.raises(ExceptionGroup) as raised:
            async with Client(connection(tools, guarded)) as client:
                assert await add(client) == ADDED
                assert guarded.totals().successes == guarded.attempts() == tools.requests
                guarded.breaker.open(20)
                tools.requests = 0
                await add(client)
        [refusal] = leaves(raised.value)
        assert isinstance(refusal, CircuitOpenError)
        assert refusal.retry_after == 20
        assert (guarded.attempts(), tools.requests) == (1, 0)


async def test_an_mcp_client_that_finds_the_circuit_open_gets_the_refusal_in_a_group(tools: Tools) -> None:
    async with guarding(tools, "raise") as guarded:
        guarded.breaker.open(20)
        with pytest.raises(ExceptionGroup) as raised:
            async with Client(connection(tools, guarded)):
                pytest.fail("connected")
        assert [type(leaf) for leaf in leaves(raised.value)] == [CircuitOpenError]
        assert (guarded.attempts(), tools.requests) == (1, 0)


async def test_with_a_response_an_mcp_client_lives_on(tools: Tools) -> None:
    async with guarding(tools, "response") as guarded, Client(connection(tools, guarded)) as client:
        assert await add(client) == ADDED
        guarded.breaker.open(20)
        before = tools.requests
        guarded.attempts()
        with pytest.raises(MCPError, match="Server returned an error response"):
            await add(client)
        assert (guarded.attempts(), tools.requests) == (1, before)
        guarded.clock.advance(20)
        assert await add(client) == ADDED
        assert guarded.breaker.state is State.CLOSED


@untidy
async def test_an_event_stream_of_mcp_is_never_a_success(tools: Tools) -> None:
    async with guarding(tools, "raise") as guarded, Client(connection(tools, guarded), mode="legacy") as client:
        before = guarded.totals()
        assert await add(client) == ADDED
        after = guarded.totals()
        assert after.successes == before.successes
        assert after.ignored > before.ignored


@untidy
async def test_a_breaker_around_the_calls_of_mcp_refuses_in_no_group_and_the_connection_lives_on(tools: Tools) -> None:
    calls = CircuitBreaker("tools", failure_on=(MCPError, OSError))
    with anyio.fail_after(20):
        async with Client(streamable_http_client(f"{tools.url}/mcp"), mode="legacy") as client:
            result = await calls.call(client.call_tool, "add", {"a": 1, "b": 2})
            assert result.structured_content == ADDED
            calls.force_open()
            with pytest.raises(CircuitOpenError):
                await calls.call(client.call_tool, "add", {"a": 1, "b": 2})
            assert await add(client) == ADDED
    assert calls.snapshot().totals == Totals(successes=1, refused=1)


# -- hishel


@pytest.mark.parametrize("on_open", ["raise", "response"])
async def test_hishel_above_it_still_serves_cached_pages_while_open(service: Service, tmp_path: Path, on_open: str) -> None:
    async with guarding(service, on_open) as guarded:
        storage = AsyncSqliteStorage(database_path=tmp_path / "pages.db")
        cache = AsyncCacheTransport(next_transport=guarded.transport, storage=storage)
        async with httpx2.AsyncClient(transport=cache) as client:

            async def page(path: str) -> tuple[int, str]:
                response = await client.get(f"{service.url}{path}")
                return response.status_code, response.text

            service.behave("ok", body="kept")
            assert await page("/a") == (200, "kept")
            guarded.breaker.open(20)
            service.behave("ok", body="new")
            assert await page("/a") == (200, "kept")
            for _ in range(2):
                if on_open == "raise":
                    with pytest.raises(CircuitOpenError):
                        await page("/b")
                else:
                    assert (await page("/b"))[0] == 503
            assert len(service.requests) == 1
            guarded.clock.advance(20)
            assert await page("/b") == (200, "new")  # the refusal is not what was kept
            assert guarded.breaker.state is State.CLOSED
            assert await page("/a") == (200, "kept")
        assert guarded.totals() == Totals(successes=2, refused=2)  # what came from the cache is no sign of life


# -- the page

BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def played(number: int, url: str) -> dict[str, Any]:
    """The names of a block whose main function is for us to run."""
    code = BLOCKS[number].replace("https://api.example.com", url).replace("anyio.run(main)\n", "")
    names: dict[str, Any] = {}
    exec(compile(code, f"{PAGE.name}, block {number}", "exec"), names)
    return names


@pytest.mark.parametrize(
    ("number", "refused"),
    [
        (0, r"503, come again in \d+ s"),
        (1, r"circuit breaker 'claude' is open: .*"),
        (2, r"circuit breaker 'http://127.0.0.1:\d+' is open: .*"),
    ],
    ids=["openai", "anthropic", "anthropic laid bare"],
)
async def test_the_page_says_what_the_sdks_do(
    service: Service, number: int, refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.behave("ok", body=MODELS, headers=JSON)
    for opened in (False, True):
        names = played(number, service.url)
        breaker = names["claude"] if "claude" in names else names["breakers"][service.url]
        if opened:
            breaker.open()
        with anyio.fail_after(20):
            await names["main"]()
    assert len(service.requests) == 1
    answered, told = capsys.readouterr().out.splitlines()
    assert answered == "2 models"
    assert re.fullmatch(refused, told)


async def test_the_pages_middleware_for_anthropic_heeds_the_services_own_hint(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.behave("error", status=529, headers={**AT_ONCE, "retry-after": "60"})
    names = played(1, service.url)
    with anyio.fail_after(20):
        await names["main"]()
    assert len(service.requests) == 1  # the SDK's second attempt is refused
    assert names["claude"].snapshot().totals == Totals(failures=1, refused=1)
    assert "asked to be left alone for 60 s" in capsys.readouterr().out


async def test_the_page_says_what_mcp_does(tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    names = played(3, tools.url)
    with anyio.fail_after(20):
        await names["main"]()
        names["breakers"][tools.url].force_open()
        await names["main"]()
    assert capsys.readouterr().out.splitlines() == [str(ADDED), f"circuit breaker '{tools.url}' is forced open: forced open"]


async def test_the_page_says_what_hishel_does(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with anyio.fail_after(20):
        await played(4, service.url)["main"]()
        names = played(4, service.url)
        names["breakers"][service.url].force_open()
        await names["main"]()
    assert capsys.readouterr().out.splitlines() == [
        "/prices ok from the service",
        "/prices ok from the cache",
        "/stock ok from the service",
        *["/prices ok from the cache"] * 2,
        "/stock ok from the cache",
    ]


def test_a_refusal_is_no_error_of_any_of_them() -> None:
    theirs = (openai.OpenAIError, anthropic.AnthropicError, MCPError, httpx2.HTTPError, OSError)
    assert not issubclass(CircuitOpenError, theirs)
    assert not any(issubclass(each, AiobreakerError) for each in theirs)
