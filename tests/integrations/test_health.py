"""The health endpoint: open circuits are told as degraded, and never make the process look dead."""

import json
from collections.abc import Callable
from math import inf
from typing import Any, NoReturn

import anyio
import httpx2
import litestar
import pytest
import starlette.applications
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Mount, Route

from aiobreaker import BreakerRegistry, CircuitBreaker, State
from aiobreaker.integrations.asgi import HealthEndpoint
from aiobreaker.testing import ManualClock

from .service import ASGI, Service

ORDERS: dict[State, Callable[[CircuitBreaker], None]] = {
    State.CLOSED: CircuitBreaker.reset,
    State.OPEN: lambda breaker: breaker.open(12.3456),
    State.HALF_OPEN: CircuitBreaker.half_open,
    State.FORCED_OPEN: CircuitBreaker.force_open,
    State.DISABLED: CircuitBreaker.disable,
    State.METRICS_ONLY: CircuitBreaker.metrics_only,
}


def in_state(state: State, name: str = "payments") -> CircuitBreaker:
    breaker = CircuitBreaker(name, clock=ManualClock())
    ORDERS[state](breaker)
    assert breaker.state is state
    return breaker


def registry_of(*names: str) -> BreakerRegistry[str]:
    registry: BreakerRegistry[str] = BreakerRegistry(
        lambda name: CircuitBreaker(name, clock=ManualClock()), clock=ManualClock(), idle_for=inf
    )
    for name in names:
        registry[name].reset()
    return registry


async def exchange(app: ASGI, method: str = "GET", kind: str = "http") -> tuple[int, dict[bytes, bytes], bytes]:
    """The status, headers and body of the response."""
    sent: list[dict[str, Any]] = []

    async def receive() -> NoReturn:
        raise AssertionError("requests are not read")

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": kind, "method": method, "path": "/health", "headers": []}, receive, send)
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


async def told_by(endpoint: HealthEndpoint) -> Any:
    status, _, body = await exchange(endpoint)
    assert status == 200
    return json.loads(body)


# -- what is told


async def test_all_is_well() -> None:
    assert await told_by(HealthEndpoint(registry_of("stock", "mail"), in_state(State.CLOSED))) == {
        "status": "ok",
        "circuits": {"closed": 3},
        "omitted": 0,
        "breakers": [{"name": name, "state": "closed", "retry_after": None} for name in ("mail", "payments", "stock")],
    }


async def test_an_open_circuit_is_degraded_and_the_status_is_200_all_the_same() -> None:
    clock = ManualClock()
    payments = CircuitBreaker("payments", clock=clock)
    payments.open(12.3456)
    endpoint = HealthEndpoint(payments)
    status, headers, body = await exchange(endpoint)
    assert status == 200
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"content-length"] == b"%d" % len(body)
    assert json.loads(body) == {
        "status": "degraded",
        "circuits": {"open": 1},
        "omitted": 0,
        "breakers": [{"name": "payments", "state": "open", "retry_after": 12.346}],
    }
    clock.advance(60)
    assert (await told_by(endpoint))["breakers"] == [{"name": "payments", "state": "open", "retry_after": 0.0}]
    assert payments.state is State.OPEN  # to look is no call
    payments.reset()
    assert (await told_by(endpoint))["status"] == "ok"


@pytest.mark.parametrize("state", State)
async def test_every_state(state: State) -> None:
    report = await told_by(HealthEndpoint(in_state(state), in_state(State.CLOSED, "another")))
    refusing = state in {State.OPEN, State.FORCED_OPEN, State.HALF_OPEN}
    assert report["status"] == ("degraded" if refusing else "ok")
    assert report["circuits"].get(state.value) == (2 if state is State.CLOSED else 1)
    payments = report["breakers"][0 if refusing else 1]
    assert (payments["name"], payments["state"]) == ("payments", state.value)
    assert (payments["retry_after"] == 12.346) is (state is State.OPEN)


async def test_no_errors_and_no_reasons_are_told() -> None:
    payments = CircuitBreaker("payments", clock=ManualClock())
    payments.force_open("secret")
    assert b"secret" not in (await exchange(HealthEndpoint(payments)))[2]


async def test_breakers_of_a_registry_that_come_later_are_told_and_none_is_made_or_kept_by_looking() -> None:
    registry = registry_of("mail", "stock")
    endpoint = HealthEndpoint(registry)
    await told_by(endpoint)
    assert list(registry) == ["mail", "stock"]
    registry["payments"].open(5)
    assert [breaker["name"] for breaker in (await told_by(endpoint))["breakers"]] == ["payments", "mail", "stock"]
    assert list(registry) == ["mail", "stock", "payments"]


# -- bounds


async def test_of_a_large_registry_what_refuses_comes_first_and_the_rest_is_counted() -> None:
    registry = registry_of(*(f"host-{number:03}" for number in range(300)))
    for number in (7, 211):
        registry[f"host-{number:03}"].open(5)
    report = await told_by(HealthEndpoint(registry))
    names = [breaker["name"] for breaker in report["breakers"]]
    assert names[:3] == ["host-007", "host-211", "host-000"]
    assert (len(names), report["omitted"], report["circuits"]) == (100, 200, {"closed": 298, "open": 2})
    assert (await told_by(HealthEndpoint(registry, most=0))) == {
        "status": "degraded",
        "circuits": {"closed": 298, "open": 2},
        "omitted": 300,
        "breakers": [],
    }


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.sampled_from(State)), max_size=8), st.integers(0, 5))
def test_any_breakers(breakers: list[tuple[str, State]], most: int) -> None:
    endpoint = HealthEndpoint(*(in_state(state, name) for name, state in breakers), in_state(State.CLOSED), most=most)
    report = json.loads(json.dumps(endpoint.report(), allow_nan=False))
    assert report["omitted"] + len(report["breakers"]) == sum(report["circuits"].values()) == len(breakers) + 1
    assert len(report["breakers"]) <= most
    refusing = {State.OPEN, State.FORCED_OPEN, State.HALF_OPEN}
    expected = sum(state in refusing for _, state in breakers)
    assert report["status"] == ("degraded" if expected else "ok")
    listed = [State(breaker["state"]) in refusing for breaker in report["breakers"]]
    assert sum(listed) == min(expected, most)
    assert listed == sorted(listed, reverse=True)


# -- HTTP


async def test_head_is_get_without_the_body() -> None:
    endpoint = HealthEndpoint(in_state(State.OPEN))
    _, headers, body = await exchange(endpoint)
    assert await exchange(endpoint, "HEAD") == (200, headers, b"")
    assert body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_not_allowed(method: str) -> None:
    status, headers, body = await exchange(HealthEndpoint(in_state(State.CLOSED)), method)
    assert (status, headers[b"allow"], body) == (405, b"GET, HEAD", b"Method Not Allowed")


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_it_serves_http_only(kind: str) -> None:
    with pytest.raises(RuntimeError, match=f"a health endpoint serves HTTP only, no '{kind}'"):
        await exchange(HealthEndpoint(in_state(State.CLOSED)), kind=kind)


def alone(endpoint: HealthEndpoint) -> ASGI:
    return endpoint


def starlette_route(endpoint: HealthEndpoint) -> ASGI:
    return starlette.applications.Starlette(routes=[Route("/health", endpoint)])


def starlette_mount(endpoint: HealthEndpoint) -> ASGI:
    return starlette.applications.Starlette(routes=[Mount("/health", endpoint)])


def fastapi_route(endpoint: HealthEndpoint) -> ASGI:
    app = FastAPI()
    app.router.routes.append(Route("/health", endpoint))
    return app


def fastapi_mount(endpoint: HealthEndpoint) -> ASGI:
    app = FastAPI()
    app.mount("/health", endpoint)
    return app


def litestar_handler(endpoint: HealthEndpoint) -> ASGI:
    @litestar.asgi("/health", is_mount=True, copy_scope=True)
    async def health(scope: Any, receive: Any, send: Any) -> None:
        await endpoint(scope, receive, send)

    return litestar.Litestar([health], openapi_config=None)  # type: ignore[return-value]  # its own types for the same thing


@pytest.mark.parametrize("place", [alone, starlette_route, starlette_mount, fastapi_route, fastapi_mount, litestar_handler])
async def test_it_can_be_put_everywhere(place: Callable[[HealthEndpoint], ASGI], service: Service) -> None:
    payments = CircuitBreaker("payments", clock=ManualClock())
    service.behave("app", app=place(HealthEndpoint(payments)))
    with anyio.fail_after(20):
        async with httpx2.AsyncClient(base_url=service.url, trust_env=False, follow_redirects=True) as client:
            assert (await client.get("/health")).json()["status"] == "ok"
            payments.open(5)
            degraded = await client.get("/health")
            assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
            head = await client.head("/health")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(degraded.content))
            assert (await client.post("/health")).status_code == 405


# -- settings


PAYMENTS = CircuitBreaker("payments")


@pytest.mark.parametrize(
    ("sources", "settings", "error", "words"),
    [
        ((), {}, ValueError, "sources must be circuit breakers and registries, one or more"),
        ((7,), {}, TypeError, "sources must be circuit breakers and registries, not 7"),
        ((PAYMENTS, {"payments": PAYMENTS}), {}, TypeError, "sources must be circuit breakers and registries, not {"),
        ((PAYMENTS,), {"most": -1}, ValueError, "most must be a whole number, 0 or more, not -1"),
        ((PAYMENTS,), {"most": 1.5}, TypeError, "most must be a whole number, 0 or more, not 1.5"),
    ],
    ids=["none", "a number", "a mapping", "below 0", "a fraction"],
)
def test_settings_that_cannot_be_are_told_at_once(
    sources: tuple[Any, ...], settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        HealthEndpoint(*sources, **settings)
