"""Prometheus: a real scrape says what the snapshots say, in both formats, and a guarded call pays for nothing."""

import re
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import anyio
import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed_text

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, FailureRate, LastSeconds, SlowCallRate, State
from aiobreaker.telemetry.prometheus import BreakerCollector
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, in_state

Parser = Callable[[str], Iterable[Metric]]
Show = Callable[..., None]
Scrape = Callable[[], dict[str, Metric]]

PAGE = Path(__file__).parent.parent.parent / "docs" / "telemetry-prometheus.md"
PREFIX = "aiobreaker_circuit_breaker"
FORMATS: dict[str, tuple[str, str, Parser]] = {
    "text": ("text/plain; version=0.0.4", "text/plain", parsed_text),
    "openmetrics": ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", parsed_openmetrics),
}


async def fine() -> None:
    """Succeed."""


async def broken() -> None:
    raise ConnectionError("down")


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[CollectorRegistry, str]]:
    registry = CollectorRegistry()
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield registry, f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def show(target: tuple[CollectorRegistry, str]) -> Iterator[Show]:
    """Registers a collector for the length of a test."""
    collectors: list[BreakerCollector] = []

    def register(*sources: CircuitBreaker | BreakerRegistry[str], max_series: int = 100) -> None:
        collectors.append(BreakerCollector(*sources, max_series=max_series))
        target[0].register(collectors[-1])

    yield register
    for collector in collectors:
        target[0].unregister(collector)


@pytest.fixture(params=FORMATS)
def scrape(request: pytest.FixtureRequest, target: tuple[CollectorRegistry, str]) -> Scrape:
    """Metrics by name, as a Prometheus server would get them."""
    accept, content_type, parse = FORMATS[request.param]

    def get() -> dict[str, Metric]:
        asked = urllib.request.Request(target[1], headers={"Accept": accept})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith(content_type)
            families = list(parse(answer.read().decode()))
        assert len({family.name for family in families}) == len(families)
        return {family.name: family for family in families}

    return get


def values(metric: Metric) -> dict[tuple[str, ...], float]:
    """Values by labels, in the order of the labels' names."""
    found = {tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value for sample in metric.samples}
    assert len(found) == len(metric.samples)
    return found


async def test_a_scrape_says_what_the_snapshot_says(show: Show, scrape: Scrape) -> None:
    clock, window = ManualClock(), LastSeconds(60)
    trip = FailureRate(0.9, window=window, minimum_calls=9) | SlowCallRate(0.9, slower_than=2, window=window, minimum_calls=9)
    breaker = CircuitBreaker("pears", trip=trip, ignore=KeyError, clock=clock)
    show(breaker)
    for _ in range(3):
        await breaker.call(fine)
    async with breaker.guard():
        clock.advance(3)
    for error in (ConnectionError, ConnectionError, KeyError):
        with pytest.raises(error):
            await breaker.call(ScriptedDependency(error()))
    with anyio.move_on_after(1):
        await breaker.call(ScriptedDependency(Answer(after=9)))
    async with breaker.guard():
        metrics, seen = scrape(), breaker.snapshot()
    assert values(metrics[f"{PREFIX}_in_flight"]) == {("pears",): 1} == {("pears",): seen.in_flight}
    assert values(metrics[f"{PREFIX}_waiting"]) == {("pears",): 0}
    assert values(metrics[f"{PREFIX}_calls"]) == {
        ("pears", "success"): 4,
        ("pears", "failure"): 2,
        ("pears", "ignored"): 1,
        ("pears", "cancelled"): 1,
        ("pears", "late"): 0,
        ("pears", "rejected"): 0,
    }
    assert tuple(values(metrics[f"{PREFIX}_calls"]).values()) == tuple(seen.totals)
    assert values(metrics[f"{PREFIX}_failure_ratio"]) == {("pears",): seen.failure_rate} == {("pears",): pytest.approx(2 / 6)}
    assert values(metrics[f"{PREFIX}_slow_ratio"]) == {("pears",): seen.slow_rate} == {("pears",): pytest.approx(1 / 6)}
    assert values(metrics[f"{PREFIX}_open_seconds"]) == {("pears",): 0}
    assert values(metrics[f"{PREFIX}_retry_after_seconds"]) == {}
    with pytest.raises(ConnectionError):
        await breaker.call(broken)
    assert values(scrape()[f"{PREFIX}_calls"])["pears", "failure"] == 3, "read anew"


async def test_an_open_circuit(show: Show, scrape: Scrape) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("pears", open_for=10, clock=clock)
    show(breaker)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await breaker.call(broken)
    clock.advance(4)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: breaker.acquire(max_wait=20))
        await anyio.sleep(1)
        for _ in range(3):
            with pytest.raises(CircuitOpenError):
                await breaker.call(fine)
        metrics, seen = scrape(), breaker.snapshot()
        tasks.cancel_scope.cancel()
    assert values(metrics[f"{PREFIX}_waiting"]) == {("pears",): 1}
    assert values(metrics[f"{PREFIX}_open_seconds"]) == {("pears",): 4}
    assert values(metrics[f"{PREFIX}_retry_after_seconds"]) == {("pears",): 6} == {("pears",): seen.retry_after}
    assert values(metrics[f"{PREFIX}_refusals"]) == {
        ("pears", "open"): 3,
        ("pears", "half_open"): 0,
        ("pears", "forced_open"): 0,
    }
    assert seen.refusals == {State.OPEN: 3}
    assert values(metrics[f"{PREFIX}_calls"])["pears", "rejected"] == seen.totals.refused == 3
    assert values(metrics[f"{PREFIX}_transitions"]) == {
        ("closed", "pears", "open"): 1,
        ("half_open", "pears", "closed"): 0,
        ("half_open", "pears", "open"): 0,
        ("open", "pears", "half_open"): 0,
    }
    breaker.disable()
    assert values(scrape()[f"{PREFIX}_transitions"])["open", "pears", "disabled"] == 1


@pytest.mark.parametrize("state", State)
def test_a_series_for_each_state_and_1_for_the_one_that_it_is(state: State, show: Show, scrape: Scrape) -> None:
    breaker = CircuitBreaker("pears")
    show(breaker)
    with in_state(breaker, state):
        metric = scrape()[f"{PREFIX}_state"]
    assert metric.type == "gauge"
    assert values(metric) == {("pears", each.value): float(each is state) for each in State}


def test_types_units_and_labels(show: Show, scrape: Scrape) -> None:
    breaker = CircuitBreaker("pears", trip=FailureRate(0.5, window=LastSeconds(9), minimum_calls=1))
    breaker.open()
    show(breaker)
    metrics = scrape()
    counters = {name for name, metric in metrics.items() if metric.type == "counter"}
    assert counters == {f"{PREFIX}_calls", f"{PREFIX}_refusals", f"{PREFIX}_transitions", "aiobreaker_events_dropped"}
    assert {metric.type for metric in metrics.values()} == {"counter", "gauge"}
    for name, metric in metrics.items():
        assert metric.documentation
        for sample in metric.samples:
            assert sample.name == (f"{name}_total" if name in counters else name)
            assert sample.labels["name"] == "pears"


async def test_a_registry_and_what_its_readers_have_lost(show: Show, scrape: Scrape) -> None:
    breakers: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    show(breakers)
    assert values(scrape()[f"{PREFIX}_state"]) == {}
    async with breakers.events(buffer=1) as every, breakers["pears"].events(buffer=2) as own:
        for _ in range(2):
            breakers["pears"].force_open()
            breakers["pears"].reset()
        await anext(every)
        await anext(own)
    await breakers["plums"].call(fine)
    metrics = scrape()
    assert values(metrics["aiobreaker_events_dropped"]) == {("pears",): 2, ("plums",): 0, ("",): 3}
    assert values(metrics[f"{PREFIX}_calls"])["plums", "success"] == 1
    assert list(breakers) == ["pears", "plums"], "a scrape makes no breaker"


async def test_many_keys_share_one_name(show: Show, scrape: Scrape) -> None:
    breakers: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker, max_size=10)
    show(breakers, max_series=3)
    for number in range(40):
        await breakers[f"tenant {number}"].call(fine)
        if number % 5 == 4:
            scrape()
    metrics = scrape()
    calls = values(metrics[f"{PREFIX}_calls"])
    own = {f"tenant {number}" for number in range(3)}
    assert {name for name, _ in calls} == {*own, "other"}
    assert {calls[name, "success"] for name in own} == {1}
    assert calls["other", "success"] == 37
    assert len(values(metrics[f"{PREFIX}_state"])) == 4 * len(State)


def test_a_guarded_call_pays_for_nothing() -> None:
    breaker = CircuitBreaker("pears")
    door, collector = breaker._gate.circuit.door.era, BreakerCollector(breaker)
    for _ in range(2):
        list(collector.collect())
        assert not breaker._gate.wanted
        assert breaker._gate.circuit.door.era is door is not None


def test_registering_reads_nothing_and_two_collectors_do_not_mix() -> None:
    asked: list[float] = []

    def clock() -> float:
        asked.append(0.0)
        return 0.0

    breaker, registry = CircuitBreaker("pears", clock=clock), CollectorRegistry()
    asked.clear()
    registry.register(BreakerCollector(breaker))
    assert asked == []
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(BreakerCollector(CircuitBreaker("plums")))


@pytest.mark.parametrize("name", ['a "b" \\ c\nd', "zwölf Birnen", "{x=1}"], ids=["quoted", "not ASCII", "braces"])
def test_any_name_will_do(name: str, show: Show, scrape: Scrape) -> None:
    show(CircuitBreaker(name))
    assert set(values(scrape()[f"{PREFIX}_in_flight"])) == {(name,)}


def test_a_name_that_cannot_be_written_spoils_nothing(show: Show, scrape: Scrape) -> None:
    show(CircuitBreaker("pears"), CircuitBreaker("half a \ud83c"))
    assert set(values(scrape()[f"{PREFIX}_in_flight"])) == {("pears",), ("half a \\ud83c",)}


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="sources must be at least one"):
        BreakerCollector()
    with pytest.raises(TypeError, match="max_series must be a whole number"):
        BreakerCollector(CircuitBreaker("pears"), max_series=1.5)  # type: ignore[arg-type]
    assert repr(BreakerCollector(CircuitBreaker("pears"))) == "<BreakerCollector of <Observed of 1 breakers and 0 registries>>"


def test_the_page_lists_the_metrics_that_exist() -> None:
    collector = BreakerCollector(BreakerRegistry(CircuitBreaker))
    listed = dict(re.findall(r"^\| `(aiobreaker_\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    ending = {"counter": "_total", "gauge": ""}
    assert listed == {metric.name + ending[metric.type]: metric.type for metric in collector.describe()}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_pages_examples_run(backend: str) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block.replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})"), "example", "exec"), {})
