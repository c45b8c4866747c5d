"""What is timed of the policies: each that others have too beside theirs, and the prices of what is ours alone."""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import count
from typing import Any

from aiobreaker import CircuitBreaker
from aiobreaker.budget import RetryBudget
from aiobreaker.core.limits import AIMD, Vegas
from aiobreaker.core.quantiles import Quantile
from aiobreaker.policies.adaptive_limit import AdaptiveLimit
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce
from aiobreaker.policies.deadline import Deadline
from aiobreaker.policies.fallback import Fallback
from aiobreaker.policies.hedge import Hedge
from aiobreaker.policies.rate_limit import RateLimit
from aiobreaker.policies.retry import Retry
from aiobreaker.policies.throttle import Throttle
from aiobreaker.policies.timeout import Timeout
from aiobreaker.policy import Policy

from .harness import AWAITED, Case, Function, Loop, loop, noop, pass_through
from .policy_peers import Toolkit, terms

OURS = "this one"

CALLED = "await policy.call(fn)"
BLOCK = "async with policy.guard():\n    await fn()"
ATTEMPTS = "async for attempt in policy:\n    with attempt:\n        await fn()"

SAME_KEY, NEW_KEY = "await fn(1)", "await fn(next(numbers))"
STATEMENTS = {terms.RATE_KEYED: SAME_KEY, terms.CACHE_HIT: SAME_KEY, terms.CACHE_MISS: NEW_KEY, terms.CACHE_FULL: NEW_KEY}

Decorate = Callable[[Any], Any]


async def keyed(key: int) -> int:
    """What is guarded, if its argument matters."""
    return key


def retry(**settings: Any) -> Retry:
    """As the peers' are."""
    return Retry(OSError, attempts=terms.ATTEMPTS, **settings)  # back-off and jitter are those that it has by default


def timeout() -> Timeout:
    return Timeout(terms.LIMIT)


def bulkhead() -> Bulkhead:
    return Bulkhead(terms.AT_ONCE)


def rate_limit(**settings: Any) -> RateLimit:
    return RateLimit(terms.RATE_PER_SECOND, **settings)


def fallback() -> Policy[None]:
    return Fallback(None, on=OSError)


def cached(size: int = terms.ROOM) -> Cache:
    return Cache(terms.TTL, max_size=size)


def breaker() -> CircuitBreaker:
    return CircuitBreaker("timed")  # opens after 5 failures in a row, for 30 s, as the peers' do


def chain() -> Policy[None]:
    return fallback() | rate_limit() | bulkhead() | retry() | breaker() | timeout()


SHARED: dict[str, Callable[[], Decorate]] = {
    terms.RETRY: retry,
    terms.RETRY_BUDGET: lambda: retry(budget=RetryBudget()),
    terms.TIMEOUT: timeout,
    terms.DEADLINE: lambda: Deadline(terms.LIMIT),
    terms.BULKHEAD: bulkhead,
    terms.RATE: rate_limit,
    terms.RATE_KEYED: lambda: rate_limit(key=lambda key: key),
    terms.FALLBACK: fallback,
    terms.CACHE_HIT: cached,
    terms.CACHE_MISS: cached,
    terms.CACHE_FULL: lambda: cached(terms.KEYS),
    terms.HEDGE: lambda: Hedge(terms.LIMIT),
    terms.RETRY_BREAKER: lambda: retry() | breaker(),
    terms.RETRY_BREAKER_TIMEOUT: lambda: retry() | breaker() | timeout(),
    terms.CHAIN: chain,
}


def title(policy: str, whose: str) -> str:
    """The name of a case."""
    return f"{policy}: {whose}"


async def shared(toolkits: Iterable[Toolkit], trio: bool) -> list[Case]:
    """Each policy that others have too: ours, and those of the toolkits that work here."""
    cases = []
    for policy, ours in SHARED.items():
        makers = {OURS: ours}
        for toolkit in toolkits:
            theirs = toolkit.shared.get(policy)
            if theirs is not None and (theirs.trio or not trio):
                makers[toolkit.label] = theirs.make
        cases += [_decorated(title(policy, whose), make(), STATEMENTS.get(policy, AWAITED)) for whose, make in makers.items()]
    for case in cases:
        if case.name.startswith(terms.CACHE_FULL):
            await case.loop(terms.KEYS)  # fill it
    return cases


def priced() -> list[Case]:
    """What no other has, options, and other ways in."""
    return [
        _decorated("Coalesce, nobody else there", Coalesce(), SAME_KEY),
        _decorated("AdaptiveLimit, Gradient2", AdaptiveLimit()),
        _decorated("AdaptiveLimit, Vegas", AdaptiveLimit(Vegas())),
        _decorated("AdaptiveLimit, AIMD", AdaptiveLimit(AIMD())),
        _decorated("Throttle", Throttle()),
        _decorated("Retry, with a total time", retry(total_time=terms.LIMIT)),
        _decorated("Retry, results judged", retry(retry_if=lambda result: result is not None)),
        _decorated("Cache hit, key by a function", Cache(terms.TTL, key=lambda key: key), SAME_KEY),
        _decorated("Hedge, after a quantile", Hedge(Quantile(0.99, minimum=terms.LIMIT))),
        _decorated("chain of six without Timeout", fallback() | rate_limit() | bulkhead() | retry() | breaker()),
        _written("chain of six, called", CALLED, chain()),
        _written("Retry, block", ATTEMPTS, retry()),
        _written("Timeout, block", BLOCK, timeout()),
        _written("Deadline, block", BLOCK, Deadline(terms.LIMIT)),
        _written("Bulkhead, block", BLOCK, bulkhead()),
        _written("RateLimit, block", BLOCK, rate_limit()),
        _written("AdaptiveLimit, block", BLOCK, AdaptiveLimit()),
        _written("Throttle, block", BLOCK, Throttle()),
    ]


def _decorated(name: str, decorate: Decorate, statement: str = AWAITED) -> Case:
    return Case(name, _loop(statement, decorate), *_bases(statement))


def _written(name: str, statement: str, policy: Policy[Any]) -> Case:
    return Case(name, loop(statement, policy=policy, fn=noop), *_bases(AWAITED))


def _loop(statement: str, decorate: Decorate) -> Loop:
    return loop(statement, fn=decorate(noop if statement == AWAITED else keyed), numbers=count())


@cache
def _bases(statement: str) -> tuple[Loop, Loop]:
    """What cases of this statement are compared with: the same through the pass-through, and bare."""

    def bare(fn: Function) -> Function:
        return fn

    return _loop(statement, pass_through), _loop(statement, bare)
