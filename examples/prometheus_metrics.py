# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[prometheus]"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A service that shows its breakers to Prometheus, and what a scrape says during an outage."""

import urllib.request

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, start_http_server

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError
from aiobreaker.telemetry.prometheus import ALERTS, DASHBOARD, BreakerCollector

payments = CircuitBreaker("payments", open_for=30)
tenants: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
metrics = CollectorRegistry()
metrics.register(BreakerCollector(payments, tenants, max_series=3))


async def charge() -> str:
    """Charge an order; the payment service is down."""
    raise ConnectionError("connection refused")


async def report(tenant: str) -> str:
    """Write a report."""
    return f"for {tenant}"


def scrape(port: int) -> str:
    """Get the page that Prometheus gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        page: bytes = answer.read()
    return page.decode()


async def main() -> None:
    """Fail, be refused, serve ten tenants under three names, and be scraped."""
    for _ in range(12):
        try:
            await payments.call(charge)
        except (ConnectionError, CircuitOpenError) as problem:
            print(f"charge: {problem}")
    for number in range(10):
        await tenants[f"tenant-{number}"].call(report, f"tenant-{number}")
    server, thread = start_http_server(0, "127.0.0.1", metrics)
    page = await anyio.to_thread.run_sync(scrape, server.server_port)
    server.shutdown()
    server.server_close()
    thread.join()
    print("\n".join(line for line in page.splitlines() if not line.startswith("#") and not line.endswith(" 0.0")))
    print(f"dashboard: {DASHBOARD.name}, alert rules: {ALERTS.name}")


if __name__ == "__main__":
    anyio.run(main)
