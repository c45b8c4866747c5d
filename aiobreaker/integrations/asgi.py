"""For ASGI apps: refusals as responses, load shedding, and a health endpoint. Pure ASGI: any framework, any server.

Law: no task, no buffer and no reading of requests; what an app has begun to send is never touched. An error that is not wholly
made of refusals passes unchanged.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from heapq import nsmallest
from math import isfinite
from typing import Any, TypeAlias

from ..breaker import CircuitBreaker, Snapshot
from ..core import checks
from ..core.eras import State
from ..errors import RateLimitedError, RefusedError
from ..http import retry_after_value
from ..policy import Pipeline, Policy
from ..refusals import apart, longest_hint
from ..registry import BreakerRegistry

__all__ = ["HealthEndpoint", "LoadSheddingMiddleware", "RefusalMiddleware", "client_address"]

Scope: TypeAlias = Any  # mappings, which the frameworks' own types describe in ways that do not agree
Message: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class RefusalMiddleware:
    """Answers requests that a guard has refused with 503 Service Unavailable, and says in `Retry-After` when to come again.

        app.add_middleware(RefusalMiddleware)  # Starlette, FastAPI
        app = RefusalMiddleware(app)           # any ASGI app

    A refusal is any `RefusedError` that leaves the app: `CircuitOpenError`, and the shortages of limits that the app has put in
    front of its dependencies. It may come in an `ExceptionGroup`, nested too, if nothing else is in there: a group that holds
    another error as well passes unchanged, and so does everything once the response has started. Of several refusals the one
    with the longest wait counts. `Retry-After` is in whole seconds, rounded up, and left out if nobody knows.

    Only HTTP requests are looked at; websockets and the lifespan pass untouched.

    Args:
        app: the app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = _checked_app(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self._app(scope, receive, response)
        except Exception as error:
            refusals, others = apart(error)
            if others or response.status:
                raise
            retry_after = longest_hint(refusals)
        else:
            return
        await _refuse(scope, send, 503, retry_after)


class LoadSheddingMiddleware:
    """Puts a limit in front of an app: a request that finds no room is answered at once, and the app never sees it.

        app.add_middleware(LoadSheddingMiddleware, policy=Bulkhead(100), exempt={"/health"})
        app.add_middleware(LoadSheddingMiddleware, policy=RateLimit(10, key=client_address))
        app.add_middleware(LoadSheddingMiddleware, policy=AdaptiveLimit(failure_if=lambda status: status == 503))

    What a `RateLimit` refuses becomes 429 Too Many Requests, everything else 503 Service Unavailable, with `Retry-After` in
    whole seconds, rounded up, if the policy knows. A `max_wait` lets requests wait in line first.

    The policy sees every request as a call `app(scope, receive, send)` whose result is the status of the response: `key`
    functions get the scope as their first argument, `failure_if` gets the status. The call lasts until the app is done with the
    request, its streamed body and background tasks included: until it returns, raises or is cancelled. What the app raises
    itself passes, a refusal too.

    Only HTTP requests are limited; websockets and the lifespan pass untouched.

    Args:
        app: the app inside.
        policy: a limit, or a pipeline. Policies that call twice, or answer in place of the app, cannot stand here.
        exempt: whole paths that always pass, such as that of a health endpoint.

    Raises:
        TypeError, ValueError: a setting that cannot be; the message names it, its value, and what is allowed.
    """

    def __init__(self, app: ASGIApp, policy: Policy[Any], *, exempt: Collection[str] = ()) -> None:
        app = _checked_app(app)
        _check_policy(policy)

        async def serve(scope: Scope, receive: Receive, send: _Response) -> int:
            send.begun = True
            await app(scope, receive, send)
            return send.status

        self._app = app
        self._serve: Callable[..., Coroutine[Any, Any, Any]] = policy(serve)
        self._exempt = _checked_paths(exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self._serve(scope, receive, response)
        except RefusedError as refusal:
            if response.begun:
                raise
            status = 429 if isinstance(refusal, RateLimitedError) else 503
            retry_after = longest_hint([refusal])
        else:
            return
        await _refuse(scope, send, status, retry_after)


def client_address(scope: Scope, *_: object) -> str:
    """The address of the client, as a key: `RateLimit(10, key=client_address)`. All whose address is unknown share one key.

    Behind a proxy it is the proxy's, unless the server is told to trust its headers (uvicorn: `--forwarded-allow-ips`).
    """
    client = scope.get("client")
    return str(client[0]) if client else ""


class HealthEndpoint:
    """An ASGI app that tells, as JSON, how the circuits are: for probes, load balancers and people. Always with status 200.

        Route("/health", HealthEndpoint(registry, payments))  # Starlette

    An open circuit means that a dependency is down, not this process: to restart it, or to take it out of service, would cure
    nothing. So `status` is "degraded" while any circuit is open, forced open or half-open, else "ok".

        {"status": "degraded", "circuits": {"closed": 41, "open": 1}, "omitted": 0,
         "breakers": [{"name": "payments", "state": "open", "retry_after": 12.4}, ...]}

    `circuits` counts all of them by state. `breakers` lists those that refuse calls before the others, then by name, and
    `omitted` says how many are not in the list. `retry_after` is in seconds, null if there is nothing to wait for or nobody
    knows. No reasons and no errors are told: whoever may ask for health may not always know those.

    It answers GET and HEAD, whatever the path, and looks at everything for each request.

    Args:
        sources: breakers, and registries with all that they hold.
        most: how many breakers to list.

    Raises:
        TypeError, ValueError: a setting that cannot be; the message names it, its value, and what is allowed.
    """

    def __init__(self, *sources: CircuitBreaker | BreakerRegistry[Any], most: int = 100) -> None:
        if not sources:
            raise ValueError("sources must be circuit breakers and registries, one or more, not ()")
        for source in sources:
            if not isinstance(source, CircuitBreaker | BreakerRegistry):
                raise TypeError(f"sources must be circuit breakers and registries, not {source!r}")
        self._sources = sources
        self._most = checks.count("most", most, at_least=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RuntimeError: it is no HTTP request. This is how ASGI servers learn that there is no lifespan to wait for.
        """
        if scope["type"] != "http":
            raise RuntimeError(f"a health endpoint serves HTTP only, no {scope['type']!r}")
        if scope["method"] not in {"GET", "HEAD"}:
            await _respond(scope, send, 405, _TEXT, b"Method Not Allowed", (b"allow", b"GET, HEAD"))
            return
        body = json.dumps(self.report()).encode()
        await _respond(scope, send, 200, b"application/json", body, (b"cache-control", b"no-store"))

    def report(self) -> dict[str, Any]:
        """What the response says, as a value: for an endpoint of one's own."""
        seen = [snapshot for source in self._sources for snapshot in _snapshots(source)]
        listed = nsmallest(self._most, seen, key=lambda snapshot: (snapshot.state not in _REFUSING, snapshot.name))
        return {
            "status": "degraded" if any(snapshot.state in _REFUSING for snapshot in seen) else "ok",
            "circuits": dict(sorted(Counter(snapshot.state.value for snapshot in seen).items())),
            "omitted": len(seen) - len(listed),
            "breakers": [_told(snapshot) for snapshot in listed],
        }


_REFUSING = {State.OPEN, State.FORCED_OPEN, State.HALF_OPEN}


def _snapshots(source: CircuitBreaker | BreakerRegistry[Any]) -> Iterable[Snapshot]:
    return [source.snapshot()] if isinstance(source, CircuitBreaker) else source.snapshot().values()


def _told(snapshot: Snapshot) -> dict[str, Any]:
    seconds = snapshot.retry_after
    retry_after = None if seconds is None or not isfinite(seconds) else round(seconds, 3)
    return {"name": snapshot.name, "state": snapshot.state.value, "retry_after": retry_after}


# -- refusals


# -- responses


class _Response:
    """The `send` of one request, which knows what has become of it."""

    __slots__ = ("_send", "begun", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        """Whether the app has been called, where that is not sure."""
        self.status = 0
        """That of the response; 0 before it starts."""

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        return self._send(message)


_TEXT = b"text/plain; charset=utf-8"
_REASONS = {429: b"Too Many Requests", 503: b"Service Unavailable"}

Header: TypeAlias = tuple[bytes, bytes]


async def _refuse(scope: Scope, send: Send, status: int, retry_after: float | None) -> None:
    asked = retry_after_value(retry_after)
    hint: list[Header] = [] if asked is None else [(b"retry-after", asked.encode())]
    await _respond(scope, send, status, _TEXT, _REASONS[status], *hint)


async def _respond(scope: Scope, send: Send, status: int, kind: bytes, body: bytes, *headers: Header) -> None:
    described = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


# -- settings


def _checked_app(app: ASGIApp) -> ASGIApp:
    if not callable(app):
        raise TypeError(f"app must be an ASGI app, a function of scope, receive and send, not {app!r}")
    return app


_UNFIT = {"retry", "hedge", "fallback", "cache", "coalesce"}


def _check_policy(policy: Policy[Any]) -> None:
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a policy or a pipeline of policies, not {policy!r}")
    for each in policy.policies if isinstance(policy, Pipeline) else (policy,):
        if each.traits.kind in _UNFIT:
            raise ValueError(
                f"policy must serve each request once or refuse it, as limits do, not call twice or answer itself: {each!r}"
            )


def _checked_paths(exempt: Collection[str]) -> frozenset[str]:
    allowed = 'a collection of whole paths, such as {"/health"}'
    if isinstance(exempt, str | bytes) or not isinstance(exempt, Collection):
        raise TypeError(f"exempt must be {allowed}, not {exempt!r}")
    for path in exempt:
        if not isinstance(path, str):
            raise TypeError(f"exempt must be {allowed}, not one with {path!r}")
        if not path.startswith("/"):
            raise ValueError(f"exempt must be {allowed}, not one with {path!r}, which has no '/' in front")
    return frozenset(exempt)
