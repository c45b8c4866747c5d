# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker", "fastapi>=0.140", "httpx2>=2.16"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A FastAPI app whose routes are handed their circuit breakers and pipelines, and a test that puts another in place of one."""

from typing import Annotated, Any

import anyio
import httpx2
from fastapi import Depends, FastAPI

from aiobreaker import BreakerRegistry, Bulkhead, CircuitBreaker, ConsecutiveFailures, Pipeline, Timeout
from aiobreaker.integrations.asgi import HealthEndpoint, RefusalMiddleware
from aiobreaker.integrations.fastapi import PolicyDependency

breakers: BreakerRegistry[str] = BreakerRegistry(lambda name: CircuitBreaker(name, trip=ConsecutiveFailures(2), open_for=5))
pipelines = {"stock": breakers["stock"] | Bulkhead(20) | Timeout(0.05)}

Payments = Annotated[CircuitBreaker, Depends(PolicyDependency(breakers, "payments"))]
Stock = Annotated[Pipeline[Any], Depends(PolicyDependency(pipelines, "stock"))]

app = FastAPI()
app.add_middleware(RefusalMiddleware)
app.mount("/health", HealthEndpoint(breakers))


async def charge(order: int) -> str:
    """Ask the payment service, which is well."""
    return f"order {order} paid"


async def count(sku: str) -> int:
    """Ask the stock service, which hangs."""
    await anyio.sleep_forever()
    return 0


@app.post("/orders/{order}")
async def pay(order: int, payments: Payments) -> str:
    """Charge one order."""
    return await payments.call(charge, order)


@app.get("/stock/{sku}")
async def in_stock(sku: str, stock: Stock) -> str:
    """How many there are, if that can be found out in time."""
    try:
        return f"{await stock.call(count, sku)} in stock"
    except TimeoutError:
        return "nobody knows"


async def main() -> None:
    """Ask for what works and for what hangs; then test the app with a breaker of the test's own."""
    # no server is needed to show this: the client calls the app
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop") as client:
        print("pay:", (await client.post("/orders/7")).text)
        for _ in range(4):
            response = await client.get("/stock/pear")
            print("stock:", response.status_code, response.text, response.headers.get("retry-after", ""))
        print("health:", (await client.get("/health/")).text)

        maintenance = CircuitBreaker("payments")
        maintenance.force_open("maintenance")
        app.dependency_overrides[PolicyDependency(breakers, "payments")] = lambda: maintenance
        print("pay, in a test:", (await client.post("/orders/8")).status_code)


if __name__ == "__main__":
    anyio.run(main)
