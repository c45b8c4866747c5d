"""OpenTelemetry, with its SDK: what is read on collection, spans, durations, and that nothing is left behind or in the way."""

import collections
import gc
import logging
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import CallbackOptions, NoOpMeter, NoOpMeterProvider, ObservableUpDownCounter, Observation
from opentelemetry.sdk.metrics import (
    AlignedHistogramBucketExemplarReservoir,
    Counter,
    Exemplar,
    MeterProvider,
    ObservableCounter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, InMemoryMetricReader, Metric, Sum
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import use_span

from aiobreaker import (
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureRate,
    LastCalls,
    SlowCallRate,
    State,
)
from aiobreaker.telemetry.opentelemetry import Instrumentation, instrument
from aiobreaker.testing import ManualClock

PAGE = Path(__file__).parent.parent.parent / "docs" / "telemetry-opentelemetry.md"
PREFIX = "aiobreaker.circuit_breaker."

Attributes = frozenset[tuple[str, Any]]


def attributes(**about: Any) -> Attributes:
    return frozenset((key.rstrip("_"), value) for key, value in about.items())


class Meters:
    """A meter provider, and what its readers see."""

    def __init__(self, **temporality: Any) -> None:
        self.reader = InMemoryMetricReader(**temporality)
        self.provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Metric]:
        found = self.reader.get_metrics_data()
        if found is None:
            return {}
        scopes = [scope for resource in found.resource_metrics for scope in resource.scope_metrics]
        assert {scope.scope.name for scope in scopes} <= {"aiobreaker"}
        metrics = [metric for scope in scopes for metric in scope.metrics]
        assert len({metric.name for metric in metrics}) == len(metrics)
        return {metric.name: metric for metric in metrics}

    def values(self, name: str) -> dict[Attributes, Any]:
        """The value of every series of a metric."""
        metric = self.metrics().get(name)
        return {} if metric is None else series(metric)


def series(metric: Metric) -> dict[Attributes, Any]:
    points: list[Any] = list(metric.data.data_points)
    found = {frozenset((point.attributes or {}).items()): point for point in points}
    assert len(found) == len(points)
    return {key: point if isinstance(metric.data, Histogram) else point.value for key, point in found.items()}


@pytest.fixture
def meters() -> Iterator[Meters]:
    meters = Meters()
    yield meters
    meters.provider.shutdown()


class Spans:
    """A tracer, and the events on the spans that it made."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("test")

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """The span's name, the event's name, and its attributes."""
        return [
            (span.name, event.name, dict(event.attributes or {}))
            for span in self._exporter.get_finished_spans()
            for event in span.events
            if event.name != "exception"
        ]


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def fine() -> str:
    return "fine"


async def broken() -> None:
    raise OSError("down")


async def attempt(breaker: CircuitBreaker, fn: Callable[[], Any]) -> None:
    with suppress(OSError, LookupError, CircuitOpenError):
        await breaker.call(fn)


def quick(name: str, clock: Callable[[], float], **settings: Any) -> CircuitBreaker:
    """One failure opens it for ten seconds."""
    settings = {"trip": ConsecutiveFailures(1), "open_for": 10, **settings}
    return CircuitBreaker(name, clock=clock, **settings)


class CountingClock(ManualClock):
    """Counts how often it is looked at."""

    looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return super().__call__()


# -- what is read on collection


async def test_the_state_is_one_series_per_state(meters: Meters) -> None:
    clock = ManualClock()
    breaker = quick("payments", clock)

    def current() -> str:
        values = meters.values(PREFIX + "state")
        assert set(values) == {attributes(name="payments", state=state.value) for state in State}
        assert sorted(values.values()) == [0] * 5 + [1]
        return next(str(dict(key)["state"]) for key, value in values.items() if value)

    with instrument(breaker, meter_provider=meters.provider):
        assert current() == "closed"
        await attempt(breaker, broken)
        assert current() == "open"
        clock.advance(10)
        permit = await breaker.acquire()
        assert current() == "half_open"
        permit.ignore()
        for order, state in (
            (breaker.force_open, "forced_open"),
            (breaker.disable, "disabled"),
            (breaker.metrics_only, "metrics_only"),
            (breaker.reset, "closed"),
        ):
            order()
            assert current() == state


async def test_calls_are_counted_by_outcome(meters: Meters) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("payments", ignore=LookupError, clock=clock)

    async def unknown() -> None:
        raise LookupError

    with instrument(breaker, meter_provider=meters.provider):
        assert set(meters.values(PREFIX + "calls").values()) == {0}
        for fn, times in ((fine, 3), (broken, 2), (unknown, 1)):
            for _ in range(times):
                await attempt(breaker, fn)
        with anyio.move_on_after(1):
            await breaker.call(anyio.sleep_forever)
        straggler = await breaker.acquire()
        breaker.force_open()
        straggler.success()
        for _ in range(5):
            await attempt(breaker, fine)
        assert meters.values(PREFIX + "calls") == {
            attributes(name="payments", outcome="success"): 3,
            attributes(name="payments", outcome="failure"): 2,
            attributes(name="payments", outcome="ignored"): 1,
            attributes(name="payments", outcome="cancelled"): 1,
            attributes(name="payments", outcome="late"): 1,
            attributes(name="payments", outcome="rejected"): 5,
        }


async def test_refusals_are_counted_by_reason_and_transitions_by_from_and_to(meters: Meters) -> None:
    clock = ManualClock()
    breaker = quick("payments", clock)
    with instrument(breaker, meter_provider=meters.provider):
        moves = meters.values(PREFIX + "transitions")
        assert set(moves.values()) == {0}
        await attempt(breaker, broken)
        for _ in range(3):
            await attempt(breaker, fine)
        clock.advance(10)
        trial = await breaker.acquire()
        for _ in range(2):
            await attempt(breaker, fine)
        trial.success()
        breaker.force_open()
        await attempt(breaker, fine)
        assert meters.values(PREFIX + "refusals") == {
            attributes(name="payments", reason="open"): 3,
            attributes(name="payments", reason="half_open"): 2,
            attributes(name="payments", reason="forced_open"): 1,
        }
        assert meters.values(PREFIX + "transitions") == {
            attributes(name="payments", from_="closed", to="open"): 1,
            attributes(name="payments", from_="open", to="half_open"): 1,
            attributes(name="payments", from_="half_open", to="closed"): 1,
            attributes(name="payments", from_="half_open", to="open"): 0,
            attributes(name="payments", from_="closed", to="forced_open"): 1,
        }


async def test_failure_and_slow_ratios_are_those_of_the_conditions(meters: Meters) -> None:
    clock = ManualClock()
    window = LastCalls(10)
    trip = FailureRate(0.9, window, minimum_calls=10) | SlowCallRate(0.9, slower_than=5, window=window, minimum_calls=10)
    breaker = CircuitBreaker("payments", trip=trip, clock=clock)

    async def slow() -> None:
        clock.advance(5)

    with instrument(breaker, CircuitBreaker("plain"), meter_provider=meters.provider):
        assert meters.values(PREFIX + "failure_ratio") == {}
        for fn in (fine, broken, slow, fine):
            await attempt(breaker, fn)
        assert meters.values(PREFIX + "failure_ratio") == {attributes(name="payments"): 0.25}
        assert meters.values(PREFIX + "slow_ratio") == {attributes(name="payments"): 0.25}


async def test_calls_in_flight_and_callers_who_wait_are_told(meters: Meters) -> None:
    clock = ManualClock()
    breaker = quick("payments", clock)

    def seen() -> tuple[int, int]:
        name = attributes(name="payments")
        return meters.values(PREFIX + "in_flight")[name], meters.values(PREFIX + "waiting")[name]

    async def patient() -> None:
        async with breaker.guard(max_wait=60):
            pass

    with instrument(breaker, meter_provider=meters.provider):
        permits = [await breaker.acquire() for _ in range(3)]
        assert seen() == (3, 0)
        for permit in permits:
            permit.success()
        assert seen() == (0, 0)
        breaker.half_open()
        trial = await breaker.acquire()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(patient)
            tasks.start_soon(patient)
            await anyio.wait_all_tasks_blocked()
            assert seen() == (1, 2)
            trial.success()
        assert seen() == (0, 0)


async def test_dropped_events_are_told_of_breakers_and_registries(meters: Meters) -> None:
    alone = CircuitBreaker("alone")
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    with instrument(alone, registry, meter_provider=meters.provider):
        assert meters.values("aiobreaker.events.dropped") == {attributes(name="alone"): 0, attributes(name=""): 0}
        async with alone.events(buffer=1) as events, registry.events(buffer=2) as all_events:
            for _ in range(3):
                alone.force_open()
                alone.reset()
                registry["kept"].force_open()
                registry["kept"].reset()
            await anext(events)
            await anext(all_events)
        assert meters.values("aiobreaker.events.dropped") == {
            attributes(name="alone"): 5,
            attributes(name="kept"): 0,
            attributes(name=""): 4,
        }
    with instrument(alone, meter_provider=meters.provider):
        assert meters.values("aiobreaker.events.dropped") == {attributes(name="alone"): 5}


async def test_all_that_one_collection_says_is_from_one_look(meters: Meters) -> None:
    clock = CountingClock()
    breaker = CircuitBreaker("payments", clock=clock)
    with instrument(breaker, meter_provider=meters.provider):
        clock.looks = 0
        breaker.snapshot()
        once = clock.looks
        for times in (2, 3):
            meters.metrics()
            assert clock.looks == times * once


@pytest.mark.parametrize("other", ["breaker", "instrumentation"])
def test_what_is_begun_later_is_in_the_next_collection(meters: Meters, other: str) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    with instrument(registry, meter_provider=meters.provider):
        assert meters.values(PREFIX + "in_flight") == {}
        if other == "breaker":
            _ = registry["later"]
            assert meters.values(PREFIX + "in_flight") == {attributes(name="later"): 0}
        else:
            with instrument(CircuitBreaker("later"), meter_provider=meters.provider):
                assert meters.values(PREFIX + "in_flight") == {attributes(name="later"): 0}


OPERATIONS = st.lists(st.sampled_from(["fine", "broken", "wait", "force", "reset", "disable", "collect"]), max_size=40)
COUNTERS = (PREFIX + "calls", PREFIX + "refusals", PREFIX + "transitions")
DELTA = {Counter: AggregationTemporality.DELTA, ObservableCounter: AggregationTemporality.DELTA}


class Ledger:
    """What a reader of totals and a reader of differences have seen of one breaker, held against its snapshot."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self.totals, self.deltas = Meters(), Meters(preferred_temporality=DELTA)
        self._before: dict[tuple[str, Attributes], int] = {}
        self._sums: collections.Counter[tuple[str, Attributes]] = collections.Counter()

    def collect(self) -> None:
        now, more = self._counts(self.totals), self._counts(self.deltas)
        assert all(count >= 0 for count in more.values())
        self._sums.update(more)
        assert {key: count for key, count in now.items() if count} == dict(+self._sums)
        assert all(now[key] >= count for key, count in self._before.items())
        self._before = now
        seen = self._breaker.snapshot()
        by_name = {name: sum(count for (kind, _), count in now.items() if kind == name) for name in COUNTERS}
        assert tuple(by_name.values()) == (sum(seen.totals), seen.totals.refused, seen.transitions)
        states = self.totals.values(PREFIX + "state")
        assert {key for key, value in states.items() if value} == {attributes(name=seen.name, state=seen.state.value)}

    def _counts(self, meters: Meters) -> dict[tuple[str, Attributes], int]:
        metrics = meters.metrics()
        return {(name, key): count for name in COUNTERS for key, count in series(metrics[name]).items()}


@settings(deadline=None)
@given(OPERATIONS)
def test_what_is_collected_is_what_the_snapshot_says(operations: list[str]) -> None:
    clock = ManualClock()
    breaker = quick("payments", clock, trip=FailureRate(0.5, LastCalls(4), minimum_calls=2))
    ledger = Ledger(breaker)
    steps: dict[str, Callable[[], object]] = {
        "wait": lambda: clock.advance(6),
        "force": breaker.force_open,
        "reset": breaker.reset,
        "disable": breaker.disable,
        "collect": ledger.collect,
        "fine": lambda: run_now(attempt(breaker, fine)),
        "broken": lambda: run_now(attempt(breaker, broken)),
    }
    with instrument(breaker, meter_provider=ledger.totals.provider), instrument(breaker, meter_provider=ledger.deltas.provider):
        for operation in operations:
            steps[operation]()
        ledger.collect()


def run_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what has nothing to wait for, without an event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


# -- many names


async def test_names_beyond_the_limit_are_one_series(meters: Meters) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    with instrument(registry, meter_provider=meters.provider, max_series=2, durations=True):
        for number in range(5):
            await attempt(registry[f"tenant-{number}"], fine)
        expected = {"tenant-0": 1, "tenant-1": 1, "other": 3}
        metrics = meters.metrics()
        successes = {
            dict(key)["name"]: n for key, n in series(metrics[PREFIX + "calls"]).items() if ("outcome", "success") in key
        }
        assert successes == expected
        durations = {dict(key)["name"]: each.count for key, each in series(metrics[PREFIX + "call.duration"]).items()}
        assert durations == expected


async def test_a_breaker_called_other_shares_its_series_with_the_others(meters: Meters) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    with instrument(registry, meter_provider=meters.provider, max_series=2, durations=True):
        for name in ("other", "one", "two", "three"):
            await attempt(registry[name], fine)
        expected = {"one", "two", "other"}
        assert {dict(key)["name"] for key in meters.values(PREFIX + "in_flight")} == expected
        assert {dict(key)["name"] for key in meters.values(PREFIX + "call.duration")} == expected


async def test_a_duration_looks_at_other_breakers_only_for_the_sake_of_a_new_name(meters: Meters) -> None:
    clock = CountingClock()
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    sources = (CircuitBreaker("apart", clock=clock), registry)
    with instrument(*sources, meter_provider=meters.provider, max_series=3, durations=True):
        clock.looks = 0
        seen = []
        for name in ("one", "other", "two", "one", "three", "four", "three"):
            await attempt(registry[name], fine)
            seen.append(clock.looks > 0)
            clock.looks = 0
    assert seen == [True, False, True, False, False, False, False]


async def test_names_and_reasons_that_cannot_be_written_are_written_otherwise(meters: Meters, spans: Spans) -> None:
    breaker = CircuitBreaker("caf\udce9")
    telemetry = instrument(breaker, meter_provider=meters.provider, refusal_events=True, durations=True)
    with telemetry, spans.tracer.start_as_current_span("request"):
        await attempt(breaker, fine)
        breaker.force_open("caf\udce9")
        await attempt(breaker, fine)
        metrics = meters.metrics()
    told = {dict(key)["name"] for metric in metrics.values() for key in series(metric)}
    told |= {event[key] for _, _, event in spans.events() for key in ("name", "reason")}
    assert told == {"caf\\udce9"}


# -- durations


async def test_durations_are_told_only_to_those_who_ask(meters: Meters) -> None:
    breaker = CircuitBreaker("payments")
    with instrument(breaker, meter_provider=meters.provider):
        await attempt(breaker, fine)
        assert PREFIX + "call.duration" not in meters.metrics()


async def test_the_histogram_tells_seconds_by_outcome_and_type_of_error(meters: Meters) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("payments", ignore=LookupError, failure_if=lambda result: result == "bad", clock=clock)

    def lasting(seconds: float, result: object) -> Callable[[], Any]:
        async def call() -> object:
            clock.advance(seconds)
            if isinstance(result, Exception):
                raise result
            return result

        return call

    early = await breaker.acquire()
    with instrument(breaker, meter_provider=meters.provider, durations=True):
        for seconds, result in ((0.5, "good"), (1.5, "good"), (3.0, OSError()), (2.0, LookupError()), (4.0, "bad")):
            await attempt(breaker, lasting(seconds, result))
        early.success()
        late = await breaker.acquire()
        breaker.force_open()
        clock.advance(7)
        late.success()
        await attempt(breaker, fine)
        metric = meters.metrics()[PREFIX + "call.duration"]
    assert isinstance(metric.data, Histogram)
    seen = {key: (point.count, point.sum) for key, point in series(metric).items()}
    about = {"name": "payments"}
    assert seen == {
        attributes(**about, outcome="success"): (3, 0.5 + 1.5 + 11.0),
        attributes(**about, outcome="failure", **{"error.type": "OSError"}): (1, 3.0),
        attributes(**about, outcome="failure", **{"error.type": "result"}): (1, 4.0),
        attributes(**about, outcome="ignored"): (1, 2.0),
        attributes(**about, outcome="late"): (1, 7.0),
    }
    assert metric.data.data_points[0].explicit_bounds[0] == 0.005


async def test_a_call_that_began_before_anybody_asked_has_no_duration(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker("payments")

    async def ask() -> Instrumentation:
        return instrument(breaker, meter_provider=meters.provider, durations=True)

    with await breaker(ask)():  # without slow calls, the decorator has not looked at the clock
        assert meters.values(PREFIX + "call.duration") == {}
    assert caplog.records == []


# -- spans


async def test_a_transition_is_on_the_span_of_the_call_that_made_it(meters: Meters, spans: Spans) -> None:
    clock = ManualClock()
    breaker = quick("payments", clock)
    with instrument(breaker, meter_provider=meters.provider):
        for name, fn in (("first", broken), ("refused", fine), ("trial", fine)):
            if name == "trial":
                clock.advance(10)
            with spans.tracer.start_as_current_span(name):
                await attempt(breaker, fn)
        breaker.force_open()  # outside of any span
    events = spans.events()
    assert [event.pop("reason") != "" for _, _, event in events] == [True] * 3
    name = "aiobreaker.circuit_breaker.transition"
    assert events == [
        ("first", name, {"name": "payments", "from": "closed", "to": "open", "cause": "tripped", "open_for": 10.0}),
        ("trial", name, {"name": "payments", "from": "open", "to": "half_open", "cause": "due"}),
        ("trial", name, {"name": "payments", "from": "half_open", "to": "closed", "cause": "recovered"}),
    ]


async def test_concurrent_calls_have_their_own_spans(meters: Meters, spans: Spans) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(lambda name: CircuitBreaker(name, trip=ConsecutiveFailures(1)))

    async def request(host: str) -> None:
        with spans.tracer.start_as_current_span(f"to {host}"):
            await anyio.lowlevel.checkpoint()
            await attempt(registry[host], broken)

    with instrument(registry, meter_provider=meters.provider):
        async with anyio.create_task_group() as tasks:
            for host in ("pears", "plums", "figs"):
                tasks.start_soon(request, host)
    assert {(span, event["name"]) for span, _, event in spans.events()} == {
        ("to pears", "pears"),
        ("to plums", "plums"),
        ("to figs", "figs"),
    }
    assert len(spans.events()) == 3


async def test_a_refusal_is_on_the_span_of_its_caller_if_that_is_asked_for(meters: Meters, spans: Spans) -> None:
    clock = ManualClock()
    timed, forced = CircuitBreaker("timed", clock=clock), CircuitBreaker("forced", clock=clock)
    timed.open(30, reason="maintenance")
    forced.force_open("closed down")
    for asked in (False, True):
        telemetry = instrument(timed, forced, meter_provider=meters.provider, refusal_events=asked)
        with telemetry, spans.tracer.start_as_current_span(f"asked: {asked}"):
            await attempt(timed, fine)
            await attempt(forced, fine)
    name = "aiobreaker.circuit_breaker.refusal"
    assert spans.events() == [
        ("asked: True", name, {"name": "timed", "state": "open", "reason": "maintenance", "retry_after": 30.0}),
        ("asked: True", name, {"name": "forced", "state": "forced_open", "reason": "closed down"}),
    ]


async def test_span_events_can_be_had_or_not(meters: Meters, spans: Spans) -> None:
    breaker = CircuitBreaker("payments")
    telemetry = instrument(breaker, meter_provider=meters.provider, transition_events=False, refusal_events=True)
    with telemetry, spans.tracer.start_as_current_span("request"):
        breaker.force_open()
        await attempt(breaker, fine)
    assert [name for _, name, _ in spans.events()] == ["aiobreaker.circuit_breaker.refusal"]


def test_a_breaker_of_a_registry_that_is_given_too_is_told_of_once(meters: Meters, spans: Spans) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    breaker, apart = registry["payments"], CircuitBreaker("apart")
    with instrument(breaker, registry, apart, apart, meter_provider=meters.provider):
        with spans.tracer.start_as_current_span("request"):
            breaker.force_open()
            apart.force_open()
        moved = attributes(name="payments", from_="closed", to="forced_open")
        assert meters.values(PREFIX + "transitions")[moved] == 1
    assert [event["name"] for _, _, event in spans.events()] == ["payments", "apart"]


async def test_a_span_that_does_not_record_gets_nothing(meters: Meters, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker("payments")
    telemetry = instrument(breaker, meter_provider=meters.provider, refusal_events=True)
    ended = spans.tracer.start_span("ended")
    ended.end()
    with telemetry, use_span(ended):
        breaker.force_open()
        await attempt(breaker, fine)
    assert spans.events() == []
    assert caplog.records == []  # the SDK has nothing to complain of


# -- nothing in the way


async def test_the_closed_path_stays_the_fast_one_unless_calls_are_asked_for(meters: Meters) -> None:
    breaker = CircuitBreaker("payments")

    def fast() -> bool:
        return breaker._gate.circuit.door.era is not None and not breaker._gate.hub.wants_calls

    with instrument(breaker, meter_provider=meters.provider, transition_events=False):
        assert breaker._gate.hub.audience == 0
    with instrument(breaker, meter_provider=meters.provider):
        assert fast()
        assert breaker._gate.hub.audience == 1
    for asked in ("refusal_events", "durations"):
        options: dict[str, bool] = {asked: True}
        with instrument(breaker, meter_provider=meters.provider, **options):
            assert not fast()
        assert fast()


class BrokenHistogram:
    def record(self, *_: object) -> None:
        raise RuntimeError("no room left")


async def test_what_opentelemetry_raises_does_not_reach_a_call(
    meters: Meters, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    breaker = quick("payments", clock)
    meter = meters.provider.get_meter("aiobreaker")
    monkeypatch.setattr(type(meter), "create_histogram", lambda *_, **__: BrokenHistogram())
    telemetry = instrument(breaker, meter_provider=meters.provider, durations=True, refusal_events=True)
    with telemetry, spans.tracer.start_as_current_span("request") as span, caplog.at_level(logging.ERROR, "aiobreaker"):
        monkeypatch.setattr(span, "add_event", BrokenHistogram().record)
        assert await breaker.call(fine) == "fine"
        with pytest.raises(OSError, match="down"):
            await breaker.call(broken)
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError] * 4
    assert breaker.snapshot().totals[:2] == (1, 1)


class CollectingReservoir(AlignedHistogramBucketExemplarReservoir):
    """Has garbage collected while the SDK holds its lock."""

    def collect(self, point_attributes: Any) -> list[Exemplar]:
        gc.collect()
        return super().collect(point_attributes)


@pytest.mark.filterwarnings("ignore:a permit of circuit breaker:ResourceWarning")
async def test_a_call_that_is_settled_by_a_garbage_collection_does_not_lock_the_sdk_up() -> None:
    view = View(
        instrument_name="*.duration",
        exemplar_reservoir_factory=lambda _: lambda **options: CollectingReservoir(**options),
    )
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], views=[view], shutdown_on_exit=False)
    breaker = CircuitBreaker("payments")
    with instrument(breaker, meter_provider=provider, durations=True):
        await breaker.call(fine)
        cycles: list[list[object]] = [[await breaker.acquire()], [await breaker.acquire()]]
        for cycle in cycles:
            cycle.append(cycle)
        del cycle, cycles[0]
        gc.collect()  # one is settled before the SDK collects, the other one in the middle of it
        del cycles
        collecting = threading.Thread(target=reader.get_metrics_data, daemon=True)
        collecting.start()
        collecting.join(10)
        assert not collecting.is_alive()
        assert breaker.snapshot().totals[:3] == (1, 0, 2)
        await breaker.call(fine)
    provider.shutdown()


# -- its life


@pytest.mark.parametrize("closed_by", ["close", "with"])
def test_what_is_closed_says_nothing_and_holds_nothing(meters: Meters, spans: Spans, closed_by: str) -> None:
    breaker = CircuitBreaker("payments")
    everything = {"refusal_events": True, "durations": True}
    telemetry = instrument(breaker, meter_provider=meters.provider, **everything)
    assert meters.values(PREFIX + "state")
    if closed_by == "close":
        telemetry.close()
        telemetry.close()
    else:
        with telemetry as same:
            assert same is telemetry
    with spans.tracer.start_as_current_span("request"):
        breaker.force_open()
    assert spans.events() == []
    assert meters.metrics() == {}
    assert breaker._gate.hub.audience == 0
    reference = weakref.ref(breaker)
    del breaker
    gc.collect()
    assert reference() is None


def test_it_goes_on_if_nobody_keeps_it(meters: Meters) -> None:
    instrument(CircuitBreaker("payments"), meter_provider=meters.provider)
    gc.collect()
    assert meters.values(PREFIX + "in_flight") == {attributes(name="payments"): 0}


def test_a_provider_serves_several_at_once_and_one_after_another(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    def names() -> set[str]:
        return {dict(key)["name"] for key in meters.values(PREFIX + "in_flight")}

    for _ in range(2):
        one = instrument(CircuitBreaker("one"), meter_provider=meters.provider)
        with instrument(CircuitBreaker("two"), meter_provider=meters.provider):
            assert names() == {"one", "two"}
            one.close()
            assert names() == {"two"}
        assert names() == set()
    assert caplog.records == []  # the SDK has no conflict to tell of


def test_providers_are_let_go() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reference = weakref.ref(provider)
    instrument(CircuitBreaker("payments"), meter_provider=provider, durations=True)
    provider.shutdown()
    del provider
    gc.collect()
    assert reference() is None


class Faulty(MeterProvider):
    faulty = True

    def get_meter(self, *args: Any, **options: Any) -> Any:
        if self.faulty:
            raise RuntimeError("not yet")
        return super().get_meter(*args, **options)


def test_a_provider_that_raises_can_be_tried_again() -> None:
    reader = InMemoryMetricReader()
    provider = Faulty(metric_readers=[reader], shutdown_on_exit=False)
    breaker = CircuitBreaker("payments")
    with pytest.raises(RuntimeError, match="not yet"):
        instrument(breaker, meter_provider=provider)
    assert breaker._gate.hub.audience == 0
    provider.faulty = False
    with instrument(breaker, meter_provider=provider):
        assert reader.get_metrics_data() is not None
    provider.shutdown()


async def test_without_an_sdk_nothing_happens() -> None:
    breaker = CircuitBreaker("payments")
    with instrument(breaker, meter_provider=NoOpMeterProvider(), refusal_events=True, durations=True):
        await attempt(breaker, fine)
        breaker.force_open()
        await attempt(breaker, fine)


GLOBAL = """
import sys
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from aiobreaker import CircuitBreaker
from aiobreaker.telemetry.opentelemetry import instrument

reader = InMemoryMetricReader()
provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
steps = {
    "before": lambda: instrument(CircuitBreaker("before")),
    "set": lambda: set_meter_provider(provider),
    "after": lambda: instrument(CircuitBreaker("after")),
    "named": lambda: instrument(CircuitBreaker("named"), meter_provider=provider),
}
for step in sys.argv[1:]:
    steps[step]()
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
(metric,) = [metric for metric in scope.metrics if metric.name.endswith("in_flight")]
print(sorted(point.attributes["name"] for point in metric.data.data_points))
"""


@pytest.mark.parametrize("order", ["before set after named", "named set after"])
def test_the_global_provider_may_be_set_before_or_after(order: str) -> None:  # once in a process
    steps = order.split()
    command = [sys.executable, "-W", "error", "-c", GLOBAL, *steps]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(sorted({*steps} - {"set"}))


class OneByOne(NoOpMeter):
    """Keeps the callbacks, to be called one by one."""

    def __init__(self) -> None:
        super().__init__("aiobreaker")
        self.callbacks: dict[str, Callable[[CallbackOptions], list[Observation]]] = {}

    def create_observable_up_down_counter(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> ObservableUpDownCounter:
        (self.callbacks[name],) = callbacks
        return super().create_observable_up_down_counter(name, callbacks, unit, description)

    def names(self, instrument: str) -> list[object]:
        seen = self.callbacks[PREFIX + instrument](CallbackOptions())
        return [dict(each.attributes or {})["name"] for each in seen]


class OneByOneProvider(NoOpMeterProvider):
    def __init__(self) -> None:
        super().__init__()
        self.meter = OneByOne()

    def get_meter(self, *args: Any, **options: Any) -> OneByOne:
        return self.meter


def test_who_reads_one_instrument_only_sees_no_closed_breaker_in_the_next() -> None:
    provider = OneByOneProvider()
    meter = provider.meter
    one = instrument(CircuitBreaker("one"), meter_provider=provider)
    assert meter.names("in_flight") == ["one"]
    two = instrument(CircuitBreaker("two"), meter_provider=provider)
    assert meter.names("waiting") == ["one", "two"]
    one.close()
    assert meter.names("in_flight") == ["two"]
    two.close()
    assert meter.names("waiting") == []


# -- what cannot be


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"durations": 1}, TypeError, "durations must be True or False, not 1"),
        ({"refusal_events": "yes"}, TypeError, "refusal_events must be True or False, not 'yes'"),
        ({"transition_events": None}, TypeError, "transition_events must be True or False, not None"),
        ({"max_series": 0}, ValueError, "max_series must be"),
        (
            {"meter_provider": "global"},
            TypeError,
            "meter_provider must be an OpenTelemetry MeterProvider or None, not 'global'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        instrument(CircuitBreaker("payments"), **options)


def test_sources_that_cannot_be_are_refused(meters: Meters) -> None:
    for sources, error in (((), ValueError), (("payments",), TypeError)):
        with pytest.raises(error, match="sources must be"):
            instrument(*sources, meter_provider=meters.provider)


# -- the page


KINDS = {"counter": (Sum, True), "up-down counter": (Sum, False), "gauge": (Gauge, None), "histogram": (Histogram, None)}


async def test_the_table_in_the_docs_is_what_exists(meters: Meters) -> None:
    rows = re.findall(
        r"^\| `(aiobreaker\.[\w.]+)` \| ([\w -]+) \| `(.+?)` \| (`.+?`) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE
    )
    table = {name: (*KINDS[kind], unit, set(re.findall(r"`(.+?)`", about)), says) for name, kind, unit, about, says in rows}
    rate = FailureRate(0.9, LastCalls(10)) | SlowCallRate(0.9, slower_than=5, window=LastCalls(10))
    breaker = CircuitBreaker("payments", trip=rate)
    with instrument(breaker, meter_provider=meters.provider, durations=True):
        await attempt(breaker, broken)
        there = {
            name: (
                type(metric.data),
                getattr(metric.data, "is_monotonic", None),
                metric.unit,
                {key for each in series(metric) for key, _ in each},
                metric.description,
            )
            for name, metric in meters.metrics().items()
        }
    assert there == table


async def test_the_values_of_attributes_in_the_docs_are_those_that_exist(meters: Meters) -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`.+) \|$", PAGE.read_text(), re.MULTILINE)
    table = {name: re.findall(r"`(\w+)`", values) for names, values in rows for name in re.findall(r"`(\w+)`", names)}
    with instrument(CircuitBreaker("payments"), meter_provider=meters.provider):
        metrics = meters.metrics()
        for metric, attribute in (("state", "state"), ("calls", "outcome"), ("refusals", "reason")):
            assert [dict(key)[attribute] for key in series(metrics[PREFIX + metric])] == table[attribute]
    assert table["from"] == table["to"] == table["state"]


@pytest.mark.parametrize("number", range(len(re.findall(r"^```python$", PAGE.read_text(), re.MULTILINE))))
def test_the_pages_examples_run(number: int) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(blocks[number], "example", "exec"), {})
