"""Carries events to observers and streams. Delivery never waits, never raises into a guarded call, and keeps order."""

import logging
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio

from .core import checks
from .core.transitions import Forfeit, Transition
from .events import CallEvent, Event, EventsLost, StateChanged, TrialsForfeited, WouldOpen
from .locking import LOCK, process
from .loops import Bell

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

Observer = Callable[[Event], object]

_log = logging.getLogger("aiobreaker")


class Owner(Protocol):
    """Whoever made the breaker and keeps it. All parts of a breaker hold the hub, so the owner lives as long as any of them."""

    @property
    def wanted(self) -> bool:
        """Whether it asks for the breaker's events."""
        ...

    @property
    def wants_calls(self) -> bool:
        """Whether it asks for the events of single calls too."""
        ...

    def notice(self) -> None:
        """Somebody has begun or ceased to ask for the breaker's events."""
        ...

    def hand_on(self, event: Event) -> None:
        """Take an event, after the breaker's own observers."""
        ...


class _Channel:
    """Events for one kind of reader, in one buffer that all readers share; each knows how far it has read."""

    __slots__ = ("bell", "buffer", "observers", "readers", "written")

    def __init__(self) -> None:
        self.bell = Bell()
        self.buffer: deque[Event] = deque(maxlen=0)
        self.readers = 0
        self.observers: dict[object, Observer] = {}
        self.written = 0

    @property
    def wanted(self) -> bool:
        return bool(self.readers or self.observers)

    @property
    def audience(self) -> int:
        return self.readers + len(self.observers)

    def open_reader(self, size: int) -> int:
        """Keep at least so many events for a new reader, who begins after the newest one."""
        with LOCK:
            self.readers += 1
            if size > (self.buffer.maxlen or 0):
                self.buffer = deque(self.buffer, maxlen=size)
            return self.written

    def close_reader(self) -> None:
        with LOCK:
            self.readers -= 1
            if not self.readers:
                self.buffer = deque(maxlen=0)
        self.bell.ring()

    def hand_out(self, event: Event) -> None:
        for observer in list(self.observers.values()):
            try:
                observer(event)
            except Exception:
                _log.exception("an observer of %r raised at %r", event.name, event)
        if self.readers:
            with LOCK:
                self.buffer.append(event)
                self.written += 1
            self.bell.ring()


class EventStream:
    """Events as they happen: `async with breaker.events() as events: async for event in events: ...`.

    The reader has `buffer` events of slack; a slower one loses the oldest, and is told how many by an `EventsLost`. `lost` is
    their sum so far.
    """

    def __init__(self, hub: "EventHub", buffer: int, calls: bool) -> None:
        self._hub = hub
        self._size = checks.count("buffer", buffer)
        self._calls = calls
        self._channel: _Channel | None = None
        self._read = 0
        self.lost = 0

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            raise RuntimeError("this event stream is open already; ask the breaker for another one")
        self._channel = self._hub.channel(self._calls)
        self._read = self._channel.open_reader(self._size)
        self._hub.wanted_changed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.close_reader()
            self._hub.wanted_changed()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await anyio.lowlevel.checkpoint()
        channel = self._channel
        while channel is not None and channel is self._channel:
            with channel.bell.heard() as rung:
                if self._read < channel.written:
                    with LOCK:
                        return self._take(channel)
                await rung.wait()
        raise StopAsyncIteration

    def _take(self, channel: _Channel) -> Event:
        kept = min(len(channel.buffer), self._size)
        missed = channel.written - self._read - kept
        event = channel.buffer[self._read - channel.written if missed <= 0 else -kept]
        if missed > 0:
            self._hub.lost += missed
            self.lost += missed
            self._read += missed
            return EventsLost(name=self._hub.name, seq=event.seq - 1, at=event.at, time=event.time, count=missed)
        self._read += 1
        return event


class EventHub:
    """The events of one breaker. `wants_calls` tells whether anybody asks for the events of single calls."""

    __slots__ = ("_all", "_changed", "_deliverer", "_transitions", "lost", "name", "outbox", "owner", "seq", "wants_calls")

    def __init__(self, name: str, changed: Callable[[], None]) -> None:
        self.name = name
        self.seq = 0
        self.lost = 0  # by all readers together
        self.wants_calls = False
        self.owner: Owner | None = None
        self._changed = changed
        self._transitions: _Channel | None = None
        self._all: _Channel | None = None
        self.outbox: list[Event] = []
        self._deliverer: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell."""
        if self.wants_calls or (self._transitions is not None and self._transitions.wanted):
            return True
        return self.owner is not None and self.owner.wanted

    @property
    def audience(self) -> int:
        """How many observers and readers there are, without the owner."""
        return sum(channel.audience for channel in (self._transitions, self._all) if channel is not None)

    def channel(self, calls: bool) -> _Channel:
        """The channel with or without the events of single calls."""
        with LOCK:
            if calls:
                self._all = self._all or _Channel()
                return self._all
            self._transitions = self._transitions or _Channel()
            return self._transitions

    def wanted_changed(self) -> None:
        """Somebody has come or gone."""
        owner = self.owner
        with LOCK:
            own = self._all is not None and self._all.wanted
            self.wants_calls = own or (owner is not None and owner.wants_calls)
        self._changed()
        if owner is not None:
            owner.notice()

    def subscribe(self, observer: Observer, calls: bool) -> Callable[[], None]:
        """Call the observer with every event; what it raises is logged. The answer ends it."""
        if not callable(observer):
            raise TypeError(f"observer must be a function of one event, not {observer!r}")
        channel = self.channel(calls)
        entry = object()  # the same observer may come twice
        channel.observers[entry] = observer
        self.wanted_changed()

        def unsubscribe() -> None:
            channel.observers.pop(entry, None)
            self.wanted_changed()

        return unsubscribe

    def stamp(self, at: float) -> dict[str, Any]:
        """Name, next number and times, for a new event."""
        self.seq += 1
        return {"name": self.name, "seq": self.seq, "at": at, "time": time.time()}

    def note(self, entry: Transition | Forfeit) -> None:
        """Make an event of what the circuit has logged. Under the lock."""
        stamp = self.stamp(entry.at)
        if isinstance(entry, Forfeit):
            self.post(TrialsForfeited(trials=entry.trials, **stamp))
            return
        stamp.update(cause=entry.cause, reason=entry.reason, readings=entry.readings, open_for=entry.open_for)
        if entry.shadow:
            self.post(WouldOpen(**stamp))
        else:
            self.post(StateChanged(old=entry.old, new=entry.new, attempt=entry.attempt, **stamp))

    def post(self, event: Event) -> None:
        """Put an event in line, under the lock; `deliver` follows, without it."""
        self.outbox.append(event)

    def deliver(self) -> None:
        """Hand out what is in line. Whoever delivers already, further up or in another thread, does it for all."""
        while self.outbox and (batch := self._claim()):
            try:
                while batch:
                    self.hand_out(batch.popleft())
            finally:
                self._deliverer = None
                if batch:  # an observer was interrupted
                    with LOCK:
                        self.outbox[:0] = batch

    def _claim(self) -> deque[Event]:
        here = process()  # a claim from before a fork is nobody's
        with LOCK:
            if self._deliverer == here or not self.outbox:
                return deque()
            self._deliverer = here
            batch, self.outbox = self.outbox, []
            return deque(batch)

    def hand_out(self, event: Event) -> None:
        """Give an event to everybody who asks for its kind, here and now."""
        if self._transitions is not None and not isinstance(event, CallEvent):
            self._transitions.hand_out(event)
        if self._all is not None:
            self._all.hand_out(event)
        if self.owner is not None:
            self.owner.hand_on(event)
