"""Limits in front of an app: who finds no room is told so at once, and no place is ever lost."""

import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import anyio
import httpx2
import pytest
import starlette.applications
import starlette.responses
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, get
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.routing import Route

from aiobreaker import (
    AIMD,
    AdaptiveLimit,
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    Coalesce,
    ConsecutiveFailures,
    Fallback,
    Hedge,
    Policy,
    RateLimit,
    Retry,
    State,
    Throttle,
    Timeout,
)
from aiobreaker.integrations.asgi import LoadSheddingMiddleware, RefusalMiddleware, client_address
from aiobreaker.testing import ManualClock

from .. import virtual
from .service import ASGI, Service

Sent = list[dict[str, Any]]
SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 50000)}


async def receive() -> NoReturn:
    raise AssertionError("requests are not read")


async def exchange(app: ASGI, **about: Any) -> Sent:
    """What the app sends in answer to a request."""
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(SCOPE | about, receive, send)
    return sent


async def status_of(app: ASGI, **about: Any) -> tuple[int, bytes | None]:
    start = (await exchange(app, **about))[0]
    return start["status"], dict(start["headers"]).get(b"retry-after")


async def answer(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


async def fine(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


class Answers:
    """An app that answers with whatever status it is set to, or raises."""

    def __init__(self) -> None:
        self.status = 200
        self.error: Exception | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.error is not None:
            raise self.error
        await answer(send, self.status)


def client_of(service: Service) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=service.url, trust_env=False)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.005)


# -- bodies, over a real connection


class Streaming:
    """Streams a first piece, and then, when `release` is set, the last."""

    def __init__(self) -> None:
        self.release = threading.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        yield b"first"
        while not self.release.is_set():
            await anyio.sleep(0.005)
        yield b"last"

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for piece in self.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def in_starlette(self, scope: Any, receive: Any, send: Any) -> None:
        await starlette.responses.StreamingResponse(self.pieces())(scope, receive, send)

    async def waits(self, scope: Any, receive: Any, send: Any) -> None:
        """Listens to the client and not to `release`."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.mark.parametrize("kind", ["asgi", "in_starlette"])
async def test_a_streamed_response_holds_its_place_until_it_is_sent(kind: str, service: Service) -> None:
    streaming, bulkhead = Streaming(), Bulkhead(1)
    service.behave("app", app=LoadSheddingMiddleware(getattr(streaming, kind), bulkhead))
    with anyio.fail_after(20):
        async with client_of(service) as client, client.stream("GET", "/") as response:
            pieces = response.aiter_raw()
            assert (response.status_code, await anext(pieces)) == (200, b"first")
            refused = await client.get("/")
            assert (refused.status_code, refused.text) == (503, "Service Unavailable")
            assert "retry-after" not in refused.headers  # nobody knows
            streaming.release.set()
            assert b"".join([piece async for piece in pieces]) == b"last"
            await until(lambda: bulkhead.snapshot().running == 0)
            assert (await client.get("/")).text == "firstlast"


@pytest.mark.parametrize("kind", ["in_starlette", "waits"])
async def test_a_client_that_goes_gives_its_place_back(kind: str, service: Service) -> None:
    bulkhead = Bulkhead(1)
    service.behave("app", app=LoadSheddingMiddleware(getattr(Streaming(), kind), bulkhead))
    with anyio.fail_after(20):
        async with client_of(service) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, "/")
            await until(lambda: bulkhead.snapshot().running == 1)
            assert (await client.get("/")).status_code == 503
            tasks.cancel_scope.cancel()
        await until(lambda: bulkhead.snapshot().running == 0)


async def test_a_background_task_holds_the_place_too(service: Service) -> None:
    streaming, bulkhead = Streaming(), Bulkhead(1)

    async def work() -> None:
        await until(streaming.release.is_set)

    async def endpoint(request: Request) -> starlette.responses.Response:
        return starlette.responses.PlainTextResponse("accepted", background=BackgroundTask(work))

    app = starlette.applications.Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(LoadSheddingMiddleware, policy=bulkhead)
    service.behave("app", app=app)
    with anyio.fail_after(20):
        async with client_of(service) as client:
            assert (await client.get("/")).text == "accepted"
            assert (await client.get("/")).status_code == 503
            streaming.release.set()
            await until(lambda: bulkhead.snapshot().running == 0)


def in_starlette(limit: Policy[Any]) -> ASGI:
    async def endpoint(request: Request) -> starlette.responses.Response:
        return starlette.responses.PlainTextResponse("fine")

    app = starlette.applications.Starlette(routes=[Route("/", endpoint), Route("/health", endpoint)])
    app.add_middleware(LoadSheddingMiddleware, policy=limit, exempt={"/health"})
    return app


def in_fastapi(limit: Policy[Any]) -> ASGI:
    app = FastAPI()

    @app.get("/health")
    @app.get("/")
    async def endpoint() -> str:
        return "fine"

    app.add_middleware(LoadSheddingMiddleware, policy=limit, exempt={"/health"})
    return app


def in_litestar(limit: Policy[Any]) -> ASGI:
    @get(["/", "/health"])
    async def endpoint() -> str:
        return "fine"

    app: Any = Litestar([endpoint], openapi_config=None)  # its own middleware sees nothing that matches no route
    return LoadSheddingMiddleware(app, policy=limit, exempt={"/health"})


@pytest.mark.parametrize("framework", [in_starlette, in_fastapi, in_litestar])
async def test_it_stands_in_front_of_every_framework(framework: Callable[[Policy[Any]], ASGI], service: Service) -> None:
    service.behave("app", app=framework(RateLimit(2, per=60, burst=1, clock=ManualClock())))
    with anyio.fail_after(20):
        async with client_of(service) as client:
            assert (await client.get("/")).status_code == 200
            refused = await client.post("/", content=b"x" * 100_000)
            assert (refused.status_code, refused.text) == (429, "Too Many Requests")
            assert refused.headers["retry-after"] == "30"
            assert [(await client.get("/health")).status_code for _ in range(3)] == [200] * 3


# -- limits


async def test_a_rate_limit_refuses_with_429_and_the_time_to_wait() -> None:
    clock = ManualClock()
    app = LoadSheddingMiddleware(fine, RateLimit(2, per=5, clock=clock))
    assert [await status_of(app) for _ in range(4)] == [(200, None), (200, None), (429, b"3"), (429, b"3")]
    clock.advance(2.0)
    assert await status_of(app) == (429, b"1")
    clock.advance(0.5)
    assert await status_of(app) == (200, None)


async def test_each_client_has_a_rate_of_its_own_if_asked() -> None:
    app = LoadSheddingMiddleware(fine, RateLimit(1, per=60, key=client_address, clock=ManualClock()))
    ann, bob = ("192.0.2.1", 50000), ("192.0.2.2", 50000)
    assert await status_of(app, client=ann) == (200, None)
    assert await status_of(app, client=(ann[0], 50001)) == (429, b"60")
    assert await status_of(app, client=bob) == (200, None)
    assert await status_of(app, client=None) == (200, None)
    assert await status_of(app, client=None) == (429, b"60")


async def test_a_key_may_be_anything_in_the_scope() -> None:
    def tenant(scope: Any, *_: object) -> object:
        return next((value for name, value in scope["headers"] if name == b"x-tenant"), b"")

    app = LoadSheddingMiddleware(fine, RateLimit(1, per=60, key=tenant, clock=ManualClock()) | Bulkhead(5))
    for expected in (200, 429):
        for name in (b"ann", b"bob"):
            assert (await status_of(app, headers=[(b"x-tenant", name)]))[0] == expected


async def test_an_adaptive_limit_learns_from_the_status_of_responses() -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=20, window=0), failure_if=lambda status: status in {503, 504})
    dependency = Answers()
    app = LoadSheddingMiddleware(dependency, limit)
    for status in (200, 500):
        dependency.status = status
        await exchange(app)
    assert limit.snapshot().limit == 20
    for status in (503, 504):
        dependency.status = status
        before = limit.snapshot().limit
        await exchange(app)
        assert limit.snapshot().limit < before


async def test_an_adaptive_limit_learns_from_timeouts_and_not_from_other_errors() -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=20, window=0))
    dependency = Answers()
    app = LoadSheddingMiddleware(dependency, limit)
    for error, falls in ((ValueError(), False), (TimeoutError(), True)):
        dependency.error = error
        before = limit.snapshot().limit
        with pytest.raises(type(error)):
            await exchange(app)
        assert (limit.snapshot().limit < before) is falls


async def test_what_an_adaptive_limit_refuses_becomes_503() -> None:
    app = LoadSheddingMiddleware(hanging, AdaptiveLimit(AIMD(initial_limit=1)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, app)
        await anyio.wait_all_tasks_blocked()
        assert await status_of(app) == (503, None)
        tasks.cancel_scope.cancel()


async def test_a_breaker_in_front_of_an_app() -> None:
    breaker = CircuitBreaker(
        "app", trip=ConsecutiveFailures(2), failure_if=lambda status: status >= 500, open_for=7.5, clock=ManualClock()
    )
    dependency = Answers()
    dependency.status = 500
    app = LoadSheddingMiddleware(dependency, breaker)
    assert [await status_of(app) for _ in range(3)] == [(500, None), (500, None), (503, b"8")]
    assert breaker.state is State.OPEN


async def test_a_throttle_in_front_of_an_app() -> None:
    throttle = Throttle(k=1, rejected_if=lambda status: status == 503, random=lambda: 0.0)
    dependency = Answers()
    dependency.status = 503
    app = LoadSheddingMiddleware(dependency, throttle)
    await exchange(app)
    start, body = await exchange(app)
    assert (start["status"], body["body"], throttle.snapshot().refused) == (503, b"Service Unavailable", 1)


async def hanging(scope: Any, receive: Any, send: Any) -> None:
    await anyio.sleep_forever()


async def test_requests_may_wait_in_line() -> None:
    bulkhead = Bulkhead(1, max_waiters=1, max_wait=60)
    end = anyio.Event()
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await end.wait()
        await answer(send)

    async def request() -> None:
        seen.append((await status_of(shed))[0])

    shed = LoadSheddingMiddleware(app, bulkhead)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(request)
        await anyio.wait_all_tasks_blocked()
        assert seen == [503]
        end.set()
    assert seen == [503, 200, 200]


# -- the end of a request


@pytest.mark.parametrize("started", [False, True], ids=["at once", "in the body"])
async def test_a_request_that_is_cancelled_gives_its_place_back(started: bool) -> None:
    bulkhead = Bulkhead(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await exchange(LoadSheddingMiddleware(app, bulkhead))
    assert scope.cancelled_caught
    assert bulkhead.snapshot().running == 0


async def test_what_the_app_raises_passes_and_the_place_comes_back() -> None:
    bulkhead, dependency = Bulkhead(1), Answers()
    app = LoadSheddingMiddleware(dependency, bulkhead)
    for error in (ValueError("a bug"), BulkheadFullError("database", "no room")):
        dependency.error = error
        with pytest.raises(type(error)) as caught:
            await exchange(app)
        assert caught.value is error
        assert bulkhead.snapshot().running == 0
    assert await status_of(RefusalMiddleware(app)) == (503, None)


async def test_a_timeout_in_front_is_an_error_of_the_app() -> None:
    with pytest.raises(TimeoutError):
        await exchange(LoadSheddingMiddleware(hanging, Timeout(0.001)))


async def test_a_refusal_of_head_has_no_body() -> None:
    app = LoadSheddingMiddleware(fine, RateLimit(1, per=60))
    await exchange(app)
    start, body = await exchange(app, method="HEAD")
    assert (start["status"], body["body"]) == (429, b"")


# -- what is not limited


async def test_exempt_paths_always_pass_and_only_they() -> None:
    bulkhead = Bulkhead(1)
    app = LoadSheddingMiddleware(fine, bulkhead, exempt=["/health", "/ready"])
    async with bulkhead.guard():
        for path, status in (("/health", 200), ("/ready", 200), ("/health/", 503), ("/", 503)):
            assert (await status_of(app, path=path))[0] == status, path


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_connections_are_not_limited(kind: str) -> None:
    given: list[object] = []

    async def app(*args: object) -> None:
        given.extend(args)

    async def send(message: object) -> None:
        raise AssertionError("nothing is sent")

    bulkhead, scope = Bulkhead(1), {"type": kind, "path": "/"}
    async with bulkhead.guard():
        await LoadSheddingMiddleware(app, bulkhead)(scope, receive, send)
    assert given[0] is scope
    assert given[1] is receive
    assert given[2] is send


# -- settings


@pytest.mark.parametrize("policy", [7, None, Bulkhead])
def test_a_policy_that_is_none_is_told_at_once(policy: Any) -> None:
    with pytest.raises(TypeError, match="policy must be a policy or a pipeline of policies, not "):
        LoadSheddingMiddleware(fine, policy)


@pytest.mark.parametrize(
    "policy", [Retry(on=OSError), Hedge(1), Fallback(None), Cache(1), Coalesce()], ids=lambda policy: type(policy).__name__
)
def test_policies_that_call_twice_or_answer_themselves_cannot_stand_here(policy: Policy[Any]) -> None:
    for unfit in (policy, Bulkhead(1) | policy):
        with pytest.raises(ValueError, match=f"policy must serve each request once or refuse it.*{type(policy).__name__}"):
            LoadSheddingMiddleware(fine, unfit)


@pytest.mark.parametrize(
    ("exempt", "error", "words"),
    [
        ("/health", TypeError, "not '/health'"),
        (b"/health", TypeError, "not b'/health'"),
        (7, TypeError, "not 7"),
        ([b"/health"], TypeError, "not one with b'/health'"),
        (["health"], ValueError, "not one with 'health', which has no '/' in front"),
    ],
)
def test_paths_that_are_none_are_told_at_once(exempt: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"exempt must be a collection of whole paths, .*{words}"):
        LoadSheddingMiddleware(fine, Bulkhead(1), exempt=exempt)


def test_what_is_no_app_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="app must be an ASGI app"):
        LoadSheddingMiddleware(7, Bulkhead(1))  # type: ignore[arg-type]


# -- any requests at all


@dataclass(frozen=True)
class Visit:
    arrives: int
    stays: int
    ends: Literal["answers", "raises", "raises late", "refuses", "hangs"]
    leaves: int
    """After how many seconds it is cancelled."""


visits = st.lists(
    st.builds(
        Visit,
        st.integers(0, 6),
        st.integers(0, 4),
        st.sampled_from(["answers", "raises", "raises late", "refuses", "hangs"]),
        st.integers(0, 6),
    ),
    max_size=10,
)


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@given(visits, st.integers(1, 3), st.integers(0, 2))
def test_whatever_requests_do_none_is_answered_twice_and_no_place_is_lost(
    backend: str, plan: list[Visit], places: int, line: int
) -> None:
    bulkhead = Bulkhead(places, max_waiters=line)
    inside = most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside, most
        visit: Visit = scope["visit"]
        inside += 1
        most = max(most, inside)
        try:
            await anyio.sleep(visit.stays)
            if visit.ends == "raises":
                raise ValueError
            if visit.ends == "refuses":
                raise BulkheadFullError("database")
            if visit.ends == "hangs":
                await anyio.sleep_forever()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await anyio.sleep(1)
            if visit.ends == "raises late":
                raise ValueError
            await send({"type": "http.response.body"})
        finally:
            inside -= 1

    shed = LoadSheddingMiddleware(app, bulkhead)

    async def request(visit: Visit) -> None:
        await anyio.sleep(visit.arrives)
        sent: Sent = []

        async def send(message: Any) -> None:
            sent.append(message)

        end = "cancelled"
        with anyio.move_on_after(visit.leaves):
            try:
                await shed(SCOPE | {"visit": visit}, receive, send)
                end = "returned"
            except (ValueError, BulkheadFullError):
                end = "raised"
        kinds = [(message["type"].rpartition(".")[2], message.get("status")) for message in sent]
        served, refused = [("start", 200), ("body", None)], [("start", 503), ("body", None)]
        match end, visit.ends:
            case "returned", "answers":
                assert kinds in (served, refused)
            case "returned", _:
                assert kinds == refused
            case "raised", "raises late":
                assert kinds == served[:1]
            case "raised", kind:
                assert kinds == []
                assert kind in {"raises", "refuses"}
            case _:
                assert kinds in ([], served[:1])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for visit in plan:
                tasks.start_soon(request, visit)

    virtual.run(backend, main)
    assert most <= places
    assert (inside, bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (0, 0, 0)
