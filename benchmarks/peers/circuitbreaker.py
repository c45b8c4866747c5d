"""circuitbreaker: failures in a row; refuses with CircuitBreakerError."""

import re

from circuitbreaker import CircuitBreaker, CircuitBreakerError

from . import Made, Peer


def plain(failures: int, open_for: float, trials: int) -> Made:
    breaker = CircuitBreaker(failure_threshold=failures, recovery_timeout=open_for, name="peer")
    return Made(breaker, breaker)


def full(minimum_calls: int) -> Made:
    return plain(minimum_calls, 30.0, 1)


def only(kind: type[Exception], failures: int) -> Made:
    breaker = CircuitBreaker(failure_threshold=failures, expected_exception=kind, name="peer")
    return Made(breaker, breaker)


def retry_after(refusal: CircuitBreakerError) -> float | None:
    found = re.search(r"(-?\d+) sec remaining", str(refusal))
    return None if found is None else float(found[1])


PEER = Peer(
    distribution="circuitbreaker",
    counts="failures in a row",
    cannot=(
        "no limit of trials: every caller passes while it is half-open, and one success closes",
        "no window, no slow calls",
        "its `call_async` and its block count, but never refuse",
    ),
    refusals=(CircuitBreakerError,),
    trio=True,
    plain=plain,
    full=full,
    only=only,
    retry_after=retry_after,
)
