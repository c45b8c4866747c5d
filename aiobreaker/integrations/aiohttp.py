"""For the client of aiohttp: a middleware with a circuit breaker for each origin. aiohttp runs on asyncio only.

Law: a refused request never reached the wire. A call is judged when aiohttp lets go of its connection, which it does at the end
of the body, however that comes about; or at the head, if that settles the matter. Every settlement is synchronous.
"""

from asyncio import CancelledError
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientHandlerType,
    ClientPayloadError,
    ClientRequest,
    ClientResponse,
)

from ..core.eras import Permit
from ..core.outcomes import Judge, Outcome
from ..gate import Gate
from ..http import origin, registry_of_defaults, settle_by_head
from ..registry import BreakerRegistry
from ..waiting import admit_patiently

__all__ = ["BreakerMiddleware"]

_POOL_QUEUE = "_wait_for_available_connection"  # aiohttp's errors do not say whether a request ever left the queue of the pool


class BreakerMiddleware:
    """A client middleware with a circuit breaker for each origin: `ClientSession(middlewares=(BreakerMiddleware(),))`.

    A call is judged when its body has ended: one that dies half way is a failure. A response that is closed before its end says
    nothing, unless its status has said it all. A redirect is judged by its head, as aiohttp does not read its body, and every
    hop is a call of its own; a WebSocket is judged by its handshake. Slow is the time to the headers.

    Connect, read, write and protocol errors and timeouts are failures; a vain wait for a connection of the pool, what the body
    of the request raises, and calls that fall with the session's own `close()` are not counted. Of the errors that are failures
    here the breaker's own `failure_on` and `ignore` choose. A refused call raises CircuitOpenError.

    Args:
        registry: where the breakers come from. Default: one of its own, of breakers with default settings.
        key: a function of the request that says which breaker is asked. Default: the origin.
        failure_if: a function of the response (its status and headers; the body is still to come) that says whether it is a
            failure. Default: the breaker's own `failure_if`; if it has none, the statuses 500, 502, 503 and 504.
            A 429 that it does not call a failure is not counted; but it opens the circuit for as long as its `Retry-After`
            says, at most for the breaker's `max_retry_after`. A breaker with a `retry_after` of its own goes by that instead.

    Raises:
        TypeError: a setting that cannot be; the message names it, its value, and what is allowed.
    """

    def __init__(
        self,
        *,
        registry: BreakerRegistry[Any] | None = None,
        key: Callable[[ClientRequest], Hashable] | None = None,
        failure_if: Callable[[ClientResponse], object] | None = None,
    ) -> None:
        if registry is not None and not isinstance(registry, BreakerRegistry):
            raise TypeError(f"registry must be a BreakerRegistry or None, not {registry!r}")
        for argument, function in (("key", key), ("failure_if", failure_if)):
            if function is not None and not callable(function):
                raise TypeError(f"{argument} must be a function or None, not {function!r}")
        self._registry: BreakerRegistry[Any] = registry_of_defaults() if registry is None else registry
        self._key: Callable[[ClientRequest], Hashable] = _origin_of if key is None else key
        self._failure_if = failure_if

    @property
    def registry(self) -> BreakerRegistry[Any]:
        """Where the breakers come from: to look at them, observe them, and give them orders."""
        return self._registry

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send a request, guarded.

        Raises:
            CircuitOpenError: refused; nothing was sent.
        """
        gate = self._registry[self._key(request)]._gate
        permit = await admit_patiently(gate, 0)
        try:
            response = await handler(request)
        except BaseException as error:
            _broke(gate, permit, request, error)
            raise
        gate.answered(permit)
        try:
            settled = settle_by_head(gate, permit, response, response.status, self._failure_if)
        except BaseException:
            response.close()  # the caller never gets it
            raise
        if settled:
            return response
        if response.status == 101 or 300 <= response.status < 400:
            gate.succeeded(permit)
        else:
            _await_end(gate, permit, request, response)
        return response


def _await_end(gate: Gate, permit: Permit, request: ClientRequest, response: ClientResponse) -> None:
    end = _End(gate, permit, request, response)
    if response.connection is None:  # the whole body came with the head, or there is none
        end()
    else:
        response.connection.add_callback(end)


class _End:
    """Settles a call by what is known of the body when it is called; at the latest when it is thrown away.

    It holds no response: that must be able to go when the caller lets go of it.
    """

    __slots__ = ("_content", "_gate", "_permit", "_protocol", "_request")

    def __init__(self, gate: Gate, permit: Permit, request: ClientRequest, response: ClientResponse) -> None:
        self._gate = gate
        self._permit = permit
        self._request = request
        self._content = response.content
        self._protocol = None if response.connection is None else response.connection.protocol

    def __call__(self) -> None:
        if self._permit.settled:
            return
        if self._content.is_eof():
            self._gate.succeeded(self._permit)
            return
        error = self._error()
        if error is None:
            self._gate.abandon(self._permit)  # aiohttp may be in a finaliser
        else:
            _broke(self._gate, self._permit, self._request, error)

    __del__ = __call__

    def _error(self) -> BaseException | None:
        """What has ended the body before its time; None if it was its reader."""
        error = self._content.exception()
        if error is not None and not _is_our_own(error):
            return error
        if _timed_out(self._request):
            return TimeoutError("the body did not end in time")
        error = None if self._protocol is None else self._protocol.exception()
        if error is None or isinstance(error, ClientError):
            return error
        return ClientPayloadError(f"the body broke off: {error!r}")  # of which aiohttp tells nobody who reads it


def _broke(gate: Gate, permit: Permit, request: ClientRequest, error: BaseException) -> None:
    """A call has raised. Which of these errors can be failures is said here, and which of them are, by the breaker."""
    if isinstance(error, CancelledError) and _timed_out(request):
        error = _as_timeout(error)
    broken = isinstance(error, Exception | BaseExceptionGroup)
    ours = broken and (request.session.closed or _queued(error) or _CAN_FAIL.error(error) is not Outcome.FAILURE)
    if ours:
        gate.settle(permit, Outcome.IGNORED)
    else:
        gate.broke(permit, error)


def _is_our_own(error: BaseException) -> bool:
    """Whether the other side has no part in it. aiohttp raises just this class if told to close, or by a request's body."""
    return not isinstance(error, ClientError | OSError) or type(error) is ClientConnectionError


_CAN_FAIL = Judge(Exception, _is_our_own, None)


def _timed_out(request: ClientRequest) -> bool:
    """Whether the request's total time is over. Until a connection stands that looks like a cancellation from inside."""
    try:
        request._timer.assert_timeout()
    except TimeoutError:
        return True
    return False


def _as_timeout(cancelled: CancelledError) -> TimeoutError:
    error = TimeoutError("no answer in time")
    error.__cause__ = cancelled
    return error


def _queued(error: BaseException) -> bool:
    """Whether the request was still in the queue for a connection of the pool when it failed."""
    return any(name == _POOL_QUEUE for name in _functions(error))


def _functions(error: BaseException | None) -> Iterator[str]:
    """The names of the functions through which an error and its causes have come."""
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame.f_code.co_name
            traceback = traceback.tb_next
        error = error.__cause__


def _origin_of(request: ClientRequest) -> str:
    url = request.url
    return origin(url.scheme, url.host or "", url.port)
