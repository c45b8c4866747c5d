"""What eras and tallies count, to the last call: calls in flight, calls that would have opened it, and what a reading says."""

from math import inf

import pytest

from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import Condition, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from aiobreaker.core.eras import Flowing, State, Totals
from aiobreaker.core.tallies import Reading
from aiobreaker.core.transitions import Cause, Transition
from aiobreaker.core.windows import LastCalls, LastSeconds

from .test_circuit import Bench, C, F, N, S
from .test_edges_shortcuts import TEN, end, only_measuring


def test_an_ignored_call_decides_nothing() -> None:
    bench = Bench(in_flight(2.0, minimum_calls=2))
    permits = [bench.start() for _ in range(3)]
    bench.now = 5.0
    bench.end(permits[0], N)
    assert bench.state is State.CLOSED
    bench.end(permits[1], C)
    assert bench.state is State.OPEN


def test_every_success_is_a_moment_to_look_at_the_calls_that_hang() -> None:
    bench = Bench(SlowCallRate(0.6, 2.0, LastSeconds(60), minimum_calls=3, count_in_flight=True))
    bench.start()
    bench.start()
    bench.now = 1.0
    quick = bench.start()
    bench.now = 2.5
    assert bench.state is State.CLOSED
    bench.end(quick, S)
    assert bench.circuit.era.reason.startswith("2 of 3 calls in the last 60 seconds took 2 s or longer")


def test_calls_that_began_before_calls_in_flight_were_watched_end_as_they_began() -> None:
    bench = Bench()
    era = bench.circuit.era
    assert isinstance(era, Flowing)
    era.started += 2
    rules = bench.circuit.rules
    bench.circuit.reconfigure(Rules((in_flight(),), rules.schedule, 0.0, rules.trials), 0.0)
    assert bench.circuit.settle(era, F, 1.0, 0.0)
    assert bench.circuit.settle(era, S, 3.0, 0.0)
    (reading,) = bench.circuit.readings(3.0)
    assert (reading.count, reading.calls) == (1, 2)
    assert bench.circuit.in_flight == 0


def test_a_streak_is_over_with_the_first_success() -> None:
    bench = Bench(ConsecutiveFailures(5))
    counts = []
    for outcome in (F, F, S, N, F):
        end(bench, outcome)
        counts.append(bench.circuit.readings(0.0)[0].count)
    assert counts == [1, 2, 0, 0, 1]


def test_a_rate_below_its_threshold_is_not_met() -> None:
    bench = Bench(FailureRate(0.5, TEN, minimum_calls=2))
    bench.run(S, S, S, F)
    assert bench.circuit.readings(0.0) == (Reading(FailureRate(0.5, TEN, 2), 1, 4, False),)


def test_totals_of_an_era_know_its_refusals() -> None:
    bench = Bench().opened()
    bench.circuit.era.refused += 3
    assert bench.circuit.totals == Totals(refused=3)


@pytest.mark.parametrize("trip", [ConsecutiveFailures(2), FailureCount(2, TEN), FailureRate(1.0, TEN, minimum_calls=2)])
def test_failures_trip_also_where_calls_in_flight_are_watched(trip: Condition) -> None:
    bench = Bench(trip | SlowCallRate(1.0, 5.0, TEN, count_in_flight=True))
    bench.run(F)
    assert bench.state is State.CLOSED
    bench.run(F)
    assert bench.state is State.OPEN
    assert bench.circuit.era.reason.startswith("2 ")


def in_flight(slower_than: float = 2.0, minimum_calls: int = 9) -> SlowCallRate:
    return SlowCallRate(1.0, slower_than, LastSeconds(60), minimum_calls, count_in_flight=True)


def test_running_calls_are_looked_at_again_when_the_next_could_have_become_slow() -> None:
    bench = Bench(in_flight())
    era = bench.circuit.era
    looks = []
    for bench.now in (0.0, 1.0, 1.5, 2.0, 3.0, 3.25):
        bench.start()
        looks.append(era.watch_at)
    assert looks == [2.0, 2.0, 2.0, 3.0, 3.5, 3.5]
    quiet = Bench(in_flight())
    permit = quiet.start()
    quiet.now = 1.0
    quiet.end(permit, S)
    assert quiet.circuit.era.watch_at == 3.0
    assert Bench().circuit.era.watch_at == inf


def test_of_two_thresholds_the_next_one_counts() -> None:
    bench = Bench(in_flight(5.0) | in_flight(2.0))
    bench.start()
    assert bench.circuit.era.watch_at == 2.0
    bench.now = 2.0
    bench.start()
    assert bench.circuit.era.watch_at == 4.0
    bench.now = 4.5
    bench.start()
    assert bench.circuit.era.watch_at == 5.0


class Ending(dict[int, float]):
    """Flights of which one ends, in another thread, at the very moment in which it is looked at."""

    def items(self) -> "list[tuple[int, float]]":  # type: ignore[override]
        seen = list(super().items())
        self.clear()
        return seen


class Ended(dict[int, float]):
    """Flights of which the last one ends, in another thread, just before it is looked at."""

    def items(self) -> "list[tuple[int, float]]":  # type: ignore[override]
        self.clear()
        return []


@pytest.mark.parametrize("kind", [Ending, Ended])
def test_a_call_that_ends_while_it_is_looked_at_does_not_count(kind: type[dict[int, float]]) -> None:
    bench = Bench(in_flight())
    era = bench.circuit.era
    assert isinstance(era, Flowing)
    era.flights = flights = kind({1: 0.0})
    era._levels = (flights, *era._levels[1:])
    era.age(50.0)
    assert [(reading.count, reading.calls) for reading in era.readings(50.0)] == [(0, 0)]
    assert era.watch_at == 52.0


def test_slow_cancellations_go_on_under_another_window() -> None:
    def slow(size: int) -> SlowCallRate:
        return SlowCallRate(1.0, 2.0, LastCalls(size), minimum_calls=size)

    bench = Bench(slow(4))
    bench.run(S, S, S, S)
    bench.run(C, C, took=2.0)
    bench.run(S)
    rules = bench.circuit.rules
    bench.circuit.reconfigure(Rules((slow(20),), rules.schedule, 0.0, rules.trials), bench.now)
    (reading,) = bench.circuit.readings(bench.now)
    assert (reading.count, reading.calls) == (2, 4)
    bench.run(S)
    (reading,) = bench.circuit.readings(bench.now)
    assert (reading.count, reading.calls) == (2, 5)


def test_what_has_left_the_window_is_gone_though_calls_were_cancelled_in_it() -> None:
    bench = Bench(SlowCallRate(1.0, 2.0, LastSeconds(10), minimum_calls=9, count_in_flight=True))
    bench.run(C, C, took=2.0)
    bench.run(S)
    bench.now = 30.0
    bench.start()
    (reading,) = bench.circuit.readings(bench.now)
    assert (reading.count, reading.calls) == (0, 0)


def shadows(bench: Bench) -> list[Transition]:
    return [each for each in bench.circuit.log if isinstance(each, Transition) and each.shadow]


def test_what_would_have_happened_is_told_in_full() -> None:
    bench = only_measuring(ConsecutiveFailures(2))
    bench.now = 1.0
    bench.run(S, F, F)
    reading = Reading(ConsecutiveFailures(2), 2, 3, True)
    reason = "2 failures in a row (trips at 2)"
    told = Transition(State.CLOSED, State.OPEN, Cause.TRIPPED, reason, 1.0, (reading,), 10.0, 0, shadow=True)
    assert shadows(bench) == [told]
    bench.now = 11.0
    bench.end(bench.start(), F, hint=3.0)
    reading = Reading(ConsecutiveFailures(2), 1, 4, False)
    reason = "the dependency asked to be left alone for 3 s"
    told = Transition(State.CLOSED, State.OPEN, Cause.HINTED, reason, 11.0, (reading,), 3.0, 0, shadow=True)
    assert shadows(bench)[1:] == [told]
    assert bench.circuit.transitions == 1, "nothing has happened since it began to measure"
    assert bench.circuit.totals == Totals(successes=1, failures=3)


def test_calls_that_hang_would_open_it_again_as_soon_as_its_time_is_over() -> None:
    bench = only_measuring(in_flight(2.0, minimum_calls=3))
    for bench.now in (0.0, 0.0, 0.0, 2.0, 5.0, 12.0):
        bench.start()
    assert [each.at for each in shadows(bench)] == [2.0, 12.0]


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading(ConsecutiveFailures(5), 2, 7, False), "2 failures in a row (trips at 5)"),
        (Reading(FailureCount(3, LastCalls(20)), 2, 7, False), "2 failures in the last 20 calls (trips at 3)"),
        (
            Reading(FailureRate(0.5, LastSeconds(60), 20), 1, 3, False),
            "1 of 3 calls in the last 60 seconds failed, 33.3% (trips at 50.0% of at least 20 calls)",
        ),
        (
            Reading(FailureRate(0.25, LastCalls(10)), 0, 0, False),
            "0 of 0 calls in the last 10 calls failed (trips at 25.0% of at least 10 calls)",
        ),
        (
            Reading(SlowCallRate(0.8, 0.25, LastCalls(10)), 8, 10, True),
            "8 of 10 calls in the last 10 calls took 0.25 s or longer, 80.0% (trips at 80.0% of at least 10 calls)",
        ),
    ],
    ids=str,
)
def test_a_reading_in_words(reading: Reading, words: str) -> None:
    assert str(reading) == words


def test_a_reading_as_a_rate() -> None:
    rate = FailureRate(0.5, LastCalls(20), minimum_calls=10)
    assert Reading(rate, 3, 12, False).rate == 0.25
    assert Reading(rate, 0, 12, False).rate == 0.0
    assert Reading(rate, 0, 0, False).rate is None
    assert [Reading(rate, 0, calls, False).enough_calls for calls in (0, 9, 10, 11)] == [False, False, True, True]
    assert Reading(ConsecutiveFailures(), 0, 0, False).enough_calls
    assert Reading(FailureCount(3, LastCalls(20)), 0, 0, False).enough_calls
