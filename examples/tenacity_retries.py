# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[tenacity]"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A dependency that is down for a while, and callers who retry with tenacity: when each of them asks, and what is sent."""

import time

import anyio
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from aiobreaker import CircuitBreaker, CircuitOpenError, StateChanged
from aiobreaker.events import Event
from aiobreaker.integrations.tenacity import retry_when_refused, wait_when_refused

stock = CircuitBreaker("stock", open_for=0.5)
began = time.monotonic()


def say(words: object) -> None:
    """Print a line with the time."""
    print(f"{time.monotonic() - began:4.2f} s: {words}")


def tell(event: Event) -> None:
    """Print every change of state."""
    if isinstance(event, StateChanged):
        say(f"{event.name} is {event.new.value.replace('_', ' ')}: {event.reason}")


@stock
async def ask(sku: str) -> int:
    """One request to the stock service, which is down for the first 1.2 seconds."""
    await anyio.sleep(0.01)
    if time.monotonic() - began < 1.2:
        raise ConnectionError("connection refused")
    return len(sku)


@retry(
    retry=retry_when_refused(retry_if_exception_type(ConnectionError), max_wait=10),
    wait=wait_when_refused(wait_random_exponential(multiplier=0.05, max=0.2), jitter=0.5),
    stop=stop_after_attempt(20),
    reraise=True,
)
async def left(sku: str) -> int:
    """How many are left, whatever it takes."""
    return await ask(sku)


async def look(sku: str) -> None:
    """Ask for one article."""
    say(f"{await left(sku)} {sku} left")


async def main() -> None:
    """Six callers at once, and one who will not wait for an hour."""
    stock.subscribe(tell)
    async with anyio.create_task_group() as tasks:
        for sku in ("pears", "plums", "figs", "quinces", "cherries", "medlars"):
            tasks.start_soon(look, sku)
    print(stock.snapshot().totals)

    stock.open(3600)
    try:
        await left("pears")
    except CircuitOpenError as refusal:
        say(f"not waited for: {refusal}")


if __name__ == "__main__":
    anyio.run(main)
