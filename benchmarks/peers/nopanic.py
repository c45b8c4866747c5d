"""nopanic: a time window of buckets with slow calls; refuses with CircuitOpen."""

from typing import Any

from nopanic import CircuitBreaker, CircuitOpen

from . import Made, Observer, Peer


def _made(breaker: CircuitBreaker) -> Made:
    return Made(
        breaker,
        breaker,
        call="await breaker.acall(fn)",
        block="async with breaker.guard():\n    await fn()",
        state=lambda: breaker.state,
        close=breaker.reset,
    )


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(_all_failed(failures, reset_timeout=open_for, half_open_max_calls=trials))


def _all_failed(failures: int, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=1.0, min_calls=failures, name="peer", **settings)


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


def slow(slower_than: float, minimum_calls: int) -> Made:
    return _made(CircuitBreaker(slow_call_duration=slower_than, slow_call_threshold=0.5, min_calls=minimum_calls, name="peer"))


def only(kind: type[Exception], failures: int) -> Made:
    return _made(_all_failed(failures, on=kind))


def recent(seconds: int, minimum_calls: int) -> Made:
    return _made(CircuitBreaker(failure_threshold=0.5, window=seconds, min_calls=minimum_calls, name="peer"))


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    def told(breaker: object, old: str, new: str) -> None:
        observer(new)

    return _made(_all_failed(failures, reset_timeout=open_for, on_state_change=told))


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
    limits_trials=True,
    slow=slow,
    only=only,
    recent=recent,
    observed=observed,
    retry_after=lambda refusal: refusal.retry_after,
)
