"""The small parts: schedules, jitter, slots, outcomes."""

import asyncio
from math import inf

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.core.outcomes import Judge, Outcome
from aiobreaker.core.schedules import Exponential, Fixed, Schedule, Steps, jittered, schedule
from aiobreaker.core.slots import Slots


@pytest.mark.parametrize(
    ("planned", "expected"),
    [
        (Fixed(3.0), [3.0, 3.0, 3.0]),
        (Steps(1.0, 2.0), [1.0, 2.0, 2.0]),
        (Exponential(1.0, factor=3.0, maximum=5.0), [1.0, 3.0, 5.0]),
        (Exponential(5.0, factor=1.0, maximum=5.0), [5.0, 5.0, 5.0]),
    ],
)
def test_schedules(planned: Schedule, expected: list[float]) -> None:
    assert [planned.seconds(attempt) for attempt in range(3)] == expected
    assert schedule(planned) is planned


def test_an_exponential_schedule_never_overflows() -> None:
    assert Exponential(1.0, factor=10.0, maximum=60.0).seconds(10_000) == 60.0


@given(st.floats(0.1, 1e6), st.floats(0, 0.99), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_spread(duration: float, spread: float, draw: float) -> None:
    assert duration * (1 - spread) <= jittered(duration, spread, draw) <= duration * (1 + spread)


def test_slots_are_limited_and_come_back_once() -> None:
    slots = Slots(2, lease=10.0)
    assert slots.take("a", 0.0)
    assert slots.take("b", 1.0)
    assert not slots.take("c", 2.0)
    assert slots.next_expiry == 10.0
    assert slots.give_back("a")
    assert not slots.give_back("a")
    assert slots.next_expiry == 11.0
    assert slots.taken == 1


def test_slots_forfeit_at_their_lease() -> None:
    slots = Slots(3, lease=10.0)
    for holder, now in [("a", 0.0), ("b", 1.0), ("c", 5.0)]:
        slots.take(holder, now)
    assert slots.forfeit(9.9) == 0
    assert slots.forfeit(11.0) == 2
    assert not slots.give_back("a")
    assert slots.next_expiry == 15.0
    slots.give_back("c")
    assert slots.next_expiry == inf


class Transient(Exception): ...


JUDGE = Judge(failure_on=(OSError, ExceptionGroup), ignore=Transient, failure_if=None)
CANCELLED = asyncio.CancelledError


def test_precedence_is_ignored_then_failure_then_success() -> None:
    assert JUDGE.error(OSError()) is Outcome.FAILURE
    assert JUDGE.error(ValueError()) is Outcome.SUCCESS
    assert JUDGE.error(Transient()) is Outcome.IGNORED
    both = Judge(failure_on=Exception, ignore=(ConnectionError, Transient), failure_if=None)
    assert both.error(ConnectionResetError()) is Outcome.IGNORED
    assert both.error(OSError()) is Outcome.FAILURE


def test_rules_can_be_functions() -> None:
    judge = Judge(failure_on=lambda error: "bad" in str(error), ignore=lambda error: "odd" in str(error), failure_if=None)
    assert judge.error(ValueError("bad")) is Outcome.FAILURE
    assert judge.error(ValueError("fine")) is Outcome.SUCCESS
    assert judge.error(ValueError("bad and odd")) is Outcome.IGNORED


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), CANCELLED()])
def test_what_is_no_exception_is_neutral(error: BaseException) -> None:
    assert JUDGE.error(error) is Outcome.IGNORED
    assert Judge(Exception, (), None).error(error) is Outcome.IGNORED


def test_cancellation_is_what_the_event_loop_cancels_with() -> None:
    assert JUDGE.error(CANCELLED(), CANCELLED) is Outcome.CANCELLED
    assert JUDGE.error(CANCELLED(), trio.Cancelled) is Outcome.IGNORED


@pytest.mark.parametrize(
    ("leaves", "outcome"),
    [
        ([OSError(), Transient(), CANCELLED()], Outcome.FAILURE),
        ([BaseExceptionGroup("", [CANCELLED(), ExceptionGroup("", [OSError()])])], Outcome.FAILURE),
        ([Transient(), Transient()], Outcome.IGNORED),
        ([Transient(), CANCELLED()], Outcome.IGNORED),
        ([CANCELLED(), CANCELLED()], Outcome.CANCELLED),
        ([CANCELLED(), KeyboardInterrupt()], Outcome.IGNORED),
        ([ValueError(), Transient()], Outcome.SUCCESS),
        ([ValueError(), OSError()], Outcome.FAILURE),
    ],
)
def test_a_group_is_judged_by_its_leaves_and_never_hides_a_failure(leaves: list[BaseException], outcome: Outcome) -> None:
    assert JUDGE.error(BaseExceptionGroup("several", leaves), CANCELLED) is outcome


def test_results_are_judged_by_their_rule_alone() -> None:
    judge = Judge(Exception, (), failure_if=lambda result: result >= 500)
    assert judge.fails(503)
    assert not judge.fails(200)
    assert not JUDGE.fails(503)
