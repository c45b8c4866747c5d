# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A dependency that fails and comes back, a breaker in front of it, and what an operator would see."""

import random

import anyio

from aiobreaker import CircuitBreaker, CircuitOpenError, FailureRate, LastSeconds, Trials

payments = CircuitBreaker(
    "payments",
    trip=FailureRate(0.5, window=LastSeconds(10), minimum_calls=10),
    open_for=0.2,
    trials=Trials(2),
)
down = False


@payments
async def charge(order: int) -> str:
    """Charge one order."""
    await anyio.sleep(random.uniform(0.001, 0.005))
    if down:
        raise ConnectionError("connection refused")
    return f"order {order} paid"


async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
    """Print every change of state."""
    async with payments.events() as events:
        task_status.started()
        async for event in events:
            print(event)


async def main() -> None:
    """Sixty orders, the middle third of them while the payment service is down."""
    global down  # noqa: PLW0603 - the example's switch
    async with anyio.create_task_group() as tasks:
        await tasks.start(watch)
        for order in range(60):
            down = 20 <= order < 40
            try:
                await charge(order)
            except ConnectionError as error:
                print(f"order {order}: {error}")
            except CircuitOpenError as refusal:
                await anyio.sleep(refusal.retry_after or 0.05)
        tasks.cancel_scope.cancel()
    print(payments.explain())
    print(payments.snapshot().totals)


if __name__ == "__main__":
    anyio.run(main)
