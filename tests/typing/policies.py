"""What type checkers must see of policies and pipelines. Checked by mypy and pyright, never run."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Never, ParamSpec, TypeVar, assert_type

from aiobreaker import CircuitBreaker, Event, EventStream
from aiobreaker.policy import NamedPolicy, Pipeline, Policy

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")


class Plain(NamedPolicy[Never]):
    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(*args, **kwargs)


class Answering(Policy[A]):
    """Answers with something else in place of errors."""

    def __init__(self, answer: A) -> None:
        self.answer = answer

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | A:
        try:
            return await fn(*args, **kwargs)
        except OSError:
            return self.answer


breaker = CircuitBreaker("typed")
plain = Plain("plain")
answering = Answering("nothing")


async def price(sku: str, *, currency: str = "EUR") -> float:
    return len(sku) * 1.0


def price_soon(sku: str) -> Awaitable[float]:
    return price(sku)


assert_type(plain | breaker, Pipeline[Never])
assert_type(breaker | plain, Pipeline[Never])
assert_type(plain | answering, Pipeline[str])
assert_type(answering | breaker, Pipeline[str])
assert_type(plain | answering | breaker, Pipeline[str])
assert_type(answering | Answering(5), Pipeline[str | int])
assert_type(answering | Answering(None) | plain, Pipeline[str | None])
assert_type(Pipeline(plain, breaker), Pipeline[Never])
assert_type(Pipeline(plain, answering, breaker), Pipeline[str])
assert_type(Pipeline(plain | answering, breaker), Pipeline[str])
either: Pipeline[str | int] = Pipeline(answering, Answering(5))
wider: Policy[str | int | None] = answering
pipeline = plain | answering | breaker
quiet = Pipeline(plain, breaker)


@plain
async def by_plain(sku: str, *, currency: str = "EUR") -> float:
    return 1.0


@answering
async def by_answering(sku: str) -> float:
    return 1.0


@pipeline
async def by_pipeline(sku: str, *, currency: str = "EUR") -> float:
    return 1.0


@quiet
async def by_quiet(sku: str) -> float:
    return 1.0


@answering | breaker
async def by_expression(sku: str) -> float:
    return 1.0


class Shop:
    @pipeline
    async def price(self, sku: str) -> float:
        return 1.0

    @classmethod
    @pipeline
    async def named(cls, name: str) -> "Shop":
        return cls()

    @pipeline
    @classmethod
    async def named_outside(cls, name: str) -> "Shop":
        return cls()

    @staticmethod
    @quiet
    async def tax(amount: float) -> float:
        return amount

    @pipeline
    @staticmethod
    async def tax_outside(amount: float) -> float:
        return amount


async def check() -> None:
    assert_type(await by_plain("pear", currency="USD"), float)
    assert_type(await by_answering("pear"), float | str)
    assert_type(await by_pipeline("pear", currency="USD"), float | str)
    assert_type(await by_quiet("pear"), float)
    assert_type(await by_expression("pear"), float | str)
    assert_type(await Shop().price("pear"), float | str)
    assert_type(await Shop.named("pears"), Shop | str)
    assert_type(await Shop.named_outside("pears"), Shop | str)
    assert_type(await Shop.tax(1.0), float)
    assert_type(await Shop.tax_outside(1.0), float | str)
    assert_type(await plain.call(price, "pear", currency="USD"), float)
    assert_type(await pipeline.call(price, "pear", currency="USD"), float | str)
    assert_type(await quiet.call(price, "pear"), float)
    assert_type(await quiet.call(price_soon, "pear"), float)
    assert_type(await either.call(price, "pear"), float | str | int)


async def check_events() -> None:
    assert_type(pipeline.events(calls=True), EventStream)
    async with pipeline.events() as events:
        assert_type(await anext(events), Event)
    async with plain.events() as events:
        assert_type(await anext(events), Event)
    assert_type(pipeline.subscribe(print), Callable[[], None])
    assert_type(pipeline.explain(), str)
    assert_type(pipeline.lint(), list[str])
    assert_type(pipeline.policies, tuple[Policy[Any], ...])


keeps: Callable[[str], Coroutine[Any, Any, float]] = by_plain


def not_async() -> None: ...


plain(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
plain | 5  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
Pipeline(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
plain.call(price, 5)  # type: ignore[arg-type,unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]
Policy[Never]()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
