"""What every setting of the core says of itself: its bounds to the last number, its defaults, and its error in full.

Everything is made inside the tests: what is made while they are imported is made only once.
"""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, astuple
from math import inf, nan

import pytest

from aiobreaker.core import checks
from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import AnyOf, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate, any_of, slow_after
from aiobreaker.core.eras import State, Totals, Trials
from aiobreaker.core.outcomes import Judge, Outcome
from aiobreaker.core.schedules import Exponential, Fixed, Steps, schedule
from aiobreaker.core.tallies import Reading
from aiobreaker.core.transitions import Cause, Forfeit, Transition
from aiobreaker.core.windows import LastCalls, LastSeconds

Make = Callable[[], object]

SECONDS = "a finite number of seconds above 0"
WHOLE = "a whole number, 1 or more"
RATE = "a fraction above 0 and at most 1"
WAIT = "a number of seconds, 0 or more (infinity allowed)"
SPREAD = "a fraction, 0 or more and below 1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: checks.number("size", True, "big"), "size must be big, not True"),
        (lambda: checks.number("size", "3", "big"), "size must be big, not '3'"),
        (lambda: checks.seconds("after", None), f"after must be {SECONDS}, not None"),
        (lambda: checks.wait("max_wait", "1"), f"max_wait must be {WAIT}, not '1'"),
        (lambda: checks.fraction("rate", False), f"rate must be {RATE}, not False"),
        (lambda: checks.spread("jitter", "0"), f"jitter must be {SPREAD}, not '0'"),
        (lambda: checks.count("trials", 1.0), f"trials must be {WHOLE}, not 1.0"),
        (lambda: checks.count("trials", True, at_most=3), "trials must be a whole number from 1 to 3, not True"),
        (lambda: LastCalls(2.0), f"size must be {WHOLE}, not 2.0"),  # type: ignore[arg-type]
        (lambda: ConsecutiveFailures("5"), f"failures must be {WHOLE}, not '5'"),  # type: ignore[arg-type]
        (lambda: FailureCount(3, 10), "window must be LastCalls(...) or LastSeconds(...), not 10"),  # type: ignore[arg-type]
        (
            lambda: SlowCallRate(0.5, 1.0, LastCalls(10), count_in_flight=1),  # type: ignore[arg-type]
            "count_in_flight must be True or False, not 1",
        ),
        (lambda: any_of(5), "trip must be a condition, or conditions joined by |, not 5"),
        (lambda: ConsecutiveFailures() | "5", "trip must be a condition, or conditions joined by |, not '5'"),
        (lambda: schedule("soon"), f"open_for must be {SECONDS}, not 'soon'"),
        (lambda: Judge(5, (), None), "failure_on must be exception types or a function of the exception, not 5"),  # type: ignore[arg-type]
        (lambda: Judge(int, (), None), f"failure_on must be exception types or a function of the exception, not {int}"),  # type: ignore[arg-type]
        (
            lambda: Judge(OSError, (OSError, "x"), None),  # type: ignore[arg-type]
            "ignore must be exception types or a function of the exception, not 'x'",
        ),
        (lambda: Judge(OSError, (), 500), "failure_if must be a function of the result, not 500"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_is_named_with_its_value_and_what_is_allowed(make: Make, message: str) -> None:
    with pytest.raises(TypeError) as refused:
        make()
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: checks.number("size", nan, "big"), "size must be big, not nan"),
        (lambda: checks.seconds("after", 0), f"after must be {SECONDS}, not 0"),
        (lambda: checks.seconds("after", inf), f"after must be {SECONDS}, not inf"),
        (lambda: checks.wait("max_wait", -0.001), f"max_wait must be {WAIT}, not -0.001"),
        (lambda: checks.fraction("rate", 0), f"rate must be {RATE}, not 0"),
        (lambda: checks.fraction("rate", 1.001), f"rate must be {RATE}, not 1.001"),
        (lambda: checks.spread("jitter", -0.001), f"jitter must be {SPREAD}, not -0.001"),
        (lambda: checks.spread("jitter", 1), f"jitter must be {SPREAD}, not 1"),
        (lambda: checks.count("trials", 0), f"trials must be {WHOLE}, not 0"),
        (lambda: checks.count("depth", 1, at_least=2), "depth must be a whole number, 2 or more, not 1"),
        (lambda: checks.count("trials", 4, at_most=3), "trials must be a whole number from 1 to 3, not 4"),
        (lambda: LastCalls(0), f"size must be {WHOLE}, not 0"),
        (lambda: LastSeconds(0.0), f"span must be {SECONDS}, not 0.0"),
        (lambda: LastSeconds(1.0, 0), f"buckets must be {WHOLE}, not 0"),
        (lambda: ConsecutiveFailures(0), f"failures must be {WHOLE}, not 0"),
        (lambda: FailureCount(-1, LastSeconds(5)), f"failures must be {WHOLE}, not -1"),
        (lambda: FailureCount(11, LastCalls(10)), "failures must be a whole number from 1 to 10, not 11"),
        (lambda: FailureRate(1.5, LastCalls(10)), f"rate must be {RATE}, not 1.5"),
        (lambda: FailureRate(0.5, LastCalls(9)), "minimum_calls must be a whole number from 1 to 9, not 10"),
        (lambda: FailureRate(0.5, LastSeconds(9), 0), f"minimum_calls must be {WHOLE}, not 0"),
        (lambda: SlowCallRate(0.0, 1.0, LastCalls(10)), f"rate must be {RATE}, not 0.0"),
        (lambda: SlowCallRate(0.5, 0.0, LastCalls(10)), f"slower_than must be {SECONDS}, not 0.0"),
        (lambda: SlowCallRate(0.5, 1.0, LastCalls(8)), "minimum_calls must be a whole number from 1 to 8, not 10"),
        (lambda: Trials(0), f"count must be {WHOLE}, not 0"),
        (lambda: Trials(2, 3), "concurrent must be a whole number from 1 to 2, not 3"),
        (lambda: Trials(2, required=3), "required must be a whole number from 1 to 2, not 3"),
        (lambda: Trials(lease=0.0), f"lease must be {SECONDS}, not 0.0"),
        (lambda: Trials(max_inconclusive=0), f"max_inconclusive must be {WHOLE}, not 0"),
        (lambda: Fixed(10**400), f"duration must be {SECONDS}, not a whole number of 1329 bits"),
        (lambda: Fixed(0), f"duration must be {SECONDS}, not 0"),
        (lambda: schedule(-1), f"open_for must be {SECONDS}, not -1"),
        (lambda: Steps(), "Steps needs at least one duration, a finite number of seconds above 0"),
        (lambda: Steps(1.0, 0.0), f"durations must be {SECONDS}, not 0.0"),
        (lambda: Exponential(0.0), f"first must be {SECONDS}, not 0.0"),
        (lambda: Exponential(1.0, factor=-1.0), f"factor must be {SECONDS}, not -1.0"),
        (lambda: Exponential(1.0, factor=0.999), "factor must be a finite number, 1 or more, not 0.999"),
        (lambda: Exponential(1.0, maximum=inf), f"maximum must be {SECONDS}, not inf"),
        (lambda: Exponential(5.0, maximum=4.999), "maximum must be at least first (5.0 s), not 4.999"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_what_is_allowed(make: Make, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (checks.seconds, 0.001),
        (checks.seconds, 1),
        (checks.wait, 0),
        (checks.wait, 0.001),
        (checks.wait, inf),
        (checks.fraction, 0.001),
        (checks.fraction, 1),
        (checks.spread, 0),
        (checks.spread, 0.999),
    ],
)
def test_a_number_within_bounds_comes_back_as_a_float(check: Callable[[str, object], float], value: float) -> None:
    checked = check("argument", value)
    assert checked == value
    assert isinstance(checked, float)


def test_whole_numbers_are_allowed_up_to_both_bounds() -> None:
    assert checks.count("count", 1) == 1
    assert checks.count("count", 10**9) == 10**9
    assert [checks.count("count", value, at_least=2, at_most=4) for value in (2, 3, 4)] == [2, 3, 4]


def test_the_tightest_settings_that_are_allowed() -> None:
    assert FailureCount(10, LastCalls(10)).failures == 10
    assert FailureCount(11, LastSeconds(1)).failures == 11
    assert FailureRate(1, LastCalls(1), 1).minimum_calls == 1
    assert FailureRate(1, LastSeconds(1), 11).minimum_calls == 11
    assert SlowCallRate(1, 0.001, LastCalls(1), 1, count_in_flight=True).count_in_flight is True
    assert Trials(1, 1, 1, 0.001, 1).max_inconclusive == 1
    assert Exponential(5.0, factor=1, maximum=5.0).seconds(9) == 5.0
    assert Exponential(4.0, factor=1.5, maximum=300.0).seconds(1) == 6.0
    assert LastSeconds(0.001, 1).buckets == 1


def test_defaults() -> None:
    assert ConsecutiveFailures().failures == 5
    assert FailureRate(0.5, LastCalls(10)).minimum_calls == 10
    assert astuple(SlowCallRate(0.5, 2.0, LastSeconds(60)))[3:] == (10, False)
    assert LastSeconds(60).buckets == 10
    assert astuple(Exponential(1.0)) == (1.0, 2.0, 300.0)
    assert astuple(Trials()) == (1, 1, None, None, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LastCalls(3),
        lambda: LastSeconds(3),
        lambda: ConsecutiveFailures(),
        lambda: FailureCount(1, LastCalls(3)),
        lambda: FailureRate(0.5, LastCalls(10)),
        lambda: SlowCallRate(0.5, 1.0, LastCalls(10)),
        lambda: ConsecutiveFailures() | ConsecutiveFailures(),
        lambda: Fixed(1.0),
        lambda: Steps(1.0),
        lambda: Exponential(1.0),
        lambda: Trials(),
        lambda: Rules((), Fixed(1.0), 0.0, Trials()),
        lambda: Reading(ConsecutiveFailures(), 0, 0, False),
        lambda: Transition(State.CLOSED, State.OPEN, Cause.MANUAL, "", 0.0, ()),
        lambda: Forfeit(1, 0.0),
    ],
    ids=range(15),
)
def test_settings_and_records_are_values(make: Make) -> None:
    made = make()
    assert made == make()
    assert not hasattr(made, "__dict__")
    name = type(made).__slots__[0]  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        setattr(made, name, 5)


def test_a_transition_is_real_and_the_first_one_unless_it_says_otherwise() -> None:
    made = Transition(State.CLOSED, State.FORCED_OPEN, Cause.MANUAL, "by hand", 1.0, ())
    assert (made.open_for, made.attempt, made.shadow) == (None, 0, False)
    assert Totals() == (0, 0, 0, 0, 0, 0)


def test_words_for_metrics_and_logs() -> None:
    assert {*State} == {"closed", "open", "half_open", "forced_open", "disabled", "metrics_only"}
    assert {*Outcome} == {"success", "failure", "ignored", "cancelled"}
    assert {*Cause} == {"tripped", "hinted", "due", "trial_failed", "lease_expired", "inconclusive", "recovered", "manual"}
    assert all(word.name.lower() == word for words in (State, Outcome, Cause) for word in words)


def test_trials_by_default_must_all_succeed_and_may_be_inconclusive_twice_each() -> None:
    trials = Trials(3)
    assert (trials.successes_to_close, trials.neutral_to_open) == (3, 6)
    trials = Trials(3, required=2, max_inconclusive=1)
    assert (trials.successes_to_close, trials.neutral_to_open) == (2, 1)


def test_a_number_is_a_fixed_schedule_of_that_many_seconds() -> None:
    assert schedule(7) == Fixed(7.0)
    assert [schedule(7).seconds(attempt) for attempt in (0, 1, 100)] == [7.0, 7.0, 7.0]


def test_conditions_say_what_they_are() -> None:
    rate = FailureRate(0.25, LastSeconds(1.5), minimum_calls=20)
    slow = SlowCallRate(1 / 3, 0.5, LastCalls(50))
    assert str(ConsecutiveFailures(3)) == "3 failures in a row"
    assert str(FailureCount(3, LastCalls(20))) == "3 failures in the last 20 calls"
    assert str(rate) == "25.0% of at least 20 calls failed, in the last 1.5 seconds"
    assert str(slow) == "33.3% of at least 10 calls took 0.5 s or longer, in the last 50 calls"
    assert str(ConsecutiveFailures(3) | rate) == f"3 failures in a row, or {rate}"


def test_joining_keeps_the_order_and_stays_flat() -> None:
    first, second, third = ConsecutiveFailures(1), ConsecutiveFailures(2), ConsecutiveFailures(3)
    assert first | (second | third) == AnyOf((first, second, third))
    assert (first | second) | third == AnyOf((first, second, third))
    assert any_of() == AnyOf(())


def test_slow_is_what_is_slow_to_any_condition() -> None:
    window = LastCalls(10)
    assert slow_after((ConsecutiveFailures(), FailureCount(3, window))) == inf
    assert slow_after((SlowCallRate(0.5, 3.0, window), ConsecutiveFailures(), SlowCallRate(0.5, 2.0, window))) == 2.0
