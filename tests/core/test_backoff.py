"""When to try again: which errors, after how long, and what stands against it."""

from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from itertools import chain, islice, repeat
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.core.backoff import REASONS, Backoff, Decorrelated, Retryable, leaves, obstacle
from aiobreaker.core.schedules import Exponential, Fixed, Steps


class Refusal(Exception):
    pass


# -- which errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(), True),
        (ConnectionError(), True),
        (ValueError(), False),
        (Refusal(), False),
        (ExceptionGroup("", [OSError(), ConnectionError()]), True),
        (ExceptionGroup("", [OSError(), ValueError()]), False),
        (ExceptionGroup("", [OSError(), Refusal()]), False),
        (ExceptionGroup("", [OSError(), ExceptionGroup("", [OSError(), OSError()])]), True),
        (ExceptionGroup("", [OSError(), ExceptionGroup("", [OSError(), ValueError()])]), False),
    ],
)
@pytest.mark.parametrize("rule", [OSError, (OSError, Refusal), lambda error: isinstance(error, (OSError, Refusal))])
def test_an_error_is_retried_if_all_of_it_is(rule: Any, error: Exception, expected: bool) -> None:
    assert Retryable(rule, never=(Refusal,))(error) is expected


def test_what_is_always_retried_need_not_be_listed() -> None:
    retryable = Retryable(OSError, always=(Refusal,))
    assert retryable(Refusal())
    assert retryable(ExceptionGroup("", [Refusal(), OSError()]))
    assert not retryable(ValueError())


def test_what_is_no_exception_is_never_retried_and_no_function_is_asked_about_it() -> None:
    asked: list[BaseException] = []
    retryable = Retryable(lambda error: asked.append(error) or True, never=(Refusal,))  # type: ignore[func-returns-value]
    assert not retryable(KeyboardInterrupt())  # type: ignore[arg-type]
    assert not Retryable(BaseException)(KeyboardInterrupt())  # type: ignore[arg-type]
    assert not retryable(Refusal())
    assert asked == []


def test_the_leaves_of_an_error() -> None:
    first, second = OSError(), ValueError()
    assert list(leaves(first)) == [first]
    assert list(leaves(ExceptionGroup("", [first, ExceptionGroup("", [second])]))) == [first, second]


@pytest.mark.parametrize("rule", [None, 5, "OSError", int, (OSError, "x"), OSError()])
def test_a_rule_is_types_or_a_function(rule: Any) -> None:
    with pytest.raises(TypeError, match="on must be exception types or a function of the exception, not"):
        Retryable(rule)


# -- after how long


def delays(backoff: Any, draws: list[float] | None = None, jitter: Any = None, number: int = 6) -> list[float]:
    random = iter(draws or []).__next__
    return list(islice(Backoff(backoff, jitter).delays(random), number))


def halves() -> Iterator[float]:
    return chain([0.5, 1], repeat(2))


class Ladder:
    """Can be gone through again, and is no sequence."""

    def __iter__(self) -> Iterator[float]:
        return iter([1.0, 3.0])


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (2, [2, 2, 2, 2, 2, 2]),
        (0, [0, 0, 0, 0, 0, 0]),
        (Fixed(0.5), [0.5] * 6),
        (Steps(1, 5), [1, 5, 5, 5, 5, 5]),
        ([0, 1.5], [0, 1.5]),
        ((3,), [3]),
        (range(3), [0, 1, 2]),
        (Ladder(), [1, 3]),
        (halves, [0.5, 1, 2, 2, 2, 2]),
        (lambda: (4, 5), [4, 5]),
    ],
)
def test_delays_that_are_spelt_out_are_exact_and_chance_is_not_asked(backoff: Any, expected: list[float]) -> None:
    assert delays(backoff) == expected
    assert delays(backoff, jitter=0) == expected
    assert delays(backoff, jitter=0.0) == expected


def test_each_call_begins_anew() -> None:
    backoff = Backoff(halves, None)
    first, second = backoff.delays(float), backoff.delays(float)
    assert [next(first), next(first), next(second), next(first)] == [0.5, 1, 0.5, 2]


def test_a_list_is_read_when_it_is_given() -> None:
    given = [1.0]
    backoff = Backoff(given, None)
    given.append(2.0)
    assert list(backoff.delays(float)) == [1.0]


def test_exponential_has_full_jitter_by_default() -> None:
    exponential = Exponential(0.1, factor=2, maximum=0.5)
    assert delays(exponential, [0.5] * 6) == pytest.approx([0.05, 0.1, 0.2, 0.25, 0.25, 0.25])
    assert delays(exponential, [0.0, 0.25, 0.75, 1.0], "full", 4) == pytest.approx([0, 0.05, 0.3, 0.5])
    assert delays(exponential, jitter=0) == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.5])


def test_jitter_can_be_asked_for() -> None:
    assert delays(2.0, [0.0, 0.25, 0.5], "full", 3) == [0, 0.5, 1]
    assert delays([10, 10, 10], [0.0, 0.5, 0.75], 0.2) == pytest.approx([8, 10, 11])
    assert delays(Exponential(1, factor=2), [0.0, 1.0], 0.5, 2) == pytest.approx([0.5, 3])


def test_decorrelated_draws_from_the_first_to_three_times_the_last() -> None:
    assert delays(Decorrelated(1, maximum=20), [0.5, 0.0, 1.0, 1.0, 1.0, 1.0]) == [2, 1, 3, 9, 20, 20]


def test_decorrelated_is_at_most_half_a_minute_by_default() -> None:
    decorrelated = Decorrelated(30)
    assert decorrelated.maximum == 30.0
    with pytest.raises(FrozenInstanceError):
        decorrelated.maximum = 40.0  # type: ignore[misc]


@given(
    st.floats(0.001, 10),
    st.floats(1, 100),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30),
)
def test_decorrelated_stays_within_its_bounds(first: float, times: float, draws: list[float]) -> None:
    maximum = first * times
    previous = first
    for delay in delays(Decorrelated(first, maximum), draws, number=len(draws)):
        assert first <= delay <= min(maximum, max(first, 3 * previous)) * (1 + 1e-9)
        previous = delay


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True))
def test_full_jitter_stays_within_its_bounds(attempt: int, draw: float) -> None:
    exponential = Exponential(0.1, factor=2, maximum=30)
    found = delays(exponential, [draw] * (attempt + 1), number=attempt + 1)[-1]
    assert found == min(0.1 * 2.0 ** min(attempt, 50), 30) * draw


OTHER = (
    "a number of seconds, Exponential, Decorrelated, Fixed or Steps, an iterable of seconds that can be gone through again, "
    "or a function without arguments that makes one"
)
NUMBERS = "finite numbers of seconds, 0 or more"
ONCE = iter([1.0])
GENERATOR = (delay for delay in (1.0, 2.0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Backoff(None, None), TypeError, f"backoff must be {OTHER}, not None"),  # type: ignore[arg-type]
        (lambda: Backoff("1", None), TypeError, f"backoff must be {OTHER}, not '1'"),  # type: ignore[arg-type]
        (lambda: Backoff(Exponential, None), TypeError, f"backoff must be {OTHER}, not {Exponential}"),  # type: ignore[arg-type]
        (lambda: Backoff(ONCE, None), TypeError, f"backoff must be {OTHER}, not {ONCE}: the first call would use it up"),
        (
            lambda: Backoff(GENERATOR, None),
            TypeError,
            f"backoff must be {OTHER}, not {GENERATOR}: the first call would use it up",
        ),
        (lambda: Backoff(True, None), TypeError, f"backoff must be {NUMBERS}, not True"),
        (lambda: Backoff(-1, None), ValueError, f"backoff must be {NUMBERS}, not -1"),
        (lambda: Backoff(inf, None), ValueError, f"backoff must be {NUMBERS}, not inf"),
        (lambda: Backoff(nan, None), ValueError, f"backoff must be {NUMBERS}, not nan"),
        (lambda: Backoff([1, -2], None), ValueError, f"backoff must be {NUMBERS}, not -2"),
        (lambda: Backoff([1, "2"], None), TypeError, f"backoff must be {NUMBERS}, not '2'"),  # type: ignore[list-item]
        (lambda: Backoff([], None), ValueError, "backoff must have at least one delay, not []"),
        (
            lambda: Backoff(1, "none"),  # type: ignore[arg-type]
            ValueError,
            "jitter must be 'full', None, or a fraction, 0 or more and below 1, not 'none'",
        ),
        (lambda: Backoff(1, 1), ValueError, "jitter must be a fraction, 0 or more and below 1, not 1"),
        (lambda: Backoff(1, True), TypeError, "jitter must be a fraction, 0 or more and below 1, not True"),
        (
            lambda: Backoff(Decorrelated(1), 0),
            ValueError,
            "jitter must be None for Decorrelated, which draws its delays anyhow, not 0",
        ),
        (lambda: Decorrelated(0), ValueError, "first must be a finite number of seconds above 0, not 0"),
        (lambda: Decorrelated(1, inf), ValueError, "maximum must be a finite number of seconds above 0, not inf"),
        (lambda: Decorrelated(40), ValueError, "maximum must be at least first (40 s), not 30.0"),
    ],
    ids=lambda value: value.partition(" at 0x")[0] if isinstance(value, str) else None,
)
def test_settings_are_checked(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == message


def test_what_a_function_gives_is_checked_when_it_comes() -> None:
    found = Backoff(lambda: [1.0, nan], None).delays(float)
    assert next(found) == 1.0
    with pytest.raises(ValueError, match="backoff must be finite numbers of seconds, 0 or more, not nan"):
        next(found)


# -- what stands against it


@pytest.mark.parametrize(
    ("delay", "elapsed", "total_time", "left", "expected"),
    [
        (1.0, 0.0, inf, inf, None),
        (1.0, 4.0, 5.0, inf, None),
        (1.001, 4.0, 5.0, inf, "total_time"),
        (0.0, 5.0, 5.0, inf, None),
        (0.0, 5.5, 5.0, inf, "total_time"),
        (1.0, 0.0, inf, 1.001, None),
        (1.0, 0.0, inf, 1.0, "deadline"),
        (0.0, 0.0, inf, 0.0, "deadline"),
        (0.0, 0.0, 0.0, inf, None),
        (2.0, 0.0, 1.0, 1.0, "total_time"),
    ],
)
def test_what_time_has_against_it(delay: float, elapsed: float, total_time: float, left: float, expected: str | None) -> None:
    found = obstacle(delay=delay, elapsed=elapsed, total_time=total_time, left=left)
    assert found == expected
    assert found is None or found in REASONS


def test_what_ends_the_attempts_in_words() -> None:
    assert REASONS == {
        "attempts": "as many attempts were made as are allowed",
        "backoff": "the back-off has come to its end",
        "total_time": "the next attempt would begin after the total time",
        "deadline": "the next attempt would begin past the deadline",
        "budget": "the retry budget is used up",
    }
