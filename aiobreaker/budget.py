"""RetryBudget: what keeps extra calls (retries, hedges) from multiplying an outage. One may serve many policies.

Law: from reading the number of first calls to writing it nothing is called; there CPython does not switch threads, so none is
lost. Everything else happens under the lock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .core.budgets import Allowance
from .locking import LOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSnapshot:
    """A budget at one moment.

    `balance` is how many extra calls could be made now; `first_calls` and `extra_calls` are those of the last `window` seconds
    that count; `granted` and `refused` are how often an extra call was asked for, ever, and allowed or not.
    """

    balance: int
    first_calls: int
    extra_calls: int
    granted: int
    refused: int


class RetryBudget:
    """Allows extra calls as long as they are few beside the first calls: share one among all policies around one dependency.

    In the last `window` seconds there may be at most ratio x first calls + minimum_per_second x window extra calls. While the
    dependency is well, the few retries that are needed all pass; when it is down, its load grows by the ratio and not by the
    number of attempts. The rule is that of Finagle's RetryBudget (https://twitter.github.io/finagle/guide/Clients.html#retries),
    where the defaults are 20 %, 10 per second and 10 seconds; here the floor is lower, for clients of many processes.

    Time and memory do not grow with the calls: they are counted in slices of a tenth of the window, and what is inexact in that
    is never in favour of extra calls. A call that is exactly `window` seconds old does not count. Any thread and event loop may
    use it.

    Each policy counts the calls that come to it. Where two with the same budget stand around one another (a `Retry` outside of
    a `Hedge`), a call counts twice, and a little more than twice the ratio is allowed.

    Args:
        ratio: how many extra calls each first call allows, a fraction from 0 to 1.
        minimum_per_second: how many extra calls per second are allowed in any case, so that a client with few calls can retry.
        window: for how many seconds a call counts.
        clock: seconds, steadily rising.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = ("__weakref__", "_allowance", "_clock", "_firsts", "_granted", "_refused", "_settings")

    def __init__(
        self,
        ratio: float = 0.2,
        *,
        minimum_per_second: float = 1.0,
        window: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(clock):
            raise TypeError(f"clock must be a function without arguments that returns a number, not {clock!r}")
        self._allowance = Allowance(ratio, minimum_per_second, window)
        self._firsts = self._allowance.firsts
        self._clock = clock
        self._granted = 0
        self._refused = 0
        self._settings = f"{ratio!r}, minimum_per_second={minimum_per_second!r}, window={window!r}"

    def __repr__(self) -> str:
        return f"RetryBudget({self._settings})"

    def deposit(self) -> None:
        """A first call is made."""
        clock = self._clock  # a name first: CPython calls what stands in a slot the slow way
        now = clock()
        if now >= self._firsts.roll_at:
            self._roll(now)
        self._allowance.first_calls += 1

    def _roll(self, now: float) -> None:
        with LOCK:
            if now >= self._firsts.roll_at:
                self._allowance.roll(now)

    def withdraw(self) -> bool:
        """Whether an extra call may be made; if so, it counts as made."""
        now = self._clock()
        with LOCK:
            granted = self._allowance.withdraw(now)
            self._granted += granted
            self._refused += not granted
        return granted

    @property
    def balance(self) -> int:
        """How many extra calls could be made now."""
        now = self._clock()
        with LOCK:
            return self._allowance.balance(now)

    def snapshot(self) -> BudgetSnapshot:
        """One look at it, as a value that does not change."""
        now = self._clock()
        with LOCK:
            first_calls, extra_calls = self._allowance.counts(now)
            return BudgetSnapshot(
                balance=self._allowance.balance(now),
                first_calls=first_calls,
                extra_calls=extra_calls,
                granted=self._granted,
                refused=self._refused,
            )
