"""nopanic: everything as a decorator, on asyncio and trio."""

from typing import Any

import nopanic
from nopanic import backoff, compose

from ..peers.nopanic import plain
from . import Shared, Toolkit, terms


def retry(**settings: Any) -> nopanic.retry:
    return nopanic.retry(
        terms.ATTEMPTS, on=OSError, backoff=backoff.full_jitter(terms.FIRST_DELAY, cap=terms.LONGEST_DELAY), **settings
    )


def timeout() -> nopanic.timeout:
    return nopanic.timeout(terms.LIMIT)


def deadline() -> Any:
    return compose(nopanic.deadline(terms.LIMIT), nopanic.timeout(terms.LIMIT))


def bulkhead() -> nopanic.bulkhead:
    return nopanic.bulkhead(terms.AT_ONCE, max_wait=0)


def rate_limit() -> nopanic.rate_limit:
    return nopanic.rate_limit(terms.RATE_PER_SECOND, max_wait=0)


def keyed_rate_limit() -> Any:
    return nopanic.keyed(lambda key: rate_limit(), key=lambda key: key, maxsize=terms.KEYS)


def fallback() -> nopanic.fallback:
    return nopanic.fallback(None, on=OSError)


def cache(size: int = terms.ROOM) -> nopanic.cache:
    return nopanic.cache(terms.TTL, on=OSError, maxsize=size)


def hedge() -> nopanic.hedge:
    return nopanic.hedge(delay=terms.LIMIT)


def breaker() -> Any:
    return plain(terms.FAILURES, terms.OPEN_FOR, terms.TRIALS).breaker


TOOLKIT = Toolkit(
    distribution="nopanic",
    shared={
        terms.RETRY: Shared(retry),
        terms.RETRY_BUDGET: Shared(lambda: retry(budget=nopanic.RetryBudget())),
        terms.TIMEOUT: Shared(timeout),
        terms.DEADLINE: Shared(deadline, "its deadline stops nothing; this is one with a timeout inside, which does"),
        terms.BULKHEAD: Shared(bulkhead, "counted for each event loop"),
        terms.RATE: Shared(rate_limit),
        terms.RATE_KEYED: Shared(keyed_rate_limit),
        terms.FALLBACK: Shared(fallback),
        terms.CACHE_HIT: Shared(cache),
        terms.CACHE_MISS: Shared(cache),
        terms.CACHE_FULL: Shared(lambda: cache(terms.KEYS)),
        terms.HEDGE: Shared(hedge),
        terms.RETRY_BREAKER: Shared(
            lambda: compose(retry(), breaker()), "a breaker by rate, for it has none of failures in a row"
        ),
        terms.RETRY_BREAKER_TIMEOUT: Shared(lambda: compose(retry(), breaker(), timeout()), "the same breaker"),
        terms.CHAIN: Shared(
            lambda: compose(fallback(), rate_limit(), bulkhead(), retry(), breaker(), timeout()), "the same breaker"
        ),
    },
    apart=("`adaptive_rate_limit` adapts calls per second to refusals of the server, not calls at once to latency",),
)
