"""The probability is right to the call against a slow model, and settles where the book says that it does."""

import random
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.core.throttling import Acceptance


def test_the_formula() -> None:
    """max(0, (requests - k x accepts) / (requests + 1)), worked out by hand."""
    acceptance = Acceptance(2, 120)
    assert acceptance.probability(0.0) == 0
    acceptance.reject(0.0)
    assert acceptance.probability(0.0) == 1 / 2
    acceptance.accept(0.0)
    assert acceptance.probability(0.0) == 0
    for _ in range(6):
        acceptance.reject(0.0)
    assert acceptance.probability(0.0) == 6 / 9
    assert acceptance.counts(0.0) == (8, 1)


def test_an_entry_exactly_one_window_old_is_out() -> None:
    acceptance = Acceptance(2, 120)
    acceptance.reject(5.0)
    assert acceptance.counts(124.9) == (1, 0)
    assert acceptance.counts(125.0) == (0, 0)
    assert acceptance.rejects == 0


def test_what_happened_a_slice_apart_leaves_a_slice_apart() -> None:
    acceptance = Acceptance(1.5, 60)
    for second in range(60):
        acceptance.accept(second)
    assert acceptance.counts(59.9) == (60, 60)
    assert [acceptance.counts(second)[0] for second in (60, 61, 90, 119)] == [59, 58, 29, 0]


def test_what_happened_within_a_slice_leaves_with_the_first_of_it() -> None:
    acceptance = Acceptance(1.5, 60)
    acceptance.accept(0.0)
    acceptance.reject(0.9)
    assert acceptance.counts(59.9) == (2, 1)
    assert acceptance.counts(60.0) == (0, 0)


class Remembered:
    """Every call one by one; those that came within a slice of the first of them leave with it."""

    def __init__(self, k: float, window: float) -> None:
        self.k, self.window = k, window
        self.slices: list[tuple[float, list[bool]]] = []

    def add(self, now: float, accepted: bool) -> None:
        if not self.slices or now >= self.slices[-1][0] + self.window / 60:
            self.slices.append((now, []))
        self.slices[-1][1].append(accepted)

    def probability(self, now: float) -> float:
        calls = [accepted for start, calls in self.slices if now < start + self.window for accepted in calls]
        return max(0.0, (len(calls) - self.k * sum(calls)) / (len(calls) + 1))


steps = st.tuples(st.sampled_from([0.0, 0.1, 1.0, 2.0, 2.1, 30.0, 119.0, 120.0, 500.0]), st.sampled_from([True, False, None]))


@given(st.lists(steps, max_size=150), st.sampled_from([1.0, 1.1, 2.0, 3]), st.sampled_from([60.0, 120.0]))
def test_the_probability_is_that_of_a_slow_model(script: list[tuple[float, bool | None]], k: float, window: float) -> None:
    acceptance, model = Acceptance(k, window), Remembered(k, window)
    now = 1000.0
    for step, accepted in script:
        now += step
        if accepted is None:
            assert acceptance.probability(now) == model.probability(now)
        else:
            (acceptance.accept if accepted else acceptance.reject)(now)
            model.add(now, accepted)
        still_in = sum(calls.count(False) for start, calls in model.slices if now < start + window)
        assert acceptance.rejects >= still_in
    assert acceptance.probability(now) == model.probability(now)


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=100))
def test_a_dependency_that_accepts_every_call_gets_every_call(script: list[tuple[float, bool]]) -> None:
    acceptance = Acceptance(1, 60)
    now = 0.0
    for step, looked in script:
        now += step
        acceptance.accept(now)
        if looked:
            assert acceptance.probability(now) == 0
    assert acceptance.rejects == 0


@pytest.mark.parametrize("k", [1.1, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("overload", [5, 20])
def test_a_dependency_gets_k_times_what_it_accepts(k: float, overload: float) -> None:
    """What the book says: with K = 2 it turns down one for each that it accepts, with 1.1 one for ten."""
    chance = random.Random(1)
    acceptance = Acceptance(k, 120)
    sent = accepted = 0
    for second in range(600):
        room = 20  # so many per second it accepts
        for call in range(int(20 * overload)):
            now = second + call / (20 * overload)
            if chance.random() < acceptance.probability(now):
                acceptance.reject(now)
                continue
            well = room > 0
            room -= 1
            (acceptance.accept if well else acceptance.reject)(now)
            if second >= 240:
                sent += 1
                accepted += well
    assert accepted > (0.99 if k > 1.2 else 0.9) * 360 * 20  # a low k leaves some of it unused
    assert sent / accepted == pytest.approx(k, rel=0.05)


def windows_until_all_pass(k: float, seed: int) -> float:
    """After an outage in which nothing was accepted."""
    chance = random.Random(seed)
    acceptance = Acceptance(k, 30)
    for call in range(450):
        acceptance.reject(call / 10)
    now = 45.0
    while acceptance.probability(now):
        (acceptance.reject if chance.random() < acceptance.probability(now) else acceptance.accept)(now)
        now += 0.1
    return (now - 45) / 30


def test_after_an_outage_it_takes_some_windows_until_all_pass_again() -> None:
    """The formula is for overload: with nothing accepted it lets about one call through in a window."""
    assert all(1 < windows_until_all_pass(2, seed) < 10 for seed in range(10))
    assert all(10 < windows_until_all_pass(1.1, seed) < 60 for seed in range(3))


@pytest.mark.parametrize("k", [0.9, 0, -1, inf, nan])
def test_k_is_one_or_more(k: float) -> None:
    with pytest.raises(ValueError, match="k must be a finite number, 1 or more, not"):
        Acceptance(k, 120)


@pytest.mark.parametrize("k", [True, "2", None])
def test_k_is_a_number(k: object) -> None:
    with pytest.raises(TypeError, match="k must be a finite number, 1 or more, not"):
        Acceptance(k, 120)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [0, -1, inf])
def test_the_window_is_a_time(window: float) -> None:
    with pytest.raises(ValueError, match="window must be a finite number of seconds above 0"):
        Acceptance(2, window)
