# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[structlog]"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""What structlog says of an outage of two hosts out of many: their transitions, as events with keys and values."""

import anyio
import structlog

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError
from aiobreaker.telemetry.structlog import log_events

hosts: BreakerRegistry[str] = BreakerRegistry(lambda host: CircuitBreaker(host, open_for=0.1))
down = {"pears.example", "plums.example"}


async def fetch(host: str) -> str:
    """Ask one host."""
    await anyio.sleep(0.001)
    if host in down:
        raise ConnectionError("connection refused")
    return f"from {host}"


async def ask(host: str) -> None:
    """Ask it for a third of a second."""
    with anyio.move_on_after(0.3):
        while True:
            try:
                await hosts[host].call(fetch, host)
            except (ConnectionError, CircuitOpenError):
                await anyio.sleep(0.002)


async def main() -> None:
    """Ask six hosts at once; two of them come back half way."""
    async with anyio.create_task_group() as tasks:
        for fruit in ("apples", "figs", "grapes", "limes", "pears", "plums"):
            tasks.start_soon(ask, f"{fruit}.example")
        await anyio.sleep(0.15)
        down.clear()


if __name__ == "__main__":
    with log_events(hosts, logger=structlog.get_logger("shop").bind(service="fruit")):
        anyio.run(main)
