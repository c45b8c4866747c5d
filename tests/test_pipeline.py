"""Several policies around one call: the first is outermost, nesting makes no difference, and nothing is added to a call."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, ParamSpec, TypeVar

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, SlowCallRate, State
from aiobreaker.core.windows import LastCalls
from aiobreaker.lint import Traits
from aiobreaker.policy import Pipeline, Policy
from aiobreaker.testing import ManualClock, ScriptedDependency

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Stage(Policy[Never]):
    """Writes down when it is entered and left. Compares by value, and cannot be hashed."""

    name: str
    diary: list[str]

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.diary.append(f"> {self.name}")
        try:
            return await fn(*args, **kwargs)
        finally:
            self.diary.append(f"< {self.name}")

    def snapshot(self) -> str | None:
        return None if self.name == "shy" else self.name


class Answering(Policy[str]):
    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | str:
        try:
            return await fn(*args, **kwargs)
        except (OSError, CircuitOpenError):
            return "answered"


def stages(*names: str) -> tuple[list[Stage], list[str]]:
    diary: list[str] = []
    return [Stage(name, diary) for name in names], diary


async def price(sku: str, *, currency: str = "EUR") -> str:
    return f"{sku} in {currency}"


def ways(policy: Policy[Any], fn: Callable[..., Any]) -> list[Callable[..., Awaitable[Any]]]:
    """The function inside the policy, both ways."""
    call: Any = policy.call
    return [partial(call, fn), policy(fn)]


async def test_the_first_is_outermost_in_every_form() -> None:
    (a, b, c, d), diary = stages("a", "b", "c", "d")
    forms = [
        a | b | c | d,
        a | (b | (c | d)),
        (a | b) | (c | d),
        Pipeline(a, b, c, d),
        Pipeline(Pipeline(a), Pipeline(Pipeline(b, c)), d),
    ]
    for form in forms:
        assert [policy for policy in form.policies if isinstance(policy, Stage)] == [a, b, c, d]
        assert repr(form) == f"Pipeline({a!r}, {b!r}, {c!r}, {d!r})"
        for way in ways(form, price):
            diary.clear()
            assert await way("pear", currency="USD") == "pear in USD"
            assert diary == ["> a", "> b", "> c", "> d", "< d", "< c", "< b", "< a"]


async def test_a_pipeline_may_stand_in_many() -> None:
    (a, b, c), diary = stages("a", "b", "c")
    shared = b | c
    assert (a | shared).policies == (a, b, c)
    assert (shared | a).policies == (b, c, a)
    assert shared.policies == (b, c)
    assert (shared | shared).policies == (b, c, b, c)
    await (a | a).call(price, "pear")
    assert diary == ["> a", "> a", "< a", "< a"]


class Counting(Pipeline[Any]):
    """Does something of its own."""

    __slots__ = ("calls",)

    def __init__(self, *policies: Policy[Any]) -> None:
        super().__init__(*policies)
        self.calls = 0

    async def call(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return await super().call(fn, *args, **kwargs)


class Named(Pipeline[Any]):
    """Only knows more about itself."""

    def __init__(self, name: str, *policies: Policy[Any]) -> None:
        super().__init__(*policies)
        self.name = name


async def test_a_pipeline_with_a_call_of_its_own_is_not_laid_open() -> None:
    (a, b, c), diary = stages("a", "b", "c")
    counting = Counting(b, c)
    outer = a | counting
    assert outer.policies == (a, counting)
    assert repr(counting) == f"Counting({b!r}, {c!r})"
    assert (a | Named("named", b, c)).policies == (a, b, c)
    for way in ways(outer, price) + ways(counting, price):
        diary.clear()
        assert await way("pear") == "pear in EUR"
        assert [entry for entry in diary if entry[0] == ">"][-2:] == ["> b", "> c"]
    assert counting.calls == 4


@pytest.mark.parametrize("other", [5, None, "retry", price, Stage, object()], ids=lambda other: type(other).__name__)
def test_only_policies_can_be_joined(other: Any) -> None:
    (a,), _ = stages("a")
    for policy in (a, a | a, CircuitBreaker("joined")):
        with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \|"):
            policy | other
        with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \|"):
            other | policy
        with pytest.raises(TypeError, match="policies must be policies, not"):
            Pipeline(policy, other)


def test_whoever_knows_policies_may_be_joined_on_their_own_terms() -> None:
    class Knowing:
        def __ror__(self, outer: object) -> str:
            return "known"

    (a,), _ = stages("a")
    assert a | Knowing() == "known"


def test_a_pipeline_needs_a_policy() -> None:
    with pytest.raises(ValueError, match="a pipeline needs at least one policy"):
        Pipeline()


async def test_a_breaker_stands_where_it_is_put() -> None:
    inside, outside = CircuitBreaker("inside", trip=ConsecutiveFailures(2)), CircuitBreaker("outside")
    dependency = ScriptedDependency(OSError("down"))
    pipeline = outside | Answering() | inside

    @pipeline
    async def decorated() -> object:
        return await dependency()

    assert [await decorated(), await pipeline.call(dependency)] == ["answered"] * 2
    assert inside.state is State.OPEN
    assert [await decorated(), await pipeline.call(dependency)] == ["answered"] * 2
    assert len(dependency.calls) == 2
    assert outside.snapshot().totals.successes == 4
    assert inside.snapshot().refused == 2


async def test_a_breaker_goes_by_new_settings_after_decoration() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("changing", trip=ConsecutiveFailures(5), clock=clock)
    (stage,), _ = stages("stage")
    pipeline = stage | breaker | stage
    wrong = False

    @pipeline
    async def decorated() -> bool:
        clock.advance(2)
        return wrong

    assert await decorated() is False
    breaker.reconfigure(failure_if=lambda result: bool(result), trip=ConsecutiveFailures(1))
    wrong = True
    assert await decorated() is True
    with pytest.raises(CircuitOpenError):
        await decorated()
    breaker.reset()
    breaker.reconfigure(failure_if=None, trip=SlowCallRate(1.0, slower_than=1, window=LastCalls(2), minimum_calls=2))
    for way in (decorated, ways(pipeline, inspect.unwrap(decorated))[0]):
        assert await way() is True
    assert breaker.state is State.OPEN


async def test_a_pipeline_decorates_as_one_policy_does() -> None:
    (a, b), _ = stages("a", "b")
    guarded = (a | CircuitBreaker("between") | b)(price)
    assert inspect.signature(guarded) == inspect.signature(price)
    assert inspect.unwrap(guarded) is price
    assert inspect.iscoroutinefunction(guarded)


async def test_as_a_decorator_a_pipeline_is_its_policies_and_nothing_else() -> None:
    frames: list[int] = []

    async def deep() -> None:
        frames.append(len(inspect.stack(0)))

    one, two = CircuitBreaker("one"), CircuitBreaker("two")
    await one(two(deep))()
    await (one | two)(deep)()
    await Pipeline(Pipeline(one), Pipeline(two))(deep)()
    assert frames[0] == frames[1] == frames[2]


async def test_cancellation_passes_through() -> None:
    (a, b), diary = stages("a", "b")
    breaker = CircuitBreaker("cancelled")
    pipeline = a | breaker | b
    for way in ways(pipeline, anyio.sleep_forever):
        diary.clear()
        with anyio.move_on_after(1) as scope:
            await way()
        assert scope.cancelled_caught
        assert diary == ["> a", "> b", "< b", "< a"]
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.failures == 0


def test_snapshots_are_of_those_who_have_one() -> None:
    (a, shy), _ = stages("a", "shy")
    breaker = CircuitBreaker("seen", clock=ManualClock())
    assert (a | shy | breaker).snapshot() == ("a", breaker.snapshot())
    assert Pipeline(shy).snapshot() == ()


# -- in words


@dataclass
class Described(Stage):
    words: str

    @property
    def traits(self) -> Traits:
        return Traits(kind="other", words=self.words)


def test_explain_draws_the_order() -> None:
    breaker = CircuitBreaker("payments")
    pipeline = Pipeline(
        Described("", [], "fallback 'offline price' (a value, on CircuitOpenError)"),
        Described("", [], "deadline of 10 s"),
        breaker,
        Described("", [], "two\n  lines"),
        Counting(breaker),
    )
    assert (
        pipeline.explain()
        == """\
fallback 'offline price' (a value, on CircuitOpenError)
└─ deadline of 10 s
   └─ circuit breaker 'payments' (opens for 30 s on 5 failures in a row)
      └─ two lines
         └─ Counting(<CircuitBreaker 'payments' closed>)
            └─ the function"""
    )
    assert Pipeline(breaker).explain().splitlines()[1] == "└─ the function"


def test_lint_goes_by_the_traits_of_the_policies() -> None:
    breaker = CircuitBreaker("twice")
    twin = CircuitBreaker("twice")
    assert (breaker | twin).lint() == []
    (said,) = (breaker | Answering() | breaker).lint()
    assert said.startswith("Circuit breaker 'twice' stands here twice")
