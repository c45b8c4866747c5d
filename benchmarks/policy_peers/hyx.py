"""hyx: decorators for asyncio; some need no event loop and so work under trio too."""

from collections.abc import Callable
from typing import Any

from hyx.bulkhead import bulkhead as hyx_bulkhead
from hyx.fallback import fallback as hyx_fallback
from hyx.ratelimit import tokenbucket
from hyx.retry import retry as hyx_retry
from hyx.retry.backoffs import expo
from hyx.retry.jitters import full
from hyx.timeout import timeout as hyx_timeout

from ..peers.hyx import plain
from . import Shared, Toolkit, terms


def retry() -> Any:
    delays = expo(min_delay_secs=terms.FIRST_DELAY, max_delay_secs=terms.LONGEST_DELAY, jitter=full)
    return hyx_retry(on=OSError, attempts=terms.ATTEMPTS - 1, backoff=delays)  # it counts the repetitions


def timeout() -> Any:
    return hyx_timeout(terms.LIMIT)


def bulkhead() -> Any:
    return hyx_bulkhead(terms.AT_ONCE, terms.AT_ONCE)


def rate_limit() -> Any:
    return tokenbucket(terms.RATE_PER_SECOND, 1.0)


def fallback() -> Any:
    async def handler(error: object, *args: object, **kwargs: object) -> None:
        return None

    return hyx_fallback(handler, on=OSError)


def breaker() -> Any:
    return plain(terms.FAILURES, terms.OPEN_FOR, terms.TRIALS).breaker


def _stacked(*policies: Any) -> Callable[[Any], Any]:
    def decorate(fn: Any) -> Any:
        for policy in reversed(policies):
            fn = policy(fn)
        return fn

    return decorate


TOOLKIT = Toolkit(
    distribution="hyx",
    shared={
        terms.RETRY: Shared(
            retry,
            "calls of one function share one sequence of delays; the last error comes as MaxAttemptsExceeded; asyncio only",
            trio=False,
        ),
        terms.TIMEOUT: Shared(timeout, "runs every call in a task of its own; asyncio only", trio=False),
        terms.BULKHEAD: Shared(bulkhead, "works under trio as long as nobody waits"),
        terms.RATE: Shared(rate_limit, "looks at the clock only when its tokens are spent; asyncio only", trio=False),
        terms.FALLBACK: Shared(fallback, "a function only"),
        terms.RETRY_BREAKER: Shared(lambda: _stacked(retry(), breaker()), trio=False),
        terms.RETRY_BREAKER_TIMEOUT: Shared(lambda: _stacked(retry(), breaker(), timeout()), trio=False),
        terms.CHAIN: Shared(
            lambda: _stacked(fallback(), rate_limit(), bulkhead(), retry(), breaker(), timeout()),
            trio=False,
        ),
    },
)
