"""A bounded line in front of something that has room now and then: first come, first served.

Law: only the head of a line asks, and whoever has been let in awaits nothing more. So a waiter that is cancelled holds nothing
and leaves no trace; and an event loop that has died with waiters in it is in nobody's way.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import anyio

from .core import checks
from .deadlines import remaining
from .locking import begins_anew_after_forks
from .loops import call_in

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

Ask = Callable[[], float]
"""Takes a place and answers 0, or says for how many seconds there is none; infinity if nobody knows."""

_SHORTEST = 1e-5  # seconds that every clock can sleep: a shorter delay is what rounding left of one
_COURTESY = 0.01  # seconds for the head of another loop to come, if its turn is before ours
_ROUNDING = 1 + 1e-9


class _Queue:
    """The waiters of one event loop, each with its bell, by their tickets. Only tasks of that loop touch them."""

    __slots__ = ("bells", "called", "dropped", "first", "late", "loop", "owed", "size")

    def __init__(self, loop: object) -> None:
        self.loop: Any = loop
        self.bells: OrderedDict[int, anyio.Event] = OrderedDict()
        self.first: float = inf  # the ticket of the head
        self.size = 0
        self.dropped = False  # its waiters are not counted any more
        self.called = False  # its loop has been asked to wake the head, and has not done so yet
        self.owed = False  # since its head last asked, there may have come room
        self.late = False  # its head did not come in time: nobody waits for it until it does

    @property
    def runs(self) -> bool:
        """Whether its loop does. A trio loop does not end before its tasks."""
        is_running = getattr(self.loop, "is_running", None)
        return is_running is None or bool(is_running())

    @property
    def ended(self) -> bool:
        """Whether its loop will never run again."""
        is_closed = getattr(self.loop, "is_closed", None)
        return is_closed is not None and bool(is_closed())

    def call(self) -> None:
        """Have the head look again. From any thread."""
        self.owed = True
        if not self.called:
            self.called = True
            call_in(self.loop, self._wake)

    def _wake(self) -> None:
        self.called = False  # first: what is called from here on comes too
        bell = self.bells.get(self.first)  # type: ignore[call-overload]  # nobody has the ticket infinity
        if bell is not None:
            bell.set()

    def come(self, ticket: int) -> None:
        """Put a waiter in."""
        self.bells[ticket] = anyio.Event()
        self.first = min(self.first, ticket)
        self.size += 1

    def go(self, ticket: int) -> bool:
        """Take a waiter out, that is not counted any more. Whether it was the head."""
        del self.bells[ticket]
        if ticket != self.first:
            return False
        self.first = next(iter(self.bells), inf)
        return True


class Line:
    """Where callers wait for what is asked for. `waiting` is how many they are, in all event loops.

    In each loop it is first come, first served. Among loops whoever came first goes first when room is announced, so that none
    starves; only room that comes in the very moment in which another one looks goes to that one, and a loop that is busy with
    something else when its turn has come is passed over after a hundredth of a second. Those who wait in a loop that does not
    run at present keep their places, but take none from others; those in a loop that was closed are forgotten.
    """

    __slots__ = ("__weakref__", "_queues", "_tickets", "max_waiters", "waiting")

    def __init__(self, max_waiters: int) -> None:
        self.max_waiters = checks.count("max_waiters", max_waiters, at_least=0)
        self.waiting = 0
        self._queues: dict[object, _Queue] = {}
        self._tickets = count()
        begins_anew_after_forks(self)

    def allows(self, argument: str, max_wait: float) -> float:
        """The setting `max_wait` of a guard with this line, checked. It must be possible that somebody waits."""
        seconds = checks.wait(argument, max_wait)
        if 0 < seconds < inf and not self.max_waiters:
            raise ValueError(f"max_waiters must be 1 or more if callers may wait for {max_wait!r} s ({argument}), not 0")
        return seconds

    async def wait(self, ask: Ask, max_wait: float, expected: float = 0.0) -> str | None:
        """Wait for up to `max_wait` seconds until there is room. None: it is taken. Else why not, in words.

        `expected` is how many seconds it takes at least: nobody waits in vain, and nobody past a deadline.
        """
        if not self.max_waiters or not max_wait:
            return "nobody may wait"
        if expected > max_wait * _ROUNDING:
            return f"the wait would be {expected:.3g} s, more than {max_wait:g} s"
        if (left := remaining()) <= expected:
            if left:
                return f"the wait would be past the deadline, which is in {left:.3g} s"
            await anyio.lowlevel.checkpoint()  # it has been cancelled, or will be
            return "the deadline is over"
        if not self._claim():
            return f"{self.max_waiters} callers are waiting already"
        return None if await self._stand(ask, max_wait) else f"there was no room within {max_wait:g} s"

    def move(self) -> None:
        """There may be room now. From any thread, in a finaliser too."""
        for queue in self._open_queues():
            queue.call()

    def present(self) -> int:
        """How many wait in loops that run: those who are served before a newcomer."""
        return sum(queue.size for queue in self._open_queues() if queue.runs)

    # `waiting` is exact over all threads, for nothing is called between reading and writing it.

    def _claim(self) -> bool:
        """Count one more waiter, if that may be."""
        absent = 0
        if self.waiting >= self.max_waiters:
            absent = sum(queue.size for queue in self._open_queues() if not queue.runs)
        waiting = self.waiting
        if waiting - absent >= self.max_waiters:
            return False
        self.waiting = waiting + 1
        return True

    async def _stand(self, ask: Ask, max_wait: float) -> bool:
        """Stand in line until there is room (True), or time is up. The waiter has been counted."""
        queue = self._own_queue()
        ticket = next(self._tickets)
        queue.come(ticket)
        try:
            with anyio.move_on_after(max_wait):
                await self._wait_for_room(queue, ticket, ask)
                return True
            return queue.first == ticket and not ask()  # it may have come in the very last moment
        finally:
            self._leave(queue, ticket)

    def _leave(self, queue: _Queue, ticket: int) -> None:
        if queue.dropped:
            return
        self.waiting -= 1
        queue.size -= 1
        was_first = queue.go(ticket)
        if not queue.size:
            self._queues.pop(queue.loop, None)
        if was_first:
            self.move()

    async def _wait_for_room(self, queue: _Queue, ticket: int, ask: Ask) -> None:
        while True:
            elder, delay = None, inf
            if queue.first == ticket:
                elder = self._elder(ticket)
                if elder is None:
                    queue.owed = queue.late = False
                    delay = ask()
                    if not delay:
                        return
                else:
                    delay = _COURTESY
            bell = queue.bells[ticket] = anyio.Event()
            with anyio.move_on_after(max(delay, _SHORTEST)) as patience:
                await bell.wait()
            if elder is not None and elder.owed and patience.cancelled_caught:
                elder.late = True

    def _elder(self, ticket: int) -> _Queue | None:
        """A queue of another loop whose head came before, and has yet to answer that there may be room."""
        if len(self._queues) < 2:
            return None
        elders = (queue for queue in self._open_queues() if queue.first < ticket and queue.owed and not queue.late)
        return next((queue for queue in elders if queue.runs), None)

    def _open_queues(self) -> list[_Queue]:
        """The queues of all loops that have not ended. The others are dropped: nobody will ever end their waiting."""
        queues = list(self._queues.values())
        for queue in queues:
            if queue.ended and self._queues.pop(queue.loop, None) is not None:
                size = queue.size
                queue.dropped = True
                self.waiting -= size
        return [queue for queue in queues if not queue.dropped]

    def _own_queue(self) -> _Queue:
        loop = anyio.lowlevel.current_token().native_token
        self._open_queues()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(loop)
        return queue

    def _begin_as_child(self) -> None:
        """After a fork: who waits in the parent does not wait here, and its loops are not ours."""
        for queue in self._queues.values():
            queue.dropped = True
        self._queues = {}
        self.waiting = 0
