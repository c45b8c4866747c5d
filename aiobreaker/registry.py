"""One breaker for each key, made when it is first asked for; bounded.

Law: what goes is the longest unused that is closed, idle and under nobody's orders, and what somebody still holds never gets a
twin. No user code (factory, clock, observers, the keys' own comparison) runs under the process lock.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from .breaker import CircuitBreaker, Snapshot
from .core import checks
from .core.eras import State
from .events import Event, RegistryGrown
from .hub import EventHub, EventStream
from .locking import LOCK, interrupted, process
from .loops import BACKLOG

K = TypeVar("K", bound=Hashable)

_MOST_LOOKS = 256  # how many breakers one request looks at, at most, in search of what may go
_SECOND_LOOKS = 4  # and how many of those that could not go the last time


class BreakerRegistry(Generic[K]):
    """One breaker for each key (a host, a tenant, an endpoint): `registry[key]`. Made anywhere, used from any thread and loop.

    Of more than `max_size` breakers the longest unused goes that is closed, has nothing in flight, nobody waiting, and no
    observer or reader but the factory's own. What has not been asked for in `idle_for` seconds goes likewise, at the next
    request. What cannot go stays; when nothing can, the registry grows, says so by a `RegistryGrown`, and shrinks again when
    it can.

    What has gone loses its counts, and what was set by `reconfigure`: the next request for its key makes a new one. But as
    long as somebody holds the breaker, or a function that it guards, the key leads to that same breaker; and it comes back
    by itself when its circuit opens or is given an order.

    Args:
        factory: makes the breaker for a key. Called once per key, also when several threads ask at once: the others wait.
        max_size: how many breakers to keep.
        idle_for: after how many seconds without a request a breaker may go; infinity for never.
        parent: the key of the breaker that stands above the one for a key; None, or the key itself, for none. Every call of the
            lower one is a call of the upper one too: it needs the permits of both, and its outcome counts in both. A refusal
            counts for the one that refuses, whose name it bears. A server's hint opens only the lower one.
        clock: monotonic seconds.

    Raises:
        TypeError, ValueError: a setting that cannot be; the message names it, its value, and what is allowed.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_due",
        "_entries",
        "_factory",
        "_hub",
        "_idle_for",
        "_makings",
        "_max_size",
        "_parent",
        "_recent",
        "_spared",
        "_tell_at",
    )

    def __init__(
        self,
        factory: Callable[[K], CircuitBreaker],
        *,
        max_size: int = 1024,
        idle_for: float = 600.0,
        parent: Callable[[K], K | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(factory):
            raise TypeError(f"factory must be a function of a key that returns a CircuitBreaker, not {factory!r}")
        if not callable(clock):
            raise TypeError(f"clock must be a function without arguments that returns a number, not {clock!r}")
        if parent is not None and not callable(parent):
            raise TypeError(f"parent must be a function of a key that returns a key or None, not {parent!r}")
        self._factory = factory
        self._parent = parent
        self._clock = clock
        self._max_size = checks.count("max_size", max_size)
        self._idle_for = _idle_time(idle_for)
        # Every breaker that is alive, and in two lines those that are kept alive here, the longest unused first. All in
        # `_spared`, which could not go when it was their turn, have been unused for longer than all in `_recent`.
        self._entries: WeakValueDictionary[K, _Entry[K]] = WeakValueDictionary()
        self._spared: OrderedDict[_Entry[K], None] = OrderedDict()
        self._recent: OrderedDict[_Entry[K], None] = OrderedDict()
        self._makings: dict[K, _Making] = {}
        self._due = -inf  # before that none of `_recent` is idle for too long
        self._tell_at = self._max_size + 1
        self._hub = EventHub("", self._audience_changed)

    def __repr__(self) -> str:
        return f"<BreakerRegistry of {len(self)} breakers, at most {self._max_size}>"

    # -- breakers

    def __getitem__(self, key: K) -> CircuitBreaker:
        """The breaker for this key, made if there is none.

        Raises:
            TypeError, ValueError: the factory has returned something else than a CircuitBreaker, or one that has a key already.
            RuntimeError: the factory has asked for the key that it is making the breaker for, itself or by way of others; or
                the key is above itself.
        """
        return self._asked_for(key).breaker

    def _asked_for(self, key: K) -> "_Entry[K]":
        entry = self._entries.get(key)
        if entry is None:
            entry = self._make(key)
        asked: _Entry[K] | None = entry
        while asked is not None:  # those above are in use as well
            self._keep(asked)
            asked = asked.over
        return entry

    def __contains__(self, key: object) -> bool:
        """Whether a breaker is kept for this key. Makes none."""
        entry = self._entries.get(key)  # type: ignore[arg-type]  # any object may be asked for
        return entry is not None and entry.kept

    def __len__(self) -> int:
        with LOCK:
            return len(self._spared) + len(self._recent)

    def __iter__(self) -> Iterator[K]:
        """The keys as they are now, the longest unused first."""
        return iter([entry.key for entry in self._kept()])

    def _kept(self) -> "list[_Entry[K]]":
        with LOCK:
            return [*self._spared, *self._recent]

    def _make(self, key: K) -> "_Entry[K]":
        """Have a breaker made by one thread, once. What the factory raises goes to its own caller; the next one tries again."""
        mine = _Making()
        try:
            while (making := self._makings.setdefault(key, mine)) is not mine:
                if making.take_over():
                    mine = making
                else:
                    making.wait(key)
            entry = self._entries.get(key)  # made since we looked?
            if entry is None:
                over = self._over(key)
                entry = self._adopt(key, over, self._factory(key))
            return entry
        finally:
            if self._makings.get(key) is mine:
                del self._makings[key]
            mine.end()

    def _over(self, key: K) -> "_Entry[K] | None":
        above = None if self._parent is None else self._parent(key)
        return None if above is None or above == key else self._asked_for(above)

    def _adopt(self, key: K, over: "_Entry[K] | None", breaker: CircuitBreaker) -> "_Entry[K]":
        if not isinstance(breaker, CircuitBreaker):
            raise TypeError(f"factory must return a CircuitBreaker, not {breaker!r}")
        entry = _Entry(self, key, over, breaker)
        hub = breaker._gate.hub
        with LOCK:
            owner = hub.owner
            if owner is None:
                hub.owner = entry
        if owner is not None:
            raise ValueError(f"factory must make a new breaker for key {key!r}; {breaker!r} has a key already")
        if over is not None:
            breaker._gate.stand_under(over.breaker._gate)
        self._tune(entry)
        self._entries[key] = entry
        self._tune(entry)  # somebody may have come who did not see it
        return entry

    # -- what stays and what goes

    def _keep(self, entry: "_Entry[K]") -> None:
        """Keep this breaker, as the one that was used last."""
        if interrupted():  # by a finaliser or a signal, which has what it wants
            BACKLOG.add(partial(self._keep, entry))
            return
        BACKLOG.catch_up()
        now = self._clock()
        with LOCK:
            entry.used = now
            entry.kept = True
            self._recent[entry] = None
            self._recent.move_to_end(entry)
            if self._spared:
                self._spared.pop(entry, None)
        if self._spared or now >= self._due or len(self._recent) > self._max_size:
            self._tidy(now, entry)

    def _tidy(self, now: float, asked: "_Entry[K]") -> None:
        """Let go of what may go, but not of the one just asked for. Each look is paid for by a request, or bounded."""
        patience = min(_SECOND_LOOKS, len(self._spared))
        for _ in range(_MOST_LOOKS):
            if patience:
                patience -= not self._look_again(now)
            elif not self._look_at_oldest(now, asked):
                break
        self._tell_growth(now)

    def _look_again(self, now: float) -> bool:
        """Look at one of those that could not go, in turn. True if it went."""
        with LOCK:
            entry = next(iter(self._spared), None)
            if entry is None:
                return False
            if self._is_too_much(entry, now) and entry.may_go:
                entry.kept = False
                del self._spared[entry]
                return True
            self._spared.move_to_end(entry)
            return False

    def _look_at_oldest(self, now: float, asked: "_Entry[K]") -> bool:
        """Look at the longest unused of the others. False if neither it nor any after it is too much."""
        with LOCK:
            entry = next(iter(self._recent), asked)
            if entry is asked or not self._is_too_much(entry, now):
                self._due = entry.used + self._idle_for
                return False
            if entry.may_go:
                entry.kept = False
            else:
                self._spared[entry] = None
            del self._recent[entry]
            return True

    def _is_too_much(self, entry: "_Entry[K]", now: float) -> bool:
        return len(self._spared) + len(self._recent) > self._max_size or now - entry.used >= self._idle_for

    # -- what there is to see

    def snapshot(self) -> Mapping[K, Snapshot]:
        """One look at every breaker that is kept, as a mapping that does not change. It is no request for any of them."""
        return MappingProxyType({entry.key: entry.breaker.snapshot() for entry in self._kept()})

    def events(self, *, buffer: int = 256, calls: bool = False) -> EventStream:
        """The events of all breakers, present and future, from now on: `async with registry.events() as events: ...`.

        Those of one breaker come in their order. As on a breaker, a reader who falls more than `buffer` events behind loses the
        oldest, and gets an `EventsLost`; with `calls`, the events of single calls come too.
        """
        return EventStream(self._hub, buffer, calls)

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        """Call a function with every event of all breakers, from inside whatever made it happen, in any thread.

        What it raises is logged, not passed on. The answer is a function that ends it.
        """
        return self._hub.subscribe(observer, calls)

    @property
    def events_lost(self) -> int:
        """How many events its streams have dropped so far because their readers were too slow."""
        return self._hub.lost

    def _audience_changed(self) -> None:
        for reference in self._entries.valuerefs():  # what has gone and is held elsewhere belongs to it too
            entry = reference()
            if entry is not None:
                self._tune(entry)

    def _tune(self, entry: "_Entry[K]") -> None:
        """Have single calls told if anybody asks for them here, and only then."""
        hub = entry.breaker._gate.hub
        if hub.wants_calls != self._hub.wants_calls:
            hub.wanted_changed()

    def _tell_growth(self, now: float) -> None:
        with LOCK:
            size = len(self._spared) + len(self._recent)
            if size <= self._max_size:
                self._tell_at = self._max_size + 1
            elif size >= self._tell_at and self._hub.wanted:
                self._tell_at = 2 * size
                self._hub.post(RegistryGrown(size=size, max_size=self._max_size, **self._hub.stamp(now)))
        self._hub.deliver()


class _Entry(Generic[K]):
    """A breaker and its key. The breaker's hub holds it, so it lives exactly as long as anything of the breaker."""

    __slots__ = ("__weakref__", "_native", "_registry", "breaker", "kept", "key", "over", "used")

    def __init__(self, registry: BreakerRegistry[K], key: K, over: "_Entry[K] | None", breaker: CircuitBreaker) -> None:
        self._registry = registry
        self._native = breaker._gate.hub.audience  # whom the factory brought in; a new breaker gets them again
        self.key = key
        self.over = over
        self.breaker = breaker
        self.used = -inf
        self.kept = False

    @property
    def may_go(self) -> bool:
        """Whether nothing is lost with it but counts."""
        gate = self.breaker._gate
        gate.leave_old_process()
        circuit = gate.circuit
        if circuit.era.state is not State.CLOSED or circuit.in_flight or gate.waiting:
            return False
        return gate.hub.audience <= self._native

    @property
    def wanted(self) -> bool:
        """Whether the registry must hear of transitions: for somebody who listens, or to take the breaker back."""
        return not self.kept or self._registry._hub.wanted

    @property
    def wants_calls(self) -> bool:
        """Whether somebody listens to single calls."""
        return self._registry._hub.wants_calls

    def notice(self) -> None:
        """Something has happened to the breaker. One that had gone is taken back if it may not go any more."""
        if not self.kept and not self.may_go:
            self._registry._keep(self)

    def hand_on(self, event: Event) -> None:
        """Pass an event on to those who listen to the registry."""
        self.notice()
        self._registry._hub.hand_out(event)


_WAITS: "dict[int, _Making]" = {}
"""Which thread waits for which breaker to be made. Of all registries: threads may wait for each other across them."""


class _Making:
    """A breaker that one thread is making. Other threads that ask for it wait."""

    __slots__ = ("_bell", "_ended", "_process", "_thread")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._process = process()
        self._ended = False
        self._bell: threading.Event | None = None

    def take_over(self) -> bool:
        """After a fork: make it ourselves if its thread has been left behind in the parent."""
        with LOCK:
            if self._process == process():
                return False
            self._thread, self._process, self._bell = threading.get_ident(), process(), None
            return True

    def wait(self, key: object) -> None:
        """Wait for the end, of whatever kind.

        Raises:
            RuntimeError: it would never come.
        """
        me = threading.get_ident()
        if interrupted():
            raise RuntimeError(f"the breaker for key {key!r} is being made, and cannot be waited for in a finaliser")
        with LOCK:
            stuck = self._waits_for(me)
            if not stuck and not self._ended:
                self._bell = self._bell or threading.Event()
                _WAITS[me] = self
            bell = self._bell
        if stuck:
            raise RuntimeError(f"key {key!r} was asked for in the course of making the breaker for it")
        if bell is not None:
            try:
                bell.wait()
            finally:
                _WAITS.pop(me, None)

    def _waits_for(self, thread: int) -> bool:
        making: _Making | None = self
        while making is not None and not making._ended and making._process == self._process:
            if making._thread == thread:
                return True
            making = _WAITS.get(making._thread)
        return False

    def end(self) -> None:
        """It is made, or has failed."""
        with LOCK:
            self._ended = True
            bell = self._bell
        if bell is not None:
            bell.set()


def _idle_time(value: object) -> float:
    allowed = "a number of seconds above 0 (infinity allowed)"
    seconds = checks.number("idle_for", value, allowed)
    if seconds <= 0:
        raise ValueError(f"idle_for must be {allowed}, not {value!r}")
    return seconds
