"""What all guarded HTTP has in common: origins, statuses, Retry-After, and all the logic of the transports; it knows no client.

Law: a call is judged at the end of its body, or as soon as its status has settled the matter; a refused one never reached the
wire. Every settlement is synchronous. What is our own doing (a full pool, a request that cannot be sent, a client that is
being closed) says nothing about the other side.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping
from functools import lru_cache
from math import ceil, inf, isfinite
from traceback import walk_tb
from types import TracebackType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import anyio

from .breaker import CircuitBreaker
from .core import checks
from .core.eras import Permit
from .core.outcomes import Judge, Outcome
from .errors import CircuitOpenError
from .gate import Gate, Pass
from .registry import BreakerRegistry
from .settings import hinted_delay
from .waiting import admit_patiently

Q = TypeVar("Q")
A = TypeVar("A")
Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)

FAILURE_STATUSES = frozenset({500, 502, 503, 504})
"""The statuses that are failures if nothing else is said: the service, or what stands before it, is broken or overloaded."""

TOO_MANY_REQUESTS = 429

_TELLING = FAILURE_STATUSES | {TOO_MANY_REQUESTS}
_FRESH = 1.0  # seconds for which the registry need not hear of more calls to the same place
_MOST_KNOWN = 32  # places
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


@lru_cache(maxsize=4096)
def origin(scheme: str, host: str, port: int | None) -> str:
    """Scheme, host and port as one key, `https://api.example.com`: lower case, and without the scheme's default port."""
    scheme, host = scheme.lower(), host.lower()
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds from now `Retry-After` asks for, out of its seconds or its date; None if it says nothing above 0.

    `headers` are looked up by the lower-case name.
    """
    text = headers.get("retry-after")
    delay = None if text is None else hinted_delay(text, time.time())
    return delay if delay is not None and 0 < delay < inf else None


def retry_after_value(seconds: float | None) -> str | None:
    """What `Retry-After` says of this many seconds: whole ones, rounded up; None if nobody knows or it never ends."""
    return None if seconds is None or not isfinite(seconds) else str(max(0, ceil(seconds)))


def settle_by_head(
    gate: Gate, permit: Pass, response: Any, status: int, failure_if: Callable[[Any], object] | None = None
) -> bool:
    """Settle a call if its status and headers have settled the matter; else (False) its body decides.

    A failure is what `failure_if` says; without it the breaker's own; if it has none, the statuses that usually are. A 429 that
    is none is not counted. It opens the circuit for as long as it asks, unless the breaker has a rule of its own for hints.
    What a rule raises goes to the caller.
    """
    settings = gate.settings
    fails = failure_if or settings.judge.failure_if
    try:
        failed = status in FAILURE_STATUSES if fails is None else bool(fails(response))
        if settings.retry_after is not None:
            hint = settings.hint(response)
        else:
            asked = retry_after(response.headers) if status == TOO_MANY_REQUESTS else None
            hint = None if asked is None else min(asked, settings.max_retry_after)
    except BaseException:
        gate.settle(permit, Outcome.IGNORED)
        raise
    if failed:
        gate.settle(permit, Outcome.FAILURE, response, hint)
    elif hint is not None or status == TOO_MANY_REQUESTS:
        gate.settle(permit, Outcome.IGNORED, hint=hint)
    else:
        return False
    return True


def registry_of_defaults() -> BreakerRegistry[Any]:
    """Breakers with default settings, named after their keys."""
    return BreakerRegistry(lambda key: CircuitBreaker(str(key)))


class Library(NamedTuple):
    """What the transports must know of a client library."""

    base: type[Any]
    """The class of its transports."""
    default: Callable[[], Any]
    """Makes the transport that is wrapped if none is given."""
    body: "type[GuardedBody]"
    """The response stream that it accepts."""
    response: Callable[..., Any]
    """Makes a response."""
    failures: tuple[type[Exception], ...]
    """The errors by which the other side, or the way to it, has failed."""
    ours: tuple[type[Exception], ...]
    """Those among them that are our own doing."""


class Transport(Protocol[Q_contra, A_co]):
    """What is wrapped: it sends a request, and answers with a response whose body is still to come."""

    async def handle_async_request(self, request: Q_contra, /) -> A_co:
        """Send a request."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Life:
    """The time from one closing of a transport to the next. What breaks after its end has been broken by ourselves."""

    __slots__ = ("_judge", "over")

    def __init__(self, library: Library) -> None:
        def says_nothing(error: BaseException) -> bool:
            ours = not isinstance(error, library.failures) or isinstance(error, library.ours)
            return ours and not _came_in_over_http2(error)

        self._judge = Judge(Exception, says_nothing, None)
        self.over = False

    def broke(self, gate: Gate, permit: Pass, error: BaseException, began: float | None = None) -> None:
        """A call has raised. Which errors can be failures is said here, and which of them are, by the breaker."""
        broken = isinstance(error, Exception | BaseExceptionGroup)
        if broken and (self.over or self._judge.error(error) is not Outcome.FAILURE):
            gate.settle(permit, Outcome.IGNORED, began=began)
        else:
            gate.broke(permit, error, began)


def _came_in_over_http2(error: BaseException | None) -> bool:
    """Whether h2 was taking in what the other side had sent. What it says then the libraries blame on us, or pass on raw."""
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            if frame.f_code.co_name == "receive_data" and frame.f_globals.get("__name__") == "h2.connection":
                return True
        error = error.__cause__ or error.__context__
    return False


class GuardedBody:
    """The body of a response, which settles the call: at its end, when it breaks, when it is closed, or when it is thrown away.

    Each library's own is made of it and of that library's stream class. It is no generator: those cost more, and one that is
    thrown away would be closed by the event loop, at some later time.
    """

    _chunks: Any = None

    def __init__(self, stream: Any, gate: Gate, permit: Pass, life: Life, began: float | None, answered: float) -> None:
        self._stream = stream
        self._gate = gate
        self._permit: Any = permit  # until it is settled
        self._life = life
        self._began = began  # where slowness counts and the call shares its era
        self._answered = answered

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body, chunk by chunk. Whoever comes to it half way goes on where the last one left."""
        if self._chunks is None or self._permit is None:
            self._chunks = self._stream.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        """The next chunk."""
        try:
            async for chunk in self._chunks:  # it is an iterator: a loop of one turn costs less than catching its end
                found: bytes = chunk
                return found
        except BaseException as error:
            if self._permit is not None:
                self._life.broke(self._gate, self._taken(), error)
            raise
        permit = self._permit
        if permit is not None:
            began, n = self._began, permit.n + 1
            quick = began is None or self._answered - began < permit.slow_after
            if quick and n < permit.horizon and (permit.roll_at == inf or self._gate.clock() < permit.roll_at):
                permit.n = n
                self._permit = None
            else:
                self._gate.succeeded(self._taken())
        raise StopAsyncIteration

    def aclose(self) -> Any:  # a coroutine: the inner one as it is, if nothing is left to do
        """Close the body. Before its end that says nothing about the other side."""
        return self._stream.aclose() if self._permit is None else self._close_early()

    async def _close_early(self) -> None:
        self._gate.settle(self._taken(), Outcome.IGNORED)
        chunks = self._chunks
        await self._stream.aclose()
        if isinstance(chunks, AsyncGenerator) and not getattr(chunks, "ag_running", False):
            await chunks.aclose()

    def __del__(self) -> None:
        if self._permit is not None:
            self._gate.abandon(self._taken())

    def _taken(self) -> Pass:
        """What is to be settled, now."""
        permit: Pass = self._permit
        self._permit = None
        return permit if self._began is None else _answered_permit(permit, self._began, self._answered)


def _answered_permit(era: Any, began: float, answered: float) -> Permit:
    """A permit of its own for a call that has shared its era: slow is the time to the headers."""
    permit = Permit(era, began)
    permit.answered = answered
    return permit


class GuardedTransport(Generic[Q, A]):
    """An async transport with a circuit breaker for each origin in front of another transport.

    A call is judged when its body has ended: one that dies half way is a failure. A body that is closed before its end says
    nothing, unless the status has said it all. Slow is the time to the headers.

    Connect, read, write and protocol errors and timeouts are failures; a full connection pool, a request that breaks the
    protocol, what the body of the request raises, and calls that fall with the client's own `aclose()` are not counted. Of the
    errors that are failures here the breaker's own `failure_on` and `ignore` choose.

    Args:
        wrapped: the transport that does the work, with all its settings. Default: the library's own.
        registry: where the breakers come from. Default: one of its own, of breakers with default settings.
        key: a function of the request that says which breaker is asked. Default: the origin.
        failure_if: a function of the response (its status and headers; the body is still to come) that says whether it is a
            failure. Default: the breaker's own `failure_if`; if it has none, the statuses 500, 502, 503 and 504.
            A 429 that it does not call a failure is not counted; but it opens the circuit for as long as its `Retry-After`
            says, at most for the breaker's `max_retry_after`. A breaker with a `retry_after` of its own goes by that instead.
        on_open: what a refused call gets: "raise" CircuitOpenError, or a "response" 503, which says `Retry-After` if anybody
            knows, and `x-should-retry: false`.
        max_wait: for how many seconds a call may wait for admission; 0 refuses at once.

    Raises:
        TypeError, ValueError: a setting that cannot be; the message names it, its value, and what is allowed.
    """

    _library: ClassVar[Library]

    def __init__(
        self,
        wrapped: Transport[Q, A] | None = None,
        *,
        registry: BreakerRegistry[Any] | None = None,
        key: Callable[[Q], Hashable] | None = None,
        failure_if: Callable[[A], object] | None = None,
        on_open: Literal["raise", "response"] = "raise",
        max_wait: float = 0.0,
    ) -> None:
        library = self._library
        if wrapped is not None and not isinstance(wrapped, library.base):
            raise TypeError(f"wrapped must be an async transport ({library.base.__module__}), not {wrapped!r}")
        if registry is not None and not isinstance(registry, BreakerRegistry):
            raise TypeError(f"registry must be a BreakerRegistry or None, not {registry!r}")
        for argument, function in (("key", key), ("failure_if", failure_if)):
            if function is not None and not callable(function):
                raise TypeError(f"{argument} must be a function or None, not {function!r}")
        if on_open not in ("raise", "response"):
            raise ValueError(f'on_open must be "raise" or "response", not {on_open!r}')
        self._wrapped: Any = library.default() if wrapped is None else wrapped
        self._registry: BreakerRegistry[Any] = registry_of_defaults() if registry is None else registry
        self._key = key
        self._failure_if = failure_if
        self._on_open = on_open
        self._max_wait = checks.wait("max_wait", max_wait)
        self._body = library.body
        self._life = Life(library)
        self._clock = self._registry._clock
        self._known: dict[object, tuple[Gate, float]] = {}  # by place: its breaker, as good as the registry's answer until then

    @property
    def registry(self) -> BreakerRegistry[Any]:
        """Where the breakers come from: to look at them, observe them, and give them orders."""
        return self._registry

    async def handle_async_request(self, request: Q) -> A:
        """Send a request, guarded.

        Raises:
            CircuitOpenError: refused; nothing was sent.
        """
        if self._key is None:
            url = request.url  # type: ignore[attr-defined]
            place: Any = (url.scheme, url.host, url.port)
        else:
            place = self._key(request)
        known = self._known.get(place)
        gate = self._look_up(place) if known is None or self._clock() >= known[1] else known[0]
        permit: Any = gate.circuit.door.shared
        began: float | None = None
        timed = True
        if permit is None:
            try:
                permit = await admit_patiently(gate, self._max_wait)
            except CircuitOpenError as refusal:
                if self._on_open == "raise":
                    raise
                return self._stand_in(request, refusal)
        else:
            permit.started += 1
            if permit.slow_after == inf:
                timed = False
            else:
                clock = gate.clock
                began = clock()
        life = self._life
        try:
            answer: A = await self._wrapped.handle_async_request(request)
        except BaseException as error:
            life.broke(gate, permit, error, began)
            raise
        answered = 0.0
        if timed:
            if began is None:
                gate.answered(permit)
            else:
                clock = gate.clock
                answered = clock()
        response: Any = answer
        if response.status_code in _TELLING or gate.judges or self._failure_if is not None or response.is_closed:
            if began is not None:
                permit, began = _answered_permit(permit, began, answered), None
            if await self._is_settled(gate, permit, request, response):
                return answer
        response.stream = self._body(response.stream, gate, permit, life, began, answered)
        return answer

    async def aclose(self) -> None:
        """Close the wrapped transport. Calls in flight break, and are not counted."""
        self._end_life()
        await self._wrapped.aclose()

    async def __aenter__(self) -> Self:
        """Enter the wrapped transport."""
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the wrapped transport, which closes it."""
        self._end_life()
        await self._wrapped.__aexit__(exc_type, exc_value, traceback)

    def _look_up(self, place: Any) -> Gate:
        """Ask the registry, which learns in this way who is in use."""
        registry = self._registry
        gate = registry[origin(*place) if self._key is None else place]._gate
        if len(self._known) >= _MOST_KNOWN:
            self._known = {}
        self._known[place] = gate, self._clock() + min(_FRESH, registry._idle_for)
        return gate

    def _end_life(self) -> None:
        self._life.over = True
        self._life = Life(self._library)

    async def _is_settled(self, gate: Gate, permit: Pass, request: Q, response: Any) -> bool:
        """Whether the status and headers have settled the matter, or there is no body to wait for."""
        response.request = request  # rules may want to know
        try:
            settled = settle_by_head(gate, permit, response, response.status_code, self._failure_if)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await response.aclose()  # the caller never gets it
            raise
        if response.is_closed and not settled:
            gate.succeeded(permit)
        return settled or response.is_closed

    def _stand_in(self, request: Q, refusal: CircuitOpenError) -> A:
        headers = {"content-type": "text/plain; charset=utf-8", "x-should-retry": "false"}
        asked = retry_after_value(refusal.retry_after)
        if asked is not None:
            headers["retry-after"] = asked
        answer: A = self._library.response(503, headers=headers, content=str(refusal).encode(), request=request)
        return answer
