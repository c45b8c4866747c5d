"""The short cuts of guards: what they count without asking comes to the same as asking every time, and stops where it must."""

import sys
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import Condition, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from aiobreaker.core.eras import FAR, Flowing, State, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Exponential, Fixed
from aiobreaker.core.tallies import StreakTally
from aiobreaker.core.windows import LastCalls, LastSeconds, Window

from .strategies import conditions
from .test_circuit import Bench, C, F, N, S

STEPS = st.tuples(
    st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 10.0, 30.0]),  # time that passes
    st.sampled_from([S, S, S, F, F, F, N, C]),
    st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 3.0]),  # how long the call took
    st.sampled_from([None] * 9 + [5.0]),  # for how long it asks to be left alone
    st.booleans(),  # whether somebody looks at the readings, which counts what has only been noted
)
Step = tuple[float, Outcome, float, float | None, bool]


def end_as_a_guard_does(circuit: Circuit, outcome: Outcome, now: float, began: float, hint: float | None) -> None:
    """Below every threshold a success is counted, and a failure noted, without asking."""
    era = circuit.era
    assert isinstance(era, Flowing)
    number = era.n + 1
    below = hint is None and number < era.horizon and now < era.roll_at
    if below and outcome is S and now - began < era.slow_after:
        era.n = number
    elif below and outcome is F and era.spare > 1:
        era.n = number
        era.spare -= 1
        era.noted[number] = now - began
    else:
        circuit.settle(era, outcome, now, began, "why", hint)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(conditions(), min_size=1, max_size=3),
    st.lists(conditions(), min_size=1, max_size=3),
    st.sampled_from([State.CLOSED, State.METRICS_ONLY]),
    st.lists(STEPS, max_size=40),
    st.lists(STEPS, max_size=40),
)
def test_the_short_cuts_of_guards_and_asking_every_time_come_to_the_same(
    first: list[Condition], second: list[Condition], state: State, before: list[Step], after: list[Step]
) -> None:
    asking, guarded = (Circuit(Rules(tuple(first), Fixed(5.0), 0.0, Trials()), 0.0, lambda: 0.5) for _ in range(2))
    now = 0.0
    for index, (passed, outcome, took, hint, looked_at) in enumerate(before + after):
        now += passed
        for circuit in (asking, guarded):
            if index == len(before):
                circuit.reconfigure(Rules(tuple(second), Fixed(5.0), 0.0, Trials()), now)
            if circuit.era.state is not state:
                circuit.let_flow(now, state, "again")
            circuit.era.started += 1
        assert isinstance(asking.era, Flowing)
        asking.settle(asking.era, outcome, now, now - took, "why", hint)
        end_as_a_guard_does(guarded, outcome, now, now - took, hint)
        assert list(guarded.log) == list(asking.log)
        assert guarded.in_flight == asking.in_flight == 0
        if looked_at:
            assert guarded.readings(now) == asking.readings(now)
            assert guarded.totals == asking.totals
    assert guarded.readings(now) == asking.readings(now)
    assert guarded.totals == asking.totals


def test_a_hint_while_it_would_be_open_changes_nothing() -> None:
    bench = only_measuring(FailureCount(1, TEN))
    end(bench, F)
    bench.now = 4.0
    bench.end(bench.start(), S, hint=5.0)
    bench.now = 10.0
    end(bench, S)
    (reading,) = bench.circuit.readings(bench.now)
    assert (reading.count, reading.calls) == (0, 1)


def end(bench: Bench, outcome: Outcome, took: float = 0.0) -> None:
    """A call begins, and ends, as under a guard."""
    bench.circuit.era.started += 1
    bench.now += took
    end_as_a_guard_does(bench.circuit, outcome, bench.now, bench.now - took, None)


TEN, FOUR = LastCalls(10), LastCalls(4)


@pytest.mark.parametrize(
    ("trip", "outcomes", "horizon", "spare"),
    [
        (ConsecutiveFailures(5), [], FAR, 0),
        (ConsecutiveFailures(5), [F, F, F], FAR, 2),
        (ConsecutiveFailures(500), [F], FAR, 64),
        (FailureCount(5, TEN), [F, S, F], FAR, 3),
        (FailureCount(2, FOUR), [F, S, S, S, S, F], FAR, 1),
        (FailureRate(0.5, TEN, 4), [F], FAR, 1),
        (FailureRate(0.5, TEN, 4), [F, F], 4, 0),
        (FailureRate(0.5, TEN, 4), [F, F, S], 4, 0),
        (FailureRate(0.5, TEN, 4), [S, S, S, S, S, S, F], FAR, 2),
        (FailureRate(0.75, TEN, 4) | FailureRate(0.25, TEN, 4), [F], 4, 0),
        (SlowCallRate(0.5, 9.0, LastCalls(20), 2), [S, S, S, S, S, S, F], FAR, 3),
        (SlowCallRate(0.5, 9.0, LastCalls(20), count_in_flight=True), [F], FAR, 0),
    ],
)
def test_how_long_guards_need_not_ask(trip: object, outcomes: list[Outcome], horizon: float, spare: int) -> None:
    bench = Bench(trip)
    bench.run(*outcomes)
    assert bench.state is State.CLOSED
    assert (bench.circuit.era.horizon, bench.circuit.era.spare) == (horizon, spare)


def test_slow_cancellations_count_among_what_guards_may_let_pass() -> None:
    bench = Bench(SlowCallRate(0.5, 1.0, LastCalls(20), 2))
    bench.run(S, S, S, S, S, F)
    bench.run(C, C, took=1.0)
    assert (bench.circuit.era.horizon, bench.circuit.era.spare) == (FAR, 2)


@pytest.mark.parametrize("before", [FAR - 2, FAR - 1, FAR])
def test_a_horizon_goes_on_after_a_billion_calls(before: int) -> None:
    expected = FAR if before + 1 < FAR else inf
    bench = Bench(ConsecutiveFailures(5))
    bench.circuit.era.n = before
    bench.run(S)
    assert bench.circuit.era.horizon == expected
    slow = Bench(SlowCallRate(1.0, 1.0, LastCalls(20)))
    slow.circuit.era.n = before + 1
    slow.run(C, took=2.0)
    assert slow.circuit.era.horizon == expected


def test_where_nothing_is_counted_guards_need_not_ask() -> None:
    bench = Bench()
    bench.circuit.let_flow(0.0, State.DISABLED, "off")
    era = bench.circuit.era
    assert (era.horizon, era.roll_at, era.slow_after, era.watch_at) == (FAR, inf, inf, inf)


@pytest.mark.parametrize("trip", [ConsecutiveFailures(5), FailureRate(0.5, LastSeconds(60))], ids=["calls", "seconds"])
def test_each_threshold_of_an_era_that_is_over_stops_every_guard(trip: Condition) -> None:
    bench = Bench(trip)
    era = bench.circuit.era
    bench.run(S)
    bench.opened()
    assert era.n + 1 >= era.horizon
    assert era.spare <= 1
    assert bench.now - bench.now >= era.slow_after
    assert bench.now >= era.roll_at
    assert bench.now >= era.watch_at


def test_each_threshold_of_a_permit_of_its_own_stops_every_guard() -> None:
    permit: Any = Bench().start()
    assert permit.n + 1 >= permit.horizon
    assert permit.spare <= 1
    assert permit.slow_after <= 0.0
    assert permit.roll_at <= permit.began


def test_a_horizon_far_away_is_an_integer_of_one_digit_as_python_counts_them() -> None:
    assert 2**sys.int_info.bits_per_digit - 1 == FAR


def test_a_rate_is_met_by_the_success_that_makes_the_calls_enough() -> None:
    bench = Bench(FailureRate(0.5, TEN, minimum_calls=4))
    for outcome in (F, F, S):
        end(bench, outcome)
        assert bench.state is State.CLOSED
    end(bench, S)
    assert bench.circuit.era.reason.startswith("2 of 4 calls in the last 10 calls failed, 50.0%")


def test_noted_failures_are_slow_from_the_threshold_on_and_keep_their_place_in_the_window() -> None:
    bench = Bench(SlowCallRate(1.0, 2.0, FOUR, minimum_calls=4))
    bench.run(C, took=2.0)
    end(bench, F, took=1.999)
    end(bench, F, took=2.0)
    for left in (2, 2, 1, 1, 0):
        (reading,) = bench.circuit.readings(bench.now)
        assert reading.count == left
        end(bench, S)


class Meanwhile(StreakTally):
    """In the middle of a record a guard, in another thread, notes a failure."""

    __slots__ = ("era",)

    era: Flowing

    def record(self, number: int, now: float, failed: bool, elapsed: float) -> float:
        answer = super().record(number, now, failed, elapsed)
        if number == 1:
            self.era.n += 1
            self.era.noted[self.era.n] = 0.0
        return answer


@pytest.mark.parametrize(("streak", "window"), [(2, LastCalls(3)), (9, LastCalls(3)), (9, LastSeconds(5))], ids=str)
def test_a_failure_that_is_noted_while_another_is_counted_is_counted_too(streak: int, window: Window) -> None:
    bench = Bench(ConsecutiveFailures(streak) | FailureCount(2, window))
    era = bench.circuit.era
    assert isinstance(era, Flowing)
    racing = Meanwhile(ConsecutiveFailures(streak), 0)
    racing.era = era
    era.tallies = (racing, *era.tallies[1:])
    bench.run(F)
    assert bench.state is State.OPEN
    assert bench.circuit.totals.failures == 2


class WhileLooking(StreakTally):
    """In the middle of a look ahead a guard, in another thread, notes a failure. Once."""

    __slots__ = ("era", "looks")

    era: Flowing
    looks: int

    def patience(self, number: int) -> int:
        self.looks += 1
        if self.looks == 1:
            self.era.n += 1
            self.era.noted[self.era.n] = 0.0
        return super().patience(number)


def test_a_failure_that_is_noted_during_a_look_ahead_is_looked_at_too() -> None:
    bench = Bench(ConsecutiveFailures(3))
    bench.run(F)  # from now on they are noted
    era = bench.circuit.era
    assert isinstance(era, Flowing)
    racing = WhileLooking(ConsecutiveFailures(3), 0)
    racing.go_on_from(era.tallies[0], era.n, bench.now)
    racing.era, racing.looks = era, 0
    era.tallies = (racing,)
    assert era.look_ahead() is None
    assert (era.failures, era.noted) == (2, {})
    assert racing.looks == 2
    bench.run(F)
    assert bench.state is State.OPEN


def test_guards_ask_with_every_call_while_calls_are_watched() -> None:
    bench = Bench()
    era = bench.circuit.era
    bench.circuit.personal = bench.circuit.watched = True
    bench.circuit.open_door()
    assert era.n + 1 >= era.horizon, "those that are running, too"
    bench.run(F)
    assert era.n + 1 >= era.horizon


def test_while_it_would_be_open_guards_ask_with_every_call() -> None:
    bench = only_measuring(FailureRate(1.0, TEN, minimum_calls=9))
    bench.end(bench.start(), S, hint=5.0)
    for bench.now in (1.0, 2.0, 6.0):
        end(bench, S)
        end(bench, N)
    (reading,) = bench.circuit.readings(bench.now)
    assert (reading.count, reading.calls) == (0, 1), "what came after its time, counted from nothing"


def test_a_guard_asks_with_the_first_call_after_new_rules() -> None:
    bench = Bench(FailureRate(1.0, LastCalls(10), minimum_calls=4))
    bench.run(F, F, S, S)
    rules = bench.circuit.rules
    bench.circuit.reconfigure(Rules((FailureRate(0.4, LastCalls(10), 4),), rules.schedule, 0.0, rules.trials), 0.0)
    assert bench.state is State.CLOSED
    end_as_a_guard_does(bench.circuit, S, 0.0, 0.0, None)
    assert bench.state is State.OPEN


def only_measuring(*trip: Condition) -> Bench:
    bench = Bench(*trip, schedule=Exponential(10.0, factor=2.0))
    bench.circuit.let_flow(0.0, State.METRICS_ONLY, "look")
    return bench
