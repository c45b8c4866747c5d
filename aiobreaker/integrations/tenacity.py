"""tenacity: a wait and a retry condition for refusals. Law: nobody who was refused returns before its time.

They are named in tenacity's way, in which classes look like functions.
"""

import inspect
import random as _random
from collections.abc import Callable

from tenacity import RetryCallState
from tenacity.retry import RetryBaseT, retry_base, retry_never
from tenacity.wait import WaitBaseT, wait_base, wait_random_exponential

from ..core import checks
from ..errors import RefusedError
from ..refusals import apart, seconds_left, seconds_to_wait

__all__ = ["retry_when_refused", "wait_when_refused"]


class wait_when_refused(wait_base):  # noqa: N801 - see above
    """Waits after a refusal (`RefusedError`: an open circuit, a rate limit) for its own `retry_after`, never less.

        @retry(
            retry=retry_when_refused(retry_if_exception_type(OSError)),
            wait=wait_when_refused(wait_random_exponential(max=10)),
            stop=stop_after_attempt(5),
        )
        @payments
        async def charge(order): ...

    While nobody knows when a call may pass, or trial calls are deciding, it waits for a second. A group of errors waits for the
    last of the refusals in it, and for no less than the fallback says if there are other errors in it too.

    Args:
        fallback: how long to wait after anything else.
        jitter: the fraction by which the wait for a refusal is lengthened at most, so that those who were refused together do
            not return together.
        random: random numbers in [0, 1), for the jitter.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    def __init__(
        self,
        fallback: WaitBaseT = wait_random_exponential(multiplier=0.1, max=30),  # noqa: B008 - it does not change
        *,
        jitter: float = 0.1,
        random: Callable[[], float] = _random.random,
    ) -> None:
        _check_strategy("fallback", fallback)
        self._fallback = fallback
        self._spread = checks.spread("jitter", jitter)
        if not callable(random):
            raise TypeError(f"random must be a function without arguments that returns a number, not {random!r}")
        self._random = random

    def __call__(self, retry_state: RetryCallState) -> float:
        """After how many seconds to try again."""
        refusals, others = _problems(retry_state)
        usual = 0.0 if refusals and not others else float(self._fallback(retry_state))
        return max(usual, seconds_to_wait(refusals) * (1 + self._spread * self._random())) if refusals else usual


class retry_when_refused(retry_base):  # noqa: N801 - see above
    """Retries refusals, unless the wait would be longer than `max_wait`, or end past a deadline around the call.

    Then tenacity raises the refusal itself, at once. A group of errors is judged by the fallback, unless all of them are
    refusals, and not retried either if one of those would be waited for too long.

    Args:
        fallback: judges everything else, results too. By default nothing else is retried.
        max_wait: the most seconds to wait for a refusal (infinity allowed), without jitter.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    def __init__(self, fallback: RetryBaseT = retry_never, *, max_wait: float = 60.0) -> None:
        _check_strategy("fallback", fallback)
        self._fallback = fallback
        self._longest = checks.wait("max_wait", max_wait)

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether to try again."""
        refusals, others = _problems(retry_state)
        if refusals and ((least := seconds_to_wait(refusals)) > self._longest or least >= seconds_left()):
            return False
        return bool(self._fallback(retry_state)) if others or not refusals else True


def _check_strategy(argument: str, strategy: object) -> None:
    if not callable(strategy) or isinstance(strategy, type):
        raise TypeError(f"{argument} must be a strategy of tenacity's, or a function of the retry state, not {strategy!r}")
    if inspect.iscoroutinefunction(strategy) or inspect.iscoroutinefunction(type(strategy).__call__):
        raise TypeError(f"{argument} must not be async, and {strategy!r} is")


def _problems(retry_state: RetryCallState) -> tuple[list[RefusedError], list[BaseException]]:
    """What the attempt has ended with, its refusals and its other errors; none of either for a result."""
    error = None if retry_state.outcome is None else retry_state.outcome.exception()
    return ([], []) if error is None else apart(error)
