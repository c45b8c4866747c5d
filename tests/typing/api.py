"""What type checkers must see in the public face. Checked by mypy and pyright, never run."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, assert_type

from aiobreaker import (
    BreakerRegistry,
    CircuitBreaker,
    ConsecutiveFailures,
    Event,
    FailureRate,
    GuardedStream,
    HeldPermit,
    LastGood,
    LastSeconds,
    Snapshot,
)

breaker = CircuitBreaker("typed", trip=ConsecutiveFailures(5) | FailureRate(0.5, window=LastSeconds(60)))


@breaker
async def price(sku: str, *, currency: str = "EUR") -> float:
    return len(sku) * 1.0


@breaker
async def prices(count: int) -> AsyncIterator[float]:
    for _ in range(count):
        yield 1.0


@breaker
async def echo() -> AsyncGenerator[int, str]:
    yield len((yield 1))


class Shop:
    @breaker
    async def price(self, sku: str) -> float:
        return 1.0

    @classmethod
    @breaker
    async def named(cls, name: str) -> "Shop":
        return cls()


def standing_in(error: Exception, sku: str) -> str:
    return sku


async def standing_in_later(error: Exception, sku: str) -> bytes:
    return sku.encode()


@breaker.with_fallback(None)
async def or_nothing(sku: str) -> float:
    return 1.0


@breaker.with_fallback(standing_in)
async def or_text(sku: str) -> float:
    return 1.0


@breaker.with_fallback(standing_in_later)
async def or_bytes(sku: str) -> float:
    return 1.0


@breaker.with_fallback(LastGood(60))
async def or_last(sku: str) -> float:
    return 1.0


async def check() -> None:
    assert_type(await price("pear", currency="USD"), float)
    assert_type(await Shop().price("pear"), float)
    assert_type(await breaker.call(price, "pear"), float)
    async for amount in prices(3):
        assert_type(amount, float)
    assert_type(await echo().asend("text"), int)
    async with breaker.guard(max_wait=1.0) as call:
        assert_type(call.check(5), int)
    assert_type(await breaker.acquire(), HeldPermit)
    async with breaker.stream(prices(3)) as items:
        assert_type(items, GuardedStream[float])
        async for item in items:
            assert_type(item, float)
    async with breaker.events() as events:
        async for event in events:
            assert_type(event, Event)
    assert_type(await or_nothing("pear"), float | None)
    assert_type(await or_text("pear"), float | str)
    assert_type(await or_bytes("pear"), float | bytes)
    assert_type(await or_last("pear"), float)


def breaker_of(address: tuple[str, int]) -> CircuitBreaker:
    return CircuitBreaker(f"{address[0]}:{address[1]}")


registry = BreakerRegistry(breaker_of, max_size=10, idle_for=60)
by_name: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)


async def check_registry() -> None:
    assert_type(registry, BreakerRegistry[tuple[str, int]])
    assert_type(registry["host", 80], CircuitBreaker)
    assert_type(list(registry), list[tuple[str, int]])
    assert_type(registry.snapshot()["host", 80], Snapshot)
    assert_type("anything" in registry, bool)
    async with registry.events(calls=True) as events:
        assert_type(await anext(events), Event)


def not_async() -> None: ...


breaker(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
registry["host"]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
BreakerRegistry(len)  # type: ignore[arg-type,type-var]  # pyright: ignore[reportArgumentType]
breaker.reconfigure(threshold=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

keeps: Callable[[str], Coroutine[Any, Any, float]] = price
