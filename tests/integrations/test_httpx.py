"""The transports for httpx2 and httpx, each with its real client against a real server, on both backends."""

import gc
import random
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import anyio
import anyio.abc
import h2.exceptions
import httpx
import httpx2
import hypercorn
import hypercorn.asyncio
import hypercorn.trio
import pytest
import sniffio

import aiobreaker.integrations.httpx
import aiobreaker.integrations.httpx2
from aiobreaker import (
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    RateLimitedError,
    SlowCallRate,
    State,
    Trials,
)
from aiobreaker.core.eras import Totals
from aiobreaker.core.windows import LastCalls, LastSeconds
from aiobreaker.testing import ManualClock
from tests.integrations.service import ASGI, Message, Receive, Send, Service

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "httpx.md"
PATIENT = 20.0
stopped_half_way = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
"""Under trio the libraries leave generators of their own behind if a body is not read to its end, with or without a guard."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the real ones take long to make


@dataclass(frozen=True)
class Library:
    """One of the two."""

    module: Any
    transport: Any

    def wire(self, **settings: Any) -> Any:
        """The library's own transport."""
        return self.module.AsyncHTTPTransport(verify=NO_TLS, **settings)

    def answering(self, handler: Callable[[Any], Any]) -> Any:
        """The library's own transport in memory."""
        return self.module.MockTransport(handler)


LIBRARIES = {
    "httpx2": Library(httpx2, aiobreaker.integrations.httpx2.BreakerTransport),
    "httpx": Library(httpx, aiobreaker.integrations.httpx.BreakerTransport),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


class World:
    """A client behind a guarded transport, and the service's breaker."""

    def __init__(self, library: Library, service: Service, client: Any, transport: Any, clock: ManualClock) -> None:
        self.library = library
        self.service = service
        self.client = client
        self.transport = transport
        self.clock = clock

    @property
    def breaker(self) -> CircuitBreaker:
        breaker: CircuitBreaker = self.transport.registry[self.service.url]
        return breaker

    @property
    def totals(self) -> Totals:
        return self.breaker.snapshot().totals

    @property
    def in_flight(self) -> int:
        return self.breaker.snapshot().in_flight

    async def get(self, path: str = "/", **how: Any) -> Any:
        return await self.client.get(self.service.url + path, **how)

    def stream(self, path: str = "/", **how: Any) -> Any:
        return self.client.stream("GET", self.service.url + path, **how)


Opened = Callable[..., Any]


@pytest.fixture
async def opened(library: Library, service: Service) -> Opened:
    @asynccontextmanager
    async def open_world(
        *,
        wrapped: Any = None,
        key: Any = None,
        failure_if: Any = None,
        on_open: Any = "raise",
        max_wait: float = 0.0,
        read: float = PATIENT,
        **settings: Any,
    ) -> AsyncGenerator[World]:
        clock = ManualClock(1000.0)
        registry = BreakerRegistry[Any](lambda name: CircuitBreaker(str(name), clock=clock, **settings), clock=clock)
        transport = library.transport(
            library.wire() if wrapped is None else wrapped,
            registry=registry,
            key=key,
            failure_if=failure_if,
            on_open=on_open,
            max_wait=max_wait,
        )
        timeout = library.module.Timeout(PATIENT, read=read)
        with anyio.fail_after(PATIENT):
            async with library.module.AsyncClient(transport=transport, timeout=timeout) as client:
                yield World(library, service, client, transport, clock)

    return open_world


def chunked(*chunks: bytes, wait: Callable[[], Awaitable[object]] | None = None, status: int = 200) -> ASGI:
    """Sends the headers and the first chunk, then waits, then sends the rest."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for number, chunk in enumerate(chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if wait is not None and not number:
                await wait()
        await send({"type": "http.response.body", "body": b""})

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return answer


async def hang_after_first(scope: Any, receive: Receive, send: Send) -> None:
    """Sends the headers and a chunk, and then nothing until the client has gone."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


# -- origins and keys


async def test_every_origin_has_its_own_breaker(opened: Opened, service: Service) -> None:
    async with opened() as world:
        service.behave("error")
        for _ in range(5):
            await world.get()
        assert world.breaker.state is State.OPEN
        service.behave("ok")
        other = f"http://localhost:{service.port}"
        assert (await world.client.get(other)).status_code == 200
        assert list(world.transport.registry) == [service.url, other]
        assert world.transport.registry[other].snapshot().totals == Totals(successes=1)


async def test_a_default_port_is_no_port(library: Library) -> None:
    transport = library.transport(library.answering(lambda request: library.module.Response(200)))
    async with library.module.AsyncClient(transport=transport) as client:
        for url in (
            "http://A.example/x",
            "http://a.example:80/y",
            "https://a.example:443",
            "https://a.example",
            "http://[::1]:80",
        ):
            await client.get(url)
    assert set(transport.registry) == {"http://a.example", "https://a.example", "http://[::1]"}
    assert transport.registry["http://a.example"].snapshot().totals == Totals(successes=2)


async def test_a_key_of_your_own(opened: Opened) -> None:
    async with opened(key=lambda request: (request.url.host, request.headers["tenant"])) as world:
        for tenant in ("red", "blue", "red"):
            await world.get(headers={"tenant": tenant})
            world.clock.advance(1)
        registry = world.transport.registry
        assert list(registry) == [("127.0.0.1", "blue"), ("127.0.0.1", "red")]
        assert registry["127.0.0.1", "red"].snapshot().totals == Totals(successes=2)


async def test_the_registry_knows_who_is_in_use(library: Library) -> None:
    clock = ManualClock()
    registry = BreakerRegistry[str](lambda name: CircuitBreaker(name, clock=clock), idle_for=10, clock=clock)
    transport = library.transport(library.answering(lambda request: library.module.Response(200)), registry=registry)
    async with library.module.AsyncClient(transport=transport) as client:
        for _ in range(8):
            await client.get("http://a.example")
            clock.advance(4)
        registry["other"]
        assert list(registry) == ["http://a.example", "other"]
        clock.advance(9)
        registry["other"]
        assert list(registry) == ["other"]
        await client.get("http://a.example")
        assert list(registry) == ["other", "http://a.example"]


async def test_any_number_of_origins(library: Library) -> None:
    transport = library.transport(library.answering(lambda request: library.module.Response(200)))
    origins = [f"http://{number}.example" for number in range(70)]
    async with library.module.AsyncClient(transport=transport) as client:
        for url in origins * 2:
            await client.get(url)
    assert set(transport.registry) == set(origins)
    assert {transport.registry[url].snapshot().totals for url in origins} == {Totals(successes=2)}
    assert len(transport._known) <= 32


# -- what counts


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_these_statuses_are_failures(status: int, opened: Opened, service: Service) -> None:
    service.behave("error", status=status)
    async with opened() as world:
        assert (await world.get()).status_code == status
        assert world.totals == Totals(failures=1)
        assert str(status) in str(world.breaker.snapshot().last_failure)


@pytest.mark.parametrize("status", [200, 301, 404, 501])
async def test_other_statuses_are_successes(status: int, opened: Opened, service: Service) -> None:
    service.behave("error", status=status)
    async with opened() as world:
        assert (await world.get()).status_code == status
        assert world.totals == Totals(successes=1)


async def test_connections_refused_open_it_and_it_recovers(opened: Opened, service: Service) -> None:
    async with opened() as world:
        service.close_port()
        for _ in range(5):
            with pytest.raises(world.library.module.ConnectError):
                await world.get()
        with pytest.raises(CircuitOpenError) as refused:
            await world.get()
        assert refused.value.name == service.url
        assert refused.value.retry_after == 30
        assert not isinstance(refused.value, world.library.module.HTTPError)
        service.open_port()
        with pytest.raises(CircuitOpenError):
            await world.get()
        assert not service.requests
        world.clock.advance(30)
        assert (await world.get()).text == "ok"
        assert world.breaker.state is State.CLOSED
        assert len(service.requests) == 1


async def test_no_answer_in_time_is_a_failure(opened: Opened, service: Service) -> None:
    service.behave("hang")
    async with opened(read=0.1) as world:
        with pytest.raises(world.library.module.ReadTimeout):
            await world.get()
        assert world.totals == Totals(failures=1)


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_nonsense_is_a_failure(http2: bool, opened: Opened, library: Library) -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(bytes(20) if http2 else b"HTTP/1.1 never mind\r\n\r\n")
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # whoever is sent nonsense may hang up like that
                await stream.receive()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
        opened(wrapped=library.wire(http1=not http2, http2=http2)) as world,
    ):
        tasks.start_soon(listener.serve, talk)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        with pytest.raises(library.module.ProtocolError):
            await world.client.get(url)
        assert world.transport.registry[url].snapshot().totals == Totals(failures=1)
        tasks.cancel_scope.cancel()


FAILURES = ["ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "CloseError"]
FAILURES += ["ProxyError", "RemoteProtocolError"]
OURS = ["PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"]


async def judged(library: Library, raised: Callable[[], BaseException], **settings: Any) -> Totals:
    def handler(request: Any) -> Any:
        raise raised()

    registry = BreakerRegistry[str](lambda name: CircuitBreaker(name, **settings))
    transport = library.transport(library.answering(handler), registry=registry)
    with pytest.raises(type(raised())):
        await transport.handle_async_request(library.module.Request("GET", "http://a.example"))
    snapshot = registry["http://a.example"].snapshot()
    assert snapshot.in_flight == 0
    return snapshot.totals


@pytest.mark.parametrize("name", FAILURES)
async def test_transport_errors_are_failures(name: str, library: Library) -> None:
    assert await judged(library, partial(getattr(library.module, name), "broken")) == Totals(failures=1)


@pytest.mark.parametrize("name", OURS)
async def test_what_is_our_own_doing_is_not_counted(name: str, library: Library) -> None:
    assert await judged(library, partial(getattr(library.module, name), "ours")) == Totals(ignored=1)


async def test_other_errors(library: Library) -> None:
    connect = library.module.ConnectError
    assert await judged(library, TimeoutError) == Totals(failures=1)
    assert await judged(library, ValueError) == Totals(ignored=1)
    assert await judged(library, partial(RateLimitedError, "limit")) == Totals(ignored=1)
    assert await judged(library, lambda: ExceptionGroup("", [ValueError(), connect("")])) == Totals(failures=1)
    assert await judged(library, lambda: ExceptionGroup("", [ValueError()])) == Totals(ignored=1)
    assert await judged(library, KeyboardInterrupt) == Totals(ignored=1)


async def test_the_breakers_own_rules_choose_among_the_failures(library: Library) -> None:
    def connect() -> BaseException:
        error: BaseException = library.module.ConnectError("broken")
        return error

    assert await judged(library, connect, ignore=library.module.ConnectError) == Totals(ignored=1)
    assert await judged(library, connect, failure_on=library.module.ReadError) == Totals(successes=1)
    assert await judged(library, connect, failure_on=library.module.NetworkError) == Totals(failures=1)


async def test_a_request_that_breaks_the_protocol_is_our_own_doing(opened: Opened, service: Service) -> None:
    async with opened() as world:
        with pytest.raises(world.library.module.LocalProtocolError):
            await world.get(headers={"name": "split\r\nvalue"})
        assert world.totals == Totals(ignored=1)


async def test_a_full_pool_is_our_own_shortage(opened: Opened, service: Service, library: Library) -> None:
    limits = library.module.Limits(max_connections=1)
    async with opened(wrapped=library.wire(limits=limits), trip=ConsecutiveFailures(1)) as world:
        service.behave("app", app=hang_after_first)
        async with world.stream():
            for _ in range(2):
                with pytest.raises(library.module.PoolTimeout):
                    await world.get(timeout=library.module.Timeout(PATIENT, pool=0.01))
            assert world.totals == Totals(ignored=2)
        assert world.breaker.state is State.CLOSED


async def test_what_the_body_of_a_request_raises_is_not_the_services_failure(opened: Opened, service: Service) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("no more")

    async with opened() as world:
        with pytest.raises(ValueError, match="no more"):
            await world.client.post(service.url, content=body())
        assert world.totals == Totals(ignored=1)


# -- bodies


async def test_a_body_that_dies_half_way_is_a_failure(opened: Opened, service: Service) -> None:
    service.behave("die")
    async with opened(trip=ConsecutiveFailures(2)) as world:
        for count in (1, 2):
            with pytest.raises(world.library.module.RemoteProtocolError):
                await world.get()
            assert world.totals == Totals(failures=count)
        with pytest.raises(CircuitOpenError):
            await world.get()
        assert len(service.requests) == 2


async def test_a_body_that_hangs_half_way_is_a_failure(opened: Opened, service: Service) -> None:
    service.behave("app", app=hang_after_first)
    async with opened(read=0.1) as world:
        async with world.stream() as response:
            assert world.totals == Totals()
            with pytest.raises(world.library.module.ReadTimeout):
                await response.aread()
        assert world.totals == Totals(failures=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"trip": ConsecutiveFailures(1)}, {"trip": SlowCallRate(0.5, slower_than=1, window=LastSeconds(9), minimum_calls=1)}],
    ids=["usual", "eager", "slow"],
)
async def test_a_call_is_judged_at_the_end_of_its_body(settings: dict[str, Any], opened: Opened, service: Service) -> None:
    service.behave("app", app=chunked(b"one", b"two"))
    async with opened(**settings) as world:
        async with world.stream() as response:
            assert world.totals == Totals()
            assert world.in_flight == 1
            assert b"".join([chunk async for chunk in response.aiter_raw()]) == b"onetwo"
            assert world.totals == Totals(successes=1)
        assert world.totals == Totals(successes=1)
        assert world.in_flight == 0


@stopped_half_way
async def test_a_body_closed_early_is_not_counted(opened: Opened, service: Service) -> None:
    async with opened() as world:
        service.behave("app", app=hang_after_first)
        async with world.stream():
            pass
        assert world.totals == Totals(ignored=1)
        response = await world.client.send(world.client.build_request("GET", service.url), stream=True)
        async with aclosing(response.aiter_raw()) as chunks:
            assert await anext(chunks) == b"first"
        await response.aclose()
        assert world.totals == Totals(ignored=2)
        assert world.in_flight == 0


async def test_a_body_closed_early_after_a_bad_status_is_a_failure(opened: Opened, service: Service) -> None:
    service.behave("error")
    async with opened() as world, world.stream():
        assert world.totals == Totals(failures=1)
    assert world.totals == Totals(failures=1)


async def test_a_body_that_dies_after_a_bad_status_is_one_failure(opened: Opened, service: Service) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    service.behave("app", app=app)
    async with opened() as world:
        with pytest.raises(world.library.module.RemoteProtocolError):
            await world.get()
        assert world.totals == Totals(failures=1)


async def test_a_response_thrown_away_gives_its_trial_back(opened: Opened, service: Service) -> None:
    async with opened() as world:
        world.breaker.half_open()
        response = await world.client.send(world.client.build_request("GET", service.url), stream=True)
        assert world.in_flight == 1
        with pytest.raises(CircuitOpenError):
            await world.get()
        del response
        gc.collect()
        assert world.in_flight == 0
        assert (await world.get()).status_code == 200
        assert world.breaker.state is State.CLOSED
        response = await world.client.send(world.client.build_request("GET", service.url), stream=True)
        assert world.in_flight == 1
        del response
        gc.collect()
        assert world.in_flight == 0


async def test_a_response_that_comes_with_its_whole_body(library: Library) -> None:
    transport = library.transport(library.answering(lambda request: library.module.Response(200, content=b"all")))
    async with library.module.AsyncClient(transport=transport) as client:
        assert (await client.get("http://a.example")).text == "all"
        assert transport.registry["http://a.example"].snapshot().totals == Totals(successes=1)


async def test_a_broken_body_cannot_count_twice(library: Library) -> None:
    class Broken(library.module.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            raise library.module.ReadError("gone")
            yield b""

    transport = library.transport(library.answering(lambda request: library.module.Response(200, stream=Broken())))
    response = await transport.handle_async_request(library.module.Request("GET", "http://a.example"))
    for _ in range(2):
        with pytest.raises(library.module.ReadError):
            async for _ in response.stream:
                pass
    await response.stream.aclose()
    assert transport.registry["http://a.example"].snapshot().totals == Totals(failures=1)


async def test_a_body_read_to_its_end_twice_counts_once(library: Library) -> None:
    class Twice(library.module.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"all"

    transport = library.transport(library.answering(lambda request: library.module.Response(200, stream=Twice())))
    response = await transport.handle_async_request(library.module.Request("GET", "http://a.example"))
    for _ in range(2):
        assert [chunk async for chunk in response.stream] == [b"all"]
    await response.stream.aclose()
    assert transport.registry["http://a.example"].snapshot().totals == Totals(successes=1)


# -- 429, and rules


async def test_too_many_requests_opens_for_as_long_as_it_asks(opened: Opened, service: Service) -> None:
    async with opened() as world:
        service.behave("error", status=429, headers={"Retry-After": "7"})
        assert (await world.get()).status_code == 429
        assert world.totals == Totals(ignored=1)
        with pytest.raises(CircuitOpenError) as refused:
            await world.get()
        assert refused.value.retry_after == 7
        service.behave("ok")
        world.clock.advance(7)
        await world.get()
        assert world.breaker.state is State.CLOSED


async def test_a_trial_told_that_it_was_one_too_many(opened: Opened, service: Service) -> None:
    async with opened() as world:
        world.breaker.half_open()
        service.behave("error", status=429, headers={"Retry-After": "7"})
        await world.get()
        assert world.breaker.state is State.OPEN
        assert world.breaker.snapshot().retry_after == 7


@pytest.mark.parametrize("asked", ["3600", formatdate(time() + 36000, usegmt=True)], ids=["seconds", "date"])
async def test_no_longer_than_the_breaker_follows(asked: str, opened: Opened, service: Service) -> None:
    async with opened(max_retry_after=60) as world:
        service.behave("error", status=429, headers={"Retry-After": asked})
        await world.get()
        assert world.breaker.snapshot().retry_after == 60


@pytest.mark.parametrize(
    "headers",
    [{}, {"Retry-After": "soon"}, {"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}],
    ids=["without", "nonsense", "zero", "past"],
)
async def test_too_many_requests_without_a_hint_is_not_counted(
    headers: dict[str, str], opened: Opened, service: Service
) -> None:
    service.behave("error", status=429, headers=headers)
    async with opened(trip=ConsecutiveFailures(1)) as world:
        await world.get()
        assert world.totals == Totals(ignored=1)
        assert world.breaker.state is State.CLOSED


async def test_failure_if_decides_by_the_response(opened: Opened, service: Service) -> None:
    def fails(response: Any) -> bool:
        return bool(response.status_code == 404 and response.request.method == "GET")

    async with opened(failure_if=fails) as world:
        service.behave("error", status=404)
        await world.get()
        await world.client.post(service.url)
        service.behave("error", status=503)
        await world.get()
        service.behave("error", status=429)
        await world.get()
        assert world.totals == Totals(failures=1, successes=2, ignored=1)


async def test_failure_if_may_call_too_many_requests_a_failure(opened: Opened, service: Service) -> None:
    async with opened(failure_if=lambda response: response.status_code == 429) as world:
        service.behave("error", status=429)
        await world.get()
        assert world.totals == Totals(failures=1)
        service.behave("error", status=429, headers={"retry-after": "9"})
        await world.get()
        assert world.totals == Totals(failures=2)
        assert world.breaker.snapshot().retry_after == 9


async def test_a_rule_that_raises_leaves_nothing_behind(opened: Opened, service: Service, library: Library) -> None:
    def fails(response: Any) -> bool:
        raise ZeroDivisionError

    wire = library.wire(limits=library.module.Limits(max_connections=1))
    async with opened(failure_if=fails, wrapped=wire) as world:
        for count in (1, 2):
            with pytest.raises(ZeroDivisionError):
                await world.get()
            assert world.totals == Totals(ignored=count)
            assert world.in_flight == 0


# -- slow calls


SLOW = SlowCallRate(1.0, slower_than=1.0, window=LastCalls(10), minimum_calls=2)


async def test_slow_is_the_time_to_the_headers(opened: Opened, service: Service) -> None:
    async with opened(trip=SLOW) as world:
        for _ in range(3):
            async with world.stream() as response:
                world.clock.advance(5.0)  # the reader's own slowness
                await response.aread()
        assert world.breaker.snapshot().slow_rate == 0
        service.behave("ok", before=partial(world.clock.advance, 1.0))
        await world.get()
        assert world.breaker.snapshot().slow_rate == 1 / 4
        world.breaker.reset()
        await world.get()
        await world.get()
        assert world.breaker.state is State.OPEN


async def test_calls_without_an_answer_count_while_they_hang(opened: Opened, service: Service) -> None:
    trip = SlowCallRate(1.0, slower_than=1.0, window=LastCalls(10), minimum_calls=1, count_in_flight=True)
    async with opened(trip=trip) as world, anyio.create_task_group() as tasks:
        service.behave("hang")
        tasks.start_soon(world.get)
        while not service.requests:
            await anyio.sleep(0.001)
        world.clock.advance(2.0)
        with pytest.raises(CircuitOpenError):
            await world.get()
        tasks.cancel_scope.cancel()


# -- refusals


async def test_a_response_in_place_of_the_error(opened: Opened, service: Service) -> None:
    async with opened(on_open="response", open_for=2.5) as world:
        world.breaker.open()
        world.clock.advance(0.25)
        response = await world.get("/path")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "3"
        assert response.headers["x-should-retry"] == "false"
        assert response.text.startswith(f"circuit breaker '{service.url}' is open")
        assert response.request.url.path == "/path"
        with pytest.raises(world.library.module.HTTPStatusError):
            response.raise_for_status()
        async with world.stream() as response:
            assert [chunk async for chunk in response.aiter_text()] == [response.text]
        world.breaker.force_open()
        response = await world.get()
        assert response.status_code == 503
        assert "retry-after" not in response.headers
        assert not service.requests
        assert world.totals == Totals(refused=3)
        world.breaker.reset()
        assert (await world.get()).text == "ok"


async def test_whoever_is_willing_waits_for_a_trial_to_end(opened: Opened, service: Service) -> None:
    async with opened(max_wait=PATIENT) as world:
        world.breaker.half_open()
        async with anyio.create_task_group() as tasks, world.stream() as response:
            tasks.start_soon(world.get)
            while not world.breaker.snapshot().waiting:
                await anyio.sleep(0.001)
            assert len(service.requests) == 1
            await response.aread()
        assert world.totals == Totals(successes=2)


# -- redirects


async def test_every_hop_is_judged_by_its_own_origin(opened: Opened, service: Service) -> None:
    elsewhere = f"http://localhost:{service.port}"

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        home = scope["path"] == "/"
        headers = [(b"location", f"{elsewhere}/there".encode())] if home else []
        await send({"type": "http.response.start", "status": 307 if home else 503, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    service.behave("app", app=app)
    async with opened(trip=ConsecutiveFailures(2)) as world:
        for _ in range(2):
            response = await world.get(follow_redirects=True)
            assert response.status_code == 503
        assert world.totals == Totals(successes=2)
        assert world.transport.registry[elsewhere].snapshot().totals == Totals(failures=2)
        with pytest.raises(CircuitOpenError) as refused:
            await world.get(follow_redirects=True)
        assert refused.value.name == elsewhere
        assert [path for _, path, _ in service.requests] == ["/", "/there"] * 2 + ["/"]
        assert world.totals == Totals(successes=3)
        assert world.in_flight == 0


# -- HTTP/2


@asynccontextmanager
async def http2_service(app: ASGI) -> AsyncGenerator[str]:
    """Hypercorn, in this very event loop."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    port = listener.getsockname()[1]
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    stop = anyio.Event()
    serve: Any = hypercorn.trio.serve if sniffio.current_async_library() == "trio" else hypercorn.asyncio.serve

    async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(serve, wrapped, config, shutdown_trigger=stop.wait))
        yield f"http://127.0.0.1:{port}"
        stop.set()


async def test_http2_streams_are_judged_one_by_one(opened: Opened, library: Library) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        path = scope["path"]
        status = 503 if path == "/error" else 200
        headers = [(b"content-length", b"99")] if path == "/die" else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if path == "/hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b"whole"})

    async with http2_service(app) as url, opened(wrapped=library.wire(http1=False, http2=True)) as world:
        breaker = world.transport.registry[url]
        errors: list[BaseException] = []
        read: list[tuple[str, bytes]] = []

        async def get(path: str) -> None:
            try:
                response = await world.client.get(url + path)
                read.append((response.http_version, response.content))
            except (h2.exceptions.ProtocolError, library.module.LocalProtocolError) as error:  # it depends on what came at once
                errors.append(error)

        async with world.client.stream("GET", f"{url}/hang") as hanging:
            assert hanging.http_version == "HTTP/2"
            async with anyio.create_task_group() as tasks:
                for path in ("/", "/error", "/", "/"):
                    tasks.start_soon(get, path)
            assert read == [("HTTP/2", b"halfwhole")] * 4
            assert breaker.snapshot().totals == Totals(successes=3, failures=1)
            assert breaker.snapshot().in_flight == 1
        assert breaker.snapshot().totals == Totals(successes=3, failures=1, ignored=1)
        await get("/die")
        assert ["Expected 99 bytes" in str(error) for error in errors] == [True]
        assert breaker.snapshot().totals == Totals(successes=3, failures=2, ignored=1)


# -- cancellation, and the end


async def test_a_call_cancelled_before_its_headers(opened: Opened, service: Service) -> None:
    service.behave("hang")
    async with opened(trip=ConsecutiveFailures(1)) as world:
        with anyio.move_on_after(0.05):
            await world.get()
        assert world.totals == Totals(cancelled=1)
        assert world.breaker.state is State.CLOSED
        world.breaker.half_open()
        with anyio.move_on_after(0.05):
            await world.get()
        assert world.in_flight == 0
        service.behave("ok")
        await world.get()
        assert world.breaker.state is State.CLOSED


async def test_a_call_cancelled_in_the_middle_of_its_body(opened: Opened, service: Service) -> None:
    service.behave("app", app=hang_after_first)
    async with opened(trip=ConsecutiveFailures(1)) as world:
        with anyio.move_on_after(0.05):
            await world.get()
        assert world.totals == Totals(cancelled=1)
        assert world.breaker.state is State.CLOSED
        assert world.in_flight == 0


async def test_a_call_cancelled_after_it_had_become_slow_is_slow(opened: Opened, service: Service) -> None:
    async with opened(trip=SLOW) as world:
        service.behave("hang")
        for count in (1, 2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.get)
                while len(service.requests) < count:
                    await anyio.sleep(0.001)
                world.clock.advance(2.0)
                tasks.cancel_scope.cancel()
        assert world.totals == Totals(cancelled=2)
        assert world.breaker.state is State.OPEN


async def test_calls_in_flight_when_the_client_is_closed_are_not_counted(opened: Opened, service: Service) -> None:
    async with opened(trip=ConsecutiveFailures(1)) as world:
        broken: list[BaseException] = []

        async def get() -> None:
            try:
                await world.get()
            except Exception as error:
                broken.append(error)

        service.behave("app", app=hang_after_first)
        response = await world.client.send(world.client.build_request("GET", service.url), stream=True)
        service.behave("hang")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            while len(service.requests) < 2:
                await anyio.sleep(0.001)
            assert world.in_flight == 2
            await world.transport.aclose()
            with pytest.raises(Exception):  # noqa: B017 - which one depends on the backend
                await response.aread()
            service.drop()
        assert len(broken) == 1
        assert world.breaker.state is State.CLOSED
        assert world.in_flight == 0
        assert world.totals == Totals(ignored=2)
        service.behave("error")
        await world.get()  # it works again, and judges again
        assert world.breaker.state is State.OPEN


async def test_leaving_the_client_is_closing_it(library: Library, service: Service) -> None:
    service.behave("app", app=hang_after_first)
    transport = library.transport(library.wire())
    client = library.module.AsyncClient(transport=transport)
    with anyio.fail_after(PATIENT):
        async with client:
            response = await client.send(client.build_request("GET", service.url), stream=True)
        with pytest.raises(Exception):  # noqa: B017
            await response.aread()
    assert transport.registry[service.url].snapshot().totals == Totals(ignored=1)


async def test_the_wrapped_transport_is_entered_left_and_closed(library: Library) -> None:
    seen = []

    class Wrapped(library.module.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def __aenter__(self) -> object:
            seen.append("enter")
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            seen.append("exit")

        async def aclose(self) -> None:
            seen.append("close")

    transport = library.transport(Wrapped())
    async with transport as entered:
        assert entered is transport
    await transport.aclose()
    assert seen == ["enter", "exit", "close"]


async def test_a_body_closed_by_another_task_while_it_is_read(opened: Opened, service: Service) -> None:
    service.behave("app", app=hang_after_first)
    async with opened() as world, anyio.create_task_group() as tasks:
        response = await world.client.send(world.client.build_request("GET", service.url), stream=True)
        started = anyio.Event()

        async def read() -> None:
            with pytest.raises(Exception):  # noqa: B017
                async for _ in response.aiter_raw():
                    started.set()

        tasks.start_soon(read)
        await started.wait()
        await anyio.sleep(0.01)
        await response.aclose()
        service.drop()
    assert world.totals == Totals(ignored=1)


# -- books


@pytest.mark.parametrize("seed", range(4))
async def test_the_books_balance_whatever_happens(seed: int, opened: Opened, service: Service) -> None:
    draw = random.Random(seed)
    trip = [ConsecutiveFailures(1000), SlowCallRate(1.0, slower_than=99.0, window=LastCalls(100), minimum_calls=100)][seed % 2]
    async with opened(trip=trip) as world:
        expected = dict.fromkeys(Totals._fields, 0)
        for _ in range(12):
            kind = draw.choice(["read", "close", "throw away", "die", "error", "cancel", "read twice"])
            service.behave({"die": "die", "error": "error"}.get(kind, "ok"))  # type: ignore[arg-type]
            if kind == "cancel":
                service.behave("app", app=hang_after_first)
                with anyio.move_on_after(0.01):
                    await world.get()
                expected["cancelled"] += 1
            elif kind == "die":
                with pytest.raises(world.library.module.RemoteProtocolError):
                    await world.get()
                expected["failures"] += 1
            elif kind in ("close", "throw away"):
                response = await world.client.send(world.client.build_request("GET", service.url), stream=True)
                if kind == "close":
                    await response.aclose()
                del response
                gc.collect()
                expected["ignored"] += 1
            else:
                response = await world.get()
                await response.aread()
                expected["failures" if kind == "error" else "successes"] += 1
            assert world.in_flight == 0
            assert world.totals == Totals(**expected)


# -- settings


async def test_by_default_it_wraps_the_librarys_own_and_makes_breakers_with_default_settings(
    library: Library, service: Service
) -> None:
    with anyio.fail_after(PATIENT):
        async with library.module.AsyncClient(transport=library.transport()) as client:
            assert (await client.get(service.url)).text == "ok"
            transport = client._transport
            assert transport.registry[service.url].name == service.url
            assert transport.registry[service.url].snapshot().totals == Totals(successes=1)


async def test_calls_count_for_the_breaker_above_too(library: Library, service: Service) -> None:
    registry = BreakerRegistry[str](CircuitBreaker, parent=lambda key: "all")
    service.behave("die")
    with anyio.fail_after(PATIENT):
        async with library.module.AsyncClient(transport=library.transport(library.wire(), registry=registry)) as client:
            with pytest.raises(library.module.RemoteProtocolError):
                await client.get(service.url)
            service.behave("ok")
            await client.get(service.url)
    for key in (service.url, "all"):
        assert registry[key].snapshot().totals == Totals(successes=1, failures=1)


async def test_more_than_one_trial(opened: Opened, service: Service) -> None:
    async with opened(trials=Trials(2)) as world:
        world.breaker.half_open()
        await world.get()
        assert world.breaker.state is State.HALF_OPEN
        await world.get()
        assert world.breaker.state is State.CLOSED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"registry": {}}, "registry must be a BreakerRegistry or None, not {}"),
        ({"key": "host"}, "key must be a function or None, not 'host'"),
        ({"failure_if": 503}, "failure_if must be a function or None, not 503"),
        ({"on_open": "ignore"}, 'on_open must be "raise" or "response", not \'ignore\''),
        ({"max_wait": -1}, "max_wait must be a number of seconds, 0 or more"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str, library: Library) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        library.transport(**settings)
    assert str(refused.value).startswith(message)


def test_only_the_librarys_own_kind_of_transport_can_be_wrapped(library: Library) -> None:
    (other,) = (each for each in LIBRARIES.values() if each is not library)
    for wrong in (other.wire(), library.module.HTTPTransport(verify=NO_TLS), "https://a.example"):
        with pytest.raises(TypeError, match="wrapped must be an async transport"):
            library.transport(wrong)


# -- the page

BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def printed_by(block: str, backend: str, service: Service, capsys: pytest.CaptureFixture[str]) -> list[str]:
    code = block.replace("https://api.example.com", service.url)
    code = code.replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})")
    exec(compile(code, "example", "exec"), {})
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_pages_examples_do_what_they_say(backend: str, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, pipeline = BLOCKS
    service.behave("error")
    assert printed_by(first, backend, service, capsys) == ["answered 503"] * 5 + ["refused, come again in 30 s"]
    answered, again, refused = printed_by(second, backend, service, capsys)
    assert answered == again == "answered 503"
    assert refused.startswith("circuit breaker 'GET 127.0.0.1' is open")
    (line,) = printed_by(third, backend, service, capsys)
    assert line == f"503 false circuit breaker '{service.url}' is forced open: maintenance"
    assert printed_by(pipeline, backend, service, capsys) == ["answered 503"] * 3
    service.behave("die")
    *failed, refused = printed_by(pipeline, backend, service, capsys)
    assert failed[0].startswith("failed: ")
    assert refused.startswith("circuit breaker 'prices' is open")
