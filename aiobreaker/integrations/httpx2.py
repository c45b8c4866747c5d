"""For httpx2: a transport with a circuit breaker for each origin. All it does stands in `aiobreaker.http`."""

import httpx2

from ..http import GuardedBody, GuardedTransport, Library

__all__ = ["BreakerTransport"]


class _Body(GuardedBody, httpx2.AsyncByteStream):
    """A response stream that httpx2 accepts."""


class BreakerTransport(GuardedTransport[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    """An async httpx2 transport with a circuit breaker for each origin: `httpx2.AsyncClient(transport=BreakerTransport())`.

    Its arguments, and what counts as a failure, are told in `aiobreaker.http.GuardedTransport`.
    """

    _library = Library(
        base=httpx2.AsyncBaseTransport,
        default=httpx2.AsyncHTTPTransport,
        body=_Body,
        response=httpx2.Response,
        failures=(httpx2.TransportError, TimeoutError),
        ours=(httpx2.PoolTimeout, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError),
    )
