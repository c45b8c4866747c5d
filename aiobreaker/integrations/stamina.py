"""stamina: a backoff hook that waits for as long as a refusal says. Law: nobody who was refused returns before its time.

It needs nothing of stamina itself: a hook is a function.
"""

import datetime as dt
import random as _random
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..core import checks
from ..core.backoff import Retryable
from ..errors import RefusedError
from ..policies.retry import check_is_not_async
from ..refusals import apart, seconds_left, seconds_to_wait

if TYPE_CHECKING:
    from ..core.outcomes import ErrorRule

__all__ = ["BackoffHook", "wait_when_refused"]

BackoffHook = Callable[[Exception], bool | float | dt.timedelta]
"""What `stamina.retry(on=...)` takes: whether to try again, or after how many seconds."""


def wait_when_refused(
    on: type[Exception] | tuple[type[Exception], ...] | BackoffHook = (),
    *,
    max_wait: float = 60.0,
    jitter: float = 0.1,
    random: Callable[[], float] = _random.random,
) -> BackoffHook:
    """A backoff hook for `stamina.retry` and its kin that retries refusals, when they say that a call may pass.

        @stamina.retry(on=wait_when_refused(OSError), attempts=5)
        @payments
        async def charge(order): ...

    A refusal (`RefusedError`: an open circuit, a rate limit) is retried after its own `retry_after`, never sooner. While nobody
    knows that, or trial calls are deciding, it is retried after a second. It counts as an attempt. It is raised at once if the
    wait would be longer than `max_wait`, or end past a deadline around the call.

    All other errors are as stamina treats them by itself. A group of errors is judged by `on`, unless all of them are refusals,
    and is not retried before any refusal in it may be.

    Args:
        on: which other errors are retried: exception types, or a backoff hook. By default none.
        max_wait: the most seconds to wait for a refusal (infinity allowed).
        jitter: the fraction by which such a wait is lengthened at most, so that those who were refused together do not return
            together.
        random: random numbers in [0, 1), for the jitter.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """
    check_is_not_async("on", on)
    retryable = Retryable(cast("ErrorRule", on), always=(RefusedError,))
    rule = retryable if isinstance(on, type | tuple) else on
    longest, spread = checks.wait("max_wait", max_wait), checks.spread("jitter", jitter)
    if not callable(random):
        raise TypeError(f"random must be a function without arguments that returns a number, not {random!r}")

    def hook(error: BaseException) -> bool | float | dt.timedelta:
        if not isinstance(error, Exception):  # stamina asks about cancellations too
            return False
        refusals, others = apart(error)
        if not refusals:
            return rule(error)
        answer = rule(error) if others else True
        least = seconds_to_wait(refusals)
        if answer is False or least > longest or least >= seconds_left():
            return False
        return max(_seconds(answer), min(least * (1 + spread * random()), longest))

    return hook


def _seconds(answer: bool | float | dt.timedelta) -> float:
    if isinstance(answer, dt.timedelta):
        return answer.total_seconds()
    return 0.0 if isinstance(answer, bool) else float(answer)
