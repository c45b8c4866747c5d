"""What must hold between what the gauges and callers of a soak have counted and what its policies say, to the last call.

Law: it holds when nothing runs any more. One side of each equation never comes from the policy that it is about.
"""

from collections.abc import Iterator
from typing import Any

from aiobreaker.core.outcomes import Outcome

from .gauges import Gauge
from .soak import Soak

Line = tuple[str, Any, Any]

KINDS = {
    *("own", "shared", "fresh", "stale", "last good", "mirror", "cancelled"),
    *("raised CircuitOpenError", "raised BulkheadFullError", "raised LimitReachedError", "raised RateLimitedError"),
    *(
        "raised ThrottledError",
        "raised TimeoutError",
        "raised ConnectionError",
        "raised OverloadedError",
        "raised MistakeError",
    ),
}
"""How a call may end."""

_REFUSALS = {"CircuitOpenError", "BulkheadFullError", "LimitReachedError", "RateLimitedError", "ThrottledError"}
_RETRIED = {"ConnectionError", "OverloadedError", "TimeoutError"}


def errors(soak: Soak) -> list[str]:
    """Every line in which the two sides differ, and whatever was noticed on the way."""
    wrong = [f"{what}: {one!r} is not {other!r}" for what, one, other in lines(soak) if one != other]
    return wrong + [f"{about} ({times} times)" for about, times in soak.complaints.items()]


def lines(soak: Soak) -> Iterator[Line]:
    """All of the books."""
    yield from _callers(soak)
    yield from _gauges(soak)
    yield from _answers(soak)
    yield from _time_limits(soak)
    yield from _retries(soak)
    yield from _limits(soak)
    yield from _breaker(soak)
    yield from _hedges(soak)
    yield from _chaos(soak)


def _around(soak: Soak, name: str) -> tuple[Gauge, Gauge]:
    """The gauges outside and inside of a policy."""
    names = list(soak.gauges)
    return soak.gauges[name], soak.gauges[names[names.index(name) + 1]]


def _failed(gauge: Gauge) -> int:
    return gauge.raised.total()


def _cut_off(soak: Soak, name: str) -> int:
    """How many calls were cancelled while they were in the hands of this policy, and not further in."""
    outside, inside = _around(soak, name)
    return outside.cancelled - inside.cancelled


def _told(soak: Soak, name: str, event: str) -> int:
    return soak.events[name, event]


def _callers(soak: Soak) -> Iterator[Line]:
    outermost = soak.gauges["fallback"]
    yield "calls: ends", soak.calls, soak.ends.total()
    yield "calls: kinds of ends", set(), set(soak.ends) - KINDS
    yield "calls: entered", soak.calls, outermost.entered
    yield "calls: cancelled", soak.ends["cancelled"], outermost.cancelled
    yield "calls: raised", {f"raised {kind}": n for kind, n in outermost.raised.items()}, _raised(soak)


def _raised(soak: Soak) -> dict[str, int]:
    return {end: n for end, n in soak.ends.items() if end.startswith("raised")}


def _gauges(soak: Soak) -> Iterator[Line]:
    for name, gauge in soak.gauges.items():
        yield f"{name}: ends of what entered", gauge.entered, gauge.returned + _failed(gauge) + gauge.cancelled
        yield f"{name}: still inside", 0, gauge.running
    dependency = soak.dependency
    yield "dependency: begun", soak.gauges["dependency"].entered, dependency.begun
    yield "dependency: ended", dependency.begun, dependency.ended


def _answers(soak: Soak) -> Iterator[Line]:
    ends = soak.ends
    fallback, cache, coalesce = soak.fallback.snapshot(), soak.cache.snapshot(), soak.coalesce.snapshot()

    outside, inside = _around(soak, "fallback")
    failed = _failed(inside) - inside.raised["MistakeError"]
    yield "fallback: entered", outside.entered, inside.entered
    yield "fallback: answered", (ends["last good"], ends["mirror"]), fallback.answered
    yield "fallback: all errors", failed, sum(fallback.answered) + fallback.unanswered + _cut_off(soak, "fallback")
    yield "fallback: unanswered", _failed(outside) - outside.raised["MistakeError"], fallback.unanswered
    yield "fallback: told", sum(fallback.answered), _told(soak, "fallback", "FellBack")

    outside, inside = _around(soak, "cache")
    yield "cache: hits", ends["fresh"], cache.hits
    yield "cache: stale", ends["stale"], cache.stale
    yield "cache: misses", outside.entered - ends["fresh"], cache.misses
    yield "cache: failed", _failed(inside), cache.failed
    yield "cache: returned", outside.returned, cache.hits + cache.stale + inside.returned + soak.shared_in_cache
    yield "cache: told", cache.stale, _told(soak, "cache", "StaleServed")

    outside, inside = _around(soak, "coalesce")
    yield "coalesce: calls", outside.entered, coalesce.calls
    yield "coalesce: shared", outside.entered - inside.entered - _cut_off(soak, "coalesce"), coalesce.shared
    yield "coalesce: running", 0, coalesce.running
    yield "coalesce: shared answers", outside.returned - inside.returned, ends["shared"] - soak.shared_in_cache


def _time_limits(soak: Soak) -> Iterator[Line]:
    for name in ("deadline", "timeout"):
        timed_out = getattr(soak, name).snapshot().timed_out
        outside, inside = _around(soak, name)
        too_late = outside.entered - inside.entered  # the deadline was over: cancelled before the function ran
        yield f"{name}: raised", _failed(outside) - _failed(inside), timed_out
        yield f"{name}: cancelled", inside.cancelled - outside.cancelled + too_late, timed_out
        yield f"{name}: returned", outside.returned, inside.returned
        yield f"{name}: told", timed_out, _told(soak, name, "TimedOut")


def _retries(soak: Soak) -> Iterator[Line]:
    retry, hedge, budget = soak.retry.snapshot(), soak.hedge.snapshot(), soak.budget.snapshot()
    outside, inside = _around(soak, "retry")
    waits_cut_off = _cut_off(soak, "retry")
    gave_up = sum(retry.gave_up.values())
    yield "retry: calls", outside.entered, retry.calls
    yield "retry: retries", inside.entered - outside.entered, retry.retries
    yield "retry: recovered", soak.recovered, retry.recovered
    yield "retry: gave up", sum(outside.raised[kind] for kind in _RETRIED) + outside.spoilt, gave_up
    yield "retry: told of retries", retry.retries + waits_cut_off, _told(soak, "retry", "Retrying")
    yield "retry: told of the end", gave_up, _told(soak, "retry", "GaveUp")
    yield "budget: granted", inside.entered - outside.entered + waits_cut_off + _extra(soak), budget.granted
    yield "budget: refused", retry.gave_up["budget"] + hedge.unaffordable, budget.refused


def _extra(soak: Soak) -> int:
    """How many attempts there were that a hedge has added."""
    outside, inside = _around(soak, "hedge")
    return inside.entered - outside.entered


def _limits(soak: Soak) -> Iterator[Line]:
    refusals = {
        "throttle": "ThrottledError",
        "rate_limit": "RateLimitedError",
        "adaptive_limit": "LimitReachedError",
        "bulkhead": "BulkheadFullError",
    }
    for name, error in refusals.items():
        seen: Any = getattr(soak, name).snapshot()
        outside, inside = _around(soak, name)
        yield f"{name}: not let in", outside.entered - inside.entered, outside.raised[error] + _cut_off(soak, name)
        yield f"{name}: told", seen.refused, _told(soak, seen.name, "GuardRefused")
        cancelled_at_the_64th = seen.refused - outside.raised[error]
        yield f"{name}: refused", True, 0 <= cancelled_at_the_64th <= seen.refused // 64
        yield f"{name}: waiting", 0, getattr(seen, "waiting", 0)
        yield f"{name}: running", 0, getattr(seen, "running", 0)
    yield (
        "throttle: cancelled",
        soak.gauges["throttle"].raised["ThrottledError"] + _cut_off(soak, "throttle"),
        (soak.throttle.snapshot().refused),
    )


def _breaker(soak: Soak) -> Iterator[Line]:
    seen = soak.breaker.snapshot()
    outside, inside = _around(soak, "breaker")
    own = (*(soak.verdicts[outcome] for outcome in Outcome), soak.late, outside.entered - inside.entered)
    yield "breaker: totals", own, tuple(seen.totals)
    yield "breaker: refused", outside.raised["CircuitOpenError"] + _cut_off(soak, "breaker"), seen.totals.refused
    yield "breaker: transitions", soak.era, seen.transitions
    yield "breaker: still inside", (0, 0), (seen.in_flight, seen.waiting)
    refused_inside = sum(inside.raised[kind] for kind in _REFUSALS)
    yield "breaker: no verdict on refusals", True, seen.totals.ignored <= refused_inside


def _hedges(soak: Soak) -> Iterator[Line]:
    seen = soak.hedge.snapshot()
    outside, _ = _around(soak, "hedge")
    yield "hedge: calls", outside.entered, seen.calls
    yield "hedge: attempts told", _extra(soak), _told(soak, "hedge", "Hedged")
    yield "hedge: hedged", soak.hedged, seen.hedged
    yield "hedge: wins", tuple(soak.wins), seen.wins
    yield "hedge: wins told", sum(soak.wins), _told(soak, "hedge", "HedgeWon")


def _chaos(soak: Soak) -> Iterator[Line]:
    seen = soak.chaos.snapshot()
    outside, inside = _around(soak, "chaos")
    yield "chaos: calls", outside.entered, seen.calls
    yield "chaos: failed", _failed(outside) - _failed(inside), seen.failed
    yield "chaos: not let in", outside.entered - inside.entered, seen.failed + _cut_off(soak, "chaos")
    yield "chaos: replaced", outside.spoilt - inside.spoilt, seen.replaced
    yield "chaos: told", seen.delayed + seen.hung + seen.failed + seen.replaced, _told(soak, "chaos", "ChaosMade")
