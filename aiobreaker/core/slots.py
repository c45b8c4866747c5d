"""The semaphore of a half-open era: it never waits, and its permits are leases. The one place that limits trials.

An awaited semaphore loses this law across event loops, threads and dead loops; here a slot that is not given back in time
comes back by itself.
"""

from collections.abc import Hashable
from math import inf


class Slots:
    """At most `limit` leases at once, each for `lease` seconds. `next_expiry` is when the first of them ends."""

    __slots__ = ("_expiries", "lease", "limit", "next_expiry")

    def __init__(self, limit: int, lease: float) -> None:
        self.limit = limit
        self.lease = lease
        self.next_expiry = inf
        self._expiries: dict[Hashable, float] = {}

    @property
    def taken(self) -> int:
        """How many leases are out."""
        return len(self._expiries)

    def take(self, holder: Hashable, now: float) -> bool:
        """Lease a slot to this holder; False if none is free."""
        if len(self._expiries) >= self.limit:
            return False
        self._expiries[holder] = expiry = now + self.lease
        self.next_expiry = min(self.next_expiry, expiry)
        return True

    def give_back(self, holder: Hashable) -> bool:
        """End this holder's lease; False if it had none, or has forfeited it."""
        expiry = self._expiries.pop(holder, None)
        if expiry == self.next_expiry:
            self.next_expiry = min(self._expiries.values(), default=inf)
        return expiry is not None

    def forfeit(self, now: float) -> int:
        """End the leases whose time is over, and say how many there were."""
        if now < self.next_expiry:
            return 0
        over = [holder for holder, expiry in self._expiries.items() if expiry <= now]
        for holder in over:
            self.give_back(holder)
        return len(over)
