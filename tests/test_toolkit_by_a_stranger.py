"""The toolkit as somebody uses it who has only read its documents: wrong settings, odd functions, and policies together.

Law: nothing here looks inside. What is expected is what the documents say.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from math import inf, nan
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio

import aiobreaker
from aiobreaker import (
    AIMD,
    AdaptiveLimit,
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    ConsecutiveFailures,
    Deadline,
    Decorrelated,
    Exponential,
    Fallback,
    Gradient2,
    Hedge,
    LastGood,
    LimitReachedError,
    Pipeline,
    Policy,
    Quantile,
    RateLimit,
    RateLimitedError,
    RefusedError,
    Retry,
    RetryBudget,
    ShortageError,
    State,
    Throttle,
    ThrottledError,
    Timeout,
    Vegas,
    presets,
)
from aiobreaker.testing import Chaos, in_state

# -- settings: what is wrong is refused at once, by name

VALUES: tuple[object, ...] = (-inf, -1, -0.5, 0, 0.5, 1, 2.5, 7, inf, nan, True, "2", None, [1.0], 1j, Fraction(1, 2))

_SECONDS = (0.5, 1, 2.5, 7)
_WAIT = (0, *_SECONDS, inf)
_COUNT = (1, 7)
_FROM_0 = (0, *_COUNT)
_RATE = (0, 0.5, 1)

Make = Callable[..., Any]
NUMBERS: dict[Make, dict[str, tuple[object, ...]]] = {
    Retry: {
        "attempts": (*_COUNT, inf),
        "total_time": _WAIT,
        "backoff": (0, *_SECONDS, [1.0]),
        "jitter": (None, 0, 0.5),
        "max_retry_after": _SECONDS,
    },
    RetryBudget: {"ratio": _RATE, "minimum_per_second": (0, *_SECONDS), "window": _SECONDS},
    Timeout: {"seconds": _SECONDS},
    Deadline: {"seconds": _SECONDS},
    Bulkhead: {"max_concurrent": _COUNT, "max_waiters": _FROM_0, "max_wait": _WAIT},
    RateLimit: {
        "calls": _COUNT,
        "per": _SECONDS,
        "burst": (None, *_COUNT),
        "max_wait": _WAIT,
        "max_waiters": _FROM_0,
        "max_keys": _COUNT,
    },
    AdaptiveLimit: {"algorithm": (), "max_waiters": _FROM_0, "max_wait": _WAIT},
    Throttle: {"k": (1, 2.5, 7), "window": _SECONDS},
    Hedge: {"delay": _WAIT, "attempts": (7,)},
    Fallback: {},
    Cache: {"ttl": (*_SECONDS, inf), "stale_for": _WAIT, "max_size": _COUNT},
    Coalesce: {},
    LastGood: {"max_age": (*_SECONDS, inf), "max_size": _COUNT},
    Quantile: {"fraction": (0.5,), "minimum": _WAIT, "initial": (None, *_WAIT), "window": (7,)},
    Exponential: {"first": _SECONDS, "factor": (1, 2.5, 7), "maximum": _SECONDS},
    Decorrelated: {"first": _SECONDS, "maximum": _SECONDS},
    Gradient2: {
        "initial_limit": _COUNT,
        "min_limit": _COUNT,
        "max_limit": _COUNT,
        "smoothing": (0.5, 1),
        "queue_size": _FROM_0,
        "rtt_tolerance": (1, 2.5, 7),
        "long_window": _COUNT,
        "window": (0, *_SECONDS),
        "minimum_samples": _COUNT,
    },
    Vegas: {
        "initial_limit": _COUNT,
        "min_limit": _COUNT,
        "max_limit": _COUNT,
        "smoothing": (0.5, 1),
        "alpha": (1, 2.5),
        "beta": (7,),
        "threshold": (0, 0.5, 1, 2.5),
        "backoff_ratio": (None, 0.5),
        "probe_multiplier": _COUNT,
        "window": (0, *_SECONDS),
        "minimum_samples": _COUNT,
    },
    AIMD: {
        "initial_limit": _COUNT,
        "min_limit": _COUNT,
        "max_limit": _COUNT,
        "backoff_ratio": (0.5,),
        "timeout": _SECONDS,
        "window": (0, *_SECONDS),
        "minimum_samples": _COUNT,
    },
    Chaos: {
        "latency": (0, *_SECONDS),
        "latency_rate": _RATE,
        "failure": _RATE,
        "hang": _RATE,
        "outcome_rate": _RATE,
        "seed": (None, -1, 0, 1, 7, "2"),
        "enabled": (True,),
    },
    presets.database: {"connections": _COUNT},
    presets.queue_consumer: {"visibility": _SECONDS},
    presets.language_model: {"per_minute": _COUNT},
}
OTHERS: dict[str, tuple[Any, ...]] = {
    "on": (OSError, "x", 1, None, [OSError], (), (OSError, 1), int, KeyboardInterrupt),
    "name": ("x", "", None, 1, b"x"),
    "clock": (None, 1, 0.0, "now"),
    "random": (None, 1, 0.5),
    "budget": (0.2, 1, RetryBudget),
    "wait_when_refused": (1, None, "yes"),
    "retry_if": (1, "x", 200),
    "retry_after": (1, 5.0, "Retry-After"),
    "key": (1, "tenant"),
    "next_on": (1, "x", None, [OSError], int, KeyboardInterrupt),
    "stale_on": (1, "x", None, [OSError], int, KeyboardInterrupt),
    "rejected_on": (1, "x", None, [OSError], int),
    "failure_on": (1, "x", None, [OSError], int),
    "rejected_if": (1, "x", 429),
    "failure_if": (1, "x", 429),
    "outcome": (1, "x"),
    "error": (1, "x", OSError("made"), int),
}
"""What is wrong for arguments that are no numbers; "x" is a good name and OSError a good error."""

_NEEDED: dict[Make, dict[str, Any]] = {
    Retry: {"on": OSError},
    Timeout: {"seconds": 1},
    Deadline: {"seconds": 1},
    Bulkhead: {"max_concurrent": 1, "max_waiters": 1},
    RateLimit: {"calls": 1},
    Hedge: {"delay": 1},
    Cache: {"ttl": 1},
    Quantile: {"fraction": 0.5},
    Exponential: {"first": 0.5},
    Decorrelated: {"first": 0.5},
    presets.database: {"name": "db"},
    presets.queue_consumer: {"name": "queue"},
    presets.language_model: {"name": "model"},
    presets.http_service: {"name": "web"},
}
_TOGETHER: dict[tuple[Make, str], dict[str, Any]] = {
    (RetryBudget, "ratio"): {"minimum_per_second": 1},
    (RetryBudget, "minimum_per_second"): {"ratio": 0.5},
    (Bulkhead, "max_waiters"): {"max_wait": inf},
    (AdaptiveLimit, "max_wait"): {"max_waiters": 1},
    (Exponential, "first"): {"maximum": 10},
    (Exponential, "factor"): {"maximum": 10},
    (Decorrelated, "first"): {"maximum": 10},
    (Quantile, "fraction"): {"window": 7},
    (Quantile, "window"): {"fraction": 0.5},
    **{(make, "max_limit"): {"initial_limit": 1} for make in (Gradient2, Vegas, AIMD)},
    (Chaos, "outcome_rate"): {"outcome": str},
}


def makes(make: Make) -> str:
    return getattr(make, "__name__", "?")


def made(make: Make, argument: str, value: object) -> object:
    settings: dict[str, Any] = {**_NEEDED.get(make, {}), **_TOGETHER.get((make, argument), {}), argument: value}
    return make("value", **settings) if make is Fallback else make(**settings)


def refusal(make: Make, argument: str, value: object) -> str:
    with pytest.raises((TypeError, ValueError)) as refused:
        made(make, argument, value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("make", "argument"),
    [(make, each) for make in NUMBERS for each in NUMBERS[make]],
    ids=lambda x: x if isinstance(x, str) else makes(x),
)
def test_numbers_that_make_no_sense_are_refused_by_name(make: Make, argument: str) -> None:
    good = NUMBERS[make][argument]
    for value in VALUES:
        if any(value is each or (type(value) is type(each) and value == each) for each in good):
            made(make, argument, value)
            continue
        words = refusal(make, argument, value)
        assert argument in words.split(" must ")[0], words
        assert repr(value) in words.replace(f"{argument} must", ""), words
        assert " must be " in words or " must have " in words, words


CASES = [
    (make, argument)
    for make in [*NUMBERS, presets.http_service]
    for argument in inspect.signature(make).parameters
    if argument in OTHERS
]


@pytest.mark.parametrize(("make", "argument"), CASES, ids=lambda x: x if isinstance(x, str) else makes(x))
def test_other_settings_that_make_no_sense_are_refused_by_name(make: Make, argument: str) -> None:
    for value in OTHERS[argument]:
        if (argument, value) in (("name", "x"), ("on", OSError)):
            made(make, argument, value)
            continue
        words = refusal(make, argument, value)
        assert words.startswith(argument), words
        assert value == "" or value == () or repr(value) in words or repr(value[-1]) in words or repr(value[0]) in words, words


def test_no_setting_was_left_out() -> None:
    policies = {
        each for name in aiobreaker.__all__ if isinstance(each := getattr(aiobreaker, name), type) and issubclass(each, Policy)
    }
    assert policies - {aiobreaker.CircuitBreaker, aiobreaker.Pipeline, aiobreaker.NamedPolicy, Policy} <= set(NUMBERS)
    for make, numbers in NUMBERS.items():
        missing = set(inspect.signature(make).parameters) - set(numbers) - set(OTHERS) - {"sources"}
        assert not missing, makes(make)


# -- functions, results and errors of every kind


class FalseError(Exception):
    """An error that is false, and cannot be compared."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = Exception.__hash__


class Touchy:
    """A result that can only be passed on."""

    def __bool__(self) -> bool:
        raise AssertionError("asked")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


class Later:
    """Awaitable, and no coroutine."""

    def __await__(self) -> Generator[Any, Any, int]:
        yield from anyio.sleep(0.01).__await__()
        return 7


def everything() -> dict[str, Policy[Any]]:
    """One of each policy, with settings that take each of its ways; none stands in the way of a few calls."""
    return {
        "retry": Retry(OSError),
        "retry, thorough": Retry(OSError, retry_if=lambda result: False, budget=RetryBudget(), total_time=60),
        "timeout": Timeout(60),
        "deadline": Deadline(60),
        "bulkhead": Bulkhead(5, max_waiters=5),
        "rate limit": RateLimit(1000),
        "rate limit by key": RateLimit(1000, key=lambda *_, **__: 0),
        "adaptive limit": AdaptiveLimit(),
        "adaptive limit, judged": AdaptiveLimit(AIMD(), failure_if=lambda result: False),
        "throttle": Throttle(k=1000),
        "throttle, judged": Throttle(k=1000, rejected_if=lambda result: False),
        "hedge": Hedge(0.1),
        "hedge at once": Hedge(0),
        "hedge by quantile": Hedge(Quantile(0.5, initial=0.1), next_on=OSError),
        "fallback": Fallback("fallback"),
        "fallback with memory": Fallback(LastGood(), "fallback"),
        "cache": Cache(60, stale_for=60, stale_on=OSError),
        "coalesce": Coalesce(),
        "chaos": Chaos(),
        "breaker": CircuitBreaker("b", trip=ConsecutiveFailures(1000)),
        "breaker, judged": CircuitBreaker("b", trip=ConsecutiveFailures(1000), failure_if=lambda result: False),
        "pipeline": Fallback("fallback") | Retry(OSError) | Timeout(60),
    }


each_policy = pytest.mark.parametrize("kind", everything())


@each_policy
@pytest.mark.parametrize("seconds", [0.0, 0.15])
@pytest.mark.anyio
async def test_results_and_errors_pass_untouched(kind: str, seconds: float) -> None:
    policy = everything()[kind]
    result, error = Touchy(), FalseError("mine")

    async def fine() -> Touchy:
        await (anyio.sleep(seconds) if seconds else anyio.lowlevel.checkpoint())
        return result

    async def broken() -> Touchy:
        await anyio.sleep(seconds)
        raise error

    assert await policy.call(fine) is result
    assert await policy(fine)() is result
    for way in (partial(policy.call, broken), policy(broken)):
        with pytest.raises(FalseError) as raised:
            await way()
        assert raised.value is error


@each_policy
@pytest.mark.anyio
async def test_call_takes_whatever_returns_an_awaitable(kind: str) -> None:
    def future() -> Any:
        made = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(made.set_result, 7)
        return made

    def task() -> Any:
        return asyncio.ensure_future(Later())

    under_asyncio = sniffio.current_async_library() == "asyncio"
    for function in (lambda: Later(), *((future, task) if under_asyncio and kind != "hedge at once" else ())):
        assert await everything()[kind].call(function) == 7
    with pytest.raises(TypeError, match="await"):
        await everything()[kind].call(lambda: 7)  # type: ignore[arg-type, return-value]


@each_policy
@pytest.mark.anyio
async def test_methods_of_every_kind(kind: str) -> None:
    policy = everything()[kind]

    class Slotted:
        __slots__ = ("x",)

        def __init__(self, x: int) -> None:
            self.x = x

        @policy
        async def method(self, y: int) -> int:
            """Add."""
            return self.x + y

        @policy
        @classmethod
        async def outside(cls) -> str:
            return cls.__name__

        @classmethod
        @policy
        async def inside(cls) -> str:
            return cls.__name__

        @policy
        @staticmethod
        async def static(y: int) -> int:
            return y

    class Child(Slotted):
        __slots__ = ()

    one, ten = Slotted(1), Child(10)
    assert [await one.method(2), await ten.method(2), await one.method(y=3), await Slotted.method(ten, 4)] == [3, 12, 4, 14]
    assert await policy.call(one.method, 5) == 6
    assert [await Slotted.outside(), await Child.outside(), await one.inside(), await ten.inside()] == ["Slotted", "Child"] * 2
    assert await one.static(9) == 9
    assert (Slotted.method.__name__, Slotted.method.__doc__) == ("method", "Add.")


@each_policy
def test_made_at_import_time_and_used_by_loop_after_loop(kind: str) -> None:
    policy = everything()[kind]

    @policy
    async def double(x: int) -> int:
        await anyio.sleep(0)
        return 2 * x

    async def main(x: int) -> list[int]:
        answers: list[int] = []

        async def add(y: int) -> None:
            answers.append(await double(y) + await policy.call(double, y))

        async with anyio.create_task_group() as tasks:
            for y in (x, x + 1):
                tasks.start_soon(add, y)
        return sorted(answers)

    if kind.startswith(("bulkhead", "adaptive")):
        assert asyncio.run(main(1)) == [4, 8]
    for number, run in enumerate((asyncio.run, trio_run, asyncio.run, uvloop_run, trio_run)):
        assert run(main(10 * number)) == [40 * number, 40 * number + 4]


def trio_run(main: Coroutine[Any, Any, Any]) -> Any:
    async def run() -> Any:
        return await main

    return trio.run(run)


def uvloop_run(main: Coroutine[Any, Any, Any]) -> Any:
    return pytest.importorskip("uvloop").run(main)


# -- the table, row by row, in company


class Failing:
    """A dependency that is down, and counts what reaches it."""

    def __init__(self, error: Callable[[], BaseException] = ConnectionError, seconds: float = 0.0) -> None:
        self.error = error
        self.seconds = seconds
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(anyio.current_time())
        await anyio.sleep(self.seconds)
        raise self.error()


@pytest.mark.anyio
async def test_a_retry_outside_does_not_retry_refusals(clock: Callable[[], float]) -> None:
    breaker = CircuitBreaker("b", trip=ConsecutiveFailures(2), open_for=10, clock=clock)
    down = Failing()
    with pytest.raises(CircuitOpenError):
        await (Retry(Exception, attempts=9, backoff=1, clock=clock) | breaker).call(down)
    assert len(down.times) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("jitter", [None, "full"])
async def test_who_waits_when_refused_waits_exactly_as_long_as_the_breaker_says(
    clock: Callable[[], float], jitter: Any
) -> None:
    breaker = CircuitBreaker("b", trip=ConsecutiveFailures(1), open_for=7.5, clock=clock)
    with pytest.raises(ConnectionError):
        await breaker.call(Failing())
    await anyio.sleep(2.5)
    began = clock()

    async def well() -> float:
        return clock() - began

    retry = Retry(OSError, attempts=2, jitter=jitter, wait_when_refused=True, max_retry_after=1)
    assert await (retry | breaker).call(well) == pytest.approx(5.0, abs=1e-6)
    breaker.open(7.5)
    began = clock()
    with anyio.fail_after(7), pytest.raises(CircuitOpenError):
        await (retry | breaker).call(well)
    assert clock() == began  # it does not wait in vain


@pytest.mark.anyio
@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("floor", [0.5, 2.0])
async def test_a_budget_shared_by_all_bounds_the_calls_in_an_outage(
    clock: Callable[[], float], ratio: float, floor: float
) -> None:
    budget = RetryBudget(ratio, minimum_per_second=floor, window=10, clock=clock)
    retries = [Retry(OSError, attempts=9, backoff=0.05, budget=budget, clock=clock) for _ in range(3)]
    hedge = Hedge(0.02, attempts=4, budget=budget, clock=clock)
    down = Failing(seconds=0.1)
    first_calls: list[float] = []

    async def client(number: int) -> None:
        policy = [*retries, hedge][number % 4]
        for _ in range(60):
            first_calls.append(clock())
            with suppress(OSError):
                await (policy.call(down) if number % 2 else policy(down.__call__)())
            await anyio.sleep(0.3)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(client, number)
    assert len(first_calls) == 480
    for end in down.times:  # an extra call is made a little after the budget has allowed it: hence the second more
        made, first, earlier = (
            sum(end - seconds < time <= end for time in times)
            for times, seconds in ((down.times, 10), (first_calls, 10), (first_calls, 11))
        )
        assert made <= first + ratio * earlier + floor * 10 + 1e-6
    seconds = down.times[-1] - down.times[0]
    extra = len(down.times) - len(first_calls)
    assert extra == budget.snapshot().granted
    assert extra >= (ratio * 480 + floor * seconds) / 2  # what is allowed is used


@pytest.mark.anyio
async def test_policies_around_one_another_with_one_budget_stay_within_twice_the_ratio(clock: Callable[[], float]) -> None:
    budget = RetryBudget(0.2, minimum_per_second=0, clock=clock)
    down = Failing()
    hedge = Hedge(1, budget=budget, next_on=OSError, clock=clock)
    pipeline = Retry(OSError, attempts=9, backoff=0, budget=budget, clock=clock) | hedge
    for _ in range(1000):
        with pytest.raises(ConnectionError):
            await pipeline.call(down)
    assert 1200 <= len(down.times) <= 1000 * (1 + 2 * 0.2 / (1 - 0.2))


@pytest.mark.anyio
async def test_a_group_of_refusals_is_answered_only_where_groups_are_named() -> None:
    async def refused() -> str:
        raise ExceptionGroup("g", [CircuitOpenError("b")])

    with pytest.raises(ExceptionGroup):
        await Fallback("answer").call(refused)
    assert await Fallback("answer", on=(RefusedError, ExceptionGroup)).call(refused) == "answer"


@pytest.mark.anyio
async def test_a_timeout_inside_a_breaker_is_its_failure_and_outside_is_not(clock: Callable[[], float]) -> None:
    for inside in (True, False):
        breaker = CircuitBreaker("b", trip=ConsecutiveFailures(1), clock=clock)
        pipeline = breaker | Timeout(1) if inside else Timeout(1) | breaker
        with pytest.raises(TimeoutError, match=r"^timeout: not finished within 1 s$"):
            await pipeline.call(anyio.sleep_forever)
        assert breaker.state is (State.OPEN if inside else State.CLOSED)
        totals = breaker.snapshot().totals
        assert (totals.failures, totals.cancelled) == ((1, 0) if inside else (0, 1))


@pytest.mark.anyio
@pytest.mark.parametrize("inner", [False, True])
async def test_whatever_waits_refuses_rather_than_wait_past_the_deadline(clock: Callable[[], float], inner: bool) -> None:
    opened = CircuitBreaker("open", clock=clock)
    opened.open(60)
    spent = RateLimit(1, per=60, max_wait=inf, clock=clock)
    await spent.call(anyio.sleep, 0)
    waiting: list[tuple[Policy[Any], type[Exception]]] = [
        (spent, RateLimitedError),
        (Retry(OSError, backoff=60), ConnectionError),
        (Retry(OSError, wait_when_refused=True) | opened, CircuitOpenError),
        (Retry(OSError, attempts=2, retry_after=lambda error: 60, clock=clock), ConnectionError),
    ]
    for policy, error in waiting:
        began = clock()
        down = Failing()
        with pytest.raises(error):
            await (Deadline(5) | policy | Timeout(99) if inner else Deadline(5) | Timeout(99) | policy).call(down)
        assert clock() == began
        assert len(down.times) == (error is ConnectionError)


SHORTAGES = (BulkheadFullError, RateLimitedError, LimitReachedError, ThrottledError)
SHAPES: dict[str, Callable[[Exception], BaseException]] = {
    "bare": lambda error: error,
    "group": lambda error: ExceptionGroup("g", [error]),
    "groups": lambda error: ExceptionGroup("g", [ExceptionGroup("h", [error, error]), error]),
}


@pytest.mark.anyio
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SHORTAGES)
@pytest.mark.parametrize("state", [State.CLOSED, State.HALF_OPEN, State.METRICS_ONLY])
async def test_a_shortage_inside_is_no_failure_of_the_dependency(
    clock: Callable[[], float], state: State, kind: type[ShortageError], shape: str
) -> None:
    async def short() -> None:
        raise SHAPES[shape](kind("here"))

    for failure_on in (Exception, ShortageError, lambda error: True):
        breaker = CircuitBreaker("b", trip=ConsecutiveFailures(1), failure_on=failure_on, clock=clock)
        with in_state(breaker, state):
            for way in (breaker(short), partial(breaker.call, short)):
                with pytest.raises((ShortageError, ExceptionGroup)):
                    await way()
            totals = breaker.snapshot().totals
            assert totals.failures == totals.successes == 0
            assert totals.ignored == 2


@pytest.mark.anyio
async def test_an_open_breaker_stands_before_the_shortage(clock: Callable[[], float]) -> None:
    breaker = CircuitBreaker("b", clock=clock)
    bulkhead = Bulkhead(1)
    breaker.open()
    async with bulkhead.guard():
        with pytest.raises(CircuitOpenError):
            await (breaker | bulkhead).call(anyio.sleep, 0)
        breaker.half_open()
        with pytest.raises(BulkheadFullError):
            await (breaker | bulkhead).call(anyio.sleep, 0)
    await (breaker | bulkhead).call(anyio.sleep, 0)
    assert breaker.state is State.CLOSED  # the trial's slot had come back


@pytest.mark.anyio
async def test_a_chain_with_memory_works_deep_in_pipelines(clock: Callable[[], float]) -> None:
    memory = LastGood(max_age=10)
    fallback: Fallback[Any] = Fallback(memory, lambda error, sku: f"mirror {sku}", on=(RefusedError, OSError), clock=clock)
    breaker = CircuitBreaker("b", trip=ConsecutiveFailures(1), open_for=100, clock=clock)
    up = True

    async def price(sku: str) -> str:
        if not up:
            raise ConnectionError
        return f"fresh {sku}"

    pipeline = Deadline(5) | fallback | Retry(OSError, backoff=0) | breaker | Bulkhead(3) | Timeout(1)
    decorated = pipeline(price)

    async def by_call(sku: str) -> Any:
        return await pipeline.call(price, sku)

    asks: list[Callable[[str], Awaitable[Any]]] = [by_call, decorated]
    for ask in asks:
        assert await ask("pear") == "fresh pear"
    up = False
    for ask in asks:
        assert [await ask("pear"), await ask("plum")] == ["fresh pear", "mirror plum"]
    await anyio.sleep(10.5)
    assert await decorated("pear") == await by_call("pear") == "mirror pear"
    assert fallback.snapshot().answered == (2, 4)


@pytest.mark.anyio
async def test_one_policy_serves_many_functions_and_pipelines(clock: Callable[[], float]) -> None:
    bulkhead = Bulkhead(2)
    pipelines = [Timeout(9) | bulkhead, bulkhead | Timeout(9), Pipeline(bulkhead)]
    refused: list[str] = []

    async def use(pipeline: Policy[Any]) -> None:
        try:
            await pipeline.call(anyio.sleep, 1)
        except BulkheadFullError as error:
            refused.append(error.name)

    async with anyio.create_task_group() as tasks:
        for pipeline in pipelines:
            tasks.start_soon(use, pipeline)
    assert refused == ["bulkhead"]
    seen = bulkhead.snapshot()
    assert (seen.running, seen.refused) == (0, 1)


# -- what would silently do nothing


@pytest.mark.parametrize(
    "on", [(), RefusedError, (CircuitOpenError, BulkheadFullError), ExceptionGroup, asyncio.CancelledError]
)
def test_a_retry_that_never_retries_is_refused(on: Any) -> None:
    with pytest.raises(ValueError, match=r"^on must be .* nothing of that is ever retried"):
        Retry(on)
    Retry(on, wait_when_refused=True)
    Retry((OSError, RefusedError))


@pytest.mark.parametrize("argument", ["on", "retry_if", "retry_after"])
def test_an_async_function_is_no_rule(argument: str) -> None:
    async def rule(subject: object) -> bool:
        return False

    with pytest.raises(TypeError, match=f"^{argument} must not be an async function"):
        made(Retry, argument, rule)


def test_a_retry_without_brackets_is_no_decorator() -> None:
    with pytest.raises(TypeError, match="on must not be an async function"):

        @Retry  # type: ignore[arg-type]
        async def fetch() -> None: ...
