"""The running quantile, against sorted samples, and on distributions that change."""

import random
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from fractions import Fraction
from math import ceil, inf, nan

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiobreaker.core.quantiles import Quantile, RunningQuantile

PERCENT = st.integers(1, 99)
VALUES = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0, 2.0]), max_size=120)


@given(percent=PERCENT, extra=st.integers(0, 30), values=VALUES)
@example(percent=7, extra=0, values=[float(n) for n in range(100)])
@example(percent=90, extra=0, values=[float(n) for n in range(10)])
def test_it_is_the_nearest_rank_of_the_last_values(percent: int, extra: int, values: list[float]) -> None:
    exact = Fraction(percent, 100)
    needed = ceil(1 / (1 - exact))
    window = needed + extra
    running = RunningQuantile(Quantile(percent / 100, window=window))
    for seen in range(1, len(values) + 1):
        answer = running.add(values[seen - 1])
        last = sorted(values[max(0, seen - window) : seen])
        assert len(running) == len(last)
        assert answer == running.value == (inf if seen < needed else last[ceil(exact * len(last)) - 1])


@given(values=VALUES, minimum=st.floats(0, 1e6))
def test_it_is_never_below_its_minimum(values: list[float], minimum: float) -> None:
    bare, bounded = RunningQuantile(Quantile(0.5)), RunningQuantile(Quantile(0.5, minimum=minimum))
    for value in values:
        assert bounded.add(value) == max(minimum, bare.add(value))


def test_until_enough_is_known_it_is_what_it_began_with() -> None:
    running = RunningQuantile(Quantile(0.95, initial=3.0))
    assert running.value == 3.0
    assert [running.add(1.0) for _ in range(20)] == [3.0] * 19 + [1.0]
    assert RunningQuantile(Quantile(0.95, initial=3.0, minimum=4.0)).value == 4.0
    assert RunningQuantile(Quantile(0.95)).value == inf


Draw = Callable[[random.Random], float]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda r: r.expovariate(10), lambda r: r.expovariate(1)),
        (lambda r: r.expovariate(1), lambda r: r.expovariate(10)),
        (lambda r: r.uniform(0, 1), lambda r: r.uniform(5, 6)),
        (lambda r: r.lognormvariate(0, 1), lambda r: r.choice([0.01, 3.0])),
    ],
    ids=["slower", "faster", "moved", "two humps"],
)
def test_it_follows_a_change_within_its_window(before: Draw, after: Draw) -> None:
    chance = random.Random(7)
    running = RunningQuantile(Quantile(0.95, window=400))
    for _ in range(5000):
        running.add(before(chance))
    for _ in range(400):
        running.add(after(chance))
    fresh = sorted(after(chance) for _ in range(20_000))
    assert fresh[ceil(0.91 * 20_000)] <= running.value <= fresh[ceil(0.98 * 20_000)]


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"fraction": 0}, ValueError, "fraction must be a fraction above 0 and below 1, not 0"),
        ({"fraction": 1.0}, ValueError, "fraction must be"),
        ({"fraction": nan}, ValueError, "fraction must be"),
        ({"fraction": True}, TypeError, "fraction must be"),
        ({"fraction": "0.5"}, TypeError, "fraction must be a fraction above 0 and below 1, not '0.5'"),
        ({"fraction": 0.5, "minimum": -1}, ValueError, "minimum must be"),
        ({"fraction": 0.5, "initial": -1}, ValueError, "initial must be"),
        ({"fraction": 0.5, "initial": "1"}, TypeError, "initial must be"),
        ({"fraction": 0.5, "window": 1.5}, TypeError, "window must be"),
        ({"fraction": 0.95, "window": 19}, ValueError, r"window must be at least 1 / \(1 - fraction\), here 20 calls, not 19"),
        ({"fraction": 0.9, "window": 9}, ValueError, "here 10 calls"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Quantile(**settings)  # type: ignore[arg-type]


def test_the_defaults() -> None:
    quantile = Quantile(0.95)
    assert (quantile.minimum, quantile.initial, quantile.window) == (0.0, None, 500)
    with pytest.raises(FrozenInstanceError):
        quantile.window = 5  # type: ignore[misc]


def test_it_says_what_it_is() -> None:
    assert str(Quantile(0.95)) == "the 0.95 quantile of the last 500 calls"
    assert Quantile(0.95, window=20).needed == 20
