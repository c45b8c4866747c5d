"""This breaker behind the same adapter as its peers. Its clock is looked up when a breaker is made, as scripts need it."""

import time
from typing import Any

from aiobreaker import (
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureRate,
    LastCalls,
    LastSeconds,
    SlowCallRate,
    StateChanged,
    Trials,
)

from ..peers import Made, Observer, Peer


def _made(**settings: Any) -> Made:
    breaker = CircuitBreaker("ours", clock=time.monotonic, **settings)
    return Made(breaker, breaker, state=lambda: breaker.state.value, close=breaker.reset)


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(trip=ConsecutiveFailures(failures), open_for=open_for, trials=Trials(trials, concurrent=trials))


def full(minimum_calls: int) -> Made:
    return _made(trip=FailureRate(0.5, LastCalls(100), minimum_calls))


def slow(slower_than: float, minimum_calls: int) -> Made:
    return _made(trip=SlowCallRate(0.5, slower_than, LastCalls(100), minimum_calls))


def in_flight(slower_than: float, minimum_calls: int) -> Made:
    return _made(trip=SlowCallRate(0.5, slower_than, LastCalls(100), minimum_calls, count_in_flight=True))


def only(kind: type[Exception], failures: int) -> Made:
    return _made(trip=ConsecutiveFailures(failures), failure_on=kind)


def recent(seconds: int, minimum_calls: int) -> Made:
    return _made(trip=FailureRate(0.5, LastSeconds(seconds), minimum_calls))


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    made = plain(failures, open_for, 1)
    made.breaker.subscribe(lambda event: observer(event.new.value) if isinstance(event, StateChanged) else None)
    return made


PEER = Peer(
    distribution="aiobreaker",
    counts="all of it",
    cannot=(),
    refusals=(CircuitOpenError,),
    trio=True,
    plain=plain,
    full=full,
    limits_trials=True,
    slow=slow,
    in_flight=in_flight,
    only=only,
    recent=recent,
    observed=observed,
    retry_after=lambda refusal: refusal.retry_after,
)
