# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[opentelemetry]", "opentelemetry-sdk>=1.37"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A shop's two dependencies, one of which fails for a while, as OpenTelemetry sees them: metrics, and events on spans."""

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures
from aiobreaker.telemetry.opentelemetry import instrument

# In an application, exporters take the place of these two, and get_tracer() of opentelemetry.trace that of the tracer's.
reader = InMemoryMetricReader()
exporter = InMemorySpanExporter()
meters, traces = MeterProvider(metric_readers=[reader]), TracerProvider()
traces.add_span_processor(SimpleSpanProcessor(exporter))
tracer = traces.get_tracer("shop")

breakers: BreakerRegistry[str] = BreakerRegistry(
    lambda name: CircuitBreaker(name, trip=ConsecutiveFailures(3), open_for=0.1),
)
down = False


async def ask(dependency: str) -> str:
    """Ask a dependency for something."""
    await anyio.sleep(0.005)
    if down and dependency == "payments":
        raise ConnectionError("connection refused")
    return "fine"


async def order(number: int) -> str:
    """One order, in a span of its own, asks both."""
    with tracer.start_as_current_span(f"order {number}"):
        try:
            await breakers["stock"].call(ask, "stock")
            return await breakers["payments"].call(ask, "payments")
        except ConnectionError as error:
            return f"failed: {error}"
        except CircuitOpenError as refusal:
            return f"refused: {refusal}"


def show_metrics() -> None:
    """Collect once, as a reader does every minute, and print what is not 0."""
    found = reader.get_metrics_data()
    for metric in found.resource_metrics[0].scope_metrics[0].metrics if found else ():
        for point in metric.data.data_points:
            about = ", ".join(f"{key}={value!r}" for key, value in (point.attributes or {}).items())
            if isinstance(point, HistogramDataPoint):
                print(f"{metric.name} ({about}): {point.count} calls, {point.sum:.3f} {metric.unit}")
            elif isinstance(point, NumberDataPoint) and point.value:
                print(f"{metric.name} ({about}): {point.value:g} {metric.unit}")


def show_spans() -> None:
    """Print the events on the spans, the first few."""
    events = [(span.name, event) for span in exporter.get_finished_spans() for event in span.events]
    for name, event in events[:4]:
        print(f"{name}: {event.name} {dict(event.attributes or {})}")
    print(f"and {len(events) - 4} more events")


async def main() -> None:
    """Forty orders. Payments are down during the second ten."""
    global down  # noqa: PLW0603 - the example's switch
    with instrument(breakers, meter_provider=meters, refusal_events=True, durations=True):
        for number in range(40):
            down = 10 <= number < 20
            await order(number)
        show_metrics()
    show_spans()


if __name__ == "__main__":
    anyio.run(main)
