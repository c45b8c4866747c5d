"""hyx: failures in a row; refuses with BreakerFailing."""

from hyx.circuitbreaker import consecutive_breaker
from hyx.circuitbreaker.exceptions import BreakerFailing

from . import Made, Peer


def plain(failures: int, open_for: float, trials: int) -> Made:
    breaker = consecutive_breaker(failure_threshold=failures, recovery_time_secs=open_for, recovery_threshold=trials)
    return Made(breaker, breaker, block="async with breaker:\n    await fn()")


def full(minimum_calls: int) -> Made:
    return plain(minimum_calls, 30.0, 1)


def only(kind: type[Exception], failures: int) -> Made:
    breaker = consecutive_breaker(exceptions=(kind,), failure_threshold=failures)
    return Made(breaker, breaker)


PEER = Peer(
    distribution="hyx",
    counts="failures in a row",
    cannot=("no limit of trials: every caller passes while it is half-open", "no window, no slow calls"),
    refusals=(BreakerFailing,),
    trio=True,
    plain=plain,
    full=full,
    only=only,
)
