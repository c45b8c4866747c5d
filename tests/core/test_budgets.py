"""The rule of a retry budget, against a slow model that remembers every call, and against the rule itself at every moment."""

from fractions import Fraction
from math import floor, inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker.core.budgets import Allowance

from .strategies import examples

RATIOS = st.sampled_from([0.0, 0.1, 0.2, 0.29, 0.5, 0.7, 1.0])
FLOORS = st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.0])
WINDOW = 10.0
WIDTH = 1.0
# sixteenths are exact, so the model sees the same moments
STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.0625, 0.5, 1.0, 3.0, 9.0, 10.0]), st.booleans(), st.integers(1, 12)), max_size=60
)


class Model:
    """Every call with its moment; slices are found anew each time."""

    def __init__(self, ratio: float, minimum_per_second: float) -> None:
        self.ratio = Fraction(str(ratio))
        self.reserve = Fraction(str(minimum_per_second)) * Fraction(WINDOW)
        self.firsts: list[float] = []
        self.extras: list[float] = []

    @staticmethod
    def slices(moments: list[float]) -> list[list[float]]:
        found: list[list[float]] = []
        for moment in moments:
            if not found or moment >= found[-1][0] + WIDTH:
                found.append([])
            found[-1].append(moment)
        return found

    def counts(self, now: float) -> tuple[int, int]:
        firsts = sum(len(each) for each in self.slices(self.firsts) if now < each[0] + WINDOW)
        extras = sum(len(each) for each in self.slices(self.extras) if now < each[-1] + WINDOW)
        return firsts, extras

    def balance(self, now: float) -> int:
        firsts, extras = self.counts(now)
        return max(0, floor(self.ratio * firsts + self.reserve) - extras)

    def within(self, moments: list[float], now: float, seconds: float) -> int:
        return sum(now - moment < seconds for moment in moments)


def deposit(allowance: Allowance, now: float) -> None:
    if now >= allowance.firsts.roll_at:
        allowance.roll(now)
    allowance.first_calls += 1


@settings(max_examples=examples(200), deadline=None)
@given(ratio=RATIOS, floor_rate=FLOORS, steps=STEPS)
def test_it_allows_what_the_slow_model_allows(ratio: float, floor_rate: float, steps: list[tuple[float, bool, int]]) -> None:
    if not ratio and not floor_rate:
        return
    allowance, model = Allowance(ratio, floor_rate, WINDOW), Model(ratio, floor_rate)
    now = 100.0
    for passed, first, times in steps:
        now += passed
        for _ in range(times):
            assert allowance.balance(now) == model.balance(now)
            assert allowance.counts(now) == model.counts(now)
            if first:
                deposit(allowance, now)
                model.firsts.append(now)
            else:
                allowed = bool(model.balance(now))
                assert allowance.withdraw(now) is allowed
                if allowed:
                    model.extras.append(now)


@settings(max_examples=examples(200), deadline=None)
@given(ratio=RATIOS, floor_rate=FLOORS, steps=STEPS)
def test_the_rule_holds_at_every_moment_and_is_not_much_stricter_than_it_says(
    ratio: float, floor_rate: float, steps: list[tuple[float, bool, int]]
) -> None:
    if not ratio and not floor_rate:
        return
    allowance, seen = Allowance(ratio, floor_rate, WINDOW), Model(ratio, floor_rate)
    now = 0.0
    for passed, first, times in steps:
        now += passed
        for _ in range(times):
            if first:
                deposit(allowance, now)
                seen.firsts.append(now)
            elif allowance.withdraw(now):
                seen.extras.append(now)
                allowed = seen.ratio * seen.within(seen.firsts, now, WINDOW) + seen.reserve
                assert seen.within(seen.extras, now, WINDOW) <= allowed
            else:
                certain = seen.ratio * seen.within(seen.firsts, now, WINDOW - WIDTH) + seen.reserve
                assert seen.within(seen.extras, now, WINDOW + WIDTH) + 1 > certain


def test_a_ratio_that_is_no_exact_number_still_allows_whole_calls() -> None:
    allowance = Allowance(0.29, 0, WINDOW)
    for _ in range(99):
        deposit(allowance, 5.0)
    assert allowance.balance(5.0) == 28
    deposit(allowance, 5.0)
    assert allowance.balance(5.0) == 29


def test_what_is_exactly_one_window_old_is_out() -> None:
    allowance = Allowance(0.5, 0.1, WINDOW)
    deposit(allowance, 0.0)
    deposit(allowance, 0.0)
    assert [allowance.withdraw(0.0) for _ in range(3)] == [True, True, False]
    assert allowance.counts(9.999) == (2, 2)
    assert allowance.counts(10.0) == (0, 0)
    assert allowance.balance(10.0) == 1


def test_first_calls_leave_before_their_time_and_extra_calls_after_it_by_less_than_a_slice() -> None:
    allowance = Allowance(1.0, 0, WINDOW)
    deposit(allowance, 0.0)
    deposit(allowance, 0.9)
    assert allowance.withdraw(0.0)
    assert allowance.withdraw(0.9)
    assert allowance.counts(9.9) == (2, 2)
    assert allowance.counts(10.0) == (0, 2)
    assert allowance.balance(10.0) == 0
    assert allowance.counts(10.9) == (0, 0)


def test_an_extra_call_a_tenth_of_the_window_later_stands_in_a_slice_of_its_own() -> None:
    allowance = Allowance(0, 0.2, WINDOW)
    assert allowance.withdraw(0.0)
    assert allowance.withdraw(1.0)
    assert [allowance.counts(now)[1] for now in (9.999, 10.0, 10.999, 11.0)] == [2, 1, 1, 0]


def test_memory_does_not_grow_with_the_calls() -> None:
    allowance = Allowance(1.0, 1.0, WINDOW)
    for tick in range(5000):
        deposit(allowance, tick / 16)
        deposit(allowance, tick / 16)
        assert allowance.withdraw(tick / 16)
    assert len(allowance._slices) <= 12
    assert len(allowance.firsts._buckets or ()) <= 11


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ((-0.1, 1, 10), ValueError, "ratio must be a fraction from 0 to 1, not -0.1"),
        ((1.001, 1, 10), ValueError, "ratio must be a fraction from 0 to 1, not 1.001"),
        ((20, 1, 10), ValueError, "ratio must be a fraction from 0 to 1, not 20"),
        ((nan, 1, 10), ValueError, "ratio must be a fraction from 0 to 1, not nan"),
        ((True, 1, 10), TypeError, "ratio must be a fraction from 0 to 1, not True"),
        ((0.2, -1, 10), ValueError, "minimum_per_second must be a finite number of calls, 0 or more, not -1"),
        ((0.2, inf, 10), ValueError, "minimum_per_second must be a finite number of calls, 0 or more, not inf"),
        ((0.2, "1", 10), TypeError, "minimum_per_second must be a finite number of calls, 0 or more, not '1'"),
        ((0.2, 1, 0), ValueError, "window must be a finite number of seconds above 0, not 0"),
        ((0.2, 1, inf), ValueError, "window must be a finite number of seconds above 0, not inf"),
        ((0, 0, 10), ValueError, "ratio and minimum_per_second must not both be 0, or nothing would ever be allowed"),
    ],
)
def test_settings_are_checked(values: tuple[float, float, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        Allowance(*values)
    assert str(raised.value) == message


def test_the_bounds_themselves_are_allowed() -> None:
    assert Allowance(1, 0, 1).balance(0) == 0
    assert Allowance(0, 3, 2).balance(0) == 6
    assert Allowance(0, 1e308, 1e308).balance(0) == 10**15
