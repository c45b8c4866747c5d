"""Prometheus: a collector that reads breakers and registries when it is scraped, and the paths of a dashboard and alert rules.

Law: a guarded call pays for nothing, and one scrape is one look at each breaker: all that it says of a breaker goes together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..core.eras import State
from ..observed import Observed, Row, Source

DASHBOARD: Final = Path(__file__).with_name("grafana.json")
"""A dashboard for Grafana that shows these metrics, to be imported there."""

ALERTS: Final = Path(__file__).with_name("alerts.yaml")
"""Alert rules for a Prometheus server that scrapes these metrics, for its `rule_files`."""

_DROPPED = "aiobreaker_events_dropped"

_Samples = Iterator[tuple[Sequence[str], float]]


class BreakerCollector(Collector):
    """Shows circuit breakers and registries to Prometheus: `prometheus_client.REGISTRY.register(BreakerCollector(payments))`.

    The metrics have the label `name`, for which the first `max_series` names are used; all later ones are summed up as `other`.
    A registry of prometheus_client takes one collector of this kind: give it everything there is to show.

    Args:
        sources: circuit breakers and breaker registries, at least one.
        max_series: how many names get series of their own.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it, its value, and what is allowed.
    """

    def __init__(self, *sources: Source, max_series: int = 100) -> None:
        self._observed = Observed(*sources, max_series=max_series)

    def __repr__(self) -> str:
        return f"<BreakerCollector of {self._observed!r}>"

    def describe(self) -> Iterable[Metric]:
        """The metrics without their values, for the registry to know their names."""
        return [family.empty() for family in _FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        rows, families = self._observed.rows(), []
        for family in _FAMILIES:
            metric = family.empty()
            for row in rows:
                name = row.name.encode("utf-8", "backslashreplace").decode()  # what cannot be written would spoil the scrape
                for labels, value in family.read(row):
                    metric.add_metric([name, *labels], value)
            if family.name == _DROPPED and self._observed.has_registries:
                metric.add_metric([""], self._observed.events_lost)
            families.append(metric)
        return families


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric: what it is, its labels beside `name`, and how it is read from a row."""

    kind: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    about: str
    read: Callable[[Row], _Samples]
    labels: tuple[str, ...] = ()
    unit: str = ""

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        return self.kind(self.name, self.about, labels=("name", *self.labels), unit=self.unit)


def _states(row: Row) -> _Samples:
    return (((state.value,), row.states[state]) for state in State)


def _calls(row: Row) -> _Samples:
    totals = row.totals
    yield ("success",), totals.successes
    yield ("failure",), totals.failures
    yield ("ignored",), totals.ignored
    yield ("cancelled",), totals.cancelled
    yield ("late",), totals.late
    yield ("rejected",), totals.refused


def _refusals(row: Row) -> _Samples:
    return (((state.value,), count) for state, count in row.refusals.items())


def _transitions(row: Row) -> _Samples:
    return (((old.value, new.value), count) for (old, new), count in row.moves.items())


def _one(value: Callable[[Row], float | None]) -> Callable[[Row], _Samples]:
    def read(row: Row) -> _Samples:
        seen = value(row)
        if seen is not None:
            yield (), seen

    return read


_PREFIX = "aiobreaker_circuit_breaker"
_FAMILIES = (
    _Family(
        GaugeMetricFamily,
        f"{_PREFIX}_state",
        "How many circuits of this name are in this state: 1 or 0 for a circuit of its own.",
        _states,
        ("state",),
    ),
    _Family(CounterMetricFamily, f"{_PREFIX}_calls", "Calls, by how they ended.", _calls, ("outcome",)),
    _Family(
        CounterMetricFamily, f"{_PREFIX}_refusals", "Refused calls, by the state that refused them.", _refusals, ("reason",)
    ),
    _Family(CounterMetricFamily, f"{_PREFIX}_transitions", "Changes from one state to another.", _transitions, ("from", "to")),
    _Family(
        GaugeMetricFamily,
        f"{_PREFIX}_failure_ratio",
        "The fraction of calls in its window that failed, where a condition asks for it.",
        _one(lambda row: row.failure_rate),
    ),
    _Family(
        GaugeMetricFamily,
        f"{_PREFIX}_slow_ratio",
        "The fraction of calls in its window that were slow, where a condition asks for it.",
        _one(lambda row: row.slow_rate),
    ),
    _Family(GaugeMetricFamily, f"{_PREFIX}_in_flight", "Admitted calls that have not ended.", _one(lambda row: row.in_flight)),
    _Family(GaugeMetricFamily, f"{_PREFIX}_waiting", "Callers who wait for admission.", _one(lambda row: row.waiting)),
    _Family(
        GaugeMetricFamily,
        f"{_PREFIX}_open_seconds",
        "For how long the circuit has been open or forced open; 0 in any other state.",
        _one(lambda row: row.open_for),
        unit="seconds",
    ),
    _Family(
        GaugeMetricFamily,
        f"{_PREFIX}_retry_after_seconds",
        "After how long a call could be admitted, where time alone may bring that.",
        _one(lambda row: row.retry_after),
        unit="seconds",
    ),
    _Family(
        CounterMetricFamily,
        _DROPPED,
        "Events that slow readers of event streams have lost; without a name, those of registries' streams.",
        _one(lambda row: row.events_lost),
    ),
)
