"""The dashboard and the alert rules ask only for metrics, labels and values that exist, and in a way that fits their type."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from aiobreaker import BreakerRegistry, CircuitBreaker, FailureRate, LastSeconds, SlowCallRate, State
from aiobreaker.telemetry.prometheus import ALERTS, DASHBOARD, BreakerCollector
from aiobreaker.testing import in_state

FROM_OUTSIDE = {"job", "instance"}
"""Labels that the Prometheus server puts on everything."""

FREE = {"name", *FROM_OUTSIDE}
"""Labels that may have any value."""


@cache
def exposed() -> dict[str, Metric]:
    """Everything there is to see, by the name of its samples, of a breaker that has made every transition, and an open one."""
    window = LastSeconds(9)
    trip = FailureRate(0.5, window=window, minimum_calls=1) | SlowCallRate(0.5, slower_than=1, window=window, minimum_calls=1)
    registry: BreakerRegistry[str] = BreakerRegistry(lambda name: CircuitBreaker(name, trip=trip))
    for old, new in product(State, State):
        with in_state(registry["pears"], old):
            order(registry["pears"], new)
    registry["plums"].open()
    with pytest.raises(ConnectionError):
        anyio.run(registry["pears"].call, broken)
    registry["pears"].metrics_only()
    with pytest.raises(ConnectionError):
        anyio.run(registry["pears"].call, broken)
    shown = CollectorRegistry()
    shown.register(BreakerCollector(registry))
    families = text_string_to_metric_families(generate_latest(shown).decode())
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in families}


def order(breaker: CircuitBreaker, state: State) -> None:
    orders: dict[State, Callable[[], None]] = {
        State.CLOSED: breaker.reset,
        State.OPEN: breaker.open,
        State.HALF_OPEN: breaker.half_open,
        State.FORCED_OPEN: breaker.force_open,
        State.DISABLED: breaker.disable,
        State.METRICS_ONLY: breaker.metrics_only,
    }
    orders[state]()


async def broken() -> None:
    raise ConnectionError("down")


def labels(metric: Metric) -> set[str]:
    return {"name", *(key for sample in metric.samples for key in sample.labels)}


def complaints(expression: str) -> Iterator[str]:
    """What does not fit the metrics that exist."""
    used = re.findall(r"(\w*)\(?\s*(aiobreaker_\w+)(?:\{([^}]*)\})?(\[[^]]+\])?", expression)
    if not used:
        yield "asks for no metric of ours"
    known = set(FROM_OUTSIDE)
    for function, name, selector, span in used:
        metric = exposed().get(name)
        if metric is None:
            yield f"no metric {name}"
            continue
        known |= labels(metric)
        if (metric.type == "counter") != (function in ("rate", "increase") and bool(span)):
            yield f"{name} is a {metric.type}"
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            if label not in labels(metric) | FROM_OUTSIDE:
                yield f"{name} has no label {label}"
            elif label not in FREE:
                wanted = set(value.split("|") if "~" in operator else [value])
                missing = wanted - {sample.labels[label] for sample in metric.samples}
                yield from (f"{name} has no {label} {one!r}" for one in missing)
    for grouping in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        yield from (f"nothing here has the label {label}" for label in re.findall(r"\w+", grouping) if label not in known)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


PANELS = dashboard()["panels"]
TARGETS = {f"{panel['title']} {target['refId']}": target for panel in PANELS for target in panel["targets"]}


def rules() -> dict[str, dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.parametrize("title", TARGETS)
def test_a_panel_asks_for_what_exists(title: str) -> None:
    expression, legend = TARGETS[title]["expr"], TARGETS[title]["legendFormat"]
    assert list(complaints(expression)) == []
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) == grouped, "the legend tells the series apart"
    assert '$job"' in expression


def test_the_dashboard_shows_every_metric() -> None:
    text = " ".join(target["expr"] for target in TARGETS.values())
    assert set(re.findall(r"aiobreaker_\w+", text)) == set(exposed())


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = dashboard()
    assert (board["uid"], board["title"], board["schemaVersion"]) == ("aiobreaker", "Circuit breakers", 39)
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__rate_interval", "__all"} == names
    for variable in board["templating"]["list"][1:]:
        assert list(complaints(variable["definition"])) == []
    cells = [(x, y) for panel in PANELS for x, y in squares(panel["gridPos"])]
    assert len(set(cells)) == len(cells), "panels lie on one another"
    assert max(x for x, _ in cells) == 23


def squares(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        yield from ((x, y) for y in range(place["y"], place["y"] + place["h"]))


def test_the_alert_rules_ask_for_what_exists() -> None:
    found = rules()
    assert {"CircuitOpen", "CircuitFlapping", "CircuitRefusesMuch", "CircuitHeldOpen", "CircuitNotGuarding"} < set(found)
    for name, rule in found.items():
        assert list(complaints(rule["expr"])) == [], name
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= FREE


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("up", "asks for no metric of ours"),
        ("aiobreaker_circuit_breaker_calls", "no metric aiobreaker_circuit_breaker_calls"),
        ("sum(aiobreaker_circuit_breaker_calls_total)", "aiobreaker_circuit_breaker_calls_total is a counter"),
        ("rate(aiobreaker_circuit_breaker_in_flight[5m])", "aiobreaker_circuit_breaker_in_flight is a gauge"),
        ('aiobreaker_circuit_breaker_state{kind="open"}', "aiobreaker_circuit_breaker_state has no label kind"),
        ('aiobreaker_circuit_breaker_state{state="ajar"}', "aiobreaker_circuit_breaker_state has no state 'ajar'"),
        ('aiobreaker_circuit_breaker_state{state=~"open|ajar"}', "aiobreaker_circuit_breaker_state has no state 'ajar'"),
        ("sum by (to) (aiobreaker_circuit_breaker_state)", "nothing here has the label to"),
    ],
)
def test_the_check_finds_what_is_wrong(expression: str, complaint: str) -> None:
    assert list(complaints(expression)) == [complaint]
