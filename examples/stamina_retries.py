# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[stamina]"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A dependency that is down for a while, twenty callers who retry with stamina, and how seldom they ask.

All of them want the same service. While its circuit is open they wait for as long as the refusal says, and nothing is sent.
"""

import logging
import time

import anyio
import stamina

from aiobreaker import CircuitBreaker, CircuitOpenError
from aiobreaker.integrations.stamina import wait_when_refused

logging.getLogger("stamina").setLevel(logging.ERROR)  # which tells of every retry otherwise

payments = CircuitBreaker("payments", open_for=0.5)
began = time.monotonic()
sent = 0


@payments
async def send(order: int) -> str:
    """One request to the payment service, which is down for the first 1.2 seconds."""
    global sent  # noqa: PLW0603 - the example's count
    sent += 1
    await anyio.sleep(0.01)
    if time.monotonic() - began < 1.2:
        raise ConnectionError("connection refused")
    return f"order {order} paid"


@stamina.retry(on=wait_when_refused(ConnectionError, jitter=0.5), attempts=20, wait_initial=0.05, wait_jitter=0.05)
async def charge(order: int) -> None:
    """Charge one order, whatever it takes."""
    print(f"{time.monotonic() - began:4.2f} s: {await send(order)}")


async def main() -> None:
    """Twenty orders at once."""
    async with anyio.create_task_group() as tasks:
        for order in range(20):
            tasks.start_soon(charge, order)
    print(f"{sent} requests were sent for 20 orders: the first, a few trials, and those that succeeded")
    print(payments.snapshot().totals)

    payments.open(3600)
    try:
        await charge(20)
    except CircuitOpenError as refusal:
        print(f"not waited for: {refusal}")


if __name__ == "__main__":
    anyio.run(main)
