"""The generic cell rate algorithm: never more than the law allows, never less than it must, and nothing adds up."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from math import inf, nan, nextafter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.core.rates import Meter, Meters, Rate

TOLERANCE = Fraction(1, 900_000)  # of a call: a millionth, and some rounding

rates = st.builds(
    Rate,
    st.integers(1, 50),
    st.floats(0.01, 1000),
    st.integers(1, 8),
)
steps = st.lists(st.one_of(st.floats(0, 3), st.sampled_from([0.0, 0.0, 1.0, 2.0, 0.5])), max_size=40)
jumps = st.lists(st.one_of(st.floats(-5, 5), st.sampled_from([0.0, 1.0, -1.0, -1e9, 1e9])), max_size=40)


class Waiters:
    def __init__(self, waiting: int) -> None:
        self.waiting = waiting


def new_meter() -> Meter[Waiters]:
    return Meter()


def readings(rate: Rate, moves: list[float], start: float = 0.0) -> Iterator[float]:
    """What a clock shows that moves so many intervals at a time."""
    now = start
    for move in moves:
        now += move * rate.interval
        yield now


def allowed(rate: Rate, first: float, last: float) -> Fraction:
    """How many calls may pass from one moment to another, in exact numbers."""
    return rate.burst + (Fraction(last) - Fraction(first)) * rate.calls / Fraction(rate.per)


def check_law(rate: Rate, passed: list[float]) -> None:
    for (i, first), (j, last) in combinations(enumerate(passed), 2):
        assert j - i + 1 <= allowed(rate, first, last) + TOLERANCE


# -- one meter


@given(rates, jumps, st.sampled_from([0.0, 1e6, -1e3]))
def test_over_any_interval_no_more_pass_than_burst_and_rate_allow_whatever_the_clock_does(
    rate: Rate, moves: list[float], start: float
) -> None:
    meter = new_meter()
    passed: list[float] = []
    latest = -inf  # that the clock has ever shown: while it is behind, its time stands still
    for now in readings(rate, moves, start):
        latest = max(latest, now)
        if not rate.take(meter, now):
            passed.append(latest)
    check_law(rate, passed)


@given(rates, steps)
def test_a_call_is_turned_away_only_if_it_would_break_the_law(rate: Rate, moves: list[float]) -> None:
    meter = new_meter()
    passed: list[float] = []
    for now in readings(rate, moves):
        most = min(
            (allowed(rate, then, now) - (len(passed) - i) for i, then in enumerate(passed)), default=Fraction(rate.burst)
        )
        passes = not rate.take(meter, now)
        if abs(most - 1) > TOLERANCE:
            assert passes == (most > 1)
        if passes:
            passed.append(now)


@given(rates, steps, st.floats(0, 1))
def test_the_delay_is_exact(rate: Rate, moves: list[float], share: float) -> None:
    meter = new_meter()
    for now in readings(rate, moves):
        room = rate.room(meter, now)
        assert (rate.delay(meter, now) == 0.0) == (room > 0)
        delay = rate.take(meter, now)
        assert (delay == 0.0) == (room > 0)
        if delay:
            assert rate.delay(meter, now + delay) == 0.0
            assert rate.delay(meter, now + delay * share) == pytest.approx(delay * (1 - share), abs=3e-6 * rate.interval)


@given(rates, steps)
def test_there_is_room_for_as_many_as_pass(rate: Rate, moves: list[float]) -> None:
    meter = new_meter()
    for now in readings(rate, moves):
        rate.take(meter, now)
        room = rate.room(meter, now)
    room = rate.room(meter, 0.0) if not moves else room
    passed = 0
    while not rate.take(meter, now if moves else 0.0):
        passed += 1
    assert passed == room


def test_a_burst_and_then_one_at_a_time() -> None:
    rate, meter = Rate(10, 1.0, 3), new_meter()
    assert [rate.take(meter, 5.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]
    assert [rate.take(meter, now) for now in (5.1, 5.2, 5.3)] == [0.0] * 3
    assert rate.take(meter, 5.35) == pytest.approx(0.05)
    assert rate.take(meter, 5.4) == 0.0
    assert [rate.take(meter, 5.7) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]


def test_by_default_all_calls_may_come_at_once() -> None:
    assert Rate(10, 1.0, None).burst == 10


def test_a_grid_of_rounded_times_is_kept_to() -> None:
    rate, meter = Rate(10, 1.0, 1), new_meter()
    now = 1e6
    for _ in range(1000):
        assert rate.take(meter, now) == 0.0
        assert rate.take(meter, now) > 0
        now += 0.1


@pytest.mark.parametrize("start", [0.0, 12345.678, 1e6])
@pytest.mark.parametrize(("calls", "per"), [(3, 1.0), (10, 0.1), (7, 60.0), (1000, 1.0)])
def test_nothing_has_drifted_after_a_thousand_million_calls_in_a_row(calls: int, per: float, start: float) -> None:
    rate, meter = Rate(calls, per, 5), new_meter()
    rate.take(meter, start)
    meter.used = float(10**9)
    due = Fraction(start) + (10**9 - 4) * Fraction(per) / calls
    interval = Fraction(per) / calls
    for _ in range(2000):
        # floats that surely are on one side, however coarse they are here
        margin = Fraction(max(3e-6 * rate.interval, 4e-16 * float(due)))
        assert rate.take(meter, float(due - margin)) > 0
        assert rate.take(meter, float(due + margin)) == 0.0
        due += interval


def test_a_clock_that_jumps_backwards_hands_out_nothing_until_it_has_caught_up() -> None:
    rate, meter = Rate(1, 1.0, 2), new_meter()
    assert [rate.take(meter, 100.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert rate.take(meter, 40.0) == pytest.approx(61.0)
    assert rate.room(meter, 40.0) == 0
    assert rate.take(meter, 101.0) == 0.0
    assert rate.take(meter, 101.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ((0, 1.0, 1), ValueError, "calls must be a whole number from 1 to 1000000000, not 0"),
        ((1.5, 1.0, 1), TypeError, "calls must be"),
        ((True, 1.0, 1), TypeError, "calls must be"),
        ((10**10, 1.0, 1), ValueError, "calls must be"),
        ((1, 0, 1), ValueError, "per must be a finite number of seconds above 0, not 0"),
        ((1, inf, 1), ValueError, "per must be"),
        ((1, nan, 1), ValueError, "per must be"),
        ((1, "1", 1), TypeError, "per must be"),
        ((1, 1.0, 0), ValueError, "burst must be"),
        ((1, 1.0, 2.0), TypeError, "burst must be"),
        ((1, 1.0, 10**9 + 1), ValueError, "burst must be a whole number from 1 to 1000000000, not 1000000001"),
        ((10, 1e-9, 1), ValueError, "per must be long enough for at most 1000000000 calls per second, not 1e-09 for 10 calls"),
    ],
)
def test_settings_are_checked(settings: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Rate(*settings)


def test_the_bounds_themselves_are_allowed() -> None:
    fastest = Rate(10**9, 1.0, 10**9)
    assert (fastest.calls, fastest.per, fastest.burst) == (10**9, 1.0, 10**9)


def test_a_call_may_come_a_millionth_early_but_no_earlier() -> None:
    rate, meter = Rate(1, 1.0, 1), new_meter()
    early = 0.999999
    assert early + rate.slack == 1.0  # exactly, so this is the very last that conforms
    assert rate.take(meter, 0.0) == 0.0
    assert rate.delay(meter, nextafter(early, 0)) == pytest.approx(1e-6)
    assert rate.take(meter, nextafter(early, 0)) == pytest.approx(1e-6)
    assert rate.delay(meter, early) == 0.0
    assert rate.take(meter, early) == 0.0
    assert rate.take(meter, early) == pytest.approx(1.000001)  # it has been counted


# -- one for each key


@given(rates, st.integers(1, 4), st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 2)), max_size=60))
def test_every_key_keeps_the_law_however_few_meters_there_are(
    rate: Rate, max_keys: int, calls: list[tuple[str, float]]
) -> None:
    meters: Meters[Waiters] = Meters(rate, max_keys)
    passed: dict[str, list[float]] = {}
    times = readings(rate, [move for _, move in calls])
    for (key, _), now in zip(calls, times, strict=True):
        if not rate.take(meters.find(key, now), now):
            passed.setdefault(key, []).append(now)
        assert len(meters.by_key) <= max_keys
    for times_of_key in passed.values():
        check_law(rate, times_of_key)


@given(rates, st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 2)), max_size=60))
def test_with_room_for_all_every_key_is_as_if_alone(rate: Rate, calls: list[tuple[str, float]]) -> None:
    meters: Meters[Waiters] = Meters(rate, 6)
    alone = {key: new_meter() for key in "abcdef"}
    times = readings(rate, [move for _, move in calls])
    for (key, _), now in zip(calls, times, strict=True):
        assert rate.take(meters.find(key, now), now) == pytest.approx(rate.take(alone[key], now))


def test_keys_that_have_been_quiet_are_forgotten() -> None:
    rate = Rate(10, 1.0, 10)  # what one call has used is over after a tenth of a second
    meters: Meters[Waiters] = Meters(rate, 10**6)
    most = 0
    for number in range(20_000):
        now = number / 1000  # so a hundred keys are in use
        assert rate.take(meters.find(number, now), now) == 0.0
        most = max(most, len(meters.by_key))
    assert most <= 202
    meters.find("late", 100.0)
    assert len(meters.by_key) <= 201


def test_busy_keys_among_many_others_stay() -> None:
    rate = Rate(1, 1.0, 2)
    meters: Meters[Waiters] = Meters(rate, 100)
    busy = meters.find("busy", 0.0)
    passed = 0
    for number in range(5_000):
        now = number / 100
        passed += not rate.take(busy, now)
        rate.take(meters.find(number, now), now)
        assert meters.find("busy", now) is busy
    assert passed == 2 + 49  # at 1, 2, ... 49


def test_new_keys_share_a_meter_while_there_is_no_room() -> None:
    rate = Rate(1, 1.0, 2)
    meters: Meters[Waiters] = Meters(rate, 2)
    for key in "ab":
        assert [rate.take(meters.find(key, 0.0), 0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert meters.find("c", 0.0) is meters.find("d", 0.0) is meters.shared
    assert [rate.take(meters.find(key, 0.5), 0.5) for key in "cdc"] == [0.0, 0.0, 1.0]
    assert meters.find("a", 0.5) is not meters.shared
    own = meters.find("c", 2.0)  # "a" and "b" are as good as new
    assert own is not meters.shared
    assert rate.room(own, 2.0) == 1  # what it used may have been all that was used of the shared one
    assert [rate.take(own, 2.0) for _ in range(2)] == [0.0, pytest.approx(0.5)]


def test_a_key_that_somebody_waits_for_is_kept() -> None:
    rate = Rate(1, 1.0, 1)
    meters: Meters[Waiters] = Meters(rate, 10)
    kept = meters.find("kept", 0.0)
    waiters = kept.queue = Waiters(1)
    meters.find("another", 0.0)
    assert meters.find("kept", 5.0) is kept
    waiters.waiting = 0
    meters.find("a third", 5.0)
    assert meters.find("kept", 5.0) is not kept


def test_whoever_still_holds_a_dropped_meter_cannot_count_with_it() -> None:
    rate = Rate(1, 1.0, 1)
    meters: Meters[Waiters] = Meters(rate, 10)
    held = meters.find("held", 0.0)
    meters.find("another", 5.0)
    assert rate.take(held, 5.0) == inf
    assert rate.take(meters.find("held", 5.0), 5.0) == 0.0


class SlowKey:
    """Comparing it runs code, in the middle of which other threads may come."""

    def __init__(self) -> None:
        self.meanwhile: Any = None

    def __hash__(self) -> int:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return 1


def test_a_key_that_is_being_dropped_uses_the_shared_meter() -> None:
    rate = Rate(1, 1.0, 1)
    meters: Meters[Waiters] = Meters(rate, 10)
    key = SlowKey()
    meters.find(key, 0.0)
    seen = []
    key.meanwhile = lambda: seen.append(meters.find(key, 5.0))
    meters.find("another", 5.0)
    assert seen == [meters.shared]
    assert key not in meters.by_key
    assert meters.find(key, 5.0) not in seen


def test_two_threads_that_find_the_same_new_key_get_the_same_meter() -> None:
    rate = Rate(1, 1.0, 1)
    meters: Meters[Waiters] = Meters(rate, 10)
    key = SlowKey()
    seen = []

    def as_the_other_thread() -> None:
        key.meanwhile = lambda: seen.append(meters.find(key, 0.0))

    key.meanwhile = as_the_other_thread  # not when it is looked up, but when it is put in
    found = meters.find(key, 0.0)
    assert seen == [found]
    assert len(meters._order) == len(meters.by_key) == 1


def test_the_number_of_keys_is_checked() -> None:
    with pytest.raises(ValueError, match="max_keys must be a whole number, 1 or more, not 0"):
        Meters(Rate(1, 1.0, 1), 0)
