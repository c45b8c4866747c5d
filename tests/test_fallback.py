"""What stands in for a refused call: a value, a function, the last good answer. It is never guarded itself."""

from collections.abc import Callable

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, LastGood, State
from aiobreaker.testing import ScriptedDependency

Clock = Callable[[], float]


async def test_a_value_stands_in_for_refusals_only() -> None:
    breaker = CircuitBreaker("value")

    @breaker.with_fallback("cached")
    async def price(sku: str) -> str:
        """What it costs."""
        if sku == "broken":
            raise OSError
        return f"fresh {sku}"

    assert price.__doc__ == "What it costs."
    assert await price("pear") == "fresh pear"
    with pytest.raises(OSError):
        await price("broken")
    breaker.force_open()
    assert await price("pear") == "cached"


async def test_a_function_gets_the_error_and_the_arguments() -> None:
    breaker = CircuitBreaker("function")

    def standing_in(error: Exception, sku: str, *, currency: str = "EUR") -> str:
        assert isinstance(error, CircuitOpenError)
        return f"{sku} in {currency}, {error.reason}"

    async def standing_in_later(error: Exception, sku: str, *, currency: str = "EUR") -> str:
        await anyio.sleep(1)
        return standing_in(error, sku, currency=currency)

    async def price(sku: str, *, currency: str = "EUR") -> str:
        return "fresh"

    breaker.force_open("maintenance")
    for function in (standing_in, standing_in_later):
        assert await breaker.with_fallback(function)(price)("pear", currency="USD") == "pear in USD, maintenance"


async def test_other_errors_on_request_still_count_as_failures() -> None:
    breaker = CircuitBreaker("on request", trip=ConsecutiveFailures(2))
    dependency = ScriptedDependency(OSError("down"))

    @breaker.with_fallback("cached", on=(OSError, CircuitOpenError))
    async def price() -> str:
        return str(await dependency())

    assert [await price() for _ in range(3)] == ["cached"] * 3
    assert breaker.state is State.OPEN
    assert len(dependency.calls) == 2


async def test_what_a_fallback_raises_is_raised_and_does_not_count() -> None:
    breaker = CircuitBreaker("broken fallback")

    def broken(error: Exception) -> str:
        raise ZeroDivisionError

    @breaker.with_fallback(broken)
    async def price() -> str:
        return "fresh"

    breaker.force_open()
    with pytest.raises(ZeroDivisionError):
        await price()
    assert breaker.snapshot().totals.failures == 0


@pytest.mark.parametrize("on", [KeyboardInterrupt, "OSError", (OSError, 5), None, BaseException])
def test_only_exceptions_can_be_stood_in_for(on: object) -> None:
    with pytest.raises(TypeError, match="on must be an exception type or a tuple of them"):
        CircuitBreaker("typed").with_fallback("cached", on=on)  # type: ignore[call-overload]


async def test_the_last_good_answer_is_kept_per_arguments_for_its_time(clock: Clock) -> None:
    breaker = CircuitBreaker("last good", clock=clock)

    @breaker.with_fallback(LastGood(max_age=60))
    async def price(sku: str, *, currency: str = "EUR") -> str:
        return f"{sku} in {currency}"

    await price("pear")
    await price("pear", currency="USD")
    breaker.force_open("down")
    await anyio.sleep(60)
    assert await price("pear") == "pear in EUR"
    assert await price("pear", currency="USD") == "pear in USD"
    with pytest.raises(CircuitOpenError):
        await price("plum")
    await anyio.sleep(0.1)
    with pytest.raises(CircuitOpenError):
        await price("pear")


async def test_the_last_good_answers_are_bounded_and_the_least_used_goes_first() -> None:
    breaker = CircuitBreaker("bounded")

    @breaker.with_fallback(LastGood(max_size=2))
    async def price(sku: str) -> str:
        return sku

    await price("pear")
    await price("plum")
    with_open = breaker.force_open
    with_open()
    assert await price("pear") == "pear"
    breaker.reset()
    await price("fig")
    breaker.force_open()
    assert await price("pear") == "pear"
    assert await price("fig") == "fig"
    with pytest.raises(CircuitOpenError):
        await price("plum")


async def test_arguments_that_cannot_be_hashed_are_not_remembered() -> None:
    breaker = CircuitBreaker("unhashable")

    @breaker.with_fallback(LastGood())
    async def total(prices: list[int]) -> int:
        return sum(prices)

    assert await total([1, 2]) == 3
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        await total([1, 2])


def test_last_good_says_what_it_is() -> None:
    assert repr(LastGood(60)) == "LastGood(max_age=60.0, max_size=256)"
