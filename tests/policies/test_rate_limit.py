"""A rate limit: so many calls per second and at once, waiting for a turn or not, for all or for each key."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from functools import partial
from math import inf, nan
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, ConsecutiveFailures, Event, State, Trials
from aiobreaker.deadlines import TimeLimit
from aiobreaker.errors import RateLimitedError
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.events import GuardRefused
from aiobreaker.policies.rate_limit import RateLimit, RateLimitSnapshot
from aiobreaker.policy import Pipeline
from aiobreaker.testing import ManualClock

Clock = Callable[[], float]
Way = Callable[[RateLimit, Hashable], Coroutine[Any, Any, Any]]


async def do(key: Hashable = None) -> str:
    return f"done for {key}"


async def decorated(limit: RateLimit, key: Hashable) -> Any:
    return await limit(do)(key)


async def called(limit: RateLimit, key: Hashable) -> Any:
    return await limit.call(do, key)


async def in_a_block(limit: RateLimit, key: Hashable) -> Any:
    async with limit.guard() if limit._key is None else limit.guard(key=key):
        return await do(key)


WAYS: list[Way] = [decorated, called, in_a_block]
every_way = pytest.mark.parametrize("way", WAYS)


async def settle() -> None:
    for _ in range(10):
        await checkpoint()


def own_key(key: Hashable) -> Hashable:
    return key


keyed_or_not = pytest.mark.parametrize("settings", [{}, {"key": own_key}], ids=["for all", "for each key"])


# -- passing and refusing


@keyed_or_not
@every_way
async def test_so_many_pass_and_the_next_is_refused_and_told_when(way: Way, settings: dict[str, Any]) -> None:
    clock = ManualClock(100.0)
    limit = RateLimit(10, per=2.0, burst=3, name="api", clock=clock, **settings)
    for _ in range(3):
        assert await way(limit, "a") == "done for a"
    with pytest.raises(RateLimitedError) as raised:
        await way(limit, "a")
    error = raised.value
    assert (error.name, error.reason) == ("api", "10 calls per 2 s are used up")
    assert error.retry_after == pytest.approx(0.2)
    assert str(error) == "api: 10 calls per 2 s are used up; retry after 0.2 s"
    clock.advance(error.retry_after or inf)
    await way(limit, "a")
    clock.advance(0.1)
    with pytest.raises(RateLimitedError) as raised:
        await way(limit, "a")
    assert raised.value.retry_after == pytest.approx(0.1)
    clock.advance(100)
    for _ in range(3):
        await way(limit, "a")
    with pytest.raises(RateLimitedError):
        await way(limit, "a")


async def test_by_default_all_calls_of_a_second_may_come_at_once(clock: Clock) -> None:
    limit = RateLimit(5, clock=clock)
    for _ in range(5):
        await limit.call(do)
    with pytest.raises(RateLimitedError) as raised:
        await limit.call(do)
    assert raised.value.retry_after == pytest.approx(0.2)


async def test_a_decorated_function_keeps_its_name_signature_and_arguments() -> None:
    for settings in ({}, {"key": lambda shop, sku, *, currency="EUR": sku}):
        limit = RateLimit(100, **settings)  # type: ignore[arg-type]

        class Shop:
            @limit
            async def price(self, sku: str, *, currency: str = "EUR") -> str:
                """What it costs."""
                return f"{sku} in {currency}"

        assert (Shop.price.__name__, Shop.price.__doc__) == ("price", "What it costs.")
        assert list(inspect.signature(Shop.price).parameters) == ["self", "sku", "currency"]
        assert await Shop().price("pear") == "pear in EUR"
        assert await Shop().price("pear", currency="USD") == "pear in USD"
        inner = Shop.price.__wrapped__  # type: ignore[attr-defined]
        assert await limit.call(inner, Shop(), "fig", currency="USD") == "fig in USD"
        assert limit.snapshot().keys == (2 if settings else 0)


@keyed_or_not
@every_way
async def test_what_a_call_does_makes_no_difference(way: Way, settings: dict[str, Any]) -> None:
    limit = RateLimit(2, clock=ManualClock(), **settings)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await way(limit, "a")
        await way(limit, "a")
    with pytest.raises(RateLimitedError):
        await way(limit, "a")


@keyed_or_not
async def test_a_clock_that_jumps_backwards_hands_out_nothing(settings: dict[str, Any]) -> None:
    clock = ManualClock(1000.0)
    limit = RateLimit(1, burst=2, clock=clock, **settings)
    for _ in range(2):
        await limit.call(do, "a")
    clock.now = 400.0
    with pytest.raises(RateLimitedError) as raised:
        await limit.call(do, "a")
    assert raised.value.retry_after == pytest.approx(601.0)
    clock.now = 1001.0
    await limit.call(do, "a")


# -- keys


@every_way
async def test_every_key_has_a_rate_of_its_own(way: Way) -> None:
    clock = ManualClock()
    limit = RateLimit(2, key=own_key, clock=clock)
    for key in ("a", "b", "a", "b"):
        await way(limit, key)
    for key in ("a", "b"):
        with pytest.raises(RateLimitedError):
            await way(limit, key)
    await way(limit, "c")
    assert limit.snapshot().keys == 3
    clock.advance(0.5)
    await way(limit, "a")
    assert limit.snapshot().refused == 2


async def test_a_block_may_name_a_key_where_there_is_no_function_of_it() -> None:
    limit = RateLimit(1, clock=ManualClock())
    async with limit.guard(), limit.guard(key="a"), limit.guard(key=None):
        for guard in (limit.guard(), limit.guard(key="a"), limit.guard(key=None)):
            with pytest.raises(RateLimitedError):
                await guard.__aenter__()
    assert limit.snapshot().keys == 2


def test_a_block_must_name_its_key_where_there_is_a_function_of_it() -> None:
    with pytest.raises(
        TypeError, match=r"'api' has a rate for each key, and a block has no arguments to tell: guard\(key=...\)"
    ):
        RateLimit(1, key=own_key, name="api").guard()


async def test_keys_are_told_from_the_calls_own_arguments_behind_other_policies() -> None:
    limit = RateLimit(1, key=own_key, clock=ManualClock())
    pipeline = Pipeline(Bulkhead(10), limit, Bulkhead(10))
    ways: list[Callable[[Hashable], Coroutine[Any, Any, str]]] = [
        lambda key: pipeline.call(do, key),
        pipeline(do),
        limit(do),
    ]
    for guarded in ways:
        assert await guarded(guarded) == f"done for {guarded}"
        with pytest.raises(RateLimitedError):
            await guarded(guarded)
    assert limit.snapshot().keys == 3


@every_way
async def test_what_the_key_function_or_the_key_raises_is_raised(way: Way) -> None:
    def broken(key: Hashable) -> Hashable:
        raise ZeroDivisionError

    if way is not in_a_block:
        with pytest.raises(ZeroDivisionError):
            await way(RateLimit(1, key=broken), "a")
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        await way(RateLimit(1, key=own_key), [])  # type: ignore[arg-type]


@every_way
async def test_more_keys_than_are_kept_share_one_rate_and_do_not_wait(way: Way) -> None:
    clock = ManualClock()
    limit = RateLimit(1, burst=2, max_wait=100, key=own_key, max_keys=2, clock=clock)
    for key in "aabb":
        await way(limit, key)
    for key in "cd":
        await way(limit, key)
    began = anyio.current_time()
    for key in "cde":
        with pytest.raises(RateLimitedError) as raised:
            await way(limit, key)
        assert raised.value.retry_after == pytest.approx(1.0)
    assert anyio.current_time() == began
    assert limit.snapshot().keys == 2
    clock.advance(1)
    await way(limit, "a")  # those that were there keep theirs
    await way(limit, "c")
    clock.advance(100)
    for key in "ccdd":
        await way(limit, key)
    assert limit.snapshot().keys == 2


@every_way
async def test_memory_is_bounded(way: Way) -> None:
    clock = ManualClock()
    limit = RateLimit(10, key=own_key, max_keys=500, clock=clock)
    for number in range(5_000):
        clock.advance(0.001)
        await way(limit, number)
    assert limit.snapshot().keys <= 202  # a hundred are in use at a time


async def test_a_call_whose_meter_was_dropped_in_another_thread_takes_the_new_one() -> None:
    clock = ManualClock()
    limit = RateLimit(1, key=own_key, clock=clock)
    await limit.call(do, "a")
    old = limit._meters.find("a", 0.0)
    clock.advance(5)
    await limit.call(do, "b")
    await limit._wait("a", old)  # as if it had been found before, and counted now
    with pytest.raises(RateLimitedError):
        await limit.call(do, "a")


# -- waiting


@keyed_or_not
@every_way
async def test_who_comes_too_soon_waits_for_a_turn_first_come_first_served(
    way: Way, settings: dict[str, Any], clock: Clock
) -> None:
    limit = RateLimit(4, burst=1, max_wait=10, clock=clock, **settings)
    passed: list[tuple[int, float]] = []
    began = clock()

    async def visit(number: int) -> None:
        await way(limit, "a")
        passed.append((number, clock() - began))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(visit, number)
            await settle()
        assert limit.snapshot().waiting == 5
    assert [number for number, _ in passed] == list(range(6))
    assert [at for _, at in passed] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25], abs=1e-4)
    assert limit.snapshot().waiting == 0


@every_way
async def test_a_newcomer_does_not_jump_the_line(way: Way, clock: Clock) -> None:
    limit = RateLimit(1, max_wait=10, clock=clock)
    order: list[str] = []
    await way(limit, "a")

    async def visit(name: str) -> None:
        await way(limit, name)
        order.append(name)

    async def come_when_the_waiters_turn_comes() -> None:
        await anyio.sleep_until(due)
        await visit("newcomer")

    due = clock() + 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come_when_the_waiters_turn_comes)
        await settle()
        tasks.start_soon(visit, "waiter")
    assert order == ["waiter", "newcomer"]
    assert clock() == pytest.approx(due + 1, abs=1e-4)


@keyed_or_not
@every_way
async def test_who_would_wait_too_long_is_refused_at_once_and_told_when(
    way: Way, settings: dict[str, Any], clock: Clock
) -> None:
    limit = RateLimit(1, max_wait=2.0, clock=clock, **settings)
    await way(limit, "a")
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(way, limit, "a")
        await settle()
        before = clock()
        with pytest.raises(RateLimitedError) as raised:
            await way(limit, "a")
        assert clock() == before
        assert raised.value.reason == "1 calls per 1 s are used up, and the wait would be 3 s, more than 2 s"
        assert raised.value.retry_after == pytest.approx(3.0)


async def test_just_as_many_wait_as_get_their_turn_in_time(clock: Clock) -> None:
    limit = RateLimit(10, burst=1, max_wait=0.3, clock=clock)
    ended: list[str] = []

    async def visit() -> None:
        try:
            await limit.call(do)
            ended.append("passed")
        except RateLimitedError:
            ended.append("refused")

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(visit)
    assert sorted(ended) == ["passed"] * 4 + ["refused"] * 4


@every_way
async def test_only_so_many_wait(way: Way, clock: Clock) -> None:
    limit = RateLimit(1, max_wait=100, max_waiters=2, clock=clock)
    await way(limit, "a")
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(way, limit, "a")
        await settle()
        with pytest.raises(RateLimitedError, match="and 2 callers are waiting already; retry after 3 s"):
            await way(limit, "a")


@every_way
async def test_nobody_queues_past_a_deadline(way: Way, clock: Clock) -> None:
    limit = RateLimit(1, max_wait=100, clock=clock)
    await way(limit, "a")
    before = clock()
    async with TimeLimit(0.9, TimeoutError):
        with pytest.raises(RateLimitedError, match=r"past the deadline, which is in 0.9 s; retry after 1 s"):
            await way(limit, "a")
        assert clock() == before
    async with TimeLimit(1.1, TimeoutError):
        await way(limit, "a")
    assert clock() == pytest.approx(before + 1, abs=1e-4)


@every_way
async def test_a_waiter_whose_clock_stands_still_gives_up(way: Way) -> None:
    limit = RateLimit(1, max_wait=1.5, clock=ManualClock())
    await way(limit, "a")
    with anyio.fail_after(10), pytest.raises(RateLimitedError, match=r"there was no room within 1.5 s; retry after 1 s"):
        await way(limit, "a")


@every_way
async def test_a_cancelled_waiter_has_used_nothing(way: Way, clock: Clock) -> None:
    limit = RateLimit(1, max_wait=100, clock=clock)
    await way(limit, "a")
    began = clock()
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await way(limit, "a")

        tasks.start_soon(cancelled)
        await settle()
        tasks.start_soon(way, limit, "a")
        await settle()
        assert limit.snapshot().waiting == 2
        scope.cancel()
        await settle()
        assert limit.snapshot().waiting == 1
    assert clock() == pytest.approx(began + 1, abs=1e-4)
    assert limit.snapshot().waiting == 0


async def test_waiters_of_one_key_are_in_nobody_elses_way(clock: Clock) -> None:
    limit = RateLimit(1, max_wait=100, max_waiters=1, key=own_key, clock=clock)
    async with anyio.create_task_group() as tasks:
        for key in "aabb":
            tasks.start_soon(limit.call, do, key)
        await settle()
        assert limit.snapshot().waiting == 2
        before = clock()
        await limit.call(do, "c")
        assert clock() == before


# -- cancellation at every step


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("role", ["head", "second"])
@keyed_or_not
@every_way
async def test_cancelled_at_every_step_no_turn_is_lost_and_none_is_made(
    way: Way, settings: dict[str, Any], role: str, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("trio has scopes only")
    for cancel_at in range(32):
        clock = ManualClock()
        limit = RateLimit(1, max_wait=100, clock=clock, **settings)
        passed: list[str] = []

        async def visit(name: str, limit: RateLimit = limit, passed: list[str] = passed) -> None:
            await way(limit, "a")
            passed.append(name)

        await way(limit, "a")
        async with anyio.create_task_group() as tasks:
            if role == "second":
                tasks.start_soon(visit, "first")
                await settle()
            cancel = start(partial(visit, "victim"), tasks, native)
            await checkpoint()
            tasks.start_soon(visit, "behind")
            for step in range(16):
                if cancel_at == 2 * step:
                    cancel()
                if step == 5:
                    clock.advance(1)  # a turn, now and again
                    limit._open_line(limit._meters.find("a", 0) if settings else limit._meter).move()
                if cancel_at == 2 * step + 1:
                    cancel()
                await checkpoint()
            assert len(passed) == 1
            for _ in range(2):
                clock.advance(1)
                await anyio.sleep(1)
        assert passed in ([*others(role), "behind"], [*others(role), "victim", "behind"])
        assert limit.snapshot().waiting == 0
        assert limit.snapshot().refused == 0
    assert "victim" in passed or role == "second"


def others(role: str) -> list[str]:
    return ["first"] if role == "second" else []


def start(body: Callable[[], Coroutine[Any, Any, None]], tasks: anyio.abc.TaskGroup, native: bool) -> Callable[[], object]:
    scope = anyio.CancelScope()

    async def live() -> None:
        with scope:
            await body()

    if not native:
        tasks.start_soon(live)
        return scope.cancel
    task = asyncio.create_task(body())

    async def watch() -> None:
        with suppress(asyncio.CancelledError):
            await task

    tasks.start_soon(watch)
    return task.cancel


# -- beside others


async def test_a_breaker_outside_ignores_that_the_rate_is_used_up() -> None:
    clock = ManualClock()
    limit = RateLimit(1, clock=clock)
    breaker = CircuitBreaker("outside", trip=ConsecutiveFailures(2), trials=Trials(1, max_inconclusive=1000))
    guarded = breaker | limit
    await guarded.call(do)
    for _ in range(10):
        with pytest.raises(RateLimitedError):
            await guarded.call(do)
    assert (breaker.state, breaker.snapshot().totals.failures) == (State.CLOSED, 0)
    breaker.half_open()
    for _ in range(10):  # each gives the only trial slot back
        with pytest.raises(RateLimitedError):
            await guarded.call(do)
    assert (breaker.state, breaker.snapshot().in_flight) == (State.HALF_OPEN, 0)
    clock.advance(1)
    await guarded.call(do)
    assert breaker.state is State.CLOSED


# -- what there is to see


async def test_refusals_are_told() -> None:
    limit = RateLimit(1, name="told", clock=ManualClock())
    told: list[Event] = []
    await limit.call(do)
    with pytest.raises(RateLimitedError):
        await limit.call(do)
    unsubscribe = limit.subscribe(told.append)
    with pytest.raises(RateLimitedError):
        await limit.call(do)
    unsubscribe()
    with pytest.raises(RateLimitedError):
        await limit.call(do)
    (event,) = told
    assert isinstance(event, GuardRefused)
    assert (event.name, event.reason, event.retry_after) == ("told", "1 calls per 1 s are used up", pytest.approx(1.0))


async def test_callers_who_retry_refusals_at_once_do_not_stop_the_loop() -> None:
    limit = RateLimit(1, clock=ManualClock())
    await limit.call(do)
    tries = 0
    ended = anyio.Event()

    async def end() -> None:
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        while not ended.is_set():
            tries += 1
            assert tries < 1000
            with suppress(RateLimitedError):
                await limit.call(do)


async def test_a_snapshot_tells_how_much_room_there_is() -> None:
    clock = ManualClock()
    limit = RateLimit(10, 2, burst=4, name="seen", clock=clock)
    seen = RateLimitSnapshot(name="seen", calls=10, per=2.0, burst=4, room=4, waiting=0, refused=0, keys=0)
    assert limit.snapshot() == seen
    for _ in range(3):
        await limit.call(do)
    assert limit.snapshot().room == 1
    clock.advance(0.2)
    assert limit.snapshot().room == 2


def test_traits() -> None:
    traits = RateLimit(10, burst=3, name="api").traits
    assert (traits.kind, traits.words) == ("limit", "rate limit 'api' (10 calls per 1 s, 3 at once)")
    assert (traits.max_wait, traits.per_attempt) == (0.0, True)
    traits = RateLimit(500, 60, max_wait=0.5, key=own_key).traits
    assert traits.words == "rate limit 'rate limit' (500 calls per 60 s for each key, 500 at once, waits up to 0.5 s)"
    assert traits.max_wait == 0.5
    assert RateLimit(1, max_wait=inf).traits.words == "rate limit 'rate limit' (1 calls per 1 s, 1 at once, waits for its turn)"
    assert RateLimit(1, max_wait=5, max_waiters=0).traits.max_wait == 0.0


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"calls": 0}, ValueError, "calls must be a whole number from 1 to 1000000000, not 0"),
        ({"calls": 0.5}, TypeError, "calls must be"),
        ({"per": 0}, ValueError, "per must be a finite number of seconds above 0, not 0"),
        ({"per": nan}, ValueError, "per must be"),
        ({"burst": 0}, ValueError, "burst must be"),
        ({"burst": 1.5}, TypeError, "burst must be"),
        ({"max_wait": -1}, ValueError, "max_wait must be a number of seconds, 0 or more"),
        ({"max_wait": True}, TypeError, "max_wait must be"),
        ({"max_waiters": -1}, ValueError, "max_waiters must be"),
        ({"max_waiters": inf}, TypeError, "max_waiters must be"),
        ({"key": "tenant"}, TypeError, "key must be a function of the call's arguments, not 'tenant'"),
        ({"max_keys": 0}, ValueError, "max_keys must be a whole number, 1 or more, not 0"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"clock": None}, TypeError, "clock must be a function"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        RateLimit(**{"calls": 1, **settings})


def test_one_rate_limit_serves_loops_of_both_kinds_one_after_another() -> None:
    clock = ManualClock()
    limit = RateLimit(6, max_wait=100, clock=clock)
    function = limit(do)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(function)

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(main, backend=backend)
    assert limit.snapshot().room == 0
    assert limit.snapshot().waiting == 0


async def test_it_is_made_where_no_loop_runs_and_reads_the_clock_when_it_is_used() -> None:
    def clock() -> float:
        assert running
        return anyio.current_time()

    running = False
    limit = RateLimit(1, clock=clock)
    running = True
    await limit.call(do)
