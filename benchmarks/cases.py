"""What is timed of the breaker: every way in, closed and succeeding, and the paths beside it. What has a bar says so."""

import time
from typing import Any

from aiobreaker import BreakerRegistry, CircuitBreaker, ConsecutiveFailures, FailureRate, LastCalls, LastSeconds, SlowCallRate

from .harness import AWAITED, BARE, BARE_MIXED, MIXED, PASSING_MIXED, Case, Loop, failing, fails, loop, noop, succeeding

CALLED = "await breaker.call(fn)"
BLOCK = "async with breaker.guard():\n    await fn()"
TOKEN = "permit = await breaker.acquire()\nawait fn()\npermit.success()"

COUNT = FailureRate(0.5, LastCalls(100), minimum_calls=10)
TIME = FailureRate(0.5, LastSeconds(60), minimum_calls=10)
COUNT_SLOW = COUNT | SlowCallRate(0.5, slower_than=60, window=LastCalls(100), minimum_calls=10)
TIME_SLOW = TIME | SlowCallRate(0.5, slower_than=60, window=LastSeconds(60), minimum_calls=10)
IN_FLIGHT = TIME | SlowCallRate(0.5, slower_than=60, window=LastSeconds(60), minimum_calls=10, count_in_flight=True)
NEVER = FailureRate(1.0, LastCalls(1_000_000), minimum_calls=1_000_000)
NEVER_SLOW = NEVER | SlowCallRate(0.5, slower_than=60, window=LastSeconds(60), minimum_calls=10)

OURS = "decorator, time window and slow calls"  # what peers are compared with


def breaker(trip: Any = TIME_SLOW, **settings: Any) -> CircuitBreaker:
    """A breaker that stays closed."""
    return CircuitBreaker("timed", trip=trip, **settings)


def decorated(trip: Any = TIME_SLOW, **settings: Any) -> Loop:
    """A succeeding call through the decorator."""
    return loop(AWAITED, fn=breaker(trip, **settings)(noop))


def mixed(trip: Any) -> Loop:
    """One failure in twenty calls."""
    guarding = breaker(trip)
    return loop(MIXED, fn=guarding(noop), failing=guarding(fails))


def opened() -> CircuitBreaker:
    """A breaker that refuses for an hour."""
    opening = breaker()
    opening.open(3600)
    return opening


def forced() -> CircuitBreaker:
    """A breaker that refuses for good."""
    forcing = breaker()
    forcing.force_open()
    return forcing


def barred() -> list[Case]:
    """What has a bar, over a pass-through around the same function."""
    return [
        succeeding("decorator, consecutive failures", decorated(ConsecutiveFailures(5)), 1.5),
        succeeding("decorator, count window", decorated(COUNT), 1.5),
        succeeding("decorator, count window and slow calls", decorated(COUNT_SLOW), 2.1),
        succeeding(OURS, decorated(), 2.1),
        succeeding("call, count window and slow calls", loop(CALLED, breaker=breaker(COUNT_SLOW), fn=noop), 2.2),
        succeeding("call, time window and slow calls", loop(CALLED, breaker=breaker(), fn=noop), 2.2),
        succeeding("guard block, count window and slow calls", loop(BLOCK, breaker=breaker(COUNT_SLOW), fn=noop), 3.2),
        succeeding("guard block, time window and slow calls", loop(BLOCK, breaker=breaker(), fn=noop), 3.2),
        succeeding("decorator, slow calls in flight", decorated(IN_FLIGHT), 3.0),
        failing("failing call, count window", breaker(NEVER)(fails), 3.0),
        failing("failing call, slow calls", breaker(NEVER_SLOW)(fails), 3.0),
        failing("refusal while open", opened()(fails), 1.4),
        failing("refusal while forced open", forced()(fails), 1.4),
        Case("5 % failures, slow calls", mixed(NEVER_SLOW), PASSING_MIXED, BARE_MIXED, 2.3),
    ]


def compared() -> list[Case]:
    """What has a bar, over another breaker: a longer window, or somebody who is told of transitions, must cost nothing."""
    short = FailureRate(0.5, LastCalls(100), minimum_calls=10)
    long = FailureRate(0.5, LastCalls(10_000), minimum_calls=10)
    slow = SlowCallRate(0.5, slower_than=60, window=LastCalls(100), minimum_calls=10)
    slow_long = SlowCallRate(0.5, slower_than=60, window=LastCalls(10_000), minimum_calls=10)
    observed = breaker()
    observed.subscribe(id)
    return [
        Case("window of 10,000 over 100, succeeding", decorated(long | slow_long), decorated(short | slow), BARE, 1.1),
        Case("window of 10,000 over 100, 5 % failures", mixed(long | slow_long), mixed(short | slow), BARE_MIXED, 1.1),
        Case("observer of transitions, over none", loop(AWAITED, fn=observed(noop)), decorated(), BARE, 1.1),
    ]


def _under(above: int) -> CircuitBreaker:
    """A breaker under so many others."""
    family = BreakerRegistry(lambda generation: breaker(), parent=lambda generation: generation - 1 if generation else None)
    return family[above]


def _python_clock() -> float:
    return time.monotonic()


def priced() -> list[Case]:
    """What has no bar: the prices of options, and of other ways and states, over a pass-through."""
    watched, disabled, measuring = breaker(), breaker(), breaker()
    watched.subscribe(id, calls=True)
    disabled.disable()
    measuring.metrics_only()
    return [
        succeeding("decorator, time window", decorated(TIME)),
        succeeding("decorator with a fallback", loop(AWAITED, fn=breaker().with_fallback(None)(noop))),
        succeeding("decorator, results judged", decorated(failure_if=lambda result: result is not None)),
        succeeding("decorator, results and errors asked for a hint", decorated(retry_after=lambda subject: None)),
        succeeding("decorator, clock written in Python", decorated(clock=_python_clock)),
        succeeding("decorator, single calls watched", loop(AWAITED, fn=watched(noop))),
        succeeding("decorator, under a parent", loop(AWAITED, fn=_under(1)(noop))),
        succeeding("decorator, under a parent and a grandparent", loop(AWAITED, fn=_under(2)(noop))),
        succeeding("decorator, disabled", loop(AWAITED, fn=disabled(noop))),
        succeeding("decorator, only measuring", loop(AWAITED, fn=measuring(noop))),
        succeeding("permit from acquire", loop(TOKEN, breaker=breaker(), fn=noop)),
    ]
