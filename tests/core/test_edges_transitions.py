"""Every transition in full: from what to what, why and when, for how long, and after how many attempts.

What the log says and what the new era says of itself must agree, always.
"""

from math import inf

import pytest

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import ConsecutiveFailures, FailureRate, SlowCallRate
from aiobreaker.core.eras import HalfOpen, Permit, State, Stopped, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Exponential, Schedule, Steps
from aiobreaker.core.tallies import Reading
from aiobreaker.core.transitions import Cause, Forfeit, Transition
from aiobreaker.core.windows import LastCalls

from .test_circuit import Bench, C, F, N, S

CLOSED, OPEN, HALF_OPEN, FORCED_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN, State.FORCED_OPEN
Line = tuple[State, State, Cause, str, float, float | None, int]


def growing(trials: Trials | None = None, trip: object = None) -> Bench:
    """Opens for 10 s, 20 s, 40 s: how long it stays open tells how many attempts there were."""
    schedule: Schedule = Exponential(10.0, factor=2.0, maximum=100.0)
    return Bench(ConsecutiveFailures(2) if trip is None else trip, schedule=schedule, trials=trials or Trials())


def lines(bench: Bench) -> list[Line]:
    """The transitions so far; the last one must be what the era knows of itself."""
    found = [each for each in bench.circuit.log if isinstance(each, Transition)]
    last, era = found[-1], bench.circuit.era
    assert (last.new, last.at, last.reason) == (era.state, era.since, era.reason)
    assert not any(each.shadow for each in found)
    if isinstance(era, Stopped):
        assert era.attempt == last.attempt
        assert era.until == (inf if last.open_for is None else last.at + last.open_for)
    return [(each.old, each.new, each.cause, each.reason, each.at, each.open_for, each.attempt) for each in found]


def at(bench: Bench, now: float) -> Bench:
    bench.now = now
    return bench


def test_a_whole_life() -> None:
    bench = growing()
    at(bench, 1.0).run(F)
    at(bench, 2.0).run(F)
    trial = at(bench, 12.5).start()
    at(bench, 13.0).end(trial, F)
    trial = at(bench, 33.0).start()
    at(bench, 34.0).end(trial, S)
    assert lines(bench) == [
        (CLOSED, OPEN, Cause.TRIPPED, "2 failures in a row (trips at 2)", 2.0, 10.0, 0),
        (OPEN, HALF_OPEN, Cause.DUE, "the open time is over", 12.5, None, 0),
        (HALF_OPEN, OPEN, Cause.TRIAL_FAILED, "a trial failed: OSError: down", 13.0, 20.0, 1),
        (OPEN, HALF_OPEN, Cause.DUE, "the open time is over", 33.0, None, 0),
        (HALF_OPEN, CLOSED, Cause.RECOVERED, "1 of 1 trials succeeded (1 required)", 34.0, None, 0),
    ]


def test_a_new_circuit() -> None:
    bench = at(growing(), 3.0)
    assert (bench.circuit.era.state, bench.circuit.era.reason, bench.circuit.era.since) == (CLOSED, "new", 0.0)
    assert bench.end(bench.start(), S)
    trial = bench.half_opened().start()
    bench.circuit.settle(trial, F, bench.now, bench.now)
    assert bench.circuit.era.reason == "a trial failed: ", "nobody has said why"


def test_the_conditions_as_they_stood_are_told_with_the_transition_that_ends_them() -> None:
    bench = Bench(ConsecutiveFailures(2) | FailureRate(1.0, LastCalls(10)))
    streak, rate = bench.rules.conditions
    bench.run(S, F, F)
    bench.now = 10.0
    bench.run(S)
    told = [each.readings for each in bench.circuit.log if isinstance(each, Transition)]
    assert told == [(Reading(streak, 2, 3, True), Reading(rate, 2, 3, False)), (), ()]


@pytest.mark.parametrize("neutral", [N, C])
def test_trials_without_a_verdict(neutral: Outcome) -> None:
    bench = growing(Trials(3, concurrent=2, required=2, max_inconclusive=2)).half_opened()
    at(bench, 11.0).run(F, neutral)
    at(bench, 12.0).run(neutral)
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.INCONCLUSIVE, "2 trials ended without a verdict", 12.0, 10.0, 0)


def test_enough_trials_succeed_though_others_fail() -> None:
    bench = growing(Trials(5, required=2)).half_opened()
    bench.run(F, S, F)
    at(bench, 15.0).run(S)
    assert lines(bench)[-1] == (HALF_OPEN, CLOSED, Cause.RECOVERED, "2 of 4 trials succeeded (2 required)", 15.0, None, 0)


def test_a_slow_trial_and_a_failed_one_that_was_slow_too() -> None:
    bench = growing(trip=SlowCallRate(0.5, slower_than=1.0, window=LastCalls(4), minimum_calls=4)).half_opened()
    bench.run(S, took=1.5)
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.TRIAL_FAILED, "a trial was slow (1.5 s)", 11.5, 20.0, 1)
    at(bench, 40.0).run(F, took=1.5)
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.TRIAL_FAILED, "a trial failed: OSError: down", 41.5, 40.0, 2)


def test_leases_that_run_out_alone_and_together() -> None:
    bench = growing(Trials(5, concurrent=3, required=2, lease=5.0)).half_opened()
    for now in (10.0, 11.0, 12.0, 15.0, 17.5):
        at(bench, now).start()
    assert list(bench.circuit.log)[2:] == [Forfeit(1, 15.0), Forfeit(2, 17.5)]
    at(bench, 20.0).refused()
    assert bench.circuit.log[4] == Forfeit(1, 20.0)
    reason = "a trial did not end within its lease of 5 s"
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.LEASE_EXPIRED, reason, 20.0, 20.0, 1)


def test_hints_open_for_their_time_and_only_a_failure_is_one_more_attempt() -> None:
    bench = growing()
    bench.end(at(bench, 1.0).start(), S, hint=7.0)
    asked = "the dependency asked to be left alone for 7 s"
    assert lines(bench) == [(CLOSED, OPEN, Cause.HINTED, asked, 1.0, 7.0, 0)]
    trial = at(bench, 8.0).start()
    at(bench, 9.0).end(trial, F, hint=2.5)
    asked = "the dependency asked to be left alone for 2.5 s"
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.HINTED, asked, 9.0, 2.5, 1)
    at(bench, 12.0).end(bench.start(), S, hint=2.5)
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.HINTED, asked, 12.0, 2.5, 1)
    at(bench, 15.0).run(F)
    assert lines(bench)[-1][-2:] == (40.0, 2), "the schedule goes on where it was"


def test_orders_by_hand() -> None:
    bench = growing()
    circuit = bench.circuit
    circuit.force_open(1.0, "maintenance")
    circuit.half_open(2.0)
    assert lines(bench)[-1][:2] == (FORCED_OPEN, HALF_OPEN)
    circuit.open(3.0, None, "not yet")
    circuit.open(3.0, None, "already open")
    circuit.half_open(4.0, reason="sooner")
    circuit.let_flow(5.0, State.METRICS_ONLY, "look")
    circuit.let_flow(6.0, State.DISABLED, "off")
    circuit.open(7.0, 3.0, "for a moment")
    circuit.let_flow(8.0, CLOSED, "reset")
    assert lines(bench) == [
        (CLOSED, FORCED_OPEN, Cause.MANUAL, "maintenance", 1.0, None, 0),
        (FORCED_OPEN, HALF_OPEN, Cause.MANUAL, "by hand", 2.0, None, 0),
        (HALF_OPEN, OPEN, Cause.MANUAL, "not yet", 3.0, 20.0, 1),
        (OPEN, HALF_OPEN, Cause.MANUAL, "sooner", 4.0, None, 0),
        (HALF_OPEN, State.METRICS_ONLY, Cause.MANUAL, "look", 5.0, None, 0),
        (State.METRICS_ONLY, State.DISABLED, Cause.MANUAL, "off", 6.0, None, 0),
        (State.DISABLED, OPEN, Cause.MANUAL, "for a moment", 7.0, 3.0, 0),
        (OPEN, CLOSED, Cause.MANUAL, "reset", 8.0, None, 0),
    ]
    assert circuit.transitions == 8


def test_an_order_to_open_an_open_circuit_begins_anew_when_its_time_is_over_or_given() -> None:
    bench = growing().opened()
    bench.circuit.open(4.0, 9.0, "for nine seconds")
    assert (bench.circuit.era.reason, bench.circuit.next_change()) == ("for nine seconds", 13.0)
    bench.circuit.open(12.999, None, "still open")
    assert bench.circuit.era.reason == "for nine seconds"
    bench.circuit.open(13.0, None, "once more")
    assert (bench.circuit.era.reason, bench.circuit.next_change()) == ("once more", 23.0)
    assert bench.circuit.transitions == 1


def test_what_has_been_decided_is_done_though_the_random_numbers_raise() -> None:
    def draw() -> float:
        raise ZeroDivisionError

    circuit = Circuit(Rules((ConsecutiveFailures(1),), Exponential(10.0, factor=3.0), 0.5, Trials()), 0.0, draw)
    permit = circuit.admit(1.0)
    assert isinstance(permit, Permit)
    with pytest.raises(ZeroDivisionError):
        circuit.settle(permit, F, 2.0, 1.0)
    (opened,) = circuit.log
    assert isinstance(opened, Transition)
    assert (opened.new, opened.at, opened.open_for, circuit.next_change()) == (OPEN, 2.0, 10.0, 12.0)
    circuit.half_open(3.0)
    with pytest.raises(ZeroDivisionError):
        circuit.open(3.0, None, "by hand")
    assert circuit.next_change() == 33.0
    circuit.open(4.0, 5.0, "for five seconds, for which no number is drawn")
    assert circuit.next_change() == 9.0


def test_an_order_to_stay_forced_open_gives_it_another_reason() -> None:
    bench = growing()
    bench.circuit.force_open(1.0, "maintenance")
    bench.circuit.force_open(2.0, "more maintenance")
    assert bench.refused().reason == "more maintenance"
    assert bench.circuit.era.since == 2.0


def test_a_released_hold_leaves_a_flowing_circuit_as_it_was_found() -> None:
    bench = growing()
    hold = bench.circuit.hold(1.0, "maintenance")
    assert bench.circuit.holds(hold)
    assert not bench.circuit.holds(object())
    bench.circuit.release(object(), 2.0)
    assert bench.state is FORCED_OPEN
    bench.circuit.release(hold, 3.0)
    assert not bench.circuit.holds(hold)
    assert lines(bench) == [
        (CLOSED, FORCED_OPEN, Cause.MANUAL, "maintenance", 1.0, None, 0),
        (FORCED_OPEN, CLOSED, Cause.MANUAL, "the hold was released", 3.0, None, 0),
    ]


def test_a_second_hold_changes_neither_the_reason_nor_what_was_found() -> None:
    bench = growing()
    bench.circuit.let_flow(0.0, State.METRICS_ONLY, "look")
    holds = [bench.circuit.hold(now, f"hold {now:g}") for now in (1.0, 2.0, 3.0)]
    assert (bench.circuit.era.reason, bench.circuit.era.since) == ("hold 1", 1.0)
    for hold in holds:
        assert bench.state is FORCED_OPEN
        bench.circuit.release(hold, 4.0)
    assert bench.state is State.METRICS_ONLY


def test_a_released_hold_goes_on_with_the_reason_of_a_forced_open_circuit() -> None:
    bench = growing()
    bench.circuit.force_open(1.0, "by order")
    bench.circuit.release(bench.circuit.hold(2.0, "maintenance"), 3.0)
    assert (bench.refused().reason, bench.circuit.era.since) == ("by order", 3.0)


@pytest.mark.parametrize(("released", "retry_after"), [(4.0, 6.0), (10.0, 0.0), (50.0, 0.0)])
def test_a_released_hold_leaves_an_open_circuit_the_rest_of_its_time(released: float, retry_after: float) -> None:
    bench = growing().opened()
    bench.circuit.release(bench.circuit.hold(2.0, "maintenance"), released)
    assert bench.circuit.retry_after(released) == retry_after
    *_, (old, new, cause, reason, now, _, _) = [
        (each.old, each.new, each.cause, each.reason, each.at, each.open_for, each.attempt)
        for each in bench.circuit.log
        if isinstance(each, Transition)
    ]
    assert (old, new, cause, reason, now) == (FORCED_OPEN, OPEN, Cause.MANUAL, "the hold was released", released)
    assert bench.circuit.era.reason == reason
    assert bench.circuit.era.since == released


def test_a_hold_does_not_forget_how_many_attempts_there_were() -> None:
    bench = growing().half_opened()
    bench.run(F)
    bench.circuit.release(bench.circuit.hold(11.0, "maintenance"), 12.0)
    assert bench.circuit.retry_after(12.0) == 18.0
    at(bench, 30.0).run(F)
    assert lines(bench)[-1][-2:] == (40.0, 2)


def test_a_released_hold_does_not_wait_for_trials_that_were_found_running() -> None:
    bench = growing().half_opened()
    bench.start()
    bench.circuit.release(bench.circuit.hold(11.0, "maintenance"), 12.0)
    assert bench.circuit.retry_after(12.0) == 0.0


def test_the_lease_of_trials_follows_the_open_time() -> None:
    schedule = Steps(40.0, 50.0, 60.0)
    bench = Bench(schedule=schedule)
    bench.circuit.open(0.0, 35.0, "for so long")
    bench.circuit.half_open(5.0)
    assert lease(bench) == 35.0
    bench.circuit.open(6.0, None, "again")
    bench.circuit.half_open(7.0)
    assert lease(bench) == 50.0
    bench.circuit.force_open(8.0, "by order")
    bench.circuit.half_open(9.0)
    assert lease(bench) == 40.0
    bench.circuit.open(10.0, 1.0, "for a second")
    bench.circuit.half_open(10.5)
    assert lease(bench) == 30.0, "at least"


def lease(bench: Bench) -> float:
    assert isinstance(bench.circuit.era, HalfOpen)
    return bench.circuit.era.slots.lease


def test_new_trials_settings_decide_at_once_where_they_can() -> None:
    bench = growing(Trials(5, required=3, lease=8.0)).half_opened()
    bench.run(S, F)
    with_trials(bench, Trials(2, required=2))
    assert lines(bench)[-1] == (HALF_OPEN, OPEN, Cause.MANUAL, "the trials were reconfigured", 10.0, 20.0, 1)


def test_new_trials_settings_keep_the_lease_unless_they_name_one() -> None:
    bench = growing(Trials(3, lease=8.0)).half_opened()
    bench.start()
    with_trials(bench, Trials(4, concurrent=2))
    assert lease(bench) == 8.0
    with_trials(bench, Trials(4, concurrent=2, lease=3.0))
    assert lease(bench) == 3.0
    at(bench, 11.0).start()
    assert bench.circuit.next_change() == 14.0, "for trials from now on"


def with_trials(bench: Bench, trials: Trials) -> None:
    rules = bench.circuit.rules
    bench.circuit.reconfigure(type(rules)(rules.conditions, rules.schedule, rules.jitter, trials), bench.now)
