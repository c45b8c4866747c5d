"""OpenTelemetry: instruments that are read when somebody collects; events on spans and durations of calls for those who ask.

Law: a guarded call pays for nothing that was not asked for, nothing here raises into one, and what is closed says and holds
nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import get_current_span

from ..breaker import CircuitBreaker
from ..core.eras import State
from ..events import CallFinished, CallRefused, Event, StateChanged
from ..observed import OTHER, Observed, Row, Source
from ..registry import BreakerRegistry

SCOPE: Final = "aiobreaker"
"""The instrumentation scope: what the meter is called."""

_PREFIX = "aiobreaker.circuit_breaker"
_DURATION = f"{_PREFIX}.call.duration"
_DROPPED = "aiobreaker.events.dropped"
_LATE = "late"
_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

Readings = Iterator[tuple[float, dict[str, str]]]


# -- what is read on collection


def _states(row: Row) -> Readings:
    for state in State:
        yield row.states[state], {"state": state.value}


def _calls(row: Row) -> Readings:
    totals = row.totals
    yield totals.successes, {"outcome": "success"}
    yield totals.failures, {"outcome": "failure"}
    yield totals.ignored, {"outcome": "ignored"}
    yield totals.cancelled, {"outcome": "cancelled"}
    yield totals.late, {"outcome": _LATE}
    yield totals.refused, {"outcome": "rejected"}


def _refusals(row: Row) -> Readings:
    for state, count in row.refusals.items():
        yield count, {"reason": state.value}


def _transitions(row: Row) -> Readings:
    for (old, new), count in row.moves.items():
        yield count, {"from": old.value, "to": new.value}


def _one(value: Callable[[Row], float | None]) -> Callable[[Row], Readings]:
    def read(row: Row) -> Readings:
        seen = value(row)
        if seen is not None:
            yield seen, {}

    return read


@dataclass(frozen=True, slots=True)
class _Instrument:
    """`read` gives what it says of the breakers of one name, each value with its attributes beside the name."""

    kind: str
    name: str
    unit: str
    description: str
    read: Callable[[Row], Readings]


_COUNTER, _UP_DOWN, _GAUGE = "observable_counter", "observable_up_down_counter", "observable_gauge"
_INSTRUMENTS = (
    _Instrument(_UP_DOWN, f"{_PREFIX}.state", "1", "1 for the state that the circuit is in, 0 for the others.", _states),
    _Instrument(_COUNTER, f"{_PREFIX}.calls", "{call}", "Calls, by how they ended.", _calls),
    _Instrument(_COUNTER, f"{_PREFIX}.refusals", "{call}", "Refused calls, by the state that refused them.", _refusals),
    _Instrument(_COUNTER, f"{_PREFIX}.transitions", "{transition}", "Changes from one state to another.", _transitions),
    _Instrument(
        _GAUGE, f"{_PREFIX}.failure_ratio", "1", "The fraction of calls that failed.", _one(lambda row: row.failure_rate)
    ),
    _Instrument(_GAUGE, f"{_PREFIX}.slow_ratio", "1", "The fraction of calls that were slow.", _one(lambda row: row.slow_rate)),
    _Instrument(
        _UP_DOWN, f"{_PREFIX}.in_flight", "{call}", "Admitted calls that have not ended.", _one(lambda row: row.in_flight)
    ),
    _Instrument(_UP_DOWN, f"{_PREFIX}.waiting", "{call}", "Callers who wait for admission.", _one(lambda row: row.waiting)),
    _Instrument(_COUNTER, _DROPPED, "{event}", "Events that slow readers have lost.", _one(lambda row: row.events_lost)),
)


class _Panel:
    """What is shown by one meter provider.

    A provider has every instrument once and for good, with the callbacks that it was made with: those of a second one of the
    same name are dropped without a word. So all that is open shares one set of instruments, which outlives it.
    """

    __slots__ = ("__weakref__", "_due", "_shown")

    def __init__(self) -> None:
        self._shown: dict[Observed, None] = {}
        self._due: dict[str, list[Observation]] = {}

    def show(self, observed: Observed) -> None:
        self._shown[observed] = None
        self._due = {}

    def hide(self, observed: Observed) -> None:
        self._shown.pop(observed, None)
        self._due = {}

    def read(self, name: str, _: CallbackOptions) -> list[Observation]:
        """What the instrument of this name says. Each gets its part of one look at everything, whichever asks first."""
        seen = self._due.pop(name, None)
        if seen is None:  # this one has had its part of the last look
            due = self._due = self._look()
            seen = due.pop(name)
        return seen

    def _look(self) -> dict[str, list[Observation]]:
        found: dict[str, list[Observation]] = {each.name: [] for each in _INSTRUMENTS}
        for observed in list(self._shown):
            for row in observed.rows():
                name = _text(row.name)
                for each in _INSTRUMENTS:
                    told = (Observation(value, {"name": name, **about}) for value, about in each.read(row))
                    found[each.name].extend(told)
            if observed.has_registries:  # what readers of theirs have lost is of no single breaker
                found[_DROPPED].append(Observation(observed.events_lost, {"name": ""}))
        return found


class _GlobalProvider:
    """Stands for the global meter provider, which may be set later."""


_GLOBAL: Any = _GlobalProvider()
_PANELS: "WeakKeyDictionary[MeterProvider, _Panel]" = WeakKeyDictionary()


def _panel_of(provider: MeterProvider) -> _Panel:
    """The panel of a meter provider, made if there is none."""
    key = _GLOBAL if provider is get_meter_provider() and provider not in _PANELS else provider
    mine = _Panel()
    panel = _PANELS.setdefault(key, mine)
    if panel is mine:  # and no other thread's
        try:
            _furnish(panel, provider)
        except BaseException:
            _PANELS.pop(key, None)
            raise
    return panel


def _furnish(panel: _Panel, provider: MeterProvider) -> None:
    meter = provider.get_meter(SCOPE)
    for each in _INSTRUMENTS:
        create = getattr(meter, f"create_{each.kind}")
        create(each.name, callbacks=[partial(panel.read, each.name)], unit=each.unit, description=each.description)


def _text(text: str) -> str:
    """As it can be written: one lone surrogate would spoil all that an exporter sends."""
    return text.encode("utf-8", "backslashreplace").decode()


# -- what is told as it happens


def _telling(tell: "dict[type[Event], Callable[[Any], None]]") -> Callable[[Event], None]:
    """An observer of breakers: for each kind of event what tells of it."""

    def observer(event: Event) -> None:
        teller = tell.get(type(event))
        if teller is not None:
            teller(event)

    return observer


class _Durations:
    """The histogram of how long calls take, under the names of the rows that all else is told under."""

    __slots__ = ("_max_series", "_names", "_observed", "_record")

    def __init__(self, provider: MeterProvider, observed: Observed, max_series: int) -> None:
        histogram = provider.get_meter(SCOPE).create_histogram(
            _DURATION,
            unit="s",
            description="How long admitted calls took.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self._record = histogram.record
        self._observed = observed
        self._max_series = max_series
        self._names: set[str] = set()

    def __call__(self, event: CallFinished) -> None:
        if event.elapsed is None:
            return
        about = {"name": _text(self._row_name(event.name)), "outcome": _LATE if event.late else event.outcome.value}
        if event.failure is not None:
            about["error.type"] = event.failure.type
        self._record(event.elapsed, about)

    def _row_name(self, name: str) -> str:
        """Rows are never renamed, so the names are read again only for a new one, and only while there is room for it."""
        if name not in self._names and name != OTHER and len(self._names) < self._max_series:
            self._names = {row.name for row in self._observed.rows()} - {OTHER}
        return name if name in self._names else OTHER


def _tell_transition(event: StateChanged) -> None:
    span = get_current_span()
    if span.is_recording():
        about = {"name": _text(event.name), "from": event.old.value, "to": event.new.value}
        about |= {"cause": event.cause.value, "reason": _text(event.reason)}
        wait: dict[str, float] = {} if event.open_for is None else {"open_for": event.open_for}
        span.add_event(f"{_PREFIX}.transition", {**about, **wait})


def _tell_refusal(event: CallRefused) -> None:
    span = get_current_span()
    if span.is_recording():
        wait: dict[str, float] = {} if event.retry_after is None else {"retry_after": event.retry_after}
        about = {"name": _text(event.name), "state": event.state.value, "reason": _text(event.reason)}
        span.add_event(f"{_PREFIX}.refusal", {**about, **wait})


# -- the way in


class Instrumentation:
    """What `instrument` has begun: it goes on until `close()`, or for the length of a `with` block."""

    __slots__ = ("_ends",)

    def __init__(self, ends: ExitStack) -> None:
        self._ends = ends

    def close(self) -> None:
        """End it. Nothing is told of its breakers from now on, and nothing of it is held. May be done twice."""
        self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def instrument(
    *sources: Source,
    meter_provider: MeterProvider | None = None,
    max_series: int = 100,
    transition_events: bool = True,
    refusal_events: bool = False,
    durations: bool = False,
) -> Instrumentation:
    """Have OpenTelemetry tell of circuit breakers, and of all breakers of registries, from now on.

    By default this costs a guarded call nothing while its circuit is closed: instruments are read when somebody collects. They
    hold the breakers and registries that are given here until the answer is closed, kept or not.

    Args:
        sources: circuit breakers and breaker registries, at least one.
        meter_provider: whose instruments; None for the global provider, which may be set later.
        max_series: how many names are told apart. All that come later are summed up under `other`.
        transition_events: put an event on the current span at every transition.
        refusal_events: put an event on the current span at every refusal. Every call takes the slower way in.
        durations: measure how long every call takes, in a histogram. Every call takes the slower way in.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it, its value, and what is allowed.
    """
    for name, flag in (("transition_events", transition_events), ("refusal_events", refusal_events), ("durations", durations)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r}")
    if not isinstance(meter_provider, MeterProvider | None):
        raise TypeError(f"meter_provider must be an OpenTelemetry MeterProvider or None, not {meter_provider!r}")
    observed = Observed(*sources, max_series=max_series)
    provider = get_meter_provider() if meter_provider is None else meter_provider
    panel = _panel_of(provider)
    tell: dict[type[Event], Callable[[Any], None]] = {}
    if transition_events:
        tell[StateChanged] = _tell_transition
    if refusal_events:
        tell[CallRefused] = _tell_refusal
    if durations:
        tell[CallFinished] = _Durations(provider, observed, max_series)
    with ExitStack() as ends:
        panel.show(observed)
        ends.callback(panel.hide, observed)
        if tell:
            teller = _telling(tell)
            for source in _apart(sources):
                ends.callback(source.subscribe(teller, calls=refusal_events or durations))
        return Instrumentation(ends.pop_all())


def _apart(sources: tuple[Source, ...]) -> list[Source]:
    """Each of them once, without breakers of registries that are there too: these would tell everything twice."""
    found = list({id(source): source for source in sources}.values())
    return [each for each in found if isinstance(each, BreakerRegistry) or _registry(each) not in found]


def _registry(breaker: CircuitBreaker) -> object:
    return getattr(breaker._gate.hub.owner, "_registry", None)
