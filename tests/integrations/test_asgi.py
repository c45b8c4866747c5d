"""Refusals become responses: three frameworks, under uvicorn and under hypercorn on trio, and any ASGI app by hand."""

import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx2
import hypercorn
import hypercorn.trio
import litestar
import litestar.response
import pytest
import starlette.applications
import starlette.responses
import trio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from litestar.middleware import DefineMiddleware
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route

from aiobreaker import BulkheadFullError, CircuitBreaker, CircuitOpenError, RateLimitedError, RefusedError, State
from aiobreaker.integrations.asgi import RefusalMiddleware
from aiobreaker.testing import ManualClock

from .service import ASGI, Service

DOCS = Path(__file__).parents[2] / "docs" / "integrations"


def payments_breaker() -> CircuitBreaker:
    """It has been open for a moment, and says so for 12.3 seconds more."""
    breaker = CircuitBreaker("payments", clock=ManualClock())
    breaker.open(12.3)
    return breaker


async def charge() -> NoReturn:
    raise AssertionError("a refused call runs nothing")


async def bug() -> NoReturn:
    raise ValueError("a bug")


async def together(*functions: Callable[[], Any]) -> None:
    """All that they raise, in one group."""
    errors = []
    for function in functions:
        try:
            await function()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("together", errors)


class Routes:
    """What the apps of all frameworks do."""

    def __init__(self, payments: CircuitBreaker) -> None:
        self.payments = payments

    async def charge(self) -> None:
        await self.payments.call(charge)

    async def fine(self) -> str:
        return "fine"

    async def plain(self) -> None:
        await self.charge()

    async def tasks(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.charge)
            tasks.start_soon(anyio.sleep_forever)

    async def nested(self) -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            outer.start_soon(anyio.sleep_forever)
            inner.start_soon(self.tasks)

    async def mixed(self) -> None:
        await together(self.tasks, bug)

    async def full(self) -> None:
        raise BulkheadFullError("database", "no room")

    async def late(self) -> AsyncIterator[bytes]:
        yield b"first"
        await self.charge()


def in_starlette(routes: Routes) -> ASGI:
    def route(name: str) -> Route:
        async def endpoint(request: Request) -> starlette.responses.Response:
            if name == "late":
                return starlette.responses.StreamingResponse(routes.late())
            return starlette.responses.PlainTextResponse(await getattr(routes, name)())

        return Route(f"/{name}", endpoint)

    return starlette.applications.Starlette(routes=[route(name) for name in NAMES], middleware=[Middleware(RefusalMiddleware)])


def in_fastapi(routes: Routes) -> ASGI:
    app = FastAPI()
    for name in NAMES:
        app.get(f"/{name}", response_model=None)(getattr(routes, name))

    @app.get("/late", response_model=None)
    async def late() -> StreamingResponse:
        return StreamingResponse(routes.late())

    app.add_middleware(RefusalMiddleware)
    return app


def in_litestar(routes: Routes) -> ASGI:
    def pass_on(request: object, error: Exception) -> NoReturn:
        raise error

    def handler(name: str) -> Any:
        async def fine() -> str:
            return str(await getattr(routes, name)())

        async def late() -> litestar.response.Stream:
            return litestar.response.Stream(routes.late())

        return litestar.get(f"/{name}")(late if name == "late" else fine)

    return litestar.Litestar(
        [handler(name) for name in NAMES],
        middleware=[DefineMiddleware(RefusalMiddleware)],
        exception_handlers={RefusedError: pass_on, ExceptionGroup: pass_on},
        openapi_config=None,
    )  # type: ignore[return-value]  # its own types for the same thing


NAMES = ["fine", "plain", "tasks", "nested", "mixed", "full", "late"]
FRAMEWORKS = {"starlette": in_starlette, "fastapi": in_fastapi, "litestar": in_litestar}


class Hypercorn:
    """A server on trio, in a thread of its own. What it serves can be changed."""

    def __init__(self, app: ASGI) -> None:
        self.app = app
        self.url = ""
        self._ready, self._stop = threading.Event(), trio.Event()
        self._thread = threading.Thread(target=trio.run, args=[self._run], name="hypercorn", daemon=True)

    async def _run(self) -> None:
        config = hypercorn.Config()
        config.bind = ["127.0.0.1:0"]
        config.errorlog = config.accesslog = None
        config.graceful_timeout = 0
        serve = partial(hypercorn.trio.serve, shutdown_trigger=self._stop.wait, mode="asgi")
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            [self.url] = await nursery.start(serve, self._serve, config)
            self._ready.set()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    def __enter__(self) -> "Hypercorn":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def _hypercorn() -> Iterator[Hypercorn]:
    with Hypercorn(in_starlette(Routes(payments_breaker()))) as server:
        yield server


@pytest.fixture(params=["uvicorn", "hypercorn on trio"])
def serve(request: pytest.FixtureRequest, service: Service, _hypercorn: Hypercorn) -> Callable[[ASGI], str]:
    """Has an app served, and says where."""

    def by_uvicorn(app: ASGI) -> str:
        service.behave("app", app=app)
        return service.url

    def by_hypercorn(app: ASGI) -> str:
        _hypercorn.app = app
        return _hypercorn.url

    return by_uvicorn if request.param == "uvicorn" else by_hypercorn


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    with anyio.fail_after(20):
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            yield client


# -- frameworks and servers


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_refusal_becomes_a_response_under_every_framework_and_server(
    framework: str, serve: Callable[[ASGI], str]
) -> None:
    payments = payments_breaker()
    async with client_of(serve(FRAMEWORKS[framework](Routes(payments)))) as client:
        for path in ("/plain", "/tasks", "/nested"):
            refused = await client.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "13"), path
            assert refused.text == "Service Unavailable"
        shortage = await client.get("/full")
        assert (shortage.status_code, "retry-after" in shortage.headers) == (503, False)
        assert (await client.get("/fine")).status_code == 200
        assert (await client.get("/mixed")).status_code == 500  # a bug is a bug

        with pytest.raises(httpx2.RemoteProtocolError):  # it had begun
            async with client.stream("GET", "/late") as response:
                assert response.status_code == 200
                await response.aread()

        payments.force_open()
        nobody_knows_when = await client.get("/plain")
        assert (nobody_knows_when.status_code, "retry-after" in nobody_knows_when.headers) == (503, False)


async def test_http_middleware_of_starlette_in_between_makes_no_difference(service: Service) -> None:
    app = FastAPI()
    app.get("/nested", response_model=None)(Routes(payments_breaker()).nested)

    @app.middleware("http")
    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(RefusalMiddleware)
    service.behave("app", app=app)
    async with client_of(service.url) as client:
        assert (await client.get("/nested")).headers["retry-after"] == "13"


def test_the_lifespan_of_an_app_is_not_touched() -> None:
    told = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        told.append("began")
        yield
        told.append("ended")

    app = starlette.applications.Starlette(lifespan=lifespan, middleware=[Middleware(RefusalMiddleware)])
    with Hypercorn(RefusalMiddleware(app)):
        assert told == ["began"]
    assert told == ["began", "ended"]


# -- any app


Sent = list[dict[str, Any]]
SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}
START = {"type": "http.response.start", "status": 200, "headers": []}


async def receive() -> NoReturn:
    raise AssertionError("requests are not read")


async def exchange(app: ASGI, **about: Any) -> Sent:
    """What the app sends in answer to a request."""
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(SCOPE | about, receive, send)
    return sent


def raising(error: BaseException, *first: dict[str, Any]) -> ASGI:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in first:
            await send(message)
        raise error

    return RefusalMiddleware(app)


def open_for(retry_after: float | None) -> CircuitOpenError:
    return CircuitOpenError("payments", State.OPEN, "", retry_after)


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [
        (12.3, b"13"),
        (12.0, b"12"),
        (0.001, b"1"),
        (0.0, b"0"),
        (-1.0, b"0"),
        (1e9, b"1000000000"),
        (None, None),
        (inf, None),
        (nan, None),
    ],
)
async def test_the_hint_is_in_whole_seconds_rounded_up(retry_after: float | None, header: bytes | None) -> None:
    start, body = await exchange(raising(open_for(retry_after)))
    assert dict(start["headers"]).get(b"retry-after") == header
    assert (start["status"], body["body"]) == (503, b"Service Unavailable")
    assert dict(start["headers"])[b"content-length"] == b"19"


async def test_the_response_to_head_has_no_body() -> None:
    start, body = await exchange(raising(open_for(1)), method="HEAD")
    assert (start["status"], body["body"]) == (503, b"")


async def test_of_several_refusals_the_longest_wait_counts() -> None:
    deep = ExceptionGroup("inner", [open_for(30.5), RefusedError(), open_for(None)])
    error = ExceptionGroup("outer", [open_for(2), deep, RateLimitedError("api", "", 7)])
    start, _ = await exchange(raising(error))
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"31")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        ExceptionGroup("only bugs", [ValueError("a bug")]),
        ExceptionGroup("mixed", [open_for(1), ValueError("a bug")]),
        ExceptionGroup("deep", [open_for(1), ExceptionGroup("deeper", [open_for(1), OSError("down")])]),
        BaseExceptionGroup("the end", [open_for(1), KeyboardInterrupt()]),
        KeyboardInterrupt(),
    ],
    ids=["a bug", "only bugs", "mixed", "deep", "the end", "interrupt"],
)
async def test_what_is_not_wholly_made_of_refusals_passes_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await exchange(raising(error))
    assert caught.value is error


async def test_what_was_raised_from_a_refusal_is_the_apps_own_error() -> None:
    error = LookupError("no price")
    error.__cause__ = open_for(1)
    with pytest.raises(LookupError):
        await exchange(raising(error))


async def test_a_response_that_has_started_is_left_alone() -> None:
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    error = open_for(1)
    with pytest.raises(CircuitOpenError) as caught:
        await raising(error, START)(SCOPE, receive, send)
    assert caught.value is error
    assert sent == [START]


async def test_a_start_that_could_not_be_sent_is_a_start() -> None:
    async def send(message: Any) -> NoReturn:
        raise open_for(1)  # by something in between

    with pytest.raises(CircuitOpenError):
        await raising(ValueError(), START)(SCOPE, receive, send)


async def test_other_messages_do_not_start_a_response() -> None:
    early = {"type": "http.response.early_hint", "links": []}
    sent = await exchange(raising(open_for(1), early))
    assert [message["type"] for message in sent] == [early["type"], "http.response.start", "http.response.body"]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_connections_are_not_touched(kind: str) -> None:
    given: list[object] = []

    async def app(*args: object) -> None:
        given.extend(args)
        raise open_for(1)

    async def send(message: object) -> None:
        raise AssertionError("nothing is sent")

    scope = {"type": kind}
    with pytest.raises(CircuitOpenError):
        await RefusalMiddleware(app)(scope, receive, send)
    assert given[0] is scope
    assert given[1] is receive
    assert given[2] is send


async def test_cancellation_passes() -> None:
    async def app(*args: object) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as scope:
        await exchange(RefusalMiddleware(app))
    assert scope.cancelled_caught


def test_what_is_no_app_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="app must be an ASGI app, a function of scope, receive and send, not 7"):
        RefusalMiddleware(7)  # type: ignore[arg-type]


# -- the page


EXAMPLES = re.findall(r"^```python\n(.*?)^```", (DOCS / "asgi.md").read_text(), re.DOTALL | re.MULTILINE)
OUTCOMES: list[list[tuple[int, str | None]]] = [
    [(503, "10")],
    [(503, "10")],
    [(200, None), (429, "60")],
    [(200, None)],
    [(200, None)],
]


@pytest.mark.parametrize("number", range(len(OUTCOMES)))
async def test_the_examples_of_the_page_do_what_they_say(number: int, service: Service) -> None:
    assert len(EXAMPLES) == len(OUTCOMES)
    names: dict[str, Any] = {"__name__": __name__}
    exec(EXAMPLES[number], names)
    service.behave("app", app=names["app"])
    async with client_of(service.url) as client:
        responses = [await client.get("/") for _ in OUTCOMES[number]]
    assert [(response.status_code, response.headers.get("retry-after")) for response in responses] == OUTCOMES[number]


async def test_the_health_example_looks_as_on_the_page() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[3], names)
    page = (DOCS / "asgi.md").read_text()
    [shown] = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    told = (await exchange(names["app"]))[1]["body"].decode()
    moment = re.compile(r"\d+\.\d+")
    assert json.loads(moment.sub("0", told)) == json.loads(moment.sub("0", shown))
