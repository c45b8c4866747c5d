"""A throttle: it refuses the share of calls that the formula says, and knows what was accepted from what was not."""

import asyncio
import inspect
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Event, State
from aiobreaker.core.throttling import Acceptance
from aiobreaker.errors import BulkheadFullError, ThrottledError
from aiobreaker.policies.events import GuardRefused
from aiobreaker.policies.throttle import Throttle, ThrottledBlock, ThrottleSnapshot
from aiobreaker.testing import ManualClock

Clock = Callable[[], float]
Fn = Callable[[], Awaitable[Any]]
Way = Callable[[Throttle, Fn], Coroutine[Any, Any, Any]]


async def decorated(throttle: Throttle, fn: Fn) -> Any:
    async def function() -> Any:
        return await fn()

    return await throttle(function)()


async def called(throttle: Throttle, fn: Fn) -> Any:
    return await throttle.call(fn)


async def in_a_block(throttle: Throttle, fn: Fn) -> Any:
    async with throttle.guard():
        return await fn()


WAYS: list[Way] = [decorated, called, in_a_block]
every_way = pytest.mark.parametrize("way", WAYS)


async def fine() -> str:
    await checkpoint()
    return "fine"


async def fail(error: BaseException) -> None:
    await checkpoint()
    raise error


async def must_not_run() -> None:
    raise AssertionError("it was refused")


def lowest() -> float:
    """The draw with which everything is refused that can be."""
    return 0.0


def highest() -> float:
    """The draw with which nothing is refused."""
    return 0.999999


def counts(throttle: Throttle) -> tuple[int, int, int]:
    snapshot = throttle.snapshot()
    return snapshot.requests, snapshot.accepts, snapshot.refused


# -- what is refused


@every_way
async def test_a_dependency_that_accepts_every_kth_call_is_left_alone(way: Way) -> None:
    throttle = Throttle(random=lowest)
    for _ in range(20):
        assert await way(throttle, fine) == "fine"
        with pytest.raises(OSError):
            await way(throttle, partial(fail, OSError()))
    assert counts(throttle) == (40, 20, 0)
    assert throttle.snapshot().probability == 0


@every_way
async def test_a_draw_below_the_probability_refuses(way: Way) -> None:
    draw = 0.4999
    throttle = Throttle(name="search", random=lambda: draw)
    with pytest.raises(OSError):
        await way(throttle, partial(fail, OSError()))
    assert throttle.snapshot().probability == 1 / 2
    with pytest.raises(ThrottledError) as caught:
        await way(throttle, must_not_run)
    assert str(caught.value) == "search: of 1 calls in the last 120 s, 0 were accepted"
    assert (caught.value.name, caught.value.retry_after) == ("search", None)
    assert throttle.snapshot() == ThrottleSnapshot(name="search", requests=2, accepts=0, refused=1, probability=2 / 3)
    draw = 2 / 3
    assert await way(throttle, fine) == "fine"
    assert throttle.snapshot() == ThrottleSnapshot(name="search", requests=3, accepts=1, refused=1, probability=1 / 4)


@every_way
async def test_what_is_one_window_old_does_not_count(way: Way, clock: Clock) -> None:
    throttle = Throttle(window=60, clock=clock, random=lowest)
    with pytest.raises(OSError):
        await way(throttle, partial(fail, OSError()))
    with pytest.raises(ThrottledError):
        await way(throttle, must_not_run)
    await anyio.sleep(60)
    assert counts(throttle) == (0, 0, 1)
    assert await way(throttle, fine) == "fine"
    assert counts(throttle) == (1, 1, 1)


@every_way
async def test_calls_that_are_running_do_not_look_like_calls_that_were_turned_down(way: Way) -> None:
    throttle = Throttle(random=lowest)
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(way, throttle, fine)
    assert counts(throttle) == (100, 100, 0)


@pytest.mark.parametrize(("k", "used"), [(2.0, 0.98), (1.1, 0.8)])
async def test_in_overload_the_dependency_gets_k_times_what_it_accepts(k: float, used: float, clock: Clock) -> None:
    throttle = Throttle(k, window=30, clock=clock, random=random.Random(1).random)
    sent = accepted = 0

    @throttle
    async def ask() -> None:
        nonlocal sent, accepted
        sent += 1
        if accepted_now[0] == 10:
            raise OSError("overloaded")
        accepted_now[0] += 1
        accepted += 1

    accepted_now = [0]
    for second in range(240):
        accepted_now[0] = 0  # it accepts 10 a second, of 100
        if second == 90:
            sent = accepted = 0
        for _ in range(100):
            await anyio.sleep(0.01)
            with suppress(OSError, ThrottledError):
                await ask()
    assert sent / accepted == pytest.approx(k, rel=0.06)
    assert accepted > used * 150 * 10


# -- what counts as what


@every_way
@pytest.mark.parametrize(
    ("settings", "error", "requests", "accepts"),
    [
        ({}, OSError(), 1, 0),
        ({}, BulkheadFullError("inside"), 0, 0),
        ({}, CircuitOpenError("inside"), 0, 0),
        ({}, ThrottledError("inside"), 0, 0),
        ({}, KeyboardInterrupt(), 0, 0),
        ({}, asyncio.CancelledError(), 0, 0),
        ({}, ExceptionGroup("both", [BulkheadFullError("inside"), OSError()]), 1, 0),
        ({}, ExceptionGroup("one", [BulkheadFullError("inside")]), 0, 0),
        ({"rejected_on": OSError}, OSError(), 1, 0),
        ({"rejected_on": OSError}, KeyError(), 1, 1),
        ({"rejected_on": (OSError, KeyError)}, KeyError(), 1, 0),
        ({"rejected_on": lambda error: "503" in str(error)}, OSError("503"), 1, 0),
        ({"rejected_on": lambda error: "503" in str(error)}, OSError("404"), 1, 1),
        ({"rejected_on": BaseException}, KeyboardInterrupt(), 0, 0),
    ],
)
async def test_which_errors_mean_what(
    way: Way, settings: dict[str, Any], error: BaseException, requests: int, accepts: int
) -> None:
    throttle = Throttle(**settings)
    with pytest.raises(type(error)) as caught:
        await way(throttle, partial(fail, error))
    assert caught.value is error
    assert counts(throttle) == (requests, accepts, 0)


@every_way
async def test_who_is_cancelled_was_no_request(way: Way) -> None:
    throttle = Throttle()
    for _ in range(2):
        with anyio.move_on_after(1):
            await way(throttle, anyio.sleep_forever)
    call = way(throttle, partial(asyncio.sleep, 0))
    call.send(None)
    call.close()
    assert counts(throttle) == (0, 0, 0)


@every_way
@pytest.mark.parametrize("before", [0, 61, 62, 63, 64])
async def test_a_refusal_counts_also_if_its_caller_is_cancelled_meanwhile(way: Way, before: int) -> None:
    """Number 64 gives way to the loop, after it has been counted."""
    throttle = Throttle(random=lowest)
    with pytest.raises(OSError):
        await way(throttle, partial(fail, OSError()))
    for _ in range(before):
        with pytest.raises(ThrottledError):
            await way(throttle, must_not_run)
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(ThrottledError):
            await way(throttle, must_not_run)
    assert scope.cancelled_caught == (before == 63)
    assert counts(throttle) == (before + 2, 0, before + 1)


async def test_which_results_mean_that_a_call_was_turned_down() -> None:
    async def answer(status: Any) -> Any:
        return status

    for way in (decorated, called):
        throttle = Throttle(rejected_if=lambda status: status >= 500)
        assert await way(throttle, partial(answer, 200)) == 200
        assert await way(throttle, partial(answer, 503)) == 503
        assert counts(throttle) == (2, 1, 0)
        with pytest.raises(TypeError):
            await way(throttle, partial(answer, "fine"))
        assert counts(throttle) == (2, 1, 0)


async def test_a_block_can_say_how_it_ended() -> None:
    async def counts_after(decide: Callable[[ThrottledBlock], object], error: Exception | None = None) -> tuple[int, int]:
        throttle = Throttle(rejected_if=lambda status: status >= 500)
        try:
            async with throttle.guard() as call:
                decide(call)
                if error is not None:
                    raise error
        except (OSError, TypeError):
            pass
        return counts(throttle)[:2]

    assert await counts_after(lambda call: None) == (1, 1)
    assert await counts_after(lambda call: None, OSError()) == (1, 0)
    assert await counts_after(lambda call: call.reject()) == (1, 0)
    assert await counts_after(lambda call: call.ignore()) == (0, 0)
    assert await counts_after(lambda call: call.ignore(), OSError()) == (0, 0)
    assert await counts_after(lambda call: call.check(200)) == (1, 1)
    assert await counts_after(lambda call: call.check(200), OSError()) == (1, 1)
    assert await counts_after(lambda call: call.check(503)) == (1, 0)
    assert await counts_after(lambda call: call.check("200")) == (0, 0)


async def test_a_guard_is_for_one_block() -> None:
    throttle = Throttle(random=lowest)
    guard = throttle.guard()
    for decide in (guard.reject, guard.ignore, partial(guard.check, 1)):
        with pytest.raises(RuntimeError, match=r"\(\) belongs inside the guarded block"):
            decide()
    with pytest.raises(OSError):
        async with guard:
            raise OSError
    with pytest.raises(RuntimeError, match="every block needs its own"):
        async with guard:
            pass
    with pytest.raises(RuntimeError, match=r"ignore\(\) belongs inside"):
        guard.ignore()
    refused = throttle.guard()
    with pytest.raises(ThrottledError):
        async with refused:
            raise AssertionError
    with pytest.raises(RuntimeError, match="every block needs its own"):
        async with refused:
            pass
    assert counts(throttle) == (2, 0, 1)


steps = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 5.0, 59.0, 60.0]), st.sampled_from(["fine", "turned down", "ignored"]), st.floats(0, 0.999)
)


@every_way
@given(script=st.lists(steps, max_size=60))
def test_every_way_in_counts_as_the_arithmetic_does(way: Way, script: list[tuple[float, str, float]]) -> None:
    """The fast paths write down what `Acceptance` would; here they are held against it."""
    clock, draw = ManualClock(1000), [0.0]
    throttle = Throttle(window=60, clock=clock, random=lambda: draw[0])
    model = Acceptance(2, 60)
    errors = {"turned down": OSError(), "ignored": BulkheadFullError("inside")}

    async def main() -> None:
        for pause, ending, draw[0] in script:
            clock.advance(pause)
            refuses = draw[0] < model.probability(clock.now)
            how = "fine"
            try:
                await way(throttle, partial(fail, errors[ending]) if ending in errors else fine)
            except ThrottledError:
                how = "refused"
            except (OSError, BulkheadFullError):
                how = ending
            assert how == ("refused" if refuses else ending)
            if how == "fine":
                model.accept(clock.now)
            elif how != "ignored":
                model.reject(clock.now)
            snapshot = throttle.snapshot()
            assert (snapshot.requests, snapshot.accepts) == model.counts(clock.now)
            assert snapshot.probability == model.probability(clock.now)

    asyncio.run(main())


# -- with other policies


async def test_a_breaker_outside_ignores_refusals() -> None:
    breaker = CircuitBreaker("search", trip=ConsecutiveFailures(2))
    throttle = Throttle(random=lowest)
    with pytest.raises(OSError):
        await (breaker | throttle).call(fail, OSError())
    for _ in range(3):
        with pytest.raises(ThrottledError):
            await (breaker | throttle)(must_not_run)()
        with pytest.raises(ThrottledError):
            await (breaker | throttle).call(must_not_run)
        with pytest.raises(ThrottledError):
            await breaker.call(partial(in_a_block, throttle, must_not_run))
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().totals.failures == 1


async def test_a_breaker_inside_that_refuses_is_no_word_of_the_dependency() -> None:
    breaker, throttle = CircuitBreaker("search"), Throttle(random=lowest)
    breaker.force_open()
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            await (throttle | breaker).call(fine)
    assert counts(throttle) == (0, 0, 0)


async def test_a_decorated_function_keeps_its_name_signature_and_arguments() -> None:
    @Throttle()
    async def price(sku: str, *, currency: str = "EUR") -> str:
        """What it costs."""
        return f"{sku} in {currency}"

    assert (price.__name__, price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(price).parameters) == ["sku", "currency"]
    assert await price("pear", currency="USD") == "pear in USD"
    assert await Throttle().call(price, "pear", currency="USD") == "pear in USD"


# -- what there is to see


async def test_refusals_are_told() -> None:
    throttle = Throttle(name="search", random=lowest)
    told: list[Event] = []
    throttle.subscribe(told.append)
    with pytest.raises(OSError):
        await throttle.call(fail, OSError())
    with pytest.raises(ThrottledError) as caught:
        await throttle.call(must_not_run)
    (refused,) = told
    assert isinstance(refused, GuardRefused)
    assert (refused.name, refused.reason, refused.retry_after) == ("search", caught.value.reason, None)


async def test_callers_who_retry_refusals_at_once_do_not_stop_the_loop() -> None:
    throttle, turns = Throttle(random=lowest), 0
    with pytest.raises(OSError):
        await throttle.call(fail, OSError())

    async def stubborn() -> None:
        while turns < 3:
            with pytest.raises(ThrottledError):
                await throttle.call(must_not_run)

    async def clock_hand() -> None:
        nonlocal turns
        while turns < 3:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stubborn)
        tasks.start_soon(clock_hand)
    assert turns == 3


def test_traits() -> None:
    traits = Throttle(1.5, name="search").traits
    assert traits.kind == "limit"
    assert traits.words == "throttle 'search' (refuses when fewer than 1 of 1.5 calls are accepted)"
    assert traits.max_wait == 0
    assert traits.per_attempt
    assert repr(Throttle(name="search")) == "<Throttle 'search'>"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"k": 0.9}, ValueError, "k must be a finite number, 1 or more, not 0.9"),
        ({"k": "2"}, TypeError, "k must be a finite number, 1 or more, not '2'"),
        ({"window": 0}, ValueError, "window must be"),
        ({"rejected_on": "OSError"}, TypeError, "rejected_on must be exception types or a function of the exception"),
        ({"rejected_on": int}, TypeError, "rejected_on must be exception types or a function of the exception"),
        ({"rejected_on": (OSError, fine)}, TypeError, "rejected_on must be exception types or a function of the exception"),
        ({"rejected_if": 5}, TypeError, "rejected_if must be a function of the result, not 5"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"clock": 5}, TypeError, "clock must be"),
        ({"random": 5}, TypeError, "random must be a function without arguments"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Throttle(**settings)


# -- loops and threads


def test_one_throttle_serves_loops_of_both_kinds_one_after_another() -> None:
    throttle = Throttle(random=lowest)

    async def main() -> None:
        for _ in range(3):
            assert await throttle.call(fine) == "fine"
        with pytest.raises(OSError):
            await throttle.call(fail, OSError())

    for _ in range(2):
        anyio.run(main, backend="asyncio")
        anyio.run(main, backend="trio")
    assert counts(throttle) == (16, 12, 0)


def test_counts_are_exact_across_threads() -> None:
    throttle = Throttle(window=1e9, random=highest, rejected_on=OSError)
    ways = [decorated, called, in_a_block, decorated]

    async def main(way: Way) -> None:
        for number in range(400):
            with suppress(OSError):
                await way(throttle, fine if number % 4 else partial(fail, OSError()))

    threads = [
        threading.Thread(target=partial(anyio.run, main, way, backend=backend), daemon=True)
        for way, backend in zip(ways, ["asyncio", "trio", "asyncio", "trio"], strict=True)
    ]
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(old)
    assert not any(thread.is_alive() for thread in threads)
    assert counts(throttle) == (1600, 1200, 0)
