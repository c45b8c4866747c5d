"""The retry budget in use: what it grants, what it tells, and that no call is lost between threads."""

import sys
import threading
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from aiobreaker.budget import BudgetSnapshot, RetryBudget
from aiobreaker.testing import ManualClock


def test_by_default_a_fifth_of_the_calls_and_one_per_second() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock)
    assert budget.balance == 10
    for _ in range(5):
        budget.deposit()
    assert budget.balance == 11
    assert [budget.withdraw() for _ in range(12)] == [True] * 11 + [False]
    assert budget.balance == 0


def test_it_recovers_when_the_window_has_passed() -> None:
    clock = ManualClock(50.0)
    budget = RetryBudget(0.5, minimum_per_second=0, window=4.0, clock=clock)
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    assert not budget.withdraw()
    clock.advance(4.0)
    assert budget.balance == 0, "the first calls have left too"
    budget.deposit()
    budget.deposit()
    assert budget.withdraw()


def test_the_snapshot_tells_the_window_and_the_whole_past() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.5, minimum_per_second=0.1, clock=clock)
    for _ in range(4):
        budget.deposit()
    granted = [budget.withdraw() for _ in range(5)]
    assert granted == [True, True, True, False, False]
    seen = budget.snapshot()
    assert seen == BudgetSnapshot(balance=0, first_calls=4, extra_calls=3, granted=3, refused=2)
    clock.advance(10.0)
    assert budget.snapshot() == BudgetSnapshot(balance=1, first_calls=0, extra_calls=0, granted=3, refused=2)
    with pytest.raises(FrozenInstanceError):
        seen.balance = 5  # type: ignore[misc]


def test_the_real_clock_is_the_usual_one() -> None:
    budget = RetryBudget(1.0, minimum_per_second=0, window=3600.0)
    budget.deposit()
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_it_says_what_it_is() -> None:
    assert repr(RetryBudget(0.1, window=5)) == "RetryBudget(0.1, minimum_per_second=1.0, window=5)"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"ratio": 2}, ValueError, "ratio must be a fraction from 0 to 1, not 2"),
        ({"window": "10"}, TypeError, "window must be a finite number of seconds above 0, not '10'"),
        ({"clock": 5.0}, TypeError, "clock must be a function without arguments that returns a number, not 5.0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        RetryBudget(**settings)
    assert str(raised.value) == message


def test_no_call_is_lost_and_none_is_granted_twice_between_threads() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.5, minimum_per_second=0, clock=clock)
    each, granted = 5000, []
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(each):
            budget.deposit()
            granted.append(budget.withdraw())

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    seen = budget.snapshot()
    assert seen.first_calls == 4 * each
    assert seen.extra_calls == sum(granted) == seen.granted <= 2 * each
    assert seen.refused == 4 * each - sum(granted)
    assert seen.balance == 2 * each - sum(granted)


def test_a_slice_that_another_thread_has_just_begun_is_begun_once() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.2, clock=clock)
    budget._roll(0.0)
    begun = budget._firsts.roll_at
    budget._roll(0.5)  # too late: it read the clock before the other was done
    assert budget._firsts.roll_at == begun
    budget.deposit()
    assert budget.snapshot().first_calls == 1
