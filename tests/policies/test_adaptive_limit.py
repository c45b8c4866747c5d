"""An adaptive limit: as many calls at once as it has found, a line before it, and what calls' ends teach it."""

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import pairwise
from math import inf, nan
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Event, State
from aiobreaker.core.limits import AIMD, Algorithm, Gradient2, Meter, Vegas
from aiobreaker.errors import LimitReachedError, RateLimitedError
from aiobreaker.policies import adaptive_limit
from aiobreaker.policies.adaptive_limit import AdaptiveLimit, AdaptiveLimitSnapshot
from aiobreaker.policies.events import GuardRefused, LimitChanged
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, VirtualTimeLoop

Clock = Callable[[], float]
Fn = Callable[[], Awaitable[Any]]
Way = Callable[[AdaptiveLimit, Fn], Coroutine[Any, Any, Any]]


async def decorated(limit: AdaptiveLimit, fn: Fn) -> Any:
    async def function() -> Any:
        return await fn()

    return await limit(function)()


async def called(limit: AdaptiveLimit, fn: Fn) -> Any:
    return await limit.call(fn)


async def in_a_block(limit: AdaptiveLimit, fn: Fn) -> Any:
    async with limit.guard():
        return await fn()


WAYS: list[Way] = [decorated, called, in_a_block]
every_way = pytest.mark.parametrize("way", WAYS)


def fixed(number: int) -> AIMD:
    """A limit that stays as it is."""
    return AIMD(initial_limit=number, min_limit=number, max_limit=number)


EACH_CALL = AIMD(initial_limit=10, max_limit=1000, window=0)


class Work:
    """Calls that run until told to end."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.running = self.most = 0
        self.end = anyio.Event()

    async def __call__(self, name: object = None) -> str:
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.end.wait()
        finally:
            self.running -= 1
        return "done"


async def settle() -> None:
    for _ in range(30):
        await checkpoint()


async def fine() -> str:
    await checkpoint()
    return "fine"


async def fail(error: BaseException) -> None:
    await checkpoint()
    raise error


# -- so many at once


@every_way
async def test_only_so_many_run_at_once_and_the_others_are_refused(way: Way) -> None:
    limit, work = AdaptiveLimit(fixed(2), name="search"), Work()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(way, limit, work)
        await settle()
        with pytest.raises(LimitReachedError) as caught:
            await way(limit, work)
        assert str(caught.value) == "search: 2 calls are running, 2 are allowed now, and nobody may wait"
        assert (caught.value.name, caught.value.retry_after) == ("search", None)
        assert work.running == 2
        work.end.set()
    assert await way(limit, fine) == "fine"
    assert limit.snapshot() == AdaptiveLimitSnapshot(
        name="search", limit=2, running=0, waiting=0, refused=1, estimate=2, no_load=None, recent=None
    )


@every_way
@pytest.mark.parametrize("error", [OSError, TimeoutError, KeyboardInterrupt, asyncio.CancelledError])
async def test_a_call_leaves_however_it_ends(way: Way, error: type[BaseException]) -> None:
    limit = AdaptiveLimit(fixed(1))
    for _ in range(3):
        with pytest.raises(error):
            await way(limit, partial(fail, error()))
    assert limit.snapshot().running == 0


@every_way
def test_a_call_that_is_thrown_away_leaves_too(way: Way) -> None:
    limit = AdaptiveLimit(EACH_CALL)
    call = way(limit, partial(asyncio.sleep, 0))
    call.send(None)
    assert limit.snapshot().running == 1
    call.close()
    assert (limit.snapshot().running, limit.snapshot().limit) == (0, 10)


async def test_a_decorated_function_keeps_its_name_signature_and_arguments() -> None:
    @AdaptiveLimit()
    async def price(sku: str, *, currency: str = "EUR") -> str:
        """What it costs."""
        return f"{sku} in {currency}"

    assert (price.__name__, price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(price).parameters) == ["sku", "currency"]
    assert await price("pear") == "pear in EUR"
    assert await price("pear", currency="USD") == "pear in USD"
    assert await AdaptiveLimit().call(price, "pear", currency="USD") == "pear in USD"


# -- the line


@every_way
async def test_who_finds_no_place_waits_first_come_first_served(way: Way) -> None:
    limit, work = AdaptiveLimit(fixed(1), max_waiters=3), Work()
    ended: list[int] = []

    async def caller(number: int) -> None:
        await way(limit, partial(work, number))
        ended.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(caller, number)
                await settle()
            assert (limit.snapshot().running, limit.snapshot().waiting) == (1, 3)
            with pytest.raises(LimitReachedError, match="3 callers are waiting already"):
                await way(limit, work)
            work.end.set()
    assert ended == work.begun == [0, 1, 2, 3]
    assert work.most == 1
    assert (limit.snapshot().running, limit.snapshot().waiting) == (0, 0)


@every_way
async def test_a_newcomer_does_not_come_before_who_waits(way: Way) -> None:
    limit, first, second = AdaptiveLimit(fixed(1), max_waiters=5), Work(), Work()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(way, limit, partial(first, "runs"))
            await settle()
            tasks.start_soon(way, limit, partial(second, "waits"))
            await settle()
            second.end.set()
            first.end.set()
            while limit.snapshot().running:
                await checkpoint()
                if not second.begun:
                    tasks.start_soon(way, limit, partial(second, "newcomer"))
                    break
    assert second.begun[0] == "waits"


@every_way
async def test_nobody_waits_for_longer_than_max_wait_nor_past_a_deadline(way: Way, clock: Clock) -> None:
    limit, work = AdaptiveLimit(fixed(1), max_waiters=3, max_wait=2.0), Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(way, limit, work)
        await settle()
        began = clock()
        with pytest.raises(LimitReachedError, match="there was no room within 2 s"):
            await way(limit, work)
        assert clock() - began == 2
        with anyio.CancelScope(deadline=clock() - 1) as over:
            await way(limit, work)
        assert over.cancelled_caught
        assert (limit.snapshot().running, limit.snapshot().waiting) == (1, 0)
        work.end.set()


@every_way
async def test_waiters_come_in_when_the_limit_grows(way: Way) -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=1, window=0), max_waiters=10)
    work, other = Work(), Work()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(way, limit, work)
            await settle()
            for _ in range(3):
                tasks.start_soon(way, limit, other)
            await settle()
            assert other.running == 0
            work.end.set()  # one leaves, and the limit grows to 2
            await settle()
            assert (other.running, limit.snapshot().limit, limit.snapshot().waiting) == (2, 2, 1)
            other.end.set()
    assert limit.snapshot().running == limit.snapshot().waiting == 0


async def test_a_waiter_comes_in_when_the_limit_grows_after_the_last_call_has_left() -> None:
    """As it does if the waiter was faster, in another thread, than the one who learned."""
    limit = AdaptiveLimit(AIMD(initial_limit=1, window=0), max_waiters=1)
    limit._meter.running = 1
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limit.call, fine)
            await settle()
            assert limit.snapshot().waiting == 1
            limit._learn(limit._meter, 0.0, 0.1, 1, False)
    assert (limit.snapshot().running, limit.snapshot().waiting) == (1, 0)


@every_way
async def test_who_runs_when_the_limit_falls_goes_on(way: Way) -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=4, window=0, backoff_ratio=0.5))
    work = Work()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(way, limit, work)
        await settle()
        with pytest.raises(TimeoutError):
            await way(limit, partial(fail, TimeoutError()))
        assert (limit.snapshot().limit, limit.snapshot().running) == (2, 3)
        with pytest.raises(LimitReachedError, match="3 calls are running, 2 are allowed"):
            await way(limit, work)
        work.end.set()
    assert limit.snapshot().running == 0


# -- cancellation


@every_way
@pytest.mark.parametrize("native", [False, True], ids=["scope", "task"])
@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("cancel_at", range(16))
async def test_cancelled_at_every_step_no_place_is_lost_and_none_is_made(
    way: Way, native: bool, who: int, cancel_at: int, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        return  # trio has scopes only
    limit = AdaptiveLimit(fixed(1), max_waiters=5)
    running, most, finished = 0, 0, []

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await checkpoint()
            await checkpoint()
        finally:
            running -= 1
        finished.append(number)

    cancels: list[Callable[[], object]] = []

    def start(number: int, tasks: anyio.abc.TaskGroup) -> None:
        if native:
            task = asyncio.create_task(way(limit, partial(work, number)))
            tasks.start_soon(asyncio.wait, [task])
            cancels.append(task.cancel)
            return
        scope = anyio.CancelScope()

        async def live() -> None:
            with scope:
                await way(limit, partial(work, number))

        tasks.start_soon(live)
        cancels.append(scope.cancel)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                start(number, tasks)
            for _ in range(cancel_at):
                await checkpoint()
            cancels[who]()
    assert most == 1
    assert set(range(4)) - {who} <= set(finished)
    assert (limit.snapshot().running, limit.snapshot().waiting, limit.snapshot().refused) == (0, 0, 0)
    assert await way(limit, fine) == "fine"


@every_way
async def test_who_is_cancelled_teaches_nothing(way: Way) -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=1, window=0))
    with anyio.move_on_after(1):
        await way(limit, anyio.sleep_forever)
    snapshot = limit.snapshot()
    assert (snapshot.limit, snapshot.running, snapshot.recent) == (1, 0, None)


# -- what the ends of calls mean


@every_way
async def test_what_returns_is_measured_without_its_time_in_line(way: Way, clock: Clock) -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=1, max_limit=1, window=0), max_waiters=1, clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(way, limit, partial(anyio.sleep, 5))
        await settle()
        tasks.start_soon(way, limit, partial(anyio.sleep, 2))
    assert limit.snapshot().recent == pytest.approx(2)


@every_way
@pytest.mark.parametrize(
    ("settings", "error", "after"),
    [
        ({}, TimeoutError(), 9),
        ({}, OSError(), 10),
        ({}, RateLimitedError("inside"), 10),
        ({}, ExceptionGroup("both", [OSError(), TimeoutError()]), 9),
        ({"failure_on": OSError}, OSError(), 9),
        ({"failure_on": (KeyError, OSError)}, OSError(), 9),
        ({"failure_on": Exception}, RateLimitedError("inside"), 10),
        ({"failure_on": Exception}, CircuitOpenError("inside"), 10),
        ({"failure_on": lambda error: "503" in str(error)}, OSError("503"), 9),
        ({"failure_on": lambda error: "503" in str(error)}, OSError("404"), 10),
        ({"failure_on": BaseException}, KeyboardInterrupt(), 10),
    ],
)
async def test_which_errors_mean_that_a_call_was_dropped(
    way: Way, settings: dict[str, Any], error: BaseException, after: int
) -> None:
    limit = AdaptiveLimit(EACH_CALL, **settings)
    with pytest.raises(type(error)) as caught:
        await way(limit, partial(fail, error))
    assert caught.value is error
    assert limit.snapshot().limit == after


async def test_which_results_mean_that_a_call_was_dropped() -> None:
    limit = AdaptiveLimit(EACH_CALL, failure_if=lambda status: status >= 500)
    dependency = ScriptedDependency(200, 503)
    for way in (decorated, called):
        limit._meter = Meter(EACH_CALL, float)
        limit._meter.running = 9
        dependency.calls.clear()
        assert [await way(limit, dependency) for _ in range(2)] == [200, 503]
        assert (limit.snapshot().limit, limit.snapshot().running) == (9, 9)  # 11 x 0.9


async def test_a_rule_that_raises_leaves_nobody_waiting() -> None:
    work = Work()

    def broken(subject: object) -> bool:
        raise ZeroDivisionError

    async def misjudged(limit: AdaptiveLimit, fn: Fn) -> None:
        with pytest.raises(ZeroDivisionError):
            await limit.call(fn)

    calls: list[tuple[AdaptiveLimit, Fn]] = [
        (AdaptiveLimit(fixed(1), max_waiters=1, failure_if=broken), work),
        (AdaptiveLimit(fixed(1), max_waiters=1, failure_on=broken), partial(fail, OSError())),
    ]
    for limit, fn in calls:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(misjudged, limit, fn)
                tasks.start_soon(misjudged, limit, fn)
                await settle()
                work.end.set()
        assert limit.snapshot().running == limit.snapshot().waiting == 0


async def test_a_block_can_say_how_it_ended() -> None:
    async def limit_after(decide: Callable[[adaptive_limit.LimitedBlock], object], error: Exception | None = None) -> int:
        limit = AdaptiveLimit(EACH_CALL, failure_if=lambda status: status >= 500)
        limit._meter.running = 9
        try:
            async with limit.guard() as call:
                decide(call)
                if error is not None:
                    raise error
        except OSError:
            pass
        assert limit.snapshot().running == 9
        return limit.snapshot().limit

    assert await limit_after(lambda call: None) == 11
    assert await limit_after(lambda call: call.failure()) == 9
    assert await limit_after(lambda call: call.failure(), OSError()) == 9
    assert await limit_after(lambda call: call.ignore()) == 10
    assert await limit_after(lambda call: call.ignore(), TimeoutError()) == 10
    assert await limit_after(lambda call: call.check(200)) == 11
    assert await limit_after(lambda call: call.check(503)) == 9
    assert await limit_after(lambda call: (call.check(503), call.check(200))) == 11


async def test_a_judgement_that_raises_is_none() -> None:
    limit = AdaptiveLimit(EACH_CALL, failure_if=lambda status: status >= 500)
    with pytest.raises(TypeError):
        async with limit.guard() as call:
            call.check("200")
    assert (limit.snapshot().limit, limit.snapshot().running) == (10, 0)


async def test_a_guard_is_for_one_block() -> None:
    limit = AdaptiveLimit()
    guard = limit.guard()
    for decide in (guard.failure, guard.ignore, partial(guard.check, 1)):
        with pytest.raises(RuntimeError, match=r"\(\) belongs inside the guarded block"):
            decide()
    async with guard:
        with pytest.raises(RuntimeError, match="every block needs its own"):
            async with guard:
                pass
    with pytest.raises(RuntimeError, match="every block needs its own"):
        async with guard:
            pass
    with pytest.raises(RuntimeError, match=r"ignore\(\) belongs inside"):
        guard.ignore()
    assert limit.snapshot().running == 0


calls = st.lists(
    st.tuples(st.floats(0, 2), st.floats(0, 3), st.integers(0, 9), st.sampled_from(["fine", "dropped", "ignored"])), max_size=40
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Gradient2, Vegas, AIMD])
@pytest.mark.parametrize("window", [0.0, 1.0])
@given(script=calls)
def test_every_way_in_measures_as_the_meter_does(
    way: Way, kind: Any, window: float, script: list[tuple[float, float, int, str]]
) -> None:
    """The fast paths write down what `Meter.take` would; here they are held against it, with others in flight too."""
    algorithm: Algorithm = kind(window=window, minimum_samples=3)
    clock = ManualClock()
    limit = AdaptiveLimit(algorithm, clock=clock, random=lambda: 0.5)
    model = Meter(algorithm, lambda: 0.5)

    async def work(rtt: float, outcome: str) -> None:
        clock.advance(rtt)
        if outcome != "fine":
            raise TimeoutError if outcome == "dropped" else OSError

    async def main() -> None:
        for pause, rtt, others, outcome in script:
            clock.advance(pause)
            limit._meter.running = min(others, model.limit - 1)
            in_flight, began = limit._meter.running + 1, clock.now
            with suppress(OSError):  # a TimeoutError is one
                await way(limit, partial(work, rtt, outcome))
            assert limit._meter.running == in_flight - 1
            if outcome != "ignored":
                model.take(clock.now, clock.now - began, in_flight, outcome == "dropped")
            for figure in ("timed", "time", "most", "drops", "untimed", "until"):
                assert getattr(limit._meter.window, figure) == getattr(model.window, figure)
            assert (limit._meter.limit, limit._meter.estimate.value) == (model.limit, model.estimate.value)
            assert limit._meter.estimate.no_load == model.estimate.no_load

    asyncio.run(main())


# -- with other policies


async def test_a_breaker_outside_ignores_that_there_is_no_place() -> None:
    breaker = CircuitBreaker("search", trip=ConsecutiveFailures(1))
    limit, work = AdaptiveLimit(fixed(1)), Work()
    guarded = (breaker | limit)(work.__call__)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guarded)
        await settle()
        for refused in (
            guarded,
            lambda: (breaker | limit).call(work.__call__),
            partial(breaker.call, partial(in_a_block, limit, work)),
        ):
            with pytest.raises(LimitReachedError):
                await refused()
        assert breaker.state is State.CLOSED
        assert breaker.snapshot().totals.failures == 0
        work.end.set()


async def test_a_breaker_inside_that_refuses_teaches_nothing() -> None:
    breaker = CircuitBreaker("search")
    breaker.force_open()
    limit = AdaptiveLimit(EACH_CALL, failure_on=Exception)
    with pytest.raises(CircuitOpenError):
        await (limit | breaker).call(fine)
    assert limit.snapshot().limit == 10
    assert limit.snapshot().recent is None


async def test_in_front_of_a_server_it_finds_the_capacity(clock: Clock) -> None:
    """Five workers, 0.1 s for a call: at ease for half a minute, then asked for three times what they can do."""
    limit = AdaptiveLimit(Gradient2(initial_limit=10), clock=clock, max_waiters=5, max_wait=0.5)
    workers = anyio.Semaphore(5)
    ended = refused = at_ease = found = 0

    @limit
    async def ask() -> None:
        async with workers:
            await anyio.sleep(0.1)

    async def caller() -> None:
        nonlocal ended, refused
        try:
            await ask()
            ended += 1
        except LimitReachedError:
            refused += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(30 * 30):
            tasks.start_soon(caller)
            await anyio.sleep(1 / 30)
        assert refused == 0
        at_ease = ended
        for _ in range(30 * 150):
            tasks.start_soon(caller)
            await anyio.sleep(1 / 150)
        found = limit.snapshot().limit
    assert 5 < found <= 1.75 * 5 + 8
    assert (limit.snapshot().recent or inf) < 0.4
    assert ended - at_ease > 0.95 * 30 * 50
    assert ended + refused == 30 * 30 + 30 * 150
    assert limit.snapshot().refused == refused


# -- what there is to see


async def test_refusals_and_changes_are_told() -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=1, window=0), name="search")
    told: list[Event] = []
    limit.subscribe(told.append)
    work = Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limit.call, work)
        await settle()
        with pytest.raises(LimitReachedError):
            await limit.call(work)
        work.end.set()
    with pytest.raises(TimeoutError):
        await limit.call(fail, TimeoutError())
    refused, grown, fallen = told
    assert isinstance(refused, GuardRefused)
    assert (refused.name, refused.retry_after) == ("search", None)
    assert refused.reason == "1 calls are running, 1 are allowed now, and nobody may wait"
    assert isinstance(grown, LimitChanged)
    assert isinstance(fallen, LimitChanged)
    assert [(change.old, change.new) for change in (grown, fallen)] == [(1, 2), (2, 1)]
    assert all(one.seq < other.seq for one, other in pairwise(told))


async def test_callers_who_retry_refusals_at_once_do_not_stop_the_loop() -> None:
    limit, work, turns = AdaptiveLimit(fixed(1)), Work(), 0

    async def stubborn() -> None:
        while not work.end.is_set():
            with pytest.raises(LimitReachedError):
                await limit.call(work)

    async def clock_hand() -> None:
        nonlocal turns
        while turns < 3:
            turns += 1
            await checkpoint()
        work.end.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limit.call, work)
        await settle()
        tasks.start_soon(clock_hand)
        tasks.start_soon(stubborn)
    assert turns == 3


async def test_a_snapshot_shows_what_the_algorithm_knows(clock: Clock) -> None:
    known: list[tuple[Algorithm, float | None]] = [(Gradient2(window=0), 1.5), (Vegas(window=0), 1.0), (AIMD(window=0), None)]
    for algorithm, no_load in known:
        limit = AdaptiveLimit(algorithm, clock=clock)
        dependency = ScriptedDependency(Answer(after=1.0), Answer(after=2.0))
        await limit.call(dependency)
        await limit.call(dependency)
        snapshot = limit.snapshot()
        assert snapshot.recent == pytest.approx(2.0)
        assert snapshot.no_load == (None if no_load is None else pytest.approx(no_load))
        assert snapshot.estimate == 20


def test_traits() -> None:
    traits = AdaptiveLimit(name="search").traits
    assert traits.kind == "limit"
    assert traits.words == "adaptive limit 'search' (1 to 200 calls at once, found by Gradient2)"
    assert traits.max_wait == 0
    assert traits.per_attempt
    assert AdaptiveLimit(Vegas(), max_waiters=1).traits.max_wait == inf
    assert AdaptiveLimit(AIMD(), max_waiters=1, max_wait=2).traits.max_wait == 2
    assert repr(AdaptiveLimit(name="search")) == "<AdaptiveLimit 'search'>"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"algorithm": 5}, TypeError, "algorithm must be a Gradient2, a Vegas or an AIMD, not 5"),
        ({"algorithm": Gradient2}, TypeError, "algorithm must be"),
        ({"max_waiters": -1}, ValueError, "max_waiters must be"),
        ({"max_wait": nan}, ValueError, "max_wait must be"),
        ({"max_wait": -1}, ValueError, "max_wait must be"),
        ({"max_wait": 2.0}, ValueError, "max_waiters must be 1 or more if callers may wait for 2.0 s"),
        ({"failure_on": "TimeoutError"}, TypeError, "failure_on must be exception types or a function"),
        ({"failure_if": 5}, TypeError, "failure_if must be a function of the result, not 5"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"clock": 5}, TypeError, "clock must be"),
        ({"random": 5}, TypeError, "random must be a function without arguments"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        AdaptiveLimit(**settings)


# -- loops, threads, processes


def test_one_limit_serves_loops_of_both_kinds_one_after_another() -> None:
    limit = AdaptiveLimit(fixed(1), max_waiters=3)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(limit.call, fine)

    for backend in ("asyncio", "trio", "asyncio", "trio"):
        anyio.run(main, backend=backend)
        assert (limit.snapshot().running, limit.snapshot().waiting, limit.snapshot().refused) == (0, 0, 0)


def test_waiters_of_a_loop_that_stands_still_are_in_nobodys_way() -> None:
    limit = AdaptiveLimit(fixed(1), max_waiters=1)
    limit._meter.running = 1
    loop = VirtualTimeLoop()
    waiter = loop.create_task(limit.call(fine))
    loop.run_until_complete(asyncio.sleep(1))
    assert (limit.snapshot().running, limit.snapshot().waiting) == (1, 1)
    limit._leave(limit._meter)  # as a call in another thread does
    assert asyncio.run(limit.call(fine)) == "fine"
    assert loop.run_until_complete(waiter) == "fine"
    loop.close()
    assert (limit.snapshot().running, limit.snapshot().waiting) == (0, 0)


def test_counts_are_exact_across_threads() -> None:
    limit = AdaptiveLimit(AIMD(initial_limit=3, min_limit=3, max_limit=3, window=1e9), max_waiters=100)
    ways = [decorated, called, in_a_block, decorated]
    old = sys.getswitchinterval()
    running, most, lock = 0, 0, threading.Lock()

    async def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        await checkpoint()
        with lock:
            running -= 1

    async def main(way: Way) -> None:
        async def caller() -> None:
            for _ in range(100):
                await way(limit, work)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(caller)

    threads = [
        threading.Thread(target=partial(anyio.run, main, way, backend=backend), daemon=True)
        for way, backend in zip(ways, ["asyncio", "trio", "asyncio", "trio"], strict=True)
    ]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(old)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 3
    assert (limit.snapshot().running, limit.snapshot().waiting) == (0, 0)
    assert limit._meter.window.timed == 2000


async def test_a_call_leaves_the_meter_that_it_entered() -> None:
    """As after a fork, in the child."""
    limit, work = AdaptiveLimit(fixed(2)), Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limit.call, work)
        await settle()
        limit._begin_as_child()
        assert limit.snapshot().running == 0
        tasks.start_soon(limit.call, work)
        await settle()
        assert limit.snapshot().running == 1
        work.end.set()
    assert limit.snapshot().running == 0


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_what_runs_in_the_parent_does_not_run_in_the_child() -> None:
    script = """
import asyncio, os
from aiobreaker.core.limits import AIMD
from aiobreaker.policies.adaptive_limit import AdaptiveLimit
limit = AdaptiveLimit(AIMD(initial_limit=1))
async def work():
    child = os.fork()
    if not child:
        os._exit(limit.snapshot().running)
    assert os.waitpid(child, 0)[1] == 0
    assert limit.snapshot().running == 1
asyncio.run(limit.call(work))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=30)
