"""For httpx: a transport with a circuit breaker for each origin. All it does stands in `aiobreaker.http`."""

import httpx

from ..http import GuardedBody, GuardedTransport, Library

__all__ = ["BreakerTransport"]


class _Body(GuardedBody, httpx.AsyncByteStream):
    """A response stream that httpx accepts."""


class BreakerTransport(GuardedTransport[httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    """An async httpx transport with a circuit breaker for each origin: `httpx.AsyncClient(transport=BreakerTransport())`.

    Its arguments, and what counts as a failure, are told in `aiobreaker.http.GuardedTransport`.
    """

    _library = Library(
        base=httpx.AsyncBaseTransport,
        default=httpx.AsyncHTTPTransport,
        body=_Body,
        response=httpx.Response,
        failures=(httpx.TransportError, TimeoutError),
        ours=(httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError),
    )
