"""The algorithms against what their originals do: limit, time and calls in flight in, limit out.

Where a fact is from the tests of Netflix's concurrency-limits, the name of the test there is told. Gradient2 has none there;
its facts are worked out by hand from the formula in its documentation.
"""

from dataclasses import FrozenInstanceError, astuple, dataclass, field
from functools import reduce
from math import inf, nan
from operator import add
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.core.limits import AIMD, Algorithm, Estimate, Gradient2, Meter, SlowAverage, Vegas

Sample = tuple[float, int, bool]
"""Milliseconds, calls in flight, dropped."""


def never() -> float:
    raise AssertionError("nothing here is left to chance")


def latest() -> float:
    """The draw after which Vegas measures anew as late as can be."""
    return 0.999


def estimate_after(algorithm: Algorithm, *samples: Sample) -> Estimate:
    estimate = algorithm.begin(latest if isinstance(algorithm, Vegas) else never)
    for milliseconds, in_flight, dropped in samples:
        estimate.take(milliseconds / 1000, in_flight, dropped)
    return estimate


def limits(algorithm: Algorithm, *samples: Sample) -> list[int]:
    """The limit after each of the samples."""
    return [int(estimate_after(algorithm, *samples[: n + 1]).value) for n in range(len(samples))]


# -- AIMD: AIMDLimitTest


def test_aimd_one_more_on_success() -> None:  # increaseOnSuccess
    assert limits(AIMD(initial_limit=20), (1, 10, False)) == [21]


def test_aimd_a_tenth_less_on_drops() -> None:  # decreaseOnDrops
    assert limits(AIMD(initial_limit=30), (0, 0, True)) == [27]


def test_aimd_no_more_than_the_maximum() -> None:  # successOverflow
    assert limits(AIMD(initial_limit=21, max_limit=21), (1, 10, False)) == [21]


def test_aimd_takes_what_lasts_longer_than_the_timeout_for_dropped() -> None:
    assert limits(AIMD(initial_limit=30, timeout=5), (5000, 30, False), (5001, 30, False)) == [31, 27]


def test_aimd_grows_only_from_half_of_the_limit_on() -> None:
    assert limits(AIMD(initial_limit=21), (1, 10, False)) == [21]
    assert limits(AIMD(initial_limit=21), (1, 11, False)) == [22]


def test_aimd_never_below_the_minimum() -> None:
    assert limits(AIMD(initial_limit=3, min_limit=2, backoff_ratio=0.5), *[(1, 3, True)] * 3) == [2, 2, 2]
    assert limits(AIMD(initial_limit=1), (1, 1, True), (1, 1, False)) == [1, 2]


# -- Vegas: VegasLimitTest

SMALL = Vegas(initial_limit=10, max_limit=20)  # alpha 3, beta 6 as there: a step is 1 below a limit of 100


def test_vegas_grows_by_beta_without_a_queue() -> None:  # increaseLimit, largeLimitIncrease
    assert limits(SMALL, (10, 10, False), (10, 11, False)) == [10, 16]
    large = Vegas(initial_limit=10000, max_limit=20000)
    assert limits(large, (10_000, 5000, False), (10_000, 6000, False)) == [10000, 10024]


def test_vegas_shrinks_by_a_step_with_a_long_queue() -> None:  # decreaseLimit
    assert limits(SMALL, (10, 10, False), (50, 11, False)) == [10, 9]


def test_vegas_rests_between_alpha_and_beta() -> None:  # noChangeIfWithinThresholds
    assert limits(SMALL, (10, 10, False), (14, 14, False)) == [10, 10]


def test_vegas_at_its_thresholds() -> None:
    """For 17 s it is 0.6, rounded up to 1: still next to none. For 40 s it is 6, and for 41 s 6.1, rounded up to 7."""
    assert limits(SMALL, (16_000, 10, False), (17_000, 10, False)) == [10, 16]
    assert limits(SMALL, (16_000, 10, False), (40_000, 10, False)) == [10, 10]
    assert limits(SMALL, (16_000, 10, False), (41_000, 10, False)) == [10, 9]


def test_vegas_shrinks_by_half_with_and_without_smoothing() -> None:  # decreaseSmoothing, decreaseWithoutSmoothing
    samples = [(10, 100, False), (20, 100, False), (20, 100, False)]
    halving = {"initial_limit": 100, "max_limit": 200, "backoff_ratio": 0.5}
    assert limits(Vegas(smoothing=0.5, **halving), *samples) == [100, 75, 56]  # type: ignore[arg-type]
    assert limits(Vegas(**halving), *samples) == [100, 50, 25]  # type: ignore[arg-type]


def test_vegas_grows_by_a_step_with_a_short_queue() -> None:
    """10 x (1 - 10/12) = 1.7, rounded up to 2: more than the threshold of 1, less than alpha."""
    assert limits(SMALL, (10, 10, False), (12, 10, False)) == [10, 11]


def test_vegas_shrinks_by_a_step_after_a_drop_however_few_are_in_flight() -> None:
    assert limits(SMALL, (10, 10, False), (10, 1, True), (0, 1, True)) == [10, 9, 8]


def test_vegas_does_not_grow_below_half_of_the_limit() -> None:
    assert limits(SMALL, (10, 10, False), (10, 4, False), (10, 5, False)) == [10, 10, 16]


def test_vegas_steps_are_the_logarithm_of_the_limit() -> None:
    """Log10RootIntFunctionTest: 1 at least, 2 for 100, 4 for 10000."""
    for limit, step in [(1, 1), (99, 1), (100, 2), (999, 2), (1000, 3), (10000, 4)]:
        large = Vegas(initial_limit=limit, max_limit=20000)
        assert limits(large, (10, limit, False), (10, limit, False)) == [limit, limit + 6 * step]


@pytest.mark.parametrize(("queue", "limit"), [(1, 112), (2, 112), (3, 102), (5, 102), (6, 100), (12, 100), (13, 98)])
def test_vegas_thresholds_are_counted_in_steps(queue: int, limit: int) -> None:
    """A step is 2 here: fast up to 2 calls that wait, by a step below 6, and less above 12."""
    slower = 10 / (1 - (queue - 0.5) / 100)
    assert limits(Vegas(initial_limit=100), (10, 100, False), (slower, 100, False)) == [100, limit]


def test_vegas_stays_within_its_bounds() -> None:
    assert limits(Vegas(initial_limit=10, max_limit=12), (10, 10, False), (10, 10, False)) == [10, 12]
    assert limits(Vegas(initial_limit=2, min_limit=2), (10, 2, False), (10, 2, True)) == [2, 2]


@pytest.mark.parametrize(("draw", "after"), [(0.0, 150), (0.5, 225), (1.0, 300)])
def test_vegas_measures_the_shortest_time_anew_after_up_to_30_times_the_limit(draw: float, after: int) -> None:
    estimate = SMALL.begin(lambda: draw)
    estimate.take(0.010, 1, 0)
    for _ in range(after - 2):
        estimate.take(0.020, 1, 0)
        assert estimate.no_load == 0.010
    estimate.take(0.020, 1, 0)
    assert estimate.no_load == 0.020
    assert estimate.value == 10


# -- Gradient2

EASE = [(100.0, 0, False)] * 10  # the long average is warm, at 100 ms; nothing has moved
HUNDRED = Gradient2(initial_limit=100)


def test_gradient2_grows_by_a_fifth_of_the_queue_size_while_nothing_is_slower() -> None:
    assert estimate_after(HUNDRED, *EASE, (100, 100, False)).value == pytest.approx(100.8)
    assert estimate_after(HUNDRED, *EASE, (150, 100, False)).value == pytest.approx(100.8)  # tolerated
    assert estimate_after(Gradient2(initial_limit=100, queue_size=0), *EASE, (100, 100, False)).value == 100


def test_gradient2_shrinks_by_how_much_slower_it_is() -> None:
    """Average 100 + 200 x 2/601 = 100.67; gradient 1.5 x 100.67 / 300 = 0.5033; 0.8 x 100 + 0.2 x (50.33 + 4)."""
    slower = estimate_after(HUNDRED, *EASE, (300, 100, False))
    assert slower.no_load == pytest.approx(0.1006656)
    assert slower.recent == pytest.approx(0.3)
    assert slower.value == pytest.approx(90.86656)


def test_gradient2_shrinks_by_a_tenth_at_most() -> None:
    """The gradient is 0.5 at least: 0.8 x 100 + 0.2 x (50 + 4)."""
    assert estimate_after(HUNDRED, *EASE, (10_000, 100, False)).value == pytest.approx(90.8)


def test_gradient2_does_not_move_below_half_of_the_limit() -> None:
    assert estimate_after(HUNDRED, *EASE, (100, 49, False)).value == 100
    assert estimate_after(HUNDRED, *EASE, (10_000, 49, False)).value == 100
    assert estimate_after(HUNDRED, *EASE, (100, 50, False)).value == pytest.approx(100.8)


def test_gradient2_lets_the_average_fall_when_load_has_gone() -> None:
    """99.7 ms is more than twice 10: 5 % less of it. For 51 ms it is not, and the average moves as it does."""
    assert estimate_after(HUNDRED, *EASE, (10, 100, False)).no_load == pytest.approx((0.1 - 0.09 * 2 / 601) * 0.95)
    assert estimate_after(HUNDRED, *EASE, (40, 100, False)).no_load == pytest.approx((0.1 - 0.06 * 2 / 601) * 0.95)
    assert estimate_after(HUNDRED, *EASE, (51, 100, False)).no_load == pytest.approx(0.1 - 0.049 * 2 / 601)
    assert estimate_after(HUNDRED, (3000, 100, False), (1000, 100, False)).no_load == 2.0  # twice as much is not more


def test_gradient2_stays_within_its_bounds() -> None:
    bounds = Gradient2(initial_limit=20, min_limit=20, max_limit=21)
    assert limits(bounds, *EASE, *[(100, 20, False)] * 3)[-3:] == [20, 21, 21]
    assert limits(bounds, *EASE, *[(1000, 20, False)] * 3)[-3:] == [20, 20, 20]


def test_gradient2_shrinks_by_the_share_of_dropped_calls() -> None:
    """Ours, not the original's: 0.8 x 100 + 0.2 x (100 x (1 - 0.2) + 4)."""
    estimate = estimate_after(HUNDRED, *EASE)
    estimate.take(0.1, 100, 0.2)
    assert estimate.value == pytest.approx(96.8)
    estimate.take(0, 100, 1)
    assert estimate.value == pytest.approx(0.8 * 96.8 + 0.2 * (48.4 + 4))


def test_gradient2_looks_at_drops_where_calls_take_no_time() -> None:
    estimate = estimate_after(HUNDRED, *EASE)
    estimate.take(0, 100, 0.2)
    assert estimate.value == pytest.approx(0.8 * 100 + 0.2 * (80 + 4))
    assert estimate.recent == pytest.approx(0.1)


def test_the_long_average_counts_ten_alike_and_then_moves_slowly() -> None:  # ExpAvgMeasurementTest
    average = SlowAverage(100)
    assert [average.add(n) for n in range(10, 20)] == pytest.approx([10, 10.5, 11, 11.5, 12, 12.5, 13, 13.5, 14, 14.5])
    assert average.add(100) == pytest.approx(16.2, abs=0.1)


# -- all of them

BOUNDS = {"initial_limit": 10, "min_limit": 3, "max_limit": 30}
ALL: list[Algorithm] = [Gradient2(**BOUNDS), Vegas(**BOUNDS), AIMD(**BOUNDS)]
samples = st.tuples(st.floats(0, 10_000), st.integers(1, 40), st.booleans())


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
@given(given_samples=st.lists(samples, max_size=60))
def test_the_limit_stays_within_bounds_and_grows_only_when_it_is_used(
    algorithm: Algorithm, given_samples: list[Sample]
) -> None:
    estimate = algorithm.begin(latest)
    for milliseconds, in_flight, dropped in given_samples:
        before = estimate.value
        estimate.take(milliseconds / 1000, in_flight, dropped)
        assert 3 <= estimate.value <= 30
        if in_flight < before / 2 or dropped:
            assert estimate.value <= max(before, 8)  # Gradient2 rests at two queue sizes
    assert estimate.recent == next((ms / 1000 for ms, _, _ in reversed(given_samples) if ms / 1000 > 0), 0)


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
def test_a_call_that_took_no_time_breaks_nothing(algorithm: Algorithm) -> None:
    estimate = algorithm.begin(latest)
    estimate.take(0, 5, 0)
    assert estimate.value == (11 if isinstance(algorithm, AIMD) else 10)
    assert estimate.no_load == estimate.recent == 0


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
def test_a_sample_without_a_time_is_not_the_newest_that_had_one(algorithm: Algorithm) -> None:
    assert estimate_after(algorithm, (100, 10, False), (0, 10, True), (0, 10, False)).recent == pytest.approx(0.1)


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
def test_settings_are_shared_and_what_is_learned_is_not(algorithm: Algorithm) -> None:
    one, other = algorithm.begin(latest), algorithm.begin(latest)
    one.take(0.1, 10, 0)
    one.take(0.1, 10, 1)
    assert one.value != other.value == 10
    with pytest.raises(FrozenInstanceError):
        algorithm.min_limit = 2  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Gradient2, Vegas, AIMD])
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"initial_limit": 0}, ValueError, "initial_limit must be a whole number from 1 to"),
        ({"initial_limit": 2000}, ValueError, "initial_limit must be a whole number from 1 to"),
        ({"initial_limit": True}, TypeError, "initial_limit must be"),
        ({"min_limit": 0}, ValueError, "min_limit must be a whole number, 1 or more"),
        ({"initial_limit": 5, "min_limit": 6}, ValueError, "initial_limit must be a whole number from 6 to"),
        ({"max_limit": 5, "min_limit": 6}, ValueError, "max_limit must be a whole number, 6 or more, not 5"),
        ({"window": -1}, ValueError, "window must be"),
        ({"window": inf}, ValueError, "window must be a finite number of seconds, 0 or more, not inf"),
        ({"window": "1"}, TypeError, "window must be"),
        ({"minimum_samples": 0}, ValueError, "minimum_samples must be"),
    ],
)
def test_bad_settings(kind: Any, settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kind(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "error", "words"),
    [
        (Gradient2, {"smoothing": 0}, ValueError, "smoothing must be a fraction above 0"),
        (Gradient2, {"queue_size": -1}, ValueError, "queue_size must be a whole number, 0 or more"),
        (Gradient2, {"rtt_tolerance": 0.9}, ValueError, "rtt_tolerance must be a finite number, 1 or more, not 0.9"),
        (Gradient2, {"rtt_tolerance": inf}, ValueError, "rtt_tolerance must be"),
        (Gradient2, {"rtt_tolerance": nan}, ValueError, "rtt_tolerance must be"),
        (Gradient2, {"rtt_tolerance": "2"}, TypeError, "rtt_tolerance must be a finite number, 1 or more, not '2'"),
        (Gradient2, {"long_window": 0}, ValueError, "long_window must be"),
        (Vegas, {"smoothing": 1.1}, ValueError, "smoothing must be a fraction above 0"),
        (Vegas, {"alpha": 7}, ValueError, "0 <= threshold <= alpha <= beta, not 1.0, 7.0, 6.0"),
        (Vegas, {"threshold": -1}, ValueError, "finite numbers that rise"),
        (Vegas, {"beta": inf}, ValueError, "finite numbers that rise"),
        (Vegas, {"beta": "6"}, TypeError, "beta must be finite numbers that rise: 0 <= threshold <= alpha <= beta, not '6'"),
        (Vegas, {"backoff_ratio": 1.0}, ValueError, "backoff_ratio must be a fraction, 0.5 or more and below 1"),
        (Vegas, {"probe_multiplier": 0}, ValueError, "probe_multiplier must be"),
        (AIMD, {"backoff_ratio": 0.4}, ValueError, "backoff_ratio must be a fraction, 0.5 or more and below 1, not 0.4"),
        (AIMD, {"backoff_ratio": "1"}, TypeError, "backoff_ratio must be a fraction, 0.5 or more and below 1, not '1'"),
        (AIMD, {"timeout": 0}, ValueError, "timeout must be a finite number of seconds above 0"),
    ],
)
def test_bad_settings_of_its_own(kind: Any, settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kind(**settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Gradient2, {"initial_limit": 3, "min_limit": 3, "max_limit": 3, "window": 0, "minimum_samples": 1}),
        (Gradient2, {"smoothing": 1, "queue_size": 0, "rtt_tolerance": 1, "long_window": 1}),
        (Vegas, {"smoothing": 1, "threshold": 0, "alpha": 0, "beta": 0, "backoff_ratio": 0.5, "probe_multiplier": 1}),
        (AIMD, {"backoff_ratio": 0.5, "timeout": 0.001}),
    ],
)
def test_the_bounds_themselves_are_allowed(kind: Any, settings: dict[str, Any]) -> None:
    algorithm = kind(**settings)
    assert {name: getattr(algorithm, name) for name in settings} == settings


def test_the_defaults_and_that_settings_are_named() -> None:
    assert astuple(Gradient2()) == (20, 1, 200, 0.2, 4, 1.5, 600, 1.0, 10)
    assert astuple(Vegas()) == (20, 1, 1000, 1.0, 3, 6, 1, None, 30, 1.0, 10)
    assert astuple(AIMD()) == (20, 1, 200, 0.9, 5.0, 1.0, 10)
    for kind in (Gradient2, Vegas, AIMD):
        with pytest.raises(TypeError, match="positional"):
            kind(20)  # type: ignore[call-arg]


# -- the meter


def test_a_meter_begins_with_no_call_and_the_first_limit() -> None:
    meter = Meter(AIMD(initial_limit=7), never)
    assert (meter.running, meter.limit) == (0, 7)


def test_the_time_of_a_window_is_the_average_of_its_calls() -> None:  # ImmutableAverageSampleWindowTest
    meter = Meter(AIMD(window=1, minimum_samples=3), never)
    for second, rtt in enumerate((5.0, 0.5, 0.01)):
        meter.take(second, rtt, 1)
    assert meter.estimate.recent == pytest.approx(5.51 / 3)
    meter = Meter(AIMD(window=1, minimum_samples=4), never)
    for second, rtt in enumerate((5.0, 0.5, 0.01)):
        meter.take(second, rtt, 1)
    meter.take(3, 5.0, 1, dropped=True)
    assert meter.estimate.recent == pytest.approx(10.51 / 4)


def test_a_window_begins_with_its_first_call_and_lasts_until_it_has_enough() -> None:
    meter = Meter(AIMD(window=10, minimum_samples=3), never)
    found = {}
    for second in (0, 1, 2, 9.9, 10, 11, 12, 19.9, 20, 21, 40, 50, 55):
        meter.take(second, 0.1, 20)
        found[second] = meter.limit
    assert found == {
        0: 20, 1: 20, 2: 20, 9.9: 20, 10: 21, 11: 21, 12: 21, 19.9: 21, 20: 22, 21: 22, 40: 22, 50: 23, 55: 23
    }  # fmt: skip


def test_without_a_window_each_call_is_a_sample() -> None:
    meter = Meter(AIMD(window=0), never)
    meter.take(0.0, 0.1, 20)
    meter.take(0.0, 0.1, 20)
    assert meter.limit == 22


def test_a_quick_refusal_is_no_fast_answer() -> None:
    meter = Meter(Vegas(window=0, initial_limit=10), latest)
    meter.take(0.0, 0.1, 10)
    meter.take(0.0, 0.001, 10, dropped=True)
    assert (meter.limit, meter.estimate.no_load) == (9, 0.1)
    meter = Meter(Gradient2(window=1, minimum_samples=2, initial_limit=100), never)
    meter.take(0.0, 0.1, 100)
    meter.take(1.0, 0.1, 100)
    meter.take(1.5, 0.1, 100)
    meter.take(2.0, 0.001, 100, dropped=True)
    assert meter.estimate.recent == meter.estimate.no_load == pytest.approx(0.1)
    assert meter.estimate.value == pytest.approx(100.8 * 0.8 + (100.8 * 0.5 + 4) * 0.2)


def test_a_meter_without_calls_knows_what_the_other_has_learned() -> None:
    meter = Meter(AIMD(window=0), never)
    meter.running = 3
    meter.take(0.0, 0.1, 20)
    other = meter.without_calls()
    assert (other.running, other.limit, meter.running) == (0, 21, 3)
    other.take(0.0, 0.1, 20)
    assert other.limit == 22


@dataclass
class Remembered:
    """The slow model of a meter: all calls of the window one by one."""

    width: float
    until: float | None = None
    calls: list[tuple[float, int, bool]] = field(default_factory=list)

    def take(self, now: float, rtt: float, in_flight: int, dropped: bool, estimate: Estimate) -> None:
        self.calls.append((0.0 if dropped and rtt < estimate.no_load else rtt, in_flight, dropped))
        if self.until is None:
            self.until = now + self.width
        if now < self.until or len(self.calls) < (3 if self.width else 1):
            return
        times = [rtt for rtt, _, dropped in self.calls if rtt or not dropped or not estimate.no_load]
        drops = [dropped for _, _, dropped in self.calls]
        average = reduce(add, times) / len(times) if times else 0.0  # `sum` rounds otherwise since Python 3.12
        estimate.take(average, max(n for _, n, _ in self.calls), sum(drops) / len(drops))
        self.until, self.calls = now + self.width, []


@pytest.mark.parametrize("kind", [Gradient2, Vegas, AIMD])
@given(
    width=st.sampled_from([0.0, 1.0, 5.0]),
    calls=st.lists(st.tuples(st.floats(0, 3), st.floats(0.001, 2), st.integers(1, 30), st.booleans()), max_size=60),
)
def test_a_meter_measures_as_one_that_remembers_every_call(
    kind: Any, width: float, calls: list[tuple[float, float, int, bool]]
) -> None:
    algorithm = kind(window=width, minimum_samples=3)
    meter, model, estimate = Meter(algorithm, latest), Remembered(width), algorithm.begin(latest)
    now = 0.0
    for step, rtt, in_flight, dropped in calls:
        now += step
        meter.take(now, rtt, in_flight, dropped)
        model.take(now, rtt, in_flight, dropped, estimate)
        assert meter.limit == int(estimate.value)
        assert meter.estimate.no_load == estimate.no_load
