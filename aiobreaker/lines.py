"""A bounded line in front of something that has room now and then: first come, first served, in each event loop.

Law: only the head of a line asks, and whoever has been let in awaits nothing more. So a waiter that is cancelled holds
nothing, and leaves no trace.
"""

from collections.abc import Callable
from math import inf

import anyio

from .core import checks
from .deadlines import remaining
from .locking import LOCK, process
from .loops import Bell, Lobby

Ask = Callable[[], float]
"""Takes a place and answers 0, or says for how many seconds there is none; infinity if nobody knows."""


class Line:
    """Where callers wait for what is asked for. `waiting` is how many they are, in all loops."""

    __slots__ = ("_lobby", "_process", "max_waiters", "waiting")

    def __init__(self, max_waiters: int) -> None:
        self.max_waiters = checks.count("max_waiters", max_waiters, at_least=0)
        self.waiting = 0
        self._lobby: Lobby | None = None
        self._process = process()

    async def wait(self, ask: Ask, max_wait: float, expected: float = 0.0) -> str | None:
        """Wait for up to `max_wait` seconds until there is room. None: it is taken. Else why not, in words.

        `expected` is how many seconds it takes at least: nobody waits in vain, and nobody past a deadline.
        """
        self._leave_old_process()
        if self.waiting >= self.max_waiters:
            return f"{self.waiting} callers are waiting already" if self.max_waiters else "nobody may wait"
        if expected > max_wait:
            return f"the wait would be {expected:.3g} s, more than {max_wait:g} s"
        if (left := remaining()) <= expected:
            return f"the wait would be {expected:.3g} s or more, past the deadline in {left:.3g} s"
        self.waiting += 1
        try:
            with anyio.move_on_after(max_wait):
                await self._stand(ask)
                return None
        finally:
            self.waiting -= 1
        return f"no room within {max_wait:g} s"

    def move(self) -> None:
        """There may be room now."""
        if self._lobby is not None and self._lobby.changed.ears:
            self._lobby.changed.ring()

    async def _stand(self, ask: Ask) -> None:
        lobby = self._open_lobby()
        with lobby.line.borrow() as turnstile:
            async with turnstile:
                while True:
                    with lobby.changed.heard() as changed:
                        delay = ask()
                        if not delay:
                            return
                        with anyio.move_on_after(delay if delay < inf else None):
                            await changed.wait()

    def _open_lobby(self) -> Lobby:
        with LOCK:
            self._lobby = self._lobby or Lobby(Bell())
            return self._lobby

    def _leave_old_process(self) -> None:
        """After a fork: who waits in the parent does not wait here."""
        if self._process != process():
            self._process = process()
            self.waiting = 0
