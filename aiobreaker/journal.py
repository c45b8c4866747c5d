"""What a log says of guards: a line for each transition, and sums of what happens to single calls.

Law: nothing is written call by call, and nothing is asked of a call that passes. Refusals come from the breakers' own counts.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from .breaker import CircuitBreaker
from .core import checks
from .core.conditions import FailureRate, SlowCallRate
from .core.eras import State
from .errors import FailureSummary
from .events import Event, Reconfigured, RegistryGrown, StateChanged, TrialsForfeited, WouldOpen
from .locking import LOCK
from .policies.events import GaveUp, GuardRefused, TimedOut
from .policy import Pipeline, Policy
from .registry import BreakerRegistry

Told = Policy[Any] | BreakerRegistry[Any]
"""Whose events can be logged: those of a breaker, any other policy, a pipeline, a registry."""

_RARE: Final = (WouldOpen, TrialsForfeited, Reconfigured, RegistryGrown)  # each is told as it comes
_BAD: Final = (GaveUp, GuardRefused, TimedOut, RegistryGrown)  # calls have ended without an answer, or a bound is broken
_OPEN: Final = (State.OPEN, State.FORCED_OPEN)
_EVERYBODYS: Final = frozenset(field.name for field in fields(Event))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log: what happened, in a word or two; all there is to say of it, by name; the same as a sentence; how bad."""

    event: str
    about: Mapping[str, object]
    message: str
    warning: bool


class Journal:
    """Hands lines to a function from now on, until it is called or its block ends; then it hands on the sums that are left.

    A `StateChanged` is a line, with the number of calls that were refused since the one before. What policies tell of single
    calls is summed by guard and kind: the first is a line at once, those that follow within `every` seconds share one.

    Args:
        sources: breakers, other policies, pipelines and registries, at least one.
        write: takes each line, in any thread, from inside whatever made it.
        every: for how many seconds what may come with every call is summed up.
        clock: seconds, steadily rising, by which `every` is measured.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it, its value, and what is allowed.
    """

    __slots__ = ("_clock", "_ends", "_every", "_past", "_sources", "_sums", "_write")

    def __init__(
        self,
        sources: tuple[Told, ...],
        write: Callable[[Line], object],
        *,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sources:
            raise ValueError("sources must be at least one breaker, policy, pipeline or registry")
        for source in sources:
            if not isinstance(source, Policy | BreakerRegistry):
                raise TypeError(f"sources must be breakers, policies, pipelines and registries, not {source!r}")
        if not callable(clock):
            raise TypeError(f"clock must be a function without arguments that returns a number, not {clock!r}")
        self._every = checks.wait("every", every)
        self._clock = clock
        self._write = write
        self._past: WeakKeyDictionary[CircuitBreaker, _Past] = WeakKeyDictionary()
        self._sums: dict[tuple[str, type[Event]], _Sum] = {}
        for breaker in _breakers(sources):
            seen = breaker.snapshot()
            self._past[breaker] = _Past(seen.totals.refused, seen.since)
        with ExitStack() as begun:
            for source in sources:
                begun.callback(source.subscribe(partial(self._take, source)))
            self._ends = begun.pop_all()

    def __call__(self) -> None:
        """Write no more, after what has been summed up so far."""
        self._ends.close()
        for line in self._rest():
            self._write(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self()

    def _take(self, source: Told, event: Event) -> None:
        now = self._clock()
        if isinstance(event, StateChanged):
            self._write(self._transition(source, event))
        elif isinstance(event, _RARE):
            self._write(_line(event))
        else:
            with LOCK:
                self._sums.setdefault((event.name, type(event)), _Sum()).add(event)
        for line in self._due(now):
            self._write(line)

    def _transition(self, source: Told, event: StateChanged) -> Line:
        refused, lasted, last_failure = 0, None, None
        for breaker in _breakers_named(source, event.name):
            seen = breaker.snapshot()
            last_failure = seen.last_failure
            with LOCK:
                past = self._past.get(breaker) or _Past()
                self._past[breaker] = _Past(seen.totals.refused, event.at)
            refused += seen.totals.refused - past.refused
            lasted = None if past.since is None else event.at - past.since
        return _transition(event, refused, lasted, last_failure)

    def _due(self, now: float) -> list[Line]:
        with LOCK:
            due = [each for each in self._sums.values() if each.is_due(now, self._every)]
            return [each.told(now) for each in due]

    def _rest(self) -> Iterator[Line]:
        """What has been summed up and not been told."""
        with LOCK:
            sums = list(self._sums.values())
            past = list(self._past.items())
            self._past.clear()
        now = self._clock()
        yield from (each.told(now) for each in sums if each.times)
        for breaker, known in past:
            refused = breaker.snapshot().totals.refused - known.refused
            if refused:
                yield Line(
                    "refused", {"guard": breaker.name, "refused": refused}, f"{breaker.name}: {_refused(refused)}", False
                )


@dataclass(frozen=True, slots=True)
class _Past:
    """What was told of a breaker: how many calls it had refused, and when its state began, if anybody saw that."""

    refused: int = 0
    since: float | None = None


class _Sum:
    """Events of one kind, of one guard."""

    __slots__ = ("_last", "_told_at", "times")

    def __init__(self) -> None:
        self.times = 0
        self._told_at: float | None = None

    def add(self, event: Event) -> None:
        self.times += 1
        self._last = event

    def is_due(self, now: float, every: float) -> bool:
        return bool(self.times) and (self._told_at is None or now - self._told_at >= every)

    def told(self, now: float) -> Line:
        """The line for them all. From here on it counts anew."""
        about: dict[str, object] = {"times": self.times}
        if self._told_at is not None:
            about["within"] = now - self._told_at
        self.times, self._told_at = 0, now
        return _line(self._last, about)


def _breakers(sources: Iterable[Told]) -> Iterator[CircuitBreaker]:
    for source in sources:
        if isinstance(source, BreakerRegistry):
            entries = [reference() for reference in source._entries.valuerefs()]
            yield from (entry.breaker for entry in entries if entry is not None)
        elif isinstance(source, Pipeline):
            yield from _breakers(source.policies)
        elif isinstance(source, CircuitBreaker):
            yield source


def _breakers_named(source: Told, name: str) -> list[CircuitBreaker]:
    """Of a registry it is, as a rule, the one with this key."""
    if isinstance(source, BreakerRegistry):
        entry = source._entries.get(name)
        if entry is not None and entry.breaker.name == name:
            return [entry.breaker]
    return [breaker for breaker in _breakers((source,)) if breaker.name == name]


def _transition(event: StateChanged, refused: int, lasted: float | None, last_failure: FailureSummary | None) -> Line:
    about: dict[str, object] = {
        "guard": event.name,
        "from": event.old.value,
        "to": event.new.value,
        "cause": event.cause.value,
        "reason": event.reason,
    }
    rates = {"failure_rate": FailureRate, "slow_rate": SlowCallRate}
    about |= {key: reading.rate for key, kind in rates.items() for reading in event.readings if type(reading.condition) is kind}
    about |= {"lasted": lasted, "open_for": event.open_for, "refused": refused}
    words = f"{event.name}: {_spaced(event.old)} -> {_spaced(event.new)}"
    if lasted is not None:
        words += f" after {lasted:.3g} s"
    words += f": {event.reason}"
    if event.open_for is not None:
        words += f"; open for {event.open_for:.3g} s"
    if event.new in _OPEN and last_failure is not None:
        about["last_failure"] = str(last_failure)
        words += f"; the last failure was {last_failure}"
    if refused:
        words += f"; {_refused(refused)}"
    known = {key: value for key, value in about.items() if value is not None}
    return Line("state changed", known, words, event.new in _OPEN)


def _line(event: Event, sums: Mapping[str, object] | None = None) -> Line:
    """A line with what this kind of event says beside what all say."""
    own = (field.name for field in fields(event) if field.name not in _EVERYBODYS)
    about = {name: _plain(value) for name in own if (value := getattr(event, name)) is not None} | dict(sums or {})
    words = ", ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in about.items())
    guard = event.name or "registry"
    kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(event).__name__).lower()
    return Line(kind, {"guard": guard, **about}, f"{guard}: {kind} ({words})", isinstance(event, _BAD))


def _plain(value: object) -> object:
    """As a log can write it: numbers as they are, the rest in words."""
    if isinstance(value, tuple) and not isinstance(value, FailureSummary):
        return [str(each) for each in value]
    return value if isinstance(value, int | float) else str(value)


def _spaced(state: State) -> str:
    return state.value.replace("_", " ")


def _refused(number: int) -> str:
    return f"{number} call{'s' if number > 1 else ''} refused since the last line"
