"""The client middleware of aiohttp, with real sessions against a real server. aiohttp runs on asyncio only, and so do these."""

import asyncio
import gc
import re
import socket
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiobreaker import (
    BreakerRegistry,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    SlowCallRate,
    State,
    Trials,
)
from aiobreaker.core.eras import Totals
from aiobreaker.core.windows import LastCalls
from aiobreaker.integrations.aiohttp import BreakerMiddleware
from aiobreaker.testing import ManualClock
from tests.integrations.service import ASGI, Message, Receive, Send, Service

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "aiohttp.md"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


class Guarded:
    """A session behind the middleware, and the breakers."""

    def __init__(self, session: aiohttp.ClientSession, middleware: BreakerMiddleware, clock: ManualClock) -> None:
        self.session = session
        self.middleware = middleware
        self.clock = clock

    def breaker(self, url: str) -> CircuitBreaker:
        assert url in self.middleware.registry
        return self.middleware.registry[url]

    def totals(self, url: str) -> Totals:
        return self.breaker(url).snapshot().totals


@asynccontextmanager
async def guarded(
    *,
    trip: int = 1,
    breaker: dict[str, Any] | None = None,
    key: Any = None,
    failure_if: Any = None,
    **session: Any,
) -> AsyncGenerator[Guarded]:
    clock = ManualClock(1000.0)
    settings: dict[str, Any] = {"trip": ConsecutiveFailures(trip), "clock": clock, **(breaker or {})}
    registry = BreakerRegistry[Any](lambda name: CircuitBreaker(str(name), **settings))
    middleware = BreakerMiddleware(registry=registry, key=key, failure_if=failure_if)
    async with asyncio.timeout(20), aiohttp.ClientSession(middlewares=(middleware,), **session) as client:
        yield Guarded(client, middleware, clock)
    for seen in registry.snapshot().values():
        assert seen.in_flight == 0


@asynccontextmanager
async def scripted(script: Script) -> AsyncGenerator[str]:
    """A server that reads the head of one request on each connection, does as the script says, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with anyio.move_on_after(1):
                with suppress(ConnectionError):
                    await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.sleep(0)


async def get(guarded: Guarded, url: str, **how: Any) -> tuple[int, bytes]:
    async with guarded.session.get(url, **how) as response:
        return response.status, await response.read()


def streaming(*chunks: bytes, between: anyio.Event | None = None, status: int = 200) -> ASGI:
    """Sends the first chunk, then waits, for ever if there is nothing to wait for."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        length = str(sum(map(len, chunks)) + 1).encode()
        start: Message = {"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]}
        if status in {301, 307}:
            start["headers"].append((b"location", b"/there"))
        if scope["path"] == "/there":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"there"})
            return
        await send(start)
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    return app


# -- which breaker


async def test_every_origin_has_a_breaker(service: Service) -> None:
    async with guarded() as client:
        await get(client, f"{service.url}/a?b=c")
        await get(client, f"{service.url}/d")
        await get(client, f"http://localhost:{service.port}/")
        assert list(client.middleware.registry) == [service.url, f"http://localhost:{service.port}"]
        assert client.totals(service.url) == Totals(successes=2)


async def test_default_ports_are_normalised(service: Service) -> None:
    async def answer(request: aiohttp.ClientRequest, handler: Any) -> Any:
        raise BulkheadFullError("elsewhere")

    middleware = BreakerMiddleware()
    async with aiohttp.ClientSession(middlewares=(middleware, answer)) as session:
        for url in (
            "http://A.example/x",
            "http://a.example:80",
            "https://a.example:443",
            "http://[::1]:8080",
            "ws://a.example",
        ):
            with pytest.raises(BulkheadFullError):
                await session.get(url)
    assert list(middleware.registry) == ["http://a.example", "https://a.example", "http://[::1]:8080", "ws://a.example"]


async def test_the_key_may_be_chosen(service: Service) -> None:
    async with guarded(key=lambda request: (request.method, request.url.path)) as client:
        service.behave("error", status=500)
        await get(client, f"{service.url}/a")
        with pytest.raises(CircuitOpenError, match=re.escape("('GET', '/a')")):
            await get(client, f"{service.url}/a")
        service.behave("ok")
        await get(client, f"{service.url}/b")
        assert list(client.middleware.registry) == [("GET", "/a"), ("GET", "/b")]


async def test_without_settings_it_opens_after_five_failures(service: Service) -> None:
    service.behave("error", status=502)
    middleware = BreakerMiddleware()
    async with asyncio.timeout(20), aiohttp.ClientSession(middlewares=(middleware,)) as session:
        for _ in range(5):
            async with session.get(service.url) as response:
                assert response.status == 502
        with pytest.raises(CircuitOpenError, match=re.escape(service.url)):
            await session.get(service.url)
    assert len(service.requests) == 5


# -- a refusal


async def test_a_refused_request_never_reaches_the_wire_and_says_when_to_come_again(service: Service) -> None:
    async with guarded(raise_for_status=True) as client:
        service.behave("error", status=503)
        with pytest.raises(aiohttp.ClientResponseError):
            await client.session.post(service.url, data=b"first")
        service.behave("ok")
        client.clock.advance(10)
        for _ in range(100):
            with pytest.raises(CircuitOpenError) as raised:
                await client.session.post(service.url, data=b"second")
        assert (raised.value.name, raised.value.retry_after) == (service.url, 20.0)
        assert raised.value.__cause__ is None
        assert not isinstance(raised.value, aiohttp.ClientError | OSError)
        assert client.totals(service.url).refused == 100
    assert service.bodies == [b"first"]


async def test_it_recovers(service: Service) -> None:
    async with guarded(breaker={"trials": Trials(2, concurrent=1)}) as client:
        service.close_port()
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(client, service.url)
        service.open_port()
        client.clock.advance(30)
        assert await get(client, service.url) == (200, b"ok")
        assert client.breaker(service.url).state is State.HALF_OPEN
        assert await get(client, service.url) == (200, b"ok")
        assert client.breaker(service.url).state is State.CLOSED


async def test_a_trial_lasts_until_the_end_of_its_body(service: Service) -> None:
    async with guarded() as client:
        await get(client, service.url)
        breaker = client.breaker(service.url)
        breaker.open(5)
        client.clock.advance(5)
        service.behave("app", app=streaming(b"half"))
        async with client.session.get(service.url) as response:
            assert await response.content.readany() == b"half"
            assert (breaker.state, breaker.snapshot().in_flight) == (State.HALF_OPEN, 1)
            with pytest.raises(CircuitOpenError):
                await client.session.get(service.url)
        assert breaker.state is State.HALF_OPEN  # that said nothing, and gave the slot back
        service.behave("ok")
        await get(client, service.url)
        assert breaker.state is State.CLOSED


# -- statuses


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_these_statuses_are_failures_whatever_becomes_of_the_body(service: Service, status: int) -> None:
    async with guarded(trip=2) as client:
        service.behave("error", status=status)
        assert await get(client, service.url) == (status, b"error")
        service.behave("app", app=streaming(b"half", status=status))
        async with client.session.get(service.url):
            assert client.breaker(service.url).state is State.OPEN
        assert client.totals(service.url).failures == 2


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 429, 501, 505])
async def test_others_are_not(service: Service, status: int) -> None:
    body = b"" if status in {204, 304} else b"body"
    async with guarded() as client:
        service.behave("ok", status=status, body=body)
        assert await get(client, service.url) == (status, body)
        seen = client.breaker(service.url).snapshot()
        assert (seen.state, seen.failures, seen.calls) == (State.CLOSED, 0, 0 if status == 429 else 1)


async def test_failure_if_chooses(service: Service) -> None:
    async with guarded(failure_if=lambda response: response.headers["X-Kind"] == "bad") as client:
        service.behave("error", status=503, headers={"X-Kind": "good"})
        await get(client, service.url)
        assert client.breaker(service.url).state is State.CLOSED
        service.behave("ok", headers={"X-Kind": "bad"})
        await get(client, service.url)
        assert client.breaker(service.url).state is State.OPEN


async def test_a_breakers_own_failure_if_comes_before_the_default(service: Service) -> None:
    async with guarded(breaker={"failure_if": lambda response: response.status == 404}) as client:
        service.behave("error", status=503)
        await get(client, service.url)
        service.behave("error", status=404)
        await get(client, service.url)
        with pytest.raises(CircuitOpenError):
            await get(client, service.url)


async def test_what_failure_if_raises_is_raised_and_nothing_stays_open(service: Service) -> None:
    def broken(response: aiohttp.ClientResponse) -> bool:
        raise ZeroDivisionError

    async with guarded(failure_if=broken) as client:
        service.behave("app", app=streaming(b"half"))
        with pytest.raises(ZeroDivisionError):
            await client.session.get(service.url)
        assert client.totals(service.url).ignored == 1


@pytest.mark.parametrize("how", ["seconds", "date"])
async def test_too_many_requests_opens_for_its_retry_after(service: Service, how: str) -> None:
    async with guarded(trip=5) as client:
        asked = "12" if how == "seconds" else formatdate(time() + 12, usegmt=True)
        service.behave("error", status=429, headers={"Retry-After": asked})
        assert (await get(client, service.url))[0] == 429
        seen = client.breaker(service.url).snapshot()
        assert (seen.state, seen.failures) == (State.OPEN, 0)
        assert seen.retry_after == pytest.approx(12, abs=2)
        with pytest.raises(CircuitOpenError):
            await get(client, service.url)
        client.clock.advance(12)
        service.behave("ok")
        await get(client, service.url)
        assert client.breaker(service.url).state is State.CLOSED
    assert len(service.requests) == 2


@pytest.mark.parametrize("asked", ["86400", "soon", "-1", "0"])
async def test_a_hint_is_followed_for_so_long_and_if_it_makes_sense(service: Service, asked: str) -> None:
    async with guarded(breaker={"max_retry_after": 60}) as client:
        service.behave("error", status=429, headers={"Retry-After": asked})
        await get(client, service.url)
        assert client.breaker(service.url).snapshot().retry_after == (60 if asked == "86400" else None)


async def test_a_breakers_own_retry_after_comes_first(service: Service) -> None:
    own = {"retry_after": lambda subject: subject.headers.get("X-Wait"), "trip": ConsecutiveFailures(5)}
    async with guarded(breaker=own) as client:
        service.behave("error", status=429, headers={"Retry-After": "12"})
        await get(client, service.url)
        assert client.breaker(service.url).state is State.CLOSED
        service.behave("error", status=503, headers={"X-Wait": "7"})
        await get(client, service.url)
        seen = client.breaker(service.url).snapshot()
        assert (seen.retry_after, seen.totals.failures) == (7, 1)


# -- errors


async def test_a_refused_connection_is_a_failure(service: Service) -> None:
    async with guarded() as client:
        service.close_port()
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(client, service.url)
        with pytest.raises(CircuitOpenError) as raised:
            await get(client, service.url)
        assert raised.value.last_failure is not None
        assert raised.value.last_failure.type == "ClientConnectorError"


@pytest.mark.parametrize("limit", ["total", "sock_read"])
async def test_no_answer_in_time_is_a_failure(service: Service, limit: str) -> None:
    async with guarded(timeout=aiohttp.ClientTimeout(**{limit: 0.15})) as client:
        service.behave("hang")
        with pytest.raises(TimeoutError):
            await get(client, service.url)
        with pytest.raises(CircuitOpenError):
            await get(client, service.url)


@pytest.mark.parametrize("limit", ["total", "connect", "sock_connect"])
async def test_no_connection_in_time_is_a_failure(limit: str) -> None:
    limits: dict[str, Any] = {"total": None, limit: 0.15}
    timeout = aiohttp.ClientTimeout(**limits)
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    callers = [socket.socket() for _ in range(3)]  # who fill up the line, so that nobody else gets a connection
    try:
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with guarded(timeout=timeout) as client:
            with pytest.raises(TimeoutError):
                await get(client, url)
            assert client.breaker(url).state is State.OPEN
            assert client.totals(url).cancelled == 0
    finally:
        for each in (*callers, full):
            each.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def talks_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello there\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "error"), [(hangs_up, aiohttp.ServerDisconnectedError), (talks_nonsense, aiohttp.ClientResponseError)]
)
async def test_who_hangs_up_or_speaks_no_http_has_failed(script: Script, error: type[Exception]) -> None:
    async with scripted(script) as url, guarded() as client:
        with pytest.raises(error):
            await client.session.post(url)  # which aiohttp does not repeat by itself
        with pytest.raises(CircuitOpenError):
            await client.session.post(url)


async def test_what_aiohttp_repeats_by_itself_is_a_call_of_its_own() -> None:
    async with scripted(hangs_up) as url, guarded(trip=3) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.session.get(url)
        assert client.totals(url).failures == 2
        with pytest.raises(CircuitOpenError):  # the third has opened it, and the repetition is refused
            await client.session.get(url)


async def test_a_breakers_own_rules_choose_among_errors(service: Service) -> None:
    async with guarded(breaker={"ignore": aiohttp.ClientConnectorError}) as client:
        service.close_port()
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(client, service.url)
        assert client.totals(service.url).ignored == 1


# -- what is our own doing


@pytest.mark.parametrize("limit", ["total", "connect"])
async def test_a_full_pool_is_no_failure(service: Service, limit: str) -> None:
    service.behave("hang")
    limits: dict[str, Any] = {"total": None, limit: 0.1}
    timeout = aiohttp.ClientTimeout(**limits)
    async with guarded(connector=aiohttp.TCPConnector(limit=1)) as client, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(get(client, service.url))
        while not service.requests:
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await get(client, service.url, timeout=timeout)
        assert client.totals(service.url).ignored == 1
        assert client.breaker(service.url).state is State.CLOSED
        running.cancel()
    assert len(service.requests) == 1


async def test_what_the_body_of_the_request_raises_is_no_failure(service: Service) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    async with guarded() as client:
        with pytest.raises(aiohttp.ClientConnectionError, match="ZeroDivisionError"):
            await client.session.post(service.url, data=body())
        assert client.totals(service.url).ignored == 1


async def test_a_guard_further_in_that_refuses_is_no_failure(service: Service) -> None:
    async def full(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise BulkheadFullError("bulkhead")

    async def wrong(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise ExceptionGroup("several", [ZeroDivisionError()])

    async with guarded() as client:
        outer = client.middleware
        with pytest.raises(BulkheadFullError):
            await client.session.get(service.url, middlewares=(outer, full))
        with pytest.raises(ExceptionGroup):
            await client.session.get(service.url, middlewares=(outer, wrong))
        assert client.totals(service.url).ignored == 2


async def test_calls_that_fall_with_the_session_are_not_counted(service: Service) -> None:
    async with guarded() as client:
        service.behave("app", app=streaming(b"half"))
        streamed = await client.session.get(service.url)
        service.behave("hang")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(outcome(client.session.post(service.url)))
            while len(service.requests) < 2:
                await asyncio.sleep(0.001)
            await client.session.close()
        assert isinstance(waiting.result(), aiohttp.ServerDisconnectedError)
        streamed.release()
        assert client.totals(service.url) == Totals(ignored=2)


async def outcome(awaitable: Awaitable[object]) -> object:
    try:
        return await awaitable
    except Exception as error:
        return error


async def test_cancelled_requests_say_nothing(service: Service) -> None:
    async with guarded() as client:
        service.behave("hang")
        with anyio.move_on_after(0.05) as scope:
            await get(client, service.url)
        assert scope.cancelled_caught
        service.behave("app", app=streaming(b"half"))
        with anyio.move_on_after(0.05) as scope:
            await get(client, service.url)
        assert scope.cancelled_caught
        seen = client.breaker(service.url).snapshot()
        assert (seen.state, seen.in_flight, seen.failures) == (State.CLOSED, 0, 0)
        assert seen.totals.cancelled + seen.totals.ignored == 2


async def test_a_cancelled_trial_gives_its_slot_back(service: Service) -> None:
    async with guarded() as client:
        await get(client, service.url)
        breaker = client.breaker(service.url)
        breaker.open(5)
        client.clock.advance(5)
        service.behave("hang")
        with anyio.move_on_after(0.05):
            await get(client, service.url)
        assert breaker.state is State.HALF_OPEN
        service.behave("ok")
        await get(client, service.url)
        assert breaker.state is State.CLOSED


# -- bodies


async def read(response: aiohttp.ClientResponse) -> None:
    await response.read()


async def iterate(response: aiohttp.ClientResponse) -> None:
    async for _ in response.content.iter_any():
        pass


@pytest.mark.parametrize("way", [read, iterate])
async def test_a_body_that_dies_half_way_is_a_failure(
    service: Service, way: Callable[[aiohttp.ClientResponse], Awaitable[None]]
) -> None:
    async with guarded() as client:
        service.behave("die")
        async with client.session.get(service.url) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await way(response)
        with pytest.raises(CircuitOpenError) as raised:
            await client.session.get(service.url)
        assert raised.value.last_failure is not None
        assert raised.value.last_failure.type == "ClientPayloadError"


async def test_the_breakers_rules_are_asked_once_about_a_body_that_dies(service: Service) -> None:
    asked: list[Exception] = []

    def rule(error: Exception) -> bool:
        asked.append(error)
        return True

    async with guarded(breaker={"failure_on": rule}) as client:
        service.behave("die")
        with pytest.raises(aiohttp.ClientPayloadError):
            await get(client, service.url)
        gc.collect()
    assert [type(error) for error in asked] == [aiohttp.ClientPayloadError]


async def test_a_body_that_has_died_is_a_failure_even_if_nobody_reads_on(service: Service) -> None:
    async with guarded() as client:
        service.behave("die")
        async with client.session.get(service.url) as response:
            while response.content.exception() is None:
                await asyncio.sleep(0.001)
        assert client.breaker(service.url).state is State.OPEN


@pytest.mark.parametrize("limit", ["total", "sock_read"])
async def test_a_body_that_hangs_half_way_is_a_failure(service: Service, limit: str) -> None:
    async with guarded(timeout=aiohttp.ClientTimeout(**{limit: 0.15})) as client:
        service.behave("app", app=streaming(b"half"))
        async with client.session.get(service.url) as response:
            with pytest.raises(TimeoutError):
                await response.read()
        with pytest.raises(CircuitOpenError):
            await client.session.get(service.url)


async def test_a_body_that_turns_into_nonsense_is_a_failure_though_aiohttp_tells_no_reader() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        await reader.read(1)
        writer.write(b"nonsense\r\n")
        await writer.drain()
        await reader.read(1)

    async with scripted(script) as url, guarded() as client:
        async with client.session.get(url) as response:
            assert await response.content.readany() == b"abc"
            connection = response.connection
            assert connection is not None
            assert connection.protocol is not None
            assert connection.transport is not None
            connection.transport.write(b"!")
            while connection.protocol.exception() is None:
                await asyncio.sleep(0.001)
        assert client.breaker(url).state is State.OPEN


@pytest.mark.parametrize("how", ["leave", "release", "close"])
async def test_a_body_that_is_closed_early_says_nothing(service: Service, how: str) -> None:
    async with guarded() as client:
        service.behave("app", app=streaming(b"half"))
        async with client.session.get(service.url) as response:
            assert await response.content.readany() == b"half"
            assert client.breaker(service.url).snapshot().in_flight == 1
            if how != "leave":
                getattr(response, how)()
                assert client.breaker(service.url).snapshot().in_flight == 0
        assert client.totals(service.url) == Totals(ignored=1)


async def test_a_body_that_has_come_is_a_success_read_or_not(service: Service) -> None:
    async with guarded() as client:
        async with client.session.get(service.url) as response:
            await response.content.wait_eof()
        async with client.session.head(service.url):
            pass
        assert client.breaker(service.url).snapshot().calls == 2


async def test_a_response_that_is_thrown_away_gives_its_permit_back(service: Service) -> None:
    async with guarded() as client:
        service.behave("app", app=streaming(b"half"))
        response: Any = await client.session.get(service.url)
        assert client.breaker(service.url).snapshot().in_flight == 1
        service.drop()
        while response.content.exception() is None:
            await asyncio.sleep(0.001)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # aiohttp's, if it still has the connection
            del response
            gc.collect()
        assert client.breaker(service.url).snapshot().in_flight == 0


def test_a_response_that_outlives_its_loop_gives_its_permit_back(service: Service) -> None:
    middleware = BreakerMiddleware()

    async def leave() -> Any:
        session = aiohttp.ClientSession(middlewares=(middleware,))
        return await session.get(service.url)

    service.behave("app", app=streaming(b"half"))
    with pytest.warns(ResourceWarning):  # by aiohttp and asyncio
        response = asyncio.run(asyncio.wait_for(leave(), 20))
        assert middleware.registry[service.url].snapshot().in_flight == 1
        response.close()
        del response
        gc.collect()
    seen = middleware.registry[service.url].snapshot()
    assert (seen.in_flight, seen.totals) == (0, Totals(ignored=1))


async def test_a_response_that_an_inner_middleware_has_closed_says_nothing(service: Service) -> None:
    async def closing(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        response = await handler(request)
        response.close()
        return response

    async with guarded() as client:
        service.behave("app", app=streaming(b"half"))
        await client.session.get(service.url, middlewares=(client.middleware, closing))
        assert client.totals(service.url) == Totals(ignored=1)


async def in_two_halves(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"half"})


async def test_slow_is_the_time_to_the_headers(service: Service) -> None:
    slow = {"trip": SlowCallRate(0.5, slower_than=5, window=LastCalls(10), minimum_calls=1)}
    async with guarded(breaker=slow) as client:
        service.behave("app", app=in_two_halves)
        async with client.session.get(service.url) as response:
            client.clock.advance(60)
            assert await response.read() == b"halfhalf"
        assert client.breaker(service.url).state is State.CLOSED

        async def late(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            client.clock.advance(60)
            return await handler(request)

        service.behave("ok")
        async with client.session.get(service.url, middlewares=(client.middleware, late)) as response:
            await response.read()
        assert client.breaker(service.url).state is State.OPEN


# -- redirects and websockets


async def test_every_hop_of_a_redirect_is_a_call_to_its_own_origin(service: Service) -> None:
    there = f"http://localhost:{service.port}"
    async with guarded() as client:
        service.behave("redirect", to=f"{there}/b")
        with pytest.raises(aiohttp.TooManyRedirects):
            await get(client, service.url, max_redirects=2)
        assert [client.breaker(url).snapshot().calls for url in (service.url, there)] == [1, 1]
        client.breaker(there).force_open()
        with pytest.raises(CircuitOpenError, match=there):
            await get(client, service.url)


async def test_a_redirect_is_judged_by_its_head_since_nobody_reads_its_body(service: Service) -> None:
    async with guarded() as client:
        service.behave("app", app=streaming(b"half", status=307))
        assert await get(client, service.url) == (200, b"there")
        seen = client.breaker(service.url).snapshot()
        assert (seen.calls, seen.totals.ignored) == (2, 0)


async def test_a_websocket_is_judged_by_its_handshake() -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def down(request: web.Request) -> web.Response:
        raise web.HTTPServiceUnavailable

    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_get("/down", down)
    async with TestServer(app) as server, guarded() as client:
        url = f"http://127.0.0.1:{server.port}"
        async with client.session.ws_connect(f"{url}/echo") as talk:
            await talk.send_str("hello")
            assert (await talk.receive()).data == "hello"
            seen = client.breaker(url).snapshot()
            assert (seen.calls, seen.in_flight) == (1, 0)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.session.ws_connect(f"{url}/down")
        with pytest.raises(CircuitOpenError):
            await client.session.ws_connect(f"{url}/echo")


# -- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"registry": {}}, "registry must be a BreakerRegistry or None, not {}"),
        ({"key": "host"}, "key must be a function or None, not 'host'"),
        ({"failure_if": 500}, "failure_if must be a function or None, not 500"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        BreakerMiddleware(**settings)


# -- the page


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(blocks())))
def test_the_page_says_what_happens(number: int, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.behave("error", status=503)
    code = blocks()[number].replace("https://api.example.com", service.url)
    exec(compile(code, f"{PAGE.name}, block {number}", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == PRINTED[number](service.url)


PRINTED: list[Callable[[str], list[str]]] = [
    lambda url: ["answered 503"] * 5 + ["refused, come again in 30 s"],
    lambda url: [
        "answered 503",
        "answered 503",
        f"circuit breaker '{url} GET' is open: 2 failures in a row (trips at 2); retry after 10 s",
    ],
]
