"""Cache: fresh results at once, old ones only in place of an error, one call at a time, and no more than there is room for."""

import gc
import inspect
import weakref
from collections.abc import Callable
from functools import partial
from math import inf, nan
from typing import Any

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, RefusedError
from aiobreaker.policies.cache import Cache, CacheSnapshot
from aiobreaker.policies.events import LeaderReplaced, StaleServed
from aiobreaker.policy import Pipeline
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency

Call = Callable[..., Any]
Behind = Callable[[Cache, ScriptedDependency], Call]
Clock = Callable[[], float]


@pytest.fixture(params=["decorated", "called", "by key"])
def behind(request: pytest.FixtureRequest) -> Behind:
    """Puts a cache in front of a dependency, in one of the ways there are."""

    def front(cache: Cache, dependency: ScriptedDependency) -> Call:
        async def price(*args: Any, **kwargs: Any) -> Any:
            return await dependency(*args, **kwargs)

        async def called(*args: Any, **kwargs: Any) -> Any:
            return await cache.call(price, *args, **kwargs)

        if request.param == "by key":
            cache._key = lambda *args, **kwargs: (args, tuple(sorted(kwargs.items())))
        return called if request.param == "called" else cache(price)

    return front


def counting() -> ScriptedDependency:
    return ScriptedDependency(*range(1, 20))


async def gather(*calls: Callable[[], Any]) -> list[Any]:
    """What they return or raise, all at once, begun in this order."""
    ends: list[Any] = [None] * len(calls)

    async def live(place: int, call: Callable[[], Any]) -> None:
        try:
            ends[place] = await call()
        except Exception as error:
            ends[place] = error

    with anyio.fail_after(1000):
        async with anyio.create_task_group() as tasks:
            for place, call in enumerate(calls):
                tasks.start_soon(live, place, call)
                await anyio.wait_all_tasks_blocked()
    return ends


# -- fresh


async def test_a_result_is_fresh_for_its_time_and_not_a_moment_longer(behind: Behind) -> None:
    clock = ManualClock(100)
    cache = Cache(60, clock=clock)
    price = behind(cache, counting())
    assert await price("pear") == 1
    clock.now = 159.999
    assert await price("pear") == 1
    clock.now = 160.0
    assert await price("pear") == 2
    clock.now = 219.999
    assert await price("pear") == 2
    seen = CacheSnapshot(name="cache", hits=2, misses=2, stale=0, failed=0, size=1)
    assert cache.snapshot() == seen


async def test_its_time_begins_when_it_arrives(behind: Behind, clock: Clock) -> None:
    price = behind(Cache(2, clock=clock), ScriptedDependency(Answer(1, after=5), 2))
    assert await price() == 1
    await anyio.sleep(1.5)
    assert await price() == 1
    await anyio.sleep(0.5)
    assert await price() == 2


async def test_infinity_is_for_ever(behind: Behind) -> None:
    clock = ManualClock()
    price = behind(Cache(inf, clock=clock), counting())
    assert await price() == 1
    clock.now = 1e300
    assert await price() == 1


def test_a_hit_does_not_suspend(behind: Behind) -> None:
    price = behind(Cache(60, clock=ManualClock()), ScriptedDependency("fresh"))
    assert anyio.run(price) == "fresh"
    with pytest.raises(StopIteration) as end:  # with no event loop at all
        price().send(None)
    assert end.value.value == "fresh"


async def test_results_are_kept_by_function_and_arguments(behind: Behind) -> None:
    cache = Cache(60)
    price, stock = behind(cache, counting()), behind(cache, ScriptedDependency(*range(101, 109)))
    assert await price("pear", currency="EUR", tax=True) == 1
    assert await price("pear", tax=True, currency="EUR") == 1
    assert await price("pear") == 2
    assert await price("plum") == 3
    assert await stock("pear") == 101
    assert await price("pear") == 2
    assert cache.snapshot().size == 4


async def test_none_is_a_result_like_any_other(behind: Behind) -> None:
    dependency = ScriptedDependency(None)
    price = behind(Cache(60), dependency)
    assert [await price() for _ in range(3)] == [None] * 3
    assert len(dependency.calls) == 1


async def test_results_are_given_out_as_they_are(behind: Behind) -> None:
    price = behind(Cache(60), ScriptedDependency(["pear"]))
    assert await price() is await price()


async def test_what_cannot_be_hashed_is_not_kept(behind: Behind) -> None:
    cache, dependency = Cache(60, stale_for=60), ScriptedDependency(1, 2, OSError("down"))
    price = behind(cache, dependency)
    assert await price(["pear"]) == 1
    assert await price(["pear"]) == 2
    with pytest.raises(OSError, match="down") as caught:
        await price(["pear"])
    assert caught.value.__context__ is None
    assert cache.snapshot() == CacheSnapshot(name="cache", hits=0, misses=3, stale=0, failed=0, size=0)
    assert not cache.invalidate(["pear"])


async def test_a_key_says_what_is_the_same() -> None:
    cache = Cache(60, key=lambda user, **ignored: user.lower())
    dependency = counting()
    pipeline = cache | CircuitBreaker("inner")
    call: Call = pipeline.call
    assert await call(dependency, "Ann", trace=1) == 1
    assert await call(dependency, "ann", trace=2) == 1
    assert await call(dependency, "bob") == 2
    assert cache.invalidate("ANN")
    assert await call(dependency, "ann") == 3


# -- errors


async def test_errors_are_not_kept(behind: Behind) -> None:
    cache = Cache(60)
    price = behind(cache, ScriptedDependency(OSError("down"), ValueError(), 3))
    with pytest.raises(OSError, match="down"):
        await price()
    with pytest.raises(ValueError):
        await price()
    assert await price() == 3
    assert cache.snapshot() == CacheSnapshot(name="cache", hits=0, misses=3, stale=0, failed=2, size=1)


async def test_an_old_result_stands_in_for_an_error_until_its_last_time(behind: Behind) -> None:
    clock = ManualClock(100)
    cache = Cache(60, stale_for=30, name="prices", clock=clock)
    price = behind(cache, ScriptedDependency("fine", OSError("down")))
    events: list[Any] = []
    cache.subscribe(events.append)
    assert await price() == "fine"
    for now in (160.0, 189.999):
        clock.now = now
        assert await price() == "fine"
    clock.now = 190.0
    with pytest.raises(OSError, match="down"):
        await price()
    assert [(type(event), event.name, event.at, event.age) for event in events] == [
        (StaleServed, "prices", 160.0, 60.0),
        (StaleServed, "prices", 189.999, 189.999 - 100),
    ]
    assert {str(event.failure) for event in events} == {"OSError: down"}
    assert cache.snapshot() == CacheSnapshot(name="prices", hits=0, misses=4, stale=2, failed=3, size=1)


async def test_without_stale_for_errors_are_raised(behind: Behind) -> None:
    clock = ManualClock()
    price = behind(Cache(60, clock=clock), ScriptedDependency("fine", OSError()))
    assert await price() == "fine"
    clock.now = 60
    with pytest.raises(OSError):
        await price()


async def test_the_age_counts_when_the_error_comes(behind: Behind, clock: Clock) -> None:
    price = behind(Cache(1, stale_for=5, clock=clock), ScriptedDependency("fine", Answer(OSError(), after=5)))
    assert await price() == "fine"
    await anyio.sleep(1)
    with pytest.raises(OSError):
        await price()


async def test_only_for_the_errors_that_are_named(behind: Behind) -> None:
    clock = ManualClock()
    cache = Cache(60, stale_for=inf, stale_on=(OSError, RefusedError), clock=clock)
    price = behind(cache, ScriptedDependency("fine", ConnectionError(), ValueError(), CircuitOpenError("inner")))
    assert await price() == "fine"
    clock.now = 60
    assert await price() == "fine"
    with pytest.raises(ValueError):
        await price()
    assert await price() == "fine"


async def test_refusals_inside_are_answered_with_the_last_result(clock: Clock) -> None:
    cache, breaker = Cache(60, stale_for=600, clock=clock), CircuitBreaker("inner", clock=clock)
    dependency = counting()
    price = (cache | breaker)(dependency.__call__)
    assert await price() == 1
    breaker.force_open()
    await anyio.sleep(60)
    assert [await price() for _ in range(3)] == [1] * 3
    breaker.reset()
    assert await price() == 2
    assert cache.snapshot().stale == 3


async def test_cancellation_is_never_answered(behind: Behind, clock: Clock) -> None:
    cache = Cache(1, stale_for=inf, clock=clock)
    price = behind(cache, ScriptedDependency("fine", Answer("late", after=9)))
    assert await price() == "fine"
    await anyio.sleep(1)
    with anyio.move_on_after(2) as scope:
        await price()
    assert scope.cancelled_caught
    assert cache.snapshot().stale == 0


# -- one at a time


async def test_there_is_one_refresh_at_a_time_for_each_key(behind: Behind, clock: Clock) -> None:
    cache = Cache(10, clock=clock)
    dependency = ScriptedDependency(Answer("pear", after=1), Answer("plum", after=1), Answer("new pear", after=1))
    price = behind(cache, dependency)
    calls = [partial(price, sku) for sku in ("pear", "plum", "pear", "pear")]
    assert await gather(*calls) == ["pear", "plum", "pear", "pear"]
    await anyio.sleep(10)
    assert await gather(*[partial(price, "pear")] * 3) == ["new pear"] * 3
    assert len(dependency.calls) == 3
    assert cache.snapshot() == CacheSnapshot(name="cache", hits=0, misses=7, stale=0, failed=0, size=2)


async def test_all_who_wait_get_the_stale_result_or_the_error(behind: Behind, clock: Clock) -> None:
    cache = Cache(1, stale_for=10, clock=clock)
    dependency = ScriptedDependency("fine", Answer(OSError(), after=1), Answer(OSError("down"), after=10))
    price = behind(cache, dependency)
    assert await price() == "fine"
    await anyio.sleep(1)
    assert await gather(price, price, price) == ["fine"] * 3
    assert (cache.snapshot().stale, cache.snapshot().failed) == (3, 1)
    one, two = await gather(price, price)
    assert one is two
    assert str(one) == "down"
    assert len(dependency.calls) == 3


async def test_a_cancelled_refresh_is_handed_over(behind: Behind, clock: Clock) -> None:
    cache = Cache(60, clock=clock)
    price = behind(cache, ScriptedDependency(Answer(1, after=9), Answer(2, after=1)))
    events: list[Any] = []
    cache.subscribe(events.append)

    async def impatient() -> Any:
        with anyio.move_on_after(3):
            return await price()
        return "cancelled"

    assert await gather(impatient, price, price) == ["cancelled", 2, 2]
    assert await price() == 2
    assert [(type(event), event.followers) for event in events] == [(LeaderReplaced, 2)]


# -- bounded


async def test_the_least_recently_used_goes(behind: Behind) -> None:
    cache = Cache(60, max_size=2)
    dependency = counting()
    price = behind(cache, dependency)
    assert [await price(sku) for sku in ("pear", "plum", "pear", "fig")] == [1, 2, 1, 3]
    assert cache.snapshot().size == 2
    assert [await price(sku) for sku in ("pear", "fig", "plum", "pear")] == [1, 3, 4, 5]


async def test_a_result_that_has_been_renewed_is_a_recent_one(behind: Behind) -> None:
    clock = ManualClock()
    cache = Cache(60, max_size=3, clock=clock)
    price = behind(cache, counting())
    assert [await price(sku) for sku in ("pear", "plum", "fig", "kiwi")] == [1, 2, 3, 4]
    clock.now = 60
    assert await price("plum") == 5
    assert await price("lime") == 6
    assert cache.snapshot().size == 3
    assert [await price("plum"), await price("lime")] == [5, 6]
    assert cache.snapshot().hits == 2


async def test_a_stale_answer_is_a_use() -> None:
    clock = ManualClock()
    cache = Cache(60, stale_for=inf, max_size=2, clock=clock)
    dependency = ScriptedDependency(1, 2, OSError(), 4, OSError())
    for sku, result in (("pear", 1), ("plum", 2)):
        assert await cache.call(dependency, sku) == result
    clock.now = 60
    assert await cache.call(dependency, "pear") == 1
    assert await cache.call(dependency, "fig") == 4
    assert await cache.call(dependency, "pear") == 1
    with pytest.raises(OSError):
        await cache.call(dependency, "plum")


# -- forgetting


async def test_what_is_invalidated_is_asked_for_again(behind: Behind) -> None:
    cache = Cache(60)
    price = behind(cache, counting())
    assert [await price("pear"), await price("plum"), await price("pear", tax=True), await price()] == [1, 2, 3, 4]
    assert cache.invalidate("pear")
    assert not cache.invalidate("pear")
    assert not cache.invalidate("fig")
    assert [await price("pear"), await price("plum"), await price("pear", tax=True), await price()] == [5, 2, 3, 4]
    assert cache.invalidate("pear", tax=True)
    assert [await price("pear"), await price("pear", tax=True), await price()] == [5, 6, 4]
    assert cache.invalidate()
    assert await price() == 7


async def test_arguments_are_invalidated_for_all_functions_behind_all_policies() -> None:
    cache = Cache(60)
    one, two = counting(), counting()
    inner = cache | CircuitBreaker("inner") | CircuitBreaker("innermost")
    call: Call = inner.call
    assert [await call(one, "pear"), await cache.call(two, "pear"), await call(one, "plum")] == [1, 1, 2]
    assert cache.invalidate("pear")
    assert [await call(one, "pear"), await cache.call(two, "pear"), await call(one, "plum")] == [3, 2, 2]


async def test_what_is_forgotten_is_not_held() -> None:
    cache = Cache(60, max_size=3)
    made: list[weakref.ref[object]] = []

    class Result:
        pass

    async def make(number: int) -> Result:
        result = Result()
        made.append(weakref.ref(result))
        return result

    def held() -> list[int]:
        return [number for number, result in enumerate(made) if result() is not None]

    gc.disable()
    try:
        for number in range(5):
            await cache.call(make, number)
        assert held() == [2, 3, 4]
        cache.invalidate(3)
        assert held() == [2, 4]
        cache.clear()
        assert held() == []
    finally:
        gc.enable()


async def test_clear_forgets_all(behind: Behind) -> None:
    cache = Cache(60)
    price = behind(cache, counting())
    assert [await price("pear"), await price("plum")] == [1, 2]
    cache.clear()
    assert cache.snapshot().size == 0
    assert [await price("pear"), await price("plum")] == [3, 4]


@pytest.mark.parametrize("everything", [True, False])
async def test_a_call_from_before_is_not_kept_and_not_waited_for(behind: Behind, everything: bool) -> None:
    cache = Cache(60)
    dependency = ScriptedDependency(Answer("old", after=5), Answer("new", after=1))
    price = behind(cache, dependency)

    async def forget_and_ask() -> Any:
        if everything:
            cache.clear()
        else:
            assert not cache.invalidate("pear")
        return await price("pear")

    calls: list[Call] = [partial(price, "pear"), partial(price, "pear"), forget_and_ask, partial(price, "pear")]
    assert await gather(*calls) == ["old", "old", "new", "new"]
    assert await price("pear") == "new"
    assert len(dependency.calls) == 2


async def test_a_result_that_was_invalidated_during_the_refresh_is_not_served_stale(behind: Behind, clock: Clock) -> None:
    cache = Cache(1, stale_for=inf, clock=clock)
    price = behind(cache, ScriptedDependency("fine", Answer(OSError("down"), after=1)))
    assert await price("pear") == "fine"
    await anyio.sleep(1)

    async def forget() -> None:
        assert cache.invalidate("pear")

    error, _ = await gather(partial(price, "pear"), forget)
    assert isinstance(error, OSError)


async def test_a_call_that_is_made_again_after_the_order_is_kept(behind: Behind) -> None:
    cache = Cache(60)
    dependency = ScriptedDependency(Answer("old", after=9), Answer("new", after=1))
    price = behind(cache, dependency)

    async def impatient() -> None:
        with anyio.move_on_after(3):
            await price("pear")

    async def forget() -> None:
        cache.clear()

    assert await gather(impatient, partial(price, "pear"), forget) == [None, "new", None]
    assert await price("pear") == "new"
    assert len(dependency.calls) == 2


async def test_invalidated_by_another_thread_on_its_way_it_serves_nobody() -> None:
    """Between keeping a result and its becoming fresh other threads may run: here the hash of its key does."""
    cache = Cache(60, stale_for=60)

    class Key:
        hashes = 0

        def __hash__(self) -> int:
            self.hashes += 1
            if self.hashes == forget_at:
                cache.clear()
            return 1

        def __eq__(self, other: object) -> bool:
            return self is other

    async def work(key: Key) -> str:
        return "result"

    hashes = kept = 0
    forget_at = 0
    key = Key()
    assert await cache.call(work, key) == "result"
    hashes = key.hashes
    assert cache.snapshot().size == 1
    for forget_at in range(1, hashes + 1):
        cache.clear()
        key = Key()
        assert await cache.call(work, key) == "result"
        kept += cache.snapshot().size
        asked = cache.snapshot().hits
        assert await cache.call(work, key) == "result"
        assert cache.snapshot().hits == asked + (1 if forget_at < 3 else 0)  # before the call begins nothing is outdated
    assert kept == 2


@pytest.mark.parametrize("asked_between", [True, False])
async def test_a_call_that_is_made_again_leaves_those_alone_who_came_after_the_order(
    behind: Behind, asked_between: bool
) -> None:
    """A call begins, and is waited for; the order to forget; (another one begins;) the first is made again."""
    cache = Cache(60)
    newer = [Answer("newer", after=50)] if asked_between else []
    dependency = ScriptedDependency(Answer("old", after=99), *newer, Answer("again", after=10), "one too many")
    price = behind(cache, dependency)
    results: list[object] = []

    async def impatient() -> None:
        with anyio.move_on_after(3):
            await price("pear")

    async def ask(after: float) -> None:
        await anyio.sleep(after)
        results.append(await price("pear"))

    with anyio.fail_after(1000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(impatient)
            tasks.start_soon(ask, 1)
            await anyio.sleep(2)
            cache.clear()
            if asked_between:
                tasks.start_soon(ask, 0)
            tasks.start_soon(ask, 2)  # after the hand-over
    assert results == (["again", "newer", "newer"] if asked_between else ["again"] * 2)
    assert len(dependency.calls) == 2 + asked_between
    assert cache.snapshot().size == 1


# -- clocks


async def test_a_clock_that_goes_back_makes_nothing_fresh_that_is_of_unknown_age(behind: Behind) -> None:
    clock = ManualClock(1000)
    cache = Cache(60, stale_for=60, clock=clock)
    price = behind(cache, ScriptedDependency(1, 2, OSError("down")))
    assert await price() == 1
    clock.now = 999.0
    assert await price() == 2
    clock.now = 998.0
    with pytest.raises(OSError, match="down"):
        await price()
    clock.now = 999.0
    assert await price() == 2


# -- settings and looks


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"ttl": 0}, ValueError, "ttl must be a number of seconds above 0"),
        ({"ttl": -1}, ValueError, "ttl must be"),
        ({"ttl": nan}, ValueError, "ttl must be"),
        ({"ttl": True}, TypeError, "ttl must be"),
        ({"ttl": "1"}, TypeError, "ttl must be"),
        ({"ttl": 1, "stale_for": -1}, ValueError, "stale_for must be"),
        ({"ttl": 1, "stale_for": None}, TypeError, "stale_for must be"),
        ({"ttl": 1, "stale_on": BaseException}, TypeError, "stale_on must be an exception type or a tuple of them"),
        ({"ttl": 1, "stale_on": (OSError, KeyboardInterrupt)}, TypeError, "stale_on must be"),
        ({"ttl": 1, "stale_on": OSError("down")}, TypeError, "stale_on must be"),
        ({"ttl": 1, "stale_on": [OSError]}, TypeError, "stale_on must be"),
        ({"ttl": 1, "max_size": 0}, ValueError, "max_size must be"),
        ({"ttl": 1, "max_size": 1.5}, TypeError, "max_size must be"),
        ({"ttl": 1, "key": "user"}, TypeError, "key must be a function"),
        ({"ttl": 1, "key": anyio.sleep}, TypeError, "not an async one"),
        ({"ttl": 1, "name": ""}, ValueError, "name must not be empty"),
        ({"ttl": 1, "clock": 5}, TypeError, "clock must be"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Cache(**settings)


async def test_methods_keep_their_signature_and_objects_have_results_of_their_own() -> None:
    cache = Cache(60)

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache
        async def price(self, sku: str, currency: str = "EUR") -> str:
            """What it costs."""
            return f"{sku} at {self.name}"

    assert str(inspect.signature(Shop.price)) == "(self, sku: str, currency: str = 'EUR') -> str"
    assert Shop.price.__doc__ == "What it costs."
    one, two = Shop("one"), Shop("two")
    for _ in range(2):
        assert [await shop.price("pear") for shop in (one, two)] == ["pear at one", "pear at two"]
    assert cache.invalidate(one, "pear")
    assert not cache.invalidate("pear")
    assert cache.snapshot() == CacheSnapshot(name="cache", hits=2, misses=2, stale=0, failed=0, size=1)


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        (Cache(60, name="prices"), "cache 'prices' (keeps results for 60 s)"),
        (Cache(0.5, stale_for=3600), "cache 'cache' (keeps results for 0.5 s, 3600 s more in place of errors)"),
    ],
)
def test_it_says_what_it_does(cache: Cache, words: str) -> None:
    assert cache.traits.kind == "cache"
    assert cache.traits.words == words
    assert not Pipeline(cache).lint()


def test_results_are_shared_by_loops_one_after_another() -> None:
    dependency = counting()
    price = Cache(3600)(dependency.__call__)
    assert [anyio.run(price, backend=backend) for backend in ("asyncio", "trio", "asyncio")] == [1] * 3
