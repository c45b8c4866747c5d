"""The one lock of the process. It covers every transition and nothing else: no await, no I/O, no user code but `random`.

One for all breakers, because a fork must never copy it while it is held: it is taken before the fork and given back on both
sides. It is re-entrant for one reason: the garbage collector may run a finaliser while it is held. See `interrupted`.
"""

import os
import threading
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

LOCK = threading.RLock()

_forks = 0


def process() -> int:
    """Which process this is: a small number, that differs from the one it had in the parent."""
    return _forks


class ChangedByForks(Protocol):
    """Something that counts what only goes on in the parent."""

    def _begin_as_child(self) -> None:
        """Forget it: this is the child. At once, for later its own could not be told from it."""
        ...


_CHANGED_BY_FORKS: WeakSet[ChangedByForks] = WeakSet()


def begins_anew_after_forks(thing: ChangedByForks) -> None:
    """Have this told in forked children, for as long as it lives."""
    _CHANGED_BY_FORKS.add(thing)


def _begin_as_child() -> None:
    global _forks  # noqa: PLW0603 - it belongs to the process
    _forks += 1
    LOCK.release()
    for each in list(_CHANGED_BY_FORKS):
        each._begin_as_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_begin_as_child)


interrupted: Callable[[], bool] = LOCK._is_owned  # type: ignore[attr-defined]  # as threading.Condition asks
"""Whether this thread holds the lock already: then a finaliser asks, and what it wants must come later."""
