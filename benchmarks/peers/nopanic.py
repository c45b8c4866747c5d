"""nopanic: a time window of buckets with slow calls; refuses with CircuitOpen."""

from nopanic import CircuitBreaker, CircuitOpen

from . import Made, Peer


def _made(breaker: CircuitBreaker) -> Made:
    return Made(breaker, breaker, call="await breaker.acall(fn)", block="async with breaker.guard():\n    await fn()")


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(
        CircuitBreaker(
            failure_threshold=1.0, min_calls=failures, reset_timeout=open_for, half_open_max_calls=trials, name="peer"
        )
    )


def full(minimum_calls: int) -> Made:
    return _made(
        CircuitBreaker(
            failure_threshold=0.5,
            min_calls=minimum_calls,
            window=60.0,
            slow_call_duration=60.0,
            slow_call_threshold=0.5,
            name="peer",
        )
    )


PEER = Peer(
    distribution="nopanic",
    counts="failure rate and slow calls, last 60 s",
    cannot=(
        "no failures in a row: one success within its 30 s keeps the rate under 100 %",
        "no window of the last N calls",
        "trials run at once, as many as are wanted; fewer cannot be said",
    ),
    refusals=(CircuitOpen,),
    trio=True,
    plain=plain,
    full=full,
)
