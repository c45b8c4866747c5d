"""Streams are judged at their end; slow is the time to the first item; limits on silence."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, LastCalls, SlowCallRate, State, Totals

Clock = Callable[[], float]


class Source:
    """An async iterator that yields, waits and raises by its script, and knows whether it was closed."""

    def __init__(self, *script: object) -> None:
        self.script = script
        self.closed = False

    async def __call__(self) -> AsyncGenerator[object, None]:
        try:
            for step in self.script:
                if isinstance(step, float):
                    await anyio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed = True


async def as_block(breaker: CircuitBreaker, source: Source, stop_after: int | None = None) -> list[object]:
    seen: list[object] = []
    if stop_after == 0:
        async with breaker.stream(source()):
            return seen
    async with breaker.stream(source()) as items:
        async for item in items:
            seen.append(item)
            if len(seen) == stop_after:
                break
    return seen


async def as_decorated(breaker: CircuitBreaker, source: Source, stop_after: int | None = None) -> list[object]:
    seen: list[object] = []
    items = breaker(source.__call__)()
    async for item in items:
        seen.append(item)
        if len(seen) == stop_after:
            break
    await items.aclose()
    return seen


every_way = pytest.mark.parametrize("read", [as_block, as_decorated])


@every_way
async def test_a_stream_read_to_its_end_is_a_success(read: Any) -> None:
    breaker, source = CircuitBreaker("stream"), Source(1, 2, 3)
    assert await read(breaker, source) == [1, 2, 3]
    assert breaker.snapshot().totals == Totals(successes=1)
    assert source.closed


@every_way
async def test_an_empty_stream_is_a_success(read: Any) -> None:
    breaker = CircuitBreaker("stream")
    assert await read(breaker, Source()) == []
    assert breaker.snapshot().totals == Totals(successes=1)


@every_way
async def test_a_failure_half_way_is_a_failure(read: Any) -> None:
    breaker = CircuitBreaker("stream", trip=ConsecutiveFailures(1))
    with pytest.raises(OSError, match="cut off"):
        await read(breaker, Source(1, 2, OSError("cut off")))
    assert breaker.state is State.OPEN
    with pytest.raises(CircuitOpenError):
        await read(breaker, Source(1))


@every_way
async def test_an_early_stop_after_an_item_is_a_success(read: Any) -> None:
    breaker, source = CircuitBreaker("stream"), Source(1, 2, 3)
    assert await read(breaker, source, stop_after=1) == [1]
    assert breaker.snapshot().totals == Totals(successes=1)
    assert source.closed


async def test_an_early_stop_before_an_item_is_neutral() -> None:
    breaker = CircuitBreaker("stream")
    assert await as_block(breaker, Source(1), stop_after=0) == []
    assert breaker.snapshot().totals == Totals(ignored=1)


@every_way
async def test_cancelled_before_an_item_is_neutral(read: Any, clock: Clock) -> None:
    breaker = CircuitBreaker("stream", clock=clock)
    with anyio.move_on_after(1):
        await read(breaker, Source(5.0, 1))
    assert breaker.snapshot().totals == Totals(cancelled=1)
    assert breaker.snapshot().in_flight == 0


SLOW = SlowCallRate(0.5, slower_than=2.0, window=LastCalls(5), minimum_calls=1)
SLOW_IN_FLIGHT = SlowCallRate(0.5, slower_than=2.0, window=LastCalls(5), minimum_calls=1, count_in_flight=True)


@every_way
@pytest.mark.parametrize("trip", [SLOW, SLOW_IN_FLIGHT], ids=["ended", "in flight"])
async def test_slow_is_the_time_to_the_first_item(read: Any, trip: SlowCallRate, clock: Clock) -> None:
    breaker = CircuitBreaker("stream", trip=trip, clock=clock)
    assert await read(breaker, Source(1.0, "first", 9.0, "second")) == ["first", "second"]
    assert breaker.state is State.CLOSED
    assert await read(breaker, Source(2.0, "first")) == ["first"]
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(
    ("script", "words"), [((5.0, 1), "no first item within 2 s"), ((1, 5.0, 2), "no further item within 3 s")]
)
async def test_silence_for_too_long_is_a_failure(script: tuple[object, ...], words: str, clock: Clock) -> None:
    breaker = CircuitBreaker("stream", trip=ConsecutiveFailures(1), failure_on=OSError, clock=clock)
    source = Source(*script)
    with pytest.raises(TimeoutError, match=words):
        async with breaker.stream(source(), first_item_timeout=2, stall_timeout=3) as items:
            async for _ in items:
                pass
    assert breaker.state is State.OPEN
    assert source.closed


async def test_the_readers_own_error_is_not_the_streams() -> None:
    breaker = CircuitBreaker("stream", trip=ConsecutiveFailures(1))
    with pytest.raises(ZeroDivisionError):
        async with breaker.stream(Source(1, 2)()) as items:
            async for _ in items:
                raise ZeroDivisionError
    assert breaker.snapshot().totals == Totals(successes=1)


class Iterator:
    """An async iterator that cannot be closed."""

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        return 1


async def test_any_async_iterable_will_do() -> None:
    breaker = CircuitBreaker("stream")
    async with breaker.stream(Iterator()) as items:
        assert await anext(items) == 1
        with pytest.raises(RuntimeError, match="opened already"):
            await items.__aenter__()
    assert breaker.snapshot().totals == Totals(successes=1)


async def test_bad_use_is_named() -> None:
    breaker = CircuitBreaker("stream")
    with pytest.raises(TypeError, match="source must be an async iterable"):
        breaker.stream([1, 2])  # type: ignore[arg-type]
    for argument in ("first_item_timeout", "stall_timeout"):
        with pytest.raises(ValueError, match=f"{argument} must be a finite number of seconds above 0, not 0"):
            breaker.stream(Iterator(), **{argument: 0})
    with pytest.raises(RuntimeError, match="open the stream first"):
        await anext(breaker.stream(Iterator()))


async def test_a_decorated_generator_takes_what_is_sent_and_thrown() -> None:
    breaker = CircuitBreaker("generator", trip=ConsecutiveFailures(1))

    @breaker
    async def echo() -> AsyncGenerator[object, object]:
        heard: object = "ready"
        while True:
            try:
                heard = yield heard
            except KeyError:
                heard = "caught"

    talk = echo()
    assert await anext(talk) == "ready"
    assert await talk.asend("hello") == "hello"
    assert await talk.athrow(KeyError()) == "caught"
    mine = ValueError("the reader's own")
    with pytest.raises(ValueError, match="own"):
        await talk.athrow(mine)
    assert breaker.snapshot().totals == Totals(successes=1)


async def test_an_error_of_the_generator_after_one_thrown_in_is_its_own() -> None:
    breaker = CircuitBreaker("generator", trip=ConsecutiveFailures(1))

    @breaker
    async def fragile() -> AsyncGenerator[int, None]:
        try:
            yield 1
        except KeyError:
            raise OSError("broken by it") from None

    items = fragile()
    await anext(items)
    with pytest.raises(OSError, match="broken by it"):
        await items.athrow(KeyError())
    assert breaker.state is State.OPEN


async def test_a_refused_stream_can_be_opened_later() -> None:
    breaker = CircuitBreaker("stream")
    stream = breaker.stream(Iterator())
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        await stream.__aenter__()
    breaker.reset()
    async with stream as items:
        assert await anext(items) == 1
